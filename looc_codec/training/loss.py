"""The weight of distortion against rate at each quality."""

from __future__ import annotations

from torch import Tensor

from looc_codec.config import QUALITY_MAX, QUALITY_MIN, RATE_DISTORTION_SLOPE, LoocConfig


def distortion_weight(config: LoocConfig, quality: Tensor) -> Tensor:
    """lambda of each quality `(B,)`: bits per pixel that one unit of MSE (0..255 scale) is worth."""
    position = (quality - QUALITY_MIN) / (QUALITY_MAX - QUALITY_MIN)
    step = config.step_coarsest * (config.step_finest / config.step_coarsest) ** position
    return RATE_DISTORTION_SLOPE / step**2
