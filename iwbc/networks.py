"""S independent networks: every parameter of all of them lies in one flat buffer, seeds are rows.

Gradients are written out instead of left to autograd, whose bookkeeping cost a fifth of a gradient step of networks this
small; the tests hold them to autograd's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iwbc import processor


@dataclass(frozen=True)
class Shape:
    """A named parameter of each network: its shape and how it starts, U(−bound, bound) (a constant 0 for bound 0)."""

    name: str
    shape: tuple[int, ...]
    bound: float = 0.0


def mlp_shapes(sizes: Sequence[int]) -> list[Shape]:
    """Weights and biases of a multi-layer perceptron with layer sizes `sizes`, initialised as torch.nn.Linear does."""
    shapes = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        bound = 1.0 / math.sqrt(inputs)
        shapes.append(Shape(f"weight{i}", (inputs, outputs), bound))
        shapes.append(Shape(f"bias{i}", (1, outputs), bound))
    return shapes


class Parameters:
    """The parameters of S networks: `flat` [S, P], and views of it.

    `blocks` has the views that products are made with. Batched, which is best for an accelerator, it is one dictionary
    for all networks, [S, *shape] by name; otherwise, best for a processor, one for each network, of `shape`.
    """

    def __init__(
        self, shapes: Sequence[Shape], seeds: int, device: str | torch.device = "cpu", batched: bool | None = None
    ) -> None:
        self.shapes = tuple(shapes)
        self.flat = torch.zeros(seeds, sum(math.prod(shape.shape) for shape in shapes), device=device)
        self.batched = self.flat.device.type != "cpu" if batched is None else batched
        self.blocks = [self.named()] if self.batched else self._by_network(self.flat)

    def named(self) -> dict[str, Tensor]:
        """Every parameter by name, [S, *shape]."""
        return self._views(self.flat)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        views, start = {}, 0
        for shape in self.shapes:
            size = math.prod(shape.shape)
            views[shape.name] = flat[:, start : start + size].view(-1, *shape.shape)
            start += size
        return views

    def _by_network(self, flat: Tensor) -> list[dict[str, Tensor]]:
        return [{name: view[row] for name, view in self._views(flat).items()} for row in range(len(flat))]

    def parts(self, flat: Tensor) -> list[Tensor]:
        """A buffer like `flat` as the contiguous parts that an optimiser works on: of each network each parameter, or all."""
        return [flat] if self.batched else [part for network in self._by_network(flat) for part in network.values()]

    def gradient(self, blocks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Gradients by block and shape, in the form of `parts`."""
        if self.batched:
            return [torch.cat([part.flatten(1) for part in blocks[0]], dim=1)]
        return [part for block in blocks for part in block]

    def initialise(self, seed_row: int, generator: torch.Generator) -> None:
        """Draw one network's starting values."""
        for shape, view in zip(self.shapes, self.named().values(), strict=True):
            start = (torch.rand(shape.shape, generator=generator) * 2.0 - 1.0) * shape.bound
            view[seed_row].copy_(start)


# From a vector [S, B, out] to the gradients of Σ vector · output, by block and shape.
Pullback = Callable[[Tensor], list[list[Tensor]]]


def mlp(parameters: Parameters, inputs: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Pullback]:
    """ReLU multi-layer perceptrons, [S, B, in] → [S, B, out], and how to take a gradient back through them.

    Products are made in `dtype`, all else in float32.
    """
    networks = [_layers(block, dtype) for block in parameters.blocks]
    activations = [_forward(*one) for one in zip(networks, _by_block(parameters, _in(dtype, inputs)), strict=True)]
    outputs = [_in(torch.float32, one.pop()) for one in activations]

    def pullback(vector: Tensor) -> list[list[Tensor]]:
        deltas = _by_block(parameters, _in(dtype, vector))
        return [_backward(*one) for one in zip(networks, activations, deltas, strict=True)]

    return outputs[0] if parameters.batched else _stacked(outputs), pullback


def _by_block(parameters: Parameters, batch: Tensor) -> Sequence[Tensor]:
    return [batch] if parameters.batched else batch.unbind()


def _stacked(networks: list[Tensor]) -> Tensor:
    """As torch.stack, without a copy where there is one network."""
    return networks[0][None] if len(networks) == 1 else torch.stack(networks)


def _in(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    """As tensor.to(dtype), without the cost of asking."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _layers(block: dict[str, Tensor], dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of every layer."""
    layers = sum(name.startswith("weight") for name in block)
    return [(_in(dtype, block[f"weight{i}"]), _in(dtype, block[f"bias{i}"])) for i in range(layers)]


def _forward(layers: Sequence[tuple[Tensor, Tensor]], inputs: Tensor) -> list[Tensor]:
    """What every layer is given, and the output."""
    activations = [inputs]
    for i, (weight, bias) in enumerate(layers, start=1):
        activations.append(processor.affine(activations[-1], weight, bias, relu=i < len(layers)))
    return activations


def _backward(layers: Sequence[tuple[Tensor, Tensor]], activations: Sequence[Tensor], delta: Tensor) -> list[Tensor]:
    """The gradients by weight0, bias0, weight1, …; `delta` is that by the output."""
    found: list[Tensor] = []
    for i in reversed(range(len(layers))):
        for part in (delta.sum(-2, keepdim=True), processor.product(activations[i], delta, transposed="left")):
            found.append(_in(torch.float32, part))
        if i > 0:
            by_activation = processor.product(delta, layers[i][0], transposed="right")
            delta = torch.ops.aten.threshold_backward.default(by_activation, activations[i], 0)
    return found[::-1]


class Adam:
    """Adam on all networks at once (Kingma & Ba 2015), as one fused operation."""

    def __init__(self, parameters: Parameters) -> None:
        self._first_moment, self._second_moment = torch.zeros_like(parameters.flat), torch.zeros_like(parameters.flat)
        self._steps = torch.zeros((), device=parameters.flat.device)
        self._parts = [parameters.parts(flat) for flat in (parameters.flat, self._first_moment, self._second_moment)]

    def ascend(self, gradient: list[Tensor], learning_rate: float | Tensor) -> None:
        """One step up a gradient, which comes as `Parameters.parts`."""
        values, first_moments, second_moments = self._parts
        self._steps += 1.0
        # What torch.optim.Adam(fused=True) calls; its bookkeeping costs as much as the operation itself.
        torch._fused_adam_(
            values,
            gradient,
            first_moments,
            second_moments,
            [],
            [self._steps] * len(values),
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=True,
        )

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors."""
        return {"adam_exp_avg": self._first_moment, "adam_exp_avg_sq": self._second_moment, "adam_step": self._steps}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        for name, own in self.state().items():
            own.copy_(state[name])
