"""One command over many files: a line for each, a progress bar with the time left, and failures that do not stop the rest.

With several workers each file is one task of a process of its own; lines come in the order of the inputs all the same.
Processes, not threads: Ctrl-C ends them at once, a crash or lack of memory takes one of them, and Python's lock, which the range
coder holds, is not shared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from looc_codec import progress
from looc_codec.cli.printing import fail, is_out_of_memory, note, one_sentence, print_json
from looc_codec.cli.streams import STANDARD_STREAM
from looc_codec.errors import ImageError, LoocError, OutputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from looc_codec.format.container import Container, Header


LEAVE_SECONDS = 5.0
"""What a worker that is told to end has for it."""


@dataclass
class Job:
    """One file to be worked on; `refusal` is set when it is known beforehand that it cannot be done, `up_to_date` when it
    need not be. `replace` lets an output that exists be replaced."""

    input: str
    output: str | None = None
    refusal: LoocError | None = None
    up_to_date: bool = False
    replace: bool = False


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
    groups: int | None = None
    """Channel groups that a file holds; stated where it may be cut short."""
    picture_bytes: int | None = None
    """Size of the file on the picture's side; None for a standard stream."""
    seconds: float | None = None
    error: str | None = None
    skipped: bool = False
    """With --update: the output is newer than the input and was left as it is."""
    notices: list[str] = dataclasses.field(default_factory=list)


def plan_jobs(
    inputs: Sequence[str], output: str | None, suffix: str, *, force: bool, update: bool = False, known_suffixes: Collection[str] | None = None
) -> list[Job]:
    """A job for every input file, folders expanded; what exists already or is missing is refused without loading anything.

    With `update` an output newer than its input is left as it is and an older one replaced.

    Raises:
        OutputError: the inputs and `output` do not fit together, for example several inputs and one output file.
    """
    from looc_codec import files

    if force and update:
        raise typer.BadParameter("--force replaces every output and --update only old ones; give one of them")
    jobs = [Job(str(source), str(target), replace=force or update) for source, target in files.plan_outputs(inputs, output, suffix, known_suffixes=known_suffixes)]
    for job in jobs:
        if job.input != STANDARD_STREAM and not os.path.exists(job.input):
            job.refusal = ImageError(f"{job.input} does not exist; check its name")
        elif update:
            job.up_to_date = _is_newer(job.output, job.input)
        elif job.output != STANDARD_STREAM and not force and os.path.lexists(job.output):
            job.refusal = OutputError(f"{job.output} exists already; give another -o or --force")
    return jobs


def _is_newer(output: str, source: str) -> bool:
    """Whether the output was written after the input; never for standard streams and for what is not there."""
    if STANDARD_STREAM in (output, source) or not os.path.isfile(output):
        return False
    return os.stat(output).st_mtime_ns > os.stat(source).st_mtime_ns


def run_batch(
    jobs: Sequence[Job],
    work: Callable[[Job, Record], None],
    describe: Callable[[Record], str],
    *,
    verb: str,
    workers: int = 1,
    quiet: bool = False,
    as_json: bool = False,
    debug: bool = False,
) -> None:
    """Works on each job and reports it, in the order of `jobs`; exits with 1 at the end when any failed.

    `work` fills the record of one job and raises LoocError, OSError or MemoryError when the job fails; any other
    exception is a bug and ends the run. With `workers` above 1 it runs in other processes, so it must be picklable.
    `describe` gives the line for people of a finished record. `verb` names the work in the progress bar; `debug` adds
    the trace to each failure.
    """
    failures = skipped = 0
    started = time.perf_counter()
    with _shown_progress(jobs, verb, quiet) as bar, _results(jobs, work, workers) as results:
        for job in jobs:
            bar.begin(job)
            with progress.listening(bar.follow):
                record, failure, trace = results(job)
            if failure is not None:
                failures += 1
                if debug:
                    sys.stderr.write(trace)
                record.error = one_sentence(failure)
                fail(f"{shown(job.input)}: {record.error}" if _names_missing(record) else record.error)
            elif record.skipped:
                skipped += 1
                if not quiet and not as_json and len(jobs) == 1:
                    note(f"{shown(record.output)} is newer than {shown(record.input)}; left as it is")
            elif not quiet:
                for notice in record.notices:
                    note(f"looc: {shown(job.input)}: {notice}")
                if not as_json:
                    note(describe(record))
            if as_json:
                print_json(dataclasses.asdict(record))
            bar.finish(job)
    if len(jobs) > 1 and not quiet:
        unchanged = f", {skipped} skipped as up to date" if skipped else ""
        note(f"{len(jobs) - failures - skipped} of {len(jobs)} files done{unchanged} in {time.perf_counter() - started:.1f} s")
    if failures:
        raise typer.Exit(1)


