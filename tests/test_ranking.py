"""Figures by which trajectories are ranked besides their return: by hand, by the laws that hold for them, and as curations."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from helpers import make_trajectories, quick
from hypothesis import given
from hypothesis import strategies as st

import iwbc
from iwbc import settings
from iwbc.data import ranking
from iwbc.data.curation import Scores, curate, weights_of
from iwbc.data.trajectories import Trajectories
from iwbc.errors import DataWarning, UserError

RANKS = ("return", "discounted_return", "length", "smoothness")


def acting(*actions: list[list[float]], **more: object) -> Trajectories:
    """Trajectories of these actions, [T, A] each."""
    data = make_trajectories([0.0] * len(actions), [len(each) for each in actions], action_size=len(actions[0][0]))
    return replace(data, actions=np.concatenate(actions).astype(np.float32), **more)  # type: ignore[arg-type]


def weights(data: Trajectories, chosen: settings.Settings) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return curate(data, chosen).curation_weights.tolist()


def test_discounted_returns_by_hand() -> None:
    data = replace(make_trajectories([0.0] * 3, [3, 1, 2]), rewards=np.array([1, 2, 4, 8, -1, 1], np.float32))
    values, rounding = ranking.discounted_returns(data, 0.5)
    assert values.tolist() == [1 + 1 + 1, 8, -0.5]
    assert rounding.tolist() == [2.0**-23 * magnitude for magnitude in (3, 8, 1.5)]
    assert ranking.discounted_returns(data, 1.0)[0].tolist() == data.returns.tolist()


def test_smoothness_by_hand() -> None:
    # Both entries have a standard deviation over the six steps: of 0 2 0 2 0 2 it is 1, of 0 0 0 10 10 10 it is 5.
    data = acting([[0, 0], [2, 0], [0, 0]], [[2, 10], [0, 10]], [[2, 10]])
    # Changes in these units: (2, 0), (2, 0) and (2, 0); squared 4 + 0, halved by A = 2.
    assert ranking.smoothness(data).tolist() == [-2.0, -2.0, -2.0]
    # A step of one entry's whole range: (10 / 5)² / 2 in one of two changes.
    data = acting([[0, 0], [2, 0], [2, 10]], [[0, 10], [0, 0]], [[2, 10]])
    assert ranking.smoothness(data).tolist() == [-(2 + 2) / 2, -2.0, -2.0]


def test_units_of_actions_and_entries_that_never_move_change_no_smoothness() -> None:
    data = make_trajectories([0.0] * 5, [3, 9, 1, 4, 2])
    values = ranking.smoothness(data)
    other = replace(data, actions=(data.actions * [100.0, 0.01] + [5.0, -0.1]).astype(np.float32))
    assert ranking.smoothness(other) == pytest.approx(values, rel=1e-4)
    still = replace(data, actions=np.column_stack([data.actions, np.full(data.steps, 0.7)]).astype(np.float32))
    assert ranking.smoothness(still) == pytest.approx(values * 2 / 3, rel=1e-6)
    assert values[2] == values.min()  # of one step: as the roughest
    assert ranking.smoothness(acting([[1.0]], [[2.0]])).tolist() == [0.0, 0.0]


def test_smoothness_of_many_steps_is_that_of_each_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_trajectories([0.0] * 4, [5, 7, 1, 11])
    whole = ranking.smoothness(data)
    monkeypatch.setattr(ranking, "_BLOCK", 3)
    assert ranking.smoothness(data) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("rank_by", ["length", "smoothness"])
def test_a_failure_is_below_every_success(rank_by: str) -> None:
    # The shortest and smoothest are failures.
    actions = [[[0.0]] * 2, [[0.0]] * 3, [[0.0], [1.0]] * 5, [[0.0], [2.0]] * 8]
    data = acting(*actions, successes=np.array([False, False, True, True]))
    assert weights(data, settings.TopFraction(0.25, rank_by=rank_by)) == [0, 0, 1, 0]
    assert weights(data, settings.TopFraction(0.5, rank_by=rank_by)) == [0, 0, 1, 1]
    last = weights(data, settings.QualityLevels([100.0, 60.0, 30.0], rank_by=rank_by))
    assert last == ([1, 0, 3, 2] if rank_by == "length" else [1, 1, 3, 2])  # both failures are still: a tie, which is kept
    weighted = weights(data, settings.ReturnWeighted(rank_by=rank_by))
    assert weighted[2] == 1.0 > weighted[3] > max(weighted[:2])


@pytest.mark.parametrize("successes", [None, [True] * 3, [False] * 3])
def test_labels_that_tell_nothing_apart_change_no_rank(successes: list[bool] | None) -> None:
    data = make_trajectories([1.0] * 3, [4, 2, 3], successes=successes)
    assert weights(data, settings.TopFraction(0.3, rank_by="length")) == [0, 1, 0]
    values = np.array([1.0, 3.0, 2.0])
    assert ranking.failures_below(values, data.successes) is values


def test_failures_of_equal_values_are_below_successes() -> None:
    assert ranking.failures_below(np.full(3, 7.0), np.array([True, False, True])).tolist() == [7, 6, 7]


def test_a_threshold_of_discounted_returns() -> None:
    data = replace(make_trajectories([0.0] * 2, [3, 2]), rewards=np.array([0, 0, 0.7, 0.7, 0], np.float32))
    assert weights(data, settings.Threshold(0.7, rank_by="discounted_return", discount=0.5)) == [0, 1]
    assert weights(data, settings.Threshold(0.175, rank_by="discounted_return", discount=0.5)) == [1, 1]
    with pytest.raises(UserError, match=r"keeps none of the 2 .*\(their discounted returns reach from 0\.2 to 0\.7\)"):
        curate(data, settings.Threshold(0.8, rank_by="discounted_return", discount=0.5))


data_sets = st.lists(st.tuples(st.floats(-100, 100), st.integers(1, 9), st.booleans()), min_size=1, max_size=12)


@quick
@given(data_sets, st.floats(0.01, 1.0))
def test_rank_by_return_is_what_there_was(rows: list[tuple[float, int, bool]], fraction: float) -> None:
    data = make_trajectories([row[0] for row in rows], [row[1] for row in rows], successes=[row[2] for row in rows])
    level = np.percentile(data.returns, 100.0 - 100.0 * fraction)
    expected = (data.returns + data.return_rounding >= level).astype(float).tolist()
    assert weights(data, settings.TopFraction(fraction)) == expected
    assert weights(data, settings.TopFraction(fraction, rank_by="discounted_return", discount=1.0)) == expected


@quick
@given(data_sets, st.sampled_from(RANKS), st.randoms(use_true_random=False), st.floats(0.05, 1.0))
def test_what_is_kept_does_not_depend_on_the_order_of_trajectories(
    rows: list[tuple[float, int, bool]], rank_by: str, random: object, fraction: float
) -> None:
    data = make_trajectories([row[0] for row in rows], [row[1] for row in rows], successes=[row[2] for row in rows])
    order = np.arange(len(rows))
    random.shuffle(order)  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        for chosen in (settings.TopFraction(fraction, rank_by=rank_by), settings.QualityLevels(rank_by=rank_by)):
            first, second = (Scores.of(some).ranked(chosen)[0] for some in (data, data.subset(order)))
            # σ is summed in another order: the same to rounding, and so are the ranks of all but near ties.
            assert second == pytest.approx(first[order], rel=1e-9, abs=1e-9)
            if rank_by != "smoothness":
                kept = weights_of(Scores.of(data), chosen)[order].tolist()
                assert weights_of(Scores.of(data.subset(order)), chosen).tolist() == kept


@quick
@given(data_sets, st.sampled_from(["length", "smoothness"]), st.floats(0.01, 1.0))
def test_no_failure_is_kept_before_a_success(rows: list[tuple[float, int, bool]], rank_by: str, fraction: float) -> None:
    data = make_trajectories([row[0] for row in rows], [row[1] for row in rows], successes=[row[2] for row in rows])
    assert data.successes is not None
    kept = np.array(weights(data, settings.TopFraction(fraction, rank_by=rank_by)), bool)
    if data.successes.any() and kept[~data.successes].any():
        assert kept[data.successes].all()


# --- remarks -------------------------------------------------------------------------------------------------------------


def remarks(data: Trajectories, chosen: settings.Settings) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        curate(data, chosen)
    return [str(warning.message).partition("toy/data-v0: ")[2] for warning in caught]


def test_what_would_choose_is_named_where_returns_do_not() -> None:
    data = make_trajectories([1.0] * 20, range(1, 21), successes=[True] * 20)
    (said,) = remarks(data, settings.TopFraction())
    assert said.endswith("as curation=all does (their returns are all 1); to choose, set curation.rank_by=length")
    (said,) = remarks(data, settings.Success())
    assert said.endswith("; to choose, set curation=top_fraction curation.rank_by=length")
    info = replace(data.info, groups=["better", "okay"])
    grouped = replace(data, info=info, groups=np.ones((20, 2), bool))
    (said,) = remarks(grouped, settings.TopFraction())
    assert said.endswith("; to choose, set curation.rank_by=length or curation=groups, by the groups better, okay")
    assert remarks(data, settings.TopFraction(rank_by="length")) == []
    (said,) = remarks(make_trajectories([1.0, 2.0]), settings.TopFraction(rank_by="length"))
    assert said == "keeps all 2 trajectories, each with the same weight, as curation=all does (their lengths are all 4)"
    (said,) = remarks(acting([[0.0], [0.0]], [[0.0], [0.0]]), settings.QualityLevels(rank_by="smoothness"))
    assert said.endswith("as curation=all does (their figures of smoothness are all 0)")


def test_failures_that_are_kept_for_being_short_are_told_of() -> None:
    data = make_trajectories([1.0, 0, 0, 0], [9, 1, 2, 3], successes=[True, False, False, False])
    (said,) = remarks(data, settings.TopFraction(0.5, rank_by="length"))
    assert said == "1 of the 2 trajectories that it keeps are labelled failures; curation=success goes by the labels"


def test_a_rank_that_prefers_lower_returns_is_told_of_where_no_labels_tell_failures() -> None:
    data = make_trajectories([1.0, 2.0, 9.0, 9.0], [1, 2, 8, 9])
    (said,) = remarks(data, settings.TopFraction(0.5, rank_by="length"))
    assert said == (
        "the 2 trajectories that it keeps have a lower return on average (1.5) than all (5.25), and no labels tell failures, "
        "which may be the best by length"
    )
    assert remarks(make_trajectories([9.0, 9.0, 1.0, 2.0], [1, 2, 8, 9]), settings.TopFraction(0.5, rank_by="length")) == []


def test_names_of_import_iwbc() -> None:
    assert iwbc.curate(make_trajectories([1.0, 2.0]), iwbc.TopFraction(rank_by="length", fraction=1.0)).kept.tolist() == [0, 1]


def test_ranks_of_a_subset_are_those_of_its_trajectories() -> None:
    data = make_trajectories([1.0, 2.0, 3.0, 4.0], [3, 1, 2, 4])
    some = data.subset(np.array([3, 0, 1]))
    rows = data.rows(np.array([3, 0, 1]))
    copied = replace(
        some, observations=data.observations[rows], actions=data.actions[rows], rewards=data.rewards[rows], starts=None
    )
    np.testing.assert_array_equal(ranking.discounted_returns(some, 0.5), ranking.discounted_returns(copied, 0.5))
    np.testing.assert_allclose(ranking.smoothness(some), ranking.smoothness(copied), rtol=1e-12)
