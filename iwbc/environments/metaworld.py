"""Meta-World's tasks, known to Gymnasium by name and repeated by a seed, and the scripts of its experts.

    gymnasium.make("iwbc.environments.metaworld:metaworld/pick-place-v3")
    gymnasium.make("iwbc.environments.metaworld:metaworld/pick-place-hasty-v3", slip=0.5)

The commands, and make_env, know the id without the module before it. Meta-World is imported when one is made. Its own
Meta-World/MT1 has 50 goals, and rewards a step by how near they are; here each episode draws another goal, and only success is
rewarded.
"""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.errors import UserError, extra

Vector = npt.NDArray[np.float64]

# Steps of an episode: some three times as many as a careful operator takes (iwbc.data.operators).
HORIZONS = {"assembly": 300, "drawer-open": 250, "hammer": 250, "pick-place": 200, "pick-place-hasty": 200}
_HORIZON = 500  # Meta-World's own
_HASTY = "-hasty"  # in the name of a task, in which what is taken away in haste may slip
_SLIP = 0.5
_CARRIED = "pick-place"
# What is this far from its place, in m, has been taken away; a hand that then moves faster, in m/s, has done so in haste.
_TAKEN, _PATIENT = 0.03, 0.56
_STEP = 0.0125  # s
# Observations are rounded to it (1 µm): norms, which BLAS computes, have other last bits on other processors.
_GRID = 2.0**-20
# Entries of an observation: the hand's position and the object's, and the hand's in the step before.
_HAND, _OBJECT, _HAND_BEFORE = slice(0, 3), slice(4, 7), slice(18, 21)


def register(env_id: str) -> None:
    """Make `metaworld/…-v3` known to Gymnasium, once; leave other namespaces alone. Raises UserError for another name."""
    namespace, _, name = env_id.partition("/")
    if namespace != "metaworld" or env_id in gym.registry:
        return
    task, _, version = name.rpartition("-v")
    if version != "3" or not task:
        raise UserError(f"environment {env_id}: the names of Meta-World's tasks are such as metaworld/pick-place-v3")
    kwargs: dict[str, Any] = {"task": task.removesuffix(_HASTY)} | ({"slip": _SLIP} if task.endswith(_HASTY) else {})
    limit = HORIZONS.get(task, _HORIZON)
    gym.register(env_id, "iwbc.environments.metaworld:MetaWorld", max_episode_steps=limit, kwargs=kwargs)


def expert(env_id: str) -> Callable[[Vector], Vector]:
    """Return Meta-World's script of a task's expert: from an observation [39] to an action [4], which may lie outside ±1.

    Raises UserError where Meta-World is not installed or does not know the task.
    """
    task = env_id.partition("/")[2].rpartition("-v")[0].removesuffix(_HASTY)
    script = _of_metaworld(task, "metaworld.policies", "ENV_POLICY_MAP")()

    def act(observation: Vector) -> Vector:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that actions are clipped
            return np.asarray(script.get_action(observation), np.float64)

    return act


class MetaWorld(gym.Env[Vector, npt.NDArray[np.float32]]):
    """A task of Meta-World with the goal and the places of objects drawn anew in each episode.

    Observations [39]: the hand's position (m), the opening of the gripper, position and orientation of two objects, padded with
    zeros; all of this in the step before; the goal. Actions [4], in ±1: the hand's velocity in units of 0.8 m/s, and the
    gripper's effort, from open to closed. The reward is 1 at success, which ends the episode, and else 0; every step's info
    says `success`.

    slip: the probability that the object slips from a hand which takes it away faster than at 0.56 m/s: the episode then ends
    without success. Chance is drawn at the start of an episode, and no observation depends on it.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012

    def __init__(self, task: str, slip: float = 0.0, render_mode: str | None = None) -> None:
        """Make it. Raises UserError where Meta-World is not installed or does not know the task, and ValueError for a slip that
        cannot be, or of a task in which nothing is taken from its place by a hand alone."""
        if not 0 <= slip <= 1:
            raise ValueError(f"slip={slip}: must lie in [0, 1]")
        if slip and task != _CARRIED:
            raise ValueError(f"slip={slip}: is of {_CARRIED} alone, where the hand takes a puck away; {task} has none")
        make = _of_metaworld(task, "metaworld.env_dict", "ALL_V3_ENVIRONMENTS")
        self._env: Any = make(render_mode=render_mode, camera_name="corner3" if render_mode else None)
        self._env._set_task_called, self._env._freeze_rand_vec, self._env.seeded_rand_vec = True, False, True
        self._env._partially_observable = False
        del self._env.sawyer_observation_space  # which is made again, with a place for the goal
        self._env.max_path_length = sys.maxsize  # Gymnasium's time limit ends episodes
        self.slip, self.render_mode = float(slip), render_mode
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, self._env.sawyer_observation_space.shape, np.float64)
        self.action_space = self._env.action_space
        self._unlucky, self._taken, self._place = False, False, np.zeros(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        import mujoco  # here, as the names of the tasks are registered without it

        super().reset(seed=seed)
        self._env.seed(int(self.np_random.integers(2**31)))
        self._unlucky, self._taken = bool(self.np_random.random() < self.slip), False
        self._env.reset()
        # It draws the places twice, and many tasks move bodies by the second draw but observe where the first had put them.
        mujoco.mj_kinematics(self._env.model, self._env.data)
        now = self._env._prev_obs = self._env._get_curr_obs_combined_no_goal()
        observation = _rounded(np.concatenate([now, now, self._env._get_pos_goal()]))
        self._place = observation[_OBJECT]
        return observation, {}

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        raw, _, _, _, info = self._env.step(action)
        observation = _rounded(raw)
        success = bool(info["success"])
        slipped = self._unlucky and not success and self._taken_in_haste(observation)
        return observation, float(success), success or slipped, False, {"success": success}

    def _taken_in_haste(self, observation: Vector) -> bool:
        """Tell the first step in which an object has left its place, if the hand is fast then."""
        if self._taken or math.dist(observation[_OBJECT], self._place) < _TAKEN:
            return False
        self._taken = True
        return math.dist(observation[_HAND], observation[_HAND_BEFORE]) > _PATIENT * _STEP

    def render(self) -> npt.NDArray[np.uint8]:
        """Draw the table from a corner, [480, 480, 3]."""
        picture: npt.NDArray[np.uint8] = self._env.render()
        return picture[::-1, ::-1]  # Meta-World's cameras hang upside down

    def close(self) -> None:
        self._env.close()


def _rounded(observation: Vector) -> Vector:
    return np.rint(observation / _GRID) * _GRID


def _of_metaworld(task: str, module: str, table: str) -> Any:
    """Look a task up in a table of Meta-World's."""
    where = f"environment metaworld/{task}-v3"
    try:
        tasks = getattr(importlib.import_module(module), table)
    except ImportError as error:
        raise UserError(f"{where}: Meta-World cannot be imported ({error}); {extra('metaworld')}") from None
    if f"{task}-v3" not in tasks:
        raise UserError(f"{where}: Meta-World has no such task, only {', '.join(name.removesuffix('-v3') for name in tasks)}")
    return tasks[f"{task}-v3"]


for _task in HORIZONS:
    register(f"metaworld/{_task}-v3")
