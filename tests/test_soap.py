"""SOAP: rotations keep lengths, and ill-conditioned problems are solved in fewer steps than by Adam."""

from __future__ import annotations

import pytest
import torch

from looc_codec.training.soap import Soap, eigenbasis, rotate


def loss_after(optimizer_of, steps: int) -> float:
    """Least squares whose rows and columns differ in scale by a hundred and are mixed by random rotations."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(12, 12, generator=generator))[0] for _ in range(2))
    scales = torch.logspace(0, -2, 12)
    target = torch.randn(12, 12, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(12, 12))
    optimizer = optimizer_of([weight])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / steps)
        loss = (scales[:, None] * (left @ (weight - target) @ right) * scales).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_it_beats_adam_where_curvature_is_rotated():
    assert loss_after(Soap, 200) < 0.5 * loss_after(lambda p: torch.optim.Adam(p, betas=(0.95, 0.95)), 200)


@pytest.mark.parametrize("shape", [(8,), (6, 5), (6, 5, 3, 3), (6, 1, 3, 3)])
def test_every_weight_shape_descends_and_keeps_orthonormal_bases(shape):
    torch.manual_seed(0)
    weight, target = torch.nn.Parameter(torch.zeros(shape)), torch.randn(shape)
    optimizer = Soap([weight], lr=0.05, longest_axis=5)
    first = float((weight - target).square().sum())
    for _ in range(100):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert float((weight - target).square().sum()) < 0.2 * first
    state = optimizer.state[weight]
    bases = {name: value for name, value in state.items() if name.startswith("basis")}
    assert len(bases) == sum(1 < size <= 5 for size in shape) * (len(shape) > 1)
    for basis in bases.values():
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis)), atol=1e-5, rtol=0)
    value = torch.randn(shape)
    torch.testing.assert_close(rotate(rotate(value, state), state, back=True), value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("covariance", [torch.zeros(9, 9), torch.ones(9, 9), torch.eye(9)])
def test_degenerate_covariances_still_give_a_basis(covariance):
    basis = eigenbasis(covariance)
    torch.testing.assert_close(basis.T @ basis, torch.eye(9), atol=1e-6, rtol=0)
