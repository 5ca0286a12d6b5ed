"""Parts of a training step, its forward and backward pass above all, recorded once as CUDA graphs and replayed.

One step launches thousands of small kernels (the prior's thirteen levels above all); launched one by one from Python they
leave an accelerator idle most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Outputs = TypeVar("Outputs")
TRIAL_CALLS = 4
"""Calls before the recording: libraries choose their algorithms and compilers compile."""


class Recorded(Generic[Outputs]):
    """A function of tensors of constant shapes, or of none, whose work is replayed after `trials` calls.

    The function must not make the host wait, and numbers that it computes on the host stay those of the recording. If it
    leaves gradients in parameters, it must begin without: each replay writes anew those that the recording left there.
    Other tensors that it keeps must be changed in place. Its outputs (a dict of tensors, or None) are overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Outputs], trials: int = TRIAL_CALLS) -> None:
        self.function, self.trials, self.calls = function, trials, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    @property
    def recorded(self) -> bool:
        """Whether the last call was a replay, as all later ones will be."""
        return self.graph is not None

    def __call__(self, *inputs: Tensor) -> Outputs:
        if self.graph is None and self.calls < self.trials:
            self.calls += 1
            # Recording happens on a stream of its own, so trials do, too.
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                outputs = self.function(*inputs)
            current.wait_stream(stream)
            return outputs
        if self.graph is None:
            self.inputs = [value.clone() for value in inputs]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.outputs = self.function(*self.inputs)
            self.graph = graph
        for recorded, value in zip(self.inputs, inputs, strict=True):
            recorded.copy_(value)
        self.graph.replay()
        return self.outputs
