"""Compact storage: what is read is what was meant, and bytes that cannot be meant are refused."""

from __future__ import annotations

import numpy as np
import pytest

from looc_codec.codec.packing import pack_frequencies, pack_weights, shortened, unpack_frequencies, unpack_weights
from looc_codec.errors import ModelError

TOTAL = 2**24


@pytest.mark.parametrize("shape", [(3, 5, 1, 1), (4, 2, 3, 3), (1, 1, 1, 1), (7, 1, 3, 3)])
def test_weights_come_back_within_half_a_step_of_their_row(shape):
    weights = (np.random.default_rng(1).normal(size=shape) * np.logspace(-3, 2, shape[0])[:, None, None, None]).astype(np.float32)
    packed, scales = pack_weights(weights)
    assert packed.dtype == np.uint8 and len(packed) == (3 * weights.size + 1) // 2
    back = unpack_weights(packed, scales, shape)
    assert (np.abs(back - weights).reshape(len(back), -1) <= 0.501 * scales[:, None]).all()
    again, _ = pack_weights(back)
    assert np.array_equal(again, packed)


def test_the_largest_weights_and_rows_of_zeros_are_exact():
    weights = np.array([[[[1.5]], [[-1.5]], [[0.0]]], [[[0.0]], [[0.0]], [[0.0]]]], np.float32)
    assert np.array_equal(unpack_weights(*pack_weights(weights), weights.shape), weights)


@pytest.mark.parametrize("change", [lambda p, s: (p[:-1], s), lambda p, s: (p.astype(np.int32), s), lambda p, s: (p, s[:-1]), lambda p, s: (p, s.astype(np.float64))])
def test_packed_weights_of_another_shape_are_refused(change):
    packed, scales = pack_weights(np.random.default_rng(2).normal(size=(4, 3, 3, 3)).astype(np.float32))
    with pytest.raises(ModelError):
        unpack_weights(*change(packed, scales), (4, 3, 3, 3))


def tables(rows: int = 50, size: int = 1025) -> np.ndarray:
    """Rows as a codebook has them: each entry at least 1, all but the largest short, the sum fixed."""
    weights = np.random.default_rng(2).random((rows, size)) ** np.linspace(0, 60, rows)[:, None]
    frequencies = shortened(1 + np.floor(weights / weights.sum(1, keepdims=True) * (TOTAL - size)).astype(np.int64))
    largest = frequencies.argmax(1)[:, None]
    left = TOTAL - frequencies.sum(1, keepdims=True) + np.take_along_axis(frequencies, largest, 1)
    np.put_along_axis(frequencies, largest, left, 1)
    return frequencies.astype(np.int32)


def test_frequencies_come_back_exactly():
    frequencies = tables()
    assert np.array_equal(unpack_frequencies(pack_frequencies(frequencies), TOTAL), frequencies)


def test_shortening_takes_less_than_a_thousandth_and_nothing_from_small_numbers():
    numbers = np.concatenate([np.arange(1, 5000), [2**24 - 1, 2**23 + 1, 3_000_001]])
    short = shortened(numbers)
    assert np.array_equal(short[:2047], numbers[:2047])
    assert ((numbers - short) / numbers < 1 / 1000).all() and (short <= numbers).all()


@pytest.mark.parametrize("value", [0, -1, 32767, 15 * 2048])
def test_tables_that_cannot_add_up_are_refused(value):
    packed = pack_frequencies(tables(rows=3))
    packed[1, 5:] = value
    with pytest.raises(ModelError):
        frequencies = unpack_frequencies(packed, TOTAL)
        # A mantissa of zero is a frequency of zero, which the codebook refuses.
        if int(frequencies.min()) < 1:
            raise ModelError("zero")


def test_a_row_without_a_largest_entry_is_refused():
    packed = pack_frequencies(tables(rows=3))
    packed[2] = 1
    with pytest.raises(ModelError):
        unpack_frequencies(packed, TOTAL)
