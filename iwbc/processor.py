"""What the processor and its C library want: oneDNN's matrix products on AMD, and freed memory kept.

PyTorch takes MKL for float32 on x86, which uses half of the vector width there; the same build carries oneDNN, which does
not. The choice depends on the processor alone, so that results on one machine stay bit-identical. One network at a time:
the products are then those of a single network, and seeds in a batch equal single runs.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@lru_cache
def prefers_onednn() -> bool:
    """Whether this processor is an AMD one and this PyTorch has the operator."""
    has_operator = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return bool(has_operator) and "AMD" in _processor()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text()[:2000] if cpuinfo.exists() else platform.processor()


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """activation(inputs · weightᵀ + bias), [B, in] and [out, in] → [B, out]."""
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], "")


def _stacked(networks: list[Tensor]) -> Tensor:
    """As torch.stack, without a copy where there is one network."""
    return networks[0][None] if len(networks) == 1 else torch.stack(networks)


class ReluPerceptrons(torch.autograd.Function):
    """S ReLU perceptrons with weights [S, in, out] and biases [S, 1, out]: [S, B, in] → [S, B, out]."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *parameters: Tensor) -> Tensor:
        assert not inputs.requires_grad  # no use for it, so backward gives none
        weights, biases = parameters[::2], parameters[1::2]
        last = len(weights) - 1
        activations: list[Tensor] = []
        outputs = []
        for s in range(inputs.shape[0]):
            hidden = inputs[s]
            for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                activations.append(hidden)
                hidden = _linear(hidden, weight[s].t(), bias[s, 0], "none" if i == last else "relu")
            outputs.append(hidden)
        ctx.save_for_backward(*weights, *activations)
        return _stacked(outputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        layers = (len(ctx.needs_input_grad) - 1) // 2
        weights: Sequence[Tensor] = ctx.saved_tensors[:layers]
        activations: Sequence[Tensor] = ctx.saved_tensors[layers:]
        found: list[list[Tensor]] = [[] for _ in range(2 * layers)]  # by parameter, then by network
        for s in range(len(gradient)):
            delta = gradient[s]  # of the loss with respect to the layer's output before its ReLU
            for i in reversed(range(layers)):
                inputs = activations[s * layers + i]
                found[2 * i].append(_linear(inputs.t(), delta.t()))
                found[2 * i + 1].append(delta.sum(0, keepdim=True))
                if i > 0:
                    delta = torch.ops.aten.threshold_backward(_linear(delta, weights[i][s]), inputs, 0)
        return None, *(_stacked(networks) for networks in found)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next gradient step, which needs the same again.

    By default it hands blocks of the size of an activation back to the system at once, and every step pays for the page
    faults of getting them again. Does nothing with another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, 256 * 2**20)
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
