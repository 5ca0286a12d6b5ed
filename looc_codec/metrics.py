"""How good and how large: PSNR, MS-SSIM, bits per pixel, and the comparison of rate-distortion curves.

Pictures come in as 8-bit arrays, what a viewer would see, never as floats before rounding. A curve is a
sequence of points `(bpp, psnr_db)` in any order. Everything here is numpy except MS-SSIM and SSIMULACRA 2, which
belong to packages of their own (pytorch-msssim is what the reports of the field use) and are imported when asked for.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np

from looc_codec.errors import LoocError

Point = tuple[float, float]


class CurveError(LoocError):
    """Two rate-distortion curves, or a curve and a rate, that cannot be compared."""


def psnr_db(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two 8-bit pictures; `inf` when they are equal.

    The mean squared error runs over all samples of the picture, colour samples included, and the peak is 255.
    For a set of pictures take the mean of their PSNR values: that is what the published Kodak tables hold.

    Args:
        first, second: `(height, width)` or `(height, width, channels)` uint8, equal shapes.

    Raises:
        ValueError: the shapes differ or the samples are not uint8.

    >>> psnr_db(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    0.0
    """
    _require_comparable(first, second)
    difference = first.astype(np.int32) - second.astype(np.int32)
    # int64 keeps the sum exact: 24 megapixels of squared errors overflow 32 bits.
    mean_squared_error = float(np.sum(difference * difference, dtype=np.int64)) / difference.size
    if mean_squared_error == 0.0:
        return math.inf
    return 10.0 * math.log10(255.0**2 / mean_squared_error)


