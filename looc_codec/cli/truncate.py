"""`looc truncate`: smaller files from the beginning of a .looc file, without torch and without coding anew."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from looc_codec.cli.batch import run_batch
from looc_codec.cli.help import Example
from looc_codec.cli.options import (
    DryRunOption,
    ForceOption,
    JsonOption,
    QuietOption,
    parse_size,
    refuse_json_beside_data,
    whole,
)
from looc_codec.cli.planning import Job, plan_jobs
from looc_codec.cli.printing import size_text
from looc_codec.cli.records import Line, Record, record_file, shown
from looc_codec.cli.streams import STANDARD_STREAM, read_looc_bytes, write_stdout

EXAMPLES = (
    Example("looc truncate photo.looc -o preview.looc --groups 2", "keeps the first two channel groups."),
    Example("looc truncate packed/ -o previews/ --bytes 20kB", "cuts a folder to files of at most 20,000 bytes."),
    Example(
        "looc truncate photo.looc --bytes 5kB -o - | looc info -",
        "says what 5 kB hold.",
    ),
)


def truncate(
    ctx: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE...", help=".looc files, folders of them, or - for standard input.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="OUT", help="File for one input, folder for several, - for standard output."
        ),
    ],
    groups: Annotated[
        int | None, typer.Option("--groups", metavar="N", parser=whole(1), help="Keep the first N channel groups.")
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes",
            metavar="SIZE",
            parser=parse_size,
            help="Keep as many groups as so large a file holds, for example 20kB.",
        ),
    ] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cut .looc files to a preview, which `looc decompress --allow-truncated` restores."""
    if (groups is None) == (max_bytes is None):
        raise typer.BadParameter("give either --groups or --bytes")
    plan = plan_jobs(inputs, output, ".looc", force=force, kinds={".looc"}, dry_run=dry_run)
    refuse_json_beside_data(plan.jobs, as_json)

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

    run_batch(
        plan, work, _describe, verb="cutting", quiet=quiet, as_json=as_json, debug=ctx.find_root().params["debug"]
    )


def _describe(record: Record) -> Line:
    figures = f"{size_text(record.bytes)}  {record.bpp:.3f} bpp  {record.groups} channel groups"
    return Line(shown(os.path.basename(record.input)), shown(record.output), figures)
