from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers import make_trajectories, quick
from hypothesis import given
from hypothesis import strategies as st

from iwbc import settings
from iwbc.data import curation
from iwbc.data.arrays import from_arrays
from iwbc.data.trajectories import Trajectories
from iwbc.errors import DataWarning, UserError

TEN = np.arange(1.0, 11.0)


def test_quality_levels_interpolate_linearly_between_trajectories() -> None:
    # Percentile p of 1 … 10 is 1 + 0.09 p: 90 → 9.1, 50 → 5.5, 0 → 1, 100 → 10.
    assert curation.quality_levels(TEN, [90.0]).tolist() == [0] * 9 + [1]
    assert curation.quality_levels(TEN, [50.0, 90.0]).tolist() == [0] * 5 + [1] * 4 + [2]
    assert curation.quality_levels(TEN, [0.0, 100.0]).tolist() == [1] * 9 + [2]
    # Percentile 25 of (0, 10, 20) is 5, half-way between the first two.
    assert curation.quality_levels(np.array([0.0, 10.0, 20.0]), [25.0]).tolist() == [0, 1, 1]


def test_default_levels_of_a_hundred_and_one_trajectories() -> None:
    multiplicities = curation.quality_levels(np.arange(101.0), [90.0, 95.0, 98.0])
    assert multiplicities.tolist() == [0] * 90 + [1] * 5 + [2] * 3 + [3] * 3


def test_ties_at_the_level_are_kept() -> None:
    returns = np.array([1.0, 2.0, 2.0, 2.0])
    assert curation.quality_levels(returns, [50.0, 98.0]).tolist() == [0, 2, 2, 2]
    assert curation.top_fraction(returns, 0.1).tolist() == [0, 1, 1, 1]
    assert curation.top_fraction(np.full(5, 0.1), 0.1).tolist() == [1] * 5
    assert curation.threshold(returns, 2.0).tolist() == [0, 1, 1, 1]


@quick
@given(
    st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=40),
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=5).flatmap(lambda p: st.tuples(st.just(p), st.permutations(p))),
)
def test_multiplicities_do_not_depend_on_the_order_of_the_levels(
    returns: list[float], levels: tuple[list[float], list[float]]
) -> None:
    given_order, shuffled = levels
    multiplicities = curation.quality_levels(np.array(returns), given_order)
    assert multiplicities.tolist() == curation.quality_levels(np.array(returns), shuffled).tolist()
    assert multiplicities[np.argmax(returns)] == multiplicities.max() <= len(given_order)


@quick
@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=40))
def test_multiplicities_never_fall_with_the_return(returns: list[float]) -> None:
    ordered = np.sort(np.array(returns))
    assert (np.diff(curation.quality_levels(ordered, [98.0, 50.0, 90.0])) >= 0).all()


def test_top_fraction() -> None:
    assert curation.top_fraction(TEN, 0.1).tolist() == [0] * 9 + [1]
    assert curation.top_fraction(TEN[::-1], 0.3).tolist() == [1] * 3 + [0] * 7
    assert curation.top_fraction(TEN, 1.0).tolist() == [1] * 10


@pytest.mark.parametrize("tenths", range(1, 11))
def test_top_fraction_keeps_a_trajectory_exactly_at_the_level(tenths: int) -> None:
    # Of 0 … 10, the percentile 100 − 10 k is 10 − k exactly.
    assert curation.top_fraction(np.arange(11.0), tenths / 10).sum() == tenths + 1


@pytest.mark.parametrize(
    ("rewards", "minimum"),
    [([0.7], 0.7), ([0.1] * 7, 0.7), ([0.7] * 10, 7.0), ([10.0, -9.3], 0.7), ([-0.1] * 3, -0.3), ([1e6, 0.7], 1_000_000.7)],
)
def test_a_minimum_that_a_return_reaches_before_its_rounding_is_reached(rewards: list[float], minimum: float) -> None:
    steps = len(rewards)
    every = np.concatenate([rewards, np.array(rewards) - 1e-3 * np.abs(rewards), np.array(rewards) + 1e-3 * np.abs(rewards)])
    data = from_arrays(np.zeros((3 * steps, 1)), np.zeros((3 * steps, 1)), every, np.arange(3 * steps) % steps == steps - 1,
                       np.zeros(3 * steps, bool))  # fmt: skip
    kept = curation.curate(data, settings.Threshold(minimum))
    assert kept.curation_weights.tolist() == [1, 0, 1]
    last = curation.curate(data, settings.Success("last_reward", rewards[-1]))
    assert last.curation_weights.tolist() == [1, 0, 1]


