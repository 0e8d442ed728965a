"""A Gaussian over actions, the policy of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from iwbc.policies.networks import Units, mlp, of_present, unsquash
from iwbc.policies.policy import Policy


class GaussianMLP(Policy):
    """Gaussian policy. kind "tanh_mean": a Normal around tanh(network), not squashed; "squashed": the tanh of a Normal, as in
    SAC.

    std "global": one log-std per action; "state": a second output of the network. Its log is clamped to log_std_bounds.
    history, chunk, execute: as of any Policy; a chunk is a vector of chunk · act entries to the network.
    """

    def __init__(
        self,
        observation_size: int,
        units: Units,
        hidden: Sequence[int] = (256, 256, 256),
        kind: str = "tanh_mean",
        std: str = "global",
        log_std_bounds: tuple[float, float] = (-5.0, 2.0),
        history: int = 1,
        chunk: int = 1,
        execute: int = 1,
    ) -> None:
        super().__init__()
        self.kind, self.std, self.log_std_bounds, self.units = kind, std, log_std_bounds, units
        self.history, self.chunk, self.execute = history, chunk, execute
        self.size = chunk * len(units.middle)
        self.network = mlp([history * observation_size, *hidden, self.size * (2 if std == "state" else 1)])
        self.log_std = nn.Parameter(torch.zeros(self.size)) if std == "global" else None

    def inputs(self, observations: Tensor) -> Tensor:
        """Return the network's inputs, [B, obs] → [B, obs], or with history [B, history, obs] → [B, history · obs]."""
        inputs = self.units.observations(observations)
        return inputs if self.history == 1 else inputs.flatten(-2)

    def distribution(self, observations: Tensor) -> Normal:
        """Return the Normal over actions in ±1 (before the tanh where squashed), [B, obs] → a batch of [B, act]; of chunks,
        [B, chunk · act]."""
        output = self.network(self.inputs(observations))
        mean, log_std = output.chunk(2, dim=-1) if self.log_std is None else (output, self.log_std)
        if self.kind == "tanh_mean":
            mean = mean.tanh()
        return Normal(mean, log_std.clamp(*self.log_std_bounds).exp(), validate_args=False)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Compute log N(a), or, squashed, log N(atanh a) − Σ log(1 − a²), in nats: [B, obs] and [B, act] → [B]."""
        normal, (units, present, log_scale) = self.distribution(observations), self.units.entries(actions)
        if self.kind == "tanh_mean":
            log_prob: Tensor = normal.log_prob(units)
        else:
            before, log_slope = unsquash(units)
            log_prob = normal.log_prob(before) - log_slope
        return of_present(log_prob, present).sum(-1) - log_scale

    def mean_action(self, observations: Tensor) -> Tensor:
        """Compute the Normal's mean (squashed: the tanh of it), [B, obs] → [B, act]."""
        return self._played(self.distribution(observations).mean)

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Draw actions, [B, obs] → [B, act]; a tanh-mean policy may draw beyond the action range."""
        return self.sample_from(observations, *self.noise(len(observations), generator, observations.device))

    def noise(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> tuple[Tensor]:
        """Draw the noise of `count` samples: standard normal [count, chunk · act]."""
        return (torch.randn((count, self.size), generator=generator).to(device),)

    def sample_from(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Make the sample of this noise, [B, obs] and [B, chunk · act] → [B, act] or [B, chunk, act]."""
        normal = self.distribution(observations)
        return self._played(normal.mean + normal.stddev * noise)

    def _played(self, drawn: Tensor) -> Tensor:
        drawn = drawn if self.chunk == 1 else drawn.unflatten(-1, (self.chunk, -1))
        return self.units.to_actions(drawn.tanh() if self.kind == "squashed" else drawn)
