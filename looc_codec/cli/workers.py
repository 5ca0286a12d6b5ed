"""Work on jobs in this process or in several others, of which the death of one costs the file that it has in work.

Processes, not threads: Ctrl-C ends them at once, a crash or lack of memory takes one of them, and Python's lock, which
the range coder holds, is not shared. Not concurrent.futures: its pool gives up all that is left when one process dies,
says nothing of how far a file is, and needs semaphores, which need /dev/shm. Here each worker has a pipe of its own,
and nothing is shared.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from looc_codec import files, progress
from looc_codec.cli.planning import Job
from looc_codec.cli.printing import is_out_of_memory, note
from looc_codec.cli.records import Record
from looc_codec.cli.streams import STANDARD_STREAM
from looc_codec.errors import LoocError

LEAVE_SECONDS = 5.0
"""What a worker that is told to end has for it."""

_REPORT_SECONDS = 0.1
"""Reports of progress are no more frequent than this."""

Result = tuple[Record, "Exception | None", str]
"""Record of a job, why it failed (None if it did not), and the trace of that, which does not travel with the
exception."""

Work = Callable[[Job, Record], None]
Follow = Callable[[Job, float], None]


class WorkerError(LoocError):
    """A process that worked on a file is gone."""


def work_on(work: Work, job: Job) -> Result:
    """Works on one job in this process."""
    record = Record(input=job.input, output=job.output, skipped=job.up_to_date)
    failure: Exception | None = job.refusal
    started = time.perf_counter()
    if job.to_do:
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


def _result_here(job: Job, work: Work, follow: Follow) -> Result:
    with progress.listening(lambda share: follow(job, share)):
        return work_on(work, job)


@contextlib.contextmanager
def results(jobs: Sequence[Job], work: Work, workers: int, follow: Follow) -> Iterator[Callable[[Job], Result]]:
    """A function that gives the result of a job, worked on in this process or waited for from another.

    `follow` is told which share of a job is done. With more than one of `workers` the jobs are begun in their order,
    and `work` has to be picklable.
    """
    # Standard streams exist in this process only.
    tasks = [job for job in jobs if job.to_do and STANDARD_STREAM not in (job.input, job.output)]
    pool = _started_pool(tasks, work, min(workers, len(tasks)), follow)
    if pool is None:
        yield lambda job: _result_here(job, work, follow)
        return
    try:
        yield lambda job: pool.result(job) if pool.has(job) else _result_here(job, work, follow)
    finally:
        pool.end()


def _started_pool(tasks: Sequence[Job], work: Work, workers: int, follow: Follow) -> _Pool | None:
    """A pool where there is work for more than one process and the system allows more; a line says where it does
    not."""
    if workers < 2:
        return None
    pool = _Pool(tasks, work, workers, follow)
    try:
        pool.start()
    except OSError as error:
        pool.end()
        note(f"looc: no further processes can be started ({error.strerror or error}); working on one file at a time")
        return None
    return pool


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    owner: str
    """What names its unfinished outputs, see files.part_owner."""
    job: Job | None = None


class _Pool:
    """So many worker processes, each with one job at a time."""

    def __init__(self, tasks: Sequence[Job], work: Work, count: int, follow: Follow) -> None:
        # Fresh processes: a fork of one that has threads may hang, and other systems have no fork.
        self._context = multiprocessing.get_context("spawn")
        self._waiting = deque(tasks)
        self._known = {id(job) for job in tasks}
        self._work, self._count, self._follow = work, count, follow
        self._workers: list[_Worker] = []
        self._results: dict[int, Result] = {}

    def has(self, job: Job) -> bool:
        return id(job) in self._known

    def start(self) -> None:
        for _ in range(self._count):
            self._workers.append(self._new_worker())
        for worker in self._workers:
            self._give_job(worker)

    def result(self, job: Job) -> Result:
        """Waits for the result of a job; all workers are served meanwhile."""
        while id(job) not in self._results:
            if not self._workers:
                # Those that died could not be replaced.
                self._waiting.remove(job)
                return _result_here(job, self._work, self._follow)
            self._serve()
        return self._results.pop(id(job))

    def end(self) -> None:
        """Ends all processes, those with a job in work by a signal, and waits for them."""
        for worker in self._workers:
            # The closed pipe ends one that waits for a job.
            worker.connection.close()
            if worker.job is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()

    def _new_worker(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        owner = os.urandom(8).hex()
        process = self._context.Process(
            target=_serve_parent, args=(theirs, self._work, self._count, owner), daemon=True
        )
        try:
            process.start()
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Worker(process, ours, owner)

    def _give_job(self, worker: _Worker) -> None:
        worker.job = self._waiting.popleft() if self._waiting else None
        if worker.job is None:
            return
        try:
            worker.connection.send(worker.job)
        except OSError:
            self._replace(worker)

    def _serve(self) -> None:
        """Waits until some worker says something, and acts on it."""
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        for connection in wait(list(busy)):
            worker = busy[connection]
            try:
                message = connection.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if isinstance(message, float):
                self._follow(worker.job, message)
                continue
            if isinstance(message, _Bug):
                raise message.error from _WorkerTrace(message.trace)
            self._results[id(worker.job)] = message
            self._give_job(worker)

    def _replace(self, worker: _Worker) -> None:
        """A worker is gone: its job has failed, and another takes the next."""
        worker.connection.close()
        worker.process.join()
        self._workers.remove(worker)
        job = worker.job
        files.remove_parts(os.path.dirname(job.output), worker.owner)
        job.refusal = WorkerError(
            "a worker process died, perhaps of lack of memory; run the command again for this file, with fewer --jobs"
        )
        self._results[id(job)] = work_on(self._work, job)
        if not self._waiting:
            return
        try:
            self._workers.append(self._new_worker())
        except OSError as error:
            note(
                f"looc: no further process can be started ({error.strerror or error}); going on with"
                f" {len(self._workers) or 'this one'}"
            )
            return
        self._give_job(self._workers[-1])


class _WorkerTrace(Exception):
    """Where a worker met a bug, for the parent's own trace."""

    def __str__(self) -> str:
        return "\n\n" + self.args[0]


