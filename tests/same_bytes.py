"""Digests of what the behaviours, demonstrators and operators of each environment play, which a script of them prints."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from iwbc.data.behaviours import behaviours
from iwbc.data.demonstrators import demonstrations
from iwbc.data.operators import operated, usual_operators
from iwbc.data.trajectories import Episode
from iwbc.environments.gymnasium import LocalEnvironments, play
from iwbc.environments.metaworld import HORIZONS, expert
from iwbc.environments.spec import EnvironmentSpec

TIERS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")
TASKS = ("iwbc/TwoRoutes-v0", "iwbc/CarefulOrHasty-v0", "PointMaze_UMaze-v3")

# Kernels that this processor may not have are left out by OpenBLAS and NumPy themselves.
KERNELS = {
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE": {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4", "ATEN_CPU_CAPABILITY": "default"},
}


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


def arrays_of(episodes: Iterable[Episode]) -> Iterable[npt.NDArray[np.generic]]:
    """Yield the arrays of episodes."""
    for episode in episodes:
        yield from (episode.observations, episode.final_observation, episode.actions, episode.rewards)


def digests() -> dict[str, str]:
    """Return a digest for each tier's environment, and one of three demonstrations for each task."""
    return {env_id: digest(played(env_id)) for env_id in TIERS} | {
        env_id: digest(arrays_of(demonstrations(env_id, 3, seed=7))) for env_id in TASKS
    }


def operated_digests() -> dict[str, str]:
    """Return a digest of six demonstrations by the operators of each of Meta-World's tasks."""
    return {
        env_id: digest(arrays_of(operated(EnvironmentSpec(env_id), expert(env_id), usual_operators(env_id), 6, seed=7)))
        for env_id in (f"metaworld/{task}-v3" for task in HORIZONS)
    }


if __name__ == "__main__":
    print(json.dumps(operated_digests() if sys.argv[1:] == ["operators"] else digests()))
