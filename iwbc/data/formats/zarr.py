"""Folders of Zarr arrays, as Diffusion Policy has them → episodes.

data/action [N, act]            in the robot's own units
data/<key> [N, …]               observations; data/reward and data/success [N], where they are there
meta/episode_ends               number of steps up to each end of an episode
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc.data.checks import notes_of_rewards
from iwbc.data.formats.reading import (
    NO_FINAL,
    actions_of,
    bounds,
    chosen_keys,
    flags_of,
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
    unused_note,
    vectors,
    widened,
)
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.spaces import divided
from iwbc.errors import UserError, extra
from iwbc.settings import Zarr
from iwbc.system.files import read_json

# Bump when reading the same files gives other episodes, or notes, than before.
READER = 2
_METADATA = (".zarray", "zarr.json")
# The names in data/ of what are no observations, the first that is there.
_FIELDS = {"actions": ("action", "actions"), "rewards": ("reward", "rewards"), "successes": ("success", "successes")}
_USUAL = ("state", "obs")
# Codecs of numbers alone: others, such as pickle, would run code of the file.
_CODECS = {
    *("astype", "bitround", "blosc", "bytes", "bz2", "crc32c", "delta", "fixedscaleoffset", "gzip", "lz4", "lzma", "packbits"),
    *("quantize", "sharding_indexed", "shuffle", "transpose", "zlib", "zstd"),
}
# Compressors make at most about so many bytes of one of what is no constant; a small array may be all one constant.
_MOST_OF_A_BYTE, _SMALL = 1032, 2**26


def files(path: Path) -> list[Path]:
    """List the files that a dataset is read from."""
    return [file for folder in ("meta", "data") for file in (path / folder).rglob("*") if file.is_file()]


def read(path: Path, dataset_id: str, settings: Zarr) -> tuple[Iterator[Episode], DatasetInfo]:
    """Read the arrays, and return their episodes and their description.

    Raises UserError, also as the episodes are read, where they are not fit to train on, or the package zarr is missing.
    """
    try:
        import zarr  # noqa: F401
    except ImportError:
        raise UserError(f"{path}: {extra('zarr')}") from None
    there = sorted(folder.name for folder in (path / "data").iterdir() if _is_array(folder))
    named = {what: next((name for name in names if name in there), None) for what, names in _FIELDS.items()}
    if named["actions"] is None:
        raise UserError(f"{path}, data: has no action, only {', '.join(map(printable, there)) or 'nothing'}")
    others = [name for name in there if name not in named.values()]
    offered = _offered(path, others)
    keys = chosen_keys(settings.observation_keys) or [name for name in _USUAL if name in others][:1]
    if not keys:
        raise none_usual(f"{path}, data: has neither {' nor '.join(_USUAL)}", others, offered)
    if missing := [key for key in keys if key not in there]:
        raise missing_key(f"{path}, data", missing[0], _offered(path, there))
    arrays = {key: _open(path, f"data/{key}") for key in keys}
    parts, images = divided(
        [part_of(f"{path}, data/{key}", [key], array.shape[1:], array.dtype) for key, array in arrays.items()]
    )
    used = arrays | {name: _open(path, f"data/{name}") for name in named.values() if name is not None}
    actions = actions_of(_values(used[named["actions"]], path), f"{path}, data/{named['actions']}")
    count = len(actions)
    ends = _ends(path, count)
    observations = vectors(
        [rows(_values(arrays[part.name], path), f"{path}, data/{part.name}", count, part.shape) for part in parts], count
    )
    pictures = {image.name: arrays[image.name] for image in images}
    for key, array in pictures.items():
        if array.shape[0] != count:
            raise UserError(f"{path}, data/{key}: has {array.shape[0]} rows for {count} actions")
    rewards, successes = None, None
    if (name := named["rewards"]) is not None:
        rewards = rows(_values(used[name], path), f"{path}, data/{name}", count)
    if (name := named["successes"]) is not None:
        successes = flags_of(_values(used[name], path), f"{path}, data/{name}", count)
    if not np.isfinite(actions).all():
        raise UserError(f"{path}, data/{named['actions']}: holds NaN or infinity")
    least, largest, notes = widened(actions.min(0).astype(np.float64), actions.max(0).astype(np.float64))
    low, high = bounds(dataset_id, settings, least, largest, actions.shape[1])
    info = DatasetInfo(
        id=dataset_id,
        environment=None,
        action_low=low,
        action_high=high,
        reference_scores=None,
        observation_parts=parts or None,
        images=images,
        notes=[
            *unused_note([name for name in offered if name not in keys]),
            *images_note([name for name in map(printable, others) if name not in (*offered, *keys)]),
            *notes_of_rewards(rewards is not None, successes is not None),
            *notes,
            *_notes_of_chunks(path, used),
            NO_FINAL,
        ],
    )
    return _episodes(path, observations, pictures, actions, rewards, successes, ends), info


def _is_array(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _METADATA)


def _open(path: Path, name: str) -> Any:
    """Open an array whose codecs decode numbers and run no code."""
    import zarr

    folder, where = path / name, f"{path}, {name}"
    if not _is_array(folder):
        raise UserError(f"{where}: is no array of Zarr")
    with reading(where):
        for metadata in filter(Path.is_file, (folder / kind for kind in _METADATA)):
            plain = mapping(read_json(metadata), where)
            for codec in _codecs([plain.get(kind) for kind in ("compressor", "filters", "codecs")]):
                if codec.removeprefix("numcodecs.") not in _CODECS:
                    raise ValueError(f"its codec {printable(codec)} is not one of {', '.join(sorted(_CODECS))}")
        array = zarr.open_array(folder, mode="r")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"it holds {array.dtype}, no numbers")
        stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if math.prod(array.shape) * array.dtype.itemsize > _MOST_OF_A_BYTE * stored + _SMALL:
            raise ValueError(f"its shape {array.shape} is larger than the files can hold")
    return array


def _offered(path: Path, names: Sequence[str]) -> list[str]:
    """List the arrays of data/ that can be read; images have codecs of their own at times."""
    names_there = []
    for name in names:
        with contextlib.suppress(UserError):
            array = _open(path, f"data/{name}")
            if is_read(array.shape[1:], array.dtype):
                names_there.append(printable(name))
    return names_there


def _codecs(value: Any) -> Iterator[str]:
    """Yield the names of codecs, and of codecs inside them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _codecs(entry)
    elif isinstance(value, Mapping):
        yield str(value.get("id", value.get("name")))
        inner = value.get("configuration")
        if isinstance(inner, Mapping):
            yield from _codecs([inner.get(kind) for kind in ("codecs", "index_codecs")])


