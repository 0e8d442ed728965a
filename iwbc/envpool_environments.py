"""Environments stepped in C++ by EnvPool, an optional extra: faster than Gymnasium's, with returns of the same distribution."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.environment_spec import EnvironmentSpec
from iwbc.environments import Results
from iwbc.errors import UserError
from iwbc.spaces import clipped

_REMEDY = "use eval.backend=gymnasium (python -m iwbc.evaluate: backend=gymnasium)"
# Not settings of an environment but of the pool, or (xml_file) a name among EnvPool's own files.
_POOL = {
    *("num_envs", "batch_size", "num_threads", "max_num_players", "thread_affinity_offset", "seed", "env_seed"),
    *("gym_reset_return_info", "reward_threshold", "frame_stack", "base_path", "xml_file"),
}


class EnvpoolEnvironments:
    """Environments that `threads` threads of this process step at the same time, none tied to a core. (Making them takes all
    cores for a moment.)

    EnvPool takes seeds only as it makes its environments: every reset makes new ones. An episode then depends on its seed
    and actions alone, bit for bit, whatever is played beside it or was before, on any number of threads. Compared with
    Gymnasium's environments of the same name:

    - A seed starts another episode: initial states have the same distribution but come from another generator.
    - EnvPool brings a MuJoCo of its own. From one state and with the same actions, Hopper, HalfCheetah, Walker2d and Swimmer
      go the same way but for rounding; Ant and the Humanoids already differ by about 1e-6 after a step.
    - Rewards are rounded to float32.
    - An episode that terminates on the very step of its time limit is truncated, not both.
    """

    def __init__(self, environment: EnvironmentSpec, threads: int) -> None:
        """Raises UserError where EnvPool is not installed, or lacks the environment (with vectors) or a setting of it."""
        environment = environment.to_play()
        env_id = environment.id
        try:
            self._envpool = importlib.import_module("envpool")
        except ImportError:
            raise UserError(
                "eval.backend=envpool: EnvPool is not installed; pip install -c constraints.txt -e '.[envpool]'"
            ) from None
        self._env_id, self._settings, self._threads = env_id, dict(environment.kwargs), threads
        if environment.max_episode_steps is not None:
            self._settings["max_episode_steps"] = environment.max_episode_steps
        if environment.wrappers or environment.imports:
            raise UserError(f"environment {env_id}: EnvPool has no wrappers, nor environments of others; {_REMEDY}")
        if env_id not in self._envpool.list_all_envs():
            raise UserError(f"environment {env_id}: EnvPool does not have it; {_REMEDY}")
        known = set(self._envpool.make_spec(env_id).config._fields) - _POOL
        if unknown := sorted(self._settings.keys() - known):
            raise UserError(f"environment {env_id}: EnvPool has no setting {', '.join(unknown)}; {_REMEDY}")
        try:
            spec = self._envpool.make_spec(env_id, **self._settings)
        except TypeError:
            raise UserError(f"environment {env_id}: EnvPool cannot set {self._settings}; {_REMEDY}") from None
        spaces = spec.observation_space, spec.action_space
        if not all(isinstance(space, gym.spaces.Box) and len(space.shape) == 1 for space in spaces):
            raise UserError(f"environment {env_id}: EnvPool's observations or actions are not vectors; {_REMEDY}")
        # float32 numbers, as in Gymnasium's spaces.
        low, high = (np.asarray(bound, np.float32) for bound in (spec.action_space.low, spec.action_space.high))
        self.action_space, self.observation_size = gym.spaces.Box(low, high), spec.observation_space.shape[0]
        self._pool: Any = None

    def reset(self, seeds: Sequence[int]) -> npt.NDArray[np.floating]:
        self._pool = self._envpool.make_gymnasium(
            self._env_id, num_envs=len(seeds), seed=list(seeds), num_threads=self._threads, **self._settings
        )
        observations: npt.NDArray[np.floating] = self._pool.reset()[0]
        return observations

    def step(self, indices: npt.NDArray[np.int64], actions: npt.NDArray[np.floating]) -> Results:
        observations, rewards, terminated, truncated, _ = self._pool.step(clipped(self.action_space, actions), indices)
        unknown = np.full(len(indices), np.nan, np.float32)  # none of its MuJoCo tasks has successes
        return Results(observations, rewards.astype(np.float64), terminated, truncated, unknown)

    def close(self) -> None:
        self._pool = None  # its threads end with it
