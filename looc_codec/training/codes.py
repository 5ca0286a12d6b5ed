"""Fit of the shared codebook and its table bank to the residuals of a trained prior (LBG with the rate term).

Rows are fitted by counting, codevectors by centroids, and assignments count bits: an entropy-constrained
vector quantiser (Chou, Lookabaugh, Gray 1989) whose one codebook serves every row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from looc_codec.codec.search import HIGH_RATE_LAMBDA
from looc_codec.config import QUALITY_MAX, QUALITY_MIN, LoocConfig
from looc_codec.data import PictureStore
from looc_codec.format.constants import ACTIVATION_ONE, ESCAPE_FACTOR, LATENT_ONE, RATIO_LOG_SPAN, SCALE_LOG_LOW, SCALE_LOG_WIDTH
from looc_codec.networks.model import LoocModel
from looc_codec.networks.prior import unit_classes
from looc_codec.quantizers.codebook import SharedCodebook
from looc_codec.quantizers.units import latent_of, units_of
from looc_codec.training.parallel import Processes

DIGIT_FACTORS = (1, 3, 5, 9, 17)
"""Odd, see quantizers/codebook.py: with 2, 4, 8, 16 files are 1% larger."""
REACH_IN_DEVIATIONS = 3.6
"""A row is "wider than the codebook" when this many standard deviations exceed the longest codevector."""
LIVE_DEVIATION = 0.3
"""Steps of standard deviation from which a class is live in a trellis: with 0.1, 0.2 and 0.35 paths of 64 units save 4.1, 4.3 and 4.2% of bits at quality 50
(3.2, 3.8 and 3.9% at 5), and 49, 35 and 25% of units are live (7, 4% at 5 for the last two)."""
PSEUDO_COUNT = 300.0
ESCAPE_SHARE = 1e-3
ESCAPE_DEVIATION = 32.0
LARGEST_SHIFT = 0.4
"""Steps a codevector may move from its lattice point. Coarse digits use the same codevectors, 16 or 32 times as large, so
one outer codevector that followed a few stray residuals would open a hole of many steps for them."""
FLOOR_COUNT = 1e-3
COUNTED_STEPS, COUNTED_BATCH = 4, 8
"""Every fourth batch of 8 pictures is counted while training, and larger batches in proportion less often."""
REFRESH_STEPS = 100
DECAY_PER_REFRESH = 0.8


def occurrences(index: Tensor, size: int, counted: Tensor | None = None) -> Tensor:
    """How often each of 0..size-1 occurs in `index` `(n,)`, or in the `counted` `(n,)` bool entries of it: `(size,)`."""
    if index.device.type == "cpu" and counted is None:
        return torch.bincount(index, minlength=size)
    # bincount makes the host wait for an accelerator.
    ones = torch.ones_like(index, dtype=torch.float32) if counted is None else counted.float()
    return torch.zeros(size, device=index.device).index_add_(0, index, ones)


def has_triton() -> bool:
    """Whether kernels for a CUDA device can be compiled: PyTorch brings Triton along on Linux, and not on Windows."""
    return find_spec("triton") is not None


def untrellised(config: LoocConfig) -> SharedCodebook:
    """A codebook for training steps: that of the config, but each unit by itself."""
    return SharedCodebook(dataclasses.replace(config, trellis_states=1))


class CodeFitter:
    """Shared codebook of a model in training: quantiser for the forward pass, running counts and centroids.

    `book` is the model's own by default. Training steps take one without a trellis (`untrellised`): a path's choices come one after the other, which no step
    has time for. What rounding adds to the error of a picture follows the latent's in both (docs/EXPERIMENTS.md, section 16).
    """

    def __init__(self, model: LoocModel, device: str = "cpu", lagrangian: float = HIGH_RATE_LAMBDA, processes: Processes = Processes(),
                 book: SharedCodebook | None = None) -> None:
        self.model, self.device, self.lagrangian, self.processes = model, device, lagrangian, processes
        self.config = model.config
        self.book = model.codebook if book is None else book
        self.observed = 0
        self.positions = 0
        """Positions of a gathered picture."""
        self.counts = self.sums = self.totals = None
        self.bits_per_unit = math.nan

    # --- rows -------------------------------------------------------------------------------------------------------

    def rows_of(self, log_scale: Tensor) -> Tensor:
        """Table row of each unit of a latent with integer log scales `(B, C, h, w)` → `(n,)` int64."""
        return unit_classes(units_of(log_scale, self.config.codevector_dim), self.config)

    def row_deviations(self) -> Tensor:
        """Nominal standard deviations of each class's unit, in steps: `(classes, d*)`."""
        config = self.config
        row = torch.arange(config.classes)
        mean_class, ratio = row // config.ratio_classes, row % config.ratio_classes - config.ratio_classes // 2
        mean_log = (SCALE_LOG_LOW + (mean_class + 0.5) * SCALE_LOG_WIDTH) / (2 * ACTIVATION_ONE)
        difference = ratio * (RATIO_LOG_SPAN // config.ratio_classes) / ACTIVATION_ONE
        offsets = torch.zeros(len(row), config.codevector_dim)
        if config.codevector_dim == 2:
            offsets = torch.stack([difference / 2, -difference / 2], 1)
        return torch.exp(mean_log[:, None] + offsets)

    # --- start and fit ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Lattice codebook, digit factors, live classes and Gaussian tables."""
        book = self.book
        fresh = SharedCodebook(book.config)
        deviation = self.row_deviations()
        factor = deviation.amax(1) * REACH_IN_DEVIATIONS / fresh.reach
        choices = torch.tensor(DIGIT_FACTORS)
        live = (deviation.log().mean(1).exp() >= LIVE_DEVIATION) & book.trellis
        book.set_classes(choices[torch.bucketize(factor, choices.float()).clamp(max=len(choices) - 1)], live)
        book.codevectors = fresh.codevectors
        self.deviation = deviation
        self.gaussian = self.gaussian_tables()
        book.set_tables(self.gaussian)
        book.to_device(self.device)

    def gaussian_tables(self) -> Tensor:
        """Probability of each codevector if a unit were Gaussian of its row's nominal deviation: `(rows, K + 1)` float32,
        with a small share of escapes."""
        book, factor = self.book, self.book.digit_factor.cpu().float()
        wide = factor > 1
        steps = book.codevectors.cpu().float() / LATENT_ONE
        # A second digit is spread over the cell of the first, which is about factor steps wide.
        fine = torch.where(wide[:, None], 0.4 * factor[:, None].expand_as(self.deviation), self.deviation)
        first = self.deviation[wide] / factor[wide, None]
        escape = torch.tensor([[ESCAPE_DEVIATION / ESCAPE_FACTOR], [0.4 * ESCAPE_FACTOR]]).expand(-1, fine.shape[1])

        # Codes of set 1 start as likely as those of set 0. By their own places, which are crowded around zero, zero would be hardly chosen, and then stay so.
        live = book.live.cpu()
        spread = torch.cat([fine, fine[live], first, escape])
        exponent = -(steps[None, : book.size] ** 2 / (2 * (spread[:, None] ** 2 + 0.08))).sum(-1)
        escaped = torch.zeros(len(spread), 1)
        escaped[: len(fine) + int(live.sum())] = ESCAPE_SHARE
        return torch.cat([torch.softmax(exponent, 1), escaped], 1)

    @torch.no_grad()
    def gather(self, store: PictureStore, generator: torch.Generator, batches: int, batch: int = 8, crop: int = 192,
               report: Callable[[int], None] | None = None) -> tuple[Tensor, Tensor]:
        """Residual units (steps) and rows of `batches` random batches over all qualities, coded with the current book
        where it has been started, else with plain rounding: `(n, d*)` float32 and `(n,)` int64, picture by picture and group by group."""
        units, rows = [], []
        for index in range(batches):
            quality = torch.floor(torch.rand(batch, generator=generator, device=self.device) * QUALITY_MAX + QUALITY_MIN).clamp(max=QUALITY_MAX)
            shrink = 0.7 + 0.3 * float(torch.rand((), generator=generator, device=self.device))
            latent = self.model.analysis(store.crops(batch, crop, generator, shrink), quality).float()
            result = self.model.prior(latent, quality, self.quantise if self.counts is not None else None)
            self.positions = latent.shape[2] * latent.shape[3]
            units.append(units_of(result["residual"], self.config.codevector_dim))
            rows.append(self.rows_of(result["log_scale"]))
            if report is not None:
                report(index)
        return torch.cat(units) / LATENT_ONE, torch.cat(rows)

    def fit(self, units: Tensor, rows: Tensor, rounds: int = 5) -> None:
        """LBG rounds on gathered residuals; `bits_per_unit` is then the mean rate under the tables before the last."""
        if self.counts is None:
            self.start()
        for _ in range(rounds):
            self.forget()
            self.bits_per_unit = float(self.count(units, rows)) / max(1, len(units))
            self.refresh()

    def count_more(self, store: PictureStore, generator: torch.Generator, batches: int, crop: int, report: Callable[[int], None] | None = None) -> None:
        """Adds the codes of further batches to the counts and refreshes: tables of a thousand rows need more than fits
        into memory at once (half of 19 million units costs 0.2% more, a tenth 1.1%)."""
        for index in range(batches):
            self.count(*self.gather(store, generator, 1, crop=crop))
            if report is not None:
                report(index)
        self.refresh()

    def forget(self) -> None:
        """Empties the running counts and centroid sums."""
        self.counts = torch.zeros(self.book.frequencies.shape, device=self.device)
        self.sums = torch.zeros(len(self.book.codevectors), self.config.codevector_dim, device=self.device)
        self.totals = torch.zeros(len(self.book.codevectors), device=self.device)

    @property
    def dense(self) -> bool:
        """Whether codes are chosen without shapes that depend on values, as an accelerator needs (see SharedCodebook.pick_all)."""
        return not str(self.device).startswith("cpu") and self.config.codevector_dim <= 2 and not self.book.trellis

    def steps_of(self, units: int) -> list[int]:
        """The numbers of units of the coding steps of gathered `units`, pictures of `positions` each: a group is one here."""
        steps = [group // self.config.codevector_dim * self.positions for group in self.config.groups]
        return steps * (units // sum(steps))

    @torch.no_grad()
    def count(self, units: Tensor, rows: Tensor) -> Tensor:
        """Codes residual units (steps) and adds them to the counts; returns the sum of their bits, float64."""
        book, bits = self.book, torch.zeros((), dtype=torch.float64, device=units.device)
        size, part_size = self.counts.shape[1], (1 << 20) if self.dense else (1 << 18)
        if book.trellis:
            picture = self.config.channels // self.config.codevector_dim * self.positions
            part_size = max(1, part_size // picture) * picture
        for part, part_rows in zip(units.split(part_size), rows.split(part_size), strict=True):
            if self.dense:
                digits = book.pick_all(part * LATENT_ONE, part_rows, self.lagrangian)
                value, escaped = book.value_all(digits, part_rows), digits.second == len(book.steps)
                escape_row = torch.full_like(part_rows, len(book.bits) - 2)
                coded = [
                    (digits.first.clamp_min(0), book.first_digit_row[part_rows].clamp_min(0), digits.first >= 0), (digits.second, part_rows, None),
                    (digits.coarse, escape_row, escaped), (digits.fine, escape_row + 1, escaped),
                ]
                last = torch.where(escaped, digits.fine, digits.second)
            else:
                search, own_rows = book.search(), part_rows.cpu().numpy()
                codes = search.pick((part * LATENT_ONE).cpu().numpy(), own_rows, self.lagrangian, self.steps_of(len(part)) if book.trellis else None)
                symbols, table_rows, _ = search.tables.symbols(codes, own_rows)
                found = codes.second + book.size * codes.sets.astype(np.int32)
                found[codes.second == book.size] = codes.fine
                value, symbols, table_rows, last = (
                    torch.from_numpy(array).to(part.device) for array in (search.tables.value(codes, own_rows), symbols, table_rows, found)
                )
                coded, last = [(symbols.long(), table_rows.long(), None)], last.long()
            for code, row, written in coded:
                self.counts += occurrences(row * size + code, self.counts.numel(), written).view_as(self.counts)
                cost = book.bits_of(row, code)
                bits += (cost if written is None else cost * written).sum(dtype=torch.float64)
            # Centroids are of what the last digit of a unit stands for.
            self.sums.index_add_(0, last, part - value.float() / LATENT_ONE + book.steps[last])
            self.totals += occurrences(last, len(self.totals))
        return bits

    def refresh(self) -> None:
        """Codevectors to their centroids, tables to their counts (smoothed by the nominal Gaussian)."""
        book = self.book
        points = book.lattice().to(book.steps.device)
        steps = torch.where((self.totals > 20)[:, None], self.sums / self.totals.clamp_min(1)[:, None], book.steps)
        shift = steps - points
        book.set_codevectors(points + shift * (LARGEST_SHIFT / shift.norm(dim=1, keepdim=True).clamp_min(LARGEST_SHIFT)))
        book.set_tables(self.counts + PSEUDO_COUNT * self.gaussian.to(self.device) + FLOOR_COUNT)

    # --- use while training -----------------------------------------------------------------------------------------

    def quantise(self, residual: Tensor, log_scale: Tensor) -> Tensor:
        """The quantiser of Prior.forward: residuals (1/16 steps) `(B, C, h, w)` → their coded values."""
        if self.dense and self.config.codevector_dim == 2 and has_triton():
            from looc_codec.training import fused_search

            return fused_search.quantise(self.book, residual, log_scale, self.lagrangian)
        rows = self.rows_of(log_scale)
        units = units_of(residual.float(), self.config.codevector_dim)
        if self.dense:
            value = self.book.quantise_all(units, rows, self.lagrangian)
        else:
            pictures = len(residual)
            value = self.book.quantise(units, rows, self.lagrangian, [len(rows) // pictures] * pictures)
        return latent_of(value.float(), residual.shape)

    def observe(self, result: dict[str, Tensor]) -> None:
        """Counts a training batch now and then, and refreshes tables and codevectors from decayed counts."""
        self.observed += 1
        # As many pictures for each refresh whatever the batch is, or a few more.
        if self.observed % (COUNTED_STEPS * max(1, len(result["residual"]) // COUNTED_BATCH)) == 0:
            self.count(units_of(result["residual"].detach(), self.config.codevector_dim) / LATENT_ONE, self.rows_of(result["log_scale"].detach()))
        if self.observed % REFRESH_STEPS == 0:
            self.processes.average((self.counts, self.sums, self.totals))
            self.refresh()
            for value in (self.counts, self.sums, self.totals):
                value *= DECAY_PER_REFRESH

    def state(self) -> dict[str, Tensor]:
        exported = {f"book.{name}": torch.from_numpy(value) for name, value in self.book.export().items()}
        return exported | {
            "counts": self.counts, "sums": self.sums, "totals": self.totals, "deviation": self.deviation,
            "gaussian": self.gaussian, "observed": torch.tensor(self.observed),
        }

    def restore(self, extra: dict[str, Tensor]) -> None:
        self.book.take({name.removeprefix("book."): value.cpu().numpy() for name, value in extra.items() if name.startswith("book.")})
        self.book.to_device(self.device)
        self.counts, self.sums, self.totals = (extra[name].to(self.device) for name in ("counts", "sums", "totals"))
        self.deviation, self.gaussian, self.observed = extra["deviation"], extra["gaussian"], int(extra["observed"])
