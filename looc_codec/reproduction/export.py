"""From a trained network of the papers to a model that codes files: graphs, stored weights, codevectors and tables."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from looc_codec.codec.grid_model import ANALYSIS, SYNTHESIS, GridModel, core_of
from looc_codec.codec.model import SCALES, stored_transforms
from looc_codec.codec.packing import unpack_weights
from looc_codec.errors import ModelError
from looc_codec.format.index_grid import GridConfig
from looc_codec.quantizers.looc import LooCQuantizer
from looc_codec.quantizers.quantizer import Quantizer
from looc_codec.quantizers.vq import OneCodeQuantizer
from looc_codec.reproduction.backbones import SmallBackbone
from looc_codec.reproduction.batches import Batches, EpochBatches
from looc_codec.reproduction.rates import fitted_tables
from looc_codec.reproduction.vqvae import VqVae
from looc_codec.training.export import PLANE, exported_graph

PREFIX = "network."
HALOS = {SmallBackbone: 4}
"""Positions beyond a tile's rim that the networks see. Encoder of the small one: one for both strided convolutions,
whose rims are less than a position together, one for the 3 x 3 convolution and one for each of two residual blocks.
Decoder: likewise, the transposed convolutions in place of the strided ones."""
GLOBAL_HALO, GLOBAL_TILE = 4, 16
"""The same for the VQGAN, which sees everything, and the side of its tiles: with their halos they are 1.5 times its
training pictures."""
SMALL_TILE = 96
TABLE_ENTRIES = 1 << 21
"""Most entries of the tables of a weights file, which takes two bytes for each."""

TABLE_POSITIONS = 320_000
"""Latent positions of training pictures whose codes make the tables: 5,000 pictures of 32 x 32 pixels."""


def can_be_exported(quantizer: Quantizer) -> bool:
    """Whether a quantizer is one codebook for all planes, as an index grid has it: LooC, and one code for each
    position."""
    return isinstance(quantizer, (LooCQuantizer, OneCodeQuantizer))


def grid_model(model: VqVae, name: str, batches: Iterable[Tensor], description: str = "") -> GridModel:
    """The codec model of a trained network. `batches` of training pictures `(B, c, H, W)` in -1..1 are what its
    tables are counted on.

    The weights are rounded as the file stores them before anything is counted. Raises ModelError where the quantizer
    has more than one codebook, or weights are not finite.
    """
    if not can_be_exported(model.quantizer):
        raise ModelError(
            "only networks with one codebook for all planes can code files: LooC, and those with one code"
            " for each position"
        )
    model = copy.deepcopy(model).to("cpu", memory_format=torch.contiguous_format).eval().requires_grad_(False)
    parameters = {PREFIX + key: value.float().numpy() for key, value in model.backbone.state_dict().items()}
    if not all(np.isfinite(value).all() for value in parameters.values()):
        raise ModelError("the model has weights that are not finite numbers")
    stored = stored_transforms(parameters)
    rounded = {
        key.removeprefix(PREFIX): unpack_weights(value, stored.tensors[key + SCALES], stored.shapes[key])
        if key in stored.shapes
        else value.astype(np.float32)
        for key, value in stored.tensors.items()
        if not key.endswith(SCALES)
    }
    model.backbone.load_state_dict({key: torch.from_numpy(value) for key, value in rounded.items()})
    config = config_of(model, name)
    codevectors = model.quantizer.codebook.codevectors.numpy()
    with torch.inference_mode():
        codes = np.concatenate([model.codes(batch).numpy() for batch in batches])
    tables = fitted_tables(codes, np.broadcast_to(codevectors, (config.planes, *codevectors.shape)), TABLE_ENTRIES)
    return GridModel(
        config, core_of(codevectors, tables), stored.tensors, stored.shapes, graphs_of(model, config), description
    )


def table_batches(batches: Batches, patch: int) -> list[Tensor]:
    """Training batches of about `TABLE_POSITIONS` positions, of one epoch at most where pictures are whole."""
    first = batches.at(0)
    needed = -(-TABLE_POSITIONS // (first[:, 0].numel() // patch**2))
    count = min(needed, batches.steps_per_epoch) if isinstance(batches, EpochBatches) else needed
    return [first.cpu(), *(batches.at(step).cpu() for step in range(1, count))]


def config_of(model: VqVae, name: str) -> GridConfig:
    """The sizes of a network as a codec."""
    backbone, quantizer = model.backbone, model.quantizer
    image_channels = next(backbone.encoder.parameters()).shape[1]
    patch = backbone.positions_per_side
    spread = spread_of(quantizer)(torch.zeros(1, quantizer.channels, 2, 2))
    halo = HALOS.get(type(backbone), GLOBAL_HALO)
    # Interpolation before the search sees one position more, and so does the blur after it in the grid of the paper's
    # count.
    interpolated = getattr(quantizer, "beta", 1) > 1
    return GridConfig(
        name=name,
        image_channels=image_channels,
        patch=patch,
        grid_factor=spread.shape[2] // 2,
        planes=spread.shape[1] // quantizer.codebook.dim,
        codebook_size=quantizer.codebook.size,
        codevector_dim=quantizer.codebook.dim,
        match=quantizer.codebook.match,
        analysis_halo=halo + interpolated,
        synthesis_halo=halo + interpolated,
        tile=SMALL_TILE if type(backbone) in HALOS else GLOBAL_TILE,
    )


def spread_of(quantizer: Quantizer) -> Callable[[Tensor], Tensor]:
    """The way from a latent to the tensor that units are cut from."""
    return quantizer.spread if isinstance(quantizer, LooCQuantizer) else lambda latent: latent


def gather_of(quantizer: Quantizer) -> Callable[[Tensor], Tensor]:
    """And back, from the quantised tensor to a latent."""
    return quantizer.gather if isinstance(quantizer, LooCQuantizer) else lambda spread: spread


def graphs_of(model: VqVae, config: GridConfig) -> dict:
    """Both networks as the codec runs them."""
    # The exporter merges tensors that are equal, as norms' weights may be.
    backbone, generator = copy.deepcopy(model.backbone), torch.Generator().manual_seed(1)
    for parameter in backbone.parameters():
        nn.init.uniform_(parameter, -1.0, 1.0, generator=generator)
    spread, gather = spread_of(model.quantizer), gather_of(model.quantizer)
    height, width = 6 * config.grid_factor, 7 * config.grid_factor
    pixels = torch.zeros(1, config.image_channels, 6 * config.patch, 7 * config.patch)
    latent = torch.zeros(1, config.planes * config.codevector_dim, height, width)
    return {
        ANALYSIS: exported_graph(
            lambda m, x: spread(m.encode(x / 127.5 - 1)), backbone, PREFIX, {"pixels": pixels}, (PLANE,)
        ),
        SYNTHESIS: exported_graph(
            lambda m, x: (m.decode(gather(x)) + 1) * 127.5, backbone, PREFIX, {"latent": latent}, (PLANE,)
        ),
    }
