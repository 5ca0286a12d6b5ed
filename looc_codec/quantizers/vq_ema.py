"""VQ-EMA: vector quantisation whose codevectors are moving averages of the vectors that choose them.

Aaron van den Oord et al. 2017, "Neural Discrete Representation Learning", appendix A.1.

    n_k <- g n_k + (1 - g) |{v : v chose k}|,  s_k <- g s_k + (1 - g) sum of those v,  c_k = s_k / n_k

with n_k smoothed to (n_k + e) / (n + K e) n, n = sum n_k, e = 1e-5. The loss is the commitment term alone. g is 0.99 here
and in VQGAN-LC's "ema" baseline (a much used library has 0.8). Unused codevectors stay unless `restart_below` is set.
"""

from __future__ import annotations

from looc_codec.quantizers.gradients import Gradient
from looc_codec.quantizers.search import Match
from looc_codec.quantizers.vq import OneCodeQuantizer


class VQEMAQuantizer(OneCodeQuantizer):
    """VQ with K codevectors of d dimensions that follow their centroids. Options: see `LearnedCodebook`."""

    def __init__(
        self,
        channels: int,
        codebook_size: int = 512,
        *,
        match: Match = "l2",
        decay: float = 0.99,
        restart_below: float = 0.0,
        gradient: Gradient = "straight-through",
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__(
            channels, codebook_size, match=match, update="ema", decay=decay, restart_below=restart_below, gradient=gradient,
            commitment_weight=commitment_weight,
        )  # fmt: skip
