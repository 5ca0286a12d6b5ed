"""SSIMULACRA 2 (Sneyers 2022, version 2.1 of April 2023) with a gradient: how visible a coding's errors are, blurred, rung or shifted.

Both pictures go to XYB, the colours of JPEG XL, at up to six scales, each half of the one before in linear light. Three maps compare them in each colour and at each scale: SSIM, edges
that only the decoded picture has ("ringing"), and edges that it has lost ("blurring"). The mean and the 4-norm of each of these 54 maps are weighted and added.

Weights, constants and the form of the maps are facts of the metric's published program (libjxl, `tools/ssimulacra2.cc`); the code is our own. `tools/structure_check.py` holds it beside the PyPI
package `ssimulacra2`, which differs near borders (see `windowed_mean`).
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from looc_codec.networks.gaussian import blurred, coverage

SCALES, MIN_SIDE = 6, 8
"""Scales, and pixels that a side needs at a scale for it to count."""
C2 = 0.0009
"""What keeps SSIM from dividing by zero."""
ABSORBANCE = ((0.30, 0.622, 0.078), (0.23, 0.692, 0.078), (0.24342268924547819, 0.20476744424496821, 0.55180986650955360))
ABSORBANCE_BIAS = 0.0037930732552754493
"""From linear red, green and blue to what the eye's three kinds of cones take up."""
SMALLEST = 1e-6
"""4-norms go from here on, less as much: at 0, where pictures are equal, their gradient would be 0/0."""
WEIGHTS = {
    # (colour, scale): (SSIM, ringing, blurring) of the means, and of the 4-norms
    ("x", 1): ((0, 0, 0), (1.1041726426657346, 0, 0)),
    ("x", 2): ((0, 0, 0), (1.8422455520539298, 11.441172603757666, 0)),
    ("x", 3): ((0, 0, 0), (1.8787594979546387, 10.94906990605142, 0)),
    ("x", 4): ((0, 0.9677937080626833, 0), (0, 0.9981766977854967, 0)),
    ("y", 0): ((0, 0, 0), (7.466890328078848, 0, 17.445833984131262)),
    ("y", 1): ((0, 0, 0), (6.683678146179332, 0, 1.027889937768264)),
    ("y", 2): ((225.20515300849274, 0, 0), (19.213238186143016, 0, 0)),
    ("y", 3): ((176.39317598450694, 0, 0), (24.43300999870476, 0.28520802612117757, 0)),
    ("y", 4): ((0, 0, 0), (34.77906344483772, 44.835625328877896, 0)),
    ("b", 3): ((0, 0, 0), (8.826982764996862, 23.19243343998926, 0)),
    ("b", 4): ((95.1080498811086, 0.9863978034400682, 0.9834382792465353), (0, 171.2667255897307, 0.9807858872435379)),
}
"""Those of the 108 weights that are above 0.003; the others are 0 or at most 0.0021, and move a score by less than 0.01. Nothing of scale 5 is left."""
SCORE_SCALE, SCORE_POLYNOMIAL, SCORE_POWER = 0.9562382616834844, (2.326765642916932, -0.020884521182843837, 6.248496625763138e-05), 0.6276336467831387


def windowed_mean(maps: Tensor) -> Tensor:
    """Mean of maps `(..., h, w)` float32 under the Gaussian window, as large; near a border of what there is of them.

    libjxl takes zeros beyond a border, the PyPI package left and right: then such a border is an edge, which hides what is wrong near it. A loss must not look away there.
    """
    return blurred(maps) / coverage(maps)


