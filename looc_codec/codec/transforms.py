"""Analysis and synthesis of whole pictures with a model's graphs, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from looc_codec import progress
from looc_codec.codec.details import synthesise_details
from looc_codec.codec.engine import Engine
from looc_codec.codec.model import CodecModel
from looc_codec.codec.tiles import Margins, Tile, each_tile, tiles
from looc_codec.codec.wiener import apply_filter
from looc_codec.format.constants import LATENT_ONE, PATCH
from looc_codec.format.filter import Wiener
from looc_codec.format.order import row_strips

TILE_POSITIONS = 40
"""Latent positions along a tile's side (640 pixels); bounds the memory of the transforms: a megapixel is restored in 0.3 GB, with 64 in 0.4."""
COARSE_TILE_POSITIONS = 96
"""The same of the analysis, and of the synthesis at 1/16 of the resolution, whose halos are wider and whose maps are smaller."""
BAND_POSITIONS = 100_000
"""Positions whose features at 1/16 are kept while their pixels are made: 2.8 kB each, 280 MB for 25 megapixels and more."""
SHRINKS = (2, 4, 8, 16)
"""Factors by which a picture can be restored smaller than it is."""
_LAPPED_HALO = 1
"""Positions around a tile that the lapped transform reaches."""
_FRAME = 4
"""Pixels around a tile that the first window at 1/4 of the resolution reaches."""
FILTER_CONTEXT = 4
"""Pixels of context that a tile brings for the filter."""


@dataclass(frozen=True)
class Corrected:
    """What the synthesis has found at 1/16 of the resolution, in an area of the grid: the corrected latent `(d, h, w)` and features
    `(w16, h, w)`, float32; no features where the model has no blocks."""

    area: Tile
    latent: np.ndarray
    features: np.ndarray | None


@dataclass(frozen=True)
class TilePixels:
    """Pixels `(3, H, W)` float32 of 0..255, unclamped, and how many of them at each side are context on which the picture goes on."""

    pixels: np.ndarray
    context: Margins

    @property
    def inner(self) -> np.ndarray:
        """The pixels without the context."""
        return self.context.cut_off(self.pixels)


