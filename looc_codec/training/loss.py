"""Distortion, and its weight against rate at each quality."""

from __future__ import annotations

import torch
from torch import Tensor

from looc_codec.config import QUALITY_MAX, QUALITY_MIN, RATE_DISTORTION_SLOPE, LoocConfig
from looc_codec.errors import ModelError

METRICS = ("mse", "ms-ssim")
MS_SSIM_IN_MSE = 1300.0
"""MSE (0..255 scale) that a loss of 1 of MS-SSIM stands for, so that a quality keeps about its rate: models trained for the
one or the other are commonly compared at weights in this proportion (0.0018 x 255^2 and 2.4 up to 0.0483 x 255^2 and 60.5)."""
MSE_SHARE = 0.1
"""Part of the MSE in the distortion "ms-ssim": structure alone leaves brightness and colour of flat areas free to drift."""
MS_SSIM_MIN_SIDE = 161
"""Pixels: the window of 11 has to fit four times halved pictures."""


def distortion_weight(config: LoocConfig, quality: Tensor) -> Tensor:
    """lambda of each quality `(B,)`: bits per pixel that one unit of MSE (0..255 scale) is worth."""
    position = (quality - QUALITY_MIN) / (QUALITY_MAX - QUALITY_MIN)
    step = config.step_coarsest * (config.step_finest / config.step_coarsest) ** position
    return RATE_DISTORTION_SLOPE / step**2


def mean_squared_error(decoded: Tensor, pixels: Tensor) -> Tensor:
    """MSE of each picture of `(B, 3, H, W)`: `(B,)`."""
    return (decoded - pixels).square().mean((1, 2, 3))


def distortion(metric: str, decoded: Tensor, pixels: Tensor) -> Tensor:
    """What a metric of `METRICS` says of each picture of `(B, 3, H, W)` float32 (0..255), in units of MSE: `(B,)`."""
    error = mean_squared_error(decoded, pixels)
    if metric == "mse":
        return error
    from pytorch_msssim import ms_ssim

    shown = decoded.float().clone()
    if shown.requires_grad:
        # A scale whose structures are opposed counts as 0, and the power of 0 has no finite slope: such a picture has none.
        shown.register_hook(lambda gradient: torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0))
    # Products of the five scales need float32.
    with torch.autocast(pixels.device.type, enabled=False):
        structure = 1 - ms_ssim(shown, pixels.float(), data_range=255.0, size_average=False)
    return MSE_SHARE * error + (1 - MSE_SHARE) * MS_SSIM_IN_MSE * structure


def require_metric(metric: str, crop: int) -> None:
    """ModelError unless crops of `crop` pixels can be trained for `metric`."""
    if metric not in METRICS:
        raise ModelError(f"there is no metric {metric}; choose {' or '.join(METRICS)}")
    if metric == "mse":
        return
    if crop < MS_SSIM_MIN_SIDE:
        raise ModelError(f"MS-SSIM needs crops of at least 176 pixels, not {crop}; give --crop 192")
    try:
        import pytorch_msssim  # noqa: F401
    except ImportError:
        raise ModelError("training for MS-SSIM needs the package pytorch-msssim: pip install 'looc[train]'") from None
