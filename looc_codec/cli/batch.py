"""One command over many files: a line for each, a bar with the time left, and failures that do not stop the rest.

Lines come in the order of the inputs, however many files are worked on at once.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable

import typer

from looc_codec.cli.bar import shown_progress
from looc_codec.cli.planning import Job, Plan
from looc_codec.cli.printing import fail, note, one_sentence, print_json, size_text
from looc_codec.cli.records import Line, Record, names_its_file, shown
from looc_codec.cli.workers import Work, results


def run_batch(
    plan: Plan,
    work: Work,
    describe: Callable[[Record], Line],
    *,
    verb: str,
    workers: int = 1,
    quiet: bool = False,
    as_json: bool = False,
    debug: bool = False,
    grows: bool = False,
) -> None:
    """Works on each job and reports it, in the order of the plan; exits with 1 at the end when any failed.

    `work` fills the record of one job and raises LoocError, OSError or MemoryError when the job fails; any other
    exception is a bug and ends the run. With `workers` above 1 it runs in other processes, so it must be picklable.
    `describe` gives the line for people of a finished record. `verb` names the work in the progress bar; `debug` adds
    the trace to each failure. `grows` says that pictures are made of .looc files, for the bytes of the summary.
    """
    jobs = plan.jobs
    if plan.remark and not quiet:
        note(f"looc: {plan.remark}")
    if plan.dry_run:
        work, workers = _no_work, 1
    records: list[Record] = []
    started = time.perf_counter()
    with (
        shown_progress(jobs, verb, quiet or plan.dry_run) as bar,
        results(jobs, work, workers, bar.follow) as result_of,
    ):
        for job in jobs:
            record, failure, trace = result_of(job)
            records.append(record)
            if failure is not None:
                if debug:
                    sys.stderr.write(trace)
                record.error = one_sentence(failure)
                fail(record.error if names_its_file(record) else f"{shown(job.input)}: {record.error}")
            elif not quiet:
                for notice in record.notices:
                    note(f"looc: {shown(job.input)}: {notice}")
                if not as_json and (plan.dry_run or not record.skipped or len(jobs) == 1):
                    note(_plan_line(job) if plan.dry_run or record.skipped else describe(record).text(bar.columns))
            if as_json:
                print_json(dataclasses.asdict(record))
            bar.finish(job)
    if len(jobs) > 1 and not quiet:
        note(_summary(records, time.perf_counter() - started, grows=grows, dry_run=plan.dry_run))
    if any(record.error is not None for record in records):
        raise typer.Exit(1)


def _no_work(job: Job, record: Record) -> None:
    """What a dry run does."""


def _plan_line(job: Job) -> str:
    if job.up_to_date:
        return f"{shown(job.output)} is not older than {shown(job.input)} and as asked for; left as it is"
    return f"{shown(job.input)} -> {shown(job.output)}"


def _summary(records: list[Record], seconds: float, *, grows: bool, dry_run: bool) -> str:
    """Files, bytes before and after, share saved and time of a whole batch, in one line."""
    failed = sum(record.error is not None for record in records)
    skipped = sum(record.skipped for record in records)
    done = [record for record in records if record.error is None and not record.skipped]
    parts = [f"{len(done)} of {len(records)} files {'to do' if dry_run else 'done'}"]
    if skipped:
        parts.append(f"{skipped} skipped as up to date")
    if failed:
        parts.append(f"{failed} {'refused' if dry_run else 'failed'}")
    sizes = [(record.picture_bytes, record.bytes) for record in done if record.picture_bytes and record.bytes]
    if sizes:
        picture, looc = (sum(column) for column in zip(*sizes, strict=True))
        before, after = (looc, picture) if grows else (picture, looc)
        parts.append(f"{size_text(before)} -> {size_text(after)}")
        if after < before:
            parts.append(f"{100 * (1 - after / before):.1f}% saved")
    return ", ".join(parts) + ("" if dry_run else f" in {seconds:.1f} s")
