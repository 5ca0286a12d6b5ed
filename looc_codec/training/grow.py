"""Growing a trained model: more layers or a wider prior that begin as the same function."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from looc_codec.config import LoocConfig
from looc_codec.errors import ModelError
from looc_codec.model import LoocModel
from looc_codec.prior import Prior

GROWING = ("prior_depth", "prior_width", "analysis_blocks", "synthesis_blocks")
"""Sizes that may become larger."""
FREE = ("name", "version", "codevector_dim", "codebook_size", "ratio_classes")
"""Fields that no trained parameter depends on; the codebook and its tables are fitted anew at the end of every run."""


def grown(model: LoocModel, config: LoocConfig) -> LoocModel:
    """The same function under a configuration with more residual blocks, a deeper or a wider prior.

    Added residual blocks and layers of the prior start as the identity; added features of the prior start at random
    and nothing reads them yet. (A wider layer leaves its integer weights a little less room below 2^24, which can cost
    a channel one bit of precision.) Raises ModelError for any other difference in size.
    """
    old_fields, new_fields = model.config.to_dict(), config.to_dict()
    for name, old in old_fields.items():
        new = new_fields[name]
        if old != new and name not in FREE and (name not in GROWING or not _at_least(new, old)):
            raise ModelError(f"weights cannot be carried over to this configuration: {name} differs ({old}, {new}); train it from the start")
    if config == model.config:
        return model
    new, old = LoocModel(config), dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            if name not in old:
                # Fresh residual blocks are the identity already.
                if name.startswith("prior."):
                    _make_identity(name, parameter)
            elif old[name].shape == parameter.shape:
                parameter.copy_(old[name])
            elif parameter.dim() == 1:
                parameter[: len(old[name])] = old[name]
            else:
                rows, columns = torch.arange(len(old[name])), _kept_columns(name, old[name], new.prior, model.config.prior_width)
                # Old features do not read the new ones yet.
                parameter[rows] = 0
                parameter[rows[:, None], columns] = old[name]
    return new


def _at_least(new: int | tuple, old: int | tuple) -> bool:
    return new >= old if isinstance(new, int) else all(a >= b for a, b in zip(new, old, strict=True))


def _make_identity(name: str, parameter: Tensor) -> None:
    # Activations are whole numbers of 0..255, so identity and clipping change nothing.
    parameter.copy_(torch.eye(len(parameter))[:, :, None, None] if name.endswith("weight") else torch.zeros_like(parameter))


def _kept_columns(name: str, old: Tensor, prior: Prior, old_width: int) -> Tensor:
    """Columns of a wider parameter that hold the columns of the old one."""
    columns = torch.arange(old.shape[1])
    if re.fullmatch(r"prior\.nets\.\d+\.\d+\.entry\.weight", name):
        # Hyper features come first, known latents after them.
        columns[old_width:] += prior.config.prior_width - old_width
    return columns
