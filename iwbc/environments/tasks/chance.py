"""The common base of the tasks: a MuJoCo model, a time limit in control steps, and a chance that the risky way fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium import utils
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box

Vector = npt.NDArray[np.float64]

_LONGEST_TIMESTEP = 0.01  # of the physics, in seconds


class ChanceTask(MujocoEnv, utils.EzPickle):
    """Task of `seconds` in `horizon` control steps; the reward is 1 at success, which ends the episode, and else 0.

    The failure of the risky way is drawn at the start of each episode, with probability `slip`, by the environment's generator;
    no observation depends on it before it happens. `info` has is_success at every step.
    """

    model_file: ClassVar[str]
    seconds: ClassVar[float]
    observation_size: ClassVar[int]

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array", "depth_array"]}  # noqa: RUF012

    def __init__(self, slip: float = 0.5, horizon: int = 30, render_mode: str | None = None, **rendering: Any) -> None:
        """Make the task. slip: the probability that the risky way fails. horizon: control steps in an episode, which always
        lasts as long: the more there are, the finer the control. rendering: width, height and so on of Gymnasium's MujocoEnv.

        Raises ValueError where they cannot be.
        """
        if not 0 <= slip <= 1:
            raise ValueError(f"slip={slip}: must lie in [0, 1]")
        if horizon != int(horizon) or horizon < 1:
            raise ValueError(f"horizon={horizon}: must be a positive number of control steps")
        utils.EzPickle.__init__(self, slip, horizon, render_mode, **rendering)
        self.slip, self.horizon = float(slip), int(horizon)
        self.metadata = {**self.metadata, "render_fps": int(np.round(self.horizon / self.seconds))}
        self._frame_skip = int(np.ceil(self.seconds / self.horizon / _LONGEST_TIMESTEP))
        self._bad_luck, self._steps = False, 0
        space = Box(-np.inf, np.inf, (self.observation_size,), np.float64)
        path = str(Path(__file__).resolve().parent / self.model_file)
        MujocoEnv.__init__(self, path, self._frame_skip, space, render_mode, camera_name="above", **rendering)

    def _initialize_simulation(self) -> Any:
        model, data = super()._initialize_simulation()
        model.opt.timestep = self.seconds / (self.horizon * self._frame_skip)
        return model, data

    def reset_model(self) -> Vector:
        self._steps = 0
        self._bad_luck = bool(self.np_random.random() < self.slip)
        self.start()
        return self.observe()

    def step(self, action: npt.NDArray[np.floating]) -> tuple[Vector, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        self.move(action)  # MuJoCo clips it to the actuators' range
        self._steps += 1
        success, failed = self.outcome()
        truncated = self._steps >= self.horizon and not (success or failed)
        if self.render_mode == "human":
            self.render()
        return self.observe(), float(success), success or failed, truncated, {"is_success": success}

    def move(self, action: npt.NDArray[np.floating]) -> None:
        """Run the physics of one control step."""
        self.do_simulation(action, self.frame_skip)

    def start(self) -> None:
        """Set the physics to the start of an episode."""
        raise NotImplementedError

    def observe(self) -> Vector:
        """Return the observation of the policy, [observation_size]."""
        raise NotImplementedError

    def outcome(self) -> tuple[bool, bool]:
        """Tell whether the task is done, and whether it has failed for good."""
        raise NotImplementedError
