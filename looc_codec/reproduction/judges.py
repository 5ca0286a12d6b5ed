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
from torch import nn

from looc_codec.errors import ModelError

VGG_WEIGHTS = "vgg16-*.pth"
INCEPTION_WEIGHTS = "pt_inception-*.pth"
FEATURES = 2048
FEATURE_BATCH = 50


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
def lpips_network(device: str = "cpu") -> nn.Module:
    """LPIPS on VGG-16 with its published weights on a device: pictures in -1..1 → distance `(B, 1, 1, 1)`.

    One network for each device, never moved: training on one and measuring on the CPU go on side by side.

    Raises:
        ModelError: the package or the weights are missing.
    """
    reason = lpips_missing()
    if reason is not None:
        raise ModelError(f"the perceptual loss (LPIPS) cannot be used: {reason}; --no-perceptual trains without it")
    import lpips

    return lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False).to(device)


@functools.cache
def inception_network() -> nn.Module:
    """Inception v3 with the weights of FID: pictures in 0..1 → `[(B, 2048, 1, 1)]`; it resizes to 299 × 299 itself."""
    reason = inception_missing()
    if reason is not None:
        raise ModelError(f"rFID cannot be computed: {reason}")
    from pytorch_fid.inception import InceptionV3

    return InceptionV3([InceptionV3.BLOCK_INDEX_BY_DIM[FEATURES]]).eval()


@torch.inference_mode()
def lpips_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """LPIPS `(n,)` of two sets of pictures `(n, H, W, 3)` uint8 at their own size."""
    pair = (torch.from_numpy(part.transpose(0, 3, 1, 2).astype(np.float32)) / 127.5 - 1 for part in (first, second))
    return lpips_network()(*pair).flatten().double().numpy()


@torch.inference_mode()
def inception_features(pictures: np.ndarray, first_resize: int | None) -> np.ndarray:
    """Features `(n, 2048)` float64 of pictures `(n, H, W, 3)` uint8.

    `first_resize` is the side to which Pillow resizes (bilinear, antialiased) before Inception resizes to 299: the
    released evaluation takes 229; None leaves resizing to Inception.
    """
    features = []
    for part in np.array_split(pictures, -(-len(pictures) // FEATURE_BATCH)):
        if first_resize is not None:
            size = (first_resize, first_resize)
            part = np.stack([np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)) for picture in part])
        tensor = torch.from_numpy(part.transpose(0, 3, 1, 2).astype(np.float32)) / 255
        features.append(inception_network()(tensor)[0].flatten(1).double().numpy())
    return np.concatenate(features)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of two sets of features `(n, f)`, taken as Gaussian, by pytorch-fid."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    statistics = [part for features in (first, second) for part in (features.mean(0), np.cov(features, rowvar=False))]
    return float(calculate_frechet_distance(*statistics))
