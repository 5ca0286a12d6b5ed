"""Details: what the synthesis lacks at high quality is coded, decoded exactly, and left out where it does not pay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import build_tiny_model, decoder_of, encoder_of, tiny_config

from looc_codec import api
from looc_codec.format import container
from looc_codec.details import Details, coding_steps
from looc_codec.errors import FormatError, ModelError
from looc_codec.metrics import psnr_db
from looc_codec.model import LoocModel, load_model, save_model
from looc_codec.transforms import dct_kernels

QUALITY = 80


@pytest.fixture(scope="module")
def model() -> LoocModel:
    return build_tiny_model(detail_channels=32, detail_width=8, detail_quality=70)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """Coloured noise on a ramp: most of its energy lies in channels that the tiny latent does not have."""
    ramp = np.add.outer(np.arange(100), np.arange(150))[..., None] * np.array([1, 0.5, 0.2])
    return (ramp + np.random.default_rng(0).normal(0, 25, (100, 150, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(model, rgb) -> bytes:
    return api.compress(rgb, quality=QUALITY, model=model)


def coded(model, rgb, quality: int = QUALITY, **options) -> codec.CodedPicture:
    return codec.encode_picture(encoder_of(model).transforms.analyse(rgb, quality), rgb, quality, model, **options)


def test_details_are_a_segment_of_their_own_and_make_the_picture_better(model, rgb, data):
    file = container.unpack(data)
    assert len(file.segments) == len(model.config.groups) + 1
    latent_hat, decoded = decoder_of(model).decode(file)
    found = coded(model, rgb)
    assert torch.equal(latent_hat, found.latent_hat) and torch.equal(decoded, found.details) and decoded.any()
    shown, without = (codec.synthesise(latent_hat, rgb.shape[:2], QUALITY, model, details=value, wiener=codec.filter_of(file)) for value in (decoded, None))
    assert np.array_equal(np.asarray(api.decompress(data, model=model)), shown) and psnr_db(rgb, shown) > psnr_db(rgb, without) + 0.1


def test_decoded_details_are_near_what_was_missing(model, rgb):
    """Within a step and a half, where a digit reaches it."""
    found = coded(model, rgb)
    target = codec.analyse_details(found.latent_hat, rgb, QUALITY, model)
    missed = (target - found.details / 16).abs()
    assert missed.max() < 2 and missed.square().mean() < 0.7 * target.square().mean()


def test_low_quality_and_grey_pictures_have_none(model, rgb):
    groups = len(model.config.groups)
    assert len(coded(model, rgb, 69).segments) == groups and len(coded(model, rgb, QUALITY).segments) == groups + 1
    assert coded(model, rgb, grey=True).details is None


def test_details_that_do_not_pay_are_left_out(model):
    flat = np.full((64, 64, 3), 128, np.uint8)
    found = coded(model, flat)
    if found.details is not None:
        worth = codec.bits_per_error(QUALITY, model.config)
        shown, plain = (codec.synthesise(found.latent_hat, flat.shape[:2], QUALITY, model, details=value) for value in (found.details, None))
        gain = sum(sign * np.square(picture.astype(float) - flat).sum() for sign, picture in ((1, plain), (-1, shown)))
        assert gain * worth > 8 * len(found.segments[-1])
    assert codec.encode_details(found.latent_hat, codec.synthesise(found.latent_hat, flat.shape[:2], QUALITY, model), QUALITY, model) is None


def test_effort_keeps_details(model, rgb):
    assert coded(model, rgb, effort=1).details is not None


@pytest.mark.parametrize("filtered", [False, True])
def test_tiles_make_no_difference(model, rgb, filtered):
    found = coded(model, rgb)
    assert found.wiener is not None
    shown = [codec.synthesise(found.latent_hat, rgb.shape[:2], QUALITY, model, details=found.details, wiener=found.wiener if filtered else None, tile=tile) for tile in (64, 3)]
    assert np.abs(shown[0].astype(int) - shown[1]).max() <= 1


def test_steps_of_rows(model, rgb, monkeypatch):
    """Large pictures are coded in several steps, each with paths of its own; what is written is read."""
    assert coding_steps(10, 2**13) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)] and coding_steps(2, 2**15) == [(0, 1), (1, 2)]
    monkeypatch.setattr(details, "STEP_POSITIONS", 25)
    assert len(coding_steps(7, 10)) == 4
    data = api.compress(rgb, quality=QUALITY, model=model)
    assert torch.equal(decoder_of(model).decode(container.unpack(data))[1], coded(model, rgb).details)


def test_scales_do_not_depend_on_what_is_read_together(model, rgb, monkeypatch):
    """The classes of a picture's units are the same in one step and in several."""
    found, rows = coded(model, rgb), []
    for positions in (2**14, 25):
        monkeypatch.setattr(details, "STEP_POSITIONS", positions)
        taken = torch.zeros(model.config.detail_channels, found.latent_hat[0].numel(), dtype=torch.int32)

        def code(step, own, taken=taken):
            step.place(own[:, None].expand(-1, 2).to(torch.int32), taken)
            return torch.zeros(len(own), 2, dtype=torch.int32)

        model.details.traverse(found.latent_hat, model.prior.companded, QUALITY, 2, code)
        rows.append(taken)
    assert torch.equal(*rows) and len(rows[0].unique()) > 1


