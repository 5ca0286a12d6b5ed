"""Measures what is missing: every picture with every codec at every quality, in several processes, kept as it comes.

A point is measured once. It is measured again when its codec's identity, a metric's library or the picture's pixels
have changed, or when it lacks a metric that is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from looc_codec import api, images, metrics
from looc_codec.errors import ImageError, LoocError
from looc_codec.report.codecs import (
    identity_of,
    info_of,
    is_looc,
    missing_reason,
    open_codec,
)
from looc_codec.report.distortion import METRICS
from looc_codec.report.results import Results, write_json

SAVE_EVERY_SECONDS = 5.0

Progress = Callable[[int, int, str], None]
"""Told after every point: how many are done, of how many, and which was the last."""


_Work = TypeVar("_Work")
_Done = TypeVar("_Done")


class MeasurementError(LoocError):
    """A measurement that cannot go on."""


@dataclass(frozen=True)
class Task:
    """One point to be measured, as a process of the pool gets it."""

    codec: str
    quality: int
    picture: str
    path: str
    metrics: tuple[str, ...]
    model: str


def read_rgb(path: str) -> np.ndarray:
    """Pixels `(H, W, 3)` uint8 of a picture file, upright, without transparency; ImageError when it cannot be read.

    The last pictures are kept in memory, since one picture is measured at many qualities in a row.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise ImageError(f"{os.path.basename(path)} cannot be read ({error.strerror}); check its name") from None
    return _read_rgb(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=2)
def _read_rgb(path: str, modified_ns: int, size_bytes: int) -> np.ndarray:
    # By its own name: errors are stored in results that other people read.
    return images.read_picture(path, name=os.path.basename(path)).rgb


def describe_picture(path: str, name: str) -> dict[str, Any]:
    """Name, size and digest of the pixels: the same pixels in another file format are the same picture."""
    rgb = read_rgb(path)
    return {"name": name, "width": rgb.shape[1], "height": rgb.shape[0], "sha256": hashlib.sha256(rgb.tobytes()).hexdigest()}


def measure_point(task: Task) -> dict[str, Any]:
    """The point of one task; with `error` instead of figures when its codec or picture failed."""
    point: dict[str, Any] = {"codec": task.codec, "quality": task.quality, "picture": task.picture}
    try:
        rgb = read_rgb(task.path)
        codec = open_codec(task.codec, task.model)
        started = time.perf_counter()
        data = codec.encode(rgb, task.quality)
        encoded = time.perf_counter()
        restored = codec.decode(data)
        decoded = time.perf_counter()
        if restored.shape != rgb.shape:
            raise MeasurementError(f"decoded to {restored.shape[1]}x{restored.shape[0]} pixels instead of {rgb.shape[1]}x{rgb.shape[0]}")
    except (KeyboardInterrupt, MemoryError):
        raise
    # A codec raises anything on a picture that it cannot take; the others shall still be measured.
    except Exception as error:
        return point | {"error": str(error) or type(error).__name__}
    point |= {"bytes": len(data), "bpp": round(metrics.bits_per_pixel(len(data), rgb.shape[1], rgb.shape[0]), 6)}
    for name in task.metrics:
        metric = METRICS[name]
        try:
            point[metric.key] = round(metric.compute(rgb, restored), 5)
        except ValueError as reason:
            point[metric.key] = None
            point.setdefault("empty", {})[metric.key] = str(reason)
    point["encode_seconds"] = round(encoded - started, 5)
    point["decode_seconds"] = round(decoded - encoded, 5)
    return point


def prepare(
    results: Results, pictures: Sequence[tuple[str, str]], codecs: Sequence[str], metric_names: Sequence[str],
    models: Mapping[str, str], *, keep: Collection[str] = (),
) -> list[str]:
    """Fills in pictures, codecs and metrics, drops every stored point that no longer holds, and names the usable pictures.

    `pictures` are (path, name). Pictures that cannot be read become failures. Points of codecs and qualities that are
    not asked for this time stay stored, and so do those of pictures named in `keep`. `models` by codec.
    """
    known = {picture["name"]: picture["sha256"] for picture in results.pictures}
    others = [picture for picture in results.pictures if picture["name"] in keep]
    results.failures = []
    results.pictures = []
    for path, name in pictures:
        try:
            results.pictures.append(describe_picture(path, name))
        except (ImageError, OSError) as error:
            results.failures.append({"picture": name, "codec": None, "quality": None, "error": str(error)})
    usable = [picture["name"] for picture in results.pictures]
    results.pictures = sorted(results.pictures + others, key=lambda picture: picture["name"])
    unchanged = {picture["name"] for picture in results.pictures if known.get(picture["name"]) == picture["sha256"]}
    kept = []
    for name in codecs:
        info, reason = info_of(name), missing_reason(name)
        record: dict[str, Any] = {"label": info.label, "settings": info.settings}
        record |= {"missing": reason} if reason else {"identity": identity_of(name, models[name])}
        if results.codecs.get(name, {}).get("identity") == record.get("identity"):
            kept.append(name)
        results.codecs[name] = record
    kept += [name for name in results.codecs if name not in codecs]
    outdated = set()
    for name in metric_names:
        metric = METRICS[name]
        reason = metric.missing()
        record = {"label": metric.label, "unit": metric.unit, "higher_is_better": metric.higher_is_better}
        record |= {"missing": reason} if reason else {"source": metric.source()}
        before = results.metrics.get(metric.key, {})
        if "source" in before and "source" in record and before["source"] != record["source"]:
            outdated.add(metric.key)
        results.metrics[metric.key] = record
    results.points = [point for point in results.points if point["picture"] in unchanged and point["codec"] in kept]
    for point in results.points:
        for key in outdated:
            point.pop(key, None)
    return usable


