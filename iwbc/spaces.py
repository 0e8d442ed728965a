"""One layout for structured observations, wherever they come from, and actions within bounds of any precision."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt


def ordered(space: gym.Space[Any]) -> gym.Space[Any]:
    """The same space with the keys of its Dicts in alphabetical order, for Gymnasium's `flatten` and its like.

    An environment may order its keys otherwise; a stored dataset has lost that order, and is read back sorted.
    """
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(key, ordered(space.spaces[key])) for key in sorted(space.spaces)])
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([ordered(part) for part in space.spaces])
    return space


def parts(space: gym.Space[Any]) -> list[tuple[str, list[int]]] | None:
    """What a Dict's vectors are made of, in the order of `ordered`: the path (keys joined by /) and shape of each array. None
    for other spaces, and where not all leaves are arrays."""
    if not isinstance(space, gym.spaces.Dict):
        return None
    found: list[tuple[str, list[int]]] = []
    for key in sorted(space.spaces):
        own = space.spaces[key]
        below = [("", list(own.shape))] if isinstance(own, gym.spaces.Box) else parts(own)
        if below is None:
            return None
        found += [(f"{key}/{path}" if path else str(key), shape) for path, shape in below]
    return found


def clipped(space: gym.spaces.Box, actions: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Move actions [..., act] to the nearest ones of a space, in the space's precision, in which they lie within its bounds."""
    return np.clip(actions.astype(space.dtype, copy=False), space.low, space.high)


def float32_bounds(low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Round bounds [act] to float32, inwards: what lies within the rounded ones lies within those of any precision."""
    lowest, highest = np.asarray(low, np.float64), np.asarray(high, np.float64)
    with np.errstate(over="ignore"):
        below, above = lowest.astype(np.float32), highest.astype(np.float32)
    below = np.where(below < lowest, np.nextafter(below, np.float32(np.inf)), below)
    above = np.where(above > highest, np.nextafter(above, np.float32(-np.inf)), above)
    return below, above
