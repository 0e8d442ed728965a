"""Advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177), offline.

    V ← argmin_V E_D[(G_t^λ − V(s_t))²]        π ← argmax_π E_D[min(exp(Â/β), w_max) log π(a|s)],   A = G_t^λ − V(s_t)

G^λ are TD(λ) returns, Â the advantages standardised over the data. Every so many steps both are computed anew for all
steps with V as it then is; in between, each gradient step regresses V on the targets and the policy on the actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from iwbc.config import AWR
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch
from iwbc.likelihood import WeightedLikelihood, captured
from iwbc.networks import Adam, Parameters, Pullback, mlp, mlp_shapes
from iwbc.objectives import advantage_weights, effective_sample_size, td_lambda_returns, weighted_log_likelihood
from iwbc.policies import Policy


class AdvantageWeightedRegression:
    """State: policy, V and their optimisers; value targets and weights of every kept step."""

    kappa = 1.0  # only scales the log ratio in the reported bound

    def __init__(self, policy: Policy, curated: Curated, settings: AWR, value_generators: Sequence[torch.Generator]) -> None:
        device, seeds = policy.parameters.flat.device, len(policy.seeds)
        self.policy, self.settings, self.curated = policy, settings, curated
        self.likelihood = WeightedLikelihood(policy)
        data = curated.trajectories
        sizes = (data.observations.shape[1], *settings.value_hidden, 1)
        self.value = Parameters(mlp_shapes(sizes), seeds, device)
        for row, generator in enumerate(value_generators):
            self.value.initialise(row, generator)
        self.value_adam = Adam(self.value)
        self._regress = captured(self._regress_values, [self.value.flat, *self.value_adam.state().values()])
        self.targets = torch.zeros(seeds, curated.steps, device=device)
        self.weights = torch.ones(seeds, curated.steps, device=device)
        self.steps = 0
        self._mean, self._std = (torch.tensor(x, dtype=torch.float32, device=device) for x in data.observation_statistics)
        self._continues = torch.from_numpy(~data.terminated[curated.kept]).to(device)
        # Rewards scaled by 1 − γ keep V of the size of a reward; standardised advantages do not see the scale.
        scale = 1.0 - settings.gamma if settings.gamma < 1.0 else 1.0
        self._rewards = torch.empty(curated.steps, device=device)
        for places, rows in curated.chunks():
            self._rewards[places] = torch.from_numpy(data.rewards[rows]).to(device) * scale
        self._offsets = torch.from_numpy(curated.offsets).to(device)
        self._shift = torch.from_numpy(curated.shift).to(device)

    def update(self, batch: Minibatch, learning_rate: float) -> Tensor:
        """One gradient step of V and one of the policy; the policy's loss of each seed, [S]."""
        if self.steps % self.settings.refresh_every == 0:
            self._evaluate_data()
        place = batch.row + self._shift[batch.trajectory]
        self._regress(batch.observations, self.targets.gather(1, place))
        weights = self.weights.gather(1, place)
        log_prob = self.likelihood.climb(batch.observations, batch.actions, weights, learning_rate)
        self.steps += 1
        return -weighted_log_likelihood(log_prob, weights)

    def _regress_values(self, observations: Tensor, targets: Tensor) -> Tensor:
        """One gradient step of V down the mean of (V − G^λ)², which is returned, [S]."""
        values, pullback = self._values(observations)
        error = targets - values
        self.value_adam.ascend(self.value.gradient(pullback(2.0 / error.shape[-1] * error[..., None])), self.settings.value_lr)
        return error.square().mean(-1)

    def _values(self, observations: Tensor) -> tuple[Tensor, Pullback]:
        """V(s), [S, B, obs] → [S, B], and how to take a gradient back."""
        values, pullback = mlp(self.value, (observations - self._mean) / self._std)
        return values[..., 0], pullback

    def _evaluate_data(self) -> None:
        """G^λ, A and the weights of all kept steps under V as it is now."""
        settings = self.settings
        data, kept = self.curated.trajectories, self.curated.kept
        values = torch.empty_like(self.targets)
        for places, rows in self.curated.chunks():
            values[:, places] = self._values_of(data.observations[rows])
        final_values = self._values_of(data.final_observations[kept]) * self._continues
        self.targets = td_lambda_returns(self._rewards, values, final_values, self._offsets, settings.gamma, settings.lam)
        self.weights = advantage_weights(self.targets - values, settings.temperature, settings.maximum)

    def _values_of(self, observations: npt.NDArray[np.float32]) -> Tensor:
        """V of the same observations for every seed, [m, obs] → [S, m]."""
        same = torch.from_numpy(observations).to(self._mean.device).expand(len(self.policy.seeds), -1, -1)
        return self._values(same)[0]

    def metrics(self) -> dict[str, Tensor]:
        """Diagnostics of the weights over all kept steps, [S] each."""
        weights = self.weights
        return {
            "ess_share": effective_sample_size(weights) / weights.shape[-1],
            "weight_min": weights.amin(-1),
            "weight_median": weights.median(-1).values,
            "weight_max": weights.amax(-1),
            "clipped_share": (weights >= self.settings.maximum).double().mean(-1),
        }

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return {
            **self.likelihood.state(),
            "value": self.value.flat,
            "targets": self.targets,
            "weights": self.weights,
            "steps": torch.tensor(self.steps),
            **{f"value_{name}": tensor for name, tensor in self.value_adam.state().items()},
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        self.likelihood.load(state)
        self.value.flat.copy_(state["value"])
        self.targets, self.weights = state["targets"].to(self.targets), state["weights"].to(self.weights)
        self.steps = int(state["steps"])
        self.value_adam.load({name.removeprefix("value_"): t for name, t in state.items() if name.startswith("value_adam")})
