"""Files of a wanted size, rate or PSNR: never beyond the target, close to it, refused in a sentence where impossible."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from looc_codec import api, images
from looc_codec.codec import rate_control
from looc_codec.codec.coding import Coding
from looc_codec.codec.encoder import Encoder
from looc_codec.codec.rate_control import Target, Trial
from looc_codec.cli import app
from looc_codec.cli.compress import parse_size
from looc_codec.errors import ImageError, ModelError
from looc_codec.metrics import psnr_db


def compress_to(kind: str, picture: images.Picture, value: float, model=None, effort: int = 0) -> Trial:
    return api.compress_picture(picture, target=Target(kind, value), model=model, effort=effort)


compress_to_size, compress_to_bpp, compress_to_psnr = (functools.partial(compress_to, kind) for kind in ("size", "bpp", "psnr"))
CLOSE = 0.9
"""What an untrained model reaches: its neighbouring qualities differ by up to 7%, and a Lagrangian hardly moves it."""


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [128 + 90 * np.sin(x / 13 + k) * np.cos(y / 19 - k) + generator.normal(0, 5, (height, width)) for k in range(3)]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def picture():
    return images.picture_from_pillow(photo(400, 300))


@pytest.fixture(scope="module")
def photo_model():
    """The model that is shipped: only trained probabilities make sizes smooth enough for a promise of 2%."""
    try:
        return api.load_model("photo")
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sizes(picture, tiny_model):
    """Bytes at the ends of the quality scale."""
    return [len(api.compress_picture(picture, quality=quality, model=tiny_model).data) for quality in (1, 100)]


def between(low: float, high: float, share: float) -> float:
    """Geometric interpolation."""
    return low * (high / low) ** share


# --- sizes and rates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.03, 0.2, 0.35, 0.5, 0.65, 0.8, 0.97])
def test_size_is_met_within_two_percent_and_never_exceeded(picture, photo_model, share):
    smallest, largest = (len(api.compress_picture(picture, quality=quality, model=photo_model).data) for quality in (1, 100))
    target = int(between(smallest, largest, share))
    trial = compress_to_size(picture, target, model=photo_model)
    assert 0.98 * target <= len(trial.data) <= target
    assert api.decompress(trial.data, model=photo_model).size == (400, 300)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_size_is_never_exceeded_by_an_untrained_model(picture, tiny_model, sizes, share):
    target = int(between(*sizes, share))
    trial = compress_to_size(picture, target, model=tiny_model)
    assert CLOSE * target <= len(trial.data) <= target


def test_rate_is_that_of_the_whole_file(picture, tiny_model, sizes):
    target = 8 * between(*sizes, 0.5) / (400 * 300)
    trial = compress_to_bpp(picture, target, model=tiny_model)
    assert CLOSE * target <= 8 * len(trial.data) / (400 * 300) <= target


def test_metadata_and_transparency_count(picture, tiny_model, sizes):
    alpha = np.tile(np.arange(400, dtype=np.uint8) // 2, (300, 1))
    with_extras = images.Picture(rgb=picture.rgb, alpha=alpha, exif=b"II*\0" + bytes(range(256)) * 2)
    target = int(between(*sizes, 0.6))
    trial = compress_to_size(with_extras, target, model=tiny_model)
    plain = compress_to_size(picture, target, model=tiny_model)
    assert CLOSE * target <= len(trial.data) <= target
    assert trial.level < plain.level
    back = api.restore_picture(trial.data, model=tiny_model)
    assert np.array_equal(back.alpha, alpha) and back.exif == with_extras.exif


def test_a_default_quality_is_found_again(picture, tiny_model):
    data = api.compress_picture(picture, quality=63, model=tiny_model).data
    trial = compress_to_size(picture, len(data), model=tiny_model)
    assert CLOSE * len(data) <= len(trial.data) <= len(data)


def test_same_target_same_file(picture, tiny_model, sizes):
    target = int(between(*sizes, 0.4))
    one, other = (compress_to_size(picture, target, model=tiny_model) for _ in range(2))
    assert (one.data, one.level, one.lagrangian, one.notice) == (other.data, other.level, other.lagrangian, other.notice)


def test_the_search_is_short(picture, tiny_model, sizes, monkeypatch):
    calls = []
    encode = Encoder.encode_latent
    monkeypatch.setattr(Encoder, "encode_latent", lambda *args, **kwargs: calls.append(1) or encode(*args, **kwargs))
    for share in (0.1, 0.5, 0.9):
        compress_to_size(picture, int(between(*sizes, share)), model=tiny_model)
    assert len(calls) <= 3 * 14


def test_too_small_a_target_names_the_smallest(picture, tiny_model, sizes):
    with pytest.raises(ImageError, match=rf"quality 1, the smallest file, takes {sizes[0]} bytes"):
        compress_to_size(picture, sizes[0] - 10, model=tiny_model)
    with pytest.raises(ImageError, match=r"target of 0.0001 bpp \(1 bytes\) cannot be reached"):
        compress_to_bpp(picture, 0.0001, model=tiny_model)


def test_more_room_than_the_best_quality_needs(picture, tiny_model, sizes):
    for trial in (compress_to_size(picture, 2 * sizes[1], model=tiny_model), compress_to_bpp(picture, 50, model=tiny_model)):
        assert trial.level == 100 and len(trial.data) == sizes[1]
        assert f"quality 100 takes only {sizes[1]} bytes" in trial.notice


def test_metadata_that_does_not_fit_is_named(picture, tiny_model, sizes):
    heavy = images.Picture(rgb=picture.rgb, exif=b"II*\0" + bytes(3 * sizes[1]))
    with pytest.raises(ImageError, match="metadata"):
        compress_to_size(heavy, sizes[1], model=tiny_model)


def test_the_ends_of_the_scale_are_reachable(picture, tiny_model, sizes):
    assert CLOSE * sizes[0] <= len(compress_to_size(picture, sizes[0], model=tiny_model).data) <= sizes[0]
    assert CLOSE * sizes[1] <= len(compress_to_size(picture, sizes[1], model=tiny_model).data) <= sizes[1]


@pytest.mark.parametrize("size", [(1, 1), (17, 3), (40, 30)])
def test_small_pictures_never_exceed(tiny_model, size):
    small = images.picture_from_pillow(photo(*size))
    found = 0
    for target in range(20, 400, 27):
        try:
            data = compress_to_size(small, target, model=tiny_model).data
        except ImageError:
            continue
        found += 1
        assert len(data) <= target
    assert found


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf])
def test_senseless_targets_are_refused(picture, tiny_model, target):
    for search in (compress_to_size, compress_to_bpp, compress_to_psnr):
        with pytest.raises(ImageError, match="above 0"):
            search(picture, target, model=tiny_model)


# --- PSNR --------------------------------------------------------------------------------------------------------------


def psnr_of(picture, data: bytes, model) -> float:
    return psnr_db(picture.rgb, api.restore_picture(data, model=model).rgb)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_psnr_is_reached_and_hardly_exceeded(picture, tiny_model, share):
    # The untrained model saturates early, so only the rising part of its curve is asked for, and that curve has jumps.
    low, high = (psnr_of(picture, api.compress_picture(picture, quality=quality, model=tiny_model).data, tiny_model) for quality in (1, 40))
    target = low + share * (high - low)
    trial = compress_to_psnr(picture, target, model=tiny_model)
    assert trial.score == psnr_of(picture, trial.data, tiny_model)
    assert target <= trial.score
    if trial.score > target * 1.1:
        # Then it is one of the jumps: a quality less misses the target.
        assert psnr_of(picture, api.compress_picture(picture, quality=trial.level - 1, model=tiny_model).data, tiny_model) < target


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_psnr_of_a_trained_model_is_close(picture, photo_model, share):
    low, high = (psnr_of(picture, api.compress_picture(picture, quality=quality, model=photo_model).data, photo_model) for quality in (1, 100))
    target = low + share * (high - low)
    trial = compress_to_psnr(picture, target, model=photo_model)
    assert target <= trial.score <= target + 0.2


def test_unreachable_psnr_names_the_nearest(picture, tiny_model):
    best = psnr_of(picture, api.compress_picture(picture, quality=100, model=tiny_model).data, tiny_model)
    with pytest.raises(ImageError, match=rf"60 dB cannot be reached: quality 100, the best, gives {best:.2f} dB"):
        compress_to_psnr(picture, 60, model=tiny_model)


def test_less_psnr_than_the_lowest_quality_gives(picture, tiny_model):
    trial = compress_to_psnr(picture, 2, model=tiny_model)
    assert trial.level == 1 and "more than the 2 dB" in trial.notice


# --- the search itself, on made-up codecs ------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", ["usual", "steep", "flat", "jumps", "bumpy"])
def test_search_ends_and_brackets_on_any_curve(curve):
    sizes = {
        "usual": lambda q: 2000 * 1.035**q,
        "steep": lambda q: 100 * 1.2**q,
        "flat": lambda q: 5000 + q // 40,
        "jumps": lambda q: 1000 if q < 87 else 90_000,
        "bumpy": lambda q: 2000 * 1.035**q * (1.1 if q % 3 == 0 else 1),
    }[curve]

    class MadeUp:
        def __init__(self):
            self.trials = []

        def __call__(self, quality, halvings=0.0):
            coding = Coding(quality, False, (), 0, np.zeros((0, 0, 0), np.int16), None, None)
            self.trials.append(Trial(bytes(int(sizes(quality) * 2 ** (0.2 * halvings))), coding, halvings))
            return self.trials[-1]

    for target in (3000, 5000, 20_000, 50_000, 89_000):
        code = MadeUp()
        high = math.log(target)
        goal = rate_control._Goal(lambda trial: math.log(len(trial.data)), high - 0.01, high, 0.035, 0.2)
        below, above = rate_control._search(code, goal)
        assert len(code.trials) <= 22
        assert below is None or goal.value(below) <= goal.high
        assert above is None or goal.value(above) >= goal.low
        if curve == "usual" and below is not None and above is not None:
            assert any(goal.met_by(trial) for trial in code.trials)


# --- the command -------------------------------------------------------------------------------------------------------


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    photo(400, 300).save(path)
    return path


@pytest.mark.parametrize(
    ("text", "size"),
    [("12345", 12345), ("200kB", 200_000), ("200 KB", 200_000), ("1.5MB", 1_500_000), ("190KiB", 194_560), ("1.5mib", 1_572_864), ("7b", 7), ("3k", 3000)],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "arguments",
    [
        ("--target-size", "many"),
        ("--target-size", "0"),
        ("--target-size", "-5"),
        ("--target-size", "0.2"),
        ("--target-size", "1e5"),
        ("--target-size", "5 parsecs"),
        ("--target-bpp", "0"),
        ("--target-bpp", "nan"),
        ("--target-bpp", "-1"),
        ("--target-psnr", "inf"),
        ("--target-psnr", "high"),
        ("--target-psnr", "30", "-q", "50"),
        ("--target-bpp", "1", "--target-size", "9000"),
        ("--target-size", "9000", "--quality", "50"),
        ("--target-ssimulacra2", "70", "-q", "50"),
        ("--target-ssimulacra2", "101"),
        ("--level", "50", "-q", "50"),
        ("--level", "101"),
    ],
)
def test_wrong_usage_exits_with_2(source, arguments):
    result = run("compress", source, *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert [path.name for path in source.parent.iterdir()] == ["photo.png"]


def test_target_size_as_command(source, tiny_model_file, sizes):
    target = int(between(*sizes, 0.5))
    packed = source.with_suffix(".looc")
    result = run("compress", source, "-m", tiny_model_file, "--target-size", f"{target / 1000}kB", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["bytes"] == packed.stat().st_size
    assert CLOSE * target <= record["bytes"] <= target
    assert 1 <= record["level"] <= 100 and record["quality"] == record["level"]
    assert f"level {record['level']}\n" in run("info", packed).stdout


def test_target_bpp_and_psnr_as_commands(source, tiny_model_file, sizes):
    target = 8 * between(*sizes, 0.5) / (400 * 300)
    result = run("compress", source, "-m", tiny_model_file, "--target-bpp", target, "--json")
    assert result.exit_code == 0, result.output
    assert CLOSE * target <= json.loads(result.stdout)["bpp"] <= target + 1e-5
    result = run("compress", source, "-m", tiny_model_file, "--target-psnr", 15, "-o", source.with_name("b.looc"))
    assert result.exit_code == 0, result.output
    assert "bpp  q " in result.stderr


def test_more_room_than_needed_is_a_notice(source, tiny_model_file):
    result = run("compress", source, "-m", tiny_model_file, "--target-size", "1MB", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["quality"] == 100 and "less than the 1000000 bytes allowed" in record["notices"][-1]


def test_unreachable_target_fails_in_one_line_that_names_the_file(source, tiny_model_file):
    result = run("compress", source, "-m", tiny_model_file, "--target-size", "30", "--json")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and "photo.png" in result.stderr and "quality 1" in result.stderr
    assert json.loads(result.stdout)["error"]
    assert not source.with_suffix(".looc").exists()
