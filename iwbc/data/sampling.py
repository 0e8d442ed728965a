"""Minibatches of steps from weighted trajectories: a trajectory by its weight, then a step uniformly inside it.

That makes the minibatch mean of log π(a|s) an unbiased estimate of Σ_i R_i ℓ_i / Σ_i R_i with no padding. With
averaging = "transition" a trajectory's weight is multiplied by its length, so that all steps count the same instead.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iwbc.data.curated import Curated
from iwbc.data.streams import generator

# Steps drawn at once. Each block has a separate generator, so that drawing can start at any step.
BLOCK = 256


@dataclass(frozen=True)
class Minibatch:
    """B steps: observations [B, obs], actions [B, act], the kept trajectory that each step is of (`trajectory` [B], counted
    among the kept ones) and its index among the kept steps (`step` [B])."""

    observations: Tensor
    actions: Tensor
    trajectory: Tensor
    step: Tensor


def rows_in_order_of_file(values: Tensor, row: Tensor) -> Tensor:
    """Return the rows of values [N, …] that `row` [B] lists, [B, …], as `index_select` does, read in the order of the file."""
    ordered, order = row.sort()
    rows = torch.empty((len(row), *values.shape[1:]), dtype=values.dtype)
    rows[order] = values.index_select(0, ordered)
    return rows


def _exceeds_memory(values: Tensor) -> bool:
    """Tell whether values take more than half of the machine's memory, which the system's cache of files can then not hold."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return values.device.type == "cpu" and values.nbytes > 0.5 * memory


class StepSampler:
    """Sampler of the minibatches of one seed."""

    def __init__(self, curated: Curated, seed: int, batch_size: int, stream: int, device: str | torch.device = "cpu") -> None:
        cumulative = np.cumsum(curated.probabilities)
        self._cumulative = torch.from_numpy(cumulative / cumulative[-1])  # the last one is 1, which no draw reaches
        self._starts = torch.from_numpy(curated.trajectories.first_rows[curated.kept])
        self._kept_starts = torch.from_numpy(curated.offsets[:-1])
        self._lengths = torch.from_numpy(curated.lengths)
        self.curated, self.seed, self.batch_size, self.stream, self.device = curated, seed, batch_size, stream, device
        self._observations, self._actions = curated.trajectories.tensors(device)
        # From a disk rows come sooner in the order of the file; from memory the sorting would cost more than it saves.
        self._from_disk = isinstance(curated.trajectories.observations, np.memmap) and _exceeds_memory(self._observations)
        self._block = -1

    def batch(self, step: int) -> Minibatch:
        """Return the minibatch of gradient step `step`."""
        block, position = divmod(step, BLOCK)
        if block != self._block:
            self._trajectory, self._row, self._step = (part.to(self.device) for part in self._draw(block))
            self._block = block
        row = self._row[position]
        return Minibatch(
            observations=self._rows(self._observations, row),
            actions=self._rows(self._actions, row),
            trajectory=self._trajectory[position],
            step=self._step[position],
        )

    def _rows(self, values: Tensor, row: Tensor) -> Tensor:
        return rows_in_order_of_file(values, row) if self._from_disk else values.index_select(0, row)

    def _draw(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw kept trajectories, rows of the dataset and indices among the kept steps, [BLOCK, B] each."""
        random = generator(self.stream, self.seed, block)
        uniform = torch.rand(2, BLOCK, self.batch_size, dtype=torch.float64, generator=random)
        trajectory = torch.searchsorted(self._cumulative, uniform[0], right=True)
        within = (uniform[1] * self._lengths[trajectory]).long()
        return trajectory, self._starts[trajectory] + within, self._kept_starts[trajectory] + within
