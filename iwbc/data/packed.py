"""The packed form on disk: one .npy file per field, written as a stream, opened memory-mapped.

Every source ends here: it yields `Episode`s, each is checked at the door and appended, and the folder appears under its
final name only when it is whole. Nothing in it can execute code: plain arrays and JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from iwbc.data.checks import ActionBounds, check_episode
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.errors import UserError
from iwbc.scores import ReferenceScores

FORMAT = 1
_META = "packed.json"
_FIELDS = ("observations", "actions", "rewards", "final_observations", "offsets", "terminated", "successes")


class _ArrayStream:
    """A .npy file that grows along its first axis: memory stays one block whatever the dataset's size.

    NumPy pads the header for a growing first axis, so that it can be written again in place when the length is known.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, row_shape: tuple[int, ...]) -> None:
        self.dtype, self.row_shape, self.rows = np.dtype(dtype), row_shape, 0
        self.file = path.open("wb")
        self.digest = hashlib.sha256()
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.row_shape)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, rows: npt.NDArray[Any]) -> None:
        block = np.ascontiguousarray(rows, self.dtype)
        self.file.write(block.data)
        self.digest.update(block.data)
        self.rows += len(block)

    def close(self) -> str:
        """Write the final header; the SHA-256 of the array's bytes and shape."""
        self.file.seek(0)
        self._write_header()
        self.file.close()
        self.digest.update(repr((self.dtype.str, self.rows, self.row_shape)).encode())
        return self.digest.hexdigest()


def pack(
    episodes: Iterable[Episode], info: DatasetInfo, folder: Path, fingerprint: str, clip_actions: bool = False
) -> None:
    """Check and write `episodes` into `folder`, which appears whole or not at all.

    Actions outside the action space are refused, or clipped to it with `clip_actions`.
    Raises UserError naming dataset, episode and field where an episode is not fit to train on.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        meta = _write(episodes, info, building, clip_actions)
        meta["fingerprint"] = fingerprint
        (building / _META).write_text(json.dumps(meta, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(episodes: Iterable[Episode], info: DatasetInfo, folder: Path, clip_actions: bool) -> dict[str, Any]:
    streams: dict[str, _ArrayStream] = {}
    bounds = ActionBounds(info)
    offset, labelled = 0, 0
    count = 0
    for count, episode in enumerate(episodes, start=1):
        if not streams:
            shapes = {"observations": episode.observations.shape[1:], "actions": episode.actions.shape[1:]}
            for name in ("observations", "actions", "rewards", "final_observations"):
                row_shape = shapes.get(name.removeprefix("final_"), ())
                streams[name] = _ArrayStream(folder / f"{name}.npy", np.float32, row_shape)
            streams["offsets"] = _ArrayStream(folder / "offsets.npy", np.int64, ())
            streams["terminated"] = _ArrayStream(folder / "terminated.npy", np.bool_, ())
            streams["successes"] = _ArrayStream(folder / "successes.npy", np.bool_, ())
            streams["offsets"].append(np.array([0]))
            observation_shape, action_shape = shapes["observations"], shapes["actions"]
        check_episode(episode, info, count - 1, observation_shape, action_shape)
        streams["observations"].append(episode.observations)
        streams["final_observations"].append(episode.final_observation[None])
        streams["actions"].append(bounds.clip(episode.actions) if clip_actions else bounds.watch(episode.actions))
        streams["rewards"].append(episode.rewards)
        offset += len(episode.rewards)
        streams["offsets"].append(np.array([offset]))
        streams["terminated"].append(np.array([episode.terminated]))
        streams["successes"].append(np.array([bool(episode.success)]))
        labelled += episode.success is not None
    if not count:
        raise UserError(f"dataset {info.id}: it holds no episodes")
    if labelled not in (0, count):
        raise UserError(f"dataset {info.id}: only {labelled} of {count} episodes have a success label; label all or none")
    bounds.check()
    digests = {name: stream.close() for name, stream in streams.items()}
    if not labelled:
        (folder / "successes.npy").unlink()
        del digests["successes"]
    content_hash = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    return {"format": FORMAT, "content_hash": content_hash, "info": dataclasses.asdict(info)}


def open_packed(folder: Path) -> Trajectories:
    """The trajectories packed in `folder`, memory-mapped."""
    meta = json.loads((folder / _META).read_text())
    info = dict(meta["info"])
    if info["reference_scores"] is not None:
        info["reference_scores"] = ReferenceScores(**info["reference_scores"])
    # Copy-on-write maps: never written to, but PyTorch warns of tensors over read-only memory.
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in _FIELDS[:-1]}
    successes = folder / "successes.npy"
    return Trajectories(
        info=DatasetInfo(**info),
        content_hash=meta["content_hash"],
        successes=np.load(successes, allow_pickle=False) if successes.exists() else None,
        **{name: array if array.ndim > 1 or name == "rewards" else np.array(array) for name, array in arrays.items()},
    )


def load_or_pack(
    folder: Path,
    fingerprint: str,
    build: Callable[[], tuple[Iterable[Episode], DatasetInfo]],
    clip_actions: bool = False,
) -> Trajectories:
    """Open the packed cache at `folder`; write it first where it is missing, damaged or of another `fingerprint`.

    Two processes that need the same cache at once build it once: the second waits for the first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not _is_current(folder, fingerprint):
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not _is_current(folder, fingerprint):
                episodes, info = build()
                pack(episodes, info, folder, fingerprint, clip_actions)
    return open_packed(folder)


def _is_current(folder: Path, fingerprint: str) -> bool:
    try:
        meta = json.loads((folder / _META).read_text())
        if meta["format"] != FORMAT or meta["fingerprint"] != fingerprint:
            return False
        open_packed(folder)  # a truncated array cannot be mapped
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def fingerprint_of(files: Iterable[Path], *options: object) -> str:
    """Changes whenever one of `files` is written to (name, size, modification time) or an option of reading them changes."""
    parts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    return hashlib.sha256(repr((parts, options)).encode()).hexdigest()
