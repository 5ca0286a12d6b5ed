"""RQ: residual quantisation, several codes per position from one book shared over depth.

Doyup Lee et al. 2022, "Autoregressive Image Generation using Residual Quantization", section 3.1; constants as in the
released code (kakaobrain/rq-vae-transformer).

    r_0 = z;  k_i = argmin_k |r_{i-1} - c_k|²,  r_i = r_{i-1} - c_{k_i};  z_hat = c_{k_1} + ... + c_{k_D}
    loss = 0.25 mean over i of mean (z - sg(c_{k_1} + ... + c_{k_i}))²

The book follows the residuals of all depths as moving averages (g = 0.99); codevectors whose moving count falls below 1
become random residuals of the batch. There is no codebook loss. The released code updates the shared book once after
each depth, so that one forward pass sees D books; here it is updated once, with the residuals of all depths, and all
codes of a pass belong to one book. Moving counts start at one, there at zero, so here fewer codevectors restart in the first
hundred steps. The paper's grid is f32 (8 × 8 for 256 pixels), D = 4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from looc_codec.errors import ModelError
from looc_codec.quantizers.gradients import straight_through
from looc_codec.quantizers.learned_codebook import LearnedCodebook
from looc_codec.quantizers.quantizer import Quantizer, QuantizerOutput
from looc_codec.quantizers.units import latent_of, units_of


class RQQuantizer(Quantizer):
    """`depth` D (default 4) codes per position from K codevectors of d dimensions; codes `(B, D, h, w)`, coarse first.

    `restart_below` (default 1), `decay` (0.99), `commitment_weight` (0.25).
    """

    def __init__(
        self,
        channels: int,
        codebook_size: int = 2048,
        *,
        depth: int = 4,
        decay: float = 0.99,
        restart_below: float = 1.0,
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__(channels)
        if depth < 1:
            raise ModelError(f"invalid RQ quantizer: depth {depth} is below 1")
        self.depth, self.commitment_weight = depth, commitment_weight
        self.codebook = LearnedCodebook(codebook_size, channels, update="ema", decay=decay, restart_below=restart_below)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, depth={self.depth}"

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebook.size,)

    @property
    def codes_per_position(self) -> int:
        return self.depth

    @property
    def codebook_parameters(self) -> int:
        return self.codebook.codevectors.numel()

    @torch.no_grad()
    def descend(self, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Units `(n, d)` → residuals before each depth `(D, n, d)`, codes `(D, n)`, sums up to each depth `(D, n, d)`."""
        residuals, codes, sums = [], [], []
        residual, total = units, torch.zeros_like(units)
        for _ in range(self.depth):
            code = self.codebook.nearest(residual)
            chosen = self.codebook.lookup(code)
            residuals.append(residual)
            codes.append(code)
            residual, total = residual - chosen, total + chosen
            sums.append(total)
        return torch.stack(residuals), torch.stack(codes), torch.stack(sums)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """`(B, d, h, w)` → latent_hat `(B, d, h, w)`, codes `(B, D, h, w)`, commitment loss."""
        self.check_latent(latent)
        units = units_of(latent, self.channels).to(self.codebook.codevectors.dtype)
        residuals, codes, sums = self.descend(units.detach())
        loss = self.commitment_weight * torch.stack([functional.mse_loss(units, part) for part in sums]).mean()
        if self.training and len(units):
            self.codebook.learn(residuals.flatten(0, 1), codes.flatten())
        return QuantizerOutput(latent_of(straight_through(units, sums[-1]), latent.shape), self.planes(codes, latent), loss)

    def planes(self, codes: Tensor, latent: Tensor) -> Tensor:
        """`(D, n)` → `(B, D, h, w)`."""
        batch, _, height, width = latent.shape
        return codes.view(self.depth, batch, height, width).transpose(0, 1).contiguous()

    @torch.no_grad()
    def codes(self, latent: Tensor) -> Tensor:
        self.check_latent(latent)
        return self.planes(self.descend(units_of(latent, self.channels).to(self.codebook.codevectors.dtype))[1], latent)

    def lookup(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Sums in the order of depth, so that the result equals `forward`'s in every bit.

        Fewer than D code planes are read as well, and give the coarser latent of that depth.
        """
        planes = codes.shape[1] if codes.ndim == 4 and 1 <= codes.shape[1] < self.depth else self.depth
        self.check_codes(codes, planes)
        total = torch.zeros((), dtype=self.codebook.codevectors.dtype, device=codes.device)
        for plane in range(planes):
            total = total + self.codebook.lookup(codes[:, plane].reshape(-1))
        return self.check_size(latent_of(total, torch.Size((len(codes), self.channels, *codes.shape[2:]))), size)
