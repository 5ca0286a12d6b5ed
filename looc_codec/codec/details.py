"""Details: what the synthesis leaves over in channels of the DCT that the latent does not have, as further units of the codebook.

The latent has 384 of the 768 channels of a position, and most of those left out are colour. At low rates their share of the
error is small; at level 80 it is 31%, at 100 46% (validation pictures), and no finer step of the latent takes it off. So from
a level on the encoder takes the 16x16 DCT of the error of its own synthesis, and codes the channels with the most energy
beyond a step by the same codebook and tables. Their scales are predicted, in exact integers as in the prior, from the
magnitudes of the decoded latent around; their means are zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from looc_codec.codec.engine import Engine
from looc_codec.codec.model import CodecModel
from looc_codec.codec.prior import companded
from looc_codec.format.constants import LATENT_LIMIT, LATENT_ONE, PATCH
from looc_codec.format.dct import dct_kernels
from looc_codec.format.order import channels_of, detail_steps, table_rows, units_of

HALO = 1
"""Rows and columns around a position that its scales depend on."""

DetailCoder = Callable[[slice, np.ndarray], np.ndarray]
"""Gets a step's rows of positions and the table rows `(n,)` uint16 of its units; returns their values `(n, d*)` int32."""


def traverse_details(model: CodecModel, engine: Engine, latent: np.ndarray, level: int, code: DetailCoder) -> np.ndarray:
    """Visits every unit of the details in coding order, step by step, and hands it to `code`.

    `latent` `(d, h, w)` int16 is the decoded latent. Returns details `(detail_channels, h, w)` int16 in 1/16 steps. Exact.
    """
    config, (_, height, width) = model.config, latent.shape
    channels = config.detail_channels
    quality_row, base = (model.quality_row(f"details.{name}", level) for name in ("quality", "quality_log_scale"))
    details = np.zeros((channels, height, width), np.int16)
    for top, bottom in detail_steps(height, width):
        y0, y1 = max(0, top - HALO), min(height, bottom + HALO)
        magnitudes = np.abs(companded(model, latent[:, y0:y1])).astype(np.float32)[None]
        (log_scale,) = engine.run("details.scales", (1, channels, y1 - y0, width), magnitudes=magnitudes, quality_row=quality_row, base=base)
        rows = table_rows(log_scale[0, :, top - y0 : bottom - y0].reshape(channels, -1), config)
        values = channels_of(code(slice(top, bottom), rows), (bottom - top) * width)
        details[:, top:bottom] = np.clip(values, -LATENT_LIMIT, LATENT_LIMIT).reshape(channels, bottom - top, width)
    return details


def detail_units(details: np.ndarray, codevector_dim: int) -> np.ndarray:
    """Units `(n, d*)` of a step's details `(detail_channels, rows, w)`."""
    return units_of(details.reshape(len(details), -1), codevector_dim)


def _kernels(model: CodecModel) -> np.ndarray:
    """Basis images of the model's details as rows: `(detail_channels, 768)`, by colour plane, row and column."""
    return dct_kernels()[model.core["details.chosen"]].reshape(model.config.detail_channels, -1)


def analyse_error(model: CodecModel, error: np.ndarray, level: int) -> np.ndarray:
    """Errors of pixels `(3, 16h, 16w)` float32 → details `(detail_channels, h, w)` float32 in steps of the level."""
    height, width = error.shape[1] // PATCH, error.shape[2] // PATCH
    blocks = error.reshape(3, height, PATCH, width, PATCH).transpose(0, 2, 4, 1, 3).reshape(3 * PATCH**2, -1)
    found = _kernels(model) @ blocks
    found /= np.float32(model.config.step(level))
    return found.reshape(-1, height, width)


def synthesise_details(model: CodecModel, details: np.ndarray, level: int) -> np.ndarray:
    """Decoded details `(detail_channels, h, w)` int16 in 1/16 steps → what they add to the pixels, `(3, 16h, 16w)` float32."""
    _, height, width = details.shape
    scaled = details.reshape(len(details), -1).astype(np.float32)
    scaled *= np.float32(model.config.step(level) / LATENT_ONE)
    blocks = (_kernels(model).T @ scaled).reshape(3, PATCH, PATCH, height, width)
    return blocks.transpose(0, 3, 1, 4, 2).reshape(3, height * PATCH, width * PATCH)
