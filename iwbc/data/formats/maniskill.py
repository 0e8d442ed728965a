"""ManiSkill's trajectories → episodes: NAME.h5 with NAME.json beside it.

NAME.json             env_info {env_id, env_kwargs, max_episode_steps}, episodes [{episode_id, elapsed_steps, success, …}]
traj_<id>/actions     [T, act] within ±1 for controllers of differences; other controllers have bounds that no file says
traj_<id>/obs         [T + 1, obs], or groups of arrays [T + 1, …], flattened in the order of the alphabet
traj_<id>/rewards     [T], optional
traj_<id>/terminated, truncated, success   [T]; a success succeeds at any step
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iwbc.data.checks import notes_of_rewards
from iwbc.data.formats.reading import (
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
    widened,
)
from iwbc.data.hdf5 import Unwritten, check_links, groups_in_turns, holds, open_array, open_group, read_array
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.spaces import Image, Part, divided
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.settings import ManiSkill
from iwbc.system.files import read_json
from iwbc.system.progress import tracked

# Bump when reading the same files gives other episodes, or notes, than before.
READER = 5
_DIFFERENCES = re.compile(r"pd_(ee|joint)_(target_)?delta_\w+")  # controllers whose actions are normalised
_TRAJECTORY = re.compile(r"traj_\d+")
_NO_OBSERVATIONS = (
    "has no obs: it was recorded with obs_mode none; write observations first, python -m "
    "mani_skill.trajectory.replay_trajectory --traj-path {path} -o state --save-traj"
)


def files(path: Path) -> list[Path]:
    """List the files that a dataset is read from."""
    return [path, *(file for file in [path.with_suffix(".json")] if file.is_file())]


def read(path: Path, dataset_id: str, settings: ManiSkill) -> tuple[Iterator[Episode], DatasetInfo]:
    """Look at the whole file, and return its episodes and its description.

    Raises UserError, also as the episodes are read, where it is not fit to train on.
    """
    import h5py

    described = path.with_suffix(".json")
    if not described.is_file():
        raise UserError(f"{path}: its {described.name} is not beside it, which ManiSkill writes with it")
    with reading(str(described)):
        metadata = mapping(read_json(described), str(described))
        env_info = mapping(metadata.get("env_info"), f"{described}, env_info")
        environment, fps = _environment(env_info)
        episodes: dict[str, dict[str, Any]] = {}
        for episode in metadata["episodes"]:
            number = int(episode["episode_id"])
            if f"traj_{number}" in episodes:
                raise UserError(f"{described}, episodes: episode_id {number} is there twice; remove the one that is wrong")
            episodes[f"traj_{number}"] = dict(episode)
    with reading(str(path)), h5py.File(path, "r") as file:
        root = file["/"].id
        names = _trajectories(path, root, episodes)
        there = {name: {part.decode(errors="replace") for part in open_group(root, name)} for name in names}
        first = open_group(root, names[0])
        _check_parts(path, there, first)
        parts, images, notes = _parts(path, names[0], first, settings)
        actions = open_array(first, "actions").shape
        if len(actions) != 2:
            raise UserError(f"{path}, {names[0]}/actions: has shape {actions}; need vectors, [steps, actions]")
        of_environment = (env_info.get("env_kwargs") or {}).get("control_mode") or "unknown"
        controllers = sorted({printable(episodes[name].get("control_mode") or of_environment) for name in names})
        low, high, noted = _action_bounds(path, dataset_id, root, names, controllers, actions[1], settings)
    labels = None  # of the json, where the file has none of each step
    if "success" not in there[names[0]]:
        labels = successes_of({name: episodes[name].get("success") for name in names}, f"{described}, ", "episodes")
    labelled = "success" in there[names[0]] or labels is not None
    if len(controllers) > 1:
        notes.append(f"its episodes have several control modes ({', '.join(controllers)}), whose actions mean different things")
    info = DatasetInfo(
        id=dataset_id,
        environment=environment,
        action_low=low,
        action_high=high,
        reference_scores=None,
        observation_parts=None if [part.path for part in parts] == [()] else parts or None,
        images=images,
        notes=[*notes, *noted, *notes_of_rewards("rewards" in there[names[0]], labelled)],
        fps=fps,
    )
    chosen = {name: episodes[name] for name in names}
    return _episodes(path, dataset_id, chosen, parts, images, labels, actions[1], info.notes), info


def _action_bounds(
    path: Path, dataset_id: str, root: Any, names: Sequence[str], controllers: Sequence[str], size: int, settings: ManiSkill
) -> tuple[list[float], list[float], list[str]]:
    """Return the bounds of actions, and notes on them: ±1 where all controllers normalise, or else what the actions reach."""
    others = [name for name in controllers if not _DIFFERENCES.fullmatch(name)]
    if not others or not (settings.action_low is None or settings.action_high is None):
        return *bounds(dataset_id, settings, -1.0, 1.0, size), []
    least, largest = np.full(size, np.inf), np.full(size, -np.inf)
    for name in names:
        with reading(f"{path}, {name}/actions"):
            actions = actions_of(read_array(root, f"{name}/actions"), f"{path}, {name}/actions", size)
        if not np.isfinite(actions).all():
            raise UserError(f"{path}, {name}/actions: holds NaN or infinity")
        least = np.minimum(least, actions.min(0, initial=np.inf))
        largest = np.maximum(largest, actions.max(0, initial=-np.inf))
    low, high, notes = widened(least, largest)
    notes.append(
        f"its controller {others[0]} has bounds of its own, which the file does not say: those of the actions in the data are "
        "taken; dataset.action_low=… and dataset.action_high=… say others"
    )
    return *bounds(dataset_id, settings, low, high, size), notes


def _environment(env_info: Mapping[str, Any]) -> tuple[EnvironmentSpec, float | None]:
    """Read the environment as data, and its steps per second where the file says them."""
    kwargs, limit = dict(env_info.get("env_kwargs") or {}), env_info.get("max_episode_steps")
    steps = None if limit is None else int(limit)
    rate = (kwargs.get("sim_config") or {}).get("control_freq")
    fps = float(rate) if isinstance(rate, int | float) and 0 < rate < np.inf else None
    return EnvironmentSpec(str(env_info["env_id"]), kwargs, steps, package="mani_skill"), fps


def _trajectories(path: Path, root: Any, episodes: Mapping[str, Any]) -> list[str]:
    """List the trajectories in the order of their numbers. Raises UserError unless they are those of the json."""
    names = [name.decode(errors="replace") for name in root]
    if other := [name for name in names if not _TRAJECTORY.fullmatch(name)]:
        raise UserError(f"{path}, {printable(other[0])}: is no traj_N; only those are read")
    if not names:
        raise UserError(f"{path}: it holds no episodes")
    if differing := set(names) ^ set(episodes):
        name = min(differing)
        has, lacks = (path.name, "its json") if name in names else ("its json", path.name)
        raise UserError(f"{path}: {name} is in {has}, but not in {lacks}")
    return sorted(names, key=lambda name: int(name[5:]))


def _check_parts(path: Path, there: Mapping[str, set[str]], first: Any) -> None:
    """Raise UserError unless all trajectories have actions and observations, and all or none have the other arrays."""
    for name, parts in there.items():
        if "actions" not in parts:
            raise UserError(f"{path}, {name}: has no actions")
        if "obs" not in parts:
            raise UserError(f"{path}, {name}: {_NO_OBSERVATIONS.format(path=path)}")
        for field in ("rewards", "success", "terminated", "truncated"):
            if field not in parts and any(field in others for others in there.values()):
                raise UserError(f"{path}, {name}: has no {field}, which other trajectories have")
    if not _leaves(first, "obs"):
        raise UserError(f"{path}, {next(iter(there))}: {_NO_OBSERVATIONS.format(path=path)}")


def _leaves(group: Any, path: str, deepest: int = 16) -> list[str]:
    """List the arrays at or below a path, in the order of the alphabet."""
    from h5py import h5g, h5o

    check_links(group, path.encode())
    there = h5o.open(group, path.encode())
    if not isinstance(there, h5g.GroupID):
        return [path]
    if not deepest:
        raise ValueError(f"{path}: is nested too deeply")
    names = sorted(name.decode(errors="replace") for name in there)
    return [leaf for name in names for leaf in _leaves(group, f"{path}/{name}", deepest - 1)]


def _parts(path: Path, name: str, group: Any, settings: ManiSkill) -> tuple[list[Part], list[Image], list[str]]:
    """Choose the arrays of observations: those of the vector, and images; and note the images that nobody has chosen."""
    leaves = {leaf.removeprefix("obs").removeprefix("/"): open_array(group, leaf) for leaf in _leaves(group, "obs")}
    offered = [leaf for leaf, field in leaves.items() if is_read(field.shape[1:], field.dtype)]
    keys = chosen_keys(settings.observation_keys)
    for key in keys:
        if not any(leaf == key or leaf.startswith(f"{key}/") for leaf in leaves):
            raise missing_key(f"{path}, {name}/obs", key, [leaf or "one array" for leaf in offered])
    if keys:
        chosen = [leaf for leaf in leaves if any(leaf == key or leaf.startswith(f"{key}/") for key in keys)]
        skipped = []
    else:
        chosen = [leaf for leaf, field in leaves.items() if len(field.shape) < 3]
        skipped = [leaf for leaf in leaves if leaf not in chosen]
    if not chosen:
        raise none_usual(f"{path}, {name}/obs: has no vectors", skipped, offered)
    parts = []
    for leaf in chosen:
        field = leaves[leaf]
        parts.append(part_of(f"{path}, {name}/obs/{leaf}", leaf.split("/") if leaf else [], field.shape[1:], field.dtype))
    notes = unused_note([leaf for leaf in skipped if leaf in offered])
    return *divided(parts), notes + images_note([leaf for leaf in skipped if leaf not in offered])


def _episodes(
    path: Path,
    dataset_id: str,
    episodes: Mapping[str, Mapping[str, Any]],
    parts: Sequence[Part],
    images: Sequence[Image],
    labels: Sequence[bool] | None,
    action_size: int,
    notes: list[str],
) -> Iterator[Episode]:
    unwritten = Unwritten()
    groups = groups_in_turns(path, list(episodes))
    for index, (name, said) in enumerate(tracked(list(episodes.items()), f"Reading {dataset_id}", len(episodes))):
        where = f"{path}, {name}"
        with reading(where):
            group = next(groups)
            actions = actions_of(read_array(group, "actions", unwritten), f"{where}/actions", action_size)
            steps = len(actions)
            flags = {
                field: flags_of(read_array(group, field, unwritten), f"{where}/{field}", steps)
                for field in ("terminated", "success")
                if holds(group, field)
            }
            rewards = None
            if holds(group, "rewards"):
                rewards = rows(read_array(group, "rewards", unwritten), f"{where}/rewards", steps)
            leaves = {part: f"obs/{part.name}" if part.path else "obs" for part in (*parts, *images)}
            columns = [
                rows(read_array(group, leaves[part], unwritten), f"{where}/{leaves[part]}", steps + 1, part.shape)
                for part in parts
            ]
            seen = vectors(columns, steps + 1)
            pictures = {
                image.name: frames(read_array(group, leaves[image], unwritten), f"{where}/{leaves[image]}", steps + 1, image)
                for image in images
            }
        if said.get("elapsed_steps", steps) != steps:
            raise UserError(
                f"{where}: elapsed_steps of its json is {printable(said['elapsed_steps'])}, its actions are {steps}"
            )
        if not steps:
            raise UserError(f"{where}/actions: the episode is empty (0 steps)")
        success = bool(flags["success"].any()) if "success" in flags else None if labels is None else labels[index]
        yield Episode(
            seen[:-1],
            seen[-1],
            actions,
            rewards_of(steps, success) if rewards is None else rewards,
            "terminated" in flags and bool(flags["terminated"][-1]),
            success,
            images={name: array[:-1] for name, array in pictures.items()},
            final_images={name: array[-1] for name, array in pictures.items()},
        )
    notes.extend(unwritten.notes())
