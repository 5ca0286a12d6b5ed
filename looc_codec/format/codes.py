"""A model's codebook and tables, and which symbols of the range coder stand for a unit.

One codebook of K codevectors of d* dimensions serves every unit of the latent (LooC, section 3). What is quantised is the
residual against the prior's mean. A unit whose table row is wider than the codebook is written in two digits of the same
book: r = G c_first + c_second, with G fixed by the row. A unit so far out that its row did not expect it is escaped: the
symbol K says that two digits with G = 32 follow. In a trellis (trellis.py) the last digit of a *live* row's unit is of set
0, the codebook, or of set 1; rows so narrow that their units are nearly always zero are not live.

Table rows are numbered in this order: context classes; second tables of live classes, for set 1; first digits of classes
with G > 1; coarse and fine digits of escaped units.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from looc_codec.config import LoocConfig
from looc_codec.errors import ModelError
from looc_codec.format.constants import ESCAPE_FACTOR, SETS, TABLE_BITS
from looc_codec.format.entropy import SegmentDecoder, TableBank
from looc_codec.format.trellis import NEXT_STATE, path_count

_FEW_PATHS = 48
"""Paths up to which live units are read one by one in plain Python: arrays cost 13 microseconds a step, a unit 0.4."""


@dataclass(frozen=True)
class Codes:
    """Codes of the n units of a step, all int32 but `sets`.

    `first` are the first digits of the units whose row has a digit factor above 1, in order; `second` `(n,)` the last
    digits, K where a unit is escaped, of the set `sets` `(n,)` uint8; `coarse` and `fine` the digits of the escaped units,
    in order.
    """

    first: np.ndarray
    second: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    sets: np.ndarray


class CodeTables:
    """Codevectors, context classes and stored frequencies of a model; never changed after it is made.

    `codevectors` `(K, d*)` int32 in 1/16 steps, in a trellis `(2 K, d*)`, set 1 after set 0, codevector 0 of each zero;
    `digit_factor` `(classes,)` int32; `live` `(classes,)` bool; `frequencies` `(rows, K + 1)` int32, each at least 1, each
    row adding up to 2^24, the last column the escape symbol.
    """

    def __init__(self, config: LoocConfig, codevectors: np.ndarray, digit_factor: np.ndarray, live: np.ndarray | None, frequencies: np.ndarray) -> None:
        """Raises ModelError for arrays that are not such tables. `live` is None without a trellis."""
        self.config, self.size = config, config.codebook_size
        self.trellis = config.trellis_states > 1
        self.digit_factor = digit_factor.astype(np.int32)
        self.live = np.zeros(len(digit_factor), bool) if live is None else live.astype(bool)
        self.codevectors, self.frequencies = codevectors.astype(np.int32), frequencies.astype(np.int32)
        self.classes = len(self.digit_factor)
        live_count, wide = int(self.live.sum()), self.digit_factor > 1
        self.rows = self.classes + live_count + int(wide.sum()) + 2
        self._require_legal(live)

        def numbered(chosen: np.ndarray, start: int) -> np.ndarray:
            return np.where(chosen, np.cumsum(chosen) - 1 + start, -1).astype(np.int32)

        self.shifted_row = numbered(self.live, self.classes)
        """Row of each class in set 1, -1 where it is not live."""
        self.first_digit_row = numbered(wide, self.classes + live_count)
        """Row of each class's first digits, -1 where it has none."""
        self.escape_row = self.rows - 2
        """Row of coarse digits; that of fine ones follows it."""
        zero = np.zeros((1, config.codevector_dim), np.int32)
        self.padded = np.concatenate([part for half in np.split(self.codevectors, SETS if self.trellis else 1) for part in (half, zero)])
        """Codevectors with a zero after each set for the escape symbol: `(K + 1, d*)` or `(2 K + 2, d*)`."""
        self.bank = TableBank(self.frequencies)
        for array in (self.codevectors, self.digit_factor, self.live, self.frequencies, self.shifted_row, self.first_digit_row, self.padded):
            array.flags.writeable = False

    def _require_legal(self, live: np.ndarray | None) -> None:
        config, sets = self.config, SETS if self.trellis else 1
        legal = (
            (live is not None) == self.trellis
            and len(self.live) == self.classes == config.classes
            and (live is None or int(live.max(initial=0)) <= 1)
            and self.codevectors.shape == (config.codebook_size * sets, config.codevector_dim)
            and not self.codevectors[:: config.codebook_size].any()
            and 0 <= int(self.digit_factor.min(initial=1)) and int(self.digit_factor.max(initial=0)) <= ESCAPE_FACTOR
            and self.frequencies.shape == (self.rows, config.codebook_size + 1)
            and int(self.frequencies.min(initial=1)) >= 1
            and bool((self.frequencies.sum(1, dtype=np.int64) == 2**TABLE_BITS).all())
        )
        if not legal:
            raise ModelError("the weights file holds an illegal codebook or table bank")

    @functools.cached_property
    def bits(self) -> np.ndarray:
        """Cost of each symbol in each row: `(rows, K + 1)` float32."""
        return (TABLE_BITS - np.log2(self.frequencies.astype(np.float64))).astype(np.float32)

    # --- units and symbols ------------------------------------------------------------------------------------------

    def symbols(self, codes: Codes, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """What is written for a step's units of table rows `(n,)`, in order: symbols `(n,)` int32, their table rows `(n,)`
        int32, and how many each kind of them has.

        First digits; last digits, in a trellis those of the units that are not live, then of the first unit of every path,
        of the second, and so on; digits of escapes.
        """
        wide = self.digit_factor[rows] > 1
        symbols, table_rows = [codes.first], [self.first_digit_row[rows[wide]]]
        counts = [len(codes.first)]
        if self.trellis:
            live = self.live[rows]
            still = ~live
            own = rows[live]
            symbols += [codes.second[still], codes.second[live]]
            table_rows += [rows[still], np.where(codes.sets[live] == 0, own, self.shifted_row[own])]
            counts.append(len(rows) - len(own))
            paths = path_count(len(own))
            counts += [min(paths, len(own) - start) for start in range(0, len(own), max(1, paths))]
        else:
            symbols.append(codes.second)
            table_rows.append(rows)
            counts.append(len(rows))
        escapes = len(codes.coarse)
        symbols += [codes.coarse, codes.fine]
        table_rows += [np.full(escapes, self.escape_row), np.full(escapes, self.escape_row + 1)]
        counts += [escapes, escapes]
        return np.concatenate(symbols).astype(np.int32), np.concatenate(table_rows).astype(np.int32), counts

    def read(self, rows: np.ndarray, decoder: SegmentDecoder) -> tuple[Codes, np.ndarray]:
        """The codes of a step's units of table rows `(n,)`, and their symbols `(n,)` int32 in the order of `symbols`.

        Raises FormatError when the data cannot have been encoded so.
        """
        wide = self.digit_factor[rows] > 1
        first = decoder.read(self.first_digit_row[rows[wide]])
        sets = np.zeros(len(rows), np.uint8)
        if self.trellis:
            second, live = np.empty(len(rows), np.int32), self.live[rows]
            still = ~live
            quiet = decoder.read(rows[still])
            second[still] = quiet
            followed, sets[live] = self._read_paths(rows[live], decoder)
            second[live] = followed
            last = [quiet, followed]
        else:
            second = decoder.read(rows)
            last = [second]
        escapes = np.full(int((second == self.size).sum()), self.escape_row, np.int32)
        coarse = decoder.read(escapes)
        fine = decoder.read(escapes + 1)
        return Codes(first, second, coarse, fine, sets), np.concatenate([first, *last, coarse, fine])

    def _read_paths(self, rows: np.ndarray, decoder: SegmentDecoder) -> tuple[np.ndarray, np.ndarray]:
        """Last digits `(n,)` of live units and their sets: one unit of every path at a time, since its set depends on the
        digit before."""
        units = len(rows)
        paths = max(1, path_count(units))
        own, shifted = rows, self.shifted_row[rows]
        # Units in the order of their rows, part by part. Those of set 1 come after those of set 0, and in the same order.
        order = own.argsort(kind="stable")
        order = order[(order // paths).astype(np.uint16).argsort(kind="stable")]
        path, own, shifted = order % paths, own[order], shifted[order]
        read = self._read_few_paths if paths <= _FEW_PATHS else self._read_many_paths
        codes, sets = read(path, own, shifted, paths, decoder)
        second, chosen = np.empty(units, np.int32), np.empty(units, np.uint8)
        second[order], chosen[order] = codes, sets
        return second, chosen

    def _read_few_paths(self, path: np.ndarray, own: np.ndarray, shifted: np.ndarray, paths: int, decoder: SegmentDecoder) -> tuple[list[int], list[int]]:
        places, rows = path.tolist(), (own.tolist(), shifted.tolist())
        state, following = [0] * paths, NEXT_STATE.ravel().tolist()
        codes, sets = [0] * len(places), [0] * len(places)
        decode, models = decoder.decode, self.bank.models
        with decoder.checked():
            for start in range(0, len(places), paths):
                # All of set 0 come before all of set 1; no two units of a part are of the same path.
                later = []
                for unit in range(start, min(start + paths, len(places))):
                    now = state[places[unit]]
                    if now & 1:
                        later.append(unit)
                    else:
                        code = codes[unit] = decode(models[rows[0][unit]])
                        # K is even, and so is an escape.
                        state[places[unit]] = following[2 * now + (code & 1)]
                for unit in later:
                    now = state[places[unit]]
                    code = codes[unit] = decode(models[rows[1][unit]])
                    sets[unit] = 1
                    state[places[unit]] = following[2 * now + (code & 1)]
        return codes, sets

    def _read_many_paths(self, path: np.ndarray, own: np.ndarray, shifted: np.ndarray, paths: int, decoder: SegmentDecoder) -> tuple[np.ndarray, np.ndarray]:
        codes, sets = np.empty(len(path), np.int32), np.empty(len(path), np.uint8)
        following, state = NEXT_STATE.ravel(), np.zeros(paths, np.int64)
        for start in range(0, len(path), paths):
            part = slice(start, start + paths)
            now = state[path[part]]
            number = now & 1
            by_set = number.argsort(kind="stable")
            code = codes[part]
            code[by_set] = decoder.read_ascending(np.where(number, shifted[part], own[part])[by_set])
            sets[part] = number
            state[path[part]] = following[2 * now + (code & 1)]
        return codes, sets

    def value(self, codes: Codes, rows: np.ndarray) -> np.ndarray:
        """Residuals `(n, d*)` int32 (1/16 steps) that the codes of units of table rows `(n,)` stand for. Exact."""
        value = np.zeros((len(rows), self.config.codevector_dim), np.int32)
        # Most codes are 0 of set 0, which stands for zero.
        place = codes.second + (self.size + 1) * codes.sets.astype(np.int32)
        some = place.nonzero()[0]
        value[some] = self.padded[place[some]]
        factor = self.digit_factor[rows]
        wide = (factor > 1).nonzero()[0]
        value[wide] += factor[wide, None] * self.padded[codes.first]
        value[codes.second == self.size] = ESCAPE_FACTOR * self.padded[codes.coarse] + self.padded[codes.fine]
        return value
