"""Pixels to the index grid of a model of the paper's kind, and back: nearest codevectors, and networks on tiles with
halos.

Where a network sees no further than its halo, tiles make the very picture that the whole network would make. The f16
VQGAN has layers that see everything (normalisation over groups, attention); there each tile of about the size of its
training pictures is a picture of its own, and its halo softens the seams.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from looc_codec import progress
from looc_codec.codec.engine import Engine
from looc_codec.codec.grid_model import ANALYSIS, ONLY_LEVEL, SYNTHESIS, GridModel
from looc_codec.codec.tiles import each_tile
from looc_codec.codec.transforms import to_bytes
from looc_codec.errors import FormatError, ImageError, OptionError
from looc_codec.format.container import Colour, Container
from looc_codec.format.entropy import CodeChecksum

SCORES = 1 << 22
"""Most entries of a units x codevectors matrix held at once: 16 MiB of float32."""
_ANALYSIS_SHARE, _CODES_SHARE = 0.6, 0.5
"""For progress: the networks' share of the time of compressing, the codes' of restoring."""


@dataclass(frozen=True)
class GridCoding:
    """A picture's index grid: codes `(p, f h, f w)` uint16 and what a file holds of them. A grey picture has equal
    planes."""

    level: int
    grey: bool
    segments: tuple[bytes]
    checksum: int
    codes: np.ndarray
    filter: bytes = b""

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """What two decoders must agree on."""
        return (self.codes,)


def checksum_of(codes: np.ndarray) -> int:
    """The code checksum of a grid: of all codes, plane by plane and row by row."""
    checksum = CodeChecksum(1)
    checksum.update(0, codes.reshape(-1))
    return checksum.value


def require_default(model: GridModel, *, asked: bool, effort: int) -> None:
    """OptionError where a quality or target is `asked` for, or an effort, which a model with one index grid for a
    picture does not have."""
    if asked:
        raise OptionError(
            f"the model {model.name} has one quality: an index grid, as the LooC paper codes pictures;"
            " leave the quality or target away"
        )
    if effort:
        raise OptionError(
            f"the model {model.name} has no effort: its codes are the nearest codevectors; leave it away"
        )


class GridEncoder:
    """Codes pictures with one model. Safe to share between threads."""

    def __init__(self, model: GridModel, engine: Engine) -> None:
        self.model, self.engine = model, engine
        vectors = model.codevectors
        # As in quantizers/search.py: the largest score is the nearest codevector's.
        if model.config.match == "cosine":
            self._matrix = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))).T
            self._offset = np.zeros(len(vectors), np.float32)
        else:
            self._matrix, self._offset = vectors.T, np.float32(0.5) * np.square(vectors).sum(1)

    def prepare(self) -> threading.Thread:
        """Loads the network in the background, while a picture is read."""
        return self.engine.prepare((ANALYSIS,))

    def encode(self, rgb: np.ndarray, level: int = ONLY_LEVEL, *, grey: bool = False) -> GridCoding:
        """The coding of pixels `(H, W, 3)` uint8. ImageError for a colour picture where the model is for grey ones."""
        if self.model.config.image_channels == 1 and not grey:
            raise ImageError(
                f"the model {self.model.name} is for grey pictures and this one is in colour; use another model"
            )
        with progress.part(0, _ANALYSIS_SHARE):
            codes = self.codes(rgb)
        return GridCoding(ONLY_LEVEL, grey, (self.model.coder.encode(codes[None]),), checksum_of(codes), codes)

    def codes(self, rgb: np.ndarray) -> np.ndarray:
        """Nearest codevectors of pixels `(H, W, 3)` uint8: `(p, f h, f w)` uint16."""
        config = self.model.config
        height, width = config.grid(*rgb.shape[:2])
        factor, patch = config.grid_factor, config.patch
        codes = np.empty((config.planes, factor * height, factor * width), np.uint16)
        planes = rgb.transpose(2, 0, 1)[: config.image_channels]
        for tile in each_tile(height, width, config.tile):
            outer = tile.widened(config.analysis_halo, height, width)
            part = outer.scaled(patch).of(planes)
            missing = (
                (outer.bottom - outer.top) * patch - part.shape[1],
                (outer.right - outer.left) * patch - part.shape[2],
            )
            pixels = np.pad(part, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge")
            shape = (1, config.planes * config.codevector_dim, *outer.scaled(factor).shape)
            (latent,) = self.engine.run(ANALYSIS, shape, pixels=pixels[None])
            inner = outer.margins(tile).scaled(factor).cut_off(latent[0])
            tile.scaled(factor).of(codes)[...] = self.nearest(inner)
        return codes

    def nearest(self, latent: np.ndarray) -> np.ndarray:
        """The codes `(p, h, w)` of a latent `(p d*, h, w)` float32."""
        config = self.model.config
        _, height, width = latent.shape
        units = (
            latent.reshape(config.planes, config.codevector_dim, height, width)
            .transpose(0, 2, 3, 1)
            .reshape(-1, config.codevector_dim)
        )
        chunk = max(1, SCORES // config.codebook_size)
        found = [
            (units[start : start + chunk] @ self._matrix - self._offset).argmax(1)
            for start in range(0, len(units), chunk)
        ]
        return np.concatenate(found).reshape(config.planes, height, width)


class GridDecoder:
    """Restores pictures with one model. Codes are exact on every machine. Safe to share between threads."""

    def __init__(self, model: GridModel, engine: Engine) -> None:
        self.model, self.engine = model, engine

    def decode(self, file: Container, groups: int | None = None) -> GridCoding:
        """The codes of a file, all checked. FormatError for codes that are not those that were written."""
        if groups not in (None, 1):
            raise FormatError(
                f"files of the model {self.model.name} are one index grid and have no channel groups to choose"
                " from; leave their number away"
            )
        if len(file.segments) != 1 or file.segments[0] is None or file.filter:
            raise FormatError("the file has other parts than its model writes; it is damaged")
        config = self.model.config
        height, width = config.grid(file.height, file.width)
        shape = (1, config.planes, config.grid_factor * height, config.grid_factor * width)
        codes = self.model.coder.decode(file.segments[0], shape)[0]
        if checksum_of(codes) != file.code_checksum:
            raise FormatError("the decoded codes do not match the checksum in the file: it is damaged")
        return GridCoding(file.level, file.colour != Colour.RGB, file.segments, file.code_checksum, codes)

    def pixels(self, coding: GridCoding, size: tuple[int, int]) -> np.ndarray:
        """The picture `(H, W, 3)` uint8 of `size` (H, W) that a coding stands for."""
        config = self.model.config
        height, width = config.grid(*size)
        rgb = np.empty((*size, 3), np.uint8)
        planes = rgb.transpose(2, 0, 1)
        for tile in each_tile(height, width, config.tile):
            outer = tile.widened(config.synthesis_halo, height, width)
            own = outer.scaled(config.grid_factor).of(coding.codes)
            chosen = self.model.codevectors[own].transpose(0, 3, 1, 2).reshape(1, -1, *own.shape[1:])
            shape = (1, config.image_channels, *outer.scaled(config.patch).shape)
            (pixels,) = self.engine.run(SYNTHESIS, shape, latent=chosen)
            inner = outer.margins(tile).scaled(config.patch).cut_off(pixels[0])
            target = tile.scaled(config.patch).of(planes)
            target[...] = to_bytes(inner, coding.grey)[:, : target.shape[1], : target.shape[2]]
        return rgb

    def restore(self, file: Container, groups: int | None = None) -> np.ndarray:
        """The picture `(H, W, 3)` uint8 of a file."""
        background = self.engine.prepare((SYNTHESIS,))
        with progress.part(0, _CODES_SHARE):
            coding = self.decode(file, groups)
        background.join()
        with progress.part(_CODES_SHARE, 1):
            return self.pixels(coding, (file.height, file.width))

    def restore_small(self, file: Container, shrink: int, groups: int | None = None) -> np.ndarray:
        """The picture of a file at 1/`shrink` of its size, rounded up: means of the whole picture, which takes as
        long to make."""
        whole = self.restore(file, groups)
        missing = ((0, -file.height % shrink), (0, -file.width % shrink), (0, 0))
        blocks = np.pad(whole, missing, mode="edge")
        height, width = blocks.shape[0] // shrink, blocks.shape[1] // shrink
        means = blocks.reshape(height, shrink, width, shrink, 3).mean((1, 3), dtype=np.float32)
        return np.rint(means).astype(np.uint8)
