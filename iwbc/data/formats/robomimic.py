"""robomimic's HDF5 files → episodes; MimicGen, RoboCasa and LIBERO write them, too.

data.attrs: env_args (JSON), total         data/demo_N.attrs: num_samples; success, true or false, in all demos
                                           or none: it is the label, whatever the rewards
LIBERO's data.attrs: problem_info (JSON) with language_instruction, bddl_file_name: the task, a group
data/demo_N/actions [T, act]               within ±1
data/demo_N/rewards [T], dones [T]         of the state after the action; where all in the file are 0 or 1, a success has
                                           a 1; where none is, or others are (dense ones), success is unknown
data/demo_N/obs/<key> [T, …]
data/demo_N/next_obs/<key> [T, …]          optional: its last row is the observation after the last action, unless it is a
                                           copy of obs in the whole file
mask/<name>                                names of demos, b"demo_7": the groups
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from iwbc.data.checks import notes_of_rewards
from iwbc.data.formats.reading import (
    DAMAGE,
    NO_FINAL,
    TASK,
    actions_of,
    bounds,
    chosen_keys,
    flags_of,
    frames,
    images_note,
    is_read,
    mapping,
    missing_key,
    none_usual,
    part_of,
    printable,
    reading,
    rewards_of,
    rows,
    successes_of,
    unused_note,
    vectors,
)
from iwbc.data.hdf5 import Unwritten, groups_in_turns, holds, open_array, open_group, read_array
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.robosuite import HORIZONS, spec_of
from iwbc.environments.spaces import Image, Part, divided
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError, listed
from iwbc.settings import Robomimic
from iwbc.system.files import parse_json
from iwbc.system.progress import tracked

# Bump when reading the same file gives other episodes, or notes, than before.
READER = 6
_DEMO = re.compile(r"demo_\d+")
# The low-dimensional observations of robomimic's study.
_STUDY = re.compile(r"object|robot\d+_(eef_pos|eef_quat|gripper_qpos)")
_SCENE = re.compile(r"[A-Z_]+SCENE\d+_")  # what LIBERO's names of files begin with
_NEAR = 1e-6  # how far a reward of 0 or 1 may be from it
_RAW = (
    "has no obs: it holds simulator states alone; write observations with robomimic first, python "
    "robomimic/scripts/dataset_states_to_obs.py --dataset {path} --output_name low_dim.hdf5 --done_mode 2"
)


def files(path: Path) -> list[Path]:
    """List the files that a dataset is read from."""
    return [path]


def read(path: Path, dataset_id: str, settings: Robomimic) -> tuple[Iterator[Episode], DatasetInfo]:
    """Look at the whole file, and return its episodes and its description.

    Raises UserError, also as the episodes are read, where it is not fit to train on.
    """
    import h5py

    with reading(str(path)), h5py.File(path, "r") as file:
        root = file["/"].id
        data = open_group(root, "data")
        attributes = h5py.Group(data).attrs
        demos = _demos(path, data)
        first = open_group(data, demos[0])
        _check_parts(path, data, demos)
        actions = open_array(first, "actions").shape
        # Each observation, with the first demo that has it.
        there = {key: name for name in reversed(demos) for key in _names(open_group(data, f"{name}/obs"))}
        kinds = {key: _is_offered(data, f"{name}/obs/{key}") for key, name in there.items()}
        offered, pictures, others = ([key for key in kinds if kinds[key] is kind] for kind in (True, False, None))
        keys = chosen_keys(settings.observation_keys) or sorted(filter(_STUDY.fullmatch, there))
        if not keys:
            raise none_usual(f"{path}: none of its observations is one of the study's", pictures, offered)
        if missing := [key for key in keys if key not in there]:
            raise missing_key(f"{path}, data/demo_N/obs", missing[0], offered)
        parts, images = divided([_part(path, data, key, there) for key in keys])
        _check_keys(path, data, demos, keys)
        masks = _masks(path, root, demos)
        if task := _task(attributes):
            masks.setdefault(f"{TASK}{task}", frozenset(demos))
        env_args = _env_args(path, attributes)
        total, count = attributes.get("total"), sum(_length(path, data, name) for name in demos)
        rewarded = holds(first, "rewards")
        successes, without_labels = _successes(path, data, demos)
        notes = notes_of_rewards(rewarded, successes is not None) + unused_note([name for name in offered if name not in keys])
        notes += images_note([name for name in pictures if name not in keys])
        notes += (
            [f"not read of its observations, since they are no arrays: {listed(sorted(map(printable, others)))}"]
            if others
            else []
        )
        notes += without_labels
        if total is not None and int(total) != count:
            notes.append(f"its attribute total says {int(total):,} steps, its demos have {count:,}, which are all read")
        if not all(holds(open_group(data, name), "next_obs") for name in demos):
            notes.append(NO_FINAL)
        elif all(_is_copied(path, data, name, keys) for name in demos):
            notes.append(
                "its next_obs is a copy of its obs in every demo: the last observation stands for that after an episode's last "
                "action, which only value estimates at a cut see"
            )

    if len(actions) != 2:
        raise UserError(f"{path}, data/{demos[0]}/actions: has shape {actions}; need vectors, [steps, actions]")
    low, high = bounds(dataset_id, settings, -1.0, 1.0, actions[1])
    info = DatasetInfo(
        id=dataset_id,
        environment=_environment(path, env_args, [part.name for part in parts], images, masks),
        action_low=low,
        action_high=high,
        reference_scores=None,
        observation_parts=parts or None,
        images=images,
        notes=notes,
        groups=sorted(masks),
        fps=_fps(env_args),
    )
    return _episodes(path, dataset_id, demos, parts, images, masks, actions[1], successes, info.notes), info


def names(path: Path) -> list[str]:
    """List the names of a file's demos in the order in which they are read. Raises UserError where they cannot be."""
    import h5py

    with reading(str(path)), h5py.File(path, "r") as file:
        return _demos(path, open_group(file["/"].id, "data"))


