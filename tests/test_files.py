"""Outputs: whole or not at all, never over something else by accident, and where they go."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from looc_codec import files
from looc_codec.errors import ImageError, OutputError
from looc_codec.files import plan_outputs, write_atomically


def test_the_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.looc"
    with write_atomically(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["a.looc"]


def test_permissions_follow_the_umask_or_the_replaced_file(tmp_path: Path) -> None:
    path, plain = tmp_path / "a", tmp_path / "plain"
    plain.write_bytes(b"")
    with write_atomically(path) as file:
        file.write(b"1")
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    with write_atomically(path, force=True) as file:
        file.write(b"2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_failure_leaves_nothing_new(tmp_path: Path, failure: type[BaseException], force: bool) -> None:
    path = tmp_path / "a"
    if force:
        path.write_bytes(b"old")
    with pytest.raises(failure), write_atomically(path, force=force) as file:
        file.write(b"half")
        raise failure
    assert os.listdir(tmp_path) == (["a"] if force else [])
    assert not force or path.read_bytes() == b"old"


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already.*--force"), write_atomically(path):
        pytest.fail("the block must not be entered")
    with write_atomically(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool) -> None:
    if not hard_links:
        monkeypatch.setattr(files.os, "link", _refuse_link)
    path = tmp_path / "a"
    with pytest.raises(OutputError, match="exists already"), write_atomically(path) as file:
        file.write(b"mine")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a"]


def _refuse_link(*names: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")


def test_file_systems_without_hard_links_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.os, "link", _refuse_link)
    with write_atomically(tmp_path / "a") as file:
        file.write(b"1")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_what_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    cases = [
        (tmp_path / "missing" / "a", "folder does not exist"),
        (tmp_path, "is a folder"),
        (str(tmp_path / "zero\0byte"), "zero byte"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]
    for path, sentence in cases:
        for force in (False, True):
            with pytest.raises(OutputError, match=sentence), write_atomically(path, force=force):
                pytest.fail("the block must not be entered")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write .*No space left"), write_atomically(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_is_written_not_replaced() -> None:
    with pytest.raises(OutputError, match="No space left"), write_atomically("/dev/full", force=True) as file:
        file.write(b"1")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_errors_of_other_files_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "a"):
        (tmp_path / "input").read_bytes()


def test_force_writes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with write_atomically(tmp_path / "link", force=True) as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_a_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(OutputError, match="exists already"), write_atomically(tmp_path / "link"):
        pass


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "sub/c.webp", "old.looc"):
        (folder / name).write_bytes(b"")
    return folder


def test_results_lie_beside_their_inputs(album: Path) -> None:
    pairs = plan_outputs([str(album), "x/holiday.2024.tiff"], None, ".looc")
    expected = [("a.png", "a.looc"), ("b.JPG", "b.looc"), ("sub/c.webp", "sub/c.looc")]
    assert pairs == [(f"{album}/{s}", f"{album}/{t}") for s, t in expected] + [("x/holiday.2024.tiff", "x/holiday.2024.looc")]


def test_restoring_a_folder_takes_its_looc_files(album: Path) -> None:
    assert plan_outputs([album], None, ".png") == [(f"{album}/old.looc", f"{album}/old.png")]


def test_a_folder_keeps_its_subfolders_in_the_output(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert [target for _, target in plan_outputs([album], out, ".looc")] == [f"{out}/{n}" for n in ("a.looc", "b.looc", "sub/c.looc")]
    assert (out / "sub").is_dir()


def test_one_file_goes_to_a_file_or_into_a_folder(tmp_path: Path) -> None:
    assert plan_outputs(["a.png"], tmp_path / "b.x", ".looc") == [("a.png", f"{tmp_path}/b.x")]
    assert plan_outputs(["a.png"], tmp_path, ".looc") == [("a.png", f"{tmp_path}/a.looc")]
    assert plan_outputs(["a.png"], f"{tmp_path}/new/", ".looc") == [("a.png", f"{tmp_path}/new/a.looc")]


def test_standard_streams(tmp_path: Path) -> None:
    assert plan_outputs(["-"], None, ".looc") == [("-", "-")]
    assert plan_outputs(["a.png"], "-", ".looc") == [("a.png", "-")]
    assert plan_outputs(["-"], tmp_path / "a.looc", ".looc") == [("-", f"{tmp_path}/a.looc")]
    assert plan_outputs(["-"], tmp_path, ".looc") == [("-", f"{tmp_path}/stdin.looc")]
    with pytest.raises(OutputError, match="2 files cannot go to standard output"):
        plan_outputs(["a.png", "b.png"], "-", ".looc")


def test_collisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a.png and a.jpg would both become a.looc"):
        plan_outputs(["a.png", "a.jpg"], None, ".looc")
    with pytest.raises(OutputError, match="would both become"):
        plan_outputs(["x/a.png", "y/a.png"], tmp_path / "out", ".looc")
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError, match="one of the inputs"):
        plan_outputs(["a.png"], "./a.png", ".looc")
    with pytest.raises(OutputError, match="one of the inputs"):
        plan_outputs(["a.looc"], None, ".looc")


def test_a_file_named_twice_counts_once(album: Path) -> None:
    assert plan_outputs(["a.png", "./a.png"], None, ".looc") == [("a.png", "a.looc")]
    assert len(plan_outputs([album, album / "a.png"], None, ".looc")) == 3


def test_several_inputs_need_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="is a file"):
        plan_outputs(["a.png", "b.png"], tmp_path / "file", ".looc")
    with pytest.raises(OutputError, match="cannot write"):
        plan_outputs(["a.png", "b.png"], tmp_path / "file" / "below", ".looc")


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no file of a known kind"):
        plan_outputs([tmp_path], None, ".looc")
