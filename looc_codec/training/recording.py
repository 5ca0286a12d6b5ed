"""A training step's forward and backward pass, recorded once as a CUDA graph and replayed.

One step launches thousands of small kernels (the prior's thirteen levels above all); launched one by one from Python they
leave an accelerator idle most of the time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TRIAL_CALLS = 4
"""Calls before the recording: libraries choose their algorithms and compilers compile."""


class Recorded:
    """A function of tensors of constant shapes whose work is replayed from the fifth call on.

    The function must not make the host wait, and it must begin without gradients: those that the recording leaves in the
    parameters are written anew by each replay. Its outputs `(dict of tensors)` are overwritten by the next call.
    """

    def __init__(self, function: Callable[..., dict[str, Tensor]]) -> None:
        self.function, self.calls = function, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        if self.graph is None and self.calls < TRIAL_CALLS:
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
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = self.function(*self.inputs)
        for recorded, value in zip(self.inputs, inputs, strict=True):
            recorded.copy_(value)
        self.graph.replay()
        return self.outputs
