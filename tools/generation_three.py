"""Generation three's run: everything of it, from the pictures to the weights files.
docs/TRAINING_RUN.md has the calls in their order.

    python tools/generation_three.py prepare           the plan and the clean pictures, in parts, into .gen3/
    python3 tools/generation_three.py call            on the GPU machine: takes a part, goes on, waits, collects
    python tools/generation_three.py status            where a run stands
    python tools/generation_three.py finish            here: codebook, tables, details, weights files, validation, cards
    python tools/generation_three.py smoke             all of it on the CPU with a tenth of the network

The plan is data: `PLAN` below, or a JSON file of the same fields (`prepare --plan`). The design is
its `config` (`prepare --config` for another one).
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
DATA = ROOT.parent / "shared/data"
PREPARED, RUN = ROOT / ".gen3", Path("/tmp/gen3")
TRAVELS_MIB, MARGIN_MIB = 64, 1.5
"""What a call can carry, tracked files of the repository included, and what is left free of it."""
PEAK_FLOPS = 989e12
"""Dense bfloat16 of an H100 or H200 SXM, by the data sheet."""
RUN_MINUTES = 25.5
"""From the start of the run to its end. With the machine's start and transfers it fits 30
minutes."""
FIRST_PART_MIB = 3
"""What the first part has beside its pictures."""
WARM_SECONDS = 60
RESTARTS = 3
COLLECT_SECONDS = 20

PLAN: dict[str, Any] = {
    "config": {},
    "models": {"photo-psnr": {"detail_channels": 256, "detail_width": 32, "detail_quality": 60}},
    "options": {"save_minutes": 2.0},
    "stages": [
        {
            "name": "photo-256",
            "model": "photo-psnr",
            "minutes": 11.5,
            "rate": 2.5,
            "options": {"batch": 48, "crop": 256, "prior_only_share": 0.03, "cosine": [0.0, 0.72]},
        },
        {
            "name": "photo-384",
            "model": "photo-psnr",
            "minutes": 4.5,
            "rate": 2.5,
            "options": {"batch": 22, "crop": 384, "cosine": [0.72, 1.0]},
        },
        {
            "name": "photo-coded",
            "model": "photo-psnr",
            "minutes": 1.5,
            "rate": 0.15,
            "coded": True,
            "options": {"batch": 48, "crop": 256},
        },
        {
            "name": "ssim-256",
            "model": "photo",
            "minutes": 6.5,
            "rate": 1.0,
            "options": {"batch": 48, "crop": 256, "metric": "ms-ssim"},
        },
    ],
}
"""Rates are multiples of the trainer's own, which suit fine-tuning: 2.5 from scratch
(docs/EXPERIMENTS.md, section 13). 22 crops of 384 have as many pixels as 48 of 256. The second
stage goes on with the first one's fall of the rates."""


# --- here, before the run -------------------------------------------------------------------------


