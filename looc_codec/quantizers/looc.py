"""LooC: one low-dimensional codebook, shared by all units of a position, with extrapolation-by-interpolation.

Jie Li, Kwan-Yee K. Wong, Kai Han: "LooC: Effective Low-Dimensional Codebook for Compositional Vector Quantization".
This is the paper's quantizer as it stands, to put in place of any other one; codec mode, which quantises residuals and
counts bits, is `codebook.py`.

    latent z ─ upsample by beta ─ cut into units of d* ─ nearest codevector ─ join ─ beta × beta mean ─ z_hat
    (B, d, h, w)                                              ↑
                                                  codevectors (K, d*)

Text and released code differ in places. "Paper" below means the text, "released" the authors' code (Visual-AI/LooC);
every difference is an option here. Other sources: CVQ (Zheng and Vedaldi 2023, "Online Clustered Codebook"), the
rotation trick (Fifty et al. 2024, "Restructuring Vector Quantization with the Rotation Trick").
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from looc_codec.errors import ModelError
from looc_codec.quantizers.gradients import Gradient
from looc_codec.quantizers.learned_codebook import Anchor, LearnedCodebook, Update
from looc_codec.quantizers.quantizer import Quantizer, QuantizerOutput
from looc_codec.quantizers.search import Match
from looc_codec.quantizers.units import latent_of, units_of

Interp = Literal["paper", "released"]
IndexGrid = Literal["R1", "R0"]

BETAS = (1, 2, 3, 4)


def upsample(latent: Tensor, beta: int) -> Tensor:
    """Bilinear interpolation `(B, d, h, w)` → `(B, d, beta*h, beta*w)`, sample centres aligned (paper 3.2, z → z^it)."""
    if beta == 1:
        return latent
    return functional.interpolate(latent, scale_factor=beta, mode="bilinear", align_corners=False)


def pool(latent: Tensor, beta: int) -> Tensor:
    """Mean of each beta × beta block: `(B, d, beta*h, beta*w)` → `(B, d, h, w)` (paper 3.2, z^ex → z~).

    Sums run in a fixed order and end in one product, all elementwise, so machines with IEEE float32 agree on every
    bit; a library's pooling may add in any order.
    """
    if beta == 1:
        return latent
    total = latent[..., ::beta, ::beta]
    for position in range(1, beta * beta):
        total = total + latent[..., position // beta :: beta, position % beta :: beta]
    return total * (1 / beta**2)


def blur(latent: Tensor, beta: int) -> Tensor:
    """What `pool(upsample(latent))` amounts to, shape kept: three taps per axis, edges repeated.

    The outer taps are 1/8 for even beta and (beta² - 1) / (8 beta²) for odd beta (1/9 for 3), by adding up the
    bilinear weights of one block. Operations run in a fixed order, as in `pool`.
    """
    if beta == 1:
        return latent
    side = 1 / 8 if beta % 2 == 0 else (beta**2 - 1) / (8 * beta**2)
    padded = functional.pad(latent, (1, 1, 1, 1), mode="replicate")
    rows = side * (padded[..., :-2, :] + padded[..., 2:, :]) + (1 - 2 * side) * padded[..., 1:-1, :]
    return side * (rows[..., :-2] + rows[..., 2:]) + (1 - 2 * side) * rows[..., 1:-1]


class LooCQuantizer(Quantizer):
    """Latent → codes and quantised latent with K shared codevectors of d* dimensions (paper, sections 3.2 and 3.4).

    `channels` is d, `codevector_dim` d* (a divisor of d), `codebook_size` K; a position has m = d / d* units. m = 1 is
    plain vector quantisation (paper eq. 1). Options:

    - `beta` (default 1; the paper's tables most likely use 1, its text recommends 2): factor of the interpolation.
    - `interp`: what a unit is when beta > 1. "paper" (default): d* channels at one upsampled position. "released":
      beta² sub-positions become channels first (index c beta² + dy beta + dx), so that with beta² = d* a unit is the
      neighbourhood of one channel and every latent value the mean of one codevector.
    - `match`: "cosine" (default): k = argmax <v/|v|, c_k/|c_k|> (paper, supplement 1.2); the codevector enters the
      latent unnormalised. With d* = 1 it sees signs only. "l2": k = argmin |v - c_k|² (paper eq. 1).
    - `index_grid`: "R1" (default) codes every interpolated position, which is the forward pass of the paper and takes
      beta² times the indices it counts. "R0" has the paper's count: codes are picked at the h × w positions, and
      interpolation and pooling follow the lookup as one fixed blur; `interp` then makes no difference.
    - `update`: "cvq" (default): gradients, and unused codevectors move to features of the batch, their anchors.
      "ema": codevectors are moving averages of their units, without gradient. "gradient": gradients only.
    - `anchor`, for "cvq": the "closest" (default) feature of the batch, a "random" or "unique" one, or one drawn by
      "probability" (`LearnedCodebook`).
    - `online`, for "cvq": update in every training step (default), or False: in the first one only.
    - `gradient`: "straight-through" (default) or "rotation" (Fifty et al. 2024), per unit.
    - `codebook_weight` (1), `commitment_weight` (0.25; mu of paper eq. 3), `contrastive_weight` (0; CVQ's extra loss),
      `decay` (0.99; gamma of cvq and ema).

    Options that no quantizer can have raise ModelError.

    >>> quantizer = LooCQuantizer(8, codevector_dim=4, codebook_size=16, beta=2).eval()
    >>> output = quantizer(torch.randn(1, 8, 3, 5))
    >>> output.codes.shape, quantizer.codes_per_position, quantizer.uniform_bits_per_position
    (torch.Size([1, 2, 6, 10]), 8, 32.0)
    >>> torch.equal(quantizer.lookup(output.codes), output.latent_hat)
    True
    """

    def __init__(
        self,
        channels: int,
        codevector_dim: int = 4,
        codebook_size: int = 256,
        *,
        beta: int = 1,
        interp: Interp = "paper",
        match: Match = "cosine",
        index_grid: IndexGrid = "R1",
        update: Update = "cvq",
        anchor: Anchor = "closest",
        online: bool = True,
        gradient: Gradient = "straight-through",
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        contrastive_weight: float = 0.0,
        decay: float = 0.99,
    ) -> None:
        super().__init__(channels)
        problems = []
        if codevector_dim < 1 or channels % codevector_dim:
            problems.append(f"channels {channels} is not a multiple of codevector_dim {codevector_dim}")
        if beta not in BETAS:
            problems.append(f"beta {beta!r} is none of {BETAS}")
        choices = (("interp", interp, Interp), ("index_grid", index_grid, IndexGrid))
        problems += [f"{name} {value!r} is none of {get_args(kind)}" for name, value, kind in choices if value not in get_args(kind)]
        if problems:
            raise ModelError(f"invalid LooC quantizer: {'; '.join(problems)}")

        self.beta, self.interp, self.index_grid = beta, interp, index_grid
        self.codebook = LearnedCodebook(
            codebook_size, codevector_dim, match=match, update=update, anchor=anchor, online=online, gradient=gradient,
            codebook_weight=codebook_weight, commitment_weight=commitment_weight, contrastive_weight=contrastive_weight, decay=decay,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"channels={self.channels}, beta={self.beta}, interp={self.interp}, index_grid={self.index_grid}"

    # --- what a position costs --------------------------------------------------------------------------------------

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebook.size,)

    @property
    def codes_per_position(self) -> int:
        """Codes per latent position: m = d / d* in grid R0, beta² m in R1 (in both readings of a unit)."""
        units = self.channels // self.codebook.dim
        return units if self.index_grid == "R0" else units * self.beta**2

    @property
    def codebook_parameters(self) -> int:
        return self.codebook.codevectors.numel()

    # --- latent ↔ units ---------------------------------------------------------------------------------------------

    def spread(self, latent: Tensor) -> Tensor:
        """The tensor whose channels are cut into units.

        `(B, d, h, w)` → R0: the same; R1 "paper": `(B, d, beta*h, beta*w)`; R1 "released": `(B, d*beta², h, w)`.
        """
        self.check_latent(latent)
        latent = latent.to(self.codebook.codevectors.dtype)
        if self.index_grid == "R0":
            return latent
        latent = upsample(latent, self.beta)
        return functional.pixel_unshuffle(latent, self.beta) if self.interp == "released" else latent

    def gather(self, spread: Tensor) -> Tensor:
        """The latent `(B, d, h, w)` of a quantised tensor in the shape that `spread` gives."""
        if self.index_grid == "R0":
            return blur(spread, self.beta)
        return pool(functional.pixel_shuffle(spread, self.beta) if self.interp == "released" else spread, self.beta)

    # --- use --------------------------------------------------------------------------------------------------------

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """Quantises a latent `(B, d, h, w)`; in training mode also updates the codebook (see `update`).

        loss = codebook_weight * mean (q - sg u)² + commitment_weight * mean (sg q - u)², over all values of the
        units u and their codevectors q (paper eq. 3 with means, as released); "ema" leaves the first term out.
        The quantised latent is that of the codevectors before the update.
        """
        spread = self.spread(latent)
        chosen, codes, loss = self.codebook(units_of(spread, self.codebook.dim))
        latent_hat = self.gather(latent_of(chosen, spread.shape))
        return QuantizerOutput(latent_hat, codes.view(self.code_shape(spread)), loss)

    @torch.no_grad()
    def start_at(self, latent: Tensor, generator: torch.Generator | None = None) -> None:
        self.codebook.start_at(units_of(self.spread(latent), self.codebook.dim), generator)

    @torch.no_grad()
    def codes(self, latent: Tensor) -> Tensor:
        """Codes `(B, m', h', w')` int64 of a latent `(B, d, h, w)`; m' h' w' = codes_per_position * h w.

        R0: `(B, m, h, w)`. R1: `(B, m, beta*h, beta*w)`, or `(B, m*beta², h, w)` with interp "released". Equal costs
        and rounding may be decided differently on another machine; `lookup` of given codes may not.
        """
        spread = self.spread(latent)
        return self.codebook.nearest(units_of(spread, self.codebook.dim)).view(self.code_shape(spread))

    def lookup(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Quantised latent `(B, d, h, w)` of codes `(B, m', h', w')`: exactly the one that `forward` gave with them.

        A gather and elementwise float32 arithmetic in a fixed order, so machines agree on every bit. Codes of a wrong
        shape or outside 0..K-1 raise ValueError.
        """
        released = self.index_grid == "R1" and self.interp == "released"
        units = self.channels // self.codebook.dim * (self.beta**2 if released else 1)
        self.check_codes(codes, units)
        batch, _, height, width = codes.shape
        if self.index_grid == "R1" and not released and (height % self.beta or width % self.beta):
            raise ValueError(f"codes of shape {tuple(codes.shape)} do not divide into blocks of {self.beta} x {self.beta}")
        chosen = self.codebook.lookup(codes.reshape(-1))
        latent_hat = self.gather(latent_of(chosen, torch.Size((batch, units * self.codebook.dim, height, width))))
        return self.check_size(latent_hat, size)

    def code_shape(self, spread: Tensor) -> tuple[int, int, int, int]:
        batch, channels, height, width = spread.shape
        return batch, channels // self.codebook.dim, height, width
