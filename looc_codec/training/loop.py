"""The training loop of the codec: one model for all rates, loss (R + lambda D) per quality.

Stage "continuous" trains with additive noise for the rate and rounding for the reconstruction; stage "codes" with the
entropy-constrained codes of the shared codebook, whose tables and codevectors it fits on the way (training/codes.py). Stage
"synthesis" trains the synthesis alone, on crops coded once as the encoder codes them (training/coded.py): files stay decodable and
look better, or are decoded with fewer multiplications (training/slim.py).
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from looc_codec.config import QUALITY_MAX, QUALITY_MIN
from looc_codec.format.constants import PATCH
from looc_codec.format.integers import Core
from looc_codec.data import PictureStore
from looc_codec.networks.distortion import distortion, mean_squared_error
from looc_codec.errors import ModelError
from looc_codec.networks.model import LoocModel
from looc_codec.training.checkpoint import load_checkpoint, save_checkpoint
from looc_codec.training.coded import CodedCrops
from looc_codec.training.codes import CodeFitter, has_triton
from looc_codec.training.draws import Draws
from looc_codec.training.loss import distortion_weight, require_metric
from looc_codec.training.parallel import Processes
from looc_codec.training.recording import Recorded
from looc_codec.training.soap import Soap
from looc_codec.training.validation import draw_curves, validate, write_samples
from looc_codec.networks.transforms import dct_basis

SOAP_ON_GPU = {"covariance_every": 4, "basis_every": 40}
"""Decompositions are what a GPU is slow at: every tenth step they took as long as the steps themselves (H200)."""
FIRST_PULL, PULLED_SHARE = 0.3, 0.5
"""In stage "synthesis" the target lies so far on the way from the teacher's pixels to the original ones at first, and is the original after so much of the run:
the teacher's errors are noise to a synthesis that has less of them to mend than it has itself."""
EDGE_WEIGHT = 0.25
"""Of pixels within 16 of the edge of a coded crop."""
CLOCK_STEPS = 10
"""Steps after which the processes of a run agree on the time spent; learning rates must be the same in all of them."""


@dataclass(frozen=True)
class TrainOptions:
    """What a run does; times in minutes, learning rates at their peak, shares as parts of the run.

    `record` replays steps as CUDA graphs where the device is a CUDA one. `coded_crops` are coded for stage "synthesis", at least a batch of them.
    """

    stage: str = "continuous"
    minutes: float | None = 30.0
    steps: int | None = None
    batch: int = 8
    crop: int = 192
    seed: int = 0
    transform_rate: float = 2e-4
    branch_rate: float = 1e-3
    prior_rate: float = 1.5e-3
    prior_only_share: float = 0.25
    warmup_steps: int = 100
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    shrink_low: float = 0.6
    save_minutes: float = 2.0
    log_every: int = 50
    cut_share: float = 0.04
    grey_share: float = 0.04
    coded_crops: int = 4096
    optimizer: str = "soap"
    metric: str = "mse"
    bf16: bool = False
    record: bool = True


