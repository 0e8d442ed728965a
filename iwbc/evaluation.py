"""Vectorised rollouts: every seed's policy plays its own episodes, with the mean action, all side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from iwbc import engine, processes
from iwbc.environments import Environments, LocalEnvironments, WorkerEnvironments, play
from iwbc.envpool_environments import EnvpoolEnvironments
from iwbc.errors import UserError
from iwbc.scores import ReferenceScores
from iwbc.trained import Policies

# Environments played side by side: enough that the policy's forward pass costs little per step.
_SIDE_BY_SIDE = 100


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Undiscounted return and length of every episode, [S, E], and what scores are relative to, where that is known."""

    seeds: tuple[int, ...]
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    reference_scores: ReferenceScores | None = None

    @property
    def scores(self) -> npt.NDArray[np.float64] | None:
        """The score of every episode, [S, E]."""
        return None if self.reference_scores is None else self.reference_scores.normalise(self.returns)

    @property
    def score(self) -> float | None:
        """The mean score over seeds and episodes."""
        return None if self.scores is None else float(self.scores.mean())

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score {self.score:.1f}"
        return f"Evaluation({len(self.seeds)} × {self.returns.shape[1]} episodes: return {self.returns.mean():.1f}{score})"

    def rows(self, phase: str, step: int) -> list[dict[str, Any]]:
        """One row per episode for evaluations.csv."""
        normalised = self.scores
        return [
            {
                "phase": phase,
                "step": step,
                "seed": seed,
                "episode": episode,
                "return": float(self.returns[row, episode]),
                "length": int(self.lengths[row, episode]),
                "score": "" if normalised is None else float(normalised[row, episode]),
            }
            for row, seed in enumerate(self.seeds)
            for episode in range(self.returns.shape[1])
        ]


class Evaluator:
    """Plays policies in one environment, of Gymnasium or of EnvPool.

    backend="gymnasium": on `workers` processes besides this one (0: in this one). backend="envpool": on as many threads as
    PyTorch has; returns then have the same distribution, but episodes are others.
    """

    def __init__(
        self,
        env_id: str,
        env_kwargs: Mapping[str, Any],
        seed: int,
        workers: int = 0,
        backend: str = "gymnasium",
        scores: ReferenceScores | None = None,
    ) -> None:
        """Raises UserError where the environment is not installed, or is not one of the backend's."""
        self.env_id, self.seed, self.scores = env_id, seed, scores
        self._environments: Environments
        if backend == "envpool":
            pool = self._environments = EnvpoolEnvironments(env_id, env_kwargs, processes.threads())
            self.sizes = pool.observation_size, pool.action_size
        else:
            local = LocalEnvironments(env_id, env_kwargs)
            self.sizes = local.observation_size, local.action_size
            self._environments = WorkerEnvironments(env_id, env_kwargs, workers) if workers else local
        self._others_play = backend == "envpool" or workers > 0

    def check_sizes(self, observation_size: int, action_size: int, dataset_id: str) -> None:
        """Raise UserError unless the environment's observations and actions have the dataset's sizes."""
        if self.sizes != (observation_size, action_size):
            raise UserError(
                f"env {self.env_id}: has {self.sizes[0]} observations and {self.sizes[1]} actions, dataset {dataset_id} has "
                f"{observation_size} and {action_size}; choose the env that the data was recorded in"
            )

    def evaluate(self, policy: Policies, episodes: int) -> Evaluation:
        """Play `episodes` episodes with each seed's policy, the mean action clipped to the action space.

        Episode e of policy seed s always starts from the same state, whatever else is played.
        """
        seeds = len(policy.seeds)
        side_by_side = max(1, min(episodes, _SIDE_BY_SIDE // seeds))
        returns, lengths = np.zeros((seeds, episodes)), np.zeros((seeds, episodes), np.int64)
        with processes.one_thread() if self._others_play else contextlib.nullcontext():
            for first in range(0, episodes, side_by_side):
                wave = np.arange(first, min(first + side_by_side, episodes))
                starts = [self._start(seed, int(episode)) for seed in policy.seeds for episode in wave]
                for step in play(self._environments, partial(_mean_actions, policy), starts):
                    row, place = np.divmod(step.active, len(wave))
                    returns[row, wave[place]] += step.rewards
                    lengths[row, wave[place]] += 1
        return Evaluation(policy.seeds, returns, lengths, self.scores)

    def _start(self, seed: int, episode: int) -> int:
        return int(np.random.SeedSequence((self.seed, seed, episode)).generate_state(1)[0]) >> 1

    def close(self) -> None:
        """Close the environments."""
        self._environments.close()


@torch.inference_mode()
def _mean_actions(policies: Policies, observations: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Mean actions for the observations of each seed's episodes, laid end to end: [S · E, obs] → [S · E, act]."""
    device = next(policies[0].parameters()).device
    batch = torch.from_numpy(observations.astype(np.float32)).to(device).chunk(len(policies))
    actions = [engine.mean_action(module, own) for module, own in zip(policies, batch, strict=True)]
    return torch.cat(actions).cpu().numpy()


def interval(values: Sequence[Sequence[float]] | npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of [S, E] values: seeds are drawn anew, then episodes within each."""
    array = np.asarray(values, np.float64)
    random = np.random.default_rng(seed)
    rows = random.integers(array.shape[0], size=(2000, array.shape[0], 1))
    episodes = random.integers(array.shape[1], size=(2000, array.shape[0], array.shape[1]))
    low, high = np.percentile(array[rows, episodes].mean((1, 2)), [2.5, 97.5])
    return float(low), float(high)
