"""Questions about the design put to a small LooC-VAE: short runs of equal steps, one question each.

    python tools/design_search.py --data DIR --validation DIR [--only NAME ...] [--work DIR] [--out docs/results/design_search.json]
    python tools/design_search.py --table

A run is what `looc train` does in small: stage "continuous" from the DCT for half of the steps, stage "codes" from its averaged weights for
the rest, then codebook and tables fitted to training crops. The middle 256 x 256 of each validation picture is then coded with the range
coder at five qualities. BD-rate in PSNR is against the run named "base", per picture, then the mean. Variants that concern the second half
only start from the base's first half. Every result is written at once; a rerun leaves out what the file has.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from looc_codec import codec, prior  # noqa: E402
from looc_codec.config import LoocConfig  # noqa: E402
from looc_codec.data import PictureStore, load_pictures  # noqa: E402
from looc_codec.format.entropy import SegmentEncoder  # noqa: E402
from looc_codec.metrics import CurveError, bd_rate_percent, psnr_db  # noqa: E402
from looc_codec.model import LoocModel  # noqa: E402
from looc_codec.prior import CHECKERBOARD, LATENT_ONE, PYRAMID, round_half_up, unit_classes  # noqa: E402
from looc_codec.quantizers import codebook  # noqa: E402
from looc_codec.quantizers.codebook import ESCAPE_FACTOR, HIGH_RATE_LAMBDA, SharedCodebook  # noqa: E402
from looc_codec.quantizers.gradients import rotated, straight_through  # noqa: E402
from looc_codec.quantizers.units import latent_of, units_of  # noqa: E402
from looc_codec.training import codes as training_codes  # noqa: E402
from looc_codec.training.codes import DIGIT_FACTORS  # noqa: E402
from looc_codec.training.loop import Trainer, TrainOptions, measured_channel_order, start_scales_from_data  # noqa: E402
from looc_codec.training.run import fit_codes  # noqa: E402

STEPS = 160
"""Of each half of a run."""
BASE = LoocConfig(
    name="design search", channels=128, groups=(16, 48, 64), prior_width=48, prior_depth=1, ratio_classes=5, analysis_widths=(64, 32),
    analysis_blocks=(1, 1), synthesis_widths=(96, 48, 32), synthesis_blocks=(2, 1, 1), trellis_states=1,
)  # fmt: skip
OPTIONS = TrainOptions(minutes=None, steps=STEPS, batch=8, crop=128, warmup_steps=30)
PRIOR_ONLY_SHARE = 0.16
"""Of a first half, as in `looc train` without --init."""
QUALITIES = (10, 30, 50, 70, 90)
SIDE = 256
BATCHES, FIT_ROUNDS = 12, 3
"""Batches of 8 crops for the last codebook; a stage "codes" begins with one of half as many, and twice as many more are counted for the last tables."""

# --- hooks: what a variant does to a fresh model -------------------------------------------------------------------------


def passing(rule: Callable[[Tensor, Tensor, Tensor, SharedCodebook], Tensor]) -> Callable[[LoocModel], None]:
    """Another gradient through the choice of codes: `rule(units, chosen, rows, book)` gives `chosen` `(n, d*)` in steps as value."""

    def hook(model: LoocModel) -> None:
        rates, dim = model.prior.rates, model.config.codevector_dim

        def wrapped(latent: Tensor, quality: Tensor, quantise: Callable | None = None, kept_groups: Tensor | None = None) -> dict[str, Tensor]:
            result = rates(latent, quality, quantise, kept_groups)
            if quantise is None or not latent.requires_grad:
                return result
            mean = (latent - result["residual"] / LATENT_ONE).detach()
            units, chosen = units_of(latent - mean, dim), units_of(result["latent_hat"].detach() - mean, dim)
            rows = unit_classes(units_of(result["log_scale"].detach(), dim), model.config)
            return result | {"latent_hat": mean + latent_of(rule(units, chosen, rows, model.codebook), latent.shape)}

        model.prior.rates = wrapped

    return hook


def soft(temperature: float) -> Callable[[Tensor, Tensor, Tensor, SharedCodebook], Tensor]:
    """The gradient of the mean codevector under softmax(-cost / temperature), cost in squared steps. Units of two digits and escaped
    ones, a few in a hundred, pass straight through. The shortlist stands for the whole codebook."""

    def rule(units: Tensor, chosen: Tensor, rows: Tensor, book: SharedCodebook) -> Tensor:
        narrow = ((book.digit_factor[rows] <= 1) & (chosen.norm(dim=1) <= book.reach)).nonzero().flatten()
        part = units[narrow]
        short = book.shortlists[book.cells(part.detach())]
        cost = (part[:, None] - book.steps[short]).square().sum(-1) + HIGH_RATE_LAMBDA * book.bits_of(rows[narrow][:, None], short)
        # Zero stands at the end of every shortlist, and near zero among the nearest as well.
        twice = (short[:, :-1] == 0).any(1)
        cost = torch.cat([cost[:, :-1], torch.where(twice, torch.inf, cost[:, -1])[:, None]], 1)
        mean = (torch.softmax(-cost / temperature, 1)[..., None] * book.steps[short]).sum(1)
        return straight_through(units.index_copy(0, narrow, mean), chosen)

    return rule


def low_rank(rank: int) -> Callable[[LoocModel], None]:
    """Adds U V^T (latents of earlier groups at the position) to a group's means, in floats. U starts at zero.

    The latents are read back off the companded context, 3% coarse, which is what every level is given.
    """

    def hook(model: LoocModel) -> None:
        inner, groups = model.prior.step, model.config.groups
        before = [sum(groups[:index]) for index in range(len(groups))]
        model.prior.low_rank_outputs = nn.ParameterList(torch.zeros(group, rank) for group in groups[1:])
        model.prior.low_rank_inputs = nn.ParameterList(torch.randn(count, rank) / count**0.5 for count in before[1:])

        def step(group: int, level: int, quality_row: Tensor, context: Tensor, group_hat: Tensor, lattice=None, extent: tuple[int, int] = (0, 0)):
            mean, log_scale = inner(group, level, quality_row, context, group_hat, lattice, extent)
            if group == 0:
                return mean, log_scale
            known = context[:, : before[group]]
            if lattice is not None:
                known = lattice.of(known)[:, :, : mean.shape[2], : mean.shape[3]]
            latents = known.sign() * torch.expm1(known.abs() * 2 / prior.ACTIVATION_ONE) * LATENT_ONE
            weight = model.prior.low_rank_outputs[group - 1] @ model.prior.low_rank_inputs[group - 1].T
            return mean + round_half_up(F.conv2d(latents, weight[:, :, None, None])), log_scale

        model.prior.step = step

    return hook


def blurred(model: LoocModel) -> None:
    """The decoder's side of beta = 2: the dequantised grid as it is after bilinear upsampling and pooling, (1 6 1)/8 along each axis."""
    inner, window = model.synthesis.forward, torch.tensor([1.0, 6.0, 1.0]) / 8

    def forward(latent: Tensor, quality: Tensor, *margins: tuple) -> Tensor:
        channels = latent.shape[1]
        padded = F.pad(latent, (1, 1, 1, 1), mode="replicate")
        return inner(F.conv2d(padded, (window[:, None] * window).expand(channels, 1, 3, 3), groups=channels), quality, *margins)

    model.synthesis.forward = forward


