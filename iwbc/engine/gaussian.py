"""GaussianMLP's density and the gradient of the density, written out: autograd's bookkeeping cost a fifth of a gradient step
of networks this small. iwbc.policies.gaussian has the same in a textbook's form; the tests compare the two."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from iwbc.engine import kernels
from iwbc.policies.gaussian import GaussianMLP
from iwbc.policies.networks import SQUASH_LIMIT

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class GaussianKernel:
    """Density and mean of a GaussianMLP, whose parameters it shares.

    `parameters` is the order of every list of gradients: weight and bias of each layer, then log_std where it is global.
    """

    def __init__(self, policy: GaussianMLP) -> None:
        self._policy, self._units = policy, policy.units
        self._layers = kernels.layers_of(policy.network)
        self._log_std = None if policy.log_std is None else policy.log_std.detach()
        self.parameters = [part for layer in self._layers for part in layer]
        if self._log_std is not None:
            self.parameters.append(self._log_std)
        # The constants of a standard Normal's density and of the scale of actions.
        self._log_scale = len(self._units.middle) * _HALF_LOG_2PI + self._units.log_scale

    def _distribution(self, observations: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], list[Tensor]]]:
        """Compute mean and log-std of the Normal, [B, act] each, in units of ±1 actions (before the tanh where squashed), and
        the vector-Jacobian product from gradients by the two to gradients by the parameters."""
        output, network_vjp = kernels.perceptron(self._layers, self._policy.inputs(observations))
        mean, free_log_std = output.chunk(2, dim=-1) if self._log_std is None else (output, self._log_std)
        if self._policy.kind == "tanh_mean":
            mean = mean.tanh()
        log_std = free_log_std.clamp(*self._policy.log_std_bounds)

        def vjp(by_mean: Tensor, by_log_std: Tensor) -> list[Tensor]:
            if self._policy.kind == "tanh_mean":
                by_mean = torch.ops.aten.tanh_backward.default(by_mean, mean)
            by_log_std = by_log_std * (log_std == free_log_std)  # no gradient where it is clamped
            if self._log_std is None:
                return network_vjp(torch.cat([by_mean, by_log_std], dim=-1))
            return [*network_vjp(by_mean), by_log_std.sum(0)]

        return mean, log_std, vjp

    def log_prob_and_vjp(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        """Compute log π(a|s), [B], and return it with the function from weights w [B] to ∇_θ (1/B) Σ_b w_b log π_θ(a_b|s_b)."""
        mean, log_std, vjp = self._distribution(observations)
        units = self._units.to_units(actions)
        log_normaliser = log_std.sum(-1) + self._log_scale
        if self._policy.kind == "squashed":
            units = units.clamp(-SQUASH_LIMIT, SQUASH_LIMIT).atanh()
            log_normaliser = log_normaliser + (2.0 * (math.log(2.0) - units - F.softplus(-2.0 * units))).sum(-1)
        inverse_std = torch.exp(-log_std)
        deviation = (units - mean) * inverse_std
        log_prob = torch.add(-log_normaliser, deviation.square().sum(-1), alpha=-0.5)

        def weighted_vjp(weights: Tensor) -> list[Tensor]:
            # ∂ log N/∂μ = (u − μ)/σ², ∂ log N/∂ log σ = (u − μ)²/σ² − 1.
            part = (weights / weights.shape[-1])[..., None]
            weighted = part * deviation
            return vjp(weighted * inverse_std, weighted * deviation - part)

        return log_prob, weighted_vjp

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Compute log π(a|s) in nats, [B, obs] and [B, act] → [B]."""
        return self.log_prob_and_vjp(observations, actions)[0]

    def mean_action(self, observations: Tensor) -> Tensor:
        """Compute the mean action, [B, obs] → [B, act]."""
        mean, _, _ = self._distribution(observations)
        return self._units.to_actions(mean.tanh() if self._policy.kind == "squashed" else mean)
