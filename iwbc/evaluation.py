"""Vectorised rollouts: every seed's policy plays its own episodes, with the mean action, all side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from iwbc.environments import make_env, play
from iwbc.errors import UserError
from iwbc.policies import Policy
from iwbc.scores import ReferenceScores

# Environments played side by side: enough that the policy's forward pass costs little per step.
_SIDE_BY_SIDE = 100


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted return and length of every episode, [S, E]."""

    seeds: tuple[int, ...]
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]

    def rows(self, phase: str, step: int, scores: ReferenceScores | None) -> list[dict[str, Any]]:
        """One row per episode for evaluations.csv."""
        normalised = scores.normalise(self.returns) if scores else None
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
    """Plays policies in one environment. The environments are made once and used again."""

    def __init__(self, env_id: str, env_kwargs: Mapping[str, Any], seed: int) -> None:
        """Raises UserError where the environment is not installed."""
        self.env_id, self.env_kwargs, self.seed = env_id, env_kwargs, seed
        self._envs: list[gym.Env[Any, Any]] = [make_env(env_id, env_kwargs)]

    def check_spaces(self, observation_size: int, action_size: int, dataset_id: str) -> None:
        """Raise UserError unless the environment's observations and actions have the dataset's sizes."""
        sizes = [int(gym.spaces.flatdim(space)) for space in (self._envs[0].observation_space, self._envs[0].action_space)]
        if sizes != [observation_size, action_size]:
            raise UserError(
                f"env {self.env_id}: has {sizes[0]} observations and {sizes[1]} actions, dataset {dataset_id} has "
                f"{observation_size} and {action_size}; choose the env that the data was recorded in"
            )

    def evaluate(self, policy: Policy, episodes: int) -> Evaluation:
        """Play `episodes` episodes with each seed's policy, the mean action clipped to the action space.

        Episode e of policy seed s always starts from the same state, whatever else is played.
        """
        seeds = len(policy.seeds)
        side_by_side = max(1, min(episodes, _SIDE_BY_SIDE // seeds))
        while len(self._envs) < seeds * side_by_side:
            self._envs.append(make_env(self.env_id, self.env_kwargs))
        returns, lengths = np.zeros((seeds, episodes)), np.zeros((seeds, episodes), np.int64)
        for first in range(0, episodes, side_by_side):
            wave = np.arange(first, min(first + side_by_side, episodes))
            for row, episode, reward in self._play(policy, wave):
                np.add.at(returns, (row, episode), reward)
                np.add.at(lengths, (row, episode), 1)
        return Evaluation(policy.seeds, returns, lengths)

    def _play(self, policy: Policy, wave: npt.NDArray[np.int64]) -> Any:
        """The steps of the episodes `wave` of every seed: (policy row, episode, reward), an array of each."""
        seeds, device = len(policy.seeds), policy.parameters.flat.device

        def act(observations: npt.NDArray[np.float64]) -> npt.NDArray[np.floating]:
            batch = torch.from_numpy(observations.astype(np.float32)).view(seeds, len(wave), -1)
            return policy.mean_action(batch.to(device)).view(seeds * len(wave), -1).cpu().numpy()

        starts = [self._start(seed, int(episode)) for seed in policy.seeds for episode in wave]
        for step in play(self._envs[: len(starts)], act, starts):
            row, place = np.divmod(step.active, len(wave))
            yield row, wave[place], step.rewards

    def _start(self, seed: int, episode: int) -> int:
        return int(np.random.SeedSequence((self.seed, seed, episode)).generate_state(1)[0]) >> 1

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()


def interval(values: Sequence[Sequence[float]] | npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of [S, E] values: seeds are drawn anew, then episodes within each."""
    array = np.asarray(values, np.float64)
    random = np.random.default_rng(seed)
    rows = random.integers(array.shape[0], size=(2000, array.shape[0], 1))
    episodes = random.integers(array.shape[1], size=(2000, array.shape[0], array.shape[1]))
    low, high = np.percentile(array[rows, episodes].mean((1, 2)), [2.5, 97.5])
    return float(low), float(high)
