"""The index grid of the paper's model as bytes: what is written is read, and tables that are none are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from looc_codec.errors import FormatError, ModelError
from looc_codec.format.index_grid import (
    LEFT,
    TABLE_BITS,
    UP,
    GridCoder,
    GridConfig,
    GridTables,
    diagonals,
    fingerprint_of,
)


def uniform(rows: int, size: int) -> np.ndarray:
    found = np.full((rows, size), 2**TABLE_BITS // size, np.int32)
    found[:, 0] += 2**TABLE_BITS - found.sum(1)
    return found


def tables(planes=3, size=6, width=4) -> GridTables:
    """Classes, sources of every sort, and a table for each pair of classes of each plane with frequencies of its
    own."""
    rng = np.random.default_rng(5)
    sources = np.array(
        [(LEFT, UP)] + [(plane - 1, UP if plane % 2 else LEFT) for plane in range(1, planes)], np.int16
    )
    frequencies = uniform(planes * width**2, size)
    moved = rng.integers(0, frequencies[0, 1] - 1, (len(frequencies), size - 1))
    frequencies[:, 1:] -= moved.astype(np.int32)
    frequencies[:, 0] += moved.sum(1).astype(np.int32)
    rows = np.arange(planes * width**2, dtype=np.int32).reshape(planes, width, width)
    return GridTables(rng.integers(0, width - 1, (planes, size)).astype(np.uint8), sources, rows, frequencies)


def test_diagonals_cover_every_position_once_after_its_left_and_upper_neighbour():
    for height, width in ((1, 1), (1, 5), (4, 1), (3, 7), (6, 6)):
        seen: dict[tuple[int, int], int] = {}
        for number, (ys, xs) in enumerate(diagonals(height, width)):
            for position in zip(ys.tolist(), xs.tolist(), strict=True):
                assert position not in seen
                seen[position] = number
        assert len(seen) == height * width
        assert all(seen[y, x - 1] < number for (y, x), number in seen.items() if x)
        assert all(seen[y - 1, x] < number for (y, x), number in seen.items() if y)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 9, 4), (5, 3, 2, 7), (2, 3, 1, 40)])
def test_what_is_written_is_read(shape):
    coder = GridCoder(tables())
    codes = np.random.default_rng(1).integers(0, 6, shape)
    data = coder.encode(codes)
    assert np.array_equal(coder.decode(data, shape), codes)


def test_the_rate_is_that_of_the_tables():
    """Each code costs the logarithm of its table's frequency, with the table of the classes around it."""
    own = tables(planes=1)
    coder = GridCoder(own)
    codes = np.random.default_rng(2).integers(0, 6, (40, 1, 8, 8))
    classes = own.classes[0][codes[:, 0]]
    rim = np.pad(classes, ((0, 0), (1, 0), (1, 0)), constant_values=own.width - 1)
    rows = own.rows[0][rim[:, 1:, :-1], rim[:, :-1, 1:]]
    bits = -np.log2(own.frequencies[rows, codes[:, 0]] / 2**TABLE_BITS).sum()
    assert 8 * len(coder.encode(codes)) == pytest.approx(bits, rel=1e-3, abs=64)


def test_longer_data_than_the_codes_take_is_refused():
    coder, codes = GridCoder(tables()), np.zeros((1, 3, 4, 4), np.int64)
    with pytest.raises(FormatError, match="does not end where its codes do"):
        coder.decode(coder.encode(codes) + b"\x01\x02\x03\x04\x05\x06\x07\x08", codes.shape)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("classes", lambda value: np.full_like(value, 3)),
        ("classes", lambda value: value.astype(np.int16)),
        ("sources", lambda value: value + 1),
        ("sources", lambda value: value - 5),
        ("rows", lambda value: value + 40),
        ("rows", lambda value: value[:, :, :2]),
        ("frequencies", lambda value: value[:, :5]),
        ("frequencies", lambda value: value * 0),
        ("frequencies", lambda value: value + 1),
    ],
)
def test_illegal_tables_are_refused(field, change):
    sound = tables()
    with pytest.raises(ModelError, match="illegal tables"):
        dataclasses.replace(sound, **{field: change(getattr(sound, field))})


@pytest.mark.parametrize(
    "change",
    [
        {"planes": 0},
        {"codebook_size": 40_000},
        {"match": "l1"},
        {"image_channels": 2},
        {"patch": True},
        {"planes": 4096, "codevector_dim": 17},
        {"name": 3},
    ],
)
def test_illegal_sizes_are_refused(change):
    with pytest.raises(ModelError, match="invalid model configuration"):
        GridConfig(**({"name": "x"} | change))
    with pytest.raises(ModelError, match="other fields"):
        GridConfig.from_dict(GridConfig("x").to_dict() | {"more": 1})


def test_the_fingerprint_is_of_what_decides_the_codes():
    config, core = GridConfig("x"), {"a": np.arange(4, dtype=np.int16)}
    own = fingerprint_of(config, core)
    assert own == fingerprint_of(dataclasses.replace(config, name="y", tile=7), core), "neither names nor tiles"
    assert own != fingerprint_of(dataclasses.replace(config, planes=16), core)
    assert own != fingerprint_of(config, {"a": np.arange(1, 5, dtype=np.int16)})
    assert own != fingerprint_of(config, {"a": np.arange(4, dtype=np.int32)})
