"""What a command is to do with each input, decided before anything is loaded or written."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import typer

from looc_codec.cli.naming import name_inputs, name_outputs, passed_over_sentence
from looc_codec.cli.streams import STANDARD_STREAM, refuse_terminal_input, refuse_terminal_output
from looc_codec.errors import ImageError, LoocError, OutputError


@dataclass
class Job:
    """One file to be worked on; `refusal` is set when it is known beforehand that it cannot be done, `up_to_date` when
    it need not be. `replace` lets an output that exists be replaced."""

    input: str
    output: str | None = None
    refusal: LoocError | None = None
    up_to_date: bool = False
    replace: bool = False

    @property
    def to_do(self) -> bool:
        return self.refusal is None and not self.up_to_date


@dataclass
class Plan:
    """The jobs of a command, in the order of its inputs; `remark` is a line for people about what is none of them."""

    jobs: list[Job]
    remark: str | None = None
    dry_run: bool = False


def plan_jobs(
    inputs: Sequence[str],
    output: str | None,
    suffix: str,
    *,
    force: bool,
    update: bool = False,
    is_as_asked: Callable[[str], bool] | None = None,
    kinds: Collection[str] | None = None,
    dry_run: bool = False,
) -> Plan:
    """A job for every input file, folders expanded; what exists already, is missing or cannot be written is refused
    without loading anything.

    With `update` an output that is not older than its input, and of which `is_as_asked` holds, is left as it is; any
    other is replaced. Folders for the outputs are made, unless it is a `dry_run`.

    Raises:
        OutputError: the inputs and `output` do not fit together, for example several inputs and one output file.
    """
    if force and update:
        raise typer.BadParameter("--force replaces every output and --update only old ones; give one of them")
    names = name_outputs(inputs, output, suffix, kinds=kinds)
    jobs = [Job(pair.source, pair.target, pair.refusal, replace=force or update) for pair in names.pairs]
    if any(job.input == STANDARD_STREAM for job in jobs):
        refuse_terminal_input()
    if any(job.output == STANDARD_STREAM for job in jobs):
        refuse_terminal_output(force=force)
    for job in jobs:
        if job.refusal is not None:
            continue
        try:
            if job.input != STANDARD_STREAM and not os.path.exists(job.input):
                raise ImageError(f"{job.input} does not exist; check its name")
            if update and _is_newer(job.output, job.input):
                job.up_to_date = is_as_asked is None or is_as_asked(job.output)
            elif job.output != STANDARD_STREAM and not job.replace and os.path.lexists(job.output):
                raise OutputError(f"{job.output} exists already; give another -o or --force")
        except LoocError as error:
            job.refusal = error
    _provide_folders(
        [job for job in jobs if job.to_do and job.output != STANDARD_STREAM], make=names.into_folder, dry_run=dry_run
    )
    return Plan(jobs, passed_over_sentence(names.passed_over), dry_run)


def plan_inputs(inputs: Sequence[str], *, kinds: Collection[str]) -> Plan:
    """A job for every input file of a command that writes nothing; folders stand for the files of `kinds` in them."""
    names = name_inputs(inputs, kinds)
    if any(pair.source == STANDARD_STREAM for pair in names.pairs):
        refuse_terminal_input()
    return Plan(
        [Job(pair.source, refusal=pair.refusal) for pair in names.pairs], passed_over_sentence(names.passed_over)
    )


def _is_newer(output: str, source: str) -> bool:
    """Whether the output is not older than the input (`--keep-time` makes it of equal age); never for standard streams
    and for what is not there."""
    if STANDARD_STREAM in (output, source) or not os.path.isfile(output):
        return False
    return os.stat(output).st_mtime_ns >= os.stat(source).st_mtime_ns


def _provide_folders(jobs: Sequence[Job], *, make: bool, dry_run: bool) -> None:
    """Refuses the jobs whose outputs have no folder that can be written to, which would show only at the end."""
    problems: dict[str, str | None] = {}
    for job in jobs:
        folder = os.path.dirname(job.output) or os.curdir
        if folder not in problems:
            problems[folder] = _problem_of(folder, make=make, dry_run=dry_run)
        if problems[folder] is not None:
            job.refusal = OutputError(f"cannot write {job.output}: {problems[folder]}")


def _problem_of(folder: str, *, make: bool, dry_run: bool) -> str | None:
    if make and not dry_run:
        try:
            os.makedirs(folder, exist_ok=True)
        except (OSError, ValueError) as error:
            return (
                f"its folder cannot be made: {getattr(error, 'strerror', None) or error}; free or choose another place"
            )
    if not os.path.isdir(folder):
        return None if make else "its folder does not exist; make it first"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "its folder cannot be written to; free or choose another place"
    return None
