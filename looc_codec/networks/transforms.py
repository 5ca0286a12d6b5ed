"""Analysis and synthesis: RGB pixels ↔ latent at 1/16 resolution.

Both are a linear lapped transform (one 32×32 convolution of stride 16 each way, started as the 16×16 DCT in an
orthonormal colour space) plus residual branches whose last layers start at zero. A fresh pair is therefore a working
transform codec, and training begins at that level instead of at noise.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looc_codec.config import QUALITY_MAX, QUALITY_MIN, LoocConfig
from looc_codec.format.constants import PATCH
from looc_codec.format.dct import dct_kernels

KERNEL = 2 * PATCH
OVERLAP = (KERNEL - PATCH) // 2


def dct_basis() -> Tensor:
    """`dct_kernels` as a tensor: `(768, 3, 16, 16)` float32."""
    return torch.tensor(dct_kernels())


def modelled_channel_order() -> Tensor:
    """Channels of `dct_kernels` from the highest to the lowest expected energy: `(768,)` int64.

    Pictures are modelled as separable AR(1) with correlation 0.95 and weaker chroma, which is close enough to real
    photographs for choosing and grouping channels when no data is at hand.
    """
    kernels = dct_basis().double().reshape(3, PATCH, PATCH, 3, PATCH, PATCH)
    luma = kernels[0, :, :, 0] * math.sqrt(3)
    correlation = 0.95 ** (torch.arange(PATCH)[:, None] - torch.arange(PATCH)[None]).abs().double()
    energy = torch.einsum("uvij,ik,jl,uvkl->uv", luma, correlation, correlation, luma)
    return torch.stack([energy, 0.08 * energy, 0.03 * energy]).flatten().argsort(descending=True)


def lapped_analysis(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Correlation of `(B, 3, 16h + 16, 16w + 16)` with `kernels` `(d, 3, 32, 32)` at stride 16 → `(B, d, h, w)`.

    Written as a 2×2 convolution of 16×16 blocks, which libraries run several times faster than the wide strided one.
    """
    taps = kernels.view(-1, 3, 2, PATCH, 2, PATCH).permute(0, 1, 3, 5, 2, 4).reshape(-1, 3 * PATCH**2, 2, 2)
    return F.conv2d(F.pixel_unshuffle(pixels, PATCH), taps)


def lapped_synthesis(latent: Tensor, kernels: Tensor) -> Tensor:
    """The transpose of `lapped_analysis` without its outer margin of 8: `(B, d, h, w)` → `(B, 3, 16h, 16w)`."""
    taps = kernels.view(-1, 3, 2, PATCH, 2, PATCH).flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(3 * PATCH**2, -1, 2, 2)
    blocks = F.pixel_shuffle(F.conv2d(latent, taps, padding=1), PATCH)
    return blocks[:, :, OVERLAP:-OVERLAP, OVERLAP:-OVERLAP]


def blended(table: Tensor, quality: Tensor) -> Tensor:
    """Rows of a table `(anchors, ...)` of evenly spaced qualities, interpolated at qualities `(B,)` float of 1..100: `(B, ...)`.

    As a weighted sum of all rows: a GPU sorts for the gradient of look-ups.
    """
    anchors = len(table)
    position = (quality - QUALITY_MIN) * ((anchors - 1) / (QUALITY_MAX - QUALITY_MIN))
    weight = (1 - (position[:, None] - torch.arange(anchors, device=table.device)).abs()).clamp_min(0)
    return (weight.view(*weight.shape, *[1] * (table.dim() - 1)) * table).sum(1)


class QualityTable(nn.Module):
    """A learned vector per quality, interpolated linearly between evenly spaced anchors of 1..100."""

    def __init__(self, anchors: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(anchors, width))

    def forward(self, quality: Tensor) -> Tensor:
        """`quality` `(B,)` float → `(B, width, 1, 1)`."""
        if self.table.is_cuda:
            return blended(self.table, quality)[:, :, None, None]
        anchors = self.table.shape[0]
        position = (quality - QUALITY_MIN) * ((anchors - 1) / (QUALITY_MAX - QUALITY_MIN))
        low = position.floor().clamp(0, anchors - 2).long()
        fraction = (position - low).unsqueeze(1)
        return torch.lerp(self.table[low], self.table[low + 1], fraction)[:, :, None, None]


