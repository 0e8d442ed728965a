"""The interface of a policy: log_prob and mean_action, and sample where actions are to be drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iwbc.data.trajectories import Observations
from iwbc.data.windows import Window
from iwbc.errors import UserError


class Policy(nn.Module):
    """A distribution over actions given observations; one network, one seed.

    Any torch.nn.Module with these methods trains by every algorithm; it need not be a subclass. `log_prob` must be
    differentiable by the parameters and must not draw random numbers. Actions are in the environment's units. Where the data
    has images, observations are a dict: the vectors, float32 [B, obs], under `observations`, and images, uint8 [B, …], by name.

    Three attributes, 1 where there are none, say what it takes and gives. history: observations are the last so many,
    [B, history, obs] (images [B, history, …]), those before an episode's first being the first again. chunk: actions are the
    next so many, [B, chunk, act]; of those beyond the end of a trajectory all entries are NaN, and `log_prob` is the density of
    the others. execute: so many of a chunk are played before the policy is asked again. A fourth, sequence, is of a policy that
    reads step after step and whose memory begins again after so many: observations are then Sequences
    (iwbc/data/windows.py), and what comes of them is of the M steps that are meant.
    """

    history: int = 1
    chunk: int = 1
    execute: int = 1
    sequence: int = 1

    def log_prob(self, observations: Observations, actions: Tensor) -> Tensor:
        """Compute log π(a|s) in nats: observations [B, obs] and actions [B, act] → [B]."""
        raise NotImplementedError

    def mean_action(self, observations: Observations) -> Tensor:
        """Compute the action that is played without noise, [B, obs] → [B, act]."""
        raise NotImplementedError

    def sample(self, observations: Observations, generator: torch.Generator) -> Tensor:
        """Draw actions from the policy, [B, obs] → [B, act]."""
        raise NotImplementedError


def check_samples(policy: nn.Module) -> None:
    """Raise UserError unless actions can be drawn from a policy."""
    if getattr(type(policy), "sample", Policy.sample) is Policy.sample:
        raise UserError(
            f"action=sample: {type(policy).__name__} has no method sample(observations, generator); action=mean plays"
        )


def window_of(policy: nn.Module) -> Window:
    """Return what a policy takes and gives at a step. Raises UserError where an attribute that says so cannot be."""
    window = Window(_count(policy, "history"), _count(policy, "chunk"), _count(policy, "sequence"))
    if window.sequence > 1 and (window.history, window.chunk) != (1, 1):
        raise UserError(f"{type(policy).__name__}: has a sequence, and beside it a history or a chunk")
    if executed(policy) > window.chunk:
        raise UserError(f"{type(policy).__name__}: its execute={executed(policy)} is more than its chunk={window.chunk}")
    return window


def reach_of(policy: nn.Module) -> dict[str, int]:
    """Return a policy's attributes of that kind by name; two of the same parameters may differ in them."""
    return {name: _count(policy, name) for name in ("history", "chunk", "execute", "sequence")}


def executed(policy: nn.Module) -> int:
    """Return how many actions of a chunk are played before the policy is asked again."""
    return _count(policy, "execute")


def _count(policy: nn.Module, name: str) -> int:
    value = getattr(policy, name, 1)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{type(policy).__name__}: its {name} is {value!r}, not a whole number of at least 1")
    return value