def analysis_halo(blocks: tuple[int, int]) -> int:
    """Positions around a tile that its latent depends on, from the number of blocks at 1/16 and 1/8 of the resolution.

    A block sees one cell further; the lapped transform, whose outermost position in a tile sees padding, one position.
    """
    wide, fine = blocks
    return wide + max(1, -(-fine // 2))


def cells_needed(blocks: tuple[int, int, int]) -> tuple[int, int]:
    """Context that the synthesis still needs around its pixels: positions after the blocks at 1/16 of the resolution, and
    cells of 1/8 after the blocks there. `blocks` are the numbers of blocks at 1/16, 1/8 and 1/4. One more cell of 1/4 is there
    for the filter.

    From 1/16 there are two ways down: through the blocks of each resolution and the 3x3 head; and from the corrected latent
    through the lapped transform, whose windows begin 8 pixels before their position, the 3x3 entry, the blocks at 1/4 and the
    head.
    """
    _, n8, n4 = blocks
    at8 = -(-(n4 + 2) // 2)
    return max(-(-(n8 + at8) // 2), (4 * (n4 + 3) + PATCH + PATCH // 2 - 1) // PATCH), at8


def synthesis_halo(blocks: tuple[int, int, int]) -> int:
    """Positions around a tile that its pixels depend on, from the number of blocks at 1/16, 1/8 and 1/4 of the resolution."""
    return blocks[0] + cells_needed(blocks)[0]


class Transforms:
    """A model's analysis and synthesis on an engine."""

    def __init__(self, model: CodecModel, engine: Engine) -> None:
        self.model, self.engine = model, engine

    def analyse(self, rgb: np.ndarray, level: int, *, side: int = COARSE_TILE_POSITIONS) -> np.ndarray:
        """Pixels `(H, W, 3)` uint8 → latent `(d, ceil(H/16), ceil(W/16))` float32 in quantisation steps."""
        height, width = -(-rgb.shape[0] // PATCH), -(-rgb.shape[1] // PATCH)
        halo = analysis_halo(self.model.config.analysis_blocks)
        latent = np.empty((self.model.config.channels, height, width), np.float32)
        planes = rgb.transpose(2, 0, 1)
        for tile in each_tile(height, width, side):
            outer = tile.widened(halo, height, width)
            part = outer.scaled(PATCH).of(planes)
            missing = ((outer.bottom - outer.top) * PATCH - part.shape[1], (outer.right - outer.left) * PATCH - part.shape[2])
            pixels = np.pad(part, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge").astype(np.float32)
            (coded,) = self.engine.run("analysis", (1, len(latent), *outer.shape), pixels=pixels[None], quality=_input(level))
            tile.of(latent)[...] = outer.margins(tile).cut_off(coded[0])
        return latent

    def synthesise(
        self, latent: np.ndarray, size: tuple[int, int], level: int, *, details: np.ndarray | None = None, wiener: Wiener | None = None, grey: bool = False,
        side: int = TILE_POSITIONS,
    ) -> np.ndarray:  # fmt: skip
        """Quantised latent `(d, h, w)` int16 (1/16 steps) → pixels `(H, W, 3)` uint8 of `size` (H, W), with the picture's details
        and through its filter if it has them.

        With `grey` all planes are the mean of the three before rounding: 0.0-0.1 dB better than Rec. 601 weights (3
        validation pictures, 3 levels), since the errors of the planes are alike.
        """
        rgb = np.empty((*size, 3), np.uint8)
        planes = rgb.transpose(2, 0, 1)
        for tile, made in self.each_pixels(latent, level, context=wiener is not None, details=details, side=side):
            pixels = made.pixels if wiener is None else apply_filter(self.engine, wiener, made.pixels, made.context)
            target = tile.scaled(PATCH).of(planes)
            target[...] = to_bytes(pixels, grey)[:, : target.shape[1], : target.shape[2]]
        return rgb

    def each_pixels(
        self, latent: np.ndarray, level: int, *, context: bool, details: np.ndarray | None = None, side: int = TILE_POSITIONS
    ) -> Iterator[tuple[Tile, TilePixels]]:
        """The tiles of a whole picture with their pixels, as of `tile_pixels`, band by band."""
        height, width = latent.shape[1:]
        for top, bottom in row_strips(height, width, max(BAND_POSITIONS, side * width)):
            with progress.part(top / height, bottom / height):
                corrected = self.corrected(latent, Tile(top, bottom, 0, width), level)
                for tile in each_tile(bottom - top, width, side):
                    tile = Tile(tile.top + top, tile.bottom + top, tile.left, tile.right)
                    yield tile, self.tile_pixels(corrected, tile, latent.shape[1:], level, context=context, details=details)

    def pixels_of(self, latent: np.ndarray, tile: Tile, level: int, *, context: bool, details: np.ndarray | None = None) -> TilePixels:
        """The pixels of a single tile of positions."""
        return self.tile_pixels(self.corrected(latent, tile, level), tile, latent.shape[1:], level, context=context, details=details)

    def corrected(self, latent: np.ndarray, area: Tile, level: int) -> Corrected:
        """The first stage of the synthesis of a quantised latent `(d, h, w)` int16, for the pixels of an area."""
        config, (_, height, width) = self.model.config, latent.shape
        area = area.widened(cells_needed(config.synthesis_blocks)[0], height, width)
        if not any(config.synthesis_blocks):
            return Corrected(area, _steps(area.of(latent)), None)
        channels = (config.channels, config.synthesis_widths[0])
        found = tuple(np.empty((count, area.bottom - area.top, area.right - area.left), np.float32) for count in channels)
        for part in tiles(*found[0].shape[1:], COARSE_TILE_POSITIONS):
            tile = Tile(part.top + area.top, part.bottom + area.top, part.left + area.left, part.right + area.left)
            outer = tile.widened(config.synthesis_blocks[0], height, width)
            shapes = ((1, count, *outer.shape) for count in channels)
            made = self.engine.run("synthesis.corrected", *shapes, latent=_steps(outer.of(latent))[None], quality=_input(level))
            for target, value in zip(found, made, strict=True):
                part.of(target)[...] = outer.margins(tile).cut_off(value[0])
        return Corrected(area, *found)

    def tile_pixels(
        self, corrected: Corrected, tile: Tile, grid: tuple[int, int], level: int, *, context: bool, details: np.ndarray | None = None
    ) -> TilePixels:
        """Pixels of a tile of positions of a grid (h, w); with `context` 4 pixels more on each side on which the picture goes on."""
        return self.with_details(self._synthesised(corrected, tile, grid, level, context), tile, level, details)

    def with_details(self, made: TilePixels, tile: Tile, level: int, details: np.ndarray | None) -> TilePixels:
        """The pixels of a tile with details `(detail_channels, h, w)` int16 (1/16 steps) added, if there are any."""
        if details is None:
            return made
        # One position more where there is context, of which the outer pixels are cut off again.
        outer = Margins(*(int(side > 0) for side in made.context.sides))
        own = details[:, tile.top - outer.top : tile.bottom + outer.bottom, tile.left - outer.left : tile.right + outer.right]
        added = outer.scaled(PATCH).less(made.context).cut_off(synthesise_details(self.model, own, level))
        return TilePixels(made.pixels + added, made.context)

    def _synthesised(self, corrected: Corrected, tile: Tile, grid: tuple[int, int], level: int, context: bool) -> TilePixels:
        """The stages after the first. What the next stage does not need of the context is cut off before it."""
        config, given, run = self.model.config, _input(level), self.engine.run
        at16, at8 = cells_needed(config.synthesis_blocks)
        outer = tile.widened(at16, *grid)
        margins, within = outer.margins(tile), corrected.area.margins(outer)
        sides = Margins(*(FILTER_CONTEXT * (margin > 0) * context for margin in margins.sides))
        (linear,) = run("synthesis.linear", (1, 3, *outer.scaled(PATCH).shape), latent=within.cut_off(corrected.latent)[None], quality=given)
        if corrected.features is None:
            return TilePixels(margins.scaled(PATCH).less(sides).cut_off(linear[0]) + np.float32(128), sides)
        shape = (1, config.synthesis_widths[1], *outer.scaled(2).shape)
        (features,) = run("synthesis.features8", shape, features=within.cut_off(corrected.features)[None])
        kept = margins.scaled(2).at_most(at8)
        features = margins.scaled(2).less(kept).cut_off(features)
        beyond = margins.scaled(PATCH).less(kept.scaled(8))
        # Where the margin ends with the picture, zeros are what lies beyond.
        framed = Margins(*(max(0, side - _FRAME) for side in beyond.sides)).cut_off(linear)
        missing = [_FRAME * (side == 0) for side in beyond.sides]
        framed = np.pad(framed, ((0, 0), (0, 0), (missing[0], missing[1]), (missing[2], missing[3])))
        shape = (1, 3, *(8 * cells for cells in features.shape[2:]))
        (pixels,) = run("synthesis.finished", shape, features=features, framed=framed, quality=given)
        return TilePixels(kept.scaled(8).less(sides).cut_off(pixels[0]), sides)

    def small(self, latent: np.ndarray, size: tuple[int, int], level: int, shrink: int, *, grey: bool = False, side: int = 2 * TILE_POSITIONS) -> np.ndarray:
        """A quantised latent as a picture of 1/`shrink` of `size` (H, W), rounded up: pixels uint8, means of the linear synthesis.

        The corrections of the synthesis are mostly of what a small picture does not show. Those at 1/16 are made for 1/2, where
        they bring it 1.5 dB closer to the means of the whole picture (36 dB; 38, 43 and 46 dB for 1/4, 1/8 and 1/16 without;
        one validation picture at level 50).
        """
        height, width = latent.shape[1:]
        rgb = np.empty((-(-size[0] // shrink), -(-size[1] // shrink), 3), np.uint8)
        planes, factor = rgb.transpose(2, 0, 1), PATCH // shrink
        for tile in each_tile(height, width, side):
            outer = tile.widened(_LAPPED_HALO, height, width)
            if shrink == SHRINKS[0]:
                found = self.corrected(latent, outer, level)
                part = found.area.margins(outer).cut_off(found.latent)
            else:
                part = _steps(outer.of(latent))
            shape = (1, 3, *outer.scaled(factor).shape)
            (pixels,) = self.engine.run(f"synthesis.small{shrink}", shape, latent=part[None], quality=_input(level))
            pixels = outer.margins(tile).scaled(factor).cut_off(pixels[0]) + np.float32(128)
            target = tile.scaled(factor).of(planes)
            target[...] = to_bytes(pixels, grey)[:, : target.shape[1], : target.shape[2]]
        return rgb


def to_bytes(pixels: np.ndarray, grey: bool = False) -> np.ndarray:
    """Pixels `(3, H, W)` float32 as uint8; with `grey` all planes are the mean of the three."""
    if grey:
        pixels = np.broadcast_to(pixels.mean(0, keepdims=True), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _steps(latent: np.ndarray) -> np.ndarray:
    """A quantised latent in steps, float32."""
    return latent.astype(np.float32) / np.float32(LATENT_ONE)


def _input(level: int) -> np.ndarray:
    return np.array([level], np.float32)
