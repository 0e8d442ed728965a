"""Minari datasets on disk → packed trajectories."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from iwbc.data.packed import fingerprint_of, load_or_pack
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.errors import UserError
from iwbc.scores import ReferenceScores, d4rl_scores

# Bump when reading the same files gives other episodes than before.
_READER = 1
_SUCCESS_KEYS = ("success", "is_success")


def dataset_folder(dataset_id: str | None = None) -> Path:
    """Where Minari keeps this dataset: a folder under MINARI_DATASETS_PATH (default ~/.minari/datasets); that folder
    itself without an id. Raises UserError for an id that is not one of Minari's."""
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.storage.datasets_root_dir import get_dataset_path

    match = DATASET_ID_RE.fullmatch(dataset_id or "")
    if dataset_id is not None and not (match and match["version"]):
        raise UserError(f"dataset {dataset_id}: not an id; ids look like mujoco/hopper/medium-v0: (namespace/)name-vN")
    try:
        return Path(get_dataset_path(dataset_id))
    except OSError as error:
        where = os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets")
        raise UserError(f"MINARI_DATASETS_PATH={where}: cannot be used ({error.strerror})") from None


def load(dataset_id: str, clip_actions: bool = False, unfinished: str = "keep") -> Trajectories:
    """Load a local Minari dataset through its packed cache, which lies beside the data.

    `unfinished` says what becomes of episodes that neither terminate nor truncate: "keep" or "drop".
    Raises UserError where the dataset is missing, damaged, or not one of vectors (flattened if need be) and
    continuous actions.
    """
    folder = dataset_folder(dataset_id)
    data = folder / "data"
    if not (data / "metadata.json").exists():
        raise UserError(f"dataset {dataset_id}: not found under {folder.parent}")
    files = [path for path in data.rglob("*") if path.is_file()]
    fingerprint = fingerprint_of(files, _READER, clip_actions, unfinished)
    return load_or_pack(folder / "packed", fingerprint, lambda: _read(dataset_id, data, unfinished), clip_actions=clip_actions)


def remove(dataset_id: str) -> None:
    """Delete a local dataset with its packed cache."""
    shutil.rmtree(dataset_folder(dataset_id), ignore_errors=True)


def _read(dataset_id: str, data: Path, unfinished: str) -> tuple[Iterator[Episode], DatasetInfo]:
    try:
        metadata = json.loads((data / "metadata.json").read_text())
    except ValueError as error:
        raise UserError(f"dataset {dataset_id}: its metadata.json is damaged ({error}); download or make it again") from None
    # Minari would otherwise build the environment that the file names to find its spaces, which runs what the file says.
    for space in ("observation_space", "action_space"):
        if space not in metadata:
            raise UserError(f"dataset {dataset_id}: its metadata.json has no {space}; convert it with a newer Minari first")

    from minari import MinariDataset

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = MinariDataset(data)
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise UserError(f"dataset {dataset_id}: cannot be opened ({error}); download or make it again") from None
    actions, observations = dataset.action_space, dataset.observation_space
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1:
        raise UserError(f"dataset {dataset_id}, actions: need a vector of continuous actions (a 1-D Box), not {actions}")
    if not observations.is_np_flattenable:
        raise UserError(f"dataset {dataset_id}, observations: {observations} cannot be flattened to a vector")
    info = DatasetInfo(
        id=dataset_id,
        **_environment(metadata),
        action_low=actions.low.astype(float).tolist(),
        action_high=actions.high.astype(float).tolist(),
        reference_scores=_reference_scores(metadata),
    )
    return _episodes(dataset_id, dataset, unfinished), info


def _environment(metadata: dict[str, Any]) -> dict[str, Any]:
    """The evaluation environment's id and arguments, as data: the file's entry point is never followed."""
    spec = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if not spec:
        return {"env_id": None, "env_kwargs": {}}
    fields = json.loads(spec)
    return {"env_id": fields["id"], "env_kwargs": fields.get("kwargs") or {}}


def _reference_scores(metadata: dict[str, Any]) -> ReferenceScores | None:
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if low is not None and high is not None:
        label = metadata.get("reference_scores_source", "the dataset's own metadata")
        return ReferenceScores(float(low), float(high), source=label)
    return d4rl_scores(_environment(metadata)["env_id"])


def _episodes(dataset_id: str, dataset: Any, unfinished: str) -> Iterator[Episode]:
    space = dataset.observation_space
    plain = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    index = -1
    try:
        for index, data in enumerate(dataset.iterate_episodes()):
            terminated, truncated = bool(np.any(data.terminations)), bool(np.any(data.truncations))
            if unfinished == "drop" and not (terminated or truncated):
                continue
            observations = data.observations if plain else _flatten(space, data.observations)
            steps = len(data.rewards)
            if len(observations) != steps + 1:
                raise UserError(
                    f"dataset {dataset_id}, episode {index}, observations: has {len(observations)} rows for {steps} "
                    "rewards; Minari episodes have one observation more than steps"
                )
            yield Episode(observations[:-1], observations[-1], data.actions, data.rewards, terminated, _success(data.infos))
    except (OSError, KeyError, RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"dataset {dataset_id}: damaged after episode {index} ({error}); delete and download or make it again"
        ) from None


def _flatten(space: gym.Space, values: Any) -> np.ndarray:
    """A whole episode's observations in the layout of Gymnasium's `flatten`: [T + 1, obs]."""
    if isinstance(space, gym.spaces.Dict):
        return np.concatenate([_flatten(space[key], values[key]) for key in space.spaces], axis=1)
    if isinstance(space, gym.spaces.Tuple):
        return np.concatenate([_flatten(part, value) for part, value in zip(space, values, strict=True)], axis=1)
    if isinstance(space, gym.spaces.Box):
        return np.asarray(values).reshape(len(values), -1)
    return np.stack([np.asarray(gym.spaces.flatten(space, value)) for value in values])


def _success(infos: dict[str, Any] | None) -> bool | None:
    """Whether the episode's infos report success at any step; None where they have no such key."""
    for key in _SUCCESS_KEYS:
        if infos and key in infos:
            return bool(np.any(infos[key]))
    return None
