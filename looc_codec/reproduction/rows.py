"""The rows of the papers' tables: which quantizer each stands for, and what the paper printed."""

from __future__ import annotations

import csv
import functools
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

from looc_codec.errors import LoocError
from looc_codec.quantizers.catalogue import build
from looc_codec.quantizers.quantizer import Quantizer

TABLES = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "12")
SMALL_TABLES = ("1", "3", "4", "5", "8")
PAPER_NAMES = {
    "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR10", "ffhq": "FFHQ", "imagenet": "ImageNet",
    "celeba": "CelebA (trained on FFHQ)",
}  # fmt: skip
"""Data sets by our name → the name in the paper's tables."""
METRICS = ("l1", "LPIPS", "rFID", "SSIM", "PSNR", "usage")


class RowError(LoocError):
    """A row or table that is not known, or a table without the data set asked for."""


@dataclass(frozen=True)
class Row:
    """One way of quantising.

    `name` is used on the command line: method, K x d*, then x depth (RQ), x books (PQ) or b beta (LooC), and -gradient
    for LooC without CVQ's update of the codebook. `beta` is None where it is 1 because nothing was said. `note` says
    what differs from what was printed.
    """

    name: str
    method: str
    size: int
    dim: int
    repeat: int = 1
    beta: int | None = None
    update: str = "cvq"
    note: str = ""

    @property
    def label(self) -> str:
        parts = {"pq": f" × {self.repeat} books", "rq": f", depth {self.repeat}"}.get(self.method, "")
        beta = f", beta {self.beta}" if self.beta is not None else ""
        update = ", gradients only" if self.update == "gradient" else ""
        return f"{LABELS[self.method]} {self.size} × {self.dim}{parts}{beta}{update}"


LABELS = {
    "vq": "VQ-VAE", "hvq": "HVQ-VAE (near restarts)", "sq": "SQ-VAE", "cvq": "CVQ-VAE", "pq": "PQ", "rq": "RQ-VAE", "looc": "LooC-VAE",
}  # fmt: skip
PAPER_METHODS = {
    "vq": ("VQ-VAE", "VQGAN"), "hvq": ("HVQ-VAE",), "sq": ("SQ-VAE",), "cvq": ("CVQ-VAE",), "pq": ("PQ",), "rq": ("RQ-VAE",),
    "looc": ("LooC-VAE", "LooC"),
}  # fmt: skip
NOTES = {
    "hvq": "the printed figures equal CVQ's ablation with one level and restarts near used codevectors, which is what is trained here",
    "sq": "on the same networks as the other rows, not on its own with batch normalisation",
    "pq": "groups of channels; the released code cuts image rows instead",
}
_NAME = re.compile(r"(vq|hvq|sq|cvq|pq|rq|looc)-(\d+)x(\d+)(?:x(\d+))?(?:b([1-4]))?(-gradient)?")


def parse_row(name: str) -> Row:
    """The row of a name such as `vq-1024x128`, `rq-1024x128x4`, `pq-256x4x32`, `looc-256x4` or `looc-256x4b2`.

    >>> parse_row("looc-256x4b2").label
    'LooC-VAE 256 × 4, beta 2'

    Raises:
        RowError: the name is not of that form.
    """
    found = _NAME.fullmatch(name)
    if not found or (found[4] is None) == (found[1] in ("pq", "rq")) or (found[1] != "looc" and (found[5] or found[6])) or int(found[2]) < 2:
        raise RowError(f"unknown row {name!r}; rows have two codevectors or more and are named like vq-1024x128, cvq-1024x128, rq-1024x128x4, pq-256x4x32, looc-256x4 or looc-256x4b2")
    method, size, dim, repeat, beta, gradient = found.groups()
    update = "gradient" if gradient else "cvq"
    return Row(name, method, int(size), int(dim), int(repeat or 1), None if beta is None else int(beta), update, NOTES.get(method, ""))


