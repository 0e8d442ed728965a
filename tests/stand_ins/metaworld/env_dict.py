"""One task: take the puck, carry it to the goal."""

from __future__ import annotations

from functools import cached_property

import gymnasium as gym
import mujoco
import numpy as np

TABLE = 0.02
SCENE = "<mujoco><worldbody><body name='puck'><geom size='0.02'/></body></worldbody></mujoco>"


class PickPlace:
    """Observations [39], actions [4] and attributes as SawyerPickPlaceEnvV3 has them."""

    max_path_length = 500

    def __init__(self, render_mode=None, camera_name=None):
        self._set_task_called, self._freeze_rand_vec, self.seeded_rand_vec = False, True, False
        self._partially_observable = True
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)
        self.observation_space = self.sawyer_observation_space  # which is cached, without a place for the goal
        self.action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)

    @cached_property
    def sawyer_observation_space(self):
        bound = np.full(39, np.inf)
        if self._partially_observable:
            bound[36:] = 0.0
        return gym.spaces.Box(-bound, bound, dtype=np.float64)

    def seed(self, seed):
        self.random = np.random.default_rng(seed)

    def reset(self):
        assert self._set_task_called and self.seeded_rand_vec and not self._freeze_rand_vec
        self.hand, self.opening, self.steps = np.array([0.0, 0.6, 0.2]), 1.0, 0
        for _ in range(2):  # of what is drawn twice, the first is seen, as in Meta-World
            mujoco.mj_kinematics(self.model, self.data)
            self.model.body("puck").pos = np.append(self.random.uniform([-0.1, 0.6], [0.1, 0.7]), TABLE)
        self.goal = self.random.uniform([-0.1, 0.8, 0.05], [0.1, 0.9, 0.3])
        self._prev_obs = self._get_curr_obs_combined_no_goal()
        return self._observation(), {}

    @property
    def puck(self):
        return self.data.body("puck").xpos.copy()

    def _get_curr_obs_combined_no_goal(self):
        return np.concatenate([self.hand, [self.opening], self.puck, np.zeros(11)])

    def _get_pos_goal(self):
        return self.goal

    def _observation(self):
        now, before = self._get_curr_obs_combined_no_goal(), self._prev_obs
        self._prev_obs = now
        space = self.sawyer_observation_space
        return np.clip(np.concatenate([now, before, self.goal]), space.low, space.high)

    def step(self, action):
        if self.steps >= self.max_path_length:
            raise ValueError("You must reset the env manually once truncate==True")
        self.steps += 1
        held = np.abs(self.hand - self.puck).max() < 0.03 and self.opening < 0.6
        self.hand = self.hand + 0.008 * np.clip(action[:3], -1.0, 1.0).astype(np.float64)
        self.opening = float(np.clip(self.opening - 0.2 * action[3], 0.5, 1.0))
        place = self.model.body("puck").pos
        self.model.body("puck").pos = self.hand if held else [*place[:2], TABLE]
        mujoco.mj_kinematics(self.model, self.data)
        success = float(np.abs(self.puck - self.goal).max() < 0.04)
        return self._observation(), 0.0, False, False, {"success": success}

    def close(self):
        pass


ALL_V3_ENVIRONMENTS = {"pick-place-v3": PickPlace}
