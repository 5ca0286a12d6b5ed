"""The rows of the papers' tables: which quantizer each stands for, and what the paper printed."""

from __future__ import annotations

import csv
import functools
import re
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, get_args

from looc_codec.datasets import PHOTO_SETS
from looc_codec.errors import LoocError
from looc_codec.quantizers.catalogue import build
from looc_codec.quantizers.learned_codebook import Anchor
from looc_codec.quantizers.quantizer import Quantizer

TABLES = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "12")
SMALL_TABLES = ("1", "3", "4", "5", "8")
GENERATION_TABLES = ("11",)
"""Tables of generated pictures, which are not reproduced yet."""
TABLES_OF_BETA_2 = ("2", "7", "9", "10", "12")
"""Tables of photographs that print no beta for LooC. That of 256 x 4 on FFHQ is 2: Table 6 prints the same figures under
that beta. The others are taken to be alike, as the text says ("we choose beta = 2"). The released scripts of the small
tables leave interpolation off, which is beta 1."""
SMALL_CHANNELS, PHOTO_CHANNELS = 128, 256
"""Channels of the latent in the small VQ-VAE and in the f16 VQGAN."""
CORRECTED_SIZES = {("12", None): (256, 4), ("12", 256): (1024, 4)}
"""Table 12 prints one row without K x d* and one as 256 x 4; its text gives rFID 5.66 to K = 256 and 3.86 to K = 1024."""
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

    `name` is used on the command line: method, K x d*, then x depth (RQ), x books (PQ) or b beta (LooC), and `options`,
    of `OPTIONS`, each after a hyphen. `beta` is None where it is 1 because nothing was said. `note` says what differs
    from what was printed.
    """

    name: str
    method: str
    size: int
    dim: int
    repeat: int = 1
    beta: int | None = None
    options: tuple[str, ...] = ()
    note: str = ""

    @property
    def label(self) -> str:
        parts = {"pq": f" × {self.repeat} books", "rq": f", depth {self.repeat}"}.get(self.method, "")
        beta = f", beta {self.beta}" if self.beta is not None else ""
        words = "".join(f", {OPTIONS[option][1]}" for option in self.options)
        return f"{LABELS[self.method]} {self.size} × {self.dim}{parts}{beta}{words}"


ANCHORED = ("cvq", "looc", "pq")
OPTIONS = {
    "gradient": (("looc",), "gradients only"), "ema": (("vq",), "moving averages"), "l2": (("cvq", "looc", "pq"), "L2 match"),
    "released": (("looc",), "released grouping"), "random": (ANCHORED, "random anchors"), "unique": (ANCHORED, "unique anchors"),
    "probability": (ANCHORED, "anchors by probability"), "closest": (ANCHORED, "closest anchors"), "offline": (ANCHORED, "offline"),
}  # fmt: skip
"""What can stand after a row's sizes: the methods that know it, and words for a table. `gradient` leaves out CVQ's update of the
codebook, `offline` has it in the first step only; random to closest are CVQ's anchors, as its poster names them."""
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
_NAME = re.compile(r"(vq|hvq|sq|cvq|pq|rq|looc)-(\d+)x(\d+)(?:x(\d+))?(?:b([1-4]))?((?:-[a-z0-9]+)*)")
WHOLE = ("vq", "hvq", "sq", "cvq", "rq")
"""Methods whose codevectors are as wide as the latent; a row of another width has a latent of that width, as CVQ's poster does."""


