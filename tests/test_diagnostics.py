from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from helpers import make_trajectories
from setups import compose, untrained
from torch import Tensor

from iwbc import engine
from iwbc.data.curated import Curated
from iwbc.policies import Policy
from iwbc.training.diagnostics import Diagnostics

CONFIG = compose("policy.hidden=[8]")


def test_diagnostics_by_hand() -> None:
    # Every step of a trajectory has the same observation and action, so that a sample's mean is known.
    toy = make_trajectories([1.0, 2.0], [3, 4])
    owner = np.repeat([0, 1], [3, 4])
    toy = replace(toy, observations=toy.observations[[0, 3]][owner], actions=toy.actions[[0, 3]][owner])
    reference, policy = untrained(CONFIG, toy, 1), untrained(CONFIG, toy, 3)
    metrics = Diagnostics(Curated(toy, np.array([0.0, 1.0]), "trajectory"), reference, 1, kappa=2.0).measure(policy)

    def log_prob(policy_: Policy, row: int) -> Tensor:
        observation, action = (torch.from_numpy(x[row : row + 1]) for x in (toy.observations, toy.actions))
        return engine.log_prob(policy_, observation, action)[0]

    dropped, kept = (log_prob(policy, row) for row in (0, 3))
    drift = kept - log_prob(reference, 3)
    torch.testing.assert_close(metrics["log_prob_kept"], kept)
    torch.testing.assert_close(metrics["log_prob_dropped"], dropped)
    torch.testing.assert_close(metrics["drift_kept"], drift, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(metrics["drift_dropped"], dropped - log_prob(reference, 0), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(metrics["reference_bound"], 1.0 + 2.0 * drift, rtol=0.0, atol=1e-5)


def test_diagnostics_without_dropped_trajectories_or_a_reference() -> None:
    toy = make_trajectories([1.0, 2.0])
    policy = untrained(CONFIG, toy)
    everything = Curated(toy, np.ones(2), "trajectory")
    assert set(Diagnostics(everything, None, 0).measure(policy)) == {"log_prob_kept"}
    with_reference = Diagnostics(everything, policy, 0).measure(policy)
    assert set(with_reference) == {"log_prob_kept", "drift_kept", "reference_bound"}
    assert with_reference["drift_kept"].item() == 0.0
    assert with_reference["reference_bound"].item() == 1.0
