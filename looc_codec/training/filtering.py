"""The picture's own filter (format/filter.py) in the loop of training: fitted to each crop by least
squares before its error is taken.

A synthesis that is trained behind it need not mend what the filter will. The taps are where the
squared error has its minimum, so its gradient with respect to them is zero, and no gradient passes
through the fit.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from looc_codec.config import COLOUR_AXES
from looc_codec.format.filter import (
    AXES,
    AXIS_TAPS,
    FEATURES,
    GREY_CENTRE,
    REACH,
    window_maps,
)
from looc_codec.networks.transforms import without_tf32

RIDGE = 1e-3
"""Part of each feature's energy that is added to it: a file's taps cost bits, so those that bring
little are left out there."""


@functools.lru_cache(maxsize=4)
def constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Colour axes `(3, 3)`, windows of the 27 features `(27, 1, 5, 5)` and each axis's features
    `(3, 18)`. Kept, because a recorded step cannot fetch numbers from the host."""
    with torch.inference_mode(False):
        maps = torch.from_numpy(window_maps()).float().repeat(AXES, 1, 1)[:, None]
        return (
            torch.tensor(COLOUR_AXES).to(device),
            maps.to(device),
            torch.tensor(FEATURES).view(AXES, AXIS_TAPS).to(device),
        )


def features_of(decoded: Tensor) -> Tensor:
    """The 28 features of each pixel of pictures `(B, 3, H, W)` of 0..255: `(B, 28, H * W)`, as
    codec/wiener.py has them."""
    axes, maps, _ = constants(decoded.device)
    values = torch.einsum(
        "as,bsyx->bayx", axes, F.pad(decoded - GREY_CENTRE, (REACH,) * 4, mode="replicate")
    )
    with without_tf32():
        features = F.conv2d(values, maps, groups=AXES).flatten(2)
    return torch.cat([features, torch.ones_like(features[:, :1])], 1)


def solved(products: Tensor, errors: Tensor) -> Tensor:
    """x of products x = errors, `(..., n, n)` and `(..., n)`, symmetric and positive definite. By
    elimination, since solvers of a GPU's library make the host wait."""
    rows = torch.cat([products, errors[..., None]], -1)
    for index in range(products.shape[-1]):
        pivot = rows[..., index, :] / rows[..., index, index, None]
        rows = rows - rows[..., :, index, None] * pivot[..., None, :]
        rows = torch.cat([rows[..., :index, :], pivot[..., None, :], rows[..., index + 1 :, :]], -2)
    return rows[..., -1]


def filtered(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Decoded pictures `(B, 3, H, W)` float32 of 0..255 through the filter that brings each nearest
    to its `pixels`, as large."""
    with torch.autocast(decoded.device.type, enabled=False):
        axes, _, chosen = constants(decoded.device)
        features = features_of(decoded)
        with torch.no_grad():
            # What is beyond 0 and 255 is cut off, so there is nothing to mend.
            missed = torch.einsum("as,bsyx->bayx", axes, pixels - decoded.clamp(0, 255)).flatten(2)
            scale = features.square().mean(2).sqrt().clamp_min(1e-3)
            even = features / scale[..., None]
            count = even.shape[2]
            products, errors = even @ even.mT / count, missed @ even.mT / count
            own = products[:, chosen[:, :, None], chosen[:, None, :]] + RIDGE * torch.eye(
                AXIS_TAPS, device=decoded.device
            )
            taps = solved(own, errors.gather(2, chosen.expand(len(decoded), -1, -1)))
            weights = (
                torch.zeros_like(errors).scatter(2, chosen.expand(len(decoded), -1, -1), taps)
                / scale[:, None]
            )
        change = (weights @ features).view_as(decoded)
        return decoded + torch.einsum("as,bayx->bsyx", axes, change)
