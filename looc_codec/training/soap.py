"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321, algorithm 3).

Each weight tensor has a running covariance of its gradient along every axis (outputs, inputs, kernel rows, kernel
columns). Its gradient is rotated into their eigenvectors, Adam steps there, and the step is rotated back. From the same
weights, seven minutes of it on one CPU core lowered the validation loss more than seven of AdamW (docs/EXPERIMENTS.md, 2).

Parameters of equal shape are stepped together: a GPU would spend most of its time on starting the small products of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

FIRST_ROUNDS = 6
"""Power iterations that give the first bases on a GPU."""


@contextmanager
def coarse_products(device: torch.device) -> Iterator[None]:
    """Products of float32 matrices on a CUDA device may keep ten bits of mantissa (TF32) meanwhile; nothing else changes."""
    if device.type != "cuda":
        yield
        return
    # Read when a product is issued, so a recording keeps what was set while it was made.
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class Bucket:
    """Parameters of a group that are stepped together, with their state.

    Those with rotated `axes` have one shape and are stacked. Those without, of any shape, lie end to end in one vector.
    """

    def __init__(self, members: list[Tensor], axes: tuple[int, ...]) -> None:
        # The number of steps is a number here, for decisions, and a tensor in the state, for arithmetic on the device.
        self.members, self.axes, self.count = members, axes, 0

    def allocate(self) -> None:
        first, number = self.members[0], len(self.members)
        size = (number, *first.shape) if self.axes else (sum(member.numel() for member in self.members),)
        self.step = torch.zeros((), dtype=torch.int64, device=first.device)
        self.mean, self.square = (torch.zeros(size, device=first.device) for _ in range(2))
        sides = {axis: first.shape[axis] for axis in self.axes}
        self.covariances = {axis: torch.zeros(number, side, side, device=first.device) for axis, side in sides.items()}
        self.bases = {axis: torch.eye(side, device=first.device).repeat(number, 1, 1) for axis, side in sides.items()}

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

    def move(self, change: Tensor) -> None:
        """Subtracts `change` from the parameters."""
        if self.axes:
            # One launch for all members needs the strides of the parameters, which for convolutions are channels last.
            like = torch.empty_like(self.members[0])
            strides = (like.numel(), *like.stride())
            if all(size == 1 or have == want for size, have, want in zip(change.shape, change.stride(), strides, strict=True)):
                change = change.as_strided(change.shape, strides)
            else:
                change = torch.empty_strided(change.shape, strides, device=change.device).copy_(change)
        torch._foreach_sub_(self.members, self.parted(change))


