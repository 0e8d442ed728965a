"""Matrix products as the processor wants them (oneDNN's on AMD), perceptrons made of them, and freed memory kept.

PyTorch takes MKL for float32 on x86, which uses half of the vector width of AMD's; the same build carries oneDNN, which
does not. The choice depends on the processor alone, so that results on one machine stay bit-identical.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@lru_cache
def prefers_onednn() -> bool:
    """Tell whether this processor is AMD's and this PyTorch has a working operator of oneDNN."""
    has_operator = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return bool(has_operator) and "AMD" in _processor() and _works()


def _works() -> bool:
    """Check that the operator, which is private, accepts our arguments and is correct."""
    left, right = torch.arange(6.0).view(3, 2), torch.arange(4.0).view(2, 2)
    try:
        return torch.allclose(_linear(left, right, right[0], "relu"), (left @ right.t() + right[0]).relu())
    except (AttributeError, TypeError, RuntimeError):
        return False


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.read_text()[:2000] if cpuinfo.exists() else platform.processor()


@lru_cache
def _onednn() -> Any:
    return torch.ops.mkldnn._linear_pointwise.default


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Compute activation(inputs · weightᵀ + bias) by oneDNN, [B, in] and [out, in] → [B, out]."""
    output: Tensor = _onednn()(inputs, weight, bias, activation, [], "")
    return output


def affine(inputs: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """Compute inputs · weightᵀ + bias, then max(·, 0) if `relu`: [B, in], [out, in], [out] → [B, out]."""
    if _by_onednn(inputs):
        return _linear(inputs, weight, bias, "relu" if relu else "none")
    output = torch.addmm(bias, inputs, weight.t())
    return output.relu_() if relu else output


def product(left: Tensor, right: Tensor) -> Tensor:
    """Compute left · right: [B, out], [out, in] → [B, in]."""
    return _linear(left, right.t()) if _by_onednn(left) else left @ right


def outer(left: Tensor, right: Tensor) -> Tensor:
    """Compute leftᵀ · right, contiguous: [B, out], [B, in] → [out, in]."""
    if not _by_onednn(left):
        return left.t() @ right
    # oneDNN copies a left factor that is transposed, so the smaller factor goes left.
    if right.shape[1] < left.shape[1]:
        return _linear(right.t(), left.t()).t().contiguous()
    return _linear(left.t(), right.t())


def _by_onednn(factor: Tensor) -> bool:
    # A single row, as when a policy acts, is over before oneDNN starts.
    is_matrix = factor.is_cpu and factor.dtype == torch.float32 and factor.dim() == 2 and factor.shape[0] > 1
    return is_matrix and prefers_onednn()


def layers_of(network: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """Return weight and bias of each layer of a ReLU multi-layer perceptron; they share the network's memory."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach(), layer.bias.detach()) for layer in layers]


def perceptron(layers: list[tuple[Tensor, Tensor]], inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
    """Evaluate a ReLU multi-layer perceptron, [B, in] → [B, out], and return the output with the vector-Jacobian product from a
    gradient by the output to gradients by weight0, bias0, weight1, …"""
    activations = [inputs]  # the input of every layer, and the output
    for i, (weight, bias) in enumerate(layers, start=1):
        activations.append(affine(activations[-1], weight, bias, relu=i < len(layers)))

    def vjp(by_output: Tensor) -> list[Tensor]:
        delta = by_output
        gradients: list[Tensor] = []
        for i in reversed(range(len(layers))):
            gradients += (delta.sum(-2), outer(delta, activations[i]))
            if i > 0:
                by_activation = product(delta, layers[i][0])
                delta = torch.ops.aten.threshold_backward.default(by_activation, activations[i], 0)
        return gradients[::-1]

    return activations[-1], vjp


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next gradient step, which needs the same again.

    By default it hands blocks of the size of an activation back to the system at once, and every step pays for the page
    faults of getting them again. Does nothing with another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, 256 * 2**20)
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
