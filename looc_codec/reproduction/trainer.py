"""Training of one row: the small VQ-VAE by CVQ's recipe, the VQGAN by taming-transformers'."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from looc_codec.errors import ModelError
from looc_codec.quantizers.sq import SQQuantizer, sq_reconstruction_loss
from looc_codec.reproduction.backbones import PatchDiscriminator
from looc_codec.reproduction.batches import Batches
from looc_codec.reproduction.judges import lpips_network
from looc_codec.reproduction.vqvae import VqVae
from looc_codec.training.checkpoint import load_checkpoint, read_meta, save_checkpoint

SMALL_RATE = 3e-4
PHOTO_RATE_PER_PICTURE = 4.5e-6
LARGEST_ADAPTIVE_WEIGHT = 1e4
ADVERSARIAL_WEIGHT = 0.8
SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class TrainSettings:
    """How a row is trained and tested; the same for all rows of a table.

    One of `epochs` (fractions allowed), `steps` and `minutes` is given. `perceptual` (LPIPS) and `adversarial` concern
    photographs only; the discriminator starts at step `adversarial_start`. `rate_factor` is one on the learning rates. `limit` and `test_limit` keep the first so
    many training and test pictures.
    """

    epochs: float | None = None
    minutes: float | None = None
    steps: int | None = None
    batch: int = 1024
    seed: int = 42
    bf16: bool = False
    limit: int | None = None
    test_limit: int | None = None
    perceptual: bool = True
    adversarial: bool = True
    adversarial_start: int = 30_001
    rate_factor: float = 1.0


# --- losses ---------------------------------------------------------------------------------------------------------


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of max(0, 1 - real) and max(0, 1 + fake)."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """|grad of the reconstruction loss| / (|grad of the adversarial one| + 1e-4) at the last layer, 0..1e4 (VQGAN eq. 7)."""
    own = torch.autograd.grad(reconstruction, last, retain_graph=True)[0].norm()
    other = torch.autograd.grad(adversarial, last, retain_graph=True)[0].norm()
    return (own / (other + 1e-4)).clamp(0, LARGEST_ADAPTIVE_WEIGHT).detach()


# --- the loop -------------------------------------------------------------------------------------------------------

Progress = Callable[[float, dict[str, float]], None]
"""Told of the part of the budget that is spent and of a step's figures."""


class RowTrainer:
    """Model, optimizers and counters of one row; `run` trains to the end of the budget or goes on from a checkpoint."""

    def __init__(self, model: VqVae, batches: Batches, settings: TrainSettings, device: str = "cpu", *, photo: bool = False) -> None:
        if [settings.epochs, settings.minutes, settings.steps].count(None) != 2:
            raise ModelError("give one of a number of epochs, of steps and of minutes")
        self.model = model.to(device, memory_format=torch.channels_last)
        self.batches, self.settings, self.device, self.photo = batches, settings, device, photo
        self.total_steps = settings.steps if settings.epochs is None else max(1, round(settings.epochs * batches.steps_per_epoch))
        rate = settings.rate_factor * (PHOTO_RATE_PER_PICTURE * settings.batch if photo else SMALL_RATE)
        betas = (0.5, 0.9) if photo else (0.9, 0.999)
        self.optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], rate, betas)
        self.step_count, self.seconds = 0, 0.0
        self.extra_meta: dict[str, Any] = {}
        self.variance = 1.0 if photo else batches.variance
        self.judge = lpips_network(device) if photo and settings.perceptual else None
        self.discriminator = PatchDiscriminator().to(device) if photo and settings.adversarial else None
        if self.discriminator is not None:
            self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), rate, betas)

    @property
    def progress(self) -> float:
        """Part of the budget that is spent, 0..1."""
        if self.total_steps is not None:
            return min(1.0, self.step_count / self.total_steps)
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def step(self) -> dict[str, float]:
        """One batch; returns the figures of the log."""
        self.model.train()
        pictures = self.batches.at(self.step_count)
        decoded, output = self.model(pictures, bf16=self.settings.bf16)
        if self.photo:
            loss = self.photo_loss(decoded, pictures) + output.loss
        else:
            loss = self.small_loss(decoded, pictures) + output.loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.discriminator is not None and self.step_count >= self.settings.adversarial_start:
            self.discriminate(pictures, decoded.detach())
        self.step_count += 1
        error = float(functional.mse_loss(decoded.detach(), pictures)) / 4
        return {"loss": float(loss.detach()), "psnr_db": -10 * math.log10(max(error, 1e-10))}

    def small_loss(self, decoded: Tensor, pictures: Tensor) -> Tensor:
        """MSE in -1..1 divided by the variance of the pixels in 0..1, as released; SQ-VAE's own term for SQ-VAE."""
        if isinstance(self.model.quantizer, SQQuantizer):
            return sq_reconstruction_loss(pictures, decoded)
        return functional.mse_loss(decoded, pictures) / self.variance

    def photo_loss(self, decoded: Tensor, pictures: Tensor) -> Tensor:
        """L1 + LPIPS + adaptive weight * 0.8 * adversarial term."""
        reconstruction = (decoded - pictures).abs().mean()
        if self.judge is not None:
            reconstruction = reconstruction + self.judge(decoded, pictures).mean()
        if self.discriminator is None or self.step_count < self.settings.adversarial_start:
            return reconstruction
        adversarial = -self.discriminator(decoded).mean()
        weight = adaptive_weight(reconstruction, adversarial, self.model.backbone.last.weight)
        return reconstruction + ADVERSARIAL_WEIGHT * weight * adversarial

    def discriminate(self, real: Tensor, fake: Tensor) -> None:
        loss = hinge_discriminator_loss(self.discriminator(real), self.discriminator(fake))
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.discriminator_optimizer.step()

    def run(self, checkpoint: Path, progress: Progress = lambda part, figures: None) -> None:
        """Trains until the budget is spent; `checkpoint` is written now and then, at the end and on an interruption."""
        if checkpoint.exists():
            self.resume(checkpoint)
        last = last_saved = time.perf_counter()
        try:
            while self.progress < 1:
                figures = self.step()
                now = time.perf_counter()
                self.seconds += now - last
                last = now
                progress(self.progress, figures)
                if now - last_saved > SAVE_SECONDS:
                    self.save(checkpoint)
                    last = last_saved = time.perf_counter()
        finally:
            self.save(checkpoint)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def parts(self) -> list[tuple[str, nn.Module, torch.optim.Optimizer]]:
        found = [("", self.model, self.optimizer)]
        if self.discriminator is not None:
            found.append((".discriminator", self.discriminator, self.discriminator_optimizer))
        return found

    def save(self, path: Path) -> None:
        meta = {"settings": asdict(self.settings), "step_count": self.step_count, "seconds": self.seconds} | self.extra_meta
        # The model last: a checkpoint counts once its own file is there.
        for suffix, module, optimizer in reversed(self.parts()):
            save_checkpoint(path.with_name(path.stem + suffix + path.suffix), module, {}, optimizer, {}, {}, meta)

    def resume(self, path: Path) -> None:
        meta = read_meta(path)
        self.step_count, self.seconds = meta["step_count"], meta["seconds"]
        for suffix, module, optimizer in self.parts():
            load_checkpoint(path.with_name(path.stem + suffix + path.suffix), module, optimizer, {})
