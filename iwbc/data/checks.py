"""Checks at the door: the conditions that every episode must satisfy before it is trained on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.environments.spaces import VECTOR, entry_names, size_of
from iwbc.errors import UserError, listed, warn

# The ends of episodes seem to be missing where a single episode has so many steps.
_LONG = 100
# An episode of a single step is strange beside episodes of so many steps.
_MANY = 5


def checked(
    episodes: Iterable[Episode], info: DatasetInfo, clip_actions: bool = False, notes: list[str] | None = None
) -> Iterator[Episode]:
    """Check the episodes and yield them as they come; faults that only the whole dataset can show are raised after the last.

    Actions outside the action space are refused, or clipped to it with `clip_actions`. Oddities that are no faults are added to
    `notes` after the last episode, a line each.
    Raises UserError naming dataset, episode and field where an episode is not fit to train on.
    """
    check_image_names(info)
    bounds = ActionBounds(info)
    rounded = {"observations": Rounding(), "actions": Rounding(), "rewards": Rounding()}
    count, labelled, observation_shape, lengths = 0, 0, None, []
    for count, episode in enumerate(episodes, start=1):
        # The first episode sets the width of observations; the action space sets the width of actions.
        observation_shape = observation_shape or episode.observations.shape[1:]
        check_episode(episode, info, count - 1, observation_shape)
        labelled += episode.success is not None
        if unknown := set(episode.groups).difference(info.groups):
            raise UserError(f"dataset {info.id}, episode {count - 1}, groups: {min(unknown)} is none of the dataset's groups")
        for field, rounding in rounded.items():
            rounding.watch(getattr(episode, field))
        lengths.append(len(episode.actions))
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
    if notes is not None:
        notes += notes_of_ends(np.array(lengths), episode.terminated)
        notes += filter(None, [bounds.note()])
        parts = info.observation_parts
        named = {"observations": None if parts is None else entry_names(parts, size_of(parts))}
        notes += filter(None, (rounding.note(field, named.get(field)) for field, rounding in rounded.items()))


def action_bounds(
    dataset_id: str, size: int, low: npt.ArrayLike, high: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the bounds of actions of `size` dimensions, [size] each; `low` and `high` hold a number, or one for each.

    Raises UserError where they are no bounds.
    """
    try:
        lower, upper = (np.broadcast_to(np.asarray(bound, np.float64), (size,)) for bound in (low, high))
    except (ValueError, TypeError):
        raise UserError(
            f"dataset {dataset_id}: action_low and action_high need one value, or one for each of the {size} dimensions"
        ) from None
    if not (lower < upper).all():
        raise UserError(f"dataset {dataset_id}: action_low={lower.tolist()} must lie below action_high={upper.tolist()}")
    return lower, upper


def notes_of_ends(lengths: npt.NDArray[np.int64], last_terminated: bool) -> list[str]:
    """Report ends of episodes that look wrongly marked, a line each. `lengths` [n]: of episodes; `last_terminated`: the last
    episode was not cut by the end of the recording."""
    if len(lengths) == 1:
        if lengths[0] < _LONG:
            return []
        return [
            f"all its {lengths[0]:,} steps are one episode; are the ends of episodes marked (terminations or truncations)? "
            "Curation chooses among episodes"
        ]
    single = lengths == 1
    if not last_terminated and not single[:-1].any():
        return []
    rest = lengths[lengths > 1]
    # Tasks of a step or two have many episodes of one step, beside others of two; data of one-step episodes alone are bandits.
    if not single.any() or not len(rest) or (np.median(rest) < _MANY and single.sum() < 0.5 * len(lengths)):
        return []
    which = np.flatnonzero(single)
    return [
        f"{len(which):,} of {len(lengths):,} episodes have 1 step (the first is episode {which[0]}), beside others of "
        f"{np.median(rest):g} (their median); mark the last step of each episode alone as its end, or, where these were "
        "recorded so, drop them: leave them out of the files, or give them weight 0 (curation=weights)"
    ]


def notes_of_rewards(rewards: bool, labels: bool) -> list[str]:
    """Report missing rewards, in a line at most; `rewards` and `labels` of success: whether the data has them."""
    if rewards:
        return []
    if labels:
        return ["has no rewards: 1 at the end of each success stands for them, and returns are 1 or 0"]
    return [
        "has neither rewards nor success labels: all returns are 0, and no curation by return or success can tell its "
        "trajectories apart; train on all of them, or give them weights (curation=weights, from a CSV file)"
    ]


