"""Episodes of scripts, with actions rounded to a grid on which the last bits of a sum do not show: a simulator makes another
trajectory of another last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.data.behaviours import ACTION_GRID, on_grid
from iwbc.data.trajectories import Episode
from iwbc.environments.gymnasium import reported_success

Script = Callable[[Any], npt.NDArray[np.floating]]  # from an observation to an action


def play_script(env: gym.Env[Any, Any], script: Script, seed: int, groups: tuple[str, ...] = ()) -> Episode:
    """Play one episode from a seed, with actions clipped to the action space, and with a success label."""
    space: Any = env.action_space
    where = f"environment {env.spec.id if env.spec else env}"
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards = [observation], [], []
    over, terminated, success = False, False, False
    while not over:
        action = np.clip(on_grid(script(observation), ACTION_GRID), space.low, space.high).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        success = success or reported_success(info, where) == 1.0
        over = terminated or truncated
    steps = np.stack(observations)
    return Episode(steps[:-1], steps[-1], np.stack(actions), np.array(rewards), bool(terminated), success, groups)
