"""Minibatches of steps from weighted trajectories: a trajectory by its weight, then a step uniformly inside it.

That makes the minibatch mean of log π(a|s) an unbiased estimate of Σ_i R_i ℓ_i / Σ_i R_i with no padding. With
averaging = "transition" a trajectory's weight is multiplied by its length, so that all steps count the same instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iwbc.data.curated import Curated

# Steps drawn at once. Each block has a generator of its own, so that drawing can start at any step.
BLOCK = 256


def generator(*entropy: int) -> torch.Generator:
    """A CPU generator that is a function of `entropy` alone; different tuples give independent streams."""
    words = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))


@dataclass(frozen=True)
class Minibatch:
    """B steps for each of S seeds: observations [S, B, obs], actions [S, B, act], the kept trajectory each step is of
    (`trajectory` [S, B], counted among the kept ones) and its row in the dataset (`row` [S, B])."""

    observations: Tensor
    actions: Tensor
    trajectory: Tensor
    row: Tensor


class StepSampler:
    """Draws minibatches for several seeds; seed s sees the same ones alone or beside others."""

    def __init__(
        self,
        curated: Curated,
        seeds: Sequence[int],
        batch_size: int,
        stream: int,
        device: str | torch.device = "cpu",
    ) -> None:
        cumulative = np.cumsum(curated.probabilities)
        self._cumulative = torch.from_numpy(cumulative / cumulative[-1])
        trajectories = curated.trajectories
        self._starts = torch.from_numpy(trajectories.offsets[curated.kept])
        self._lengths = torch.from_numpy(curated.lengths)
        self.seeds, self.batch_size, self.stream, self.device = tuple(seeds), batch_size, stream, device
        self._observations = torch.from_numpy(trajectories.observations).to(device)
        self._actions = torch.from_numpy(trajectories.actions).to(device)
        self._block = -1

    def batch(self, step: int) -> Minibatch:
        """The minibatch of gradient step `step`."""
        block, position = divmod(step, BLOCK)
        if block != self._block:
            draws = [self._draw(seed, block) for seed in self.seeds]
            # [BLOCK, S, B], on the device in one transfer.
            self._trajectory = torch.stack([draw[0] for draw in draws], dim=1).to(self.device)
            self._row = torch.stack([draw[1] for draw in draws], dim=1).to(self.device)
            self._block = block
        trajectory, row = self._trajectory[position], self._row[position]
        flat = row.view(-1)
        return Minibatch(
            observations=self._observations.index_select(0, flat).view(*row.shape, -1),
            actions=self._actions.index_select(0, flat).view(*row.shape, -1),
            trajectory=trajectory,
            row=row,
        )

    def _draw(self, seed: int, block: int) -> tuple[Tensor, Tensor]:
        uniform = torch.rand(2, BLOCK, self.batch_size, dtype=torch.float64, generator=generator(self.stream, seed, block))
        trajectory = torch.searchsorted(self._cumulative, uniform[0], right=True).clamp_(max=len(self._cumulative) - 1)
        within = (uniform[1] * self._lengths[trajectory]).long()
        return trajectory, self._starts[trajectory] + within