def tracked_bytes() -> int:
    """Bytes of the working tree that travel with every call: tracked files and those that git would
    track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def listed_pictures(path: Path, data: Path) -> list[tuple[str, bytes]]:
    """The pictures of a list, docs/clean_set.csv by default, as name and file."""
    import clean_set

    return list(clean_set.members(data, {row.picture for row in clean_set.read_list(path)}))


def write_parts(pictures: list[tuple[str, bytes]], out: Path, part_bytes: int) -> list[Path]:
    """Shuffles pictures and packs them into as few shards of about equal size as `part_bytes`
    allows: `part-I/shard-I-of-N.tar`. Each is a fair sample."""
    import io

    pictures = sorted(pictures)
    random.Random(3).shuffle(pictures)
    # A tar file rounds every member up to 512 bytes, after a header as large.
    sizes = [1024 + -(-len(content) // 512) * 512 for _, content in pictures]
    room = part_bytes - 2 * tarfile.RECORDSIZE
    if max(sizes) > room:
        sys.exit(f"a picture of {max(sizes)} bytes does not fit into parts of {part_bytes}")
    count, parts = -(-sum(sizes) // room), []
    while max(map(sum, in_parts(sizes, count))) > room:
        count += 1
    position = 0
    for index, own in enumerate(in_parts(sizes, count)):
        folder = out / f"part-{index}"
        folder.mkdir(parents=True)
        with tarfile.open(folder / f"shard-{index}-of-{count}.tar", "w") as shard:
            for name, content in pictures[position : position + len(own)]:
                member = tarfile.TarInfo(name.replace("/", "-").replace(":", "-"))
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
        position += len(own)
        parts.append(folder)
    return parts


def in_parts(sizes: list[int], count: int) -> list[list[int]]:
    """Sizes in their order, cut into `count` runs of about equal sums."""
    runs: list[list[int]] = [[] for _ in range(count)]
    before, total = 0, sum(sizes)
    for size in sizes:
        # By the middle of each, so that no run is over its share by more than half of one.
        runs[int((before + size / 2) * count / total)].append(size)
        before += size
    return runs


def write_validation(folder: Path, out: Path, side: int = 256) -> None:
    """The middle of every validation picture, which a run looks at and never trains on."""
    from PIL import Image

    out.mkdir()
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image.convert("RGB").crop((left, top, left + side, top + side)).save(out / path.name)


def download_wheels(
    out: Path, names: tuple[str, ...] = ("constriction",), python: str = "3.12"
) -> None:
    """Wheels of what the GPU machine does not have, for its Python."""
    from importlib.metadata import version

    platforms = [
        f"--platform={name}_x86_64"
        for name in (
            "manylinux_2_28",
            "manylinux_2_27",
            "manylinux_2_17",
            "manylinux2014",
            "manylinux1",
        )
    ]
    wanted = [f"{name}=={version(name)}" for name in names]
    options = [
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        f"--python-version={python}",
        "--implementation=cp",
        *platforms,
        "-d",
        str(out),
    ]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *wanted], check=True)


def complete_plan(values: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """A plan with another design's fields and the operations of a crop of each stage."""
    from looc_codec.training.plan import Plan, Stage, counted_operations

    values = values | {"config": values.get("config", {}) | config}
    plan = Plan(**values | {"stages": tuple(Stage(**stage) for stage in values["stages"])})
    operations = {
        stage.name: counted_operations(
            plan.config_of(stage), plan.options_of(stage), only_synthesis=stage.coded
        )
        for stage in plan.stages
    }
    return values | {"operations": operations}