def has_fast_bf16(device: str) -> bool:
    """Whether networks run faster in bfloat16 than in float32 there; a processor without its instructions is ten times slower in it."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device != "cpu" or (supported is not None and supported())


def measured_channel_order(store: PictureStore, count: int = 256) -> Tensor:
    """DCT channels from the highest to the lowest energy on `count` crops of the training pictures: `(768,)` int64."""
    generator = torch.Generator(store.pixels.device).manual_seed(1)
    crops = store.crops(count, min(128, store.smallest // PATCH * PATCH), generator) - 128
    latent = torch.nn.functional.conv2d(crops, dct_basis().to(crops.device), stride=PATCH)
    return latent.square().mean((0, 2, 3)).argsort(descending=True).cpu()


@torch.no_grad()
def start_scales_from_data(model: LoocModel, store: PictureStore, count: int = 64) -> None:
    """Starts the prior's log scale of each channel and quality at the channel's own spread, half of it predicted."""
    generator = torch.Generator(store.pixels.device).manual_seed(2)
    crops = store.crops(count, min(128, store.smallest // PATCH * PATCH), generator)
    anchors = model.config.quality_anchors
    for index, quality in enumerate(torch.linspace(QUALITY_MIN, QUALITY_MAX, anchors)):
        latent = model.analysis(crops, quality.expand(count).to(crops.device))
        spread = latent.std((0, 2, 3)).clamp_min(1e-3).log() - math.log(2)
        model.prior.quality_log_scale.table[index] = spread.clamp(-2.5, 3.5)


class Trainer:
    """Model, optimizer, EMA and counters of one run; `run` trains until the budget is spent or it is interrupted.

    Stage "codes" needs a fitted `codes`. Stage "synthesis" needs coded `crops` and the integer core that the model came with, which it keeps.
    """

    def __init__(self, model: LoocModel, store: PictureStore, options: TrainOptions, device: str = "cpu", codes: CodeFitter | None = None,
                 processes: Processes = Processes(), held_out: Tensor | None = None, kept: Core | None = None, crops: CodedCrops | None = None) -> None:
        if (options.minutes is None) == (options.steps is None):
            raise ModelError("give a training run either a number of minutes or a number of steps")
        require_metric(options.metric, options.crop)
        self.store, self.options, self.device, self.processes = store, options, device, processes
        self.held_out = None if held_out is None else held_out.to(device)
        self.model = model.to(device)
        for transform in (model.analysis, model.synthesis):
            transform.to(memory_format=torch.channels_last)
        self.codes, self.kept, self.crops = codes, kept, crops
        self.only_synthesis = options.stage == "synthesis"
        if self.only_synthesis and (crops is None or not kept):
            raise ModelError("stage synthesis needs coded crops and the integers that they were coded with")
        for name, parameter in model.named_parameters():
            # Details are fitted at the end of a run.
            if name.startswith("details."):
                parameter.requires_grad_(False)
            elif self.only_synthesis:
                parameter.requires_grad_(name.startswith("synthesis."))
        processes.share(parameter.detach() for parameter in model.parameters())
        groups = self.parameter_groups()
        if options.optimizer == "soap":
            self.optimizer = Soap(groups, **(SOAP_ON_GPU if device.startswith("cuda") else {}))
        elif options.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=device != "cpu")
        else:
            raise ModelError(f"there is no optimizer {options.optimizer}; choose soap or adamw")
        self.parameters = list(model.parameters())
        self.ema = {name: value.detach().clone() for name, value in model.named_parameters()}
        # How far the average moves in a step. On the device, where replayed updates read it.
        self.ema_weight = torch.zeros((), device=device)
        self.draws = Draws(store, options, device, options.seed + processes.rank)
        torch.manual_seed(options.seed + processes.rank)
        self.step_count, self.seconds_used, self.pictures_seen = 0, 0.0, 0
        self.passes = {prior_only: partial(self.passed, prior_only) for prior_only in (False, True)}
        # Recorded updates by the pass whose gradients they take and by what the optimizer does in them.
        self.updates: dict[tuple, Recorded[None]] = {}
        # Where replays of each pass write the gradients, and the pass whose replay the last step was, if it was one.
        self.gradients: dict[bool, list[Tensor | None]] = {}
        self.replayed: bool | None = None
        if device.startswith("cuda"):
            torch.backends.cudnn.benchmark = True
            # Trials of ten algorithms for each convolution seem to have cost half a minute on an H200.
            torch.backends.cudnn.benchmark_limit = 4
            self.use_kernels()
            # The search of wider codevectors makes the host wait, which a recording cannot.
            if options.record and (codes is None or codes.dense):
                self.passes = {prior_only: Recorded(passes) for prior_only, passes in self.passes.items()}

    def use_kernels(self) -> None:
        """Gives the model the kernels that training has for a CUDA device. Imported here, because not every build of PyTorch brings Triton."""
        if not has_triton():
            return
        from looc_codec.training import fused_integers, fused_layers, fused_prior

        prior, codes = self.model.prior, self.codes
        prior.derive_integers, prior.joint = fused_integers.derive, None
        if self.options.bf16:
            for transform in (self.model.analysis, self.model.synthesis):
                fused_layers.fuse(transform)
            if codes is None or (codes.dense and prior.config.codevector_dim == 2):
                book, lagrangian = (None, 0.0) if codes is None else (codes.book, codes.lagrangian)
                prior.fused_rates = fused_prior.FusedRates(prior, book, lagrangian)

    def parameter_groups(self) -> list[dict]:
        options, groups = self.options, {"linear": [], "branch": [], "prior": []}
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        for name, parameter in trained.items():
            kind = "prior" if name.startswith("prior.") else "linear" if name.split(".")[1] in ("linear", "log_gain", "log_step") else "branch"
            groups[kind].append(parameter)
        rates = {"linear": options.transform_rate, "branch": options.branch_rate, "prior": options.prior_rate}
        return [{"params": groups[kind], "peak": rates[kind], "lr": rates[kind], "kind": kind} for kind in groups if groups[kind]]

    # --- schedule ---------------------------------------------------------------------------------------------------

    def progress(self) -> float:
        """Part of the budget that is spent, 0..1."""
        if self.options.steps is not None:
            return min(1.0, self.step_count / self.options.steps)
        return min(1.0, self.seconds_used / (60 * self.options.minutes))

    def set_rates(self, progress: float) -> None:
        options = self.options
        share = options.prior_only_share
        for group in self.optimizer.param_groups:
            start = 0.0 if group["kind"] == "prior" else share
            local = (progress - start) / (1 - start) if start < 1 else 0.0
            warm = min(1.0, (self.step_count + 1) / options.warmup_steps) if start == 0 else min(1.0, local * 30)
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, local)))) * 0.99 + 0.01
            group["lr"] = group["peak"] * warm * cosine if local >= 0 else 0.0

    # --- one step ---------------------------------------------------------------------------------------------------

    def inputs(self) -> tuple[Tensor, ...]:
        """What the next pass takes: coded crops in stage "synthesis", otherwise pixels, qualities and how many groups are kept."""
        if self.crops is None:
            pixels, quality = self.draws.batch()
            return pixels, quality, self.draws.kept_groups(len(quality), len(self.model.config.groups))
        options = self.options
        batch = self.crops.batch(self.crops.chosen(self.step_count, options.batch, options.seed + self.processes.rank), self.device)
        pull = FIRST_PULL + (1 - FIRST_PULL) * min(1.0, self.progress() / PULLED_SHARE)
        return batch.latent, batch.quality, batch.bpp, batch.error, torch.lerp(batch.teacher, batch.original, pull), batch.original

    def joint_step(self, pixels: Tensor, quality: Tensor, kept_groups: Tensor, prior_only: bool) -> dict[str, Tensor]:
        """Loss, figures and coded residuals of one batch. With `prior_only` the transforms stay as they are and only rate is trained."""
        model, samples = self.model, pixels.shape[2] * pixels.shape[3]
        autocast = torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.options.bf16)
        with autocast, torch.set_grad_enabled(not prior_only):
            latent = model.analysis(pixels, quality).float()
        with autocast:
            result = model.prior(latent, quality, None if self.codes is None else self.codes.quantise, kept_groups)
        bpp = result["bits"] / samples
        if prior_only:
            loss, mse = bpp, torch.zeros_like(bpp)
        else:
            with autocast:
                decoded = model.synthesis(result["latent_hat"], quality).float()
            mse = mean_squared_error(decoded.detach(), pixels)
            loss = bpp + distortion_weight(model.config, quality) * distortion(self.options.metric, decoded, pixels)
        # Dividing by the loss's own size lets all rates weigh alike in the gradient.
        objective = (loss / loss.detach().clamp_min(0.02)).mean()
        coded = {name: result[name].detach() for name in ("residual", "log_scale")}
        return {"objective": objective, "loss": loss.detach(), "bpp": bpp.detach(), "mse": mse.detach()} | coded

    def synthesis_step(self, latent: Tensor, quality: Tensor, bpp: Tensor, error: Tensor, target: Tensor, original: Tensor) -> dict[str, Tensor]:
        """Figures of one batch of coded crops, whose synthesis is to come close to `target` `(B, 3, H, W)`; each crop weighs as in the log of R + lambda D with the teacher's `error`."""
        model, metric = self.model, self.options.metric
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.options.bf16):
            decoded = model.synthesis(latent, quality).float()
        weight = distortion_weight(model.config, quality)
        away = distortion(metric, decoded, target)
        if min(target.shape[2:]) > 2 * PATCH and metric == "mse":
            # What lies at the edge of a crop does so much more seldom in a picture.
            away = EDGE_WEIGHT * away + (1 - EDGE_WEIGHT) * mean_squared_error(decoded[:, :, PATCH:-PATCH, PATCH:-PATCH], target[:, :, PATCH:-PATCH, PATCH:-PATCH])
        objective = (weight * away / (bpp + weight * error).clamp_min(0.02)).mean()
        mse = mean_squared_error(decoded.detach(), original)
        return {"objective": objective, "loss": bpp + weight * mse, "bpp": bpp, "mse": mse}

    def passed(self, prior_only: bool, *inputs: Tensor) -> dict[str, Tensor]:
        """Forward and backward pass of one batch of `inputs`, which leave gradients and give the figures of `joint_step` or `synthesis_step`."""
        self.optimizer.zero_grad(set_to_none=True)
        figures = self.joint_step(*inputs, prior_only) if self.crops is None else self.synthesis_step(*inputs)
        figures.pop("objective").backward()
        return figures

    def step(self) -> dict[str, Tensor]:
        progress = self.progress()
        self.set_rates(progress)
        prior_only = progress < self.options.prior_only_share and not self.only_synthesis
        figures = self.passes[prior_only](*self.inputs())
        if self.options.stage == "codes":
            self.codes.observe(figures)
        replayed = isinstance(self.passes[prior_only], Recorded) and self.passes[prior_only].recorded
        self.point_gradients(prior_only if replayed else None)
        self.processes.average(parameter.grad for parameter in self.parameters if parameter.grad is not None)
        self.update(prior_only, replayed)
        self.step_count += 1
        self.pictures_seen += self.options.batch * self.processes.count
        return figures

    def point_gradients(self, replayed: bool | None) -> None:
        """Gives the parameters the gradients that the replayed pass (`prior_only` or not) has written; the other pass may have left its own.

        Without a replay, None, the pass itself has set them.
        """
        if replayed is not None:
            if replayed not in self.gradients:
                # This step has recorded the pass and has left there the gradients which replays write.
                self.gradients[replayed] = [parameter.grad for parameter in self.parameters]
            elif replayed != self.replayed:
                for parameter, gradient in zip(self.parameters, self.gradients[replayed], strict=True):
                    parameter.grad = gradient
        self.replayed = replayed

    def update(self, prior_only: bool, replayed: bool) -> None:
        """Step of weights and averages from the gradients; recorded, too, if a recorded pass has `replayed` them to where they always are."""
        decay = min(self.options.ema_decay, (2 + self.step_count) / (11 + self.step_count))
        self.ema_weight.fill_(1 - decay)
        if not isinstance(self.optimizer, Soap):
            self.change_weights(self.optimizer.step)
            return
        plan = self.optimizer.plan()
        self.optimizer.take_rates()
        change = partial(self.change_weights, partial(self.optimizer.work, plan))
        if replayed and self.optimizer.recordable(plan):
            # One trial, because the work of this plan may not have been done before.
            self.updates.setdefault((prior_only, plan), Recorded(change, trials=1))()
        else:
            change()
        self.optimizer.count(plan)

    def change_weights(self, optimize: Callable[[], None]) -> None:
        """Clips the gradients, steps and averages: all that is done on the device after the pass."""
        for group in self.optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], self.options.clip_norm)
        optimize()
        with torch.no_grad():
            averages = list(self.ema.values())
            steps = torch._foreach_sub(self.parameters, averages)
            torch._foreach_mul_(steps, self.ema_weight)
            torch._foreach_add_(averages, steps)

    # --- run --------------------------------------------------------------------------------------------------------

    def run(self, folder: Path, report: Callable[[dict], None] | None = None) -> bool:
        """Trains until the budget is spent; True when finished, False when interrupted by Ctrl-C.

        Either way `folder` holds a valid checkpoint.safetensors and log.csv afterwards.
        """
        folder.mkdir(parents=True, exist_ok=True)
        options, sums, finished, diverged = self.options, {}, False, False
        last = last_save = time.perf_counter()
        counted, counted_since, own_seconds = 0, last, self.seconds_used
        try:
            while self.progress() < 1:
                figures = self.step()
                for key in ("loss", "bpp", "mse"):
                    sums[key] = sums.get(key, 0) + figures[key].mean()
                counted += len(figures["bpp"]) * self.processes.count
                now = time.perf_counter()
                own_seconds += now - last
                last = now
                if self.step_count % CLOCK_STEPS == 0 or self.processes.count == 1:
                    self.seconds_used = self.processes.agree(own_seconds, self.device)
                if self.step_count % options.log_every == 0:
                    means = {key: float(value) / options.log_every for key, value in sums.items()}
                    sums = {}
                    if not math.isfinite(means["loss"]):
                        diverged = True
                        raise ModelError(f"training diverged before step {self.step_count}; the last checkpoint in {folder} is from before: use a lower --rate")
                    row = {
                        "step": self.step_count, "seconds": round(self.seconds_used, 1), "pictures": self.pictures_seen,
                        "loss": round(means["loss"], 4), "bpp": round(means["bpp"], 4),
                        "psnr_db": round(10 * math.log10(255**2 / means["mse"]), 3) if means["mse"] > 0 else "",
                        "images_per_second": round(counted / (now - counted_since), 1),
                    }
                    counted, counted_since = 0, now
                    if self.processes.first:
                        self.log(folder / "log.csv", row)
                    if report is not None:
                        report(row | {"progress": self.progress()})
                if self.processes.first and now - last_save > 60 * options.save_minutes:
                    self.save(folder)
                    self.show(folder)
                    last_save = time.perf_counter()
            finished = True
        except KeyboardInterrupt:
            pass
        finally:
            # Also when the process is asked to end (SIGTERM becomes SystemExit): hours of training are not lost.
            if self.processes.first and not diverged:
                self.save(folder)
        if finished and self.processes.first:
            self.show(folder)
        return finished

    def show(self, folder: Path) -> None:
        """Validation row, sample reconstructions and curves of the averaged weights as they stand."""
        if self.held_out is not None:
            weights = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
            self.take(self.ema)
            self.log(folder / "validation.csv", {"step": self.step_count, "seconds": round(self.seconds_used, 1)} | validate(self.model, self.held_out, self.options.metric))
            write_samples(self.model, self.held_out, folder / "samples.png")
            self.take(weights)
        if (folder / "log.csv").exists():
            draw_curves(folder)

    @torch.no_grad()
    def take(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])

    @staticmethod
    def log(path: Path, row: dict) -> None:
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def save(self, folder: Path) -> None:
        meta = {
            "config": self.model.config.to_dict(), "options": asdict(self.options), "step_count": self.step_count,
            "seconds_used": self.seconds_used, "pictures_seen": self.pictures_seen,
        }
        extra = self.codes.state() if self.options.stage == "codes" else {}
        if self.only_synthesis:
            extra = {f"core.{name}": torch.from_numpy(value.copy()) for name, value in self.kept.items()}
        save_checkpoint(folder / "checkpoint.safetensors", self.model, self.ema, self.optimizer, self.draws.generators, extra, meta)

    def resume(self, path: Path, meta: dict) -> None:
        """Goes on from a checkpoint of the same run: weights, moments, EMA, random states and counters."""
        ema, extra = load_checkpoint(path, self.model, self.optimizer, self.draws.generators)
        for name, value in self.ema.items():
            value.copy_(ema[name])
        # The state of the optimizer lies elsewhere now.
        self.updates.clear()
        self.step_count, self.seconds_used, self.pictures_seen = meta["step_count"], meta["seconds_used"], meta["pictures_seen"]
        if self.options.stage == "codes":
            self.codes.restore(extra)
