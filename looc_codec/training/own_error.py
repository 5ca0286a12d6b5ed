"""A code's own rounding error, left out of the gradient that reaches the analysis.

The gradient of the distortion passes straight through the choice of codes (Bengio, Léonard and
Courville 2013), so at every latent it holds a multiple of that latent's own rounding error, 35 to
70% of its energy (docs/EXPERIMENTS.md, section 19). Where a unit has a code beside zero, that error
is as good as random and says nothing of where the latent should be: it is noise, which a control
variate takes out. Where the code is zero the error is the latent itself, and what the gradient says
of it balances the bits that the estimate of the rate sees there (section 8); it stays.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from looc_codec.format.constants import LATENT_ONE


class _LeftOut(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, latent_hat: Tensor, error: Tensor) -> Tensor:
        context.save_for_backward(error)
        return latent_hat.view_as(latent_hat)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (error,) = context.saved_tensors
        return gradient - explained(gradient, error), None


def explained(gradient: Tensor, error: Tensor) -> Tensor:
    """The part of a gradient `(B, d, h, w)` that is a multiple of the rounding errors, as large,
    with one multiple for each picture and channel: least squares, none below zero."""
    products = (gradient.float() * error).sum((2, 3), keepdim=True)
    energy = error.square().sum((2, 3), keepdim=True)
    slope = (products / energy.clamp_min(torch.finfo(energy.dtype).tiny)).clamp_min(0)
    return (slope * error).to(gradient.dtype)


def without_own_error(latent_hat: Tensor, latent: Tensor, residual: Tensor) -> Tensor:
    """`latent_hat`, whose gradient goes on without what the own rounding errors of coded values
    explain of it.

    All are `(B, d, h, w)`: the decoded latent and the latent in steps, and the residuals before
    coding in `LATENT_ONE` parts of a step.
    """
    return _LeftOut.apply(
        latent_hat, coded_error(latent_hat.detach(), latent.detach(), residual.detach())
    )


def coded_error(latent_hat: Tensor, latent: Tensor, residual: Tensor) -> Tensor:
    """Rounding errors in steps, `(B, d, h, w)`; zero where the code stands for zero."""
    error = latent_hat - latent
    return torch.where((LATENT_ONE * error + residual).abs() < 0.5, 0.0, error)
