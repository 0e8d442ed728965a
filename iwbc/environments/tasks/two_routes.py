"""iwbc/TwoRoutes-v0: a point mass goes round a wall, over solid ground or over thin ice."""

from __future__ import annotations

import numpy as np

from iwbc.environments.tasks.chance import ChanceTask, Vector

START, GOAL = np.array([-1.0, 0.0]), np.array([1.0, 0.0])
_SPREAD = 0.05  # standard deviation of the starting position
_GOAL_RADIUS = 0.15
_FALLEN = -0.1


class TwoRoutes(ChanceTask):
    """Task of a point mass, which starts at (−1, 0) and is to reach (1, 0), above the wall (y > 0) or below it.

    The two ways are as long. Below, the way leads over ice, which breaks with probability `slip`: the mass then falls, and
    the episode ends without success, as it does for a mass that goes over the edge of the platform.

    Actions [2], in ±1: the velocity to go at, along x and y, in units of 2 m/s. Observations [4]: position x, y (m) and
    velocity (m/s).
    """

    model_file = "two_routes.xml"
    seconds = 3.0
    observation_size = 4

    def start(self) -> None:
        # Broken ice does not carry, and looks no different.
        ice = self.model.geom("ice")
        ice.contype[:] = ice.conaffinity[:] = 0 if self._bad_luck else 1
        position = START + _SPREAD * self.np_random.standard_normal(2)
        self.set_state(np.append(position, 0.0), np.zeros(3))

    def observe(self) -> Vector:
        return np.concatenate([self.data.qpos[:2], self.data.qvel[:2]])

    def outcome(self) -> tuple[bool, bool]:
        fallen = bool(self.data.qpos[2] < _FALLEN)
        return bool(np.linalg.norm(self.data.qpos[:2] - GOAL) < _GOAL_RADIUS) and not fallen, fallen
