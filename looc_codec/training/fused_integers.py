"""The integer weights of all of the prior's layers as one kernel of a CUDA device, and their gradients as another, for training.

The same values as the tensor operations of `JointIntegers`, whose scattered maxima and sums over 2.5 million weights take longer
than all else they do. Triton is part of PyTorch's CUDA builds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from looc_codec.format.constants import ACTIVATION_LIMIT, ACTIVATION_ONE, WEIGHT_LIMIT
from looc_codec.format.integers import EXPONENT_MAX, EXPONENT_MIN

BLOCK = 512
"""Weights of a channel that its program takes at a time: most channels have 160, some have thousands."""


@triton.jit
def _power_of_two(exponent):
    """2^exponent for int32 exponents of -126..127, put together from its bits: `exp2` of a GPU may be an ulp off."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _derive(
    weight, bias, offsets, room, gain, derived, shift, exponents,
    WEIGHT: tl.constexpr, ACTIVATION: tl.constexpr, ONE: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, SIZE: tl.constexpr,
):
    channel = tl.program_id(0)
    first = tl.load(offsets + channel)
    last = tl.load(offsets + channel + 1)
    lane = tl.arange(0, SIZE)
    peaks = tl.zeros((SIZE,), tl.float32)
    sums = tl.zeros((SIZE,), tl.float32)
    start = first
    # Not a range: the interpreter takes no bounds that were loaded.
    while start < last:
        size = tl.abs(tl.load(weight + start + lane, mask=start + lane < last, other=0.0))
        peaks = tl.maximum(peaks, size)
        sums += size
        start += SIZE
    constant = tl.load(bias + channel)
    peak = tl.maximum(tl.max(peaks, 0), 1e-6)
    total = tl.maximum(tl.sum(sums, 0) * ACTIVATION + tl.abs(constant) * ONE, 1e-6)
    # Weights read back from stored integers can have exactly 2^e here, which a division that is not rounded properly could miss.
    limit = tl.minimum(tl.div_rn(tl.full((), WEIGHT, tl.float32), peak), tl.div_rn(tl.load(room + channel), total))
    # The exponent bits are floor(log2(limit)) exactly; where limit is 0, they are too small as well.
    exponent = (limit.to(tl.int32, bitcast=True) >> 23) - 127
    exponent = tl.minimum(tl.maximum(exponent, LOW), HIGH)
    scale = _power_of_two(exponent)
    rescale = _power_of_two(tl.load(gain + channel).to(tl.int32) - exponent)
    start = first
    while start < last:
        inside = start + lane < last
        value = tl.floor(tl.load(weight + start + lane, mask=inside, other=0.0) * scale + 0.5)
        # Comparisons, unlike minimum and maximum, keep a NaN, by which training notices that it diverged.
        value = tl.where(value > WEIGHT, WEIGHT, tl.where(value < -WEIGHT, -WEIGHT, value))
        tl.store(derived + start + lane, value * rescale, mask=inside)
        start += SIZE
    tl.store(shift + channel, tl.floor(constant * ONE * scale + 0.5) * rescale)
    tl.store(exponents + channel, exponent)


@triton.jit
def _differentiate(
    weight, offsets, gain, exponents, weight_gradient, bias_gradient, weight_result, bias_result,
    WEIGHT: tl.constexpr, ONE: tl.constexpr, SIZE: tl.constexpr,
):
    channel = tl.program_id(0)
    first = tl.load(offsets + channel)
    last = tl.load(offsets + channel + 1)
    lane = tl.arange(0, SIZE)
    exponent = tl.load(exponents + channel)
    scale = _power_of_two(exponent)
    rescale = _power_of_two(tl.load(gain + channel).to(tl.int32) - exponent)
    start = first
    while start < last:
        inside = start + lane < last
        value = tl.floor(tl.load(weight + start + lane, mask=inside, other=0.0) * scale + 0.5)
        gradient = tl.load(weight_gradient + start + lane, mask=inside, other=0.0) * rescale
        # As `clamp` has it, the limits themselves pass gradients on.
        gradient = tl.where((value >= -WEIGHT) & (value <= WEIGHT), gradient, 0.0) * scale
        tl.store(weight_result + start + lane, gradient, mask=inside)
        start += SIZE
    tl.store(bias_result + channel, tl.load(bias_gradient + channel) * rescale * scale * ONE)


class _Derive(torch.autograd.Function):
    @staticmethod
    def forward(context, weight: Tensor, bias: Tensor, offsets: Tensor, room: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        derived, shift = torch.empty_like(weight), torch.empty_like(bias)
        exponents = torch.empty_like(bias, dtype=torch.int32)
        _derive[(len(bias),)](
            weight, bias, offsets, room, gain, derived, shift, exponents,
            WEIGHT=float(WEIGHT_LIMIT), ACTIVATION=float(ACTIVATION_LIMIT), ONE=float(ACTIVATION_ONE), LOW=EXPONENT_MIN, HIGH=EXPONENT_MAX, SIZE=BLOCK,
        )
        context.save_for_backward(weight, offsets, gain, exponents)
        return derived, shift

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, weight_gradient: Tensor, bias_gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, offsets, gain, exponents = context.saved_tensors
        weight_gradient, bias_gradient = weight_gradient.contiguous(), bias_gradient.contiguous()
        weight_result, bias_result = torch.empty_like(weight_gradient), torch.empty_like(bias_gradient)
        _differentiate[(len(bias_gradient),)](
            weight, offsets, gain, exponents, weight_gradient, bias_gradient, weight_result, bias_result,
            WEIGHT=float(WEIGHT_LIMIT), ONE=float(ACTIVATION_ONE), SIZE=BLOCK,
        )
        return weight_result, bias_result, None, None, None


def derive(weight: Tensor, bias: Tensor, offsets: Tensor, room: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Rescaled integer weights `(n,)` and biases `(channels,)` of float ones of the same shapes, all float32; differentiable.

    Channel c owns the weights from `offsets[c]` to `offsets[c + 1]`, `(channels + 1,)` int32. `room` and `gain`, `(channels,)`
    float32, are what each channel's layer has as `IntegerConv2d.room` and `gain_bits`. Exponents follow `fitting_exponents`
    up to the order of its float sums and the rounding of its logarithm, so that a limit within a few ulps of a power of two may
    give the exponent beside.
    """
    return _Derive.apply(weight.contiguous(), bias.contiguous(), offsets, room, gain)
