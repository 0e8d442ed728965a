"""Arrays of steps → episodes, and a user's arrays → trajectories or a Minari dataset."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.data.checks import action_bounds, checked_flags, notes_of_rewards
from iwbc.data.minari_source import load
from iwbc.data.minari_writer import write_minari
from iwbc.data.packed import open_packed, pack, warn_of_notes
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.environments.gymnasium import make_env, observation_parts
from iwbc.environments.scores import d4rl_scores
from iwbc.environments.spaces import Image, Part, is_vector, size_of
from iwbc.environments.spec import EnvironmentSpec, environment_spec
from iwbc.errors import UserError
from iwbc.system.files import NUMPY_DAMAGE

_OTHER_ENVIRONMENT = "name another environment with env_id=…, or none with env_id=none (in training dataset.env_id=…)"
_WITHOUT_LABELS = "; or leave them out (convert: successes=none)"


@dataclass(frozen=True)
class Steps:
    """N steps of episodes laid end to end, as arrays or as anything with a shape that is sliced like one (HDF5).

    Shapes: observations and next_observations [N, obs], actions [N, act], rewards, terminations, truncations and dones [N],
    successes [N] or one per episode. `images` are uint8 [N, …] by name. `unused` is a line that names the unused arrays of the
    source, if there are any, and `notes` are lines on those that are used.
    """

    observations: Any
    actions: Any
    rewards: Any = None
    terminations: Any = None
    truncations: Any = None
    dones: Any = None
    next_observations: Any = None
    successes: Any = None
    unused: str | None = None
    notes: Sequence[str] = ()
    images: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def arrays(self) -> dict[str, Any]:
        """Return the arrays that are not None, by name, without images."""
        others = ("unused", "notes", "images")
        return {name: array for name, array in vars(self).items() if name not in others and array is not None}


def from_arrays(
    observations: npt.ArrayLike | None,
    actions: npt.ArrayLike,
    rewards: npt.ArrayLike | None = None,
    terminations: npt.ArrayLike | None = None,
    truncations: npt.ArrayLike | None = None,
    *,
    dones: npt.ArrayLike | None = None,
    next_observations: npt.ArrayLike | None = None,
    successes: npt.ArrayLike | None = None,
    images: Mapping[str, npt.ArrayLike] | None = None,
    id: str | None = None,
    env_id: str | None = None,
    action_low: npt.ArrayLike | None = None,
    action_high: npt.ArrayLike | None = None,
    unfinished: str = "keep",
    clip_actions: bool = False,
    description: str = "Made from arrays.",
    author: str | None = None,
    algorithm_name: str | None = None,
    data_format: str = "hdf5",
) -> Trajectories:
    """Make trajectories of N steps of episodes laid end to end; with an `id`, write them as that local Minari dataset.

    observations [N, obs], actions [N, act] within action_low … action_high (default: those of `env_id`, else ±1),
    rewards [N]; an episode ends at each True of terminations [N] (the environment ended it) or truncations [N] (it was
    cut, by a time limit for example), and of dones [N], which say one or the other: there the environment ended it, unless
    terminations or truncations say otherwise. A last episode without an end is kept as if it were cut, or dropped
    (unfinished="drop"). next_observations [N, obs] give the observation after each episode's last action; without them
    the episode's last observation stands for it, which only value estimates at a cut ever see. successes: a label per step (an
    episode is a success if one of its steps is) or per episode. Without rewards the last step of a success is rewarded with 1,
    nothing else. images: uint8 [N, …] by name, for a policy of your own; observations may then be None, and `id` must
    be. description, author and algorithm_name become Minari's metadata. data_format: "hdf5" or, for many thousands of short
    episodes, "arrow".

    Raises UserError, naming dataset, episode and field, where the arrays are not fit to train on.
    """
    name = "from_arrays" if id is None else id
    fields = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminations": terminations,
        "truncations": truncations,
        "dones": dones,
        "next_observations": next_observations,
        "successes": successes,
    }
    arrays: dict[str, Any] = {field: _array(name, field, values) for field, values in fields.items() if values is not None}
    for field in ("observations", "actions"):
        if field not in arrays and not (field == "observations" and images):
            alone = "; observations may be missing beside images alone" if field == "observations" else ""
            raise UserError(f"dataset {name}, {field}: are missing; give vectors, one row per step{alone}")
    if images:
        if id is not None:
            raise UserError(f"dataset {id}, images: stay in memory, and are not written to a dataset; leave out id, or images")
        arrays["images"] = {key: _array(name, f"image {key}", image) for key, image in images.items()}
        arrays.setdefault("observations", np.zeros((*(arrays["actions"].shape[:1] or (0,)), 0), np.float32))
    steps = Steps(**arrays)
    info = describe(name, steps, env_id, action_low, action_high)
    if id is None:
        return in_memory(steps, info, unfinished, clip_actions)
    write_minari(
        info,
        episodes(steps, info.id, unfinished),
        description=description,
        author=author,
        algorithm_name=algorithm_name,
        clip_actions=clip_actions,
        data_format=data_format,
    )
    return load(id)


def in_memory(steps: Steps, info: DatasetInfo, unfinished: str = "keep", clip_actions: bool = False) -> Trajectories:
    """Make trajectories in memory of steps that `describe` has checked; nothing stays on disk."""
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
            images={name: np.array(image) for name, image in mapped.images.items()},
            final_images={name: np.array(image) for name, image in mapped.final_images.items()},
        )


def _array(name: str, field: str, values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):  # a tensor of PyTorch, which may have a gradient or lie on another device
        values = values.detach().cpu()
    if np.ma.is_masked(values):
        raise UserError(f"dataset {name}, {field}: some values are masked; fill them, or leave their steps out")
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        ragged = "inhomogeneous" in str(error)
        reason = "the rows differ in length; need one rectangular array" if ragged else f"cannot be made an array ({error})"
        raise UserError(f"dataset {name}, {field}: {reason}") from None


def describe(
    name: str,
    steps: Steps,
    env_id: str | None = None,
    action_low: npt.ArrayLike | None = None,
    action_high: npt.ArrayLike | None = None,
) -> DatasetInfo:
    """Check the arrays' shapes against one another and against the environment's, and return the dataset's description.

    env_id may name a module that registers the environment, module:Id; "none" is no environment.
    """
    _check_shapes(name, steps)
    images = [Image((key,), tuple(image.shape[1:])) for key, image in steps.images.items()]
    observation_size, action_size = steps.observations.shape[1], steps.actions.shape[1]
    low: Any = -1.0
    high: Any = 1.0
    parts = None
    environment = None if env_id == "none" else environment_spec(None, env_id, {}, None, ())
    if environment is not None:
        (flattened, seen), parts, actions = _spaces(environment)
        for field, size, expected in (
            ("observations", observation_size, size_of(flattened)),
            ("actions", action_size, len(actions.low)),
        ):
            if size != expected:
                raise UserError(
                    f"dataset {name}, {field}: have {size} values per step, {environment.id}'s have {expected}; "
                    f"{_OTHER_ENVIRONMENT}"
                )
        if images and {*map(str, images)} != {*map(str, seen)}:
            raise UserError(
                f"dataset {name}, images: are {', '.join(map(str, images))}; {environment.id}'s are "
                f"{', '.join(map(str, seen)) or 'none'}; {_OTHER_ENVIRONMENT}"
            )
        images = images and seen  # with their places in the environment's observations
        low, high = actions.low, actions.high
    low, high = action_bounds(
        name, action_size, low if action_low is None else action_low, high if action_high is None else action_high
    )
    return DatasetInfo(
        id=name,
        environment=environment,
        action_low=low.tolist(),
        action_high=high.tolist(),
        reference_scores=None if environment is None else d4rl_scores(environment.id),
        observation_parts=parts,
        notes=[*steps.notes, *notes_of_rewards(steps.rewards is not None, steps.successes is not None)],
        images=images,
    )


def _spaces(
    environment: EnvironmentSpec,
) -> tuple[tuple[list[Part], list[Image]], list[Part] | None, gym.spaces.Box]:
    """Return the parts that the environment's observations are flattened from, with its images; the parts again, or None where
    observations are vectors; and the action space. Raises UserError where observations cannot be flattened or actions are not
    continuous."""
    env = make_env(environment)
    observations, actions = env.observation_space, env.action_space
    env.close()
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1:
        raise UserError(
            f"environment {environment.id}: its actions are {actions}, not a vector of continuous ones; {_OTHER_ENVIRONMENT}"
        )
    try:
        parts, images = observation_parts(env, environment.id)
    except UserError as error:
        raise UserError(f"{error}; {_OTHER_ENVIRONMENT}") from None
    return (parts, images), None if is_vector(observations) else parts, actions


def _check_shapes(name: str, steps: Steps) -> None:
    def fail(field: str, problem: str) -> None:
        raise UserError(f"dataset {name}, {field}: {problem}")

    arrays = steps.arrays()
    for field, array in arrays.items():
        if array.dtype.kind not in "fiub":
            remedy = "; make them so with .astype(float)" if array.dtype.kind == "O" else ""
            fail(field, f"must be numbers, not {array.dtype}{remedy}")
    if steps.actions.dtype.kind != "f":
        fail(
            "actions",
            f"discrete actions ({steps.actions.dtype}) are not supported: need floating-point vectors [steps, actions]",
        )
    for field in ("observations", "actions", "next_observations"):
        if field in arrays and len(arrays[field].shape) != 2:
            fail(field, f"must be vectors, one row per step, but the array's shape is {tuple(arrays[field].shape)}")
    count = steps.actions.shape[0]
    if count == 0:
        fail("actions", "there are no steps")
    for field, array in arrays.items():
        if field == "successes" and len(array.shape) == 0:
            fail(field, f"must be one for each step or each episode, not a single {array[()]}")
        if field in ("actions", "successes"):
            continue
        if len(array.shape) == 0 or array.shape[0] != count:
            fail(field, f"the array's shape is {tuple(array.shape)}, but there are {count} actions")
        if not field.endswith("observations") and tuple(array.shape[1:]) not in ((), (1,)):
            fail(field, f"must be one number per step, but the array's shape is {tuple(array.shape)}")
    for key, image in steps.images.items():
        if image.dtype != np.uint8 or len(image.shape) < 2 or image.shape[0] != count:
            fail(f"image {key}", f"must be uint8 for each of {count} steps, not {image.dtype} of shape {tuple(image.shape)}")
    if steps.next_observations is not None and steps.next_observations.shape != steps.observations.shape:
        fail("next_observations", f"have shape {steps.next_observations.shape}, observations {steps.observations.shape}")


def episodes(steps: Steps, name: str, unfinished: str) -> Iterator[Episode]:
    """Read the episodes one by one. `unfinished` is "keep" or "drop", for a last episode without an end."""
    ends, terminated = ends_of(steps, name)
    count = len(terminated)
    if unfinished == "keep" and (len(ends) == 0 or ends[-1] < count):
        ends = np.append(ends, count)
    successes = _successes(steps.successes, name, ends, count)
    start = 0
    for index, end in enumerate(ends.tolist()):
        success = None if successes is None else bool(successes[index])
        try:
            observations = steps.observations[start:end]
            # Without next observations the observation after the last action is unknown.
            final = observations[-1] if steps.next_observations is None else steps.next_observations[end - 1]
            actions = steps.actions[start:end]
            images = {key: image[start:end] for key, image in steps.images.items()}
            if steps.rewards is None:
                rewards = np.zeros(end - start, np.float32)
                rewards[-1] = bool(success)
            else:
                rewards = steps.rewards[start:end].reshape(-1)
        except NUMPY_DAMAGE as error:
            raise UserError(f"dataset {name}, episode {index}: cannot be read ({error})") from None
        last = {key: image[-1] for key, image in images.items()}
        yield Episode(
            observations, final, actions, rewards, bool(terminated[end - 1]), success, images=images, final_images=last
        )
        start = end


def ends_of(steps: Steps, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the number of steps up to each end of an episode, and, for every step, whether the environment ended it there."""
    terminated, truncated, done = (
        np.zeros(len(steps.actions), np.bool_) if array is None else flags(name, field, array)
        for field, array in (("terminations", steps.terminations), ("truncations", steps.truncations), ("dones", steps.dones))
    )
    ends = np.flatnonzero(terminated | truncated | done) + 1
    return ends, done & ~truncated if steps.terminations is None else terminated


def flags(name: str, field: str, array: Any) -> npt.NDArray[np.bool_]:
    """Read a field of trues and falses as [n]. Raises UserError for a value that is neither."""
    try:
        values = np.asarray(array[:]).reshape(-1)
    except NUMPY_DAMAGE as error:
        raise UserError(f"dataset {name}, {field}: cannot be read ({error})") from None
    return checked_flags(values, f"dataset {name}, {field}", _WITHOUT_LABELS if field == "successes" else "")


def _successes(array: Any, name: str, ends: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.bool_] | None:
    if array is None:
        return None
    labels = flags(name, "successes", array)
    if len(labels) == steps:
        return np.array([labels[start:end].any() for start, end in zip([0, *ends[:-1]], ends, strict=True)])
    if len(labels) != len(ends):
        raise UserError(
            f"dataset {name}, successes: there are {len(labels)}, for {steps} steps in {len(ends)} episodes; "
            f"label each step or each episode{_WITHOUT_LABELS}"
        )
    return labels
