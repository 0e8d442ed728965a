"""Episodes → a local Minari dataset, which appears under its id whole or not at all."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import dataclasses
import errno
import itertools
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec

from iwbc.data.checks import checked, leave_out_images
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.gymnasium import make_env, observation_parts
from iwbc.environments.spaces import Part, is_vector, size_of
from iwbc.errors import UserError, warn
from iwbc.system.files import temporary_prefix

DATA_FORMATS = ("hdf5", "arrow")
_MARGIN = 32 * 2**20  # bytes that stay free, because HDF5 writes some later
# HDF5, with 14 KB for each episode, is a poor format from so many episodes of at most so many steps on average.
_MANY, _SHORT = 10_000, 10
# The key in the metadata of the parts that observations, stored as vectors, have been flattened from.
OBSERVATION_PARTS = "observation_parts"
# The key in the metadata of groups: the episodes, counted from 0, of each name.
GROUPS = "groups"
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of linux/falloc.h


def write_minari(
    info: DatasetInfo,
    episodes: Iterable[Episode],
    metadata: Mapping[str, Any] | None = None,
    /,
    *,
    description: str,
    author: str | None = None,
    algorithm_name: str | None = None,
    clip_actions: bool = False,
    data_format: str = "hdf5",
) -> None:
    """Check `episodes`, one by one as they come, and write them as the dataset `info.id`.

    description, author, algorithm_name and the entries of `metadata` become Minari's metadata. data_format: "hdf5", one file,
    or "arrow", a folder for each episode, which takes less room and time where episodes are many and short.

    Raises UserError where an episode is not fit to train on, the dataset is there already or cannot be written. Gives a
    DataWarning where the other format would be better, and where images are left out.
    """
    from minari.dataset.minari_storage import MinariStorage

    if data_format not in DATA_FORMATS:
        raise UserError(f"data_format={data_format}: must be one of {', '.join(DATA_FORMATS)}")
    folder = dataset_folder(info.id)
    if folder.exists():
        raise UserError(f"dataset {info.id}: is there already; delete it (minari delete {info.id}) or choose another id")
    building: Path | None = None
    try:
        # Beside the outermost namespace, so that a failure leaves no empty namespaces; hidden, so Minari overlooks it.
        place = dataset_folder() / info.id.replace("/", "+")
        building = Path(tempfile.mkdtemp(prefix=temporary_prefix(place), dir=place.parent))
        building.chmod(0o755)  # mkdtemp's permissions are for the user alone
        whole = checked(episodes, info, clip_actions)
        first = next(whole)
        leave_out_images(info, first.observations.shape[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on spaces and specs, which no user can act on
            env, parts = _environment(info, first)
            storage = MinariStorage.new(
                building / "data",
                observation_space=_observation_space(env, first),
                action_space=_action_space(env, info),
                env_spec=_spec(env),
                data_format=data_format,
            )
            storage.update_metadata(_metadata(info, env, description, author, algorithm_name))
            if parts is not None:  # the vectors are all that is stored
                storage.update_metadata({OBSERVATION_PARTS: [dataclasses.asdict(part) for part in parts]})
            members: dict[str, list[int]] = {name: [] for name in info.groups}
            written = _noted(itertools.chain([first], whole), members)
            if data_format == "arrow":
                _write_arrow(storage, written)
            else:
                file = building / "data" / "main_data.hdf5"
                storage.update_episodes(_buffers(written, file))
                _give_back_room(file)
            if info.notes:  # some are known after the last episode alone
                storage.update_metadata({"notes": info.notes})
            if members:
                storage.update_metadata({GROUPS: members})
            if metadata:
                storage.update_metadata(dict(metadata))
            _make_namespace(info.id.rpartition("/")[0])
            count, steps = storage.total_episodes, storage.total_steps
        os.replace(building, folder)
        if data_format == "hdf5" and count >= _MANY and steps < _SHORT * count:
            warn(f"dataset {info.id}: {count:,} episodes so short take much room as HDF5; data_format=arrow takes less")
    # h5py reports a full disk as either, depending on the part that it was writing.
    except (OSError, RuntimeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
        raise UserError(f"dataset {info.id}: could not be written to {folder} ({reason})") from None
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def with_environment_here(info: DatasetInfo, where: str) -> DatasetInfo:
    """Leave out of a description, with a DataWarning that begins with `where`, an environment that cannot be made here: Minari
    keeps what making it tells."""
    if info.environment is not None:
        try:
            make_env(info.environment).close()
        except UserError as error:
            warn(f"{where}: the environment is not kept with the data: {error}")
            return dataclasses.replace(info, environment=None)
    return info


def _noted(episodes: Iterable[Episode], members: dict[str, list[int]]) -> Iterator[Episode]:
    """Yield the episodes as they come, and note in `members` each one's number under the groups that it belongs to."""
    for index, episode in enumerate(episodes):
        for name in episode.groups:
            members[name].append(index)
        yield episode


