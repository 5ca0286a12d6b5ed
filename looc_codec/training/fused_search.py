"""The choice of codes for all units of a latent as one kernel of a CUDA device, for training.

The same choice as `SharedCodebook.pick_all`: written out in tensor operations it is some 150 launches for each of the
prior's thirteen levels, which take longer than the networks. Triton is part of PyTorch's CUDA builds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from looc_codec.codec.search import ESCAPE_ERROR, GRID_PER_STEP
from looc_codec.format.constants import ESCAPE_FACTOR, LATENT_ONE, RATIO_LOG_SPAN, SCALE_LOG_LOW, SCALE_LOG_WIDTH
from looc_codec.quantizers.codebook import SharedCodebook

UNITS = 128
"""Units of a program: the smallest levels have only some thousands of them."""
BIAS = 1 << 16
"""Added before integer divisions, which round towards zero, and taken off after them."""


@triton.jit
def _nearest(x, y, offset, lagrangian, active, steps, bits, shortlists, half_cells, SHORT: tl.constexpr, PER_STEP: tl.constexpr):
    """Codevector of least cost for residuals (x, y) in steps, and that cost; `offset` is where the row's bits begin."""
    column = tl.minimum(tl.maximum(tl.floor(x * PER_STEP + 0.5), -half_cells), half_cells).to(tl.int32) + half_cells
    line = tl.minimum(tl.maximum(tl.floor(y * PER_STEP + 0.5), -half_cells), half_cells).to(tl.int32) + half_cells
    cell = (column * (2 * half_cells + 1) + line) * SHORT
    best = tl.zeros_like(cell)
    least = x * 0.0 + float("inf")
    for place in range(SHORT):
        code = tl.load(shortlists + cell + place, mask=active, other=0).to(tl.int32)
        across = x - tl.load(steps + 2 * code, mask=active, other=0.0)
        along = y - tl.load(steps + 2 * code + 1, mask=active, other=0.0)
        cost = across * across + along * along + lagrangian * tl.load(bits + offset + code, mask=active, other=0.0)
        better = cost < least
        best = tl.where(better, code, best)
        least = tl.where(better, cost, least)
    return best, least


