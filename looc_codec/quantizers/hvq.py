"""HVQ: a hierarchy of quantizers, each one quantising the encoding of the latent below it.

Will Williams et al. 2020, "Hierarchical Quantized Autoencoders", sections 3 and 4; constants as in the released notebook
(speechmatics/hqa).

    level 1:      z_1 = latent;                      P(k | z) = softmax_k(-|z - c_k|²)
    level i > 1:  z_i = encode_i(normalise(z_{i-1})), half the side;  z_{i-1}~ = decode_i(c(z_i))
    reading:      code of the top level → c → decode → nearest codevector one level down → decode → ... → latent_hat

    training:     c = sum_k w_k c_k, w = softmax((log P + Gumbel noise) / tau), tau from 0.667 to 0.001
    loss of level i = |normalise(z_{i-1}) - z_{i-1}~|² (i > 1) + 0.001 KL(P, uniform) + 0.001 sum_k P |z - c_k|²

each divided by the number of values of z_{i-1} (of the latent for i = 1, where the reconstruction loss is the caller's).
Levels are trained from the bottom up: `grow()` freezes what is there and begins the next one. From then on train this
quantizer's parameters on its loss alone; encoder and decoder around it stay as they are, and `latent_hat` has no
gradient. Only the top level's codes are kept, so each level divides codes and bits by four.

Two things differ from the released notebook: a level below is read by its nearest codevector, not by a draw, so that
codes decode to one latent; and `temperature` is set by the caller's schedule (`set_progress`). The rows "HVQ-VAE" in
LooC's tables have one level and fit an ablation of CVQ: see `vq.py`, `near_restarts`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from looc_codec.errors import ModelError
from looc_codec.quantizers.learned_codebook import LearnedCodebook
from looc_codec.quantizers.quantizer import Quantizer, QuantizerOutput
from looc_codec.quantizers.search import similarity
from looc_codec.quantizers.units import latent_of, units_of

FIRST_TEMPERATURE, LAST_TEMPERATURE = 0.667, 0.001


class HVQLevel(nn.Module):
    """One level: K codevectors of d dimensions, and from the second level on the networks to the level below."""

    def __init__(self, channels: int, codebook_size: int, hidden: int, bottom: bool) -> None:
        super().__init__()
        self.codebook = LearnedCodebook(codebook_size, channels, update="near")
        nn.init.normal_(self.codebook.codevectors)
        if bottom:
            return
        # Running statistics alone, the mean of all batches seen; the normalised output of the layer is not used.
        self.statistics = nn.BatchNorm2d(channels, affine=False, momentum=None)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, hidden // 2, 3, stride=2, padding=1), nn.Mish(), nn.Conv2d(hidden // 2, hidden, 3, padding=1), nn.Mish(),
            nn.Conv2d(hidden, channels, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1), nn.Mish(), nn.Upsample(scale_factor=2),
            nn.Conv2d(hidden, hidden // 2, 3, padding=1), nn.Mish(), nn.Conv2d(hidden // 2, channels, 3, padding=1),
        )  # fmt: skip

    def normalise(self, latent: Tensor) -> Tensor:
        """The latent of the level below with mean 0 and variance 1 per channel, by the statistics of training."""
        mean, variance = (value[:, None, None] for value in (self.statistics.running_mean, self.statistics.running_var))
        return (latent - mean) / torch.sqrt(variance + self.statistics.eps)

    def restore(self, latent: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        mean, variance = (value[:, None, None] for value in (self.statistics.running_mean, self.statistics.running_var))
        return latent * torch.sqrt(variance + self.statistics.eps) + mean

    def quantise(self, latent: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`(B, d, h, w)` → Gumbel mix of codevectors `(B, d, h, w)`, its leading codes `(n,)`, KL and commitment (sums)."""
        units = units_of(latent, latent.shape[1]).to(self.codebook.codevectors.dtype)
        # A copy, since the update that follows in the same step changes the codevectors that backward will need.
        codevectors = self.codebook.codevectors.clone()
        logits = similarity(units, codevectors)
        log_posterior = functional.log_softmax(logits, dim=1)
        weights = functional.gumbel_softmax(logits, temperature, dim=1)
        posterior = log_posterior.exp()
        kl = (posterior * (log_posterior + math.log(self.codebook.size))).sum()
        commitment = -(posterior * logits).sum()
        with torch.autocast(units.device.type, enabled=False):
            mixed = weights @ codevectors
        return latent_of(mixed, latent.shape), weights.argmax(1), kl, commitment

    def decode(self, latent: Tensor, size: tuple[int, int]) -> Tensor:
        """This level's quantised latent → the normalised latent `(B, d, *size)` of the level below."""
        return self.decoder(latent)[..., : size[0], : size[1]]


