"""Which files a command works on, what its outputs are called, and that one bad name or folder costs the others nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from looc_codec.cli.naming import Names, name_inputs, name_outputs, passed_over_sentence
from looc_codec.errors import OutputError
from looc_codec.format.container import Container, pack


def named(*arguments, **options) -> list[tuple[str, str | None]]:
    """Pairs of names, none of which may be refused."""
    pairs = name_outputs(*arguments, **options).pairs
    assert [str(pair.refusal) for pair in pairs if pair.refusal] == []
    return [(pair.source, pair.target) for pair in pairs]


def refusals(names: Names) -> dict[str, str]:
    return {pair.source: str(pair.refusal) for pair in names.pairs if pair.refusal}


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", ".DS_Store", "sub/c.webp", "old.looc"):
        (folder / name).write_bytes(b"")
    return folder


def test_results_lie_beside_their_inputs(album: Path) -> None:
    expected = [("a.png", "a.looc"), ("b.JPG", "b.looc"), ("sub/c.webp", "sub/c.looc")]
    pairs = [(f"{album}/{source}", f"{album}/{target}") for source, target in expected]
    assert named([str(album), "x/holiday.2024.tiff"], None, ".looc") == [*pairs, ("x/holiday.2024.tiff", "x/holiday.2024.looc")]


@pytest.mark.parametrize(
    ("source", "packed", "restored"),
    [
        ("scan.01", "scan.01.looc", "scan.01.png"),
        ("holiday 2024.05.12", "holiday 2024.05.12.looc", "holiday 2024.05.12.png"),
        ("holiday 2024.05.12.jpg", "holiday 2024.05.12.looc", "holiday 2024.05.12.png"),
        ("photo.JPEG", "photo.looc", "photo.png"),
        ("plain", "plain.looc", "plain.png"),
        ("x.d/scan", "x.d/scan.looc", "x.d/scan.png"),
    ],
)
def test_only_a_suffix_of_a_known_kind_gives_way(source: str, packed: str, restored: str) -> None:
    assert named([source], None, ".looc") == [(source, packed)]
    assert named([packed], None, ".png") == [(packed, restored)]


def test_names_that_differ_after_a_dot_do_not_collide(tmp_path: Path) -> None:
    assert [target for _, target in named(["scan.01", "scan.02"], tmp_path, ".looc")] == [f"{tmp_path}/scan.0{n}.looc" for n in (1, 2)]


def test_restoring_a_folder_takes_its_looc_files(album: Path) -> None:
    assert named([album], None, ".png") == [(f"{album}/old.looc", f"{album}/old.png")]


def test_a_folder_keeps_its_subfolders_in_the_output(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert [target for _, target in named([album], out, ".looc")] == [f"{out}/{n}" for n in ("a.looc", "b.looc", "sub/c.looc")]
    assert not out.exists()


def test_one_file_goes_to_a_file_or_into_a_folder(tmp_path: Path) -> None:
    assert named(["a.png"], tmp_path / "b.x", ".looc") == [("a.png", f"{tmp_path}/b.x")]
    assert named(["a.png"], tmp_path, ".looc") == [("a.png", f"{tmp_path}/a.looc")]
    assert named(["a.png"], f"{tmp_path}/new/", ".looc") == [("a.png", f"{tmp_path}/new/a.looc")]


def test_standard_streams(tmp_path: Path) -> None:
    assert named(["-"], None, ".looc") == [("-", "-")]
    assert named(["a.png"], "-", ".looc") == [("a.png", "-")]
    assert named(["-"], tmp_path / "a.looc", ".looc") == [("-", f"{tmp_path}/a.looc")]
    assert named(["-"], tmp_path, ".looc") == [("-", f"{tmp_path}/stdin.looc")]
    with pytest.raises(OutputError, match="2 files cannot go to standard output"):
        name_outputs(["a.png", "b.png"], "-", ".looc")


def test_colliding_files_are_refused_and_no_others(tmp_path: Path) -> None:
    names = name_outputs(["a.png", "a.jpg", "b.png"], None, ".looc")
    refused = refusals(names)
    assert list(refused) == ["a.png", "a.jpg"]
    assert "a.png would become a.looc, and so would a.jpg" in refused["a.png"]
    assert "a.jpg would become a.looc, and so would a.png" in refused["a.jpg"]
    assert list(refusals(name_outputs(["x/a.png", "y/a.png", "y/b.png"], tmp_path / "out", ".looc"))) == ["x/a.png", "y/a.png"]


def test_an_output_that_is_an_input_is_said_for_what_it_is(tmp_path: Path) -> None:
    picture, looc = tmp_path / "small.png", tmp_path / "small.looc"
    picture.write_bytes(b"\x89PNG")
    looc.write_bytes(pack(Container(64, 48, 33, bytes(8), (b"abc",), 5)))
    cases = [
        (name_outputs([looc], None, ".looc"), "small.looc is a .looc file already; looc decompress"),
        (name_outputs([looc], looc, ".looc", kinds={".looc"}), "replaced by its own output"),
        (name_outputs([picture], f"{tmp_path}/./small.png", ".png"), "small.png is not a .looc file"),
    ]
    for names, sentence in cases:
        assert [sentence in text for text in refusals(names).values()] == [True], refusals(names)
    # Restored, it would take the place of the picture, which is to be restored, too.
    refused = refusals(name_outputs([looc, picture], None, ".png"))
    assert "another of the inputs" in refused[str(looc)]


def test_a_file_named_twice_counts_once(album: Path) -> None:
    assert named(["a.png", "./a.png"], None, ".looc") == [("a.png", "a.looc")]
    assert len(named([album, album / "a.png"], None, ".looc")) == 3


@pytest.mark.parametrize("output", ["out.jpg", "OUT.PNG", "x/y.j2k"])
def test_a_looc_file_gets_no_name_of_a_picture(output: str) -> None:
    with pytest.raises(OutputError, match="the name of a picture"):
        name_outputs(["a.png"], output, ".looc")


def test_several_inputs_need_a_folder(album: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="is a file"):
        name_outputs(["a.png", "b.png"], tmp_path / "file", ".looc")
    with pytest.raises(OutputError, match="2 inputs cannot become one; give a folder, or nc.looc/"):
        name_outputs(["a.png", "b.png"], "nc.looc", ".looc")
    with pytest.raises(OutputError, match="a folder cannot become one"):
        name_outputs([album], tmp_path / "all.png", ".png")
    assert named(["a.png", "b.png"], "nc.looc/", ".looc") == [("a.png", "nc.looc/a.looc"), ("b.png", "nc.looc/b.looc")]
    with pytest.raises(OutputError, match="empty"):
        name_outputs(["a.png"], "", ".looc")


def test_a_folder_without_pictures_is_refused_and_no_other(album: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    names = name_outputs([tmp_path / "none", album], None, ".looc")
    assert list(refusals(names)) == [f"{tmp_path}/none"] and len(names.pairs) == 4
    assert "holds no file of a known kind" in refusals(names)[f"{tmp_path}/none"]


def test_a_subfolder_that_cannot_be_listed_is_refused_and_no_other(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, since the permissions of a folder do not bind root."""
    usual = os.scandir

    def refuse(path):
        if os.fspath(path) == f"{album}/sub":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return usual(path)

    monkeypatch.setattr(os, "scandir", refuse)
    names = name_outputs([album], None, ".looc")
    assert [pair.source for pair in names.pairs] == [f"{album}/a.png", f"{album}/b.JPG", f"{album}/sub"]
    assert list(refusals(names)) == [f"{album}/sub"] and "cannot list" in refusals(names)[f"{album}/sub"]


def test_what_folders_hold_and_is_not_taken_is_counted(album: Path) -> None:
    os.mkfifo(album / "pipe.png")
    (album / "link").symlink_to(".", target_is_directory=True)
    (album / "more.txt").write_bytes(b"")
    (album / "README").write_bytes(b"")
    names = name_outputs([album], None, ".looc")
    assert len(names.pairs) == 3
    # Outputs of an earlier run, and what hides without being a picture, are no news.
    assert passed_over_sentence(names.passed_over) == (
        "passed over in folders: .txt (2), linked folders (1), hidden (1), without suffix (1), pipes and devices (1)"
    )
    assert passed_over_sentence(name_outputs(["a.png"], None, ".looc").passed_over) is None
    assert passed_over_sentence(name_inputs([album], {".looc"}).passed_over).startswith("passed over in folders: ")


def test_a_link_that_leads_nowhere_is_not_passed_over(album: Path) -> None:
    (album / "gone.png").symlink_to("nowhere")
    assert f"{album}/gone.png" in [source for source, _ in named([album], None, ".looc")]