def build_quantizer(row: Row, channels: int, *, gray: bool = False) -> Quantizer:
    """The quantizer of a row for a latent of `channels` channels, with the options of the papers' code.

    SQ-VAE's variance starts lower for `gray` pictures, as its code has it.

    Raises:
        RowError: the row's d* does not fit the channels.
        ModelError: the quantizer cannot have these options.
    """
    whole = row.method in ("vq", "hvq", "sq", "cvq", "rq")
    if (whole and row.dim != channels) or (row.method == "pq" and row.dim * row.repeat != channels):
        raise RowError(f"row {row.name} does not fit a latent of {channels} channels")
    options: dict[str, dict[str, Any]] = {
        "vq": {}, "cvq": {}, "hvq": {"near_restarts": True}, "sq": {"initial_variance": 10.0 if gray else 20.0}, "rq": {"depth": row.repeat},
        "pq": {"codevector_dim": row.dim}, "looc": {"codevector_dim": row.dim, "beta": row.beta or 1, "update": row.update},
    }  # fmt: skip
    return build("vq" if row.method == "hvq" else row.method, channels, codebook_size=row.size, **options[row.method])


# --- what the paper printed -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PaperRow:
    """A printed row: `figures` by metric (a share for usage), None where the paper prints nothing; `note` on doubts."""

    table: str
    dataset: str
    method: str
    size: int | None
    dim: int | None
    books: int
    beta: int | None
    figures: dict[str, float | None]
    note: str

    def fits(self, row: Row) -> bool:
        """Whether a row of ours stands for this one. Where no beta is printed it stands for ours without one."""
        books = row.repeat if row.method == "pq" else 1
        same = (self.size, self.dim, self.books) == (row.size, row.dim, books) and (row.update == "gradient") == (self.table == "7")
        return self.method in PAPER_METHODS[row.method] and same and (self.beta == row.beta or (self.beta == 1 and row.beta is None))


@functools.cache
def paper_rows(table: str) -> tuple[PaperRow, ...]:
    """The printed rows of a table in order, from `paper_tables.csv` beside this module.

    Raises:
        RowError: the table is not one of `TABLES`.
    """
    if table not in TABLES:
        raise RowError(f"unknown table {table!r}; known are {', '.join(TABLES)}")
    text = resources.files("looc_codec.reproduction").joinpath("paper_tables.csv").read_text(encoding="utf-8")
    rows: dict[tuple[str, ...], dict[str, float | None]] = {}
    notes: dict[tuple[str, ...], list[str]] = {}
    for line in csv.DictReader(text.splitlines()):
        if line["table"] != table:
            continue
        key = (line["dataset"], line["method"], line["K"], line["dstar"], line["codebooks"], line["beta"])
        value = line["value"]
        share = value.endswith("%")
        rows.setdefault(key, {})[line["metric"]] = None if not value else float(value.rstrip("%")) / (100 if share else 1)
        if line["note"] and line["note"] not in notes.setdefault(key, []):
            notes[key].append(line["note"])
    return tuple(
        PaperRow(table, dataset, method, _number(size), _number(dim), int(books or 1), _number(beta), figures, "; ".join(notes.get(key, [])))
        for key, figures in rows.items()
        for dataset, method, size, dim, books, beta in [key]
    )


def _number(text: str) -> int | None:
    return int(text) if text else None


def datasets_of(table: str) -> list[str]:
    """Our names of the data sets of a table."""
    printed = {row.dataset for row in paper_rows(table)}
    return [name for name, paper in PAPER_NAMES.items() if paper in printed]


def rows_of(table: str, dataset: str) -> list[Row]:
    """The rows of a table that can be trained here, in the paper's order.

    ViT-VQGAN, MoVQ and SeQ-GAN have networks of their own; their rows appear with the printed figures only.
    """
    found = []
    for printed in paper_rows(table):
        method = next((ours for ours, names in PAPER_METHODS.items() if printed.method in names), None)
        if printed.dataset != PAPER_NAMES[dataset] or method is None or printed.size is None:
            continue
        repeat = f"x{printed.books}" if method == "pq" else "x4" if method == "rq" else ""
        beta = f"b{printed.beta}" if printed.beta not in (None, 1) else ""
        update = "-gradient" if table == "7" else ""
        found.append(parse_row(f"{method}-{printed.size}x{printed.dim}{repeat}{beta}{update}"))
    return list(dict.fromkeys(found))


def printed_row(table: str, dataset: str, row: Row) -> PaperRow | None:
    """The printed row that a row of ours stands for: that of the table, else of another one on the same small data set,
    which the paper trains alike."""
    tables = [table, *(other for other in SMALL_TABLES if other != table)] if table in SMALL_TABLES else [table]
    printed = (printed for name in tables for printed in paper_rows(name))
    return next((found for found in printed if found.dataset == PAPER_NAMES.get(dataset) and found.fits(row)), None)