def test_trajectories_of_the_same_return_before_its_rounding_are_kept_alike() -> None:
    # float32's 0.7 is less than 0.7, its 0.1 and 0.6 are more.
    rewards = np.array([[0.7, 0.0], [0.1, 0.6], [0.35, 0.35], [0.6, 0.1], [0.2, 0.2], [0.0, 0.0]])
    data = from_arrays(np.zeros((12, 1)), np.zeros((12, 1)), rewards.ravel(), np.arange(12) % 2 == 1, np.zeros(12, bool))
    assert curation.curate(data, settings.TopFraction(0.5)).curation_weights.tolist() == [1, 1, 1, 1, 0, 0]
    assert curation.curate(data, settings.QualityLevels([60.0, 80.0, 100.0])).curation_weights.tolist() == [3, 3, 3, 3, 0, 0]


@pytest.mark.parametrize("percent", range(1, 101))
def test_percentiles_keep_a_trajectory_exactly_at_the_level(percent: int) -> None:
    # Of 0 … 100, the percentile 100 − p is 100 − p exactly.
    data = make_trajectories(range(101), lengths=[1] * 101)
    assert len(curation.curate(data, settings.TopFraction(percent / 100)).kept) == percent + 1
    assert len(curation.curate(data, settings.QualityLevels([100.0 - percent])).kept) == percent + 1


@pytest.mark.parametrize("percent", range(1, 101))
def test_percentiles_that_fall_on_a_trajectory_keep_it_whatever_the_number(percent: int) -> None:
    """Float64 takes 0.56 · 25 to be a little more than 14."""
    for count in (n for n in range(2, 202) if (100 - percent) * (n - 1) % 100 == 0):
        returns = np.sqrt(np.arange(count))
        expected = count - (100 - percent) * (count - 1) // 100
        assert curation.top_fraction(returns, percent / 100).sum() == expected, count
        assert curation.quality_levels(returns, [100.0 - percent]).sum() == expected, count


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.3, 0.44, 0.5])
def test_percentiles_between_trajectories_are_interpolated(fraction: float) -> None:
    for count in range(2, 202):
        returns = np.random.default_rng(count).normal(size=count)
        levels = np.quantile(returns, 1 - fraction)
        assert curation.percentiles_of(returns, 100 - 100 * fraction) == pytest.approx(levels, rel=1e-9)


def test_threshold_and_all() -> None:
    assert curation.threshold(TEN, 9.5).tolist() == [0] * 9 + [1]
    assert curation.all_trajectories(TEN).tolist() == [1] * 10


def test_return_weighted_by_hand() -> None:
    # Standard deviation 2 (over n); with temperature 0.5 the scale is 1.
    weights = curation.return_weighted(np.array([1.0, 5.0, 1.0, 5.0]), 0.5)
    assert weights.tolist() == pytest.approx([math.exp(-4), 1.0, math.exp(-4), 1.0])


SAME_SUMS = np.array([[0.7, 0.0], [0.1, 0.6], [0.35, 0.35], [0.6, 0.1]])  # in float32 their sums differ


def test_return_weights_of_returns_that_rounding_alone_tells_apart_are_equal() -> None:
    data = from_arrays(np.zeros((8, 1)), np.zeros((8, 1)), SAME_SUMS.ravel(), np.arange(8) % 2 == 1, np.zeros(8, bool))
    assert np.ptp(data.returns) > 0
    for curation_ in (settings.ReturnWeighted(), settings.ReturnWeighted(0.5, rank_by="discounted_return", discount=1.0)):
        with pytest.warns(DataWarning, match="keeps all 4 trajectories, each with the same weight"):
            assert curation.curate(data, curation_).curation_weights.tolist() == [1.0] * 4


def test_return_weights_of_returns_that_differ_by_more_than_rounding_differ() -> None:
    rewards = SAME_SUMS.copy()
    rewards[1, 1] += 1e-5
    data = from_arrays(np.zeros((8, 1)), np.zeros((8, 1)), rewards.ravel(), np.arange(8) % 2 == 1, np.zeros(8, bool))
    weights = curation.curate(data, settings.ReturnWeighted()).curation_weights
    assert weights.argmax() == 1 and weights[1] == 1.0 and (weights[[0, 2, 3]] < 0.01).all()


def test_a_curation_by_returns_that_rounding_alone_tells_apart_is_not_advised() -> None:
    data = from_arrays(np.zeros((8, 1)), np.zeros((8, 1)), SAME_SUMS.ravel(), np.arange(8) % 2 == 1, np.zeros(8, bool))
    with pytest.raises(UserError) as error:
        curation.curate(data, settings.Success())
    assert "top_fraction" not in str(error.value)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e8])
