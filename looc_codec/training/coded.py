"""The last minutes of a run: the synthesis alone, on crops whose codes are those of files.

    python -m looc_codec.training.coded fit FOLDER CHECKPOINT    codebook and tables for a trellis
    python -m looc_codec.training.coded code FOLDER NUMBER       codes crops until it is told to stop

A path of the trellis is chosen one unit after the other, which an accelerator has no time for. So
processes of the CPU's cores choose codes as the encoder does and leave the crops in a folder, and
the accelerator trains on what has come in so far, each crop many times. Analysis, prior and
codebook stay as they are.

FOLDER holds: `pixels/` (decoded.py); `book.safetensors` from `fit`; `model.safetensors`, whose
appearance starts the coding; `crops/`; and `stop`, which ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.config import QUALITY_MAX, QUALITY_MIN, LoocConfig
from looc_codec.format.constants import LATENT_ONE, PATCH
from looc_codec.networks.distortion import distortion, mean_squared_error
from looc_codec.networks.model import LoocModel
from looc_codec.training.codes import CodeFitter
from looc_codec.training.decoded import open_store
from looc_codec.training.filtering import filtered
from looc_codec.training.loop import Trainer
from looc_codec.training.loss import distortion_weight

CODED_AT_A_TIME = 4
"""Crops of a file that a coding process leaves."""
FIT_BATCHES, FIT_ROUNDS = 12, 3
"""For `fit`: batches of 8 crops of 192 x 192, and rounds. The codes of a rough fit err as those of
a good one; an export fits its own, with twenty times as many."""
PATIENCE_SECONDS = 0.2
SHRINK = 0.6


@dataclass(frozen=True)
class Task:
    """What coding processes are asked for."""

    crop: int
    seed: int = 0


def write_model(folder: Path, model: LoocModel, book: dict[str, np.ndarray], task: Task) -> None:
    """Hands the model and its trellis's codebook to the coding processes, which begin when the file
    is there."""
    tensors = {
        f"model.{name}": value.detach().float().cpu().numpy()
        for name, value in model.state_dict().items()
    }
    tensors |= {f"book.{name}": value for name, value in book.items()}
    save_whole(
        tensors,
        folder / "model.safetensors",
        {"config": model.config.to_dict(), "crop": task.crop, "seed": task.seed},
    )


def save_whole(tensors: dict[str, np.ndarray], path: Path, meta: dict | None = None) -> None:
    partial = path.with_name(f"{path.name}.partial")
    save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        partial,
        metadata={"about": json.dumps(meta or {})},
    )
    os.replace(partial, path)


def read_model(folder: Path) -> tuple[LoocModel, Task]:
    path = folder / "model.safetensors"
    with safe_open(path, framework="np") as file:
        about = json.loads(file.metadata()["about"])
    tensors = load_file(path)
    model = LoocModel(LoocConfig.from_dict(about["config"]))
    model.load_state_dict(
        {
            name.removeprefix("model."): torch.from_numpy(value)
            for name, value in tensors.items()
            if name.startswith("model.")
        }
    )
    model.codebook.take(
        {
            name.removeprefix("book."): value
            for name, value in tensors.items()
            if name.startswith("book.")
        }
    )
    return model.eval().requires_grad_(False), Task(about["crop"], about["seed"])


def fit(folder: Path, checkpoint: Path, batches: int = FIT_BATCHES) -> None:
    """Fits codebook and tables of a checkpoint's averaged model with the trellis, from some crops,
    and writes `book.safetensors`."""
    from looc_codec.training.run import fit_codes, model_of

    model = model_of(checkpoint).requires_grad_(False)
    fit_codes(
        model,
        open_store(folder / "pixels"),
        "cpu",
        lambda kind, figures: None,
        batches=batches,
        rounds=FIT_ROUNDS,
    )
    save_whole(model.codebook.export(), folder / "book.safetensors")


def read_book(folder: Path) -> dict[str, np.ndarray] | None:
    """What `fit` has written, or None while it has not."""
    path = folder / "book.safetensors"
    return load_file(path) if path.exists() else None


@torch.no_grad()
def coded_crops(
    model: LoocModel, codes: CodeFitter, pixels: Tensor, quality: Tensor
) -> dict[str, np.ndarray]:
    """Crops `(B, 3, 16h, 16w)` float32 of whole numbers with the codes that the encoder would
    choose: `pixels` uint8, `quality` uint8, the decoded `latents` `(B, d, h, w)` int16 (1/16 steps)
    and `bpp` float32, as the prior estimates it."""
    result = model.prior(model.analysis(pixels, quality).float(), quality, codes.quantise)
    latents = (result["latent_hat"] * LATENT_ONE).round().to(torch.int16)
    return {
        "pixels": pixels.to(torch.uint8).numpy(),
        "quality": quality.numpy().astype(np.uint8),
        "latents": latents.numpy(),
        "bpp": (result["bits"] / pixels[0, 0].numel()).float().numpy(),
    }


def code(folder: Path, number: int) -> None:
    """Codes random crops into `crops/` from the appearance of `model.safetensors` until that of
    `stop`, or until the process that started this one is gone."""
    torch.set_num_threads(1)
    parent, count = os.getppid(), 0

    def going() -> bool:
        return not (folder / "stop").exists() and os.getppid() == parent

    while going() and not (folder / "model.safetensors").exists():
        time.sleep(PATIENCE_SECONDS)
    if not going():
        return
    model, task = read_model(folder)
    codes, store = CodeFitter(model, "cpu", ENCODER_LAMBDA), open_store(folder / "pixels")
    # Seeds of other processes and of runs that go on after an end are others.
    generator = torch.Generator().manual_seed(1 + task.seed + 1000 * number + 10**6 * os.getpid())
    (folder / "crops").mkdir(exist_ok=True)
    while going():
        # Qualities of a process's crops are stratified one by one, so that any few files span the
        # range.
        strata = (
            torch.arange(CODED_AT_A_TIME) + torch.rand(CODED_AT_A_TIME, generator=generator)
        ) / CODED_AT_A_TIME
        quality = torch.floor(QUALITY_MIN + strata * (QUALITY_MAX - QUALITY_MIN + 1)).clamp(
            max=QUALITY_MAX
        )
        pixels = store.crops(
            CODED_AT_A_TIME,
            task.crop,
            generator,
            SHRINK + (1 - SHRINK) * float(torch.rand((), generator=generator)),
        ).round()
        name = f"{number:03d}-{os.getpid()}-{count:06d}.safetensors"
        save_whole(coded_crops(model, codes, pixels, quality), folder / "crops" / name)
        count += 1


class Pool:
    """Coded crops on the device of training: as many as there is room for, the oldest replaced
    first."""

    def __init__(self, config: LoocConfig, crop: int, room: int, device: str) -> None:
        self.pixels = torch.zeros(room, 3, crop, crop, dtype=torch.uint8, device=device)
        self.latents = torch.zeros(
            room, config.channels, crop // PATCH, crop // PATCH, dtype=torch.int16, device=device
        )
        self.quality = torch.zeros(room, dtype=torch.uint8, device=device)
        self.bpp = torch.zeros(room, device=device)
        self.room, self.taken = room, 0

    def __len__(self) -> int:
        return min(self.room, self.taken)

    def take_in(self, folder: Path) -> int:
        """Moves all crops that lie in the folder's `crops/` into the pool; returns how many."""
        before = self.taken
        for path in sorted((folder / "crops").glob("*.safetensors")):
            found = load_file(path)
            path.unlink()
            place = (torch.arange(len(found["quality"])) + self.taken) % self.room
            for name in ("pixels", "latents", "quality", "bpp"):
                held = getattr(self, name)
                held[place.to(held.device)] = torch.from_numpy(found[name]).to(held.device)
            self.taken += len(place)
        return self.taken - before


