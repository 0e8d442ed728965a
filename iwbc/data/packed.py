"""The packed form on disk: one .npy file per field and image, written as a stream, opened memory-mapped.

Every source ends here: it yields `Episode`s, each is checked at the door and appended, and the folder appears under its
final name only when it is whole. Nothing in it can execute code: plain arrays and JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from iwbc.data.checks import checked, difference, notes_of_joining
from iwbc.data.content import combined, content_hash, finished, image_files
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spaces import image_of_plain, part_of_plain
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError, warn
from iwbc.system.files import NUMPY_DAMAGE, cache_folder, read_json, temporary_prefix
from iwbc.system.locks import exclusive_lock

FORMAT = 5
_META = "packed.json"
# Bytes above which arrays are told by size and modification time: to hash 100 GB takes a minute and reads all of it.
_LARGE = 2**30


class _ArrayStream:
    """A .npy file that grows along its first axis: memory stays one block for a dataset of any size.

    NumPy pads the header for a growing first axis, so that it can be written again in place when the length is known.
    """

    def __init__(self, file: BinaryIO, dtype: npt.DTypeLike, row_shape: tuple[int, ...]) -> None:
        self.file, self.dtype, self.row_shape, self.rows = file, np.dtype(dtype), row_shape, 0
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

    def finish(self) -> str:
        """Write the final header; return the SHA-256 of the array's bytes and shape."""
        self.file.seek(0)
        self._write_header()
        return finished(self.digest, self.dtype, (self.rows, *self.row_shape))


