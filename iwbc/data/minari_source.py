"""Minari datasets on disk → packed trajectories."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.data.checks import action_bounds
from iwbc.data.hdf5 import Unwritten, holds, open_group, read_array
from iwbc.data.minari_download import download
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.minari_writer import GROUPS, OBSERVATION_PARTS
from iwbc.data.packed import bounds_option, fingerprint_of, joined, load_or_pack, packed_folder
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.environments.gymnasium import SUCCESS_KEYS, success_label
from iwbc.environments.scores import ReferenceScores, d4rl_scores
from iwbc.environments.spaces import VECTOR, Image, Part, divided, is_vector, observed, part_of_plain, parts_of, size_of
from iwbc.environments.spec import EnvironmentSpec, Wrapper
from iwbc.errors import UserError
from iwbc.system.files import MALFORMED, NUMPY_DAMAGE, parse_json, read_json
from iwbc.system.progress import tracked

_EPISODES_AT_ONCE = 50
# Bump when reading the same files gives other episodes, or notes, than before.
_READER = 6
_FIELDS = ("actions", "rewards", "terminations", "truncations")
# h5py, pyarrow and Minari raise these on damaged files.
_DAMAGE = (*NUMPY_DAMAGE, *MALFORMED, AssertionError)


def load(
    dataset_id: str,
    clip_actions: bool = False,
    unfinished: str = "keep",
    observation_keys: Sequence[str] = (),
    action_low: npt.ArrayLike | None = None,
    action_high: npt.ArrayLike | None = None,
) -> Trajectories:
    """Load a Minari dataset through its packed cache, which lies beside the data; download it first if need be.

    dataset_id: several ids, joined by +, are one dataset after the other. `unfinished` is "keep" or "drop", for episodes that
    neither terminate nor truncate. observation_keys: which parts of Dict observations to use, all where it is
    empty; policies are then evaluated with those alone. action_low, action_high: the bounds of actions, a number or one for
    each dimension, instead of the dataset's.

    Raises UserError where the dataset is missing and cannot be had, damaged, not one of vectors (flattened if need be) and
    continuous actions, or its parts do not belong together.
    """
    if "+" in dataset_id:
        choices = (clip_actions, unfinished, observation_keys, action_low, action_high)
        each = [load(part, *choices) for part in dataset_id.split("+")]
        return joined(dataset_id, each, dataset_folder(dataset_id.split("+")[0]))
    folder = dataset_folder(dataset_id)
    if not folder.exists():
        _obtain(dataset_id)
    data = folder / "data"
    if not (data / "metadata.json").is_file():
        raise UserError(f"dataset {dataset_id}: {data} holds no dataset; delete {folder} and download or make it again")
    files = [path for path in data.rglob("*") if path.is_file()]
    keys = sorted([observation_keys] if isinstance(observation_keys, str) else observation_keys)
    only = keys and "only-" + re.sub(r"[^\w-]", "_", "-".join(keys))
    bounds = bounds_option(action_low, action_high)
    options = (clip_actions and "clipped", unfinished == "drop" and "finished", only or None, bounds)
    return load_or_pack(
        packed_folder(folder, "packed", *options),
        fingerprint_of(files, _READER, *keys),
        lambda: _read(dataset_id, data, unfinished, keys, action_low, action_high),
        clip_actions=clip_actions,
    )


def _obtain(dataset_id: str) -> None:
    if dataset_id.startswith("iwbc/"):
        command = "iwbc.data.demonstrations" if dataset_id.split("/")[-1].startswith("demonstrations") else "iwbc.data.generate"
        raise UserError(f"dataset {dataset_id}: has not been generated here; see python -m {command} --help")
    download(dataset_id)


def _read(
    dataset_id: str,
    data: Path,
    unfinished: str,
    keys: Sequence[str],
    action_low: npt.ArrayLike | None,
    action_high: npt.ArrayLike | None,
) -> tuple[Iterator[Episode], DatasetInfo]:
    try:
        metadata = read_json(data / "metadata.json")
    except ValueError as error:
        raise UserError(f"dataset {dataset_id}: its metadata.json is damaged ({error}); download or make it again") from None
    if not isinstance(metadata, dict):
        raise UserError(f"dataset {dataset_id}: its metadata.json is damaged (not an object); download or make it again")
    # Without them Minari would make the environment that the file names, and so run code that the file chooses.
    for space in ("observation_space", "action_space"):
        if space not in metadata:
            raise UserError(f"dataset {dataset_id}: its metadata.json has no {space}; convert it with a newer Minari first")

    environment = _environment(dataset_id, metadata)
    scores = _reference_scores(dataset_id, metadata, environment)

    from minari import MinariDataset

    try:
        for space in ("observation_space", "action_space"):
            parse_json(metadata[space])  # as Minari does, but with an error where it is nested too deeply
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = MinariDataset(data)
    except _DAMAGE as error:
        raise UserError(f"dataset {dataset_id}: cannot be opened ({_line(error)}); download or make it again") from None
    if dataset.total_episodes == 0:
        raise UserError(f"dataset {dataset_id}: it holds no episodes")
    actions, observations = dataset.action_space, dataset.observation_space
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1:
        raise UserError(f"dataset {dataset_id}, actions: need a vector of continuous actions (a 1-D Box), not {actions}")
    if keys:
        observations = _only(dataset_id, observations, keys)
        if environment is not None:
            chosen = Wrapper("FilterObservation", {"filter_keys": list(keys)})
            environment = replace(environment, wrappers=(*environment.wrappers, chosen))
    try:
        parts, images = divided(parts_of(observations))
    except ValueError as error:
        there = isinstance(observations, gym.spaces.Dict) and len(observations.spaces) > 1
        others = "; dataset.observation_keys=[…] chooses others" if there else ""
        raise UserError(f"dataset {dataset_id}, observations: cannot be flattened to a vector: {error}{others}") from None
    if images and not keys and isinstance(observations, gym.spaces.Dict):
        raise UserError(
            f"dataset {dataset_id}, observations: hold images ({', '.join(image.name for image in images)}); "
            f"dataset.observation_keys=[…] chooses among {', '.join(observations.spaces)}, images for a policy of your own"
        )
    plain = is_vector(observations)
    low, high = action_bounds(
        dataset_id,
        actions.shape[0],
        actions.low if action_low is None else action_low,
        actions.high if action_high is None else action_high,
    )
    info = DatasetInfo(
        id=dataset_id,
        environment=environment,
        action_low=low.tolist(),
        action_high=high.tolist(),
        reference_scores=scores,
        observation_parts=_stored_parts(dataset_id, metadata, size_of(parts)) if plain else parts or None,
        notes=_notes(metadata),
        groups=list(groups := _groups(dataset_id, metadata, dataset.total_episodes)),
        fps=_fps(dataset_id, metadata),
        images=images,
    )
    return _episodes(dataset_id, dataset, observations, None if plain else parts, images, unfinished, groups, info.notes), info


def _stored_parts(dataset_id: str, metadata: dict[str, Any], size: int) -> list[Part] | None:
    """Read the parts that vectors have been flattened from, or None where the metadata does not have them."""
    if OBSERVATION_PARTS not in metadata:
        return None
    try:
        parts = [part_of_plain(part) for part in metadata[OBSERVATION_PARTS]]
        if size_of(parts) != size:
            raise ValueError(f"they make {size_of(parts)} values, observations have {size}")
    except MALFORMED as error:
        raise UserError(
            f"dataset {dataset_id}: {OBSERVATION_PARTS} of its metadata.json are damaged ({_line(error)}); make it again"
        ) from None
    return parts


def _notes(metadata: dict[str, Any]) -> list[str]:
    """Read the notes on the data from the metadata: printable text only, because anybody may have written them."""
    notes = metadata.get("notes")
    return (
        ["".join(filter(str.isprintable, note))[:500] for note in notes if isinstance(note, str)]
        if isinstance(notes, list)
        else []
    )


def _groups(dataset_id: str, metadata: dict[str, Any], episodes: int) -> dict[str, frozenset[int]]:
    """Read the groups of episodes, by their names. Raises UserError unless each lists episodes of the dataset."""
    groups = metadata.get(GROUPS, {})
    try:
        for name, members in groups.items():
            if not name.isprintable() or not all(type(index) is int and 0 <= index < episodes for index in members):
                raise ValueError(f"{name!r} must list episodes from 0 to {episodes - 1}")
        return {name: frozenset(members) for name, members in groups.items()}
    except MALFORMED as error:
        raise UserError(
            f"dataset {dataset_id}: {GROUPS} of its metadata.json are damaged ({_line(error)}); make it again"
        ) from None


def _fps(dataset_id: str, metadata: dict[str, Any]) -> float | None:
    fps = metadata.get("fps")
    if fps is not None and not (isinstance(fps, int | float) and 0 < fps < np.inf):
        raise UserError(f"dataset {dataset_id}: fps of its metadata.json is {fps!r}, not a number of steps in a second")
    return fps


def _only(dataset_id: str, space: gym.Space[Any], keys: Sequence[str]) -> gym.Space[Any]:
    """Make the Dict space of some of a Dict's keys. Raises UserError for a key that is not there."""
    there = list(space.spaces) if isinstance(space, gym.spaces.Dict) else []
    if missing := [key for key in keys if key not in there]:
        if (top := missing[0].partition("/")[0]) in there:
            raise UserError(f"dataset.observation_keys: {missing[0]} is a part of {top}; only the whole of {top} can be chosen")
        has = f"only {', '.join(there)}" if there else f"no keys: they are {space}"
        raise UserError(f"dataset.observation_keys: {dataset_id} has no {missing[0]} among its observations, {has}")
    assert isinstance(space, gym.spaces.Dict)
    return gym.spaces.Dict({key: space.spaces[key] for key in keys})


