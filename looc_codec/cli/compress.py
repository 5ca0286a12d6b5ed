"""`looc compress`: pictures to .looc files."""

from __future__ import annotations

import functools
import os
import warnings
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
    ForceOption,
    JobsOption,
    JsonOption,
    KeepTimeOption,
    MaxPixelsOption,
    ModelOption,
    OutputOption,
    QuietOption,
    ThreadsOption,
    parse_size,
    real,
    refuse_json_beside_data,
    whole,
)
from looc_codec.cli.planning import Job, plan_jobs
from looc_codec.cli.printing import size_text
from looc_codec.cli.records import Line, Record, record_file, shown
from looc_codec.cli.streams import STANDARD_STREAM, read_looc_header, write_stdout
from looc_codec.errors import FormatError, OutputError
from looc_codec.quality import DEFAULT_QUALITY, LEVEL_MAX, QualityScale
from looc_codec.registry import DEFAULT_MODEL, ModelEntry, find_model

EXAMPLES = (
    Example("looc compress photo.jpg", "writes photo.looc beside it."),
    Example("looc compress holiday/ -o packed/ -q 40 -j 4", "all pictures of a folder, four at once."),
    Example("looc compress photo.jpg --target-size 200kB", "the best file of at most 200,000 bytes."),
)

def compress(
    ctx: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Pictures, folders of pictures, or - for standard input.")
    ],
    output: OutputOption = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "-q",
            "--quality",
            metavar="N",
            parser=whole(1, 100),
            help="1 to 100, how it looks with every model and effort: 30 low, 50 medium, 75 high, 90 very high."
            f" [default: {DEFAULT_QUALITY}]",
        ),
    ] = None,
    target_bpp: Annotated[
        float | None,
        typer.Option(
            "--target-bpp", metavar="BPP", parser=real(0), help="At most so many bits per pixel, instead of -q."
        ),
    ] = None,
    target_size: Annotated[
        int | None,
        typer.Option(
            "--target-size",
            metavar="SIZE",
            parser=parse_size,
            help="At most so large a file, for example 200kB, instead of -q; nearly always within 2% of it.",
        ),
    ] = None,
    target_psnr: Annotated[
        float | None,
        typer.Option("--target-psnr", metavar="DB", parser=real(0), help="At least so many dB of PSNR, instead of -q."),
    ] = None,
    target_ssimulacra2: Annotated[
        float | None,
        typer.Option(
            "--target-ssimulacra2",
            metavar="X",
            parser=real(0, 100),
            help="At least this score of SSIMULACRA 2, instead of -q, which promises it on average only; needs the"
            " package ssimulacra2.",
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            "--level",
            metavar="N",
            parser=whole(1, 100),
            help="1 to 100 on the model's own scale, which its files hold, instead of -q; for research.",
        ),
    ] = None,
    effort: Annotated[
        int,
        typer.Option(
            "--effort",
            metavar="N",
            parser=whole(0, 3),
            help="Time spent on a smaller file of the same quality: 0 fast to 3 slow. Restoring takes no longer.",
        ),
    ] = 0,
    model: ModelOption = DEFAULT_MODEL,
    device: DeviceOption = Device.cpu,
    threads: ThreadsOption = None,
    force: ForceOption = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            "-u",
            help="Leave outputs that are not older than their input, whole, and of the quality, target and model"
            " asked for; replace others."
            " A file does not say its effort, nor the score that it was made for: these are not compared.",
        ),
    ] = False,
    keep_time: KeepTimeOption = False,
    workers: JobsOption = 1,
    strip: Annotated[bool, typer.Option("--strip", help="Leave out colour profile, EXIF and XMP.")] = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    max_pixels: MaxPixelsOption = DEFAULT_MAX_PIXELS,
) -> None:
    """Compress pictures to .looc files."""
    _check_targets(
        {"-q": quality, "--level": level, "--target-bpp": target_bpp, "--target-size": target_size,
         "--target-psnr": target_psnr, "--target-ssimulacra2": target_ssimulacra2}
    )  # fmt: skip
    wanted = Wanted(quality, level, target_bpp, target_size, target_psnr, target_ssimulacra2, effort)
    asked = _Asked(model, wanted, strip)
    plan = plan_jobs(inputs, output, ".looc", force=force, update=update, is_as_asked=asked.is_met_by, dry_run=dry_run)
    refuse_json_beside_data(plan.jobs, as_json)
    needed = any(job.to_do for job in plan.jobs)
    path = str(find_model(model).path) if needed else ""
    if needed and workers == 1 and not dry_run:
        # A bad model or device fails here once, not for each file.
        from looc_codec import api

        api.encoder_for(api.load_model(path), effort=effort, threads=threads, device=device.value)
    work = Compression(
        path, device.value, threads,
        wanted, strip, max_pixels, keep_time,
    )  # fmt: skip
    run_batch(
        plan,
        work,
        _describe,
        verb="compressing",
        workers=workers,
        quiet=quiet,
        as_json=as_json,
        debug=ctx.find_root().params["debug"],
    )


