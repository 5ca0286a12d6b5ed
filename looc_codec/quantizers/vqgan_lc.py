"""VQGAN-LC: a large frozen codebook and a trained linear map that brings it into the latent's space.

Lei Zhu et al. 2024, "Scaling the Codebook Size of VQGAN to 100,000 with a Utilization Rate of 99%", section 3.2; constants
as in the released code (zh460045050/VQGAN-LC).

    e_k = projector(f_k), f_k frozen (D dimensions) → d';   v = project_in(z);   k = argmin |v - e_k|²
    z_hat = project_out(e_k);   loss = 0.1 [ mean (sg e - v)² + 0.33 mean (e - sg v)² ]

The frozen vectors f_k are cluster centres of features of a pretrained image encoder (100,000 centres of patch features
there). This quantizer takes any vectors; `cluster_centres` makes them from features. All codevectors move together with
the projector (initially normal with spread d'^-0.5), so none is left behind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from looc_codec.errors import ModelError
from looc_codec.quantizers.vqgan_fc import ProjectedQuantizer


class VQGANLCQuantizer(ProjectedQuantizer):
    """`frozen` `(K, D)` vectors, a trained projector D → d' = `code_dim` (default 8), codes of K symbols.

    `codebook_parameters` counts the K d' mapped values, all that reading needs; training holds the K D frozen ones too.
    """

    def __init__(
        self,
        channels: int,
        frozen: Tensor,
        *,
        code_dim: int = 8,
        codebook_weight: float = 0.033,
        commitment_weight: float = 0.1,
    ) -> None:
        super().__init__(channels, code_dim, codebook_weight, commitment_weight)
        if frozen.ndim != 2 or not frozen.numel():
            raise ModelError(f"invalid VQGAN-LC quantizer: expected frozen codevectors (K, D), got {tuple(frozen.shape)}")
        self.register_buffer("frozen", frozen.detach().clone().float())
        self.projector = nn.Linear(frozen.shape[1], code_dim)
        nn.init.normal_(self.projector.weight, std=code_dim**-0.5)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (len(self.frozen),)

    def book(self) -> Tensor:
        with torch.autocast(self.frozen.device.type, enabled=False):
            return self.projector(self.frozen)