def _environment(dataset_id: str, metadata: dict[str, Any]) -> EnvironmentSpec | None:
    """Read the evaluation environment as data: the file's entry point is never followed."""
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if not text:
        return None
    try:
        return EnvironmentSpec.of_gymnasium(text)
    except MALFORMED as error:
        raise UserError(
            f"dataset {dataset_id}: its metadata.json has a damaged environment ({_line(error)}); download or make it again"
        ) from None


def _reference_scores(dataset_id: str, metadata: dict[str, Any], environment: EnvironmentSpec | None) -> ReferenceScores | None:
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is not None and high is not None:
        label = metadata.get("reference_scores_source", "the dataset's own metadata")
        try:
            scores = ReferenceScores(float(low), float(high), source=str(label))
        except MALFORMED:
            raise UserError(
                f"dataset {dataset_id}: ref_min_score and ref_max_score of its metadata.json are {low} and {high}, not "
                "numbers; correct or remove them"
            ) from None
        return scores
    return None if environment is None else d4rl_scores(environment.id)


def _episodes(
    dataset_id: str,
    dataset: Any,
    space: gym.Space[Any],
    parts: Sequence[Part] | None,
    images: Sequence[Image],
    unfinished: str,
    groups: Mapping[str, frozenset[int]],
    notes: list[str],
) -> Iterator[Episode]:
    index, unwritten = 0, Unwritten()
    try:
        if _holds_more(dataset):
            raise UserError(
                f"dataset {dataset_id}: its metadata.json says total_episodes {dataset.total_episodes}, its data hold more; "
                "correct the number, or download or make it again"
            )
        for data in tracked(_in_turns(dataset, space, unwritten), f"Reading {dataset_id}", dataset.total_episodes):
            terminated, truncated = bool(np.any(data.terminations)), bool(np.any(data.truncations))
            if terminated or truncated or unfinished == "keep":
                observations, steps = data.observations, len(data.rewards)
                if parts is not None:
                    try:
                        observations = observed(parts, images, observations)
                    except ValueError as error:
                        raise UserError(f"dataset {dataset_id}, episode {index}, observations: {error}") from None
                if len(observations) != steps + 1:
                    raise UserError(
                        f"dataset {dataset_id}, episode {index}, observations: has {len(observations)} rows for {steps} "
                        "rewards; Minari episodes have one observation more than steps"
                    )
                success = _success(data.infos or {}, f"dataset {dataset_id}, episode {index}")
                names = tuple(name for name, members in groups.items() if index in members)
                vectors = observations[VECTOR] if images else observations
                pictures = {image.name: observations[image.name] for image in images}
                yield Episode(
                    vectors[:-1],
                    vectors[-1],
                    data.actions,
                    data.rewards,
                    terminated,
                    success,
                    names,
                    {name: array[:-1] for name, array in pictures.items()},
                    {name: array[-1] for name, array in pictures.items()},
                )
            index += 1
        notes.extend(unwritten.notes())
    except _DAMAGE as error:
        raise UserError(
            f"dataset {dataset_id}, episode {index}: cannot be read ({_line(error)}); delete the dataset and download or "
            "make it again"
        ) from None