def _values(array: Any, path: Path) -> npt.NDArray[Any]:
    with reading(f"{path}, {array.name or 'array'}"):
        return np.asarray(array[...])


def _notes_of_chunks(path: Path, used: Mapping[str, Any]) -> list[str]:
    """Report the arrays whose chunks are not all on disk, a line each. Zarr need not write those that hold the fill value
    alone, so that they are no fault."""
    notes = []
    for name, array in used.items():
        with reading(f"{path}, data/{name}"):
            if missing := array.nchunks - array.nchunks_initialized:
                notes.append(
                    f"{missing:,} of {array.nchunks:,} chunks of data/{printable(name)} are not on disk, and are read as the "
                    f"fill value, {array.fill_value}; Zarr leaves out chunks that hold it alone, an incomplete copy others"
                )
    return notes


def _ends(path: Path, count: int) -> npt.NDArray[np.int64]:
    """Read the ends of episodes. Raises UserError unless they go up, to the number of steps."""
    where = f"{path}, meta/episode_ends"
    ends = _values(_open(path, "meta/episode_ends"), path)
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends):
        raise UserError(f"{where}: it holds no episodes" if not ends.size else f"{where}: must be whole numbers, [episodes]")
    if (np.diff(ends.astype(np.int64), prepend=0) < 1).any() or ends[-1] != count:
        raise UserError(f"{where}: must go up, from 1 at least, to the {count} steps of data/")
    return ends.astype(np.int64)


def _episodes(
    path: Path,
    observations: npt.NDArray[Any],
    pictures: Mapping[str, Any],
    actions: npt.NDArray[np.floating],
    rewards: npt.NDArray[Any] | None,
    successes: npt.NDArray[np.bool_] | None,
    ends: npt.NDArray[np.int64],
) -> Iterator[Episode]:
    for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        success = None if successes is None else bool(successes[start:end].any())
        with reading(f"{path}, data"):  # images episode by episode, because all of them are too many
            images = {name: np.asarray(array[start:end]) for name, array in pictures.items()}
        yield Episode(
            observations[start:end],
            observations[end - 1],
            actions[start:end],
            rewards_of(end - start, success) if rewards is None else rewards[start:end],
            False,
            success,
            images=images,
            final_images={name: array[-1] for name, array in images.items()},
        )
