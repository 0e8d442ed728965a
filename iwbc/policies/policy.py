"""The interface of a policy: log_prob and mean_action, and sample where actions are to be drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iwbc.data.trajectories import Observations


class Policy(nn.Module):
    """A distribution over actions given observations; one network, one seed.

    Any torch.nn.Module with these methods trains by every algorithm; it need not be a subclass. `log_prob` must be
    differentiable by the parameters and must not draw random numbers. Actions are in the environment's units. Where the data
    has images, observations are a dict: the vectors, float32 [B, obs], under `observations`, and images, uint8 [B, …], by name.
    """

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """Compute log π(a|s) in nats: observations [B, obs] and actions [B, act] → [B]."""
        raise NotImplementedError

    def mean_action(self, observations: Observations) -> Tensor:
        """Compute the action that is played without noise, [B, obs] → [B, act]."""
        raise NotImplementedError

    def sample(self, observations: Observations, generator: torch.Generator) -> Tensor:
        """Draw actions from the policy, [B, obs] → [B, act]."""
        raise NotImplementedError
