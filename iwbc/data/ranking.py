"""Figures by which trajectories are ranked besides their return: larger is better. All in double precision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from iwbc.data.trajectories import Trajectories

Values = npt.NDArray[np.float64]

_BLOCK = 65_536


def discounted_returns(trajectories: Trajectories, discount: float) -> tuple[Values, Values]:
    """Compute Σ_t γ^t r_t, t from 0, of every trajectory, γ the discount, [n]; and how far each may lie from what it was before
    rewards were rounded to float32, [n]."""
    starts = trajectories.offsets[:-1]
    steps = np.arange(trajectories.steps) - np.repeat(starts, trajectories.lengths)
    terms = discount**steps * trajectories.steps_of(trajectories.rewards)
    return np.add.reduceat(terms, starts), 2.0**-23 * np.add.reduceat(np.abs(terms), starts)


def smoothness(trajectories: Trajectories) -> Values:
    """Compute minus the mean squared change of the action of every trajectory, [n], at most 0:

        −1 / ((T − 1) A) · Σ_{t=1}^{T−1} Σ_{d=1}^{A} ((a_{t,d} − a_{t−1,d}) / σ_d)²

    σ_d: the standard deviation of action entry d over the dataset (Scales.spread). A trajectory of one step, which shows no
    change, is as rough as the roughest.
    """
    actions, spread = trajectories.actions, trajectories.action_scales.spread
    changes = np.zeros(len(actions))  # from the row before
    for start in range(1, len(changes), _BLOCK):  # a memory-mapped dataset is not copied
        block = actions[start - 1 : start + _BLOCK].astype(np.float64)
        changes[start : start + _BLOCK] = np.square(np.diff(block, axis=0) / spread).mean(1)
    changes[trajectories.first_rows] = 0.0  # it is from the trajectory before
    rough = np.add.reduceat(trajectories.steps_of(changes), trajectories.offsets[:-1]) / np.maximum(trajectories.lengths - 1, 1)
    return 0.0 - np.where(trajectories.lengths > 1, rough, rough.max())  # 0 where nothing moves, not −0


def failures_below(values: Values, successes: npt.NDArray[np.bool_] | None) -> Values:
    """Lower the values of failures by twice the range of all, below every success, [n] → [n]; without labels, or where all are
    alike, nothing changes."""
    if successes is None or successes.all() or not successes.any():
        return values
    return np.where(successes, values, values - (2.0 * np.ptp(values) or 1.0))
