"""Packed trajectories and what a curation keeps of them, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import make_info, make_trajectories

from iwbc.data.curated import Curated
from iwbc.data.curation import Scores
from iwbc.data.sampling import StepSampler
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError


def three() -> Trajectories:
    """Trajectories of 2, 1 and 3 steps. Observation t is (t, 10), action t is −t, reward t is t; the second one is cut."""
    step = np.arange(6, dtype=np.float32)
    return Trajectories(
        info=make_info(1),
        known_hash="1" * 64,
        observations=np.stack([step, np.full(6, 10.0, np.float32)], 1),
        actions=-step[:, None],
        rewards=step,
        final_observations=np.array([[20.0, 10.0], [30.0, 10.0], [40.0, 10.0]], np.float32),
        offsets=np.array([0, 2, 3, 6]),
        terminated=np.array([True, False, True]),
        successes=np.array([False, False, True]),
    )


# --- trajectories ----------------------------------------------------------------------------------------------------


def test_sizes_and_returns() -> None:
    data = three()
    assert (len(data), data.steps) == (3, 6)
    assert data.lengths.tolist() == [2, 1, 3]
    assert data.returns.tolist() == [0 + 1, 2, 3 + 4 + 5]
    assert data.returns.dtype == np.float64


def test_returns_are_summed_in_double_precision() -> None:
    rewards = np.array([2.0**24, 1.0, 1.0], np.float32)  # in single precision 2²⁴ + 1 = 2²⁴
    data = dataclasses.replace(three(), rewards=rewards, offsets=np.array([0, 3]))
    assert data.returns.tolist() == [2.0**24 + 2.0]


def test_a_trajectory_by_its_index() -> None:
    data = three()
    last = data[2]
    assert last.observations[:, 0].tolist() == [3, 4, 5]
    assert last.actions[:, 0].tolist() == [-3, -4, -5]
    assert last.rewards.tolist() == [3, 4, 5]
    assert last.final_observation.tolist() == [40, 10]
    assert (last.terminated, last.success) == (True, True)
    assert data[-1].rewards.tolist() == [3, 4, 5]
    assert data[-3].rewards.tolist() == data[0].rewards.tolist() == [0, 1]
    assert (data[1].terminated, data[1].success) == (False, False)
    assert dataclasses.replace(data, successes=None)[2].success is None
    for beyond in (3, -4):
        with pytest.raises(IndexError, match=f"trajectory {beyond} of 3"):
            data[beyond]


def test_slices_and_iteration() -> None:
    data = three()
    assert [episode.rewards.tolist() for episode in data[1:]] == [[2], [3, 4, 5]]
    assert [len(episode.rewards) for episode in data] == [2, 1, 3]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_subset_in_another_order(labelled: bool) -> None:
    data = three() if labelled else dataclasses.replace(three(), successes=None)
    some = data.subset(np.array([2, 0]))
    assert some.offsets.tolist() == [0, 3, 5]
    assert (len(some), some.steps, some.lengths.tolist()) == (2, 5, [3, 2])
    assert [episode.rewards.tolist() for episode in some] == [[3, 4, 5], [0, 1]]
    assert [episode.observations[:, 0].tolist() for episode in some] == [[3, 4, 5], [0, 1]]
    assert [episode.actions[:, 0].tolist() for episode in some] == [[-3, -4, -5], [0, -1]]
    assert some.returns.tolist() == [12, 1]
    assert some.rows(np.array([1, 0])).tolist() == [0, 1, 3, 4, 5]
    assert some.final_observations[:, 0].tolist() == [40, 20]
    assert some.terminated.tolist() == [True, True]
    assert (some.successes is None) is not labelled
    if some.successes is not None:
        assert some.successes.tolist() == [True, False]
    assert len({data.content_hash, some.content_hash, data.subset(np.array([0, 2])).content_hash}) == 3


def test_repr_sums_up_the_data() -> None:
    assert repr(three()) == (
        "Trajectories('toy/data-v0': 3 trajectories, 6 steps, observations [2], actions [1], returns 1.0 … 12.0, mean 5.0)"
    )


def test_the_environment_may_be_unknown() -> None:
    info = make_info()
    assert info.env_id is None
    assert dataclasses.replace(info, environment=EnvironmentSpec("Pendulum-v1")).env_id == "Pendulum-v1"


def test_tensors_are_made_once_and_are_the_arrays_themselves() -> None:
    data = three()
    observations, actions = data.tensors()
    assert data.tensors("cpu")[0] is observations
    assert observations.data_ptr() == data.observations.ctypes.data
    assert actions.tolist() == data.actions.tolist()


# --- what a curation keeps -------------------------------------------------------------------------------------------


def kept(averaging: str = "trajectory") -> Curated:
    """The first and the last of the three, the last with a double weight."""
    return Curated(three(), np.array([1.0, 0.0, 2.0]), averaging)


def test_kept_trajectories_have_consistent_indices() -> None:
    curated = kept()
    assert curated.kept.tolist() == [0, 2]
    assert curated.lengths.tolist() == [2, 3]
    assert curated.offsets.tolist() == [0, 2, 5]
    assert curated.steps == 5
    assert curated.rows.tolist() == [0, 1, 3, 4, 5]


def test_shares_in_the_objective() -> None:
    assert kept().probabilities.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert kept("transition").probabilities.tolist() == pytest.approx([2 / 8, 6 / 8])


def test_batches_are_the_kept_steps_in_order() -> None:
    batches = list(kept().batches(size=2))
    assert [(some.start, some.stop) for some, _, _ in batches] == [(0, 2), (2, 4), (4, 5)]
    assert torch.cat([observations[:, 0] for _, observations, _ in batches]).tolist() == [0, 1, 3, 4, 5]
    assert torch.cat([actions[:, 0] for _, _, actions in batches]).tolist() == [0, -1, -3, -4, -5]
    assert [len(actions) for _, _, actions in kept().batches()] == [5]


def test_batches_have_2048_steps() -> None:
    curated = Curated(make_trajectories([1.0, 1.0], [2000, 2100]), np.ones(2), "trajectory")
    assert [len(actions) for _, _, actions in curated.batches()] == [2048, 2048, 4]


def test_a_share_is_held_out() -> None:
    curated = Curated(make_trajectories(range(10)), np.arange(10.0), "transition")
    rest, held = curated.split(0.3, np.random.default_rng(0))
    chosen = np.sort(np.random.default_rng(0).permutation(10)[:3])
    assert held.curation_weights.tolist() == chosen.tolist()
    assert rest.curation_weights.tolist() == np.setdiff1d(np.arange(10), chosen).tolist()
    assert held.trajectories.returns.tolist() == pytest.approx(chosen.tolist())
    assert (rest.averaging, held.averaging) == ("transition", "transition")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_neither_part_may_be_empty(share: float) -> None:
    with pytest.raises(UserError, match=f"held_out={share:g}: of the 2 trajectories that are kept, all or none"):
        kept().split(share, np.random.default_rng(0))


def test_a_subset_shares_the_steps_of_the_whole() -> None:
    data = three()
    some = data.subset(np.array([2, 0]))
    for name in ("observations", "actions", "rewards"):
        assert getattr(some, name) is getattr(data, name)
    assert some.tensors()[0] is data.tensors()[0]
    assert [episode.rewards.tolist() for episode in some.subset(np.array([1]))] == [[0, 1]]


def test_scales_and_returns_of_a_subset_are_those_of_a_copy() -> None:
    data = make_trajectories([1.0, 2.0, 3.0, 4.0], [3, 5, 2, 4])
    chosen = np.array([3, 0, 1])
    some, rows = data.subset(chosen), data.rows(chosen)
    copied = dataclasses.replace(
        some, observations=data.observations[rows], actions=data.actions[rows], rewards=data.rewards[rows], starts=None
    )
    assert [first.rewards.tolist() for first in some] == [second.rewards.tolist() for second in copied]
    np.testing.assert_array_equal(some.returns, copied.returns)
    np.testing.assert_array_equal(some.return_rounding, copied.return_rounding)
    for name in ("observation_scales", "action_scales"):
        for field in ("mean", "std", "low", "high", "lowest", "highest", "far"):
            np.testing.assert_allclose(getattr(getattr(some, name), field), getattr(getattr(copied, name), field), rtol=1e-12)


def test_a_curation_of_a_subset_trains_on_its_steps() -> None:
    data = make_trajectories([1.0, 2.0, 3.0, 4.0], [3, 5, 2, 4])
    curated = Curated(data.subset(np.array([3, 1])), np.array([1.0, 2.0]), "trajectory")
    expected = np.concatenate([data[3].observations, data[1].observations])
    (batch,) = [observations for _, observations, _ in curated.batches()]
    np.testing.assert_array_equal(batch.numpy(), expected)
    drawn = StepSampler(curated, 0, 64, Stream.TRAINING).batch(0)
    np.testing.assert_array_equal(drawn.observations.numpy(), expected[drawn.step.numpy()])
    last = Scores.of(curated.trajectories).last_rewards
    assert last is not None and last.tolist() == [data[3].rewards[-1], data[1].rewards[-1]]
