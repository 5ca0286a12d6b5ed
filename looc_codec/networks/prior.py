"""The conditional prior: what is known about a unit before it is decoded, in exact integers.

Everything that feeds the range coder is an integer carried in float32. Activations are 0..255, weights -127..127 with
one power-of-two scale per output channel, and every sum stays below 2^24, so products and sums are exact whatever the
order of summation, the thread count or the instruction set (docs/FORMAT.md, "Arithmetic"). Training runs the very same
layers with straight-through rounding: what is trained is what is shipped.

Order of decoding: the channel groups, each level by level. Most groups have two levels, the halves of a checkerboard.
The first group, whose low frequencies are most of a small file, has five: every fourth position of every fourth row, then
the positions halfway between known ones, again and again. There are no hyper codes: beside these they carried under 1%
of a file and did not pay for themselves (docs/EXPERIMENTS.md, section 5).

Units of integers: latents and means are in 1/16 quantisation steps, activations and log scales in 1/32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looc_codec.config import QUALITY_MAX, QUALITY_MIN, LoocConfig
from looc_codec.format.constants import (
    ACTIVATION_LIMIT, ACTIVATION_ONE, COMPANDED_LIMIT, LATENT_LIMIT, LATENT_ONE, MEAN_GAIN_BITS, NEIGHBOUR_BITS, RATIO_LOG_SPAN, SCALE_LOG_LOW,
    SCALE_LOG_WIDTH, WEIGHT_LIMIT,
)  # fmt: skip
from looc_codec.format.integers import EXACT_LIMIT, EXPONENT_MAX, EXPONENT_MIN, require_exact
from looc_codec.format.order import levels_of_group
from looc_codec.networks.transforms import QualityTable, stretch

# A margin for the bias and for rounding weights up; the exact bound is checked again on export.
PLANNED_LIMIT = EXACT_LIMIT - 2**17

LOG_SCALE_RANGE = (-112, 130)
"""Log scales (1/32) for which bits of Gaussians are computed; beyond, they are those of the nearest."""


class _RoundHalfUp(torch.autograd.Function):
    @staticmethod
    def forward(context, x: Tensor) -> Tensor:
        return torch.floor(x + 0.5)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        return gradient


def round_half_up(x: Tensor) -> Tensor:
    """floor(x + 1/2) with the identity as its gradient: the one rounding rule of the format."""
    return _RoundHalfUp.apply(x) if torch.is_grad_enabled() else torch.floor(x + 0.5)


def compand(latent: Tensor) -> Tensor:
    """Signed logarithm of integer latents (1/16 steps) as integers of -127..127, differentiable by straight-through."""
    return round_half_up(stretch(latent / LATENT_ONE) * (ACTIVATION_ONE / 2)).clamp(-COMPANDED_LIMIT, COMPANDED_LIMIT)


def companding_table() -> Tensor:
    """`compand` of 0..32767 as stored integers `(32768,)` uint8; computed once in float64 and shipped with the weights."""
    values = torch.arange(LATENT_LIMIT + 1, dtype=torch.float64) / LATENT_ONE
    return torch.floor(torch.log1p(values) * (ACTIVATION_ONE / 2) + 0.5).clamp(max=COMPANDED_LIMIT).to(torch.uint8)


def stored_rows(table: QualityTable) -> Tensor:
    """A learned table's row of each quality as integers (1/32), `(100, width)` int16."""
    values = round_half_up(table(torch.arange(QUALITY_MIN, QUALITY_MAX + 1).float())[:, :, 0, 0] * ACTIVATION_ONE)
    return values.clamp(-(2**15), 2**15 - 1).to(torch.int16)


def read_back(table: QualityTable, rows: Tensor) -> None:
    """Sets a table's anchors to what `stored_rows` kept of them, so that training can go on from a weights file."""
    nearest = torch.linspace(0, len(rows) - 1, len(table.table)).round().long()
    table.table.copy_(rows[nearest].float() / ACTIVATION_ONE)


