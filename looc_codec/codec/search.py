"""The encoder's choice of codes: k = argmin |r - c_k|² + lambda * bits(k | row), along the paths of the trellis where units are live.

Decoders know nothing of it, so it may use floats and short lists of near codevectors. Entropy-constrained vector
quantisation (Chou, Lookabaugh, Gray 1989); the trellis is searched by viterbi.py.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from looc_codec.codec.viterbi import best_choices
from looc_codec.format.codes import Codes, CodeTables
from looc_codec.format.constants import ESCAPE_FACTOR, LATENT_ONE, SETS
from looc_codec.format.trellis import path_table

HIGH_RATE_LAMBDA = 2 * math.log(2) / 12
"""Slope of distortion (steps²) against bits of a uniform quantiser of step 1 at high rate."""
ENCODER_LAMBDA = 0.7 * HIGH_RATE_LAMBDA
"""Weight of bits in the encoder's choice of codes: 0.8% fewer bits at equal PSNR than the high-rate value with the first
weights, 0.5% with the seventh (measured on validation pictures; 0.55 and 0.85 are within 0.1% of it)."""
GRID_PER_STEP = 4
"""Cells of the grid along a step; near codevectors are listed by cell."""
GRID_MARGIN = 1.5
"""Steps that the grid reaches beyond the codevectors."""
GRID_CELLS_MAX = 1 << 16
"""Cells of a grid at most, half as many again as the shipped models need: codevectors of a forged model may lie anywhere, and the
grid would take gigabytes. What lies beyond it falls into its rim."""
SHORTLIST = 16
"""Nearest codevectors that are considered, beside zero, without a trellis; of 1024."""
TRELLIS_SHORTLIST = 4
"""The same of one set and one parity in a trellis. On crops of 8 validation pictures the codes are those of 6; with 3 the cost
rises by 0.04%."""
ESCAPE_ERROR = 1.0
"""Squared error (steps²) from which the encoder considers an escape; nearer units cannot gain by it."""
FIRST_DIGIT_WEIGHT = 1 / 16
"""Share of the weight of bits in the choice of first and coarse digits, whose steps are several times as wide."""
LEAST_UNITS = 1 << 13
"""Units that are worth a thread."""
UNITS_AT_A_TIME = 1 << 16
"""A large picture has tens of millions of units in one step, and the search needs a dozen arrays of them."""


class ShortLists:
    """The nearest of some codevectors, and the first of them, for each cell of a grid around zero; found when they are asked for.

    A picture visits a few thousand of 41,000 cells, and all of them would take half a second.
    """

    def __init__(self, steps: np.ndarray, chosen: np.ndarray, count: int) -> None:
        """`steps` `(n, d*)` float32 are all codevectors in steps, `chosen` the indices of those listed, `count` how many a list has."""
        self.steps, self.chosen, self.count = steps, chosen, min(count, len(chosen))
        reach = float(np.sqrt(np.square(steps[chosen]).sum(1)).max(initial=0.0))
        dim = steps.shape[1]
        most = (int(GRID_CELLS_MAX ** (1 / dim)) - 1) // 2
        self.half_cells = min(math.ceil((reach + GRID_MARGIN) * GRID_PER_STEP), most)
        side = 2 * self.half_cells + 1
        self.lists = np.zeros((side**dim, self.count + 1), np.int32)
        self.lists[:, -1] = chosen[0]
        # By axis: whole rows are fetched several times faster than single codevectors.
        self.points = np.zeros((dim, *self.lists.shape), np.float32)
        self.points[:, :, -1] = steps[chosen[0]][:, None]
        self.known = np.zeros(len(self.lists), bool)
        self.lock = threading.Lock()

    def cells(self, residual: np.ndarray) -> np.ndarray:
        """Index `(n,)` of the cell of each residual `(n, d*)` in steps; far ones fall into the rim."""
        cell = np.rint(residual * np.float32(GRID_PER_STEP))
        np.clip(cell, -self.half_cells, self.half_cells, out=cell)
        cell = cell.astype(np.int32)
        cell += self.half_cells
        index = cell[:, 0].copy()
        for axis in range(1, residual.shape[1]):
            index *= 2 * self.half_cells + 1
            index += cell[:, axis]
        return index

    def of(self, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lists `(n, count + 1)` int32 for residuals `(n, d*)` in steps: indices of `steps`, the nearest first and zero last; and the
        squared distances of these codevectors, float32 as large."""
        cells = self.cells(residual)
        if not self.known[cells].all():
            with self.lock:
                wanted = np.zeros(len(self.known), bool)
                wanted[cells] = True
                self._fill((wanted & ~self.known).nonzero()[0])
        distance = np.zeros((len(cells), self.count + 1), np.float32)
        for axis, points in enumerate(self.points):
            away = points.take(cells, 0)
            away -= residual[:, axis, None]
            distance += np.square(away, out=away)
        return self.lists.take(cells, 0), distance

    def _fill(self, cells: np.ndarray) -> None:
        side, dim = 2 * self.half_cells + 1, self.steps.shape[1]
        points = self.steps[self.chosen]
        for part in np.array_split(cells, max(1, len(cells) // 4096)):
            place = np.stack([part // side**axis % side for axis in range(dim - 1, -1, -1)], 1)
            centre = ((place - self.half_cells) / np.float32(GRID_PER_STEP)).astype(np.float32)
            distance = np.square(points).sum(1)[None] - 2 * (centre @ points.T)
            # Where another is as near as zero it comes first: a unit that is taken for zero may not be looked at again.
            distance[:, 0] += np.float32(1e-4)
            near = np.argpartition(distance, self.count - 1, axis=1)[:, : self.count]
            order = np.take_along_axis(distance, near, 1).argsort(1, kind="stable")
            self.lists[part, :-1] = self.chosen[np.take_along_axis(near, order, 1)]
            self.points[:, part, :-1] = self.steps[self.lists[part, :-1]].transpose(2, 0, 1)
            self.known[part] = True


class CodeSearch:
    """Chooses codes with the tables of a model. Safe to share between threads."""

    def __init__(self, tables: CodeTables) -> None:
        self.tables, self.size, self.bits = tables, tables.size, tables.bits
        self.steps = tables.codevectors.astype(np.float32) / LATENT_ONE
        """Codevectors in steps, `(K, d*)` or `(2 K, d*)` float32."""
        self.cheapest = tables.frequencies.argmax(1).astype(np.int32)
        self.near = ShortLists(self.steps, np.arange(self.size), SHORTLIST) if self.steps.shape[1] <= 2 else None
        if tables.trellis:
            # By set and parity.
            parts = [np.arange(number * self.size + parity, (number + 1) * self.size, 2) for number in range(SETS) for parity in range(2)]
            self.alternatives_near = [ShortLists(self.steps, part, TRELLIS_SHORTLIST) for part in parts]
            # The two rows of each live class side by side.
            self.pair_bits = np.concatenate([self.bits[: tables.classes][tables.live], self.bits[tables.shifted_row[tables.live]]], 1)

    def pick(self, residual: np.ndarray, rows: np.ndarray, lagrangian: float = HIGH_RATE_LAMBDA, counts: list[int] | None = None, *, threads: int = 1) -> Codes:
        """Codes of residuals `(n, d*)` (1/16 steps, fractions allowed) in their table rows `(n,)`, by cost in distortion and bits.

        `counts` are the numbers of units of the coding steps that they belong to, by default one step; they matter to a
        trellis only. The codes are the same whatever the number of threads.
        """
        residual = residual.astype(np.float32) / np.float32(LATENT_ONE)
        wide = self.tables.digit_factor[rows] > 1
        first_of = np.cumsum(wide) - 1
        first = np.zeros(int(wide.sum()), np.int32)
        second, sets = np.empty(len(rows), np.int32), np.zeros(len(rows), np.uint8)
        live = self.tables.live[rows]

        def pick_still(part: np.ndarray) -> None:
            digits, second[part] = self._pick_still(residual[part], rows[part], lagrangian)
            first[first_of[part[wide[part]]]] = digits

        each_part(pick_still, (~live).nonzero()[0], threads)
        alive = live.nonzero()[0]
        if len(alive):
            costs, codes = np.empty((len(alive), 2 * SETS), np.float32), np.empty((len(alive), 2 * SETS), np.int32)

            def weigh(places: np.ndarray) -> None:
                part = alive[places]
                digits, costs[places], codes[places] = self._alternatives(residual[part], rows[part], lagrangian)
                first[first_of[part[wide[part]]]] = digits

            each_part(weigh, np.arange(len(alive)), threads)
            steps = [len(alive)] if counts is None else [int(part.sum()) for part in np.split(live, np.cumsum(counts)[:-1])]
            entry = best_choices(costs, path_table(steps), threads)
            second[alive] = codes[np.arange(len(alive)), entry]
            sets[alive] = entry // 2
        coarse, fine, _ = self._escape(residual[second == self.size], lagrangian)
        return Codes(first, second, coarse, fine, sets)

    def _choose(self, residual: np.ndarray, rows: np.ndarray, lagrangian: float) -> np.ndarray:
        """The cheapest codevector of set 0 for residuals `(n, d*)` in steps in table rows `(n,)`: `(n,)` int32."""
        if self.near is None:
            steps = self.steps[: self.size]
            gain = residual @ steps.T - 0.5 * np.square(steps).sum(1) - np.float32(0.5 * lagrangian) * self.bits[rows, :-1]
            return gain.argmax(1).astype(np.int32)
        short, distance = self.near.of(residual)
        best = short[:, 0].copy()
        # Units whose nearest codevector is also their row's cheapest need no search: most of them at common rates.
        open_ = (best != self.cheapest[rows]).nonzero()[0]
        short = short[open_]
        cost = distance[open_] + np.float32(lagrangian) * self.bits[rows[open_, None], short]
        best[open_] = short[np.arange(len(open_)), cost.argmin(1)]
        return best

    def _first_digits(self, residual: np.ndarray, rows: np.ndarray, lagrangian: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which units have a first digit, those digits, and what they leave of residuals `(n, d*)` in steps."""
        factor = self.tables.digit_factor[rows]
        wide = (factor > 1).nonzero()[0]
        if not len(wide):
            return wide, np.zeros(0, np.int32), residual
        scale = factor[wide].astype(np.float32)[:, None]
        first = self._choose(residual[wide] / scale, self.tables.first_digit_row[rows[wide]], lagrangian * FIRST_DIGIT_WEIGHT)
        left = residual.copy()
        left[wide] -= scale * self.steps[first]
        return wide, first, left

    def _pick_still(self, residual: np.ndarray, rows: np.ndarray, lagrangian: float) -> tuple[np.ndarray, np.ndarray]:
        """First digits of the units that have one, and last digits `(n,)`, of units outside the trellis."""
        wide, first, left = self._first_digits(residual, rows, lagrangian)
        second = self._choose(left, rows, lagrangian)
        error = np.square(left - self.steps[second]).sum(1)
        far = ((error > ESCAPE_ERROR) & (self.tables.digit_factor[rows] < ESCAPE_FACTOR)).nonzero()[0]
        if len(far):
            spent = np.zeros(len(rows), np.float32)
            spent[wide] = self.bits[self.tables.first_digit_row[rows[wide]], first]
            spent = spent[far] + self.bits[rows[far], second[far]]
            escaped = self._escape(residual[far], lagrangian)[2] + lagrangian * self.bits[rows[far], self.size]
            second[far[error[far] + lagrangian * spent > escaped]] = self.size
        return first, second

    def _alternatives(self, residual: np.ndarray, rows: np.ndarray, lagrangian: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First digits of the live units `(n, d*)` in steps that have one, and what units can be in a path: costs `(n, 4)` and
        codes `(n, 4)` of the best last digit in set 0 with an even index and with an odd one, and in set 1 likewise."""
        _, first, left = self._first_digits(residual, rows, lagrangian)
        pair = self.tables.shifted_row[rows] - self.tables.classes
        costs, codes = np.empty((len(rows), 2 * SETS), np.float32), np.empty((len(rows), 2 * SETS), np.int32)
        every, pair_bits, width = np.arange(len(rows)), self.pair_bits.ravel(), self.pair_bits.shape[1]
        offset = (pair * width).astype(np.int32)[:, None]
        for place, lists in enumerate(self.alternatives_near):
            short, cost = lists.of(left)
            # Set 1's bits follow those of set 0, which end with the escape.
            cost += np.float32(lagrangian) * pair_bits.take(short + (offset + np.int32(place // 2)))
            best = cost.argmin(1)
            costs[:, place], codes[:, place] = cost[every, best], short[every, best] - place // 2 * self.size
        # An escape counts as even. It costs its symbol and the cheapest digits at least.
        announced = np.float32(lagrangian) * self.pair_bits[:, self.size :: self.size + 1][pair]
        least = lagrangian * float(self.bits[-2:].min(1).sum())
        far = ((costs[:, ::2] > announced + least).any(1) & (self.tables.digit_factor[rows] < ESCAPE_FACTOR)).nonzero()[0]
        if len(far):
            escaped = self._escape(residual[far], lagrangian)[2]
            for number in range(SETS):
                cost = escaped + announced[far, number]
                better = cost < costs[far, 2 * number]
                costs[far[better], 2 * number], codes[far[better], 2 * number] = cost[better], self.size
        return first, costs, codes

    def _escape(self, residual: np.ndarray, lagrangian: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coarse and fine digits of residuals `(n, d*)` in steps written by escape, and their costs `(n,)`."""
        rows = np.full(len(residual), self.tables.escape_row)
        coarse = self._choose(residual / np.float32(ESCAPE_FACTOR), rows, lagrangian * FIRST_DIGIT_WEIGHT)
        left = residual - np.float32(ESCAPE_FACTOR) * self.steps[coarse]
        fine = self._choose(left, rows + 1, lagrangian)
        cost = np.square(left - self.steps[fine]).sum(1) + np.float32(lagrangian) * (self.bits[rows, coarse] + self.bits[rows + 1, fine])
        return coarse, fine, cost


def each_part(work: Callable[[np.ndarray], None], indices: np.ndarray, threads: int) -> None:
    """Calls `work` with parts of some indices, in as many threads; numpy lets others run while it works on arrays."""
    size = min(UNITS_AT_A_TIME, max(LEAST_UNITS, -(-len(indices) // threads)))
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]
    # Once a program's main thread has ended, pools take no work any more.
    if threads == 1 or len(parts) < 2 or not threading.main_thread().is_alive():
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, parts):
            pass
