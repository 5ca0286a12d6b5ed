"""The user's scale: what a quality means, the same with every model; the levels behind it, and their table."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import build_trainable_model
from PIL import Image
from test_cli import run
from test_codec import photo

import looc_codec.pillow_plugin  # noqa: F401
from looc_codec import api, metrics, registry
from looc_codec.codec.model import CodecModel, read_model, write_model
from looc_codec.errors import ImageError, ModelError, OptionError
from looc_codec.quality import DEFAULT_QUALITY, PLAIN, QualityScale

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = [entry.name for entry in registry.shipped_models()]
HALF = QualityScale((tuple(range(1, 51)) + (50,) * 49 + (100,), (1,) * 40 + tuple(range(1, 60)) + (100,)))
"""A scale that is easy to read off, for efforts 0 and 1."""


@pytest.fixture(scope="module")
def scaled_model(tiny_model) -> CodecModel:
    """The tiny model with a table."""
    return CodecModel(
        tiny_model.config,
        dict(tiny_model.core),
        dict(tiny_model.transforms),
        dict(tiny_model.shapes),
        dict(tiny_model.graphs),
        "scaled",
        HALF,
    )


@pytest.fixture
def scaled_installed(scaled_model, tmp_path, monkeypatch) -> str:
    write_model(scaled_model, tmp_path / "models" / "looc-scaled.safetensors")
    monkeypatch.setenv("LOOC_MODELS", str(tmp_path / "models"))
    return scaled_model.name


@pytest.fixture
def picture_file(tmp_path) -> Path:
    Image.fromarray(photo(70, 50)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


# --- the scale --------------------------------------------------------------------------------------------------------


def test_a_quality_is_a_level_where_nothing_was_measured():
    assert [PLAIN.level(quality, effort) for quality, effort in ((1, 0), (37, 0), (75, 3), (100, 1))] == [
        1,
        37,
        75,
        100,
    ]
    assert all(PLAIN.quality(level) == level for level in range(1, 101))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_quality_has_a_level_and_comes_back(name):
    scale = registry.find_model(name).quality_scale
    assert scale != PLAIN
    for effort in range(4):
        levels = [scale.level(quality, effort) for quality in range(1, 101)]
        assert levels == sorted(levels) and (levels[0], levels[-1]) == (1, 100)
        # More looks better as far as there are levels: no stretch where many qualities give one file.
        assert len(set(levels[29:85])) > 30
        for quality, level in enumerate(levels, 1):
            # One of the qualities that give this very level.
            assert (
                scale.level(scale.quality(level, effort), effort) == level
                and abs(scale.quality(level, effort) - quality) <= levels.count(level) / 2 + 0.5
            )
        assert [scale.quality(level, effort) for level in range(1, 101)] == sorted(
            scale.quality(level, effort) for level in range(1, 101)
        )


@pytest.mark.parametrize("name", SHIPPED)
def test_effort_lowers_the_level_of_a_quality(name):
    scale = registry.find_model(name).quality_scale
    for effort in (1, 2, 3):
        assert all(scale.level(quality, effort) <= scale.level(quality) for quality in range(30, 86))


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"levels": 5},
        *(
            {"levels": rows}
            for rows in (
                [],
                [list(range(100))],
                [list(range(1, 100))],
                [[1] * 100],
                [list(range(1, 101))] * 5,
                [[1, 3, 2, *range(4, 101)]],
                [[*range(1, 100), 100.0]],
                [[True, *range(2, 101)]],
                [["1", *range(2, 101)]],
            )
        ),
    ],
)
def test_a_malformed_table_is_a_sentence(value, tiny_model_file, tmp_path):
    with pytest.raises(ModelError):
        QualityScale.from_json(value)
    path = tmp_path / "looc-bad.safetensors"
    path.write_bytes(with_table(tiny_model_file.read_bytes(), value))
    for read in (registry.read_entry, read_model):
        with pytest.raises(ModelError, match="quality table"):
            read(path)


def with_table(data: bytes, value: object) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["looc"] = json.dumps(json.loads(header["__metadata__"]["looc"]) | {"quality": value})
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


# --- the table in the weights file ------------------------------------------------------------------------------------


def test_the_table_travels_in_the_weights_file_and_changes_no_fingerprint(scaled_model, tiny_model, tmp_path):
    path = tmp_path / "a.safetensors"
    write_model(scaled_model, path)
    assert read_model(path).quality_scale == registry.read_entry(path).quality_scale == HALF
    assert read_model(path).fingerprint == tiny_model.fingerprint


def test_the_tool_writes_a_table_into_a_weights_file(tiny_model_file, tmp_path):
    spec = importlib.util.spec_from_file_location("quality_table", ROOT / "tools/quality_table.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    path = tmp_path / "looc-tiny.safetensors"
    path.write_bytes(tiny_model_file.read_bytes())
    digest, model = tool.digest_of(path), read_model(path)
    tool.write_table(path, HALF)
    assert registry.read_entry(path).quality_scale == HALF and tool.digest_of(path) == digest
    again = read_model(path)
    assert again.fingerprint == model.fingerprint and again.description == model.description
    scores = np.linspace(5.0, 88.4, 100)
    row = tool.levels_of_qualities(scores)
    assert [row[quality - 1] for quality in (1, 30, 60, 87, 100)] == [1, 31, 66, 98, 100]
    # A straight line from level 1 to that of quality 30.
    assert row[14] in (15, 16) and list(row) == sorted(row)


def test_training_keeps_the_table_of_the_model_it_goes_on_from(scaled_model, tmp_path):
    from looc_codec.networks.model import LoocModel
    from looc_codec.training.export import export
    from looc_codec.training.run import _carry_quality_scale

    assert export(LoocModel.of(scaled_model)).quality_scale == HALF
    fresh = build_trainable_model()
    assert export(fresh).quality_scale == PLAIN
    for metric, expected in (("mse", HALF), ("ms-ssim", PLAIN)):
        _carry_quality_scale(LoocModel.of(scaled_model), fresh, metric)
        assert fresh.quality_scale == expected


# --- what is asked for ------------------------------------------------------------------------------------------------


def level_of(data: bytes) -> int:
    return api.info(data).level


def test_quality_goes_through_the_table_and_level_does_not(scaled_model):
    rgb = photo(40, 30)
    assert level_of(api.compress(rgb, model=scaled_model)) == HALF.level(DEFAULT_QUALITY) == 50
    assert level_of(api.compress(rgb, quality=20, model=scaled_model)) == 20
    assert level_of(api.compress(rgb, quality=60, model=scaled_model, effort=1)) == 20
    assert level_of(api.compress(rgb, level=83, model=scaled_model)) == 83
    assert api.compress(rgb, level=20, model=scaled_model) == api.compress(rgb, quality=20, model=scaled_model)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 50, "level": 50},
        {"level": 50, "target_size": 500},
        {"quality": 50, "target_psnr": 30},
        {"level": 0},
        {"level": 101},
        {"level": True},
        {"level": "5"},
    ],
)
def test_wrong_levels_are_a_sentence(tiny_model, options):
    with pytest.raises(ImageError):
        api.compress(photo(20, 20), model=tiny_model, **options)


def test_command_line(scaled_installed, picture_file, tmp_path):
    packed = tmp_path / "photo.looc"
    for options, level, quality in (
        ((), 50, DEFAULT_QUALITY),
        (("-q", 33), 33, 33),
        (("--level", 83), 83, 100),
        (("-q", 60, "--effort", 1), 20, 60),
    ):
        result = run("compress", picture_file, "-o", packed, "-m", scaled_installed, "--force", "--json", *options)
        record = json.loads(result.stdout)
        assert (record["level"], record["quality"]) == (level, quality), options
    run("compress", picture_file, "-o", packed, "-m", scaled_installed, "--force", "-q", 33)
    assert "quality about 33 (level 33)" in run("info", packed).stdout
    shown = json.loads(run("info", packed, "--json").stdout)
    assert (shown["quality"], shown["level"]) == (33, 33)
    listed = [json.loads(line) for line in run("models", "--json").stdout.splitlines()]
    assert next(entry for entry in listed if entry["name"] == scaled_installed)["levels"] == HALF.to_json()["levels"]


def test_update_compares_levels(scaled_installed, picture_file, tmp_path):
    packed = tmp_path / "photo.looc"

    def skipped(*options) -> bool:
        result = run("compress", picture_file, "-o", packed, "-m", scaled_installed, "--update", "--json", *options)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)["skipped"]

    assert not skipped("-q", 20)
    assert skipped("-q", 20) and skipped("--level", 20) and skipped("-q", 60, "--effort", 1)
    assert not skipped("-q", 60)
    # The table gives one level for both.
    assert skipped("-q", 80) and not skipped("--level", 51)


def test_a_file_of_a_model_that_is_not_installed_has_a_level_alone(scaled_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = tmp_path / "a.looc"
    path.write_bytes(api.compress(photo(40, 30), level=44, model=scaled_model))
    assert (api.info(path).quality, api.info(path).level) == (None, 44)
    assert (
        "level 44" in run("info", path).stdout
        and "quality" not in run("info", path).stdout.split("picture")[1].split("\n")[0]
    )
    with Image.open(path) as image:
        assert image.info["level"] == 44 and "quality" not in image.info


def test_the_plug_in_has_the_same_scale(scaled_installed):
    for options, level in (({}, 50), ({"quality": 20}, 20), ({"level": 83}, 83)):
        file = io.BytesIO()
        Image.fromarray(photo(40, 30)).save(file, "LOOC", model=scaled_installed, **options)
        assert level_of(file.getvalue()) == level
    with Image.open(file) as image:
        assert (image.info["quality"], image.info["level"]) == (100, 83)


# --- a score of the picture at hand -----------------------------------------------------------------------------------


def test_a_target_of_ssimulacra2_is_met_and_hardly_exceeded(tiny_model):
    rgb = photograph(128)
    data = api.compress(rgb, target_ssimulacra2=62)
    assert 62 <= score_of(rgb, data) <= 63
    with pytest.raises(ImageError, match="an SSIMULACRA 2 of 100 cannot be reached: quality 100"):
        api.compress(photo(40, 30), target_ssimulacra2=100, model=tiny_model)
    with pytest.raises(ImageError, match="8 pixels"):
        api.compress(rgb[:7], target_ssimulacra2=50, model=tiny_model)


def photograph(side: int) -> np.ndarray:
    """A photograph of a face that scikit-image ships, `side` x `side` of its pixels."""
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut()[:side, 160 : 160 + side, :3])


def score_of(rgb: np.ndarray, data: bytes) -> float:
    return metrics.ssimulacra2(rgb, np.asarray(api.decompress(data)))


def test_a_missing_package_is_a_sentence(tiny_model, scaled_installed, picture_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)
    with pytest.raises(OptionError, match="pip install ssimulacra2"):
        api.compress(photo(40, 30), target_ssimulacra2=70, model=tiny_model)
    result = run(
        "compress", picture_file, "-o", tmp_path / "a.looc", "-m", scaled_installed, "--target-ssimulacra2", 70
    )
    assert result.exit_code == 1 and "pip install ssimulacra2" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "a.looc").exists()


# --- the shipped models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [50, DEFAULT_QUALITY])
def test_all_models_look_alike_at_the_same_quality(quality):
    rgb = photograph(192)
    scores = [score_of(rgb, api.compress(rgb, quality=quality, model=name)) for name in SHIPPED]
    # A smooth picture lies above the mean that the scale promises, the more so the lower the quality.
    assert max(scores) - min(scores) < 4 and all(quality - 5 < score < quality + 20 for score in scores), scores


def test_the_default_is_a_shipped_model_and_high_quality(tmp_path):
    assert DEFAULT_QUALITY == api.DEFAULT_QUALITY == 75
    assert registry.DEFAULT_MODEL in SHIPPED
    assert api.load_model().name == registry.DEFAULT_MODEL