Result = tuple[Record, "Exception | None", str]
"""Record of a job, why it failed (None if it did not), and the trace of that, which does not travel with the exception."""


def work_on(work: Callable[[Job, Record], None], job: Job) -> Result:
    """Works on one job in this process."""
    record = Record(input=job.input, output=job.output, skipped=job.up_to_date)
    failure: Exception | None = job.refusal
    started = time.perf_counter()
    if failure is None and not job.up_to_date:
        try:
            work(job, record)
        except BrokenPipeError:
            raise
        except (LoocError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            failure = error
    record.seconds = round(time.perf_counter() - started, 4)
    return record, failure, "".join(traceback.format_exception(failure)) if failure is not None else ""


@contextlib.contextmanager
def _results(jobs: Sequence[Job], work: Callable[[Job, Record], None], workers: int) -> Iterator[Callable[[Job], Result]]:
    """A function that gives the result of a job, worked on in this process or waited for from another."""
    # Standard streams exist in this process only.
    tasks = [job for job in jobs if job.refusal is None and not job.up_to_date and STANDARD_STREAM not in (job.input, job.output)]
    workers = min(workers, len(tasks))
    if workers < 2:
        yield lambda job: work_on(work, job)
        return
    # Fresh processes: a fork of one that has threads may hang, and other systems have no fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (workers,))
    try:
        futures: dict[int, Future[Result]] = {id(job): pool.submit(_work_in_worker, work, job) for job in tasks}

        def result(job: Job) -> Result:
            if id(job) not in futures:
                return work_on(work, job)
            try:
                return futures[id(job)].result()
            except BrokenProcessPool:
                job.refusal = WorkerError("a worker process died, perhaps of lack of memory; give fewer --jobs")
                return work_on(work, job)

        yield result
        pool.shutdown()
    except BaseException:
        # The executor would wait for its processes to finish their files.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise


class WorkerError(LoocError):
    """A process that worked on a file is gone."""


def _start_worker(workers: int) -> None:
    """Prepares a worker process: a fair share of the cores, and an end with its parent's, leaving nothing half-written."""
    os.environ.setdefault("LOOC_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    # Ctrl-C reaches all processes of a terminal; the parent alone decides and ends its workers by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow_parent, daemon=True).start()


def _leave(number: int, frame: object) -> None:
    """Ends a worker by an exception, which removes its unfinished output, or after some seconds by force: an exception is lost where it is
    raised inside a finaliser, and a lock that a killed worker held is never released. The parent waits for all of its workers."""
    timer = threading.Timer(LEAVE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    sys.exit(128 + number)


def _work_in_worker(work: Callable[[Job, Record], None], job: Job) -> Result:
    try:
        return work_on(work, job)
    except SystemExit:
        # The unfinished output is gone by now; the executor's loop would catch this and take the next task.
        os._exit(1)


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

    def follow(self, share: float) -> None:
        pass

    def finish(self, job: Job) -> None:
        pass


class _Bar:
    """A rich progress bar that weighs each file by its size, which makes the time left honest for mixed folders."""

    def __init__(self, progress: Progress, jobs: Sequence[Job], verb: str) -> None:
        self.progress = progress
        self.verb = verb
        self.done, self.before, self.weight = 0, 0, 0
        total = sum(_weight(job) for job in jobs)
        self.task = progress.add_task(verb, total=total, done=0, count=len(jobs))

    def begin(self, job: Job) -> None:
        self.weight = _weight(job)
        self.progress.update(self.task, description=f"{self.verb} {shown(os.path.basename(job.input))}")

    def follow(self, share: float) -> None:
        """Shows that a share of the present file is done."""
        self.progress.update(self.task, completed=self.before + share * self.weight)

    def finish(self, job: Job) -> None:
        self.done += 1
        self.before += self.weight
        self.progress.update(self.task, completed=self.before, done=self.done)


def _weight(job: Job) -> int:
    try:
        return max(1, os.path.getsize(job.input))
    except OSError:
        return 1


@contextlib.contextmanager
def _shown_progress(jobs: Sequence[Job], verb: str, quiet: bool) -> Iterator[_Bar | _NoBar]:
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
