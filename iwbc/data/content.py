"""The SHA-256 of a dataset's content: of every array's bytes, type and shape, by the array's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc.environments.spaces import Image


def image_files(images: Sequence[Image]) -> dict[str, tuple[str, Image]]:
    """Name an array for each image, which may be called anything, and each final image; with the field that it is of."""
    return {f"{field}_{i}": (field, image) for field in ("images", "final_images") for i, image in enumerate(images)}


def finished(digest: Any, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> str:
    """Return the SHA-256 of an array, whose bytes `digest` has seen."""
    digest.update(repr((np.dtype(dtype).str, shape[0], shape[1:])).encode())
    return str(digest.hexdigest())


def combined(digests: dict[str, str]) -> str:
    """Return the SHA-256 of a dataset from those of its arrays."""
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def content_hash(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Compute the SHA-256 of arrays by name."""
    digests = {}
    for name, array in arrays.items():
        digests[name] = finished(hashlib.sha256(np.ascontiguousarray(array).data), array.dtype, array.shape)
    return combined(digests)
