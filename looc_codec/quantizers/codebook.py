"""The shared codebook in codec mode: predictive units, digits, entropy-constrained choice, bank of tables.

One codebook of K codevectors of d* dimensions serves every unit of the latent (LooC, section
3: a low-dimensional codebook shared by all units of a position). What differs from the paper is what is quantised, the
residual against the prior's mean, and how: k = argmin |r - c_k|² + lambda * bits(k | row).

A unit whose context row is wider than the codebook is written in two digits of the same book: r = G c_k1 + c_k2, with
G fixed by the row. That is residual quantisation with one book, to a depth that the context decides. Odd G waste nothing:
the points that an integer lattice has in a cell of G Z² belong to that cell alone, while with G = 2 three points of four
lie on a border and can be written in two ways or four.

In a trellis (quantizers/trellis.py) a live unit's last digit is of set 0, the codebook, or of set 1, its codevectors half a spacing nearer
to zero. Rows so narrow that their units are nearly always zero are not live: a path through them would only be in the wrong state.

A unit that its row did not expect so far out is escaped: the symbol K says that two digits with G = 32 follow. Without
it the few units beyond the codebook's reach carried 85-95% of the squared error of a fine quantiser (measured at
quality 100 on two pictures); with it the reach is 32 times the codebook's, whatever the context said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looc_codec.config import LoocConfig
from looc_codec.errors import ModelError
from looc_codec.packing import pack_frequencies, shortened, unpack_frequencies
from looc_codec.quantizers.search import scores
from looc_codec.quantizers.trellis import NEXT_STATE, SETS, best_choices, path_count, path_units

FIXED_ONE = 16
"""Integer value of one quantisation step in codevectors and residuals."""
TABLE_BITS = 24
"""Frequencies of a row add up to 2^24, the precision of the range coder, so rare codevectors cost peaked rows nothing."""
HIGH_RATE_LAMBDA = 2 * math.log(2) / 12
"""Slope of distortion (steps²) against bits of a uniform quantiser of step 1 at high rate."""
ENCODER_LAMBDA = 0.7 * HIGH_RATE_LAMBDA
"""Weight of bits in the encoder's choice of codes: 0.8% fewer bits at equal PSNR than the high-rate value with the first weights, 0.5%
with the seventh (measured on validation pictures; 0.55 and 0.85 are within 0.1% of it). Decoders do not know it."""
TRELLIS_SPACING = 1.3
"""Steps between the points of one set in a trellis. Two sets together leave a smaller error than one, so that each may be coarser. Files of 8 validation pictures
against those without a trellis: -1.7% with 1, -2.2% with 1.12, -2.9% with 1.25 and with 1.4 (paths of 64, tables of a few pictures)."""
GRID_PER_STEP = 4
SHORTLIST = 16
TRELLIS_SHORTLIST = 4
"""Nearest codevectors of one set and one parity that are considered, beside zero. On crops of 8 validation pictures the codes are those of 6; with 3 the cost rises by 0.04%."""
CHUNK = 1 << 16
TRELLIS_CHUNK = 1 << 15
PICK_UNITS = 1 << 20
ESCAPE_FACTOR = 32
ESCAPE_ERROR = 1.0
"""Squared error (steps²) from which the encoder considers an escape; nearer units cannot gain by it."""
GRID_MARGIN = 1.5
"""Steps that the shortlists' grid reaches beyond the lattice, whatever codevectors a fit moves: its size never changes."""


def lattice(dim: int, size: int) -> Tensor:
    """The `size` shortest points of the integer lattice, zero first, in steps: `(size, dim)` float32.

    A hexagonal one is denser at d* = 2, but most units differ from zero in one channel only, and its second axis has no
    points: with it files are 0.7% larger (docs/EXPERIMENTS.md, section 6).
    """
    reach = size // 2 + 1 if dim == 1 else math.ceil((size / 2) ** (1 / dim)) + 1
    points = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * dim).view(-1, dim).float()
    return points[points.norm(dim=1).argsort(stable=True)[:size]].clone()


