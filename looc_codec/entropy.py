"""Index grid ↔ bytes: range coding with a bank of stored integer tables.

Symbols are sorted by table and coded with one call per table; a probability row per symbol would be some 50 times
slower and take gigabytes per megapixel. Tables are integers, so the coder's models are the same on every machine
(constriction promises not to change its bits without a breaking release; a golden file guards that).
"""

from __future__ import annotations

import zlib

import constriction
import numpy as np

from looc_codec.errors import FormatError

WORD_BYTES = 4
CHECKSUM_BITS = 32


class TableBank:
    """Range-coder models of stored frequencies `(rows, K)`, each row adding up to 2^24; built on first use."""

    def __init__(self, frequencies: np.ndarray) -> None:
        self.frequencies = frequencies
        self.models: dict[int, object] = {}

    def model(self, row: int) -> object:
        if row not in self.models:
            # float64 holds the integers and their cumulative sums exactly; perfect=True would search, at great cost.
            weights = self.frequencies[row].astype(np.float64)
            self.models[row] = constriction.stream.model.Categorical(weights, perfect=False)
        return self.models[row]


def runs_by_row(rows: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Stable order of `rows` `(n,)` and the runs `(row, start, end)` of equal rows in it."""
    if not len(rows):
        return np.zeros(0, np.int64), []
    # numpy sorts 16-bit numbers by radix, several times faster than wider ones.
    order = (rows.astype(np.uint16) if rows.dtype != np.uint16 and rows.max() < 2**16 else rows).argsort(kind="stable")
    ordered = rows[order]
    starts = [0, *((ordered[1:] != ordered[:-1]).nonzero()[0] + 1).tolist()]
    return order, list(zip(ordered[starts].tolist(), starts, [*starts[1:], len(rows)], strict=True))


class SegmentEncoder:
    """Collects symbols of one payload segment."""

    def __init__(self, bank: TableBank) -> None:
        self.bank = bank
        self.coder = constriction.stream.queue.RangeEncoder()

    def append(self, symbols: np.ndarray, rows: np.ndarray) -> None:
        """Codes `symbols` `(n,)`, each with the table of its row `(n,)`, grouped by row in ascending order."""
        order, runs = runs_by_row(rows)
        ordered = np.ascontiguousarray(symbols[order], dtype=np.int32)
        encode, model = self.coder.encode, self.bank.model
        for row, start, end in runs:
            encode(ordered[start:end], model(row))

    def finish(self) -> bytes:
        """The segment: big-endian 32-bit words without trailing zero bytes, which the decoder supplies."""
        return self.coder.get_compressed().astype(">u4").tobytes().rstrip(b"\0")


class SegmentDecoder:
    """Reads the symbols of one payload segment in the order in which they were appended."""

    def __init__(self, bank: TableBank, data: bytes) -> None:
        self.bank = bank
        padded = bytes(data) + b"\0" * (-len(data) % WORD_BYTES)
        self.coder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))

    def finish(self) -> None:
        """To be called after the last symbol: FormatError when the segment has more data than they take."""
        if not self.coder.maybe_exhausted():
            raise FormatError("the coded data does not end where its codes do: it is damaged; get the file again")

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Symbols `(n,)` int32, one for each row `(n,)`; FormatError when the data cannot have been encoded so."""
        order, runs = runs_by_row(rows)
        symbols = np.empty(len(rows), np.int32)
        decode, model = self.coder.decode, self.bank.model
        try:
            if runs:
                symbols[order] = np.concatenate([decode(model(row), end - start) for row, start, end in runs])
        except (AssertionError, ValueError) as error:
            raise FormatError("the coded data is damaged and cannot be decoded; get the file again") from error
        return symbols


class CodeChecksum:
    """32 bits that check the codes segment by segment, so that a file cut short can be checked as far as it goes.

    Each of n segments has floor(32 / n) of the bits and the last the rest, the first segment the highest: the low bits of the CRC32 of
    all symbols up to the segment's end, in coding order, as little-endian 16-bit integers.
    """

    def __init__(self, segments: int) -> None:
        self.after = [0] * segments

    def update(self, segment: int, symbols: np.ndarray) -> None:
        """Takes in the next symbols, which belong to `segment`; segments come in order."""
        crc = zlib.crc32(symbols.astype("<i2").tobytes(), self.after[segment])
        self.after[segment:] = [crc] * (len(self.after) - segment)

    def fields(self) -> list[tuple[int, int]]:
        """Lowest bit and number of bits of each segment's part."""
        count = len(self.after)
        bits = CHECKSUM_BITS // count
        last = CHECKSUM_BITS - bits * (count - 1)
        return [(last + bits * (count - 2 - index), bits) for index in range(count - 1)] + [(0, last)]

    @property
    def value(self) -> int:
        """The 32 bits, once every segment has been taken in."""
        return sum((crc & ((1 << bits) - 1)) << low for crc, (low, bits) in zip(self.after, self.fields(), strict=True))

    def agrees(self, expected: int, segments: int) -> bool:
        """Whether the first `segments` segments are those of a file with the checksum `expected`."""
        mask = sum(((1 << bits) - 1) << low for low, bits in self.fields()[:segments])
        return (self.value ^ expected) & mask == 0
