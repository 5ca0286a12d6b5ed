"""A synthesis with fewer residual blocks or fewer hidden features, as close to the one it came from as it gets without training.

Blocks at 1/16 or 1/8 are left out from the last on: the layers behind take the least-squares map from the features that are then there to those that were. Hidden features are taken out
one after another, those first that cost the pixels least while all others make up for them (the optimal brain surgeon of Hassibi and Stork 1993, a layer at a time).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looc_codec.config import LoocConfig
from looc_codec.errors import ModelError
from looc_codec.networks.model import LoocModel
from looc_codec.networks.transforms import ResidualBlock, Synthesis, stretch
from looc_codec.training.coded import CodedBatch, CodedCrops
from looc_codec.training.loss import distortion_weight

STAGES = ("blocks16", "blocks8", "blocks4")
BATCH = 8
MAP_CROPS, SURGERY_CROPS = 768, 128
"""Crops for the maps that make up for blocks, and for the sums that tell what hidden features are worth."""
MAP_RIDGE, SURGERY_RIDGE = 1e-5, 1e-7
"""In mean squares of a feature."""


def is_slimmer(config: LoocConfig, than: LoocConfig) -> bool:
    """Whether a synthesis has fewer blocks or fewer hidden features somewhere."""
    stages = list(zip(config.hidden_features, than.hidden_features, strict=True))
    return any(len(own) < len(other) for own, other in stages) or any(one < two for own, other in stages for one, two in zip(own, other, strict=False))


def slimmed(model: LoocModel, config: LoocConfig, crops: CodedCrops, report: Callable[[int, int], None] = lambda done, count: None) -> LoocModel:
    """The model under a configuration whose synthesis has fewer blocks or hidden features and that differs in nothing else but name, version and metric.

    `report(done, count)` is called after each of `count` batches. Raises ModelError for any other difference, and where blocks at 1/4 are left out: nothing linear makes up for those.
    """
    old = model.config
    require_slimmer(old, config)
    fewer = LoocConfig.from_dict(config.to_dict() | {"synthesis_hidden": [count for own, kept in zip(old.hidden_features, config.synthesis_blocks, strict=True) for count in own[:kept]]})
    shallow, slim = LoocModel(fewer), LoocModel(config)
    inherited = shallow.state_dict()
    shallow.load_state_dict({name: value for name, value in model.state_dict().items() if name in inherited})
    map_batches, surgery_batches = (_batches(crops, count) for count in (MAP_CROPS, SURGERY_CROPS))
    reported = _Reported(report, len(map_batches) * (old.synthesis_blocks != config.synthesis_blocks) + len(surgery_batches))
    for network in (model, shallow):
        network.synthesis.to(memory_format=torch.channels_last).requires_grad_(False).eval()
    if old.synthesis_blocks != config.synthesis_blocks:
        _make_up_for_blocks(model.synthesis, shallow.synthesis, (crops.batch(chosen) for chosen in reported(map_batches)))
    sums = hidden_sums(shallow.synthesis, (crops.batch(chosen) for chosen in reported(surgery_batches)))
    state = shallow.state_dict()
    for stage, counts in zip(STAGES, config.hidden_features, strict=True):
        for index, count in enumerate(counts):
            block: ResidualBlock = getattr(shallow.synthesis, stage)[index]
            kept, weight, bias = without_least(block.project.weight.flatten(1), *sums[stage, index], count)
            prefix = f"synthesis.{stage}.{index}."
            state[prefix + "expand.weight"], state[prefix + "expand.bias"] = block.expand.weight[kept], block.expand.bias[kept]
            state[prefix + "project.weight"], state[prefix + "project.bias"] = weight[:, :, None, None], block.project.bias + bias
    slim.load_state_dict(state)
    return slim


def without_least(weight: Tensor, gram: Tensor, worth: Tensor, count: int) -> tuple[list[int], Tensor, Tensor]:
    """Takes features out of a linear layer until `count` are left: numbers of those, their new weights `(o, count)` and what is added to the bias `(o,)`.

    `weight` `(o, f)`; `gram` `(f + 1, f + 1)` float64, mean products of the features and a constant; `worth` `(o, o)` float64, what products of errors of two outputs cost. When feature j goes,
    least squares change the others' weights by -w_j P_j / P_jj, P being the inverse of `gram`, which costs w_j' worth w_j / P_jj.
    """
    features = weight.shape[1]
    weights = F.pad(weight.double(), (0, 1))
    left = list(range(features))
    if count < features:
        inverse = torch.linalg.inv(gram + SURGERY_RIDGE * gram.diagonal()[:-1].mean() * torch.eye(features + 1, dtype=torch.float64))
    while len(left) > count:
        cost = (weights * (worth @ weights)).sum(0)[left] / inverse.diagonal()[left]
        gone = left.pop(int(cost.argmin()))
        row, pivot = inverse[gone].clone(), inverse[gone, gone].clone()
        weights -= torch.outer(weights[:, gone] / pivot, row)
        inverse -= torch.outer(row, row) / pivot
        # Rounding must not bring it back.
        weights[:, gone] = 0
        inverse[gone], inverse[:, gone] = 0, 0
    return left, weights[:, left].float(), weights[:, -1].float()


def hidden_sums(synthesis: Synthesis, batches: Iterator[CodedBatch]) -> dict[tuple[str, int], tuple[Tensor, Tensor]]:
    """`gram` and `worth` (see `without_least`) of the hidden features of every block, the cost being the change of pixels in R + lambda D.

    The worth of outputs is estimated: gradients of random sums of pixels have, as mean products, what errors of these outputs do to the squares of pixels.
    """
    grams: dict[tuple[str, int], Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    worths: dict[tuple[str, int], Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    share, hooks, positions = torch.empty(0), [], 0

    for stage in STAGES:
        for index, block in enumerate(getattr(synthesis, stage)):

            def seen(layer: nn.Module, inputs: tuple[Tensor], output: Tensor, key: tuple[str, int] = (stage, index)) -> None:
                features = F.pad(rows(inputs[0].detach()), (0, 1), value=1.0)
                features = features * share.repeat_interleave(len(features) // len(share))[:, None]
                grams[key] = grams[key] + (features.T @ features).double() / len(features)

            def returned(layer: nn.Module, inputs: tuple[Tensor], outputs: tuple[Tensor], key: tuple[str, int] = (stage, index)) -> None:
                gradient = rows(outputs[0])
                worths[key] = worths[key] + (gradient.T @ gradient).double()

            hooks += [block.project.register_forward_hook(seen), block.project.register_full_backward_hook(returned)]
    generator = torch.Generator().manual_seed(0)
    for part in batches:
        weight = crop_weight(synthesis.config, part)
        # Corrections at 1/4 are in units of the step, so errors of large steps count for more, and so do features of such crops.
        share = weight.sqrt() * synthesis.log_step(part.quality).exp().mean((1, 2, 3))
        share = share / share.mean()
        pixels = synthesis(part.latent.requires_grad_(True), part.quality)
        signs = torch.randint(0, 2, pixels.shape, generator=generator) * 2.0 - 1
        pixels.backward(signs * (weight.sqrt() / share)[:, None, None, None])
        positions += 1
    for hook in hooks:
        hook.remove()
    return {key: (grams[key] / positions, worths[key] / positions) for key in grams}


def crop_weight(config: LoocConfig, part: CodedBatch) -> Tensor:
    """What a unit of squared error of each crop is worth `(B,)` when all rates weigh alike: lambda / (R + lambda D)."""
    weight = distortion_weight(config, part.quality)
    return weight / (part.bpp + weight * part.error).clamp_min(0.02)


def rows(maps: Tensor) -> Tensor:
    """`(B, C, h, w)` as `(B h w, C)`."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


