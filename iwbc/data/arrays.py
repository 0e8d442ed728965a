"""Arrays of steps → episodes, and a user's own arrays → trajectories or a Minari dataset."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.data.minari_source import load
from iwbc.data.minari_writer import write_minari
from iwbc.data.packed import open_packed, pack, warn_of_notes
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.environment_spec import EnvironmentSpec
from iwbc.environments import make_env, observation_parts
from iwbc.errors import UserError
from iwbc.files import NUMPY_DAMAGE
from iwbc.scores import d4rl_scores
from iwbc.spaces import is_vector, size_of


@dataclass(frozen=True)
class Steps:
    """N steps of episodes laid end to end, as arrays or as anything with a shape that is sliced like one (HDF5).

    Shapes: observations and next_observations [N, obs], actions [N, act], rewards, terminations and truncations [N],
    successes [N] or one per episode.
    """

    observations: Any
    actions: Any
    rewards: Any
    terminations: Any
    truncations: Any
    next_observations: Any = None
    successes: Any = None


def from_arrays(
    observations: npt.ArrayLike,
    actions: npt.ArrayLike,
    rewards: npt.ArrayLike,
    terminations: npt.ArrayLike,
    truncations: npt.ArrayLike,
    *,
    next_observations: npt.ArrayLike | None = None,
    successes: npt.ArrayLike | None = None,
    id: str | None = None,
    env_id: str | None = None,
    action_low: npt.ArrayLike | None = None,
    action_high: npt.ArrayLike | None = None,
    unfinished: str = "keep",
    clip_actions: bool = False,
    description: str = "Made from arrays.",
    author: str | None = None,
    algorithm_name: str | None = None,
) -> Trajectories:
    """The trajectories in N steps of episodes laid end to end; with an `id`, written as that local Minari dataset.

    observations [N, obs], actions [N, act] within action_low … action_high (default: those of `env_id`, else ±1),
    rewards [N]; an episode ends at each True of terminations [N] (the environment ended it) or truncations [N] (it was
    cut, by a time limit for example). A last episode that does neither is kept as if it were cut, or dropped
    (unfinished="drop"). next_observations [N, obs] give the observation after each episode's last action; without them
    its last observation stands for it, which only value estimates at a cut ever see. successes: a label per step (an
    episode is a success if one of its steps is) or per episode. description, author and algorithm_name are what Minari will
    say of the dataset.

    Raises UserError, naming dataset, episode and field, where the arrays are not fit to train on.
    """
    name = "from_arrays" if id is None else id
    given = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminations": terminations,
        "truncations": truncations,
        "next_observations": next_observations,
        "successes": successes,
    }
    steps = Steps(**{field: None if values is None else _array(name, field, values) for field, values in given.items()})
    info = describe(name, steps, env_id, action_low, action_high)
    if id is not None:
        write_minari(
            info,
            episodes(steps, info.id, unfinished),
            description=description,
            author=author,
            algorithm_name=algorithm_name,
            clip_actions=clip_actions,
        )
        return load(id)
    with tempfile.TemporaryDirectory() as folder:
        pack(episodes(steps, info.id, unfinished), info, Path(folder) / "packed", "", clip_actions)
        mapped = open_packed(Path(folder) / "packed")
        warn_of_notes(mapped)
        return dataclasses.replace(
            mapped,
            observations=np.array(mapped.observations),
            actions=np.array(mapped.actions),
            rewards=np.array(mapped.rewards),
            final_observations=np.array(mapped.final_observations),
        )


def _array(name: str, field: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError:
        raise UserError(f"dataset {name}, {field}: the rows differ in length; need one rectangular array") from None


def describe(
    name: str,
    steps: Steps,
    env_id: str | None = None,
    action_low: npt.ArrayLike | None = None,
    action_high: npt.ArrayLike | None = None,
) -> DatasetInfo:
    """Check the arrays' shapes against one another and against the environment's, and say what is known of the dataset."""
    _check_shapes(name, steps)
    observation_size, action_size = steps.observations.shape[1], steps.actions.shape[1]
    low: Any = -1.0
    high: Any = 1.0
    parts = None
    if env_id is not None:
        env: Any = make_env(env_id)
        flattened = observation_parts(env, env_id)
        parts = None if is_vector(env.observation_space) else flattened
        sizes = {
            "observations": (observation_size, size_of(flattened)),
            "actions": (action_size, gym.spaces.flatdim(env.action_space)),
        }
        for field, (given, wanted) in sizes.items():
            if given != wanted:
                raise UserError(
                    f"dataset {name}, {field}: have {given} values per step, {env_id}'s have {wanted}; "
                    "name another environment with env_id=…, or none with env_id=none"
                )
        low, high = env.action_space.low, env.action_space.high
    try:
        low = np.broadcast_to(np.asarray(low if action_low is None else action_low, np.float64), (action_size,))
        high = np.broadcast_to(np.asarray(high if action_high is None else action_high, np.float64), (action_size,))
    except ValueError:
        raise UserError(
            f"dataset {name}: action_low and action_high need one value, or one for each of the {action_size} dimensions"
        ) from None
    if not (low < high).all():
        raise UserError(f"dataset {name}: action_low={low.tolist()} must lie below action_high={high.tolist()}")
    return DatasetInfo(
        id=name,
        environment=None if env_id is None else EnvironmentSpec(env_id),
        action_low=low.tolist(),
        action_high=high.tolist(),
        reference_scores=d4rl_scores(env_id),
        observation_parts=parts,
    )


def _check_shapes(name: str, steps: Steps) -> None:
    def fail(field: str, problem: str) -> None:
        raise UserError(f"dataset {name}, {field}: {problem}")

    for field, array in vars(steps).items():
        if array is not None and array.dtype.kind not in "fiub":
            fail(field, f"must be numbers, not {array.dtype}")
    if steps.actions.dtype.kind != "f":
        fail(
            "actions",
            f"discrete actions ({steps.actions.dtype}) are not supported: need floating-point vectors [steps, actions]",
        )
    for field in ("observations", "actions", "next_observations"):
        array = getattr(steps, field)
        if array is not None and len(array.shape) != 2:
            fail(field, f"must be vectors, one row per step, but the array's shape is {tuple(array.shape)}")
    count = steps.actions.shape[0]
    if count == 0:
        fail("actions", "there are no steps")
    for field in ("observations", "rewards", "terminations", "truncations", "next_observations"):
        array = getattr(steps, field)
        if array is None:
            continue
        if len(array.shape) == 0 or array.shape[0] != count:
            fail(field, f"the array's shape is {tuple(array.shape)}, but there are {count} actions")
        if field in ("rewards", "terminations", "truncations") and tuple(array.shape[1:]) not in ((), (1,)):
            fail(field, f"must be one number per step, but the array's shape is {tuple(array.shape)}")
    if steps.next_observations is not None and steps.next_observations.shape != steps.observations.shape:
        fail("next_observations", f"have shape {steps.next_observations.shape}, observations {steps.observations.shape}")


def episodes(steps: Steps, name: str, unfinished: str) -> Iterator[Episode]:
    """The episodes, each read when its turn comes. `unfinished` says what becomes of a last one without an end."""
    terminated, truncated = (_flags(name, field, getattr(steps, field)) for field in ("terminations", "truncations"))
    ends = np.flatnonzero(terminated | truncated) + 1
    if unfinished == "keep" and (len(ends) == 0 or ends[-1] < len(terminated)):
        ends = np.append(ends, len(terminated))
    successes = _successes(steps.successes, name, ends, len(terminated))
    start = 0
    for index, end in enumerate(ends.tolist()):
        try:
            observations = steps.observations[start:end]
            # The observation after the last action is known only where next observations are.
            final = observations[-1] if steps.next_observations is None else steps.next_observations[end - 1]
            actions, rewards = steps.actions[start:end], steps.rewards[start:end].reshape(-1)
        except NUMPY_DAMAGE as error:
            raise UserError(f"dataset {name}, episode {index}: cannot be read ({error})") from None
        success = None if successes is None else bool(successes[index])
        yield Episode(observations, final, actions, rewards, bool(terminated[end - 1]), success)
        start = end


def _flags(name: str, field: str, array: Any) -> npt.NDArray[np.bool_]:
    try:
        values = np.asarray(array[:]).reshape(-1)
    except NUMPY_DAMAGE as error:
        raise UserError(f"dataset {name}, {field}: cannot be read ({error})") from None
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        step = int(np.flatnonzero(wrong)[0])
        raise UserError(f"dataset {name}, {field}: must be true or false (1 or 0), but step {step} holds {values[step]}")
    return values.astype(np.bool_)


def _successes(array: Any, name: str, ends: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.bool_] | None:
    if array is None:
        return None
    labels = _flags(name, "successes", array)
    if len(labels) == steps:
        return np.array([labels[start:end].any() for start, end in zip([0, *ends[:-1]], ends, strict=True)])
    if len(labels) != len(ends):
        raise UserError(
            f"dataset {name}, successes: there are {len(labels)}, for {steps} steps in {len(ends)} episodes; "
            "label each step or each episode"
        )
    return labels
