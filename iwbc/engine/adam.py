"""Adam (Kingma & Ba 2015) as one fused operation, without the bookkeeping of torch.optim.Adam, which costs as much again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@lru_cache
def has_fused_operation() -> bool:
    """Check that PyTorch's operation behind torch.optim.Adam(fused=True), which is private, accepts our arguments."""
    try:
        number = torch.zeros(1)
        _fused([number], [number.clone()], [number.clone()], [number.clone()], number[0].clone(), 0.0)
    except (AttributeError, TypeError, RuntimeError):
        return False
    return True


def _fused(
    values: list[Tensor], gradient: list[Tensor], first: list[Tensor], second: list[Tensor], steps: Tensor, rate: float
) -> None:
    torch._fused_adam_(
        values,
        gradient,
        first,
        second,
        [],
        [steps] * len(values),
        lr=rate,
        beta1=_BETAS[0],
        beta2=_BETAS[1],
        weight_decay=0.0,
        eps=_EPSILON,
        amsgrad=False,
        maximize=True,
    )


class Adam:
    """Optimiser that holds the moments of parameters and changes the parameters in place."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._values = list(parameters)
        self.first_moments = [torch.zeros_like(value) for value in parameters]
        self.second_moments = [torch.zeros_like(value) for value in parameters]
        self.steps = torch.zeros((), device=parameters[0].device)

    def step(self, gradient: list[Tensor], learning_rate: float) -> None:
        """Take one step up a gradient, a tensor for each parameter, in the parameters' order."""
        self.steps += 1.0
        if has_fused_operation():
            _fused(self._values, gradient, self.first_moments, self.second_moments, self.steps, learning_rate)
        else:
            self._plain(gradient, learning_rate)

    def _plain(self, gradient: list[Tensor], learning_rate: float) -> None:
        """Take the step by public operations."""
        # 1 − βᵗ; in float32 the difference itself would lose half of its digits at first.
        seen = [-torch.expm1(self.steps * math.log(beta)) for beta in _BETAS]
        for value, slope, first, second in zip(self._values, gradient, self.first_moments, self.second_moments, strict=True):
            first.lerp_(slope, 1.0 - _BETAS[0])
            second.lerp_(slope.square(), 1.0 - _BETAS[1])
            corrected = second / seen[1]
            value += learning_rate / seen[0] * first / (corrected.sqrt() + _EPSILON)
