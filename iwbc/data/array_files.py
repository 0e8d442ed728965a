"""Files of step arrays, npz or HDF5, opened without unpickling anything. HDF5 arrays stay on disk until they are sliced.

N steps of episodes end to end: observations [N, obs], actions [N, act], rewards [N], terminations [N] and truncations [N], or
dones [N]; optional: next_observations [N, obs] and successes [N] or [episodes]. `NAMES` are what files call them. Where a
file has both infos/success and infos/is_success, an episode is a success by either.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from iwbc.data.arrays import Steps, flags
from iwbc.data.hdf5 import Unwritten, check_field, check_links
from iwbc.errors import UserError, listed
from iwbc.system.files import NUMPY_DAMAGE

# Our name first, then D4RL's and other recorders'.
NAMES = {
    "observations": ("observations", "observation", "obs"),
    "actions": ("actions", "action", "acts"),
    "rewards": ("rewards", "reward"),
    "terminations": ("terminations", "terminals", "terminated", "termination", "terminal"),
    "truncations": ("truncations", "timeouts", "truncated", "truncation", "timeout"),
    "dones": ("dones", "done"),
    "next_observations": ("next_observations", "next_observation", "next_obs"),
    "successes": ("successes", "success", "is_success", "infos/success", "infos/is_success"),
}
_ENDS = {"terminations", "truncations"}
_INFOS = ("infos/success", "infos/is_success")
_OGBENCH = {"observations", "actions", "terminals"}
_BESIDE = ("infos/", "metadata/")  # where D4RL keeps arrays that are not for training
_MOST_NAMES = 12


@contextlib.contextmanager
def open_steps(path: Path, names: Mapping[str, str] | None = None) -> Iterator[Steps]:
    """Open the arrays of a file for reading.

    names: the file's name of a field, where it is not among NAMES, with slashes for groups in groups; "none" leaves the
    field out. Raises UserError where the file is missing, damaged or lacks an array.
    """
    if not path.is_file():
        raise UserError(f"{path}: is a folder, not a file" if path.is_dir() else f"{path}: no such file")
    with contextlib.ExitStack() as files:
        source = _open(path, files)
        try:
            there = _names_in(source)
            chosen = _chosen(path, source, there, names or {})
        except NUMPY_DAMAGE as error:  # h5py raises much the same
            raise UserError(f"{path}: is damaged ({error})") from None
        arrays = {field: _read(path, source, field, name) for field, name in chosen.items()}
        if chosen.get("successes") == _INFOS[0] and _INFOS[1] in there and "successes" not in (names or {}):
            arrays["successes"] = _either(path, source)
        _check_whole(path, there, chosen, names or {})
        left = [name for name in there if name not in chosen.values() and not name.startswith(_BESIDE)]
        missing = NAMES.keys() - chosen.keys() - ({"dones"} if chosen.keys() >= _ENDS else set())
        yield Steps(**arrays, unused=_unused(left, missing), notes=_notes(path, arrays))


def _chosen(path: Path, source: Any, there: list[str], names: Mapping[str, str]) -> dict[str, str]:
    """Choose an array of the file for each field."""
    chosen: dict[str, str] = {}
    _check_links(path, source, [*(name for usual in NAMES.values() for name in usual), *names.values()])
    for field, usual in NAMES.items():
        name = names.get(field) or next((candidate for candidate in usual if candidate in source), "none")
        if name == "none":
            continue
        if name not in source:
            raise UserError(f"{path}: has no {name} ({field}={name}); the file holds {_listed(there)}")
        chosen[field] = name
    if chosen.keys() >= _ENDS and "dones" not in names:
        chosen.pop("dones", None)  # it says nothing new then
    return chosen


def _check_whole(path: Path, there: list[str], chosen: Mapping[str, str], names: Mapping[str, str]) -> None:
    """Raise UserError unless the file has every field that is needed, or the user says that there is none."""
    needed = {"observations": "", "actions": ""}
    if "successes" not in chosen:
        needed["rewards"] = ", or rewards=none where there are none"
    either = ""
    if set(there) == _OGBENCH:
        either = (
            "; convert takes an episode's last row for a step; if it is OGBench's, where that row leads nowhere, read it with "
            "dataset=ogbench, or give the file its name there, such as cube-single-play-v0.npz"
        )
    if "dones" not in chosen:
        needed |= dict.fromkeys(sorted(_ENDS), " (none: there are none), or dones=NAME")
    for field, otherwise in needed.items():
        if field not in chosen and (names.get(field) != "none" or not otherwise):
            raise UserError(
                f"{path}: has no {' or '.join(NAMES[field])}; name it with {field}=NAME{otherwise}, an option of convert; "
                f"the file holds {_listed(there)}{either}"
            )


def _unused(left: list[str], missing: Collection[str]) -> str | None:
    """Name the arrays of a file that were not used, with the missing fields that they may be."""
    if not left:
        return None
    known = {name: field for field, usual in NAMES.items() for name in usual}
    hints = []
    for name in left:
        near = difflib.get_close_matches(name.rpartition("/")[2].lower(), known, n=1, cutoff=0.7)
        hints += [f"{known[near[0]]}={name}"] if near and known[near[0]] in missing else []
    hint = f"; should it be {' '.join(hints[:3])}, as convert takes it?" if hints else ""
    return f"not used of its file: {_listed(left)}{hint}"


def _notes(path: Path, arrays: Mapping[str, Any]) -> list[str]:
    """Report the arrays of an HDF5 file that it holds in part alone. Raises UserError where it cannot tell."""
    unwritten = Unwritten()
    for field, array in arrays.items():
        try:
            if not isinstance(array, np.ndarray):
                unwritten.watch(array.id)
        except NUMPY_DAMAGE as error:
            raise UserError(f"{path}, {field}: cannot be read ({error})") from None
    return unwritten.notes()


def _listed(names: list[str]) -> str:
    return listed(sorted(names), _MOST_NAMES) or "nothing"


def _names_in(source: Any) -> list[str]:
    """List the names of all arrays in a file, with slashes for groups in groups; empty groups, too."""
    if isinstance(source, np.lib.npyio.NpzFile):
        return list(source.files)
    import h5py

    names: list[str] = []

    def add(name: str | bytes, part: Any) -> None:
        if not isinstance(part, h5py.Group) or not len(part):
            names.append(name if isinstance(name, str) else repr(name))  # bytes where it is not UTF-8

    source.visititems(add)
    return names


def _open(path: Path, files: contextlib.ExitStack) -> Any:
    with path.open("rb") as file:
        start = file.read(8)
    # By content; by the file's name where the content is damaged.
    if start.startswith((b"PK", b"\x93NUMPY")) or (path.suffix == ".npz" and not start.startswith(b"\x89HDF")):
        return _open_npz(path, files)
    return _open_hdf5(path, files)


def _either(path: Path, source: Any) -> Any:
    """Merge the labels of both names: a success by either is a success."""
    first, second = (flags(path.name, name, _read(path, source, "successes", name)) for name in _INFOS)
    if len(first) != len(second):
        raise UserError(f"{path}: {' and '.join(_INFOS)} have {len(first)} and {len(second)} labels; keep one of them")
    return first | second


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
        return files.enter_context(h5py.File(path, "r", rdcc_nbytes=16 * 2**20))
    except OSError as error:
        raise UserError(
            f"{path}: is not a whole HDF5 file ({error}); only npz and HDF5 files are read, and nothing is unpickled"
        ) from None


def _check_links(path: Path, source: Any, names: Collection[str]) -> None:
    """Raise UserError where one of these names leads out of an HDF5 file: even `name in file` follows links."""
    if isinstance(source, np.lib.npyio.NpzFile):
        return
    for name in names:
        try:
            check_links(source["/"].id, name.encode())
        except NUMPY_DAMAGE as error:
            raise UserError(f"{path}, {name}: cannot be read ({error})") from None


def _read(path: Path, source: Any, field: str, name: str) -> Any:
    try:
        array = source[name]
        whole = hasattr(array, "shape") and hasattr(array, "dtype")  # h5py reads these, and may raise, only now
    except NUMPY_DAMAGE as error:
        raise UserError(f"{path}, {name}: cannot be read ({error})") from None
    if not whole:
        raise UserError(f"{path}, {name}: must be an array, not a group of them; {field}={name}/… names one of its arrays")
    if not isinstance(array, np.ndarray):
        try:
            check_field(array.id)
        except ValueError as error:
            raise UserError(f"{path}, {name}: cannot be read ({error})") from None
    return array
