"""Details: what the synthesis lacks at high quality is coded, decoded exactly, and left out where it does not pay."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import build_tiny_model, decoder_of, encoder_of, tiny_config

from looc_codec import api
from looc_codec.codec.coding import Coding, bits_per_error
from looc_codec.codec.details import analyse_error, synthesise_details, traverse_details
from looc_codec.codec.model import CodecModel, read_model, write_model
from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.errors import FormatError, ModelError
from looc_codec.format import container, order
from looc_codec.format.dct import dct_kernels
from looc_codec.format.integers import require_legal
from looc_codec.format.order import channels_of, detail_steps
from looc_codec.metrics import psnr_db

QUALITY = 80


@pytest.fixture(scope="module")
def model() -> CodecModel:
    return build_tiny_model(detail_channels=32, detail_width=8, detail_quality=70)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """Coloured noise on a ramp: most of its energy lies in channels that the tiny latent does not have."""
    ramp = np.add.outer(np.arange(100), np.arange(150))[..., None] * np.array([1, 0.5, 0.2])
    return (ramp + np.random.default_rng(0).normal(0, 25, (100, 150, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(model, rgb) -> bytes:
    return api.compress(rgb, quality=QUALITY, model=model)


def coded(model, rgb, quality: int = QUALITY, grey: bool = False, **options) -> Coding:
    return encoder_of(model, **options).encode(rgb, quality, grey=grey)


def shown_of(model, coding: Coding, size: tuple[int, int], **options) -> np.ndarray:
    return decoder_of(model).transforms.synthesise(coding.latent, size, QUALITY, **options)


def test_details_are_a_segment_of_their_own_and_make_the_picture_better(model, rgb, data):
    file = container.unpack(data)
    assert len(file.segments) == len(model.config.groups) + 1
    decoded, found = decoder_of(model).decode(file), coded(model, rgb)
    assert np.array_equal(decoded.latent, found.latent) and np.array_equal(decoded.details, found.details) and decoded.details.any()
    shown, without = (shown_of(model, decoded, rgb.shape[:2], details=value, wiener=decoded.wiener) for value in (decoded.details, None))
    assert np.array_equal(np.asarray(api.decompress(data, model=model)), shown) and psnr_db(rgb, shown) > psnr_db(rgb, without) + 0.1


def test_decoded_details_are_near_what_was_missing(model, rgb):
    """Within a step and a half, where a digit reaches it."""
    found = coded(model, rgb)
    target = encoder_of(model)._missed(found, rgb, None)
    missed = np.abs(target - found.details / 16)
    assert missed.max() < 2 and np.square(missed).mean() < 0.7 * np.square(target).mean()


def test_low_quality_and_grey_pictures_have_none(model, rgb):
    groups = len(model.config.groups)
    assert len(coded(model, rgb, 69).segments) == groups and len(coded(model, rgb, QUALITY).segments) == groups + 1
    assert coded(model, rgb, grey=True).details is None


def test_details_that_do_not_pay_are_left_out(model):
    flat = np.full((64, 64, 3), 128, np.uint8)
    found = coded(model, flat)
    if found.details is not None:
        worth = bits_per_error(QUALITY, model.config)
        shown, plain = (shown_of(model, found, flat.shape[:2], details=value) for value in (found.details, None))
        gain = sum(sign * np.square(picture.astype(float) - flat).sum() for sign, picture in ((1, plain), (-1, shown)))
        assert gain * worth > 8 * len(found.segments[-1])
    # What the synthesis gives lacks nothing but its rounding.
    bare = dataclasses.replace(found, segments=found.segments[: len(model.config.groups)], details=None, wiener=None)
    again = encoder_of(model)._with_details(bare, shown_of(model, bare, flat.shape[:2]), ENCODER_LAMBDA, None)
    assert again.details is None and again.segments == bare.segments


def test_effort_keeps_details(model, rgb):
    assert coded(model, rgb, effort=1).details is not None


@pytest.mark.parametrize("filtered", [False, True])
def test_tiles_make_no_difference(model, rgb, filtered):
    found = coded(model, rgb)
    assert found.wiener is not None
    options = {"details": found.details, "wiener": found.wiener if filtered else None}
    shown = [shown_of(model, found, rgb.shape[:2], side=side, **options) for side in (64, 3)]
    assert np.abs(shown[0].astype(int) - shown[1]).max() <= 1


def test_steps_of_rows(model, rgb, monkeypatch):
    """Large pictures are coded in several steps, each with paths of its own; what is written is read."""
    assert detail_steps(10, 2**13) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)] and detail_steps(2, 2**15) == [(0, 1), (1, 2)]
    monkeypatch.setattr(order, "DETAIL_STEP_POSITIONS", 25)
    assert len(detail_steps(7, 10)) == 4
    data = api.compress(rgb, quality=QUALITY, model=model)
    assert np.array_equal(decoder_of(model).decode(container.unpack(data)).details, coded(model, rgb).details)


def test_scales_do_not_depend_on_what_is_read_together(model, rgb, monkeypatch):
    """The classes of a picture's units are the same in one step and in several."""
    found, rows, engine = coded(model, rgb), [], encoder_of(model).engine
    _, height, width = found.latent.shape
    for positions in (2**14, 25):
        monkeypatch.setattr(order, "DETAIL_STEP_POSITIONS", positions)
        taken = np.zeros((model.config.detail_channels, height, width), np.int32)

        def code(step, own, taken=taken):
            units = np.repeat(own[:, None].astype(np.int32), 2, 1)
            taken[:, step] = channels_of(units, (step.stop - step.start) * width).reshape(len(taken), -1, width)
            return np.zeros_like(units)

        traverse_details(model, engine, found.latent, QUALITY, code)
        rows.append(taken)
    assert np.array_equal(*rows) and len(np.unique(rows[0])) > 1


