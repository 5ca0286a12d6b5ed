"""The Gaussian window that structure is compared under: 11 x 11 pixels, sigma 1.5, in MS-SSIM and in SSIMULACRA 2 alike."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS, SIGMA = 5, 1.5
"""Pixels."""
BLOCK = 32
"""Pixels of a row that one product of matrices takes at once: 16, 32 and 64 take 139, 83 and 131 ms for 12 maps of 777 x 771."""


class _Blur(torch.autograd.Function):
    """`blurred`: with zeros around the maps an even window is its own adjoint, so nothing has to be kept."""

    @staticmethod
    def forward(ctx: object, maps: Tensor) -> Tensor:
        return _blur(maps)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _blur(gradient)


def blurred(maps: Tensor) -> Tensor:
    """Maps `(..., h, w)` float32 under the window with zeros around them: as large."""
    return _Blur.apply(maps)


def coverage(maps: Tensor) -> Tensor:
    """Share of the window that lies within maps `(..., h, w)`, at each pixel: `(h, w)`."""
    window = _windows(maps.device)[: 2 * RADIUS + 1, 0].view(1, 1, -1)
    rows, columns = (F.conv1d(maps.new_ones(1, 1, side), window, padding=RADIUS)[0, 0] for side in maps.shape[-2:])
    return rows[:, None] * columns


def _blur(maps: Tensor) -> Tensor:
    # A product with the matrix of neighbouring windows takes a quarter of the time that a convolution of single channels takes on a CPU.
    windows, (height, width) = _windows(maps.device), maps.shape[-2:]
    rows = F.pad(maps, (RADIUS, RADIUS + -width % BLOCK)).unfold(-1, BLOCK + 2 * RADIUS, BLOCK) @ windows
    columns = F.pad(rows.flatten(-2)[..., :width], (0, 0, RADIUS, RADIUS + -height % BLOCK)).unfold(-2, BLOCK + 2 * RADIUS, BLOCK)
    return (windows.T @ columns.transpose(-1, -2)).flatten(-3, -2)[..., :height, :]


@functools.lru_cache(maxsize=4)
def _windows(device: torch.device) -> Tensor:
    """The windows of `BLOCK` neighbouring pixels, `(BLOCK + 2 RADIUS, BLOCK)`. Kept, because a recorded step cannot fetch numbers from the host."""
    with torch.inference_mode(False):
        offset = torch.arange(BLOCK + 2 * RADIUS)[:, None] - torch.arange(BLOCK) - RADIUS
        window = torch.exp(-(offset.double() ** 2) / (2 * SIGMA**2)) * (offset.abs() <= RADIUS)
        return (window / window.sum(0)).float().to(device)
