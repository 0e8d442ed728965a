"""Oddities of a dataset that its owner should know of: nothing here refuses data."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from iwbc.data.scales import Scales
from iwbc.data.trajectories import Trajectories

_SAMPLE = 65_536
# The share of steps at which a nearly constant entry has the same value.
_SAME = 0.999
# A trajectory is odd where it is so many times longer or shorter than the median.
_TIMES = 5.0


def duplicates(trajectories: Trajectories) -> dict[int, int]:
    """Map each trajectory with the same observations, images and actions, byte for byte, as an earlier one to the first."""
    first: dict[bytes, int] = {}
    repeated: dict[int, int] = {}
    for i, episode in enumerate(trajectories):
        digest = hashlib.blake2b(np.ascontiguousarray(episode.observations).data)
        for array in (episode.actions, *episode.images.values()):
            digest.update(np.ascontiguousarray(array).data)
        if (earlier := first.setdefault(digest.digest(), i)) != i:
            repeated[i] = earlier
    return repeated


def constant(
    trajectories: Trajectories, values: npt.NDArray[np.float32], scales: Scales
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Mark the entries of values [N, n], observations or actions, that are constant, and the others that nearly are, [n] each:
    with hardly any spread beside their mean, or with the same value at 999 of 1,000 steps (of a sample, where there are many).
    """
    still = scales.lowest == scales.highest
    rows = trajectories.rows(np.arange(len(trajectories)))
    if len(rows) > _SAMPLE:
        rows = rows[np.sort(np.random.default_rng(0).integers(len(rows), size=_SAMPLE))]
    sample = np.asarray(values[rows])
    usual = np.quantile(sample, 0.5, axis=0, method="lower")
    same = (sample == usual).mean(0) >= _SAME
    return still, ~still & (same | ~scales.varies)


def odd_lengths(lengths: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List the trajectories that are shorter than a fifth of the median length, and those longer than five times it."""
    median = np.median(lengths)
    return np.flatnonzero(lengths * _TIMES < median), np.flatnonzero(lengths > _TIMES * median)


def unrewarded(trajectories: Trajectories) -> npt.NDArray[np.int64]:
    """List trajectories without any reward, where all others have one at their last step alone: failures among successes."""
    rewarded = trajectories.steps_of(trajectories.rewards) != 0.0
    last = trajectories.offsets[1:] - 1
    if int(rewarded.sum()) != int(rewarded[last].sum()) or not rewarded[last].any():
        return np.zeros(0, np.int64)
    return np.flatnonzero(~rewarded[last])
