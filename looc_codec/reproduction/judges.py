"""Networks that judge pictures, LPIPS and Inception: from their own packages and their published weights only.

Where a package or its weights are missing, the answer is the reason, never a number from random weights. Nothing is
downloaded: weights must lie in torch's cache.
"""

from __future__ import annotations

import functools
from importlib import util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from looc_codec.errors import ModelError

VGG_WEIGHTS = "vgg16-*.pth"
INCEPTION_WEIGHTS = "pt_inception-*.pth"
FEATURES = 2048


def lpips_missing() -> str | None:
    """Why LPIPS (VGG) cannot be computed here; None when it can."""
    return _missing(("lpips", "torchvision"), VGG_WEIGHTS, "VGG-16")


def inception_missing() -> str | None:
    """Why rFID cannot be computed here; None when it can."""
    return _missing(("pytorch_fid", "torchvision"), INCEPTION_WEIGHTS, "the FID Inception network")


def _missing(packages: tuple[str, ...], checkpoint: str, network: str) -> str | None:
    for package in packages:
        if util.find_spec(package) is None:
            name = package.replace("_", "-")
            return f"the package {name} is not installed (pip install {name})"
    if not list(Path(torch.hub.get_dir(), "checkpoints").glob(checkpoint)):
        return f"the weights of {network} are not in torch's cache, and nothing is downloaded"
    return None


@functools.cache
def lpips_network() -> nn.Module:
    """LPIPS on VGG-16 with its published weights: pictures in -1..1 → distance `(B, 1, 1, 1)`.

    Raises:
        ModelError: the package or the weights are missing.
    """
    reason = lpips_missing()
    if reason is not None:
        raise ModelError(f"the perceptual loss (LPIPS) cannot be used: {reason}")
    import lpips

    return lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)


@functools.cache
def inception_network() -> nn.Module:
    """Inception v3 with the weights of FID: pictures in 0..1 → `[(B, 2048, 1, 1)]`; it resizes to 299 × 299 itself."""
    reason = inception_missing()
    if reason is not None:
        raise ModelError(f"rFID cannot be computed: {reason}")
    from pytorch_fid.inception import InceptionV3

    return InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]]).eval()


@torch.inference_mode()
def mean_lpips(first: np.ndarray, second: np.ndarray, batch: int = 256) -> float:
    """Mean LPIPS of two sets of pictures `(n, H, W, 3)` uint8 at their own size."""
    network = lpips_network()
    total = 0.0
    for start in range(0, len(first), batch):
        pair = (torch.from_numpy(part[start : start + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1 for part in (first, second))
        total += float(network(*pair).sum())
    return total / len(first)


def frechet_inception_distance(first: np.ndarray, second: np.ndarray, first_resize: int | None = None) -> float:
    """FID of two sets of pictures `(n, H, W, 3)` uint8 by pytorch-fid.

    `first_resize` is the side to which Pillow resizes (bilinear, antialiased) before Inception resizes to 299: the
    released evaluation takes 229; None leaves resizing to Inception.
    """
    network = inception_network()
    from pytorch_fid.fid_score import calculate_frechet_distance

    statistics = []
    for pictures in (first, second):
        features = inception_features(network, pictures, first_resize)
        statistics += [features.mean(0), np.cov(features, rowvar=False)]
    return float(calculate_frechet_distance(*statistics))


@torch.inference_mode()
def inception_features(network: nn.Module, pictures: np.ndarray, first_resize: int | None, batch: int = 50) -> np.ndarray:
    """Features `(n, 2048)` float64 of pictures `(n, H, W, 3)` uint8."""
    features: list[np.ndarray] = []
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        if first_resize is not None:
            size = (first_resize, first_resize)
            part = np.stack([np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)) for picture in part])
        tensor: Tensor = torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2).float() / 255
        features.append(network(tensor)[0].flatten(1).double().numpy())
    return np.concatenate(features)
