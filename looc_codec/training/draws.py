"""What each step of a run is shown: random crops, their qualities, and how much of them is decoded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from looc_codec.config import QUALITY_MAX, QUALITY_MIN
from looc_codec.data import PictureStore


class Draws:
    """Random crops of a store's pictures; `options` are those of the run (loop.TrainOptions).

    `generators` are all its random states: "crops" lives on the device, "windows" on the host, which has to know the size of the windows that crops come from.
    """

    def __init__(self, store: PictureStore, options: Any, device: str, seed: int) -> None:
        self.store, self.options, self.device = store, options, device
        self.generators = {"crops": torch.Generator(device).manual_seed(seed), "windows": torch.Generator().manual_seed(seed)}

    def batch(self) -> tuple[Tensor, Tensor]:
        """Pixels `(B, 3, crop, crop)` float32 of 0..255, channels last, and qualities `(B,)`."""
        options, generator = self.options, self.generators["crops"]
        uniform = torch.rand(options.batch, generator=generator, device=self.device)
        shrink = options.shrink_low + (1 - options.shrink_low) * float(torch.rand((), generator=self.generators["windows"]))
        pixels = self.store.crops(options.batch, options.crop, generator, shrink)
        # Some crops are grey, so that the prior knows grey pictures by their first groups.
        grey = torch.rand(options.batch, generator=generator, device=self.device) < options.grey_share
        pixels = torch.where(grey[:, None, None, None], pixels.mean(1, keepdim=True).expand_as(pixels), pixels)
        # Whole numbers, because files carry whole qualities; stratified, so that each batch spans the range.
        strata = (torch.arange(options.batch, device=self.device) + uniform) / options.batch
        quality = torch.floor(QUALITY_MIN + strata * (QUALITY_MAX - QUALITY_MIN + 1)).clamp(max=QUALITY_MAX)
        return pixels.contiguous(memory_format=torch.channels_last), quality

    def kept_groups(self, count: int, groups: int) -> Tensor:
        """Coded groups, of `groups`, of each of `count` pictures: now and then a file is cut short, so that previews are worth looking at."""
        draw = torch.rand(2, count, generator=self.generators["crops"], device=self.device)
        return torch.where(draw[0] < self.options.cut_share, torch.floor(draw[1] * (groups - 1)) + 1, torch.full_like(draw[1], groups))