def test_return_weighted_of_constant_returns_is_one(value: float) -> None:
    assert curation.return_weighted(np.full(7, value), 0.3).tolist() == [1.0] * 7


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (settings.All(), [1, 1, 1, 1]),
        (settings.TopFraction(0.25), [0, 0, 0, 1]),
        (settings.QualityLevels([0.0, 50.0]), [1, 1, 2, 2]),
        (settings.Threshold(8.0), [0, 1, 1, 1]),
        (settings.Success(), [1, 0, 0, 1]),
    ],
)
def test_curate_dispatches(chosen: settings.Settings, expected: list[int]) -> None:
    trajectories = make_trajectories([4.0, 8.0, 12.0, 16.0], [4, 2, 8, 1], successes=[True, False, False, True])
    assert curation.curate(trajectories, chosen).curation_weights.tolist() == expected


GROUPS = [[True, False, False], [True, True, False], [False, True, True], [False, False, False]]


def grouped() -> curation.Trajectories:
    data = make_trajectories([1.0, 2.0, 3.0, 4.0])
    return replace(data, info=replace(data.info, groups=["better", "okay", "worse"]), groups=np.array(GROUPS))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (settings.Groups(["better"]), [1, 1, 0, 0]),
        (settings.Groups(["okay", "better"]), [1, 1, 1, 0]),
        (settings.Groups(["better", "okay"], weights=[2.0, 1.0]), [2, 2, 1, 0]),
        (settings.Groups(["better", "okay"], weights=[0.5, 3.0]), [0.5, 3, 3, 0]),
        (settings.Groups(["better", "okay"], ["worse"]), [1, 1, 0, 0]),
        (settings.Groups(drop=["worse"]), [1, 1, 0, 1]),
        (settings.Groups(drop=["worse", "better"]), [0, 0, 0, 1]),
    ],
)
def test_groups_by_hand(chosen: settings.Groups, expected: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        assert curation.curate(grouped(), chosen).curation_weights.tolist() == expected


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (settings.Groups(["beter"]), "curation.keep=beter: dataset toy/data-v0 has no such group; it has better, okay, worse"),
        (settings.Groups(drop=["bad"]), "curation.drop=bad: dataset toy/data-v0 has no such group; it has better, okay, worse"),
        (settings.Groups(["worse"], ["okay"]), "curation: keeps none of the 4 trajectories of toy/data-v0"),
    ],
)
def test_groups_that_are_not_there_are_an_error(chosen: settings.Groups, message: str) -> None:
    with pytest.raises(UserError) as caught:
        curation.curate(grouped(), chosen)
    assert str(caught.value) == message


def test_data_without_groups_is_not_curated_by_them() -> None:
    with pytest.raises(UserError, match="curation=groups: dataset toy/data-v0 has no groups"):
        curation.curate(make_trajectories([1.0, 2.0]), settings.Groups(["better"]))


def test_long_lists_of_groups_are_cut() -> None:
    assert curation.listed([str(i) for i in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    assert curation.listed([str(i) for i in range(15)], 2) == "0, 1, and 13 more"


def test_groups_that_hold_all_choose_nothing() -> None:
    data = replace(grouped(), groups=np.array(GROUPS) | [[True, False, False]] * 4)
    with pytest.warns(DataWarning) as caught:
        kept = curation.curate(data, settings.Groups(["better"]))
    (warning,) = caught
    assert str(warning.message) == (
        "curation=groups, dataset toy/data-v0: keeps all 4 trajectories, each with the same weight, as curation=all does"
    )
    assert curation.keeps_all(kept.curation_weights, settings.Groups(["better"]))


def test_curate_return_weighted() -> None:
    trajectories = make_trajectories([0.0, 8.0])
    weights = curation.curate(trajectories, settings.ReturnWeighted(2.0)).curation_weights
    assert weights.tolist() == pytest.approx([math.exp(-1), 1.0])


def test_success_by_the_last_reward() -> None:
    last = np.array([0.0, 1.0, 0.7, 0.69], np.float32)
    assert curation.success_by_last_reward(last, 1.0).tolist() == [0, 1, 0, 0]
    assert curation.success_by_last_reward(last, 0.7).tolist() == [0, 1, 1, 0]


def test_missing_success_labels_are_an_error() -> None:
    with pytest.raises(UserError, match="toy/data-v0 has no success labels") as caught:
        curation.curate(make_trajectories([1.0, 2.0]), settings.Success())
    assert "\n" not in str(caught.value)


def test_without_success_labels_only_what_can_choose_is_advised() -> None:
    def advice(data: Trajectories) -> str:
        with pytest.raises(UserError, match=r"next\.success") as caught:
            curation.curate(data, settings.Success())
        return str(caught.value).partition("; to choose, set ")[2]

    assert advice(make_trajectories([1.0, 2.0])) == "curation.success_from=last_reward or curation=top_fraction"
    alike = make_trajectories([0.0, 0.0], [3, 5])
    assert advice(alike) == "curation=top_fraction curation.rank_by=length"
    named = replace(alike, info=replace(alike.info, groups=["better"]), groups=np.array([[True], [False]]))
    assert advice(named).endswith(" or curation=groups, by the groups better")
    assert advice(make_trajectories([0.0, 0.0])) == "curation=scores or curation=weights, of a file of yours"


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (settings.Threshold(100.0), "their returns reach from 1.0 to 4.0"),
        (settings.Success(), "none is labelled a success"),
        (settings.Success("last_reward", 100.0), "their last rewards reach from 0.2 to 1.0"),
    ],
)
def test_an_empty_selection_is_an_error(chosen: settings.Settings, reason: str) -> None:
    trajectories = make_trajectories([1.0, 2.0, 4.0], successes=[False] * 3)
    with pytest.raises(UserError, match="keeps none of the 3 trajectories of toy/data-v0 ") as caught:
        curation.curate(trajectories, chosen)
    assert str(caught.value).endswith(f"({reason})")


