"""Behaviour cloning, and all that differs from it by the minibatches alone.

    max_θ  E_{D+}[log π_θ(a|s)]

The curation weight R_i of a trajectory is the probability with which the sampler draws it, so the same update is BC
(R = 1), filtered BC (R = 1[G ≥ c], the paper's SFT), SFT(Q) (R = Σ_c 1[G ≥ c]) and return-weighted BC (R ∝ exp(G/β)).
"""

from __future__ import annotations

import torch
from torch import Tensor

from iwbc.data.sampling import Minibatch
from iwbc.likelihood import WeightedLikelihood
from iwbc.policies import Policy


class BehaviourCloning:
    """State: the policy and its optimiser."""

    kappa = 1.0  # only scales the log ratio in the reported bounds

    def __init__(self, policy: Policy) -> None:
        self.policy, self.likelihood = policy, WeightedLikelihood(policy)

    def update(self, batch: Minibatch, learning_rate: float) -> Tensor:
        """One gradient step; the loss of each seed, [S]."""
        equal = torch.ones_like(batch.row, dtype=torch.float32)
        log_prob = self.likelihood.climb(batch.observations, batch.actions, equal, learning_rate)
        return -log_prob.mean(-1)

    def metrics(self) -> dict[str, Tensor]:
        """What the algorithm itself has to tell at a logging step, [S] each: nothing."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return self.likelihood.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        self.likelihood.load(state)
