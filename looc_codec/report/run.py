"""`looc report` as a function: measures what is missing, then writes JSON, CSV, Markdown, plots, page and front picture."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from typing import Protocol

import looc_codec
from looc_codec import files
from looc_codec.errors import ImageError, LoocError
from looc_codec.report import (
    codecs,
    equal_bytes,
    front,
    measure,
    page,
    plots,
    published,
    summary,
)
from looc_codec.report.distortion import METRICS
from looc_codec.report.results import Results, read_results, write_csv, write_json


class ReportError(LoocError):
    """A report that cannot be written here."""


class Stage(Protocol):
    """Told what is being done beside measuring, and how much of it is done."""

    def __call__(self, words: str, done: int = 0, total: int | None = None) -> None: ...


@dataclass(frozen=True)
class ReportRequest:
    """What to report. `qualities` and `models` by codec; `pictures` and `front` are picture names of the folder."""

    folder: Path
    out: Path
    qualities: Mapping[str, Sequence[int]]
    metrics: tuple[str, ...]
    models: Mapping[str, str]
    against: str | None = None
    jobs: int = 1
    limit: int | None = None
    refresh: tuple[str, ...] = ()
    compare_bpp: tuple[float, ...] = equal_bytes.DEFAULT_RATES_BPP
    pictures: tuple[str, ...] = ()
    front: str | None = None
    front_at: tuple[int, int] | None = None
    single_file: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportOutcome:
    """The stored results, their summary, the written files, and a sentence for everything that failed."""

    results: Results
    summary: summary.Summary
    written: list[Path]
    failures: list[str]


def picture_files(folder: Path, leave_out: Path) -> list[tuple[str, str]]:
    """(path, name) of every picture below a folder, by name; a name is the path below the folder.

    `leave_out` is a folder that does not count: the report's own pictures, when it is written inside.

    Raises:
        ImageError: it is no folder, or holds no pictures.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder; give a folder of pictures")
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(parent, name).resolve() != leave_out.resolve()]
        found += [Path(parent, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in files.PICTURE_SUFFIXES]
    if not found:
        raise ImageError(f"the folder {folder} holds no pictures of a known kind ({' '.join(sorted(files.PICTURE_SUFFIXES))})")
    return [(str(path), path.relative_to(folder).as_posix()) for path in sorted(found)]


def run_report(request: ReportRequest, progress: measure.Progress, stage: Stage = lambda words, done=0, total=None: None) -> ReportOutcome:
    """Measures and writes everything; a picture or codec that fails is named in the outcome and does not stop the rest.

    Raises:
        LoocError: nothing can be measured at all: no pictures, no model, unknown names, or unreadable stored results.
    """
    for needed in ("matplotlib", "jinja2"):
        if util.find_spec(needed) is None:
            raise ReportError(f"a report needs the package {needed}, which is not installed; run: pip install 'looc[report]'")
    everything = picture_files(request.folder, request.out)
    pictures = everything[: request.limit]
    paths = {name: path for path, name in pictures}
    for name in (*request.pictures, *([request.front] if request.front else [])):
        if name not in paths:
            raise ImageError(f"{name} is not among the pictures of {request.folder}; name it by its path below the folder")
    request = replace(request, qualities=codecs.qualities_with(request.models, request.qualities))
    request.out.mkdir(parents=True, exist_ok=True)
    stored = request.out / "results.json"
    results = read_results(stored)
    results.points = [point for point in results.points if point["codec"] not in request.refresh]
    results.about = about(request)
    stage("reading pictures")
    # What lies beyond --limit keeps its points; pictures that have left the folder lose theirs.
    beyond = {name for _, name in everything[len(pictures) :]}
    usable = measure.prepare(results, pictures, list(request.qualities), request.metrics, request.models, keep=beyond)
    if request.against is not None:
        published.require_kodak([picture for picture in results.pictures if picture["name"] in usable])
    tasks = measure.missing_tasks(results, {name: paths[name] for name in usable}, request.qualities, request.metrics, request.models)
    with measure.Workers(request.jobs) as workers:
        measure.measure(results, tasks, stored, workers=workers, progress=progress)

        stage("writing the report")
        shown = summary.summarise(results, usable, request.qualities, request.metrics)
        if request.against is not None:
            shown.published = published.published_curves()
        heading = title(shown, request.folder)
        written = [stored]
        table = request.out / "results.csv"
        write_csv(shown.points, [METRICS[name].key for name in request.metrics], table)
        text = request.out / "summary.md"
        with files.write_atomically(text, force=True) as file:
            file.write(summary.markdown(shown, results).encode())
        written += [table, text, *plots.write_plots(shown, heading, request.out)]

        def compare(wanted: Sequence[str], rates_bpp: Sequence[float]) -> list[equal_bytes.Contest]:
            words = "comparing pictures at equal bytes"
            stage(words)
            return equal_bytes.contests(
                shown, paths, request.models, rates_bpp, workers=workers, wanted=wanted,
                progress=lambda done, total: stage(words, done, total),
            )  # fmt: skip

        contests = compare(request.pictures, request.compare_bpp)
        stage("writing the page")
        document = page.render_page(shown, results, contests, heading, single_file=request.single_file, jobs=request.jobs)
        written += write_page(document, request.out)
        if request.front and shown.names:
            rate = min(request.compare_bpp, key=lambda bpp: abs(math.log(bpp / equal_bytes.FIRST_BPP)))
            versions = compare([request.front], [rate])[0].rounds[0].versions
            left, top = request.front_at or (None, None)
            picture = request.out / "front.png"
            original = measure.read_rgb(paths[request.front])
            front.write_front(front.front_picture(original, versions, left=left, top=top), picture)
            written.append(picture)
    # The results were written while measuring; failures and the record of this run belong in them too.
    write_json(results, stored)
    return ReportOutcome(results, shown, written, [summary.failure_sentence(failure) for failure in results.failures])


def write_page(document: page.Page, folder: Path) -> list[Path]:
    """Writes the page and its pictures, and takes away pictures of a page that was there before."""
    pictures = folder / page.PICTURE_FOLDER
    if document.pictures:
        pictures.mkdir(exist_ok=True)
    for name, data in document.pictures.items():
        with files.write_atomically(pictures / name, force=True) as file:
            file.write(data)
    path = folder / "report.html"
    with files.write_atomically(path, force=True) as file:
        file.write(document.html.encode())
    for old in pictures.glob("*.webp"):
        if old.name not in document.pictures:
            old.unlink()
    if pictures.is_dir() and not any(pictures.iterdir()):
        pictures.rmdir()
    return [path]


def title(shown: summary.Summary, folder: Path) -> str:
    """A heading for plots and page: the folder's name and the number of pictures."""
    count = len(shown.picture_names)
    return f"{folder.resolve().name}: {'one picture' if count == 1 else f'mean of {count} pictures'}"


def about(request: ReportRequest) -> dict[str, object]:
    """Version, command and machine of this run, without names of the machine or its user."""
    return {
        "looc": looc_codec.__version__,
        # Folders outside the current one are nobody else's business.
        "command": [Path(part).name if Path(part).is_absolute() or part.startswith("..") else part for part in request.command],
        "jobs": request.jobs,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines: Sequence[str] = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = ()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")