@functools.lru_cache(maxsize=4)
def _absorbance(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(ABSORBANCE, device=device)


def linear_light(pixels: Tensor) -> Tensor:
    """sRGB of 0..255, cut off there as a picture is, in linear light of 0..1."""
    unit = pixels.clamp(0, 255) / 255
    # Where the straight piece is taken, the power's gradient must still be finite.
    return torch.where(unit <= 0.04045, unit / 12.92, ((unit.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def xyb(linear: Tensor) -> dict[str, Tensor]:
    """Linear light `(B, 3, h, w)` as the colours that are compared, `(B, h, w)` each: X, Y, and B less Y, moved to be positive."""
    cones = torch.einsum("ij,bjhw->ibhw", _absorbance(linear.device), linear) + ABSORBANCE_BIAS
    first, second, third = cones ** (1 / 3) - ABSORBANCE_BIAS ** (1 / 3)
    y = (first + second) / 2
    return {"x": 7 * (first - second) + 0.42, "y": y + 0.01, "b": third - y + 0.55}


def norm4(maps: Tensor) -> Tensor:
    """4-norm of each of the maps `(B, h, w)`, as a mean: `(B,)`; its gradient is finite at 0, too."""
    return (maps.square().square().mean((1, 2)) + SMALLEST**4).sqrt().sqrt() - SMALLEST


def visible_error(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Weighted sum of the norms of each pair of pictures `(B, 3, H, W)` float32 of 0..255: `(B,)`, 0 for equal ones. Scales with a side under `MIN_SIDE` pixels count as 0.

    Its gradient passes to both; it is finite everywhere.
    """
    # Not just zeros: pictures too small for any scale have a gradient, too.
    total = 0 * decoded.float().mean((1, 2, 3))
    with torch.autocast(decoded.device.type, enabled=False):
        # Squares of small differences need all digits of float32.
        decoded, pixels = linear_light(decoded.float()), linear_light(pixels.float())
        for scale in range(SCALES):
            colours = [colour for colour in "xyb" if (colour, scale) in WEIGHTS]
            if not colours or min(decoded.shape[2:]) < MIN_SIDE:
                break
            first, second = xyb(decoded), xyb(pixels)
            for colour in colours:
                total = total + _weighted(first[colour], second[colour], *WEIGHTS[colour, scale])
            # Means of what there is of each two by two pixels.
            decoded, pixels = (F.avg_pool2d(linear, 2, ceil_mode=True) for linear in (decoded, pixels))
    return SCORE_SCALE * total


def _weighted(decoded: Tensor, pixels: Tensor, mean_weights: tuple[float, ...], norm_weights: tuple[float, ...]) -> Tensor:
    """One colour at one scale, `(B, h, w)`: the weighted norms of its three maps, `(B,)`."""
    total = decoded.new_zeros(len(decoded))
    # A picture's variance and covariance under each window: of sums and of differences, of which one map less is needed.
    mean1, mean2, energy, missed = windowed_mean(torch.stack([decoded, pixels, decoded.square() + pixels.square(), (decoded - pixels).square()]))
    shift = (mean1 - mean2).square()
    variances = energy - mean1.square() - mean2.square() + C2
    # Without SSIM's share of brightness below the line, as the metric has it: 2 cov + c = var + var + c - var of the difference.
    structure = 1 - (1 - shift) * (1 - (missed - shift) / variances)
    edges = (1 + (decoded - mean1).abs()) / (1 + (pixels - mean2).abs()) - 1
    for maps, mean_weight, norm_weight in zip((structure, edges, -edges), mean_weights, norm_weights, strict=True):
        if mean_weight or norm_weight:
            maps = maps.clamp_min(0)
            if mean_weight:
                total = total + mean_weight * maps.mean((1, 2))
            if norm_weight:
                total = total + norm_weight * norm4(maps)
    return total


def score(error: Tensor) -> Tensor:
    """A `visible_error` on SSIMULACRA 2's scale: 100 for equal pictures, 90 without visible loss, 70 high, 50 medium, 30 low quality."""
    first, second, third = SCORE_POLYNOMIAL
    return 100 - 10 * (first * error + second * error**2 + third * error**3).clamp_min(0) ** SCORE_POWER
