"""The encoder: pixels to codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from looc_codec import progress
from looc_codec.codec.coding import Coding, bits_per_error
from looc_codec.codec.details import analyse_error, detail_units, traverse_details
from looc_codec.codec.engine import Engine
from looc_codec.codec.model import CodecModel
from looc_codec.codec.prior import Step, traverse
from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.codec.tiles import Tile, tiles
from looc_codec.codec.transforms import TILE_POSITIONS, TilePixels, Transforms
from looc_codec.codec.wiener import Statistics
from looc_codec.format.constants import LATENT_LIMIT, LATENT_ONE, PATCH
from looc_codec.format.entropy import CodeChecksum, SegmentEncoder
from looc_codec.format.filter import Wiener
from looc_codec.format.order import units_of

ANALYSIS_SHARE, FILTER_SHARE, DETAIL_SHARE = 0.25, 0.4, 0.4
"""For progress: the analysis's share of the time of compressing, the filter's of the rest, and that of details of what comes after
the analysis."""
FIT_TILE_POSITIONS, FIT_TILES = 24, 8
"""Side of the tiles that the filter of a large picture is fitted on, and their number: 1.2 megapixels."""


Refine = Callable[[np.ndarray, np.ndarray, Callable[[np.ndarray], Coding]], Coding]
"""Looks for a better coding of the pixels `(H, W, 3)` uint8 than that of a latent `(d, h, w)`, with a function that codes latents;
returns it with its filter. Where there is one it is effort.py's."""


