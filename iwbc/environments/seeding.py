"""Episodes that a seed repeats, in environments that draw from generators which Gymnasium's `reset(seed=…)` does not seed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let NumPy's and Python's global generators start at a seed inside the block, and go on after it as if it had not been."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def start(env: gym.Env[Any, Any], seed: int) -> Any:
    """Start an episode that depends on the seed alone, and return its first observation.

    OGBench draws the goal from NumPy's global generator and actions from the action space, Meta-World the goal from a generator
    that its `reset` does not seed. What an environment draws from a global generator during its steps is not seeded.
    """
    if type(env.unwrapped).np_random is gym.Env.np_random:  # dm_control's are of another kind, which their reset seeds
        env.unwrapped.np_random = seeding.np_random(seed)[0]
    env.unwrapped.action_space.seed(seed)
    with seeded(seed):
        return env.reset(seed=seed)[0]
