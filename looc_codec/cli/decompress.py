"""`looc decompress`: .looc files to pictures."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Annotated

import typer

from looc_codec.cli.batch import run_batch
from looc_codec.cli.help import Example
from looc_codec.cli.options import (
    DEFAULT_MAX_PIXELS,
    Device,
    DeviceOption,
    DryRunOption,
    FileModelOption,
    ForceOption,
    JobsOption,
    JsonOption,
    KeepTimeOption,
    MaxPixelsOption,
    OutputOption,
    QuietOption,
    ThreadsOption,
    refuse_json_beside_data,
    whole,
)
from looc_codec.cli.planning import Job, plan_jobs
from looc_codec.cli.printing import size_text
from looc_codec.cli.records import Line, Record, record_file, shown
from looc_codec.cli.streams import STANDARD_STREAM, read_looc_bytes, write_stdout
from looc_codec.errors import OutputError
from looc_codec.registry import find_model

EXAMPLES = (
    Example("looc decompress photo.looc", "writes photo.png beside it."),
    Example("looc decompress packed/ -o photos/ --format jpg --quality 90", "a folder, to JPEG files."),
    Example("looc decompress photo.looc -o - | display -", "to another program."),
)


def _scale(text: str) -> float:
    """The share of a side that a scale stands for; wrong usage for one that there is not."""
    scales = {"1": 1.0, "1/2": 1 / 2, "1/4": 1 / 4, "1/8": 1 / 8, "1/16": 1 / 16}
    if str(text) not in scales and text not in scales.values():
        raise typer.BadParameter(f"{text!r} is none of {', '.join(scales)}")
    return scales.get(str(text), text)


def decompress(
    ctx: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN...", help=".looc files, folders of them, or - for standard input.")
    ],
    output: OutputOption = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="KIND",
            help="png, jpg, webp, avif, tiff or bmp. Without it the output's name decides, else it is png.",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality",
            metavar="N",
            parser=whole(1, 100),
            help="1 to 100, for jpg, webp and avif. Without it jpg and avif are of high quality and webp is lossless.",
        ),
    ] = None,
    model: FileModelOption = None,
    device: DeviceOption = Device.cpu,
    threads: ThreadsOption = None,
    force: ForceOption = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            "-u",
            help="Leave outputs that are not older than their input, whatever they were made with; replace others.",
        ),
    ] = False,
    keep_time: KeepTimeOption = False,
    workers: JobsOption = 1,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
    groups: Annotated[
        int | None,
        typer.Option(
            "--groups", metavar="N", parser=whole(1), help="Decode only the first N channel groups: a quick preview."
        ),
    ] = None,
    scale: Annotated[
        float,
        typer.Option(
            "--scale",
            metavar="1/2|1/4|1/8|1/16",
            parser=_scale,
            help="Restore a smaller picture, in a fraction of the time. Without it the picture is restored as it was.",
        ),
    ] = 1.0,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Decode what a file that was cut short holds.")
    ] = False,
) -> None:
    """Restore pictures from .looc files, with the model that each file names."""
    suffix = _checked_format(format, quality)
    plan = plan_jobs(inputs, output, suffix, force=force, update=update, dry_run=dry_run)
    refuse_json_beside_data(plan.jobs, as_json)
    for job in plan.jobs:
        _check_output(job, format, quality)
    path = str(find_model(model).path) if model is not None else None
    work = Restoration(path, device.value, threads, format, max_pixels, groups, scale, allow_truncated, quality, keep_time)
    run_batch(
        plan, work, _describe, verb="restoring", workers=workers, quiet=quiet, as_json=as_json,
        debug=ctx.find_root().params["debug"], grows=True,
    )  # fmt: skip


def _checked_format(format: str | None, quality: int | None) -> str:
    """The suffix of outputs that have no name of their own; wrong usage where the format is none."""
    if format is None:
        return ".png"
    from looc_codec import images

    suffix = f".{format.lower().removeprefix('.')}"
    try:
        kind = images.output_format(f"x{suffix}")
    except OutputError:
        raise typer.BadParameter(f"--format {format} is none of {', '.join(images.PILLOW_FORMATS)}") from None
    if quality is not None and kind not in images.QUALITY_FORMATS:
        raise typer.BadParameter(f"--quality is for jpg, webp and avif; {format} is lossless")
    return suffix


def _check_output(job: Job, format: str | None, quality: int | None) -> None:
    """Refuses an output whose name and format do not go together, before the picture is decoded."""
    from looc_codec import images

    if not job.to_do or job.output == STANDARD_STREAM and quality is None:
        return
    try:
        by_name = "PNG" if job.output == STANDARD_STREAM else images.output_format(job.output)
        kind = by_name if format is None else images.output_format(f"x.{format.removeprefix('.')}")
        if job.output != STANDARD_STREAM and by_name != kind and os.path.splitext(job.output)[1]:
            raise OutputError(
                f"{job.output} is the name of another kind than --format {format}; give one of them, or two that agree"
            )
        if quality is not None and kind not in images.QUALITY_FORMATS:
            raise OutputError(
                f"{shown(job.output)} would be lossless {kind}, which has no quality; give --format jpg, webp or avif"
            )
    except OutputError as error:
        job.refusal = error


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
    quality: int | None
    keep_time: bool

    def __call__(self, job: Job, record: Record) -> None:
        from looc_codec import api, files, images
        from looc_codec.format import container

        data = read_looc_bytes(job.input)
        # A damaged file, or one without its model, fails at once.
        file = container.unpack(data, max_pixels=self.max_pixels, allow_truncated=self.allow_truncated)
        record_file(record, file, len(data))
        model = api.model_for_file(file.fingerprint, self.model)
        record.model = model.name
        picture = api.restore_picture(
            file, model=model, groups=self.groups, scale=self.scale, threads=self.threads, device=self.device
        )
        record.notices = list(picture.notices)
        if job.output == STANDARD_STREAM:
            encoded = io.BytesIO()
            record.notices += images.write_picture(picture, encoded, format=self.format or "png", quality=self.quality)
            write_stdout(encoded.getvalue())
        else:
            format = self.format or os.path.splitext(job.output)[1].removeprefix(".") or "png"
            modified_ns = os.stat(job.input).st_mtime_ns if self.keep_time and job.input != STANDARD_STREAM else None
            with files.write_atomically(job.output, force=job.replace, modified_ns=modified_ns) as file:
                record.notices += images.write_picture(picture, file, format=format, quality=self.quality)
            record.picture_bytes = os.path.getsize(job.output)


def _describe(record: Record) -> Line:
    after = f" -> {size_text(record.picture_bytes)}" if record.picture_bytes else ""
    return Line(
        shown(os.path.basename(record.input)), shown(record.output),
        f"{record.width} x {record.height}  {size_text(record.bytes)}{after}  {record.bpp:.3f} bpp"
        f"  {record.seconds:.2f} s",
    )  # fmt: skip
