"""Checks at the door: what every episode must satisfy before it is trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.errors import UserError


def checked(
    episodes: Iterable[Episode], info: DatasetInfo, clip_actions: bool = False, notes: list[str] | None = None
) -> Iterator[Episode]:
    """The episodes as they come, each checked; what only the whole dataset can show is checked after the last one.

    Actions outside the action space are refused, or clipped to it with `clip_actions`. What is no fault, but should be looked
    at, is added to `notes` after the last one, a line each.
    Raises UserError naming dataset, episode and field where an episode is not fit to train on.
    """
    bounds = ActionBounds(info)
    count, labelled, observation_shape = 0, 0, None
    for count, episode in enumerate(episodes, start=1):
        # The first episode says how wide an observation is; the action space says how wide an action is.
        observation_shape = observation_shape or episode.observations.shape[1:]
        check_episode(episode, info, count - 1, observation_shape)
        labelled += episode.success is not None
        if clip_actions:
            yield dataclasses.replace(episode, actions=bounds.clip(episode.actions))
        else:
            bounds.watch(episode.actions)
            yield episode
    if not count:
        raise UserError(f"dataset {info.id}: it holds no episodes")
    if labelled not in (0, count):
        raise UserError(f"dataset {info.id}: only {labelled} of {count} episodes have a success label; label all or none")
    bounds.check()


def difference(one: Trajectories, other: Trajectories) -> str | None:
    """In what two datasets cannot be trained on by the same policy, or None."""
    if (one.info.action_low, one.info.action_high) != (other.info.action_low, other.info.action_high):
        return "action spaces"
    parts = one.info.observation_parts, other.info.observation_parts
    if None not in parts and parts[0] != parts[1]:
        return "observations; dataset.observation_keys=[…] chooses what they share"
    widths = one.observations.shape[1], other.observations.shape[1]
    return None if widths[0] == widths[1] else f"observations ({widths[0]} and {widths[1]} values)"


def check_episode(episode: Episode, info: DatasetInfo, index: int, observation_shape: tuple[int, ...]) -> None:
    """Raise UserError, naming dataset, episode and field, unless the episode is whole, finite and of the right shapes."""

    def fail(field: str, problem: str) -> None:
        raise UserError(f"dataset {info.id}, episode {index}, {field}: {problem}")

    fields: dict[str, tuple[npt.NDArray[np.floating], tuple[int, ...]]] = {
        "observations": (episode.observations, observation_shape),
        "actions": (episode.actions, (len(info.action_low),)),
        "rewards": (episode.rewards, ()),
        "final observation": (episode.final_observation[None], observation_shape),
    }
    steps = len(episode.actions)
    if steps == 0:
        fail("actions", "the episode is empty (0 steps)")
    for name, (array, row_shape) in fields.items():
        if array.dtype.kind not in "fiub":
            fail(name, f"must be numbers, not {array.dtype}")
        if array.shape[1:] != row_shape:
            wanted = "the action space says" if name == "actions" else "the episodes before it have" if index else "expected"
            fail(name, f"has shape {array.shape[1:]} per step, {wanted} {row_shape}")
        if name != "final observation" and len(array) != steps:
            fail(name, f"has {len(array)} rows for {steps} actions")
        # One pass for both faults: NaN, too, fails the comparison.
        if not np.abs(array).max(initial=0) <= np.finfo(np.float32).max:
            finite = np.isfinite(array)
            if finite.all():
                fail(name, "holds values beyond the range of float32")
            step = int(np.argwhere(~finite.reshape(len(array), -1).all(1))[0, 0])
            fail(name, "holds NaN or infinity" + (f", first at step {step}" if name != "final observation" else ""))
    if len(observation_shape) != 1 or observation_shape[0] == 0:
        fail("observations", f"must be vectors, not of shape {observation_shape}")
    if not info.action_low:
        fail("actions", "the action space has no dimensions")


class ActionBounds:
    """Counts, over a whole dataset, the actions that lie outside the action space."""

    def __init__(self, info: DatasetInfo) -> None:
        self.id = info.id
        self.low, self.high = np.asarray(info.action_low), np.asarray(info.action_high)
        self.outside, self.total, self.farthest = 0, 0, 0.0

    def watch(self, actions: npt.NDArray[np.floating]) -> None:
        """Count the actions [T, act] outside the bounds, beyond float32's rounding."""
        self.total += len(actions)
        excess = np.maximum(self.low - actions, actions - self.high)
        if excess.max() <= 0.0:
            return
        # A bound stored in float32 differs from the same number in float64 by its rounding, which is no fault.
        outside = excess > 1e-6 * np.maximum(1.0, np.abs(actions))
        self.outside += int(outside.any(axis=-1).sum())
        self.farthest = max(self.farthest, float(excess.max()))

    def clip(self, actions: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """The actions [T, act] moved to the nearest ones inside the bounds."""
        return np.clip(actions, self.low, self.high)

    def check(self) -> None:
        """Raise UserError if any watched action lay outside."""
        if self.outside:
            raise UserError(
                f"dataset {self.id}, actions: {self.outside:,} of {self.total:,} lie outside the action space, by up to "
                f"{self.farthest:.3g}; correct the data, or clip it with the option clip_actions=true"
            )
