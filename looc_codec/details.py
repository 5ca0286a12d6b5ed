"""Details: what the synthesis leaves over in channels of the DCT that the latent does not have, as further units of the shared codebook.

The latent has 384 of the 768 channels of a position, and most of those left out are colour. At low rates their share of the error is small; at quality 80 it is 31%, at 100 46%
(validation pictures), and no finer step of the latent takes it off. So from a quality on the encoder takes the 16x16 DCT of the error of its own synthesis, and codes the channels with the
most energy beyond a step by the same codebook and tables. Their scales are predicted, in exact integers as in the prior, from the magnitudes of the decoded latent around; their means are zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from looc_codec.config import QUALITY_MIN, LoocConfig
from looc_codec.format.constants import PATCH
from looc_codec.errors import ModelError
from looc_codec.prior import ACTIVATION_ONE, LATENT_LIMIT, CodingStep, IntegerConv2d, clipped, read_back, round_half_up, row_strips, stored_rows, unit_classes
from looc_codec.transforms import QualityTable, dct_kernels

HALO = 1
"""Rows and columns around a position that its scales depend on."""
STEP_POSITIONS = 2**14
"""Details are coded in steps of as many whole rows as have no more positions than this, or of one row. Part of the format: each step has paths of its own."""


def coding_steps(height: int, width: int) -> list[tuple[int, int]]:
    """First and last-plus-one rows of the steps in which details are coded."""
    return row_strips(height, width, STEP_POSITIONS)


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
        self.tables: dict[str, Tensor] | None = None

    def choose(self, chosen: Tensor) -> None:
        """Takes the channels of `dct_kernels` `(detail_channels,)` that are details."""
        self.chosen = chosen.long()
        self.kernels = dct_kernels()[self.chosen]

    # --- pixels -----------------------------------------------------------------------------------------------------

    def analyse(self, error: Tensor, quality: float) -> Tensor:
        """Errors of pixels `(B, 3, 16h, 16w)` → details `(B, detail_channels, h, w)` in steps of the quality."""
        return F.conv2d(error, self.kernels.to(error.device), stride=PATCH) / self.config.step(quality)

    def synthesise(self, details: Tensor, quality: float) -> Tensor:
        """Decoded details `(B, detail_channels, h, w)` in steps → what they add to the pixels, `(B, 3, 16h, 16w)`."""
        taps = self.kernels.flatten(1).to(details.device)
        blocks = torch.einsum("dk,bdyx->bkyx", taps, details * self.config.step(quality))
        return F.pixel_shuffle(blocks, PATCH)

    # --- scales -----------------------------------------------------------------------------------------------------

    def forward(self, magnitudes: Tensor, quality: Tensor) -> Tensor:
        """Log scales (1/32) `(B, detail_channels, h, w)` for training, of companded magnitudes of the latent `(B, d, h, w)` float32 and qualities `(B,)`."""
        quality_row, base = (round_half_up(table(quality) * ACTIVATION_ONE) for table in (self.quality, self.quality_log_scale))
        return self.scales(magnitudes, quality_row, base)

    def scales(self, magnitudes: Tensor, quality_row: Tensor, base: Tensor) -> Tensor:
        features = clipped(self.entry(magnitudes) + quality_row)
        return self.log_scale(clipped(self.hidden(features))) + base

    @torch.inference_mode()
    def traverse(self, latent_hat: Tensor, companded: Callable[[Tensor], Tensor], quality: int, segment: int, code: Callable[[CodingStep, Tensor], Tensor]) -> Tensor:
        """Visits every unit in coding order, step by step: `code(step, rows)` gets the table rows `(n,)` int64 of a step's units and returns their values `(n, d*)` int32.

        `latent_hat` `(d, h, w)` int32 is the decoded latent, `companded` the method of its prior. Returns details `(detail_channels, h, w)` int16 in 1/16 steps. Exact; CPU only.
        """
        assert self.tables is not None, "traverse needs exported integer tables"
        config, (_, height, width) = self.config, latent_hat.shape
        index = quality - QUALITY_MIN
        quality_row, base = (self.tables[name][index, None, :, None, None] for name in ("quality", "quality_log_scale"))
        details = torch.zeros(config.detail_channels, height * width, dtype=torch.int16)
        for top, bottom in coding_steps(height, width):
            y0, y1 = max(0, top - HALO), min(height, bottom + HALO)
            log_scale = self.scales(companded(latent_hat[:, y0:y1]).float().abs()[None], quality_row, base)[0, :, top - y0 : bottom - y0]
            units = CodingStep(segment, slice(0, config.detail_channels), torch.arange((bottom - top) * width)).units(log_scale.flatten(1), config.codevector_dim)
            step = CodingStep(segment, slice(0, config.detail_channels), torch.arange(top * width, bottom * width))
            step.place(code(step, unit_classes(units, config)).clamp(-LATENT_LIMIT, LATENT_LIMIT).to(torch.int16), details)
        return details.view(-1, height, width)

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
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Takes the integers of `export` and freezes the network to them; ModelError when they are not such integers."""
        expected = {name: (value.dtype, value.shape) for name, value in self.export().items()}
        if {name: (value.dtype, value.shape) for name, value in tensors.items()} != expected:
            raise ModelError("the weights file holds other tensors of details than its configuration needs")
        chosen = tensors["chosen"].long()
        if chosen.min() < 0 or chosen.max() >= 3 * PATCH**2 or len(chosen.unique()) != len(chosen):
            raise ModelError("the weights file holds channels of details that there are not")
        self.choose(chosen)
        for name, layer in self.layers().items():
            layer.restore(tensors, name)
        for name, table in self.quality_tables().items():
            read_back(table, tensors[name])
        self.tables = {name: tensors[name].float() for name in self.quality_tables()}

    def unfreeze(self) -> None:
        """Goes back to float weights for training."""
        self.tables = None
        for layer in self.layers().values():
            layer.frozen = None

