"""The scale of data: what is standardised and scaled by itself, and what is left as it comes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import make_trajectories
from setups import rarely, seldom

from iwbc.data import demonstrations, generate, minari_source
from iwbc.data.scales import Scales, action_range, normaliser, scales_of
from iwbc.data.trajectories import Trajectories
from iwbc.policies.spec import policy_spec
from iwbc.settings import TIERS, Demonstrations, GaussianPolicy

RANDOM = np.random.default_rng(0)
Z = RANDOM.normal(size=2000).astype(np.float32)


def of(*columns: np.ndarray) -> Scales:
    return scales_of(np.stack(columns, 1).astype(np.float32))


# --- statistics ----------------------------------------------------------------------------------------------------------


def test_scales_by_hand() -> None:
    scales = of(np.arange(6.0), np.full(6, 10.0))
    assert scales.mean.tolist() == [2.5, 10.0]
    assert scales.std.tolist() == pytest.approx([np.sqrt(35 / 12), 0.0])  # (6² − 1) / 12
    assert (scales.low.tolist(), scales.high.tolist(), scales.far.tolist()) == ([0.0, 10.0], [5.0, 10.0], [0, 0])
    assert scales.spread.tolist() == pytest.approx([np.sqrt(35 / 12), 10.0])


def test_scales_of_several_blocks_and_arrays() -> None:
    # Ramps, so that the blocks of 65,536 rows that are merged have means of their own.
    ramp = np.linspace(-1.0, 2.0, 150_001, dtype=np.float32)
    rows = np.stack([ramp, np.sqrt(np.abs(ramp))], 1)
    for scales in (scales_of(rows), scales_of(rows[:70_000], rows[70_000:70_001], rows[70_001:])):
        np.testing.assert_allclose(scales.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
        np.testing.assert_allclose(scales.std, rows.astype(np.float64).std(0), rtol=1e-12)
        np.testing.assert_array_equal(scales.low, rows.min(0))
        np.testing.assert_array_equal(scales.high, rows.max(0))


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_a_spread_is_exact_beside_a_large_mean(offset: float) -> None:
    values = np.tile(np.array([-1.0, 1.0], np.float32) + np.float32(offset), 100_000)
    scales = scales_of(values[:, None])
    assert (scales.mean.item(), scales.std.item()) == pytest.approx((offset, 1.0))


@pytest.mark.parametrize("value", [0.0, 1e-20, 0.3, -500.0, 1e9])
def test_a_constant_has_the_spread_of_its_magnitude(value: float) -> None:
    constant = np.full(200, value, np.float32)
    expected = abs(value) or 1.0
    assert of(constant).spread.item() == pytest.approx(expected)
    # The same with rounding of float32 on it.
    assert of(np.nextafter(constant, constant + (Z[:200] > 0))).spread.item() == pytest.approx(expected, rel=1e-5)


def test_values_far_out_are_left_out_of_the_scale() -> None:
    wild = Z.copy()
    wild[[7, 900]] = 1e6, -1e4
    scales = of(Z, wild)
    assert scales.far.tolist() == [0, 2]
    assert scales.mean[1] == pytest.approx(scales.mean[0], abs=0.01)
    assert scales.std[1] == pytest.approx(scales.std[0], rel=0.01)
    assert (scales.lowest[1], scales.highest[1]) == (-1e4, 1e6)


@pytest.mark.parametrize(
    "values",
    [
        np.where(np.arange(2000) % 100 == 0, 500.0, Z),  # one in a hundred is no accident
        np.where(np.arange(2000) == 3, 500.0, 0.0),  # nor is what stands beside a constant alone
        np.r_[Z[:50], 500.0],  # nor is it known of so few
        np.exp(3.0 * Z),
        np.sign(Z),
    ],
    ids=["often", "rest constant", "few", "long tail", "signs"],
)
def test_nothing_is_far_out_that_belongs_to_the_data(values: np.ndarray) -> None:
    assert of(values).far.item() == 0


# --- observations ----------------------------------------------------------------------------------------------------------

STANDARDISED: dict[str, np.ndarray] = {
    "millimetres": 1000 * Z + 500,
    "newtons": 200 * np.abs(Z),
    "degrees": 57 * Z,
    "an offset alone": Z + 500,
    "a pressure": 101_325 + 50 * Z,
    "a small offset, a smaller spread": 10 + 0.3 * Z,
    "a large constant": np.full(2000, 500.0),
    "micrometres": 1e-4 * Z,
    "a small offset": 1e-3 + 1e-4 * Z,
    "one value far out": np.r_[Z, 1e6],
}
AS_IT_COMES: dict[str, np.ndarray] = {
    "normal": Z,
    "velocities": 14 * Z,
    "a height": 1.2 + 0.03 * Z,
    "a speed": 12 + 2.5 * Z,
    "a choice": (np.arange(2000) % 3 == 0).astype(float),
    "a rare choice": (np.arange(2000) == 3).astype(float),
    "zeros": np.zeros(2000),
    "ones": np.ones(2000),
    "noise about a constant": 0.3 + 1e-5 * Z,
    "small": 0.02 * Z,
}


@pytest.mark.parametrize("name", STANDARDISED)
def test_entries_far_from_0_1_are_standardised(name: str) -> None:
    values = STANDARDISED[name].astype(np.float32)
    scales = of(values)
    assert scales.far_from_one.tolist() == [True]
    made = normaliser(scales, scales.far_from_one)
    normalised = (values - made.mean) / made.std
    usual = np.abs(values) < 1e6
    assert abs(normalised[usual].mean()) < 0.05
    assert normalised.std() < 1.0 + 1e-6 or not usual.all()
    # Limits change nothing on data.
    assert (normalised[usual] > made.low).all() and (normalised[usual] < made.high).all()


@pytest.mark.parametrize("name", AS_IT_COMES)
def test_entries_near_0_1_are_not_standardised(name: str) -> None:
    assert of(AS_IT_COMES[name]).far_from_one.tolist() == [False]


def test_a_normaliser_leaves_the_others_as_they_come() -> None:
    scales = of(Z, 1000 * Z + 500)
    made = normaliser(scales, scales.far_from_one)
    assert (made.mean[0], made.std[0], made.low[0], made.high[0]) == (0.0, 1.0, -np.inf, np.inf)
    assert (made.mean[1], made.std[1]) == (scales.mean[1], scales.std[1])


def test_limits_are_a_standard_deviation_beyond_the_data_and_ten_for_what_is_far_out() -> None:
    made = normaliser(of(np.arange(6.0)), np.array([True]))
    edge = 2.5 / np.sqrt(35 / 12) + 1.0
    assert (made.low.item(), made.high.item()) == pytest.approx((-edge, edge))
    made = normaliser(of(np.r_[Z, 1e6]), np.array([True]))
    assert -6.0 < made.low.item() < -3.0
    assert made.high.item() == 10.0


# --- actions -----------------------------------------------------------------------------------------------------------------


def range_of(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    bottom, top = action_range(of(values), [low], [high])
    return bottom.item(), top.item()


ACTIONS = np.linspace(-0.8, 1.0, 1000).astype(np.float32)
LARGEST = float(np.finfo(np.float32).max), float(np.finfo(np.float64).max)


@pytest.mark.parametrize("bound", [10.0, 100.0, 1e6, *LARGEST, np.inf])
@pytest.mark.parametrize("side", ["both", "above", "below"])
def test_bounds_far_beyond_the_data_are_not_what_networks_are_scaled_to(side: str, bound: float) -> None:
    low, high = (-bound if side != "above" else -1.0), (bound if side != "below" else 1.0)
    assert range_of(ACTIONS, low, high) == pytest.approx((-0.8, 1.0))


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.0, 2.0), (-0.8, 5.0)])
def test_bounds_near_the_data_are(low: float, high: float) -> None:
    assert range_of(ACTIONS, low, high) == (low, high)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_each_dimension_has_its_own_range(scale: float) -> None:
    bottom, top = action_range(of(ACTIONS, scale * ACTIONS), [-1.0, -1e9], [1.0, 1e9])
    np.testing.assert_allclose((bottom, top), ([-1.0, -0.8 * scale], [1.0, scale]), rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.0, -1.0, 1.0, (-1.0, 1.0)),
        (0.0, -1e6, 1e6, (-1.0, 1.0)),
        (0.5, -1.0, 1.0, (0.495, 0.505)),
        (1e8, -np.inf, np.inf, (0.99e8, 1.01e8)),
        (-1e-5, -1e6, 1e6, (-1.01e-5, -0.99e-5)),
    ],
)
def test_a_constant_action_has_a_range_too(value: float, low: float, high: float, expected: tuple[float, float]) -> None:
    assert range_of(np.full(300, value), low, high) == pytest.approx(expected)


def test_an_action_far_out_does_not_widen_the_range() -> None:
    wild = ACTIONS.copy()
    wild[17] = 9e5
    assert range_of(wild, -1e6, 1e6) == pytest.approx((-0.8, 1.0))
    assert range_of(wild, -1e6, np.inf) == pytest.approx((-0.8, 1.0))


# --- the shipped data ----------------------------------------------------------------------------------------------------


def tier(env_id: str, name: str) -> Callable[[], Trajectories]:
    # Every snapshot of medium-replay plays an episode, however few steps are wanted: hopper's is the fixture's.
    steps = 20_000 if (env_id, name) == ("Hopper-v5", "medium-replay") else 2000
    return lambda: minari_source.load(generate.ensure(env_id, name, steps))


def task(env_id: str) -> Callable[[], Trajectories]:
    return lambda: minari_source.load(demonstrations.ensure(env_id, Demonstrations(episodes=50)))


SHIPPED = {f"{env} {name}": tier(f"{env}-v5", name) for env in ("Hopper", "HalfCheetah", "Walker2d") for name in TIERS}
SHIPPED |= {env: task(env) for env in ("iwbc/TwoRoutes-v0", "iwbc/CarefulOrHasty-v0")}


# One of the tiers, and the tasks', in every run of the tests; of each environment the least and the most in `make test-all`.
OFTEN = {"Hopper medium", "iwbc/TwoRoutes-v0", "iwbc/CarefulOrHasty-v0"}
BETWEEN = {name for name in SHIPPED if "medium" in name} - {"Hopper medium", "Hopper medium-replay"}


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else seldom(name) if name in BETWEEN else rarely(name) for name in SHIPPED]
)
def test_the_shipped_tiers_and_tasks_stay_as_they_are(name: str) -> None:
    spec = policy_spec(GaussianPolicy(), SHIPPED[name]())
    assert (spec.observation_mean, spec.action_range, spec.said()) == (None, None, [])


@pytest.mark.robustness
def test_the_maze_stays_as_it_is() -> None:
    pytest.importorskip("gymnasium_robotics")
    spec = policy_spec(GaussianPolicy(), task("PointMaze_UMaze-v3")())
    assert (spec.observation_mean, spec.action_range, spec.said()) == (None, None, [])


def test_a_spec_of_two_datasets_holds_both() -> None:
    first, second = (make_trajectories([0.0] * 50, seed=seed) for seed in (0, 1))
    second.observations[:, 1] += 500
    spec = policy_spec(GaussianPolicy(), first, second)
    assert spec.observation_mean is not None and spec.observation_std is not None
    assert spec.observation_mean == pytest.approx((0.0, 250.0, 0.0), abs=1.0)
    assert spec.observation_std == pytest.approx((1.0, 250.0, 1.0), abs=1.0)
