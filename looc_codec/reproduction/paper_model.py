"""The paper's model, trained to code files: `looc train --config looc-vae` or `looc-vqgan`, and its weights file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from looc_codec.codec.grid_model import GridModel, read_grid_model
from looc_codec.codec.model import write_model
from looc_codec.data import PictureStore
from looc_codec.datasets import SMALL_SETS, load_small, training_pictures
from looc_codec.errors import ImageError, ModelError
from looc_codec.quantizers.looc import LooCQuantizer
from looc_codec.reproduction.backbones import SmallBackbone, VqganBackbone
from looc_codec.reproduction.batches import (
    ArrayPictures,
    Batches,
    CropBatches,
    EpochBatches,
    limited_title,
)
from looc_codec.reproduction.export import grid_model, table_batches
from looc_codec.reproduction.judges import lpips_missing
from looc_codec.reproduction.rows import PHOTO_CHANNELS, SMALL_CHANNELS
from looc_codec.reproduction.trainer import (
    PHOTO_RATE_PER_PICTURE,
    SMALL_RATE,
    RowTrainer,
    TrainSettings,
)
from looc_codec.reproduction.vqvae import VqVae
from looc_codec.training.checkpoint import read_meta

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class PaperConfig:
    """Sizes of the paper's model: `base` is "looc-vae", the small VQ-VAE, or "looc-vqgan", the f16 VQGAN; K
    codevectors of d* values, and beta, the factor of the interpolation."""

    base: str = "looc-vae"
    codebook_size: int = 256
    codevector_dim: int = 4
    beta: int = 1
    name: str = "looc-vae"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PaperConfig:
        """The config of a parsed JSON object with a `base`; unknown or ill-typed fields raise ModelError."""
        base = values.get("base")
        if base not in PAPER_CONFIGS:
            raise ModelError(f"base {base!r} is none of {', '.join(PAPER_CONFIGS)}")
        kinds = {field.name: str if field.name in ("base", "name") else int for field in fields(cls)}
        wrong = [name for name, value in values.items() if name not in kinds or type(value) is not kinds[name]]
        if wrong:
            raise ModelError(
                f"the model configuration has unknown or ill-typed fields ({', '.join(sorted(wrong))});"
                f" known are {', '.join(kinds)}"
            )
        return replace(PAPER_CONFIGS[base], **values)

    @property
    def is_vqgan(self) -> bool:
        return self.base == "looc-vqgan"

    @property
    def patch(self) -> int:
        """Pixels along a side of a position."""
        return 16 if self.is_vqgan else SmallBackbone.positions_per_side


PAPER_CONFIGS = {"looc-vae": PaperConfig(), "looc-vqgan": PaperConfig(base="looc-vqgan", beta=2, name="looc-vqgan")}
"""Configurations by name. beta is that of the paper's figures: 1 for the small network, 2 for the VQGAN."""


@dataclass(frozen=True)
class PaperRequest:
    """What `looc train` was asked for. `crop` is the side of the crops of photographs; None for 64, with the VQGAN
    256."""

    data: Path
    out: Path
    config: PaperConfig
    settings: TrainSettings
    dataset: str = "folder"
    crop: int | None = None
    device: str = "cpu"
    resume: bool = False
    description: str = ""


Report = Callable[[str, dict[str, Any]], None]


def base_of_run(out: Path) -> dict[str, Any]:
    """The `base` of the paper's model that a run trains; empty for a run of the codec's own, or where there is none."""
    try:
        stored = read_meta(out / CHECKPOINT)
    except ModelError:
        return {}
    return {"base": stored["paper_config"]["base"]} if "paper_config" in stored else {}


def default_batch(config: PaperConfig, dataset: str) -> int:
    """Pictures in a batch: enough to fill a codebook's statistics, few enough for one core."""
    return 3 if config.is_vqgan else 128 if dataset in SMALL_SETS else 32


def build_paper_model(config: PaperConfig, image_channels: int) -> VqVae:
    """The network of a configuration; ModelError for sizes that it cannot have."""
    channels = PHOTO_CHANNELS if config.is_vqgan else SMALL_CHANNELS
    quantizer = LooCQuantizer(channels, config.codevector_dim, config.codebook_size, beta=config.beta)
    backbone = VqganBackbone(image_channels, channels) if config.is_vqgan else SmallBackbone(image_channels, channels)
    return VqVae(backbone, quantizer)


