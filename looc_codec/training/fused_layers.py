"""The transforms' layers on a CUDA device in training: residual blocks and biases with a handful of kernels each.

The networks are narrow, so what takes time is not arithmetic but maps travelling to memory and back: in single operations a
block reads and writes its features some twenty times, with broadcast additions and sums of gradients at a fifth of the
memory's speed (H200: 12.5 ms of a pass of 30 ms, the matrix products being 3 of them). Here matrix products add their own
biases, and everything between two products is one kernel, which also sums the gradient of a bias where it passes by.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from looc_codec.networks.transforms import ResidualBlock, Synthesis

ROWS = 64
"""Positions of a tile."""
TILES = 4
"""Tiles that a program works on, one after the other: fewer would leave more partial sums, more would leave multiprocessors idle."""


@triton.jit
def _tile(count, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr, place):
    row = place * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < count)[:, None] & (column < width)[None, :]
    return row.to(tl.int64)[:, None] * width + column[None, :], inside, column


@triton.jit
def _add_bias(value, bias, other, out, half, count, width, OTHER: tl.constexpr, HALF: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = value + bias (+ other), and a bfloat16 copy of it."""
    for index in range(TILES):
        address, inside, column = _tile(count, width, ROWS, COLUMNS, tl.program_id(0) * TILES + index)
        total = tl.load(value + address, mask=inside, other=0.0).to(tl.float32) + tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
        if OTHER:
            total += tl.load(other + address, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + address, total.to(out.dtype.element_ty), mask=inside)
        if HALF:
            tl.store(half + address, total.to(tl.bfloat16), mask=inside)