def difference(first: Trajectories, second: Trajectories) -> str | None:
    """Name the difference that keeps one policy from training on two datasets, or return None."""
    if (first.info.action_low, first.info.action_high) != (second.info.action_low, second.info.action_high):
        return "action spaces"
    parts = first.info.observation_parts, second.info.observation_parts
    if None not in parts and parts[0] != parts[1]:
        return "observations; dataset.observation_keys=[…] chooses what they share"
    if first.info.images != second.info.images:
        names = (", ".join(map(str, each.info.images)) or "none" for each in (first, second))
        return f"images ({' and '.join(names)})"
    widths = first.observations.shape[1], second.observations.shape[1]
    return None if widths[0] == widths[1] else f"observations ({widths[0]} and {widths[1]} values)"


def notes_of_joining(each: Sequence[DatasetInfo]) -> list[str]:
    """Report environments, their arguments and steps per second of joined datasets that are not the first's, a line each."""
    notes = []
    for what, values in (
        ("environment", [(info.id, info.env_id) for info in each]),
        ("number of steps per second", [(info.id, info.fps) for info in each]),
    ):
        (first, kept), *others = values
        if other := next(((name, value) for name, value in others if value not in (None, kept) and kept is not None), None):
            notes.append(f"its {what} is that of {first}, {kept}; that of {other[0]} is {other[1]}")
    played = each[0].environment
    for info in each[1:]:
        if played and info.environment and info.env_id == played.id and (names := played.differences(info.environment)):
            differing = f"that of {info.id} has other {', '.join(names)}"
            notes.append(f"its environment is that of {each[0].id}, {played.id}; {differing}")
            break
    return notes


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
    if len(observation_shape) != 1 or (observation_shape[0] == 0 and not info.images):
        fail("observations", f"must be vectors, not of shape {observation_shape}")
    names = [image.name for image in info.images]
    for field, images in (("images", episode.images), ("final images", episode.final_images)):
        if set(images) != set(names):
            fail(field, f"are {', '.join(sorted(images)) or 'missing'}, not {', '.join(names) or 'none'}")
    for image in info.images:
        for field, picture, shape in (
            (f"image {image.name}", episode.images[image.name], (steps, *image.shape)),
            (f"final image {image.name}", episode.final_images[image.name], image.shape),
        ):
            if picture.dtype != np.uint8 or picture.shape != shape:
                fail(field, f"must be uint8 of shape {shape}, not {picture.dtype} of shape {picture.shape}")
    if not info.action_low:
        fail("actions", "the action space has no dimensions")


def check_image_names(info: DatasetInfo) -> None:
    """Raise UserError unless images can be told from one another and from the vector by their names."""
    names = [VECTOR, *(image.name for image in info.images)]
    if repeated := [name for name in names if names.count(name) > 1]:
        other = "the vector's name" if repeated[0] == VECTOR else "that of two"
        raise UserError(f"dataset {info.id}, images: {repeated[0]} is {other}; rename the image")


def leave_out_images(info: DatasetInfo, size: int) -> None:
    """Give a DataWarning that images are not written; `size` is that of the vectors, without which a UserError is raised."""
    if info.images:
        names = ", ".join(image.name for image in info.images)
        if not size:
            raise UserError(f"dataset {info.id}: holds images alone ({names}), and only vectors are written")
        warn(f"dataset {info.id}: its images are left out ({names}); only vectors are written")


def checked_flags(values: npt.NDArray[np.generic], where: str, remedy: str = "") -> npt.NDArray[np.bool_]:
    """Return values [n] of trues and falses as such. Raises UserError, which begins with `where`, for one that is neither."""
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if len(wrong):
        raise UserError(f"{where}: must be true or false (1 or 0), but step {wrong[0]} holds {values[wrong[0]]}{remedy}")
    return values.astype(np.bool_)


