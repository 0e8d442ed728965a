from __future__ import annotations

import numpy as np
import torch
from helpers import make_trajectories
from iwbc.log_ratios import RunningLogRatios, log_probs, trajectory_means
from iwbc.training import Stream, initial_policy
from rich.console import Console
from setups import algorithm_of, compose, curated_of
from torch import Tensor

from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch, StepSampler
from iwbc.data.trajectories import Trajectories
from iwbc.policies import policy_spec
from iwbc.reference import reference_policy

LENGTHS = [3, 1, 5, 2, 4]
KEPT = [1.0, 0.0, 2.0, 0.0, 1.0]  # curation weights: trajectories 0, 2 and 4 are kept


def toy() -> Curated:
    return Curated(make_trajectories([1.0, 2.0, 3.0, 4.0, 5.0], LENGTHS), np.array(KEPT), "trajectory")


def minibatch(curated: Curated, rows: list[list[int]]) -> Minibatch:
    """The minibatch of these rows of the dataset, one list per seed."""
    row = torch.tensor(rows)
    owner = np.searchsorted(curated.trajectories.offsets, row.numpy(), side="right") - 1
    trajectory = torch.from_numpy(np.searchsorted(curated.kept, owner))
    data = curated.trajectories
    return Minibatch(torch.from_numpy(data.observations)[row], torch.from_numpy(data.actions)[row], trajectory, row)


def test_log_probs_are_those_of_the_kept_steps_in_order() -> None:
    curated = toy()
    policy = initial_policy(policy_spec(compose("policy.hidden=[8]").policy, curated.trajectories), [0, 1], "cpu")
    rows = [0, 1, 2, 4, 5, 6, 7, 8, 11, 12, 13, 14]
    batch = minibatch(curated, [rows, rows])
    expected = policy.log_prob(batch.observations, batch.actions)
    torch.testing.assert_close(log_probs(policy, curated), expected)


def test_log_probs_of_a_set_larger_than_a_chunk(hopper: Trajectories) -> None:
    curated = Curated(hopper, np.ones(len(hopper)), "trajectory")
    assert curated.steps > 2 * 8192
    policy = initial_policy(policy_spec(compose("policy.hidden=[8]").policy, hopper), [0], "cpu")
    whole = policy.log_prob(torch.from_numpy(hopper.observations)[None], torch.from_numpy(hopper.actions)[None])
    torch.testing.assert_close(log_probs(policy, curated), whole, rtol=1e-5, atol=1e-5)


