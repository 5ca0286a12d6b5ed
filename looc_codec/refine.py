"""Refinement of the codes for the picture at hand (`--effort`). The decoder knows nothing of it.

The analysis gives a latent, and codes are chosen as if an error in the latent were as large an error in the pixels. It is not: basis functions overlap, the synthesis is
not linear and takes back much of what rounding does, and one analysis serves all pictures. Here the latent itself descends, picture by picture: its codes are chosen, and it
moves against the gradient of the pixels' true error at these codes, which passes straight through the choice (Bengio, Léonard and Courville 2013).

What a code's own rounding error explains of that gradient is left out, as a control variate. It says nothing of where the latent should be: where a code stays zero
whatever the latent does, it would carry the latent away, round after round. The share that rounding errors explain, their slope, is measured in each channel of
the picture. It is also the curvature that the channel has, 0.9 of the nominal one at the lowest and 0.2 at high frequencies, and by that it scales the way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from looc_codec import progress
from looc_codec.config import RATE_DISTORTION_SLOPE, LoocConfig
from looc_codec.format.constants import PATCH
from looc_codec.distortion import MS_SSIM_MIN_SIDE, distortion
from looc_codec.model import LoocModel
from looc_codec.prior import LATENT_ONE
from looc_codec.wiener import REACH, Statistics, Wiener

Coded = tuple[tuple[bytes, ...], int, Tensor]
"""Payload segments, code checksum and quantised latent `(d, h, w)` int32 (1/16 steps)."""

STEP, STEP_DECAY, MOMENTUM = 0.25, 0.3, 0.3
"""Share of the way to the minimum that the curvature promises in the first round, power of the round's number by which later rounds go less far, and how much of a round's
way the next one goes on with: rounding makes every gradient a noisy one (docs/EXPERIMENTS.md, sections 19 and 20)."""
OWN_ERROR = 1.1
"""How much of what the own rounding error explains is left out."""
USUAL_SLOPE, USUAL_POSITIONS, SLOPES = 0.5, 32, (0.2, 1.0)
"""What the slope of a channel is taken for, as if so many positions had said so, and its limits. Where hardly any code is above zero slopes of 0.1 are found, but
steps that trust them go too far."""
TILE_POSITIONS = 48
"""Latent positions along a tile's side (768 pixels): a gradient holds every activation of its tile."""


def bits_per_error(quality: int, config: LoocConfig) -> float:
    """What one unit of squared error, summed over pixels and channels, is worth in bits at a quality."""
    return RATE_DISTORTION_SLOPE / config.step(quality) ** 2 / 3


def lagrangian_cost(size_bytes: int, rgb: np.ndarray, decoded: np.ndarray, quality: int, config: LoocConfig) -> float:
    """Bits per pixel plus lambda times the distortion, in the model's metric, of the decoded 8-bit picture, both `(H, W, 3)` uint8."""
    if config.metric == "mse":
        error = rgb.astype(np.int32) - decoded
        total = float(np.sum(error * error, dtype=np.int64))
    else:
        side, total = TILE_POSITIONS * PATCH, 0.0
        for top in range(0, rgb.shape[0], side):
            for left in range(0, rgb.shape[1], side):
                tiles = (torch.from_numpy(picture[top : top + side, left : left + side].copy()).permute(2, 0, 1).float() for picture in (decoded, rgb))
                total += float(summed_distortion(*tiles, config.metric))
    return (8 * size_bytes + bits_per_error(quality, config) * total) / (rgb.shape[0] * rgb.shape[1])


def summed_distortion(pixels: Tensor, original: Tensor, metric: str) -> Tensor:
    """Distortion of pixels `(3, H, W)` float32, cut off at 0 and 255 as a picture is, as squared error summed over all samples; by MSE where a side is too short for the metric."""
    if min(original.shape[1:]) < MS_SSIM_MIN_SIDE:
        metric = "mse"
    return distortion(metric, pixels.clamp(0, 255)[None], original[None])[0] * original.numel()


