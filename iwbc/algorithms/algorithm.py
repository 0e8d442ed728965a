"""Ingredients of an algorithm, and the protocol that it fulfils. One algorithm trains one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch
from iwbc.policies.policy import Policy


@dataclass(frozen=True)
class Ingredients:
    """Arguments of an algorithm. `policy` is trained, and starts as the reference does where there is one; `curated` is the
    data; `seed` is for random numbers beyond those of the minibatches; `critic` is V(s), fitted beforehand, where the settings
    have a `critic`."""

    policy: Policy
    reference: Policy | None
    curated: Curated
    seed: int
    device: str | torch.device = "cpu"
    critic: nn.Sequential | None = None


class Algorithm(Protocol):
    """One seed in training, made as `Name(settings, ingredients)`. An algorithm that weighs the steps that it clones also has
    `weigh(batch)`, the current weights [B] of a minibatch."""

    policy: Policy
    by_autograd: bool  # true if an update needs gradients to be recorded: else it is made in inference mode

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        """Make gradient step `step` (from 0) and return the loss, a scalar."""

    def metrics(self) -> dict[str, Tensor]:
        """Return diagnostics, scalars, of the same names each time."""

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that training changes: with the step, enough to continue bit for bit."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
