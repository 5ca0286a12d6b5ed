"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321, algorithm 3).

Each weight tensor has a running covariance of its gradient along every axis (outputs, inputs, kernel rows, kernel
columns). Its gradient is rotated into their eigenvectors, Adam steps there, and the step is rotated back. From the same
weights, seven minutes of it on one CPU core lowered the validation loss more than seven of AdamW (docs/EXPERIMENTS.md, 2).

Parameters of equal shape are stepped together: a GPU would spend most of its time on starting the small products of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


class Bucket:
    """Parameters of a group that are stepped together, with their state.

    Those with rotated `axes` have one shape and are stacked. Those without, of any shape, lie end to end in one vector.
    """

    def __init__(self, members: list[Tensor], axes: tuple[int, ...]) -> None:
        self.members, self.axes, self.count = members, axes, 0

    def allocate(self) -> None:
        first, number = self.members[0], len(self.members)
        size = (number, *first.shape) if self.axes else (sum(member.numel() for member in self.members),)
        self.step = torch.tensor(0)
        self.mean, self.square = (torch.zeros(size, device=first.device) for _ in range(2))
        sides = {axis: first.shape[axis] for axis in self.axes}
        self.covariances = {axis: torch.zeros(number, side, side, device=first.device) for axis, side in sides.items()}
        self.bases = {axis: torch.eye(side, device=first.device).repeat(number, 1, 1) for axis, side in sides.items()}

    def advance(self, count: int) -> None:
        """Sets the number of steps. It is a number here, for arithmetic, and a tensor in the state, to be saved."""
        self.count = count
        self.step.fill_(count)

    def joined(self, tensors: list[Tensor]) -> Tensor:
        if self.axes:
            return torch.stack(tensors).float().contiguous()
        return torch.cat([tensor.reshape(-1) for tensor in tensors]).float()

    def parted(self, value: Tensor) -> list[Tensor]:
        """Views of `value`, one for each member."""
        if self.axes:
            return list(value.unbind())
        return [part.view(member.shape) for part, member in zip(value.split([member.numel() for member in self.members]), self.members, strict=True)]

    def states(self) -> list[dict[str, Tensor]]:
        """State of each member: views of the tensors here, under the names that checkpoints have."""
        columns = {"mean": self.parted(self.mean), "square": self.parted(self.square)}
        for axis in self.axes:
            columns |= {f"covariance{axis}": self.covariances[axis].unbind(), f"basis{axis}": self.bases[axis].unbind()}
        return [{"step": self.step} | {name: column[index] for name, column in columns.items()} for index in range(len(self.members))]

    def gradient(self) -> Tensor:
        return self.joined([torch.zeros_like(member) if member.grad is None else member.grad for member in self.members])

    def move(self, change: Tensor, rate: float) -> None:
        """Subtracts `rate` times `change` from the parameters."""
        if self.axes:
            # One launch for all members needs the strides of the parameters, which for convolutions are channels last.
            like = torch.empty_like(self.members[0])
            strides = (like.numel(), *like.stride())
            if all(size == 1 or have == want for size, have, want in zip(change.shape, change.stride(), strides, strict=True)):
                change = change.as_strided(change.shape, strides)
            else:
                change = torch.empty_strided(change.shape, strides, device=change.device).copy_(change)
        torch._foreach_add_(self.members, self.parted(change), alpha=-rate)


class Soap(torch.optim.Optimizer):
    """Optimizer of matrices and convolutions; vectors get plain Adam.

    Axes longer than `longest_axis` are not rotated. Covariances are averaged every `covariance_every` steps and the
    bases follow every `basis_every` steps by one power iteration and an orthonormalisation. All state is tensors.

    The state of a bucket begins with the first gradient of any member, and a step in which none has one leaves it as it
    is. In other steps members without a gradient count as having a gradient of zero. Only a first step waits for a GPU.
    """

    def __init__(self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.95, 0.95), eps: float = 1e-8, *,
                 longest_axis: int = 400, covariance_every: int = 2, basis_every: int = 10) -> None:
        self.longest_axis, self.covariance_every, self.basis_every = longest_axis, covariance_every, basis_every
        self.buckets: list[list[Bucket]] = []
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps))

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        members: dict[tuple, list[Tensor]] = {}
        for parameter in self.param_groups[-1]["params"]:
            axes = self.rotated_axes(parameter)
            key = (axes, parameter.shape if axes else None, parameter.dtype, parameter.device)
            members.setdefault(key, []).append(parameter)
        self.buckets.append([Bucket(parameters, key[0]) for key, parameters in members.items()])

    def rotated_axes(self, parameter: Tensor) -> tuple[int, ...]:
        if parameter.dim() < 2:
            return ()
        return tuple(axis for axis, size in enumerate(parameter.shape) if 1 < size <= self.longest_axis)

    def all_buckets(self) -> Iterable[Bucket]:
        return (bucket for buckets in self.buckets for bucket in buckets)

    def begin(self, bucket: Bucket) -> None:
        bucket.allocate()
        for member, state in zip(bucket.members, bucket.states(), strict=True):
            self.state[member] = state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict) -> None:
        """Takes over a saved state; parameters that it does not have begin without one, or with the others of their bucket."""
        super().load_state_dict(state_dict)
        loaded = dict(self.state)
        self.state.clear()
        for bucket in self.all_buckets():
            bucket.count = 0
            saved = {index: loaded[member] for index, member in enumerate(bucket.members) if loaded.get(member)}
            if not saved:
                continue
            self.begin(bucket)
            bucket.advance(max(int(state["step"]) for state in saved.values()))
            for index, state in saved.items():
                views = self.state[bucket.members[index]]
                if state.keys() != views.keys():
                    raise ValueError(f"the saved state rotates other axes than longest_axis={self.longest_axis}: it has {', '.join(state)}")
                for name in views.keys() - {"step"}:
                    views[name].copy_(state[name])

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group, buckets in zip(self.param_groups, self.buckets, strict=True):
            for bucket in buckets:
                if any(member.grad is not None for member in bucket.members):
                    self.update(bucket, group)

    def update(self, bucket: Bucket, group: dict) -> None:
        gradient, (beta1, beta2) = bucket.gradient(), group["betas"]
        fresh = bucket.count == 0
        if fresh:
            self.begin(bucket)
        bucket.advance(bucket.count + 1)
        if fresh or bucket.count % self.covariance_every == 0:
            weight = 1.0 if fresh else (1 - beta2) * self.covariance_every
            for axis, covariance in bucket.covariances.items():
                rows = gradient.movedim(axis + 1, 1).flatten(2)
                covariance.baddbmm_(rows, rows.mT, beta=1 - weight, alpha=weight)
        if fresh:
            for axis, covariance in bucket.covariances.items():
                bucket.bases[axis].copy_(eigenbasis(covariance))
        elif bucket.count % self.basis_every == 0:
            for axis in bucket.axes:
                turn(bucket, axis)
        rotated = rotate(gradient, bucket.bases)
        bucket.mean.lerp_(rotated, 1 - beta1)
        bucket.square.lerp_(rotated.square_(), 1 - beta2)
        scale = math.sqrt(1 - beta2**bucket.count) / (1 - beta1**bucket.count)
        change = bucket.square.sqrt().add_(group["eps"])
        torch.div(bucket.mean, change, out=change)
        bucket.move(rotate(change, bucket.bases, back=True), group["lr"] * scale)


