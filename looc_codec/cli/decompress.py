"""`looc decompress`: .looc files to pictures."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Annotated

import typer

from looc_codec.cli.batch import Job, Record, plan_jobs, record_file, run_batch, shown
from looc_codec.cli.options import (
    DEFAULT_MAX_PIXELS,
    Device,
    DeviceOption,
    ForceOption,
    JobsOption,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    OutputOption,
    QuietOption,
    ThreadsOption,
    UpdateOption,
    refuse_json_beside_data,
)
from looc_codec.cli.printing import size_text
from looc_codec.cli.streams import STANDARD_STREAM, read_looc_bytes, write_stdout
from looc_codec.registry import find_model


def decompress(
    ctx: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN...", help=".looc files, folders of them, or - for standard input.", show_default=False)
    ],
    output: OutputOption = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="Picture format, for example png or tiff. Default: by the output's name, else png.", show_default=False),
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = Device.cpu,
    threads: ThreadsOption = None,
    force: ForceOption = False,
    update: UpdateOption = False,
    workers: JobsOption = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
    groups: Annotated[
        int | None,
        typer.Option("--groups", min=1, metavar="N", help="Decode only the first N channel groups: a quick preview.", show_default=False),
    ] = None,
    scale: Annotated[
        str, typer.Option("--scale", metavar="1/2|1/4|1/8|1/16", help="Restore a smaller picture, in a fraction of the time.", show_default=False)
    ] = "1",
    allow_truncated: Annotated[bool, typer.Option("--allow-truncated", help="Decode what a file that was cut short holds.")] = False,
) -> None:
    """Restore pictures from .looc files, with the model that each file names."""
    jobs = plan_jobs(inputs, output, f".{format.lower()}" if format else ".png", force=force, update=update)
    refuse_json_beside_data(jobs, as_json)
    work = Restoration(str(find_model(model).path) if model is not None else None, device.value, threads, format, max_pixels, groups, _scale(scale), allow_truncated)
    run_batch(jobs, work, _describe, verb="restoring", workers=workers, quiet=quiet, as_json=as_json, debug=ctx.find_root().params["debug"])


@dataclass(frozen=True)
class Restoration:
    """The work on one .looc file; plain values, so that it can be sent to another process."""

    model: str | None
    device: str
    threads: int | None
    format: str | None
    max_pixels: int
    groups: int | None
    scale: float
    allow_truncated: bool

    def __call__(self, job: Job, record: Record) -> None:
        from looc_codec import api, files, images
        from looc_codec.format import container

        data = read_looc_bytes(job.input)
        # A damaged file, or one without its model, fails at once.
        file = container.unpack(data, max_pixels=self.max_pixels, allow_truncated=self.allow_truncated)
        record_file(record, file, len(data))
        model = api.model_for_file(file.fingerprint, self.model)
        record.model = model.name
        picture = api.restore_picture(file, model=model, groups=self.groups, scale=self.scale, threads=self.threads, device=self.device)
        record.notices = list(picture.notices)
        if job.output == STANDARD_STREAM:
            encoded = io.BytesIO()
            record.notices += images.write_picture(picture, encoded, format=self.format or "png")
            write_stdout(encoded.getvalue())
        else:
            format = self.format or os.path.splitext(job.output)[1].removeprefix(".") or "png"
            with files.write_atomically(job.output, force=job.replace) as file:
                record.notices += images.write_picture(picture, file, format=format)
            record.picture_bytes = os.path.getsize(job.output)


def _scale(text: str) -> float:
    """Wrong usage: a scale that there is not."""
    scales = {"1": 1.0, "1/2": 1 / 2, "1/4": 1 / 4, "1/8": 1 / 8, "1/16": 1 / 16}
    if text not in scales:
        raise typer.BadParameter(f"--scale {text} is none of {', '.join(scales)}")
    return scales[text]


def _describe(record: Record) -> str:
    after = f" -> {size_text(record.picture_bytes)}" if record.picture_bytes else ""
    return (
        f"{shown(os.path.basename(record.input))} -> {shown(record.output)}  {record.width} x {record.height}"
        f"  {size_text(record.bytes)}{after}  {record.bpp:.3f} bpp  {record.seconds:.2f} s"
    )