class Modulation(nn.Module):
    """Scales and shifts feature channels by quality; the identity at the start."""

    def __init__(self, anchors: int, width: int) -> None:
        super().__init__()
        self.scale, self.shift = QualityTable(anchors, width), QualityTable(anchors, width)

    def forward(self, features: Tensor, quality: Tensor) -> Tensor:
        return features * (1 + self.scale(quality)) + self.shift(quality)


class ResidualBlock(nn.Module):
    """Depthwise 3×3 → 1×1 to the hidden features (twice the width if not given) → GELU → 1×1, added to its input; the identity at the start."""

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 2 * width if hidden is None else hidden
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.expand = nn.Conv2d(width, hidden, 1)
        self.project = nn.Conv2d(hidden, width, 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.gelu(self.expand(self.depthwise(x))))


def zero_conv(width_in: int, width_out: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def stretch(value: Tensor) -> Tensor:
    """Signed logarithm, which brings latents of any range to network size."""
    return value.sign() * torch.log1p(value.abs())


def without_tf32() -> AbstractContextManager:
    """Convolutions in all of float32 on a GPU, whose default rounds their inputs to 11 bits: tenths of a level of a bright pixel."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


class Analysis(nn.Module):
    """Pixels `(B, 3, H, W)` of 0..255, H and W multiples of 16 → latent `(B, d, H/16, W/16)` in steps of the quality."""

    def __init__(self, config: LoocConfig, order: Tensor | None = None) -> None:
        super().__init__()
        order = modelled_channel_order() if order is None else order
        self.config = config
        self.linear = nn.Parameter(F.pad(dct_basis()[order[: config.channels]], (OVERLAP,) * 4))
        self.log_gain = QualityTable(config.quality_anchors, config.channels)
        with torch.no_grad():
            qualities = torch.linspace(QUALITY_MIN, QUALITY_MAX, config.quality_anchors)
            self.log_gain.table.copy_(torch.tensor([-math.log(config.step(q)) for q in qualities])[:, None])
        (wide, fine), (wide_blocks, fine_blocks) = config.analysis_widths, config.analysis_blocks
        self.branch = bool(wide_blocks or fine_blocks)
        if self.branch:
            self.patches = nn.Conv2d(3, fine, 8, stride=8)
            self.fine = nn.Sequential(*(ResidualBlock(fine) for _ in range(fine_blocks)))
            self.down = nn.Conv2d(fine, wide, 2, stride=2)
            self.entry = nn.Conv2d(config.channels, wide, 1)
            self.modulation = Modulation(config.quality_anchors, wide)
            self.wide = nn.Sequential(*(ResidualBlock(wide) for _ in range(wide_blocks)))
            self.head = zero_conv(wide, config.channels, 1)

    def forward(self, pixels: Tensor, quality: Tensor) -> Tensor:
        centred = pixels - 128
        gain = self.log_gain(quality).exp()
        # Wide channels span hundreds of steps, more than bfloat16 resolves: the linear path stays in float32.
        with torch.autocast(pixels.device.type, enabled=False):
            latent = lapped_analysis(F.pad(centred, (OVERLAP,) * 4, mode="replicate"), self.linear) * gain
        if self.branch:
            features = self.down(self.fine(self.patches(centred / 64))) + self.entry(stretch(latent))
            latent = latent + self.head(self.wide(self.modulation(features, quality)))
        return latent


class Synthesis(nn.Module):
    """Dequantised latent in steps `(B, d, h, w)` → pixels `(B, 3, 16h, 16w)`, unclamped, 0..255 scale.

    It is cut into stages, which are exported as graphs of their own: the codec works tile by tile, and each stage needs less
    context around a tile than the one before.
    """

    def __init__(self, config: LoocConfig, order: Tensor | None = None) -> None:
        super().__init__()
        order = modelled_channel_order() if order is None else order
        self.config = config
        self.linear = nn.Parameter(F.pad(dct_basis()[order[: config.channels]], (OVERLAP,) * 4))
        self.log_step = QualityTable(config.quality_anchors, config.channels)
        with torch.no_grad():
            qualities = torch.linspace(QUALITY_MIN, QUALITY_MAX, config.quality_anchors)
            self.log_step.table.copy_(torch.tensor([math.log(config.step(q)) for q in qualities])[:, None])
        self.branch = any(config.synthesis_blocks)
        if self.branch:
            (w16, w8, w4), (hidden16, hidden8, hidden4) = config.synthesis_widths, config.hidden_features
            self.entry = nn.Conv2d(config.channels, w16, 1)
            self.modulation16 = Modulation(config.quality_anchors, w16)
            self.blocks16 = nn.Sequential(*(ResidualBlock(w16, hidden) for hidden in hidden16))
            self.head16 = zero_conv(w16, config.channels, 1)
            self.up8 = nn.Conv2d(w16, 4 * w8, 1)
            self.blocks8 = nn.Sequential(*(ResidualBlock(w8, hidden) for hidden in hidden8))
            self.up4 = nn.Conv2d(w8, 4 * w4, 1)
            self.entry4 = nn.Conv2d(48, w4, 3)
            self.modulation4 = Modulation(config.quality_anchors, w4)
            self.blocks4 = nn.Sequential(*(ResidualBlock(w4, hidden) for hidden in hidden4))
            self.head4 = zero_conv(w4, 48, 3)

    def corrected(self, latent: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """The latent `(B, d, h, w)` in steps as the blocks at 1/16 correct it, and their features `(B, w16, h, w)`."""
        features = self.blocks16(self.modulation16(self.entry(stretch(latent)), quality))
        return latent + self.head16(features), features

    def linear_pixels(self, latent: Tensor, quality: Tensor) -> Tensor:
        """The lapped transform of a latent `(B, d, h, w)` in steps: pixels less 128, `(B, 3, 16h, 16w)`."""
        with torch.autocast(latent.device.type, enabled=False):
            return lapped_synthesis(latent.float() * self.log_step(quality).exp(), self.linear)

    def small_pixels(self, latent: Tensor, quality: Tensor, shrink: int) -> Tensor:
        """Means over squares of `shrink` (2, 4, 8 or 16) pixels of `linear_pixels`: `(B, 3, 16h / shrink, 16w / shrink)`."""
        latent, stride, margin = latent * self.log_step(quality).exp(), PATCH // shrink, OVERLAP // shrink
        if margin:
            return F.conv_transpose2d(latent, F.avg_pool2d(self.linear, shrink), stride=stride)[:, :, margin:-margin, margin:-margin]
        # Squares of 16 lie half in one window of the lapped transform and half in the next.
        halves = F.conv_transpose2d(latent, F.avg_pool2d(self.linear, OVERLAP), stride=2)[:, :, 1:-1, 1:-1]
        return F.avg_pool2d(halves, 2)

    def features8(self, features16: Tensor) -> Tensor:
        """Features at 1/8 `(B, w8, 2h, 2w)` of those at 1/16."""
        return self.blocks8(F.pixel_shuffle(self.up8(features16), 2))

    def joined(self, coarse: Tensor, entered: Tensor, quality: Tensor) -> Tensor:
        """Features at 1/4: those that come up from 1/8, four positions' worth of channels at each, and those of the linear pixels."""
        return self.modulation4(F.pixel_shuffle(coarse, 2) + entered, quality)

    def finished(self, features8: Tensor, framed: Tensor, quality: Tensor) -> Tensor:
        """Pixels `(B, 3, 8h, 8w)` of features at 1/8 `(B, w8, h, w)` and of the linear pixels with a frame of 4 around them,
        which are zero beyond the picture, `(B, 3, 8h + 8, 8w + 8)`."""
        entered = self.entry4(F.pixel_unshuffle(framed / 64, 4))
        features = self.blocks4(self.joined(self.up4(features8), entered, quality))
        # The quantisation error grows with the step, so the corrections are learned in units of it.
        strength = self.log_step(quality).exp().mean(1, keepdim=True)
        return framed[:, :, 4:-4, 4:-4] + F.pixel_shuffle(self.head4(features), 4) * (strength / 16) + 128

    def forward(self, latent: Tensor, quality: Tensor) -> Tensor:
        if not self.branch:
            return self.linear_pixels(latent, quality) + 128
        latent, features = self.corrected(latent, quality)
        return self.finished(self.features8(features), F.pad(self.linear_pixels(latent, quality), (4,) * 4), quality)
