"""A codebook of K float codevectors that training moves: the part that most quantizers are built on.

    units (n, d*) ─ nearest codevector ─→ codes (n,), chosen codevectors (n, d*) with a gradient to the units, loss

Sources: the loss and the moving averages of van den Oord et al. 2017 ("Neural Discrete Representation Learning",
section 3.2 and appendix A.1); CVQ's anchors, Zheng and Vedaldi 2023 ("Online Clustered Codebook", section 3.2); restarts
of Lee et al. 2022 ("Autoregressive Image Generation using Residual Quantization", as released); near restarts of
Williams et al. 2020 ("Hierarchical Quantized Autoencoders"). Constants are those of the released codes.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from looc_codec.errors import ModelError
from looc_codec.quantizers import search
from looc_codec.quantizers.gradients import Gradient, QuantisedStraightThrough, rotated
from looc_codec.quantizers.search import Match, cluster_centres

Update = Literal["cvq", "ema", "near", "gradient"]
Anchor = Literal["closest", "random", "unique", "probability"]

REVIVAL = 10.0
REVIVAL_OFFSET = 1e-3
"""CVQ's constants: an anchor's weight is exp(-REVIVAL * K * N / (1 - decay) - REVIVAL_OFFSET)."""
LEAST_ANCHOR_WEIGHT = 2.0**-25
"""A smaller weight is lost in float32 rounding, so such a codevector needs no search for its anchor."""
CONTRASTIVE_TEMPERATURE = 0.07
EMA_SMOOTHING = 1e-5
START_ROUNDS = 10
"""Rounds of Lloyd's iteration at the start. More change little: the latents move from the first step on."""
NEAR_EVERY_STEPS = 20
NEAR_SHARE = 0.03
NEAR_NOISE = 0.01
"""Near restarts: how often, below which share of the most used codevector's count, and the spread of the step aside."""


def vq_loss(units: Tensor, chosen: Tensor, codebook_weight: float, commitment_weight: float) -> Tensor:
    """codebook_weight * mean (q - sg v)² + commitment_weight * mean (sg q - v)²: units v and their codevectors q, one shape."""
    return codebook_weight * functional.mse_loss(chosen, units.detach()) + commitment_weight * functional.mse_loss(units, chosen.detach())