def trellis_lattice(dim: int, size: int) -> Tensor:
    """The shortest points of a lattice, those whose components have an even sum at even indices and those of odd sums at odd ones, `(size, dim)` float32 in steps;
    then `(size, dim)` more, the same points half a spacing nearer to zero in every component."""
    # A little more than twice as many as needed: both kinds are half of the lattice but for its rim.
    points = lattice(dim, 2 * size + 64)
    odd = points.sum(1).long() % 2 != 0
    whole = torch.empty(size, dim)
    for parity, kind in enumerate((points[~odd], points[odd])):
        target = whole[parity::2]
        target.copy_(kind[: len(target)])
    return TRELLIS_SPACING * torch.cat([whole, whole - 0.5 * whole.sign()])


class SymbolReader(Protocol):
    """What `SharedCodebook.read` takes symbols from: for table rows of one kind `(n,)` the next symbols, as an array, or as a list where rows ascend."""

    def read(self, rows: np.ndarray) -> np.ndarray: ...

    def read_ascending(self, rows: np.ndarray) -> list[int]: ...


@dataclass(frozen=True)
class Digits:
    """Codes of n units: `first` `(n,)` is -1 where a unit has no first digit; `second` `(n,)` is K where it is escaped, and of the set
    `sets` `(n,)`, 0 or 1. `coarse` and `fine` `(escaped,)` are the digits of the escaped units in order; `pick_all` gives them for all units
    `(n,)`, with meaning only where a unit is escaped. All int64."""

    first: Tensor
    second: Tensor
    coarse: Tensor
    fine: Tensor
    sets: Tensor