def prepare(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    if out.exists():
        sys.exit(f"{out} exists; remove it first")
    room = arguments.part_mib or TRAVELS_MIB - MARGIN_MIB - tracked_bytes() / 2**20
    if room < 4:
        sys.exit(
            f"the repository leaves {room:.1f} MiB of a call's {TRAVELS_MIB} to carry; "
            "move away what need not travel, weights/ for example"
        )
    values = json.loads(arguments.plan.read_text()) if arguments.plan else PLAN
    plan = complete_plan(
        values, json.loads(arguments.config.read_text()) if arguments.config else {}
    )
    pictures = listed_pictures(arguments.list, arguments.data)
    # The first part has the validation crops, the plan and wheels as well.
    parts = write_parts(pictures, out, int((room - FIRST_PART_MIB) * 2**20))
    (parts[0] / "plan.json").write_text(json.dumps(plan, indent=1))
    if (arguments.data / "val").is_dir():
        write_validation(arguments.data / "val", parts[0] / "val")
    if not arguments.no_wheels:
        download_wheels(parts[0] / "wheels")
    for part in parts:
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        print(f"{part}: {size / 2**20:.1f} MiB")
    print(f"{len(pictures)} pictures in {len(parts)} parts of at most {room:.1f} MiB")


# --- on the machine with the GPU: plain Python until the code and its packages are in place -------


def alive(run: Path) -> int | None:
    """The process of the run, if there is one that still runs."""
    try:
        pid = int((run / "pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, ValueError, IndexError):
        return None
    return None if state == "Z" else pid


def environment(run: Path) -> dict[str, str]:
    """Of the run's processes: its own copy of the code, its packages, and compiled kernels that
    stay."""
    paths = [str(run / "code"), str(run / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "TRITON_CACHE_DIR": str(run / "kernels"),
    }


def take_part(part: Path, run: Path) -> None:
    """Takes in what a part has: pictures, plan, validation crops, wheels, pieces of a state."""
    for shard in part.glob("shard-*-of-*.tar"):
        home = run / "shards" / shard.stem
        home.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: the decoder looks for them.
        shutil.copy(shard, home / "partial")
        os.replace(home / "partial", home / shard.name)
    if (part / "plan.json").exists() and not (run / "plan.json").exists():
        shutil.copy(part / "plan.json", run / "plan.json")
    if (part / "val").is_dir():
        shutil.copytree(part / "val", run / "val", dirs_exist_ok=True)
    wheels = [str(path) for path in part.glob("wheels/*.whl")]
    if wheels and not (run / "site").is_dir():
        quiet = ["-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                *quiet,
                "--target",
                str(run / "site"),
                *wheels,
            ],
            check=True,
        )
    pieces = list(part.glob("state.??-of-??"))
    if pieces:
        (run / "inbox").mkdir(exist_ok=True)
        for piece in pieces:
            shutil.copy(piece, run / "inbox" / piece.name)


def pieces_missing(run: Path) -> int:
    """How many pieces of a state that was begun to be brought are still to come."""
    pieces = list((run / "inbox").glob("state.??-of-??"))
    return int(pieces[0].name[-2:]) - len(pieces) if pieces else 0


def start(run: Path, minutes: float, device: str) -> None:
    """Starts the run as a process of its own session, which goes on when the call has ended."""
    if not (run / "code").is_dir():
        # The next call replaces the repository's files under a run that would use them.
        for name in ("looc_codec", "tools"):
            shutil.copytree(
                ROOT / name,
                run / "code" / name,
                ignore=shutil.ignore_patterns("__pycache__", "weights"),
            )
    words = [
        sys.executable,
        str(run / "code/tools/generation_three.py"),
        "train",
        "--run",
        str(run),
        "--minutes",
        str(minutes),
        "--device",
        device,
    ]
    with (run / "run.log").open("a") as log:
        process = subprocess.Popen(
            words,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment(run),
            cwd=run,
            start_new_session=True,
        )
    (run / "pid").write_text(str(process.pid))


def call(arguments: argparse.Namespace) -> None:
    run: Path = arguments.run.resolve()
    begin, restarts = time.time(), 0
    run.mkdir(parents=True, exist_ok=True)
    for part in arguments.part:
        take_part(part, run)
    for name in arguments.leave_out:
        home = run / "stages" / name
        home.mkdir(parents=True, exist_ok=True)
        (home / "finished.json").write_text(json.dumps({"left_out": True}))
    missing = pieces_missing(run)
    if missing or not (run / "plan.json").exists():
        print(
            f"not started: {missing} pieces of the state are still to come"
            if missing
            else "not started: no part has brought a plan yet"
        )
        return
    while not (run / "finished").exists():
        if alive(run) is None:
            if restarts == RESTARTS:
                print(f"the run ended {RESTARTS} times; its last words:")
                print("".join((run / "run.log").read_text().splitlines(keepends=True)[-30:]))
                break
            start(run, arguments.minutes, arguments.device)
            restarts += 1
        if time.time() - begin >= arguments.wait:
            break
        time.sleep(min(2.0, max(0.1, arguments.wait - (time.time() - begin))))
    if arguments.out is not None:
        words = [
            sys.executable,
            str(run / "code/tools/generation_three.py"),
            "collect",
            "--run",
            str(run),
            "--out",
            str(arguments.out),
        ]
        subprocess.run(words, env=environment(run), cwd=run, check=False)


def decode(arguments: argparse.Namespace) -> None:
    """Decodes shards as they come, each once, until all are there or the run is gone."""
    from looc_codec.data import load_pictures
    from looc_codec.training.decoded import append, read_index

    run: Path = arguments.run
    parent = os.getppid()
    (run / "pixels").mkdir(exist_ok=True)
    # The decoder of a run that was killed may still be at a shard.
    lock = (run / "pixels/lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    while os.getppid() == parent:
        known = set(read_index(run / "pixels").shards)
        shards = sorted(path for path in (run / "shards").glob("*/shard-*-of-*.tar"))
        for shard in shards:
            if shard.stem not in known:
                begin = time.time()
                index = append(
                    run / "pixels",
                    shard.stem,
                    load_pictures(shard.parent, min_side=arguments.min_side),
                )
                print(
                    f"{shard.stem}: decoded in {time.time() - begin:.1f} s, {len(index.sizes)} pictures in all",
                    flush=True,
                )
        if shards and len(read_index(run / "pixels").shards) == int(
            shards[0].stem.rsplit("-", 1)[1]
        ):
            return
        time.sleep(1)


def ended(signal_number: int, frame: object) -> None:
    raise SystemExit(128 + signal_number)


def train(arguments: argparse.Namespace) -> None:
    """The run itself. Ending it by SIGTERM leaves a checkpoint of that moment; killing it, the last
    one."""
    run: Path = arguments.run
    signal.signal(signal.SIGTERM, ended)
    from looc_codec.training.carry import joined
    from looc_codec.training.plan import RESTORED, Plan, Runner

    def note(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    if (run / "inbox").is_dir() and not (run / RESTORED).exists():
        joined(run / "inbox", run / RESTORED)
    runner = Runner(run, arguments.device, note)
    runner.set_deadline(arguments.minutes)
    script, plan = [sys.executable, str(Path(__file__).resolve())], Plan.read(run / "plan.json")
    crops = [plan.options_of(stage).crop for stage in plan.stages]
    helpers = [
        subprocess.Popen([*script, "decode", "--run", str(run), "--min-side", str(min(crops))])
    ]
    first = next((stage.name for stage in plan.stages if not runner.finished(stage)), None)
    try:
        if arguments.device != "cpu":
            helpers.append(
                subprocess.Popen([*script, "warm", "--run", str(run), "--device", arguments.device])
            )
            begin = time.time()
            while (
                first is not None
                and not (run / "warm" / first).exists()
                and helpers[-1].poll() is None
                and time.time() - begin < WARM_SECONDS
            ):
                time.sleep(0.2)
        while not (run / "pixels/pixels.json").exists():
            if helpers[0].poll():
                sys.exit("the pictures could not be decoded")
            time.sleep(0.2)
        if runner.run():
            (run / "finished").touch()
    finally:
        for helper in helpers:
            helper.terminate()


def warm(arguments: argparse.Namespace) -> None:
    from looc_codec.training.plan import warm as warm_stages

    warm_stages(arguments.run, arguments.device)


# --- where a run stands, and what comes back ------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def status_of(run: Path) -> dict[str, Any]:
    """Every stage's figures: steps, crops a second in the mean of its last rows, share of the
    bfloat16 peak, what the loss and the validation crops say."""
    plan = json.loads((run / "plan.json").read_text())
    stages = []
    for stage in plan["stages"]:
        home = run / "stages" / stage["name"]
        rows, held_out = rows_of(home / "log.csv"), rows_of(home / "validation.csv")
        figures: dict[str, Any] = {"stage": stage["name"], "state": "waiting"}
        if (home / "finished.json").exists():
            done = json.loads((home / "finished.json").read_text())
            figures["state"] = "left out" if done.get("left_out") else "done"
            figures |= done
        elif rows:
            figures["state"] = "running"
        if rows:
            last, recent = rows[-1], [float(row["images_per_second"]) for row in rows[-10:]]
            speed = len(recent) / sum(1 / max(value, 1e-3) for value in recent)
            figures |= {
                "step": int(last["step"]),
                "stage_seconds": float(last["seconds"]),
                "crops_seen": int(last["pictures"]),
                "crops_per_second": round(speed, 1),
            }
            figures |= {name: last[name] for name in ("loss", "bpp", "psnr_db")}
            operations = plan.get("operations", {}).get(stage["name"])
            if operations:
                figures |= {
                    "tflops": round(speed * operations / 1e12, 2),
                    "share_of_bf16_peak": round(speed * operations / PEAK_FLOPS, 4),
                }
        if held_out:
            figures["validation_log_loss"] = [float(row["log_loss"]) for row in held_out]
        stages.append(figures)
    deadline = (
        json.loads((run / "deadline.json").read_text())["deadline"]
        if (run / "deadline.json").exists()
        else None
    )
    left = None if deadline is None else round((deadline - time.time()) / 60, 2)
    return {
        "finished": (run / "finished").exists(),
        "process": alive(run),
        "minutes_left": left,
        "stages": stages,
    }


def status(arguments: argparse.Namespace) -> None:
    print(json.dumps(status_of(arguments.run), indent=1))


def collect(arguments: argparse.Namespace) -> None:
    """The newest weights in pieces, the logs and the figures, all in files under 16 MiB."""
    run, out = arguments.run, arguments.out
    from looc_codec.errors import ModelError
    from looc_codec.training.carry import split, write_state
    from looc_codec.training.plan import SAVE_NOW

    out.mkdir(parents=True, exist_ok=True)
    if alive(run) is not None and not (run / "finished").exists():
        (run / SAVE_NOW).touch()
        begin = time.time()
        while (run / SAVE_NOW).exists() and time.time() - begin < COLLECT_SECONDS:
            time.sleep(0.2)
    figures = status_of(run)
    (out / "status.json").write_text(json.dumps(figures, indent=1))
    with tarfile.open(out / "logs.tar.gz", "w:gz") as logs:
        for path in [
            run / "run.log",
            *sorted(run.glob("stages/*/*.csv")),
            *sorted(run.glob("stages/*/finished.json")),
            # A megabyte each: the newest will do.
            *sorted(run.glob("stages/*/samples.png"), key=lambda path: path.stat().st_mtime)[-1:],
        ]:
            if path.exists():
                logs.add(path, str(path.relative_to(run)))
    try:
        about = write_state(run, run / "state.safetensors")
        pieces = split(run / "state.safetensors", out)
        print(
            f"{about['stage']}: step {about['step_count']}, {about['pictures_seen']} crops; {len(pieces)} pieces"
        )
    except ModelError as error:
        print(error)
    for stage in figures["stages"]:
        print(json.dumps(stage))
    print(
        f"finished {figures['finished']}, process {figures['process']}, minutes left {figures['minutes_left']}"
    )


# --- here, after the run --------------------------------------------------------------------------


def finish(arguments: argparse.Namespace) -> None:
    """Codebook, tables and details of every model that came back, weights files, validation against
    the present weights, model cards."""
    import clean_set
    import torch

    from looc_codec.config import LoocConfig
    from looc_codec.data import load_pictures
    from looc_codec.errors import ModelError
    from looc_codec.networks.model import LoocModel
    from looc_codec.training.carry import joined
    from looc_codec.training.decoded import append, open_store, read_index
    from looc_codec.training.details import fit_details
    from looc_codec.training.plan import State, take_weights
    from looc_codec.training.run import export_weights, fit_codes

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    # Of each model the oldest age in training; of the same weights those with all digits.
    found: dict[str, tuple[tuple, dict, dict]] = {}
    for folder in arguments.collected:
        if not joined(folder, out / "state.safetensors"):
            raise ModelError(f"{folder} has no pieces of a state")
        state = State.read(out / "state.safetensors")
        for name, weights in (state.models | {state.about["model"]: state.ema}).items():
            known = state.about["models"][name]
            rank = (known["age"], name == state.about["model"])
            if name not in found or rank > found[name][0]:
                found[name] = (rank, known["config"], weights)
    pixels = arguments.prepared / "pixels"
    for shard in sorted(arguments.prepared.glob("part-*/shard-*-of-*.tar")):
        if shard.stem not in read_index(pixels).shards:
            append(pixels, shard.stem, load_pictures(shard.parent, min_side=64))
    store = open_store(pixels)
    if store is None:
        raise ModelError(f"{arguments.prepared} holds no parts; run prepare first")
    torch.set_num_threads(arguments.threads)
    report = {}
    for name, (_, config, weights) in found.items():
        path = out / f"looc-{name}.safetensors"
        model = LoocModel(LoocConfig.from_dict(config))
        take_weights(model, weights)
        model.requires_grad_(False)
        begin = time.time()
        fit_codes(
            model, store, "cpu", progress_line, batches=arguments.batches, more=arguments.more
        )
        if model.details is not None:
            fit_details(
                model,
                store,
                "cpu",
                progress_line,
                steps=arguments.detail_steps,
                batches=arguments.detail_batches,
            )
        exported = export_weights(model, path, arguments.description)
        print(
            f"{path}: {path.stat().st_size / 1e6:.2f} MB, {exported.fingerprint.hex()}, "
            f"fitted in {time.time() - begin:.0f} s",
            flush=True,
        )
        report[name] = {"bytes": path.stat().st_size, "fingerprint": exported.fingerprint.hex()}
        if arguments.val.is_dir():
            old = arguments.against / path.name
            report[name] |= compare(
                path,
                old if old.exists() else None,
                arguments.val,
                arguments.qualities,
                LoocConfig.from_dict(config).metric,
            )
            print(json.dumps(report[name]["summary"]), flush=True)
        rows = clean_set.read_list(arguments.list)
        totals = (
            clean_set.summary(rows, clean_set.megapixels(arguments.data, rows))
            if (arguments.data / "SOURCES.csv").exists()
            else clean_set.summary(rows, {})
        )
        (out / f"looc-{name}.md").write_text(
            card(name, path, config, report[name], clean_set.model_card(rows, totals), model)
        )
    (out / "validation.json").write_text(json.dumps(report, indent=1))


def progress_line(kind: str, figures: dict[str, Any]) -> None:
    if figures.get("batch", 1) % 20 == 0 and sys.stderr.isatty():
        print(kind, figures, file=sys.stderr, flush=True)


def compare(
    new: Path, old: Path | None, folder: Path, qualities: list[int], metric: str
) -> dict[str, Any]:
    """Real files of validation pictures with both weights: bits, PSNR and, where the model is for
    it, MS-SSIM; BD-rates picture by picture."""
    import numpy as np
    from PIL import Image

    from looc_codec import api
    from looc_codec.codec.model import read_model
    from looc_codec.metrics import CurveError, bd_rate_percent, ms_ssim, ms_ssim_db, psnr_db

    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for label, path in (("new", new), ("old", old)):
        if path is None:
            continue
        model = read_model(path)
        for picture in sorted(folder.glob("*.png")):
            rgb = np.asarray(Image.open(picture).convert("RGB"))
            for quality in qualities:
                data = api.compress(rgb, quality=quality, model=model)
                decoded = np.asarray(api.decompress(data, model=model))
                bpp = 8 * len(data) / (rgb.shape[0] * rgb.shape[1])
                value = (
                    psnr_db(rgb, decoded) if metric == "mse" else ms_ssim_db(ms_ssim(rgb, decoded))
                )
                points.setdefault(picture.name, {}).setdefault(label, []).append((bpp, value))
    rates = {}
    for picture, curves in points.items():
        try:
            rates[picture] = bd_rate_percent(curves["old"], curves["new"])
        except (KeyError, CurveError):
            continue
    means = {
        label: [
            [
                round(float(np.mean([curves[label][index][axis] for curves in points.values()])), 4)
                for axis in (0, 1)
            ]
            for index in range(len(qualities))
        ]
        for label in ("new", "old")
        if all(label in curves for curves in points.values())
    }
    summary = {
        "qualities": qualities,
        "metric": metric,
        "bpp and dB": means,
        "bd_rate_percent": round(float(np.mean(list(rates.values()))), 2) if rates else None,
    }
    return {
        "summary": summary,
        "bd_rate_by_picture": {name: round(value, 2) for name, value in rates.items()},
        "points": points,
    }


def card(
    name: str, path: Path, config: dict[str, Any], figures: dict[str, Any], terms: str, model: Any
) -> str:
    """A model card: what the weights are, what they saw and under which terms."""
    sizes = {
        part: sum(value.numel() for value in getattr(model, part).parameters()) / 1e6
        for part in ("analysis", "synthesis", "prior")
    }
    tuned = (
        "RGB MSE"
        if config["metric"] == "mse"
        else "structure (MS-SSIM with a tenth of the squared error)"
    )
    latent = (
        f"{config['channels']} channels at 1/16 resolution, units of {config['codevector_dim']} "
        f"channels, one shared codebook of {config['codebook_size']} codevectors"
    )
    networks = ", ".join(f"{part} {size:.2f} M" for part, size in sizes.items()) + " parameters"
    summary = figures.get("summary", {})
    against = summary.get("bd_rate_percent")
    measured = (
        ""
        if against is None
        else f"\nOn the validation pictures, real files: {against:+.1f}% bits against the weights before, "
        "in the model's own metric.\n"
    )
    return f"""# Model card: looc-{name}

| | |
|---|---|
| file | `{path.name}`, {figures["bytes"] / 1e6:.2f} MB |
| what it is | LooC-VAE in codec mode for photographs, one model for qualities 1..100, tuned for {tuned} |
| latent | {latent} |
| networks | {networks} |
| fingerprint | {figures["fingerprint"]} |
{measured}
## What it was trained on, and terms

{terms}

The code and these weights are MIT. The weights were trained from scratch; no earlier weights went into them.
"""


# --- all of it, small -----------------------------------------------------------------------------

SMOKE_PLAN: dict[str, Any] = {
    "config": {
        "channels": 128,
        "groups": [16, 48, 64],
        "codebook_size": 256,
        "ratio_classes": 5,
        "prior_width": 48,
        "prior_depth": 1,
        "analysis_widths": [64, 32],
        "analysis_blocks": [1, 1],
        "synthesis_widths": [96, 48, 32],
        "synthesis_blocks": [2, 1, 1],
    },
    "models": {"photo-psnr": {"detail_channels": 32, "detail_width": 8, "detail_quality": 60}},
    "options": {
        "save_minutes": 0.05,
        "log_every": 4,
        "warmup_steps": 10,
        "bf16": False,
    },
    "start_batches": 2,
    "fit_batches": 1,
    "coders": 1,
    "stages": [
        {
            "name": "photo-small",
            "model": "photo-psnr",
            "minutes": 1.0,
            "rate": 2.5,
            "options": {
                "batch": 4,
                "crop": 64,
                "steps": 60,
                "prior_only_share": 0.1,
                "cosine": [0.0, 0.7],
            },
        },
        {
            "name": "photo-large",
            "model": "photo-psnr",
            "minutes": 0.5,
            "rate": 2.5,
            "options": {"batch": 2, "crop": 96, "steps": 24, "cosine": [0.7, 1.0]},
        },
        {
            "name": "photo-coded",
            "model": "photo-psnr",
            "minutes": 0.25,
            "rate": 0.15,
            "coded": True,
            "pool": 64,
            "least": 4,
            "options": {"batch": 4, "crop": 64, "steps": 24},
        },
        {
            "name": "ssim-small",
            "model": "photo",
            "minutes": 0.25,
            "rate": 1.0,
            "options": {"batch": 1, "crop": 176, "steps": 8, "metric": "ms-ssim"},
        },
    ],
}
"""A tenth of the network. Steps instead of minutes, so that a busy machine makes every stage."""
SMOKE_MINUTES = 10.0


def generated_pictures(count: int = 8) -> list[tuple[str, bytes]]:
    """Smooth random pictures, for where there is no data set."""
    import io

    import numpy as np
    from PIL import Image

    generator, pictures = np.random.default_rng(0), []
    for index in range(count):
        small = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
            (320, 280), Image.Resampling.BICUBIC
        )
        noisy = np.clip(
            np.asarray(small, np.float32) + generator.normal(0, 6, (280, 320, 3)), 0, 255
        ).astype(np.uint8)
        written = io.BytesIO()
        Image.fromarray(noisy).save(written, "PNG")
        pictures.append((f"{index}.png", written.getvalue()))
    return pictures


def smoke(arguments: argparse.Namespace) -> None:
    """Prepares, trains, is killed, resumes, goes on on another machine, collects, finishes, codes
    one picture."""
    import numpy as np

    begin = time.time()

    def done(text: str) -> None:
        print(f"{time.time() - begin:6.1f} s  {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="gen3-smoke-") as name:
        home = arguments.keep or Path(name)
        run, prepared = home / "run", home / "prepared"
        parts = write_parts(generated_pictures(), prepared, part_bytes=1 << 20)
        (parts[0] / "plan.json").write_text(json.dumps(complete_plan(SMOKE_PLAN, {}), indent=1))
        done(f"prepared {len(parts)} parts")
        script = [sys.executable, str(Path(__file__).resolve())]

        def called(
            part: Path | None,
            wait: float,
            out: Path | None,
            where: Path = run,
            minutes: float = SMOKE_MINUTES,
        ) -> None:
            words = [
                *script,
                "call",
                "--run",
                str(where),
                "--wait",
                str(wait),
                "--minutes",
                str(minutes),
                "--device",
                "cpu",
            ]
            words += ["--part", str(part)] if part else []
            subprocess.run(words + (["--out", str(out)] if out else []), check=True)

        def wait_for(ready: Any, what: str, seconds: float = 120) -> None:
            start = time.time()
            while not ready():
                if time.time() - start > seconds:
                    sys.exit(
                        f"{what} did not come in {seconds} s:\n{(run / 'run.log').read_text()[-3000:]}"
                    )
                time.sleep(0.2)
            done(what)

        called(parts[0], 0, None)
        checkpoint = run / "stages/photo-small/checkpoint.safetensors"
        wait_for(checkpoint.exists, "the first checkpoint")
        pid = alive(run)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: alive(run) is None, "the run was killed")
        for part in parts[1:]:
            called(part, 0, None)
        wait_for(
            (run / "stages/photo-small/finished.json").exists, "the first stage, resumed, is done"
        )
        called(None, 0, home / "first")
        wait_for((run / "finished").exists, "all stages are done")
        called(None, 0, home / "last")
        states = {stage["stage"]: stage["state"] for stage in status_of(run)["stages"]}
        done(f"collected {sorted(path.name for path in (home / 'last').iterdir())}: {states}")
        if set(states.values()) != {"done"}:
            sys.exit(f"not every stage was made:\n{(run / 'run.log').read_text()[-3000:]}")
        words = [
            "finish",
            "--collected",
            str(home / "last"),
            "--prepared",
            str(prepared),
            "--out",
            str(home / "weights"),
            "--val",
            str(home / "nowhere"),
            "--data",
            str(home),
        ]
        subprocess.run(
            [
                *script,
                *words,
                "--batches",
                "2",
                "--more",
                "2",
                "--detail-steps",
                "40",
                "--detail-batches",
                "4",
            ],
            check=True,
        )
        done("finished")
        from looc_codec import api
        from looc_codec.codec.model import read_model
        from looc_codec.data import load_pictures
        from looc_codec.metrics import psnr_db

        rgb = load_pictures(parts[0], min_side=64)[0]
        for path in sorted((home / "weights").glob("looc-*.safetensors")):
            model = read_model(path)
            for quality in (20, 90):
                data = api.compress(rgb, quality=quality, model=model)
                decoded = np.asarray(api.decompress(data, model=model))
                done(
                    f"{path.stem}, quality {quality}: {8 * len(data) / rgb[..., 0].size:.3f} bpp, "
                    f"{psnr_db(rgb, decoded):.2f} dB"
                )
                if decoded.shape != rgb.shape or psnr_db(rgb, decoded) < 15:
                    sys.exit("the picture did not come back")
    done("the smoke test passed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, function: Any, **options: dict[str, Any]) -> None:
        made = commands.add_parser(name)
        made.set_defaults(function=function)
        for flag, settings in options.items():
            made.add_argument(f"--{flag.replace('_', '-')}", **settings)

    path = {"type": Path}
    run = {"run": {"type": Path, "default": RUN}}
    device = {"device": {"default": "cuda"}}
    minutes = {"minutes": {"type": float, "default": RUN_MINUTES}}
    listed = {
        "data": path | {"default": DATA},
        "list": path | {"default": ROOT / "docs/clean_set.csv"},
    }
    command(
        "prepare",
        prepare,
        out=path | {"default": PREPARED},
        plan=path,
        config=path,
        part_mib={"type": float},
        no_wheels={"action": "store_true"},
        **listed,
    )
    command(
        "call",
        call,
        part={"type": Path, "nargs": "*", "default": []},
        leave_out={"nargs": "*", "default": []},
        wait={"type": float, "default": 0.0},
        out=path,
        **run,
        **device,
        **minutes,
    )
    command("train", train, **run, **device, **minutes)
    command("decode", decode, min_side={"type": int, "default": 256}, **run)
    command("warm", warm, **run, **device)
    command("status", status, **run)
    command("collect", collect, out=path | {"required": True}, **run)
    command(
        "finish",
        finish,
        collected={"type": Path, "nargs": "+", "required": True},
        out=path | {"default": ROOT / "runs/gen3"},
        prepared=path | {"default": PREPARED},
        val=path | {"default": DATA / "val"},
        against=path | {"default": ROOT / "weights"},
        qualities={"type": int, "nargs": "+", "default": [10, 30, 50, 70, 90]},
        threads={"type": int, "default": 1},
        batches={"type": int, "default": 60},
        more={"type": int, "default": 180},
        detail_steps={"type": int},
        detail_batches={"type": int},
        description={
            "default": "photographs under clean terms; trained from scratch on a GPU in half an hour"
        },
        **listed,
    )
    command("smoke", smoke, keep=path)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
