"""Scripted demonstrators: each episode one of two ways, drawn at random, with noisy actions.

They compute with the C library's functions, which most processors compute alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc.data.scripts import Script, play_script
from iwbc.data.trajectories import Episode
from iwbc.environments.gymnasium import make_env
from iwbc.environments.spec import EnvironmentSpec
from iwbc.environments.tasks import point_maze as maze
from iwbc.environments.tasks.careful_or_hasty import LINK
from iwbc.environments.tasks.two_routes import GOAL
from iwbc.errors import UserError

Vector = npt.NDArray[np.floating]


def two_routes(observation: Vector, risky: bool) -> Vector:
    """Go at constant speed to the corridor, through it, and to the goal: observation [4] → action [2]."""
    position, side = observation[:2], -1.0 if risky else 1.0
    if position[0] < -0.35:
        target = np.array([-0.3, 0.6 * side])
    elif position[0] < 0.3:
        target = np.array([0.4, 0.6 * side])
    else:
        target = GOAL
    way = target - position
    return 0.6 * way / max(math.hypot(*way), 1e-6)


def careful_or_hasty(observation: Vector, risky: bool) -> Vector:
    """Turn both joints at constant speeds until the tip is at the glass: observation [8] → action [2]."""
    shoulder = math.atan2(observation[1], observation[0])
    elbow = math.atan2(observation[3], observation[2])
    x = LINK * (math.cos(shoulder) + math.cos(shoulder + elbow)) + float(observation[6])
    y = LINK * (math.sin(shoulder) + math.sin(shoulder + elbow)) + float(observation[7])
    # The posture that reaches (x, y), elbow to the left; the arm is stretched towards a glass out of reach.
    bend = math.acos(min(max((x * x + y * y) / (2 * LINK * LINK) - 1.0, -1.0), 1.0))
    way = np.array([math.atan2(y, x) - bend / 2 - shoulder, bend - elbow])
    return (0.85 if risky else 0.4) * way / max(float(np.abs(way).max()), 1e-6)


def point_maze(observation: Vector, risky: bool) -> Vector:
    """Go round the maze by the short way or the long way, at 4 m/s: observation [8] → force [2]."""
    goal, position, velocity = observation[2:4], observation[4:6], observation[6:8]
    far = -2.0 if risky else 2.0
    if position[0] < -1.7 and abs(position[1] - far) > 0.35:
        target = np.array([-2.0, far])
    elif position[0] < 1.8:
        target = np.array([2.0, far])
    else:
        target = goal
    way = target - position
    return 4.0 * way / max(math.hypot(*way), 1e-6) - velocity


@dataclass(frozen=True)
class Demonstrator:
    """Script of a task. act: from an observation, and whether to take the risky way, to an action. noise: the standard
    deviation of actions around it. environment: the task's spec, from slip and horizon where they are not the defaults."""

    act: Callable[[Vector, bool], Vector]
    noise: float
    environment: Callable[..., EnvironmentSpec]


def _chance_task(env_id: str) -> Callable[..., EnvironmentSpec]:
    return lambda **kwargs: EnvironmentSpec(env_id, kwargs)


_DEMONSTRATORS = {
    "iwbc/TwoRoutes-v0": Demonstrator(two_routes, 0.2, _chance_task("iwbc/TwoRoutes-v0")),
    "iwbc/CarefulOrHasty-v0": Demonstrator(careful_or_hasty, 0.1, _chance_task("iwbc/CarefulOrHasty-v0")),
    maze.ENV_ID: Demonstrator(point_maze, 1.5, maze.point_maze),
}


def demonstrator(env_id: str) -> Demonstrator:
    """Return the demonstrator of an environment. Raises UserError where there is none."""
    if env_id not in _DEMONSTRATORS:
        raise UserError(f"environment {env_id}: has no demonstrators (there are: {', '.join(_DEMONSTRATORS)})")
    return _DEMONSTRATORS[env_id]


def demonstrated_environment(env_id: str, **env_kwargs: Any) -> EnvironmentSpec:
    """Return the environment in which demonstrations are recorded, with the slip and horizon of env_kwargs, or the defaults.

    Raises UserError for an environment without a demonstrator, or without slip.
    """
    try:
        return demonstrator(env_id).environment(**env_kwargs)
    except TypeError:
        raise UserError(f"environment {env_id}: has no dataset.slip; what goes wrong there is a matter of time") from None


def demonstrations(
    env_id: str, episodes: int, seed: int = 0, *, risky: float = 0.5, noise: float | None = None, **env_kwargs: Any
) -> Iterator[Episode]:
    """Play episodes of the scripted demonstrator of a task, with success labels.

    Each takes the risky way with probability `risky`. Normal noise of standard deviation `noise` (None: the task's) is
    added to the actions, which are then clipped to ±1. Episode i is a function of seed, i and the other arguments alone.
    Raises UserError for an environment without a demonstrator.
    """
    scripted = demonstrator(env_id)
    deviation = scripted.noise if noise is None else noise
    env = make_env(demonstrated_environment(env_id, **env_kwargs))
    try:
        for index in range(episodes):
            random = np.random.default_rng((seed, index))
            takes_the_risk = bool(random.random() < risky)
            start = int(random.integers(2**31))
            yield play_script(env, _noisy(scripted, takes_the_risk, deviation, random), start)
    finally:
        env.close()


def _noisy(scripted: Demonstrator, takes_the_risk: bool, deviation: float, random: np.random.Generator) -> Script:
    return lambda observation: scripted.act(observation, takes_the_risk) + deviation * random.standard_normal(2)
