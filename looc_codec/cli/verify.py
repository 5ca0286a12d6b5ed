"""`looc verify`: checks .looc files thoroughly and writes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from looc_codec.cli.batch import run_batch
from looc_codec.cli.help import Example
from looc_codec.cli.options import DEFAULT_MAX_PIXELS, FileModelOption, JsonOption, MaxPixelsOption, QuietOption
from looc_codec.cli.planning import Job, plan_inputs
from looc_codec.cli.records import Line, Record, record_file, shown
from looc_codec.cli.streams import read_looc_bytes
from looc_codec.registry import find_model

EXAMPLES = (
    Example("looc verify photo.looc", "says whether the file is whole and correct."),
    Example("looc verify packed/ --quiet", "a folder; prints only what is wrong with its files."),
    Example("looc verify packed/ --json", "one line of JSON for each file."),
)


def verify(
    ctx: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE...", help=".looc files, folders of them, or - for standard input.")
    ],
    model: FileModelOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
) -> None:
    """Check checksums and decode all codes of .looc files. Writes nothing."""
    chosen = find_model(model).path if model is not None else None

    def work(job: Job, record: Record) -> None:
        from looc_codec.format import container

        data = read_looc_bytes(job.input)
        file = container.unpack(data, max_pixels=max_pixels)
        record_file(record, file, len(data))
        from looc_codec import api

        loaded = api.model_for_file(file.fingerprint, chosen)
        record.model = loaded.name
        api.verify(file, model=loaded)

    plan = plan_inputs(inputs, kinds={".looc"})
    run_batch(
        plan, work, _describe, verb="verifying", quiet=quiet, as_json=as_json, debug=ctx.find_root().params["debug"]
    )


def _describe(record: Record) -> Line:
    return Line(
        f"{shown(record.input)}:",
        None,
        f"correct  {record.width} x {record.height}  {record.bpp:.3f} bpp  {record.seconds:.2f} s",
    )
