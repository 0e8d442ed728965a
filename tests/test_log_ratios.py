from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import make_trajectories
from rich.console import Console
from setups import algorithm_of, compose, curated_of, untrained
from torch import Tensor

from iwbc import engine
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.algorithms.log_ratios import RunningLogRatios, log_probs, trajectory_means
from iwbc.algorithms.weights import ExactWeights, RunningWeights
from iwbc.data import generate, minari_source
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.training.reference import reference_policy

LENGTHS = [3, 1, 5, 2, 4]
KEPT = [1.0, 0.0, 2.0, 0.0, 1.0]  # curation weights: trajectories 0, 2 and 4 are kept


@pytest.fixture(scope="module")
def hopper(mostly_short_hopper: Trajectories) -> Trajectories:
    return mostly_short_hopper


def toy() -> Curated:
    return Curated(make_trajectories([1.0, 2.0, 3.0, 4.0, 5.0], LENGTHS), np.array(KEPT), "trajectory")


def test_log_probs_are_those_of_the_kept_steps_in_order() -> None:
    curated = toy()
    policy = untrained(compose("policy.hidden=[8]"), curated.trajectories)
    rows = [0, 1, 2, 4, 5, 6, 7, 8, 11, 12, 13, 14]
    data = curated.trajectories
    expected = engine.log_prob(policy, torch.from_numpy(data.observations[rows]), torch.from_numpy(data.actions[rows]))
    torch.testing.assert_close(log_probs(policy, curated, "cpu"), expected)


def test_log_probs_of_a_set_larger_than_a_batch(hopper: Trajectories) -> None:
    curated = Curated(hopper, np.ones(len(hopper)), "trajectory")
    assert curated.steps > 2 * 8192
    policy = untrained(compose("policy.hidden=[8]"), hopper)
    whole = engine.log_prob(policy, torch.from_numpy(hopper.observations), torch.from_numpy(hopper.actions))
    torch.testing.assert_close(log_probs(policy, curated, "cpu"), whole, rtol=1e-5, atol=1e-5)


def test_trajectory_means_equal_a_loop() -> None:
    curated = toy()
    values = torch.randn(curated.steps, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([part.double().mean() for part in values.split([3, 5, 4])])
    torch.testing.assert_close(trajectory_means(values, torch.from_numpy(curated.offsets)), expected)


# --- the running estimate ------------------------------------------------------------------------------------------------


def observe_draws(
    curated: Curated, values: Tensor, steps: int, seed: int = 0, growth: float = 0.0, batch_size: int = 8
) -> tuple[RunningLogRatios, Tensor]:
    """Show the estimator `steps` minibatches of the values [M], which grow by a factor; the final exact means too."""
    running = RunningLogRatios(curated, "cpu")
    sampler = StepSampler(curated, seed, batch_size, Stream.TRAINING)
    now = values
    for step in range(steps):
        now = values * (1.0 + growth * step)
        batch = sampler.batch(step)
        running.observe(batch.trajectory, batch.step, now[batch.step])
    return running, trajectory_means(now, torch.from_numpy(curated.offsets))


def random_values(curated: Curated) -> Tensor:
    return torch.randn(curated.steps, generator=torch.Generator().manual_seed(0))


def test_it_starts_at_zero_which_is_exact() -> None:
    assert torch.equal(RunningLogRatios(toy(), "cpu").estimate(), torch.zeros(3, dtype=torch.float64))


# A minibatch: the second step of the first kept trajectory, twice; the first of the second; the last of the third.
TRAJECTORY, STEP = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 1, 3, 11])


def test_a_step_drawn_twice_counts_once() -> None:
    running = RunningLogRatios(toy(), "cpu")
    running.observe(TRAJECTORY, STEP, torch.tensor([6.0, 6.0, 5.0, 8.0]))
    torch.testing.assert_close(running.means, torch.tensor([6.0 / 3, 5.0 / 5, 8.0 / 4], dtype=torch.float64))


def test_two_values_of_one_step_leave_table_and_mean_in_agreement() -> None:
    curated = toy()
    running = RunningLogRatios(curated, "cpu")
    running.observe(TRAJECTORY, STEP, torch.tensor([6.0, 9.0, 5.0, 8.0]))
    torch.testing.assert_close(running.means, trajectory_means(running.table, torch.from_numpy(curated.offsets)))
    assert running.means[0] in (6.0 / 3, 9.0 / 3)


