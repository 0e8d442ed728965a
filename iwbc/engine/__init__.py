"""The fast gradient step of Gaussian MLPs: gradients written out, oneDNN's products and fused Adam, instead of autograd and
torch.optim. Other policies have autograd's gradients, and fused Adam.

Nothing depends on it: switched off, everything runs by plain autograd, with the same numbers to 1e-5. Algorithms ask here
for log-likelihoods and optimisers, and get the fast ones where there are any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch import Tensor, nn

from iwbc.data.trajectories import Observations
from iwbc.engine import kernels
from iwbc.engine.autograd import AutogradOptimizer, AutogradValueOptimizer, PolicyOptimizer, ValueOptimizer
from iwbc.engine.fused import FusedValueOptimizer, GaussianOptimizer
from iwbc.engine.gaussian import GaussianKernel
from iwbc.policies.gaussian import GaussianMLP
from iwbc.policies.policy import Policy

_enabled = True


@contextlib.contextmanager
def switched(on: bool) -> Iterator[None]:
    """Switch the engine on or off inside the block, for the whole process, as PyTorch's flags do."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


def is_on() -> bool:
    """Tell whether the engine is switched on."""
    return _enabled


def _has_kernel(policy: Policy) -> TypeGuard[GaussianMLP]:
    return _enabled and type(policy) is GaussianMLP and policy.chunk == 1  # a subclass may have another density


def policy_optimizer(policy: Policy) -> PolicyOptimizer:
    """Make the optimiser of a policy: the engine's where it has a kernel for the policy and trains all of it, or else
    autograd's, which leaves parameters alone that require no gradient."""
    if _has_kernel(policy) and all(parameter.requires_grad for parameter in policy.parameters()):
        return GaussianOptimizer(policy)
    return AutogradOptimizer(policy, fused=_enabled)


def value_optimizer(network: nn.Sequential) -> ValueOptimizer:
    """Make the optimiser of a value network, a ReLU multi-layer perceptron [B, n] → [B, 1]."""
    return FusedValueOptimizer(network) if _enabled else AutogradValueOptimizer(network)


@torch.no_grad()
def values(network: nn.Sequential, inputs: Tensor) -> Tensor:
    """Compute the outputs of a value network without a gradient, [B, n] → [B]."""
    outputs: Tensor = kernels.perceptron(kernels.layers_of(network), inputs)[0] if _enabled else network(inputs)
    return outputs[:, 0]


@torch.no_grad()
def log_prob(policy: Policy, observations: Observations, actions: Tensor) -> Tensor:
    """Compute log π(a|s) in nats without a gradient, [B, obs] and [B, act] → [B]."""
    if _has_kernel(policy):
        return GaussianKernel(policy).log_prob(observations, actions)
    return policy.log_prob(observations, actions)


@torch.no_grad()
def mean_action(policy: Policy, observations: Observations) -> Tensor:
    """Compute the action that is played without noise, [B, obs] → [B, act]."""
    if _has_kernel(policy):
        return GaussianKernel(policy).mean_action(observations)
    return policy.mean_action(observations)
