"""The prior's rates on a CUDA device in training: each of its thirteen levels in a dozen launches.

In single operations a level is some two hundred launches, forward and backward, of a few microseconds each (H200: 11 ms of a
pass of 30 ms). Here positions are rows and channels columns throughout, `(P, C)` with P = B h w, so the networks are matrix
products, and what lies between two of them is one kernel. Levels only meet in decoded values, through which no gradient goes,
so their backward passes need nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from looc_codec.format.constants import ACTIVATION_LIMIT, ACTIVATION_ONE, COMPANDED_LIMIT, LATENT_LIMIT, LATENT_ONE, NEIGHBOUR_BITS
from looc_codec.format.order import levels_of_group
from looc_codec.networks.prior import LOG_SCALE_RANGE, Prior, gaussian_bits, level_positions, round_half_up
from looc_codec.quantizers.codebook import SharedCodebook
from looc_codec.training.fused_layers import maps_of, rows_of
from looc_codec.training.fused_search import UNITS, _chosen, constants_of, tables_of
from looc_codec.networks.transforms import blended

ROWS, COLUMNS = 64, 32
"""Positions and channels of a tile."""
HALF = torch.bfloat16
"""What networks work in. Activations and integer weights are exact in it."""


@triton.jit
def _activate(sums, bias, quality, out, count, width, positions, LIMIT: tl.constexpr, QUALITY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = clamp(floor(sums + bias + 1/2) + quality): the activations of a layer. `quality` is one row for each picture."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < count)[:, None] & (column < width)[None, :]
    address = row[:, None] * width + column[None, :]
    value = tl.floor(tl.load(sums + address, mask=inside, other=0.0).to(tl.float32) + tl.load(bias + column, mask=column < width, other=0.0)[None, :] + 0.5)
    if QUALITY:
        value += tl.load(quality + (row // positions)[:, None] * width + column[None, :], mask=inside, other=0.0)
    tl.store(out + address, tl.minimum(tl.maximum(value, 0.0), LIMIT).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _activate_backward(
    gradient, sums, bias, quality, out, totals, width, positions, LIMIT: tl.constexpr, QUALITY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILES: tl.constexpr
):
    """Gradients of `sums`, and their totals `(B, C)` over each picture's positions."""
    picture = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < width
    shift = tl.load(bias + column, mask=known, other=0.0)[None, :]
    total = tl.zeros((COLUMNS,), tl.float32)
    for index in range(TILES):
        row = index * ROWS + tl.arange(0, ROWS)
        inside = (row < positions)[:, None] & known[None, :]
        address = (picture * positions + row)[:, None] * width + column[None, :]
        value = tl.floor(tl.load(sums + address, mask=inside, other=0.0).to(tl.float32) + shift + 0.5)
        if QUALITY:
            value += tl.load(quality + picture * width + column, mask=known, other=0.0)[None, :]
        own = tl.load(gradient + address, mask=inside, other=0.0).to(tl.float32)
        own = tl.where((value >= 0.0) & (value <= LIMIT), own, 0.0)
        tl.store(out + address, own.to(out.dtype.element_ty), mask=inside)
        total += tl.sum(own, 0)
    tl.store(totals + picture * width + column, total, mask=known)


