"""`looc verify`: checks .looc files thoroughly and writes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from looc_codec.cli.batch import Job, Record, record_file, run_batch, shown
from looc_codec.cli.options import DEFAULT_MAX_PIXELS, JsonOption, MaxPixelsOption, ModelOption, QuietOption
from looc_codec.cli.streams import read_looc_bytes
from looc_codec.registry import find_model


def verify(
    ctx: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE...", help=".looc files, or - for standard input.", show_default=False)
    ],
    model: ModelOption = None,
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

    jobs = [Job(name) for name in inputs]
    run_batch(jobs, work, _describe, verb="verifying", quiet=quiet, as_json=as_json, debug=ctx.find_root().params["debug"])


def _describe(record: Record) -> str:
    return f"{shown(record.input)}: correct  {record.width} x {record.height}  {record.bpp:.3f} bpp  {record.seconds:.2f} s"
