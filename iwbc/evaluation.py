"""Vectorised rollouts: every seed's policy plays separate episodes, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iwbc.data.streams import Stream, generator
from iwbc.environments.gymnasium import Environments, LocalEnvironments, WorkerEnvironments, play
from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError, warn
from iwbc.policies.policy import check_samples
from iwbc.policies.spec import Spaces
from iwbc.system import processes
from iwbc.training.acting import Actor, Player
from iwbc.training.trained import Policies

# Environments played side by side: enough that the policy's forward pass costs little per step.
_SIDE_BY_SIDE = 100
# An episode of more steps is taken for endless.
_LONGEST = 100_000


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Undiscounted return and length of every episode, [S, E]. reference_scores: None where unknown. successes: [S, E], None
    where the environment reports none. action: the policy's `mean` action or a `sample`, whichever was played."""

    seeds: tuple[int, ...]
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    reference_scores: ReferenceScores | None = None
    successes: npt.NDArray[np.bool_] | None = None
    action: str = "mean"

    @property
    def scores(self) -> npt.NDArray[np.float64] | None:
        """The score of every episode, [S, E]."""
        return None if self.reference_scores is None else self.reference_scores.normalise(self.returns)

    @property
    def score(self) -> float | None:
        """The mean score over seeds and episodes."""
        return None if self.scores is None else float(self.scores.mean())

    @property
    def success_rate(self) -> float | None:
        """The share of episodes that succeed."""
        return None if self.successes is None else float(self.successes.mean())

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score {self.score:.1f}"
        success = "" if self.success_rate is None else f", success {100 * self.success_rate:.1f} %"
        episodes = f"{len(self.seeds)} × {self.returns.shape[1]} episodes"
        return f"Evaluation({episodes}, {self.action} action: return {self.returns.mean():.1f}{score}{success})"