def _holds_more(dataset: Any) -> bool:
    """Tell whether the data hold an episode beyond the last that the metadata count."""
    import h5py

    data, count = dataset.storage.data_path, dataset.total_episodes
    if dataset.storage.metadata["data_format"] != "hdf5":
        return bool((data / str(count)).exists())
    with h5py.File(data / "main_data.hdf5", "r") as file:
        return holds(file["/"].id, f"episode_{count}")


def _in_turns(dataset: Any, space: gym.Space[Any], unwritten: Unwritten) -> Iterator[Any]:
    """Read all episodes, with the observations that are in `space`. Files are reopened every so often: HDF5 keeps a record of
    each episode as long as they are open, which would take more memory than the data."""
    for start in range(0, dataset.total_episodes, _EPISODES_AT_ONCE):
        indices = range(start, min(start + _EPISODES_AT_ONCE, dataset.total_episodes))
        if dataset.storage.metadata["data_format"] == "hdf5":
            yield from _read_hdf5(dataset, indices, space, unwritten)
        else:
            yield from _read_arrow(dataset, indices, space)


def _read_arrow(dataset: Any, indices: range, space: gym.Space[Any]) -> Iterator[Any]:
    from minari.dataset.episode_data import EpisodeData

    data = dataset.storage.data_path
    for index in indices:  # all before the first is read, because Minari reads ahead
        _check_arrow(data, index)
    # Decodes the parts in the space alone.
    storage = type(dataset.storage)(data, space, dataset.action_space)
    yield from (EpisodeData(**fields) for fields in storage.get_episodes(indices))


