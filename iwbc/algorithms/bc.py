"""Behaviour cloning, and all that differs from it by the minibatches alone.

    max_θ  E_{D+}[log π_θ(a|s)]

The curation weight R_i of a trajectory is the probability with which the sampler draws it, so the same update is BC
(R = 1), filtered BC (R = 1[G ≥ c], the paper's SFT), SFT(Q) (R = Σ_c 1[G ≥ c]) and return-weighted BC (R ∝ exp(G/β)).
"""

from __future__ import annotations

import torch
from torch import Tensor

from iwbc import engine
from iwbc.algorithms.algorithm import Ingredients
from iwbc.data.sampling import Minibatch
from iwbc.settings import Recipe


class BehaviourCloning:
    """State: the policy and its optimiser."""

    def __init__(self, settings: Recipe, ingredients: Ingredients) -> None:
        self.policy = ingredients.policy
        self.optimizer = engine.policy_optimizer(ingredients.policy)
        self.by_autograd = self.optimizer.by_autograd

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        """Set θ ← θ + η ∇_θ (1/B) Σ_b log π_θ(a_b|s_b) and return the loss."""
        equal = torch.ones_like(batch.step, dtype=torch.float32)
        log_prob = self.optimizer.step(batch.observations, batch.actions, equal, learning_rate)
        return -log_prob.mean()

    def metrics(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return self.optimizer.state()

    def load(self, state: dict[str, Tensor]) -> None:
        self.optimizer.load(state)
