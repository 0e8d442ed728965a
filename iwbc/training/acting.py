"""A policy at play: what it remembers of episodes side by side, and which of a chunk's actions is next."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from iwbc import engine
from iwbc.data.windows import STEP, Sequences
from iwbc.errors import UserError
from iwbc.policies.policy import Policy, executed, window_of
from iwbc.policies.spec import Spaces


class Memory(NamedTuple):
    """Memory of n episodes of a policy with history or chunks: the last observations [n, history, obs] (with images: records
    [n, history]), the last chunk [n, chunk, act], and how many of the chunk's actions have been played, [n].

    Of a policy that reads sequences: the observations since its memory began, [n, sequence, obs], and how many they are, [n].
    """

    observations: npt.NDArray[Any]
    actions: npt.NDArray[np.floating]
    played: npt.NDArray[np.int64]


class Actor:
    """Player of one policy, by mean actions or by samples, which `random` draws."""

    def __init__(self, policy: Policy, spaces: Spaces, random: torch.Generator | None = None) -> None:
        self._policy, self._spaces, self._random = policy, spaces, random
        self._window, self._execute = window_of(policy), executed(policy)
        self.remembers = self._window != STEP

    def memory_of(self, state: object) -> Memory:
        """Take a state that `act` has returned. Raises UserError for another, such as another policy's."""
        steps, chunk = max(self._window.history, self._window.sequence), self._window.chunk
        seen = (steps,) if self._spaces.images else (steps, self._spaces.observation_size)
        shapes = (seen, (chunk, len(self._spaces.action_low)), ())
        parts = tuple(state) if isinstance(state, tuple | list) else ()
        shaped = [part.shape[1:] == shape for part, shape in zip(parts, shapes, strict=False) if isinstance(part, np.ndarray)]
        if len(parts) != len(shapes) or shaped != [True] * len(shapes):
            raise UserError("predict: the state is not one that an earlier call of this policy returned")
        return Memory(*parts)

    @torch.inference_mode()
    def _ask(self, observations: npt.NDArray[Any], place: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.floating]:
        device = next(self._policy.parameters()).device
        batch = self._spaces.tensors(observations, device)
        if place is not None:
            batch = Sequences(batch, torch.arange(len(place), device=device), torch.from_numpy(place).to(device))
        if self._random is None:
            return engine.mean_action(self._policy, batch).cpu().numpy()
        return self._policy.sample(batch, self._random).cpu().numpy()

    def act(
        self, observations: npt.NDArray[Any], memory: Memory | None = None, starts: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.floating], Memory | None]:
        """Choose actions [n, act], not clipped, at observations [n, obs], or records [n], of n episodes, and return them with
        the memory for the next. Without a memory all episodes begin; with one those do that `starts` [n] marks."""
        if not self.remembers:
            return self._ask(observations), None
        if starts is None:
            starts = np.zeros(len(observations), np.bool_)
        if self._window.sequence > 1:
            return self._read_on(observations, memory, starts)
        history, chunk = self._window.history, self._window.chunk
        seen, asks = np.repeat(observations[:, None], history, axis=1), np.ones(len(observations), np.bool_)
        if memory is not None:
            seen[~starts, :-1] = memory.observations[~starts, 1:]
            asks = starts | (memory.played == self._execute)
        if asks.any():
            answer = self._ask(seen if history > 1 else observations)  # of all, so that it depends on no other episode's chunk
            actions = answer if chunk > 1 else answer[:, None]
            if memory is not None:
                actions = np.where(asks[:, None, None], actions, memory.actions)
        else:
            assert memory is not None
            actions = memory.actions
        place = np.zeros(len(asks), np.int64) if memory is None else np.where(asks, 0, memory.played)
        return actions[np.arange(len(place)), place], Memory(seen, actions, place + 1)

    def _read_on(
        self, observations: npt.NDArray[Any], memory: Memory | None, starts: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.floating], Memory]:
        """Act by a policy that reads sequences."""
        episodes = np.arange(len(observations))
        if memory is None:
            seen, place = np.repeat(observations[:, None], self._window.sequence, axis=1), np.zeros(len(episodes), np.int64)
        else:
            seen, begins = memory.observations.copy(), starts | (memory.played == self._window.sequence)
            place = np.where(begins, 0, memory.played)
            seen[episodes, place] = observations
        actions = self._ask(seen[:, : place.max() + 1], place)
        return actions, Memory(seen, actions[:, None], place + 1)


class Player:
    """Actor in episodes that all begin at once: called with their observations, it returns their actions."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._memory: Memory | None = None

    def __call__(self, observations: npt.NDArray[Any]) -> npt.NDArray[np.floating]:
        actions, self._memory = self._actor.act(observations, self._memory)
        return actions
