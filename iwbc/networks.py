"""S independent networks as one batch: every parameter of all of them lies in one flat buffer.

Seeds are rows, so one batched matrix product serves all seeds, and an optimiser or an average over parameters is one
operation on one tensor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from iwbc import processor


@dataclass(frozen=True)
class Shape:
    """A named parameter of each network: its shape and how it starts, U(−bound, bound) (a constant 0 for bound 0)."""

    name: str
    shape: tuple[int, ...]
    bound: float = 0.0


def mlp_shapes(sizes: Sequence[int], prefix: str = "") -> list[Shape]:
    """Weights and biases of a multi-layer perceptron with layer sizes `sizes`, initialised as torch.nn.Linear does."""
    shapes = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        bound = 1.0 / math.sqrt(inputs)
        shapes.append(Shape(f"{prefix}weight{i}", (inputs, outputs), bound))
        shapes.append(Shape(f"{prefix}bias{i}", (1, outputs), bound))
    return shapes


class Parameters:
    """The parameters of S networks: `flat` [S, P], and by name as views of it [S, *shape]. `gradient` lies alike."""

    def __init__(self, shapes: Sequence[Shape], seeds: int, device: str | torch.device = "cpu") -> None:
        self.shapes = tuple(shapes)
        size = sum(math.prod(shape.shape) for shape in shapes)
        self.flat = torch.zeros(seeds, size, device=device)
        self.gradient = torch.zeros_like(self.flat)
        self._leaves = {
            shape.name: view.detach().requires_grad_() for shape, view in zip(shapes, self._views(self.flat), strict=True)
        }
        self._gradients = self._views(self.gradient)

    def _views(self, flat: Tensor) -> list[Tensor]:
        views, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape.shape)
            views.append(flat[:, start : start + size].view(-1, *shape.shape))
            start += size
        return views

    def __getitem__(self, name: str) -> Tensor:
        return self._leaves[name]

    def differentiate(self, losses: Tensor) -> None:
        """Put the gradient of each network's own loss into `gradient`; `losses` is [S]."""
        # Not backward(): accumulating into views of a flat buffer is against autograd's layout contract.
        found = torch.autograd.grad(losses.sum(), list(self._leaves.values()))
        torch._foreach_copy_(self._gradients, list(found))

    def initialise(self, seed_row: int, generator: torch.Generator) -> None:
        """Draw one network's starting values."""
        for shape, view in zip(self.shapes, self._views(self.flat), strict=True):
            start = (torch.rand(shape.shape, generator=generator) * 2.0 - 1.0) * shape.bound
            view[seed_row].copy_(start)

    def named(self) -> dict[str, Tensor]:
        """Every parameter by name, [S, *shape], without gradient."""
        return {shape.name: view for shape, view in zip(self.shapes, self._views(self.flat), strict=True)}


def mlp(parameters: Parameters, inputs: Tensor, prefix: str = "", bfloat16: bool = False) -> Tensor:
    """ReLU multi-layer perceptrons, [S, B, in] → [S, B, out]; with products in bfloat16 where asked for."""
    layers = sum(shape.name.startswith(f"{prefix}weight") for shape in parameters.shapes)
    if bfloat16:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return _perceptrons(parameters, inputs, prefix, layers).float()
    if inputs.device.type == "cpu" and processor.prefers_onednn():
        names = [f"{prefix}{kind}{i}" for i in range(layers) for kind in ("weight", "bias")]
        return processor.ReluPerceptrons.apply(inputs, *(parameters[name] for name in names))
    return _perceptrons(parameters, inputs, prefix, layers)


def _perceptrons(parameters: Parameters, inputs: Tensor, prefix: str, layers: int) -> Tensor:
    hidden = inputs
    for i in range(layers):
        hidden = torch.baddbmm(parameters[f"{prefix}bias{i}"], hidden, parameters[f"{prefix}weight{i}"])
        if i < layers - 1:
            hidden = hidden.relu()
    return hidden


class Adam:
    """Adam on all networks at once (Kingma & Ba 2015), as one fused operation on the flat buffer."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self._first_moment, self._second_moment = torch.zeros_like(parameters.flat), torch.zeros_like(parameters.flat)
        self._steps = torch.zeros((), device=parameters.flat.device)

    def minimise(self, losses: Tensor, learning_rate: float) -> None:
        """One step down the gradient of each network's own loss; `losses` is [S]."""
        self.parameters.differentiate(losses)
        # torch.optim.Adam without its hooks and bookkeeping, which cost as much as the operation itself.
        adam(
            [self.parameters.flat],
            [self.parameters.gradient],
            [self._first_moment],
            [self._second_moment],
            [],
            [self._steps],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors."""
        return {"adam_exp_avg": self._first_moment, "adam_exp_avg_sq": self._second_moment, "adam_step": self._steps}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        for name, own in self.state().items():
            own.copy_(state[name])
