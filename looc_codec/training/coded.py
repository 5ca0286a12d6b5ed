"""Training crops coded once, as files are, for stage "synthesis": coding a crop takes as long as training on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from looc_codec.errors import ModelError
from looc_codec.format.constants import LATENT_ONE, PATCH
from looc_codec.networks.distortion import mean_squared_error
from looc_codec.networks.model import LoocModel
from looc_codec.training.codes import CodeFitter
from looc_codec.training.draws import Draws

PIXEL_ONE = 64
"""Pixels of the teacher are kept as whole numbers of 1/64 level."""
SIZES = "coded.json"


@dataclass(frozen=True)
class CodedBatch:
    """Coded crops: `latent` `(B, d, h, w)` in steps, `quality` `(B,)`, the bits per pixel `bpp` `(B,)` of their codes, the `teacher`'s pixels and the `original` ones
    `(B, 3, H, W)` of 0..255, and the mean squared `error` `(B,)` between these two."""

    latent: Tensor
    quality: Tensor
    bpp: Tensor
    teacher: Tensor
    original: Tensor
    error: Tensor


class CodedCrops:
    """Coded crops in files of a folder, 0.8 MB each with 384 channels and crops of 256 x 256."""

    def __init__(self, folder: Path, count: int, crop: int, channels: int, *, make: bool = False) -> None:
        self.count = count

        def array(name: str, shape: tuple[int, ...], kind: str) -> np.memmap:
            return np.memmap(folder / f"{name}.bin", kind, "w+" if make else "r", shape=(count, *shape))

        self.latents = array("latents", (channels, crop // PATCH, crop // PATCH), "int16")
        self.teachers, self.originals = array("teachers", (3, crop, crop), "int16"), array("originals", (3, crop, crop), "uint8")
        # Quality, bits per pixel, error of the teacher.
        self.figures = array("figures", (3,), "float32")

    @classmethod
    def of(cls, folder: Path) -> CodedCrops:
        """Those that `code_crops` has left in a folder. ModelError where there are none."""
        try:
            return cls(folder, **json.loads((folder / SIZES).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"the coded crops in {folder} are missing ({error}); start the run again in another --out") from None

    def batch(self, chosen: np.ndarray, device: str = "cpu") -> CodedBatch:
        """The crops of the given numbers `(B,)`."""
        quality, bpp, error = torch.from_numpy(self.figures[chosen]).to(device).unbind(1)
        latent = (torch.from_numpy(self.latents[chosen]).to(device).float() / LATENT_ONE).contiguous(memory_format=torch.channels_last)
        teacher = torch.from_numpy(self.teachers[chosen]).to(device).float() / PIXEL_ONE
        return CodedBatch(latent, quality, bpp, teacher, torch.from_numpy(self.originals[chosen]).to(device).float(), error)

    def chosen(self, step: int, batch: int, seed: int) -> np.ndarray:
        """Numbers `(batch,)` of the crops of a step: one from each part of the range of qualities, and none again before all others of its part."""
        parts = np.array_split(np.argsort(self.figures[:, 0], kind="stable"), batch)
        found = []
        for index, part in enumerate(parts):
            turn, place = divmod(step, len(part))
            found.append(np.random.default_rng((seed, turn, index)).permutation(part)[place])
        return np.array(found)


@torch.no_grad()
def code_crops(model: LoocModel, codes: CodeFitter, draws: Draws, folder: Path, count: int, report: Callable[[int], None]) -> CodedCrops:
    """Codes `count` crops, a multiple of the batch, with the model as files are coded, its synthesis being the teacher."""
    options, config = draws.options, model.config
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"count": count, "crop": options.crop, "channels": config.channels}
    crops = CodedCrops(folder, **sizes, make=True)
    for first in range(0, count, options.batch):
        pixels, quality = draws.batch()
        # Pictures in files are whole numbers.
        pixels = pixels.round()
        kept = draws.kept_groups(len(quality), len(config.groups))
        result = model.prior(model.analysis(pixels, quality).float(), quality, codes.quantise, kept)
        teacher = model.synthesis(result["latent_hat"], quality)
        part = slice(first, first + len(quality))
        crops.latents[part] = (result["latent_hat"] * LATENT_ONE).round().to(torch.int16).cpu().numpy()
        crops.teachers[part] = (teacher * PIXEL_ONE).round().clamp(-32768, 32767).to(torch.int16).cpu().numpy()
        crops.originals[part] = pixels.to(torch.uint8).cpu().numpy()
        bpp = result["bits"] / options.crop**2
        crops.figures[part] = torch.stack([quality, bpp, mean_squared_error(teacher, pixels)], 1).cpu().numpy()
        report(first)
    # Only now, so that what an interrupted run has left is not taken for whole.
    (folder / SIZES).write_text(json.dumps(sizes))
    return crops
