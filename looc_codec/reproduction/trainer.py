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

SMALL_RATE, SMALL_DECAY = 1e-3, 0.4
"""Rate and share of the run over which it falls to nothing, of the small networks. The papers' code has 3e-4 and none; after 2,400 steps of 32
pictures of MNIST LooC 256 x 4 stands at 27.7 dB with that and at 29.9 with these and a start at clusters."""
PHOTO_RATE_PER_PICTURE = 4.5e-6
START_PICTURES = 512
"""Pictures whose latents the codebook starts at clusters of."""
MOST_START_POSITIONS = 1 << 14
REPORT_SECONDS = 0.5
CLOCK_STEPS = 20
"""Steps between readings of an accelerator's clock, which has to wait for it."""
LARGEST_ADAPTIVE_WEIGHT = 1e4
ADVERSARIAL_WEIGHT = 0.8
SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class TrainSettings:
    """How a row is trained and tested; the same for all rows of a table.

    One of `epochs` (fractions allowed), `steps` and `minutes` is given. `perceptual` (LPIPS) and `adversarial` concern
    photographs only; the discriminator starts at step `adversarial_start`. `limit` and `test_limit` keep the first so
    many training and test pictures. `rate` is the learning rate, which falls linearly to nothing over the last `decay` of the run. `start` is
    that of the codebook: "kmeans", at clusters of the first latents, or "released", as the papers' code has it.
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
    rate: float = SMALL_RATE
    decay: float = SMALL_DECAY
    start: str = "kmeans"


STARTS = ("kmeans", "released")


def readable(figures: dict[str, Tensor]) -> dict[str, float]:
    """A step's figures as numbers, PSNR in dB among them."""
    return {"loss": float(figures["loss"]), "psnr_db": -10 * math.log10(max(float(figures["squared_error"]), 1e-10))}


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
        if settings.start not in STARTS:
            raise ModelError(f"start {settings.start!r} is none of {', '.join(STARTS)}")
        betas = (0.5, 0.9) if photo else (0.9, 0.999)
        fused = device.partition(":")[0] in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], settings.rate, betas, fused=fused)
        self.step_count, self.seconds = 0, 0.0
        self.extra_meta: dict[str, Any] = {}
        self.variance = 1.0 if photo else batches.variance
        self.judge = lpips_network(device) if photo and settings.perceptual else None
        self.discriminator = PatchDiscriminator().to(device) if photo and settings.adversarial else None
        if self.discriminator is not None:
            self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), settings.rate, betas, fused=fused)

    @property
    def progress(self) -> float:
        """Part of the budget that is spent, 0..1."""
        if self.total_steps is not None:
            return min(1.0, self.step_count / self.total_steps)
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def set_rates(self) -> None:
        """The learning rate of the next step."""
        left = 1.0 if self.settings.decay == 0 else min(1.0, (1 - self.progress) / self.settings.decay)
        for _, _, optimizer in self.parts():
            for group in optimizer.param_groups:
                group["lr"] = self.settings.rate * left

    @torch.no_grad()
    def start_codebook(self) -> None:
        """Starts the codebook at clusters of the first batches' latents."""
        if self.settings.start != "kmeans":
            return
        latents, wanted = [], START_PICTURES
        for step in range(-(-START_PICTURES // self.settings.batch)):
            latents.append(self.model.backbone.encode(self.batches.at(step)[:wanted]).float())
            wanted -= len(latents[-1])
            if sum(latent[:, 0].numel() for latent in latents) >= MOST_START_POSITIONS:
                break
        self.model.quantizer.start_at(torch.cat(latents), torch.Generator().manual_seed(self.settings.seed))

    def step(self) -> dict[str, Tensor]:
        """One batch; returns the figures of the log, still on the device: to read them is to wait for it."""
        if self.step_count == 0:
            self.start_codebook()
        self.set_rates()
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
        return {"loss": loss.detach(), "squared_error": functional.mse_loss(decoded.detach(), pictures) / 4}

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
        last = last_saved = last_told = time.perf_counter()
        on_cpu = self.device == "cpu"
        try:
            while self.progress < 1:
                figures = self.step()
                if not on_cpu and self.step_count % CLOCK_STEPS == 0:
                    torch.cuda.synchronize()
                now = time.perf_counter()
                self.seconds += now - last
                last = now
                if now - last_told > REPORT_SECONDS or self.progress >= 1:
                    last_told = now
                    progress(self.progress, readable(figures))
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
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    # The fused step walks through memory, so moments must lie there as their parameters do, channels last.
                    if value.shape == parameter.shape:
                        state[key] = torch.empty_like(parameter).copy_(value)