def _names(group: Any) -> list[str]:
    return [name.decode(errors="replace") for name in group]


def _demos(path: Path, data: Any) -> list[str]:
    """List the demos in the order of their numbers; HDF5 lists demo_10 before demo_2."""
    names = _names(data)
    if other := [name for name in names if not _DEMO.fullmatch(name)]:
        raise UserError(f"{path}, data/{printable(other[0])}: is no demo_N; only those are read")
    if not names:
        raise UserError(f"{path}, data: it holds no episodes")
    return sorted(names, key=lambda name: int(name[5:]))


def _check_parts(path: Path, data: Any, demos: Sequence[str]) -> None:
    """Raise UserError unless all demos have actions and observations, and all or none have rewards and dones."""
    there = {name: set(_names(open_group(data, name))) for name in demos}
    for name, parts in there.items():
        if "obs" not in parts:
            raise UserError(f"{path}, data/{name}: {_RAW.format(path=path)}")
        for field in ("actions", "rewards", "dones"):
            if field not in parts and (field == "actions" or any(field in others for others in there.values())):
                others = "" if field == "actions" else ", which other demos have"
                raise UserError(f"{path}, data/{name}: has no {field}{others}")


def _is_offered(data: Any, place: str) -> bool | None:
    """Tell arrays that can be read from images that cannot; None for a group, and for what cannot be opened."""
    try:
        field = open_array(data, place)
    except DAMAGE:
        return None
    return is_read(field.shape[1:], field.dtype)


def _check_keys(path: Path, data: Any, demos: Sequence[str], keys: Sequence[str]) -> None:
    """Raise UserError unless all demos have these observations."""
    for name in demos:
        demo = open_group(data, name)
        for source, others in (("obs", "other demos have"), ("next_obs", "its obs has")):
            if holds(demo, source) and (missing := sorted(set(keys).difference(_names(open_group(demo, source))))):
                raise UserError(f"{path}, data/{name}: has no {source}/{missing[0]}, which {others}")


def _successes(path: Path, data: Any, demos: Sequence[str]) -> tuple[list[bool] | None, list[str]]:
    """Read each demo's label of success, from its attribute or its rewards; None, with a note, where rewards do not tell."""
    import h5py

    said = {name: h5py.Group(open_group(data, name)).attrs.get("success") for name in demos}
    if (labels := successes_of(said, f"{path}, data/", "demos")) is not None:
        return labels, []
    if not holds(open_group(data, demos[0]), "rewards"):
        return None, []
    successes, sparse, above = [], True, False
    for name in demos:
        with reading(f"{path}, data/{name}/rewards"):
            rewards = read_array(data, f"{name}/rewards").astype(np.float64)
            sparse &= bool((np.minimum(np.abs(rewards), np.abs(rewards - 1.0)) <= _NEAR).all())
            above |= bool((rewards > _NEAR).any())
            successes.append(bool((rewards > 0.5).any()))
    if sparse and above:
        return successes, []
    if above:
        why = "its rewards are not 0 and 1 alone: they are dense, and do not mark a success"
    else:
        why = "none of its rewards is above 0, which is what marks a success: they are dense, or nobody succeeded"
    return None, [f"{why}; it has no labels of success"]


def _is_copied(path: Path, data: Any, name: str, keys: Sequence[str]) -> bool:
    """Tell whether a demo's next_obs is its obs, which a robot that moves cannot have observed."""
    with reading(f"{path}, data/{name}"):
        return all(
            np.array_equal(read_array(data, f"{name}/obs/{key}"), read_array(data, f"{name}/next_obs/{key}")) for key in keys
        )


def _part(path: Path, data: Any, key: str, there: Mapping[str, str]) -> Part:
    where = f"{path}, data/{there[key]}/obs/{key}"
    with reading(where):
        field = open_array(data, f"{there[key]}/obs/{key}")
        return part_of(where, [key], field.shape[1:], field.dtype)