class Evaluator:
    """Player of policies in one environment, on `workers` processes besides this process (0: in this process)."""

    def __init__(
        self,
        environment: EnvironmentSpec | str,
        seed: int,
        workers: int = 0,
        scores: ReferenceScores | None = None,
    ) -> None:
        """Make one environment. Raises UserError where it is not installed."""
        spec = EnvironmentSpec.of(environment)
        self.env_id, self.seed, self.scores = spec.id, seed, scores
        self._longest = max(_LONGEST, spec.max_episode_steps or 0)
        local = LocalEnvironments(spec)
        self.observation_size, self.images, self.action_space = local.observation_size, local.images, local.action_space
        self._environments: Environments = WorkerEnvironments(spec, workers) if workers else local
        self._others_play = workers > 0

    def check_spaces(self, spaces: Spaces, whose: str, reach: tuple[npt.ArrayLike, npt.ArrayLike] | None = None) -> None:
        """Raise UserError unless the environment's observations and actions have these sizes, it has these images (others are
        left out), and its actions have this range where both are bounded. Where there are no bounds, actions beyond the
        environment's are a DataWarning: `reach` are the lowest and the highest ones, [act] each."""
        space, actions = self.action_space, len(spaces.action_low)
        if (self.observation_size, *space.shape) != (spaces.observation_size, actions):
            raise UserError(
                f"env {self.env_id}: has {self.observation_size} observations and {space.shape[0]} actions, {whose} has "
                f"{spaces.observation_size} and {actions}; choose the env that the data was recorded in"
            )
        there = list(map(str, self.images))
        if missing := [image for image in spaces.images if str(image) not in there]:
            raise UserError(
                f"env {self.env_id}: has {', '.join(there) or 'no images'}, {whose} has {missing[0]}; choose the env that the "
                "data was recorded in"
            )
        bounds = np.array((spaces.action_low, spaces.action_high))
        declared = np.isfinite(bounds).all(0)
        if reach is not None:
            bounds = np.where(declared, bounds, np.array(reach))
        low, high = _above(bounds[0], space.low), _above(bounds[1], space.high)
        if (differs := declared & ((low != 0) | (high != 0))).any():
            raise UserError(
                f"{self._ranges(bounds, whose, differs)}; give the data its true range where it is made (action_low=… "
                "action_high=…, or env_id=…), or choose the environment that it was recorded in (env.id=…)"
            )
        if (beyond := ~declared & ((low < 0) | (high > 0))).any():
            warn(f"{self._ranges(bounds, whose, beyond)}, of data that declares no bounds; what lies beyond is clipped in play")

    def _ranges(self, bounds: npt.NDArray[np.floating], whose: str, differ: npt.NDArray[np.bool_]) -> str:
        """Name both ranges of actions in the first dimension in which they differ."""
        first = int(np.argmax(differ))
        where = "" if differ.all() else f" in dimension {first}"
        accepted, declared = (
            f"{low[first]:.7g} … {high[first]:.7g}" for low, high in ((self.action_space.low, self.action_space.high), bounds)
        )
        return f"env {self.env_id}: takes actions of {accepted}{where}, {whose} has actions of {declared}"

    def evaluate(
        self,
        policies: Policies,
        episodes: int,
        action: str = "mean",
        watch: Callable[[tuple[int, int], npt.NDArray[np.floating]], None] | None = None,
    ) -> Evaluation:
        """Play `episodes` episodes with each seed's policy; actions, its `mean` action or a `sample`, are clipped to the
        environment's action space. `watch` is called with (seed, episode) and the action [act] at every step.

        Episode e of policy seed s always starts from the same state; a seed's samples start so, too, where as many episodes
        are played. Raises UserError where the policies' spaces are not the environment's (check_spaces),
        and where the environment or a policy fails.
        """
        self.check_spaces(policies.spaces, "the policy", None if policies.spec is None else policies.spec.units_range)
        if action == "sample":
            for module in policies:
                check_samples(module)
        shape = (len(policies), episodes)
        returns, lengths, success = np.zeros(shape), np.zeros(shape, np.int64), np.full(shape, np.nan, np.float32)
        with processes.one_thread() if self._others_play else contextlib.nullcontext():
            for row, (seed, module) in enumerate(zip(policies.seeds, policies, strict=True)):
                random = generator(Stream.ACTIONS, self.seed, seed)
                actor = Actor(module, policies.spaces, None if action == "mean" else random)
                for first in range(0, episodes, _SIDE_BY_SIDE):
                    wave = np.arange(first, min(first + _SIDE_BY_SIDE, episodes))
                    for step in play(self._environments, Player(actor), [self.start(seed, int(episode)) for episode in wave]):
                        played = wave[step.active]
                        returns[row, played] += step.rewards
                        lengths[row, played] += 1
                        if lengths[row, played[0]] > self._longest:
                            raise UserError(
                                f"environment {self.env_id}: an episode has not ended after {self._longest:,} steps; give it a "
                                "time limit with env.max_episode_steps=…"
                            )
                        success[row, played] = np.fmax(success[row, played], step.success)  # at any step; NaN: unknown
                        if watch is not None:
                            for episode, taken in zip(played.tolist(), step.actions, strict=True):
                                watch((seed, episode), taken)
        known = not np.isnan(success).all()
        return Evaluation(policies.seeds, returns, lengths, self.scores, success == 1.0 if known else None, action)

    def start(self, seed: int, episode: int) -> int:
        """Return the environment's seed for an episode of a policy's seed."""
        return int(np.random.SeedSequence((self.seed, seed, episode)).generate_state(1)[0]) >> 1

    def close(self) -> None:
        """Close the environments."""
        self._environments.close()


def _above(data: npt.NDArray[np.floating], environment: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Compare bounds [act]: 1 where the data's lies above the environment's, -1 where below, 0 where they are the same number
    but for rounding or where one of them is infinite."""
    declared = environment.astype(np.float64)
    rounding = max(1e-6, float(np.finfo(environment.dtype).eps))
    comparable = np.isfinite(data) & np.isfinite(declared) & ~np.isclose(data, declared, rtol=rounding, atol=0.0)
    return np.where(comparable, np.where(data > declared, 1, -1), 0)
