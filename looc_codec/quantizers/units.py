"""The layout of units: how a latent is cut into the vectors that one shared codebook quantises, and put together again.

A position's d channels are cut into m = d / d* consecutive groups (LooC, section 3.2); each group is one unit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def units_of(latent: Tensor, dim: int) -> Tensor:
    """`(B, C, h, w)` → `(B * C/dim * h * w, dim)`."""
    batch, channels, height, width = latent.shape
    return latent.view(batch, channels // dim, dim, height, width).permute(0, 1, 3, 4, 2).reshape(-1, dim)


def latent_of(units: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of `units_of` for a latent of `shape` `(B, C, h, w)`."""
    batch, channels, height, width = shape
    dim = units.shape[1]
    return units.view(batch, channels // dim, height, width, dim).permute(0, 1, 4, 2, 3).reshape(shape)
