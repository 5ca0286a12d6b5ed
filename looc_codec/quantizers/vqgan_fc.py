"""VQGAN-FC: factorised codes, a codebook in a low dimension between two projections, on the unit sphere.

Jiahui Yu et al. 2022, "Vector-quantized Image Modeling with Improved VQGAN" (ViT-VQGAN), section 3.2; as the baseline
"VQGAN-FC" in Zhu et al. 2024, "Scaling the Codebook Size of VQGAN to 100,000 with a Utilization Rate of 99%".

    v = project_in(z), d → d';   v_n = v / |v|,  e_k = c_k / |c_k|;   k = argmin |v_n - e_k|² = argmax <v_n, e_k>
    z_hat = project_out(e_k), d' → d;   loss = mean (e - sg v_n)² + 0.25 mean (sg e - v_n)²

d' is 32 in ViT-VQGAN and 8 in VQGAN-LC's code, which leaves the normalisation out (`normalise=False`). The gradient
passes straight through in the low dimension, and through both projections as usual.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from looc_codec.errors import ModelError
from looc_codec.quantizers.gradients import straight_through
from looc_codec.quantizers.learned_codebook import vq_loss
from looc_codec.quantizers.quantizer import Quantizer, QuantizerOutput
from looc_codec.quantizers.search import nearest
from looc_codec.quantizers.units import latent_of, units_of


class ProjectedQuantizer(Quantizer):
    """A quantizer whose codevectors have d' dimensions, between 1 × 1 convolutions d → d' and d' → d.

    The caller that builds on it says what the K codevectors are (`book`). Weights of the loss as in `vq_loss`.
    """

    def __init__(self, channels: int, code_dim: int, codebook_weight: float, commitment_weight: float) -> None:
        super().__init__(channels)
        if code_dim < 1:
            raise ModelError(f"invalid quantizer: code_dim {code_dim} is below 1")
        if codebook_weight < 0 or commitment_weight < 0:
            raise ModelError("invalid quantizer: a loss weight is negative")
        self.code_dim, self.codebook_weight, self.commitment_weight = code_dim, codebook_weight, commitment_weight
        self.project_in = nn.Conv2d(channels, code_dim, 1)
        self.project_out = nn.Conv2d(code_dim, channels, 1)

    @abstractmethod
    def book(self) -> Tensor:
        """Codevectors `(K, d')` as they are compared and emitted, with a gradient to what is learned of them."""

    def units(self, latent: Tensor) -> Tensor:
        """Units `(B * h * w, d')` as they are compared."""
        self.check_latent(latent)
        return units_of(self.project_in(latent), self.code_dim).to(self.project_in.weight.dtype)

    @property
    def codes_per_position(self) -> int:
        return 1

    @property
    def codebook_parameters(self) -> int:
        return self.codebook_sizes[0] * self.code_dim

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """`(B, d, h, w)` → latent_hat `(B, d, h, w)`, codes `(B, 1, h, w)`, loss in d' dimensions."""
        units, book = self.units(latent), self.book()
        batch, _, height, width = latent.shape
        codes = nearest(units, book)
        chosen = book[codes]
        loss = vq_loss(units, chosen, self.codebook_weight, self.commitment_weight)
        joined = latent_of(straight_through(units, chosen), torch.Size((batch, self.code_dim, height, width)))
        return QuantizerOutput(self.project_out(joined), codes.view(batch, 1, height, width), loss)

    @torch.no_grad()
    def codes(self, latent: Tensor) -> Tensor:
        return nearest(self.units(latent), self.book()).view(len(latent), 1, *latent.shape[2:])

    def lookup(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        self.check_codes(codes, 1)
        chosen = self.book()[codes.reshape(-1).long()]
        joined = latent_of(chosen, torch.Size((len(codes), self.code_dim, *codes.shape[2:])))
        return self.check_size(self.project_out(joined), size)


class VQGANFCQuantizer(ProjectedQuantizer):
    """K learned codevectors of d' = `code_dim` dimensions (default 32), compared and emitted at length one."""

    def __init__(
        self,
        channels: int,
        codebook_size: int = 8192,
        *,
        code_dim: int = 32,
        normalise: bool = True,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__(channels, code_dim, codebook_weight, commitment_weight)
        if codebook_size < 1:
            raise ModelError(f"invalid VQGAN-FC quantizer: codebook_size {codebook_size} is below 1")
        self.normalise = normalise
        spread = 1.0 if normalise else 1 / codebook_size
        self.codevectors = nn.Parameter(torch.empty(codebook_size, code_dim).uniform_(-spread, spread))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (len(self.codevectors),)

    def book(self) -> Tensor:
        return functional.normalize(self.codevectors, dim=1) if self.normalise else self.codevectors

    def units(self, latent: Tensor) -> Tensor:
        units = super().units(latent)
        return functional.normalize(units, dim=1) if self.normalise else units
