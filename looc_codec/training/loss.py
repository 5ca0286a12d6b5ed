"""The weight of distortion against rate at each quality, and what a metric asks of a run."""

from __future__ import annotations

from torch import Tensor

from looc_codec.config import METRICS, QUALITY_MAX, QUALITY_MIN, RATE_DISTORTION_SLOPE, LoocConfig
from looc_codec.networks.distortion import smallest_side
from looc_codec.errors import ModelError


def distortion_weight(config: LoocConfig, quality: Tensor) -> Tensor:
    """lambda of each quality `(B,)`: bits per pixel that one unit of MSE (0..255 scale) is worth."""
    position = (quality - QUALITY_MIN) / (QUALITY_MAX - QUALITY_MIN)
    step = config.step_coarsest * (config.step_finest / config.step_coarsest) ** position
    return RATE_DISTORTION_SLOPE / step**2


def require_metric(metric: str, crop: int) -> None:
    """ModelError unless crops of `crop` pixels can be trained for `metric`."""
    if metric not in METRICS:
        raise ModelError(f"there is no metric {metric}; choose {', '.join(METRICS[:-1])} or {METRICS[-1]}")
    if crop < smallest_side(metric):
        raise ModelError(f"the metric {metric} needs crops of at least 176 pixels, not {crop}; give --crop 192")
