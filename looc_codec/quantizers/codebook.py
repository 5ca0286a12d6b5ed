"""The shared codebook in training: codevectors and tables that a fit moves, and the choice of codes on an accelerator.

What a code stands for and how it is written is `format/codes.py`; how the encoder chooses is `codec/search.py`, which training on
the CPU uses as well. Here is what they are made from, and the same choice for all units at once, without shapes that depend on
values, for a GPU. One codebook of K codevectors of d* dimensions serves every unit of the latent (LooC, section 3); what differs
from the paper is what is quantised, the residual against the prior's mean, and how: k = argmin |r - c_k|² + lambda * bits(k | row).

Odd digit factors waste nothing: the points that an integer lattice has in a cell of G Z² belong to that cell alone, while with
G = 2 three points of four lie on a border and can be written in two ways or four. Without escapes the few units beyond the
codebook's reach carried 85-95% of the squared error of a fine quantiser (measured at quality 100 on two pictures).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looc_codec.codec.packing import pack_frequencies, shortened, unpack_frequencies
from looc_codec.codec.search import ESCAPE_ERROR, GRID_MARGIN, GRID_PER_STEP, HIGH_RATE_LAMBDA, SHORTLIST, CodeSearch
from looc_codec.config import LoocConfig
from looc_codec.format.codes import CodeTables
from looc_codec.format.constants import ESCAPE_FACTOR, LATENT_ONE, TABLE_BITS
from looc_codec.format.integers import Core

TRELLIS_SPACING = 1.3
"""Steps between the points of one set in a trellis. Two sets together leave a smaller error than one, so that each may be coarser. Files of 8 validation pictures
against those without a trellis: -1.7% with 1, -2.2% with 1.12, -2.9% with 1.25 and with 1.4 (paths of 64, tables of a few pictures)."""

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


@dataclass(frozen=True)
class Digits:
    """Codes of n units, as `pick_all` gives them: `first` is -1 where a unit has no first digit; `second` is K where it is escaped; `coarse` and
    `fine` mean something only there. All `(n,)` int64."""

    first: Tensor
    second: Tensor
    coarse: Tensor
    fine: Tensor


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
        self.codevectors = (self.lattice() * LATENT_ONE).round().to(torch.int32)
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
        return float(self.codevectors[: self.size].float().norm(dim=1).max()) / LATENT_ONE

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
        frequencies = 1 + torch.floor(weights / weights.sum(1, keepdim=True).clamp_min(1e-30) * room).to(torch.int64)
        frequencies = torch.from_numpy(shortened(frequencies.cpu().numpy())).to(weights.device)
        largest = frequencies.argmax(1, keepdim=True)
        frequencies.scatter_add_(1, largest, 2**TABLE_BITS - frequencies.sum(1, keepdim=True))
        self.hold("frequencies", frequencies.to(torch.int32))
        self.prepare()

    def set_codevectors(self, codevectors: Tensor) -> None:
        """Takes codevectors `(K, d*)` in steps; rounds to 1/16 and keeps codevector 0 at zero."""
        codevectors = (codevectors.to(self.codevectors.device) * LATENT_ONE).round().to(torch.int32)
        codevectors[:: self.size] = 0
        self.hold("codevectors", codevectors)
        self.prepare()

    def prepare(self) -> None:
        """Derives the search aids: costs in bits, float codevectors, shortlists of the nearest codevectors by cell."""
        self._search = None
        self.hold("bits", (TABLE_BITS - torch.log2(self.frequencies.double())).float())
        self.hold("steps", self.codevectors.float() / LATENT_ONE)
        # The zero that stands for an escape is at K in set 0, and at 2 K + 1 in set 1.
        self.hold("padded", torch.cat([F.pad(part, (0, 0, 0, 1)) for part in self.codevectors.split(self.size)]))
        self.hold("cheapest", self.frequencies.argmax(1))
        # Only `pick_all` needs them.
        if self.trellis or self.config.codevector_dim > 2:
            self.shortlists = None
            return
        reach = float(self.lattice()[: self.size].norm(dim=1).max())
        self.half_cells = math.ceil((reach + GRID_MARGIN) * GRID_PER_STEP)
        self.hold("shortlists", self.nearest(slice(0, self.size), SHORTLIST))
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
        for name in ("codevectors", "digit_factor", "live", "shifted_row", "first_digit_row", "frequencies", "bits", "padded", "cheapest", "steps", "shortlists"):
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

    # --- the encoder's choice ---------------------------------------------------------------------------------------

    def tables(self) -> CodeTables:
        """The tables as they stand now, as the codec has them. ModelError where they are not legal."""
        live = self.live.cpu().numpy() if self.trellis else None
        return CodeTables(self.config, self.codevectors.cpu().numpy(), self.digit_factor.cpu().numpy(), live, self.frequencies.cpu().numpy())

    def search(self) -> CodeSearch:
        """The encoder's choice with the tables as they stand now."""
        if self._search is None:
            self._search = CodeSearch(self.tables())
        return self._search

    def quantise(self, residual: Tensor, rows: Tensor, lagrangian: float, counts: list[int] | None = None) -> Tensor:
        """Integer residuals `(n, d*)` int32 (1/16 steps) of the codes that the encoder would choose for residuals `(n, d*)` (1/16 steps) in table rows
        `(n,)`; steps of `counts` units, see `CodeSearch.pick`. On the CPU, wherever the residuals are."""
        search, own_rows = self.search(), rows.cpu().numpy()
        value = search.tables.value(search.pick(residual.float().cpu().numpy(), own_rows, lagrangian, counts), own_rows)
        return torch.from_numpy(value).to(residual.device)

    # --- the same choice for all units at once ----------------------------------------------------------------------

    def pick_all(self, residual: Tensor, rows: Tensor, lagrangian: float = HIGH_RATE_LAMBDA) -> Digits:
        """`pick` without a shape that depends on values: every digit is looked for in every unit. An accelerator takes
        less time for that than for waiting until it is known which units need which digit. Needs d* <= 2."""
        assert not self.trellis, "paths are not chosen all at once"
        residual = residual.float() / LATENT_ONE
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
        return Digits(torch.where(wide, first, -1), torch.where(gain, size, second), coarse, fine)

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

    # --- weights ----------------------------------------------------------------------------------------------------

    def export(self) -> Core:
        """The format-critical integers, as a weights file holds them."""
        core = {
            "codevectors": self.codevectors.cpu().numpy().astype(np.int16),
            "digit_factor": self.digit_factor.cpu().numpy().astype(np.uint8),
            "frequencies": pack_frequencies(self.frequencies.cpu().numpy()),
        }
        return core | ({"live": self.live.cpu().numpy().astype(np.uint8)} if self.trellis else {})

    def take(self, core: Core) -> None:
        """Takes the integers of `export`; ModelError where they are not legal."""
        live = core.get("live")
        self.set_classes(torch.from_numpy(core["digit_factor"].astype(np.int32)), None if live is None else torch.from_numpy(live.astype(bool)))
        self.codevectors = torch.from_numpy(core["codevectors"].astype(np.int32))
        self.frequencies = torch.from_numpy(unpack_frequencies(core["frequencies"], 2**TABLE_BITS))
        self.tables()
        self.prepare()
