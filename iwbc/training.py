"""What every algorithm offers, and where policies start."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from iwbc.data.sampling import Minibatch, generator
from iwbc.policies import Policy, PolicySpec


class Stream(IntEnum):
    """What a generator is for: part of its entropy, beside the seed, so that no two uses share random numbers."""

    POLICY = 0
    REFERENCE = 1
    TRAINING = 2
    VALUE = 3
    PROBES = 4


class Algorithm(Protocol):
    """What every algorithm offers. Tensors have one row per seed."""

    policy: Policy
    kappa: float

    def update(self, batch: Minibatch, learning_rate: float) -> Tensor:
        """One gradient step; the loss of each seed, [S]."""

    def metrics(self) -> dict[str, Tensor]:
        """Diagnostics of its own, [S] each."""

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes: with the step, enough to continue bit for bit."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""


def initial_policy(spec: PolicySpec, seeds: Sequence[int], device: str | torch.device) -> Policy:
    """Untrained policies: seed s starts with the same parameters alone or beside others."""
    policy = Policy(spec, seeds, device)
    policy.initialise([generator(Stream.POLICY, seed) for seed in seeds])
    return policy
