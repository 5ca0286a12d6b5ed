"""Metrics of one decoded picture against its original, each from a well-kept library, on 8-bit RGB.

A metric whose library or weights are not here is an empty cell with the reason, never a number from random weights.
"""

from __future__ import annotations

import functools
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import numpy as np
from PIL import Image

from looc_codec import metrics
from looc_codec.errors import LoocError


class MetricError(LoocError):
    """A metric that a report does not know, or that fails on a picture."""


@dataclass(frozen=True)
class Metric:
    """How a metric is named, read and computed.

    `compute` takes two `(H, W, 3)` uint8 pictures; ValueError says why this picture has no value. `missing` gives the
    reason why the metric cannot be computed here, None when it can. `source` names the library with its version.
    """

    name: str
    key: str
    label: str
    unit: str
    decimals: int
    higher_is_better: bool
    compute: Callable[[np.ndarray, np.ndarray], float]
    missing: Callable[[], str | None]
    source: Callable[[], str]

    @property
    def axis(self) -> str:
        return f"{self.label}, {self.unit}" if self.unit else self.label


def _psnr(first: np.ndarray, second: np.ndarray) -> float:
    value = metrics.psnr_db(first, second)
    if math.isinf(value):
        raise ValueError("the decoded picture is equal to the original")
    return value


def _ms_ssim_db(first: np.ndarray, second: np.ndarray) -> float:
    value = metrics.ms_ssim_db(metrics.ms_ssim(first, second))
    if math.isinf(value):
        raise ValueError("the decoded picture is equal to the original")
    return value


def _butteraugli(first: np.ndarray, second: np.ndarray) -> float:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in ("first.png", "second.png")]
        for path, picture in zip(paths, (first, second), strict=True):
            Image.fromarray(picture).save(path, compress_level=1)
        done = subprocess.run(["butteraugli_main", *paths], capture_output=True, text=True, timeout=600, check=False)
    found = re.search(r"3-norm:\s*([0-9.eE+-]+)", done.stdout)
    if done.returncode or found is None:
        raise ValueError(f"butteraugli_main failed: {(done.stderr or done.stdout).strip()[-200:]}")
    return float(found.group(1))


def _unit_tensor(picture: np.ndarray) -> object:
    import torch

    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None] / 255


@functools.cache
def _lpips_network() -> object:
    import lpips

    return lpips.LPIPS(net="alex", verbose=False).eval()


def _lpips(first: np.ndarray, second: np.ndarray) -> float:
    import torch

    with torch.inference_mode():
        return float(_lpips_network()(_unit_tensor(first), _unit_tensor(second), normalize=True))


@functools.cache
def _dists_network() -> object:
    from DISTS_pytorch import DISTS

    return DISTS().eval()


def _dists(first: np.ndarray, second: np.ndarray) -> float:
    import torch

    with torch.inference_mode():
        return float(_dists_network()(_unit_tensor(first), _unit_tensor(second)))


def _fid(first: np.ndarray, second: np.ndarray) -> float:
    raise ValueError("FID is no metric of one picture")


def _package(module: str, name: str) -> Callable[[], str | None]:
    return lambda: None if util.find_spec(module) else f"the package {name} is not installed (pip install {name})"


def _backbone(module: str, name: str, checkpoint: str, network: str) -> Callable[[], str | None]:
    """A metric on top of a network of torchvision, whose weights must lie in torch's cache: a report downloads nothing."""

    def reason() -> str | None:
        for needed, package in ((module, name), ("torchvision", "torchvision")):
            if util.find_spec(needed) is None:
                return f"the package {package} is not installed (pip install {package})"
        from torch import hub

        if not list(Path(hub.get_dir(), "checkpoints").glob(checkpoint)):
            return f"the weights of {network} are not in torch's cache, and a report downloads nothing"
        return None

    return reason


def _version(name: str) -> Callable[[], str]:
    return lambda: f"{name} {metadata.version(name)}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "psnr_db", "PSNR", "dB", 2, True, _psnr, lambda: None, lambda: "looc_codec.metrics, RGB"),
        Metric(
            "ms-ssim", "ms_ssim_db", "MS-SSIM", "dB", 2, True, _ms_ssim_db,
            _package("pytorch_msssim", "pytorch-msssim"), _version("pytorch-msssim"),
        ),
        Metric(
            "ssimulacra2", "ssimulacra2", "SSIMULACRA 2", "", 1, True, metrics.ssimulacra2,
            _package("ssimulacra2", "ssimulacra2"), _version("ssimulacra2"),
        ),
        Metric(
            "butteraugli", "butteraugli_3norm", "Butteraugli", "3-norm", 3, False, _butteraugli,
            lambda: None if shutil.which("butteraugli_main") else "butteraugli_main is not installed (Debian: libjxl-devtools)",
            lambda: "butteraugli_main",
        ),
        Metric(
            "lpips", "lpips", "LPIPS", "AlexNet", 4, False, _lpips,
            _backbone("lpips", "lpips", "alexnet-*.pth", "AlexNet"), _version("lpips"),
        ),
        Metric(
            "dists", "dists", "DISTS", "", 4, False, _dists,
            _backbone("DISTS_pytorch", "dists-pytorch", "vgg16-*.pth", "VGG-16"), _version("dists-pytorch"),
        ),
        Metric(
            "fid", "fid", "FID", "", 2, False, _fid,
            lambda: "FID compares two sets of thousands of pictures; it says nothing about a folder of this size", lambda: "none",
        ),
    )
}
"""Metrics by the name that the command takes. MS-SSIM is kept in dB, -10 log10(1 - value)."""

DEFAULT_METRICS = ("psnr", "ms-ssim", "ssimulacra2")


def parse_metrics(text: str) -> list[str]:
    """Metric names of a comma-separated list, each once; PSNR is always the first.

    >>> parse_metrics("ssimulacra2")
    ['psnr', 'ssimulacra2']

    Raises:
        MetricError: a name is unknown.
    """
    names = list(dict.fromkeys(["psnr", *(part.strip().lower() for part in text.split(",") if part.strip())]))
    for name in names:
        if name not in METRICS:
            raise MetricError(f"unknown metric {name!r}; known are {', '.join(METRICS)}")
    return names
