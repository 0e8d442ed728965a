"""95 % intervals of means: over a handful of seeds, over episodes, and of shares that are all or nothing."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def interval(values: npt.NDArray[np.generic], seed: int = 0, differences: bool = False) -> tuple[float, float]:
    """Compute the 95 % interval of the mean of values [S, E]: Student's, of the seeds' means, as a bootstrap of a handful of
    seeds is far too narrow; or of one seed a bootstrap of its episodes. Of truths that are all alike it is Wilson's; with
    `differences` of two truths, it is no narrower than whole episodes allow, either."""
    array = values.astype(np.float64)
    truths = int(values.dtype == np.bool_) + 2 * differences  # in each value
    lowest, highest = (-1.0 if differences else 0.0, 1.0) if truths else (-math.inf, math.inf)
    if truths == 1 and np.ptp(array) == 0.0:
        return wilson(float(array.flat[0]), array.size)
    if len(array) == 1:
        if differences and np.ptp(array) == 0.0:  # any other is as rare as a truth that was never seen
            middle, (_, reach) = float(array.flat[0]), wilson(0.0, array.size)
            return max(lowest, middle - reach), min(highest, middle + reach)
        episodes = np.random.default_rng(seed).integers(array.size, size=(2000, array.size))
        low, high = np.percentile(array[0, episodes].mean(1), [2.5, 97.5])
        return float(low), float(high)
    means = array.mean(1)
    # Shares that are all alike are no surer than whole episodes can tell, each to within half of one.
    error = max(float(means.std(ddof=1)), math.sqrt(truths / 12) / array.shape[1]) / math.sqrt(len(means))
    reach, middle = student_quantile(0.975, len(means) - 1) * error, float(means.mean())
    return max(lowest, middle - reach), min(highest, middle + reach)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Compute Wilson's (1927) 95 % interval of a share of `count` cases."""
    z = 1.959964
    middle, half = share + z**2 / (2 * count), z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, (middle - half) / (1 + z**2 / count)), min(1.0, (middle + half) / (1 + z**2 / count))


def student_quantile(probability: float, freedom: int) -> float:
    """Compute the quantile of Student's t distribution at a probability of at least ½."""
    low, high = 0.0, 1.0
    while _student(high, freedom) < probability:
        high *= 2.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _student(middle, freedom) < probability else (low, middle)
    return 0.5 * (low + high)


def _student(value: float, freedom: int) -> float:
    """Compute P(T ≤ value) for a value of at least 0: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(value / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return 0.5 + 0.5 * (2.0 / math.pi * (angle + total) if odd else total)