class ActionBounds:
    """Counter, over a whole dataset, of the actions that lie outside the action space."""

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info
        self.low, self.high = np.asarray(info.action_low), np.asarray(info.action_high)
        self.outside, self.total, self.farthest = 0, 0, 0.0
        self.lowest, self.highest = np.full(len(self.low), np.inf), np.full(len(self.low), -np.inf)

    def watch(self, actions: npt.NDArray[np.floating]) -> None:
        """Count the actions [T, act] outside the bounds, beyond float32's rounding."""
        self.total += len(actions)
        low, high = actions.min(0), actions.max(0)
        self.lowest, self.highest = np.minimum(self.lowest, low), np.maximum(self.highest, high)
        if (low >= self.low).all() and (high <= self.high).all():
            return
        excess = np.maximum(self.low - actions, actions - self.high)
        # A bound stored in float32 differs from the same number in float64 by its rounding, which is no fault.
        outside = excess > 1e-6 * np.maximum(1.0, np.abs(actions))
        self.outside += int(outside.any(axis=-1).sum())
        self.farthest = max(self.farthest, float(excess.max()))

    def clip(self, actions: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Move actions [T, act] to the nearest ones inside the bounds."""
        clipped: npt.NDArray[np.floating] = np.clip(actions, self.low, self.high)
        return clipped

    def check(self) -> None:
        """Raise UserError if any watched action lay outside."""
        if self.outside:
            low, high = np.minimum(self.low, self.lowest), np.maximum(self.high, self.highest)
            space = "the action space" + (f" of {self.info.env_id}" if self.info.env_id else "")
            raise UserError(
                f"dataset {self.info.id}, actions: {self.outside:,} of {self.total:,} lie outside {space}, by up to "
                f"{self.farthest:.3g}; if they are right, widen it to all of them with "
                f"action_low={_outward(low, -1)} action_high={_outward(high, 1)} (in training "
                "dataset.action_low=…), or move them to its bounds, which changes the data, with clip_actions=true"
            )

    def note(self) -> str | None:
        """Report watched actions that look scaled to ±1 while the action space has other bounds, or return None."""
        scaled = np.allclose(self.lowest, -1.0, rtol=0.0, atol=1e-6) and np.allclose(self.highest, 1.0, rtol=0.0, atol=1e-6)
        wider = np.isfinite(self.low) & np.isfinite(self.high) & ((self.low < -1.001) | (self.high > 1.001))
        if not scaled or not wider.any():
            return None
        first = int(np.argmax(wider))
        return (
            f"its actions reach from -1 to 1 and no further, while its action space is {self.low[first]:g} … "
            f"{self.high[first]:g}; where they were scaled to ±1, scale them back, since policies act in the units of the data"
        )


def _outward(bounds: npt.NDArray[np.floating], sign: int) -> str:
    """Move bounds outward to three digits: a number, or a list where dimensions differ."""

    def moved(bound: float) -> str:
        if bound == 0.0 or math.isinf(bound):
            return f"{bound:g}"
        unit = 10.0 ** (math.floor(math.log10(abs(bound))) - 2)
        return f"{sign * math.ceil(sign * bound / unit) * unit:.3g}"

    each = [moved(float(bound)) for bound in bounds]
    return each[0] if len(set(each)) == 1 else f"[{','.join(each)}]"


class Rounding:
    """Detector, over a whole dataset, of features whose content float32, in which all are kept, cannot hold: time stamps, for
    example, or positions far from the origin.

    A feature is lost where its range is few of float32's steps, and of its changes from one row to the next not all are left.
    """

    _STEPS = 4096  # of float32: a range of more is resolved well enough, however large the numbers
    _NOISE = 2.0**-44  # relative: less than that is float64's rounding, and no content

    def __init__(self) -> None:
        self.low: npt.NDArray[np.float64] | float = np.inf
        self.high: npt.NDArray[np.float64] | float = -np.inf
        self.changes: npt.NDArray[np.int64] | None = None  # [2, features]: all changes, and those that are left
        self.last: npt.NDArray[np.generic] | None = None

    def watch(self, values: npt.NDArray[np.generic]) -> None:
        """Look at an episode's rows, [T, features] or [T]."""
        if np.can_cast(values.dtype, np.float32):
            return
        rows = values.reshape(len(values), -1)
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        if self.changes is None:
            self.changes = np.zeros((2, rows.shape[1]), np.int64)
        if len(coarse := np.flatnonzero(self._coarse())):
            some = rows[:, coarse] if self.last is None else np.concatenate([self.last[:, coarse], rows[:, coarse]])
            for kind, kept in enumerate((some, some.astype(np.float32))):
                self.changes[kind, coarse] += (kept[1:] != kept[:-1]).sum(0)
        self.last = rows[-1:].copy()

    def _coarse(self) -> npt.NDArray[np.bool_]:
        largest = np.maximum(np.abs(self.low), np.abs(self.high))
        steps = self._STEPS * np.spacing(largest.astype(np.float32)).astype(np.float64)
        spread = np.asarray(self.high - self.low)
        return (spread < steps) & (spread > self._NOISE * largest)

    def note(self, field: str, names: list[str] | None) -> str | None:
        """Report the features that float32 is too coarse for, or return None; `names` are the features'."""
        if self.changes is None:
            return None
        changes, left = self.changes
        lost = np.flatnonzero(self._coarse() & (left < 0.9 * changes))
        if not len(lost):
            return None
        each = [
            ("they keep" if field == "rewards" else f"feature {i}{f' ({names[i]})' if names else ''} keeps")
            + f" {left[i]:,} of {changes[i]:,} changes from row to row"
            for i in lost.tolist()
        ]
        return (
            f"{field} are rounded to float32, which is too coarse here: {listed(each, 5)}; subtract an offset, such as "
            "the first value, or leave it out"
        )