def ms_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Multi-scale structural similarity of two 8-bit RGB pictures, 0..1, by pytorch-msssim.

    Args:
        first, second: `(height, width, 3)` uint8, equal shapes, each side longer than 160 pixels (five scales of
            an 11-pixel window).

    Raises:
        ValueError: the shapes differ, are too small, or the samples are not uint8.
        ImportError: pytorch-msssim is not installed (`pip install 'looc[report]'`).
    """
    _require_comparable(first, second)
    if first.ndim != 3 or min(first.shape[:2]) <= 160:
        raise ValueError(
            f"MS-SSIM needs a colour picture with both sides over 160 pixels, this one has the shape {first.shape}"
        )
    import pytorch_msssim
    import torch

    def as_batch(picture: np.ndarray) -> torch.Tensor:
        # float64: in float32 the Gaussian window alone moves the fifth digit.
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).to(torch.float64)[None]

    with torch.inference_mode():
        return float(pytorch_msssim.ms_ssim(as_batch(first), as_batch(second), data_range=255.0))


def ms_ssim_db(value: float) -> float:
    """MS-SSIM on the usual logarithmic scale, -10 log10(1 - value); `inf` for 1.

    >>> round(ms_ssim_db(0.99), 6)
    20.0
    """
    if value >= 1.0:
        return math.inf
    return -10.0 * math.log10(1.0 - value)


SSIMULACRA2_MIN_SIDE = 8


def ssimulacra2(first: np.ndarray, second: np.ndarray) -> float:
    """SSIMULACRA 2 of two 8-bit RGB pictures, the original first: 100 for equal ones, 90 visually lossless, 70 high, 50
    medium and 30 low quality in its authors' words; below 0 for very bad ones. By the package ssimulacra2.

    Args:
        first, second: `(height, width, 3)` uint8, equal shapes, no side under `SSIMULACRA2_MIN_SIDE`.

    Raises:
        ValueError: the shapes differ, are too small, or the samples are not uint8.
        ImportError: ssimulacra2 is not installed.
    """
    _require_comparable(first, second)
    if first.ndim != 3 or min(first.shape[:2]) < SSIMULACRA2_MIN_SIDE:
        raise ValueError(f"SSIMULACRA 2 needs both sides of {SSIMULACRA2_MIN_SIDE} pixels or more")
    from PIL import Image
    from ssimulacra2 import compute_ssimulacra2

    files = [io.BytesIO(), io.BytesIO()]
    for file, picture in zip(files, (first, second), strict=True):
        # BMP: lossless and without the time of a compressor.
        Image.fromarray(picture).save(file, "BMP")
    return float(compute_ssimulacra2(*files))


def bits_per_pixel(size_bytes: int, width: int, height: int) -> float:
    """Bits per pixel of a file of `size_bytes` that holds a picture of `width` x `height`.

    >>> bits_per_pixel(1000, 100, 80)
    1.0
    """
    return 8.0 * size_bytes / (width * height)


def bd_rate_percent(anchor_points: Sequence[Point], test_points: Sequence[Point]) -> float:
    """Bjontegaard rate difference: how many per cent more bits the test needs than the anchor at equal PSNR.

    ln(bpp) as a function of PSNR goes through all points by PCHIP (shape-preserving cubic pieces, which do not
    overshoot as the original cubic polynomial does) and is averaged over the PSNR range that both curves cover.
    Nothing is extrapolated. -30 means that the test file is 30% smaller.

    Raises:
        CurveError: fewer than two points, a PSNR that occurs twice in a curve, or no common PSNR range.
    """
    anchor_bpp, anchor_psnr = _curve(anchor_points)
    test_bpp, test_psnr = _curve(test_points)
    low, high = _common_range(anchor_psnr, test_psnr, "PSNR", "dB")
    difference = _mean_over(test_psnr, np.log(test_bpp), low, high) - _mean_over(
        anchor_psnr, np.log(anchor_bpp), low, high
    )
    return 100.0 * math.expm1(difference)


def bd_psnr_db(anchor_points: Sequence[Point], test_points: Sequence[Point]) -> float:
    """Bjontegaard PSNR difference: by how many dB the test is better than the anchor at equal rate.

    The mean over the common range of ln(bpp), through PCHIP as in `bd_rate_percent`.

    Raises:
        CurveError: fewer than two points, a rate that occurs twice in a curve, or no common range of rates.
    """
    anchor_rate, anchor_psnr = _curve_over_rate(anchor_points)
    test_rate, test_psnr = _curve_over_rate(test_points)
    low, high = _common_range(anchor_rate, test_rate, "ln(bpp)", "")
    return _mean_over(test_rate, test_psnr, low, high) - _mean_over(anchor_rate, anchor_psnr, low, high)


def psnr_at_bpp(points: Sequence[Point], bpp: float) -> float:
    """PSNR in dB that a curve reaches at the rate `bpp`, by PCHIP over ln(bpp).

    Raises:
        CurveError: the curve does not cover that rate; nothing is extrapolated.

    >>> round(psnr_at_bpp([(0.25, 28.0), (0.5, 30.0), (1.0, 32.0)], 0.5), 6)
    30.0
    """
    rate, psnr = _curve_over_rate(points)
    if bpp <= 0.0 or not rate[0] - 1e-12 <= math.log(bpp) <= rate[-1] + 1e-12:
        raise CurveError(
            f"the curve covers {math.exp(rate[0]):.3f} to {math.exp(rate[-1]):.3f} bpp, which does not include {bpp:g}"
        )
    return float(pchip_values(rate, psnr, np.array([np.clip(math.log(bpp), rate[0], rate[-1])]))[0])


def pchip_values(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values at `at` of the piecewise cubic Hermite interpolant through (x, y) that keeps their monotony.

    Slopes by Fritsch and Butland (1984) with the three-point end rule, the same as scipy's PchipInterpolator, so
    that comparing codecs needs no scipy; the tests hold both side by side.

    Args:
        x: `(n,)` strictly increasing, n >= 2.
        y: `(n,)`.
        at: `(p,)` within x[0]..x[-1].

    Returns:
        `(p,)` float64.
    """
    slopes = _pchip_slopes(x, y)
    piece = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    step = np.diff(x)[piece]
    t = (at - x[piece]) / step
    return (
        (1 + 2 * t) * (1 - t) ** 2 * y[piece]
        + t * (1 - t) ** 2 * step * slopes[piece]
        + t**2 * (3 - 2 * t) * y[piece + 1]
        + t**2 * (t - 1) * step * slopes[piece + 1]
    )