def refine(
    latent: Tensor, rgb: np.ndarray, quality: int, model: LoocModel, encode: Callable[[Tensor], Coded], *, rounds: int, halo: int, grey: bool = False,
    report: Callable[[Coded, Wiener | None, float], None] | None = None,
) -> tuple[Coded, Wiener | None]:  # fmt: skip
    """The cheapest coding of the pixels `(H, W, 3)` uint8 among that of `latent` `(d, h, w)` in steps and `rounds` more, and its filter.

    A coding's cost is `lagrangian_cost`, with the gain of its filter as the fit promises it where that is the model's metric. `halo` is the reach of the synthesis in positions. A round takes an
    encoding and about three syntheses; memory is bounded by the tile, not by the picture. `report` gets each coding, its filter and its cost. Pixels are corrected as the
    filter of the round before leaves them.
    """
    best, best_cost, target, way, wiener = None, np.inf, latent, torch.zeros_like(latent), None
    error_worth = bits_per_error(quality, model.config)
    for index in range(rounds + 1):
        start, share = index / (rounds + 1), 1 / (rounds + 1)
        with progress.part(start, start + 0.15 * share):
            coded = encode(target)
        with progress.part(start + 0.15 * share, start + share):
            decoded, correction, statistics = decode_with_correction(coded[2], rgb, quality, model, halo, grey, wiener, corrected=index < rounds)
        wiener, gain = statistics.fit(error_worth)
        size_bytes = sum(map(len, coded[0])) + (len(wiener.to_bytes()) if wiener else 0)
        cost = lagrangian_cost(size_bytes, rgb, decoded, quality, model.config)
        if model.config.metric == "mse":
            cost -= error_worth * gain / (rgb.shape[0] * rgb.shape[1])
        if cost < best_cost:
            best, best_cost = (coded, wiener), cost
        if report is not None:
            report(coded, wiener, cost)
        if index < rounds:
            way = MOMENTUM * way + descent(coded[2].float() / LATENT_ONE - target, correction)
            target = target + STEP / (index + 1) ** STEP_DECAY * way
    return best


def descent(error: Tensor, correction: Tensor) -> Tensor:
    """The way from a latent to the minimum near it, `(d, h, w)` in steps: from the rounding `error` of its codes and the gradient of the pixels' error over its nominal
    curvature, as large."""
    energy, positions = error.square().sum((1, 2)), error[0].numel()
    usual = USUAL_POSITIONS / positions * energy.mean() + torch.finfo(energy.dtype).tiny
    slope = ((error * correction).sum((1, 2)) + USUAL_SLOPE * usual) / (energy + usual)
    return OWN_ERROR * error - correction / slope.clamp(*SLOPES)[:, None, None]


def decode_with_correction(
    latent_hat: Tensor, rgb: np.ndarray, quality: int, model: LoocModel, halo: int, grey: bool, wiener: Wiener | None = None, *, corrected: bool = True, tile: int = TILE_POSITIONS
) -> tuple[np.ndarray, Tensor, Statistics]:
    """The synthesised picture `(H, W, 3)` uint8, before any filter; the gradient of its distortion, in the model's metric, over the curvature of squared error, `(d, h, w)` in steps, when it
    passes through the filter given; and what a filter of its own is fitted from. Without `corrected` the gradient is left out, which halves the time."""
    synthesis = model.synthesis
    device = next(synthesis.parameters()).device
    level = torch.tensor([float(quality)], device=device)
    # Of the linear part, which carries nearly all of the energy.
    curvature = 2 * synthesis.log_step(level).exp()[0] ** 2 * synthesis.linear.square().sum((1, 2, 3))[:, None, None]
    _, height, width = latent_hat.shape
    decoded = np.empty_like(rgb)
    correction, statistics = torch.empty(latent_hat.shape), Statistics(grey)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            y0, y1, x0, x1 = max(0, top - halo), min(height, bottom + halo), max(0, left - halo), min(width, right + halo)
            original = torch.from_numpy(np.array(rgb[y0 * PATCH : y1 * PATCH, x0 * PATCH : x1 * PATCH])).to(device).permute(2, 0, 1).float()
            with torch.set_grad_enabled(corrected):
                part = (latent_hat[:, y0:y1, x0:x1].to(device).float() / LATENT_ONE)[None].requires_grad_(corrected)
                plain = synthesis(part.contiguous(memory_format=torch.channels_last), level)[0]
                if corrected:
                    pixels = (plain if wiener is None else wiener.apply(plain, (0, 0, 0, 0)))[:, : original.shape[1], : original.shape[2]]
                    if grey:
                        pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1)
                    (gradient,) = torch.autograd.grad(summed_distortion(pixels, original, model.config.metric), part)
                    inner = (slice(None), slice(top - y0, bottom - y0), slice(left - x0, right - x0))
                    correction[:, top:bottom, left:right] = (gradient[0] / curvature)[inner].cpu()
            plain = plain.detach()
            context = tuple(REACH * (outer > 0) for outer in (top - y0, y1 - bottom, left - x0, x1 - right))
            above, before = (top - y0) * PATCH, (left - x0) * PATCH
            rows, columns = slice(top * PATCH, min(bottom * PATCH, rgb.shape[0])), slice(left * PATCH, min(right * PATCH, rgb.shape[1]))
            window = plain[:, above - context[0] : (bottom - y0) * PATCH + context[1], before - context[2] : (right - x0) * PATCH + context[3]]
            statistics.add(window, context, original[:, above : above + rows.stop - rows.start, before : before + columns.stop - columns.start])
            shown = plain.mean(0, keepdim=True).expand(3, -1, -1) if grey else plain
            shown = shown.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            progress.report((top * width + right * (bottom - top)) / (height * width))
            decoded[rows, columns] = shown[above : above + rows.stop - rows.start, before : before + columns.stop - columns.start]
    return decoded, correction, statistics
