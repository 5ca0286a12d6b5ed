"""Quantizers: ways of replacing a latent by codes, one per file, behind one interface (`quantizer.py`).

    forward(latent) → QuantizerOutput(latent_hat, codes, loss);  codes(latent);  lookup(codes);
    codebook_sizes, codes_per_position, uniform_bits_per_position, codebook_parameters, usage(codes)

They need torch alone and go where any VQ layer went. LooC in place of the quantizer of somebody's VQ-VAE:

>>> import torch
>>> from torch import nn
>>> from looc_codec.quantizers import LooCQuantizer
>>> class VQVAE(nn.Module):
...     def __init__(self, quantizer):
...         super().__init__()
...         self.encoder, self.quantizer, self.decoder = nn.Conv2d(3, 16, 4, 4), quantizer, nn.ConvTranspose2d(16, 3, 4, 4)
...     def forward(self, images):
...         output = self.quantizer(self.encoder(images))
...         return self.decoder(output.latent_hat), output.loss
>>> model = VQVAE(LooCQuantizer(channels=16, codevector_dim=4, codebook_size=32))
>>> images = torch.rand(2, 3, 32, 32)
>>> reconstructions, loss = model(images)
>>> ((reconstructions - images).square().mean() + loss).backward()
>>> codes = model.eval().quantizer.codes(model.encoder(images))         # four codes of 5 bits for each position
>>> codes.shape, model.quantizer.uniform_bits_per_position
(torch.Size([2, 4, 8, 8]), 20.0)
>>> model.decoder(model.quantizer.lookup(codes)).shape
torch.Size([2, 3, 32, 32])

`build("rq", 16, depth=2)` makes one by its short name, of which `QUANTIZERS` is the list.

What the codec shares with them. The codec's `SharedCodebook` and `LooCQuantizer` are two uses of one idea, and share what
they do alike: how a latent is cut into units (`units.py`) and how codevectors are compared (`search.scores`). The rest
differs by purpose. `LearnedCodebook` holds float parameters that gradients, moving averages or anchors move, and knows no
bits. `SharedCodebook` holds frozen integers in 1/16 steps, tables of frequencies per context, digits and escapes; it
weighs distortion against bits, and what it stores decides which bits a file has. One class for both would put a switch
into every method. A test holds them together instead: with equal tables and one digit, `SharedCodebook` picks the codes
and values of `LooCQuantizer` with match "l2" and beta 1.
"""

from __future__ import annotations

from looc_codec.quantizers.catalogue import QUANTIZERS, build
from looc_codec.quantizers.cvq import CVQQuantizer
from looc_codec.quantizers.hvq import HVQQuantizer
from looc_codec.quantizers.learned_codebook import LearnedCodebook
from looc_codec.quantizers.looc import LooCQuantizer
from looc_codec.quantizers.pq import PQQuantizer
from looc_codec.quantizers.quantizer import CodebookUsage, Quantizer, QuantizerOutput
from looc_codec.quantizers.rq import RQQuantizer
from looc_codec.quantizers.search import cluster_centres
from looc_codec.quantizers.sq import SQQuantizer, sq_reconstruction_loss
from looc_codec.quantizers.vq import VQQuantizer
from looc_codec.quantizers.vq_ema import VQEMAQuantizer
from looc_codec.quantizers.vqgan_fc import VQGANFCQuantizer
from looc_codec.quantizers.vqgan_lc import VQGANLCQuantizer

__all__ = [
    "QUANTIZERS", "CVQQuantizer", "CodebookUsage", "HVQQuantizer", "LearnedCodebook", "LooCQuantizer", "PQQuantizer", "Quantizer",
    "QuantizerOutput", "RQQuantizer", "SQQuantizer", "VQEMAQuantizer", "VQGANFCQuantizer", "VQGANLCQuantizer", "VQQuantizer", "build",
    "cluster_centres", "sq_reconstruction_loss",
]  # fmt: skip
