"""The reward and the next observation of steps, by the places of rows: nothing is copied or stored for a step."""

from __future__ import annotations

import torch
from torch import Tensor

from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch


class Transitions:
    """Rewards, next observations and ends of the kept steps."""

    def __init__(self, curated: Curated, device: str | torch.device = "cpu") -> None:
        data, kept, offsets = curated.trajectories, curated.kept, curated.offsets
        self._observations, _ = data.tensors(device)
        self._rewards = torch.from_numpy(data.rewards).to(device)
        self._final_observations = torch.from_numpy(data.final_observations).to(device)
        self._kept = torch.from_numpy(kept).to(device)
        self._terminated = torch.from_numpy(data.terminated[kept]).to(device)
        self._shifts = torch.from_numpy(data.first_rows[kept] - offsets[:-1]).to(device)  # of a trajectory's rows
        self._last_steps = torch.from_numpy(offsets[1:] - 1).to(device)

    def of(self, batch: Minibatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return rewards [B], next observations [B, obs], and [B] False where the environment ended the episode there.

        A trajectory's last step is followed by the final observation, any other by the next row.
        """
        trajectory = batch.trajectory
        row, last = batch.step + self._shifts[trajectory], batch.step == self._last_steps[trajectory]
        following = self._observations.index_select(0, torch.where(last, row, row + 1))
        final = self._final_observations.index_select(0, self._kept[trajectory])
        following = torch.where(last[:, None], final, following)
        return self._rewards[row], following, ~(last & self._terminated[trajectory])