class Encoder:
    """Codes pictures with one model. Safe to share between threads."""

    def __init__(self, model: CodecModel, engine: Engine, refine: Refine | None = None) -> None:
        self.model, self.engine, self.refine = model, engine, refine
        self.transforms, self.search = Transforms(model, engine), model.search

    def prepare(self) -> None:
        """Loads the networks in the background, while a picture is read."""
        self.engine.prepare(tuple(name for name in self.model.graphs if not name.startswith("synthesis.small")))

    def encode(self, rgb: np.ndarray, level: int, *, grey: bool = False) -> Coding:
        """The coding of pixels `(H, W, 3)` uint8 at a level of 1..100."""
        share = 0.02 if self.refine else ANALYSIS_SHARE
        with progress.part(0, share):
            latent = self.transforms.analyse(rgb, level)
        with progress.part(share, 1):
            return self.encode_analysed(latent, rgb, level, grey=grey)

    def encode_analysed(self, latent: np.ndarray, rgb: np.ndarray, level: int, *, lagrangian: float = ENCODER_LAMBDA, grey: bool = False) -> Coding:
        """`encode` of pixels whose latent `(d, h, w)` float32 in steps is known, with another weight of bits if one is given.

        A grey picture has no details: most of what they say is colour.
        """

        def encode(target: np.ndarray) -> Coding:
            return self.encode_latent(target, level, lagrangian=lagrangian, grey=grey)

        detailed = self.model.has_details and level >= self.model.config.detail_quality and not grey
        share = DETAIL_SHARE * detailed
        with progress.part(0, 1 - share):
            if self.refine is not None:
                coding = self.refine(latent, rgb, encode)
            else:
                with progress.part(0, 1 - FILTER_SHARE):
                    coding = encode(latent)
                if not detailed:
                    return dataclasses.replace(coding, wiener=self.fit_filter(coding, rgb))
        if not detailed:
            return coding
        # What a small picture's filter is fitted on is all of it, and has been synthesised by then.
        kept: dict[Tile, TilePixels] | None = {} if coding.latent[0].size <= FIT_TILES * FIT_TILE_POSITIONS**2 else None
        with progress.part(1 - share, 1):
            coding = self._with_details(dataclasses.replace(coding, wiener=None), rgb, lagrangian, kept)
        return dataclasses.replace(coding, wiener=self.fit_filter(coding, rgb, kept))

    def encode_latent(self, latent: np.ndarray, level: int, *, lagrangian: float = ENCODER_LAMBDA, grey: bool = False) -> Coding:
        """The coding of a latent `(d, h, w)` float32 in steps, without details and filter."""
        config, tables = self.model.config, self.model.tables
        encoders = [SegmentEncoder(tables.bank) for _ in config.groups]
        checksum = CodeChecksum(len(config.groups))

        def code(step: Step, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
            target = units_of(step.take(latent), config.codevector_dim) * np.float32(LATENT_ONE)
            codes = self.search.pick(target - mean, rows, lagrangian, threads=self.engine.threads)
            symbols, table_rows, counts = tables.symbols(codes, rows)
            encoders[step.segment].append(symbols, table_rows, counts)
            checksum.update(step.segment, symbols)
            return mean + tables.value(codes, rows)

        decoded = traverse(self.model, self.engine, *latent.shape[1:], level, code)
        return Coding(level, grey, tuple(encoder.finish() for encoder in encoders), checksum.value, decoded, None, None)

    # --- details ----------------------------------------------------------------------------------------------------

    def _with_details(self, coding: Coding, rgb: np.ndarray, lagrangian: float, kept: dict[Tile, TilePixels] | None) -> Coding:
        """The coding with details of what its synthesis lacks of the pixels, if they are worth their bits. `kept`, if given, takes
        what was synthesised, with context, for the filter."""
        config, tables, level = self.model.config, self.model.tables, coding.level
        with progress.part(0, 0.7):
            missed = self._missed(coding, rgb, kept)
        encoder, checksum, gain = SegmentEncoder(tables.bank), CodeChecksum(1), 0.0

        def code(step: slice, rows: np.ndarray) -> np.ndarray:
            nonlocal gain
            target = detail_units(missed[:, step], config.codevector_dim) * np.float32(LATENT_ONE)
            codes = self.search.pick(target, rows, lagrangian, threads=self.engine.threads)
            symbols, table_rows, counts = tables.symbols(codes, rows)
            encoder.append(symbols, table_rows, counts)
            checksum.update(0, symbols)
            value = np.clip(tables.value(codes, rows), -LATENT_LIMIT, LATENT_LIMIT)
            gain += float((np.square(target) - np.square(target - value)).sum(dtype=np.float64))
            return value

        details = traverse_details(self.model, self.engine, coding.latent, level, code)
        segment = bytes([checksum.value & 255]) + encoder.finish()
        worth_bits = gain / LATENT_ONE**2 * config.step(level) ** 2 * bits_per_error(level, config)
        if worth_bits <= 8 * len(segment):
            return coding
        return dataclasses.replace(coding, segments=(*coding.segments, segment), details=details)

    def _missed(self, coding: Coding, rgb: np.ndarray, kept: dict[Tile, TilePixels] | None) -> np.ndarray:
        """What the synthesis of a coding lacks of the pixels, as details `(detail_channels, h, w)` float32 in steps."""
        missed = np.empty((self.model.config.detail_channels, *coding.latent.shape[1:]), np.float32)
        for tile, made in self.transforms.each_pixels(coding.latent, coding.level, context=kept is not None):
            if kept is not None:
                kept[tile] = made
            original = tile.scaled(PATCH).of(rgb.transpose(2, 0, 1))
            # Nothing is missed beyond the ends of the picture.
            error = np.zeros(made.inner.shape, np.float32)
            _, height, width = original.shape
            error[:, :height, :width] = original - made.inner[:, :height, :width]
            tile.of(missed)[...] = analyse_error(self.model, error, coding.level)
        return missed

    # --- filter -----------------------------------------------------------------------------------------------------

    def fit_filter(self, coding: Coding, rgb: np.ndarray, kept: dict[Tile, TilePixels] | None = None) -> Wiener | None:
        """The filter that brings a coding's synthesis closest to the pixels, if one is worth its bits. `kept` are tiles that have
        been synthesised already, without details."""
        statistics, planes = Statistics(coding.grey), rgb.transpose(2, 0, 1)
        for tile in fitting_tiles(*coding.latent.shape[1:]):
            found = kept.get(tile) if kept else None
            if found is None:
                made = self.transforms.pixels_of(coding.latent, tile, coding.level, context=True, details=coding.details)
            else:
                made = self.transforms.with_details(found, tile, coding.level, coding.details)
            statistics.add(made.pixels, made.context, tile.scaled(PATCH).of(planes).astype(np.float32))
        worth = bits_per_error(coding.level, self.model.config) * rgb.shape[0] * rgb.shape[1] / statistics.pixels
        return statistics.fit(worth)[0]


def fitting_tiles(height: int, width: int, side: int = FIT_TILE_POSITIONS, count: int = FIT_TILES) -> list[Tile]:
    """Tiles of a latent that a filter is fitted on: all, or `count` spread evenly over a large picture."""
    every = tiles(height, width, side)
    if height * width <= count * side**2 or len(every) <= count:
        return tiles(height, width, TILE_POSITIONS)
    return [every[(2 * index + 1) * len(every) // (2 * count)] for index in range(count)]
