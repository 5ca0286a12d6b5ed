"""The index grid of a model of the paper's kind as bytes: LooC's m x h x w codes, one symbol each, under conditional
tables.

A code's table depends on two earlier codes, its sources: the plane's left neighbour, its upper one, or another plane
of the same position. A source enters as the class of its codevector. Positions are coded in diagonals from the upper
left corner, and in a diagonal plane by plane, so that all codes of a plane on a diagonal are independent of each
other and are read together. Tables and classes are whole numbers, so every machine reads the same codes.
docs/FORMAT.md describes the same for people who write another reader.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from looc_codec.errors import ModelError
from looc_codec.format.entropy import SegmentDecoder, SegmentEncoder, TableBank
from looc_codec.format.integers import FINGERPRINT_BYTES

KIND = "index-grid"
"""What a weights file says of itself, and what goes into its fingerprint."""
TABLE_BITS = 24
LEFT, UP = -1, -2
"""Sources that are neighbours of the same plane; 0 and more are earlier planes of the same position."""
MATCHES = ("cosine", "l2")
_LIMITS = {
    "version": (0, 2**31),
    "image_channels": (1, 3),
    "patch": (1, 64),
    "grid_factor": (1, 4),
    "planes": (1, 4096),
    "codebook_size": (2, 32767),
    "codevector_dim": (1, 1024),
    "analysis_halo": (0, 64),
    "synthesis_halo": (0, 64),
    "tile": (1, 1024),
}
"""Smallest and largest value of every whole number: a weights file from anywhere must not make looc build a grid of
any size."""
_MAX_VALUES_PER_POSITION = 2**16
_MAX_CONTEXT_CLASSES = 64
_FORMAT_CRITICAL = ("patch", "grid_factor", "planes", "codebook_size", "codevector_dim")


@dataclass(frozen=True)
class GridConfig:
    """Sizes of a LooC-VAE as a codec.

    A position stands for `patch` x `patch` pixels of `image_channels` (1 or 3) channels. It has `planes` codes (m;
    where beta is above 1, `grid_factor` along each side times as many) into `codebook_size` codevectors (K) of
    `codevector_dim` values (d*), which are chosen by `match`. Networks work on tiles of `tile` positions a side with
    halos of so many positions around them.
    """

    name: str
    version: int = 1
    image_channels: int = 3
    patch: int = 4
    grid_factor: int = 1
    planes: int = 32
    codebook_size: int = 256
    codevector_dim: int = 4
    match: str = "cosine"
    analysis_halo: int = 4
    synthesis_halo: int = 4
    tile: int = 96

    def __post_init__(self) -> None:
        problems = []
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                problems.append(f"{name} {value!r} is outside {low}..{high}")
        if not isinstance(self.name, str):
            problems.append(f"name {self.name!r} is not text")
        if self.match not in MATCHES:
            problems.append(f"match {self.match!r} is none of {', '.join(MATCHES)}")
        if not problems and self.image_channels == 2:
            problems.append("image_channels is neither 1 nor 3")
        if not problems and self.planes * self.codevector_dim > _MAX_VALUES_PER_POSITION:
            problems.append(
                f"planes of {self.planes} x {self.codevector_dim} values are more than {_MAX_VALUES_PER_POSITION}"
            )
        if problems:
            raise ModelError(f"invalid model configuration: {'; '.join(problems)}")

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Positions (h, w) of a picture of so many pixels."""
        return -(-height // self.patch), -(-width // self.patch)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> GridConfig:
        """The config of a parsed JSON object; unknown, missing or ill-typed fields raise ModelError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != known:
            wrong = sorted(set(values) ^ known) if isinstance(values, dict) else values
            raise ModelError(
                f"the model configuration has other fields than this looc knows ({wrong}); a newer looc may be needed"
            )
        return cls(**values)


@dataclass(frozen=True)
class GridTables:
    """How codes of p planes with K codevectors are coded.

    `classes` `(p, K)` uint8: the class of each codevector, below w - 1; class w - 1 is that of what lies beyond the
    grid. `sources` `(p, 2)` int16. `rows` `(p, w, w)` int32: which table a pair of classes has. `frequencies` `(rows,
    K)` int32, each at least 1, each row adding up to 2^24.
    """

    classes: np.ndarray
    sources: np.ndarray
    rows: np.ndarray
    frequencies: np.ndarray

    def __post_init__(self) -> None:
        planes, size = self.classes.shape
        width = self.rows.shape[1] if self.rows.ndim == 3 else 0
        sound = (
            (self.classes.dtype, self.sources.dtype, self.rows.dtype, self.frequencies.dtype)
            == (np.uint8, np.int16, np.int32, np.int32)
            and self.sources.shape == (planes, 2)
            and self.rows.shape == (planes, width, width)
            and 2 <= width <= _MAX_CONTEXT_CLASSES
            and self.frequencies.ndim == 2
            and self.frequencies.shape[1] == size
            and int(self.classes.max()) < width - 1
            and int(self.sources.min()) >= UP
            and (self.sources < np.arange(planes)[:, None]).all()
            and 0 <= int(self.rows.min())
            and int(self.rows.max()) < len(self.frequencies)
            and int(self.frequencies.min()) >= 1
            and (self.frequencies.sum(1, dtype=np.int64) == 2**TABLE_BITS).all()
        )
        if not sound:
            raise ModelError("the weights file holds illegal tables of its index grid")

    @property
    def width(self) -> int:
        """Number of classes, that of the rim included."""
        return self.rows.shape[1]


class GridCoder:
    """Codes `(n, p, h, w)` of n pictures of one size to the bytes of one segment, and back."""

    def __init__(self, tables: GridTables) -> None:
        self.tables = tables
        self.bank = TableBank(tables.frequencies)

    @property
    def table_bytes(self) -> int:
        """Size of the tables as a weights file holds them, 16 bits an entry."""
        return 2 * self.tables.frequencies.size

    def encode(self, codes: np.ndarray) -> bytes:
        count, planes, height, width = codes.shape
        rim = self._with_rim(codes.shape)
        for plane in range(planes):
            rim[plane, :, 1:, 1:] = self.tables.classes[plane][codes[:, plane]]
        encoder = SegmentEncoder(self.bank)
        for ys, xs in diagonals(height, width):
            rows = np.stack([self._rows(rim, plane, ys, xs) for plane in range(planes)])
            encoder.append(
                codes[:, :, ys, xs].transpose(1, 0, 2).reshape(-1), rows.reshape(-1), [count * len(ys)] * planes
            )
        return encoder.finish()

    def decode(self, data: bytes, shape: tuple[int, int, int, int]) -> np.ndarray:
        """The codes, uint16 of `shape`; FormatError where the data cannot have been encoded so."""
        count, planes, height, width = shape
        codes, rim = np.empty(shape, np.uint16), self._with_rim(shape)
        decoder = SegmentDecoder(self.bank, data)
        for ys, xs in diagonals(height, width):
            for plane in range(planes):
                read = decoder.read(self._rows(rim, plane, ys, xs).reshape(-1)).reshape(count, len(ys))
                codes[:, plane, ys, xs] = read
                rim[plane, :, ys + 1, xs + 1] = self.tables.classes[plane][read].T
        decoder.finish()
        return codes

    def _with_rim(self, shape: tuple[int, int, int, int]) -> np.ndarray:
        """Room for the classes of all codes, `(p, n, h + 1, w + 1)` uint8: the first row and column are beyond the
        grid."""
        count, planes, height, width = shape
        return np.full((planes, count, height + 1, width + 1), self.tables.width - 1, np.uint8)

    def _rows(self, rim: np.ndarray, plane: int, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        """Tables `(n, l)` of a plane's codes on a diagonal of l positions."""
        first, second = (self._source(rim, plane, int(source), ys, xs) for source in self.tables.sources[plane])
        return self.tables.rows[plane][first, second]

    @staticmethod
    def _source(rim: np.ndarray, plane: int, source: int, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        if source == LEFT:
            return rim[plane][:, ys + 1, xs]
        if source == UP:
            return rim[plane][:, ys, xs + 1]
        return rim[source][:, ys + 1, xs + 1]


def diagonals(height: int, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the positions of each diagonal, from the upper right of it to the lower left.

    >>> [list(zip(ys.tolist(), xs.tolist())) for ys, xs in diagonals(2, 2)]
    [[(0, 0)], [(0, 1), (1, 0)], [(1, 1)]]
    """
    for distance in range(height + width - 1):
        ys = np.arange(max(0, distance - width + 1), min(height, distance + 1))
        yield ys, distance - ys


def fingerprint_of(config: GridConfig, core: Mapping[str, np.ndarray]) -> bytes:
    """8 bytes that name how files are read: of a SHA-256 over the sizes of the grid, the codevectors and the tables."""
    sizes = {name: getattr(config, name) for name in _FORMAT_CRITICAL}
    digest = hashlib.sha256(f"{KIND} 1 {json.dumps(sizes, sort_keys=True)}\n".encode())
    for name in sorted(core):
        array = np.ascontiguousarray(core[name])
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.digest()[:FINGERPRINT_BYTES]
