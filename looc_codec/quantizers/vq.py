"""VQ: one codevector for each position of the latent.

Aaron van den Oord, Oriol Vinyals, Koray Kavukcuoglu 2017, "Neural Discrete Representation Learning", section 3.1-3.2.

    k(i, j) = argmin_k |z(i, j) - c_k|²,  z_hat(i, j) = c_k(i, j),  loss = mean (c - sg z)² + 0.25 mean (sg c - z)²

The gradient of z_hat passes straight through to z. Some released codes (taming-transformers' default, "legacy", and
LooC's VQ baseline) put the 0.25 on the codebook term: `codebook_weight=0.25, commitment_weight=1`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from looc_codec.quantizers.gradients import Gradient
from looc_codec.quantizers.learned_codebook import LearnedCodebook
from looc_codec.quantizers.quantizer import Quantizer, QuantizerOutput
from looc_codec.quantizers.search import Match
from looc_codec.quantizers.units import latent_of, units_of


class OneCodeQuantizer(Quantizer):
    """Any quantizer with one codebook `(K, d)` and one code for each position. Options are those of the book."""

    def __init__(self, channels: int, codebook_size: int, **options: Any) -> None:
        super().__init__(channels)
        self.codebook = LearnedCodebook(codebook_size, channels, **options)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebook.size,)

    @property
    def codes_per_position(self) -> int:
        return 1

    @property
    def codebook_parameters(self) -> int:
        return self.codebook.codevectors.numel()

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """`(B, d, h, w)` → latent_hat `(B, d, h, w)`, codes `(B, 1, h, w)`, loss."""
        self.check_latent(latent)
        chosen, codes, loss = self.codebook(units_of(latent, self.channels))
        return QuantizerOutput(latent_of(chosen, latent.shape), codes.view(len(latent), 1, *latent.shape[2:]), loss)

    def start_at(self, latent: Tensor, generator: torch.Generator | None = None) -> None:
        self.check_latent(latent)
        self.codebook.start_at(units_of(latent, self.channels), generator)

    @torch.no_grad()
    def codes(self, latent: Tensor) -> Tensor:
        self.check_latent(latent)
        return self.codebook.nearest(units_of(latent, self.channels)).view(len(latent), 1, *latent.shape[2:])

    def lookup(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        self.check_codes(codes, 1)
        shape = torch.Size((len(codes), self.channels, *codes.shape[2:]))
        return self.check_size(latent_of(self.codebook.lookup(codes.reshape(-1)), shape), size)


class VQQuantizer(OneCodeQuantizer):
    """VQ with K codevectors of d dimensions, moved by gradients. Options: see `LearnedCodebook`.

    `near_restarts` (default off) moves the least used codevector beside the most used one every 20 steps (Williams et al.
    2020). The "HVQ-VAE" rows of LooC's tables equal an ablation of CVQ with that rule and one level: this quantizer.
    """

    def __init__(
        self,
        channels: int,
        codebook_size: int = 512,
        *,
        match: Match = "l2",
        near_restarts: bool = False,
        gradient: Gradient = "straight-through",
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__(
            channels, codebook_size, match=match, update="near" if near_restarts else "gradient", gradient=gradient,
            codebook_weight=codebook_weight, commitment_weight=commitment_weight,
        )  # fmt: skip