def upsampled(model: LoocModel) -> None:
    """The encoder's side of beta = 2: the latent is interpolated to twice the grid before it is quantised and pooled after."""
    analysis, synthesis = model.analysis.forward, model.synthesis.forward
    model.analysis.forward = lambda pixels, quality: F.interpolate(analysis(pixels, quality), scale_factor=2, mode="bilinear", align_corners=False)
    model.synthesis.forward = lambda latent, quality, *margins: synthesis(F.avg_pool2d(latent, 2), quality, *margins)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal by Newton-Schulz (Jordan et al. 2024), kernels flattened to (outputs, rest); Adam for the rest.

    Steps are 0.2 sqrt(longer side) times as long, about the size of Adam's (Liu et al. 2025), so learning rates mean the same.
    """

    def __init__(self, groups: list[dict]) -> None:
        super().__init__(groups, dict(lr=1e-3))

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
                state["step"] += 1
                if parameter.dim() == 4 and parameter.shape[1] > 1:
                    state["mean"].mul_(0.95).add_(parameter.grad)
                    moment = (parameter.grad + 0.95 * state["mean"]).reshape(len(parameter), -1)
                    change = orthogonalised(moment) * 0.2 * max(moment.shape) ** 0.5
                else:
                    state["mean"].lerp_(parameter.grad, 0.1)
                    state["square"].lerp_(parameter.grad.square(), 0.02)
                    root = (state["square"] / (1 - 0.98 ** state["step"])).sqrt() + 1e-8
                    change = state["mean"] / (1 - 0.9 ** state["step"]) / root
                parameter.sub_(change.reshape(parameter.shape), alpha=group["lr"])


def orthogonalised(matrix: Tensor) -> Tensor:
    """Nearly U V^T of a matrix U S V^T, by five rounds of the quintic iteration."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        square = wide @ wide.T
        wide = 3.4445 * wide + (-4.775 * square + 2.0315 * square @ square) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


