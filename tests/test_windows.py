"""Histories and chunks: rows of their own trajectory alone, against a loop over steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import make_trajectories, quick
from hypothesis import given
from hypothesis import strategies as st

from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.windows import STEP, Window, per_action

CASES = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 7), min_size=1, max_size=6),
        "history": st.integers(1, 9),
        "chunk": st.integers(1, 9),
        "size": st.integers(1, 9),
        "seed": st.integers(0, 5),
    }
)


def slow(curated: Curated, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """What is in reach at each kept step, step by step: [M, history, obs] and [M, chunk, act]."""
    seen, taken = [], []
    for index in curated.kept:
        episode = curated.trajectories[int(index)]
        for t in range(len(episode.rewards)):
            before = [max(t - back, 0) for back in reversed(range(window.history))]
            seen.append([episode.observations[place] for place in before])
            after = range(t, t + window.chunk)
            nothing = np.full(episode.actions.shape[1], np.nan)
            taken.append([episode.actions[place] if place < len(episode.rewards) else nothing for place in after])
    return np.array(seen, np.float32), np.array(taken, np.float32)


def kept_of(case: dict) -> Curated:
    """Some trajectories of a subset in another order, the first of which is always kept."""
    random = np.random.default_rng(case["seed"])
    data = make_trajectories([1.0] * len(case["lengths"]), case["lengths"], seed=case["seed"])
    data = data.subset(random.permutation(len(data))[: random.integers(1, len(data) + 1)])
    weights = random.integers(0, 2, len(data)).astype(float)
    weights[0] = 1.0
    return Curated(data, weights, "trajectory")


@quick
@given(CASES)
def test_no_window_crosses_the_bounds_of_a_trajectory(case: dict) -> None:
    curated, window = kept_of(case), Window(case["history"], case["chunk"])
    seen, taken = slow(curated, window)
    batches = list(curated.batches(size=case["size"], window=window))
    observations = torch.cat([observations for _, observations, _ in batches]).numpy()
    actions = torch.cat([actions for _, _, actions in batches]).numpy()
    np.testing.assert_array_equal(observations, seen if window.history > 1 else seen[:, 0])
    np.testing.assert_array_equal(actions, taken if window.chunk > 1 else taken[:, 0])
    drawn = StepSampler(curated, case["seed"], 16, 0, window=window).batch(0)
    np.testing.assert_array_equal(drawn.observations.numpy(), observations[drawn.step.numpy()])
    np.testing.assert_array_equal(drawn.actions.numpy(), actions[drawn.step.numpy()])
    newest, first = drawn.newest
    np.testing.assert_array_equal(newest.numpy(), seen[drawn.step.numpy(), -1])
    np.testing.assert_array_equal(first.numpy(), taken[drawn.step.numpy(), 0])


@quick
@given(CASES)
def test_a_history_and_a_chunk_of_one_are_the_steps_themselves(case: dict) -> None:
    curated = kept_of(case)
    data = curated.trajectories
    for some, observations, actions in curated.batches(size=case["size"], window=STEP):
        assert torch.equal(observations, torch.from_numpy(data.observations[curated.rows[some]]))
        assert torch.equal(actions, torch.from_numpy(data.actions[curated.rows[some]]))
    plain, wide = (StepSampler(curated, 3, 16, 0, window=window).batch(7) for window in (STEP, Window(4, 5)))
    assert torch.equal(plain.step, wide.step)
    assert torch.equal(plain.trajectory, wide.trajectory)
    assert torch.equal(plain.observations, wide.newest[0])
    assert torch.equal(plain.actions, wide.newest[1])


def test_images_have_a_history_too() -> None:
    observations = {"observations": torch.arange(6.0)[:, None], "eye": torch.arange(24, dtype=torch.uint8).view(6, 2, 2)}
    rows, trajectory = torch.tensor([3, 5]), torch.tensor([1, 1])
    first, last = torch.tensor([0, 3]), torch.tensor([2, 5])
    seen, taken = Window(3, 2).of(observations, torch.arange(6.0)[:, None], rows, trajectory, first, last)
    assert seen["eye"].shape == (2, 3, 2, 2)
    assert seen["observations"][..., 0].tolist() == [[3.0, 3.0, 3.0], [3.0, 4.0, 5.0]]
    assert torch.equal(seen["eye"][1], observations["eye"][3:6])
    assert taken[0, :, 0].tolist() == [3.0, 4.0]
    assert taken[1, :, 0].tolist() == [5.0, pytest.approx(torch.nan, nan_ok=True)]


def test_log_likelihoods_are_divided_by_the_actions_that_there_are() -> None:
    chunk = torch.tensor([[[1.0], [2.0], [3.0]], [[1.0], [torch.nan], [torch.nan]]])
    assert per_action(torch.tensor([6.0, 5.0]), chunk).tolist() == [2.0, 5.0]
    assert per_action(torch.tensor([6.0, 5.0]), chunk[:, 0]).tolist() == [6.0, 5.0]
