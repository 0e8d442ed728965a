"""Advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177), offline.

    π ← argmax_π E_D[min(exp(Â/β), w_max) log π(a|s)],   A = G_t^λ − V(s_t)

G^λ are TD(λ) returns, Â the advantages standardised over the kept steps. Offline neither D nor V changes, so that V is fitted
once, beforehand (iwbc.algorithms.critic), and the weights are constants of the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iwbc import engine
from iwbc.algorithms.algorithm import Ingredients
from iwbc.algorithms.values import Returns
from iwbc.algorithms.weights import weight_metrics
from iwbc.data.sampling import Minibatch
from iwbc.objectives import advantage_weights, weighted_log_likelihood
from iwbc.settings import AWR


class AdvantageWeightedRegression:
    """State: the policy and its optimiser. Constant: the weight of every kept step."""

    def __init__(self, settings: AWR, ingredients: Ingredients) -> None:
        assert ingredients.critic is not None
        self.settings, self.policy = settings, ingredients.policy
        self.optimizer = engine.policy_optimizer(ingredients.policy)
        self.by_autograd = self.optimizer.by_autograd
        returns, values = Returns(ingredients.curated, settings.gamma, settings.lam, ingredients.device).of(ingredients.critic)
        self.weights = advantage_weights(returns - values, settings.temperature, settings.maximum)
        self._shares = torch.from_numpy(ingredients.curated.step_probabilities).to(ingredients.device)

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        """Set θ ← θ + η ∇_θ (1/B) Σ_b w_b log π_θ(a_b|s_b) and return the loss."""
        w = self.weights[batch.step]
        log_prob = self.optimizer.step(batch.observations, batch.actions, w, learning_rate)
        return -weighted_log_likelihood(log_prob, w)

    def weigh(self, batch: Minibatch) -> Tensor:
        """Return min(exp(Â/β), w_max) of each step, [B]."""
        return self.weights[batch.step]

    def metrics(self) -> dict[str, Tensor]:
        return weight_metrics(self.weights, self.settings.maximum, shares=self._shares)

    def state(self) -> dict[str, Tensor]:
        return self.optimizer.state()

    def load(self, state: dict[str, Tensor]) -> None:
        self.optimizer.load(state)
