"""Histories of observations and chunks of actions, by the places of rows: nothing is copied or stored for a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from iwbc.data.trajectories import Observations, gather


@dataclass(frozen=True)
class Window:
    """Reach of a policy at a step: the last `history` observations, the step's last, and the next `chunk` actions, the step's
    first. Both end where the trajectory does: before the first step stands its observation again, and after the last NaN.
    `sequence` is the number of steps after which the memory of a policy that reads step after step begins again."""

    history: int = 1
    chunk: int = 1
    sequence: int = 1

    def of(
        self, observations: Observations, actions: Tensor, rows: Tensor, trajectory: Tensor, first: Tensor, last: Tensor
    ) -> tuple[Observations, Tensor]:
        """Gather what is in reach at rows [B] of a dataset: observations [B, history, obs], or [B, obs] of a history of 1, and
        actions [B, chunk, act], or [B, act] of a chunk of 1.

        `trajectory` [B] are the rows' places among trajectories from rows `first` to `last` [K].
        """
        seen = rows
        if self.history > 1:
            back = torch.arange(1 - self.history, 1, device=rows.device)
            seen = torch.maximum(rows[:, None] + back, first[trajectory][:, None])
        if self.chunk == 1:
            return gather(observations, seen), actions.index_select(0, rows)
        places, end = rows[:, None] + torch.arange(self.chunk, device=rows.device), last[trajectory][:, None]
        taken = gather(actions, torch.minimum(places, end))
        return gather(observations, seen), taken.masked_fill((places > end)[..., None], torch.nan)

    def sequences(self, observations: Observations, actions: Tensor, rows: Tensor, last: Tensor) -> tuple[Sequences, Tensor]:
        """Gather sequences from rows [n] on, as far as the last rows [n] of the trajectories, and the actions [M, act] of all
        of their steps."""
        places = rows[:, None] + torch.arange(self.sequence, device=rows.device)
        row, place = (places <= last[:, None]).nonzero(as_tuple=True)
        seen = gather(observations, torch.minimum(places, last[:, None]))
        return Sequences(seen, row, place), actions.index_select(0, rows[row] + place)


STEP = Window()


class Sequences(NamedTuple):
    """Observations [n, sequence, obs] from where a memory begins, and the M steps among them that are meant: step m is at
    `place` [M] of sequence `row` [M]. What comes after them in a sequence counts for nothing."""

    observations: Observations
    row: Tensor
    place: Tensor


def per_action(log_prob: Tensor, actions: Tensor) -> Tensor:
    """Divide log-likelihoods [B] of actions [B, chunk, act] by how many there are before the trajectory's end; those of
    [B, act] stay as they are."""
    return log_prob if actions.dim() == 2 else log_prob / (~actions[..., 0].isnan()).sum(-1)
