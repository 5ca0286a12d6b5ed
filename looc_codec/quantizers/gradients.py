"""How a gradient passes the choice of a codevector, which has none of its own."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Gradient = Literal["straight-through", "rotation"]

SHORTEST = 1e-6
"""Units below this length have no direction to rotate; their gradient passes straight through."""


def straight_through(units: Tensor, chosen: Tensor) -> Tensor:
    """`chosen` `(n, d*)` as value, the identity to `units` as gradient (van den Oord et al. 2017).

    Written as q + (u - sg u), not u + sg(q - u): the bracket is exactly zero, so the value is exactly the codevector.
    """
    return chosen.detach() + (units - units.detach())


class QuantisedStraightThrough(torch.autograd.Function):
    """Codevectors of units with the gradient of `straight_through`, and the VQ loss of both, with its gradients in closed form.

    (units `(n, d*)`, codevectors `(K, d*)`, codes `(n,)`, codebook weight a, commitment weight b) → chosen codevectors `(n, d*)`, loss
    (a + b) mean |v - c|². Of the loss a unit gets 2 b (v - c) / N and a codevector -2 a sum of (v - c) / N over the units that chose it,
    N values in all. One difference serves value and both gradients; through autograd's own operations the step takes eight times as
    long (50,176 units of 4 dimensions, 256 codevectors: 12.6 against 1.6 ms, one core).
    """

    @staticmethod
    def forward(ctx: Any, units: Tensor, codevectors: Tensor, codes: Tensor, codebook_weight: float, commitment_weight: float) -> tuple[Tensor, Tensor]:
        chosen = codevectors[codes]
        difference = units - chosen
        ctx.save_for_backward(difference, codes)
        # Where only one of the outputs is used, the gradient of the other is None and not a tensor of zeros.
        ctx.set_materialize_grads(False)
        ctx.size, ctx.weights = len(codevectors), (codebook_weight, commitment_weight)
        # An empty batch has a mean that is no number, as in torch's own loss.
        return chosen, (codebook_weight + commitment_weight) * difference.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, chosen_gradient: Tensor | None, loss_gradient: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if loss_gradient is None:
            return chosen_gradient, None, None, None, None
        difference, codes = ctx.saved_tensors
        codebook_weight, commitment_weight = ctx.weights
        scale = 2 * loss_gradient / max(1, difference.numel())
        units = codevectors = None
        if ctx.needs_input_grad[0]:
            units = difference * (scale * commitment_weight)
            units = units if chosen_gradient is None else units + chosen_gradient
        if ctx.needs_input_grad[1]:
            sums = torch.zeros(ctx.size, difference.shape[1], dtype=difference.dtype, device=difference.device).index_add_(0, codes, difference)
            codevectors = sums * (-scale * codebook_weight)
        return units, codevectors, None, None, None


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
