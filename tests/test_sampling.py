from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import make_trajectories

from iwbc.data.curated import Curated
from iwbc.data.sampling import BLOCK, Minibatch, StepSampler
from iwbc.data.streams import generator, seeded

LENGTHS = [1, 4, 2, 8, 5]
WEIGHTS = np.array([1.0, 0.0, 3.0, 1.0, 0.5])
DATA = make_trajectories([1.0] * len(LENGTHS), LENGTHS)


CURATED = Curated(DATA, WEIGHTS, "trajectory")


def sampler(averaging: str = "trajectory", seed: int = 0, batch_size: int = 64, stream: int = 1) -> StepSampler:
    return StepSampler(Curated(DATA, WEIGHTS, averaging), seed, batch_size, stream)


def rows_of(batch: Minibatch) -> torch.Tensor:
    """The rows in the dataset of a minibatch's steps."""
    return torch.from_numpy(CURATED.rows)[batch.step]


def assert_same(first: Minibatch, second: Minibatch) -> None:
    for field in ("observations", "actions", "trajectory", "step"):
        torch.testing.assert_close(getattr(first, field), getattr(second, field), rtol=0, atol=0)


def row_probabilities(averaging: str) -> np.ndarray:
    mass = WEIGHTS * (np.array(LENGTHS) if averaging == "transition" else 1.0)
    return np.repeat(mass / mass.sum() / LENGTHS, LENGTHS)


@pytest.mark.parametrize("averaging", ["trajectory", "transition"])
def test_rows_are_drawn_with_their_probabilities(averaging: str) -> None:
    draws = sampler(averaging, batch_size=128)
    rows = torch.stack([rows_of(draws.batch(step)) for step in range(BLOCK)]).flatten().numpy()
    counts = np.bincount(rows, minlength=DATA.steps)
    expected = row_probabilities(averaging) * len(rows)
    possible = expected > 0
    assert (counts[~possible] == 0).all()  # a trajectory of weight 0 is never drawn
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    assert statistic < freedom + 4.0 * np.sqrt(2.0 * freedom)


def test_with_transition_averaging_and_equal_weights_all_steps_count_the_same() -> None:
    draws = StepSampler(Curated(DATA, np.ones(len(LENGTHS)), "transition"), 0, 128, 1)
    rows = torch.stack([draws.batch(step).step for step in range(BLOCK)]).flatten().numpy()
    counts = np.bincount(rows, minlength=DATA.steps)
    np.testing.assert_allclose(counts / len(rows), 1.0 / DATA.steps, rtol=0.15)


def test_the_minibatch_mean_is_an_unbiased_estimate() -> None:
    values = np.random.default_rng(3).normal(size=DATA.steps)
    means = np.add.reduceat(values, DATA.offsets[:-1]) / DATA.lengths
    expected = (WEIGHTS * means).sum() / WEIGHTS.sum()
    draws = sampler(batch_size=96)
    estimates = np.stack([values[rows_of(draws.batch(step)).numpy()].mean() for step in range(4 * BLOCK)])
    error = estimates.mean() - expected
    assert abs(error) < 4.0 * estimates.std() / np.sqrt(estimates.size)


def test_a_minibatch_is_consistent_with_the_data() -> None:
    batch = sampler(seed=9, batch_size=16).batch(3)
    assert batch.observations.shape == (16, 3)
    assert batch.actions.shape == (16, 2)
    rows = rows_of(batch).numpy()
    np.testing.assert_array_equal(batch.observations.numpy(), DATA.observations[rows])
    np.testing.assert_array_equal(batch.actions.numpy(), DATA.actions[rows])
    kept = np.flatnonzero(WEIGHTS)[batch.trajectory.numpy()]
    np.testing.assert_array_equal(kept, np.searchsorted(DATA.offsets, rows, side="right") - 1)


def test_drawing_can_start_at_any_step() -> None:
    steps = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17]
    onward = sampler(seed=2)
    batches = {step: onward.batch(step) for step in range(max(steps) + 1)}
    for step in steps:
        assert_same(sampler(seed=2).batch(step), batches[step])
    assert_same(onward.batch(1), batches[1])  # and go back


def test_a_minibatch_is_a_function_of_stream_seed_and_step() -> None:
    """Checkpoints are continued by other versions, too: step 300 is the 45th of the second block of 256."""
    uniform = torch.rand(2, 256, 64, dtype=torch.float64, generator=generator(1, 5, 1))[:, 44]
    shares = torch.tensor([1.0, 3.0, 1.0, 0.5], dtype=torch.float64).cumsum(0) / 5.5  # of the four that are kept
    trajectory = torch.searchsorted(shares, uniform[0])
    lengths = torch.tensor([1, 2, 8, 5])
    within = (uniform[1] * lengths[trajectory]).long()
    batch = sampler(seed=5).batch(300)
    assert torch.equal(batch.trajectory, trajectory)
    assert torch.equal(batch.step, torch.tensor([0, 1, 3, 11])[trajectory] + within)
    assert torch.equal(batch.actions, torch.from_numpy(DATA.actions)[torch.tensor([0, 5, 7, 15])[trajectory] + within])


def test_steps_seeds_and_streams_differ() -> None:
    step = sampler().batch(0).step
    others = [sampler(seed=1).batch(0), sampler().batch(1), sampler().batch(BLOCK), sampler(stream=2).batch(0)]
    assert not any(torch.equal(step, other.step) for other in others)


def test_seeded_modules_start_from_their_entropy_alone_and_leave_the_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    with seeded(1, 2):
        noise = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    with seeded(1, 2):
        assert torch.equal(torch.rand(3), noise)
    assert torch.equal(torch.rand(3, generator=generator(1, 2)), noise)


def test_generators_are_a_function_of_their_entropy() -> None:
    def draw(*entropy: int) -> list[float]:
        return torch.rand(4, generator=generator(*entropy)).tolist()

    assert draw(1, 2) == draw(1, 2)
    assert draw(1, 2) != draw(2, 1)
    assert draw(1, 2) != draw(1, 3)
    assert draw(1, 2) != draw(1, 2, 3)


def test_zero_weight_at_either_end_is_never_drawn() -> None:
    weights = np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    draws = StepSampler(curated := Curated(DATA, weights, "trajectory"), 0, 256, 1)
    rows = torch.stack([torch.from_numpy(curated.rows)[draws.batch(step).step] for step in range(BLOCK)]).flatten().numpy()
    trajectories = np.searchsorted(DATA.offsets, rows, side="right") - 1
    assert set(trajectories.tolist()) == {1, 3}
