"""Operators of graded quality: one script of a task, carried out with more or less care.

An operator moves the hand slower than the script would, with noise, and at random moments goes astray, pauses, or lets go. The
script looks where things are in every step, and so recovers by itself. Actions are rounded to a grid, on which the last bits of
a sum do not show: a simulator makes another trajectory of another last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.data.behaviours import ACTION_GRID, on_grid
from iwbc.data.trajectories import Episode
from iwbc.environments.gymnasium import make_env, reported_success
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError

Vector = npt.NDArray[np.floating]
Script = Callable[[Any], Vector]  # from an observation to an action [4]: the hand's velocity [3] and the gripper's effort

_OPEN = -1.0  # of the gripper's effort
_ATTEMPTS = 100  # in a row without a success, after which no success is waited for


@dataclass(frozen=True)
class Operator:
    """A person's manner. speed: of the hand along each axis, at most. noise: the standard deviation of its actions.

    detours, pauses, slips: the probability, in each step, that one begins: the hand goes somewhere else for 15 steps, stays for
    10, or opens for 10.
    """

    speed: float
    noise: float
    detours: float = 0.0
    pauses: float = 0.0
    slips: float = 0.0


OPERATORS = {
    "careful": Operator(0.6, 0.05),
    "average": Operator(0.6, 0.2, detours=0.01),
    "sloppy": Operator(0.6, 0.3, detours=0.015, pauses=0.02, slips=0.01),
    "patient": Operator(0.4, 0.05),
    "hasty": Operator(1.0, 0.05),
}
_DETOUR, _PAUSE, _SLIP = 15, 10, 10  # steps


def has_operators(env_id: str) -> bool:
    """Tell an environment whose demonstrations operators play: a task of Meta-World's."""
    return env_id.startswith("metaworld/")


def usual_operators(env_id: str) -> tuple[str, ...]:
    """Name the operators of a task: where what is taken away in haste may slip, a patient and a hasty operator."""
    return ("patient", "hasty") if "-hasty-" in env_id else ("careful", "average", "sloppy")


def manner(operator: Operator, script: Script, random: np.random.Generator) -> Script:
    """Make a script's actions for one episode those of an operator."""
    left = {"detour": 0, "pause": 0, "slip": 0}
    astray = np.zeros(3)

    def act(observation: Any) -> Vector:
        nonlocal astray
        wanted = np.asarray(script(observation), np.float64)
        # All is drawn in every step, so that what comes later depends on the number of steps alone.
        begins, way, noise = random.random(3), random.uniform(-1.0, 1.0, 3), random.standard_normal(3)
        if not any(left.values()):
            if begins[0] < operator.detours:
                left["detour"], astray = _DETOUR, way
            elif begins[1] < operator.pauses:
                left["pause"] = _PAUSE
            elif begins[2] < operator.slips:
                left["slip"] = _SLIP
        hand, gripper = np.clip(wanted[:3], -operator.speed, operator.speed), wanted[3]
        if left["detour"]:
            hand = operator.speed * astray
        if left["pause"]:
            hand = np.zeros(3)
        if left["slip"]:
            gripper = _OPEN
        left.update({kind: max(steps - 1, 0) for kind, steps in left.items()})
        return np.append(hand + operator.noise * noise, gripper)

    return act


def play(env: gym.Env[Any, Any], act: Script, seed: int, groups: tuple[str, ...] = ()) -> Episode:
    """Play one episode from a seed, with actions clipped to the action space."""
    space: Any = env.action_space
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards = [observation], [], []
    over, terminated, success = False, False, False
    while not over:
        action = np.clip(on_grid(act(observation), ACTION_GRID), space.low, space.high).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        success = success or reported_success(info, "environment") == 1.0
        over = terminated or truncated
    steps = np.stack(observations)
    return Episode(steps[:-1], steps[-1], np.stack(actions), np.array(rewards), bool(terminated), success, groups)


def operated(
    environment: EnvironmentSpec,
    script: Script,
    names: Sequence[str],
    episodes: int,
    seed: int = 0,
    *,
    successes_only: bool = False,
) -> Iterator[Episode]:
    """Play episodes by the named operators in turn, each of which is a group, with success labels.

    successes_only: an operator who fails tries again, from another state. Episode i is a function of seed, i and the other
    arguments but `episodes`. Raises UserError where an operator never succeeds.
    """
    env = make_env(environment)
    try:
        for index in range(episodes):
            yield _episode(env, script, names[index % len(names)], (seed, index), _ATTEMPTS if successes_only else 1)
    finally:
        env.close()


def _episode(env: gym.Env[Any, Any], script: Script, name: str, entropy: tuple[int, int], attempts: int) -> Episode:
    for attempt in range(attempts):
        random = np.random.default_rng((*entropy, attempt))
        episode = play(env, manner(OPERATORS[name], script, random), int(random.integers(2**31)), (name,))
        if episode.success or attempts == 1:
            return episode
    raise UserError(f"the {name} operator failed {attempts} times in a row; give more time, with dataset.horizon=…")
