"""Previews: the first channel groups of a file, cut files, and downloads that ended anywhere."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from conftest import decoder_of
from PIL import Image
from test_cli import assert_failed_in_one_line, run, run_process, tiny_installed  # noqa: F401
from test_codec import photo

from looc_codec import api
from looc_codec.codec.prior import traverse
from looc_codec.format import container
from looc_codec.errors import DamagedError, FormatError, TruncatedError
from looc_codec.format.order import grid_size, units_of
from looc_codec.metrics import psnr_db


@pytest.fixture(scope="module")
def data(tiny_model) -> bytes:
    return api.compress(photo(40, 30), quality=40, model=tiny_model)


def segment_ends(data: bytes) -> list[int]:
    header = container.read_header(data)
    start = header.file_bytes - 4 - sum(header.segment_lengths_bytes)
    return [start + int(end) for end in np.cumsum(header.segment_lengths_bytes)]


def test_kept_groups_are_exact_and_missing_ones_are_the_priors_mean(tiny_model, data):
    file, grid, decoder = container.unpack(data), grid_size(40, 30), decoder_of(tiny_model)
    whole = decoder.decode_latent(file.segments, file.code_checksum, grid, file.level)
    first = tiny_model.config.groups[0]
    some = decoder.decode_latent(file.segments, file.code_checksum, grid, file.level, groups=1)
    assert np.array_equal(some[:first], whole[:first]) and not np.array_equal(some[first:], whole[first:])

    def mean_of_later(step, rows, mean):
        return mean if step.segment > 0 else units_of(step.take(whole), tiny_model.config.codevector_dim).astype(np.int32)

    assert np.array_equal(some, traverse(tiny_model, decoder.engine, *grid, file.level, mean_of_later))
    bare = decoder.decode_latent(file.segments, file.code_checksum, grid, file.level, groups=1, predict=False)
    assert np.array_equal(bare[:first], whole[:first]) and not bare[first:].any()


def test_all_groups_are_the_whole_picture_and_more_are_refused(tiny_model, data):
    count = len(tiny_model.config.groups)
    whole = np.asarray(api.decompress(data, model=tiny_model))
    assert np.array_equal(np.asarray(api.decompress(data, model=tiny_model, groups=count)), whole)
    for groups in (-1, 0, count + 1):
        with pytest.raises(FormatError, match="groups were asked for"):
            api.decompress(data, model=tiny_model, groups=groups)


@pytest.mark.parametrize("metadata", [False, True])
def test_every_cut_is_refused_or_gives_what_is_there(tiny_model, data, metadata):
    if metadata:
        image = Image.fromarray(photo(40, 30))
        image.info["xmp"] = b"<x:xmpmeta/>"
        data = api.compress(image, quality=40, model=tiny_model)
    ends = segment_ends(data)
    previews = [np.asarray(api.decompress(data, model=tiny_model, groups=1 + groups)) for groups in range(len(ends))]
    assert len({preview.tobytes() for preview in previews}) == len(ends)
    for length in range(len(data)):
        with pytest.raises(TruncatedError, match="truncated"):
            container.unpack(data[:length])
        held = sum(end <= length for end in ends)
        if held == 0:
            with pytest.raises(TruncatedError, match="truncated"):
                container.unpack(data[:length], allow_truncated=True)
            continue
        picture = api.restore_picture(data[:length], model=tiny_model, allow_truncated=True)
        assert np.array_equal(picture.rgb, previews[held - 1])
        assert any("cut short" in notice for notice in picture.notices) == (held < len(ends))
        assert picture.xmp == (b"<x:xmpmeta/>" if metadata else None)


def test_a_whole_file_may_still_not_be_damaged_or_too_long(tiny_model, data):
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    for bad in (damaged, data + b"\0"):
        with pytest.raises(FormatError):
            api.decompress(bad, model=tiny_model, allow_truncated=True)
    assert api.decompress(data, model=tiny_model, allow_truncated=True).size == (40, 30)


def test_damage_before_the_cut_is_noticed(tiny_model):
    """Every fifth byte of the payload, in files that end in the middle of the last segment: no checksum of the bytes is there to see it."""
    data = api.compress(photo(64, 64), quality=80, model=tiny_model)
    ends = segment_ends(data)
    cut = data[: ends[-1] - 3]
    start = container.read_header(data).file_bytes - 4 - sum(container.read_header(data).segment_lengths_bytes)
    intact = api.restore_picture(cut, model=tiny_model, allow_truncated=True).rgb
    unnoticed = changed = 0
    for position in range(start, ends[-2], 5):
        damaged = bytearray(cut)
        damaged[position] ^= 1 << position % 8
        try:
            back = api.restore_picture(bytes(damaged), model=tiny_model, allow_truncated=True).rgb
        except FormatError:
            changed += 1
            continue
        if not np.array_equal(back, intact):
            unnoticed += 1
            changed += 1
    # The first two of three segments have 10 bits each.
    assert changed > 30 and unnoticed <= 0.03 * changed


def test_truncate_by_groups_and_bytes(tiny_model, data):
    ends = segment_ends(data)
    for groups, end in enumerate(ends, start=1):
        cut = container.truncate(data, groups=groups)
        assert len(cut) == end + 4 and cut[:end] == data[:end]
        assert container.truncate(data, max_bytes=len(cut)) == container.truncate(data, max_bytes=len(cut) + 1) == cut
        assert container.held_segments(container.read_header(cut), cut) == (groups, True)
        expected = np.asarray(api.decompress(data, model=tiny_model, groups=groups))
        assert np.array_equal(np.asarray(api.decompress(cut, model=tiny_model, allow_truncated=True)), expected)
        # A cut can be cut again, and a cut download sealed.
        assert container.truncate(cut, groups=1) == container.truncate(data, groups=1)
        assert container.truncate(data[: end + 1], groups=groups) == cut
        with pytest.raises(FormatError, match="cannot keep"):
            container.truncate(cut, groups=groups + 1)
    assert cut == data, "with all groups a cut is the file"
    with pytest.raises(FormatError, match="too few"):
        container.truncate(data, max_bytes=ends[0] + 3)
    with pytest.raises(FormatError):
        container.truncate(data)
    with pytest.raises(DamagedError):
        container.truncate(data[:-1] + bytes([data[-1] ^ 1]), groups=1)


def test_a_cut_file_is_refused_until_allowed_and_never_packed(tiny_model, data):
    cut = container.truncate(data, groups=1)
    with pytest.raises(TruncatedError, match="1 of 2 channel groups.*--allow-truncated"):
        container.unpack(cut)
    with pytest.raises(TruncatedError):
        api.verify(cut, model=tiny_model)
    file = container.unpack(cut, allow_truncated=True)
    assert file.segments[1] is None
    assert dataclasses.replace(file, segments=container.unpack(data).segments) == container.unpack(data)
    with pytest.raises(FormatError, match="without all"):
        container.pack(file)


def test_more_groups_are_better_with_the_shipped_weights():
    from skimage.data import astronaut

    rgb = np.ascontiguousarray(astronaut()[:256, 100:356, :3])
    model = api.load_model()
    data = api.compress(rgb, quality=60, model=model)
    levels = [psnr_db(rgb, np.asarray(api.decompress(data, model=model, groups=groups))) for groups in range(1, len(model.config.groups) + 1)]
    assert levels == sorted(levels) and levels[0] > 20


def test_pillow_decodes_a_cut_file_when_truncated_images_are_allowed(tiny_installed, tmp_path, monkeypatch):  # noqa: F811
    from PIL import ImageFile

    import looc_codec.pillow_plugin  # noqa: F401

    whole = api.compress(photo(40, 30), model=tiny_installed)
    path = tmp_path / "cut.looc"
    path.write_bytes(container.truncate(whole, groups=1))
    with Image.open(path) as image, pytest.raises(OSError, match="truncated"):
        image.load()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), np.asarray(api.decompress(whole, groups=1)))


# --- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def looc_file(tmp_path, tiny_installed):  # noqa: F811
    path = tmp_path / "photo.looc"
    path.write_bytes(api.compress(photo(40, 30), quality=60, model=tiny_installed))
    return path


def test_truncate_then_decompress(looc_file, tmp_path):
    cut, back, preview = tmp_path / "cut.looc", tmp_path / "back.png", tmp_path / "preview.png"
    result = run("truncate", looc_file, "--groups", 1, "-o", cut, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["groups"], record["bytes"]) == (1, cut.stat().st_size)
    assert_failed_in_one_line(run("decompress", cut, "-o", back), "cut.looc", "--allow-truncated")
    assert not back.exists()
    result = run("decompress", cut, "-o", back, "--allow-truncated")
    assert result.exit_code == 0 and "1 of 2 channel groups" in result.stderr
    assert run("decompress", looc_file, "-o", preview, "--groups", 1).exit_code == 0
    assert back.read_bytes() == preview.read_bytes()
    shown = run("info", cut)
    assert shown.exit_code == 0 and "1 of 2 channel groups" in shown.stdout
    assert json.loads(run("info", "--json", looc_file).stdout)["groups"] == [2, 2]


def test_truncate_by_bytes_in_a_pipe_and_without_torch(looc_file):
    size = container.truncate(looc_file.read_bytes(), groups=1)
    done = run_process("truncate", "-", "--bytes", len(size) + 2, "-o", "-", stdin=looc_file.read_bytes())
    assert (done.returncode, done.stdout) == (0, size), done.stderr


def test_wrong_use_of_truncate(looc_file, tmp_path):
    out = tmp_path / "out.looc"
    assert run("truncate", looc_file, "-o", out).exit_code == 2
    assert run("truncate", looc_file, "-o", out, "--groups", 1, "--bytes", 500).exit_code == 2
    assert_failed_in_one_line(run("truncate", looc_file, "-o", out, "--groups", 9), "photo.looc", "holds 2")
    assert_failed_in_one_line(run("truncate", looc_file, "-o", out, "--bytes", 20), "photo.looc", "too few")
    assert_failed_in_one_line(run("truncate", looc_file, "-o", looc_file, "--groups", 1), "replaced by its own output")
    assert not out.exists()


def test_a_download_cut_anywhere(looc_file, tmp_path):
    part = tmp_path / "part.looc"
    part.write_bytes(looc_file.read_bytes()[:-7])
    assert_failed_in_one_line(run("decompress", part, "-o", tmp_path / "back.png"), "part.looc", "truncated")
    assert run("decompress", part, "-o", tmp_path / "back.png", "--allow-truncated").exit_code == 0
    part.write_bytes(looc_file.read_bytes()[:25])
    assert_failed_in_one_line(run("decompress", part, "-o", tmp_path / "none.png", "--allow-truncated"), "part.looc", "truncated")