def eigenbasis(covariance: Tensor) -> Tensor:
    """Eigenvectors of each matrix as columns, the largest eigenvalue first. In float64: a first gradient has low rank, and
    eigensolvers give up on many equal eigenvalues in float32."""
    trace = covariance.double().diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    ridge = torch.linspace(1e-9, 2e-9, covariance.shape[-1], dtype=torch.float64, device=covariance.device).diag()
    matrix = covariance.double() / trace.clamp_min(1e-30) + ridge
    try:
        vectors = torch.linalg.eigh(matrix)[1]
    except RuntimeError:
        # Solvers of GPUs give up where LAPACK does not.
        vectors = torch.linalg.eigh(matrix.cpu())[1]
    return vectors.flip(-1).to(covariance).contiguous()


def turn(bucket: Bucket, axis: int) -> None:
    """Brings the bases of one axis up to date with its covariances; the moments follow them."""
    basis = bucket.bases[axis]
    # Products on a GPU may keep ten bits of mantissa (TF32), in which eigenvectors of small eigenvalues would drown.
    exact = torch.float64 if basis.is_cuda else basis.dtype
    old = basis.to(exact)
    product = bucket.covariances[axis].to(exact) @ old
    spread = (old * product).sum(1)
    order = spread.argsort(dim=1, descending=True)
    each = torch.arange(len(order), device=order.device)[:, None]
    if basis.is_cuda:
        # A little of the old basis gives a direction to the columns of channels whose gradient is always zero.
        ridge = 1e-10 * spread.abs().amax(1)[:, None, None] + 1e-30
        fresh, sound = orthonormal((product + ridge * old).mT[each, order].mT)
        fresh = torch.where(sound[:, None, None], fresh, old)
        order = torch.where(sound[:, None], order, torch.arange(order.shape[1], device=order.device))
    else:
        fresh = torch.linalg.qr(product.mT[each, order].mT)[0]
    square, mean = (moment.movedim(axis + 1, 1) for moment in (bucket.square, bucket.mean))
    square.copy_(square[each, order])
    change = (fresh.mT @ old).to(mean)
    mean.copy_((change @ mean.flatten(2)).view(mean.shape))
    basis.copy_(fresh)


def orthonormal(product: Tensor) -> tuple[Tensor, Tensor]:
    """Q of the QR decomposition of each matrix, up to the signs of its columns, in float64; and for which matrices it succeeded.

    QR decompositions of many small matrices are slow on GPUs, whose libraries make them one after the other. This is the
    shifted Cholesky QR of Fukaya et al. 2020 (arXiv 1809.11085): dividing by any triangular matrix keeps the spans of the
    leading columns, so the shifts cost no accuracy, and three passes reach condition numbers of 1e12.
    """
    value = product.double()
    value = value / torch.linalg.vector_norm(value, dim=-2, keepdim=True).clamp_min(1e-300)
    unit = torch.eye(value.shape[-1], dtype=value.dtype, device=value.device)
    sound = torch.ones(value.shape[:-2], dtype=torch.bool, device=value.device)
    for shift in (1e-10, 1e-14, 1e-14):
        lower, failure = torch.linalg.cholesky_ex(value.mT @ value + shift * unit, check_errors=False)
        value = torch.linalg.solve_triangular(lower.mT, value, upper=True, left=False)
        sound &= failure == 0
    # A comparison with a number that is not finite is False as well.
    return value, sound & ((value.mT @ value - unit).abs().amax((-2, -1)) < 1e-6)


def rotate(value: Tensor, bases: dict[int, Tensor], back: bool = False) -> Tensor:
    """Stacked tensors in the coordinates of the eigenvectors along every axis that has them, or back from there."""
    if not bases:
        return value
    for axis in range(value.dim() - 1):
        # Each product moves its axis to the end, so the axes are in order again after the last.
        if axis in bases:
            rows = value.flatten(2)
            value = torch.bmm(rows.mT, bases[axis].mT if back else bases[axis]).view(len(value), *value.shape[2:], value.shape[1])
        else:
            value = value.movedim(1, -1)
    return value.contiguous()