class Soap(torch.optim.Optimizer):
    """Optimizer of matrices and convolutions; vectors get plain Adam.

    Axes longer than `longest_axis` are not rotated. Covariances are averaged every `covariance_every` steps and the
    bases follow every `basis_every` steps by one power iteration and an orthonormalisation. All state is tensors.

    The state of a bucket begins with the first gradient of any member, and a step in which none has one leaves it as it
    is. In other steps members without a gradient count as having a gradient of zero. No step waits for a GPU.

    The parameters of a group are on one device. `step` is `take_rates`, `work` on the `plan` and `count`: who records the
    work as a CUDA graph calls them one by one, and replays it for every step of the same plan that is `recordable`.
    """

    def __init__(self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.95, 0.95), eps: float = 1e-8, *,
                 longest_axis: int = 400, covariance_every: int = 2, basis_every: int = 10) -> None:
        self.longest_axis, self.covariance_every, self.basis_every = longest_axis, covariance_every, basis_every
        self.buckets: list[list[Bucket]] = []
        # Of each group, on its device. Those of the groups stay numbers, or what the caller makes of them.
        self.rates: list[Tensor] = []
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps))

    def add_param_group(self, param_group: dict) -> None:
        super().add_param_group(param_group)
        members: dict[tuple, list[Tensor]] = {}
        for parameter in self.param_groups[-1]["params"]:
            axes = self.rotated_axes(parameter)
            key = (axes, parameter.shape if axes else None, parameter.dtype, parameter.device)
            members.setdefault(key, []).append(parameter)
        self.buckets.append([Bucket(parameters, key[0]) for key, parameters in members.items()])
        self.rates.append(torch.zeros((), dtype=torch.float64, device=self.param_groups[-1]["params"][0].device))

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
            bucket.count = max(int(state["step"]) for state in saved.values())
            bucket.step.fill_(bucket.count)
            for index, state in saved.items():
                views = self.state[bucket.members[index]]
                if state.keys() != views.keys():
                    raise ValueError(f"the saved state rotates other axes than longest_axis={self.longest_axis}: it has {', '.join(state)}")
                for name in views.keys() - {"step"}:
                    views[name].copy_(state[name])

    def step(self, closure=None) -> None:
        plan = self.plan()
        self.take_rates()
        self.work(plan)
        self.count(plan)

    def plan(self) -> tuple[str, ...]:
        """What the next step does with each bucket: "first", "plain", "covariance", "basis", "covariance basis", or "" without gradients."""
        return tuple(self.part_of(bucket) for bucket in self.all_buckets())

    def part_of(self, bucket: Bucket) -> str:
        if all(member.grad is None for member in bucket.members):
            return ""
        if bucket.count == 0:
            return "first"
        every = {"covariance": self.covariance_every, "basis": self.basis_every}
        return " ".join(name for name, steps in every.items() if (bucket.count + 1) % steps == 0) or "plain"

    @staticmethod
    def recordable(plan: tuple[str, ...]) -> bool:
        """Whether the work of a step is the same launches on the same memory each time: no allocated state and no decompositions."""
        return not any(part == "first" or "basis" in part for part in plan)

    def take_rates(self) -> None:
        """Writes the learning rates of the groups to their devices, where the work reads them."""
        for rate, group in zip(self.rates, self.param_groups, strict=True):
            rate.fill_(group["lr"])

    def count(self, plan: tuple[str, ...]) -> None:
        """Counts a step whose work is done, or replayed."""
        for bucket, part in zip(self.all_buckets(), plan, strict=True):
            bucket.count += part != ""

    @torch.no_grad()
    def work(self, plan: tuple[str, ...]) -> None:
        """All of a step that is done on the devices. It depends on the plan and on nothing else that the host knows."""
        parts = iter(plan)
        for group, buckets, rate in zip(self.param_groups, self.buckets, self.rates, strict=True):
            planned = [(bucket, part) for bucket, part in zip(buckets, parts) if part]
            if planned:
                with coarse_products(rate.device):
                    self.update(planned, group, rate)

    def update(self, planned: list[tuple[Bucket, str]], group: dict, rate: Tensor) -> None:
        buckets, (beta1, beta2) = [bucket for bucket, _ in planned], group["betas"]
        gradients = [bucket.gradient() for bucket in buckets]
        for (bucket, part), gradient in zip(planned, gradients, strict=True):
            if part == "first":
                self.begin(bucket)
            if part == "first" or "covariance" in part:
                weight = 1.0 if part == "first" else (1 - beta2) * self.covariance_every
                for axis, covariance in bucket.covariances.items():
                    rows = gradient.movedim(axis + 1, 1).flatten(2)
                    covariance.baddbmm_(rows, rows.mT, beta=1 - weight, alpha=weight)
        start([bucket for bucket, part in planned if part == "first"])
        turn([bucket for bucket, part in planned if "basis" in part])
        steps = [bucket.step for bucket in buckets]
        torch._foreach_add_(steps, 1)
        # In float64 as the host would: the powers of early steps are close to one.
        number = torch.stack(steps).double()
        scales = ((1 - beta2**number).sqrt() / (1 - beta1**number) * rate).float().unbind()
        # One launch for all buckets of the group where their shapes do not matter.
        means, squares = [bucket.mean for bucket in buckets], [bucket.square for bucket in buckets]
        rotated = [rotate(gradient, bucket.bases) for gradient, bucket in zip(gradients, buckets, strict=True)]
        torch._foreach_lerp_(means, rotated, 1 - beta1)
        torch._foreach_lerp_(squares, torch._foreach_mul(rotated, rotated), 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        for bucket, change, scale in zip(buckets, torch._foreach_div(means, roots), scales, strict=True):
            bucket.move(rotate(change.mul_(scale), bucket.bases, back=True))


def by_side(buckets: list[Bucket]) -> Iterator[tuple[list[tuple[Bucket, int]], Tensor]]:
    """Buckets and axes of equal length together, with their covariances one after the other `(n, side, side)`."""
    same: dict[tuple, list[tuple[Bucket, int]]] = {}
    for bucket in buckets:
        for axis, covariance in bucket.covariances.items():
            same.setdefault((covariance.shape[-1], covariance.device), []).append((bucket, axis))
    for places in same.values():
        yield places, torch.cat([bucket.covariances[axis] for bucket, axis in places])


def start(buckets: list[Bucket]) -> None:
    """Sets the first bases from the first covariances."""
    for places, covariance in by_side(buckets):
        # Eigensolvers of GPUs take the matrices one after the other, which for hundreds of them is half a minute.
        fresh = iterated_basis(covariance) if covariance.is_cuda else eigenbasis(covariance)
        for (bucket, axis), basis in zip(places, fresh.split([len(bucket.members) for bucket, _ in places]), strict=True):
            bucket.bases[axis].copy_(basis)


def eigenbasis(covariance: Tensor) -> Tensor:
    """Eigenvectors of each matrix as columns, the largest eigenvalue first. In float64: a first gradient has low rank, and
    eigensolvers give up on many equal eigenvalues in float32."""
    trace = covariance.double().diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    ridge = torch.linspace(1e-9, 2e-9, covariance.shape[-1], dtype=torch.float64, device=covariance.device).diag()
    matrix = covariance.double() / trace.clamp_min(1e-30) + ridge
    return torch.linalg.eigh(matrix)[1].flip(-1).to(covariance).contiguous()


def iterated_basis(covariance: Tensor, rounds: int = FIRST_ROUNDS) -> Tensor:
    """Orthonormal columns near the eigenvectors of each matrix `(n, side, side)`, found by products and Cholesky decompositions alone."""
    exact = covariance.double()
    basis = torch.eye(covariance.shape[-1], dtype=exact.dtype, device=exact.device).repeat(len(exact), 1, 1)
    for _ in range(rounds):
        basis = power_iteration(exact, basis)[0]
    return basis.to(covariance)


def power_iteration(covariance: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """Bases after one product with the covariances, in float64, and which column `(n, side)` of the old ones each column comes from.

    The columns come in the order of their spread, the largest first. Bases of matrices that fail stay as they are.
    """
    product = covariance @ old
    order, spread = spread_order(old, product)
    # A little of the old basis gives a direction to the columns of channels whose gradient is always zero.
    ridge = 1e-10 * spread.abs().amax(1)[:, None, None] + 1e-30
    fresh, sound = orthonormal(in_order(product + ridge * old, order))
    return torch.where(sound[:, None, None], fresh, old), torch.where(sound[:, None], order, torch.arange(order.shape[1], device=order.device))


def spread_order(old: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """Order of the columns by their spread, and the spread: both `(n, side)`."""
    spread = (old * product).sum(1)
    return spread.argsort(dim=1, descending=True), spread


def in_order(columns: Tensor, order: Tensor) -> Tensor:
    return columns.gather(2, order[:, None, :].expand_as(columns))


def turn(buckets: list[Bucket]) -> None:
    """Brings the bases up to date with the covariances; the moments follow them."""
    for places, covariance in by_side(buckets):
        before = torch.cat([bucket.bases[axis] for bucket, axis in places])
        if before.is_cuda:
            # Products on a GPU may keep ten bits of mantissa (TF32), in which eigenvectors of small eigenvalues would drown.
            old = before.double()
            fresh, order = power_iteration(covariance.double(), old)
        else:
            old, product = before, covariance @ before
            order, _ = spread_order(old, product)
            fresh = torch.linalg.qr(in_order(product, order))[0]
        numbers = [len(bucket.members) for bucket, _ in places]
        changes = (fresh.mT @ old).to(before)
        for (bucket, axis), basis, change, its_order in zip(places, fresh.split(numbers), changes.split(numbers), order.split(numbers), strict=True):
            square, mean = (moment.movedim(axis + 1, 1) for moment in (bucket.square, bucket.mean))
            square.copy_(square[torch.arange(len(square), device=square.device)[:, None], its_order])
            mean.copy_((change @ mean.flatten(2)).view(mean.shape))
            bucket.bases[axis].copy_(basis)


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
