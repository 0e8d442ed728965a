"""Importance-weighted behaviour cloning (Qin & Springenberg, arXiv 2507.12856; there iw-SFT).

    max_θ  E_{D+}[(q/π_ref)(τ) log π_θ(τ)],    w = clip(exp(κ · log ratio)),    ratio = π_q/π_ref,    θ_q follows θ

tightens filtered BC's lower bound on the RL objective: tight as q → π_θ. The curation weight R_i of a trajectory is the
probability with which the sampler draws it; importance weights, of the last few steps or of the whole trajectory, multiply
its steps' log-likelihoods. π_θ starts at π_ref.
"""

from __future__ import annotations

from torch import Tensor

from iwbc import engine
from iwbc.algorithms.algorithm import Ingredients
from iwbc.algorithms.weights import ImportanceWeights
from iwbc.data.sampling import Minibatch
from iwbc.objectives import self_normalise, weighted_log_likelihood
from iwbc.settings import IWBC


class ImportanceWeightedBC:
    """State: the policy, its optimiser, and the weights."""

    def __init__(self, settings: IWBC, ingredients: Ingredients) -> None:
        assert ingredients.reference is not None
        self.settings, self.policy = settings, ingredients.policy
        self.optimizer = engine.policy_optimizer(ingredients.policy)
        self.by_autograd = self.optimizer.by_autograd
        self.weights = ImportanceWeights(settings, ingredients.reference, ingredients.curated, ingredients.device)
        self._seen: tuple[Minibatch | None, Tensor | None] = (None, None)  # the last minibatch and its log π_θ, for the metrics

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        """Set θ ← θ + η ∇_θ (1/B) Σ_b w_b log π_θ(a_b|s_b) and return the loss."""
        self.weights.follow(self.policy, step)  # θ_q ← α θ_q + (1 − α) θ
        w = self.weights.of(batch)  # clip(exp(κ · (log π_q − log π_ref))); no gradient flows through it
        w = self_normalise(w) if self.settings.self_normalise else w
        log_prob = self.optimizer.step(batch.observations, batch.actions, w, learning_rate)
        self._seen = batch, log_prob
        return -weighted_log_likelihood(log_prob, w)

    def weigh(self, batch: Minibatch) -> Tensor:
        """Return w as `update` would use it, [B]."""
        return self.weights.of(batch)

    def metrics(self) -> dict[str, Tensor]:
        return self.weights.metrics(*self._seen)

    def state(self) -> dict[str, Tensor]:
        return {**self.optimizer.state(), **self.weights.state()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.optimizer.load(state)
        self.weights.load(state)
