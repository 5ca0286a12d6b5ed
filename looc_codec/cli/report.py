"""`looc report`: an honest comparison of codecs on a folder of pictures."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from looc_codec.cli.help import Example
from looc_codec.cli.options import JsonOption, ModelOption, QuietOption, whole
from looc_codec.cli.printing import fail, note, print_json, say
from looc_codec.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from looc_codec.report.run import Stage

EXAMPLES = (
    Example("looc report photos/ --out report/", "looc against JPEG, WebP and AVIF; look at report/report.html."),
    Example(
        "looc report photos/ --out report/ --codecs looc:photo,looc:photo-psnr,avif",
        "several models; points measured before are kept.",
    ),
    Example("looc report photos/ --out quick/ --limit 3 --qualities 20,50,80", "a first look at three pictures."),
)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of pictures.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="OUT", help="Folder for results and report; points found there are not measured again."
        ),
    ],
    codecs: Annotated[
        str | None,
        typer.Option(
            "--codecs",
            metavar="LIST",
            help="Of looc, looc-effort1 to looc-effort3, jpeg, webp, avif, jxl; looc:MODEL takes another model."
            " [default: looc,jpeg,webp,avif, and jxl where it is installed]",
        ),
    ] = None,
    qualities: Annotated[
        list[str] | None,
        typer.Option(
            "--qualities",
            metavar="LIST",
            help="10,50 for all codecs, jpeg:20,80 for one (again for more). Default: 8 or 9 for each codec, from"
            " 0.1 to 1.6 bpp.",
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics", metavar="LIST", help="Of psnr, ms-ssim, ssimulacra2, butteraugli, lpips, dists, fid."
        ),
    ] = "psnr,ms-ssim,ssimulacra2",
    model: ModelOption = DEFAULT_MODEL,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="NAME", help="kodak-published: published curves beside ours, on Kodak only."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="N", parser=whole(1), help="Processes. [default: one for each core]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", parser=whole(1), help="Use only the first so many pictures.")
    ] = None,
    refresh: Annotated[str, typer.Option("--refresh", metavar="LIST", help="Measure these codecs again.")] = "",
    compare_bpp: Annotated[
        str,
        typer.Option("--compare-bpp", metavar="LIST", help="Bits per pixel of the side-by-side pictures, each up to 24."),
    ] = "0.15,0.3,0.6,1",
    picture: Annotated[
        list[str] | None,
        typer.Option(
            "--picture",
            metavar="NAME",
            help="Picture for the side-by-side, again for more. Default: looc's best, middle and worst.",
        ),
    ] = None,
    front: Annotated[
        str | None,
        typer.Option(
            "--front",
            metavar="NAME",
            help="Write front.png too: a detail of this picture from every codec at equal bytes.",
        ),
    ] = None,
    front_at: Annotated[
        str | None,
        typer.Option("--front-at", metavar="X,Y", help="Left upper corner of that detail. Default: the liveliest."),
    ] = None,
    single_file: Annotated[
        bool,
        typer.Option(
            "--single-file", help="Put the pictures into report.html, instead of the folder report-files beside it."
        ),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare codecs on your pictures: real bytes, several metrics, plots, tables and one page to look at."""
    import os

    if against not in (None, "kodak-published"):
        raise typer.BadParameter(f"--against knows kodak-published, not {against!r}")
    corner = _corner(front_at)
    rates = _rates(compare_bpp)
    from looc_codec.report import codecs as known
    from looc_codec.report import distortion

    try:
        models = known.parse_models(codecs or ",".join(known.default_codecs()), model)
        chosen = known.parse_qualities(qualities or [], list(models))
        refreshed = known.parse_codecs(refresh) if refresh else []
        wanted = distortion.parse_metrics(metrics)
    except (known.CodecError, distortion.MetricError) as error:
        raise typer.BadParameter(str(error)) from None
    from looc_codec.report.run import ReportRequest, run_report
    from looc_codec.report.summary import markdown

    request = ReportRequest(
        folder=folder, out=out, qualities=chosen, metrics=tuple(wanted), models=models, against=against,
        jobs=jobs or os.cpu_count() or 1, limit=limit, refresh=tuple(refreshed), compare_bpp=rates,
        pictures=tuple(picture or ()), front=front, front_at=corner, single_file=single_file,
        command=("looc", *sys.argv[1:]),
    )  # fmt: skip
    with _progress(quiet) as (progress, stage):
        outcome = run_report(request, progress, stage)
    if as_json:
        print_json(
            {
                "written": [str(path) for path in outcome.written],
                "failures": outcome.failures,
                "pictures": len(outcome.summary.picture_names),
            }
        )
    elif not quiet:
        say(markdown(outcome.summary, outcome.results))
        note(f"looc: the report is {out / 'report.html'}")
    for sentence in outcome.failures:
        fail(sentence)
    if outcome.failures:
        raise typer.Exit(1)


def _corner(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        left, top = map(int, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--front-at {text!r} is not two whole numbers such as 120,80") from None
    return left, top


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        rates = []
    if not rates or not all(0.01 <= rate <= 24 for rate in rates):
        raise typer.BadParameter(f"--compare-bpp {text!r} is not numbers of 0.01 to 24 between commas, such as 0.15,0.3,0.6")
    return tuple(rates)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[tuple[Callable[[int, int, str], None], Stage]]:
    """(told of every point, told of every stage): a bar on a terminal, a line now and then elsewhere."""
    if quiet:
        yield lambda done, total, words: None, lambda words, done=0, total=None: None
        return
    if not sys.stderr.isatty():

        def line(done: int, total: int, words: str) -> None:
            if done == total or done % max(1, total // 20) == 0:
                note(f"looc: {done} of {total} points, {words}")

        yield line, lambda words, done=0, total=None: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns: list[Any] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("measuring", total=None)
        yield (
            lambda done, total, words: bar.update(task, completed=done, total=total, description=words),
            lambda words, done=0, total=None: bar.update(task, description=words, completed=done, total=total),
        )
