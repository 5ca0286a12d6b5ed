"""One command over many files: a line for each, a progress bar with the time left, and failures that do not stop the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from looc_codec.cli.printing import fail, is_out_of_memory, note, one_sentence, print_json
from looc_codec.cli.streams import STANDARD_STREAM
from looc_codec.errors import ImageError, LoocError, OutputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from looc_codec.container import Container, Header


@dataclass
class Job:
    """One file to be worked on; `refusal` is set when it is known beforehand that it cannot be done."""

    input: str
    output: str | None = None
    refusal: LoocError | None = None


@dataclass
class Record:
    """What became of one file; with --json its fields are one line of stdout."""

    input: str
    output: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    """Size of the .looc file, whichever way the command goes."""
    bpp: float | None = None
    quality: int | None = None
    model: str | None = None
    picture_bytes: int | None = None
    """Size of the file on the picture's side; None for a standard stream."""
    seconds: float | None = None
    error: str | None = None
    notices: list[str] = dataclasses.field(default_factory=list)


def plan_jobs(inputs: Sequence[str], output: str | None, suffix: str, *, force: bool) -> list[Job]:
    """A job for every input file, folders expanded; what exists already or is missing is refused without loading anything.

    Raises:
        OutputError: the inputs and `output` do not fit together, for example several inputs and one output file.
    """
    from looc_codec import files

    jobs = [Job(str(source), str(target)) for source, target in files.plan_outputs(inputs, output, suffix)]
    for job in jobs:
        if job.input != STANDARD_STREAM and not os.path.exists(job.input):
            job.refusal = ImageError(f"{job.input} does not exist; check its name")
        elif job.output != STANDARD_STREAM and not force and os.path.lexists(job.output):
            job.refusal = OutputError(f"{job.output} exists already; give another -o or --force")
    return jobs


def run_batch(
    jobs: Sequence[Job],
    work: Callable[[Job, Record], None],
    describe: Callable[[Record], str],
    *,
    verb: str,
    quiet: bool = False,
    as_json: bool = False,
    debug: bool = False,
) -> None:
    """Works on each job in turn and reports it; exits with 1 at the end when any failed.

    `work` fills the record of one job and raises LoocError, OSError or MemoryError when the job fails; any other
    exception is a bug and ends the run. `describe` gives the line for people of a finished record. `verb` names the
    work in the progress bar; `debug` adds the trace to each failure.
    """
    failures = 0
    started = time.perf_counter()
    with _progress(jobs, verb, quiet) as bar:
        for job in jobs:
            bar.begin(job)
            record = Record(input=job.input, output=job.output)
            failure = job.refusal
            file_started = time.perf_counter()
            if failure is None:
                try:
                    work(job, record)
                except BrokenPipeError:
                    raise
                except (LoocError, OSError, MemoryError, RuntimeError) as error:
                    if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                        raise
                    failure = error
            record.seconds = round(time.perf_counter() - file_started, 4)
            if failure is not None:
                failures += 1
                if debug:
                    traceback.print_exception(failure)
                record.error = one_sentence(failure)
                fail(f"{shown(job.input)}: {record.error}" if _names_missing(record) else record.error)
            elif not quiet:
                for notice in record.notices:
                    note(f"looc: {shown(job.input)}: {notice}")
                if not as_json:
                    note(describe(record))
            if as_json:
                print_json(dataclasses.asdict(record))
            bar.finish(job)
    if len(jobs) > 1 and not quiet:
        note(f"{len(jobs) - failures} of {len(jobs)} files done in {time.perf_counter() - started:.1f} s")
    if failures:
        raise typer.Exit(1)


def record_file(record: Record, header: Container | Header, size_bytes: int) -> None:
    """Fills in what a .looc file of `size_bytes` says about its picture."""
    record.width, record.height, record.quality = header.width, header.height, header.quality
    record.bytes = size_bytes
    record.bpp = round(8 * size_bytes / (header.width * header.height), 5)


def _names_missing(record: Record) -> bool:
    """Whether the error sentence leaves out which file it is about."""
    return record.input != STANDARD_STREAM and os.path.basename(record.input) not in (record.error or "")


def shown(name: str) -> str:
    """The name of a file, or words for the standard stream `-`."""
    return "standard stream" if name == STANDARD_STREAM else name


class _NoBar:
    """Stands in for the bar where nobody would see it."""

    def begin(self, job: Job) -> None:
        pass

    def finish(self, job: Job) -> None:
        pass


class _Bar:
    """A rich progress bar that weighs each file by its size, which makes the time left honest for mixed folders."""

    def __init__(self, progress: Progress, jobs: Sequence[Job], verb: str) -> None:
        self.progress = progress
        self.verb = verb
        self.done = 0
        total = sum(_weight(job) for job in jobs)
        self.task = progress.add_task(verb, total=total, done=0, count=len(jobs))

    def begin(self, job: Job) -> None:
        self.progress.update(self.task, description=f"{self.verb} {shown(os.path.basename(job.input))}")

    def finish(self, job: Job) -> None:
        self.done += 1
        self.progress.update(self.task, advance=_weight(job), done=self.done)


def _weight(job: Job) -> int:
    try:
        return max(1, os.path.getsize(job.input))
    except OSError:
        return 1


@contextlib.contextmanager
def _progress(jobs: Sequence[Job], verb: str, quiet: bool) -> Iterator[_Bar | _NoBar]:
    if quiet or not sys.stderr.isatty():
        yield _NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[count]} files, time left"),
        TimeRemainingColumn(),
    )
    # stdout stays untouched, it may carry JSON or a file; lines on stderr go through the bar and stay above it.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        yield _Bar(progress, jobs, verb)