def test_trajectory_means_equal_a_loop() -> None:
    curated = toy()
    values = torch.randn(2, curated.steps, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([part.double().mean(1) for part in values.split([3, 5, 4], dim=1)], dim=1)
    torch.testing.assert_close(trajectory_means(values, torch.from_numpy(curated.offsets)), expected)


# --- the running estimate ------------------------------------------------------------------------------------------------


def observe_draws(
    curated: Curated, values: Tensor, steps: int, growth: float = 0.0, batch_size: int = 8
) -> tuple[RunningLogRatios, Tensor]:
    """Show the estimator `steps` minibatches of the values [S, M], which grow by a factor; the final exact means too."""
    seeds = list(range(len(values)))
    running = RunningLogRatios(curated, len(seeds), torch.device("cpu"))
    sampler = StepSampler(curated, seeds, batch_size, Stream.TRAINING)
    now = values
    for step in range(steps):
        now = values * (1.0 + growth * step)
        batch = sampler.batch(step)
        place = running.place(batch.trajectory, batch.row)
        running.observe(batch.trajectory, place, now.gather(1, place))
    return running, trajectory_means(now, torch.from_numpy(curated.offsets))


def random_values(curated: Curated) -> Tensor:
    return torch.randn(2, curated.steps, generator=torch.Generator().manual_seed(0))


def test_it_starts_at_zero_which_is_exact() -> None:
    running = RunningLogRatios(toy(), 2, torch.device("cpu"))
    assert torch.equal(running.estimate(), torch.zeros(2, 3, dtype=torch.float64))


def test_a_step_drawn_twice_counts_once() -> None:
    running = RunningLogRatios(toy(), 1, torch.device("cpu"))
    batch = minibatch(toy(), [[1, 1, 4, 14]])
    running.observe(batch.trajectory, running.place(batch.trajectory, batch.row), torch.tensor([[6.0, 6.0, 5.0, 8.0]]))
    torch.testing.assert_close(running.means, torch.tensor([[6.0 / 3, 5.0 / 5, 8.0 / 4]], dtype=torch.float64))


def test_two_values_of_one_step_leave_table_and_mean_in_agreement() -> None:
    curated = toy()
    running = RunningLogRatios(curated, 1, torch.device("cpu"))
    batch = minibatch(curated, [[1, 1, 4, 14]])
    running.observe(batch.trajectory, running.place(batch.trajectory, batch.row), torch.tensor([[6.0, 9.0, 5.0, 8.0]]))
    torch.testing.assert_close(running.means, trajectory_means(running.table, torch.from_numpy(curated.offsets)))
    assert running.means[0, 0] in (6.0 / 3, 9.0 / 3)


def test_the_means_stay_those_of_the_table() -> None:
    curated = toy()
    running, _ = observe_draws(curated, random_values(curated), 50, growth=0.01)
    torch.testing.assert_close(running.means, trajectory_means(running.table, torch.from_numpy(curated.offsets)))


def test_for_a_policy_that_stands_still_it_becomes_exact() -> None:
    curated = toy()
    running, exact = observe_draws(curated, random_values(curated), 400)
    torch.testing.assert_close(running.estimate(), exact, rtol=0.0, atol=1e-4)


def test_it_corrects_the_lag_of_its_table() -> None:
    curated = toy()
    values = torch.ones(50, curated.steps)
    running, exact = observe_draws(curated, values, 300, growth=0.1, batch_size=1)
    table_error, error = (running.means - exact).mean(0), (running.estimate() - exact).mean(0)
    assert (table_error < -0.3).all()  # every entry is as old as its last draw
    assert (error.abs() < 0.2 * table_error.abs()).all()


def test_seeds_do_not_mix() -> None:
    curated = toy()
    values = random_values(curated)
    together, _ = observe_draws(curated, values, 30)
    alone, _ = observe_draws(curated, values[:1], 30)
    assert torch.equal(together.estimate()[:1], alone.estimate())


def test_its_ranking_is_that_of_the_exact_weights_on_real_data(hopper: Trajectories) -> None:
    # 300 minibatches of 256 show each of the 7,500 kept steps about ten times.
    overrides = ["policy.hidden=[32,32]", "reference.steps=300", "algo.steps=300", "algo.warmup_steps=50"]
    config = compose("algo=iw_bc", "seeds=[0,1,2]", *overrides)
    curated, spec = curated_of(config, hopper), policy_spec(config.policy, hopper)
    reference = reference_policy(hopper, spec, config.reference, config.all_seeds, "cpu", Console(quiet=True))
    algorithm = algorithm_of(config, curated, reference)
    assert isinstance(algorithm, ImportanceWeightedBC)
    sampler = StepSampler(curated, config.all_seeds, config.algo.batch_size, Stream.TRAINING)
    proposal = reference.copy()  # θ_q, which the running estimate does without
    for step in range(config.algo.steps):
        proposal.parameters.flat.lerp_(algorithm.policy.parameters.flat, 1.0 - config.algo.decay)
        algorithm.update(sampler.batch(step), config.algo.learning_rate(step))
    for used, exact in zip(algorithm.proposal_log_ratios, algorithm.exact_log_ratios(proposal), strict=True):
        ranks = torch.stack([used, exact]).argsort(1).argsort(1).double()
        assert torch.corrcoef(ranks)[0, 1] >= 0.99
        error = used - exact  # less its mean, which cancels when weights are self-normalised
        assert (error - error.mean()).std() < 0.1 * exact.std()
