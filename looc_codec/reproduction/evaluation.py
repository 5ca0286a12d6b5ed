"""How good reconstructions are, measured as the papers' code does it and measured cleanly.

"paper" (CVQ and LooC, released code): reconstruction and original are both truncated to 8 bits, gray copied to three
channels, stored as JPEG of quality 75 and read back, so both sides carry JPEG's loss; low rows gain by it and high rows
lose. l1 and PSNR on 0..1 per picture, SSIM with a uniform 11 × 11 window and the mean over channels, LPIPS (VGG) at the
pictures' own size, FID after a resize to 229.

"clean": rounded to the nearest 8-bit value, compared with the true original, one channel for gray. SSIM has a Gaussian
window of sigma 1.5, FID no resize but Inception's own.

All values are means over pictures except rFID and the pooled PSNR of "clean".
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from looc_codec.reproduction.judges import frechet_distance, inception_features, inception_missing, lpips_missing, lpips_of

PROTOCOLS = ("paper", "clean")
JPEG_QUALITY = 75
PAPER_FID_SIDE = 229
SSIM_WINDOW = 11
LEAST_ERROR = 1e-10
"""Squared error (0..1 scale) below which PSNR stops at 100 dB: equal pictures have no finite one."""
BATCH = 512
FEWEST_FOR_FID = 2048
"""Below the number of features their covariance is singular and the distance says little."""


@dataclass(frozen=True)
class Quality:
    """`values` by metric (l1, SSIM, PSNR, clean also PSNR_pooled, LPIPS, rFID); `reasons` why one of them is missing."""

    values: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)


def truncated(pictures: np.ndarray) -> np.ndarray:
    """Network values `(n, c, H, W)`, about -1..1 → `(n, H, W, c)` uint8 as the papers' code: cut off, not rounded."""
    return _bytes_of(np.clip((pictures.astype(np.float32) + 1) / 2, 0, 1) * np.float32(255))


def rounded(pictures: np.ndarray) -> np.ndarray:
    """Network values `(n, c, H, W)`, about -1..1 → `(n, H, W, c)` uint8, nearest."""
    return _bytes_of(np.round(np.clip((pictures.astype(np.float32) + 1) / 2, 0, 1) * np.float32(255)))


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.astype(np.uint8).transpose(0, 2, 3, 1))


def through_jpeg(pictures: np.ndarray, quality: int = JPEG_QUALITY) -> np.ndarray:
    """`(n, H, W, c)` uint8 → `(n, H, W, 3)` uint8 after JPEG with 4:2:0, the papers' image writer's default."""
    found = np.empty((*pictures.shape[:3], 3), np.uint8)
    for index, picture in enumerate(np.broadcast_to(pictures, found.shape)):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        found[index] = np.asarray(Image.open(file))
    return found


def uniform_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """SSIM `(n,)` of pictures `(n, H, W, c)` uint8 with a uniform 11 × 11 window: the defaults of scikit-image.

    K1 = 0.01, K2 = 0.03, sample covariance, mean over windows that lie inside, then over channels. One batch of
    convolutions in place of a call for each of 10,000 pictures; the tests hold both side by side.
    """
    samples = SSIM_WINDOW**2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for start in range(0, len(first), BATCH):
        x, y = (torch.from_numpy(part[start : start + BATCH].transpose(0, 3, 1, 2).astype(np.float64)) for part in (first, second))
        mean_x, mean_y, xx, yy, xy = (functional.avg_pool2d(part, SSIM_WINDOW, 1) for part in (x, y, x * x, y * y, x * y))
        factor = samples / (samples - 1)
        var_x, var_y, covariance = factor * (xx - mean_x**2), factor * (yy - mean_y**2), factor * (xy - mean_x * mean_y)
        ssim = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
        found.append(ssim.mean((1, 2, 3)).numpy())
    return np.concatenate(found)


def gaussian_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """SSIM `(n,)` of pictures `(n, H, W, c)` uint8 with a Gaussian window, 11 × 11, sigma 1.5, by pytorch-msssim."""
    import pytorch_msssim

    found = []
    for start in range(0, len(first), BATCH):
        pair = (torch.from_numpy(part[start : start + BATCH].transpose(0, 3, 1, 2).astype(np.float64)) for part in (first, second))
        found.append(pytorch_msssim.ssim(*pair, data_range=255.0, size_average=False).numpy())
    return np.concatenate(found)


def errors(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute and mean squared error `(n,)` of each picture, on the scale 0..1."""
    absolute, squared = [], []
    for start in range(0, len(first), BATCH):
        difference = (first[start : start + BATCH].astype(np.float64) - second[start : start + BATCH]) / 255
        absolute.append(np.abs(difference).mean((1, 2, 3)))
        squared.append((difference**2).mean((1, 2, 3)))
    return np.concatenate(absolute), np.concatenate(squared)


def psnr_of(squared_error: np.ndarray | float) -> np.ndarray:
    """PSNR in dB of mean squared errors on the scale 0..1; at most 100."""
    return -10 * np.log10(np.maximum(squared_error, LEAST_ERROR))


class QualityMeter:
    """Adds up the quality of pictures chunk by chunk under one of `PROTOCOLS`, so that large sets need no large memory.

    `pictures` is how many there will be: too few have no rFID.
    """

    def __init__(self, protocol: str, pictures: int) -> None:
        self.protocol = protocol
        self.parts: dict[str, list[np.ndarray]] = {"l1": [], "squared": [], "SSIM": []}
        self.lpips, self.features = [], ([], [])
        few = f"rFID of {pictures} pictures says little; it needs {FEWEST_FOR_FID} or more" if pictures < FEWEST_FOR_FID else None
        self.reasons = {name: reason for name, reason in (("LPIPS", lpips_missing()), ("rFID", few or inception_missing())) if reason is not None}

    def add(self, originals: np.ndarray, decoded: np.ndarray) -> None:
        """Network outputs `decoded` `(n, c, H, W)`, about -1..1, for originals `(n, H, W, c)` uint8."""
        if self.protocol == "paper":
            # The original takes the same way through floating point, where truncation may lose a step.
            network_values = (originals.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
            first, second = through_jpeg(truncated(network_values)), through_jpeg(truncated(decoded))
        else:
            first, second = originals, rounded(decoded)
        absolute, squared = errors(first, second)
        ssim = uniform_ssim if self.protocol == "paper" else gaussian_ssim
        for name, values in (("l1", absolute), ("squared", squared), ("SSIM", ssim(first, second))):
            self.parts[name].append(values)
        first, second = (np.broadcast_to(part, (*part.shape[:3], 3)) for part in (first, second))
        if "LPIPS" not in self.reasons:
            self.lpips.append(lpips_of(first, second))
        if "rFID" not in self.reasons:
            for features, part in zip(self.features, (first, second), strict=True):
                features.append(inception_features(part, PAPER_FID_SIDE if self.protocol == "paper" else None))

    def quality(self) -> Quality:
        """The means over all pictures added."""
        joined = {name: np.concatenate(values) for name, values in self.parts.items()}
        values = {"l1": joined["l1"].mean(), "SSIM": joined["SSIM"].mean(), "PSNR": psnr_of(joined["squared"]).mean()}
        if self.protocol == "clean":
            values["PSNR_pooled"] = psnr_of(joined["squared"].mean())
        if self.lpips:
            values["LPIPS"] = np.concatenate(self.lpips).mean()
        if self.features[0]:
            values["rFID"] = frechet_distance(*(np.concatenate(features) for features in self.features))
        return Quality({name: float(value) for name, value in values.items()}, self.reasons)
