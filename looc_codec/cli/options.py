"""Options that several commands share, declared once so that they look and behave alike everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from looc_codec.format.container import DEFAULT_MAX_PIXELS as DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from looc_codec.cli.planning import Job

Chosen = TypeVar("Chosen", bound=Enum)


class Device(str, Enum):
    """Where the transforms run; the prior always runs on the CPU, where it is exact."""

    cpu = "cpu"
    cuda = "cuda"
    openvino = "openvino"
    directml = "directml"
    coreml = "coreml"


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers within bounds, for options; its complaint (exit code 2) is a sentence."""

    def parse(text: str) -> int:
        # Typer gives the default as it is.
        value = int(str(text)) if re.fullmatch(r"[+-]?[0-9]{1,15}", str(text).strip(), re.ASCII) else None
        if value is None or value < least or most is not None and value > most:
            bounds = f"from {least} up" if most is None else f"from {least} to {most}"
            raise typer.BadParameter(f"{text!r} is not a whole number {bounds}")
        return value

    return parse


def real(least: float, most: float = math.inf) -> Callable[[str], float]:
    """As `whole`, for numbers with fractions."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not least <= value <= most:
            bounds = f"from {least:g} up" if most == math.inf else f"from {least:g} to {most:g}"
            raise typer.BadParameter(f"{text!r} is not a number {bounds}")
        return value

    return parse


def one_of(kinds: type[Chosen]) -> Callable[[str], Chosen]:
    """A parser of the values of an enumeration, for options."""

    def parse(text: str | Chosen) -> Chosen:
        try:
            return kinds(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is none of {', '.join(kind.value for kind in kinds)}") from None

    return parse


def choices(kinds: type[Enum]) -> str:
    """What stands for a value of `kinds` in help: `cpu|cuda`."""
    return "|".join(kind.value for kind in kinds)


OutputOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="File for one input, folder for several, - for standard output. Without it each output lies beside its"
        " input.",
    ),
]
ModelOption = Annotated[str, typer.Option("-m", "--model", metavar="MODEL", help="Name or path of a model.")]
FileModelOption = Annotated[
    str | None,
    typer.Option(
        "-m", "--model", metavar="MODEL", help="Name or path of a model, instead of the one that a file names."
    ),
]
DeviceOption = Annotated[
    Device,
    typer.Option(
        "--device",
        metavar=choices(Device),
        parser=one_of(Device),
        help="Where the transforms run; the codes are the same.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        parser=whole(1, 1024),
        help="Cores that one picture may use. Without it LOOC_THREADS decides, else all cores are used.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")]
KeepTimeOption = Annotated[bool, typer.Option("--keep-time", help="Give each output its input's time of modification.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done; write nothing.")]
JobsOption = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        parser=whole(1),
        help="Work on N files at once, in as many processes. The bytes are the same.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on standard output.")]
MaxPixelsOption = Annotated[
    int, typer.Option("--max-pixels", metavar="N", parser=whole(1), help="Refuse pictures with more pixels than this.")
]


_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "kb": 10**3,
    "m": 10**6,
    "mb": 10**6,
    "g": 10**9,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def parse_size(text: str) -> int:
    """Bytes of a size as people write it; kB and MB are powers of 1000, KiB and MiB of 1024, in any case.

    Raises typer.BadParameter (exit code 2) for anything else, and for less than a byte.

    >>> parse_size("12345"), parse_size("200kB"), parse_size("1.5 MiB")
    (12345, 200000, 1572864)
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) *([A-Za-z]*)", text.strip(), re.ASCII)
    factor = _SIZE_UNITS.get(match[2].lower()) if match else None
    if factor is None or Decimal(match[1]) * factor < 1:
        raise typer.BadParameter(f"{text!r} is not a size; write for example 12345, 200kB, 1.5MB or 190KiB")
    return int(Decimal(match[1]) * factor)


def refuse_json_beside_data(jobs: Sequence[Job], as_json: bool) -> None:
    """Wrong usage: --json and a file cannot share standard output."""
    if as_json and any(job.output == "-" for job in jobs):
        raise typer.BadParameter("--json and the output - both write to standard output; choose one")
