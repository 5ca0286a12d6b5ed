"""The decoder: codes to pixels. Codes are exact on every machine."""

from __future__ import annotations

import numpy as np

from looc_codec import progress
from looc_codec.codec.coding import Coding
from looc_codec.codec.details import traverse_details
from looc_codec.codec.engine import Engine
from looc_codec.codec.model import CodecModel
from looc_codec.codec.prior import Step, traverse
from looc_codec.codec.transforms import Transforms
from looc_codec.errors import FormatError
from looc_codec.format.container import MAX_SEGMENTS, Colour, Container
from looc_codec.format.entropy import CodeChecksum, SegmentDecoder
from looc_codec.format.filter import Wiener
from looc_codec.format.order import grid_size

LATENT_SHARE = 0.25
"""For progress: the share of the codes in the time of restoring a picture."""
_OTHER_CODES = "the decoded codes do not match the checksum in the file: it is damaged, or arithmetic on this machine is not exact"


def filter_of(file: Container, groups: int | None = None) -> Wiener | None:
    """The filter of a file's picture; None for a preview, since it was fitted to the whole. FormatError when it is malformed."""
    wiener = Wiener.from_bytes(file.filter) if file.filter else None
    whole = None not in file.segments and groups in (None, len(file.segments))
    return wiener if whole else None


class Decoder:
    """Restores pictures with one model. Safe to share between threads."""

    def __init__(self, model: CodecModel, engine: Engine) -> None:
        self.model, self.engine = model, engine
        self.transforms = Transforms(model, engine)

    def decode(self, file: Container, groups: int | None = None) -> Coding:
        """The codes of a file, all checked; only those of the first `groups` segments where a number is given.

        Units of groups that are not wanted or not there take the mean that the prior predicts. Raises FormatError for codes that
        are not those that were written.
        """
        wiener, count = filter_of(file, groups), len(self.model.config.groups)
        # Of a file with more segments than its model can write `decode_latent` says so.
        own = count if self.model.has_details and len(file.segments) == count + 1 else len(file.segments)
        wanted = None if groups == len(file.segments) else groups
        latent = self.decode_latent(file.segments[:own], file.code_checksum, grid_size(file.width, file.height), file.level, groups=wanted)
        details = None
        if own < len(file.segments) and file.segments[own] is not None and wanted is None:
            details = self.decode_details(file.segments[own], latent, file.level)
        return Coding(file.level, file.colour != Colour.RGB, file.segments, file.code_checksum, latent, details, wiener)

    def pixels(self, coding: Coding, size: tuple[int, int]) -> np.ndarray:
        """The picture `(H, W, 3)` uint8 of `size` (H, W) that a coding stands for."""
        return self.transforms.synthesise(coding.latent, size, coding.level, details=coding.details, wiener=coding.wiener, grey=coding.grey)

    def restore(self, file: Container, groups: int | None = None) -> np.ndarray:
        """The picture `(H, W, 3)` uint8 of a file."""
        # Those of the codes come one step before they are needed, the others until the codes are read.
        self.engine.prepare(tuple(name for name in self.model.graphs if name.startswith(("prior.", "details."))))
        background = self.engine.prepare(("synthesis.corrected", "synthesis.linear", "synthesis.features8", "synthesis.finished", "filter"))
        with progress.part(0, LATENT_SHARE):
            coding = self.decode(file, groups)
        background.join()
        with progress.part(LATENT_SHARE, 1):
            return self.pixels(coding, (file.height, file.width))

    def restore_small(self, file: Container, shrink: int, groups: int | None = None) -> np.ndarray:
        """The picture of a file at 1/`shrink` of its size (2, 4, 8 or 16), rounded up, from as many channel groups as that shows."""
        needed = min(groups or len(self.model.config.groups), groups_shown(shrink), sum(segment is not None for segment in file.segments))
        latent = self.decode_latent(
            file.segments[: len(self.model.config.groups)], file.code_checksum, grid_size(file.width, file.height), file.level, groups=needed, predict=False
        )
        return self.transforms.small(latent, (file.height, file.width), file.level, shrink, grey=file.colour != Colour.RGB)

    def decode_latent(
        self, segments: tuple[bytes | None, ...], code_checksum: int, grid: tuple[int, int], level: int, *, groups: int | None = None, predict: bool = True
    ) -> np.ndarray:
        """Payload segments of the channel groups → quantised latent `(d, h, w)` int16 (1/16 steps) on a grid (h, w).

        With `groups`, and where segments are None, only the first groups are decoded; every other unit takes the mean that
        the prior predicts for it, or zero without `predict`. Raises FormatError when the decoded codes do not have the checksum
        that the encoder wrote, or the model has fewer groups.
        """
        config, tables = self.model.config, self.model.tables
        count = len(config.groups)
        if len(segments) != count:
            raise FormatError(f"the file has {len(segments)} segments where its model writes {count}; it is damaged")
        if groups is not None and not 1 <= groups <= count:
            raise FormatError(f"{groups} channel groups were asked for; the file has {count}")
        decoders = [SegmentDecoder(tables.bank, segment) for segment in segments[:groups] if segment is not None]
        checksum = CodeChecksum(count)

        def code(step: Step, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
            if step.segment >= len(decoders):
                return mean
            codes, symbols = tables.read(rows, decoders[step.segment])
            checksum.update(step.segment, symbols)
            return mean + tables.value(codes, rows)

        latent = traverse(self.model, self.engine, *grid, level, code, groups=None if predict else len(decoders))
        for decoder in decoders:
            decoder.finish()
        if not checksum.agrees(code_checksum, len(decoders)):
            raise FormatError(_OTHER_CODES)
        return latent

    def decode_details(self, segment: bytes, latent: np.ndarray, level: int) -> np.ndarray:
        """The details `(detail_channels, h, w)` int16 (1/16 steps) of a segment, given the decoded latent; FormatError for a damaged
        segment."""
        tables, checksum = self.model.tables, CodeChecksum(1)
        if not segment:
            raise FormatError("the .looc file is malformed: its details are empty; get a fresh copy")
        decoder = SegmentDecoder(tables.bank, segment[1:])

        def code(step: slice, rows: np.ndarray) -> np.ndarray:
            codes, symbols = tables.read(rows, decoder)
            checksum.update(0, symbols)
            return tables.value(codes, rows)

        details = traverse_details(self.model, self.engine, latent, level, code)
        decoder.finish()
        if checksum.value & 255 != segment[0]:
            raise FormatError(_OTHER_CODES)
        return details


def groups_shown(shrink: int) -> int:
    """Channel groups that a picture of 1/`shrink` shows: those of higher frequencies average out."""
    return {16: 1, 8: 2, 4: 3}.get(shrink, MAX_SEGMENTS)
