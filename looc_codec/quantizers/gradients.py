"""How a gradient passes the choice of a codevector, which has none of its own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Gradient = Literal["straight-through", "rotation"]

SHORTEST = 1e-6
"""Units below this length have no direction to rotate; their gradient passes straight through."""


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
