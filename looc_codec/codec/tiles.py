"""Tiles: how a grid is worked on part by part, so that memory is bounded whatever the picture's size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from looc_codec import progress


@dataclass(frozen=True)
class Tile:
    """Rows `top` to `bottom` less one and columns `left` to `right` less one of a grid."""

    top: int
    bottom: int
    left: int
    right: int

    def widened(self, cells: int, height: int, width: int) -> Tile:
        """With so many cells more on each side, as far as a grid of `height` x `width` has them."""
        return Tile(max(0, self.top - cells), min(height, self.bottom + cells), max(0, self.left - cells), min(width, self.right + cells))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def scaled(self, factor: int) -> Tile:
        """The same part of a grid that is `factor` times as fine."""
        return Tile(self.top * factor, self.bottom * factor, self.left * factor, self.right * factor)

    def margins(self, inner: Tile) -> Margins:
        """How far this tile reaches beyond an inner one."""
        return Margins(inner.top - self.top, self.bottom - inner.bottom, inner.left - self.left, self.right - inner.right)

    def of(self, grid: np.ndarray) -> np.ndarray:
        """The tile's part of `(..., h, w)`, as a view; less of it where the grid ends before."""
        return grid[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Margins:
    """Cells at the sides of a map that only serve as context."""

    top: int
    bottom: int
    left: int
    right: int

    def at_most(self, cells: int) -> Margins:
        return Margins(*(min(margin, cells) for margin in self.sides))

    def scaled(self, factor: int) -> Margins:
        return Margins(*(margin * factor for margin in self.sides))

    def less(self, kept: Margins) -> Margins:
        return Margins(*(margin - other for margin, other in zip(self.sides, kept.sides, strict=True)))

    @property
    def sides(self) -> tuple[int, int, int, int]:
        return self.top, self.bottom, self.left, self.right

    def cut_off(self, cells: np.ndarray) -> np.ndarray:
        """`(..., h, w)` without the margins, as a view."""
        height, width = cells.shape[-2:]
        return cells[..., self.top : height - self.bottom, self.left : width - self.right]


def tiles(height: int, width: int, side: int) -> list[Tile]:
    """The tiles of a grid, row by row: as equal as may be, of at most `side` x `side` cells, or one where it has no more cells."""
    if height * width <= side**2:
        return [Tile(0, height, 0, width)]
    return [Tile(*rows, *columns) for rows in _parts(height, side) for columns in _parts(width, side)]


def _parts(length: int, side: int) -> list[tuple[int, int]]:
    count = -(-length // side)
    ends = [length * index // count for index in range(count + 1)]
    return list(zip(ends[:-1], ends[1:], strict=True))


def each_tile(height: int, width: int, side: int) -> Iterator[Tile]:
    """The tiles of a grid one after the other; progress is reported after the work on each."""
    for tile in tiles(height, width, side):
        yield tile
        progress.report((tile.top * width + tile.right * (tile.bottom - tile.top)) / (height * width))