def test_a_file_cut_short_is_a_preview_without_details(model, data):
    file = container.unpack(data)
    short = container.truncate(data, groups=len(model.config.groups))
    picture = api.restore_picture(short, model=model, allow_truncated=True)
    assert "3 channel groups" in picture.notices[0]
    plain = shown_of(model, decoder_of(model).decode(file), (file.height, file.width))
    assert np.array_equal(picture.rgb, plain)
    assert np.array_equal(api.restore_picture(data, model=model, groups=len(model.config.groups)).rgb, plain)
    whole = np.asarray(api.decompress(data, model=model))
    assert np.array_equal(api.restore_picture(data, model=model, groups=len(file.segments)).rgb, whole)


@pytest.mark.parametrize("change", [lambda part: b"", lambda part: bytes([part[0] ^ 1]) + part[1:], lambda part: part[:1], lambda part: part + b"\1\2\3\4\5"])
def test_damaged_details_are_refused(model, data, change):
    file = container.unpack(data)
    damaged = (*file.segments[:-1], change(file.segments[-1]))
    with pytest.raises(FormatError):
        decoder_of(model).decode(dataclasses.replace(file, segments=damaged))


def test_a_model_without_details_refuses_their_segment(model, tiny_model, data):
    file = container.unpack(data)
    with pytest.raises(FormatError, match="segments"):
        decoder_of(tiny_model).decode(file)


def test_weights_keep_them(model, tmp_path, rgb):
    path = tmp_path / "tiny.safetensors"
    write_model(model, path)
    again = read_model(path)
    assert again.fingerprint == model.fingerprint != build_tiny_model().fingerprint
    found = coded(model, rgb)
    error = np.random.default_rng(3).normal(0, 50, (3, 32, 48)).astype(np.float32)
    assert np.array_equal(analyse_error(again, error, QUALITY), analyse_error(model, error, QUALITY))
    other = coded(again, rgb)
    assert other.segments == found.segments and np.abs(found.details).max() > 16
    chosen = model.core["details.chosen"]
    for wrong in (np.full_like(chosen, 3), chosen + np.int16(700), chosen[:4], chosen - np.int16(768)):
        with pytest.raises(ModelError):
            require_legal({**model.core, "details.chosen": wrong}, model.config)


def test_pixels_and_details_are_inverse(model):
    """In the chosen channels, whose kernels are orthonormal."""
    values = np.random.default_rng(1).integers(-60, 60, (32, 3, 2)).astype(np.int16)
    pixels = synthesise_details(model, values, 70)
    assert pixels.shape == (3, 48, 32) and np.allclose(analyse_error(model, pixels, 70), values / 16, atol=1e-4)
    rest = np.delete(dct_kernels().reshape(768, -1), model.core["details.chosen"], 0)
    blocks = pixels.reshape(3, 3, 16, 2, 16).transpose(0, 2, 4, 1, 3).reshape(768, -1)
    assert np.abs(rest @ blocks).max() < 1e-2


@pytest.mark.parametrize("changes", [{"detail_channels": 31}, {"detail_channels": 800}, {"detail_quality": 0}])
def test_refuses_details_there_are_not(changes):
    with pytest.raises(ModelError, match="detail"):
        tiny_config(**changes)
