"""Outputs: whole or not at all, never over something else by accident; and which files are pictures by their names."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from PIL import Image

from looc_codec import files
from looc_codec.errors import OutputError
from looc_codec.files import write_atomically


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


def test_the_time_of_modification_can_be_given(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a", modified_ns=1_000_000_000_000_000_000) as file:
        file.write(b"x" * 100_000)
    assert (tmp_path / "a").stat().st_mtime_ns == 1_000_000_000_000_000_000


def test_what_a_dead_process_left_is_found_by_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".looc-other-1.part").write_bytes(b"of another process")
    (tmp_path / "a").write_bytes(b"whole")
    monkeypatch.setattr(files, "part_owner", "mine")
    with write_atomically(tmp_path / "b") as file:
        file.write(b"half")
        assert len(os.listdir(tmp_path)) == 3
        files.remove_parts(str(tmp_path), "mine")
        assert sorted(os.listdir(tmp_path)) == [".looc-other-1.part", "a"]
        (tmp_path / os.path.basename(file.name)).write_bytes(b"for the end of the block")


def test_every_kind_that_is_read_is_taken_from_folders_by_every_suffix_that_pillow_knows() -> None:
    Image.init()
    for suffix, kind in Image.registered_extensions().items():
        if kind in files.PICTURE_KINDS:
            assert suffix in files.PICTURE_KINDS[kind], f"{suffix} is a suffix of {kind}"
    # Those that Pillow reads by itself; the other two need plug-ins, and MPO is opened as JPEG.
    assert set(files.PICTURE_KINDS) - set(Image.OPEN) <= {"HEIF", "JXL", "MPO"}
