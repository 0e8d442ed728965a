"""Implicit Q-learning (Kostrikov, Nair & Levine 2021, arXiv 2110.06169).

    V ← argmin_V E_D[|τ − 1[u < 0]| u²],   u = min(Q̄₁, Q̄₂)(s, a) − V(s)
    Q ← argmin_Q E_D[(r + γ V(s') − Q(s, a))²],   Q̄ ← Q̄ + α (Q − Q̄)
    π ← argmax_π E_D[min(exp(β u), w_max) log π(a|s)]

V is the τ-expectile of what the actions of the data are worth, so that no action outside the data is ever valued.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iwbc import engine
from iwbc.algorithms.algorithm import Ingredients
from iwbc.algorithms.values import value_network, value_units
from iwbc.algorithms.weights import weight_metrics
from iwbc.data.sampling import Minibatch
from iwbc.data.streams import Stream, seeded
from iwbc.data.trajectories import Trajectories
from iwbc.data.transitions import Transitions
from iwbc.engine.autograd import load_module, module_state
from iwbc.objectives import weighted_log_likelihood
from iwbc.policies.networks import mlp
from iwbc.settings import IQL


class ImplicitQLearning:
    """State: the policy, V, the two Q, their optimisers, and Q̄, the target networks."""

    def __init__(self, settings: IQL, ingredients: Ingredients) -> None:
        data, device = ingredients.curated.trajectories, ingredients.device
        self.settings, self.policy = settings, ingredients.policy
        with seeded(Stream.VALUE, ingredients.seed):
            self.value = value_network(data, settings.value_hidden).to(device)
            sizes = [data.observations.shape[1] + data.actions.shape[1], *settings.value_hidden, 1]
            self.twins = [mlp(sizes).to(device) for _ in range(2)]
        self.targets = copy.deepcopy(self.twins)
        self.optimizer, self.value_optimizer = engine.policy_optimizer(self.policy), engine.value_optimizer(self.value)
        self.twin_optimizers = [engine.value_optimizer(twin) for twin in self.twins]
        self.by_autograd = self.optimizer.by_autograd or self.value_optimizer.by_autograd
        self.units, self.transitions = value_units(data).to(device), Transitions(ingredients.curated, device)
        self.reward_scale = published_reward_scale(data) if settings.reward_scale is None else settings.reward_scale
        self._averages, self._latest = _parameters(self.targets), _parameters(self.twins)
        self._seen = torch.ones(1, device=device), torch.zeros(1, device=device)  # the last minibatch's weights and V

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        """Make a gradient step of V, both Q and the policy, all by the networks before it; return the policy's loss."""
        settings = self.settings
        rewards, following, continues = self.transitions.of(batch)
        states, pairs = self._inputs(batch)
        q = self._target_values(pairs)
        following_values = engine.values(self.value, self.units.observations(following))
        returns = self.reward_scale * rewards + settings.gamma * continues * following_values
        v = self.value_optimizer.step(states, q, settings.value_lr, settings.expectile)
        for optimizer in self.twin_optimizers:
            optimizer.step(pairs, returns, settings.value_lr)
        torch._foreach_lerp_(self._averages, self._latest, settings.target_rate)
        w = self._weights(q, v)
        log_prob = self.optimizer.step(batch.observations, batch.actions, w, learning_rate)
        self._seen = w, v
        return -weighted_log_likelihood(log_prob, w)

    def _inputs(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """Return the inputs of V, [B, obs], and of Q, [B, obs + act]."""
        observations, actions = batch.newest
        states = self.units.observations(observations)
        return states, torch.cat([states, self.units.to_units(actions)], dim=-1)

    def _target_values(self, pairs: Tensor) -> Tensor:
        """Compute min(Q̄₁, Q̄₂), [B]."""
        first, second = (engine.values(target, pairs) for target in self.targets)
        return torch.minimum(first, second)

    def _weights(self, q: Tensor, v: Tensor) -> Tensor:
        return torch.exp(self.settings.beta * (q - v)).clamp(max=self.settings.maximum)

    def weigh(self, batch: Minibatch) -> Tensor:
        """Return min(exp(β (min(Q̄₁, Q̄₂) − V)), w_max) of each step, [B]."""
        states, pairs = self._inputs(batch)
        return self._weights(self._target_values(pairs), engine.values(self.value, states))

    def metrics(self) -> dict[str, Tensor]:
        """Return diagnostics of the weights of the last minibatch, and the mean of V there."""
        weights, values = self._seen
        return {**weight_metrics(weights, self.settings.maximum), "value_mean": values.mean()}

    def state(self) -> dict[str, Tensor]:
        tensors = {**self.optimizer.state(), **self.value_optimizer.state("value.")}
        for i, (optimizer, target) in enumerate(zip(self.twin_optimizers, self.targets, strict=True)):
            tensors |= {**optimizer.state(f"q{i}."), **module_state(target, f"target{i}.")}
        return tensors

    def load(self, state: dict[str, Tensor]) -> None:
        self.optimizer.load(state)
        self.value_optimizer.load(state, "value.")
        for i, (optimizer, target) in enumerate(zip(self.twin_optimizers, self.targets, strict=True)):
            optimizer.load(state, f"q{i}.")
            load_module(target, state, f"target{i}.")


def _parameters(networks: Sequence[nn.Module]) -> list[Tensor]:
    return [parameter.detach() for network in networks for parameter in network.parameters()]


def published_reward_scale(data: Trajectories) -> float:
    """Compute T_max / (G_max − G_min), with which a step is worth about 1: IQL's rule for locomotion, where T_max = 1000.
    Where all returns are equal, rewards stay as they come."""
    spread = float(data.returns.max() - data.returns.min())
    return float(data.lengths.max()) / spread if spread > 0.0 else 1.0
