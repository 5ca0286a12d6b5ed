"""`looc truncate`: smaller files from the beginning of a .looc file, without torch and without coding anew."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from looc_codec.cli.batch import Job, Record, plan_jobs, record_file, run_batch, shown
from looc_codec.cli.options import ForceOption, JsonOption, QuietOption, parse_size, refuse_json_beside_data
from looc_codec.cli.printing import size_text
from looc_codec.cli.streams import STANDARD_STREAM, read_looc_bytes, write_stdout


def truncate(
    ctx: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE...", help=".looc files, folders of them, or - for standard input.", show_default=False)
    ],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="OUT|DIR|-", help="File for one input, folder for several, - for standard output.", show_default=False)
    ],
    groups: Annotated[
        int | None, typer.Option("--groups", min=1, metavar="N", help="Keep the first N channel groups.", show_default=False)
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option("--bytes", metavar="SIZE", parser=parse_size, help="Keep as many groups as so large a file holds, for example 20kB.", show_default=False),
    ] = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cut .looc files to a preview, which `looc decompress --allow-truncated` restores."""
    if (groups is None) == (max_bytes is None):
        raise typer.BadParameter("give either --groups or --bytes")
    jobs = plan_jobs(inputs, output, ".looc", force=force, known_suffixes={".looc"})
    refuse_json_beside_data(jobs, as_json)

    def work(job: Job, record: Record) -> None:
        from looc_codec import files
        from looc_codec.format import container

        data = container.truncate(read_looc_bytes(job.input), groups=groups, max_bytes=max_bytes)
        header = container.read_header(data)
        record_file(record, header, len(data))
        record.groups = container.held_segments(header, data)[0]
        if job.output == STANDARD_STREAM:
            write_stdout(data)
        else:
            with files.write_atomically(job.output, force=job.replace) as file:
                file.write(data)

    run_batch(jobs, work, _describe, verb="cutting", quiet=quiet, as_json=as_json, debug=ctx.find_root().params["debug"])


def _describe(record: Record) -> str:
    return (
        f"{shown(os.path.basename(record.input))} -> {shown(record.output)}  {size_text(record.bytes)}  {record.bpp:.3f} bpp"
        f"  {record.groups} channel groups"
    )
