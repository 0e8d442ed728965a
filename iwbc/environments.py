"""Gymnasium environments: made quietly, by registered name only, and played many at once."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.errors import UserError


def _mujoco_warning(message: str | bytes) -> None:
    """Pass MuJoCo's warnings on, except the one about Gymnasium's own half_cheetah.xml, which no user can act on."""
    text = message.decode() if isinstance(message, bytes) else message
    if "settotalmass" not in text:
        import warnings

        warnings.warn(f"MuJoCo: {text.strip()}", RuntimeWarning, stacklevel=2)


def make_env(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> gym.Env[Any, Any]:
    """One environment of a name registered with Gymnasium. Raises UserError where it is not installed."""
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module("mujoco").set_mju_user_warning(_mujoco_warning)
        return gym.make(env_id, disable_env_checker=True, **(env_kwargs or {}))
    except (gym.error.Error, ImportError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"environment {env_id}: cannot be made ({reason})") from None


@dataclass(frozen=True)
class Step:
    """One step of the environments still playing. k of them: `active` [k] are their indices.

    observations [k, obs] and actions [k, act] are what was acted on and how; next_observations [k, obs] what followed.
    """

    active: npt.NDArray[np.int64]
    observations: npt.NDArray[np.floating]
    actions: npt.NDArray[np.floating]
    rewards: npt.NDArray[np.float64]
    next_observations: npt.NDArray[np.floating]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]


def play(
    envs: Sequence[gym.Env[Any, Any]],
    act: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.floating]],
    seeds: Sequence[int],
) -> Iterator[Step]:
    """Play one episode in each environment, in lock step, and yield the steps.

    `act` maps the observations of all environments [n, obs] to actions [n, act]; it always sees all rows, so that its
    arithmetic does not depend on which episodes are over. An environment whose episode is over is not stepped again
    (Gymnasium's vector environments would reset it and play on). Observations are flattened by Gymnasium's `flatten`.
    """
    space = envs[0].observation_space
    plain = isinstance(space, gym.spaces.Box) and len(space.shape) == 1

    def vector(observation: Any) -> npt.NDArray[np.floating]:
        return np.asarray(observation if plain else gym.spaces.flatten(space, observation))

    current = np.stack([vector(env.reset(seed=seed)[0]) for env, seed in zip(envs, seeds, strict=True)])
    active = np.arange(len(envs))
    low, high = envs[0].action_space.low, envs[0].action_space.high  # type: ignore[attr-defined]
    while len(active):
        actions = act(current)[active]
        results = [envs[int(i)].step(action) for i, action in zip(active, np.clip(actions, low, high), strict=True)]
        following = np.stack([vector(result[0]) for result in results])
        step = Step(
            active=active,
            observations=current[active],
            actions=actions,
            rewards=np.array([result[1] for result in results], np.float64),
            next_observations=following,
            terminated=np.array([result[2] for result in results], np.bool_),
            truncated=np.array([result[3] for result in results], np.bool_),
        )
        yield step
        current[active] = following
        active = active[~(step.terminated | step.truncated)]