@dataclass(frozen=True)
class Wanted:
    """How good or large a file is to be: at most one of these, and the effort."""

    quality: int | None
    level: int | None
    target_bpp: float | None
    target_size: int | None
    target_psnr: float | None
    target_ssimulacra2: float | None
    effort: int

    def level_of(self, scale: QualityScale) -> int:
        """The level of a model with this scale, where no target is given."""
        if self.level is not None:
            return self.level
        return scale.level(DEFAULT_QUALITY if self.quality is None else self.quality, self.effort)

    def quality_of(self, level: int, scale: QualityScale) -> int:
        """The quality of a file of this level: what was asked for, or about what it comes to."""
        others = (self.level, self.target_bpp, self.target_size, self.target_psnr, self.target_ssimulacra2)
        if self.quality is None and any(given is not None for given in others):
            return scale.quality(level, self.effort)
        return DEFAULT_QUALITY if self.quality is None else self.quality


@dataclass(frozen=True)
class _Asked:
    """What an existing output is compared with: the part of what was asked for that a .looc file tells."""

    model: str
    wanted: Wanted
    strip: bool

    @functools.cached_property
    def entry(self) -> ModelEntry:
        return find_model(self.model)

    def is_met_by(self, output: str) -> bool:
        """Whether the file was made at the level of the quality, or hits the target, with the same model, and is whole.

        Raises:
            OutputError: it is no .looc file at all, so nobody asked for it to be replaced.
        """
        try:
            header, size_bytes = read_looc_header(output)
        except (FormatError, OSError):
            raise OutputError(
                f"{output} is not older than its input, but no .looc file that can be read; --force replaces it"
            ) from None
        if size_bytes != header.file_bytes or header.fingerprint != self.entry.fingerprint:
            return False
        if self.strip and any(chunk.type in _STRIPPED_CHUNKS for chunk in header.chunks):
            return False
        wanted = self.wanted
        limit = wanted.target_size
        if wanted.target_bpp is not None:
            limit = wanted.target_bpp * header.width * header.height / 8
        if limit is not None:
            # The best picture that there is may need less.
            return size_bytes <= limit and (size_bytes >= _TARGET_REACHED * limit or header.level == LEVEL_MAX)
        if wanted.target_psnr is not None or wanted.target_ssimulacra2 is not None:
            return True
        # A model of the paper's kind has but one.
        return bool(self.entry.kind) or header.level == wanted.level_of(self.entry.quality_scale)


_STRIPPED_CHUNKS = ("iccp", "exif", "xmp_")
_TARGET_REACHED = 0.9
"""Share of a target that a file made for it has at least; nearly all are within 2%."""


@dataclass(frozen=True)
class Compression:
    """The work on one picture; plain values, so that it can be sent to another process."""

    model: str
    device: str
    threads: int | None
    wanted: Wanted
    strip: bool
    max_pixels: int
    keep_time: bool

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
        content = images.content_notice(picture.rgb)
        record.notices += [content] if content else []
        wanted = self.wanted
        target = api.target_of(wanted.target_size, wanted.target_bpp, wanted.target_psnr, wanted.target_ssimulacra2)
        trial = api.compress_picture(
            picture,
            quality=wanted.quality,
            level=wanted.level,
            target=target,
            model=model,
            effort=wanted.effort,
            threads=self.threads,
            device=self.device,
        )
        data = trial.data
        record.notices += [trial.notice] if trial.notice else []
        record_file(record, container.read_header(data), len(data))
        record.model = model.name
        record.quality = None if model.only_levels else wanted.quality_of(trial.level, model.quality_scale)
        if job.output == STANDARD_STREAM:
            write_stdout(data)
        else:
            record.picture_bytes = os.path.getsize(job.input) if job.input != STANDARD_STREAM else None
            modified_ns = os.stat(job.input).st_mtime_ns if self.keep_time and job.input != STANDARD_STREAM else None
            with files.write_atomically(job.output, force=job.replace, modified_ns=modified_ns) as file:
                file.write(data)


def _check_targets(given: dict[str, float | None]) -> None:
    """Wrong usage: more than one of the options that decide the size, or a target of nothing."""
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} cannot be combined; give one of them")
    for name, value in given.items():
        if value <= 0:
            raise typer.BadParameter(f"{name} {value:g} is not above 0")


def _describe(record: Record) -> Line:
    before = f"{size_text(record.picture_bytes)} -> " if record.picture_bytes else ""
    quality = "" if record.quality is None else f"  q {record.quality}"
    return Line(
        shown(os.path.basename(record.input)), shown(record.output),
        f"{record.width} x {record.height}  {before}{size_text(record.bytes)}  {record.bpp:.3f} bpp"
        f"{quality}  {record.seconds:.2f} s",
    )  # fmt: skip
