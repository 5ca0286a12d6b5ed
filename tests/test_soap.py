"""SOAP: rotations keep lengths, ill-conditioned problems are solved in fewer steps than by Adam, and buckets change nothing."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from looc_codec.training.recording import Recorded
from looc_codec.training.soap import Soap, eigenbasis, iterated_basis, orthonormal, rotate

SHAPES = [(6, 5), (6, 5), (7,), (6, 5, 3, 3), (6, 5), (6, 5, 3, 3), (3,), (8, 1, 3, 3), (1, 1)]


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


def weights() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    values = (torch.randn(shape) for shape in SHAPES)
    return [torch.nn.Parameter(value.to(memory_format=torch.channels_last) if value.dim() == 4 else value) for value in values]


def descend(optimizer: Soap, parameters: list[torch.nn.Parameter], steps: range, missing: tuple[int, ...] = (), zero: tuple[int, ...] = ()) -> None:
    """Steps of seeded gradients, each a common mean and noise; `missing` parameters get none and `zero` ones zeros."""
    for step in steps:
        for index, parameter in enumerate(parameters):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1000 * step + index))
            mean = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
            parameter.grad = None if index in missing else (mean + noise) * (index not in zero)
        optimizer.step()


def copies(state: dict) -> dict:
    """A state as a checkpoint has it, apart from the optimizer's own tensors."""
    return {"state": {index: {name: value.clone() for name, value in entry.items()} for index, entry in state["state"].items()},
            "param_groups": state["param_groups"]}


def bases_of(state: dict[str, Tensor]) -> dict[int, Tensor]:
    return {int(name.removeprefix("basis")): value[None] for name, value in state.items() if name.startswith("basis")}


def test_it_beats_adam_where_curvature_is_rotated():
    assert loss_after(Soap, 200) < 0.5 * loss_after(lambda p: torch.optim.Adam(p, betas=(0.95, 0.95)), 200)


@pytest.mark.parametrize("shape", [(8,), (6, 5), (6, 5, 3, 3), (6, 1, 3, 3)])
def test_every_weight_shape_descends_and_keeps_orthonormal_bases(shape):
    torch.manual_seed(0)
    weight, target = torch.nn.Parameter(torch.zeros(shape)), torch.randn(shape)
    optimizer = Soap([weight], lr=0.05, longest_axis=5)
    first = float((weight - target).detach().square().sum())
    for _ in range(100):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert float((weight - target).detach().square().sum()) < 0.2 * first
    bases = bases_of(optimizer.state[weight])
    assert len(bases) == sum(1 < size <= 5 for size in shape) * (len(shape) > 1)
    for basis in bases.values():
        torch.testing.assert_close(basis[0].T @ basis[0], torch.eye(basis.shape[1]), atol=1e-5, rtol=0)
    value = torch.randn(1, *shape)
    torch.testing.assert_close(rotate(rotate(value, bases), bases, back=True), value, atol=1e-5, rtol=0)