def test_the_lag_by_hand() -> None:
    # Trajectories of T = 3, 5 and 4 steps: n residuals of mean r move the lag by the share 1 − (1 − 1/(T + 1))ⁿ towards r.
    running = RunningLogRatios(toy(), "cpu")
    running.observe(TRAJECTORY, STEP, torch.tensor([6.0, 4.0, 5.0, 8.0]))
    first = torch.tensor([7 / 16 * 5, 1 / 6 * 5, 1 / 5 * 8], dtype=torch.float64)
    torch.testing.assert_close(running.lag, first)
    torch.testing.assert_close(running.estimate(), running.means + first)
    running.observe(torch.tensor([1]), torch.tensor([3]), torch.tensor([8.0]))  # 3 more than the table has
    first[1] += 1 / 6 * (3 - first[1])
    torch.testing.assert_close(running.lag, first)
    torch.testing.assert_close(running.means[1], torch.tensor(8 / 5, dtype=torch.float64))


def test_it_goes_on_from_its_state() -> None:
    running, other = RunningLogRatios(toy(), "cpu"), RunningLogRatios(toy(), "cpu")
    running.observe(TRAJECTORY, STEP, torch.tensor([6.0, 9.0, 5.0, 8.0]))
    other.load(running.state())
    for estimate in (running, other):
        estimate.observe(TRAJECTORY, STEP, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    for name, value in running.state().items():
        assert torch.equal(value, other.state()[name]), name
    assert set(running.state()) == {"ratio_table", "ratio_means", "ratio_lag"}


def test_the_means_stay_those_of_the_table() -> None:
    curated = toy()
    running, _ = observe_draws(curated, random_values(curated), 50, growth=0.01)
    torch.testing.assert_close(running.means, trajectory_means(running.table, torch.from_numpy(curated.offsets)))


def test_for_a_policy_that_stands_still_it_becomes_exact() -> None:
    curated = toy()
    for seed in (0, 1):
        running, exact = observe_draws(curated, random_values(curated), 400, seed)
        torch.testing.assert_close(running.estimate(), exact, rtol=0.0, atol=1e-4)


def test_it_corrects_the_lag_of_its_table() -> None:
    curated = toy()
    draws = [observe_draws(curated, torch.ones(curated.steps), 300, seed, growth=0.1, batch_size=1) for seed in range(20)]
    table_error = torch.stack([running.means - exact for running, exact in draws]).mean(0)
    error = torch.stack([running.estimate() - exact for running, exact in draws]).mean(0)
    assert (table_error < -0.3).all()  # every entry is as old as its last draw
    assert (error.abs() < 0.2 * table_error.abs()).all()


@pytest.mark.robustness
def test_its_ranking_is_that_of_the_exact_weights_on_real_data() -> None:
    # 600 minibatches of 256 show each of the 8,000 kept steps about twenty times.
    hopper = minari_source.load(generate.ensure("Hopper-v5", "random", 8_000))
    overrides = ["curation=all", "policy.hidden=[32,32]", "reference.steps=300", "reference.schedule=constant"]
    overrides += ["algo.steps=600", "algo.warmup_steps=50"]
    config = compose("algo=iw_bc", *overrides)
    curated = curated_of(config, hopper)
    references = reference_policy(hopper, config.policy, config.reference, [0, 1, 2], "cpu", Console(quiet=True))
    for seed in references.seeds:
        reference = references.of_seed(seed)
        algorithm = algorithm_of(config, curated, reference, seed)
        assert isinstance(algorithm, ImportanceWeightedBC) and isinstance(algorithm.weights, RunningWeights)
        sampler = StepSampler(curated, seed, config.algo.batch_size, Stream.TRAINING)
        proposal = copy.deepcopy(reference)  # θ_q, which the running estimate does without
        with torch.no_grad():
            for step in range(config.algo.steps):
                for averaged, current in zip(proposal.parameters(), algorithm.policy.parameters(), strict=True):
                    averaged.lerp_(current, 1.0 - config.algo.decay)
                algorithm.update(sampler.batch(step), step, config.algo.learning_rate(step))
        used = algorithm.weights.log_ratios
        exact = ExactWeights(config.algo, reference, curated, "cpu").exact_log_ratios(proposal)
        ranks = torch.stack([used, exact]).argsort(1).argsort(1).double()
        assert torch.corrcoef(ranks)[0, 1] >= 0.99
        error = used - exact  # less its mean, which cancels when weights are self-normalised
        assert (error - error.mean()).std() < 0.1 * exact.std()