@functools.cache
def compact_lattice(dim: int, size: int) -> Tensor:
    """`codebook.lattice` of the same points, kept, and from a cube that is no larger than needed: at d* = 8 that one lists 43 million."""
    reach, count = 0, 0
    while count < size:
        reach += 1
        points = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * dim).view(-1, dim).float()
        count = int((points.norm(dim=1) <= reach).sum())
    return points[points.norm(dim=1).argsort(stable=True)[:size]].clone()


# --- variants ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """One run, and what differs from the base: fields of the config, stages, factors on learning rates and on the lambda of the codes, and so on.

    `fresh` variants make a first half of their own, all others begin with the base's. `late` options hold for the last third of all steps. `average`
    takes weights that the base kept beside its own. `seconds_of_base` gives the second half the base's CPU time instead of its steps. `escape` is
    the factor of escaped units, and other digits have smaller ones: a book must reach half of a factor, or there are holes between its cells.
    """

    question: str
    name: str
    config: dict = field(default_factory=dict)
    fresh: bool = False
    stages: tuple[str, str] = ("continuous", "codes")
    seed: int = 0
    late: dict = field(default_factory=dict)
    rate: float = 1.0
    lagrangian: float = 1.0
    optimizer: str = "soap"
    seconds_of_base: bool = False
    average: float | None = None
    escape: int = ESCAPE_FACTOR
    hook: Callable[[LoocModel], None] | None = None
    levels: Callable[[int], tuple] = prior.levels_of_group

    @property
    def key(self) -> str:
        """Its name among the results."""
        return self.name if self.question == "noise" else f"{self.question}: {self.name}"


AVERAGES = (0.0, 0.9, 0.97, 0.99)
"""Decays of averages that the base keeps; 0 is the last weights."""


def books(*sizes: tuple[int, int], average: float | None = None, escape: int = ESCAPE_FACTOR) -> list[Variant]:
    """Other books in the second half or, with an `average`, only fitted to those weights of the base."""
    notes = (", only fitted" if average else "") + (f", factors up to {escape}" if escape != ESCAPE_FACTOR else "")
    return [
        Variant("d* x K x m", f"d* = {dim}, K = {size}, m = {BASE.channels // dim}{notes}", average=average, escape=escape,
                config={"codevector_dim": dim, "codebook_size": size, "ratio_classes": BASE.ratio_classes if dim == 2 else 1})
        for dim, size in sizes
    ]


VARIANTS = [
    Variant("noise", "base"),
    Variant("noise", "second half, seed 1", seed=1),
    Variant("noise", "second half, seed 2", seed=2),
    Variant("noise", "both halves, seed 1", fresh=True, seed=1),
    Variant("gradient", "rotation", hook=passing(lambda units, chosen, rows, book: rotated(units, chosen))),
    Variant("gradient", "soft, temperature 0.5", hook=passing(soft(0.5))),
    Variant("gradient", "soft, temperature 0.1", hook=passing(soft(0.1))),
    *[Variant("ECVQ factor in training", f"{factor:g}", lagrangian=factor) for factor in (0.0, 0.5, 1.5)],
    Variant("stages", "all continuous", stages=("continuous", "continuous")),
    Variant("stages", "all codes", stages=("codes", "codes"), fresh=True),
    *books((1, 256), (2, 256), (2, 4096), (4, 1024)),
    *books((2, 256), escape=17),
    *books((4, 4096), escape=9, average=0.97),
    *books((8, 4096), escape=5, average=0.97),
    Variant("d* x K x m", "d = 96", {"channels": 96, "groups": (16, 48, 32)}, fresh=True),
    Variant("d* x K x m", "d = 192", {"channels": 192, "groups": (16, 48, 64, 64)}, fresh=True),
    Variant("trunk", "blocks at 1/16", {"synthesis_widths": (152, 24, 12), "synthesis_blocks": (5, 0, 0)}, fresh=True),
    Variant("trunk", "blocks at 1/4", {"synthesis_widths": (48, 32, 32), "synthesis_blocks": (1, 0, 3)}, fresh=True),
    Variant("order", "checkerboard in all groups", fresh=True, levels=lambda index: CHECKERBOARD),
    Variant("order", "pyramid in all groups", fresh=True, levels=lambda index: PYRAMID),
    Variant("order", "groups 64, 64", {"groups": (64, 64)}, fresh=True),
    Variant("order", "groups 16, 16, 32, 64", {"groups": (16, 16, 32, 64)}, fresh=True),
    Variant("order", "one group", {"groups": (128,)}, fresh=True),
    Variant("optimizer", "AdamW", optimizer="adamw", seconds_of_base=True),
    Variant("optimizer", "AdamW, rates x 2.5", optimizer="adamw", rate=2.5, seconds_of_base=True),
    Variant("optimizer", "Muon", optimizer="muon", seconds_of_base=True),
    Variant("optimizer", "Muon, rates x 2.5", optimizer="muon", rate=2.5, seconds_of_base=True),
    Variant("optimizer", "SOAP, rates x 2.5", rate=2.5),
    Variant("optimizer", "AdamW, rates x 6", optimizer="adamw", rate=6.0, seconds_of_base=True),
    Variant("optimizer", "SOAP, rates x 6", rate=6.0),
    *[Variant("average", "last weights" if decay == 0 else f"decay {decay}", average=decay) for decay in AVERAGES],
    Variant("crop", "256 at the end", late={"crop": 256, "batch": 2}),
    Variant("crop", "192 at the end", late={"crop": 192, "batch": 4}),
    Variant("low rank", "rank 8", hook=low_rank(8)),
    Variant("beta", "blur in the decoder", hook=blurred),
    Variant("beta", "twice the grid in the encoder", hook=upsampled, seconds_of_base=True),
]

# --- runs ----------------------------------------------------------------------------------------------------------------


class Run(Trainer):
    """A half of a run: equal steps, or, where `cpu_seconds` is given, equal CPU time (of this process, so pauses do not count)."""

    def __init__(self, *arguments, cpu_seconds: float | None = None, late: dict, late_from: int, averages: tuple[float, ...] = (), **keywords) -> None:
        super().__init__(*arguments, **keywords)
        self.started, self.cpu_seconds, self.late, self.late_from = time.process_time(), cpu_seconds, late, late_from
        self.kept = {decay: {name: value.clone() for name, value in self.ema.items()} for decay in averages}

    def progress(self) -> float:
        if self.cpu_seconds is None:
            return super().progress()
        return min(1.0, (time.process_time() - self.started) / self.cpu_seconds)

    def train(self) -> float:
        """All steps; returns the CPU seconds they took."""
        while self.progress() < 1:
            if self.late and self.step_count == self.late_from:
                self.options = dataclasses.replace(self.options, **self.late)
            self.step()
            for decay, average in self.kept.items():
                for name, parameter in self.model.named_parameters():
                    average[name].lerp_(parameter.detach(), 1 - decay)
        return time.process_time() - self.started


class Search:
    """Pictures, the file of results and the folder of weights that variants share."""

    def __init__(self, data: Path, validation: Path, work: Path, out: Path, limit: int, steps: int, batches: int) -> None:
        self.store = PictureStore(load_pictures(data, min_side=SIDE, limit=limit, workers=1))
        self.work, self.out, self.steps, self.batches = work, out, steps, batches
        self.order = measured_channel_order(self.store)
        self.pictures = {}
        for path in sorted(validation.glob("*.png")):
            rgb = codec.images.read_picture(path).rgb
            top, left = (rgb.shape[0] - SIDE) // 2, (rgb.shape[1] - SIDE) // 2
            self.pictures[path.stem] = rgb[top : top + SIDE, left : left + SIDE]
        self.results = read_results(out)

    def built(self, variant: Variant, weights: dict[str, Tensor] | None = None) -> LoocModel:
        """A model of the variant, started from the DCT or from the weights given."""
        torch.manual_seed(variant.seed)
        # Kept positions belong to the order of another variant.
        prior.levels_of_group = variant.levels
        prior.level_positions.cache_clear()
        codebook.ESCAPE_FACTOR = training_codes.ESCAPE_FACTOR = variant.escape
        training_codes.DIGIT_FACTORS = tuple(factor for factor in DIGIT_FACTORS if factor < variant.escape)
        model = LoocModel(dataclasses.replace(BASE, **variant.config), self.order)
        if weights is None:
            start_scales_from_data(model, self.store)
        if variant.hook is not None:
            variant.hook(model)
        if weights is not None:
            missing = model.load_state_dict(weights, strict=False)
            assert not missing.unexpected_keys and all("low_rank" in name for name in missing.missing_keys), missing
        return model

    def fitted(self, model: LoocModel, **sizes: int):
        return fit_codes(model, self.store, "cpu", lambda kind, row: None, crop=OPTIONS.crop, rounds=FIT_ROUNDS, **sizes)

    def half(self, variant: Variant, number: int, weights: dict[str, Tensor] | None) -> tuple[Run, float]:
        """Trains half 0 or 1 of a variant from weights; the run, whose `ema` holds the result, and its CPU seconds."""
        rates = {name: getattr(OPTIONS, name) * variant.rate for name in ("transform_rate", "branch_rate", "prior_rate")}
        options = dataclasses.replace(OPTIONS, steps=self.steps, stage=variant.stages[number], seed=2 * variant.seed + number,
                                      prior_only_share=0.0 if number else PRIOR_ONLY_SHARE, optimizer=variant.optimizer.replace("muon", "adamw"), **rates)
        model, codes = self.built(variant, weights), None
        if options.stage == "codes":
            codes = self.fitted(model, batches=max(1, self.batches // 2))
            codes.lagrangian = variant.lagrangian * HIGH_RATE_LAMBDA
        seconds = self.results["base"]["second_half_seconds"] if variant.seconds_of_base and number else None
        run = Run(model, self.store, options, "cpu", codes, cpu_seconds=seconds, late=variant.late if number else {}, late_from=self.steps // 3,
                  averages=AVERAGES if variant.name == "base" and number else ())
        if variant.optimizer == "muon":
            run.optimizer = Muon(run.parameter_groups())
        return run, run.train()

    def weights(self, variant: Variant) -> tuple[dict[str, Tensor], dict]:
        """Averaged weights of a trained variant, and figures of its training."""
        if variant.average is not None:
            return load_file(self.work / f"average-{variant.average}.safetensors"), {"second_half_steps": self.steps}
        first, seconds = self.work / "first.safetensors", 0.0
        if variant.fresh or not first.exists():
            run, seconds = self.half(variant, 0, None)
            start = run.ema
            if not variant.fresh:
                save(start, first)
        else:
            start = load_file(first)
        run, second_seconds = self.half(variant, 1, start)
        for decay, average in run.kept.items():
            save(average, self.work / f"average-{decay}.safetensors")
        figures = {"first_half_seconds": round(seconds, 1), "second_half_seconds": round(second_seconds, 1)}
        return run.ema, figures | {"second_half_steps": run.step_count, "second_half_crops": run.pictures_seen}

    def run(self, variant: Variant) -> dict:
        weights, figures = self.weights(variant)
        model = self.built(variant, weights)
        started = time.process_time()
        self.fitted(model, batches=self.batches, more=2 * self.batches)
        figures |= {"fit_seconds": round(time.process_time() - started, 1), "mac_per_pixel": macs(model)}
        figures["parameters"] = sum(value.numel() for value in model.parameters())
        model.freeze_core()
        model.eval().requires_grad_(False)
        started = time.process_time()
        figures["points"] = {name: [self.point(model, rgb, quality) for quality in QUALITIES] for name, rgb in self.pictures.items()}
        figures["coding_seconds"] = round(time.process_time() - started, 1)
        result = {"question": variant.question, "config": variant.config} | figures
        self.results = read_results(self.out) | {variant.key: result}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in self.results.items())
        self.out.write_text(f"{{\n{rows}\n}}\n")
        return result

    @torch.inference_mode()
    def point(self, model: LoocModel, rgb, quality: int) -> tuple[float, float, float]:
        """Bits per pixel of the payload, PSNR in dB, and bits per pixel that the tables promise. The networks are called as in `codec.analyse` and
        `codec.synthesise` for a picture of one tile, so that a hook may have another grid than theirs."""
        level, table_bits = torch.tensor([float(quality)]), 0.0

        class Counting(SegmentEncoder):
            def append(self, symbols, rows, counts=None) -> None:
                nonlocal table_bits
                table_bits += float(model.codebook.bits[rows, symbols].sum(dtype=torch.float64))
                super().append(symbols, rows, counts)

        codec.SegmentEncoder = Counting
        pixels = torch.tensor(rgb).permute(2, 0, 1)[None].float().contiguous(memory_format=torch.channels_last)
        segments, _, coded = codec.encode_latent(model.analysis(pixels, level)[0], quality, model)
        decoded = model.synthesis((coded.float() / LATENT_ONE)[None].contiguous(memory_format=torch.channels_last), level)[0]
        decoded = decoded.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        bits = 8 * sum(map(len, segments))
        return round(bits / SIDE**2, 6), round(psnr_db(rgb, decoded), 5), round(table_bits / SIDE**2, 6)


@torch.no_grad()
def macs(model: LoocModel) -> dict[str, int]:
    """Multiplications per pixel of each network; the prior's at the positions that the codec asks for."""
    from torch.utils.flop_counter import FlopCounterMode

    quality = torch.tensor([50.0])
    with FlopCounterMode(display=False) as analysis:
        latent = model.analysis(torch.zeros(1, 3, SIDE, SIDE), quality)
    with FlopCounterMode(display=False) as synthesis:
        model.synthesis(latent, quality)
    total = 0
    for index, nets in enumerate(model.prior.nets):
        for net, mask in zip(nets, prior.level_masks(prior.levels_of_group(index), *latent.shape[2:]), strict=True):
            layers = [module for module in net.modules() if isinstance(module, prior.IntegerConv2d)]
            total += int(mask.sum()) * sum(layer.weight.numel() for layer in layers)
    counts = {"analysis": analysis.get_total_flops() / 2, "synthesis": synthesis.get_total_flops() / 2, "prior": total}
    return {name: round(count / SIDE**2) for name, count in counts.items()}


