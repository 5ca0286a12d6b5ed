"""SQ-VAE: stochastic quantisation that anneals itself, by a learned variance and a falling temperature.

Yuhta Takida et al. 2022, "SQ-VAE: Variational Bayes on Discrete Representation with Self-annealed Stochastic
Quantization", section 3 and appendix; Gaussian SQ-VAE of type I (one variance for all), constants as in the released
code (sony/sqvae, "gaussian_1").

    var = floor + exp(s), s learned;   P(k | z) = softmax_k(-|z - c_k|² / (2 var))
    training:    z_hat = sum_k w_k c_k, w = softmax((log P + Gumbel noise) / tau),   tau = exp(-1e-5 step)
    evaluation:  z_hat = c_k, k = argmax P, which is the nearest codevector
    loss = [ sum over positions and k of P log P  +  |z - z_hat|² / (2 var) ]     per image, mean over the batch

The gradient of z_hat reaches latent and codebook through w; nothing passes straight through. As tau falls w becomes one
draw from P; as var falls against the distances, which training does through the second term, P becomes the nearest
codevector. The paper allows any var > 0; the released code has a floor of 1 (`variance_floor`), so there the latent
grows instead. The loss is a sum, not a mean: it belongs with `sq_reconstruction_loss`, which is of the same kind.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from looc_codec.errors import ModelError
from looc_codec.quantizers.quantizer import QuantizerOutput
from looc_codec.quantizers.search import largest_of_rows, similarity
from looc_codec.quantizers.units import latent_of, units_of
from looc_codec.quantizers.vq import OneCodeQuantizer

TEMPERATURE_DECAY = 1e-5
LEAST_TEMPERATURE = 1e-6
"""The temperature would reach zero after many million steps; the division needs more."""


def sq_reconstruction_loss(images: Tensor, reconstructions: Tensor) -> Tensor:
    """(D / 2) ln(mean over images of the summed squared error), D values per image: `(B, c, H, W)` twice → scalar.

    The decoder's variance at its best value (Takida et al. 2022, section 3.4, as released). Add the quantizer's loss.
    """
    values = images[0].numel()
    error = functional.mse_loss(reconstructions, images, reduction="sum") / len(images)
    return 0.5 * values * torch.log(error)


class SQQuantizer(OneCodeQuantizer):
    """K codevectors of d dimensions, initially N(0, 1). Options:

    `initial_variance` (default 20; the paper has 20 for CIFAR, 10 for MNIST and Fashion-MNIST): exp(s) at the start.
    `variance_floor` (1). `temperature_decay` (1e-5 per training step). The variance, s, is a parameter; the step is kept
    in the state.
    """

    def __init__(
        self,
        channels: int,
        codebook_size: int = 512,
        *,
        initial_variance: float = 20.0,
        variance_floor: float = 1.0,
        temperature_decay: float = TEMPERATURE_DECAY,
    ) -> None:
        if initial_variance <= 0 or variance_floor < 0 or temperature_decay < 0:
            raise ModelError("invalid SQ quantizer: initial_variance must be above 0, variance_floor and temperature_decay not below 0")
        super().__init__(channels, codebook_size)
        nn.init.normal_(self.codebook.codevectors)
        self.log_variance = nn.Parameter(torch.tensor(math.log(initial_variance)))
        self.variance_floor, self.temperature_decay = variance_floor, temperature_decay
        self.register_buffer("steps", torch.tensor(0))

    @property
    def variance(self) -> Tensor:
        """var, a scalar with gradient."""
        return self.variance_floor + self.log_variance.exp()

    @property
    def temperature(self) -> float:
        """tau of the next training step."""
        return max(LEAST_TEMPERATURE, math.exp(-self.temperature_decay * int(self.steps)))

    def start_at(self, latent: Tensor, generator: torch.Generator | None = None) -> None:
        """Nothing: its codevectors start at N(0, 1), and its variance is set for that."""

    def log_posterior(self, units: Tensor) -> Tensor:
        """log P(k | z) `(n, K)` of units `(n, d)`."""
        return functional.log_softmax(similarity(units, self.codebook.codevectors) / (2 * self.variance), dim=1)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """`(B, d, h, w)` → latent_hat `(B, d, h, w)`, codes `(B, 1, h, w)` (the most likely ones), loss."""
        self.check_latent(latent)
        units = units_of(latent, self.channels).to(self.codebook.codevectors.dtype)
        log_posterior = self.log_posterior(units)
        # In evaluation the search that `codes` does, which may decide otherwise where two codevectors are as near.
        codes = largest_of_rows(log_posterior) if self.training else self.codebook.nearest(units)
        if self.training:
            weights = functional.gumbel_softmax(log_posterior, self.temperature, dim=1)
            with torch.autocast(units.device.type, enabled=False):
                chosen = weights @ self.codebook.codevectors
            self.steps += 1
        else:
            chosen = self.codebook.lookup(codes)
        discrete = (log_posterior.exp() * log_posterior).sum()
        continuous = (units - chosen).square().sum() / (2 * self.variance)
        loss = (discrete + continuous) / len(latent)
        return QuantizerOutput(latent_of(chosen, latent.shape), codes.view(len(latent), 1, *latent.shape[2:]), loss)