def parse_row(name: str, channels: int = SMALL_CHANNELS) -> Row:
    """The row of a name such as `vq-1024x128`, `rq-1024x128x4`, `pq-256x4x32`, `looc-256x4`, `looc-256x4b2` or `cvq-1024x128-unique`.

    `channels` are those of the latent that it is for: `pq-256x4`, as the paper writes PQ's K x d*, has as many books as fit.

    >>> parse_row("looc-256x4b2").label, parse_row("pq-256x4").name
    ('LooC-VAE 256 × 4, beta 2', 'pq-256x4x32')

    Raises:
        RowError: the name is not of that form, or its d* does not fit the channels.
    """
    found = _NAME.fullmatch(name)
    options = tuple(found[6].split("-")[1:]) if found else ()
    sound = found and int(found[2]) >= 2 and int(found[3]) >= 1 and (found[4] is None or found[1] in ("pq", "rq")) and (found[4] or found[1] != "rq")
    if not sound or (found[5] and found[1] != "looc") or any(found[1] not in OPTIONS.get(option, ((), ""))[0] for option in options) or len(set(options)) < len(options):
        raise RowError(
            f"unknown row {name!r}; rows have two codevectors or more and are named like vq-1024x128, cvq-1024x128, rq-1024x128x4, pq-256x4x32, looc-256x4 or"
            f" looc-256x4b2, with {', '.join(OPTIONS)} after hyphens where a method knows them"
        )
    method, size, dim, repeat, beta, _ = found.groups()
    if method in ("pq", "looc") and channels % int(dim) or method == "pq" and repeat and int(repeat) * int(dim) != channels:
        raise RowError(f"row {name} does not fit a latent of {channels} channels")
    if method == "pq" and repeat is None:
        repeat = str(channels // int(dim))
        name = name.replace(f"x{dim}", f"x{dim}x{repeat}", 1)
    return Row(name, method, int(size), int(dim), int(repeat or 1), None if beta is None else int(beta), options, NOTES.get(method, ""))


def channels_of(row: Row, *, photo: bool) -> int:
    """Channels of the latent that a row's network has: the papers', or the codevectors' where a code stands for all of them."""
    return row.dim if row.method in WHOLE else PHOTO_CHANNELS if photo else SMALL_CHANNELS


def build_quantizer(row: Row, channels: int, *, gray: bool = False) -> Quantizer:
    """The quantizer of a row for a latent of `channels` channels, with the options of the papers' code.

    SQ-VAE's variance starts lower for `gray` pictures, as its code has it.

    Raises:
        RowError: the row's d* does not fit the channels.
        ModelError: the quantizer cannot have these options.
    """
    if (row.method in WHOLE and row.dim != channels) or (row.method == "pq" and row.dim * row.repeat != channels):
        raise RowError(f"row {row.name} does not fit a latent of {channels} channels")
    options: dict[str, dict[str, Any]] = {
        "vq": {}, "cvq": {}, "hvq": {"near_restarts": True}, "sq": {"initial_variance": 10.0 if gray else 20.0}, "rq": {"depth": row.repeat},
        "pq": {"codevector_dim": row.dim}, "looc": {"codevector_dim": row.dim, "beta": row.beta or 1},
    }  # fmt: skip
    own = options[row.method]
    for option in row.options:
        if option in get_args(Anchor):
            own["anchor"] = option
        elif option != "ema":
            own |= {"gradient": {"update": "gradient"}, "l2": {"match": "l2"}, "released": {"interp": "released"}, "offline": {"online": False}}[option]
    name = "vq-ema" if "ema" in row.options else "vq" if row.method == "hvq" else row.method
    return build(name, channels, codebook_size=row.size, **own)


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
        same = (self.size, self.dim, self.books) == (row.size, row.dim, books) and row.options == (("gradient",) if self.table == "7" else ())
        return self.method in PAPER_METHODS[row.method] and same and (self.beta == row.beta or (self.beta == 1 and row.beta is None))


@functools.cache
def paper_rows(table: str) -> tuple[PaperRow, ...]:
    """The printed rows of a table in order, from `paper_tables.csv` beside this module.

    Raises:
        RowError: the table is not one of `TABLES`.
    """
    if table in GENERATION_TABLES:
        raise RowError(
            f"table {table} is about generation, which looc does not train yet: LooC 1024 x 4 in a latent diffusion model prints FID 46.78 on ImageNet (mean over"
            " classes), 15.17 on LSUN churches and 17.52 on LSUN bedrooms; nothing of it is measured here"
        )
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
    return tuple(_corrected(PaperRow(table, *key[:2], *map(_number, key[2:4]), int(key[4] or 1), _number(key[5]), figures, "; ".join(notes.get(key, [])))) for key, figures in rows.items())


def _corrected(row: PaperRow) -> PaperRow:
    """A printed row with the sizes and the beta that it must have where the table leaves them out or misprints them."""
    size, dim = CORRECTED_SIZES.get((row.table, row.size), (row.size, row.dim))
    beta = 2 if row.beta is None and row.table in TABLES_OF_BETA_2 and row.method in PAPER_METHODS["looc"] else row.beta
    return replace(row, size=size, dim=dim, beta=beta)


def _number(text: str) -> int | None:
    return int(text) if text else None


def datasets_of(table: str) -> list[str]:
    """Our names of the data sets of a table."""
    printed = {row.dataset for row in paper_rows(table)}
    return [name for name, paper in PAPER_NAMES.items() if paper in printed]


def latent_channels(dataset: str) -> int:
    """Channels of the latent in the papers' network for a data set."""
    return PHOTO_CHANNELS if dataset in PHOTO_SETS else SMALL_CHANNELS


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
        found.append(parse_row(f"{method}-{printed.size}x{printed.dim}{repeat}{beta}{update}", latent_channels(dataset)))
    return list(dict.fromkeys(found))


def printed_row(table: str, dataset: str, row: Row) -> PaperRow | None:
    """The printed row that a row of ours stands for: that of the table, else of another one on the same small data set,
    which the paper trains alike."""
    tables = [table, *(other for other in SMALL_TABLES if other != table)] if table in SMALL_TABLES else [table]
    printed = (printed for name in tables for printed in paper_rows(name))
    return next((found for found in printed if found.dataset == PAPER_NAMES.get(dataset) and found.fits(row)), None)
