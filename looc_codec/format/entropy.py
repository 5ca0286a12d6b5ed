"""Index grid ↔ bytes: range coding with a bank of stored integer tables.

Symbols are sorted by table. A run of a few symbols of one table is coded symbol by symbol, a longer one with one call; a probability row per
symbol would be some 50 times slower and take gigabytes per megapixel. Tables are integers, so the coder's models are the same on every machine
(constriction promises not to change its bits without a breaking release; a golden file guards that).
"""

from __future__ import annotations

import contextlib
import zlib
from collections import deque
from collections.abc import Iterator, Sequence

import constriction
import numpy as np

from looc_codec.errors import FormatError

WORD_BYTES = 4
CHECKSUM_BITS = 32
SHORT_RUN = 6
"""Symbols up to which a run is coded one by one: 0.2 microseconds each, a call with an array takes 1.2 to 1.5 (one AVX2 core)."""
SHORT_READ = 512
"""Symbols of one kind up to which all are read one by one; their runs are short, and finding them would take longer."""


class Models(dict):
    """Range-coder models of stored frequencies `(rows, K)` by row, built on first use."""

    def __init__(self, frequencies: np.ndarray) -> None:
        self.frequencies = frequencies

    def __missing__(self, row: int) -> object:
        # float64 holds the integers and their cumulative sums exactly; perfect=True would search, at great cost.
        weights = self.frequencies[row].astype(np.float64)
        model = self[row] = constriction.stream.model.Categorical(weights, perfect=False)
        return model


class TableBank:
    """Stored frequencies `(rows, K)`, each row adding up to 2^24, and the coder's models of them."""

    def __init__(self, frequencies: np.ndarray) -> None:
        self.frequencies = frequencies
        self.models = Models(frequencies)


def sorted_by(values: np.ndarray) -> np.ndarray:
    """Stable ascending order of whole numbers from 0 on `(n,)`; numpy sorts 16-bit numbers by radix, several times faster than wider ones."""
    narrow = values.dtype != np.uint16 and len(values) > 0 and values.max() < 2**16
    return (values.astype(np.uint16) if narrow else values).argsort(kind="stable")


def long_runs(ordered: np.ndarray) -> list[tuple[int, int]]:
    """Where more than `SHORT_RUN` equal neighbours of `(n,)` start and end."""
    ends = np.concatenate([(ordered[1:] != ordered[:-1]).nonzero()[0] + 1, [len(ordered)]]) if len(ordered) else np.zeros(0, np.int64)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    long = ends - starts > SHORT_RUN
    return list(zip(starts[long].tolist(), ends[long].tolist(), strict=True))


class SegmentEncoder:
    """Collects symbols of one payload segment."""

    def __init__(self, bank: TableBank) -> None:
        self.bank = bank
        self.coder = constriction.stream.queue.RangeEncoder()

    def append(self, symbols: np.ndarray, rows: np.ndarray, counts: Sequence[int] | None = None) -> None:
        """Codes `symbols` `(n,)`, each with the table of its row `(n,)`, grouped by row in ascending order.

        `counts`, which add up to n, cut them into kinds: one is coded after the other, each in the order of its own rows. By default there is one kind.
        """
        order = sorted_by(rows)
        keys = rows[order]
        if counts is not None:
            kinds = np.repeat(np.arange(len(counts)), counts)[order]
            by_kind = sorted_by(kinds)
            order = order[by_kind]
            keys = kinds[by_kind] * (len(self.bank.frequencies)) + keys[by_kind]
        ordered, table_rows = np.ascontiguousarray(symbols[order], dtype=np.int32), rows[order]
        encode, models = self.coder.encode, self.bank.models
        position = 0
        for start, end in long_runs(keys):
            self._one_by_one(ordered[position:start], table_rows[position:start])
            encode(ordered[start:end], models[int(table_rows[start])])
            position = end
        self._one_by_one(ordered[position:], table_rows[position:])

    def _one_by_one(self, symbols: np.ndarray, rows: np.ndarray) -> None:
        # A deque of no length runs through the calls and keeps nothing.
        deque(map(self.coder.encode, symbols.tolist(), map(self.bank.models.__getitem__, rows.tolist())), maxlen=0)

    def finish(self) -> bytes:
        """The segment: big-endian 32-bit words without trailing zero bytes, which the decoder supplies."""
        return self.coder.get_compressed().astype(">u4").tobytes().rstrip(b"\0")


class SegmentDecoder:
    """Reads the symbols of one payload segment in the order in which they were appended."""

    def __init__(self, bank: TableBank, data: bytes) -> None:
        self.bank = bank
        padded = bytes(data) + b"\0" * (-len(data) % WORD_BYTES)
        self.coder = constriction.stream.queue.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
        self.decode = self.coder.decode
        """The next symbol under a model of the bank; to be called inside `checked`."""

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Raises FormatError where reading inside finds data that cannot have been encoded so."""
        try:
            yield
        except (AssertionError, ValueError) as error:
            raise FormatError("the coded data is damaged and cannot be decoded; get the file again") from error

    def finish(self) -> None:
        """To be called after the last symbol: FormatError when the segment has more data than they take."""
        if not self.coder.maybe_exhausted():
            raise FormatError("the coded data does not end where its codes do: it is damaged; get the file again")

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Symbols `(n,)` int32 of one kind, one for each row `(n,)`; FormatError when the data cannot have been encoded so."""
        if not len(rows):
            return np.zeros(0, np.int32)
        order = sorted_by(rows)
        symbols = np.empty(len(rows), np.int32)
        symbols[order] = self.read_ascending(rows[order])
        return symbols

    def read_ascending(self, rows: np.ndarray) -> np.ndarray | list[int]:
        """`read` of rows that are in ascending order already."""
        decode, models = self.decode, self.bank.models
        with self.checked():
            if len(rows) <= SHORT_READ:
                return self._one_by_one(rows)
            symbols, position = np.empty(len(rows), np.int32), 0
            for start, end in long_runs(rows):
                symbols[position:start] = self._one_by_one(rows[position:start])
                symbols[start:end] = decode(models[int(rows[start])], end - start)
                position = end
            symbols[position:] = self._one_by_one(rows[position:])
            return symbols

    def _one_by_one(self, rows: np.ndarray) -> list[int]:
        return list(map(self.decode, map(self.bank.models.__getitem__, rows.tolist())))


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
