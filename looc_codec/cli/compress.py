"""`looc compress`: pictures to .looc files."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated

import typer

from looc_codec.cli.batch import Job, Record, plan_jobs, record_file, run_batch, shown
from looc_codec.cli.options import (
    DEFAULT_MAX_PIXELS,
    Device,
    DeviceOption,
    ForceOption,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    OutputOption,
    QuietOption,
    refuse_json_beside_data,
)
from looc_codec.cli.printing import size_text
from looc_codec.cli.streams import STANDARD_STREAM, write_stdout
from looc_codec.registry import find_model


def compress(
    ctx: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Pictures, folders of pictures, or - for standard input.", show_default=False)
    ],
    output: OutputOption = None,
    quality: Annotated[
        int, typer.Option("-q", "--quality", min=1, max=100, help="Higher is better and larger.")
    ] = 50,
    model: ModelOption = "photo",
    device: DeviceOption = Device.cpu,
    force: ForceOption = False,
    strip: Annotated[bool, typer.Option("--strip", help="Leave out colour profile, EXIF and XMP.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
) -> None:
    """Compress pictures to .looc files."""
    jobs = plan_jobs(inputs, output, ".looc", force=force)
    refuse_json_beside_data(jobs, as_json)
    loaded = None
    if any(job.refusal is None for job in jobs):
        path = find_model(model).path
        from looc_codec import codec

        loaded = codec.load_model(path, device=device.value)

    def work(job: Job, record: Record) -> None:
        from looc_codec import codec, container, files, images

        picture = images.read_picture(job.input, max_pixels=max_pixels)
        if strip:
            picture = dataclasses.replace(picture, icc=None, exif=None, xmp=None)
        record.notices = list(picture.notices)
        data = codec.compress_picture(picture, quality=quality, model=loaded)
        record_file(record, container.read_header(data), len(data))
        record.model = loaded.name
        if job.output == STANDARD_STREAM:
            write_stdout(data)
        else:
            record.picture_bytes = os.path.getsize(job.input) if job.input != STANDARD_STREAM else None
            with files.write_atomically(job.output, force=force) as file:
                file.write(data)

    run_batch(jobs, work, _describe, verb="compressing", quiet=quiet, as_json=as_json, debug=ctx.find_root().params["debug"])


def _describe(record: Record) -> str:
    before = f"{size_text(record.picture_bytes)} -> " if record.picture_bytes else ""
    return (
        f"{shown(os.path.basename(record.input))} -> {shown(record.output)}  {record.width} x {record.height}"
        f"  {before}{size_text(record.bytes)}  {record.bpp:.3f} bpp  {record.seconds:.2f} s"
    )
