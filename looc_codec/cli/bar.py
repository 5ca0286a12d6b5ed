"""The progress bar of a command over files: how much of the work is done, and how long the rest will take."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from looc_codec.cli.planning import Job
from looc_codec.cli.printing import printable
from looc_codec.cli.records import shortened, shown

if TYPE_CHECKING:
    from rich.progress import Progress


class NoBar:
    """Stands in for the bar where nobody would see it."""

    columns: int | None = None

    def follow(self, job: Job, share: float) -> None:
        pass

    def finish(self, job: Job) -> None:
        pass


class Bar:
    """A rich progress bar over files that may be worked on at the same time.

    Each file weighs as much as its bytes, which makes the time left honest for folders of large and small ones, and a
    file that there is nothing to do for weighs nothing.
    """

    def __init__(self, progress: Progress, jobs: Sequence[Job], verb: str) -> None:
        self.progress = progress
        self.verb = verb
        self.columns: int | None = progress.console.width
        self.shares: dict[int, float] = {id(job): 0.0 for job in jobs}
        self.weights = {id(job): _weight(job) for job in jobs}
        self.done = 0
        self.completed = 0.0
        self.task = progress.add_task(
            verb, total=max(1, sum(self.weights.values())), done=0, count=len(jobs), first_report=None
        )

    def follow(self, job: Job, share: float) -> None:
        """Shows that a share, 0 to 1, of a file is done."""
        self.completed += (share - self.shares[id(job)]) * self.weights[id(job)]
        self.shares[id(job)] = share
        if self.progress.tasks[0].fields["first_report"] is None and self.completed > 0:
            # Models are loaded before it, once, however many files there are.
            self.progress.update(self.task, first_report=(time.monotonic(), self.completed))
        name = shortened(
            printable(shown(os.path.basename(job.input))), max(12, self.columns - len(self.verb) - _OTHER_COLUMNS)
        )
        self.progress.update(self.task, completed=self.completed, description=f"{self.verb} {name}")

    def finish(self, job: Job) -> None:
        self.done += 1
        self.follow(job, 1.0)
        self.progress.update(self.task, done=self.done)


_OTHER_COLUMNS = 46
"""What bar, count and time left take beside verb and name."""
_BAR_COLUMNS = 16


def _weight(job: Job) -> int:
    if not job.to_do:
        return 0
    try:
        return max(1, os.path.getsize(job.input))
    except OSError:
        return 1


def time_left(completed: float, total: float, elapsed_s: float) -> str:
    """Words for the time that the rest will take at the speed so far.

    Over the whole time: rich's own estimate follows the last half minute, in which one large picture may move little,
    and knows nothing before its second report.
    """
    if completed <= 0:
        return ""
    seconds = round(elapsed_s * (total - completed) / completed)
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02}:{seconds % 60:02} left" if hours else f"{minutes}:{seconds % 60:02} left"


@contextlib.contextmanager
def shown_progress(jobs: Sequence[Job], verb: str, quiet: bool) -> Iterator[Bar | NoBar]:
    """A bar on stderr where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield NoBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        def render(self, task: Task) -> Text:
            if task.fields["first_report"] is None:
                return Text("")
            began, completed = task.fields["first_report"]
            words = time_left(task.completed - completed, task.total - completed, time.monotonic() - began)
            return Text(words, style="progress.remaining")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(_BAR_COLUMNS),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[done]}/{task.fields[count]}"),
        TimeLeft(),
    )
    # stdout stays untouched, it may carry JSON or a file; lines on stderr go through the bar and stay above it.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        yield Bar(progress, jobs, verb)
