"""The networks around the quantizers: the small VQ-VAE of CVQ and LooC, and the f16 VQGAN for 256 × 256 pictures.

Both have `encode`, pictures `(B, c, H, W)` in -1..1 → latent `(B, d, h, w)`, and `decode`, the way back. A quantizer
goes between the two. Sizes follow the released code: CVQ and LooC (lyndonzheng/CVQ-VAE, Visual-AI/LooC) for the small
one, taming-transformers (Esser et al. 2021) for the large one; the tests hold the numbers of parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

SMALL_WIDTH = 128
SMALL_BRANCH = 32
GROUPS = 32
"""Channel groups of GroupNorm in the VQGAN."""


class SmallResidualBlock(nn.Module):
    """`(B, 128, h, w)` → the same shape: ReLU(x) + conv1(ReLU(conv3(ReLU(x)))).

    The skip carries ReLU(x), not x: the released block's first ReLU works in place.
    """

    def __init__(self, width: int, branch: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(width, branch, 3, padding=1)
        self.conv1 = nn.Conv2d(branch, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        return x + self.conv1(functional.relu(self.conv3(x)))


class SmallBackbone(nn.Module):
    """The VQ-VAE of the small-picture tables: two convolutions of stride 2, two residual blocks, no norm layers.

    28 × 28 pixels become a 7 × 7 grid, 32 × 32 an 8 × 8 one; sides must be multiples of 4.

    >>> SmallBackbone(1).encode(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 128, 7, 7])
    """

    positions_per_side = 4

    def __init__(self, image_channels: int, latent_channels: int = 128) -> None:
        super().__init__()
        width, half = SMALL_WIDTH, SMALL_WIDTH // 2
        self.latent_channels = latent_channels
        self.encoder = nn.Sequential(
            nn.Conv2d(image_channels, half, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(half, width, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            SmallResidualBlock(width, SMALL_BRANCH), SmallResidualBlock(width, SMALL_BRANCH), nn.ReLU(),
        )  # fmt: skip
        self.to_latent = nn.Conv2d(width, latent_channels, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            SmallResidualBlock(width, SMALL_BRANCH), SmallResidualBlock(width, SMALL_BRANCH), nn.ReLU(),
            nn.ConvTranspose2d(width, half, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(half, image_channels, 4, stride=2, padding=1),
        )  # fmt: skip

    def encode(self, pictures: Tensor) -> Tensor:
        return self.to_latent(self.encoder(pictures))

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)


# --- f16 VQGAN ------------------------------------------------------------------------------------------------------


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class VqganResidualBlock(nn.Module):
    """Twice GroupNorm, swish and a 3 × 3 convolution, added to the input (through a 1 × 1 convolution if widths differ)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv1(functional.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(functional.silu(self.norm2(branch)))


class VqganAttention(nn.Module):
    """Self-attention over all positions, one head, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        query, key, value = (part(normed).flatten(2).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.transpose(1, 2).reshape(x.shape))


class VqganDownsample(nn.Module):
    """Halves both sides with a 3 × 3 convolution; padded at the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class VqganUpsample(nn.Module):
    """Doubles both sides: nearest neighbour, then a 3 × 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class VqganBackbone(nn.Module):
    """The f16 VQGAN of taming-transformers: `(B, 3, 256, 256)` ↔ latent `(B, 256, 16, 16)`.

    `multipliers` give the width of each of the five levels as multiples of `width`; attention stands at the coarsest
    level and in the middle. Sides must be multiples of 2^(levels - 1). A smaller width (a multiple of 32) serves tests.
    `feature_channels` (default: as many as the latent has) lie on the networks' side of the 1 × 1 convolutions.
    """

    def __init__(
        self, image_channels: int = 3, latent_channels: int = 256, *, feature_channels: int | None = None, width: int = 128, multipliers: Sequence[int] = (1, 1, 2, 2, 4), blocks: int = 2
    ) -> None:
        super().__init__()
        features = feature_channels or latent_channels
        self.latent_channels = latent_channels
        self.positions_per_side = 2 ** (len(multipliers) - 1)
        widths = [width * multiplier for multiplier in multipliers]
        coarsest = len(widths) - 1

        layers: list[nn.Module] = [nn.Conv2d(image_channels, width, 3, padding=1)]
        channels = width
        for level, outputs in enumerate(widths):
            for _ in range(blocks):
                layers.append(VqganResidualBlock(channels, outputs))
                channels = outputs
                if level == coarsest:
                    layers.append(VqganAttention(channels))
            if level < coarsest:
                layers.append(VqganDownsample(channels))
        self.encoder = nn.Sequential(*layers, *self._middle(channels), _norm(channels), nn.SiLU(), nn.Conv2d(channels, features, 3, padding=1))
        self.to_latent = nn.Conv2d(features, latent_channels, 1)
        self.from_latent = nn.Conv2d(latent_channels, features, 1)

        layers = [nn.Conv2d(features, channels, 3, padding=1), *self._middle(channels)]
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                layers.append(VqganResidualBlock(channels, widths[level]))
                channels = widths[level]
                if level == coarsest:
                    layers.append(VqganAttention(channels))
            if level:
                layers.append(VqganUpsample(channels))
        self.last = nn.Conv2d(channels, image_channels, 3, padding=1)
        self.decoder = nn.Sequential(*layers, _norm(channels), nn.SiLU(), self.last)

    @staticmethod
    def _middle(channels: int) -> list[nn.Module]:
        return [VqganResidualBlock(channels, channels), VqganAttention(channels), VqganResidualBlock(channels, channels)]

    def encode(self, pictures: Tensor) -> Tensor:
        return self.to_latent(self.encoder(pictures))

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(self.from_latent(latent))


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017) as in taming-transformers: pictures `(B, c, H, W)` → logits `(B, 1, h, w)`."""

    def __init__(self, image_channels: int = 3, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(image_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = width
        for number in range(1, layers + 1):
            outputs = width * min(2**number, 8)
            stride = 2 if number < layers else 1
            parts += [nn.Conv2d(channels, outputs, 4, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
            channels = outputs
        parts.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.parts = nn.Sequential(*parts)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.parts(pictures)
