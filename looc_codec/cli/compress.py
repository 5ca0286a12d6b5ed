"""`looc compress`: pictures to .looc files."""

from __future__ import annotations

import math
import os
import warnings
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
    parse_size,
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
        int | None,
        typer.Option("-q", "--quality", min=1, max=100, help="Higher is better and larger. Default: 50.", show_default=False),
    ] = None,
    target_bpp: Annotated[
        float | None,
        typer.Option("--target-bpp", metavar="BPP", help="At most so many bits per pixel instead of -q.", show_default=False),
    ] = None,
    target_size: Annotated[
        int | None,
        typer.Option(
            "--target-size", metavar="SIZE", parser=parse_size, show_default=False,
            help="At most so large a file instead of -q, for example 200kB; nearly always within 2% of it.",
        ),
    ] = None,
    target_psnr: Annotated[
        float | None,
        typer.Option("--target-psnr", metavar="DB", help="At least so many dB of PSNR instead of -q.", show_default=False),
    ] = None,
    effort: Annotated[
        int, typer.Option("--effort", min=0, max=3, help="Time spent on a better picture for its bytes: 0 fast, 3 slow. Restoring takes no longer.")
    ] = 0,
    model: ModelOption = "photo",
    device: DeviceOption = Device.cpu,
    threads: ThreadsOption = None,
    force: ForceOption = False,
    update: UpdateOption = False,
    workers: JobsOption = 1,
    strip: Annotated[bool, typer.Option("--strip", help="Leave out colour profile, EXIF and XMP.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
) -> None:
    """Compress pictures to .looc files."""
    _check_targets({"-q": quality, "--target-bpp": target_bpp, "--target-size": target_size, "--target-psnr": target_psnr})
    jobs = plan_jobs(inputs, output, ".looc", force=force, update=update)
    refuse_json_beside_data(jobs, as_json)
    needed = any(job.refusal is None and not job.up_to_date for job in jobs)
    path = str(find_model(model).path) if needed else ""
    if needed and workers == 1:
        # A bad model or device fails here once, not for each file.
        from looc_codec import api

        api.encoder_for(api.load_model(path), effort=effort, threads=threads, device=device.value)
    work = Compression(
        path, device.value, threads,
        quality, target_bpp, target_size, target_psnr, effort, strip, max_pixels,
    )  # fmt: skip
    run_batch(jobs, work, _describe, verb="compressing", workers=workers, quiet=quiet, as_json=as_json, debug=ctx.find_root().params["debug"])


@dataclass(frozen=True)
class Compression:
    """The work on one picture; plain values, so that it can be sent to another process."""

    model: str
    device: str
    threads: int | None
    quality: int | None
    target_bpp: float | None
    target_size: int | None
    target_psnr: float | None
    effort: int
    strip: bool
    max_pixels: int

    def __call__(self, job: Job, record: Record) -> None:
        from looc_codec import api, files, images
        from looc_codec.format import container

        # What matters about a picture becomes a notice. The filter is the process's own, which is the program's here.
        warnings.filterwarnings("ignore", module=r"PIL|pillow_")
        # Read once per process.
        model = api.load_model(self.model)
        api.encoder_for(model, threads=self.threads, device=self.device).prepare()
        picture = images.read_picture(job.input, max_pixels=self.max_pixels)
        if self.strip:
            picture = picture.without_metadata()
        record.notices = list(picture.notices)
        trial = api.compress_picture(
            picture, quality=api.DEFAULT_QUALITY if self.quality is None else self.quality, target=api.target_of(self.target_size, self.target_bpp, self.target_psnr),
            model=model, effort=self.effort, threads=self.threads, device=self.device,
        )  # fmt: skip
        data = trial.data
        record.notices += [trial.notice] if trial.notice else []
        record_file(record, container.read_header(data), len(data))
        record.model = model.name
        if job.output == STANDARD_STREAM:
            write_stdout(data)
        else:
            record.picture_bytes = os.path.getsize(job.input) if job.input != STANDARD_STREAM else None
            with files.write_atomically(job.output, force=job.replace) as file:
                file.write(data)


def _check_targets(given: dict[str, float | None]) -> None:
    """Wrong usage: more than one of the options that decide the size, or a target that is not a number above 0."""
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} cannot be combined; give one of them")
    for name, value in given.items():
        if not math.isfinite(value) or value <= 0:
            raise typer.BadParameter(f"{name} {value} is not a number above 0")


def _describe(record: Record) -> str:
    before = f"{size_text(record.picture_bytes)} -> " if record.picture_bytes else ""
    return (
        f"{shown(os.path.basename(record.input))} -> {shown(record.output)}  {record.width} x {record.height}"
        f"  {before}{size_text(record.bytes)}  {record.bpp:.3f} bpp  q {record.quality}  {record.seconds:.2f} s"
    )
