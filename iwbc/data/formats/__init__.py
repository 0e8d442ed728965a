"""Formats of robot learning → packed trajectories: each module reads one, with h5py, pyarrow, NumPy or zarr alone."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iwbc.data.formats import lerobot, lerobot_download, maniskill, ogbench, robomimic, zarr
from iwbc.data.hdf5 import check_links
from iwbc.data.packed import bounds_option, fingerprint_of, load_or_pack, packed_folder
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.environments.ogbench import ogbench_spec
from iwbc.errors import UserError
from iwbc.settings import LeRobot, Recording
from iwbc.system.files import MALFORMED, NUMPY_DAMAGE

# By the name of the format in settings.RECORDINGS.
_READERS: dict[str, Any] = {
    "robomimic": robomimic,
    "lerobot": lerobot,
    "maniskill": maniskill,
    "ogbench": ogbench,
    "zarr": zarr,
}
_ENDS = "meta/episode_ends"  # of Zarr
_LONG = 100  # of the part of a folder's name that says a choice


def recognise(path: Path) -> str | None:
    """Name the format, a key of settings.RECORDINGS, that a file or folder is in, by its content, and by its name where
    OGBench's arrays do not tell; None where it is in none of them, or damaged. Raises UserError for a Zarr folder that is
    packed in a zip."""
    try:
        if path.is_dir():
            if (path / "meta" / "info.json").is_file():
                return "lerobot"
            return "zarr" if (path / _ENDS).is_dir() and (path / "data").is_dir() else None
        return _recognise_file(path) if path.is_file() else None
    except (*NUMPY_DAMAGE, *MALFORMED):
        return None


def _recognise_file(path: Path) -> str | None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            arrays = {name.removesuffix(".npy") for name in archive.namelist()}
        if path.name.endswith(".zarr.zip") or any(f"/{_ENDS}/" in f"/{name}" for name in arrays):
            raise UserError(
                f"{path}: is a Zarr folder in a zip, which is not read; unpack it, and name the folder with meta/ in it"
            )
        # Without qpos any recorder may have written these arrays, with an action in an episode's last row.
        told = "qpos" in arrays or ogbench_spec(path.name) is not None
        return "ogbench" if told and {*ogbench.FIELDS} <= arrays <= {*ogbench.FIELDS, *ogbench.STATES} else None
    import h5py
    from h5py import h5g, h5o

    if not h5py.is_hdf5(path):
        return None
    with h5py.File(path, "r") as file:
        root = file["/"].id
        names = [name.decode(errors="replace") for name in root]
        if any(re.fullmatch(r"traj_\d+", name) for name in names):
            return "maniskill"
        check_links(root, b"data")
        data = h5o.open(root, b"data") if "data" in names else None
        demos = isinstance(data, h5g.GroupID) and any(re.fullmatch(rb"demo_\d+", name) for name in data)
        return "robomimic" if demos else None


def place_of(settings: Recording) -> Path:
    """Return the file or folder of a dataset, which may not be there; that of an id on the Hub is where its download goes."""
    if isinstance(settings, LeRobot) and settings.id is not None:
        return lerobot_download.folder_of(settings.id, settings.revision)
    return Path(settings.path).expanduser()


def read(settings: Recording) -> tuple[Iterator[Episode], DatasetInfo]:
    """Read a dataset's description and its episodes, as they are asked for; download it first if need be.

    Raises UserError, also as the episodes are read, where it is not there or not fit to train on.
    """
    path = _there(settings)
    name = settings.id if isinstance(settings, LeRobot) and settings.id is not None else Path(os.path.abspath(path)).name
    episodes, info = _READERS[settings.source].read(path, name, settings)
    return episodes, info


def load(settings: Recording) -> Trajectories:
    """Load a dataset through its packed cache, which lies beside it (or among the user's caches, where it cannot be written).

    Raises UserError where it is not there or not fit to train on.
    """
    path, reader = _there(settings), _READERS[settings.source]
    keys, environment = sorted(getattr(settings, "observation_keys", [])), getattr(settings, "env_id", None)
    named = re.sub(r"[^\w-]", "_", "-".join([*keys, *([environment] if environment else [])]))
    if len(named) > _LONG:
        named = hashlib.sha256(named.encode()).hexdigest()[:16]
    options = (
        settings.clip_actions and "clipped",
        f"only-{named}" if named else None,
        bounds_option(settings.action_low, settings.action_high),
    )
    place = Path(os.path.abspath(path))
    return load_or_pack(
        packed_folder(place.parent, f"{place.name}.packed", *options),
        fingerprint_of(reader.files(path), settings.source, reader.READER, *keys, environment),
        lambda: read(settings),
        clip_actions=settings.clip_actions,
    )


def _there(settings: Recording) -> Path:
    path = place_of(settings)
    if isinstance(settings, LeRobot) and settings.id is not None:
        lerobot_download.ensure(settings.id, settings.revision)
    folder = settings.source in ("lerobot", "zarr")
    if not (path.is_dir() if folder else path.is_file()):
        other = path.exists()
        kinds = (
            ("a file, not a folder" if folder else "a folder, not a file")
            if other
            else f"no such {'folder' if folder else 'file'}"
        )
        raise UserError(f"{path}: {'is ' if other else ''}{kinds}")
    return path
