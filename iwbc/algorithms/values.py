"""Parts of algorithms with value networks: the units of inputs, TD(λ) returns of all kept steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iwbc import engine
from iwbc.data.curated import Curated
from iwbc.data.scales import action_range
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.objectives import td_lambda_returns
from iwbc.policies.networks import Units, mlp

# Standard deviations beyond which an observation is the outlier of a sensor.
_FAR_OUT = 100.0


def value_units(data: Trajectories) -> Units:
    """Make the units of value networks: all observations standardised by the data, actions of ±1 as a policy's.

    Raises UserError where the data has images.
    """
    if data.images:
        raise UserError(f"awr, iql: a value function takes vectors, and {data.info.id} has images ({', '.join(data.images)})")
    scales, info = data.observation_scales, data.info
    low, high = action_range(data.action_scales, info.action_low, info.action_high)
    mean, spread = scales.mean.tolist(), scales.spread.tolist()
    return Units(low.tolist(), high.tolist(), mean, spread, ([-_FAR_OUT] * len(mean), [_FAR_OUT] * len(mean)))


def value_network(data: Trajectories, hidden: Sequence[int]) -> nn.Sequential:
    """Make an untrained network for V(s), [B, obs] → [B, 1], of observations in `value_units`."""
    return mlp([data.observations.shape[1], *hidden, 1])


class Returns:
    """TD(λ) returns of the kept steps, with rewards times 1 − γ: V is then of the size of a reward."""

    def __init__(self, curated: Curated, gamma: float, lam: float, device: str | torch.device) -> None:
        data, kept = curated.trajectories, curated.kept
        self.units = value_units(data).to(device)
        self._curated, self._gamma, self._lam, self._device = curated, gamma, lam, device
        scale = 1.0 - gamma if gamma < 1.0 else 1.0
        self._rewards = torch.from_numpy(data.rewards[curated.rows]).to(device) * scale
        self._final_observations = torch.from_numpy(data.final_observations[kept]).to(device)
        self._continues = torch.from_numpy(~data.terminated[kept]).to(device)
        self._offsets = torch.from_numpy(curated.offsets).to(device)

    def of(self, value: nn.Sequential) -> tuple[Tensor, Tensor]:
        """Compute G^λ under V, and V(s_t), of every kept step: [M] each."""
        values = torch.empty_like(self._rewards)
        for steps, observations, _ in self._curated.batches(self._device):
            values[steps] = engine.values(value, self.units.observations(observations))
        final_values = engine.values(value, self.units.observations(self._final_observations)) * self._continues
        returns = td_lambda_returns(self._rewards, values, final_values, self._offsets, self._gamma, self._lam)
        return returns, values
