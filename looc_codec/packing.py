"""Compact storage of numbers in a weights file: transforms in 12 bits, table frequencies in 15."""

from __future__ import annotations

import torch
from torch import Tensor

from looc_codec.errors import ModelError

WEIGHT_BITS = 12
"""Validation crops lose 0.02% of BD-rate by it; 10 bits lose 0.17 and 8 bits 2.3% (docs/EXPERIMENTS.md, section 10)."""
_WEIGHT_LIMIT = 2 ** (WEIGHT_BITS - 1) - 1
MANTISSA_BITS = 11
"""Leading bits of a frequency that are kept. 13 is the largest shift below 2^24, so an int16 holds shift and mantissa."""


def packed_length(count: int) -> int:
    """Bytes of `count` 12-bit numbers."""
    return (3 * count + 1) // 2


def pack_weights(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Float weights `(rows, ...)` → bytes `(packed_length(n),)` uint8 and one float32 scale a row.

    A weight is its row's scale times a whole number of -2047..2047; two of them fill three bytes.
    """
    rows = weights.detach().float().cpu().reshape(len(weights), -1)
    scales = rows.abs().amax(1).clamp_min(1e-12) / _WEIGHT_LIMIT
    values = (torch.round(rows / scales[:, None]).clamp(-_WEIGHT_LIMIT, _WEIGHT_LIMIT) + _WEIGHT_LIMIT).flatten().to(torch.int32)
    odd = len(values) % 2
    first, second = torch.cat([values, values.new_zeros(odd)]).view(-1, 2).unbind(1)
    packed = torch.stack([first & 255, first >> 8 | (second & 15) << 4, second >> 4], 1).to(torch.uint8).flatten()
    return packed[: packed_length(len(values))].clone(), scales


def unpack_weights(packed: Tensor, scales: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `pack_weights`, float32 of `shape`; ModelError where the bytes do not fit the shape."""
    count = int(torch.Size(shape).numel())
    if packed.dtype != torch.uint8 or packed.shape != (packed_length(count),) or scales.dtype != torch.float32 or scales.shape != shape[:1]:
        raise ModelError(f"packed weights of {tuple(packed.shape)} bytes do not hold the shape {tuple(shape)}")
    low, middle, high = torch.cat([packed, packed.new_zeros(-len(packed) % 3)]).to(torch.int32).view(-1, 3).unbind(1)
    values = torch.stack([low | (middle & 15) << 8, middle >> 4 | high << 4], 1).flatten()[:count] - _WEIGHT_LIMIT
    return (values.view(shape[0], -1) * scales[:, None]).view(shape)


def shortened(frequencies: Tensor) -> Tensor:
    """Positive whole numbers below 2^24 (int64) rounded down to their 11 leading bits."""
    shift = _shift(frequencies)
    return frequencies >> shift << shift


def pack_frequencies(frequencies: Tensor) -> Tensor:
    """Rows `(rows, n)` of positive whole numbers, all but the largest of a row `shortened` → int16.

    An entry is 2048 times its shift plus its mantissa; 0 stands for the largest one, which is what is left of the row's sum.
    """
    shift = _shift(frequencies)
    packed = (shift << MANTISSA_BITS) + (frequencies.long() >> shift)
    return packed.scatter_(1, frequencies.argmax(1, keepdim=True), 0).to(torch.int16)


def unpack_frequencies(packed: Tensor, total: int) -> Tensor:
    """The inverse of `pack_frequencies` for rows that add up to `total`: int32; ModelError for rows that cannot."""
    values = packed.long()
    shift = values >> MANTISSA_BITS
    frequencies = (values & (2**MANTISSA_BITS - 1)) << shift.clamp(0, 24)
    rest = values == 0
    left = total - frequencies.sum(1, keepdim=True)
    if values.numel() == 0 or int(values.min()) < 0 or bool((rest.sum(1) != 1).any()) or int(left.min()) < 1:
        raise ModelError("the weights file holds an illegal table bank")
    return torch.where(rest, left, frequencies).to(torch.int32)


def _shift(frequencies: Tensor) -> Tensor:
    # The exponent of a float64 is exact for whole numbers of this size.
    return (torch.frexp(frequencies.double())[1].long() - MANTISSA_BITS).clamp_min(0)
