"""The coding order: which units are coded when, and which table row a unit has.

The channel groups come one after the other, each level by level. Most groups have two levels, the halves of a checkerboard.
The first group, whose low frequencies are most of a small file, has five: every fourth position of every fourth row, then
the positions halfway between known ones, again and again.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from looc_codec.config import LoocConfig
from looc_codec.format import constants
from looc_codec.format.constants import DETAIL_STEP_POSITIONS, PATCH, RATIO_LOG_SPAN, SCALE_LOG_LOW, SCALE_LOG_WIDTH


@dataclass(frozen=True)
class Lattice:
    """Every `stride`-th position of every `stride`-th row, from (`row`, `column`) on."""

    row: int
    column: int
    stride: int

    def of(self, grid: np.ndarray) -> np.ndarray:
        """The lattice's positions of `(..., h, w)`, as a view."""
        return grid[..., self.row :: self.stride, self.column :: self.stride]

    def count(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the lattice in the first `rows` rows and `columns` columns of a grid."""
        return -(-max(0, rows - self.row) // self.stride), -(-max(0, columns - self.column) // self.stride)

    def below(self, top: int) -> Lattice:
        """The same positions in the part of the grid that begins at row `top`."""
        return Lattice((self.row - top) % self.stride, self.column, self.stride)


@dataclass(frozen=True)
class Level:
    """One level of a group's coding order: which positions, and where their four nearest known neighbours lie.

    `neighbours` are (row, column) offsets, none for a first level; `dilation` spreads the network's 3x3 window so that it
    meets the known positions.
    """

    lattices: tuple[Lattice, ...]
    neighbours: tuple[tuple[int, int], ...] = ()
    dilation: int = 1

    @property
    def stride(self) -> int:
        return self.lattices[0].stride

    def mask(self, height: int, width: int) -> np.ndarray:
        """Which positions of a grid belong to the level: `(height, width)` bool."""
        mask = np.zeros((height, width), bool)
        for lattice in self.lattices:
            lattice.of(mask)[...] = True
        return mask


def _levels(declared: tuple[constants.Level, ...]) -> tuple[Level, ...]:
    return tuple(
        Level(tuple(Lattice(row, column, stride) for row, column in corners), neighbours, dilation)
        for corners, stride, neighbours, dilation in declared
    )


PYRAMID, CHECKERBOARD = _levels(constants.PYRAMID), _levels(constants.CHECKERBOARD)


def levels_of_group(index: int) -> tuple[Level, ...]:
    """The levels of a channel group, in coding order."""
    return PYRAMID if index == 0 else CHECKERBOARD


@functools.lru_cache(maxsize=16)
def level_positions(level: Level, height: int, width: int) -> tuple[np.ndarray, ...]:
    """For each lattice of a level: where its positions, row by row, stand among all of the level's: `(n,)` int64.

    The positions of a level are coded row by row, those of all its lattices together.
    """
    mask = level.mask(height, width)
    number = np.cumsum(mask).reshape(mask.shape) - 1
    return tuple(np.ascontiguousarray(lattice.of(number)).ravel() for lattice in level.lattices)


def row_strips(height: int, width: int, positions: int) -> list[tuple[int, int]]:
    """First and last-plus-one rows of strips of at most so many positions, or, where rows are longer, of one row."""
    rows = max(1, positions // width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def detail_steps(height: int, width: int) -> list[tuple[int, int]]:
    """First and last-plus-one rows of the steps in which details are coded."""
    return row_strips(height, width, DETAIL_STEP_POSITIONS)


def grid_size(width: int, height: int) -> tuple[int, int]:
    """Latent rows and columns of a picture of so many pixels."""
    return -(-height // PATCH), -(-width // PATCH)


def units_of(values: np.ndarray, codevector_dim: int) -> np.ndarray:
    """Channels at positions `(C, n)` → units `(C / d* * n, d*)`: the first d* channels at all positions, then the next.

    A position's channels are cut into consecutive groups of d* (LooC, section 3.2); each is one unit.
    """
    channels, count = values.shape
    parts = values.reshape(channels // codevector_dim, codevector_dim, count)
    return parts.transpose(0, 2, 1).reshape(-1, codevector_dim)


def channels_of(units: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `units_of` for `count` positions: `(C, count)`."""
    dim = units.shape[1]
    return units.reshape(-1, count, dim).transpose(0, 2, 1).reshape(-1, count)


def table_rows(log_scale: np.ndarray, config: LoocConfig) -> np.ndarray:
    """Table row of each unit from the log scales (1/32) of its channels: `(C, n)` whole numbers → `(C / d* * n,)` uint16.

    The row is the class of the mean log scale, and of the ratio of the two scales where the model has ratio classes.
    """
    dim, count = config.codevector_dim, log_scale.shape[1]
    parts = log_scale.astype(np.int32).reshape(-1, dim, count)
    row = parts.sum(1)
    row *= 2
    row -= dim * SCALE_LOG_LOW
    row //= dim * SCALE_LOG_WIDTH
    np.clip(row, 0, config.scale_classes - 1, out=row)
    if config.ratio_classes > 1:
        half, width = config.ratio_classes // 2, RATIO_LOG_SPAN // config.ratio_classes
        ratio = parts[:, 0] - parts[:, 1]
        ratio += width // 2
        ratio //= width
        np.clip(ratio, -half, half, out=ratio)
        row *= config.ratio_classes
        row += ratio
        row += half
    return row.astype(np.uint16).ravel()