class LearnedCodebook(nn.Module):
    """Codevectors `(K, d*)`, their search, their loss, their updates. Options:

    - `match`: "l2" (default): k = argmin |v - c_k|². "cosine": k = argmax <v/|v|, c_k/|c_k|>; the codevector is emitted
      unnormalised. With d* = 1 it sees signs only.
    - `update`: "gradient" (default): the optimiser moves codevectors through the loss. "cvq": so it does, and unused
      codevectors move to features of the batch, their anchors. "near": so it does, and every 20 steps the least used
      codevector moves beside the most used one. "ema": codevectors are moving averages of their units, without gradient.
    - `anchor`, for "cvq", by the names of CVQ's poster: the "closest" (default) feature of the batch; a "random" one,
      which several codevectors may share; a "unique" one, no two alike, from a pool of K features (the released code's
      "random"); or by "probability", one draw from the softmax of the similarities (released: "probrandom"). `online`:
      update in every training step (default), or False: in the first one only.
    - `restart_below`, for "ema" (default 0, never): a codevector whose moving count falls below it becomes a random unit
      of the batch, with a count of one.
    - `gradient`: "straight-through" (default) or "rotation" (Fifty et al. 2024), per unit.
    - `codebook_weight` (1), `commitment_weight` (0.25), `contrastive_weight` (0), `decay` (0.99; of "cvq" and "ema").
    """

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        match: Match = "l2",
        update: Update = "gradient",
        anchor: Anchor = "closest",
        online: bool = True,
        restart_below: float = 0.0,
        gradient: Gradient = "straight-through",
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        contrastive_weight: float = 0.0,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        problems = []
        if dim < 1:
            problems.append(f"codevector_dim {dim} is below 1")
        if size < 1:
            problems.append(f"codebook_size {size} is below 1")
        if not 0 <= decay < 1:
            problems.append(f"decay {decay} is outside 0..1")
        if min(codebook_weight, commitment_weight, contrastive_weight) < 0:
            problems.append("a loss weight is negative")
        choices = (("match", match, Match), ("update", update, Update), ("anchor", anchor, Anchor), ("gradient", gradient, Gradient))
        problems += [f"{name} {value!r} is none of {get_args(kind)}" for name, value, kind in choices if value not in get_args(kind)]
        if problems:
            raise ModelError(f"invalid codebook: {'; '.join(problems)}")

        self.size, self.dim = size, dim
        self.match, self.update, self.anchor, self.online, self.gradient = match, update, anchor, online, gradient
        self.codebook_weight, self.commitment_weight, self.contrastive_weight = codebook_weight, commitment_weight, contrastive_weight
        self.decay, self.restart_below = decay, restart_below

        initial = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        self.codevectors = nn.Parameter(initial, requires_grad=update != "ema")
        if update == "cvq":
            self.register_buffer("use", torch.zeros(size))
            self.register_buffer("updates", torch.tensor(0))
            if anchor == "unique":
                self.register_buffer("pool", torch.zeros(size, dim))
                self.register_buffer("pooled", torch.tensor(0))
        elif update == "near":
            self.register_buffer("use", torch.zeros(size))
            self.register_buffer("updates", torch.tensor(0))
        elif update == "ema":
            # A count of one, not zero, so that sums / counts is the codevector from the start: with zero, a codevector
            # that the first batch leaves unused would be divided by the smoothing alone and leap 100,000-fold.
            self.register_buffer("counts", torch.ones(size))
            self.register_buffer("sums", initial.clone())

    def extra_repr(self) -> str:
        return f"size={self.size}, dim={self.dim}, match={self.match}, update={self.update}, gradient={self.gradient}"

    # --- use --------------------------------------------------------------------------------------------------------

    def forward(self, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Units `(n, d*)` → codevectors `(n, d*)` with a gradient to the units, codes `(n,)`, scalar loss.

        loss = codebook_weight * mean (q - sg v)² + commitment_weight * mean (sg q - v)² over all values of units v and
        their codevectors q; "ema" leaves the first term out. In training mode the codebook is updated afterwards.
        """
        units = units.to(self.codevectors.dtype)
        codes = self.nearest(units)
        codebook_weight = 0.0 if self.update == "ema" else self.codebook_weight
        if self.gradient == "rotation":
            found = self.codevectors[codes]
            loss = vq_loss(units, found, codebook_weight, self.commitment_weight)
            chosen = rotated(units, found)
        else:
            chosen, loss = QuantisedStraightThrough.apply(units, self.codevectors, codes, codebook_weight, self.commitment_weight)
        if self.contrastive_weight:
            loss = loss + self.contrastive_weight * self.contrast(units.detach())
        if self.training and len(units):
            self.learn(units.detach(), codes)
        return chosen, codes, loss

    def lookup(self, codes: Tensor) -> Tensor:
        """Codevectors `(..., d*)` of integer codes `(...)`."""
        return self.codevectors[codes.long()]

    @torch.no_grad()
    def start_at(self, units: Tensor, generator: torch.Generator | None = None) -> None:
        """Takes cluster centres of units `(n, d*)` as codevectors; too few units leave the codebook as it is."""
        if len(units) >= self.size:
            self.set_codevectors(cluster_centres(units.to(self.codevectors.dtype), self.size, START_ROUNDS, generator))

    @torch.no_grad()
    def set_codevectors(self, codevectors: Tensor) -> None:
        """Takes codevectors `(K, d*)` and forgets what was counted for the old ones."""
        if codevectors.shape != self.codevectors.shape:
            raise ValueError(f"expected codevectors {tuple(self.codevectors.shape)}, got {tuple(codevectors.shape)}")
        self.codevectors.copy_(codevectors)
        if self.update in ("cvq", "near"):
            self.use.zero_()
            self.updates.zero_()
        elif self.update == "ema":
            self.counts.fill_(1)
            self.sums.copy_(codevectors)

    # --- search -----------------------------------------------------------------------------------------------------

    def similarity(self, units: Tensor, codevectors: Tensor) -> Tensor:
        """`(n, K')`: cosine, or minus squared distance."""
        return search.similarity(units, codevectors, self.match)

    def nearest(self, units: Tensor) -> Tensor:
        """Code `(n,)` int64 of each unit `(n, d*)`."""
        return search.nearest(units.to(self.codevectors.dtype), self.codevectors, self.match)

    def contrast(self, units: Tensor) -> Tensor:
        """CVQ's contrastive loss: each codevector away from its farthest units, towards its nearest ones.

        Positive: the mean of the max(1, n // K) largest similarities of a codevector; negatives: its n // 2 smallest;
        cross-entropy of the positive with logits / 0.07 (Zheng and Vedaldi 2023, section 3.2, constants as released).
        """
        # A copy, since the update that follows in the same step changes the codevectors that backward would need.
        ordered = self.similarity(units, self.codevectors.clone()).sort(0).values
        count = len(units)
        positive = ordered[-max(1, count // self.size) :].mean(0, keepdim=True)
        logits = torch.cat([positive, ordered[: count // 2]]).T / CONTRASTIVE_TEMPERATURE
        return functional.cross_entropy(logits, torch.zeros(self.size, dtype=torch.int64, device=logits.device))

    # --- updates ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def learn(self, units: Tensor, codes: Tensor) -> None:
        """One training step of the codebook from a batch's units `(n, d*)` and their codes `(n,)`."""
        if self.update == "ema":
            self.follow_centroids(units, codes)
        elif self.update == "cvq" and (self.online or int(self.updates) == 0):
            self.revive(units, codes)
            self.updates += 1
        elif self.update == "near":
            self.use += torch.bincount(codes, minlength=self.size)
            self.updates += 1
            if int(self.updates) % NEAR_EVERY_STEPS == 0:
                self.restart_near()

    def revive(self, units: Tensor, codes: Tensor) -> None:
        """CVQ: codevectors that are hardly used move to anchors a_k among the batch's units.

        N_k <- g N_k + (1 - g) p_k with p_k the share of units that chose k; alpha_k = exp(-10 K N_k / (1 - g) - 0.001);
        c_k <- (1 - alpha_k) c_k + alpha_k a_k (Zheng and Vedaldi 2023; constants as in the released code). An unused
        codevector is replaced almost fully, one of average use moves by less than a ten-thousandth of the way.
        """
        share = torch.bincount(codes, minlength=self.size).to(self.use.dtype) / len(codes)
        self.use.lerp_(share, 1 - self.decay)
        weight = torch.exp(-REVIVAL * self.size * self.use / (1 - self.decay) - REVIVAL_OFFSET)
        moving = (weight > LEAST_ANCHOR_WEIGHT).nonzero().flatten()
        if self.anchor == "unique":
            anchors = self.draw_from_pool(units)[moving]
        elif self.anchor == "random":
            anchors = units[torch.randint(len(units), (len(moving),), device=units.device)]
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
        chunk = search.chunk_of(units, len(codevectors))
        for start, part in zip(range(0, len(units), chunk), units.split(chunk), strict=True):
            # One row for each codevector: similarity is symmetric, and the largest of a row is found ten times as fast.
            similarity = self.similarity(codevectors, part)
            if self.anchor == "probability":
                similarity = similarity - torch.empty_like(similarity).exponential_().log()
            index = search.largest_of_rows(similarity)
            largest = similarity.gather(1, index[:, None])[:, 0]
            anchor = torch.where(largest > best, start + index, anchor)
            best = torch.maximum(largest, best)
        return anchor

    def draw_from_pool(self, units: Tensor) -> Tensor:
        """`(K, d*)` stored features after taking in this batch's.

        A batch of K units or more replaces the pool by K of them; a smaller one fills free places, then random ones.
        """
        size = self.size
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
        counts = torch.bincount(codes, minlength=self.size).to(self.counts.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, units)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        if self.restart_below:
            self.restart(units)
        total = self.counts.sum()
        smoothed = (self.counts + EMA_SMOOTHING) / (total + self.size * EMA_SMOOTHING) * total
        self.codevectors.copy_(self.sums / smoothed[:, None])

    def restart(self, units: Tensor) -> None:
        """Codevectors whose moving count is below `restart_below` become random units of the batch, with a count of one.

        A batch with fewer units than codevectors to restart gives the same unit more than once.
        """
        dead = (self.counts < self.restart_below).nonzero().flatten()
        drawn = torch.randperm(len(units), device=units.device)
        self.sums[dead] = units[drawn[torch.arange(len(dead), device=units.device) % len(units)]]
        self.counts[dead] = 1

    def restart_near(self) -> None:
        """The least used codevector, if used below 3% as often as the most used one, moves beside that one.

        The step aside is normal with a spread of 0.01, and counting begins anew (Williams et al. 2020, as released).
        """
        most, least = self.use.argmax(), self.use.argmin()
        if self.use[least] < NEAR_SHARE * self.use[most]:
            self.codevectors[least] = self.codevectors[most] + NEAR_NOISE * torch.randn_like(self.codevectors[most])
        self.use.zero_()
