"""Small data sets in memory, and settings shared by the property tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from torch import Tensor

from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories

quick = settings(max_examples=50, deadline=None, database=None, derandomize=True)


def make_info(
    action_size: int = 2, id: str = "toy/data-v0", low: Sequence[float] | None = None, high: Sequence[float] | None = None
) -> DatasetInfo:
    return DatasetInfo(
        id=id,
        environment=None,
        action_low=list(low) if low is not None else [-1.0] * action_size,
        action_high=list(high) if high is not None else [1.0] * action_size,
        reference_scores=None,
    )


def make_trajectories(
    returns: Sequence[float],
    lengths: Sequence[int] | None = None,
    *,
    terminated: Sequence[bool] | None = None,
    successes: Sequence[bool] | None = None,
    observation_size: int = 3,
    action_size: int = 2,
    seed: int = 0,
) -> Trajectories:
    """Random observations and actions; every reward of a trajectory is its return / length (length 4 by default)."""
    rng = np.random.default_rng(seed)
    sizes = np.full(len(returns), 4) if lengths is None else np.asarray(lengths)
    steps = int(sizes.sum())
    return Trajectories(
        info=make_info(action_size),
        known_hash="0" * 64,
        observations=rng.normal(size=(steps, observation_size)).astype(np.float32),
        actions=rng.uniform(-1.0, 1.0, size=(steps, action_size)).astype(np.float32),
        rewards=np.repeat(np.asarray(returns, np.float64) / sizes, sizes).astype(np.float32),
        final_observations=rng.normal(size=(len(returns), observation_size)).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        terminated=np.ones(len(returns), np.bool_) if terminated is None else np.asarray(terminated, np.bool_),
        successes=None if successes is None else np.asarray(successes, np.bool_),
    )


def make_episode(
    steps: int = 5,
    *,
    observation_size: int = 3,
    action_size: int = 2,
    terminated: bool = True,
    success: bool | None = None,
    seed: int = 0,
) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        observations=rng.normal(size=(steps, observation_size)),
        final_observation=rng.normal(size=observation_size),
        actions=rng.uniform(-1.0, 1.0, size=(steps, action_size)),
        rewards=rng.normal(size=steps),
        terminated=terminated,
        success=success,
    )


def seven_steps(**changes: Any) -> dict[str, Any]:
    """Arrays of an episode that terminates after 3 steps, one that is cut after 2, and 2 steps without an end."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "observations": rng.normal(size=(7, 4)),
        "actions": rng.uniform(-1, 1, size=(7, 2)),
        "rewards": np.arange(7.0),
        "terminations": np.array([0, 0, 1, 0, 0, 0, 0], bool),
        "truncations": np.array([0, 0, 0, 0, 1, 0, 0], bool),
    }
    return arrays | changes


def few_steps(**changes: Any) -> dict[str, Any]:
    """Give arrays of 40 steps in 4 episodes, of a pendulum's sizes, changed."""
    arrays: dict[str, Any] = {
        "observations": np.zeros((40, 3), np.float32) + np.arange(40, dtype=np.float32)[:, None],
        "actions": np.linspace(-0.9, 0.9, 40, dtype=np.float32)[:, None],
        "rewards": np.arange(40, dtype=np.float32),
        "terminations": np.zeros(40, bool),
        "truncations": np.arange(40) % 10 == 9,
    }
    return arrays | changes


def everything(folder: Path) -> list[str]:
    """All that lies in a folder, however deep."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def named(states: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of tensors by seed and name, under one name each, as a file has them."""
    return {f"{seed}.{name}": value.clone() for seed, state in states.items() for name, value in state.items()}