@triton.jit
def _chosen(
    x, y, scale_x, scale_y, inside, digit_factor, first_digit_row, steps, bits, shortlists, half_cells, escape_row, lagrangian,
    SIZE: tl.constexpr, SHORT: tl.constexpr, SCALES: tl.constexpr, RATIOS: tl.constexpr, RATIO_WIDTH: tl.constexpr, LOW: tl.constexpr, WIDTH: tl.constexpr,
    PER_STEP: tl.constexpr, ESCAPE: tl.constexpr, FAR: tl.constexpr, OFFSET: tl.constexpr,
):
    """Coded values of residuals (x, y) in steps with integer log scales, where `inside`."""
    row = (scale_x + scale_y - LOW + WIDTH * OFFSET) // WIDTH - OFFSET
    row = tl.minimum(tl.maximum(row, 0), SCALES - 1)
    if RATIOS > 1:
        ratio = (scale_x - scale_y + RATIO_WIDTH // 2 + RATIO_WIDTH * OFFSET) // RATIO_WIDTH - OFFSET
        row = row * RATIOS + tl.minimum(tl.maximum(ratio, -(RATIOS // 2)), RATIOS // 2) + RATIOS // 2
    factor = tl.load(digit_factor + row, mask=inside, other=1).to(tl.float32)
    wide = inside & (factor > 1)
    first_row = tl.maximum(tl.load(first_digit_row + row, mask=inside, other=0), 0).to(tl.int32) * (SIZE + 1)
    own_row = row * (SIZE + 1)
    first, _ = _nearest(x / factor, y / factor, first_row, lagrangian / 16, wide, steps, bits, shortlists, half_cells, SHORT, PER_STEP)
    coarse_x = factor * tl.load(steps + 2 * first, mask=wide, other=0.0)
    coarse_y = factor * tl.load(steps + 2 * first + 1, mask=wide, other=0.0)
    second, _ = _nearest(x - coarse_x, y - coarse_y, own_row, lagrangian, inside, steps, bits, shortlists, half_cells, SHORT, PER_STEP)
    value_x = coarse_x + tl.load(steps + 2 * second, mask=inside, other=0.0)
    value_y = coarse_y + tl.load(steps + 2 * second + 1, mask=inside, other=0.0)
    error = (x - value_x) * (x - value_x) + (y - value_y) * (y - value_y)
    spent = tl.load(bits + own_row + second, mask=inside, other=0.0) + tl.load(bits + first_row + first, mask=wide, other=0.0)
    far = inside & (error > FAR) & (factor < ESCAPE)
    coarse_row = row * 0 + escape_row * (SIZE + 1)
    coarse, _ = _nearest(x / ESCAPE, y / ESCAPE, coarse_row, lagrangian / 16, far, steps, bits, shortlists, half_cells, SHORT, PER_STEP)
    far_x = ESCAPE * tl.load(steps + 2 * coarse, mask=far, other=0.0)
    far_y = ESCAPE * tl.load(steps + 2 * coarse + 1, mask=far, other=0.0)
    fine, cost = _nearest(x - far_x, y - far_y, coarse_row + SIZE + 1, lagrangian, far, steps, bits, shortlists, half_cells, SHORT, PER_STEP)
    cost += lagrangian * (tl.load(bits + coarse_row + coarse, mask=far, other=0.0) + tl.load(bits + own_row + SIZE, mask=far, other=0.0))
    escaped = far & (error + lagrangian * spent > cost)
    value_x = tl.where(escaped, far_x + tl.load(steps + 2 * fine, mask=far, other=0.0), value_x)
    value_y = tl.where(escaped, far_y + tl.load(steps + 2 * fine + 1, mask=far, other=0.0), value_y)
    return value_x, value_y


@triton.jit
def _quantise(
    residual, log_scale, quantised, units, positions, digit_factor, first_digit_row, steps, bits, shortlists, half_cells, escape_row, lagrangian,
    ONE: tl.constexpr, BLOCK: tl.constexpr,
    SIZE: tl.constexpr, SHORT: tl.constexpr, SCALES: tl.constexpr, RATIOS: tl.constexpr, RATIO_WIDTH: tl.constexpr, LOW: tl.constexpr, WIDTH: tl.constexpr,
    PER_STEP: tl.constexpr, ESCAPE: tl.constexpr, FAR: tl.constexpr, OFFSET: tl.constexpr,
):
    unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < units
    # A unit is two consecutive channels of one position.
    address = (unit // positions) * 2 * positions + unit % positions
    scale_x = tl.load(log_scale + address, mask=inside, other=0.0).to(tl.int32)
    scale_y = tl.load(log_scale + address + positions, mask=inside, other=0.0).to(tl.int32)
    x = tl.load(residual + address, mask=inside, other=0.0) / ONE
    y = tl.load(residual + address + positions, mask=inside, other=0.0) / ONE
    value_x, value_y = _chosen(
        x, y, scale_x, scale_y, inside, digit_factor, first_digit_row, steps, bits, shortlists, half_cells, escape_row, lagrangian,
        SIZE, SHORT, SCALES, RATIOS, RATIO_WIDTH, LOW, WIDTH, PER_STEP, ESCAPE, FAR, OFFSET,
    )
    tl.store(quantised + address, value_x * ONE, mask=inside)
    tl.store(quantised + address + positions, value_y * ONE, mask=inside)


def constants_of(book: SharedCodebook) -> dict:
    """What the kernels have to know of a codebook when they are compiled."""
    config = book.config
    return dict(
        SIZE=len(book.steps), SHORT=book.shortlists.shape[1], SCALES=config.scale_classes, RATIOS=config.ratio_classes, RATIO_WIDTH=RATIO_LOG_SPAN // config.ratio_classes,
        LOW=SCALE_LOG_LOW, WIDTH=SCALE_LOG_WIDTH, PER_STEP=GRID_PER_STEP, ESCAPE=ESCAPE_FACTOR, FAR=ESCAPE_ERROR, OFFSET=BIAS,
    )


def tables_of(book: SharedCodebook) -> tuple:
    """The arguments of `_chosen` from `digit_factor` to `escape_row`."""
    return book.digit_factor, book.first_digit_row, book.steps, book.bits, book.shortlists, book.half_cells, len(book.bits) - 2


def quantise(book: SharedCodebook, residual: Tensor, log_scale: Tensor, lagrangian: float) -> Tensor:
    """Coded values `(B, C, h, w)` float32 of residuals (1/16 steps) with integer log scales (1/32), both `(B, C, h, w)`; d* = 2."""
    residual, log_scale = residual.float().contiguous(), log_scale.float().contiguous()
    quantised = torch.empty_like(residual)
    units, positions = residual.numel() // 2, residual.shape[2] * residual.shape[3]
    _quantise[(triton.cdiv(units, UNITS),)](
        residual, log_scale, quantised, units, positions, *tables_of(book), lagrangian, ONE=LATENT_ONE, BLOCK=UNITS, **constants_of(book)
    )
    return quantised