@torch.no_grad()
def _make_up_for_blocks(full: Synthesis, shallow: Synthesis, batches: Iterator[CodedBatch]) -> None:
    """Folds the maps back to the full features into the layers behind the stages at 1/16 and 1/8 that have fewer blocks."""
    fits = {"blocks16": _Fit(), "blocks8": _Fit()}
    for part in batches:
        entered = full.modulation16(full.entry(stretch(part.latent)), part.quality)
        wide = full.blocks16(entered)
        fits["blocks16"].add(rows(shallow.blocks16(entered)), rows(wide))
        entered = F.pixel_shuffle(full.up8(wide), 2)
        fits["blocks8"].add(rows(shallow.blocks8(entered)), rows(full.blocks8(entered)))
    for stage, names in (("blocks16", ("up8", "head16")), ("blocks8", ("up4",))):
        if len(getattr(shallow, stage)) == len(getattr(full, stage)):
            continue
        back = fits[stage].solve()
        for name in names:
            layer = getattr(shallow, name)
            weight = layer.weight.flatten(1).double()
            layer.bias += (weight @ back[:, -1]).float()
            layer.weight.copy_((weight @ back[:, :-1]).float()[:, :, None, None])


class _Fit:
    """Sums for the least squares of targets `(n, t)` by features `(n, f)` and a constant."""

    def __init__(self) -> None:
        self.own = self.both = torch.zeros((), dtype=torch.float64)

    def add(self, features: Tensor, targets: Tensor) -> None:
        features = F.pad(features, (0, 1), value=1.0)
        self.own = self.own + (features.T @ features).double()
        self.both = self.both + (features.T @ targets).double()

    def solve(self) -> Tensor:
        """`(t, f + 1)` float64, the constant last."""
        ridge = MAP_RIDGE * self.own.diagonal().mean() * torch.eye(len(self.own), dtype=torch.float64)
        ridge[-1, -1] = 0
        return torch.linalg.solve(self.own + ridge, self.both).T


class _Reported:
    """Passes batches through and reports how many have been taken, of all that will be."""

    def __init__(self, report: Callable[[int, int], None], count: int) -> None:
        self.report, self.count, self.done = report, count, 0

    def __call__(self, batches: list[np.ndarray]) -> Iterator[np.ndarray]:
        for batch in batches:
            yield batch
            self.done += 1
            self.report(self.done, self.count)


def _batches(crops: CodedCrops, count: int) -> list[np.ndarray]:
    """`count` crops of all qualities, or as many as there are, in batches."""
    count = min(count, crops.count)
    return [crops.chosen(step, min(BATCH, count), 0) for step in range(max(1, count // BATCH))]


def require_slimmer(old: LoocConfig, config: LoocConfig) -> None:
    """ModelError unless `slimmed` can go from `old` to `config`."""
    synthesis = ("synthesis_blocks", "synthesis_hidden")
    for name, value in old.to_dict().items():
        if name not in (*synthesis, "name", "version", "metric") and value != getattr(config, name):
            raise ModelError(f"a synthesis is made slimmer while all else stays as it is, but {name} differs ({value}, {getattr(config, name)}); change it in a run of its own")
    if config.synthesis_blocks[2] != old.synthesis_blocks[2]:
        raise ModelError("blocks of the synthesis at 1/4 cannot be left out; give them fewer synthesis_hidden instead")
    for own, other in zip(config.hidden_features, old.hidden_features, strict=True):
        if len(own) > len(other) or any(one > two for one, two in zip(own, other, strict=False)):
            raise ModelError("a synthesis cannot be made slimmer and larger at once; do it in two runs")
