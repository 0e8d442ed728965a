"""Files of step arrays, npz or HDF5, opened without unpickling anything. HDF5 arrays stay on disk until they are sliced.

Names (D4RL's in brackets), N steps of episodes end to end:

observations [N, obs], actions [N, act], rewards [N], terminations (terminals) [N], truncations (timeouts) [N];
optional: next_observations [N, obs] and successes [N] or [episodes] (or infos/success, infos/is_success).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from iwbc.data.arrays import Steps
from iwbc.data.hdf5 import check_field, check_links
from iwbc.errors import UserError
from iwbc.files import NUMPY_DAMAGE

_REQUIRED = {
    "observations": ("observations",),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "terminations": ("terminations", "terminals"),
    "truncations": ("truncations", "timeouts"),
}
_OPTIONAL = {
    "next_observations": ("next_observations",),
    "successes": ("successes", "infos/success", "infos/is_success"),
}


@contextlib.contextmanager
def open_steps(path: Path) -> Iterator[Steps]:
    """The arrays of a file, open for reading. Raises UserError where it is missing, damaged or lacks an array."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with contextlib.ExitStack() as files:
        source = _open_npz(path, files) if path.suffix == ".npz" else _open_hdf5(path, files)
        try:
            there = [one if isinstance(one, str) else repr(one) for one in source]  # h5py gives bytes where they are not UTF-8
            known = {field: [name for name in names if name in source] for field, names in (_REQUIRED | _OPTIONAL).items()}
        except NUMPY_DAMAGE as error:  # h5py raises much the same
            raise UserError(f"{path}: is damaged ({error})") from None
        arrays: dict[str, Any] = {}
        for field, names in (_REQUIRED | _OPTIONAL).items():
            name = next(iter(known[field]), None)
            if name is not None:
                arrays[field] = _read(path, source, name)
            elif field in _REQUIRED:
                raise UserError(f"{path}: has no {' or '.join(names)}; the file holds {', '.join(sorted(there)) or 'nothing'}")
        yield Steps(**arrays)


def _open_npz(path: Path, files: contextlib.ExitStack) -> Any:
    try:
        source = np.load(files.enter_context(path.open("rb")), allow_pickle=False)
    except NUMPY_DAMAGE as error:
        raise UserError(f"{path}: is not a whole npz file ({error})") from None
    if isinstance(source, np.ndarray):
        raise UserError(f"{path}: holds one array without a name; save the arrays with numpy.savez")
    return files.enter_context(source)


def _open_hdf5(path: Path, files: contextlib.ExitStack) -> Any:
    import h5py

    try:
        # Compressed chunks are read by slices that end inside them: the cache keeps them from being unpacked twice.
        file = files.enter_context(h5py.File(path, "r", rdcc_nbytes=16 * 2**20))
    except OSError as error:
        raise UserError(f"{path}: is not a whole HDF5 file ({error}); convert reads .npz and HDF5 files") from None
    for names in (_REQUIRED | _OPTIONAL).values():
        for name in names:  # to ask whether something is there follows links
            _check_links(path, file, name)
    return file


def _check_links(path: Path, file: Any, name: str) -> None:
    try:
        check_links(file["/"].id, name.encode())
    except NUMPY_DAMAGE as error:
        raise UserError(f"{path}, {name}: cannot be read ({error})") from None


def _read(path: Path, source: Any, name: str) -> Any:
    if not hasattr(source, "allow_pickle"):  # an HDF5 file
        _check_links(path, source, name)
    try:
        array = source[name]
        whole = hasattr(array, "shape") and hasattr(array, "dtype")  # which h5py finds out only now
    except NUMPY_DAMAGE as error:
        raise UserError(f"{path}, {name}: cannot be read ({error})") from None
    if not whole:
        raise UserError(f"{path}, {name}: must be an array, not a group of them")
    if not isinstance(array, np.ndarray):
        try:
            check_field(array.id)
        except ValueError as error:
            raise UserError(f"{path}, {name}: cannot be read ({error})") from None
    return array
