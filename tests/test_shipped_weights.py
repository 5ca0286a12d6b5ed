"""The weights in the box: a stranger's install compresses a real photograph, smaller than JPEG, exactly everywhere."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import encoder_of, decoder_of
from PIL import Image

import looc_codec
from looc_codec import registry
from looc_codec.codec.decoder import Decoder
from looc_codec.codec.prior import traverse
from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.exactness import Setting
from looc_codec.format import container
from looc_codec.format.order import units_of
from looc_codec.metrics import ms_ssim, psnr_db


@pytest.fixture(scope="module")
def model():
    """The model for PSNR, which has details."""
    return looc_codec.load_model("photo-psnr")


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """A photograph that scikit-image ships, 256 x 256 of its 512 x 512 pixels."""
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut()[:256, 100:356, :3])


@pytest.mark.parametrize("name", ["photo", "photo-psnr"])
def test_weights_and_card_are_installed_and_small(name):
    entry = registry.find_model(name)
    assert entry.size_bytes <= 16 * 2**20
    assert entry.description
    assert "trained" in entry.path.with_suffix(".md").read_text().lower(), "the model card travels with the weights"


def test_the_model_for_structure_has_more_of_it_in_fewer_bytes(model, photograph):
    found = {}
    for name in ("photo", "photo-psnr"):
        own = looc_codec.load_model(name)
        # Levels at which the file of the model for structure is a tenth smaller.
        data = looc_codec.compress(photograph, level={"photo-psnr": 40, "photo": 45}[name], model=own)
        found[name] = len(data), ms_ssim(photograph, np.asarray(looc_codec.decompress(data)))
    assert found["photo"][0] < found["photo-psnr"][0] and found["photo"][1] > found["photo-psnr"][1], found


def test_smaller_than_jpeg_at_equal_quality(model, photograph):
    data = looc_codec.compress(photograph, level=40, model=model)
    level = psnr_db(photograph, np.asarray(looc_codec.decompress(data)))
    assert level > 26
    for quality in range(1, 96):
        buffer = io.BytesIO()
        Image.fromarray(photograph).save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        if psnr_db(photograph, np.asarray(Image.open(buffer).convert("RGB"))) >= level:
            break
    assert len(data) < 0.85 * len(buffer.getvalue())


def test_bytes_and_psnr_rise_with_the_level(model, photograph):
    sizes, psnrs = [], []
    for level in (1, 20, 40, 60, 80, 100):
        data = looc_codec.compress(photograph, level=level, model=model)
        sizes.append(len(data))
        psnrs.append(psnr_db(photograph, np.asarray(looc_codec.decompress(data))))
    assert sizes == sorted(set(sizes)) and psnrs == sorted(set(psnrs))


def test_real_rate_is_the_estimated_rate(model, photograph):
    encoder, tables, bits = encoder_of(model), model.tables, []
    latent = encoder.transforms.analyse(photograph, 70)

    def code(step, rows, mean):
        codes = model.search.pick(units_of(step.take(latent), model.config.codevector_dim) * 16 - mean, rows, ENCODER_LAMBDA)
        symbols, table_rows, _ = tables.symbols(codes, rows)
        bits.append(tables.bits[table_rows, symbols].sum(dtype=float))
        return mean + tables.value(codes, rows)

    traverse(model, encoder.engine, *latent.shape[1:], 70, code)
    coding = encoder.encode_latent(latent, 70)
    assert 8 * sum(map(len, coding.segments)) == pytest.approx(sum(bits), rel=0.01)


@pytest.mark.parametrize("variation", ["one thread", "two threads", "graphs as they are", "tiny tiles"])
def test_codes_do_not_depend_on_how_they_are_computed(model, photograph, variation):
    file = container.unpack(looc_codec.compress(photograph, level=90, model=model))
    expected = decoder_of(model).decode(file)
    assert expected.details is not None
    setting = Setting(variation, threads=2 if variation == "two threads" else 1, optimise=variation != "graphs as they are")
    decoder = Decoder(model, setting.engine(model))
    got = decoder.decode(file)
    assert np.array_equal(got.latent, expected.latent) and np.array_equal(got.details, expected.details)
    if variation == "tiny tiles":
        whole, tiled = (decoder.transforms.synthesise(got.latent, (256, 256), 90, details=got.details, side=side) for side in (64, 5))
        assert np.abs(whole.astype(int) - tiled).max() <= 1
