"""Stored files of every format version keep decoding to the stored codes, whatever changes around them.

`pytest --regenerate-golden` writes the files anew; only a new format version or a first release may do that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import build_tiny_model, decoder_of
from test_codec import photo

from looc_codec import api
from looc_codec.codec.model import read_model, write_model
from looc_codec.format import container
from looc_codec.metrics import psnr_db

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "v1-70x50-q15": (70, 50, 15), "v1-70x50-q90": (70, 50, 90), "v1-1x1-q50": (1, 1, 50), "v1-33x130-q60": (33, 130, 60), "v1-150x101-q60-filter": (150, 101, 60),
    "v1-70x50-q90-trellis": (70, 50, 90), "v1-300x200-q60-trellis": (300, 200, 60), "v1-150x101-q80-details": (150, 101, 80),
}  # fmt: skip
MODELS = {"looc-golden": {"trellis_states": 1}, "looc-golden-trellis": {}, "looc-golden-details": {"detail_channels": 64, "detail_width": 8}}


def model_name(case: str) -> str:
    kind = case.rsplit("-", 1)[1]
    return f"looc-golden-{kind}" if f"looc-golden-{kind}" in MODELS else "looc-golden"


def codes_of(data: bytes, model) -> str:
    file = container.unpack(data)
    coding = decoder_of(model).decode(file)
    parts = [part for part in (coding.latent, coding.details) if part is not None]
    return hashlib.sha256(np.concatenate(parts).astype("<i4").tobytes()).hexdigest()


@pytest.fixture(scope="module")
def golden(request):
    """The stored models by name, and the digest of each file's codes."""
    if request.config.getoption("--regenerate-golden"):
        GOLDEN.mkdir(exist_ok=True)
        for name, changes in MODELS.items():
            write_model(build_tiny_model(**changes), GOLDEN / f"{name}.safetensors")
        expected = {}
        for name, (width, height, quality) in CASES.items():
            model = read_model(GOLDEN / f"{model_name(name)}.safetensors")
            data = api.compress(photo(width, height), level=quality, model=model)
            (GOLDEN / f"{name}.looc").write_bytes(data)
            expected[name] = codes_of(data, model)
        (GOLDEN / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    return {name: read_model(GOLDEN / f"{name}.safetensors") for name in MODELS}, json.loads((GOLDEN / "expected.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_stored_file_decodes_to_the_stored_codes(golden, name):
    models, expected = golden
    model = models[model_name(name)]
    data = (GOLDEN / f"{name}.looc").read_bytes()
    assert codes_of(data, model) == expected[name]
    width, height, _ = CASES[name]
    back = api.decompress(data, model=model)
    assert back.size == (width, height)


def test_the_stored_filter_still_brings_the_picture_closer(golden):
    """By 1.3 dB when it was written."""
    model = golden[0]["looc-golden"]
    file = container.unpack((GOLDEN / "v1-150x101-q60-filter.looc").read_bytes())
    pictures = (np.asarray(api.decompress(container.pack(each), model=model)) for each in (file, dataclasses.replace(file, filter=b"")))
    filtered, bare = (psnr_db(photo(150, 101), picture) for picture in pictures)
    assert file.filter and filtered > bare + 1


def test_stored_pictures_still_look_like_the_original(golden):
    model = golden[0]["looc-golden"]
    back = api.decompress((GOLDEN / "v1-70x50-q90.looc").read_bytes(), model=model)
    assert psnr_db(photo(70, 50), np.asarray(back)) > 15
