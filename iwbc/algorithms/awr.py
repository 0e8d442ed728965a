"""Advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177), offline.

    V ← argmin_V E_D[(G_t^λ − V(s_t))²]        π ← argmax_π E_D[min(exp(Â/β), w_max) log π(a|s)],   A = G_t^λ − V(s_t)

G^λ are TD(λ) returns, Â the advantages standardised over the data. Every so many steps both are computed again for all
steps with V as it then is; in between, each gradient step regresses V on the targets and the policy on the actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iwbc import engine
from iwbc.algorithms.algorithm import Ingredients
from iwbc.data.sampling import Minibatch
from iwbc.data.streams import Stream, seeded
from iwbc.engine.autograd import adam_state, load_adam, load_module, module_state
from iwbc.errors import UserError
from iwbc.objectives import advantage_weights, effective_sample_size, td_lambda_returns, weighted_log_likelihood
from iwbc.policies.networks import mlp
from iwbc.settings import AWR

# Standard deviations beyond which an observation is the outlier of a sensor.
_FAR_OUT = 100.0


class AdvantageWeightedRegression:
    """State: policy, V and their optimisers; value targets and weights of every kept step."""

    by_autograd = True  # V's gradient

    def __init__(self, settings: AWR, ingredients: Ingredients) -> None:
        data, self.curated, device = ingredients.curated.trajectories, ingredients.curated, ingredients.device
        if data.images:
            raise UserError(f"awr: its value function takes vectors, and {data.info.id} has images ({', '.join(data.images)})")
        self.settings, self.policy, self._device = settings, ingredients.policy, device
        self.optimizer = engine.policy_optimizer(ingredients.policy)
        with seeded(Stream.VALUE, ingredients.seed):
            self.value = mlp([data.observations.shape[1], *settings.value_hidden, 1]).to(device)
        self.value_adam = torch.optim.Adam(self.value.parameters(), settings.value_lr, fused=True)
        self.targets = torch.zeros(self.curated.steps, device=device)
        self.weights = torch.ones(self.curated.steps, device=device)
        scales = data.observation_scales
        self._mean, self._std = (torch.tensor(x, dtype=torch.float32, device=device) for x in (scales.mean, scales.spread))
        # Rewards scaled by 1 − γ keep V of the size of a reward; standardised advantages do not see the scale.
        scale = 1.0 - settings.gamma if settings.gamma < 1.0 else 1.0
        kept = self.curated.kept
        self._rewards = torch.from_numpy(data.rewards[self.curated.rows]).to(device) * scale
        self._final_observations = torch.from_numpy(data.final_observations[kept]).to(device)
        self._continues = torch.from_numpy(~data.terminated[kept]).to(device)
        self._offsets = torch.from_numpy(self.curated.offsets).to(device)

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        """Make a gradient step of V down the mean of (V − G^λ)², and one of the policy; return the policy's loss."""
        if step % self.settings.refresh_every == 0:
            self._evaluate_data()
        with torch.enable_grad():
            value_loss = (self.values(batch.observations) - self.targets[batch.step]).square().mean()
            self.value_adam.zero_grad()
            value_loss.backward()
        self.value_adam.step()
        w = self.weights[batch.step]
        log_prob = self.optimizer.step(batch.observations, batch.actions, w, learning_rate)
        return -weighted_log_likelihood(log_prob, w)

    def values(self, observations: Tensor) -> Tensor:
        """Compute V(s), [B, obs] → [B]."""
        values: Tensor = self.value(((observations - self._mean) / self._std).clamp(-_FAR_OUT, _FAR_OUT))[:, 0]
        return values

    def _evaluate_data(self) -> None:
        """Compute G^λ, A and the weights of all kept steps under the present V."""
        settings, values = self.settings, torch.empty_like(self.targets)
        for steps, observations, _ in self.curated.batches(self._device):
            values[steps] = self.values(observations)
        final_values = self.values(self._final_observations) * self._continues
        self.targets = td_lambda_returns(self._rewards, values, final_values, self._offsets, settings.gamma, settings.lam)
        self.weights = advantage_weights(self.targets - values, settings.temperature, settings.maximum)

    def weigh(self, batch: Minibatch) -> Tensor:
        """Return min(exp(Â/β), w_max) of each step, [B]."""
        return self.weights[batch.step]

    def metrics(self) -> dict[str, Tensor]:
        """Return diagnostics of the weights over all kept steps."""
        weights = self.weights
        return {
            "ess_share": effective_sample_size(weights) / len(weights),
            "weight_min": weights.amin(),
            "weight_median": weights.median(),
            "weight_max": weights.amax(),
            "clipped_share": (weights >= self.settings.maximum).double().mean(),
        }

    def state(self) -> dict[str, Tensor]:
        value = {**module_state(self.value, "value."), **adam_state(self.value_adam, self.value, "value_adam.")}
        return {**self.optimizer.state(), **value, "targets": self.targets, "weights": self.weights}

    def load(self, state: dict[str, Tensor]) -> None:
        self.optimizer.load(state)
        load_module(self.value, state, "value.")
        load_adam(self.value_adam, self.value, state, "value_adam.")
        self.targets, self.weights = (state[name].to(self._device, copy=True) for name in ("targets", "weights"))
