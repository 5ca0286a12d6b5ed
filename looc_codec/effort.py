"""Refinement of the codes for the picture at hand (`--effort`). The decoder knows nothing of it.

The analysis gives a latent, and codes are chosen as if an error in the latent were as large an error in the pixels. It is not: basis functions overlap, the synthesis is
not linear and takes back much of what rounding does, and one analysis serves all pictures. Here the latent itself descends, picture by picture: its codes are chosen, and it
moves against the gradient of the pixels' true error at these codes, which passes straight through the choice (Bengio, Léonard and Courville 2013).

What a code's own rounding error explains of that gradient is left out, as a control variate. It says nothing of where the latent should be: where a code stays zero
whatever the latent does, it would carry the latent away, round after round. The share that rounding errors explain, their slope, is measured in each channel of
the picture. It is also the curvature that the channel has, 0.9 of the nominal one at the lowest and 0.2 at high frequencies, and by that it scales the way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from looc_codec import progress
from looc_codec.codec.coding import Coding, bits_per_error
from looc_codec.codec.model import CodecModel
from looc_codec.codec.tiles import Margins, each_tile
from looc_codec.codec.transforms import synthesis_halo, to_bytes
from looc_codec.codec.wiener import Statistics
from looc_codec.config import LoocConfig
from looc_codec.format.constants import LATENT_ONE, PATCH
from looc_codec.format.filter import REACH, Wiener
from looc_codec.networks.distortion import distortion, smallest_side
from looc_codec.networks.transforms import Synthesis

EFFORT_ROUNDS = (0, 2, 6, 16)
"""Rounds of refinement of each effort; docs/EXPERIMENTS.md, section 20, has what they gain and cost."""
STEP, STEP_DECAY, MOMENTUM = 0.25, 0.3, 0.3
"""Share of the way to the minimum that the curvature promises in the first round, power of the round's number by which later rounds go less far, and how much of a round's
way the next one goes on with: rounding makes every gradient a noisy one (docs/EXPERIMENTS.md, sections 19 and 20)."""
FARTHEST = 1.5
"""How far a code's way goes at most, in root mean squares of its channel's rounding errors, where structure is served: its gradient has peaks of up to 100 steps that a channel's curvature knows nothing
of. Squared error has none, and loses half a per cent by a limit (docs/EXPERIMENTS.md, section 23)."""
OWN_ERROR = 1.1
"""How much of what the own rounding error explains is left out."""
USUAL_SLOPE, USUAL_POSITIONS, SLOPES = 0.5, 32, (0.2, 1.0)
"""What the slope of a channel is taken for, as if so many positions had said so, and its limits. Where hardly any code is above zero slopes of 0.1 are found, but
steps that trust them go too far."""
TILE_POSITIONS = 48
"""Latent positions along a tile's side (768 pixels): a gradient holds every activation of its tile."""


SERVED = {"mse": "mse", "ms-ssim": "ssimulacra2", "ssimulacra2": "ssimulacra2"}
"""The metric that refinement serves, by the one that a model was trained for: gradient and cost alike (docs/EXPERIMENTS.md, section 23)."""


def lagrangian_cost(size_bytes: int, rgb: np.ndarray, decoded: np.ndarray, level: int, config: LoocConfig, wiener: Wiener | None = None) -> float:
    """Bits per pixel plus lambda times the distortion, in the metric that is served, of the decoded 8-bit picture, both `(H, W, 3)` uint8, through a filter if one is given."""
    metric, total = SERVED[config.metric], 0.0
    if metric == "mse" and wiener is None:
        error = rgb.astype(np.int32) - decoded
        total = float(np.sum(error * error, dtype=np.int64))
    else:
        height, width, _ = rgb.shape
        for tile in each_tile(height, width, TILE_POSITIONS * PATCH):
            outer = tile.widened(REACH if wiener else 0, height, width)
            shown, original = (torch.from_numpy(part.of(picture.transpose(2, 0, 1)).astype(np.float32)) for part, picture in ((outer, decoded), (tile, rgb)))
            if wiener is not None:
                shown = outer.margins(tile).cut_off(filtered(shown, wiener)).round()
            total += float(summed_distortion(shown, original, metric))
    return (8 * size_bytes + bits_per_error(level, config) * total) / (rgb.shape[0] * rgb.shape[1])


def summed_distortion(pixels: Tensor, original: Tensor, metric: str) -> Tensor:
    """Distortion of pixels `(3, H, W)` float32, cut off at 0 and 255 as a picture is, as squared error summed over all samples; by MSE where a side is too short for the metric."""
    if min(original.shape[1:]) < smallest_side(metric):
        metric = "mse"
    return distortion(metric, pixels.clamp(0, 255)[None], original[None])[0] * original.numel()


Report = Callable[[Coding, float], None]
"""Gets each coding, with its filter, and its cost."""


