"""Refinement of the codes for the picture at hand (`--effort`). The decoder knows nothing of it.

The analysis gives a latent, and codes are chosen as if an error in the latent were as large an error in the pixels. It is not quite: basis
functions overlap and the synthesis is not linear. And a code is chosen for its own bits, though others are predicted from what it stands for.
Here the codes are chosen again and again against a corrected target, the chosen
latent minus the gradient of the true pixel error over its curvature and minus that of the bits of all units predicted from it (proximal gradient descent, with the choice of codes as the proximal
step: Parikh and Boyd 2014, section 4.2). For an orthonormal linear synthesis the corrected target is the analysed latent itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from looc_codec import progress
from looc_codec.config import PATCH, RATE_DISTORTION_SLOPE, LoocConfig
from looc_codec.model import LoocModel
from looc_codec.prior import LATENT_ONE
from looc_codec.quantizers.codebook import ENCODER_LAMBDA
from looc_codec.wiener import REACH, Statistics, Wiener

Coded = tuple[tuple[bytes, ...], int, Tensor]
"""Payload segments, code checksum and quantised latent `(d, h, w)` int32 (1/16 steps)."""

CONTEXT_WEIGHT = 1.25
"""Times `Prior.context_gradient`: how much codes are chosen for what is predicted from them. Cost after three rounds on four pictures (256 x 256, qualities
20, 50, 80): -3.0, -1.1, -0.5% without, -3.3, -1.5, -0.6% with 1, -3.1, -1.6, -0.7% with 1.5, -1.1, -1.0, -0.4% with 2.5."""
GRADIENT_LIMIT = 8.0
"""Bits per step beyond which that gradient says nothing of a whole step."""
DAMPING = 0.5
"""Share of the way to each corrected target. On two pictures at quality 50, three rounds lowered the cost by 1.6-1.6, 2.2-2.2 and
2.0-2.2% with 0.25, 0.5 and 0.8."""
TILE_POSITIONS = 48
"""Latent positions along a tile's side (768 pixels): a gradient holds every activation of its tile."""


def bits_per_error(quality: int, config: LoocConfig) -> float:
    """What one unit of squared error, summed over pixels and channels, is worth in bits at a quality."""
    return RATE_DISTORTION_SLOPE / config.step(quality) ** 2 / 3


def lagrangian_cost(size_bytes: int, rgb: np.ndarray, decoded: np.ndarray, quality: int, config: LoocConfig) -> float:
    """Bits per pixel plus lambda times the MSE of the decoded 8-bit picture, both `(H, W, 3)` uint8."""
    error = rgb.astype(np.int32) - decoded
    bits = 8 * size_bytes + bits_per_error(quality, config) * float(np.sum(error * error, dtype=np.int64))
    return bits / (rgb.shape[0] * rgb.shape[1])


def refine(
    latent: Tensor, rgb: np.ndarray, quality: int, model: LoocModel, encode: Callable[[Tensor], Coded], *, rounds: int, halo: int, grey: bool = False, lagrangian: float = ENCODER_LAMBDA,
    report: Callable[[Coded, Wiener | None, float], None] | None = None,
) -> tuple[Coded, Wiener | None]:  # fmt: skip
    """The cheapest coding of the pixels `(H, W, 3)` uint8 among that of `latent` `(d, h, w)` in steps and `rounds` more, and its filter.

    A coding's cost is `lagrangian_cost`, with the gain of its filter as the fit promises it. `halo` is the reach of the synthesis in positions. A round takes an
    encoding and about three syntheses; `lagrangian` is what `encode` weighs bits with; memory is bounded by the tile, not by the picture. `report` gets each
    coding, its filter and its cost. Pixels are corrected as the filter of the round before leaves them.
    """
    best, best_cost, target, wiener = None, np.inf, latent, None
    error_worth = bits_per_error(quality, model.config)
    for index in range(rounds + 1):
        start, share = index / (rounds + 1), 1 / (rounds + 1)
        with progress.part(start, start + 0.1 * share):
            coded = encode(target)
        with progress.part(start + 0.1 * share, start + 0.8 * share):
            decoded, correction, statistics = decode_with_correction(coded[2], rgb, quality, model, halo, grey, wiener, corrected=index < rounds)
        wiener, gain = statistics.fit(error_worth)
        size_bytes = sum(map(len, coded[0])) + (len(wiener.to_bytes()) if wiener else 0)
        cost = lagrangian_cost(size_bytes, rgb, decoded, quality, model.config) - error_worth * gain / (rgb.shape[0] * rgb.shape[1])
        if cost < best_cost:
            best, best_cost = (coded, wiener), cost
        if report is not None:
            report(coded, wiener, cost)
        if index < rounds:
            # Half the gradient of lambda times the bits, as the correction is half the gradient of the squared error.
            with progress.part(start + 0.8 * share, start + share):
                dearer = model.prior.context_gradient(coded[2], quality).clamp(-GRADIENT_LIMIT, GRADIENT_LIMIT)
            correction = correction + CONTEXT_WEIGHT * lagrangian / 2 * dearer
            target = torch.lerp(target, coded[2].float() / LATENT_ONE - correction, DAMPING)
    return best


def decode_with_correction(
    latent_hat: Tensor, rgb: np.ndarray, quality: int, model: LoocModel, halo: int, grey: bool, wiener: Wiener | None = None, *, corrected: bool = True, tile: int = TILE_POSITIONS
) -> tuple[np.ndarray, Tensor, Statistics]:
    """The synthesised picture `(H, W, 3)` uint8, before any filter; the gradient of its squared error over the curvature, `(d, h, w)` in steps, when it
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
                    (gradient,) = torch.autograd.grad((pixels - original).square().sum(), part)
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
