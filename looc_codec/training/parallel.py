"""Data-parallel training under torchrun: one process per device, gradients averaged after each backward pass.

The training step calls the parts of the model one by one and in the first phase only some of them, which does not fit
DistributedDataParallel's single forward; models of a few million weights need no overlap of the two either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process among those of the run; a run without torchrun is process 0 of 1, and nothing is ever sent."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replaces float tensors by their mean over all processes, in one message."""
        tensors = list(tensors)
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) / self.count
        distributed.all_reduce(flat)
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Gives every process the tensors of the first."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def share_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of the first process, whatever this one has (tensors on the CPU)."""
        if self.count == 1:
            return state
        box = [{name: value.cpu() for name, value in state.items()} if self.first else None]
        distributed.broadcast_object_list(box, 0)
        return box[0]

    def agree(self, value: float, device: str) -> float:
        """The mean of a number over all processes, the same to the last bit in each."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(tensor)
        return float(tensor) / self.count


def under_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def join(device: str) -> tuple[Processes, str]:
    """Joins the run that torchrun started, if it did; returns the processes and this one's own device."""
    if not under_torchrun():
        return Processes(), device
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Processes(distributed.get_rank(), distributed.get_world_size()), device


def leave() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def end_process() -> None:
    """Ends a process that torchrun started, with success; does nothing in any other.

    Threads of gloo may still drop their last tensors while the interpreter shuts down, which aborts it once in a while
    (PyTorch pull request 179291): everything is written by then, so there is no shutdown.
    """
    if under_torchrun():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
