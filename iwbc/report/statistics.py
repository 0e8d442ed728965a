"""Aggregates over datasets with stratified bootstrap intervals, as Agarwal et al. (2021, arXiv 2108.13264) define them.

The numbers are those of their rliable, which this package's tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iwbc.report.study import REFERENCE, Study
from iwbc.settings import ACTION_NAMES

Array = npt.NDArray[np.float64]

REPETITIONS = 5000  # bootstrap samples of an interval
PROFILE_REPETITIONS = 1000
_SEED = 0
_AT_ONCE = 250  # samples, so that memory stays small

AGGREGATES = ("IQM", "mean", "median", "optimality gap")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; the bounds are NaN where one seed allows none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Scores that aggregates are made of: `matrices[method]` [seeds, tasks], over the tasks that all the methods share.
    `played`: the kind of action, where a study has several."""

    tasks: list[str]
    matrices: dict[str, Array]
    notes: list[str]
    played: str = ""


def shared_scores(study: Study, action: str | None = None) -> Scores:
    """Gather the mean score of each seed (0 random, 100 expert) on the tasks that every method with scores has; of one kind
    of action, where several were played, since those of the same policies are no datasets of their own.

    A method with more seeds on some tasks than on others counts as many as it has everywhere, lowest seeds first.
    """
    played = [name for name, task in study.tasks.items() if action in (None, task.action)]
    several = len({task.action for task in study.tasks.values()}) > 1
    scored = {place: [r.mean_score for r in results] for place, results in study.cells.items()}
    scored = {place: scores for place, scores in scored.items() if np.isfinite(scores).all()}
    methods = [method for method in study.methods if any((task, method) in scored for task in played)]
    every = [task for task in played if any((task, method) in scored for method in methods)]
    if any((task, REFERENCE) not in scored for task in every):  # where BC alone was run, say
        methods = [method for method in methods if method != REFERENCE]
    tasks = [task for task in every if all((task, method) in scored for method in methods)]
    matrices, notes = {}, []
    for method in methods if tasks else []:
        columns = [scored[task, method] for task in tasks]
        seeds = min(map(len, columns))
        matrices[method] = np.array([column[:seeds] for column in columns]).T
        if most := max(map(len, columns)) - seeds:
            notes.append(f"Aggregates count {seeds} seeds of {method}, {most} fewer than some of its datasets have.")
    if left_out := [task for task in every if task not in tasks]:
        notes.append(f"Aggregates leave out what not every method was run on: {', '.join(left_out)}.")
    return Scores(tasks, matrices, notes, ACTION_NAMES[action] if action and several else "")


def aggregates(scores: Scores) -> dict[str, dict[str, Estimate]]:
    """IQM, mean, median and optimality gap (to a score of 100) of each method."""

    def measure(matrix: Array) -> Array:
        gap = 100.0 - np.minimum(matrix, 100.0).mean((-2, -1))
        median = np.median(matrix.mean(-2), -1)
        return np.stack([interquartile_mean(matrix), matrix.mean((-2, -1)), median, gap], -1)

    result = {}
    for method, matrix in scores.matrices.items():
        values, low, high = _interval([matrix], measure, REPETITIONS)
        result[method] = {name: Estimate(*map(float, row)) for name, *row in zip(AGGREGATES, values, low, high, strict=True)}
    return result


def interquartile_mean(matrix: Array) -> Array:
    """Average the middle half of all scores, [..., seeds, tasks] → [...]; a quarter is cut off either end, rounded down."""
    values = np.sort(matrix.reshape(*matrix.shape[:-2], -1), -1)
    cut = values.shape[-1] // 4
    means: Array = values[..., cut : values.shape[-1] - cut].mean(-1)
    return means


def improvement(scores: Scores, baseline: str) -> dict[str, Estimate]:
    """P(a seed of the method scores higher than a seed of the baseline), averaged over tasks; ties count half."""
    result = {}
    for method, matrix in scores.matrices.items():
        if method != baseline:
            pair = [matrix, scores.matrices[baseline]]
            estimate = _interval(pair, lambda x, y: probability_of_improvement(x, y)[..., None], REPETITIONS)
            result[method] = Estimate(*(float(part[0]) for part in estimate))
    return result


def probability_of_improvement(x: Array, y: Array) -> Array:
    """Average over tasks the share of pairs of seeds in which x is higher, [..., seeds, tasks] each → [...]."""
    first, second = x[..., :, None, :], y[..., None, :, :]
    probabilities: Array = ((first > second) + 0.5 * (first == second)).mean((-3, -2, -1))
    return probabilities


def profiles(scores: Scores, thresholds: Array) -> dict[str, tuple[Array, Array, Array]]:
    """For each method, the share of (seed, task) pairs that score above each threshold, with the interval's bounds."""
    return {
        method: _interval([matrix], lambda m: (m[..., None] > thresholds).mean((-3, -2)), PROFILE_REPETITIONS)
        for method, matrix in scores.matrices.items()
    }


def _interval(matrices: Sequence[Array], measure: Callable[..., Array], repetitions: int) -> tuple[Array, Array, Array]:
    """Compute a measure of matrices [seeds, tasks], and its 95 % percentile bootstrap interval: in every sample the seeds
    of each task, and of each matrix, are drawn again by themselves. NaN where a single seed allows no interval."""
    point = measure(*matrices)
    if min(map(len, matrices)) < 2:
        return point, np.full_like(point, np.nan), np.full_like(point, np.nan)
    random = np.random.default_rng(_SEED)
    samples = []
    for start in range(0, repetitions, _AT_ONCE):
        count = min(_AT_ONCE, repetitions - start)
        drawn = [random.integers(len(matrix), size=(count, *matrix.shape)) for matrix in matrices]
        samples.append(measure(*(np.take_along_axis(m[None], rows, 1) for m, rows in zip(matrices, drawn, strict=True))))
    low, high = np.percentile(np.concatenate(samples), [2.5, 97.5], axis=0)
    return point, low, high