class HVQQuantizer(Quantizer):
    """`levels` (default 2) levels of K codevectors of d dimensions; codes `(B, 1, h', w')` of the level now on top.

    `level` tells which one that is: 1 at first, one more after each `grow()`; it is kept in the state. h' and w' are
    halved, rounded up, by each level above the first. `hidden` (64): width of the networks between levels. `kl_weight`
    and `commitment_weight`: 0.001.
    """

    def __init__(
        self,
        channels: int,
        codebook_size: int = 256,
        *,
        levels: int = 2,
        hidden: int = 64,
        kl_weight: float = 0.001,
        commitment_weight: float = 0.001,
    ) -> None:
        super().__init__(channels)
        if levels < 1 or hidden < 2:
            raise ModelError(f"invalid HVQ quantizer: levels {levels} must be at least 1 and hidden {hidden} at least 2")
        self.kl_weight, self.commitment_weight = kl_weight, commitment_weight
        self.levels = nn.ModuleList(HVQLevel(channels, codebook_size, hidden, bottom=number == 0) for number in range(levels))
        self.temperature = FIRST_TEMPERATURE
        self.register_buffer("top", torch.tensor(1))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, level={self.level}"

    @property
    def level(self) -> int:
        """The number of levels in use."""
        return int(self.top)

    def grow(self) -> None:
        """Freezes the levels in use and puts the next one on top; ModelError if there is none."""
        if self.level == len(self.levels):
            raise ModelError(f"the HVQ quantizer has no level above level {self.level}")
        for level in self.levels[: self.level]:
            level.requires_grad_(False)
        self.top += 1
        self.temperature = FIRST_TEMPERATURE

    def set_progress(self, share: float) -> None:
        """Sets the temperature for the share 0..1 of a level's training that is done: linear from 0.667 to 0.001."""
        self.temperature = FIRST_TEMPERATURE + min(max(share, 0.0), 1.0) * (LAST_TEMPERATURE - FIRST_TEMPERATURE)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.levels[0].codebook.size,)

    @property
    def codes_per_position(self) -> float:
        """1 at level 1, a quarter of it at each further level (somewhat more where sides are odd)."""
        return 0.25 ** (self.level - 1)

    @property
    def codebook_parameters(self) -> int:
        return sum(level.codebook.codevectors.numel() for level in self.levels[: self.level])

    @torch.no_grad()
    def ascend(self, latent: Tensor, level: int) -> Tensor:
        """The encoding `(B, d, h', w')` of a latent `(B, d, h, w)` at a level in use, by networks as they are."""
        for part in self.levels[1:level]:
            latent = part.encoder(part.normalise(latent))
        return latent

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """`(B, d, h, w)` → latent_hat `(B, d, h, w)`, codes `(B, 1, h', w')`, loss of the top level."""
        self.check_latent(latent)
        size, top = tuple(latent.shape[2:]), self.levels[self.level - 1]
        codes = self.codes(latent)
        latent = latent.to(top.codebook.codevectors.dtype)
        if self.level == 1:
            target = encoded = latent
        else:
            below = self.ascend(latent.detach(), self.level - 1)
            if self.training:
                top.statistics(below)
            target = top.normalise(below)
            encoded = top.encoder(target)
        mixed, drawn, kl, commitment = top.quantise(encoded, self.temperature)
        loss = (self.kl_weight * kl + self.commitment_weight * commitment) / target.numel()
        if self.level > 1:
            loss = loss + functional.mse_loss(top.decode(mixed, tuple(target.shape[2:])), target)
        latent_hat = mixed if self.training and self.level == 1 else self.lookup(codes, size)
        if self.training:
            top.codebook.learn(units_of(encoded.detach(), self.channels), drawn)
        return QuantizerOutput(latent_hat if self.level == 1 else latent_hat.detach(), codes, loss)

    @torch.no_grad()
    def codes(self, latent: Tensor) -> Tensor:
        """Codes `(B, 1, h', w')` of the top level: the nearest codevector of each of its positions."""
        self.check_latent(latent)
        encoded = self.ascend(latent, self.level)
        book = self.levels[self.level - 1].codebook
        return book.nearest(units_of(encoded, self.channels)).view(len(latent), 1, *encoded.shape[2:])

    def lookup(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Quantised latent `(B, d, h, w)`, read down through all levels; without `size` all sides are taken as even."""
        self.check_codes(codes, 1)
        batch, _, height, width = codes.shape
        sides = [tuple(size) if size else (height << (self.level - 1), width << (self.level - 1))]
        for _ in range(self.level - 1):
            sides.append(((sides[-1][0] + 1) // 2, (sides[-1][1] + 1) // 2))
        if sides[-1] != (height, width):
            raise ValueError(f"codes of {height} x {width} are not those of a latent of {sides[0][0]} x {sides[0][1]}")
        book = self.levels[self.level - 1].codebook
        latent = latent_of(book.lookup(codes.reshape(-1)), torch.Size((batch, self.channels, height, width)))
        for number in range(self.level - 1, 0, -1):
            level, book = self.levels[number], self.levels[number - 1].codebook
            below = level.restore(level.decode(latent, sides[number - 1]))
            latent = latent_of(book.lookup(book.nearest(units_of(below, self.channels))), below.shape)
        return latent