@triton.jit
def _context(known, latent, out, count, before, group, LIMIT: tl.constexpr, ONE: tl.constexpr, HALF_UNIT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = the columns of `known`, then those of `latent` companded: what a level's network sees, as prior.compand has it."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    older = (row < count)[:, None] & (column < before)[None, :]
    own = (row < count)[:, None] & ((column >= before) & (column < before + group))[None, :]
    value = tl.load(known + row[:, None] * before + column[None, :], mask=older, other=0.0)
    steps = tl.load(latent + row[:, None] * group + (column - before)[None, :], mask=own, other=0.0) * (1.0 / ONE)
    size = tl.log(1.0 + tl.abs(steps)) * HALF_UNIT
    companded = tl.floor(tl.where(steps < 0, -size, size) + 0.5)
    companded = tl.minimum(tl.maximum(companded, -LIMIT), LIMIT)
    value = tl.where(older, value, companded.to(value.dtype))
    tl.store(out + row[:, None] * (before + group) + column[None, :], value, mask=older | own)


@triton.jit(do_not_specialize=["level", "index"])
def _level(
    sums, bias, target, base, latent, weights, places, shifts, kept, latent_out, residual, log_scale, units, group, stride, height, width, level, index,
    digit_factor, first_digit_row, steps, bits, shortlists, half_cells, escape_row, lagrangian,
    NEIGHBOURS: tl.constexpr, KEPT: tl.constexpr, CODES: tl.constexpr, ONE: tl.constexpr, PART: tl.constexpr, FAR_LATENT: tl.constexpr, BLOCK: tl.constexpr,
    SIZE: tl.constexpr, SHORT: tl.constexpr, SCALES: tl.constexpr, RATIOS: tl.constexpr, RATIO_WIDTH: tl.constexpr, LOW: tl.constexpr, WIDTH: tl.constexpr,
    PER_STEP: tl.constexpr, ESCAPE: tl.constexpr, FAR: tl.constexpr, OFFSET: tl.constexpr,
):
    """Means and log scales of one level from its network's sums, its residuals and its decoded values; other positions keep theirs."""
    unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = unit < units
    pairs = group // 2
    row, channel = (unit // pairs).to(tl.int64), (unit % pairs) * 2
    position, picture = row % (height * width), row // (height * width)
    active = inside & (tl.load(places + position, mask=inside, other=-1) == level)
    own = row * group + channel
    old_x, old_y = tl.load(latent + own, mask=inside & (active == 0), other=0.0), tl.load(latent + own + 1, mask=inside & (active == 0), other=0.0)
    address = row * 2 * group + channel
    mean_x = tl.floor(tl.load(sums + address, mask=active, other=0.0) + tl.load(bias + channel, mask=active, other=0.0) + 0.5)
    mean_y = tl.floor(tl.load(sums + address + 1, mask=active, other=0.0) + tl.load(bias + channel + 1, mask=active, other=0.0) + 0.5)
    scale_x = tl.floor(tl.load(sums + address + group, mask=active, other=0.0) + tl.load(bias + group + channel, mask=active, other=0.0) + 0.5)
    scale_y = tl.floor(tl.load(sums + address + group + 1, mask=active, other=0.0) + tl.load(bias + group + channel + 1, mask=active, other=0.0) + 0.5)
    scale_x += tl.load(base + picture * stride + channel, mask=active, other=0.0)
    scale_y += tl.load(base + picture * stride + channel + 1, mask=active, other=0.0)
    if NEIGHBOURS > 0:
        total_x, total_y = mean_x * 0.0, mean_y * 0.0
        line, place = position // width, position % width
        for number in range(NEIGHBOURS):
            down, across = tl.load(shifts + 2 * number), tl.load(shifts + 2 * number + 1)
            there = active & (line + down >= 0) & (line + down < height) & (place + across >= 0) & (place + across < width)
            other = own + (down * width + across) * group
            total_x += tl.load(weights + channel * NEIGHBOURS + number, mask=active, other=0.0) * tl.load(latent + other, mask=there, other=0.0)
            total_y += tl.load(weights + (channel + 1) * NEIGHBOURS + number, mask=active, other=0.0) * tl.load(latent + other + 1, mask=there, other=0.0)
        mean_x += tl.floor(total_x * (1.0 / PART) + 0.5)
        mean_y += tl.floor(total_y * (1.0 / PART) + 0.5)
    # Latents of all groups lie in one tensor of `stride` columns; pointers are to this group's first.
    far = row * stride + channel
    residual_x = tl.load(target + far, mask=active, other=0.0) - mean_x
    residual_y = tl.load(target + far + 1, mask=active, other=0.0) - mean_y
    tl.store(residual + far, residual_x, mask=active)
    tl.store(residual + far + 1, residual_y, mask=active)
    tl.store(log_scale + far, scale_x, mask=active)
    tl.store(log_scale + far + 1, scale_y, mask=active)
    if CODES:
        value_x, value_y = _chosen(
            residual_x * (1.0 / ONE), residual_y * (1.0 / ONE), scale_x.to(tl.int32), scale_y.to(tl.int32), active,
            digit_factor, first_digit_row, steps, bits, shortlists, half_cells, escape_row, lagrangian,
            SIZE, SHORT, SCALES, RATIOS, RATIO_WIDTH, LOW, WIDTH, PER_STEP, ESCAPE, FAR, OFFSET,
        )
    else:
        value_x, value_y = tl.floor(residual_x * (1.0 / ONE) + 0.5), tl.floor(residual_y * (1.0 / ONE) + 0.5)
    if KEPT:
        coded = tl.load(kept + picture, mask=active, other=0.0) > index
        value_x, value_y = tl.where(coded, value_x, 0.0), tl.where(coded, value_y, 0.0)
    new_x = tl.minimum(tl.maximum(mean_x + value_x * ONE, -FAR_LATENT), FAR_LATENT)
    new_y = tl.minimum(tl.maximum(mean_y + value_y * ONE, -FAR_LATENT), FAR_LATENT)
    tl.store(latent_out + own, tl.where(active, new_x, old_x), mask=inside)
    tl.store(latent_out + own + 1, tl.where(active, new_y, old_y), mask=inside)


@triton.jit(do_not_specialize=["level"])
def _level_backward(
    residual, log_scale, latent, places, shifts, out, totals, weight_totals, group, stride, height, width, level, NEIGHBOURS: tl.constexpr, PART: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILES: tl.constexpr,
):
    """Gradients of a level's sums `(P, 2 group)` from those of residuals and log scales, their totals over each picture's positions,
    and those of the weights of neighbours."""
    picture = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < group
    mean_total, scale_total = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    positions = height * width
    for index in range(TILES):
        position = index * ROWS + tl.arange(0, ROWS)
        inside = (position < positions)[:, None] & known[None, :]
        active = inside & (tl.load(places + position, mask=position < positions, other=-1) == level)[:, None]
        row = (picture * positions + position)[:, None]
        mean = -tl.load(residual + row * stride + column[None, :], mask=active, other=0.0)
        scale = tl.load(log_scale + row * stride + column[None, :], mask=active, other=0.0)
        tl.store(out + row * 2 * group + column[None, :], mean.to(out.dtype.element_ty), mask=inside)
        tl.store(out + row * 2 * group + group + column[None, :], scale.to(out.dtype.element_ty), mask=inside)
        mean_total += tl.sum(mean, 0)
        scale_total += tl.sum(scale, 0)
    tl.store(totals + picture * 2 * group + column, mean_total, mask=known)
    tl.store(totals + picture * 2 * group + group + column, scale_total, mask=known)
    for number in range(NEIGHBOURS):
        down, across = tl.load(shifts + 2 * number), tl.load(shifts + 2 * number + 1)
        total = tl.zeros((COLUMNS,), tl.float32)
        for index in range(TILES):
            position = index * ROWS + tl.arange(0, ROWS)
            line, place = position // width + down, position % width + across
            there = (position < positions) & (line >= 0) & (line < height) & (place >= 0) & (place < width)
            active = there & (tl.load(places + position, mask=position < positions, other=-1) == level)
            row = (picture * positions + position)[:, None]
            mask = active[:, None] & known[None, :]
            mean = -tl.load(residual + row * stride + column[None, :], mask=mask, other=0.0)
            total += tl.sum(mean * tl.load(latent + (row + down * width + across) * group + column[None, :], mask=mask, other=0.0), 0)
        tl.store(weight_totals + (picture * group + column) * NEIGHBOURS + number, total * (1.0 / PART), mask=known)


def product(one: Tensor, other: Tensor) -> Tensor:
    """Matrix product of bfloat16 as float32: of activations and integer weights, every term of its sums is exact."""
    if one.is_cuda:
        return torch.mm(one, other, out_dtype=torch.float32)
    return one.float() @ other.float()


def activate(sums: Tensor, bias: Tensor, quality: Tensor | None, positions: int) -> Tensor:
    """Activations 0..255 `(P, C)` of a layer's sums `(P, C)`, its bias `(C,)` and, in an entry, the quality's row of each picture `(B, C)`."""
    count, width = sums.shape
    out = torch.empty_like(sums)
    _activate[(triton.cdiv(count, ROWS), triton.cdiv(width, COLUMNS))](
        sums, bias, bias if quality is None else quality, out, count, width, positions, LIMIT=ACTIVATION_LIMIT, QUALITY=quality is not None, ROWS=ROWS, COLUMNS=COLUMNS
    )
    return out


def activate_backward(gradient: Tensor, sums: Tensor, bias: Tensor, quality: Tensor | None, positions: int) -> tuple[Tensor, Tensor]:
    """Gradients of `activate`'s sums `(P, C)`, and their totals over each picture's positions `(B, C)` float32."""
    count, width = sums.shape
    out, totals = torch.empty_like(sums), torch.empty(count // positions, width, device=sums.device)
    _activate_backward[(count // positions, triton.cdiv(width, COLUMNS))](
        gradient, sums, bias, bias if quality is None else quality, out, totals, width, positions, LIMIT=ACTIVATION_LIMIT, QUALITY=quality is not None,
        ROWS=ROWS, COLUMNS=COLUMNS, TILES=triton.cdiv(positions, ROWS),
    )
    return out, totals


def context_of(known: Tensor, latent: Tensor) -> Tensor:
    """`(P, before)` bfloat16 and the group's integer latents `(P, group)` float32 → `(P, before + group)` bfloat16."""
    (count, before), group = known.shape, latent.shape[1]
    out = torch.empty(count, before + group, dtype=known.dtype, device=known.device)
    _context[(triton.cdiv(count, ROWS), triton.cdiv(before + group, COLUMNS))](
        known, latent, out, count, before, group, LIMIT=COMPANDED_LIMIT, ONE=LATENT_ONE, HALF_UNIT=ACTIVATION_ONE // 2, ROWS=ROWS, COLUMNS=COLUMNS
    )
    return out


@dataclass(frozen=True)
class Shape:
    """Sizes of a batch and what its levels need to know of their positions, on the device."""

    batch: int
    height: int
    width: int
    places: tuple[Tensor, ...]
    """Level of each position `(h w,)` int32, for every group."""
    shifts: tuple[tuple[Tensor | None, ...], ...]
    """(row, column) offsets of each level's neighbours `(n, 2)` int32."""

    @property
    def positions(self) -> int:
        return self.height * self.width


class Levels(torch.autograd.Function):
    """All levels of all groups. Inputs: integer latents `(P, d)`, quality rows of each level `(B, levels, width)`, bases of log scales
    `(B, d)`, kept groups `(B,)` or None, and of each level the weights and biases that `FusedRates.parameters` lists.
    Outputs `(P, d)` float32: residuals, log scales, and decoded latents, which have no gradient."""

    @staticmethod
    def forward(context, rates: FusedRates, shape: Shape, fixed: Tensor, quality: Tensor, base: Tensor, kept: Tensor | None, *parameters: Tensor) -> tuple[Tensor, ...]:
        config, half = rates.prior.config, HALF
        count, stride, positions = len(fixed), fixed.shape[1], shape.positions
        residual, log_scale, decoded = (torch.empty_like(fixed) for _ in range(3))
        known = torch.empty(count, 0, dtype=half, device=fixed.device)
        values, saved, before, number = iter(parameters), [], 0, 0
        for index, group in enumerate(config.groups):
            latent = torch.zeros(count, group, device=fixed.device)
            columns = slice(before, before + group)
            for level, (place, shifts) in enumerate(zip(levels_of_group(index), shape.shifts[index], strict=True)):
                seen = known if level == 0 else context_of(known, latent)
                row, layers = quality[:, number].contiguous(), []
                number += 1
                weight, bias = next(values), next(values)
                if weight is None:
                    # The very first level knows nothing but the quality.
                    sums, bias = torch.zeros(count, quality.shape[2], dtype=half, device=fixed.device), torch.zeros(quality.shape[2], device=fixed.device)
                else:
                    weight = weight.to(half, memory_format=torch.channels_last)
                    maps = maps_of(seen, torch.Size((shape.batch, seen.shape[1], shape.height, shape.width)))
                    sums = rows_of(F.conv2d(maps, weight, padding=place.dilation, dilation=place.dilation).contiguous(memory_format=torch.channels_last))
                layers += [seen, weight, sums, bias, row]
                features = activate(sums, bias, row, positions)
                for _ in range(config.prior_depth):
                    weight, bias = next(values).flatten(1).to(half), next(values)
                    sums = features @ weight.t()
                    layers += [features, weight, sums, bias]
                    features = activate(sums, bias, None, positions)
                weight, bias, weights = next(values).flatten(1).to(half), next(values), next(values)
                layers += [features, weight, latent]
                saved += layers
                sums, old = product(features, weight.t()), latent
                latent = torch.empty_like(old)
                book = rates.book
                tables = tables_of(book) if book is not None else (old, old, old, old, old, 0, 0)
                constants = constants_of(book) if book is not None else dict.fromkeys(("SIZE", "SHORT", "SCALES", "RATIOS", "RATIO_WIDTH", "LOW", "WIDTH", "PER_STEP", "ESCAPE", "FAR", "OFFSET"), 1)
                units = count * group // 2
                _level[(triton.cdiv(units, UNITS),)](
                    sums, bias, fixed[:, columns], base[:, columns], old, old if weights is None else weights, shape.places[index], shape.places[index] if shifts is None else shifts,
                    base if kept is None else kept, latent, residual[:, columns], log_scale[:, columns], units, group, stride, shape.height, shape.width, level, index,
                    *tables, rates.lagrangian, NEIGHBOURS=0 if shifts is None else len(shifts), KEPT=kept is not None, CODES=book is not None,
                    ONE=LATENT_ONE, PART=2**NEIGHBOUR_BITS, FAR_LATENT=LATENT_LIMIT, BLOCK=UNITS, **constants,
                )
            decoded[:, columns] = latent
            known = context_of(known, latent)
            before += group
        context.save_for_backward(*saved)
        context.rates, context.shape = rates, shape
        context.mark_non_differentiable(decoded)
        return residual, log_scale, decoded

    @staticmethod
    def backward(context, residual: Tensor, log_scale: Tensor, _decoded: Tensor) -> tuple[Tensor | None, ...]:
        rates, shape = context.rates, context.shape
        config, half = rates.prior.config, HALF
        residual, log_scale = residual.contiguous(), log_scale.contiguous()
        count, stride, positions = len(residual), residual.shape[1], shape.positions
        saved, before, rows, gradients = iter(context.saved_tensors), 0, [], []
        tiles = dict(ROWS=ROWS, COLUMNS=COLUMNS, TILES=triton.cdiv(positions, ROWS))
        for index, group in enumerate(config.groups):
            columns = slice(before, before + group)
            for level, (place, shifts) in enumerate(zip(levels_of_group(index), shape.shifts[index], strict=True)):
                seen, window, entry_sums, entry_bias, row = (next(saved) for _ in range(5))
                hidden = [tuple(next(saved) for _ in range(4)) for _ in range(config.prior_depth)]
                features, weight, latent = (next(saved) for _ in range(3))
                neighbours = 0 if shifts is None else len(shifts)
                gradient = torch.empty(count, 2 * group, dtype=half, device=residual.device)
                totals = torch.empty(shape.batch, 2 * group, device=residual.device)
                weight_totals = torch.empty(shape.batch, group, max(1, neighbours), device=residual.device)
                _level_backward[(shape.batch, triton.cdiv(group, COLUMNS))](
                    residual[:, columns], log_scale[:, columns], latent, shape.places[index], shape.places[index] if shifts is None else shifts, gradient, totals, weight_totals,
                    group, stride, shape.height, shape.width, level, NEIGHBOURS=neighbours, PART=2**NEIGHBOUR_BITS, **tiles,
                )
                own = [product(gradient.t(), features)[:, :, None, None], totals.sum(0), weight_totals.sum(0) if neighbours else None]
                gradient = gradient @ weight
                for inputs, weight, sums, bias in reversed(hidden):
                    gradient, totals = activate_backward(gradient, sums, bias, None, positions)
                    own = [product(gradient.t(), inputs)[:, :, None, None], totals.sum(0), *own]
                    gradient = gradient @ weight
                gradient, totals = activate_backward(gradient, entry_sums, entry_bias, row, positions)
                rows.append(totals)
                if window is None:
                    gradients += [None, None, *own]
                else:
                    size = torch.Size((shape.batch, seen.shape[1], shape.height, shape.width))
                    reach = (place.dilation, place.dilation)
                    _, window_gradient, _ = torch.ops.aten.convolution_backward(
                        maps_of(gradient, torch.Size((shape.batch, gradient.shape[1], shape.height, shape.width))), maps_of(seen, size), window, None,
                        (1, 1), reach, reach, False, (0, 0), 1, (False, True, False),
                    )
                    gradients += [window_gradient.float(), totals.sum(0), *own]
            before += group
        base = log_scale.view(shape.batch, positions, stride).sum(1)
        return None, None, residual, torch.stack(rows, 1), base, None, *gradients


class FusedRates:
    """`Prior.rates` in few launches, for a prior whose integer weights are derived jointly; `book` None rounds to whole steps."""

    def __init__(self, prior: Prior, book: SharedCodebook | None, lagrangian: float) -> None:
        self.prior, self.book, self.lagrangian = prior, book, lagrangian
        self.nets = [net for nets in prior.nets for net in nets]
        self.shapes: dict[tuple[int, int, int], Shape] = {}
        groups = torch.tensor(prior.config.groups)
        self.group_of_channel = torch.arange(len(groups)).repeat_interleave(groups)[None].to(prior.quality_log_scale.table.device)

    def shape_of(self, batch: int, height: int, width: int, device: torch.device) -> Shape:
        """Kept for each size: a device that is asked for new indices makes the host wait."""
        if (batch, height, width) not in self.shapes:
            places, shifts = [], []
            for index in range(len(self.prior.config.groups)):
                place = torch.zeros(height * width, dtype=torch.int32, device=device)
                for level, (mask, _) in enumerate(level_positions(index, height, width, device)):
                    place[mask.flatten()] = level
                places.append(place)
                offsets = (level.neighbours for level in levels_of_group(index))
                shifts.append(tuple(torch.tensor(own, dtype=torch.int32, device=device) if own else None for own in offsets))
            self.shapes[batch, height, width] = Shape(batch, height, width, tuple(places), tuple(shifts))
        return self.shapes[batch, height, width]

    def quality_rows(self, quality: Tensor) -> Tensor:
        """Integer activations of all levels' networks `(B, levels, width)` float32 for qualities `(B,)`."""
        table = torch.stack([net.quality.table for net in self.nets], 1)
        return round_half_up(blended(table, quality) * ACTIVATION_ONE)

    def parameters(self) -> list[Tensor | None]:
        """Of each level: weights and biases of the entry (none in the first), of the hidden layers and of mean and log scale together, and
        the integer weights of its neighbours (none in a group's first)."""
        values: list[Tensor | None] = []
        for nets, neighbours in zip(self.prior.nets, self.prior.neighbours, strict=True):
            for level, net in enumerate(nets):
                values += [None, None] if net.entry is None else list(net.entry.derived)
                for layer in net.hidden:
                    values += list(layer.derived)
                values += [torch.cat(parts) for parts in zip(net.mean.derived, net.log_scale.derived, strict=True)]
                values.append(neighbours[level - 1].integers() if level else None)
        return values

    def __call__(self, latent: Tensor, quality: Tensor, quantise: Callable | None = None, kept_groups: Tensor | None = None) -> dict[str, Tensor]:
        """As `Prior.rates`; `quantise` is not called, `book` takes its place."""
        assert (quantise is None) == (self.book is None)
        batch, channels, height, width = latent.shape
        with torch.autocast(latent.device.type, enabled=False):
            maps = latent.float().contiguous(memory_format=torch.channels_last)
            fixed = rows_of(maps * LATENT_ONE)
            base = round_half_up(blended(self.prior.quality_log_scale.table, quality) * ACTIVATION_ONE)
            kept = None if kept_groups is None else kept_groups.float()
            residual, log_scale, decoded = Levels.apply(self, self.shape_of(batch, height, width, latent.device), fixed, self.quality_rows(quality), base, kept, *self.parameters())
            noisy = residual / LATENT_ONE + torch.rand_like(residual) - 0.5
            bits = gaussian_bits(noisy, torch.exp(log_scale.clamp(*LOG_SCALE_RANGE) / ACTIVATION_ONE)).view(batch, height * width, channels).sum(1)
            if kept is not None:
                bits = bits * (self.group_of_channel < kept[:, None])
            latent_hat = maps_of(decoded / LATENT_ONE, latent.shape)
        return {
            "bits": bits.sum(1),
            "latent_hat": latent + (latent_hat - latent).detach(),
            "residual": maps_of(residual, latent.shape),
            "log_scale": maps_of(log_scale, latent.shape),
        }
