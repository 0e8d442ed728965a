"""Operators of graded quality: one script of a task, carried out with more or less care.

An operator moves the hand slower than the script would, with noise, and at random moments goes astray, pauses, or lets go. The
script looks where things are in every step, and so recovers by itself. Actions [4] are an arm's: the hand's velocity, and the
gripper's effort.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.data.scripts import Script, play_script
from iwbc.data.trajectories import Episode
from iwbc.environments.gymnasium import make_env
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError

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
_STEPS = {"detour": 15, "pause": 10, "slip": 10}


def has_operators(env_id: str) -> bool:
    """Tell an environment whose demonstrations operators play: a task of Meta-World's."""
    return env_id.startswith("metaworld/")


def usual_operators(env_id: str) -> tuple[str, ...]:
    """Name the operators of a task: where what is taken away in haste may slip, a patient and a hasty operator."""
    return ("patient", "hasty") if "-hasty-" in env_id else ("careful", "average", "sloppy")


def manner(operator: Operator, script: Script, random: np.random.Generator) -> Script:
    """Make a script's actions for one episode those of an operator."""
    chances = (operator.detours, operator.pauses, operator.slips)
    fault, left, astray = "", 0, np.zeros(3)

    def act(observation: Any) -> npt.NDArray[np.float64]:
        nonlocal fault, left, astray
        wanted = np.asarray(script(observation), np.float64)
        # All is drawn in every step, so that what is drawn later depends on the number of steps alone.
        draws, way, noise = random.random(3), random.uniform(-1.0, 1.0, 3), random.standard_normal(3)
        if left == 0:
            begun = (kind for kind, draw, chance in zip(_STEPS, draws, chances, strict=True) if draw < chance)
            fault, astray = next(begun, ""), way
            left = _STEPS.get(fault, 1)
        left -= 1
        hand, gripper = np.clip(wanted[:3], -operator.speed, operator.speed), wanted[3]
        if fault == "detour":
            hand = operator.speed * astray
        elif fault == "pause":
            hand = np.zeros(3)
        elif fault == "slip":
            gripper = _OPEN
        return np.append(hand + operator.noise * noise, gripper)

    return act


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
        episode = play_script(env, manner(OPERATORS[name], script, random), int(random.integers(2**31)), (name,))
        if episode.success or attempts == 1:
            return episode
    raise UserError(f"the {name} operator failed {attempts} times in a row; give more time, with dataset.horizon=…")