def _length(path: Path, data: Any, name: str) -> int:
    """Return the number of a demo's steps. Raises UserError where its attribute says another."""
    import h5py

    group = open_group(data, name)
    length = int(open_array(group, "actions").shape[0])
    samples = h5py.Group(group).attrs.get("num_samples", length)
    if int(samples) != length:
        raise UserError(f"{path}, data/{name}: its attribute num_samples says {samples} steps, its actions have {length}")
    return length


def _masks(path: Path, root: Any, demos: Sequence[str]) -> dict[str, frozenset[str]]:
    """Read the filter keys, by their names. Raises UserError where one names a demo that is not there."""
    if not holds(root, "mask"):
        return {}
    mask, masks = open_group(root, "mask"), {}
    for name in _names(mask):
        if name != printable(name):
            raise UserError(f"{path}, mask/{printable(name)}: its name cannot be printed on a line; rename it")
        values = read_array(mask, name).reshape(-1).tolist()
        masks[name] = frozenset(value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values)
        if unknown := masks[name].difference(demos):
            raise UserError(f"{path}, mask/{name}: names {printable(min(unknown))}, which is not in data")
    return masks


def _task(attributes: Any) -> str | None:
    """Return the task in words that LIBERO's files tell, by themselves or by the name of the task's file; None where none is
    told."""
    with contextlib.suppress(*DAMAGE):
        words = parse_json(_text(attributes["problem_info"]))["language_instruction"]
        return printable(words if isinstance(words, str) else " ".join(words)) or None
    with contextlib.suppress(*DAMAGE):
        return printable(_SCENE.sub("", PurePosixPath(_text(attributes["bddl_file_name"])).stem).replace("_", " ")) or None
    return None


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _env_args(path: Path, attributes: Any) -> Mapping[str, Any]:
    with reading(f"{path}, env_args of data"):
        return mapping(parse_json(_text(attributes.get("env_args", "{}"))), f"{path}, env_args of data")


def _environment(
    path: Path, env_args: Mapping[str, Any], keys: Sequence[str], images: Sequence[Image], masks: Mapping[str, Any]
) -> EnvironmentSpec | None:
    """Describe the file's environment, with the study's horizon: the longer one where filter keys tell better people from worse
    ones."""
    if "env_name" not in env_args:
        return None
    several = HORIZONS.get(str(env_args["env_name"]), (None, None))[1] if {"better", "worse"} & set(masks) else None
    try:
        return spec_of(env_args, keys, several, images)
    except UserError as error:
        raise UserError(f"{path}, {error}") from None


def _fps(env_args: Mapping[str, Any]) -> float | None:
    kwargs = env_args.get("env_kwargs")
    rate = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
    return float(rate) if isinstance(rate, int | float) and 0 < rate < np.inf else None


def _episodes(
    path: Path,
    dataset_id: str,
    demos: Sequence[str],
    parts: Sequence[Part],
    images: Sequence[Image],
    masks: Mapping[str, frozenset[str]],
    action_size: int,
    successes: Sequence[bool] | None,
    notes: list[str],
) -> Iterator[Episode]:
    unwritten = Unwritten()
    groups = groups_in_turns(path, [f"data/{name}" for name in demos])
    for index, name in enumerate(tracked(demos, f"Reading {dataset_id}", len(demos))):
        where = f"{path}, data/{name}"
        with reading(where):
            group = next(groups)

            def read(key: str, group: Any = group) -> Any:
                return read_array(group, key, unwritten)

            actions = actions_of(read("actions"), f"{where}/actions", action_size)
            steps = len(actions)

            def observations(source: str, read: Any = read, where: str = where, steps: int = steps) -> Any:
                keys = {f"{source}/{part.name}": part.shape for part in parts}
                return vectors([rows(read(key), f"{where}/{key}", steps, shape) for key, shape in keys.items()], steps)

            def films(source: str, read: Any = read, where: str = where, steps: int = steps) -> dict[str, Any]:
                keys = {f"{source}/{image.name}": image for image in images}
                return {image.name: frames(read(key), f"{where}/{key}", steps, image) for key, image in keys.items()}

            seen, shown = observations("obs"), films("obs")
            following, follow = (observations("next_obs"), films("next_obs")) if holds(group, "next_obs") else (seen, shown)
            rewards = rows(read("rewards"), f"{where}/rewards", steps) if holds(group, "rewards") else None
            dones = flags_of(read("dones"), f"{where}/dones", steps) if holds(group, "dones") else None
        if not steps:
            raise UserError(f"{where}/actions: the episode is empty (0 steps)")
        success = None if successes is None else successes[index]
        yield Episode(
            seen,
            following[-1],
            actions,
            rewards_of(steps, success) if rewards is None else rewards,
            dones is not None and bool(dones[-1]),
            success,
            tuple(mask for mask in sorted(masks) if name in masks[mask]),
            shown,
            {name: film[-1] for name, film in follow.items()},
        )
    notes.extend(unwritten.notes())
