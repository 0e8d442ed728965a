"""The temperature that sets itself: what the Pareto shape says of weights, and the largest κ that it allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import genpareto
from torch import Tensor

from iwbc.algorithms import temperature
from iwbc.objectives import effective_sample_size


def double(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- the tail --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [-0.5, 0.1, 0.5, 0.9])
def test_the_shape_of_generalised_pareto_samples_is_found(shape: float) -> None:
    samples = double(genpareto.rvs(shape, size=20_000, random_state=1))
    assert float(temperature.pareto_shape(samples)) == pytest.approx(shape, abs=0.1)


def test_the_shape_is_that_of_the_published_implementation() -> None:
    # ArviZ's fit to the same 95 excesses.
    weights = torch.exp(1.5 * double(np.random.default_rng(0).standard_normal(1000)))
    assert float(temperature.pareto_shape(weights)) == pytest.approx(0.5771155055423345, abs=1e-12)


def test_the_scale_of_weights_does_not_matter() -> None:
    weights = torch.exp(normal(200))
    assert float(temperature.pareto_shape(7.0 * weights)) == pytest.approx(float(temperature.pareto_shape(weights)), abs=1e-9)


def test_few_or_equal_weights_have_no_tail() -> None:
    assert float(temperature.pareto_shape(double([1.0, 2.0, 3.0]))) == -math.inf
    assert float(temperature.pareto_shape(torch.ones(100))) == -math.inf
    assert float(temperature.pareto_shape(double([0.1] * 60 + [1.0] * 40))) == -math.inf  # two ways
    assert float(temperature.pareto_shape(double([0.1] * 95 + [1.0] * 5))) == math.inf  # a few against the rest


@pytest.mark.parametrize("better", [10, 40, 133])
def test_a_way_that_is_rarer_than_the_tail_is_long_is_no_long_tail(better: int) -> None:
    ways = torch.cat([0.05 * normal(better) + 1.0, 0.02 * normal(2000 - better, 1)])
    assert float(temperature.pareto_shape(ways.exp())) < 0.5
    assert temperature.largest_kappa(ways, torch.ones(2000), 1.0, 0.5, 8) == 1.0
    # Nothing tells these from the rest, or from each other.
    assert float(temperature.pareto_shape((5 * normal(2000)).exp())) > 0.7
    assert float(temperature.pareto_shape(double([0.0] * 1900 + [1.0] * 100))) == -math.inf
    assert float(temperature.pareto_shape(double([0.0] * 1991 + [1.0] * 9))) == math.inf


@pytest.mark.parametrize("better", [1, 5, 9, 30])
def test_weights_that_hardly_differ_are_reliable_whatever_their_tail(better: int) -> None:
    ways = torch.cat([torch.full((better,), 0.01, dtype=torch.float64), 1e-3 * normal(2000 - better)])
    assert temperature.largest_kappa(ways, torch.ones(2000), 1.0, 0.5, 50) == 1.0
    # What a few have learnt by heart counts up to twice as much as the rest.
    kappa = temperature.largest_kappa(1000.0 * ways.clamp(min=0.0), torch.ones(2000), 1.0, 0.5, 50)
    assert 0.0 < kappa < 1.0


def test_the_length_of_the_tail() -> None:
    # A fifth of up to 225 weights, and thrice the root of more.
    assert [temperature.tail_length(count) for count in (4, 11, 20, 21, 100, 225, 400)] == [1, 3, 4, 5, 20, 45, 60]


def test_five_weights_make_a_tail() -> None:
    assert float(temperature.pareto_shape(torch.exp(normal(20)))) == -math.inf
    assert math.isfinite(float(temperature.pareto_shape(torch.exp(normal(21)))))


def test_a_tail_within_a_thousandth_is_all_the_same() -> None:
    def tail(lowest: float) -> Tensor:
        return torch.cat([torch.zeros(32, dtype=torch.float64), torch.linspace(lowest, 1.0, 8, dtype=torch.float64)])

    assert float(temperature.pareto_shape(tail(0.9991))) == -math.inf
    assert math.isfinite(float(temperature.pareto_shape(tail(0.9989))))
    # The lowest and the highest say so, and no others.
    lowest, highest = tail(1.0), tail(0.9)
    lowest[32], highest[32:39] = 0.5, 0.9
    assert math.isfinite(float(temperature.pareto_shape(lowest)))
    assert math.isfinite(float(temperature.pareto_shape(highest)))


# --- κ ---------------------------------------------------------------------------------------------------------------


def test_a_single_trajectory_allows_exact_importance_sampling() -> None:
    assert temperature.largest_kappa(double([0.3]), torch.ones(1), 21.0, 0.5, 50) == 21.0


def test_equal_log_ratios_allow_exact_importance_sampling() -> None:
    assert temperature.largest_kappa(torch.zeros(50), torch.ones(50), 21.0, 0.5, 50) == 21.0
    assert temperature.largest_kappa(torch.zeros(50), torch.ones(50), 21.0, 1.0, 50) == 21.0  # as many as there are


def test_kappa_by_hand() -> None:
    # Weights 1 and e^−κ, half and half: ESS / S = (1 + x)² / (2 (1 + x²)), x = e^−κ. With ESS ≥ 0.9 S: x = ½.
    log_ratios = double([0.0] * 10 + [-1.0] * 10)
    kappa = temperature.largest_kappa(log_ratios, torch.ones(20), 20.0, 0.9, 1000)
    # The largest multiple of a 512th of the ceiling up to log 2 = 0.693.
    assert kappa == pytest.approx(17 * 20.0 / 2**9, abs=1e-12)
    # Twelve of the twenty are enough: (1 + x)² = 1.2 (1 + x²), x = 5 − √24, κ = 2.292.
    assert temperature.largest_kappa(log_ratios, torch.ones(20), 20.0, 0.9, 12) == pytest.approx(58 * 20.0 / 2**9, abs=1e-12)


def test_large_numbers_stay_finite() -> None:
    log_ratios = double([2000.0] * 10 + [1999.0] * 10)
    rewards = torch.full((20,), 1e200, dtype=torch.float64)
    assert temperature.largest_kappa(log_ratios, rewards, 20.0, 0.9, 1000) == pytest.approx(17 * 20.0 / 2**9, abs=1e-12)


def test_the_better_of_two_ways_may_take_all_the_weight_and_noise_may_not() -> None:
    ways = torch.cat([0.02 * normal(1000), 0.02 * normal(500, 1) - 1.0])
    assert temperature.largest_kappa(ways, torch.ones(1500), 21.0, 0.5, 50) == 21.0
    noise = normal(1500)  # the same spread, without ways
    assert temperature.largest_kappa(noise, torch.ones(1500), 21.0, 0.5, 50) < 3.0


@quick
@given(st.integers(2, 300), st.floats(0.01, 5.0), st.integers(0, 1000))
def test_the_chosen_kappa_gives_reliable_weights(count: int, spread: float, seed: int) -> None:
    log_ratios = spread * normal(count, seed)
    reward = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    kappa = temperature.largest_kappa(log_ratios, reward, 50.0, 0.5, 50)
    weights = torch.exp(kappa * (log_ratios - log_ratios.max())) * reward
    assert 0.0 <= kappa <= 50.0
    if kappa > 0.0:
        assert effective_sample_size(weights) >= min(0.5 * float(effective_sample_size(reward)), 50) - 1e-9
        highest, lowest = weights.sort(descending=True).values[[0, min(temperature.tail_length(count), count - 1)]]
        short = float(temperature.pareto_shape(weights)) <= temperature.largest_reliable_shape(count)
        assert short or float(highest / lowest) <= 2.0 + 1e-9
    shifted = temperature.largest_kappa(log_ratios + 3.0, reward * 2.0, 50.0, 0.5, 50)
    assert shifted == pytest.approx(kappa, abs=50.0 / 2**8)


def test_the_reliable_shape_grows_with_the_sample() -> None:
    limits = [temperature.largest_reliable_shape(count) for count in (5, 10, 11, 20, 100, 10_000)]
    assert limits == pytest.approx([0.0, 0.0, 1 - 1 / math.log10(11), 1 - 1 / math.log10(20), 0.5, 0.7])
