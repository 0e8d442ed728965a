"""A function of tensors as a CUDA graph: one launch in place of one for each of its small operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Calls before a capture, in which libraries set themselves up; PyTorch asks for a few.
_WARM_UP = 3


def captured(function: Callable[..., Tensor], changes: Sequence[Tensor]) -> Callable[..., Tensor]:
    """The function as it is best called on the device of the tensors that it changes: itself, or captured as a CUDA graph.

    It takes tensors of shapes that stay the same, and numbers, and may read and change, in place, other tensors that stay
    where they are; those it changes are in `changes`.
    """
    return _Captured(function, changes) if _has_graphs(changes[0].device) else function


def _has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


class _Captured:
    """A function as a CUDA graph. (PyTorch's notes on CUDA graphs say why it warms up, and on another stream.)"""

    def __init__(self, function: Callable[..., Tensor], changes: Sequence[Tensor]) -> None:
        self._function, self._changes = function, changes
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor | float) -> Tensor:
        if self._graph is None:
            self._capture(inputs)
            assert self._graph is not None
        for own, given in zip(self._inputs, inputs, strict=True):
            if isinstance(given, Tensor):
                own.copy_(given)
            else:
                own.fill_(given)
        self._graph.replay()
        return self._output.clone()  # the next replay overwrites it

    def _capture(self, inputs: Sequence[Tensor | float]) -> None:
        device = self._changes[0].device
        self._inputs = [torch.as_tensor(one, device=device).clone() for one in inputs]
        before = [tensor.clone() for tensor in self._changes]
        aside = torch.cuda.Stream(device)
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._function(*self._inputs)
        torch.cuda.current_stream(device).wait_stream(aside)
        for tensor, value in zip(self._changes, before, strict=True):
            tensor.copy_(value)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = self._function(*self._inputs)
