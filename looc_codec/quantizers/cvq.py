"""CVQ: vector quantisation whose unused codevectors move to features of the batch in every training step.

Chuanxia Zheng and Andrea Vedaldi 2023, "Online Clustered Codebook", section 3.2; constants as in the released code
(lyndonzheng/CVQ-VAE).

    N_k <- g N_k + (1 - g) p_k                          p_k: share of the batch's vectors that chose k; N_k starts at 0
    alpha_k = exp(-10 K N_k / (1 - g) - 0.001)          1 for a dead codevector, nothing for one of average use
    c_k <- (1 - alpha_k) c_k + alpha_k a_k              a_k: the anchor, a feature of the batch

Anchors are the closest feature, a random one, a unique one of a pool, or drawn by probability, the softmax of the
similarities: the names of the authors' poster. The codebook also has the gradients of VQ's loss, and an optional
contrastive loss, which the released training scripts leave off.
"""

from __future__ import annotations

from looc_codec.quantizers.gradients import Gradient
from looc_codec.quantizers.learned_codebook import Anchor
from looc_codec.quantizers.search import Match
from looc_codec.quantizers.vq import OneCodeQuantizer


class CVQQuantizer(OneCodeQuantizer):
    """VQ with K codevectors of d dimensions and CVQ's update. Options: see `LearnedCodebook`.

    `match` is "cosine" by default, as released; `online=False` updates in the first training step only.
    """

    def __init__(
        self,
        channels: int,
        codebook_size: int = 512,
        *,
        match: Match = "cosine",
        anchor: Anchor = "closest",
        online: bool = True,
        decay: float = 0.99,
        contrastive_weight: float = 0.0,
        gradient: Gradient = "straight-through",
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__(
            channels, codebook_size, match=match, update="cvq", anchor=anchor, online=online, decay=decay, gradient=gradient,
            contrastive_weight=contrastive_weight, codebook_weight=codebook_weight, commitment_weight=commitment_weight,
        )  # fmt: skip
