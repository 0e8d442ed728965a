"""OGBench's npz files → episodes.

    observations [N, obs], actions [N, act] within ±1, terminals [N]; qpos, qvel and button_states are not used

Each episode of T steps has T + 1 rows, the last with terminals 1: its observation is the one after the last action, and its
action leads nowhere. There are no rewards and no labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc.data.checks import notes_of_rewards
from iwbc.data.formats.reading import actions_of, bounds, flags_of, part_of, printable, reading, rewards_of, rows
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.ogbench import ogbench_spec
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.settings import OGBench

# Bump when reading the same file gives other episodes than before.
READER = 1
FIELDS = ("observations", "actions", "terminals")
STATES = ("qpos", "qvel", "button_states")


def files(path: Path) -> list[Path]:
    """List the files that a dataset is read from."""
    return [path]


def read(path: Path, dataset_id: str, settings: OGBench) -> tuple[Iterator[Episode], DatasetInfo]:
    """Read the arrays, and return their episodes and their description.

    Raises UserError, also as the episodes are read, where they are not fit to train on.
    """
    with reading(str(path)), path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        if missing := [name for name in FIELDS if name not in file]:
            raise UserError(f"{path}: has no {missing[0]}; it holds {', '.join(map(printable, file)) or 'nothing'}")
        observations, actions, terminals = (file[name] for name in FIELDS)
    actions = actions_of(actions, f"{path}, actions")
    count = len(actions)
    part = part_of(f"{path}, observations", [], observations.shape[1:], observations.dtype)
    if len(part.shape) != 1:
        raise UserError(f"{path}, observations: have shape {observations.shape}; need vectors, one row per step")
    rows(observations, f"{path}, observations", count, part.shape)
    ends = np.flatnonzero(flags_of(terminals, f"{path}, terminals", count)) + 1
    if not count or not len(ends):
        raise UserError(f"{path}: it holds no episodes")
    if ends[-1] != count:
        raise UserError(f"{path}, terminals: the last row ends no episode; the file was cut off")
    low, high = bounds(dataset_id, settings, -1.0, 1.0, actions.shape[1])
    info = DatasetInfo(
        id=dataset_id,
        environment=_environment(path, settings.env_id),
        action_low=low,
        action_high=high,
        reference_scores=None,
        notes=notes_of_rewards(False, False),
    )
    return _episodes(path, observations, actions, ends), info


def _environment(path: Path, env_id: str | None) -> EnvironmentSpec | None:
    """Return the environment of `env_id`, or the one that the file's name stands for; None where it is "none"."""
    if env_id is None:
        return ogbench_spec(path.name)
    return None if env_id == "none" else EnvironmentSpec(env_id, package="ogbench")


def _episodes(
    path: Path, observations: npt.NDArray[Any], actions: npt.NDArray[Any], ends: npt.NDArray[np.int64]
) -> Iterator[Episode]:
    for index, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
        last = end - 1
        if last == start:
            raise UserError(f"{path}, episode {index}: has one row, so no step; an episode of T steps has T + 1 rows")
        yield Episode(observations[start:last], observations[last], actions[start:last], rewards_of(last - start, None), False)