def test_something_else_is_not_a_curation() -> None:
    with pytest.raises(TypeError, match="not a curation"):
        curation.curate(make_trajectories([1.0]), settings.BC())


def test_curate_by_the_last_reward() -> None:
    @dataclass
    class ByLastReward(settings.Success):
        success_from: str = "last_reward"
        minimum: float = 2.0

    # Every reward of a trajectory is its return divided by its length: 1, 4, 2, 8.
    trajectories = make_trajectories([4.0, 8.0, 8.0, 8.0], [4, 2, 4, 1])
    assert curation.curate(trajectories, ByLastReward()).curation_weights.tolist() == [0, 1, 1, 1]


def test_the_last_reward_is_each_trajectorys_own() -> None:
    trajectories = make_trajectories([0.0, 0.0], [3, 2])
    for at, expected in {1: [0, 0], 2: [1, 0], 3: [0, 0], 4: [0, 1]}.items():
        rewards = np.eye(5, dtype=np.float32)[at]
        marked = replace(trajectories, rewards=rewards, successes=np.array([True, True]))
        chosen = settings.Success(success_from="last_reward", minimum=1.0)
        if sum(expected):
            assert curation.curate(marked, chosen).curation_weights.tolist() == expected
        else:
            with pytest.raises(UserError, match="keeps none"):
                curation.curate(marked, chosen)


def test_nothing_is_held_out_by_default_and_always_the_same_otherwise() -> None:
    curated = curation.curate(make_trajectories(range(10)), settings.All())
    assert curation.hold_out(curated, 0.0) == (curated, None)
    rest, held = curation.hold_out(curated, 0.2)
    assert held is not None
    assert (len(rest.trajectories), len(held.trajectories)) == (8, 2)
    again, _ = curation.hold_out(curated, 0.2)
    assert again.trajectories.content_hash == rest.trajectories.content_hash


def test_a_histogram_by_hand() -> None:
    # Bins of 1 from 0 to 3, the last with both of its ends.
    rows = curation.histogram(np.array([0.0, 0.5, 1.0, 3.0]), np.array([1, 3]), bins=3)
    assert [(row["return_low"], row["return_high"]) for row in rows] == [(0, 1), (1, 2), (2, 3)]
    assert [(row["trajectories"], row["kept"]) for row in rows] == [(2, 1), (1, 0), (1, 1)]
    assert len(curation.histogram(TEN, np.array([0]))) == 50


# --- remarks -------------------------------------------------------------------------------------------------------------


def remarks(
    chosen: settings.Settings, returns: Sequence[float], successes: Sequence[bool] | None = None
) -> tuple[list[str], curation.Curated]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        curated = curation.curate(make_trajectories(returns, successes=successes), chosen)
    assert all(warning.category is DataWarning for warning in caught)
    return [str(warning.message).removeprefix(f"curation={chosen.name}, dataset toy/data-v0: ") for warning in caught], curated  # type: ignore[attr-defined]


EQUAL, TWO = [0.3] * 100, [0.0] * 99 + [1.0]


