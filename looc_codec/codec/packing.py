"""Compact storage of numbers in a weights file: transforms in 12 bits, table frequencies in 15."""

from __future__ import annotations

import math

import numpy as np

from looc_codec.errors import ModelError

WEIGHT_BITS = 12
"""Validation crops lose 0.02% of BD-rate by it; 10 bits lose 0.17 and 8 bits 2.3% (docs/EXPERIMENTS.md, section 10)."""
_WEIGHT_LIMIT = 2 ** (WEIGHT_BITS - 1) - 1
MANTISSA_BITS = 11
"""Leading bits of a frequency that are kept. 13 is the largest shift below 2^24, so an int16 holds shift and mantissa."""


def packed_length(count: int) -> int:
    """Bytes of `count` 12-bit numbers."""
    return (3 * count + 1) // 2


def pack_weights(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float weights `(rows, ...)` → bytes `(packed_length(n),)` uint8 and one float32 scale a row.

    A weight is its row's scale times a whole number of -2047..2047; two of them fill three bytes.
    """
    rows = weights.astype(np.float32).reshape(len(weights), -1)
    scales = np.maximum(np.abs(rows).max(1), np.float32(1e-12)) / np.float32(_WEIGHT_LIMIT)
    values = (np.clip(np.rint(rows / scales[:, None]), -_WEIGHT_LIMIT, _WEIGHT_LIMIT) + _WEIGHT_LIMIT).ravel().astype(np.int32)
    pairs = np.concatenate([values, np.zeros(len(values) % 2, np.int32)]).reshape(-1, 2)
    first, second = pairs[:, 0], pairs[:, 1]
    packed = np.stack([first & 255, first >> 8 | (second & 15) << 4, second >> 4], 1).astype(np.uint8).ravel()
    return packed[: packed_length(len(values))].copy(), scales


def unpack_weights(packed: np.ndarray, scales: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `pack_weights`, float32 of `shape`; ModelError where the bytes do not fit the shape."""
    count = math.prod(shape)
    if packed.dtype != np.uint8 or packed.shape != (packed_length(count),) or scales.dtype != np.float32 or scales.shape != shape[:1]:
        raise ModelError(f"packed weights of {packed.shape} bytes do not hold the shape {tuple(shape)}")
    triples = np.concatenate([packed, np.zeros(-len(packed) % 3, np.uint8)]).reshape(-1, 3).astype(np.int16)
    values = np.empty((len(triples), 2), np.float32)
    values[:, 0] = triples[:, 0] | (triples[:, 1] & 15) << 8
    values[:, 1] = triples[:, 1] >> 4 | triples[:, 2] << 4
    weights = values.ravel()[:count].reshape(shape[0], -1)
    weights -= _WEIGHT_LIMIT
    weights *= scales[:, None]
    return weights.reshape(shape)


def shortened(frequencies: np.ndarray) -> np.ndarray:
    """Positive whole numbers below 2^24 (int64) rounded down to their 11 leading bits."""
    shift = _shift(frequencies)
    return frequencies >> shift << shift


def pack_frequencies(frequencies: np.ndarray) -> np.ndarray:
    """Rows `(rows, n)` of positive whole numbers, all but the largest of a row `shortened` → int16.

    An entry is 2048 times its shift plus its mantissa; 0 stands for the largest one, which is what is left of the row's sum.
    """
    frequencies = frequencies.astype(np.int64)
    shift = _shift(frequencies)
    packed = (shift << MANTISSA_BITS) + (frequencies >> shift)
    np.put_along_axis(packed, frequencies.argmax(1)[:, None], 0, 1)
    return packed.astype(np.int16)


def unpack_frequencies(packed: np.ndarray, total: int) -> np.ndarray:
    """The inverse of `pack_frequencies` for rows that add up to `total`: int32; ModelError for rows that cannot."""
    values = packed.astype(np.int32)
    shift = values >> MANTISSA_BITS
    frequencies = (values & (2**MANTISSA_BITS - 1)) << np.clip(shift, 0, 24 - MANTISSA_BITS)
    rest = values == 0
    left = total - frequencies.sum(1, keepdims=True, dtype=np.int64)
    if values.size == 0 or values.min() < 0 or (rest.sum(1) != 1).any() or left.min() < 1:
        raise ModelError("the weights file holds an illegal table bank")
    return np.where(rest, left, frequencies).astype(np.int32)


def _shift(frequencies: np.ndarray) -> np.ndarray:
    # The exponent of a float64 is exact for whole numbers of this size.
    return np.maximum(np.frexp(frequencies.astype(np.float64))[1].astype(np.int64) - MANTISSA_BITS, 0)
