"""HDF5 files read within themselves: their claims of sizes, links and other files are checked first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Deflate makes at most 1,032 bytes of one; a small dataset may never have been written, and is all zeros.
_MOST_OF_A_BYTE, _SMALL = 1032, 2**26
# Chunks that may never have been written: HDF5 takes 2 KB to look for one.
_FEW = 100_000
# Soft links that are followed on the way to a dataset, which may lead back to themselves.
_LINKS = 16
_GROUPS_AT_ONCE = 50


@dataclass
class Unwritten:
    """Tally of arrays of which a file holds a part alone: HDF5 reads what was never written, as where a recorder was stopped,
    as the array's fill value."""

    count: int = 0
    first: str = ""

    def watch(self, field: Any) -> None:
        """Count a dataset, a h5py.h5d.DatasetID, that is not there as a whole."""
        from h5py import h5d, h5i

        how = field.get_create_plist()
        if how.get_layout() == h5d.CHUNKED:
            missing = _chunks_missing(field, how)
            part = f"{missing:,} of {missing + field.get_num_chunks():,} chunks"
        else:
            missing, part = math.prod(field.shape) > 0 and not field.get_storage_size(), "all of it"
        if missing:
            self.count += 1
            self.first = self.first or f"{h5i.get_name(field).decode(errors='replace')}, {part}"

    def notes(self) -> list[str]:
        """Report the arrays that were counted, in a line at most."""
        if not self.count:
            return []
        arrays = f"in {self.count:,} of its arrays a part was" if self.count > 1 else "in an array a part was"
        return [
            f"{arrays} never written, and is read as the fill value, mostly 0 (the first is {self.first}); if numbers should "
            "be there, the file was not written to its end"
        ]


def open_group(parent: Any, path: str) -> Any:
    """Open a group by its path from another, a h5py.h5g.GroupID, of the same file. Raises ValueError or KeyError where none is
    there."""
    from h5py import h5g

    check_links(parent, path.encode())
    return h5g.open(parent, path.encode())


def holds(group: Any, name: str) -> bool:
    """Tell whether a group, a h5py.h5g.GroupID, has something of this name; it may lie elsewhere."""
    there: bool = group.links.exists(name.encode())
    return there


def groups_in_turns(file: Path, paths: Sequence[str]) -> Iterator[Any]:
    """Open groups of a file one after the other, as h5py.h5g.GroupIDs. The file is reopened every so often: HDF5 keeps a record
    of each group as long as it is open, which would take more memory than the data."""
    import h5py

    for start in range(0, len(paths), _GROUPS_AT_ONCE):
        with h5py.File(file, "r") as opened:
            for path in paths[start : start + _GROUPS_AT_ONCE]:
                yield open_group(opened["/"].id, path)


def open_array(group: Any, path: str) -> Any:
    """Open a dataset, a h5py.h5d.DatasetID, by its path from a group. Raises ValueError or KeyError where none is there that
    lies in the file itself."""
    from h5py import h5d

    check_links(group, path.encode())
    field = h5d.open(group, path.encode())  # a key with "/" in it is a path there
    try:
        check_field(field)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return field


def read_array(group: Any, path: str, unwritten: Unwritten | None = None) -> npt.NDArray[Any]:
    """Read a dataset by its path from a group, and count in `unwritten` what is not there. Raises errors as `open_array`, and
    OSError where it is damaged."""
    from h5py import h5s

    field = open_array(group, path)
    if unwritten is not None:
        unwritten.watch(field)
    values = np.empty(field.shape, field.dtype)
    field.read(h5s.ALL, h5s.ALL, values)
    return values


def check_field(field: Any) -> None:
    """Raise a ValueError where a dataset, a h5py.h5d.DatasetID, is made of other datasets or files, or claims more memory than
    the bytes in the file can unpack to: HDF5 would allocate it, and many times as much, before it failed."""
    from h5py import h5d

    how = field.get_create_plist()
    if how.get_layout() == h5d.VIRTUAL:
        raise ValueError("it is a virtual dataset, made of others, which are not read; write its values into the file itself")
    if how.get_external_count():
        name = how.get_external(0)[0].decode(errors="replace")
        raise ValueError(f"its values lie in another file, {name}, which is not read; write them into the file itself")
    entries = math.prod(field.shape)
    too_large = entries * field.dtype.itemsize > _MOST_OF_A_BYTE * field.get_storage_size() + _SMALL
    if too_large or (entries > _FEW and _chunks_missing(field, how) > _FEW):
        raise ValueError(f"its shape {field.shape} is larger than the file can hold")


def check_links(group: Any, path: bytes) -> None:
    """Raise a ValueError where the way from a group, a h5py.h5g.GroupID, to `path` leads into another file, which HDF5 would
    open as it follows the link. Raises nothing where nothing is there."""
    from h5py import h5g, h5i, h5l, h5o

    place, names, followed = group, [name for name in path.split(b"/") if name], 0
    while names:
        name, *names = names
        if not isinstance(place, h5g.GroupID) or not place.links.exists(name):
            return
        kind = place.links.get_info(name).type
        if kind == h5l.TYPE_HARD:
            place = h5o.open(place, name) if names else place
        elif kind == h5l.TYPE_SOFT and followed < _LINKS:
            target, followed = place.links.get_val(name), followed + 1
            place = h5o.open(h5i.get_file_id(place), b"/") if target.startswith(b"/") else place
            names = [part for part in target.split(b"/") if part and part != b"."] + names
        elif kind == h5l.TYPE_SOFT:
            raise ValueError(f"{path.decode(errors='replace')} leads round in circles")
        else:
            into = b":".join(place.links.get_val(name)).decode(errors="replace") if kind == h5l.TYPE_EXTERNAL else "elsewhere"
            way = f"{path.decode(errors='replace')} leads through the link {name.decode(errors='replace')}"
            raise ValueError(f"{way} into another file ({into}), which is not read; copy it into the file itself")


def _chunks_missing(field: Any, how: Any) -> int:
    """Count a dataset's chunks that the file does not hold; `how` is the list of properties from the dataset's creation."""
    from h5py import h5d

    if how.get_layout() != h5d.CHUNKED:
        return 0
    chunks: int = math.prod(-(-size // chunk) for size, chunk in zip(field.shape, how.get_chunk(), strict=True))
    written: int = field.get_num_chunks()
    return chunks - written
