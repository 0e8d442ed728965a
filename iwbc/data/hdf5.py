"""What HDF5 files say of themselves, before they are believed."""

from __future__ import annotations

import math
from typing import Any

# Deflate makes at most 1,032 bytes of one; what is small may never have been written, and is all zeros.
_MOST_OF_A_BYTE, _SMALL = 1032, 2**26
# Chunks that may never have been written: HDF5 takes 2 KB to look for one.
_FEW = 100_000


def check_size(field: Any) -> None:
    """Raise a ValueError where a dataset, a h5py.h5d.DatasetID, would take more memory than what the file holds of it can come
    to: HDF5 would take that, and many times as much, before it failed."""
    entries = math.prod(field.shape)
    too_large = entries * field.dtype.itemsize > _MOST_OF_A_BYTE * field.get_storage_size() + _SMALL
    if (too_large or (entries > _FEW and _chunks_missing(field) > _FEW)) and not _lies_elsewhere(field):
        raise ValueError(f"its shape {field.shape} is larger than the file can hold")


def _chunks_missing(field: Any) -> int:
    """How many of a dataset's chunks the file does not hold."""
    from h5py import h5d

    how = field.get_create_plist()
    if how.get_layout() != h5d.CHUNKED:
        return 0
    return (
        math.prod(-(-size // chunk) for size, chunk in zip(field.shape, how.get_chunk(), strict=True)) - field.get_num_chunks()
    )


def _lies_elsewhere(field: Any) -> bool:
    """Whether a dataset is made of others, or of other files."""
    from h5py import h5d

    how = field.get_create_plist()
    return bool(how.get_layout() == h5d.VIRTUAL or how.get_external_count())
