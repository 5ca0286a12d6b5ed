"""What of a run travels between machines in small files: weights that another machine can go on
from or export, in pieces of a limited size."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from looc_codec.errors import ModelError
from looc_codec.training.checkpoint import read_meta
from looc_codec.training.plan import (
    FINISHED,
    PLAN,
    RESTORED,
    Plan,
    Stage,
    State,
    averaged_weights,
)
from looc_codec.training.run import CHECKPOINT

PIECE_BYTES = 15 << 20
LIMIT_BYTES = 58 << 20
"""Of all pieces together."""
PIECE = "state.{index:02d}-of-{count:02d}"


def write_state(folder: Path, path: Path, limit_bytes: int = LIMIT_BYTES) -> dict:
    """Writes the weights of a run's folder as `plan.State` reads them, and returns its `about`.

    In this order, as far as the limit goes: the averaged weights of the newest stage in float32;
    those of models that are finished in float16; and, of a run that is not done, what the weights
    themselves differ by from the averaged ones, in float16. The optimizer's moments, four times as
    large, stay behind: who goes on from here begins with fresh ones. ModelError where no checkpoint
    has been written yet.
    """
    plan = Plan.read(folder / PLAN)
    homes = {stage.name: folder / "stages" / stage.name for stage in plan.stages}
    trained = [stage for stage in plan.stages if (homes[stage.name] / CHECKPOINT).exists()]
    if not trained:
        raise ModelError(f"no stage in {folder} has a checkpoint yet")
    current = trained[-1]
    checkpoint = homes[current.name] / CHECKPOINT
    meta = read_meta(checkpoint)
    elsewhere = (
        State.read(folder / RESTORED).about["finished"] if (folder / RESTORED).exists() else []
    )
    finished = [
        name for name, home in homes.items() if (home / FINISHED).exists() or name in elsewhere
    ]
    done = len(finished) == len(homes)
    parts: list[dict[str, Tensor]] = [
        {f"ema.{name}": value.float() for name, value in averaged_weights(checkpoint).items()}
    ]
    others = {stage.model: stage for stage in trained if stage.model != current.model}
    for model, stage in others.items():
        parts.append(
            {
                f"model.{model}/{name}": value.half()
                for name, value in averaged_weights(homes[stage.name] / CHECKPOINT).items()
            }
        )

    def description(stage: Stage) -> dict:
        meta = read_meta(homes[stage.name] / CHECKPOINT)
        return {"config": meta["config"], "age": [plan.stages.index(stage), meta["step_count"]]}

    if not done:
        parts.append(changes(checkpoint))
    tensors: dict[str, Tensor] = {}
    size = 0
    for part in parts:
        # Details are fitted when all else is done.
        part = {name: value for name, value in part.items() if "details." not in name}
        own = sum(value.numel() * value.element_size() for value in part.values())
        if not tensors or size + own <= limit_bytes:
            tensors |= part
            size += own
    about = {
        "stage": current.name,
        "model": current.model,
        "done": done,
        "finished": finished,
        "models": {stage.model: description(stage) for stage in [*others.values(), current]},
        **{
            name: meta[name]
            for name in ("step_count", "first_step", "pictures_seen", "seconds_used")
        },
    }
    save_file(tensors, path, metadata={"about": json.dumps(about)})
    return about


def changes(checkpoint: Path) -> dict[str, Tensor]:
    """What the weights of a checkpoint differ by from its averaged ones: float16 tensors by
    `change.NAME`."""
    found = {}
    with safe_open(checkpoint, framework="pt") as file:
        for name in file.keys():
            if name.startswith("ema."):
                own = name.removeprefix("ema.")
                found[f"change.{own}"] = (
                    file.get_tensor(f"model.{own}") - file.get_tensor(name)
                ).half()
    return found


def split(path: Path, folder: Path, piece_bytes: int = PIECE_BYTES) -> list[Path]:
    """Cuts a file into pieces; their names say which and how many."""
    data = path.read_bytes()
    count = max(1, -(-len(data) // piece_bytes))
    pieces = []
    for index in range(count):
        piece = folder / PIECE.format(index=index, count=count)
        piece.write_bytes(data[index * piece_bytes : (index + 1) * piece_bytes])
        pieces.append(piece)
    return pieces


def joined(folder: Path, path: Path) -> bool:
    """Makes a file of its pieces in a folder; False where there are none, ModelError where some are
    missing."""
    pieces = sorted(folder.glob("state.??-of-??"))
    if not pieces:
        return False
    count = int(pieces[0].name[-2:])
    if [piece.name for piece in pieces] != [
        PIECE.format(index=index, count=count) for index in range(count)
    ]:
        raise ModelError(
            f"{folder} has {', '.join(piece.name for piece in pieces)}, not all {count} pieces of one state"
        )
    path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    return True
