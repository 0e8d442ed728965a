"""The fast wing: for Gaussian MLPs, what autograd and torch.optim would do, with gradients written out, oneDNN's products
and fused Adam.

Nothing depends on it: switched off, everything runs by plain autograd, with the same numbers to 1e-5. Algorithms ask here
for log-likelihoods and optimisers, and get the fast ones where there are any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from iwbc.engine.autograd import AutogradOptimizer, PolicyOptimizer
from iwbc.engine.fused import GaussianOptimizer
from iwbc.engine.gaussian import GaussianKernel
from iwbc.policies.gaussian import GaussianMLP
from iwbc.policies.policy import Policy

_enabled = True


@contextlib.contextmanager
def switched(on: bool) -> Iterator[None]:
    """Within, use the engine or do without. Of the whole process, as PyTorch's own flags are."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


def is_on() -> bool:
    """Whether it is used, where it can be."""
    return _enabled


def _has_kernel(policy: Policy) -> bool:
    return _enabled and type(policy) is GaussianMLP  # a subclass may have another density


def policy_optimizer(policy: Policy) -> PolicyOptimizer:
    """What makes gradient steps of weighted log-likelihood with this policy."""
    return GaussianOptimizer(policy) if _has_kernel(policy) else AutogradOptimizer(policy)  # type: ignore[arg-type]


@torch.no_grad()
def log_prob(policy: Policy, observations: Tensor, actions: Tensor) -> Tensor:
    """log π(a|s), [B, obs] and [B, act] → [B], without a gradient."""
    if _has_kernel(policy):
        return GaussianKernel(policy).log_prob(observations, actions)  # type: ignore[arg-type]
    return policy.log_prob(observations, actions)


@torch.no_grad()
def mean_action(policy: Policy, observations: Tensor) -> Tensor:
    """The action that is played without noise, [B, obs] → [B, act]."""
    if _has_kernel(policy):
        return GaussianKernel(policy).mean_action(observations)  # type: ignore[arg-type]
    return policy.mean_action(observations)
