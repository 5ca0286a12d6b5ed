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

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from looc_codec.errors import ModelError
from looc_codec.quantizers.units import latent_of, units_of

Interp = Literal["paper", "released"]
Match = Literal["cosine", "l2"]
IndexGrid = Literal["R1", "R0"]
Update = Literal["cvq", "ema", "gradient"]
Anchor = Literal["closest", "random", "probrandom"]
Gradient = Literal["straight-through", "rotation"]

BETAS = (1, 2, 3, 4)
SEARCH_ENTRIES = 1 << 22
"""Most entries of a units × codevectors matrix held at once: 16 MiB of float32."""
REVIVAL = 10.0
REVIVAL_OFFSET = 1e-3
"""CVQ's constants: an anchor's weight is exp(-REVIVAL * K * N / (1 - decay) - REVIVAL_OFFSET)."""
LEAST_ANCHOR_WEIGHT = 2.0**-25
"""A smaller weight is lost in float32 rounding, so such a codevector needs no search for its anchor."""
EMA_SMOOTHING = 1e-5
SHORTEST = 1e-6
"""Units below this length have no direction to rotate; their gradient passes straight through."""


@dataclass(frozen=True)
class QuantizerOutput:
    """What a quantizer makes of a latent: `quantised` `(B, d, h, w)`, `codes` `(B, m', h', w')` int64, scalar `loss`."""

    quantised: Tensor
    codes: Tensor
    loss: Tensor


@dataclass(frozen=True)
class CodebookUsage:
    """How codes spread over a codebook: `counts` `(K,)` int64, share of codevectors used (0..1), perplexity (1..K)."""

    counts: Tensor
    used_share: float
    perplexity: float


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


def straight_through(units: Tensor, chosen: Tensor) -> Tensor:
    """`chosen` `(n, d*)` as value, the identity to `units` as gradient (van den Oord et al. 2017).

    Written as q + (u - sg u), not u + sg(q - u): the bracket is exactly zero, so the value is exactly the codevector.
    """
    return chosen.detach() + (units - units.detach())


def rotated(units: Tensor, chosen: Tensor) -> Tensor:
    """`chosen` `(n, d*)` as value, the gradient of lambda R u with constants lambda = |q|/|u| and R, R u/|u| = q/|q|.

    R = I - 2 r r^T + 2 q_hat u_hat^T with r = (u_hat + q_hat) / |u_hat + q_hat| (Fifty et al. 2024): the rotation in
    the plane of u and q. The gradient of a unit is that of its codevector, turned back and |q|/|u| times
    as long, so the angle between gradient and vector survives.
    """
    chosen = chosen.detach()
    with torch.no_grad():
        length = units.norm(dim=1, keepdim=True)
        direction = units / length.clamp_min(SHORTEST)
        target = functional.normalize(chosen, dim=1)
        halfway = functional.normalize(direction + target, dim=1)
        scale = chosen.norm(dim=1, keepdim=True) / length.clamp_min(SHORTEST)
    # Opposite vectors leave halfway at zero, and R becomes the mirror I - 2 u_hat u_hat^T, which is orthogonal as well.
    turned = units - 2 * halfway * (halfway * units).sum(1, keepdim=True) + 2 * target * (direction * units).sum(1, keepdim=True)
    turned = torch.where(length < SHORTEST, units, scale * turned)
    return chosen + (turned - turned.detach())


