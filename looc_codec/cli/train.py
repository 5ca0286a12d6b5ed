"""`looc train`: trains a codec on a folder of pictures."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from looc_codec.cli.help import Example
from looc_codec.cli.options import Device, DeviceOption, JsonOption, QuietOption, one_of, real, whole
from looc_codec.cli.printing import note, print_json
from looc_codec.errors import ModelError

EXAMPLES = (
    Example(
        "looc train --data photos/ --out a --time-budget 60", "an hour, from nothing; Ctrl-C keeps what is learnt."
    ),
    Example("looc train --data photos/ --out a --resume", "goes on with it."),
    Example(
        "looc train --data photos --out b --stage codes --init a/checkpoint.safetensors",
        "fits the codebook.",
    ),
)


class Stage(str, Enum):
    """continuous: noise for the rate, rounding for the picture; codes: the shared codebook's own codes; synthesis: the
    decoder's transform alone, on the codes of a weights file that stay as they are; details: what such weights code of
    the synthesis's errors at high quality."""

    continuous = "continuous"
    codes = "codes"
    synthesis = "synthesis"
    details = "details"


class Optimizer(str, Enum):
    """soap: Adam in the eigenbasis of the gradients' covariances, better per minute; adamw: the usual one."""

    soap = "soap"
    adamw = "adamw"


class Metric(str, Enum):
    """mse: squared error, what PSNR measures; ms-ssim: structural similarity with a tenth of squared error."""

    mse = "mse"
    ms_ssim = "ms-ssim"


class Dataset(str, Enum):
    """Data sets that `looc train` reads; the names are those of `datasets.DATASETS`."""

    folder = "folder"
    ffhq = "ffhq"
    imagenet = "imagenet"
    celeba = "celeba"
    lsun_church = "lsun-church"
    lsun_bedroom = "lsun-bedroom"
    cifar10 = "cifar10"
    mnist = "mnist"
    fashion_mnist = "fashion-mnist"