def _check_arrow(data: Path, index: int) -> None:
    """Raise a ValueError, or another error of pyarrow's, where an episode's files are damaged: otherwise pyarrow trusts the
    sizes in them, and ends the process where a size is wrong."""
    from pyarrow import ipc

    for path in (data / str(index)).rglob("*.arrow"):
        with ipc.open_file(path) as file:
            for number in range(file.num_record_batches):
                file.get_batch(number).validate(full=True)


def _read_hdf5(dataset: Any, indices: range, space: gym.Space[Any], unwritten: Unwritten) -> Iterator[Any]:
    """Read episodes in half the time of Minari's reader, and only the parts in `space`: the file's layout is part of Minari's
    standard."""
    import h5py
    from minari.dataset.episode_data import EpisodeData

    def structured(group: Any, name: str, space: gym.Space[Any]) -> Any:
        if isinstance(space, gym.spaces.Dict):
            below = open_group(group, name)
            return {key: structured(below, key, part) for key, part in space.spaces.items()}
        if isinstance(space, gym.spaces.Tuple):
            below = open_group(group, name)
            return tuple(structured(below, f"_index_{i}", part) for i, part in enumerate(space.spaces))
        return read_array(group, name, unwritten)

    with h5py.File(dataset.storage.data_path / "main_data.hdf5", "r") as file:
        for index in indices:
            group = open_group(file["/"].id, f"episode_{index}")
            infos = open_group(group, "infos") if group.links.exists(b"infos") else None
            keys = [key for key in SUCCESS_KEYS if infos is not None and infos.links.exists(key.encode())]
            labels = {key: read_array(infos, key, unwritten) for key in keys}
            observations = structured(group, "observations", space)
            fields = {name: read_array(group, name, unwritten) for name in _FIELDS}
            yield EpisodeData(id=index, observations=observations, infos=labels, **fields)


def _success(infos: dict[str, Any], where: str) -> bool | None:
    """Read whether an episode's infos report success, by any of SUCCESS_KEYS and at any step; None where they have none.

    Raises UserError, which begins with `where`, for a step whose value is no label.
    """
    success = None
    for key in SUCCESS_KEYS:
        if key in infos:
            values = np.atleast_1d(np.asarray(infos[key]))
            if values.dtype.kind in "biuf" and values.size == len(values) and ((values == 0) | (values == 1)).all():
                said = bool(values.any())
            else:
                labels = [success_label(value, key, f"{where}, infos row {row}") for row, value in enumerate(values)]
                said = any(labels)
            success = said or bool(success)
    return success


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
