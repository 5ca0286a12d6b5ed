"""The weight of distortion against rate at each quality."""

from __future__ import annotations

from torch import Tensor

from looc_codec.config import QUALITY_MAX, QUALITY_MIN, LoocConfig

RATE_DISTORTION_SLOPE = 26.0
"""lambda * step² for MSE over RGB on the 0..255 scale and rate in bits per pixel: the high-rate slope of a uniform
quantiser, 3 * 12 / (2 ln 2), so that an orthonormal transform needs no other gain than the nominal step."""


def distortion_weight(config: LoocConfig, quality: Tensor) -> Tensor:
    """lambda of each quality `(B,)`: bits per pixel that one unit of MSE (0..255 scale) is worth."""
    position = (quality - QUALITY_MIN) / (QUALITY_MAX - QUALITY_MIN)
    step = config.step_coarsest * (config.step_finest / config.step_coarsest) ** position
    return RATE_DISTORTION_SLOPE / step**2