def open_batches(request: PaperRequest, report: Report) -> Batches:
    """The training pictures: small sets as they are, photographs as crops. ImageError where there are none large
    enough."""
    config, settings = request.config, request.settings
    if request.dataset in SMALL_SETS:
        if config.is_vqgan:
            raise ImageError(
                f"looc-vqgan needs photographs of {request.crop or 256} pixels a side; {request.dataset}"
                " is for looc-vae"
            )
        if request.crop is not None:
            raise ModelError(f"{config.base} takes the pictures of {request.dataset} whole; leave --crop away")
        found = load_small(request.dataset, request.data, "train")
        pictures = ArrayPictures(
            limited_title(found.title, len(found.pictures), settings.limit), found.pictures[: settings.limit]
        )
        report("loading", {"pictures": len(pictures)})
        return EpochBatches(pictures, settings.batch, settings.seed, request.device)
    side = request.crop or (256 if config.is_vqgan else 64)
    if side % config.patch:
        raise ModelError(f"--crop {side} is not a multiple of {config.patch}")
    held = training_pictures(
        request.dataset,
        request.data,
        min_side=side,
        limit=settings.limit,
        progress=lambda count: report("loading", {"pictures": count}),
    )
    if not held:
        raise ImageError(
            f"{request.data} holds no picture with both sides of at least {side} pixels; choose a smaller --crop"
        )
    return CropBatches(PictureStore(held, request.device), settings.batch, side, settings.seed)


def train_paper_model(request: PaperRequest, report: Report) -> bool:
    """Trains and writes `out`/weights.safetensors; False when it was interrupted, which leaves a checkpoint and no
    weights file.

    `report(kind, figures)` is called with "loading", "training" and "done". Raises ModelError or ImageError when the
    request cannot be carried out.
    """
    checkpoint = request.out / CHECKPOINT
    if not request.resume and checkpoint.exists():
        raise ModelError(f"{checkpoint} exists; give --resume to go on with it or another --out")
    if request.resume and not checkpoint.exists():
        raise ModelError(f"there is no {checkpoint} to resume; leave --resume away to start a new run")
    if request.device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("no CUDA device is available here; give --device cpu")
    config = request.config
    if request.resume:
        stored = read_meta(checkpoint)
        if "paper_config" not in stored:
            raise ModelError(f"{checkpoint} is not a run of {config.base}; give its own --config or another --out")
        # A run goes on as it began; only its budget may be another.
        config = PaperConfig(**stored["paper_config"])
        budget = {name: getattr(request.settings, name) for name in ("epochs", "minutes", "steps")}
        request = replace(
            request,
            config=config,
            crop=stored["crop"],
            settings=replace(TrainSettings(**stored["settings"]), **budget),
        )
    elif config.is_vqgan:
        # The papers' recipe of photographs; without LPIPS's weights L1 and the discriminator have to do.
        rate = request.settings.rate / SMALL_RATE * PHOTO_RATE_PER_PICTURE * request.settings.batch
        request = replace(
            request,
            settings=replace(
                request.settings, rate=rate, decay=0.0, start="released", perceptual=lpips_missing() is None
            ),
        )
    batches = open_batches(request, report)
    torch.manual_seed(request.settings.seed)
    model = build_paper_model(config, batches.image_channels)
    trainer = RowTrainer(model, batches, request.settings, request.device, photo=config.is_vqgan)
    trainer.extra_meta = {"paper_config": asdict(config), "crop": request.crop}
    request.out.mkdir(parents=True, exist_ok=True)
    started, first = time.perf_counter(), None

    def told(part: float, figures: dict[str, float]) -> None:
        nonlocal first
        first = trainer.step_count - 1 if first is None else first
        now = time.perf_counter()
        speed = (trainer.step_count - first) * request.settings.batch / max(now - started, 1e-9)
        report(
            "training",
            {
                "step": trainer.step_count,
                "progress": part,
                "seconds": now - started,
                "images_per_second": speed,
                "bpp": "",
            }
            | figures,
        )

    try:
        trainer.run(checkpoint, told)
    except KeyboardInterrupt:
        return False
    exported = export_weights(trainer, config, request.description, request.out / WEIGHTS)
    report("done", {"weights": str(request.out / WEIGHTS), "fingerprint": exported.fingerprint.hex()})
    return True


def export_weights(trainer: RowTrainer, config: PaperConfig, description: str, path: Path) -> GridModel:
    """Writes the weights file of a trained network; returns the model as a reader will see it."""
    write_model(
        grid_model(trainer.model, config.name, table_batches(trainer.batches, config.patch), description), path
    )
    return read_grid_model(path)
