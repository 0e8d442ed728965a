"""Pieces that the readers of formats share: errors in one line, rows of the right shape, parts of observations, bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc.data.checks import action_bounds, checked_flags
from iwbc.environments.gymnasium import label_of
from iwbc.environments.spaces import Image, Part
from iwbc.errors import UserError, listed
from iwbc.settings import Recording
from iwbc.system.files import MALFORMED, NUMPY_DAMAGE

# h5py, pyarrow and zarr raise these on damaged files (SystemError: a size that is negative).
DAMAGE = (*NUMPY_DAMAGE, *MALFORMED, AssertionError, SystemError)
TASK = "task: "  # what the names of groups that are tasks begin with
# The note on data whose files have no observation after an episode's last action.
NO_FINAL = (
    "its files have no observation after an episode's last action: the last observation stands for it, which only value "
    "estimates at a cut see"
)


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn an error of a damaged file inside the block into a UserError of one line, with the place."""
    try:
        yield
    except DAMAGE as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise UserError(f"{where}: cannot be read ({' '.join(str(reason).split()) or type(error).__name__})") from None


def part_of(where: str, path: Sequence[str], row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> Part:
    """Make the part of an observation, an image or one of the vector, that an array with this shape of a row becomes.

    Raises UserError, which begins with `where`, for images of another type than uint8, and for what are no numbers.
    """
    if dtype == np.uint8 and _is_image(row_shape, dtype):
        return Image(tuple(path), row_shape)
    if not is_read(row_shape, dtype):
        shape = "×".join(map(str, row_shape))
        raise UserError(
            f"{where}: images are read as uint8, and it holds {shape} {dtype}; choose others, dataset.observation_keys=[…]"
        )
    if dtype.kind not in "fiub":
        raise UserError(f"{where}: must be numbers, not {dtype}; choose others, dataset.observation_keys=[…]")
    return Part(tuple(path), row_shape)


def is_read(row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Tell arrays that can be chosen: those of images must be uint8."""
    return dtype == np.uint8 or not _is_image(row_shape, dtype)


def _is_image(row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Tell images by the shape of a row: height × width (× channels)."""
    return len(row_shape) > 2 or (len(row_shape) == 2 and dtype == np.uint8)


def rows(array: npt.NDArray[Any], where: str, count: int, row_shape: tuple[int, ...] = ()) -> npt.NDArray[Any]:
    """Return an array as rows, [count, size], or [count] where a row is a number. Raises UserError where its shape is another,
    or it holds no numbers."""
    if array.dtype.kind not in "fiub":
        raise UserError(f"{where}: must be numbers, not {array.dtype}")
    if array.shape != (count, *row_shape) and not (row_shape == () and array.shape == (count, 1)):
        raise UserError(f"{where}: has shape {array.shape}, not {(count, *row_shape)}")
    return array.reshape(count, -1) if row_shape else array.reshape(count)


def frames(array: npt.NDArray[Any], where: str, count: int, image: Image) -> npt.NDArray[Any]:
    """Return an array as an image's frames, [count, *shape]. Raises errors as `rows`."""
    return rows(array, where, count, image.shape).reshape(count, *image.shape)


def vectors(arrays: Sequence[npt.NDArray[Any]], count: int) -> npt.NDArray[Any]:
    """Join rows, [count, …] each, to vectors [count, obs]."""
    columns = [array.reshape(count, -1) for array in arrays] or [np.zeros((count, 0), np.float32)]
    return np.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]


def actions_of(array: npt.NDArray[Any], where: str, size: int | None = None) -> npt.NDArray[np.floating]:
    """Check actions, [T, act]. Raises UserError where they are no vectors of continuous actions, of `size` entries."""
    if array.dtype.kind != "f":
        raise UserError(f"{where}: discrete actions ({array.dtype}) are not supported: need floating-point vectors")
    if array.ndim != 2 or array.shape[1] != (array.shape[1] if size is None else size) or not array.shape[1]:
        raise UserError(f"{where}: has shape {array.shape}; need vectors, [steps, {'actions' if size is None else size}]")
    return array


def flags_of(array: npt.NDArray[Any], where: str, count: int) -> npt.NDArray[np.bool_]:
    """Read a field of trues and falses, [count]. Raises UserError for a value that is neither."""
    return checked_flags(rows(array, where, count), where)


def successes_of(said: Mapping[str, Any], where: str, kind: str) -> list[bool] | None:
    """Read what is said of each episode's success, by the episodes' names, or return None where nothing is said of any.

    Raises UserError, which begins with `where`, for an episode that says nothing beside others that do, and for a value that is
    no label; `kind` names what an episode is there.
    """
    if all(value is None for value in said.values()):
        return None
    labels = []
    for name, value in said.items():
        if value is None:
            raise UserError(f"{where}{name}: has no label success, which other {kind} have; label all or none")
        if (label := label_of(value)) is None:
            raise UserError(f"{where}{name}: its success is {printable(value)}; a label is true or false (1 or 0)")
        labels.append(label)
    return labels


def rewards_of(steps: int, success: bool | None) -> npt.NDArray[np.float32]:
    """Make the rewards, [steps], that stand for missing ones: 1 at the end of a success."""
    rewards = np.zeros(steps, np.float32)
    rewards[steps - 1 :] = bool(success)
    return rewards


def chosen_keys(keys: Sequence[str] | str) -> list[str]:
    """Return the user's choice of observations in the order of vectors, which is the alphabet's."""
    return sorted([keys] if isinstance(keys, str) else set(keys))


def missing_key(where: str, key: str, there: Sequence[str]) -> UserError:
    """Make the error for a chosen observation that is not there."""
    return UserError(f"dataset.observation_keys: {where} has no {key}, only {', '.join(sorted(there)) or 'nothing'}")


def none_usual(problem: str, there: Sequence[str], offered: Sequence[str]) -> UserError:
    """Make the error for data without the usual observations: `there` are all others, `offered` those that can be chosen."""
    if offered:
        return UserError(f"{problem}; choose some of {', '.join(sorted(offered))} with dataset.observation_keys=[…]")
    return UserError(f"{problem}; it has {'images alone, which are not read' if there else 'no other arrays'}")


def images_note(names: Sequence[str]) -> list[str]:
    """Name the images of a recording, in a line at most."""
    return [f"images are not read: {', '.join(sorted(names))}"] if names else []


def unused_note(names: Sequence[str]) -> list[str]:
    """Name the observations of a recording that are not used, in a line at most."""
    if not names:
        return []
    return [f"not used of its observations: {listed(sorted(names))} (dataset.observation_keys=[…] chooses)"]


def bounds(
    dataset_id: str, settings: Recording, low: npt.ArrayLike, high: npt.ArrayLike, size: int
) -> tuple[list[float], list[float]]:
    """Return the bounds of actions: the user's, or else `low` and `high`, of `size` dimensions.

    Raises UserError where they are no bounds.
    """
    lower, upper = action_bounds(
        dataset_id,
        size,
        low if settings.action_low is None else settings.action_low,
        high if settings.action_high is None else settings.action_high,
    )
    return lower.tolist(), upper.tolist()


def widened(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[str]]:
    """Make bounds [act] of the least and the largest actions: outward by float32's rounding alone, and by 1 in dimensions that
    never change, which a note names."""
    still = np.flatnonzero(low == high)
    below, above = low.astype(np.float32), high.astype(np.float32)
    lower = np.where(below > low, np.nextafter(below, np.float32(-np.inf)), below).astype(np.float64)
    upper = np.where(above < high, np.nextafter(above, np.float32(np.inf)), above).astype(np.float64)
    lower[still], upper[still] = low[still] - 1.0, high[still] + 1.0
    notes = [
        f"actions {', '.join(map(str, still))} never change: their bounds are taken 1 below and above; dataset.action_low=… "
        "and dataset.action_high=… say others"
    ]
    return lower, upper, notes if len(still) else []


def printable(value: Any) -> str:
    """Make a text of a file fit for a line: printable, on one line, of at most 500 characters."""
    return "".join(filter(str.isprintable, " ".join(str(value).split())))[:500]


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return a value of JSON that must be an object. Raises UserError where it is none."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: is damaged (not an object)")
    return value