def _write_arrow(storage: Any, episodes: Iterable[Episode]) -> None:
    """Write episodes in the precision of the spaces, because Arrow requires it."""
    kinds = {"actions": storage.action_space.dtype, "observations": storage.observation_space.dtype}
    kinds["final_observation"] = kinds["observations"]

    def buffer(episode: Episode) -> Any:
        fitting = dataclasses.replace(episode, **{name: getattr(episode, name).astype(kind) for name, kind in kinds.items()})
        made = _buffer(fitting)
        # Minari 0.5.4 cannot read labels that it has written as an array.
        return (
            made
            if made.infos is None
            else dataclasses.replace(made, infos={name: list(labels) for name, labels in made.infos.items()})
        )

    # After each episode Minari would walk through all files for their size.
    storage.get_size = lambda: 0.0
    try:
        storage.update_episodes(map(buffer, episodes))
    finally:
        del storage.get_size
    storage.update_metadata({"dataset_size": storage.get_size()})


def _environment(info: DatasetInfo, first: Episode) -> tuple[gym.Env[Any, Any] | None, list[Part] | None]:
    """Make the environment, and list the parts that its observations are flattened from (None where they are vectors already);
    None and the description's parts where there is no environment."""
    if info.environment is None:
        return None, info.observation_parts
    env = make_env(info.environment)
    (parts, _), size = observation_parts(env, info.environment.id), first.observations.shape[1]
    if size_of(parts) != size:
        raise UserError(f"dataset {info.id}, observations: have {size} values per step, {info.env_id}'s have {size_of(parts)}")
    return env, None if is_vector(env.observation_space) else parts


def _spec(env: gym.Env[Any, Any] | None) -> EnvSpec | None:
    """Describe the environment without functions, which no file can hold. Raises UserError where it needs them."""
    if env is None or env.spec is None:
        return None
    spec = copy.copy(env.spec)
    if callable(entry := spec.entry_point):
        spec.entry_point = f"{entry.__module__}:{getattr(entry, '__qualname__', type(entry).__qualname__)}"
    if callable(spec.vector_entry_point):
        spec.vector_entry_point = None
    try:
        spec.to_json()
    except (ValueError, TypeError) as error:
        raise UserError(f"environment {spec.id}: cannot be kept with the data ({error})") from None
    return spec


def _observation_space(env: gym.Env[Any, Any] | None, first: Episode) -> gym.spaces.Box:
    """Return the environment's observation space where it is of vectors of floats, or else a space without bounds."""
    space = env and env.observation_space
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f":
        return space
    return gym.spaces.Box(-np.inf, np.inf, first.observations.shape[1:], _floating(first.observations).type)


def _action_space(env: gym.Env[Any, Any] | None, info: DatasetInfo) -> gym.spaces.Box:
    """Return the environment's action space, or, where the data has other bounds, a space with these."""
    if env is not None:
        assert isinstance(env.action_space, gym.spaces.Box)
        if (env.action_space.low == info.action_low).all() and (env.action_space.high == info.action_high).all():
            return env.action_space
    low, high = np.asarray(info.action_low), np.asarray(info.action_high)
    # Rounded bounds would differ from the data's.
    exact = np.array_equal((low, high), np.asarray((low, high), np.float32))
    bounds: Any = np.float32 if exact else np.float64
    return gym.spaces.Box(low.astype(bounds), high.astype(bounds), dtype=bounds)