def missing_tasks(
    results: Results, paths: dict[str, str], qualities: Mapping[str, Sequence[int]], metric_names: Sequence[str], models: Mapping[str, str]
) -> list[Task]:
    """The tasks of all points that are not stored with every metric asked for; `paths` by the names of usable pictures."""
    usable = tuple(name for name in metric_names if "missing" not in results.metrics[METRICS[name].key])
    keys = {METRICS[name].key for name in usable}
    stored = {(point["codec"], point["quality"], point["picture"]) for point in results.points if keys <= point.keys()}
    return [
        Task(codec, quality, picture, path, usable, models[codec])
        for codec, chosen in qualities.items()
        if "missing" not in results.codecs[codec]
        for picture, path in paths.items()
        for quality in chosen
        if (codec, quality, picture) not in stored
    ]


def measure(results: Results, tasks: Sequence[Task], path: Path, *, workers: Workers, progress: Progress) -> None:
    """Measures the tasks and stores their points in `results` and in the file `path` as they come.

    However it ends, what was measured is kept.

    Raises:
        MeasurementError: a process was killed, most often for want of memory.
        LoocError: looc's model cannot be loaded.
    """
    for model in {task.model: task for task in tasks if is_looc(task.codec)}:
        # A broken model is one error, not one for each point.
        api.load_model(model)
    by_key = {(point["codec"], point["quality"], point["picture"]): point for point in results.points}
    saved = time.perf_counter()
    try:
        for done, point in enumerate(workers.map(measure_point, tasks), 1):
            key = (point["codec"], point["quality"], point["picture"])
            if "error" in point:
                results.failures.append(point)
                by_key.pop(key, None)
            else:
                by_key[key] = point
            results.points = list(by_key.values())
            progress(done, len(tasks), f"{info_of(point['codec']).label} {point['quality']} {point['picture']}")
            if time.perf_counter() - saved > SAVE_EVERY_SECONDS:
                write_json(results, path)
                saved = time.perf_counter()
    finally:
        order = list(results.codecs)
        results.points.sort(key=lambda point: (order.index(point["codec"]), point["quality"], point["picture"]))
        write_json(results, path)


_THREAD_VARIABLES = ("LOOC_THREADS", "OMP_NUM_THREADS")
"""What sets the threads of looc, and of the packages that measure."""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of the terminal; only the one that keeps the points shall answer it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Workers:
    """The processes of one report, started when the first work comes: each loads codecs and models once.

    Args:
        jobs: how many; with 1 the work is done in this process.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:  # noqa: PYI034 - typing.Self is not in Python 3.10
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[_Work], _Done], tasks: Sequence[_Work]) -> Iterator[_Done]:
        """What `function` makes of every task, in the order in which they are done.

        Raises:
            MeasurementError: a process was killed, most often for want of memory.
        """
        with _one_thread():
            if self._pool is None and (self.jobs == 1 or len(tasks) < 2):
                yield from map(function, tasks)
                return
            if self._pool is None:
                # Spawned, not forked: threads of other libraries do not survive a fork. The variables must be set before
                # those are imported.
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_leave_interrupts_to_the_parent)
            try:
                waiting = iter(tasks)
                running = {self._pool.submit(function, task) for _, task in zip(range(2 * self.jobs), waiting, strict=False)}
                while running:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        following = next(waiting, None)
                        if following is not None:
                            running.add(self._pool.submit(function, following))
                        yield future.result()
            except BrokenProcessPool:
                raise MeasurementError(
                    "a measuring process was killed, most often for want of memory; run the same command again with fewer"
                    " --jobs, it goes on from here"
                ) from None