# --- results -------------------------------------------------------------------------------------------------------------


def save(weights: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.contiguous() for name, value in weights.items()}, path)


def read_results(out: Path) -> dict[str, dict]:
    return json.loads(out.read_text()) if out.exists() else {}


def rate_against(base: dict, result: dict, bits: int = 0) -> tuple[float, float, float]:
    """BD-rate in per cent in the mean over pictures: all five qualities, the lower three, the upper three. Pictures whose two curves have no PSNR in
    common are left out, NaN where none is left. `bits` is the column of the rate."""
    means = []
    for part in (slice(None), slice(0, 3), slice(2, None)):
        rates = []
        for name, points in base["points"].items():
            curves = [[(point[bits], point[1]) for point in curve[part]] for curve in (points, result["points"][name])]
            with contextlib.suppress(CurveError):
                rates.append(bd_rate_percent(*curves))
        means.append(statistics.mean(rates) if rates else math.nan)
    return tuple(means)


def table(results: dict[str, dict]) -> str:
    """Markdown rows of all results, by question. CPU seconds of training both halves and of coding all points; networks in multiplications a pixel."""
    base, questions = results["base"], list(dict.fromkeys(variant.question for variant in VARIANTS))
    columns = ("question", "variant", "BD-rate", "low", "high", "by the tables", "steps", "training", "coding", "synthesis", "analysis", "prior")
    rows = [columns, ("---",) * 2 + ("--:",) * (len(columns) - 2)]
    for name, result in sorted(results.items(), key=lambda item: questions.index(item[1]["question"])):
        rates = *rate_against(base, result), rate_against(base, result, 2)[0]
        first, second = (result.get(f"{half}_half_seconds") or base[f"{half}_half_seconds"] for half in ("first", "second"))
        networks = [result["mac_per_pixel"][network] for network in columns[-3:]]
        rows.append((result["question"], name.split(": ", 1)[-1], *(f"{rate:+.2f}%" for rate in rates), result["second_half_steps"],
                     round(first + second), round(result["coding_seconds"]), *networks))
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="training pictures or shards")
    parser.add_argument("--validation", type=Path, help="folder of .png files to measure on")
    parser.add_argument("--only", nargs="+", help="questions or variants to run, by default all")
    parser.add_argument("--limit", type=int, default=300, help="training pictures to read")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each half of a run")
    parser.add_argument("--batches", type=int, default=BATCHES, help="that the last codebook is fitted to")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/design_search", help="where shared weights are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/design_search.json")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown and end")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(read_results(arguments.out)))
        return
    if arguments.data is None or arguments.validation is None:
        parser.error("give --data and --validation")
    torch.set_num_threads(1)
    codebook.lattice = training_codes.lattice = compact_lattice
    arguments.work.mkdir(parents=True, exist_ok=True)
    search = Search(arguments.data, arguments.validation, arguments.work, arguments.out, arguments.limit, arguments.steps, arguments.batches)
    for variant in VARIANTS:
        key = variant.key
        if key in search.results or (arguments.only and variant.name not in arguments.only and variant.question not in arguments.only):
            continue
        result = search.run(variant)
        print(f"{key}: {rate_against(search.results['base'], result)[0]:+.2f}%", flush=True)


if __name__ == "__main__":
    main()
