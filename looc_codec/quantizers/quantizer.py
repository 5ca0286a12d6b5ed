"""The one interface of all quantizers: latent → codes, quantised latent and loss; codes → quantised latent.

    latent (B, d, h, w) ─ forward ─→ QuantizerOutput(latent_hat, codes, loss)
    latent (B, d, h, w) ─ codes ───→ codes (B, n, h', w') int64 ─ lookup ─→ latent_hat (B, d, h, w)

A quantizer is a plain `nn.Module` with no knowledge of images, files or entropy coding; its bits are those of equally
likely codes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from looc_codec.errors import ModelError


@dataclass(frozen=True)
class QuantizerOutput:
    """What a quantizer makes of a latent `(B, d, h, w)`.

    `latent_hat` `(B, d, h, w)` goes to the decoder and carries the gradient to the latent; `codes` `(B, n, h', w')`
    int64 hold n code planes; `loss` is the scalar to add to the reconstruction loss, weights included.
    """

    latent_hat: Tensor
    codes: Tensor
    loss: Tensor


@dataclass(frozen=True)
class CodebookUsage:
    """How codes spread over a codebook: `counts` `(K,)` int64, share of codevectors used (0..1), perplexity (1..K)."""

    counts: Tensor
    used_share: float
    perplexity: float


def usage_of(codes: Tensor, codebook_size: int) -> CodebookUsage:
    """How often each codevector occurs in integer codes of any shape, and perplexity exp(-sum p ln p)."""
    counts = torch.bincount(codes.reshape(-1), minlength=codebook_size)
    share = counts.double() / counts.sum().clamp_min(1)
    return CodebookUsage(counts, float((counts > 0).double().mean()), float(torch.exp(torch.special.entr(share).sum())))


class Quantizer(nn.Module, ABC):
    """A way of replacing a latent of `channels` channels by codes. Options that none can have raise ModelError."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise ModelError(f"invalid quantizer: channels {channels} is below 1")
        self.channels = channels

    @abstractmethod
    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantises a latent `(B, d, h, w)`. In training mode it may draw at random and update codebooks, of which the
        output still shows the state before. In evaluation mode `lookup(codes)` gives exactly `latent_hat`."""

    @abstractmethod
    def codes(self, latent: Tensor) -> Tensor:
        """Codes `(B, n, h', w')` int64 of a latent `(B, d, h, w)`, without randomness, gradients or updates."""

    @abstractmethod
    def lookup(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Quantised latent `(B, d, h, w)` of codes `(B, n, h', w')`; wrong shapes or codes raise ValueError.

        `size` is (h, w); it is needed only where the code grid does not tell it (HVQ with odd sizes).
        """

    def start_at(self, latent: Tensor, generator: torch.Generator | None = None) -> None:
        """Starts codebooks at clusters of a latent `(B, d, h, w)`, where a quantizer has no start of its own; before the first training
        step. `generator`, one of the CPU, draws what clusters start from."""

    @property
    @abstractmethod
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codevectors K of each codebook that codes point into: one for all code planes, or one for each."""

    @property
    @abstractmethod
    def codes_per_position(self) -> float:
        """Codes per position of the h × w latent."""

    @property
    @abstractmethod
    def codebook_parameters(self) -> int:
        """Values of all codevectors that `lookup` chooses from; networks around the codebook are not counted."""

    @property
    def uniform_bits_per_position(self) -> float:
        """Bits per latent position if all codes were equally likely: the mean of log2 K times codes per position."""
        bits = [math.log2(size) for size in self.codebook_sizes]
        return self.codes_per_position * sum(bits) / len(bits)

    def usage(self, codes: Tensor) -> tuple[CodebookUsage, ...]:
        """How codes `(B, n, h', w')` spread over each codebook, in the order of `codebook_sizes`."""
        sizes = self.codebook_sizes
        if len(sizes) == 1:
            return (usage_of(codes, sizes[0]),)
        return tuple(usage_of(codes[:, plane], size) for plane, size in enumerate(sizes))

    # --- what callers may get wrong ---------------------------------------------------------------------------------

    def check_latent(self, latent: Tensor) -> None:
        """Raises ValueError unless `latent` is `(B, d, h, w)`."""
        if latent.ndim != 4 or latent.shape[1] != self.channels:
            raise ValueError(f"expected a latent (B, {self.channels}, h, w), got {tuple(latent.shape)}")

    def check_codes(self, codes: Tensor, planes: int) -> None:
        """Raises ValueError unless `codes` is `(B, planes, h', w')` of integers that every codebook has."""
        if codes.ndim != 4 or codes.shape[1] != planes or codes.is_floating_point():
            raise ValueError(f"expected integer codes (B, {planes}, h, w), got {tuple(codes.shape)} of {codes.dtype}")
        smallest = min(self.codebook_sizes)
        if codes.numel() and not (0 <= int(codes.min()) and int(codes.max()) < smallest):
            raise ValueError(f"codes reach from {int(codes.min())} to {int(codes.max())}; the codebook has 0 to {smallest - 1}")

    def check_size(self, latent_hat: Tensor, size: tuple[int, int] | None) -> Tensor:
        """`latent_hat`, after a check that it has the `size` (h, w) that the caller expects, if any."""
        if size is not None and tuple(latent_hat.shape[2:]) != tuple(size):
            raise ValueError(f"codes are those of a latent of {tuple(latent_hat.shape[2:])} positions, not of {tuple(size)}")
        return latent_hat
