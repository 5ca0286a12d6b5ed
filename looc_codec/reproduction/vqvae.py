"""A backbone with a quantizer: pictures → codes → pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from looc_codec.quantizers.quantizer import Quantizer, QuantizerOutput
from looc_codec.reproduction.backbones import SmallBackbone, VqganBackbone
from looc_codec.reproduction.rows import PHOTO_CHANNELS, Row, build_quantizer, channels_of

RQ_MULTIPLIERS = (1, 1, 2, 2, 4, 4)
"""RQ-VAE's released networks have one level more than VQGAN's: a grid of 8 × 8 for 256 × 256 pixels."""


def to_network(pictures: np.ndarray) -> Tensor:
    """`(B, H, W, c)` uint8 → `(B, c, H, W)` float32 in -1..1, as the papers' code: (x / 255 - 0.5) / 0.5."""
    return (torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32)) / 255 - 0.5) / 0.5


class VqVae(nn.Module):
    """Backbone and quantizer. In evaluation mode pictures are always made from codes, as a decoder would."""

    def __init__(self, backbone: nn.Module, quantizer: Quantizer) -> None:
        super().__init__()
        self.backbone, self.quantizer = backbone, quantizer

    def forward(self, pictures: Tensor, *, bf16: bool = False) -> tuple[Tensor, QuantizerOutput]:
        """Reconstruction `(B, c, H, W)` float32 and the quantizer's output; the quantizer runs in float32 always."""
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=bf16):
            latent = self.backbone.encode(pictures)
        output = self.quantizer(latent.float())
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=bf16):
            decoded = self.backbone.decode(output.latent_hat)
        return decoded.float(), output

    def codes(self, pictures: Tensor) -> Tensor:
        """Codes `(B, n, h', w')` int64 of pictures in -1..1."""
        return self.quantizer.codes(self.backbone.encode(pictures))

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Pictures `(B, c, H, W)`, about -1..1, of codes."""
        return self.backbone.decode(self.quantizer.lookup(codes))


def build_model(row: Row, image_channels: int, *, photo: bool) -> VqVae:
    """The network of a row: the small VQ-VAE, or with `photo` the VQGAN of 256 × 256 pictures."""
    channels = channels_of(row, photo=photo)
    if not photo:
        return VqVae(SmallBackbone(image_channels, channels), build_quantizer(row, channels, gray=image_channels == 1))
    options = {"multipliers": RQ_MULTIPLIERS} if row.method == "rq" else {}
    return VqVae(VqganBackbone(image_channels, channels, feature_channels=PHOTO_CHANNELS, **options), build_quantizer(row, channels))


@torch.no_grad()
def plane_codevectors(quantizer: Quantizer, planes: int, grid_factor: int = 1) -> np.ndarray:
    """What each code of each plane adds to a latent: `(p, K, d)` float32, with all other planes at code 0.

    Works for any quantizer, since it only asks `lookup`. `grid_factor` is h' / h.
    """
    size = max(quantizer.codebook_sizes)
    found = []
    for plane in range(planes):
        codes = torch.zeros(size, planes, grid_factor, grid_factor, dtype=torch.int64, device=next(quantizer.buffers(), torch.zeros(0)).device)
        codes[:, plane] = torch.arange(size, device=codes.device)[:, None, None]
        found.append(quantizer.lookup(codes)[:, :, 0, 0].cpu().numpy())
    return np.stack(found)