def _pchip_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    step = np.diff(x)
    secant = np.diff(y) / step
    if len(x) == 2:
        return np.array([secant[0], secant[0]])
    slopes = np.zeros(len(x))
    before, after = secant[:-1], secant[1:]
    weight_before = 2 * step[1:] + step[:-1]
    weight_after = step[1:] + 2 * step[:-1]
    same_sign = before * after > 0
    # A zero secant would divide by zero in the harmonic mean; the slope there is zero anyway.
    safe_before = np.where(same_sign, before, 1.0)
    safe_after = np.where(same_sign, after, 1.0)
    harmonic = (weight_before + weight_after) / (weight_before / safe_before + weight_after / safe_after)
    slopes[1:-1] = np.where(same_sign, harmonic, 0.0)
    slopes[0] = _pchip_end_slope(step[0], step[1], secant[0], secant[1])
    slopes[-1] = _pchip_end_slope(step[-1], step[-2], secant[-1], secant[-2])
    return slopes


def _pchip_end_slope(near_step: float, next_step: float, near_secant: float, next_secant: float) -> float:
    slope = ((2 * near_step + next_step) * near_secant - near_step * next_secant) / (near_step + next_step)
    if np.sign(slope) != np.sign(near_secant):
        return 0.0
    if np.sign(near_secant) != np.sign(next_secant) and abs(slope) > abs(3 * near_secant):
        return 3 * near_secant
    return slope


def _mean_over(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """Mean of the PCHIP curve through (x, y) over low..high, exact: Simpson's rule on each cubic piece."""
    inner = x[(x > low) & (x < high)]
    edges = np.concatenate([[low], inner, [high]])
    left, right = edges[:-1], edges[1:]
    values = [pchip_values(x, y, at) for at in (left, (left + right) / 2, right)]
    integral = np.sum((right - left) / 6 * (values[0] + 4 * values[1] + values[2]))
    return float(integral / (high - low))


def _curve(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """The points as (bpp, psnr) in order of rising PSNR, checked."""
    bpp, psnr = _checked_points(points)
    order = np.argsort(psnr, kind="stable")
    if np.any(np.diff(psnr[order]) == 0):
        raise CurveError("a rate-distortion curve holds the same PSNR twice; leave one of the two points out")
    return bpp[order], psnr[order]


def _curve_over_rate(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """The points as (ln bpp, psnr) in order of rising rate, checked."""
    bpp, psnr = _checked_points(points)
    order = np.argsort(bpp, kind="stable")
    if np.any(np.diff(bpp[order]) == 0):
        raise CurveError("a rate-distortion curve holds the same rate twice; leave one of the two points out")
    return np.log(bpp[order]), psnr[order]


def _checked_points(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    if len(array) < 2:
        raise CurveError(f"a rate-distortion curve needs at least two points, this one has {len(array)}")
    if not np.all(np.isfinite(array)) or np.any(array[:, 0] <= 0):
        raise CurveError("a rate-distortion curve needs finite points with a rate above zero")
    return array[:, 0], array[:, 1]


def _common_range(anchor: np.ndarray, test: np.ndarray, what: str, unit: str) -> tuple[float, float]:
    low, high = max(anchor[0], test[0]), min(anchor[-1], test[-1])
    if low >= high:
        raise CurveError(
            f"the two curves have no {what} in common: the anchor covers {anchor[0]:.2f} to {anchor[-1]:.2f} {unit},"
            f" the test {test[0]:.2f} to {test[-1]:.2f} {unit}; measure more qualities"
        )
    return float(low), float(high)


def _require_comparable(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"two pictures of equal, non-empty shape are needed, not {first.shape} and {second.shape}")
    if first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(f"8-bit pictures are needed, not {first.dtype} and {second.dtype}")
