from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_trajectories
from rich.console import Console
from setups import algorithm_of, compose, curated_of
from torch import Tensor

from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.trajectories import Trajectories
from iwbc.diagnostics import Diagnostics
from iwbc.evaluation import Evaluator
from iwbc.policies import policy_spec
from iwbc.reference import reference_policy
from iwbc.trainer import Learner
from iwbc.training import Stream, initial_policy


def test_seeds_start_differently_and_the_same_alone_or_beside_others() -> None:
    spec = policy_spec(compose().policy, make_trajectories([1.0]))
    together, alone = initial_policy(spec, [4, 5], "cpu"), initial_policy(spec, [5], "cpu")
    assert torch.equal(together.parameters.flat[1], alone.parameters.flat[0])
    assert not torch.equal(together.parameters.flat[0], together.parameters.flat[1])


# --- diagnostics ---------------------------------------------------------------------------------------------------------


def test_diagnostics_by_hand() -> None:
    # Every step of a trajectory has the same observation and action, so that a sample's mean is known.
    toy = make_trajectories([1.0, 2.0], [3, 4])
    owner = np.repeat([0, 1], [3, 4])
    toy = replace(toy, observations=toy.observations[[0, 3]][owner], actions=toy.actions[[0, 3]][owner])
    spec = policy_spec(compose("policy.hidden=[8]").policy, toy)
    reference, policy = initial_policy(spec, [1, 2], "cpu"), initial_policy(spec, [3, 4], "cpu")
    found = Diagnostics(Curated(toy, np.array([0.0, 1.0]), "trajectory"), reference, [1, 2]).measure(policy, kappa=2.0)

    def log_prob(policy_: object, row: int) -> Tensor:
        observation, action = (torch.from_numpy(x[row]).expand(2, 1, -1) for x in (toy.observations, toy.actions))
        return policy_.log_prob(observation, action)[:, 0]  # type: ignore[attr-defined]

    dropped, kept = (log_prob(policy, row) for row in (0, 3))
    drift = kept - log_prob(reference, 3)
    torch.testing.assert_close(found["log_prob_kept"], kept)
    torch.testing.assert_close(found["log_prob_dropped"], dropped)
    torch.testing.assert_close(found["drift_kept"], drift, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(found["drift_dropped"], dropped - log_prob(reference, 0), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(found["reference_bound"], 1.0 + 2.0 * drift, rtol=0.0, atol=1e-5)


def test_diagnostics_without_dropped_trajectories_or_a_reference() -> None:
    toy = make_trajectories([1.0, 2.0])
    policy = initial_policy(policy_spec(compose("policy.hidden=[8]").policy, toy), [0], "cpu")
    everything = Curated(toy, np.ones(2), "trajectory")
    assert set(Diagnostics(everything, None, [0]).measure(policy, 1.0)) == {"log_prob_kept"}
    with_reference = Diagnostics(everything, policy, [0]).measure(policy, 1.0)
    assert set(with_reference) == {"log_prob_kept", "drift_kept", "reference_bound"}
    assert with_reference["drift_kept"].item() == 0.0
    assert with_reference["reference_bound"].item() == 1.0


# --- learning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["filtered_bc", "iw_bc"])
@pytest.mark.parametrize(("averaging", "factor"), [("trajectory", 10.0), ("transition", 1.5)])
def test_fine_tuning_beats_the_reference_by_a_wide_margin(
    averaging: str, factor: float, algo: str, hopper: Trajectories
) -> None:
    # With trajectory averaging, the many short and bad episodes make the reference weak.
    overrides = ["policy.hidden=[64,64]", "reference.steps=1000", "algo.steps=400", "algo.warmup_steps=50", "algo.lr=1e-3"]
    config = compose(f"algo={algo}", f"reference.averaging={averaging}", "seeds=[0,1,2]", *overrides)
    curated, spec = curated_of(config, hopper), policy_spec(config.policy, hopper)
    reference = reference_policy(hopper, spec, config.reference, config.all_seeds, "cpu", Console(quiet=True))
    algorithm = algorithm_of(config, curated, reference)
    sampler = StepSampler(curated, config.all_seeds, config.algo.batch_size, Stream.TRAINING)
    Learner(algorithm, sampler, config.algo).train(0, config.algo.steps)
    evaluator = Evaluator("Hopper-v5", {}, seed=0)
    before, after = (evaluator.evaluate(policy, 10).returns.mean() for policy in (reference, algorithm.policy))
    assert after > factor * before
    assert after > before + 150.0
