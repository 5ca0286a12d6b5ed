"""Growing a trained model: more or wider layers, more channels or finer steps, all beginning where it stands."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor

from looc_codec.config import QUALITY_MAX, QUALITY_MIN, LoocConfig
from looc_codec.format.constants import PATCH
from looc_codec.data import PictureStore
from looc_codec.errors import ModelError
from looc_codec.networks.model import LoocModel
from looc_codec.networks.transforms import KERNEL, OVERLAP, QualityTable

GROWING = ("prior_depth", "prior_width", "analysis_widths", "analysis_blocks", "synthesis_widths", "synthesis_blocks")
"""Sizes that may become larger."""
FREE = ("name", "version", "metric", "codevector_dim", "codebook_size", "ratio_classes", "trellis_states", "step_coarsest", "step_finest", "detail_channels", "detail_width", "detail_quality")
"""Fields that no trained shape depends on. The codebook and its tables are fitted anew at the end of every run, and
quality tables are read off at the new steps."""
CROPS, CROP, RIDGE = 480, 192, 1e-5
"""Crops, and their side in pixels, on which added channels are started; ridge in mean variances of a pixel."""


def grown(model: LoocModel, config: LoocConfig, store: PictureStore | None = None) -> LoocModel:
    """The model under a configuration with more or wider residual blocks, a deeper or a wider prior, further groups of
    channels, or other steps at the ends of the quality range.

    Added residual blocks and layers of the prior start as the identity; added features of any layer start at random
    and nothing that was there reads them yet. (A wider layer of the prior leaves its integer weights a little less room
    below 2^24, which can cost a channel one bit of precision.) So far it is the same function. Added channels start as
    a linear correction of what the trained model gets wrong on the pictures of `store`; their rate has to be learned.
    With other steps a quality does what the quality of the same step did before. Raises ModelError for any other
    difference in size.
    """
    old_config = model.config
    _require_growth(old_config, config)
    if config == old_config:
        return model
    new, old = LoocModel(config), dict(model.named_parameters())
    tables = {f"{name}.table" for name, module in model.named_modules() if isinstance(module, QualityTable)}
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            if name not in old:
                # Fresh residual blocks are the identity already, and the networks of a further group are like any fresh ones.
                if re.match(r"prior\.nets\.(\d+)\.\d+\.hidden", name) and int(name.split(".")[2]) < len(old_config.groups):
                    _make_identity(name, parameter)
                continue
            value = _at_steps_of(config, old[name], old_config) if name in tables else old[name]
            if value.shape == parameter.shape:
                parameter.copy_(value)
            elif name.startswith("details."):
                # Fitted anew at the end of every run, like the tables.
                continue
            elif parameter.dim() == 1:
                parameter[: len(value)] = value
            else:
                rows, columns = torch.arange(len(value)), torch.arange(value.shape[1])
                # Old features do not read the new ones yet.
                parameter[rows] = 0
                parameter[rows[:, None], columns] = value
        if config.channels > old_config.channels:
            if store is None:
                raise ModelError("further channels are started on pictures, and there are none")
            _start_channels(new, model, store)
    return new


def _require_growth(old: LoocConfig, new: LoocConfig) -> None:
    old_fields, new_fields = old.to_dict(), new.to_dict()
    for name, value in old_fields.items():
        other = new_fields[name]
        if value == other or name in FREE or (name in GROWING and _at_least(other, value)):
            continue
        if name == "synthesis_hidden" and all(_at_least(more[: len(own)], own) for own, more in zip(old.hidden_features, new.hidden_features, strict=True)):
            continue
        if name in ("groups", "channels") and new.groups[: len(old.groups)] == old.groups:
            continue
        raise ModelError(f"weights cannot be carried over to this configuration: {name} differs ({value}, {other}); train it from the start")


def _at_least(new: int | tuple, old: int | tuple) -> bool:
    return new >= old if isinstance(new, int) else all(a >= b for a, b in zip(new, old, strict=True))


def _make_identity(name: str, parameter: Tensor) -> None:
    # Activations are whole numbers of 0..255, so identity and clipping change nothing.
    parameter.copy_(torch.eye(len(parameter))[:, :, None, None] if name.endswith("weight") else torch.zeros_like(parameter))


def _at_steps_of(config: LoocConfig, table: Tensor, old_config: LoocConfig) -> Tensor:
    """Rows `(anchors, width)` of a quality table where the old model had the steps that the anchors now have."""
    if (config.step_coarsest, config.step_finest) == (old_config.step_coarsest, old_config.step_finest):
        return table
    anchors = len(table)
    steps = torch.tensor([config.step(quality) for quality in torch.linspace(QUALITY_MIN, QUALITY_MAX, anchors).tolist()])
    span = math.log(old_config.step_coarsest / old_config.step_finest)
    position = torch.log(old_config.step_coarsest / steps) / span * (anchors - 1)
    low = position.floor().clamp(0, anchors - 2).long()
    # Beyond the old range the last two rows are carried on in a straight line.
    return torch.lerp(table[low], table[low + 1], (position - low)[:, None])


def _start_channels(new: LoocModel, old: LoocModel, store: PictureStore) -> None:
    """Sets the added channels: kernels, gains and steps, and the spread that the prior expects.

    Kernels come from a reduced-rank regression: the linear map of the given rank, from windows of 32x32 pixels to
    blocks of 16x16, that predicts best what the trained model gets wrong at its finest quality without quantisation.
    """
    kept, added = old.config.channels, new.config.channels - old.config.channels
    device, side = store.pixels.device, min(CROP, store.smallest // PATCH * PATCH)
    generator = torch.Generator(device).manual_seed(5)
    old = old.to(device)
    of_windows = torch.zeros(3 * KERNEL**2, 3 * KERNEL**2, dtype=torch.float64, device=device)
    of_both = torch.zeros(3 * PATCH**2, 3 * KERNEL**2, dtype=torch.float64, device=device)
    for _ in range(CROPS // 8):
        pixels = store.crops(8, side, generator)
        quality = torch.full((len(pixels),), float(QUALITY_MAX), device=device)
        missing = pixels - old.synthesis(old.analysis(pixels, quality), quality)
        # The outermost blocks of a crop also miss what lies beyond its edge.
        blocks = F.pixel_unshuffle(missing, PATCH)[:, :, 1:-1, 1:-1].flatten(2).transpose(1, 2).reshape(-1, 3 * PATCH**2)
        inner = pixels[:, :, OVERLAP:-OVERLAP, OVERLAP:-OVERLAP] - 128
        windows = F.unfold(inner, KERNEL, stride=PATCH).transpose(1, 2).reshape(-1, 3 * KERNEL**2)
        of_windows += (windows.T @ windows).double()
        of_both += (blocks.T @ windows).double()
    of_windows, of_both = of_windows.cpu(), of_both.cpu()
    ridge = RIDGE * of_windows.trace() / len(of_windows) * torch.eye(len(of_windows), dtype=torch.float64)
    prediction = torch.linalg.solve(of_windows + ridge, of_both.T).T
    components = torch.linalg.eigh(of_both @ prediction.T)[1].flip(1)[:, :added].T
    # The mean step scales the last correction of the synthesis, so the new steps leave it as it is.
    log_step = new.synthesis.log_step.table[:, :kept].exp().mean(1, keepdim=True).log()
    new.analysis.linear[kept:] = (components @ prediction).float().reshape(added, 3, KERNEL, KERNEL)
    new.synthesis.linear[kept:] = F.pad(components.float().reshape(added, 3, PATCH, PATCH), (OVERLAP,) * 4)
    new.analysis.log_gain.table[:, kept:], new.synthesis.log_step.table[:, kept:] = -log_step, log_step
    spread = (components @ prediction @ of_windows * (components @ prediction)).sum(1).div(CROPS * (side // PATCH - 2) ** 2).sqrt()
    new.prior.quality_log_scale.table[:, kept:] = (spread.clamp_min(1e-3).log().float() - log_step).clamp(-2.5, 3.5)
