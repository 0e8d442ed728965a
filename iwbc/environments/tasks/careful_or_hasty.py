"""iwbc/CarefulOrHasty-v0: an arm takes hold of a glass, which a fast one may knock away."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import numpy.typing as npt

from iwbc.environments.tasks.chance import ChanceTask, Vector

LINK = 0.4  # length of either link, in m
_POSTURE = np.array([2.2, 0.6])  # of shoulder and elbow at the start
_GLASS = np.array([0.5, 0.3])
_SPREAD = 0.03  # standard deviations of both (rad, m)
_CAREFUL = 0.8  # up to this speed of the tip, in m/s, touching the glass is taking hold of it
_KNOCKED_AWAY = 0.03


class CarefulOrHasty(ChanceTask):
    """Task of a planar arm with two joints, which is to take hold of a glass: to touch it with the tip.

    It always does when the tip moves at no more than 0.8 m/s as they touch. A faster tip knocks the glass away with probability
    `slip`, and the episode ends without success.

    Actions [2], in ±1: the velocity to turn shoulder and elbow at, in units of 2.5 rad/s. Observations [8]: cosine and sine of
    the shoulder's angle, of the elbow's, their velocities (rad/s), and the way from the tip to the glass (x, y in m).
    """

    model_file = "careful_or_hasty.xml"
    seconds = 3.0
    observation_size = 8

    def start(self) -> None:
        self._taken = self._touched = False
        posture = _POSTURE + _SPREAD * self.np_random.standard_normal(2)
        self._glass = _GLASS + _SPREAD * self.np_random.standard_normal(2)
        self.set_state(np.concatenate([posture, self._glass]), np.zeros(4))

    def move(self, action: npt.NDArray[np.floating]) -> None:
        for _ in range(self.frame_skip):
            speed = self._tip_speed()
            self.do_simulation(action, 1)
            if self.data.ncon and not self._touched:
                self._touched = True
                self._taken = speed <= _CAREFUL or not self._bad_luck

    def _tip_speed(self) -> float:
        velocity = np.zeros(6)
        tip = self.model.geom("tip").id
        mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_GEOM, tip, velocity, 0)
        return float(np.linalg.norm(velocity[3:]))

    def observe(self) -> Vector:
        (shoulder, elbow), glass = self.data.qpos[:2], self.data.qpos[2:]
        # The C library's, which every processor computes alike: NumPy's depend on the instruction set.
        angles = np.array([math.cos(shoulder), math.sin(shoulder), math.cos(elbow), math.sin(elbow)])
        return np.concatenate([angles, self.data.qvel[:2], glass - self.data.geom("tip").xpos[:2]])

    def outcome(self) -> tuple[bool, bool]:
        moved = float(np.linalg.norm(self.data.qpos[2:] - self._glass))
        return self._taken, not self._taken and moved > _KNOCKED_AWAY
