"""The one in-memory form of a dataset: trajectories packed end to end, with offsets and without padding."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from iwbc.data.content import content_hash, image_files
from iwbc.data.scales import Scales, scales_of
from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spaces import VECTOR, Image, Part
from iwbc.environments.spec import EnvironmentSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A policy's observations: a Tensor [B, obs]; where the data has images, a dict of that under VECTOR and of uint8 tensors
# [B, *shape] under the images' names. No union, because a policy takes one or the other, and says which.
Observations: TypeAlias = Any

_ARRAYS = ("observations", "actions", "rewards", "final_observations", "offsets", "terminated", "successes", "groups", "starts")


@dataclass(frozen=True)
class Episode:
    """One trajectory as a dataset source yields it, before it is checked and packed.

    Shapes: observations [T, obs], final_observation [obs], actions [T, act], rewards [T].
    `terminated` is True where the environment ended the episode and False where it was cut (a time limit, or the end
    of the data). `success` is None where the source has no label. `groups` are the names of those of DatasetInfo.groups that
    it belongs to. `images` are uint8 arrays [T, *shape] under the names of DatasetInfo.images, which may be views of files, and
    `final_images` [*shape] those after the last action.
    """

    observations: npt.NDArray[np.floating]
    final_observation: npt.NDArray[np.floating]
    actions: npt.NDArray[np.floating]
    rewards: npt.NDArray[np.floating]
    terminated: bool
    success: bool | None = None
    groups: tuple[str, ...] = ()
    images: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    final_images: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a dataset, besides the arrays.

    `environment` is for evaluation (None if unknown); `action_low` and `action_high` are the bounds of the action space
    (infinite where there are none); `reference_scores` normalise returns (None if unknown). `observation_parts` are the parts
    that the vectors of observations are flattened from, None where they are vectors as they come. `notes` are lines about
    oddities of the data, to which a source may add until its last episode: loading the dataset gives each as a DataWarning.
    `groups` are names of sets of episodes, such as an
    operator's or a task's, which may overlap. `fps` is the number of steps in a second of a robot's time, None if unknown.
    `images` are the parts of observations that stay arrays beside the vectors.
    """

    id: str
    environment: EnvironmentSpec | None
    action_low: list[float]
    action_high: list[float]
    reference_scores: ReferenceScores | None
    observation_parts: list[Part] | None = None
    notes: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    fps: float | None = None
    images: list[Image] = field(default_factory=list)

    @property
    def env_id(self) -> str | None:
        """The environment's id."""
        return None if self.environment is None else self.environment.id