def _floating(array: npt.NDArray[Any]) -> np.dtype[Any]:
    """Return the type to write an array in: float32 where that holds all values of the array's type, or else float64."""
    return np.dtype(np.float32 if np.can_cast(array.dtype, np.float32) else np.float64)


def _metadata(
    info: DatasetInfo, env: gym.Env[Any, Any] | None, description: str, author: str | None, algorithm_name: str | None
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "dataset_id": info.id,
        "minari_version": version("minari"),
        "description": description,
        "requirements": [f"gymnasium[mujoco]=={gym.__version__}"] if env else [],
    }
    if (spec := _spec(env)) is not None:
        metadata["eval_env_spec"] = spec.to_json()
    if author:
        metadata["author"] = {author}
    if algorithm_name:
        metadata["algorithm_name"] = algorithm_name
    if info.fps:
        metadata["fps"] = info.fps
    if info.reference_scores:
        metadata |= {
            "ref_min_score": info.reference_scores.random,
            "ref_max_score": info.reference_scores.expert,
            "reference_scores_source": info.reference_scores.source,
        }
    return metadata


def _make_namespace(namespace: str) -> None:
    from minari.namespace import create_namespace, list_local_namespaces

    if namespace and namespace not in list_local_namespaces():
        with contextlib.suppress(ValueError):  # another process has just made it
            create_namespace(namespace)


def _buffers(episodes: Iterable[Episode], file: Path) -> Iterator[Any]:
    """Yield the episodes as Minari's buffers, as long as the disk has room for more in `file`, to which Minari writes them."""
    for episode in episodes:
        size = episode.observations.nbytes + episode.actions.nbytes + episode.rewards.nbytes
        # HDF5 crashes the process when it cannot write; an error raised before ends it in good order.
        _take_room(file, _MARGIN + 2 * size)
        yield _buffer(episode)


def _take_room(file: Path, size: int) -> None:
    """Reserve `size` bytes for a file to grow, before another process fills the disk. Raises OSError unless they fit on the
    disk, in the user's quota and in the largest file allowed."""
    import resource

    written, taken = file.stat().st_size, 512 * file.stat().st_blocks
    if shutil.disk_usage(file.parent).free + max(taken - written, 0) < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY and written + size > largest:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    if sys.platform == "linux" and taken - written < size - _MARGIN // 2:  # a call for every short episode would be slow
        with file.open("r+b") as opened:
            system, end = ctypes.CDLL(None, use_errno=True), ctypes.c_int64(written + size)
            if system.fallocate(opened.fileno(), _KEEP_SIZE, ctypes.c_int64(0), end):
                number = ctypes.get_errno()
                if number not in (errno.EOPNOTSUPP, errno.ENOSYS):  # some file systems take no room beforehand
                    raise OSError(number, os.strerror(number))


def _give_back_room(file: Path) -> None:
    """Free the bytes reserved for a file beyond its end."""
    os.truncate(file, file.stat().st_size)


def _buffer(episode: Episode) -> Any:
    from minari.data_collector import EpisodeBuffer

    steps = len(episode.rewards)
    ends = np.zeros((2, steps), np.bool_)
    ends[0 if episode.terminated else 1, -1] = True
    success = None if episode.success is None else {"success": np.full(steps + 1, episode.success)}
    observations = np.concatenate([episode.observations, episode.final_observation[None]])
    return EpisodeBuffer(
        observations=observations.astype(_floating(observations), copy=False),
        actions=episode.actions.astype(_floating(episode.actions), copy=False),
        rewards=episode.rewards,
        terminations=ends[0],
        truncations=ends[1],
        infos=success,
    )
