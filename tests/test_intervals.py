"""Intervals of means: they hold the mean as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from iwbc.intervals import interval, student_quantile, wilson


def test_the_interval_of_equal_values_is_a_point() -> None:
    assert interval(np.full((2, 2), 3.0)) == (3.0, 3.0)


def test_the_interval_of_one_seed_is_that_of_its_episodes() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, (1, 400))
    low, high = interval(values)
    mean, error = values.mean(), values.std() / 20
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error * 1.96)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error * 1.96)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_interval_of_seeds_holds_the_mean_19_times_of_20(seeds: int) -> None:
    random, held = np.random.default_rng(seeds), 0
    for _ in range(2000):
        low, high = interval(random.normal(0.0, 5.0, (seeds, 1)) + random.normal(0.0, 10.0, (seeds, 20)))
        held += low <= 0.0 <= high
    assert abs(held / 2000 - 0.95) < 0.02  # four standard errors


def test_the_interval_of_seeds_is_student_s_of_their_means() -> None:
    values = np.array([[1.0, 3.0], [4.0, 4.0], [6.0, 12.0]])  # means 2, 4 and 9
    expected = student.interval(0.95, 2, loc=5.0, scale=np.std([2.0, 4.0, 9.0], ddof=1) / np.sqrt(3))
    assert interval(values) == pytest.approx(expected)


def test_shares_stay_shares_and_are_never_certain() -> None:
    assert interval(np.array([[True, True], [False, True]])) == (0.0, 1.0)
    for truths in (np.ones((1, 5), bool), np.ones((5, 6), bool), np.zeros((3, 10), bool)):
        expected = binomtest(int(truths.sum()), truths.size).proportion_ci(method="wilson")
        assert interval(truths) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_shares_that_are_alike_are_told_to_half_an_episode() -> None:
    alike = np.array([[True] * 9 + [False]] * 3)
    reach = student.ppf(0.975, 2) * 0.1 / np.sqrt(12 * 3)
    assert interval(alike) == pytest.approx((0.9 - reach, 0.9 + reach))
    assert interval(alike[:2, [0, 9]]) == (0.0, 1.0)  # and stay shares
    unlike = np.array([[True] * 9 + [False], [True] * 8 + [False] * 2, [True] * 7 + [False] * 3])
    low, _ = student.interval(0.95, 2, 0.8, 0.1 / np.sqrt(3))
    assert interval(unlike) == (pytest.approx(low), 1.0)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("shape", [(3, 10), (2, 2), (1, 10), (1, 2)])
def test_differences_of_truths_are_never_certain(value: float, shape: tuple[int, int]) -> None:
    low, high = interval(np.full(shape, value), differences=True)
    assert -1.0 <= low <= value <= high <= 1.0
    assert high - low > 0.05
    if shape == (3, 10) and value == 0.0:
        assert high == pytest.approx(student.ppf(0.975, 2) * 0.1 * np.sqrt(2 / 12 / 3))
    assert interval(np.full(shape, value)) == (value, value)  # of what else there is


@pytest.mark.parametrize(("count", "of"), [(0, 1), (3, 10), (30, 30)])
def test_wilson_s_interval_is_scipy_s(count: int, of: int) -> None:
    expected = binomtest(count, of).proportion_ci(method="wilson")
    assert wilson(count / of, of) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 19])
def test_quantiles_are_scipy_s(freedom: int) -> None:
    probabilities = np.array([0.8, 0.975, 0.9875, 0.9917])
    mine = [student_quantile(float(p), freedom) for p in probabilities]
    np.testing.assert_allclose(mine, student.ppf(probabilities, freedom), rtol=1e-7)
