"""LooC-VAE: transforms, shared codebook and prior in one trainable module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from looc_codec.codec.model import CodecModel
from looc_codec.config import LoocConfig
from looc_codec.format.integers import Core
from looc_codec.networks.details import Details
from looc_codec.networks.prior import Prior
from looc_codec.networks.transforms import Analysis, Synthesis
from looc_codec.quality import PLAIN
from looc_codec.quantizers.codebook import SharedCodebook


class LoocModel(nn.Module):
    """A LooC-VAE: analysis → predictive units of one shared codebook → synthesis.

    It holds floats alone (and the codebook that training fits). `training/export.py` makes the integers, tables and graphs of a
    codec model from it; nothing of them is kept here, so nothing can be out of step.
    """

    def __init__(self, config: LoocConfig, order: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.analysis = Analysis(config, order)
        self.synthesis = Synthesis(config, order)
        self.prior = Prior(config)
        self.codebook = SharedCodebook(config)
        self.details = Details(config) if config.detail_channels else None
        # Of the model that this one goes on from, where it still holds; training does not measure it.
        self.quality_scale = PLAIN

    @classmethod
    def of(cls, model: CodecModel) -> LoocModel:
        """A trainable model that goes on where a codec model stands."""
        trainable = cls(model.config)
        parameters = trainable.state_dict()
        with torch.no_grad():
            for name in transform_names(trainable):
                parameters[name].copy_(torch.from_numpy(model.tensor(name).copy()))
        trainable.take(dict(model.core))
        trainable.quality_scale = model.quality_scale
        return trainable

    def take(self, core: Core) -> None:
        """Sets prior, codebook and details to a core's integers."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): torch.from_numpy(value.copy()) for name, value in core.items() if name.startswith(prefix)}

        self.prior.take(part("prior."))
        self.codebook.take({name.removeprefix("codebook."): value for name, value in core.items() if name.startswith("codebook.")})
        if self.details is not None:
            self.details.take(part("details."))


def transform_names(model: LoocModel) -> list[str]:
    """Names of the parameters of analysis and synthesis."""
    return [name for name in model.state_dict() if name.startswith(("analysis.", "synthesis."))]
