"""A model of the paper's kind as a codec uses it: one codebook, tables and two networks, never changed after it is
made.

The format-critical part of its weights file is what an index stands for and how it is written: codevectors and
tables. The networks may improve without breaking a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from looc_codec.codec.engine import Graph
from looc_codec.codec.model import StoredModel, read_stored
from looc_codec.codec.packing import pack_frequencies, unpack_frequencies
from looc_codec.errors import ModelError
from looc_codec.format.index_grid import (
    KIND,
    TABLE_BITS,
    GridCoder,
    GridConfig,
    GridTables,
    fingerprint_of,
)
from looc_codec.quality import PLAIN, QualityScale

ANALYSIS, SYNTHESIS = "analysis", "synthesis"
"""The graphs: pixels `(1, c, H, W)` of 0..255 to what units are cut from, `(1, m d*, f h, f w)`; and the same,
quantised, to pixels."""

ONLY_LEVEL = 50
"""What the header of a file says, since its field has to say something: the middle of the scale. Readers take no
notice of it."""


def core_of(codevectors: np.ndarray, tables: GridTables) -> dict[str, np.ndarray]:
    """The format-critical tensors of codevectors `(K, d*)` and tables, as they are stored."""
    return {
        "codebook.codevectors": codevectors.astype(np.float32),
        "tables.classes": tables.classes,
        "tables.sources": tables.sources,
        "tables.rows": tables.rows,
        "tables.frequencies": pack_frequencies(tables.frequencies),
    }


class GridModel(StoredModel):
    """A model that codes pictures as index grids. Raises ModelError where its parts are not those of one model."""

    kind = KIND
    only_levels = (ONLY_LEVEL,)
    config: GridConfig

    def __init__(
        self,
        config: GridConfig,
        core: Mapping[str, np.ndarray],
        transforms: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, ...]],
        graphs: Mapping[str, Graph],
        description: str = "",
        quality_scale: QualityScale = PLAIN,
    ) -> None:
        self._require(config, core, graphs)
        super().__init__(config, dict(core), transforms, shapes, graphs, description, quality_scale)
        self.fingerprint = fingerprint_of(config, self.core)
        frequencies = unpack_frequencies(core["tables.frequencies"], 2**TABLE_BITS)
        self.coder = GridCoder(
            GridTables(core["tables.classes"], core["tables.sources"], core["tables.rows"], frequencies)
        )
        self.codevectors = self.core["codebook.codevectors"]

    @staticmethod
    def _require(config: GridConfig, core: Mapping[str, np.ndarray], graphs: Mapping[str, Graph]) -> None:
        planes, size = config.planes, config.codebook_size
        width = core["tables.rows"].shape[-1] if "tables.rows" in core and core["tables.rows"].ndim == 3 else 0
        rows = (
            len(core["tables.frequencies"])
            if "tables.frequencies" in core and core["tables.frequencies"].ndim == 2
            else 0
        )
        expected = {
            "codebook.codevectors": ("float32", (size, config.codevector_dim)),
            "tables.classes": ("uint8", (planes, size)),
            "tables.sources": ("int16", (planes, 2)),
            "tables.rows": ("int32", (planes, width, width)),
            "tables.frequencies": ("int16", (rows, size)),
        }
        found = {name: (value.dtype.name, value.shape) for name, value in core.items()}
        if found != expected:
            wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise ModelError(
                f"the weights file holds other tensors than its configuration needs ({', '.join(wrong[:3])})"
            )
        if not np.isfinite(core["codebook.codevectors"]).all():
            raise ModelError("the weights file holds codevectors that are not finite numbers")
        if set(graphs) != {ANALYSIS, SYNTHESIS}:
            raise ModelError(
                f"the weights file holds other networks ({', '.join(sorted(graphs)) or 'none'}) than"
                f" {ANALYSIS} and {SYNTHESIS}"
            )


def read_grid_model(path: Path) -> GridModel:
    """Reads a weights file of a model of the paper's kind; every other or malformed file raises ModelError."""
    return read_stored(path, GridModel, GridConfig.from_dict)
