"""One flattening of observations to vectors, beside which images stay arrays, for datasets, environments and `predict`; and
actions inside bounds of any precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

# The name of the vector among a policy's observations that have images, too.
VECTOR = "observations"


@dataclass(frozen=True)
class Part:
    """An array among those that an observation is made of.

    path: keys of Dicts and (index, length) of Tuples that lead to the array; empty where the observation itself is the array.
    shape: of the array. choices: if the array holds choices (Discrete, MultiDiscrete), the number of them for each entry, from
    `first` on; they become one-hot.
    """

    path: tuple[str | tuple[int, int], ...]
    shape: tuple[int, ...]
    choices: tuple[int, ...] | None = None
    first: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """The path, joined by /; empty where the observation itself is the array."""
        return "/".join(key if isinstance(key, str) else str(key[0]) for key in self.path)

    def __str__(self) -> str:
        kind = f"of {'×'.join(map(str, self.shape)) or 'one'}"
        return f"{self.name} {kind}".strip() if self.choices is None else f"{self.name} {kind} choices".strip()

    @property
    def size(self) -> int:
        """The number of entries of the part's vector."""
        return math.prod(self.shape) if self.choices is None else sum(self.choices)

    def vectors(self, observation: Any) -> npt.NDArray[Any]:
        """Read the part's entries in an observation, [size], or in a batch, [B, size]. Raises ValueError where the part is not
        there."""
        array = np.asarray(self._within(observation))
        if self.shape == () and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]  # numbers that were recorded as vectors of length 1
        leading = array.ndim - len(self.shape)
        if array.dtype.kind not in "fiub" or leading not in (0, 1) or array.shape[leading:] != self.shape:
            raise ValueError(f"has {self.name and f'{self.name} of '}shape {array.shape}, not {self.shape}")
        rows = array.reshape(*array.shape[:leading], math.prod(self.shape))
        return rows if self.choices is None else self._one_hot(rows)

    def _within(self, observation: Any) -> Any:
        for key in self.path:
            if isinstance(key, str):
                if not isinstance(observation, Mapping) or key not in observation:
                    raise ValueError(f"has no {self.name}")
                observation = observation[key]
            else:
                index, length = key
                if not isinstance(observation, tuple | list) or len(observation) != length:
                    raise ValueError(f"has no {self.name} (of a tuple of {length})")
                observation = observation[index]
        return observation

    def _one_hot(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
        assert self.choices is not None
        counts, first = np.array(self.choices), np.array(self.first)
        chosen = (rows if rows.dtype.kind == "f" else rows.astype(np.int64)) - first
        wrong = ~((chosen >= 0) & (chosen < counts) & (chosen == np.floor(chosen)))
        if wrong.any():
            *_, entry = place = tuple(np.argwhere(wrong)[0])
            last = first[entry] + counts[entry] - 1
            raise ValueError(
                f"has {rows[place]}{self.name and f' as {self.name}'}, not a whole number from {first[entry]} to {last}"
            )
        hot = np.zeros((*rows.shape[:-1], sum(self.choices)), np.int8)
        starts = np.cumsum(counts) - counts
        np.put_along_axis(hot, starts + chosen.astype(np.int64), 1, axis=-1)
        return hot


class Image(Part):
    """A part of uint8 that stays an array beside the vector."""

    @property
    def name(self) -> str:
        """The path, joined by /; "image" where the observation itself is the image."""
        return super().name or "image"

    def array(self, observation: Any) -> npt.NDArray[np.uint8]:
        """Read the image in an observation, [*shape], or in a batch, [B, *shape]. Raises ValueError where it is not there."""
        array = np.asarray(self._within(observation))
        leading = array.ndim - len(self.shape)
        if array.dtype != np.uint8 or leading not in (0, 1) or array.shape[leading:] != self.shape:
            raise ValueError(f"has {self.name} of shape {array.shape} and type {array.dtype}, not {self.shape} and uint8")
        return array


def divided(parts: Sequence[Part]) -> tuple[list[Part], list[Image]]:
    """Divide parts into those of the vector, and images."""
    images = [part for part in parts if isinstance(part, Image)]
    return [part for part in parts if not isinstance(part, Image)], images


def parts_of(space: gym.Space[Any]) -> list[Part]:
    """List the parts of a space's values in the order of Gymnasium's `flatten`, but with the keys of Dicts in alphabetical
    order: an environment may order them otherwise, and a stored dataset has lost that order.

    Raises ValueError, which says why, where the space's values are neither images nor vectors of a fixed size that an MLP can
    use.
    """
    if isinstance(space, gym.spaces.Dict):
        return _below([(key, space.spaces[key]) for key in sorted(space.spaces)])
    if isinstance(space, gym.spaces.Tuple):
        return _below([((index, len(space.spaces)), part) for index, part in enumerate(space.spaces)])
    if isinstance(space, gym.spaces.Discrete):
        return [Part((), (), (int(space.n),), (int(space.start),))]
    if isinstance(space, gym.spaces.MultiDiscrete):
        first = np.broadcast_to(space.start, space.shape)
        return [Part((), space.shape, tuple(space.nvec.ravel().tolist()), tuple(first.ravel().tolist()))]
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1:
        return [Image((), tuple(space.shape))]
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        return [Part((), tuple(space.shape))]
    raise ValueError(f"{space} has no fixed size" if not space.is_np_flattenable else f"{space} has values that are no numbers")


def _below(spaces: Sequence[tuple[str | tuple[int, int], gym.Space[Any]]]) -> list[Part]:
    return [replace(part, path=(key, *part.path)) for key, space in spaces for part in parts_of(space)]


def is_vector(space: gym.Space[Any]) -> bool:
    """Tell whether a space's values are vectors already."""
    return isinstance(space, gym.spaces.Box) and len(space.shape) == 1


def size_of(parts: Sequence[Part]) -> int:
    """Return the size of the vectors that parts make."""
    return sum(part.size for part in parts)


def flatten(parts: Sequence[Part], observation: Any) -> npt.NDArray[Any]:
    """Flatten an observation to a vector [obs], or a batch of them to vectors [B, obs].

    Raises ValueError, to be read after "the observation", where it is not made of these parts.
    """
    arrays = [part.vectors(observation) for part in parts]
    batches = {array.shape[:-1] for array in arrays}
    if batches == {(), (1,)}:  # one observation, some of whose numbers are vectors of length 1
        arrays = [array.ravel() for array in arrays]
    elif len(batches) > 1:
        lengths = ", ".join(f"{part.name} {array.shape[:-1] or 'one'}" for part, array in zip(parts, arrays, strict=True))
        raise ValueError(f"has parts of different batch sizes ({lengths})")
    return np.concatenate(arrays, axis=-1) if len(arrays) > 1 else arrays[0]


def observed(parts: Sequence[Part], images: Sequence[Image], observation: Any) -> npt.NDArray[Any]:
    """Flatten an observation, or a batch of them, as `flatten` does; with images, make records, [] or [B], whose fields are the
    vector, under VECTOR, and the images, under their names.

    Raises ValueError, to be read after "the observation", where it is not made of these parts.
    """
    if not images:
        return flatten(parts, observation)
    arrays: dict[str, npt.NDArray[Any]] = {image.name: image.array(observation) for image in images}
    first = arrays[images[0].name]
    batch = first.shape[: first.ndim - len(images[0].shape)]
    arrays[VECTOR] = floats(flatten(parts, observation)) if parts else np.zeros((*batch, 0), np.float32)
    shapes = {VECTOR: arrays[VECTOR].shape[-1:]} | {image.name: image.shape for image in images}
    if any(arrays[name].shape != (*batch, *shape) for name, shape in shapes.items()):
        lengths = ", ".join(f"{name} {arrays[name].shape}" for name in shapes)
        raise ValueError(f"has parts of different batch sizes ({lengths})")
    records = np.empty(batch, [(name, arrays[name].dtype, shape) for name, shape in shapes.items()])
    for name in shapes:
        records[name] = arrays[name]
    return records


def floats(vectors: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
    """Make vectors of whole numbers floating-point ones, so that later observations, which may be fractions, fit in beside."""
    return vectors.astype(np.result_type(vectors, np.float32), copy=False)


def entry_names(parts: Sequence[Part] | None, size: int) -> list[str]:
    """Name each entry of the vectors: by a number, or by the part and the number in the part."""
    if parts is None or not any(part.path for part in parts):
        return [str(entry) for entry in range(size)]
    return list(chain.from_iterable(_names_within(part) for part in parts))


def _names_within(part: Part) -> list[str]:
    return [part.name] if part.size == 1 else [f"{part.name}[{entry}]" for entry in range(part.size)]


def part_of_plain(plain: Any) -> Part:
    """Make a part from the plain values of the fields, or from the path and shape that policies of format 2 hold. Raises
    KeyError, TypeError or ValueError where they are none."""
    if isinstance(plain, list):
        path, shape = plain
        return Part(tuple(path.split("/")), tuple(map(int, shape)))
    path = tuple(key if isinstance(key, str) else (int(key[0]), int(key[1])) for key in plain["path"])
    choices, first = (plain[name] and tuple(map(int, plain[name])) for name in ("choices", "first"))
    if (choices is None) != (first is None) or (choices is not None and len(choices) != len(first)):
        raise ValueError("its choices are not as many as their first ones")
    return Part(path, tuple(map(int, plain["shape"])), choices, first)


def image_of_plain(plain: Any) -> Image:
    """Make an image from the plain values of a part. Raises errors as `part_of_plain`."""
    part = part_of_plain(plain)
    return Image(part.path, part.shape)


def clipped(space: gym.spaces.Box, actions: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Move actions [..., act] to the nearest ones of a space, in the space's precision, in which they lie within its bounds."""
    return np.clip(actions.astype(space.dtype, copy=False), space.low, space.high)


def float32_bounds(low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Round bounds [act] to float32, inwards: actions inside the rounded bounds are inside the bounds in any precision."""
    lowest, highest = np.asarray(low, np.float64), np.asarray(high, np.float64)
    with np.errstate(over="ignore"):
        below, above = lowest.astype(np.float32), highest.astype(np.float32)
    below = np.where(below < lowest, np.nextafter(below, np.float32(np.inf)), below)
    above = np.where(above > highest, np.nextafter(above, np.float32(-np.inf)), above)
    return below, above
