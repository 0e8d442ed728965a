"""A conditional normalising flow over actions: any shape of distribution, with an exact log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iwbc.policies.gaussian import GaussianMLP
from iwbc.policies.networks import Units, mlp, unsquash
from iwbc.policies.policy import Policy

# A coupling stretches an entry by e^±2 at most, so that no minibatch can blow it up.
_LOG_STRETCH = 2.0


class CouplingFlow(Policy):
    """A Gaussian (as in GaussianMLP) sent through affine couplings (Dinh et al. 2017, arXiv 1605.08803).

    Coupling k moves every other entry of the action, u_i ← u_i e^{s_i} + t_i, by a network (s, t) of the observation and of
    the entries that stay. Both are 0 at first, so that the flow starts as its Gaussian. With one action entry, there is
    none that stays, and the flow remains a Gaussian.
    """

    def __init__(
        self,
        observation_size: int,
        units: Units,
        couplings: int = 4,
        coupling_hidden: Sequence[int] = (64, 64),
        hidden: Sequence[int] = (256, 256, 256),
        kind: str = "tanh_mean",
        std: str = "global",
        log_std_bounds: tuple[float, float] = (-5.0, 2.0),
        history: int = 1,
    ) -> None:
        super().__init__()
        self.kind, self.units, self.history = kind, units, history
        self.base = GaussianMLP(observation_size, units, hidden, kind, std, log_std_bounds, history)
        size = len(units.middle)
        networks = [mlp([history * observation_size + size, *coupling_hidden, 2 * size]) for _ in range(couplings)]
        for network in networks:
            for parameter in network[-1].parameters():
                nn.init.zeros_(parameter)
        self.couplings = nn.ModuleList(networks)
        stays = (torch.arange(size) + torch.arange(couplings)[:, None]) % 2 == 0
        self.stays: Tensor
        self.register_buffer("stays", stays.float(), persistent=False)  # [couplings, act]

    def _coupling(self, k: int, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute s and t of coupling k, [B, act] each, 0 for the entries that stay."""
        inputs = torch.cat([self.base.inputs(observations), actions * self.stays[k]], dim=-1)
        log_stretch, shift = self.couplings[k](inputs).chunk(2, dim=-1)
        moves = 1.0 - self.stays[k]
        return _LOG_STRETCH * (log_stretch / _LOG_STRETCH).tanh() * moves, shift * moves

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Compute log N of the action sent back through the couplings, less their log-determinants, in nats: [B, obs] and
        [B, act] → [B]."""
        units = self.units.to_units(actions)
        log_slope = torch.zeros_like(units)
        if self.kind == "squashed":
            units, log_slope = unsquash(units)
        for k in reversed(range(len(self.couplings))):
            log_stretch, shift = self._coupling(k, observations, units)
            units = (units - shift) * torch.exp(-log_stretch)
            log_slope = log_slope + log_stretch
        normal = self.base.distribution(observations)
        log_prob: Tensor = normal.log_prob(units) - log_slope
        return log_prob.sum(-1) - self.units.log_scale

    def _through(self, observations: Tensor, units: Tensor) -> Tensor:
        for k in range(len(self.couplings)):
            log_stretch, shift = self._coupling(k, observations, units)
            units = units * log_stretch.exp() + shift
        return self.units.to_actions(units.tanh() if self.kind == "squashed" else units)

    def mean_action(self, observations: Tensor) -> Tensor:
        """Send the Gaussian's mean through the couplings, [B, obs] → [B, act]."""
        return self._through(observations, self.base.distribution(observations).mean)

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        return self.sample_from(observations, *self.noise(len(observations), generator, observations.device))

    def noise(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> tuple[Tensor]:
        """Draw the noise of `count` samples: standard normal [count, act]."""
        return self.base.noise(count, generator, device)

    def sample_from(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Make the sample of this noise, [B, obs] and [B, act] → [B, act]."""
        normal = self.base.distribution(observations)
        return self._through(observations, normal.mean + normal.stddev * noise)
