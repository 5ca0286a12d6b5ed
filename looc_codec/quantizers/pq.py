"""PQ: product quantisation, a codebook of its own for each of the m units of a position.

Hervé Jégou, Matthijs Douze, Cordelia Schmid 2011, "Product Quantization for Nearest Neighbor Search", section II.B; as a
baseline with learned books in LooC (section 3.1, eq. 2; tables 1 and 10).

    z(i, j) = [v_1, ..., v_m], v_q of d* = d / m channels;  z_hat(i, j) = [c_1(k_1), ..., c_m(k_m)], k_q chosen in book q

Losses are summed over books and books learn by CVQ's rule with anchors drawn by "probability" and cosine match, as in LooC's
release. Two facts of that release are not repeated: it cuts image rows of single channels instead of groups of
channels (a slip of layout), so its printed PQ rows come from a damaged baseline; and it divides K by m without saying
so, which is an option here: `size_of`.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from looc_codec.errors import ModelError
from looc_codec.quantizers.gradients import Gradient, QuantisedStraightThrough, rotated
from looc_codec.quantizers.learned_codebook import Anchor, LearnedCodebook, Update, vq_loss
from looc_codec.quantizers.quantizer import Quantizer, QuantizerOutput
from looc_codec.quantizers.search import Match, nearest_of_books

SizeOf = Literal["book", "all"]


class PQQuantizer(Quantizer):
    """m = d / d* books of K codevectors `(K, d*)`; codes `(B, m, h, w)`, plane q pointing into book q.

    `size_of`: whose size `codebook_size` is. "book" (default): of each book, which gives LooC's rate at m times its
    parameters. "all": of all books together (a multiple of m), which gives LooC's number of codevectors at a lower
    rate, m log2(K / m) bits per position. Other options: see `LearnedCodebook`.
    """

    def __init__(
        self,
        channels: int,
        codevector_dim: int = 4,
        codebook_size: int = 256,
        *,
        size_of: SizeOf = "book",
        match: Match = "cosine",
        update: Update = "cvq",
        anchor: Anchor = "probability",
        decay: float = 0.99,
        gradient: Gradient = "straight-through",
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__(channels)
        if codevector_dim < 1 or channels % codevector_dim:
            raise ModelError(f"invalid PQ quantizer: channels {channels} is not a multiple of codevector_dim {codevector_dim}")
        if size_of not in get_args(SizeOf):
            raise ModelError(f"invalid PQ quantizer: size_of {size_of!r} is none of {get_args(SizeOf)}")
        books = channels // codevector_dim
        if size_of == "all" and codebook_size % books:
            raise ModelError(f"invalid PQ quantizer: codebook_size {codebook_size} in all is not a multiple of the {books} books")
        self.codevector_dim = codevector_dim
        self.codebooks = nn.ModuleList(
            LearnedCodebook(
                codebook_size if size_of == "book" else codebook_size // books, codevector_dim, match=match, update=update, anchor=anchor,
                decay=decay, gradient=gradient, codebook_weight=codebook_weight, commitment_weight=commitment_weight,
            )
            for _ in range(books)
        )  # fmt: skip

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return tuple(book.size for book in self.codebooks)

    @property
    def codes_per_position(self) -> int:
        return len(self.codebooks)

    @property
    def codebook_parameters(self) -> int:
        return sum(book.codevectors.numel() for book in self.codebooks)

    def units(self, latent: Tensor) -> Tensor:
        """`(B, d, h, w)` → `(m, B * h * w, d*)`: the units of each book."""
        self.check_latent(latent)
        batch, _, height, width = latent.shape
        cut = latent.view(batch, len(self.codebooks), self.codevector_dim, height, width)
        return cut.permute(1, 0, 3, 4, 2).reshape(len(self.codebooks), -1, self.codevector_dim).to(self.codebooks[0].codevectors.dtype)

    def join(self, units: Tensor, latent: Tensor) -> Tensor:
        """The inverse of `units` for a latent or codes `(B, ..., h, w)`."""
        batch, _, height, width = latent.shape
        joined = units.view(len(self.codebooks), batch, height, width, self.codevector_dim)
        return joined.permute(1, 0, 4, 2, 3).reshape(batch, self.channels, height, width)

    def forward(self, latent: Tensor) -> QuantizerOutput:
        """`(B, d, h, w)` → latent_hat `(B, d, h, w)`, codes `(B, m, h, w)`, loss summed over books."""
        units, books, first = self.units(latent), self.stacked(), self.codebooks[0]
        codes = nearest_of_books(units.detach(), books.detach(), first.match)
        codebook_weight = 0.0 if first.update == "ema" else first.codebook_weight
        if first.gradient == "rotation":
            found = books.flatten(0, 1)[self.joint(codes)]
            flat = units.flatten(0, 1)
            chosen, loss = rotated(flat, found), vq_loss(flat, found, codebook_weight, first.commitment_weight)
        else:
            chosen, loss = QuantisedStraightThrough.apply(units.flatten(0, 1), books.flatten(0, 1), self.joint(codes), codebook_weight, first.commitment_weight)
        if self.training and units.shape[1]:
            for book, part, own in zip(self.codebooks, units.detach(), codes, strict=True):
                book.learn(part, own)
        # A mean over all books, where the paper adds the means of each.
        return QuantizerOutput(self.join(chosen.view(units.shape), latent), self.planes(codes, latent), len(books) * loss)

    def stacked(self) -> Tensor:
        """Codevectors of all books `(m, K, d*)`, with a gradient to each."""
        return torch.stack([book.codevectors for book in self.codebooks])

    def joint(self, codes: Tensor) -> Tensor:
        """Codes `(m, n)` as numbers `(m n,)` of codevectors of all books in a row."""
        return (codes + self.codebooks[0].size * torch.arange(len(codes), device=codes.device)[:, None]).flatten()

    def planes(self, codes: Tensor, latent: Tensor) -> Tensor:
        """`(m, n)` → `(B, m, h, w)`."""
        return codes.view(len(codes), len(latent), *latent.shape[2:]).transpose(0, 1).contiguous()

    def start_at(self, latent: Tensor, generator: torch.Generator | None = None) -> None:
        for book, part in zip(self.codebooks, self.units(latent), strict=True):
            book.start_at(part, generator)

    @torch.no_grad()
    def codes(self, latent: Tensor) -> Tensor:
        return self.planes(nearest_of_books(self.units(latent), self.stacked(), self.codebooks[0].match), latent)

    def lookup(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        self.check_codes(codes, len(self.codebooks))
        chosen = self.stacked().flatten(0, 1)[self.joint(codes.transpose(0, 1).flatten(1).long())]
        return self.check_size(self.join(chosen, codes), size)
