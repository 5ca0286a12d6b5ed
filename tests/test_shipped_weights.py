"""The weights in the box: a stranger's install compresses a real photograph, smaller than JPEG, exactly everywhere."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import encoder_of, decoder_of
import torch
from PIL import Image

import looc_codec
from looc_codec import api, registry
from looc_codec.format import container
from looc_codec.metrics import ms_ssim, psnr_db


@pytest.fixture(scope="module")
def model():
    return api.load_model()


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """A photograph that scikit-image ships, 256 x 256 of its 512 x 512 pixels."""
    from skimage.data import astronaut

    return np.ascontiguousarray(astronaut()[:256, 100:356, :3])


@pytest.mark.parametrize("name", ["photo", "photo-ssim"])
def test_weights_and_card_are_installed_and_small(name):
    entry = registry.find_model(name)
    assert entry.size_bytes <= 16 * 2**20
    assert entry.description
    assert "trained" in entry.path.with_suffix(".md").read_text().lower(), "the model card travels with the weights"


def test_the_model_for_structure_has_more_of_it_in_fewer_bytes(model, photograph):
    found = {}
    for name in ("photo", "photo-ssim"):
        own = api.load_model(name)
        # Qualities at which the file of the model for structure is a tenth smaller.
        data = looc_api.compress(photograph, quality={"photo": 40, "photo-ssim": 45}[name], model=own)
        found[name] = len(data), ms_ssim(photograph, np.asarray(looc_api.decompress(data)))
    assert found["photo-ssim"][0] < found["photo"][0] and found["photo-ssim"][1] > found["photo"][1], found


def test_smaller_than_jpeg_at_equal_quality(model, photograph):
    data = looc_api.compress(photograph, quality=40, model=model)
    level = psnr_db(photograph, np.asarray(looc_api.decompress(data)))
    assert level > 26
    for quality in range(1, 96):
        buffer = io.BytesIO()
        Image.fromarray(photograph).save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        if psnr_db(photograph, np.asarray(Image.open(buffer).convert("RGB"))) >= level:
            break
    assert len(data) < 0.85 * len(buffer.getvalue())


def test_bytes_and_quality_rise_with_q(model, photograph):
    sizes, levels = [], []
    for quality in (1, 20, 40, 60, 80, 100):
        data = looc_api.compress(photograph, quality=quality, model=model)
        sizes.append(len(data))
        levels.append(psnr_db(photograph, np.asarray(looc_api.decompress(data))))
    assert sizes == sorted(set(sizes)) and levels == sorted(set(levels))


def test_real_rate_is_the_estimated_rate(model, photograph):
    latent = encoder_of(model).transforms.analyse(photograph, 70)
    book, bits = model.codebook, 0.0
    symbols = book.symbols

    def counting(digits, rows):
        nonlocal bits
        picked, table_rows, counts = symbols(digits, rows)
        bits += float(book.bits[table_rows, picked].double().sum())
        return picked, table_rows, counts

    book.symbols = counting
    try:
        segments, _, _ = encoder_of(model).encode_latent(latent, 70)
    finally:
        del book.symbols
    assert 8 * sum(map(len, segments)) == pytest.approx(bits, rel=0.01)


@pytest.mark.parametrize("variation", ["one thread", "two threads", "no oneDNN", "tiny tiles"])
def test_codes_do_not_depend_on_the_machine(model, photograph, variation):
    file = container.unpack(looc_api.compress(photograph, quality=90, model=model))
    expected, details = decoder_of(model).decode(file)
    assert details is not None
    threads = torch.get_num_threads()
    try:
        if variation.endswith(("thread", "threads")):
            torch.set_num_threads(1 if variation == "one thread" else 2)
        with torch.backends.mkldnn.flags(enabled=variation != "no oneDNN"):
            got, got_details = decoder_of(model).decode(file)
            if variation == "tiny tiles":
                whole = codec.synthesise(got, (256, 256), file.quality, model, details=got_details).astype(int)
                assert np.abs(whole - codec.synthesise(got, (256, 256), file.quality, model, details=got_details, tile=5)).max() <= 1
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(got, expected) and torch.equal(got_details, details)
