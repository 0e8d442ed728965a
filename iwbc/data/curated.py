"""A dataset under a curation: the trajectories that are kept, with their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from iwbc.data.trajectories import Observations, Trajectories
from iwbc.data.windows import STEP, Window
from iwbc.errors import UserError


@dataclass(frozen=True)
class Curated:
    """Trajectories with a curation weight R_i each (`curation_weights` [n], any numbers, 0 = dropped); K are kept, with M steps
    in all.

    `averaging` is "trajectory" (every trajectory counts by its weight, whatever its length) or "transition" (every step
    counts by its trajectory's weight). Values per kept step lie end to end, trajectory after trajectory; trajectory k starts at
    `offsets[k]`, [K + 1]. Raises UserError where a weight is negative or not finite, or none is above 0.
    """

    trajectories: Trajectories
    curation_weights: npt.NDArray[np.float64]
    averaging: str

    def __post_init__(self) -> None:
        if not isinstance(self.trajectories, Trajectories):
            raise UserError(
                f"Curated: needs trajectories, as load and from_arrays return them, not {type(self.trajectories).__name__}"
            )
        if self.averaging not in ("trajectory", "transition"):
            raise UserError(f"averaging={self.averaging}: must be one of trajectory, transition")
        object.__setattr__(self, "curation_weights", _checked(self.curation_weights, self.trajectories))

    def split(self, share: float, random: np.random.Generator) -> tuple[Curated, Curated]:
        """Split off a random share of the trajectories: return the rest and the share; curation weights stay as they are.

        Raises UserError where one of the two would keep none.
        """
        held = np.zeros(len(self.trajectories), np.bool_)
        held[random.permutation(len(held))[: round(share * len(held))]] = True
        if not self.curation_weights[held].any() or not self.curation_weights[~held].any():
            raise UserError(
                f"held_out={share:g}: of the {len(self.kept)} trajectories that are kept, all or none would be held out; "
                "choose another share, or keep more"
            )

        def part(some: npt.NDArray[np.bool_]) -> Curated:
            return Curated(self.trajectories.subset(np.flatnonzero(some)), self.curation_weights[some], self.averaging)

        return part(~held), part(held)

    @cached_property
    def kept(self) -> npt.NDArray[np.int64]:
        """The kept trajectories' indices in the dataset, [K]."""
        return np.flatnonzero(self.curation_weights)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """The share of each kept trajectory in the objective: R_i, times T_i when averaging over transitions, [K]."""
        mass = self.curation_weights[self.kept] * (self.lengths if self.averaging == "transition" else 1.0)
        probabilities: npt.NDArray[np.float64] = mass / mass.sum()
        return probabilities

    @property
    def step_probabilities(self) -> npt.NDArray[np.float64]:
        """The probability of every kept step, [M]."""
        return np.repeat(self.probabilities / self.lengths, self.lengths)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """T_i of the kept trajectories, [K]."""
        return self.trajectories.lengths[self.kept]

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Starts of the kept trajectories among the kept steps, [K + 1]."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def steps(self) -> int:
        """M: the number of kept steps."""
        return int(self.offsets[-1])

    def batches(
        self, device: str | torch.device = "cpu", size: int | None = None, window: Window = STEP
    ) -> Iterator[tuple[slice, Observations, Tensor]]:
        """Yield all kept steps in order, `size` at a time (default: 2,048, with images 256): the slice among the kept steps,
        observations [m, obs] (with images: a dict) and actions [m, act], with what is in reach of a `window` around them.
        Sequences begin at the first step of a trajectory, and at every `window.sequence`-th from there on."""
        size = size or (256 if self.trajectories.images else 2048)
        observations, actions = self.trajectories.tensors(device)
        rows, first, last = (torch.from_numpy(places).to(device) for places in (self.rows, *self.bounds))
        for some in self._blocks(size, window.sequence):
            steps = np.arange(some.start, some.stop)
            of = np.searchsorted(self.offsets, steps, side="right") - 1
            trajectory = torch.from_numpy(of).to(device)
            if window.sequence == 1:
                yield some, *window.of(observations, actions, rows[some], trajectory, first, last)
            else:
                begins = torch.from_numpy((steps - self.offsets[of]) % window.sequence == 0).to(device)
                # A sequence ends with the trajectory, or where the next begins.
                yield some, *window.sequences(observations, actions, rows[some][begins], last[trajectory][begins])

    def _blocks(self, size: int, sequence: int) -> Iterator[slice]:
        """Cut the kept steps to blocks of about `size`, none of which parts a sequence."""
        cuts = np.arange(0, self.steps, size)
        if sequence > 1:
            within = cuts - self.offsets[np.searchsorted(self.offsets, cuts, side="right") - 1]
            cuts = np.unique(cuts - within % sequence)
        return map(slice, cuts.tolist(), [*cuts[1:].tolist(), self.steps])

    @property
    def bounds(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The first and the last row in the dataset of each kept trajectory, [K] each."""
        first = self.trajectories.first_rows[self.kept]
        return first, first + self.lengths - 1

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """The row in the dataset of every kept step, [M]."""
        return self.trajectories.rows(self.kept)


def _checked(weights: object, trajectories: Trajectories) -> npt.NDArray[np.float64]:
    """Copy weights in double precision, [n]. Raises UserError, naming the trajectory, where they cannot be weights."""

    def fail(problem: str) -> NoReturn:
        raise UserError(f"dataset {trajectories.info.id}, curation weights: {problem}")

    if isinstance(weights, Tensor):
        weights = weights.detach().cpu()
        weights = weights.float() if weights.dtype == torch.bfloat16 else weights  # NumPy has no bfloat16
    try:
        array = np.asarray(weights)
    except (ValueError, TypeError, RuntimeError) as error:
        fail(f"need one number for each trajectory ({error})")
    if array.dtype.kind not in "fiub":
        fail(f"must be numbers, not {array.dtype}")
    if array.shape != (len(trajectories),):
        fail(f"have shape {array.shape}, but there are {len(trajectories)} trajectories; need one number for each")
    array = array.astype(np.float64)
    wrong = np.flatnonzero(~((array >= 0.0) & (array < np.inf)))  # NaN fails both
    if len(wrong):
        named = ", ".join(f"trajectory {index} has {array[index]:g}" for index in wrong[:3])
        fail(f"must be finite and not negative, but {named}" + (f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""))
    if not array.any():
        fail(f"all {len(array)} are 0, which keeps no trajectory")
    with np.errstate(over="ignore"):
        mass = (array * trajectories.lengths).sum()
    if mass == np.inf:
        fail(f"their sum is not finite; divide them by the largest, {array.max():g}, of trajectory {array.argmax()}")
    return array