@dataclass(frozen=True, repr=False)
class Trajectories:
    """n trajectories with N steps in all. Trajectory i owns the rows offsets[i] : offsets[i + 1], or, in a `subset`, as many
    rows from starts[i] on.

    Shapes: observations [N, obs], actions [N, act], rewards [N], final_observations [n, obs] (the observation after
    each trajectory's last action), offsets [n + 1], terminated [n], successes [n] or None, groups [n, g] or None where
    info.groups is empty: True where trajectory i belongs to group j. Float arrays are float32 and may be memory-mapped.
    `content_hash` is the SHA-256 of all arrays, which are not to be written to: dataclasses.replace makes data with other
    arrays, and another hash. A subset shares observations, actions and rewards with the whole, whose N these
    are; `starts` is None where the trajectories lie end to end. Images are uint8 [N, *shape] by name, memory-mapped where they
    come from a file, and `final_images` [n, *shape]; both are empty where the data has none.
    """

    info: DatasetInfo
    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    final_observations: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    terminated: npt.NDArray[np.bool_]
    successes: npt.NDArray[np.bool_] | None
    groups: npt.NDArray[np.bool_] | None = None
    starts: npt.NDArray[np.int64] | None = None
    images: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    final_images: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    known_hash: InitVar[str | None] = None  # of these arrays, where it is known; replace() leaves it out

    def __post_init__(self, known_hash: str | None) -> None:
        if known_hash is not None:
            self.__dict__["content_hash"] = known_hash

    @cached_property
    def content_hash(self) -> str:
        """The SHA-256 of all arrays."""
        return content_hash(self.arrays())

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return every array by the name under which it is hashed and, but for `starts`, packed."""
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        for name, (of, image) in image_files(self.info.images).items():
            arrays[name] = getattr(self, of)[image.name]
        return arrays

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Episode: ...

    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...

    def __getitem__(self, index: int | slice) -> Episode | list[Episode]:
        """Return one trajectory, or a list of some, whose arrays are views. Raises IndexError for an index out of range."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = operator.index(index)
        i += len(self) if i < 0 else 0
        if not 0 <= i < len(self):
            raise IndexError(f"trajectory {index} of {len(self)}")
        first = self.first_rows[i]
        rows = slice(first, first + self.lengths[i])
        return Episode(
            self.observations[rows],
            self.final_observations[i],
            self.actions[rows],
            self.rewards[rows],
            bool(self.terminated[i]),
            None if self.successes is None else bool(self.successes[i]),
            () if self.groups is None else tuple(self.info.groups[j] for j in np.flatnonzero(self.groups[i])),
            {name: image[rows] for name, image in self.images.items()},
            {name: image[i] for name, image in self.final_images.items()},
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def subset(self, indices: npt.NDArray[np.int64]) -> Trajectories:
        """Make a dataset of some of the trajectories, in this order, whose steps stay where they are."""
        some = Trajectories(
            self.info,
            self.observations,
            self.actions,
            self.rewards,
            self.final_observations[indices],
            np.concatenate([[0], np.cumsum(self.lengths[indices])]),
            self.terminated[indices],
            None if self.successes is None else self.successes[indices],
            None if self.groups is None else self.groups[indices],
            self.first_rows[indices],
            self.images,
            {name: image[indices] for name, image in self.final_images.items()},
            hashlib.sha256(self.content_hash.encode() + np.asarray(indices, np.int64).tobytes()).hexdigest(),
        )
        some.__dict__["_on_devices"] = self._on_devices  # one copy on a device for all
        return some

    def __repr__(self) -> str:
        low, mean, high = self.returns.min(), self.returns.mean(), self.returns.max()
        images = "".join(f"{name} {list(image.shape[1:])}, " for name, image in self.images.items())
        return (
            f"Trajectories({self.info.id!r}: {len(self):,} trajectories, {self.steps:,} steps, "
            f"observations [{self.observations.shape[1]}], {images}actions [{self.actions.shape[1]}], "
            f"returns {low:.1f} … {high:.1f}, mean {mean:.1f})"
        )

    def tensors(self, device: str | torch.device = "cpu") -> tuple[Observations, Tensor]:
        """Return observations [N, obs] and actions [N, act] on a device: on the CPU the arrays themselves, elsewhere one copy.
        Images stay on the CPU, as they are: `gather` takes a minibatch's to the device."""
        import torch

        key = str(device)
        if key not in self._on_devices:
            vectors, actions = (torch.from_numpy(array).to(device) for array in (self.observations, self.actions))
            images = {name: torch.from_numpy(image) for name, image in self.images.items()}
            self._on_devices[key] = {VECTOR: vectors, **images} if images else vectors, actions
        return self._on_devices[key]

    @cached_property
    def _on_devices(self) -> dict[str, tuple[Observations, Tensor]]:
        return {}

    @property
    def steps(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """T_i: steps per trajectory, [n]."""
        return np.diff(self.offsets)

    @property
    def first_rows(self) -> npt.NDArray[np.int64]:
        """The row of each trajectory's first step, [n]."""
        return self.offsets[:-1] if self.starts is None else self.starts

    def rows(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row of every step of some trajectories, in order."""
        lengths = self.lengths[indices]
        starts = np.cumsum(lengths) - lengths
        rows: npt.NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(self.first_rows[indices] - starts, lengths)
        return rows

    def steps_of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array's rows [N, …] that are steps of the trajectories."""
        return array if self.starts is None else array[self.rows(np.arange(len(self)))]

    def _runs(self, array: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """Cut an array [N, …] to views of the runs of rows that are steps of the trajectories."""
        if self.starts is None:
            return [array]
        order = np.argsort(self.starts)
        starts, ends = self.starts[order], (self.starts + self.lengths)[order]
        new = np.concatenate([[True], starts[1:] != ends[:-1]])
        last = np.concatenate([new[1:], [True]])
        return [array[start:end] for start, end in zip(starts[new], ends[last], strict=True)]

    @cached_property
    def returns(self) -> npt.NDArray[np.float64]:
        """G_i: undiscounted return per trajectory, [n], summed in double precision."""
        return np.add.reduceat(self.steps_of(self.rewards), self.offsets[:-1], dtype=np.float64)

    @cached_property
    def return_rounding(self) -> npt.NDArray[np.float64]:
        """Bound how far each return may lie from what it was before its rewards were rounded to float32, [n]."""
        rewards = self.steps_of(self.rewards)
        return 2.0**-23 * np.add.reduceat(np.abs(rewards), self.offsets[:-1], dtype=np.float64)

    @cached_property
    def observation_scales(self) -> Scales:
        """Mean, spread and range of every observation entry over all steps."""
        return scales_of(*self._runs(self.observations))

    @cached_property
    def action_scales(self) -> Scales:
        """The same of every action entry."""
        return scales_of(*self._runs(self.actions))


def gather(observations: Observations, rows: Tensor) -> Observations:
    """Gather rows [B], or [B, k], of observations, on the device of `rows`."""
    if rows.dim() > 1:
        flat = gather(observations, rows.flatten())
        if isinstance(flat, dict):
            return {name: part.unflatten(0, rows.shape) for name, part in flat.items()}
        return flat.unflatten(0, rows.shape)
    if isinstance(observations, dict):
        return {name: part.index_select(0, rows.to(part.device)).to(rows.device) for name, part in observations.items()}
    return observations.index_select(0, rows)
