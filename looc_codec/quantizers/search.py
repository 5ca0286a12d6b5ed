"""Search for the best codevector of a unit: the one comparison that the paper's quantizers and the codec share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Match = Literal["cosine", "l2"]

SEARCH_ENTRIES = 1 << 20
"""Most entries of a units × codevectors matrix held at once on the CPU: 4 MiB of float32, which stay in its cache."""
DEVICE_SEARCH_ENTRIES = 1 << 28
"""The same on an accelerator, where few large products are faster than many small ones: 1 GiB."""


def scores(units: Tensor, codevectors: Tensor, match: Match = "l2") -> Tensor:
    """`(n, d*)` and `(K, d*)` → `(n, K)`: orders the codevectors of a unit, the best one having the largest score.

    "l2": <v, c> - |c|²/2, that is (|v|² - |v - c|²) / 2. "cosine": <v, c/|c|>. The unit's own length is left out: it
    changes no order, and in l2 it would drown close decisions in rounding.
    """
    # Autocast would multiply in 8 bits of mantissa and pick other codevectors than evaluation does.
    with torch.autocast(units.device.type, enabled=False):
        if match == "cosine":
            return units @ functional.normalize(codevectors, dim=1).T
        return units @ codevectors.T - 0.5 * (codevectors**2).sum(1)


def similarity(units: Tensor, codevectors: Tensor, match: Match = "l2") -> Tensor:
    """`(n, K)`: cosine, or minus squared distance; comparable between units too."""
    if match == "cosine":
        return scores(functional.normalize(units, dim=1), codevectors, match)
    return 2 * scores(units, codevectors, match) - (units**2).sum(1, keepdim=True)


@torch.no_grad()
def nearest(units: Tensor, codevectors: Tensor, match: Match = "l2") -> Tensor:
    """Code `(n,)` int64 of each unit `(n, d*)`; a bounded number of scores is held at once."""
    return torch.cat([largest_of_rows(scores(part, codevectors, match)) for part in units.split(chunk_of(units, len(codevectors)))])


@torch.no_grad()
def nearest_of_books(units: Tensor, books: Tensor, match: Match = "l2") -> Tensor:
    """Code `(m, n)` int64 of each unit `(m, n, d*)` in its own of m books `(m, K, d*)`: `nearest` for all of them at once."""
    books_count, size, _ = books.shape
    with torch.autocast(units.device.type, enabled=False):
        if match == "cosine":
            turned, offset = functional.normalize(books, dim=2).mT, None
        else:
            turned, offset = books.mT, 0.5 * (books**2).sum(2)[:, None]
        found = []
        for part in units.split(chunk_of(units, books_count * size), dim=1):
            product = torch.bmm(part, turned) if offset is None else torch.bmm(part, turned) - offset
            found.append(largest_of_rows(product.flatten(0, 1)).view(product.shape[:2]))
    return torch.cat(found, 1)


def chunk_of(units: Tensor, size: int) -> int:
    """How many units are compared with `size` codevectors at once, at least one."""
    return max(1, (SEARCH_ENTRIES if units.device.type == "cpu" else DEVICE_SEARCH_ENTRIES) // size)


@torch.no_grad()
def cluster_centres(features: Tensor, size: int, rounds: int = 20, generator: torch.Generator | None = None) -> Tensor:
    """`size` cluster centres `(size, D)` of features `(n, D)`, n >= size, by Lloyd's iteration from random features.

    A centre that loses all its features becomes a random feature.
    """
    if len(features) < size:
        raise ValueError(f"{len(features)} features cannot make {size} centres")
    centres = features[torch.randperm(len(features), generator=generator)[:size]].clone()
    for _ in range(rounds):
        codes = nearest(features, centres)
        counts = torch.bincount(codes, minlength=size)
        centres = torch.zeros_like(centres).index_add_(0, codes, features) / counts.clamp_min(1)[:, None]
        empty = (counts == 0).nonzero().flatten()
        centres[empty] = features[torch.randint(len(features), (len(empty),), generator=generator)]
    return centres


def largest_of_rows(matrix: Tensor) -> Tensor:
    """Index `(n,)` int64 of the largest value of each row, the first of equal ones.

    On the CPU by numpy, whose search uses vector instructions: 200,704 units and 256 codevectors of 4 dimensions take
    24 ms in place of 70, with the product included (one core).
    """
    if matrix.device.type == "cpu" and matrix.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(matrix.detach().numpy().argmax(1))
    return matrix.argmax(1)
