"""The critic of AWR: V of the policy that recorded the data, fitted to TD(λ) returns.

    V ← argmin_V E_D[(G_t^λ − V(s_t))²]

Every so many steps the targets G^λ are computed again for all steps with V as it then is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iwbc import engine
from iwbc.algorithms.values import Returns, value_network
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch
from iwbc.data.streams import Stream, seeded
from iwbc.settings import Critic


class FittedValue:
    """State: V, the optimiser, and the target of every step."""

    policy: Any  # V: the training loop watches and hands back the parameters of what has this name

    def __init__(self, settings: Critic, curated: Curated, seed: int, device: str | torch.device = "cpu") -> None:
        self.settings, self._device = settings, device
        with seeded(Stream.VALUE, seed):
            self.policy = value_network(curated.trajectories, settings.hidden).to(device)
        self.optimizer = engine.value_optimizer(self.policy)
        self.by_autograd = self.optimizer.by_autograd
        self.returns = Returns(curated, settings.gamma, settings.lam, device)
        self.targets = torch.zeros(curated.steps, device=device)

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        """Make a gradient step of V down the mean of (G^λ − V)² and return that mean."""
        if step % self.settings.refresh_every == 0:
            self.targets, _ = self.returns.of(self.policy)
        targets = self.targets[batch.step]
        inputs = self.returns.units.observations(batch.observations)
        values = self.optimizer.step(inputs, targets, learning_rate)
        return (targets - values).square().mean()

    def metrics(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {**self.optimizer.state("value."), "targets": self.targets}

    def load(self, state: dict[str, Tensor]) -> None:
        self.optimizer.load(state, "value.")
        self.targets = state["targets"].to(self._device, copy=True)