def train(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Folder of pictures or of .tar shards of pictures, or the folder that holds the data set.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where checkpoint, log and weights go.")] = Path(
        "runs/photo"
    ),
    dataset: Annotated[
        Dataset,
        typer.Option(
            "--dataset",
            metavar="NAME",
            parser=one_of(Dataset),
            help="What lies in --data: folder, ffhq, imagenet, celeba, lsun-church, lsun-bedroom, cifar10, mnist or"
            " fashion-mnist.",
        ),
    ] = Dataset.folder,
    stage: Annotated[
        Stage,
        typer.Option(
            "--stage",
            metavar="STAGE",
            parser=one_of(Stage),
            help="First continuous, then codes with --init; synthesis with --init WEIGHTS improves the decoder"
            " alone, or makes it smaller as --config says, details fits their details alone.",
        ),
    ] = Stage.continuous,
    time_budget: Annotated[
        float | None,
        typer.Option(
            "--time-budget",
            parser=real(0.01),
            metavar="MINUTES",
            help="Train for so many minutes; the schedule follows the clock. [default: 30]",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", parser=whole(1), help="Train for so many steps instead.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init", metavar="FILE", help="Go on from these weights (weights file or checkpoint) with a new schedule."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly with the run in --out.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="JSON file with fields of the model configuration.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the model in its weights file.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="N", parser=whole(1), help="Crops in a batch.")] = 8,
    crop: Annotated[
        int,
        typer.Option(
            "--crop",
            metavar="N",
            parser=whole(32),
            help="Side of the training crops in pixels, a multiple of 16 from 32 up.",
        ),
    ] = 192,
    seed: Annotated[int, typer.Option("--seed", metavar="N", parser=whole(0), help="Start of all random numbers.")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", parser=whole(1), help="Use only so many pictures.")
    ] = None,
    coded_crops: Annotated[
        int,
        typer.Option(
            "--coded-crops",
            metavar="N",
            parser=whole(1),
            help="Crops that stage synthesis codes and trains on; 0.8 MB of disk each with --crop 256.",
        ),
    ] = 4096,
    rate: Annotated[
        float, typer.Option("--rate", metavar="X", parser=real(0.0), help="Factor on all learning rates.")
    ] = 1.0,
    prior_only: Annotated[
        float | None,
        typer.Option(
            "--prior-only",
            metavar="X",
            parser=real(0.0, 1.0),
            help="Share of the run that trains only the prior, 0 to 1. [default: 0.16, with --init 0]",
        ),
    ] = None,
    optimizer: Annotated[
        Optimizer,
        typer.Option(
            "--optimizer",
            metavar="NAME",
            parser=one_of(Optimizer),
            help="soap learns more per minute, adamw needs less memory.",
        ),
    ] = Optimizer.soap,
    metric: Annotated[
        Metric,
        typer.Option(
            "--metric",
            metavar="NAME",
            parser=one_of(Metric),
            help="What distortion is: mse, squared error, or ms-ssim, structure.",
        ),
    ] = Metric.mse,
    bf16: Annotated[
        bool | None,
        typer.Option(
            "--bf16/--no-bf16",
            help="Networks in bfloat16, linear path in float32. [default: where the device is fast in it]",
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            "--validation", metavar="DIR", help="Pictures to watch the loss and draw samples on; never trained on."
        ),
    ] = None,
    description: Annotated[
        str, typer.Option("--description", metavar="WORDS", help="One line for the weights file.")
    ] = "",
    device: DeviceOption = Device.cpu,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a codec; Ctrl-C keeps a valid checkpoint, --resume goes on from it."""
    if crop % 16:
        raise typer.BadParameter(f"--crop {crop} is not a multiple of 16")
    if steps is not None and time_budget is not None:
        raise typer.BadParameter("give --steps or --time-budget, not both")
    from looc_codec.training.loop import TrainOptions, has_fast_bf16
    from looc_codec.training.parallel import end_process
    from looc_codec.training.run import RunRequest
    from looc_codec.training.run import train as run_training

    fresh = TrainOptions()
    share = (0.0 if init else 0.16) if prior_only is None else prior_only
    options = TrainOptions(
        stage=stage.value,
        minutes=None if steps else (time_budget or 30.0),
        steps=steps,
        batch=batch,
        crop=crop,
        seed=seed,
        coded_crops=coded_crops,
        bf16=has_fast_bf16(device.value) if bf16 is None else bf16,
        optimizer=optimizer.value,
        metric=metric.value,
        prior_only_share=share,
        transform_rate=fresh.transform_rate * rate,
        branch_rate=fresh.branch_rate * rate,
        prior_rate=fresh.prior_rate * rate,
    )
    values = {} if config is None else _read_config(config)
    if name is not None:
        values["name"] = name
    request = RunRequest(
        data=data,
        out=out,
        config=values,
        options=options,
        device=device.value,
        init=init,
        resume=resume,
        limit=limit,
        validation=validation,
        description=description,
        dataset=dataset.value,
    )
    with ExitStack() as stack:
        report = _reporter(stack, options, quiet=quiet, as_json=as_json)
        finished = run_training(request, report)
    if not finished:
        note(f"looc: stopped early; go on with: looc train --data {data} --out {out} --resume")
        raise typer.Exit(130)
    end_process()


def _read_config(path: Path) -> dict[str, Any]:
    import json

    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not a JSON file of model configuration fields ({error})") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} must hold a JSON object of model configuration fields")
    return values


def _reporter(stack: ExitStack, options: Any, *, quiet: bool, as_json: bool) -> Any:
    """A report function: JSON lines for scripts, a live display on a terminal, plain lines now and then elsewhere."""
    if as_json:
        return lambda kind, row: print_json({"kind": kind, **row}) if kind in ("training", "details", "done") else None
    if quiet:
        return lambda kind, row: None
    if not sys.stderr.isatty():
        return _plain_report
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    progress = stack.enter_context(
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
    )
    task = progress.add_task("loading pictures", total=None, figures="")

    def report(kind: str, row: dict[str, Any]) -> None:
        if kind == "loading":
            progress.update(task, figures=f"{row['pictures']} pictures")
        elif kind == "training":
            progress.update(
                task,
                description=f"training ({options.stage})",
                total=1.0,
                completed=row["progress"],
                figures=_figures(row),
            )
        elif kind == "coding":
            progress.update(task, description="coding crops", total=row["crops"], completed=row["crop"], figures="")
        elif kind == "slimming":
            progress.update(
                task, description="making it slimmer", total=row["batches"], completed=row["batch"], figures=""
            )
        elif kind == "fitting":
            progress.update(
                task,
                description="fitting the codebook" if row["round"] < 3 else "fitting details",
                total=row["batches"],
                completed=row["batch"],
                figures="",
            )
        elif kind == "details":
            progress.console.print(_details(row))
        elif kind == "done":
            progress.update(
                task, completed=1.0, total=1.0, description="done", figures=f"{row['weights']} ({row['fingerprint']})"
            )

    return report


def _figures(row: dict[str, Any]) -> str:
    psnr = f"{row['psnr_db']:.2f} dB, " if row["psnr_db"] != "" else ""
    speed = f"{row['images_per_second']:.0f} images/s"
    return f"step {row['step']}: loss {row['loss']:.3f}, {row['bpp']:.3f} bpp, {psnr}{speed}"


def _details(row: dict[str, Any]) -> str:
    return f"details take {100 * row['gain']:.1f}% off the cost of what they are to mend"


def _plain_report(kind: str, row: dict[str, Any]) -> None:
    if kind == "training":
        note(f"{row['seconds']:.0f} s  {100 * row['progress']:.1f}%  {_figures(row)}")
    elif kind == "details":
        note(_details(row))
    elif kind == "done":
        note(f"weights: {row['weights']} ({row['fingerprint']})")
