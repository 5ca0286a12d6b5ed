"""`looc reproduce`: trains and measures the rows of the papers' tables, and plots what they show."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from looc_codec.cli.help import Example
from looc_codec.cli.options import Device, DeviceOption, JsonOption, QuietOption, one_of, real, whole
from looc_codec.cli.printing import note, print_json, say

ANALYSES = "analyses"

EXAMPLES = (
    Example("looc reproduce 1 --data data/ --out runs/papers", "trains and measures the rows of table 1."),
    Example("looc reproduce 2 --dataset cifar10 --time-budget 5", "one data set, five minutes for each row."),
    Example("looc reproduce analyses --out runs/papers", "draws the plots of what is trained."),
)


class Start(str, Enum):
    """Equal to reproduction.trainer.STARTS, which torch would be loaded for."""

    kmeans = "kmeans"
    released = "released"


def reproduce(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="1 to 10 or 12 of the LooC paper, or analyses for the plots. (11 is about generation.)"
        ),
    ],
    data: Annotated[
        Path,
        typer.Option("--data", metavar="DIR", help="Folder that holds the data sets, laid out as for torchvision."),
    ] = Path("data"),
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Tables, plots and trained rows; rows found there are not trained again."
        ),
    ] = Path("runs/papers"),
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="mnist, fashion-mnist, cifar10, ffhq, imagenet or celeba, again for more. Default: those of the"
            " table.",
        ),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            "--rows",
            metavar="LIST",
            help="Rows, with commas between them: such as cvq-1024x128, looc-256x4, rq-1024x128x4, pq-256x4, looc-256x4b2"
            " or cvq-1024x128-unique-offline. Default: those of the table.",
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            "--epochs",
            metavar="X",
            parser=real(0.0001),
            help="Epochs for each row, fractions allowed. [default: 500, photographs 100]",
        ),
    ] = None,
    time_budget: Annotated[
        float | None,
        typer.Option(
            "--time-budget", parser=real(0.001), metavar="MINUTES", help="Minutes of training for each row instead."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", parser=whole(1), help="Steps of training for each row instead."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="X",
            parser=real(0.0),
            help="Learning rate. [default: 0.001, photographs 4.5e-6 for each picture of a batch; the papers' code has"
            " 0.0003]",
        ),
    ] = None,
    decay: Annotated[
        float | None,
        typer.Option(
            "--decay",
            metavar="X",
            parser=real(0.0, 1.0),
            help="Share of the run, at its end, over which the rate falls to nothing. [default: 0.4, photographs 0, as"
            " the papers' code]",
        ),
    ] = None,
    start: Annotated[
        Start | None,
        typer.Option(
            "--start",
            metavar="NAME",
            parser=one_of(Start),
            help="Codebook at the start: kmeans, clusters of the first latents, or released, as the papers' code has"
            " it. [default: kmeans, photographs released]",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            metavar="N",
            parser=whole(1),
            help="Pictures in a batch. [default: as in the papers, 1024 for small pictures]",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", parser=whole(1), help="Train on the first so many pictures only."),
    ] = None,
    test_limit: Annotated[
        int | None,
        typer.Option("--test-limit", metavar="N", parser=whole(1), help="Test on the first so many pictures only."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", parser=whole(0), help="Start of all random numbers.")
    ] = 42,
    bf16: Annotated[bool, typer.Option("--bf16/--no-bf16", help="Convolutions in bfloat16 while training.")] = False,
    perceptual: Annotated[
        bool, typer.Option("--perceptual/--no-perceptual", help="LPIPS in the loss, for photographs.")
    ] = True,
    gan: Annotated[bool, typer.Option("--gan/--no-gan", help="Adversarial loss, for photographs.")] = True,
    plots: Annotated[bool, typer.Option("--plots", help="Draw the plots of the analyses after the table.")] = False,
    device: DeviceOption = Device.cpu,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train and measure the rows of a table of the LooC paper; Ctrl-C keeps what is done, the same command goes on."""
    if [epochs, time_budget, steps].count(None) < 2:
        raise typer.BadParameter("give one of --epochs, --time-budget and --steps")
    from looc_codec.reproduction import rows as known

    if table in known.GENERATION_TABLES:
        # It is a table of the paper, so the answer is what stands in its way, not that there is none.
        known.paper_rows(table)
    if table != ANALYSES and table not in known.TABLES:
        raise typer.BadParameter(f"unknown table {table!r}; known are {', '.join(known.TABLES)} and {ANALYSES}")
    for name in dataset or ():
        if name not in known.PAPER_NAMES:
            raise typer.BadParameter(f"unknown data set {name!r}; known are {', '.join(known.PAPER_NAMES)}")
    from looc_codec.reproduction.plots import draw_analyses
    from looc_codec.reproduction.run import RowRequest, run_rows, settings_for
    from looc_codec.reproduction.tables import markdown, write_table

    if table == ANALYSES:
        written = draw_analyses(out, data, dataset)
        _tell(written, quiet=quiet, as_json=as_json)
        return
    wanted = None if rows is None else [name.strip() for name in rows.split(",") if name.strip()]
    requests = []
    for name in dataset or known.datasets_of(table):
        chosen = known.rows_of(table, name)
        if wanted is not None:
            chosen = [known.parse_row(row, known.latent_channels(name)) for row in wanted]
        settings = settings_for(
            name, epochs=epochs, minutes=time_budget, steps=steps, rate=rate, decay=decay,
            start=None if start is None else start.value, batch=batch, seed=seed, bf16=bf16, limit=limit,
            test_limit=test_limit,
            perceptual=perceptual, adversarial=gan,
        )  # fmt: skip
        requests += [RowRequest(row, name, data, out, settings, device.value) for row in chosen]
    if not requests:
        raise typer.BadParameter(
            f"table {table} has no row for {', '.join(dataset or ['any data set'])}; name rows with --rows"
        )
    results: list[dict[str, Any]] = []
    with _progress(quiet) as stage:
        for result in run_rows(requests, stage):
            results.append(result)
            # After every row, so that an interrupted run leaves the table of what is done.
            written = write_table(table, results, out)
    if plots:
        written += draw_analyses(out, data, dataset)
    if not quiet and not as_json:
        say(markdown(table, results))
    _tell(written, quiet=quiet, as_json=as_json)


def _tell(written: list[Path], *, quiet: bool, as_json: bool) -> None:
    if as_json:
        print_json({"written": [str(path) for path in written]})
    elif not quiet:
        for path in written:
            note(f"looc: {path}")


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """Told of the part done and of what is happening: a bar on a terminal, a line a minute elsewhere."""
    if quiet:
        yield lambda part, words: None
        return
    if not sys.stderr.isatty():
        import time

        last = time.monotonic()

        def line(part: float, words: str) -> None:
            nonlocal last
            if part >= 1 or time.monotonic() - last > 60:
                note(f"looc: {100 * part:.1f}%, {words}")
                last = time.monotonic()

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns: list[Any] = [
        BarColumn(),
        TextColumn("{task.percentage:>5.1f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("opening the data", total=1.0)
        yield lambda part, words: bar.update(task, completed=part, description=words)
