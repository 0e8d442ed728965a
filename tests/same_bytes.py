"""Digests of what the behaviours and demonstrators of each environment play, which a script of them prints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from iwbc.data.behaviours import behaviours
from iwbc.data.demonstrators import demonstrations
from iwbc.environments.gymnasium import LocalEnvironments, play
from iwbc.environments.spec import EnvironmentSpec

TIERS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")
TASKS = ("iwbc/TwoRoutes-v0", "iwbc/CarefulOrHasty-v0", "PointMaze_UMaze-v3")


def digest(arrays: Iterable[npt.NDArray[np.generic]]) -> str:
    """Return the SHA-256 of arrays, shortened."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def played(env_id: str) -> Iterable[npt.NDArray[np.generic]]:
    """Yield the arrays of 60 steps with the medium and with the expert policy of a tier's environment."""
    source = behaviours(env_id)
    environments = LocalEnvironments(EnvironmentSpec(env_id, max_episode_steps=60))
    for snapshot in (source.medium, source.expert):
        policy, random = source.load(snapshot), np.random.default_rng(7)
        for step in play(environments, lambda observations: policy.sample(observations, random), [1, 2, 3]):  # noqa: B023
            yield from (step.observations, step.actions, step.rewards, step.next_observations)
    environments.close()


def digests() -> dict[str, str]:
    """Return a digest for each tier's environment, and one of three demonstrations for each task."""
    tasks = {env_id: demonstrations(env_id, 3, seed=7) for env_id in TASKS}
    return {env_id: digest(played(env_id)) for env_id in TIERS} | {
        env_id: digest(
            array
            for episode in episodes
            for array in (episode.observations, episode.final_observation, episode.actions, episode.rewards)
        )
        for env_id, episodes in tasks.items()
    }


if __name__ == "__main__":
    print(json.dumps(digests()))