@triton.jit
def _add_gradients(value, other, out, half, sums, count, width, OTHER: tl.constexpr, OUT: tl.constexpr, HALF: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = value (+ other), a bfloat16 copy of it, and sums over the positions of each program."""
    summed = tl.zeros((COLUMNS,), tl.float32)
    for index in range(TILES):
        address, inside, column = _tile(count, width, ROWS, COLUMNS, tl.program_id(0) * TILES + index)
        total = tl.load(value + address, mask=inside, other=0.0).to(tl.float32)
        if OTHER:
            total += tl.load(other + address, mask=inside, other=0.0).to(tl.float32)
        if OUT:
            tl.store(out + address, total.to(out.dtype.element_ty), mask=inside)
        if HALF:
            tl.store(half + address, total.to(tl.bfloat16), mask=inside)
        summed += tl.sum(total, 0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(sums + tl.program_id(0) * width + column, summed, mask=column < width)


@triton.jit
def _gelu_backward(gradient, value, out, sums, count, width, TILES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = gradient * gelu'(value), and its sums over the positions of each program."""
    summed = tl.zeros((COLUMNS,), tl.float32)
    for index in range(TILES):
        address, inside, column = _tile(count, width, ROWS, COLUMNS, tl.program_id(0) * TILES + index)
        x = tl.load(value + address, mask=inside, other=0.0).to(tl.float32)
        slope = 0.5 * (1.0 + tl.math.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
        total = tl.load(gradient + address, mask=inside, other=0.0).to(tl.float32) * slope
        tl.store(out + address, total.to(out.dtype.element_ty), mask=inside)
        summed += tl.sum(total, 0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(sums + tl.program_id(0) * width + column, summed, mask=column < width)


@triton.jit
def _joined_tile(coarse, entered, width, height, length, place, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Addresses of a tile of fine positions within the fine map and the coarse one, and the sum of both there."""
    position = place * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (position < height * length)[:, None] & (column < width)[None, :]
    picture = tl.program_id(0).to(tl.int64)
    fine = (picture * height * length + position)[:, None] * width + column[None, :]
    line, across = position // length, position % length
    # A coarse position holds the four fine ones of each channel side by side (pixel_shuffle).
    corner = (picture * (height // 2) + line // 2) * (length // 2) + across // 2
    packed = (corner * 4 * width + (line % 2) * 2 + across % 2)[:, None] + 4 * column[None, :]
    total = tl.load(coarse + packed, mask=inside, other=0.0).to(tl.float32) + tl.load(entered + fine, mask=inside, other=0.0).to(tl.float32)
    return fine, packed, inside, total


@triton.jit
def _joined(coarse, entered, scale, shift, out, width, height, length, TILES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = (unpacked coarse + entered) * (1 + scale) + shift, with a row of scales and shifts for each picture."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    own = tl.program_id(0) * width + column
    factor = 1.0 + tl.load(scale + own, mask=column < width, other=0.0)[None, :]
    offset = tl.load(shift + own, mask=column < width, other=0.0)[None, :]
    for index in range(TILES):
        fine, _, inside, total = _joined_tile(coarse, entered, width, height, length, tl.program_id(2) * TILES + index, ROWS, COLUMNS)
        tl.store(out + fine, total * factor + offset, mask=inside)


@triton.jit
def _joined_backward(
    gradient, coarse, entered, scale, coarse_out, entered_out, scale_sums, shift_sums, width, height, length, TILES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    factor = 1.0 + tl.load(scale + tl.program_id(0) * width + column, mask=column < width, other=0.0)[None, :]
    scale_sum, shift_sum = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    for index in range(TILES):
        fine, packed, inside, total = _joined_tile(coarse, entered, width, height, length, tl.program_id(2) * TILES + index, ROWS, COLUMNS)
        own = tl.load(gradient + fine, mask=inside, other=0.0).to(tl.float32)
        scale_sum += tl.sum(own * total, 0)
        shift_sum += tl.sum(own, 0)
        own = (own * factor).to(entered_out.dtype.element_ty)
        tl.store(entered_out + fine, own, mask=inside)
        tl.store(coarse_out + packed, own, mask=inside)
    place = (tl.program_id(0) * tl.num_programs(2) + tl.program_id(2)) * width + column
    tl.store(scale_sums + place, scale_sum, mask=column < width)
    tl.store(shift_sums + place, shift_sum, mask=column < width)


def grid_of(rows: Tensor) -> tuple[tuple[int, int], dict]:
    """Programs of a kernel over `(n, C)` values and its constants."""
    count, width = rows.shape
    columns = 64 if width % 64 == 0 else 32
    grid = (triton.cdiv(count, ROWS * TILES), triton.cdiv(width, columns))
    return grid, dict(count=count, width=width, TILES=TILES, ROWS=ROWS, COLUMNS=columns)


def add_bias(value: Tensor, bias: Tensor, other: Tensor | None = None, half: bool = False) -> tuple[Tensor, Tensor | None]:
    """`value` + `bias` (+ `other`, whose dtype the sum then has) for `(n, C)` values, and a bfloat16 copy of the sum."""
    grid, sizes = grid_of(value)
    out = torch.empty_like(value if other is None else other)
    copy = torch.empty_like(value, dtype=torch.bfloat16) if half else None
    _add_bias[grid](value, bias, value if other is None else other, out, out if copy is None else copy, OTHER=other is not None, HALF=half, **sizes)
    return out, copy


def add_gradients(value: Tensor, other: Tensor | None = None, half: bool = False) -> tuple[Tensor, Tensor | None, Tensor]:
    """`value` + `other` (or `value` itself) for `(n, C)` values, a bfloat16 copy, and the sums `(C,)` float32 over the positions."""
    grid, sizes = grid_of(value)
    out = value if other is None else torch.empty_like(value)
    copy = torch.empty_like(value, dtype=torch.bfloat16) if half else None
    sums = torch.empty(grid[0], value.shape[1], device=value.device)
    _add_gradients[grid](value, value if other is None else other, out, out if copy is None else copy, sums, OTHER=other is not None, OUT=other is not None, HALF=half, **sizes)
    return out, copy, sums.sum(0)


def gelu_backward(gradient: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of GELU's input `(n, C)` and its sums `(C,)` float32 over the positions."""
    grid, sizes = grid_of(value)
    out = torch.empty_like(value)
    sums = torch.empty(grid[0], value.shape[1], device=value.device)
    _gelu_backward[grid](gradient, value, out, sums, **sizes)
    return out, sums.sum(0)


def rows_of(maps: Tensor) -> Tensor:
    """`(B, C, h, w)` in channels-last memory as `(B h w, C)`, a view."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def maps_of(rows: Tensor, shape: torch.Size) -> Tensor:
    """The reverse of `rows_of` for maps of `shape`, a view."""
    count, width, height, length = shape
    return rows.view(count, height, length, width).permute(0, 3, 1, 2)


class Blocks(torch.autograd.Function):
    """Residual blocks one after the other, in bfloat16 but for the sum that they add to, which keeps the dtype of its start.

    The bias of a depthwise layer is a constant for the layer after it, so it is added to that one's bias.
    """

    @staticmethod
    def forward(context, x: Tensor, *parameters: Tensor) -> Tensor:
        shape, half = x.shape, torch.bfloat16
        x = rows_of(x.contiguous(memory_format=torch.channels_last))
        x_half = x.to(half)
        saved = []
        for window, window_bias, expand, expand_bias, project, project_bias in zip(*[iter(parameters)] * 6, strict=True):
            window, expand_half, project_half = window.to(half), expand.flatten(1).to(half), project.flatten(1).to(half)
            bias = torch.addmv(expand_bias, expand.flatten(1), window_bias)
            windows = rows_of(F.conv2d(maps_of(x_half, shape), window, padding=1, groups=shape[1]).contiguous(memory_format=torch.channels_last))
            wide = torch.addmm(bias.to(half), windows, expand_half.t())
            features = F.gelu(wide)
            saved += [x_half, window, windows, expand_half, wide, features, project_half, window_bias, expand]
            x, x_half = add_bias(features @ project_half.t(), project_bias, x, half=True)
        context.save_for_backward(*saved)
        context.shape = shape
        return maps_of(x, shape)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, ...]:
        shape = context.shape
        gradient = rows_of(gradient.contiguous(memory_format=torch.channels_last))
        gradient, half, sums = add_gradients(gradient, half=gradient.dtype != torch.bfloat16)
        gradients: list[Tensor] = []
        for x_half, window, windows, expand, wide, features, project, window_bias, expand_full in list(zip(*[iter(context.saved_tensors)] * 9, strict=True))[::-1]:
            half = gradient if half is None else half
            project_gradient = (half.t() @ features).float()[:, :, None, None]
            wide_gradient, wide_sums = gelu_backward(half @ project, wide)
            # The expanding layer's bias was b_e + W_e b_w.
            expand_gradient = torch.addr((wide_gradient.t() @ windows).float(), wide_sums, window_bias)[:, :, None, None]
            window_bias_gradient = wide_sums @ expand_full.flatten(1)
            x_gradient, window_gradient, _ = torch.ops.aten.convolution_backward(
                maps_of(wide_gradient @ expand, shape), maps_of(x_half, shape), window, None, (1, 1), (1, 1), (1, 1), False, (0, 0), shape[1], (True, True, False)
            )
            gradients = [window_gradient.float(), window_bias_gradient, expand_gradient, wide_sums, project_gradient, sums, *gradients]
            x_gradient = rows_of(x_gradient.contiguous(memory_format=torch.channels_last))
            gradient, half, sums = add_gradients(gradient, x_gradient, half=gradient.dtype != torch.bfloat16)
        return maps_of(gradient, shape), *gradients


class Biased(torch.autograd.Function):
    """Maps `(B, C, h, w)` plus a bias `(C,)`."""

    @staticmethod
    def forward(context, maps: Tensor, bias: Tensor) -> Tensor:
        maps = maps.contiguous(memory_format=torch.channels_last)
        return maps_of(add_bias(rows_of(maps), bias)[0], maps.shape)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return gradient, add_gradients(rows_of(gradient))[2]


class Joined(torch.autograd.Function):
    """What `Synthesis.joined` does, from its convolution's output `(B, 4 C, h / 2, w / 2)`, the features `(B, C, h, w)` and the quality's
    scales and shifts `(B, C)`: `(B, C, h, w)` float32."""

    @staticmethod
    def launch(shape: torch.Size) -> tuple[tuple[int, int, int], dict]:
        batch, width, height, length = shape
        grid = (batch, triton.cdiv(width, 32), triton.cdiv(height * length, ROWS * TILES))
        return grid, dict(width=width, height=height, length=length, TILES=TILES, ROWS=ROWS, COLUMNS=32)

    @staticmethod
    def forward(context, coarse: Tensor, entered: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        shape = entered.shape
        coarse, entered = (rows_of(maps.contiguous(memory_format=torch.channels_last)) for maps in (coarse, entered))
        grid, sizes = Joined.launch(shape)
        out = torch.empty_like(entered, dtype=torch.float32)
        _joined[grid](coarse, entered, scale, shift, out, **sizes)
        context.save_for_backward(coarse, entered, scale)
        context.shape = shape
        return maps_of(out, shape)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, ...]:
        coarse, entered, scale = context.saved_tensors
        batch, width, height, length = context.shape
        gradient = rows_of(gradient.contiguous(memory_format=torch.channels_last))
        grid, sizes = Joined.launch(context.shape)
        coarse_gradient, entered_gradient = torch.empty_like(coarse), torch.empty_like(entered)
        scale_sums, shift_sums = torch.empty(2, batch, grid[2], width, device=gradient.device)
        _joined_backward[grid](gradient, coarse, entered, scale, coarse_gradient, entered_gradient, scale_sums, shift_sums, **sizes)
        coarse_gradient = maps_of(coarse_gradient, torch.Size((batch, 4 * width, height // 2, length // 2)))
        return coarse_gradient, maps_of(entered_gradient, context.shape), scale_sums.sum(1), shift_sums.sum(1)


def applies(x: Tensor) -> bool:
    """Whether a forward pass is one of training in bfloat16 on a CUDA device: all others run the layers as they are."""
    return x.is_cuda and torch.is_grad_enabled() and torch.is_autocast_enabled("cuda")


def blocks_forward(blocks: nn.Sequential, x: Tensor) -> Tensor:
    if not len(blocks) or not applies(x):
        return nn.Sequential.forward(blocks, x)
    parameters = [value for block in blocks for layer in (block.depthwise, block.expand, block.project) for value in (layer.weight, layer.bias)]
    return Blocks.apply(x, *parameters)


def conv_forward(conv: nn.Conv2d, x: Tensor) -> Tensor:
    if not applies(x):
        return nn.Conv2d.forward(conv, x)
    return Biased.apply(F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups), conv.bias)


def joined_forward(synthesis: Synthesis, coarse: Tensor, entered: Tensor, quality: Tensor) -> Tensor:
    if not applies(coarse):
        return Synthesis.joined(synthesis, coarse, entered, quality)
    modulation = synthesis.modulation4
    return Joined.apply(coarse, entered, modulation.scale(quality)[:, :, 0, 0].contiguous(), modulation.shift(quality)[:, :, 0, 0].contiguous())


def fuse(transform: nn.Module) -> None:
    """Makes a transform's convolutions and runs of residual blocks use the kernels above where they apply.

    Only instances change: a model that is loaded or exported knows nothing of it.
    """
    if isinstance(transform, Synthesis):
        transform.joined = partial(joined_forward, transform)
    inner = set()
    for module in transform.modules():
        if isinstance(module, nn.Sequential) and all(isinstance(block, ResidualBlock) for block in module):
            module.forward = partial(blocks_forward, module)
            inner |= {id(layer) for layer in module.modules()}
        elif isinstance(module, nn.Conv2d) and id(module) not in inner:
            module.forward = partial(conv_forward, module)