def fitting_exponents(peak: Tensor, total: Tensor, room: Tensor | float) -> Tensor:
    """Largest exponent e of each output channel `(C,)` with which its largest weight, `peak`, fits -127..127 and the largest
    sum of products, `total` for float weights, stays within `room`."""
    limit = torch.minimum(WEIGHT_LIMIT / peak, room / total.clamp_min(1e-6))
    return torch.floor(torch.log2(limit)).clamp(EXPONENT_MIN, EXPONENT_MAX)


class IntegerConv2d(nn.Module):
    """Convolution of integers with integer weights, rescaled by a power of two per output channel.

    Output = floor(acc * 2^(gain - e) + 1/2) where acc is the exact integer sum and e the channel's exponent. Integer
    weights are derived from the float ones at each step, as precise as -127..127 and the 2^24 bound allow: there is no
    second copy of them that could differ.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, gain_bits: int = 0, dilation: int = 1) -> None:
        super().__init__()
        self.kernel, self.gain_bits, self.dilation = kernel, gain_bits, dilation
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.derived: tuple[Tensor, Tensor] | None = None

    @property
    def room(self) -> float:
        """What the sum of a channel's weights, times the largest activation, may reach."""
        return PLANNED_LIMIT - ACTIVATION_LIMIT * self.weight[0].numel() / 2

    def exponents(self) -> Tensor:
        """e per output channel `(C,)`: the largest for which weights fit -127..127 and sums stay below 2^24."""
        weight = self.weight.detach()
        peak = weight.abs().amax((1, 2, 3)).clamp_min(1e-6)
        total = weight.abs().sum((1, 2, 3)) * ACTIVATION_LIMIT + self.bias.detach().abs() * ACTIVATION_ONE
        return fitting_exponents(peak, total, self.room)

    def integers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Integer weights, integer biases and exponents, all float32 with whole values."""
        exponent = self.exponents()
        scale = torch.exp2(exponent)
        weight = round_half_up(self.weight * scale[:, None, None, None]).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        return weight, round_half_up(self.bias * ACTIVATION_ONE * scale), exponent

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Integer weights and biases times 2^(gain - e): a power of two, so the convolution stays exact."""
        weight, bias, exponent = self.integers()
        scale = torch.exp2(self.gain_bits - exponent)
        return weight * scale[:, None, None, None], bias * scale

    def forward(self, x: Tensor, stride: int | None = None) -> Tensor:
        """`(B, C, h, w)` whole numbers → whole numbers before any clipping: at all positions, with zeros beyond the grid; or,
        with a stride, only where the whole window lies in `x`."""
        weight, bias = self.derived or self.scaled()
        if stride is None:
            return round_half_up(F.conv2d(x, weight, bias, padding=self.kernel // 2 * self.dilation, dilation=self.dilation))
        return round_half_up(F.conv2d(x, weight, bias, stride=stride, dilation=self.dilation))

    def export(self, prefix: str) -> dict[str, Tensor]:
        """int8 weights, int32 biases, int8 exponents; raises ModelError when a sum could reach 2^24."""
        weight, bias, exponent = (value.detach() for value in self.integers())
        tensors = {f"{prefix}.weight": weight.to(torch.int8), f"{prefix}.bias": bias.to(torch.int32), f"{prefix}.exponent": exponent.to(torch.int8)}
        require_exact({name: value.cpu().numpy() for name, value in tensors.items()}, prefix, self.gain_bits)
        return tensors

    def take(self, tensors: dict[str, Tensor], prefix: str) -> None:
        """Sets the float parameters to stored integers, so that training can go on from a weights file."""
        scale = torch.exp2(-tensors[f"{prefix}.exponent"].float())
        with torch.no_grad():
            self.weight.copy_(tensors[f"{prefix}.weight"].float() * scale[:, None, None, None])
            self.bias.copy_(tensors[f"{prefix}.bias"].float() * scale / ACTIVATION_ONE)

    def derive(self, weight: Tensor, bias: Tensor, exponent: Tensor) -> None:
        """Computes with stored integers from now on, whatever the float parameters are; for graphs that are exported."""
        # Looked up: a power that an engine computes need not be exact.
        powers = torch.exp2(self.gain_bits - torch.arange(EXPONENT_MIN, EXPONENT_MAX + 1).float())
        scale = powers[exponent.long() - EXPONENT_MIN]
        self.derived = (weight.float() * scale[:, None, None, None], bias.float() * scale)


class JointIntegers:
    """Integer weights of many layers derived together, as `IntegerConv2d.scaled` gives them one by one.

    One by one they are two thousand launches of a GPU, as much as all of the rest of the prior. `derive`, where given, does the
    work of `operations` from the flat weights, the flat biases, `offsets`, `room` and `gain`: training brings a kernel of a GPU.
    """

    def __init__(self, layers: list[IntegerConv2d], derive: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None) -> None:
        self.layers, self.derive = layers, derive
        device = layers[0].weight.device
        channels = torch.tensor([len(layer.bias) for layer in layers])
        room, gain, inputs = (
            torch.tensor(values).repeat_interleave(channels)
            for values in ([layer.room for layer in layers], [float(layer.gain_bits) for layer in layers], [layer.weight[0].numel() for layer in layers])
        )
        self.room, self.gain = room.to(device), gain.to(device)
        # Where each output channel's weights begin among all, and each weight's channel.
        self.offsets = F.pad(inputs.cumsum(0), (1, 0)).to(torch.int32).to(device)
        self.channel = None if derive else torch.arange(len(inputs)).repeat_interleave(inputs).to(device)

    def operations(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Rescaled integer weights `(n,)` and biases `(channels,)` of the flat float ones of all layers."""
        with torch.no_grad():
            size, zero = weight.abs(), torch.zeros_like(bias)
            peak = zero.scatter_reduce(0, self.channel, size, "amax").clamp_min(1e-6)
            total = zero.index_add(0, self.channel, size) * ACTIVATION_LIMIT + bias.abs() * ACTIVATION_ONE
            exponent = fitting_exponents(peak, total, self.room)
            scale, rescale = torch.exp2(exponent), torch.exp2(self.gain - exponent)
        weight = round_half_up(weight * scale[self.channel]).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT) * rescale[self.channel]
        return weight, round_half_up(bias * ACTIVATION_ONE * scale) * rescale

    def __enter__(self) -> None:
        weight = torch.cat([layer.weight.reshape(-1) for layer in self.layers])
        bias = torch.cat([layer.bias for layer in self.layers])
        weight, bias = self.derive(weight, bias, self.offsets, self.room, self.gain) if self.derive else self.operations(weight, bias)
        weights = weight.split([layer.weight.numel() for layer in self.layers])
        for layer, own, shift in zip(self.layers, weights, bias.split([len(layer.bias) for layer in self.layers]), strict=True):
            layer.derived = (own.view_as(layer.weight), shift)

    def __exit__(self, *error: object) -> None:
        for layer in self.layers:
            layer.derived = None


def clipped(x: Tensor) -> Tensor:
    return x.clamp(0, ACTIVATION_LIMIT)


class StepNet(nn.Module):
    """Context `(B, C, h, w)` and quality → mean (1/16 steps) and log scale (1/32) of the `width_out` latents of one level.

    The very first level knows nothing but the quality: C is 0 there, and all positions get the same.
    """

    def __init__(self, channels_in: int, width: int, width_out: int, depth: int, anchors: int, dilation: int = 1) -> None:
        super().__init__()
        self.entry = IntegerConv2d(channels_in, width, 3, dilation=dilation) if channels_in else None
        self.quality = QualityTable(anchors, width)
        if self.entry is None:
            # Otherwise every feature would start at zero.
            nn.init.uniform_(self.quality.table, 0.0, 1.0)
        self.hidden = nn.ModuleList(IntegerConv2d(width, width, 1) for _ in range(depth))
        self.mean = IntegerConv2d(width, width_out, 1, gain_bits=MEAN_GAIN_BITS)
        self.log_scale = IntegerConv2d(width, width_out, 1)
        with torch.no_grad():
            self.mean.weight.mul_(0.1)
            self.log_scale.weight.mul_(0.1)

    def quality_row(self, quality: Tensor) -> Tensor:
        """Integer activations `(B, width, 1, 1)` of a quality `(B,)`, float32."""
        return round_half_up(self.quality(quality) * ACTIVATION_ONE)

    def forward(self, context: Tensor, quality_row: Tensor, stride: int | None = None) -> tuple[Tensor, Tensor]:
        if self.entry is None:
            features = clipped(quality_row).expand(len(context), -1, *context.shape[2:])
        else:
            features = clipped(self.entry(context, stride) + quality_row)
        for layer in self.hidden:
            features = clipped(layer(features))
        # Means and log scales have more digits than bfloat16 keeps.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            return self.mean(features), self.log_scale(features)


@functools.lru_cache(maxsize=64)
def level_positions(index: int, height: int, width: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Mask `(h, w)` bool and flat positions `(n,)` int64 of each level of a group, kept: an accelerator that is asked for
    positions makes the host wait."""
    with torch.inference_mode(False):
        masks = [torch.tensor(level.mask(height, width), device=device) for level in levels_of_group(index)]
        return [(mask, mask.flatten().nonzero().flatten()) for mask in masks]


class NeighbourMean(nn.Module):
    """Linear prediction of a latent from its four nearest known neighbours, per channel, in exact integers.

    Means of wide channels span hundreds of steps, which the companded network input cannot resolve. Weights are
    multiples of 1/128 of at most 127/128, so four products stay below 4 * 127 * 32767 < 2^24.
    """

    def __init__(self, channels: int, offsets: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.offsets = offsets
        self.reach = max(max(abs(row), abs(column)) for row, column in offsets)
        self.weight = nn.Parameter(torch.zeros(channels, len(offsets)))
        self.derived: Tensor | None = None

    def integers(self) -> Tensor:
        return round_half_up(self.weight * 2**NEIGHBOUR_BITS).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)

    def forward(self, known: Tensor, stride: int | None = None) -> Tensor:
        """`known` `(B, C, h, w)` integer latents, zero where not known yet → integer means (1/16 steps): at all positions, or,
        with a stride, where all neighbours lie in `known`."""
        weight = self.integers() if self.derived is None else self.derived
        if stride is None:
            known, stride = F.pad(known, (self.reach,) * 4), 1
        height, width = known.shape[2] - 2 * self.reach, known.shape[3] - 2 * self.reach

        def moved(row: int, column: int) -> Tensor:
            top, left = self.reach + row, self.reach + column
            return known[:, :, top : top + height : stride, left : left + width : stride]

        total = sum(weight[:, index, None, None] * moved(*offset) for index, offset in enumerate(self.offsets))
        return round_half_up(total * 2.0**-NEIGHBOUR_BITS)


def gaussian_bits(residual: Tensor, scale: Tensor) -> Tensor:
    """Bits of the cell residual ± 1/2 step under N(0, scale²); both in steps. The rate while tables do not exist."""
    distance = residual.abs()
    upper = torch.erfc((distance - 0.5) / (scale * math.sqrt(2)))
    lower = torch.erfc((distance + 0.5) / (scale * math.sqrt(2)))
    return -torch.log2(((upper - lower) / 2).clamp_min(1e-9))


def unit_classes(log_scale: Tensor, config: LoocConfig) -> Tensor:
    """Context class of each unit from its integer log scales `(n, d*)` → `(n,)` int64, on any device; as `order.table_rows`."""
    dim = config.codevector_dim
    log_scale = log_scale.to(torch.int64)
    mean_class = torch.div(2 * log_scale.sum(1) - dim * SCALE_LOG_LOW, dim * SCALE_LOG_WIDTH, rounding_mode="floor")
    mean_class = mean_class.clamp(0, config.scale_classes - 1)
    if config.ratio_classes == 1:
        return mean_class
    half = config.ratio_classes // 2
    difference = log_scale[:, 0] - log_scale[:, 1]
    width = RATIO_LOG_SPAN // config.ratio_classes
    ratio = torch.div(difference + width // 2, width, rounding_mode="floor").clamp(-half, half)
    return mean_class * config.ratio_classes + ratio + half


class Prior(nn.Module):
    """The networks of the channel groups' levels: rates for training, and the integers that a codec model holds.

    `forward` gives rates under a Gaussian of the predicted mean and scale. The codec runs the same layers as exported graphs
    (codec/prior.py), each level at its own positions.
    """

    def __init__(self, config: LoocConfig) -> None:
        super().__init__()
        self.config = config
        self.quality_log_scale = QualityTable(config.quality_anchors, config.channels)
        self.nets, self.neighbours = nn.ModuleList(), nn.ModuleList()
        before = 0
        for index, group in enumerate(config.groups):
            levels = levels_of_group(index)
            own = [0] + [group] * (len(levels) - 1)
            self.nets.append(nn.ModuleList(
                StepNet(before + known, config.prior_width, group, config.prior_depth, config.quality_anchors, level.dilation)
                for level, known in zip(levels, own, strict=True)
            ))
            self.neighbours.append(nn.ModuleList(NeighbourMean(group, level.neighbours) for level in levels[1:]))
            before += group
        # Kernels of an accelerator, which training brings along: for JointIntegers, and for all that `rates` does in bfloat16.
        self.derive_integers: Callable[..., tuple[Tensor, Tensor]] | None = None
        self.fused_rates: Callable[..., dict[str, Tensor]] | None = None
        self.joint: JointIntegers | None = None

    def step(self, group: int, level: int, quality_row: Tensor, context: Tensor, group_hat: Tensor, stride: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean (1/16 steps) and log scale (1/32, without the quality's base) of one level of a group.

        `quality_row` is the level's of the quality. `context` holds what is known of earlier groups and, but for the first level, of this one,
        companded; `group_hat` what is known of this group as integer latents; both are zero elsewhere. At all positions, of which only the
        level's mean anything; or, with the stride of the level's lattices, where the windows of 3x3 lie in the context.
        """
        mean, log_scale = self.nets[group][level](context, quality_row, stride)
        if level > 0:
            mean = mean + self.neighbours[group][level - 1](group_hat, stride)
        return mean, log_scale

    # --- training -------------------------------------------------------------------------------------------------

    def predict(self, group: int, level: int, quality: Tensor, context: Tensor, group_hat: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """`step` at all positions for a batch of qualities `(B,)`, with the base of the log scales `(B, C, 1, 1)`."""
        if level > 0:
            context = torch.cat([context, compand(group_hat).to(context.dtype)], 1)
        mean, log_scale = self.step(group, level, self.nets[group][level].quality_row(quality), context, group_hat)
        return mean, log_scale + base

    @staticmethod
    def noisy_bits(residual: Tensor, log_scale: Tensor) -> Tensor:
        """Bits `(B,)` of residuals (1/16 steps) under Gaussians of the log scales (1/32), `(B, C, h, w)` both.

        Additive uniform noise stands for the quantiser in the rate (Ballé et al. 2017).
        """
        noisy = residual.float() / LATENT_ONE + torch.rand_like(residual, dtype=torch.float32) - 0.5
        return gaussian_bits(noisy, torch.exp(log_scale.float().clamp(*LOG_SCALE_RANGE) / ACTIVATION_ONE)).sum((1, 2, 3))

    def forward(self, latent: Tensor, quality: Tensor, quantise: Callable | None = None, kept_groups: Tensor | None = None) -> dict[str, Tensor]:
        """`rates`, with the integer weights of all layers derived at once on a GPU."""
        if not latent.is_cuda:
            return self.rates(latent, quality, quantise, kept_groups)
        if self.joint is None:
            self.joint = JointIntegers(list(self.integer_layers().values()), self.derive_integers)
        with self.joint:
            if self.fused_rates is not None and torch.is_autocast_enabled("cuda"):
                return self.fused_rates(latent, quality, quantise, kept_groups)
            return self.rates(latent, quality, quantise, kept_groups)

    def rates(self, latent: Tensor, quality: Tensor, quantise: Callable | None = None, kept_groups: Tensor | None = None) -> dict[str, Tensor]:
        """Rates and the quantised latent of a training batch.

        `latent` `(B, d, h, w)` in steps, `quality` `(B,)`. `quantise(residual, log_scale)` gives the quantised
        residual in integer units; plain rounding to whole steps where it is None. Contexts are quantised values
        without gradient; the latent itself gets its gradient from the rate and, straight through, from `latent_hat`.
        `kept_groups` `(B,)`, all by default, is how many groups of each picture are coded: the others take the mean and
        cost nothing, as in a file cut short.
        Returns `bits` `(B,)`, `latent_hat` in steps, and the coded residuals (1/16 steps) and log scales (1/32), `(B, d, h, w)`.
        """
        batch, _, height, width = latent.shape
        fixed = latent * LATENT_ONE

        @torch.no_grad()
        def decoded(target: Tensor, mean: Tensor, log_scale: Tensor, positions: Tensor, kept: Tensor | None) -> Tensor:
            """Decoded values of a level's positions `(B, C, n)`, and of no others: the search for codes takes its time."""
            target, mean, log_scale = (value.flatten(2).index_select(2, positions) for value in (target, mean, log_scale))
            residual = target - mean
            if quantise is None:
                residual = torch.floor(residual / LATENT_ONE + 0.5) * LATENT_ONE
            else:
                residual = quantise(residual[..., None], log_scale[..., None])[..., 0]
            if kept is not None:
                residual = torch.where(kept[:, None, None], residual, 0.0)
            return (mean + residual).clamp(-LATENT_LIMIT, LATENT_LIMIT)

        base = round_half_up(self.quality_log_scale(quality) * ACTIVATION_ONE)
        context, bits, before = [latent.new_zeros(batch, 0, height, width)], 0.0, 0
        latents_hat, residuals, log_scales = [], [], []
        for index, group in enumerate(self.config.groups):
            target, group_base = fixed[:, before : before + group].float(), base[:, before : before + group]
            known = torch.cat(context, 1)
            kept = None if kept_groups is None else index < kept_groups
            group_hat = residual = log_scale = torch.zeros_like(target)
            for number, (mask, positions) in enumerate(level_positions(index, height, width, latent.device)):
                mean, scale = self.predict(index, number, quality, known, group_hat, group_base)
                residual = torch.where(mask, target - mean, residual)
                log_scale = torch.where(mask, scale, log_scale)
                group_hat = group_hat.flatten(2).index_copy(2, positions, decoded(target, mean, scale, positions, kept)).view_as(target)
            group_bits = self.noisy_bits(residual, log_scale)
            bits = bits + (group_bits if kept is None else group_bits * kept)
            context.append(compand(group_hat).to(known.dtype))
            latents_hat.append(group_hat)
            residuals.append(residual)
            log_scales.append(log_scale)
            before += group
        latent_hat = torch.cat(latents_hat, 1) / LATENT_ONE
        return {
            "bits": bits,
            "latent_hat": latent + (latent_hat - latent).detach(),
            "residual": torch.cat(residuals, 1),
            "log_scale": torch.cat(log_scales, 1),
        }

    # --- weights --------------------------------------------------------------------------------------------------

    def integer_layers(self) -> dict[str, IntegerConv2d]:
        return {name: module for name, module in self.named_modules() if isinstance(module, IntegerConv2d)}

    def neighbour_means(self) -> dict[str, NeighbourMean]:
        return {name: module for name, module in self.named_modules() if isinstance(module, NeighbourMean)}

    def quality_tables(self) -> dict[str, QualityTable]:
        return {name: module for name, module in self.named_modules() if isinstance(module, QualityTable)}

    @torch.no_grad()
    def export(self) -> dict[str, Tensor]:
        """The format-critical integers: layers, neighbour weights, quality tables, companding."""
        tensors: dict[str, Tensor] = {}
        for name, layer in self.integer_layers().items():
            tensors |= layer.export(name)
        for name, neighbour in self.neighbour_means().items():
            tensors[name] = neighbour.integers().to(torch.int8)
        tensors |= {name: stored_rows(table) for name, table in self.quality_tables().items()}
        tensors["companding"] = companding_table()
        return tensors

    @torch.no_grad()
    def take(self, tensors: dict[str, Tensor]) -> None:
        """Sets all parameters to the integers of `export`, so that training can go on from a weights file."""
        for name, layer in self.integer_layers().items():
            layer.take(tensors, name)
        for name, neighbour in self.neighbour_means().items():
            neighbour.weight.copy_(tensors[name].float() / 2**NEIGHBOUR_BITS)
        for name, table in self.quality_tables().items():
            read_back(table, tensors[name])
