"""Curated trajectories → robomimic's HDF5: all episodes as data/demo_N, and filter keys that tell which are kept.

robomimic trains on the demonstrations of one filter key, mask/<name>, or on several with a weight each; it reads no weight of
a demonstration. So each group of the data becomes a filter key, `kept` is the curation's, and where few weights differ each
has a filter key of its own, `weight_<number>`. The attribute `weight` of every data/demo_N is for other readers.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.data.checks import leave_out_images
from iwbc.data.curated import Curated
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.spaces import size_of
from iwbc.errors import warn
from iwbc.system.files import appearing
from iwbc.system.progress import tracked

KEPT = "kept"
# The key of observations that are one vector, as robomimic calls those of Gymnasium's environments.
_VECTOR = "flat"
_NONE, _ROBOSUITE, _GYM = 0, 1, 2  # robomimic's EnvType, which has no 0
_PACKAGE = "robosuite/"  # what the ids of robosuite's environments begin with
_MARGIN = 32 * 2**20  # bytes that stay free, because HDF5 writes some later
# Each number of weights is one more dataset that robomimic opens.
_FEW = 10


def write_robomimic(curated: Curated, out: Path) -> None:
    """Write every trajectory in robomimic's layout to the file `out`, which appears whole or not at all.

    data/demo_i is trajectory i, with obs/<key> [T, …], next_obs/<key>, actions [T, act], rewards [T] and dones [T] as float64;
    dones are 1 where the environment ended the episode. Attributes: num_samples, weight, and success where it is labelled.

    Raises OSError where the file cannot be written. Gives a DataWarning where actions are outside ±1, which robomimic's tools
    refuse, where rewards do not say which episodes succeed, and where a group has the name of a filter key that the curation
    writes.
    """
    import h5py

    data = curated.trajectories
    leave_out_images(data.info, data.observations.shape[1])
    scales = data.action_scales
    if scales.lowest.min() < -1.0 or scales.highest.max() > 1.0:
        warn(
            f"dataset {data.info.id}: actions reach from {scales.lowest.min():g} to {scales.highest.max():g}; robomimic wants "
            "-1 to 1, or train.action_config.actions.normalization=min_max in its configuration"
        )
    if data.successes is not None:
        rewarded = np.maximum.reduceat(data.steps_of(data.rewards), data.offsets[:-1]) > 0.0
        if count := int((rewarded != data.successes).sum()):
            warn(
                f"dataset {data.info.id}: robomimic takes a reward above 0 for success, which is not the label of {count:,} of "
                f"{len(data):,} episodes; the attribute success of each is"
            )
    parts = observation_keys(data.info, data.observations.shape[1])
    with appearing(out) as building, h5py.File(building, "w") as file:
        demos = file.create_group("data")
        demos.attrs["total"] = data.steps
        demos.attrs["env_args"] = json.dumps(env_args(data.info))
        for index, episode in enumerate(tracked(data, f"Writing {out.name}", len(data))):
            _take_room(building, episode)
            demo = demos.create_group(f"demo_{index}")
            _write(demo, episode, parts)
            demo.attrs["weight"] = curated.curation_weights[index]
        for name, indices in filter_keys(curated).items():
            file.create_dataset(f"mask/{name}", data=np.array([f"demo_{index}" for index in indices], "S"))


def observation_keys(info: DatasetInfo, size: int) -> dict[str, tuple[slice, tuple[int, ...]]]:
    """Return the columns of the observations' vectors that each key of obs/ holds, and the shape of a step's array."""
    parts = info.observation_parts
    if parts is None or size_of(parts) != size or not all(part.name for part in parts):
        return {_VECTOR: (slice(0, size), (size,))}
    keys: dict[str, tuple[slice, tuple[int, ...]]] = {}
    start = 0
    for part in parts:
        key = plain = part.name.replace("/", "_")  # a slash would make a group
        number = 2
        while key in keys:
            key, number = f"{plain}_{number}", number + 1
        shape = part.shape if part.choices is None and part.shape else (part.size,)
        keys[key] = (slice(start, start + part.size), shape)
        start += part.size
    return keys


def env_args(info: DatasetInfo) -> dict[str, Any]:
    """Describe the environment as robomimic does: by a name and a type that it cannot make where the dataset names none."""
    spec = info.environment
    if spec is None:
        return {"env_name": "none", "type": _NONE, "env_kwargs": {}}
    if spec.id.startswith(_PACKAGE):
        # Keys and images are a choice of iwbc's environment, which robosuite does not know.
        kwargs = {name: value for name, value in spec.kwargs.items() if name not in ("observation_keys", "images")}
        return {"env_name": spec.id.removeprefix(_PACKAGE), "type": _ROBOSUITE, "env_kwargs": kwargs}
    return {"env_name": spec.id, "env_version": gym.__version__, "type": _GYM, "env_kwargs": spec.kwargs}


def filter_keys(curated: Curated) -> dict[str, list[int]]:
    """List the trajectories of each filter key: `kept`, weight_<number> where few weights differ, and the data's groups."""
    data, weights = curated.trajectories, curated.curation_weights
    keys = {KEPT: curated.kept.tolist()}
    keys |= {name: np.flatnonzero(weights == weight).tolist() for name, weight in weight_keys(curated).items()}
    for column, group in enumerate(data.info.groups if data.groups is not None else ()):
        name = group.replace("/", "_")
        if name in keys:
            warn(f"dataset {data.info.id}, group {group}: is left out, because the filter key {name} is written already")
        else:
            assert data.groups is not None
            keys[name] = np.flatnonzero(data.groups[:, column]).tolist()
    return keys


def weight_keys(curated: Curated) -> dict[str, float]:
    """Name a filter key for each weight of the kept trajectories; none where they are all alike, or too many differ."""
    different = np.unique(curated.curation_weights[curated.kept]).tolist()
    names = {f"weight_{weight:g}": weight for weight in different}
    return names if len(names) == len(different) and 1 < len(different) <= _FEW else {}


def _write(demo: Any, episode: Episode, parts: dict[str, tuple[slice, tuple[int, ...]]]) -> None:
    steps = len(episode.rewards)
    following = np.concatenate([episode.observations[1:], episode.final_observation[None]])
    dones = np.zeros(steps)
    dones[-1] = episode.terminated
    demo.attrs["num_samples"] = steps
    if episode.success is not None:
        demo.attrs["success"] = episode.success
    demo.create_dataset("actions", data=_double(episode.actions))
    demo.create_dataset("rewards", data=_double(episode.rewards))
    demo.create_dataset("dones", data=dones)
    for group, observations in (("obs", episode.observations), ("next_obs", following)):
        for key, (columns, shape) in parts.items():
            demo.create_dataset(f"{group}/{key}", data=_double(observations[:, columns]).reshape(steps, *shape))


def _double(array: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return array.astype(np.float64)


def _take_room(path: Path, episode: Episode) -> None:
    """Raise OSError where the disk lacks the room for an episode: HDF5 crashes the process when it cannot write."""
    size = 8 * (2 * episode.observations.size + episode.actions.size + 2 * episode.rewards.size)
    if shutil.disk_usage(path.parent).free < _MARGIN + 2 * size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
