"""Distortions that a gradient passes through, one picture at a time, in units of MSE on the 0..255 scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from looc_codec.networks.gaussian import RADIUS, blurred
from looc_codec.networks.ssimulacra2 import visible_error

MS_SSIM_IN_MSE = 1300.0
"""MSE (0..255 scale) that a loss of 1 of MS-SSIM stands for, so that a quality keeps about its rate: models trained for the
one or the other are commonly compared at weights in this proportion (0.0018 x 255^2 and 2.4 up to 0.0483 x 255^2 and 60.5)."""
VISIBLE_IN_MSE = 6.0
"""The same of a `ssimulacra2.visible_error` of 1. Between neighbouring levels of the structure model from 5 to 95 it falls by a unit where R + lambda D gives 3.9 to 7.3 units of MSE for the bits, 6 in the mean
(12 training crops of 320 x 320)."""
SHARES = {"mse": (1.0, 0.0, 0.0), "ms-ssim": (0.1, 0.9, 0.0), "ssimulacra2": (0.1, 0.45, 0.45)}
"""Of squared error, MS-SSIM and SSIMULACRA 2 in the distortion of each metric of `config.METRICS`. Structure alone leaves brightness and colour of flat areas free to drift."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, the finest first (Wang et al. 2003)."""
MS_SSIM_MIN_SIDE = 161
"""Pixels: the window of 11 has to fit four times halved pictures."""


def mean_squared_error(decoded: Tensor, pixels: Tensor) -> Tensor:
    """MSE of each picture of `(B, 3, H, W)`: `(B,)`."""
    return (decoded - pixels).square().mean((1, 2, 3))


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """MS-SSIM of each pair of pictures `(B, 3, H, W)` float32 of 0..255, sides over 160: `(B,)` (Wang et al. 2003).

    As metrics.ms_ssim has it, but with a finite gradient everywhere and nothing that a recorded step cannot do: a scale whose
    structures are opposed counts as a little more than 0.
    """
    centre, small = 128.0, 1e-4
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    # Differences of squares need all digits of float32, and small means.
    first, second, logs = first - centre, second - centre, 0.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        mean1, mean2, energy, missed = blurred(torch.stack([first, second, first.square() + second.square(), (first - second).square()]))[..., RADIUS:-RADIUS, RADIUS:-RADIUS]
        # Twice the covariance is both variances less that of the difference, which takes one map less.
        variances = energy - mean1.square() - mean2.square() + c2
        value = 1 - (missed - (mean1 - mean2).square()) / variances
        if scale == len(MS_SSIM_WEIGHTS) - 1:
            mean1, mean2 = mean1 + centre, mean2 + centre
            value = value * (2 * mean1 * mean2 + c1) / (mean1 * mean1 + mean2 * mean2 + c1)
        logs = logs + weight * value.mean((2, 3)).clamp_min(small).log()
        first, second = (F.avg_pool2d(maps, 2, padding=[side % 2 for side in maps.shape[2:]]) for maps in (first, second))
    return logs.exp().mean(1)


def smallest_side(metric: str) -> int:
    """Pixels that a picture's sides need for a metric."""
    return 1 if SHARES[metric] == SHARES["mse"] else MS_SSIM_MIN_SIDE


def distortion(metric: str, decoded: Tensor, pixels: Tensor) -> Tensor:
    """What a metric of `config.METRICS` says of each picture of `(B, 3, H, W)` float32 (0..255), in units of MSE: `(B,)`."""
    of_error, of_structure, of_visible = SHARES[metric]
    total = of_error * mean_squared_error(decoded, pixels)
    with torch.autocast(pixels.device.type, enabled=False):
        if of_structure:
            total = total + of_structure * MS_SSIM_IN_MSE * (1 - structural_similarity(decoded.float(), pixels.float()))
        if of_visible:
            total = total + of_visible * VISIBLE_IN_MSE * visible_error(decoded, pixels)
    return total
