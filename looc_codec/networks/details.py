"""Trainable details: which channels of the DCT they are, and the network that predicts their scales (see codec/details.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from looc_codec.config import LoocConfig
from looc_codec.format.constants import ACTIVATION_ONE, PATCH
from looc_codec.networks.prior import IntegerConv2d, clipped, read_back, round_half_up, stored_rows
from looc_codec.networks.transforms import QualityTable


class Details(nn.Module):
    """Which channels of `dct_kernels` are details, and the network that predicts their scales.

    `chosen` `(detail_channels,)` int64; consecutive ones make a unit. As in the prior, training uses the integers that will be stored, by straight-through rounding.
    """

    def __init__(self, config: LoocConfig) -> None:
        super().__init__()
        self.config = config
        channels, width, anchors = config.detail_channels, config.detail_width, config.quality_anchors
        self.entry = IntegerConv2d(config.channels, width, 3)
        self.quality = QualityTable(anchors, width)
        self.hidden = IntegerConv2d(width, width, 1)
        self.log_scale = IntegerConv2d(width, channels, 1)
        self.quality_log_scale = QualityTable(anchors, channels)
        with torch.no_grad():
            self.log_scale.weight.mul_(0.1)
        self.choose(torch.arange(3 * PATCH**2)[-channels:])

    def choose(self, chosen: Tensor) -> None:
        """Takes the channels of `dct_kernels` `(detail_channels,)` that are details."""
        self.chosen = chosen.long()

    # --- scales -----------------------------------------------------------------------------------------------------

    def forward(self, magnitudes: Tensor, quality: Tensor) -> Tensor:
        """Log scales (1/32) `(B, detail_channels, h, w)` for training, of companded magnitudes of the latent `(B, d, h, w)` float32 and qualities `(B,)`."""
        quality_row, base = (round_half_up(table(quality) * ACTIVATION_ONE) for table in (self.quality, self.quality_log_scale))
        return self.scales(magnitudes, quality_row, base)

    def scales(self, magnitudes: Tensor, quality_row: Tensor, base: Tensor) -> Tensor:
        features = clipped(self.entry(magnitudes) + quality_row)
        return self.log_scale(clipped(self.hidden(features))) + base

    # --- weights ----------------------------------------------------------------------------------------------------

    def layers(self) -> dict[str, IntegerConv2d]:
        return {"entry": self.entry, "hidden": self.hidden, "log_scale": self.log_scale}

    def quality_tables(self) -> dict[str, QualityTable]:
        return {"quality": self.quality, "quality_log_scale": self.quality_log_scale}

    @torch.no_grad()
    def export(self) -> dict[str, Tensor]:
        """The format-critical integers: layers, quality tables, chosen channels."""
        tensors: dict[str, Tensor] = {"chosen": self.chosen.to(torch.int16)}
        for name, layer in self.layers().items():
            tensors |= layer.export(name)
        return tensors | {name: stored_rows(table) for name, table in self.quality_tables().items()}

    @torch.no_grad()
    def take(self, tensors: dict[str, Tensor]) -> None:
        """Sets all parameters to the integers of `export`, so that training can go on from a weights file."""
        self.choose(tensors["chosen"])
        for name, layer in self.layers().items():
            layer.take(tensors, name)
        for name, table in self.quality_tables().items():
            read_back(table, tensors[name])
