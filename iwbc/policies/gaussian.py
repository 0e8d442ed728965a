"""A Gaussian over actions, the policy of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from iwbc.policies.networks import Units, mlp, unsquash
from iwbc.policies.policy import Policy


class GaussianMLP(Policy):
    """Gaussian policy. kind "tanh_mean": a Normal around tanh(network), not squashed; "squashed": the tanh of a Normal, as in
    SAC.

    std "global": one log-std per action; "state": a second output of the network. Its log is clamped to log_std_bounds.
    """

    def __init__(
        self,
        observation_size: int,
        units: Units,
        hidden: Sequence[int] = (256, 256, 256),
        kind: str = "tanh_mean",
        std: str = "global",
        log_std_bounds: tuple[float, float] = (-5.0, 2.0),
    ) -> None:
        super().__init__()
        self.kind, self.std, self.log_std_bounds, self.units = kind, std, log_std_bounds, units
        action_size = len(units.middle)
        self.network = mlp([observation_size, *hidden, action_size * (2 if std == "state" else 1)])
        self.log_std = nn.Parameter(torch.zeros(action_size)) if std == "global" else None

    def distribution(self, observations: Tensor) -> Normal:
        """Return the Normal over actions in ±1 (before the tanh where squashed), [B, obs] → a batch of [B, act]."""
        output = self.network(self.units.observations(observations))
        mean, log_std = output.chunk(2, dim=-1) if self.log_std is None else (output, self.log_std)
        if self.kind == "tanh_mean":
            mean = mean.tanh()
        return Normal(mean, log_std.clamp(*self.log_std_bounds).exp(), validate_args=False)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Compute log N(a), or, squashed, log N(atanh a) − Σ log(1 − a²), in nats: [B, obs] and [B, act] → [B]."""
        normal, units = self.distribution(observations), self.units.to_units(actions)
        if self.kind == "tanh_mean":
            log_prob: Tensor = normal.log_prob(units)
            return log_prob.sum(-1) - self.units.log_scale
        before, log_slope = unsquash(units)
        log_prob = normal.log_prob(before) - log_slope
        return log_prob.sum(-1) - self.units.log_scale

    def mean_action(self, observations: Tensor) -> Tensor:
        """Compute the Normal's mean (squashed: the tanh of it), [B, obs] → [B, act]."""
        return self._played(self.distribution(observations).mean)

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions, [B, obs] → [B, act]; a tanh-mean policy may draw beyond the action range."""
        return self.sample_from(observations, *self.noise(len(observations), generator, observations.device))

    def noise(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> tuple[Tensor]:
        """Draw the noise of `count` samples: standard normal [count, act]."""
        return (torch.randn((count, len(self.units.middle)), generator=generator).to(device),)

    def sample_from(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Make the sample of this noise, [B, obs] and [B, act] → [B, act]."""
        normal = self.distribution(observations)
        return self._played(normal.mean + normal.stddev * noise)

    def _played(self, drawn: Tensor) -> Tensor:
        return self.units.to_actions(drawn.tanh() if self.kind == "squashed" else drawn)