@dataclass
class _Bug:
    """An exception that is no failure of a file, and its trace, which does not travel with it."""

    error: BaseException
    trace: str


def _serve_parent(connection: Connection, work: Work, workers: int, owner: str) -> None:
    """What a worker process does: jobs one after the other, until the parent closes the pipe or is gone."""
    _start_worker(workers)
    files.part_owner = owner
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        try:
            with progress.listening(_reporter(connection)):
                message: Result | _Bug = work_on(work, job)
        except SystemExit:
            # Told to end; the unfinished output is gone by now.
            os._exit(1)
        except Exception as error:
            message = _Bug(error, traceback.format_exc())
        try:
            connection.send(message)
        except OSError:
            # The parent is gone.
            return


def _reporter(connection: Connection) -> progress.Listener:
    last = 0.0

    def report(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > _REPORT_SECONDS:
            last = time.monotonic()
            # A parent that is gone shows where the result is sent.
            with contextlib.suppress(OSError):
                connection.send(float(share))

    return report


def _start_worker(workers: int) -> None:
    """Prepares a worker process: a fair share of the cores, and an end with its parent's, leaving nothing
    half-written."""
    os.environ.setdefault("LOOC_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    # Ctrl-C and the end of a terminal reach all of its processes; the parent alone decides and ends its workers by
    # SIGTERM.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow_parent, daemon=True).start()


def _leave(number: int, frame: object) -> None:
    """Ends a worker by an exception, which removes its unfinished output, or after some seconds by force: an exception
    is lost where it is raised inside a finaliser, and a lock that a killed worker held is never released. The parent
    waits for all of its workers."""
    timer = threading.Timer(LEAVE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    sys.exit(128 + number)