def test_a_file_cut_short_is_a_preview_without_details(model, data):
    file = container.unpack(data)
    short = container.truncate(data, groups=len(model.config.groups))
    picture = api.restore_picture(short, model=model, allow_truncated=True)
    assert "3 channel groups" in picture.notices[0]
    plain = codec.synthesise(decoder_of(model).decode(file)[0], (file.height, file.width), QUALITY, model)
    assert np.array_equal(picture.rgb, plain)
    assert np.array_equal(api.restore_picture(data, model=model, groups=len(model.config.groups)).rgb, plain)
    whole = np.asarray(api.decompress(data, model=model))
    assert np.array_equal(api.restore_picture(data, model=model, groups=len(file.segments)).rgb, whole)


@pytest.mark.parametrize("change", [lambda part: b"", lambda part: bytes([part[0] ^ 1]) + part[1:], lambda part: part[:1], lambda part: part + b"\1\2\3\4\5"])
def test_damaged_details_are_refused(model, data, change):
    file = container.unpack(data)
    damaged = (*file.segments[:-1], change(file.segments[-1]))
    with pytest.raises(FormatError):
        codec.decode_codes(container.Container(**{**vars(file), "segments": damaged}), model)


def test_a_model_without_details_refuses_their_segment(model, tiny_model, data):
    file = container.unpack(data)
    with pytest.raises(FormatError, match="segments"):
        decoder_of(tiny_model).decode(file)


def test_weights_keep_them(model, tmp_path, rgb):
    path = tmp_path / "tiny.safetensors"
    write_model(model, path)
    again = read_model(path)
    assert again.fingerprint == model.fingerprint != build_tiny_model().fingerprint
    latent_hat = coded(model, rgb).latent_hat
    target = codec.analyse_details(latent_hat, rgb, QUALITY, model)
    assert torch.equal(again.details.kernels, model.details.kernels) and target.abs().max() > 1
    tensors = model.details.export()
    for chosen in (tensors["chosen"].clone().fill_(3), tensors["chosen"] + 700, tensors["chosen"][:4]):
        with pytest.raises(ModelError):
            Details(model.config).restore(tensors | {"chosen": chosen})


def test_pixels_and_details_are_inverse(model):
    """In the chosen channels, whose kernels are orthonormal."""
    values = torch.randn(1, 32, 3, 2)
    pixels = model.details.synthesise(values, 70)
    assert pixels.shape == (1, 3, 48, 32) and torch.allclose(model.details.analyse(pixels, 70), values, atol=1e-4)
    rest = dct_kernels()[: 3 * 256 - 32]
    assert torch.nn.functional.conv2d(pixels, rest, stride=16).abs().max() < 1e-2


@pytest.mark.parametrize("changes", [{"detail_channels": 31}, {"detail_channels": 800}, {"detail_quality": 0}])
def test_refuses_details_there_are_not(changes):
    with pytest.raises(ModelError, match="detail"):
        tiny_config(**changes)