def test_rotation_multiplies_every_axis_by_its_basis():
    torch.manual_seed(0)
    value, bases = torch.randn(2, 6, 5, 3, 4), {axis: torch.randn(2, size, size) for axis, size in ((0, 6), (2, 3), (3, 4))}
    expected = torch.einsum("nabcd,nai,nck,ndl->nibkl", value, bases[0], bases[2], bases[3])
    torch.testing.assert_close(rotate(value, bases), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("covariance", [torch.zeros(9, 9), torch.ones(9, 9), torch.eye(9)])
def test_degenerate_covariances_still_give_a_basis(covariance):
    for basis in (eigenbasis(covariance), *eigenbasis(torch.stack([covariance, torch.eye(9)]))):
        torch.testing.assert_close(basis.T @ basis, torch.eye(9), atol=1e-6, rtol=0)


def test_a_bucket_steps_its_parameters_as_each_alone():
    together, alone = weights(), weights()
    descend(Soap(together, lr=0.01, longest_axis=6), together, range(25))
    for index, parameter in enumerate(alone):
        # The others without gradients, so that this one keeps its seeds.
        descend(Soap([parameter], lr=0.01, longest_axis=6), alone, range(25), tuple(other for other in range(len(alone)) if other != index))
    for one, other, start in zip(together, alone, weights(), strict=True):
        assert (one - start).detach().abs().min() > 1e-4
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_saved_state_goes_on_exactly():
    whole, first, second = weights(), weights(), weights()
    descend(Soap(whole, lr=0.01), whole, range(25))
    optimizer = Soap(first, lr=0.01)
    descend(optimizer, first, range(9))
    saved = copies(optimizer.state_dict())
    with torch.no_grad():
        for parameter, value in zip(second, first, strict=True):
            parameter.copy_(value)
    resumed = Soap(second, lr=0.01)
    resumed.load_state_dict(saved)
    assert all(torch.equal(value, saved["state"][index][name]) for index, entry in resumed.state_dict()["state"].items() for name, value in entry.items())
    descend(resumed, second, range(9, 25))
    assert all(torch.equal(one, other) for one, other in zip(whole, second, strict=True))
    # The state belongs to the steps that followed, and the saved one was left alone.
    assert all(int(entry["step"]) == 25 for entry in resumed.state_dict()["state"].values())
    assert all(int(entry["step"]) == 9 for entry in saved["state"].values())


def test_the_state_of_other_axes_is_refused():
    parameters = weights()
    optimizer = Soap(parameters)
    descend(optimizer, parameters, range(2))
    with pytest.raises(ValueError, match="longest_axis=5"):
        Soap(parameters, longest_axis=5).load_state_dict(copies(optimizer.state_dict()))


def test_buckets_begin_with_their_first_gradient():
    late, parameters = weights(), weights()
    optimizer = Soap(late, lr=0.01)
    pairs = (0, 1, 4)
    descend(optimizer, late, range(3), missing=pairs)
    assert all(torch.equal(late[index], parameters[index]) and not optimizer.state[late[index]] for index in pairs)
    saved = copies(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    descend(optimizer, late, range(3, 20))
    descend(Soap(parameters, lr=0.01), parameters, range(3, 20))
    for index in pairs:
        assert int(optimizer.state[late[index]]["step"]) == 17
        assert torch.equal(late[index], parameters[index])


def test_a_missing_gradient_counts_as_zero_beside_others():
    missing, zero = weights(), weights()
    descend(Soap(missing, lr=0.01), missing, range(15), missing=(1, 6))
    descend(Soap(zero, lr=0.01), zero, range(15), zero=(1, 6))
    assert all(torch.equal(one, other) for one, other in zip(missing, zero, strict=True))
    assert all(torch.equal(missing[index], weights()[index]) for index in (1, 6))


def covariance_and_vectors(size: int, smallest: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    vectors = torch.linalg.qr(torch.randn(3, size, size, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(0, smallest, size, dtype=torch.float64)
    return vectors @ (values[:, None] * vectors.mT), vectors


@pytest.mark.parametrize("size", [3, 40, 160])
@pytest.mark.parametrize("converged", [True, False])
def test_cholesky_gives_the_q_of_the_qr_decomposition(size, converged):
    covariance, vectors = covariance_and_vectors(size, -8)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(3, size, size, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(vectors + 1e-3 * noise if converged else noise)[0]
    product = covariance @ basis
    q, sound = orthonormal(product)
    assert sound.all()
    q = q.float()
    torch.testing.assert_close(q.mT @ q, torch.eye(size).expand(3, size, size), atol=1e-5, rtol=0)
    expected = torch.linalg.qr(product)[0].float()
    assert ((q * expected).sum(1).abs() > 1 - 1e-5).all()


def test_cholesky_says_which_matrices_it_could_not_do():
    matrices = torch.stack([torch.eye(4), torch.full((4, 4), torch.nan), torch.zeros(4, 4), torch.ones(4, 4).triu()])
    q, sound = orthonormal(matrices)
    assert sound.tolist() == [True, False, False, True]
    torch.testing.assert_close(q[3].abs().float(), torch.eye(4), atol=1e-6, rtol=0)


def plain_soap(start: Tensor, gradients: list[Tensor], rates: list[float], covariance_every: int, basis_every: int) -> Tensor:
    """Steps of one matrix as the paper writes them, its numbers on the host."""
    value, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    beta, covariances, bases = 0.95, [], []
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        products = [gradient @ gradient.T, gradient.T @ gradient]
        if step == 1:
            covariances = products
            bases = [eigenbasis(product[None])[0] for product in products]
        elif step % covariance_every == 0:
            weight = (1 - beta) * covariance_every
            covariances = [(1 - weight) * old + weight * new for old, new in zip(covariances, products, strict=True)]
        if step > 1 and step % basis_every == 0:
            mean = bases[0] @ mean @ bases[1].T
            orders = [torch.einsum("ij,ij->j", basis, covariance @ basis).argsort(descending=True) for covariance, basis in zip(covariances, bases, strict=True)]
            bases = [torch.linalg.qr((covariance @ basis)[:, order])[0] for covariance, basis, order in zip(covariances, bases, orders, strict=True)]
            mean, square = bases[0].T @ mean @ bases[1], square[orders[0]][:, orders[1]]
        rotated = bases[0].T @ gradient @ bases[1]
        mean = beta * mean + (1 - beta) * rotated
        square = beta * square + (1 - beta) * rotated**2
        scale = math.sqrt(1 - beta**step) / (1 - beta**step)
        value = value - rate * scale * (bases[0] @ (mean / (square.sqrt() + 1e-8)) @ bases[1].T)
    return value


@pytest.mark.parametrize("rate_of", [float, torch.tensor])
@pytest.mark.parametrize("every", [(2, 10), (2, 5), (3, 4)])
def test_steps_are_those_of_the_formula_with_its_numbers_on_the_host(rate_of, every):
    generator = torch.Generator().manual_seed(0)
    start, mean = (torch.randn(6, 6, generator=generator) for _ in range(2))
    gradients = [mean + torch.randn(6, 6, generator=generator) for _ in range(22)]
    # The first gradient is diagonal in its own eigenvectors, and Adam makes full steps of the rounding errors beside the diagonal.
    rates = [0.01 / (1 + index) if index else 0.0 for index in range(len(gradients))]
    parameter = torch.nn.Parameter(start.clone())
    optimizer = Soap([parameter], covariance_every=every[0], basis_every=every[1])
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate_of(rate)
        parameter.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), plain_soap(start, gradients, rates, *every), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [3, 9, 16])
def test_iterated_bases_are_near_the_eigenvectors(size):
    covariance, vectors = (value.float() for value in covariance_and_vectors(size, -0.3 * size))
    basis = iterated_basis(covariance)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(size).expand(3, size, size), atol=1e-5, rtol=0)

    def share_off_diagonal(matrix: Tensor) -> Tensor:
        # Of correlations, in which the small eigenvalues count as much as the large ones.
        spread = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
        correlation = matrix / (spread[:, :, None] * spread[:, None])
        return (correlation - torch.eye(size)).square().mean((1, 2))

    rotated = (basis.double().mT @ covariance.double() @ basis.double()).float()
    assert (share_off_diagonal(rotated) < 0.1 * share_off_diagonal(covariance)).all()
    assert ((basis[:, :, 0] * vectors[:, :, 0]).sum(1).abs() > 0.99).all()


def test_iterated_bases_of_degenerate_covariances_are_orthonormal():
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(9, 1, generator=generator)
    rows = torch.randn(9, 4, generator=generator) * (torch.arange(9) < 6)[:, None]
    broken = torch.full((9, 9), torch.nan)
    basis = iterated_basis(torch.stack([torch.zeros(9, 9), torch.ones(9, 9), 1e-12 * vector @ vector.T, torch.eye(9), rows @ rows.T, broken]))
    torch.testing.assert_close(basis.mT @ basis, torch.eye(9).expand(6, 9, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close((basis[2, :, 0] @ vector).abs()[0], vector.norm())
    assert torch.equal(basis[5], torch.eye(9))


def test_a_plan_tells_which_steps_can_be_recorded():
    parameters = weights()
    optimizer = Soap(parameters, lr=0.01, covariance_every=2, basis_every=5)
    plans = []
    for step in range(10):
        # A pair of buckets begins two steps late.
        late = (0, 1, 4, 3, 5) if step < 2 else ()
        for index, parameter in enumerate(parameters):
            parameter.grad = None if index in late else torch.ones_like(parameter)
        plans.append(optimizer.plan())
        optimizer.step()
    assert {plan[1] for plan in plans[:2]} == {"first", "covariance"} and {plan[0] for plan in plans[:2]} == {""}
    assert [plan[0] for plan in plans[2:]] == ["first", "covariance", "plain", "covariance", "basis", "covariance", "plain", "covariance"]
    assert plans[9][1] == "covariance basis"
    assert [optimizer.recordable(plan) for plan in plans] == [False, True, False, True, False, True, False, True, True, False]


def test_rates_that_change_after_a_plan_need_no_other_work():
    one, other = weights(), weights()
    optimizers = [Soap(one, lr=0.01), Soap(other, lr=0.5)]
    descend(optimizers[0], one, range(1))
    for parameter, seeded in zip(other, one, strict=True):
        parameter.grad = seeded.grad
    plan = optimizers[1].plan()
    optimizers[1].param_groups[0]["lr"] = 0.01
    optimizers[1].take_rates()
    optimizers[1].work(plan)
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records CUDA graphs")
def test_recorded_work_is_that_of_launched_work():
    results, recordings = [], {}
    for record in (False, True):
        parameters = [torch.nn.Parameter(value.detach().cuda()) for value in weights()]
        optimizer = Soap(parameters, covariance_every=2, basis_every=5)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        for step in range(14):
            for index, parameter in enumerate(parameters):
                gradient = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1000 * step + index))
                parameter.grad.copy_(gradient + torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
            optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
            plan = optimizer.plan()
            optimizer.take_rates()
            work = partial(optimizer.work, plan)
            if record and optimizer.recordable(plan):
                work = recordings.setdefault(plan, Recorded(work, trials=1))
            work()
            optimizer.count(plan)
        assert all(int(optimizer.state[parameter]["step"]) == 14 for parameter in parameters)
        results.append([parameter.detach().cpu() for parameter in parameters])
    assert len(recordings) == 2 and all(recording.recorded for recording in recordings.values())
    for launched, recorded, first in zip(*results, weights(), strict=True):
        assert (launched - first.detach()).abs().max() > 5e-3
        # Products of ten bits of mantissa may be done in another way in a recording.
        torch.testing.assert_close(recorded, launched, atol=1e-3, rtol=1e-3)
    assert torch.backends.cuda.matmul.allow_tf32 is False