class CodedTrainer(Trainer):
    """Trains the synthesis on a pool of coded crops, behind each crop's own filter where the metric
    is squared error."""

    pool: Pool

    def inputs(self) -> tuple[Tensor, ...]:
        pool = self.pool
        chosen = torch.randint(
            len(pool), (self.options.batch,), generator=self.generators["windows"]
        ).to(self.device)
        pixels = pool.pixels[chosen].float().contiguous(memory_format=torch.channels_last)
        return (
            pixels,
            pool.quality[chosen].float(),
            pool.latents[chosen].float() / LATENT_ONE,
            pool.bpp[chosen],
        )

    def joint_step(
        self,
        pixels: Tensor,
        quality: Tensor,
        latent_hat: Tensor,
        bpp: Tensor,
        prior_only: bool = False,
    ) -> dict[str, Tensor]:
        """Loss and figures of one batch, as those of the joint training but for the filter. Bits
        stay as they are."""
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.options.bf16):
            decoded = self.model.synthesis(latent_hat, quality).float()
        if self.options.metric == "mse":
            decoded = filtered(decoded, pixels)
        loss = bpp + distortion_weight(self.model.config, quality) * distortion(
            self.options.metric, decoded, pixels
        )
        objective = (loss / loss.detach().clamp_min(0.02)).mean()
        return {
            "objective": objective,
            "loss": loss.detach(),
            "bpp": bpp,
            "mse": mean_squared_error(decoded.detach(), pixels),
        }


def main(words: list[str]) -> None:
    action, folder, last = words
    if action == "fit":
        fit(Path(folder), Path(last), int(os.environ.get("LOOC_FIT_BATCHES", FIT_BATCHES)))
    else:
        code(Path(folder), int(last))


if __name__ == "__main__":
    main(sys.argv[1:])