def pack(episodes: Iterable[Episode], info: DatasetInfo, folder: Path, fingerprint: str, clip_actions: bool = False) -> None:
    """Check and write `episodes` into `folder`, which appears whole or not at all.

    Actions outside the action space are refused, or clipped to it with `clip_actions`.
    Raises UserError naming dataset, episode and field where an episode is not fit to train on, and where the folder
    cannot be written.
    """
    building: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=temporary_prefix(folder), dir=folder.parent))
        notes: list[str] = []
        meta = _write(checked(episodes, info, clip_actions, notes), info, building)
        meta["info"]["notes"] = [*info.notes, *notes]
        meta["fingerprint"] = fingerprint
        meta["files"] = _files(building)
        (building / _META).write_text(json.dumps(meta, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(building, folder)
    except OSError as error:
        raise UserError(
            f"dataset {info.id}: its packed cache could not be written to {folder} ({error.strerror or error})"
        ) from None
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def _write(episodes: Iterable[Episode], info: DatasetInfo, folder: Path) -> dict[str, Any]:
    streams: dict[str, _ArrayStream] = {}
    files_of_images = image_files(info.images)
    with contextlib.ExitStack() as open_files:

        def stream(name: str, dtype: npt.DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
            file = open_files.enter_context((folder / f"{name}.npy").open("wb"))
            streams[name] = _ArrayStream(file, dtype, row_shape)

        lengths: list[int] = []
        terminated: list[bool] = []
        successes: list[bool | None] = []
        groups: list[list[bool]] = []
        for episode in episodes:
            if not streams:
                stream("observations", np.float32, episode.observations.shape[1:])
                stream("actions", np.float32, episode.actions.shape[1:])
                stream("rewards", np.float32)
                stream("final_observations", np.float32, episode.observations.shape[1:])
                for name, (_, image) in files_of_images.items():
                    stream(name, np.uint8, image.shape)
            streams["observations"].append(episode.observations)
            streams["final_observations"].append(episode.final_observation[None])
            streams["actions"].append(episode.actions)
            streams["rewards"].append(episode.rewards)
            for name, (field, image) in files_of_images.items():
                array = getattr(episode, field)[image.name]
                streams[name].append(array if field == "images" else array[None])
            lengths.append(len(episode.rewards))
            terminated.append(episode.terminated)
            successes.append(episode.success)
            groups.append([name in episode.groups for name in info.groups])
        stream("offsets", np.int64)
        streams["offsets"].append(np.cumsum([0, *lengths]))
        stream("terminated", np.bool_)
        streams["terminated"].append(np.array(terminated))
        labelled = successes[0] is not None
        if labelled:
            stream("successes", np.bool_)
            streams["successes"].append(np.array(successes))
        if info.groups:
            stream("groups", np.bool_, (len(info.groups),))
            streams["groups"].append(np.array(groups))
        digests = {name: stream.finish() for name, stream in streams.items()}
    return {"format": FORMAT, "content_hash": combined(digests), "labelled": labelled, "info": dataclasses.asdict(info)}


def is_hashed(trajectories: Trajectories) -> bool:
    """Tell whether the content of a dataset was hashed as it was loaded, as that of large ones is not."""
    file = getattr(trajectories.observations, "filename", None)
    return file is not None and sum(size for size, _ in _files(Path(file).parent).values()) <= _LARGE


def open_packed(folder: Path) -> Trajectories:
    """Open the trajectories packed in `folder`, memory-mapped. Raises one of iwbc.system.files.NUMPY_DAMAGE where the folder is
    missing or damaged."""
    meta = read_json(folder / _META)
    info = dict(meta["info"])
    if info["reference_scores"] is not None:
        info["reference_scores"] = ReferenceScores(**info["reference_scores"])
    if info["environment"] is not None:
        # The cache lies beside the data, and may have come with it: imports that it names are dropped.
        info["environment"] = EnvironmentSpec.of_plain({**info["environment"], "imports": ()})
    if info["observation_parts"] is not None:
        info["observation_parts"] = [part_of_plain(part) for part in info["observation_parts"]]
    info["images"] = [image_of_plain(image) for image in info.get("images", ())]

    def mapped(name: str) -> npt.NDArray[Any]:
        # Copy-on-write: never written to, but PyTorch warns of tensors over read-only memory.
        array: npt.NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        return array

    arrays: dict[str, Any] = {name: mapped(name) for name in ("observations", "actions", "rewards", "final_observations")}
    arrays |= {"images": {}, "final_images": {}}
    for name, (field, image) in image_files(info["images"]).items():
        arrays[field][image.name] = mapped(name)
    small = ["offsets", "terminated", *(["successes"] if meta["labelled"] else []), *(["groups"] if info["groups"] else [])]
    arrays |= {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in small}
    arrays.setdefault("successes", None)
    return Trajectories(info=DatasetInfo(**info), known_hash=meta["content_hash"], **arrays)


def load_or_pack(
    folder: Path,
    fingerprint: str,
    build: Callable[[], tuple[Iterable[Episode], DatasetInfo]],
    clip_actions: bool = False,
) -> Trajectories:
    """Open the packed cache at `folder`; write it first where it is missing, damaged or of another `fingerprint`. Its content
    is hashed, or, above 1 GiB, told by size and modification time, which a DataWarning says.

    Two processes that need the same cache at once build it once: the second waits for the first. Gives each of the dataset's
    notes as a DataWarning.
    """
    trajectories = _current(folder, fingerprint)
    if trajectories is None:
        with exclusive_lock(folder.parent / f".{folder.name}.lock"):
            trajectories = _current(folder, fingerprint)
            if trajectories is None:
                episodes, info = build()
                pack(episodes, info, folder, fingerprint, clip_actions)
                trajectories = open_packed(folder)
    warn_of_notes(trajectories)
    return trajectories


def warn_of_notes(trajectories: Trajectories) -> None:
    """Give each of a dataset's notes as a DataWarning."""
    for note in trajectories.info.notes:
        warn(f"dataset {trajectories.info.id}: {note}")


def joined(dataset_id: str, each: Sequence[Trajectories], folder: Path) -> Trajectories:
    """Join datasets one after the other, through a packed cache in `folder`. The description is the first dataset's, and a note
    says where that of another differs.

    Raises UserError where their actions or observations differ.
    """
    first = each[0].info
    for other in each[1:]:
        if what := difference(each[0], other):
            raise UserError(f"dataset {dataset_id}: {first.id} and {other.info.id} have different {what}")
    # Descriptions too: bounds, names of groups or the environment can change while the arrays stay the same.
    parts = [(dataset.content_hash, dataclasses.asdict(dataset.info)) for dataset in each]
    notes = notes_of_joining([dataset.info for dataset in each])  # the others were given as each was loaded
    fingerprint = hashlib.sha256(repr([*parts, *notes]).encode()).hexdigest()
    groups = list(dict.fromkeys(name for dataset in each for name in dataset.info.groups))
    info = dataclasses.replace(first, id=dataset_id, notes=notes, groups=groups)
    episodes = (dataset[index] for dataset in each for index in range(len(dataset)))
    return load_or_pack(packed_folder(folder, f"joined-{fingerprint[:16]}"), fingerprint, lambda: (episodes, info))


def _current(folder: Path, fingerprint: str) -> Trajectories | None:
    """Open the cache, or return None unless it is whole and of this fingerprint."""
    try:
        meta = read_json(folder / _META)
        if meta["format"] != FORMAT or meta["fingerprint"] != fingerprint:
            return None
        trajectories = open_packed(folder)  # a truncated array cannot be mapped
        size = sum(size for size, _ in meta["files"].values())
        if size > _LARGE and meta["files"] == _files(folder):
            warn(
                f"dataset {trajectories.info.id}: {size / 2**30:.1f} GiB, told by size and modification time; iwbc verify "
                "hashes the content"
            )
            return trajectories
        return trajectories if content_hash(trajectories.arrays()) == trajectories.content_hash else None
    except NUMPY_DAMAGE:
        return None


def _files(folder: Path) -> dict[str, list[int]]:
    """Return size in bytes and modification time in nanoseconds of each array's file."""
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(folder.glob("*.npy"))}


def packed_folder(parent: Path, name: str, *options: str | Literal[False] | None) -> Path:
    """Return the folder of the cache called `name`: in `parent`, or, where that cannot be written, among the user's caches.
    Each choice of options has a separate cache."""
    name = "-".join([name, *(option for option in options if option)])
    if os.access(parent, os.W_OK):
        return parent / name
    key = hashlib.sha256(str(parent.resolve()).encode()).hexdigest()[:16]
    return cache_folder() / "packed" / key / name


def bounds_option(low: npt.ArrayLike | None, high: npt.ArrayLike | None) -> str | None:
    """Return the option of a cache for the user's bounds of actions, or None where there are none."""
    if low is None and high is None:
        return None
    plain = repr([None if bound is None else np.asarray(bound).tolist() for bound in (low, high)])
    return f"bounds-{hashlib.sha256(plain.encode()).hexdigest()[:16]}"


def fingerprint_of(files: Iterable[Path], *options: object) -> str:
    """Hash the names, sizes and modification times of `files` and the options of reading them: any change gives another
    hash."""
    parts = [(path.parts[-2:], path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
    return hashlib.sha256(repr((parts, options)).encode()).hexdigest()
