"""What an algorithm is made from, and what it offers. One algorithm trains one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch
from iwbc.policies.policy import Policy


@dataclass(frozen=True)
class Ingredients:
    """`policy` is what is trained, and starts as the reference does where there is one; `curated` is the data; `seed` is for
    random numbers beyond those of the minibatches."""

    policy: Policy
    reference: Policy | None
    curated: Curated
    seed: int
    device: str | torch.device = "cpu"


class Algorithm(Protocol):
    """Made as `Name(settings, ingredients)`. One that weighs the steps that it clones also has `weigh(batch)`, the weights
    [B] of a minibatch as they are by now."""

    policy: Policy
    by_autograd: bool  # whether an update needs gradients to be recorded

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        """Gradient step `step` (from 0); the loss, a scalar."""

    def metrics(self) -> dict[str, Tensor]:
        """Diagnostics of its own, scalars, of the same names each time."""

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes: with the step, enough to continue bit for bit."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
