"""The folder in which Minari keeps datasets."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

from iwbc.errors import UserError
from iwbc.system.locks import exclusive_lock


def dataset_folder(dataset_id: str | None = None) -> Path:
    """Return the folder of a Minari dataset, under MINARI_DATASETS_PATH (default ~/.minari/datasets), or without an id that
    folder itself. Raises UserError for an id that is not one of Minari's."""
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.storage.datasets_root_dir import get_dataset_path

    match = DATASET_ID_RE.fullmatch(dataset_id or "")
    if dataset_id is not None and not (match and match["version"]):
        raise UserError(
            f"dataset {dataset_id}: not an id; ids look like mujoco/hopper/medium-v0: (namespace/)name-vN{_hint(dataset_id)}"
        )
    try:
        folder = Path(get_dataset_path(dataset_id))
        folder.exists()  # raises OSError for a name that the file system does not take
        return folder
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"dataset {dataset_id}: its id is too long for the name of a folder") from None
        where = os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets")
        raise UserError(f"MINARI_DATASETS_PATH={where}: cannot be used ({error.strerror})") from None


def _hint(name: str) -> str:
    """Suggest what to do with a name that is no id."""
    path = Path(name).expanduser()
    with contextlib.suppress(OSError):
        return _hint_of(name, path)
    return ""  # too long for a file's


def _hint_of(name: str, path: Path) -> str:
    if path.suffix in (".npz", ".hdf5", ".h5"):
        return f"; make a dataset of the arrays in a file: iwbc convert {name} id=my/{path.stem}-v0, then load that id"
    if path.suffix and path.is_file():
        return "; iwbc convert makes a dataset of the arrays in an npz or HDF5 file, or iwbc.from_arrays of arrays"
    if re.match(r"[-\w]/[-\w]+-v\d+$", name):
        return ", with a namespace of at least two letters"
    if not path.exists() and (name[0] in "./~" or ("/" in name and Path(path.parts[0]).is_dir())):
        return "; as a path: no such file or folder"
    if path.is_dir():
        return "; this is a folder, a dataset in it has the id of its place below MINARI_DATASETS_PATH"
    if re.fullmatch(r"[\w.-]{2,99}/[\w.-]{1,99}", name):
        return f"; one of LeRobot on the Hugging Face Hub: dataset=lerobot dataset.id={name}, load('{name}', source='lerobot')"
    return ""


def make_once(dataset_id: str, make: Callable[[], None]) -> None:
    """Make a dataset unless it is there. A second process that needs it at once waits for the first."""
    folder = dataset_folder(dataset_id)
    if not folder.exists():
        with exclusive_lock(dataset_folder() / f".{dataset_id.replace('/', '+')}.lock"):
            if not folder.exists():
                make()
