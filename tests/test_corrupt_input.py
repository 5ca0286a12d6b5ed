"""Damaged, cut and forged files: one typed error, never a picture, a hang or a large allocation."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
from test_codec import photo

from looc_codec import api
from looc_codec.format import container
from looc_codec.errors import FormatError, LoocError, ModelError


@pytest.fixture(scope="module")
def data(tiny_model):
    return api.compress(photo(24, 20), quality=30, model=tiny_model)


def test_every_flipped_bit_and_every_cut_is_refused(tiny_model, data):
    for position in range(len(data)):
        for bit in (1, 128):
            damaged = bytearray(data)
            damaged[position] ^= bit
            with pytest.raises(LoocError):
                api.decompress(bytes(damaged), model=tiny_model)
        with pytest.raises(FormatError):
            api.decompress(data[:position], model=tiny_model)
    with pytest.raises(FormatError):
        api.decompress(data + b"\0", model=tiny_model)


def test_random_payloads_with_valid_checksums_are_refused(tiny_model, data):
    generator = np.random.default_rng(0)
    file = container.unpack(data)
    for _ in range(150):
        segments = tuple(generator.bytes(int(generator.integers(0, 60))) for _ in file.segments)
        forged = container.pack(dataclasses.replace(file, segments=segments))
        with pytest.raises(LoocError):
            api.decompress(forged, model=tiny_model)


def test_random_bytes_are_refused(tiny_model):
    generator = np.random.default_rng(1)
    for length in [*range(0, 64), 200, 5000]:
        for prefix in (b"", container.MAGIC, container.MAGIC + b"\x13"):
            with pytest.raises(FormatError):
                api.decompress(prefix + generator.bytes(length), model=tiny_model)


def test_huge_claims_allocate_nothing(tiny_model, data):
    file = container.unpack(data)
    huge = container.pack(dataclasses.replace(file, width=60_000, height=60_000))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            api.decompress(huge, model=tiny_model)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_other_model_is_named(tiny_model, data):
    file = container.unpack(data)
    other = container.pack(dataclasses.replace(file, fingerprint=bytes(8)))
    with pytest.raises(ModelError, match="0000000000000000"):
        api.decompress(other, model=tiny_model)
