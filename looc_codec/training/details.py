"""Fits a model's details: which channels of the DCT they are, and the network that predicts their scales (looc_codec/details.py)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from looc_codec.codec.search import ENCODER_LAMBDA
from looc_codec.config import QUALITY_MAX
from looc_codec.format.constants import ACTIVATION_ONE, LATENT_ONE, PATCH
from looc_codec.data import PictureStore
from looc_codec.networks.model import LoocModel
from looc_codec.networks.prior import Prior, compand, unit_classes
from looc_codec.quantizers.units import units_of
from looc_codec.training.codes import CodeFitter
from looc_codec.networks.transforms import dct_basis

BATCHES = 120
"""Batches of 8 crops whose details are gathered: 138,000 positions with crops of 192."""
STEPS, BATCH, RATE = 2000, 16, 2e-3
WORTH = 0.5
"""Squared steps that an error must have before coding it could pay; channels are chosen by what they have beyond that."""
SHIFTS = range(-24, 25, 4)
"""Log scales (1/32) by which all scales are shifted on trial."""


@torch.no_grad()
def gather(model: LoocModel, store: PictureStore, device: str, batches: int, batch: int, crop: int, report: Callable[[int], None]) -> tuple[Tensor, Tensor, Tensor]:
    """Decoded latents `(n, d, h, w)` int16 (1/16 steps) of random crops, their qualities `(n,)`, and the errors of their pixels in all channels of the DCT, `(n, 768, h, w)` float16 in steps."""
    generator = torch.Generator(device).manual_seed(4)
    codes = CodeFitter(model, device, ENCODER_LAMBDA)
    kernels, lowest = dct_basis().to(device), model.config.detail_quality
    latents, qualities, errors = [], [], []
    for index in range(batches):
        quality = torch.floor(lowest + torch.rand(batch, generator=generator, device=device) * (QUALITY_MAX - lowest + 1)).clamp(max=QUALITY_MAX)
        pixels = store.crops(batch, crop, generator, 0.7 + 0.3 * float(torch.rand((), generator=generator, device=device)))
        latent_hat = model.prior(model.analysis(pixels, quality).float(), quality, codes.quantise)["latent_hat"]
        steps = torch.tensor([model.config.step(q) for q in quality.tolist()], device=device)
        error = F.conv2d(pixels - model.synthesis(latent_hat, quality), kernels, stride=PATCH) / steps[:, None, None, None]
        latents.append((latent_hat * LATENT_ONE).round().to(torch.int16).cpu())
        qualities.append(quality.cpu())
        errors.append(error.half().cpu())
        report(index)
    return torch.cat(latents), torch.cat(qualities), torch.cat(errors)


def best_channels(errors: Tensor, count: int) -> Tensor:
    """The `count` channels of `(n, 768, h, w)` with the most squared error beyond `WORTH`, from the most on, `(count,)` int64."""
    excess = torch.stack([(part.float().square() - WORTH).clamp_min(0).sum((0, 2, 3)) for part in errors.split(64)]).sum(0)
    return excess.argsort(descending=True)[:count]


def coded_cost(model: LoocModel, target: Tensor, log_scale: Tensor) -> float:
    """Cost in squared steps, error and bits by the tables, of details `(n, C, h, w)` in steps when the encoder picks their codes under log scales (1/32)."""
    book, dim = model.codebook, model.config.codevector_dim
    rows = unit_classes(units_of(log_scale, dim), model.config)
    units = units_of(target, dim)
    count = len(units) // len(target)
    search, own, own_rows = book.search(), units.numpy(), rows.numpy()
    codes = search.pick(own * LATENT_ONE, own_rows, ENCODER_LAMBDA, [count] * len(target))
    symbols, table_rows, _ = search.tables.symbols(codes, own_rows)
    error = np.square(own - search.tables.value(codes, own_rows) / LATENT_ONE).sum(dtype=np.float64)
    return float(error + ENCODER_LAMBDA * search.bits[table_rows, symbols].sum(dtype=np.float64))


def fit_details(model: LoocModel, store: PictureStore, device: str, report: Callable[[str, dict], None], *, steps: int | None = None, crop: int = 192,
                batches: int | None = None) -> dict[str, float]:
    """Chooses and fits the details of a model, whose codebook, tables and transforms stay as they are (crops are coded on the device, the rest is done on the CPU); returns what the details take off the cost, as a share, on held-back crops.

    The network learns the scales under which the details, with noise for rounding, take the fewest bits (as the prior's; Ballé et al. 2018). At the end all scales are shifted by what suits
    the tables best, which are those of the latent's units.
    """
    details, crop, batches, steps = model.details, min(crop, store.smallest // PATCH * PATCH), batches or BATCHES, steps or STEPS
    details.requires_grad_(True)
    latents, qualities, errors = gather(model, store, device, batches, 8, crop, lambda index: report("fitting", {"round": 3, "batch": index, "batches": batches}))
    details.to("cpu")
    model.codebook.to_device("cpu")
    held = max(8, len(latents) // 10)
    details.choose(best_channels(errors[held:], model.config.detail_channels))
    errors = errors[:, details.chosen]
    with torch.no_grad():
        spread = errors[held:].float().square().mean((0, 2, 3)).sqrt().clamp_min(1e-3).log()
        details.quality_log_scale.table[:] = (spread - 1).clamp(-3, 1)
    optimizer = torch.optim.AdamW(details.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.0)
    generator = torch.Generator().manual_seed(5)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        chosen = held + torch.randint(len(latents) - held, (BATCH,), generator=generator)
        log_scale = details(compand(latents[chosen].float()).abs(), qualities[chosen])
        bits = Prior.noisy_bits(errors[chosen].float() * LATENT_ONE, log_scale).mean() / log_scale[0].numel()
        optimizer.zero_grad(set_to_none=True)
        bits.backward()
        optimizer.step()
        if step % 20 == 0:
            report("fitting", {"round": 4, "batch": step, "batches": steps})
    with torch.no_grad():
        magnitudes, target = compand(latents[:held].float()).abs(), errors[:held].float()
        log_scale = details(magnitudes, qualities[:held])
        costs = {shift: coded_cost(model, target, log_scale + shift) for shift in SHIFTS}
        best = min(costs, key=costs.get)
        details.quality_log_scale.table += best / ACTIVATION_ONE
    without = float(target.square().sum(dtype=torch.float64))
    return {"gain": 1 - costs[best] / without, "shift": best}
