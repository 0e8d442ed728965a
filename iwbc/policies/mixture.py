"""A mixture of Gaussians over actions: several modes, of which a single Gaussian would take the average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from iwbc.policies.networks import Units, mlp, of_present, unsquash
from iwbc.policies.policy import Policy


class GaussianMixture(Policy):
    """Mixture π(a|s) = Σ_k p_k(s) N(a; μ_k(s), σ_k) of `components` Gaussians, each as in GaussianMLP; of chunks, each is one
    of whole chunks."""

    def __init__(
        self,
        observation_size: int,
        units: Units,
        components: int = 5,
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
        self.shape = (components, chunk * len(units.middle))
        size = components * self.shape[1]
        self.network = mlp([history * observation_size, *hidden, components + size * (1 if std == "global" else 2)])
        self.log_std = nn.Parameter(torch.zeros(self.shape)) if std == "global" else None

    def inputs(self, observations: Any) -> Tensor:
        """Return the network's inputs, [B, obs] → [B, obs], or with history [B, history, obs] → [B, history · obs]."""
        inputs = self.units.observations(observations)
        return inputs if self.history == 1 else inputs.flatten(-2)

    def spread(self, log_std: Tensor) -> Tensor:
        """Compute standard deviations of the network's log-std."""
        return log_std.clamp(*self.log_std_bounds).exp()

    def distribution(self, observations: Tensor) -> MixtureSameFamily:
        """Return the mixture over actions in ±1 (before the tanh where squashed), [B, obs] → a batch of B, of vectors [act]; of
        chunks, [chunk · act]."""
        output = self.network(self.inputs(observations))
        logits, rest = output.split([self.shape[0], output.shape[-1] - self.shape[0]], dim=-1)
        parts = rest.unflatten(-1, (-1, *self.shape))  # [B, 1 or 2, K, act]
        mean = parts[..., 0, :, :]
        if self.kind == "tanh_mean":
            mean = mean.tanh()
        log_std = self.log_std if self.log_std is not None else parts[..., 1, :, :]
        normal = Normal(mean, self.spread(log_std).expand_as(mean), validate_args=False)
        components = Independent(normal, 1, validate_args=False)
        return MixtureSameFamily(Categorical(logits=logits, validate_args=False), components, validate_args=False)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Compute log Σ_k p_k N_k(a), or, squashed, log Σ_k p_k N_k(atanh a) − Σ log(1 − a²), in nats: [B, obs] and [B, act] →
        [B]."""
        mixture, (units, present, log_scale) = self.distribution(observations), self.units.entries(actions)
        if self.kind == "tanh_mean":
            return _log_density(mixture, units, present) - log_scale
        before, log_slope = unsquash(units)
        return _log_density(mixture, before, present) - of_present(log_slope, present).sum(-1) - log_scale

    def mean_action(self, observations: Tensor) -> Tensor:
        """Return the mean of the likeliest component, [B, obs] → [B, act]: the mean of all may lie where no component does."""
        mixture = self.distribution(observations)
        return self._of_component(mixture.component_distribution.mean, mixture.mixture_distribution.logits.argmax(-1))

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a component by its probability, then an action from it, [B, obs] → [B, act]."""
        return self.sample_from(observations, *self.noise(len(observations), generator, observations.device))

    def noise(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Draw the noise of `count` samples: uniform [count, K] in double precision, and standard normal
        [count, K, chunk · act]."""
        uniform = torch.rand((count, self.shape[0]), generator=generator, dtype=torch.float64)
        return uniform.to(device), torch.randn((count, *self.shape), generator=generator).to(device)

    def sample_from(self, observations: Tensor, uniform: Tensor, noise: Tensor) -> Tensor:
        """Make the sample of this noise, [B, obs], [B, K] and [B, K, chunk · act] → [B, act] or [B, chunk, act]."""
        mixture = self.distribution(observations)
        normal: Normal = mixture.component_distribution.base_dist  # type: ignore[attr-defined]
        # The largest of logits + Gumbel noise has the softmax's probabilities.
        chosen = (mixture.mixture_distribution.logits - (-uniform.log()).log()).argmax(-1)
        return self._of_component(normal.mean + normal.stddev * noise, chosen)

    def _of_component(self, values: Tensor, chosen: Tensor) -> Tensor:
        drawn = values.gather(-2, chosen[..., None, None].expand(*chosen.shape, 1, values.shape[-1])).squeeze(-2)
        drawn = drawn if self.chunk == 1 else drawn.unflatten(-1, (self.chunk, -1))
        return self.units.to_actions(drawn.tanh() if self.kind == "squashed" else drawn)


def _log_density(mixture: MixtureSameFamily, values: Tensor, present: Tensor | None) -> Tensor:
    """Compute the log density of values [B, n], or of those entries that are there: inside a component their marginal."""
    if present is None:
        log_density: Tensor = mixture.log_prob(values)
        return log_density
    normal: Normal = mixture.component_distribution.base_dist  # type: ignore[attr-defined]
    entries = of_present(normal.log_prob(values[..., None, :]), present[..., None, :])  # [B, K, n]
    return torch.logsumexp(mixture.mixture_distribution.logits + entries.sum(-1), dim=-1)