class LooCQuantizer(nn.Module):
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
    - `anchor`, for "cvq": the "closest" (default) feature of the batch, a "random" one from a pool of K features, or
      "probrandom", one draw from the softmax of the similarities.
    - `online`, for "cvq": update in every training step (default), or False: in the first one only.
    - `gradient`: "straight-through" (default) or "rotation" (Fifty et al. 2024), per unit.
    - `codebook_weight` (1), `commitment_weight` (0.25; mu of paper eq. 3), `decay` (0.99; gamma of cvq and ema).

    Options that no quantizer can have raise ModelError. The quantizer knows nothing of entropy coding: its bits are
    those of equally likely codes.

    >>> quantizer = LooCQuantizer(8, codevector_dim=4, codebook_size=16, beta=2).eval()
    >>> output = quantizer(torch.randn(1, 8, 3, 5))
    >>> output.codes.shape, quantizer.indices_per_position, quantizer.uniform_bits_per_position
    (torch.Size([1, 2, 6, 10]), 8, 32.0)
    >>> torch.equal(quantizer.lookup(output.codes), output.quantised)
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
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        problems = []
        if codevector_dim < 1 or channels < 1 or channels % codevector_dim:
            problems.append(f"channels {channels} is not a multiple of codevector_dim {codevector_dim}")
        if codebook_size < 1:
            problems.append(f"codebook_size {codebook_size} is below 1")
        if not 0 <= decay < 1:
            problems.append(f"decay {decay} is outside 0..1")
        if codebook_weight < 0 or commitment_weight < 0:
            problems.append("a loss weight is negative")
        if beta not in BETAS:
            problems.append(f"beta {beta!r} is none of {BETAS}")
        choices = (
            ("interp", interp, Interp), ("match", match, Match), ("index_grid", index_grid, IndexGrid),
            ("update", update, Update), ("anchor", anchor, Anchor), ("gradient", gradient, Gradient),
        )  # fmt: skip
        problems += [f"{name} {value!r} is none of {get_args(kind)}" for name, value, kind in choices if value not in get_args(kind)]
        if problems:
            raise ModelError(f"invalid LooC quantizer: {'; '.join(problems)}")

        self.channels, self.codevector_dim, self.codebook_size = channels, codevector_dim, codebook_size
        self.beta, self.interp, self.match, self.index_grid = beta, interp, match, index_grid
        self.update, self.anchor, self.online, self.gradient = update, anchor, online, gradient
        self.codebook_weight, self.commitment_weight, self.decay = codebook_weight, commitment_weight, decay

        initial = torch.empty(codebook_size, codevector_dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        self.codevectors = nn.Parameter(initial, requires_grad=update != "ema")
        if update == "cvq":
            self.register_buffer("use", torch.zeros(codebook_size))
            self.register_buffer("updates", torch.tensor(0))
            if anchor == "random":
                self.register_buffer("pool", torch.zeros(codebook_size, codevector_dim))
                self.register_buffer("pooled", torch.tensor(0))
        elif update == "ema":
            # A count of one, not zero, so that sums / counts is the codevector from the start: with zero, a codevector
            # that the first batch leaves unused would be divided by the smoothing alone and leap 100,000-fold.
            self.register_buffer("counts", torch.ones(codebook_size))
            self.register_buffer("sums", initial.clone())

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, codevector_dim={self.codevector_dim}, codebook_size={self.codebook_size}, beta={self.beta}, "
            f"interp={self.interp}, match={self.match}, index_grid={self.index_grid}, update={self.update}, gradient={self.gradient}"
        )

    # --- what a position costs --------------------------------------------------------------------------------------

    @property
    def indices_per_position(self) -> int:
        """Codes per latent position: m = d / d* in grid R0, beta² m in R1 (in both readings of a unit)."""
        units = self.channels // self.codevector_dim
        return units if self.index_grid == "R0" else units * self.beta**2

    @property
    def uniform_bits_per_position(self) -> float:
        """Bits per latent position if all codes were equally likely: indices * log2 K (paper, supplement 1.1)."""
        return self.indices_per_position * math.log2(self.codebook_size)

    # --- latent ↔ units ---------------------------------------------------------------------------------------------

    def spread(self, latent: Tensor) -> Tensor:
        """The tensor whose channels are cut into units.

        `(B, d, h, w)` → R0: the same; R1 "paper": `(B, d, beta*h, beta*w)`; R1 "released": `(B, d*beta², h, w)`.
        """
        if latent.ndim != 4 or latent.shape[1] != self.channels:
            raise ValueError(f"expected a latent (B, {self.channels}, h, w), got {tuple(latent.shape)}")
        latent = latent.to(self.codevectors.dtype)
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

    def forward(self, z: Tensor) -> QuantizerOutput:
        """Quantises a latent `(B, d, h, w)`; in training mode also updates the codebook (see `update`).

        loss = codebook_weight * mean (q - sg u)² + commitment_weight * mean (sg q - u)², over all values of the
        units u and their codevectors q (paper eq. 3 with means, as released); "ema" leaves the first term out.
        The quantised latent is that of the codevectors before the update.
        """
        spread = self.spread(z)
        units = units_of(spread, self.codevector_dim)
        codes = self.nearest(units)
        chosen = self.codevectors[codes]
        loss = self.commitment_weight * functional.mse_loss(units, chosen.detach())
        if self.update != "ema":
            loss = loss + self.codebook_weight * functional.mse_loss(chosen, units.detach())
        estimate = rotated if self.gradient == "rotation" else straight_through
        quantised = self.gather(latent_of(estimate(units, chosen), spread.shape))
        if self.training and len(units):
            self.learn(units.detach(), codes)
        return QuantizerOutput(quantised, codes.view(self.code_shape(spread)), loss)

    @torch.no_grad()
    def codes(self, z: Tensor) -> Tensor:
        """Codes `(B, m', h', w')` int64 of a latent `(B, d, h, w)`; m' h' w' = indices_per_position * h w.

        R0: `(B, m, h, w)`. R1: `(B, m, beta*h, beta*w)`, or `(B, m*beta², h, w)` with interp "released". Equal costs
        and rounding may be decided differently on another machine; `lookup` of given codes may not.
        """
        spread = self.spread(z)
        return self.nearest(units_of(spread, self.codevector_dim)).view(self.code_shape(spread))

    def lookup(self, codes: Tensor) -> Tensor:
        """Quantised latent `(B, d, h, w)` of codes `(B, m', h', w')`: exactly the one that `forward` gave with them.

        A gather and elementwise float32 arithmetic in a fixed order, so machines agree on every bit. Codes of a wrong shape or outside 0..K-1 raise ValueError.
        """
        released = self.index_grid == "R1" and self.interp == "released"
        units = self.channels // self.codevector_dim * (self.beta**2 if released else 1)
        if codes.ndim != 4 or codes.shape[1] != units or codes.is_floating_point():
            raise ValueError(f"expected integer codes (B, {units}, h, w), got {tuple(codes.shape)} of {codes.dtype}")
        if self.index_grid == "R1" and not released and (codes.shape[2] % self.beta or codes.shape[3] % self.beta):
            raise ValueError(f"codes of shape {tuple(codes.shape)} do not divide into blocks of {self.beta} x {self.beta}")
        if codes.numel() and not (0 <= int(codes.min()) and int(codes.max()) < self.codebook_size):
            raise ValueError(f"codes reach from {int(codes.min())} to {int(codes.max())}; the codebook has 0 to {self.codebook_size - 1}")
        batch, _, height, width = codes.shape
        chosen = self.codevectors[codes.reshape(-1).long()]
        return self.gather(latent_of(chosen, torch.Size((batch, units * self.codevector_dim, height, width))))

    def usage(self, codes: Tensor) -> CodebookUsage:
        """How often each codevector occurs in integer codes of any shape, and perplexity exp(-sum p ln p)."""
        counts = torch.bincount(codes.reshape(-1), minlength=self.codebook_size)
        share = counts.double() / counts.sum().clamp_min(1)
        return CodebookUsage(counts, float((counts > 0).double().mean()), float(torch.exp(torch.special.entr(share).sum())))

    @torch.no_grad()
    def set_codevectors(self, codevectors: Tensor) -> None:
        """Takes codevectors `(K, d*)` and forgets what was counted for the old ones."""
        if codevectors.shape != self.codevectors.shape:
            raise ValueError(f"expected codevectors {tuple(self.codevectors.shape)}, got {tuple(codevectors.shape)}")
        self.codevectors.copy_(codevectors)
        if self.update == "cvq":
            self.use.zero_()
            self.updates.zero_()
        elif self.update == "ema":
            self.counts.fill_(1)
            self.sums.copy_(codevectors)

    # --- search -----------------------------------------------------------------------------------------------------

    def code_shape(self, spread: Tensor) -> tuple[int, int, int, int]:
        batch, channels, height, width = spread.shape
        return batch, channels // self.codevector_dim, height, width

    def score(self, units: Tensor, codevectors: Tensor) -> Tensor:
        """`(n, d*)` and `(K', d*)` → `(n, K')`: orders the codevectors of a unit as the match does.

        The unit's own length is left out: it changes no order, and in l2 it would drown close decisions in rounding.
        """
        # Autocast would multiply in 8 bits of mantissa and pick other codevectors than evaluation does.
        with torch.autocast(units.device.type, enabled=False):
            if self.match == "cosine":
                return units @ functional.normalize(codevectors, dim=1).T
            return units @ codevectors.T - 0.5 * (codevectors**2).sum(1)

    def similarity(self, units: Tensor, codevectors: Tensor) -> Tensor:
        """`(n, K')`: cosine, or minus squared distance; comparable between units too."""
        if self.match == "cosine":
            return self.score(functional.normalize(units, dim=1), codevectors)
        return 2 * self.score(units, codevectors) - (units**2).sum(1, keepdim=True)

    @torch.no_grad()
    def nearest(self, units: Tensor) -> Tensor:
        """Code `(n,)` int64 of each unit `(n, d*)`; at most SEARCH_ENTRIES scores are held at once."""
        chunk = max(1, SEARCH_ENTRIES // self.codebook_size)
        return torch.cat([self.score(part, self.codevectors).argmax(1) for part in units.split(chunk)])

    # --- codebook updates -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def learn(self, units: Tensor, codes: Tensor) -> None:
        """One training step of the codebook from a batch's units `(n, d*)` and their codes `(n,)`."""
        if self.update == "ema":
            self.follow_centroids(units, codes)
        elif self.update == "cvq" and (self.online or int(self.updates) == 0):
            self.revive(units, codes)
            self.updates += 1

    def revive(self, units: Tensor, codes: Tensor) -> None:
        """CVQ: codevectors that are hardly used move to anchors a_k among the batch's units.

        N_k <- g N_k + (1 - g) p_k with p_k the share of units that chose k; alpha_k = exp(-10 K N_k / (1 - g) - 0.001);
        c_k <- (1 - alpha_k) c_k + alpha_k a_k (Zheng and Vedaldi 2023; constants as in the released code). An unused codevector is replaced
        almost fully, one of average use moves by less than a ten-thousandth of the way.
        """
        share = torch.bincount(codes, minlength=self.codebook_size).to(self.use.dtype) / len(codes)
        self.use.lerp_(share, 1 - self.decay)
        weight = torch.exp(-REVIVAL * self.codebook_size * self.use / (1 - self.decay) - REVIVAL_OFFSET)
        moving = (weight > LEAST_ANCHOR_WEIGHT).nonzero().flatten()
        if self.anchor == "random":
            anchors = self.draw_from_pool(units)[moving]
        elif len(moving):
            anchors = units[self.anchor_of(units, self.codevectors[moving])]
        if len(moving):
            self.codevectors[moving] = torch.lerp(self.codevectors[moving], anchors, weight[moving, None])

    def anchor_of(self, units: Tensor, codevectors: Tensor) -> Tensor:
        """Which unit `(K',)` is each codevector's anchor: the most similar one, or a draw from the softmax over all.

        The draw adds Gumbel noise to the similarities and takes the largest (Gumbel-max), which needs no second pass
        over a matrix that is never held whole.
        """
        best = torch.full((len(codevectors),), -math.inf, dtype=units.dtype, device=units.device)
        anchor = torch.zeros(len(codevectors), dtype=torch.int64, device=units.device)
        chunk = max(1, SEARCH_ENTRIES // len(codevectors))
        for start, part in zip(range(0, len(units), chunk), units.split(chunk), strict=True):
            similarity = self.similarity(part, codevectors)
            if self.anchor == "probrandom":
                similarity = similarity - torch.empty_like(similarity).exponential_().log()
            largest, index = similarity.max(0)
            anchor = torch.where(largest > best, start + index, anchor)
            best = torch.maximum(largest, best)
        return anchor

    def draw_from_pool(self, units: Tensor) -> Tensor:
        """`(K, d*)` stored features after taking in this batch's.

        A batch of K units or more replaces the pool by K of them; a smaller one fills free places, then random ones.
        """
        size = self.codebook_size
        if len(units) >= size:
            self.pool.copy_(units[torch.randperm(len(units), device=units.device)[:size]])
            self.pooled.fill_(size)
            return self.pool
        pooled = int(self.pooled)
        free = min(len(units), size - pooled)
        replaced = torch.randperm(pooled, device=units.device)[: len(units) - free]
        places = torch.cat([torch.arange(pooled, pooled + free, device=units.device), replaced])
        self.pool[places] = units
        self.pooled.fill_(pooled + free)
        # Places never filled hold no feature, so those in use stand in for them.
        return self.pool[torch.arange(size, device=units.device) % int(self.pooled)]

    def follow_centroids(self, units: Tensor, codes: Tensor) -> None:
        """n_k <- g n_k + (1 - g) count_k; s_k <- g s_k + (1 - g) sum_k; c_k = s_k / [(n_k + e) / (n + K e) * n].

        n = sum n_k, e = 1e-5 (van den Oord et al. 2017, appendix A.1, with the Laplace smoothing of its usual code).
        """
        counts = torch.bincount(codes, minlength=self.codebook_size).to(self.counts.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, units)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        total = self.counts.sum()
        smoothed = (self.counts + EMA_SMOOTHING) / (total + self.codebook_size * EMA_SMOOTHING) * total
        self.codevectors.copy_(self.sums / smoothed[:, None])