class Refinement:
    """Refines the codes of pictures with one model: the `refine` of an Encoder."""

    def __init__(self, model: CodecModel, effort: int, threads: int, report: Report | None = None) -> None:
        """`effort` is 1 to 3. torch's number of threads, which is the process's, becomes `threads`."""
        self.config, self.rounds, self.report = model.config, EFFORT_ROUNDS[effort], report
        torch.set_num_threads(threads)
        self.metric = SERVED[self.config.metric]
        self.farthest = math.inf if self.metric == "mse" else FARTHEST
        self.synthesis = synthesis_of(model)

    def __call__(self, latent: np.ndarray, rgb: np.ndarray, encode: Callable[[np.ndarray], Coding]) -> Coding:
        """The cheapest coding of the pixels `(H, W, 3)` uint8 among that of `latent` `(d, h, w)` in steps and `rounds` more, with its filter.

        A coding's cost is `lagrangian_cost`, by squared error with the gain of its filter as the fit promises it, otherwise through its filter. A round takes an
        encoding and about three syntheses; memory is bounded by the tile, not by the picture. Pixels are corrected as the filter of the round
        before leaves them.
        """
        best, best_cost, rounds = None, np.inf, self.rounds
        target, way, wiener = torch.from_numpy(latent), torch.zeros(latent.shape), None
        for index in range(rounds + 1):
            start, share = index / (rounds + 1), 1 / (rounds + 1)
            with progress.part(start, start + 0.15 * share):
                coding = encode(target.numpy())
            error_worth = bits_per_error(coding.level, self.config)
            with progress.part(start + 0.15 * share, start + share):
                decoded, correction, statistics = self.decode_with_correction(coding, rgb, wiener, corrected=index < rounds)
            wiener, gain = statistics.fit(error_worth)
            coding = dataclasses.replace(coding, wiener=wiener)
            if self.metric == "mse":
                cost = lagrangian_cost(coding.payload_bytes, rgb, decoded, coding.level, self.config) - error_worth * gain / (rgb.shape[0] * rgb.shape[1])
            else:
                cost = lagrangian_cost(coding.payload_bytes, rgb, decoded, coding.level, self.config, wiener)
            if cost < best_cost:
                best, best_cost = coding, cost
            if self.report is not None:
                self.report(coding, cost)
            if index < rounds:
                way = MOMENTUM * way + descent(torch.from_numpy(coding.latent).float() / LATENT_ONE - target, correction, self.farthest)
                target = target + STEP / (index + 1) ** STEP_DECAY * way
        return best

    def decode_with_correction(
        self, coding: Coding, rgb: np.ndarray, wiener: Wiener | None = None, *, corrected: bool = True, side: int = TILE_POSITIONS
    ) -> tuple[np.ndarray, Tensor, Statistics]:
        """The synthesised picture `(H, W, 3)` uint8, before any filter; the gradient of its distortion, in the metric that is served, over the curvature of squared
        error, `(d, h, w)` in steps, when it passes through the filter given; and what a filter of its own is fitted from. Without `corrected` the gradient is
        left out, which halves the time."""
        synthesis, config, grey = self.synthesis, self.config, coding.grey
        level = torch.tensor([float(coding.level)])
        # Of the linear part, which carries nearly all of the energy.
        curvature = 2 * synthesis.log_step(level).exp()[0] ** 2 * synthesis.linear.square().sum((1, 2, 3))[:, None, None]
        _, height, width = coding.latent.shape
        decoded, planes = np.empty_like(rgb), rgb.transpose(2, 0, 1)
        correction, statistics = torch.zeros(coding.latent.shape), Statistics(grey)
        for tile in each_tile(height, width, side):
            outer = tile.widened(synthesis_halo(config.synthesis_blocks), height, width)
            original = torch.from_numpy(outer.scaled(PATCH).of(planes).astype(np.float32))
            with torch.set_grad_enabled(corrected):
                part = torch.from_numpy(outer.of(coding.latent).astype(np.float32) / LATENT_ONE)[None].requires_grad_(corrected)
                plain = synthesis(part, level)[0]
                if corrected:
                    pixels = (plain if wiener is None else filtered(plain, wiener))[:, : original.shape[1], : original.shape[2]]
                    if grey:
                        pixels = pixels.mean(0, keepdim=True).expand(3, -1, -1)
                    (gradient,) = torch.autograd.grad(summed_distortion(pixels, original, self.metric), part)
                    tile.of(correction)[...] = outer.margins(tile).cut_off(gradient[0] / curvature)
            margins = outer.margins(tile)
            context = Margins(*(REACH * (side > 0) for side in margins.sides))
            inner = tile.scaled(PATCH).of(planes).astype(np.float32)
            window = margins.scaled(PATCH).less(context).cut_off(plain.detach().numpy())
            statistics.add(window, context, inner)
            shown = to_bytes(context.cut_off(window), grey)
            tile.scaled(PATCH).of(decoded.transpose(2, 0, 1))[...] = shown[:, : inner.shape[1], : inner.shape[2]]
        return decoded, correction, statistics


def synthesis_of(model: CodecModel) -> Synthesis:
    """A model's synthesis in torch, for gradients with respect to its input."""
    synthesis = Synthesis(model.config)
    synthesis.load_state_dict({name: torch.from_numpy(model.tensor(f"synthesis.{name}").copy()) for name in synthesis.state_dict()})
    return synthesis.eval().requires_grad_(False)


def filtered(pixels: Tensor, wiener: Wiener) -> Tensor:
    """Pixels `(3, H, W)` through a picture's filter, with the last ones repeated around them."""
    weight, bias = (torch.from_numpy(value) for value in wiener.kernel)
    return F.conv2d(F.pad(pixels[None], (REACH,) * 4, mode="replicate"), weight, bias)[0]


def descent(error: Tensor, correction: Tensor, farthest: float = math.inf) -> Tensor:
    """The way from a latent to the minimum near it, `(d, h, w)` in steps: from the rounding `error` of its codes and the gradient of the pixels' error over its nominal
    curvature, as large; nowhere longer than `farthest` times the channel's root mean square error."""
    energy, positions = error.square().sum((1, 2)), error[0].numel()
    usual = USUAL_POSITIONS / positions * energy.mean() + torch.finfo(energy.dtype).tiny
    slope = ((error * correction).sum((1, 2)) + USUAL_SLOPE * usual) / (energy + usual)
    way, limit = OWN_ERROR * error - correction / slope.clamp(*SLOPES)[:, None, None], farthest * ((energy + usual) / (positions + USUAL_POSITIONS)).sqrt()[:, None, None]
    return way.clamp(-limit, limit)
