"""What a run shows while it trains: loss on held-out pictures, curves, sample reconstructions."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from looc_codec.networks.distortion import distortion, mean_squared_error
from looc_codec.errors import ImageError
from looc_codec.networks.model import LoocModel
from looc_codec.training.loss import distortion_weight

QUALITIES = (5.0, 20.0, 35.0, 50.0, 65.0, 80.0, 95.0)
SAMPLE_QUALITIES = (20.0, 50.0, 80.0)
SAMPLES = 4


def centre_crops(pictures: list[np.ndarray], side: int) -> Tensor:
    """The middle of each picture: `(n, 3, side, side)` float32 of 0..255."""
    crops = []
    for picture in pictures:
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        crops.append(torch.from_numpy(picture[top : top + side, left : left + side].copy()).permute(2, 0, 1).float())
    if not crops:
        raise ImageError(f"no validation picture has both sides of at least {side} pixels")
    return torch.stack(crops)


@torch.no_grad()
def reconstruct(model: LoocModel, crops: Tensor, quality: float) -> tuple[Tensor, Tensor]:
    """Decoded 8-bit values `(n, 3, H, W)` float32 and estimated bits per pixel `(n,)`, with plain rounding as quantiser."""
    qualities = torch.full((len(crops),), quality, device=crops.device)
    result = model.prior(model.analysis(crops, qualities), qualities)
    decoded = model.synthesis(result["latent_hat"], qualities).clamp(0, 255).round()
    return decoded, result["bits"] / crops[0, 0].numel()


def validate(model: LoocModel, crops: Tensor, metric: str = "mse") -> dict[str, float]:
    """Mean log Lagrangian (0.01 is one per cent of R + lambda D), D being the metric's, and, by quality, estimated bpp and PSNR.

    The noise of the rate estimate is seeded, so that two models are compared under the same.
    """
    row: dict[str, float] = {}
    losses = []
    devices = [crops.device] if crops.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        for quality in QUALITIES:
            torch.manual_seed(0)
            decoded, bpp = reconstruct(model, crops, quality)
            mse = mean_squared_error(decoded, crops)
            weight = distortion_weight(model.config, torch.tensor(quality))
            losses.append(float((bpp + float(weight) * distortion(metric, decoded, crops)).log().mean()))
            row[f"bpp_q{quality:.0f}"] = round(float(bpp.mean()), 4)
            row[f"psnr_db_q{quality:.0f}"] = round(float((10 * torch.log10(255**2 / mse.clamp_min(1e-3))).mean()), 3)
    return {"log_loss": round(sum(losses) / len(losses), 5)} | row


def write_samples(model: LoocModel, crops: Tensor, path: Path) -> None:
    """A PNG of crops (rows) as they are and decoded at a few qualities (columns)."""
    crops = crops[:SAMPLES]
    columns = [crops] + [reconstruct(model, crops, quality)[0] for quality in SAMPLE_QUALITIES]
    rows = torch.cat([torch.cat(list(column), 1) for column in columns], 2)
    Image.fromarray(rows.permute(1, 2, 0).to(torch.uint8).cpu().numpy()).save(path)


def draw_curves(folder: Path) -> Path | None:
    """curves.png from log.csv (and validation.csv where it exists); None when matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    minutes = [float(row["seconds"]) / 60 for row in rows]
    panels[0].plot(minutes, [float(row["bpp"]) for row in rows], color="tab:blue")
    panels[0].set(title="training rate, all qualities", xlabel="minutes", ylabel="estimated bpp")
    decoded = [(minute, float(row["psnr_db"])) for minute, row in zip(minutes, rows, strict=True) if row["psnr_db"]]
    if decoded:
        panels[1].plot(*zip(*decoded, strict=True), color="tab:blue")
    panels[1].set(title="training PSNR, all qualities", xlabel="minutes", ylabel="dB")
    if (folder / "validation.csv").exists():
        with (folder / "validation.csv").open(newline="") as file:
            held_out = list(csv.DictReader(file))
        panels[2].plot([float(row["seconds"]) / 60 for row in held_out], [float(row["log_loss"]) for row in held_out], "o-", color="tab:orange", markersize=3)
        panels[2].set(title="validation, averaged weights", xlabel="minutes", ylabel="mean log (R + lambda D)")
    else:
        panels[2].plot(minutes, [float(row["loss"]) for row in rows], color="tab:blue")
        panels[2].set(title="training loss", xlabel="minutes", ylabel="R + lambda D")
    for panel in panels:
        panel.grid(alpha=0.3)
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    return path
