"""One layout for structured observations, wherever they come from."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


def ordered(space: gym.Space[Any]) -> gym.Space[Any]:
    """The same space with the keys of its Dicts in alphabetical order, for Gymnasium's `flatten` and its like.

    An environment may order its keys otherwise; a stored dataset has lost that order, and is read back sorted.
    """
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(key, ordered(space.spaces[key])) for key in sorted(space.spaces)])
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([ordered(part) for part in space.spaces])
    return space
