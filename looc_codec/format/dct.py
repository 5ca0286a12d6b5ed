"""The colour DCT of 16x16 blocks: the basis in which details are coded, and from which the transforms of a fresh model start."""

from __future__ import annotations

import functools
import math

import numpy as np

from looc_codec.config import COLOUR_AXES
from looc_codec.format.constants import PATCH


@functools.lru_cache(maxsize=1)
def dct_kernels() -> np.ndarray:
    """Basis images of the colour DCT: `(768, 3, 16, 16)` float32, orthonormal; by colour axis, then vertical frequency,
    then horizontal."""
    position = np.arange(PATCH)
    dct = np.cos(math.pi * (position[None] + 0.5) * position[:, None] / PATCH) * math.sqrt(2 / PATCH)
    dct[0] /= math.sqrt(2)
    kernels = np.einsum("oc,ui,vj->ouvcij", np.array(COLOUR_AXES), dct, dct).reshape(3 * PATCH**2, 3, PATCH, PATCH)
    kernels = kernels.astype(np.float32)
    kernels.flags.writeable = False
    return kernels
