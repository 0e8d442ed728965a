"""Checks at the door: what every episode must satisfy before it is trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.errors import UserError


def check_episode(
    episode: Episode, info: DatasetInfo, index: int, observation_shape: tuple[int, ...], action_shape: tuple[int, ...]
) -> None:
    """Raise UserError, naming dataset, episode and field, unless the episode is whole, finite and of the given shapes."""

    def fail(field: str, problem: str) -> None:
        raise UserError(f"dataset {info.id}, episode {index}, {field}: {problem}")

    fields: dict[str, tuple[npt.NDArray[np.floating], tuple[int, ...]]] = {
        "observations": (episode.observations, observation_shape),
        "actions": (episode.actions, action_shape),
        "rewards": (episode.rewards, ()),
        "final observation": (episode.final_observation[None], observation_shape),
    }
    steps = len(episode.actions)
    if steps == 0:
        fail("actions", "the episode is empty (0 steps)")
    for name, (array, row_shape) in fields.items():
        if not np.issubdtype(array.dtype, np.number) and array.dtype != np.bool_:
            fail(name, f"must be numbers, not {array.dtype}")
        if array.shape[1:] != row_shape:
            fail(name, f"has shape {array.shape[1:]} per step, the episodes before it {row_shape}")
        if name != "final observation" and len(array) != steps:
            fail(name, f"has {len(array)} rows for {steps} actions")
        if not np.isfinite(array).all():
            step = int(np.argwhere(~np.isfinite(array).reshape(len(array), -1).all(1))[0, 0])
            fail(name, f"holds NaN or infinity, first at step {step}")
        if np.abs(array).max(initial=0) > np.finfo(np.float32).max:
            fail(name, "holds values beyond the range of float32")
    if len(action_shape) != 1 or len(observation_shape) != 1:
        fail("observations", f"observations and actions must be vectors, not of shape {observation_shape} and {action_shape}")


class ActionBounds:
    """Counts, over a whole dataset, the actions that lie outside the action space."""

    def __init__(self, info: DatasetInfo) -> None:
        self.id = info.id
        self.low, self.high = np.asarray(info.action_low), np.asarray(info.action_high)
        self.outside, self.total, self.farthest = 0, 0, 0.0

    def watch(self, actions: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Count the actions [T, act] outside the bounds (beyond float32's rounding) and return them as they are."""
        excess = np.maximum(self.low - actions, actions - self.high)
        # A bound stored in float32 differs from the same number in float64 by its rounding, which is no fault.
        outside = excess > 1e-6 * np.maximum(1.0, np.abs(actions))
        self.outside += int(outside.any(axis=-1).sum())
        self.total += len(actions)
        self.farthest = max(self.farthest, float(excess.max()))
        return actions

    def clip(self, actions: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """The actions [T, act] moved to the nearest ones inside the bounds."""
        return np.clip(actions, self.low, self.high)

    def check(self) -> None:
        """Raise UserError if any watched action lay outside."""
        if self.outside:
            raise UserError(
                f"dataset {self.id}, actions: {self.outside:,} of {self.total:,} lie outside the action space, by up to "
                f"{self.farthest:.3g}; correct the data, or clip it with dataset.clip_actions=true"
            )
