"""Minibatches of steps from weighted trajectories: a trajectory by its weight, then a step uniformly inside it.

That makes the minibatch mean of log π(a|s) an unbiased estimate of Σ_i R_i ℓ_i / Σ_i R_i with no padding. With
averaging = "transition" a trajectory's weight is multiplied by its length, so that all steps count the same instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iwbc.data.curated import Curated
from iwbc.data.streams import generator
from iwbc.data.trajectories import Observations
from iwbc.data.windows import STEP, Sequences, Window

# Steps drawn at once. Each block has a separate generator, so that drawing can start at any step.
BLOCK = 256


@dataclass(frozen=True)
class Minibatch:
    """B steps: observations [B, obs] (with images: a dict), actions [B, act], the kept trajectory that each step is of
    (`trajectory` [B], counted among the kept ones) and its index among the kept steps (`step` [B]).

    For a policy with history, observations are [B, history, obs]; for a policy of chunks, actions are [B, chunk, act]; for one
    that reads sequences, observations are Sequences, each begins at a step that was drawn, and B counts the steps of all.
    """

    observations: Observations
    actions: Tensor
    trajectory: Tensor
    step: Tensor

    @property
    def newest(self) -> tuple[Tensor, Tensor]:
        """The steps' vectors of observations [B, obs] and actions [B, act], without history and chunk."""
        observations, actions = self.observations, self.actions
        if isinstance(observations, Sequences):
            return observations.observations[observations.row, observations.place], actions
        return (
            observations if observations.dim() == 2 else observations[:, -1],
            actions if actions.dim() == 2 else actions[:, 0],
        )


class StepSampler:
    """Sampler of the minibatches of one seed."""

    def __init__(
        self,
        curated: Curated,
        seed: int,
        batch_size: int,
        stream: int,
        device: str | torch.device = "cpu",
        window: Window = STEP,
    ) -> None:
        cumulative = np.cumsum(curated.probabilities)
        self._cumulative = torch.from_numpy(cumulative / cumulative[-1])  # the last one is 1, which no draw reaches
        self._starts, last = map(torch.from_numpy, curated.bounds)
        self._kept_starts = torch.from_numpy(curated.offsets[:-1])
        self._lengths = torch.from_numpy(curated.lengths)
        self.curated, self.seed, self.batch_size, self.stream, self.device = curated, seed, batch_size, stream, device
        self.window = window
        self._observations, self._actions = curated.trajectories.tensors(device)
        self._bounds = self._starts.to(device), last.to(device)
        self._block = -1

    def batch(self, step: int) -> Minibatch:
        """Return the minibatch of gradient step `step`."""
        block, position = divmod(step, BLOCK)
        if block != self._block:
            self._trajectory, self._row, self._step = (part.to(self.device) for part in self._draw(block))
            self._block = block
        row, trajectory = self._row[position], self._trajectory[position]
        kept_step = self._step[position]
        if self.window.sequence == 1:
            observations, actions = self.window.of(self._observations, self._actions, row, trajectory, *self._bounds)
            return Minibatch(observations, actions, trajectory, kept_step)
        last = self._bounds[1][trajectory]
        read, actions = self.window.sequences(self._observations, self._actions, row, last)
        return Minibatch(read, actions, trajectory[read.row], kept_step[read.row] + read.place)

    def _draw(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw kept trajectories, rows of the dataset and indices among the kept steps, [BLOCK, B] each."""
        random = generator(self.stream, self.seed, block)
        uniform = torch.rand(2, BLOCK, self.batch_size, dtype=torch.float64, generator=random)
        trajectory = torch.searchsorted(self._cumulative, uniform[0], right=True)
        within = (uniform[1] * self._lengths[trajectory]).long()
        return trajectory, self._starts[trajectory] + within, self._kept_starts[trajectory] + within
