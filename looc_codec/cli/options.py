"""Options that several commands share, declared once so that they look and behave alike everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from looc_codec.format.container import DEFAULT_MAX_PIXELS as DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from looc_codec.cli.batch import Job


class Device(str, Enum):
    """Where the transforms run; the prior always runs on the CPU, where it is exact."""

    cpu = "cpu"
    cuda = "cuda"
    openvino = "openvino"
    directml = "directml"
    coreml = "coreml"


OutputOption = Annotated[
    str | None,
    typer.Option(
        "-o", "--output", metavar="OUT|DIR|-",
        help="File for one input, folder for several, - for standard output. Default: beside each input.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("-m", "--model", help="Name or path of a model. Default: photo, for .looc files the one they name.", show_default=False)
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=1024, metavar="N", help="Cores that one picture may use. Default: LOOC_THREADS, or all.", show_default=False),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where the transforms run.")]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")]
UpdateOption = Annotated[bool, typer.Option("--update", "-u", help="Skip outputs newer than their input, replace older ones.")]
JobsOption = Annotated[
    int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Work on N files at once, in as many processes. The bytes are the same.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on standard output.")]
MaxPixelsOption = Annotated[
    int,
    typer.Option("--max-pixels", min=1, help="Refuse pictures with more pixels than this.", metavar="N"),
]


_SIZE_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


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