class SharedCodebook(nn.Module):
    """Codevectors `(K, d*)` int32 (1/16 steps), table bank `(rows, K + 1)` int32, digit factor per fine row.

    Fine rows are the context classes; after them come the rows of live classes in set 1, numbered by `shifted_row`, then the rows of
    first digits of classes with a digit factor above 1, numbered by `first_digit_row` (-1 where there is none). The last two rows hold the
    coarse and the fine digits of escaped units. The last column is the escape symbol. In a trellis `codevectors` are `(2 K, d*)`, set 1 after
    set 0, and a code's parity is the lowest bit of its index; an escape counts as even.
    """

    def __init__(self, config: LoocConfig) -> None:
        super().__init__()
        self.config = config
        self.size = config.codebook_size
        self.trellis = config.trellis_states > 1
        self.codevectors = (self.lattice() * FIXED_ONE).round().to(torch.int32)
        self.set_classes(torch.ones(config.classes, dtype=torch.int32))
        self.set_tables(torch.ones(self.rows, config.codebook_size + 1))

    def lattice(self) -> Tensor:
        """Where codevectors start, in steps: as many as `codevectors`, float32."""
        make = trellis_lattice if self.trellis else lattice
        return make(self.config.codevector_dim, self.config.codebook_size)

    @property
    def fine_rows(self) -> int:
        return len(self.digit_factor)

    @property
    def rows(self) -> int:
        return self.fine_rows + int(self.live.sum()) + int((self.digit_factor > 1).sum()) + 2

    @property
    def reach(self) -> float:
        """Largest length of a codevector of set 0, in steps."""
        return float(self.codevectors[: self.size].float().norm(dim=1).max()) / FIXED_ONE

    def set_classes(self, digit_factor: Tensor, live: Tensor | None = None) -> None:
        """Fixes the digit factor `(fine_rows,)` of each class and which are `live` `(fine_rows,)` bool, by default all in a trellis, and numbers the other rows."""
        self.digit_factor = digit_factor.to(torch.int32)
        self.live = torch.full((len(digit_factor),), self.trellis) if live is None else live.bool()

        def numbered(chosen: Tensor, start: int) -> Tensor:
            return torch.where(chosen, chosen.long().cumsum(0) - 1 + start, torch.tensor(-1))

        self.shifted_row = numbered(self.live, len(digit_factor))
        self.first_digit_row = numbered(self.digit_factor > 1, len(digit_factor) + int(self.live.sum()))

    def set_tables(self, weights: Tensor) -> None:
        """Integer frequencies from positive weights `(rows, K + 1)`: each >= 1, each row adding up to 2^24.

        All but the largest of a row have 11 leading bits at most, which is what the weights file keeps of them.
        """
        weights = weights.to(self.codevectors.device).double().clamp_min(0)
        room = 2**TABLE_BITS - weights.shape[1]
        frequencies = shortened(1 + torch.floor(weights / weights.sum(1, keepdim=True).clamp_min(1e-30) * room).to(torch.int64))
        largest = frequencies.argmax(1, keepdim=True)
        frequencies.scatter_add_(1, largest, 2**TABLE_BITS - frequencies.sum(1, keepdim=True))
        self.hold("frequencies", frequencies.to(torch.int32))
        self.prepare()

    def set_codevectors(self, codevectors: Tensor) -> None:
        """Takes codevectors `(K, d*)` in steps; rounds to 1/16 and keeps codevector 0 at zero."""
        codevectors = (codevectors.to(self.codevectors.device) * FIXED_ONE).round().to(torch.int32)
        codevectors[:: self.size] = 0
        self.hold("codevectors", codevectors)
        self.prepare()

    def prepare(self) -> None:
        """Derives the search aids: costs in bits, float codevectors, shortlists of the nearest codevectors by cell."""
        self.hold("bits", (TABLE_BITS - torch.log2(self.frequencies.double())).float())
        self.hold("steps", self.codevectors.float() / FIXED_ONE)
        # The zero that stands for an escape is at K in set 0, and at 2 K + 1 in set 1.
        self.hold("padded", torch.cat([F.pad(part, (0, 0, 0, 1)) for part in self.codevectors.split(self.size)]))
        self.hold("cheapest", self.frequencies.argmax(1))
        if self.config.codevector_dim > 2:
            self.shortlists = None
            return
        reach = float(self.lattice()[: self.size].norm(dim=1).max())
        self.half_cells = math.ceil((reach + GRID_MARGIN) * GRID_PER_STEP)
        self.hold("shortlists", self.nearest(slice(0, self.size), SHORTLIST))
        if self.trellis:
            # By set and parity, `(cells, 4 n)`: coordinates, and columns of `pair_bits`, which holds the two rows of each live class side by side.
            parts = [slice(number * self.size + parity, (number + 1) * self.size, 2) for number in range(SETS) for parity in range(2)]
            short = torch.cat([self.nearest(part, TRELLIS_SHORTLIST) for part in parts], 1)
            self.hold("trellis_points", self.steps[short].permute(2, 0, 1).contiguous())
            self.hold("trellis_columns", (short + short // self.size).to(torch.int32))
            self.hold("pair_bits", torch.cat([self.bits[: self.fine_rows][self.live], self.bits[self.shifted_row[self.live]]], 1))

    def nearest(self, part: slice, count: int) -> Tensor:
        """For each cell of the grid the nearest codevectors of a part of them, and its first: `(cells, count + 1)` int64, indices of `steps`."""
        axis = torch.arange(-self.half_cells, self.half_cells + 1, device=self.steps.device).float() / GRID_PER_STEP
        cells = torch.cartesian_prod(*[axis] * self.config.codevector_dim).view(-1, self.config.codevector_dim)
        steps = self.steps[part]
        indices = torch.arange(len(self.steps), device=steps.device)[part]
        found = torch.cat([torch.cdist(some, steps).topk(min(count, len(steps)), largest=False).indices for some in cells.split(4096)])
        return indices[torch.cat([found, torch.zeros_like(found[:, :1])], 1)]

    def hold(self, name: str, value: Tensor) -> None:
        """Keeps a tensor under a name, in the memory of the one before where that fits: recorded training steps read it there."""
        old = getattr(self, name, None)
        if old is not None and (old.shape, old.dtype, old.device) == (value.shape, value.dtype, value.device) and not old.is_inference():
            old.copy_(value)
        else:
            setattr(self, name, value)

    def to_device(self, device: torch.device | str) -> SharedCodebook:
        """Moves the search aids for training on an accelerator; the stored integers go along."""
        for name in ("codevectors", "digit_factor", "live", "shifted_row", "first_digit_row", "frequencies", "bits", "padded", "cheapest", "steps", "shortlists",
                     "trellis_points", "trellis_columns", "pair_bits"):
            value = getattr(self, name, None)
            if value is not None:
                setattr(self, name, value.to(device))
        return self

    def cells(self, residual: Tensor) -> Tensor:
        """Index `(n,)` int64 of the grid cell of each residual `(n, d*)` in steps; far ones fall into the rim."""
        cell = torch.round(residual * GRID_PER_STEP).long().clamp(-self.half_cells, self.half_cells) + self.half_cells
        index = cell[:, 0]
        for axis in range(1, residual.shape[1]):
            index = index * (2 * self.half_cells + 1) + cell[:, axis]
        return index

    def choose(self, residual: Tensor, rows: Tensor, lagrangian: float) -> Tensor:
        """argmin over k of |r - c_k|² + lagrangian * bits(k | row): residual `(n, d*)` in steps → `(n,)` int64.

        Only the encoder and training call this, so it may use floats and a shortlist of near codevectors (d* <= 2; a
        full search otherwise). Units whose near codevector is also their row's cheapest need no search, which is most
        of them at common rates.
        """
        chosen = []
        for part, part_rows in zip(residual.split(CHUNK), rows.split(CHUNK), strict=True):
            if self.shortlists is None:
                gain = scores(part, self.steps[: self.size]) - 0.5 * lagrangian * self.bits[part_rows, :-1]
                chosen.append(gain.argmax(1))
                continue
            cells = self.cells(part)
            best = self.shortlists[:, 0][cells]
            open_ = (best != self.cheapest[part_rows]).nonzero().flatten()
            short = self.shortlists[cells[open_]]
            cost = ((part[open_, None] - self.steps[short]) ** 2).sum(-1)
            cost = cost + lagrangian * self.bits.view(-1)[part_rows[open_, None] * self.bits.shape[1] + short]
            best[open_] = short.gather(1, cost.argmin(1, keepdim=True))[:, 0]
            chosen.append(best)
        return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.int64, device=residual.device)

    def pick(self, residual: Tensor, rows: Tensor, lagrangian: float = HIGH_RATE_LAMBDA, counts: list[int] | None = None) -> Digits:
        """Digits of residuals `(n, d*)` (1/16 steps, fractions allowed) in their classes, by cost in distortion and bits.

        `counts` are the numbers of units of the coding steps that they belong to, by default one step; they matter to a trellis only.
        In parts, because a large picture has tens of millions of units in one step and the search needs a dozen arrays of them.
        """
        if self.trellis:
            return self.pick_paths(residual, rows, lagrangian, [len(rows)] if counts is None else counts)
        parts = [self.pick_part(*part, lagrangian) for part in zip(residual.split(PICK_UNITS), rows.split(PICK_UNITS), strict=True)]
        return Digits(*(torch.cat([getattr(part, name) for part in parts]) for name in ("first", "second", "coarse", "fine", "sets")))

    def pick_part(self, residual: Tensor, rows: Tensor, lagrangian: float) -> Digits:
        residual = residual.float() / FIXED_ONE
        first, left = self.first_digits(residual, rows, lagrangian)
        second = self.choose(left, rows, lagrangian)
        error = (left - self.steps[second]).square().sum(1)
        far = ((error > ESCAPE_ERROR) & (self.digit_factor[rows] < ESCAPE_FACTOR)).nonzero().flatten()
        coarse, fine, escaped = self.escape(residual[far], lagrangian)
        spent = self.bits[rows[far], second[far]]
        spent = spent + torch.where(first[far] >= 0, self.bits[self.first_digit_row[rows[far]], first[far].clamp_min(0)], torch.zeros_like(spent))
        gain = error[far] + lagrangian * spent > escaped + lagrangian * self.bits[rows[far], self.size]
        second[far[gain]] = self.size
        return Digits(first, second, coarse[gain], fine[gain], torch.zeros_like(rows))

    def first_digits(self, residual: Tensor, rows: Tensor, lagrangian: float) -> tuple[Tensor, Tensor]:
        """The first digits `(n,)` of residuals `(n, d*)` in steps, -1 where a class has none, and what they leave."""
        factor = self.digit_factor[rows]
        wide = (factor > 1).nonzero().flatten()
        first = torch.full_like(rows, -1)
        left = residual
        if len(wide):
            scale = factor[wide].float()[:, None]
            first[wide] = self.choose(residual[wide] / scale, self.first_digit_row[rows[wide]], lagrangian / 16)
            left = residual.clone()
            left[wide] -= scale * self.steps[first[wide]]
        return first, left

    # --- trellis ----------------------------------------------------------------------------------------------------

    def pick_paths(self, residual: Tensor, rows: Tensor, lagrangian: float, counts: list[int]) -> Digits:
        """`pick` along the paths of a trellis; steps of `counts` units."""
        live = self.live[rows]
        alive, still = live.nonzero().flatten(), (~live).nonzero().flatten()
        first, second, sets = torch.full_like(rows, -1), torch.empty_like(rows), torch.zeros_like(rows)
        for part in still.split(PICK_UNITS):
            digits = self.pick_part(residual[part], rows[part], lagrangian)
            first[part], second[part] = digits.first, digits.second
        if len(alive):
            costs, codes = [], []
            for part in alive.split(TRELLIS_CHUNK):
                first[part], cost, code = self.alternatives(residual[part].float() / FIXED_ONE, rows[part], lagrangian)
                costs.append(cost.cpu())
                codes.append(code)
            steps = [len(alive)] if len(counts) == 1 else [int(part.sum()) for part in live.split(counts)]
            entry = torch.from_numpy(best_choices(torch.cat(costs).numpy(), path_units(steps))).to(rows.device)
            second[alive] = torch.cat(codes).gather(1, entry[:, None])[:, 0].long()
            sets[alive] = entry // 2
        coarse, fine, _ = self.escape(residual[second == self.size].float() / FIXED_ONE, lagrangian)
        return Digits(first, second, coarse, fine, sets)

    def alternatives(self, residual: Tensor, rows: Tensor, lagrangian: float) -> tuple[Tensor, Tensor, Tensor]:
        """First digits `(n,)` of live units `(n, d*)` in steps, and what they can be in a path: costs `(n, 4)` and codes `(n, 4)` of the best last
        digit in set 0 with an even index and with an odd one, and in set 1; codes are int16, because a large picture has millions of them."""
        first, left = self.first_digits(residual, rows, lagrangian)
        cells, width = self.cells(left), self.size + 1
        costs = sum((left[:, axis, None] - points.index_select(0, cells)).square_() for axis, points in enumerate(self.trellis_points))
        columns = self.trellis_columns.index_select(0, cells)
        pair = self.shifted_row[rows] - self.fine_rows
        places = columns + (pair * self.pair_bits.shape[1]).to(torch.int32)[:, None]
        costs.add_(self.pair_bits.view(-1).index_select(0, places.flatten()).view_as(places), alpha=lagrangian)
        costs, index = costs.unflatten(1, (2 * SETS, -1)).min(-1, keepdim=True)
        costs = costs[..., 0]
        codes = (columns.unflatten(1, (2 * SETS, -1)).gather(-1, index)[..., 0] % width).to(torch.int16)
        # An escape counts as even. It costs its symbol and the cheapest digits at least.
        announced = lagrangian * self.pair_bits[:, self.size :: width][pair]
        least = lagrangian * float(self.bits[-2:].amin(1).sum())
        far = (costs[:, ::2] > announced + least).any(1) & (self.digit_factor[rows] < ESCAPE_FACTOR)
        far = far.nonzero().flatten()
        escaped = self.escape(residual[far], lagrangian)[2]
        for number in range(SETS):
            cost = escaped + announced[far, number]
            better = cost < costs[far, 2 * number]
            costs[far[better], 2 * number], codes[far[better], 2 * number] = cost[better], self.size
        return first, costs, codes

    def escape(self, residual: Tensor, lagrangian: float) -> tuple[Tensor, Tensor, Tensor]:
        """Coarse and fine digits of residuals `(n, d*)` in steps written by escape, and their costs `(n,)`."""
        rows = torch.full((len(residual),), self.rows - 2, dtype=torch.int64, device=residual.device)
        coarse = self.choose(residual / ESCAPE_FACTOR, rows, lagrangian / 16)
        left = residual - ESCAPE_FACTOR * self.steps[coarse]
        fine = self.choose(left, rows + 1, lagrangian)
        cost = (left - self.steps[fine]).square().sum(1) + lagrangian * (self.bits[rows, coarse] + self.bits[rows + 1, fine])
        return coarse, fine, cost

    # --- the same choice for all units at once ----------------------------------------------------------------------

    def pick_all(self, residual: Tensor, rows: Tensor, lagrangian: float = HIGH_RATE_LAMBDA) -> Digits:
        """`pick` without a shape that depends on values: every digit is looked for in every unit. An accelerator takes
        less time for that than for waiting until it is known which units need which digit. Needs d* <= 2."""
        assert not self.trellis, "paths are not chosen all at once"
        residual = residual.float() / FIXED_ONE
        size, factor = self.size, self.digit_factor[rows]
        wide, first_rows = factor > 1, self.first_digit_row[rows].clamp_min(0)
        scale = factor.float()[:, None]
        first, _ = self.choose_all(residual / scale, first_rows, lagrangian / 16)
        left = torch.where(wide[:, None], residual - scale * self.steps[first], residual)
        second, _ = self.choose_all(left, rows, lagrangian)
        error = (left - self.steps[second]).square().sum(1)
        spent = self.bits_of(rows, second) + torch.where(wide, self.bits_of(first_rows, first), 0.0)
        escape_rows = torch.full_like(rows, len(self.bits) - 2)
        coarse, _ = self.choose_all(residual / ESCAPE_FACTOR, escape_rows, lagrangian / 16)
        left = residual - ESCAPE_FACTOR * self.steps[coarse]
        fine, cost = self.choose_all(left, escape_rows + 1, lagrangian)
        escaped = cost + lagrangian * (self.bits_of(escape_rows, coarse) + self.bits_of(rows, torch.full_like(rows, size)))
        gain = (error > ESCAPE_ERROR) & (factor < ESCAPE_FACTOR) & (error + lagrangian * spent > escaped)
        return Digits(torch.where(wide, first, -1), torch.where(gain, size, second), coarse, fine, torch.zeros_like(rows))

    def choose_all(self, residual: Tensor, rows: Tensor, lagrangian: float) -> tuple[Tensor, Tensor]:
        """`choose`, from the whole shortlist for every unit; also the cost of what was chosen, `(n,)`."""
        short = self.shortlists[self.cells(residual)]
        cost = (residual[:, None] - self.steps[short]).square().sum(-1) + lagrangian * self.bits_of(rows[:, None], short)
        cost, index = cost.min(1, keepdim=True)
        return short.gather(1, index)[:, 0], cost[:, 0]

    def bits_of(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Cost in bits of codes (K is the escape) in table rows, int64 of shapes that broadcast: float32."""
        return self.bits.view(-1)[rows * self.bits.shape[1] + codes]

    def value_all(self, digits: Digits, rows: Tensor) -> Tensor:
        """`value` of what `pick_all` gives."""
        wide = digits.first >= 0
        coarse = torch.where(wide, self.digit_factor[rows], 0)[:, None] * self.padded[digits.first.clamp_min(0)]
        escaped = ESCAPE_FACTOR * self.padded[digits.coarse] + self.padded[digits.fine]
        return torch.where((digits.second == self.size)[:, None], escaped, coarse + self.padded[digits.second])

    def quantise_all(self, residual: Tensor, rows: Tensor, lagrangian: float) -> Tensor:
        """Integer residuals `(n, d*)` int32 (1/16 steps) of the codes that residuals (1/16 steps) get."""
        return self.value_all(self.pick_all(residual, rows, lagrangian), rows)

    # --- what is written and read -----------------------------------------------------------------------------------

    def symbols(self, digits: Digits, rows: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """What is written for a step's units, in order: symbols `(n,)`, their table rows `(n,)`, and how many each kind of them has.

        First digits; last digits, in a trellis those of the units that are not live, then of the first unit of every path, of the second, and so on; digits of escapes.
        """
        wide = digits.first >= 0
        escape_row = torch.full_like(digits.coarse, self.rows - 2)
        symbols, table_rows = [digits.first[wide]], [self.first_digit_row[rows[wide]]]
        live = self.live[rows]
        if not self.trellis:
            symbols.append(digits.second)
            table_rows.append(rows)
        else:
            own = rows[live]
            symbols += [digits.second[~live], digits.second[live]]
            table_rows += [rows[~live], torch.where(digits.sets[live] == 0, own, self.shifted_row[own])]
        counts = [len(part) for part in symbols]
        if self.trellis:
            units = counts.pop()
            paths = path_count(units)
            counts += [min(paths, units - start) for start in range(0, units, max(1, paths))]
        counts += [len(digits.coarse), len(digits.fine)]
        return torch.cat([*symbols, digits.coarse, digits.fine]), torch.cat([*table_rows, escape_row, escape_row + 1]), counts

    def read(self, rows: Tensor, decoder: SymbolReader) -> Digits:
        """The digits of a step's units; the inverse of `symbols`."""

        def digits(table_rows: Tensor) -> Tensor:
            return torch.from_numpy(decoder.read(table_rows.numpy())).long()

        wide = self.digit_factor[rows] > 1
        first = torch.full_like(rows, -1)
        first[wide] = digits(self.first_digit_row[rows[wide]])
        sets = torch.zeros_like(rows)
        if self.trellis:
            second, live = torch.empty_like(rows), self.live[rows]
            second[~live] = digits(rows[~live])
            second[live], sets[live] = self.read_paths(rows[live], decoder)
        else:
            second = digits(rows)
        escape_row = torch.full((int((second == self.size).sum()),), self.rows - 2, dtype=torch.int64)
        return Digits(first, second, digits(escape_row), digits(escape_row + 1), sets)

    def read_paths(self, rows: Tensor, decoder: SymbolReader) -> tuple[Tensor, Tensor]:
        """Last digits of live units and their sets: one unit of every path at a time, since its set depends on the digit before."""
        units = len(rows)
        paths = max(1, path_count(units))
        # 16-bit numbers are sorted fastest.
        kind = np.uint16 if self.rows < 2**16 else np.int64
        own, shifted = rows.numpy().astype(kind), self.shifted_row[rows].numpy().astype(kind)
        # Units in the order of their rows, part by part. Those of set 1 come after those of set 0, and in the same order.
        order = own.argsort(kind="stable")
        order = order[(order // paths).astype(np.uint16).argsort(kind="stable")]
        path, own, shifted = order % paths, own[order], shifted[order]
        codes, sets = np.empty(units, np.int64), np.empty(units, np.int64)
        following, state = NEXT_STATE.flatten(), np.zeros(paths, np.int64)
        for start in range(0, units, paths):
            part = slice(start, start + paths)
            now = state[path[part]]
            number = now & 1
            by_set = number.argsort(kind="stable")
            code = codes[part]
            code[by_set] = decoder.read_ascending(np.where(number, shifted[part], own[part])[by_set])
            sets[part] = number
            # K is even, and so is an escape.
            state[path[part]] = following[2 * now + (code & 1)]
        second, chosen = np.empty(units, np.int64), np.empty(units, np.int64)
        second[order], chosen[order] = codes, sets
        return torch.from_numpy(second), torch.from_numpy(chosen)

    def value(self, digits: Digits, rows: Tensor) -> Tensor:
        """Integer residuals `(n, d*)` int32 (1/16 steps) of the digits: G c_first + c_second. Exact."""
        value = self.padded[digits.second + (self.size + 1) * digits.sets]
        wide = (digits.first >= 0).nonzero().flatten()
        value[wide] += self.digit_factor[rows[wide], None] * self.padded[digits.first[wide]]
        value[digits.second == self.size] = ESCAPE_FACTOR * self.padded[digits.coarse] + self.padded[digits.fine]
        return value

    def export(self) -> dict[str, Tensor]:
        tensors = {
            "codevectors": self.codevectors.to(torch.int16).cpu(),
            "digit_factor": self.digit_factor.to(torch.uint8).cpu(),
            "frequencies": pack_frequencies(self.frequencies.cpu()),
        }
        return tensors | ({"live": self.live.to(torch.uint8).cpu()} if self.trellis else {})

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes the tensors of `export`, checking that they form a legal bank."""
        stored = {name: (value.dtype, value.dim()) for name, value in tensors.items()}
        known = {"codevectors": (torch.int16, 2), "frequencies": (torch.int16, 2), "digit_factor": (torch.uint8, 1)}
        if stored != known | ({"live": (torch.uint8, 1)} if self.trellis else {}):
            raise ModelError("the weights file holds other codebook tensors than this looc knows")
        codevectors, frequencies = tensors["codevectors"].to(torch.int32), unpack_frequencies(tensors["frequencies"], 2**TABLE_BITS)
        factors, live = tensors["digit_factor"].to(torch.int32), tensors.get("live")
        if live is not None and (len(live) != len(factors) or (live > 1).any()):
            raise ModelError("the weights file holds an illegal codebook or table bank")
        self.set_classes(factors, live)
        config = self.config
        legal = (
            0 not in codevectors.shape
            and not codevectors[:: config.codebook_size].any()
            and bool((self.digit_factor <= ESCAPE_FACTOR).all())
            and codevectors.shape == (config.codebook_size * (SETS if self.trellis else 1), config.codevector_dim)
            and self.fine_rows == config.classes
            and frequencies.shape == (self.rows, config.codebook_size + 1)
            and int(frequencies.min()) >= 1
        )
        if not legal:
            raise ModelError("the weights file holds an illegal codebook or table bank")
        self.codevectors, self.frequencies = codevectors, frequencies
        self.prepare()
