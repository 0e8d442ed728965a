"""Aggregates over datasets with stratified bootstrap intervals, by rliable (Agarwal et al. 2021, arXiv 2108.13264)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iwbc.report.study import Study

Array = npt.NDArray[np.float64]

REPETITIONS = 5000  # bootstrap samples of an interval
PROFILE_REPETITIONS = 1000
_SEED = 0

AGGREGATES = ("IQM", "mean", "median", "optimality gap")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; the bounds are NaN where one seed allows none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """What aggregates are made of: `matrices[method]` [seeds, tasks], over the tasks that all the methods share."""

    tasks: list[str]
    matrices: dict[str, Array]
    notes: list[str]


def shared_scores(study: Study) -> Scores:
    """The mean score of each seed (0 random, 100 expert) on the tasks that every method with scores has.

    A method with more seeds on some tasks than on others counts as many as it has everywhere, lowest seeds first.
    """
    scored = {place: [r.mean_score for r in results] for place, results in study.cells.items()}
    scored = {place: scores for place, scores in scored.items() if np.isfinite(scores).all()}
    methods = [method for method in study.methods if any((task, method) in scored for task in study.tasks)]
    every = [task for task in study.tasks if any((task, method) in scored for method in methods)]
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
    return Scores(tasks, matrices, notes)


def aggregates(scores: Scores) -> dict[str, dict[str, Estimate]]:
    """IQM, mean, median and optimality gap (to a score of 100) of each method."""
    from rliable import metrics

    def measure(matrix: Array) -> Array:
        return np.array(
            [
                metrics.aggregate_iqm(matrix),
                metrics.aggregate_mean(matrix),
                metrics.aggregate_median(matrix),
                metrics.aggregate_optimality_gap(matrix, gamma=100.0),
            ]
        )

    result = {}
    for method, matrix in scores.matrices.items():
        values, low, high = _interval(matrix, measure, REPETITIONS)
        result[method] = {name: Estimate(*map(float, row)) for name, *row in zip(AGGREGATES, values, low, high, strict=True)}
    return result


def improvement(scores: Scores, baseline: str) -> dict[str, Estimate]:
    """P(a seed of the method scores higher than a seed of the baseline), averaged over tasks; ties count half."""
    result = {}
    for method, matrix in scores.matrices.items():
        if method != baseline:
            pair = (matrix, scores.matrices[baseline])
            estimate = _interval(pair, lambda x, y: np.array([probability_of_improvement(x, y)]), REPETITIONS)
            result[method] = Estimate(*(float(part[0]) for part in estimate))
    return result


def probability_of_improvement(x: Array, y: Array) -> float:
    """rliable's metric of the same name, on [seeds, tasks] each, without its one Mann-Whitney test per task and sample."""
    return float(((x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])).mean())


def profiles(scores: Scores, thresholds: Array) -> dict[str, tuple[Array, Array, Array]]:
    """For each method, the share of (seed, task) pairs that score above each threshold, with the interval's bounds."""
    return {
        method: _interval(matrix, lambda m: (m[..., None] > thresholds).mean((0, 1)), PROFILE_REPETITIONS)
        for method, matrix in scores.matrices.items()
    }


def _interval(
    scores: Array | tuple[Array, Array], measure: Callable[..., Array], repetitions: int
) -> tuple[Array, Array, Array]:
    from rliable import library

    matrices: Mapping[str, list[Array] | Array] = {"it": list(scores) if isinstance(scores, tuple) else scores}
    with _seeded():
        points, intervals = library.get_interval_estimates(matrices, measure, reps=repetitions)
    point, (low, high) = points["it"], intervals["it"]
    if min(map(len, scores if isinstance(scores, tuple) else (scores,))) < 2:
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    return point, low, high


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """rliable draws from numpy's global generator, whatever `random_state` it is given."""
    before = np.random.get_state()
    np.random.seed(_SEED)
    try:
        yield
    finally:
        np.random.set_state(before)
