"""The scale of data, entry by entry: entries that a network takes as they come, and entries that need other units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

_BLOCK = 65_536
# Values lie far out where they lie ten times as far as the range of the others is wide, and are at most 1 in 1,000.
_FAR, _RARE, _FEW = 10.0, 0.001, 100
# Below this share of its mean the spread of an entry is float32's rounding.
_ROUNDING = 1e-6
_TINY = 1e-30  # float32 gives infinities when divided by less
# Too large or too small for a network of ReLUs, tried on a nearly linear expert: with a spread from 0.01 to 50, and up to
# mean² / std = 100, it is learnt as at 0 ± 1. The shipped tiers stay below 15 and 60.
_LARGE, _SMALL, _OFFSET = 30.0, 0.05, 150.0
# A mean of this size is harmless, however small the spread beside it; a spread of less than this share of it is noise.
_HARMLESS, _NOISE = 4.0, 1e-3
# Bounds are far beyond the data where they are more than this many times as wide: in ±5, actions of ±1 are learnt to 1 %.
_BEYOND = 5.0
# A constant gets a range of this share of itself on either side.
_ABOUT = 0.01


@dataclass(frozen=True)
class Scales:
    """Scales of each entry, [n]: mean, standard deviation and range (low, high) of all values but the `far` ones that lie far
    out; and the range of all (lowest, highest)."""

    mean: Values
    std: Values
    low: Values
    high: Values
    lowest: Values
    highest: Values
    far: npt.NDArray[np.int64]

    @property
    def spread(self) -> Values:
        """The standard deviation; of a constant the magnitude, or 1 for 0."""
        magnitude = np.abs(self.mean)
        constant = self.std <= np.maximum(_ROUNDING * magnitude, _TINY)
        return np.where(constant, np.where(magnitude > _TINY, magnitude, 1.0), self.std)

    @property
    def far_from_one(self) -> npt.NDArray[np.bool_]:
        """Mark entries that a network cannot use as they come: too large, varying in a small range about 0, or with values far
        out."""
        return self.too_large() | self.too_small | (self.far > 0)

    @property
    def varies(self) -> npt.NDArray[np.bool_]:
        """Mark entries that are more than a constant with some noise."""
        return self.std > np.maximum(_NOISE * np.abs(self.mean), _TINY)

    @property
    def too_small(self) -> npt.NDArray[np.bool_]:
        """Mark entries whose range is small, but whose spread is not small beside the mean."""
        return self.varies & (self.high - self.low < _SMALL)

    def too_large(self, slack: float = 1.0) -> npt.NDArray[np.bool_]:
        """Mark entries whose spread is large, or whose mean is large beside it; `slack` times as large is still let pass."""
        magnitude = np.abs(self.mean)
        offset = (magnitude > slack * _HARMLESS) & (magnitude**2 > slack * _OFFSET * self.std)
        return (self.std > slack * _LARGE) | offset


def scales_of(*arrays: npt.NDArray[np.floating]) -> Scales:
    """Compute the scales of arrays [N, n] laid end to end."""
    mean, std = _moments(arrays)
    low = lowest = np.min([array.min(0) for array in arrays], 0).astype(np.float64)
    high = highest = np.max([array.max(0) for array in arrays], 0).astype(np.float64)
    bottom, top = _usual_range(arrays)
    nearest, farthest = bottom - _FAR * (top - bottom), top + _FAR * (top - bottom)
    far = np.zeros(len(mean), np.int64)
    for entry in np.flatnonzero((top > bottom) & ((lowest < nearest) | (highest > farthest))):
        values = np.concatenate([array[:, entry] for array in arrays]).astype(np.float64)
        usual = values[(values >= nearest[entry]) & (values <= farthest[entry])]
        if len(values) - len(usual) <= _RARE * len(values) + 1:
            low, high = low.copy(), high.copy()
            mean[entry], std[entry], low[entry], high[entry] = usual.mean(), usual.std(), usual.min(), usual.max()
            far[entry] = len(values) - len(usual)
    return Scales(mean, std, low, high, lowest, highest, far)


def _moments(arrays: tuple[npt.NDArray[np.floating], ...]) -> tuple[Values, Values]:
    """Compute mean and standard deviation over all rows, [n] each, merged block by block (Chan et al. 1983): a memory-mapped
    dataset is not copied."""
    width = arrays[0].shape[1]
    mean, squares, count = np.zeros(width), np.zeros(width), 0
    for array in arrays:
        for start in range(0, len(array), _BLOCK):
            block = array[start : start + _BLOCK].astype(np.float64)
            block_mean = block.mean(0)
            squares += ((block - block_mean) ** 2).sum(0)
            squares += (block_mean - mean) ** 2 * (count * len(block) / (count + len(block)))
            count += len(block)
            mean += (block_mean - mean) * (len(block) / count)
    return mean, np.sqrt(squares / count)


def _usual_range(arrays: tuple[npt.NDArray[np.floating], ...]) -> tuple[Values, Values]:
    """Compute the range of a sample of the rows without the lowest and the highest of 1,000, [n] each."""
    total, random = sum(map(len, arrays)), np.random.default_rng(0)
    if total > _BLOCK:  # drawn at random, because a regular stride might always meet the same step of an episode
        arrays = tuple(array[np.sort(random.integers(len(array), size=1 + _BLOCK * len(array) // total))] for array in arrays)
    rows = np.concatenate(arrays)
    if len(rows) < _FEW:
        return rows.min(0).astype(np.float64), rows.max(0).astype(np.float64)
    bottom, top = int(np.ceil(_RARE * (len(rows) - 1))), int(np.floor((1.0 - _RARE) * (len(rows) - 1)))
    ordered = np.partition(rows, [bottom, top], axis=0)
    return ordered[bottom].astype(np.float64), ordered[top].astype(np.float64)


@dataclass(frozen=True)
class Normaliser:
    """(o − mean) / std, entry by entry, clipped to low … high, [n] each; an entry that stays as it comes has mean 0, std 1, and
    infinite limits."""

    mean: Values
    std: Values
    low: Values
    high: Values


def normaliser(scales: Scales, chosen: npt.NDArray[np.bool_]) -> Normaliser:
    """Make the normaliser of the chosen entries. It clips to the range of the data and a standard deviation beyond: where an
    entry hardly varied, the network knows nothing of other values. Values far out are clipped to ±10."""
    mean, std = np.where(chosen, scales.mean, 0.0), np.where(chosen, scales.spread, 1.0)
    low, high = (scales.low - mean) / std - 1.0, (scales.high - mean) / std + 1.0
    low = np.where(scales.lowest < scales.low, np.minimum(low, -10.0), low)
    high = np.where(scales.highest > scales.high, np.maximum(high, 10.0), high)
    return Normaliser(mean, std, np.where(chosen, low, -np.inf), np.where(chosen, high, np.inf))


def action_range(scales: Scales, low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[Values, Values]:
    """Choose the actions that become −1 and 1 for a network, [n] each: the bounds, or the range of the data where the bounds
    are infinite or far beyond it."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    middle, half = (scales.low + scales.high) / 2.0, (scales.high - scales.low) / 2.0
    magnitude = np.abs(middle)
    constant = half <= np.maximum(_ROUNDING * magnitude, _TINY)
    half = np.where(constant, np.where(magnitude > _TINY, _ABOUT * magnitude, 1.0), half)
    with np.errstate(over="ignore"):  # bounds may be the largest numbers that there are
        fits = high - low <= 2.0 * _BEYOND * half
    return np.where(fits, low, middle - half), np.where(fits, high, middle + half)