@pytest.mark.parametrize(
    ("chosen", "returns"),
    [
        (settings.TopFraction(), EQUAL),
        (settings.TopFraction(0.9), EQUAL),
        (settings.QualityLevels(), EQUAL),
        (settings.QualityLevels([50.0]), EQUAL),
        (settings.ReturnWeighted(), EQUAL),
        (settings.ReturnWeighted(1e18), [1.0, 2.0, 3.0]),
        (settings.Threshold(0.3), [0.5, 0.75, 1.0]),
        (settings.Success("last_reward", -1.0), [0.5, 0.75, 1.0]),
        # More than nine tenths have the lowest return, which is then the level.
        (settings.TopFraction(), [0.0] * 95 + [1.0] * 5),
    ],
)
def test_a_curation_that_chooses_nothing_says_so(chosen: settings.Settings, returns: list[float]) -> None:
    said, curated = remarks(chosen, returns)
    assert len(said) == 1
    assert said[0].startswith(f"keeps all {len(returns)} trajectories, each with the same weight, as curation=all does")
    assert ("are all 0.3" if returns is EQUAL else f"reach from {min(returns):g} to {max(returns):g}") in said[0]
    assert curation.keeps_all(curated.curation_weights, chosen)


def test_labels_that_are_all_successes_choose_nothing() -> None:
    said, _ = remarks(settings.Success(), TEN.tolist(), [True] * 10)
    assert [remark.split(",")[0] for remark in said] == ["keeps all 10 trajectories"]


@pytest.mark.parametrize(
    ("chosen", "returns"),
    [
        (settings.All(), EQUAL),
        (settings.TopFraction(1.0), EQUAL),
        (settings.QualityLevels([0.0]), EQUAL),
        (settings.All(), [1.0]),
        (settings.TopFraction(0.25), TEN.tolist()),
        (settings.QualityLevels([0.0, 50.0]), TEN.tolist()),
        (settings.ReturnWeighted(), TEN.tolist()),
        (settings.Threshold(2.0), TEN.tolist()),
        (settings.TopFraction(), [0.0] * 50 + [1.0] * 50),
    ],
)
def test_a_curation_that_chooses_as_it_should_says_nothing(chosen: settings.Settings, returns: list[float]) -> None:
    said, curated = remarks(chosen, returns)
    assert said == []
    assert not curation.keeps_all(curated.curation_weights, chosen)


@pytest.mark.parametrize(
    "chosen",
    [settings.TopFraction(0.01), settings.Threshold(0.5), settings.QualityLevels([99.5]), settings.Success("last_reward", 0.2)],
)
def test_a_curation_that_keeps_one_trajectory_says_so(chosen: settings.Settings) -> None:
    said, _ = remarks(chosen, TWO)
    assert said == ["keeps 1 of 100 trajectories (return 1), which a policy learns by heart"]


@pytest.mark.parametrize(
    ("chosen", "returns", "successes", "failures"),
    [
        # The best by return are not the successes.
        (settings.TopFraction(0.5), TEN, TEN <= 7, "3 of the 5"),
        (settings.QualityLevels([50.0]), TEN, TEN <= 7, "3 of the 5"),
        (settings.Threshold(2.0), TEN, TEN > 3, None),  # returns say who succeeds, whatever is kept
        (settings.Threshold(9.0), TEN, TEN % 2 == 1, "1 of the 2"),
        (settings.ReturnWeighted(), TEN, TEN % 2 == 1, "5 of the 10"),
        (settings.ReturnWeighted(), TEN, TEN > 5, None),
        (settings.TopFraction(0.5), TEN, (TEN == 1) | (TEN > 5), None),  # none that fails is kept
        (settings.TopFraction(0.5), TEN, TEN > 0, None),  # labels that tell nothing apart
        (settings.TopFraction(0.5), TEN, TEN < 0, None),
        (settings.Success(), TEN, TEN <= 7, None),
        (settings.All(), TEN, TEN <= 7, None),
        # As in the shipped tasks the return is 1 for a success and 0 for a failure.
        (settings.TopFraction(0.5), np.arange(10) % 2, np.arange(10) % 2 == 1, None),
        (settings.QualityLevels(), np.arange(10) % 2, np.arange(10) % 2 == 1, None),
    ],
)
def test_success_labels_that_are_passed_over_are_told_of_where_returns_do_not_say_the_same(
    chosen: settings.Settings, returns: np.ndarray, successes: np.ndarray, failures: str | None
) -> None:
    said, _ = remarks(chosen, returns.astype(float).tolist(), successes.tolist())
    told = [remark for remark in said if "labelled failures" in remark]
    assert told == ([] if failures is None else [
        f"{failures} trajectories that it keeps are labelled failures; curation=success goes by the labels"
    ])  # fmt: skip
