"""D4RL's HDF5 files (v2 layout) → packed trajectories.

D4RL's `terminals` are terminations and its `timeouts` truncations; either ends an episode. `infos/success` or
`infos/is_success` become success labels. Where a file has no `next_observations`, the observation after an episode's
last action is unknown, and its last observation stands for it: states, actions and returns stay exact, and only value
estimates at a cut see it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy.typing as npt

from iwbc.data.array_files import open_steps
from iwbc.data.arrays import describe, episodes
from iwbc.data.packed import bounds_option, fingerprint_of, load_or_pack, packed_folder
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.errors import UserError

# Bump when reading the same file gives other episodes than before.
_READER = 3
# No ant: D4RL's has 111 observations, with the forces of contacts, Ant-v5 105.
_ENVIRONMENTS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5"}


def guess_env_id(path: Path) -> str | None:
    """Return the environment that D4RL's file name stands for, such as Hopper-v5 for hopper_medium_replay-v2.hdf5, or None."""
    match = re.match(rf"({'|'.join(_ENVIRONMENTS)})[_-](random|medium|expert|full)", path.name)
    return _ENVIRONMENTS[match[1]] if match else None


def choose_env_id(path: Path, env_id: str | None) -> str | None:
    """Return `env_id`, or a guess by the file's name where it is None, or None where it is "none"."""
    return guess_env_id(path) if env_id is None else None if env_id == "none" else env_id


def is_d4rl(path: Path) -> bool:
    """Tell whether a file is HDF5 and has D4RL's arrays."""
    import h5py

    with contextlib.suppress(UserError), open_steps(path):
        return bool(h5py.is_hdf5(path))
    return False


def load(
    path: str | Path,
    unfinished: str = "keep",
    clip_actions: bool = False,
    env_id: str | None = None,
    action_low: npt.ArrayLike | None = None,
    action_high: npt.ArrayLike | None = None,
) -> Trajectories:
    """Load a file through its packed cache, which lies beside it (or among the user's caches, where it cannot be written).

    `unfinished` is "keep" or "drop", for a last episode without an end. `env_id` is the environment of the data, None to guess
    it from the file's name, "none" for none. action_low and action_high: the bounds of actions, a number or one for each
    dimension; None: the environment's, or else ±1. Raises UserError where the file is not fit to train on.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    chosen = choose_env_id(path, env_id)

    def build() -> tuple[Iterator[Episode], DatasetInfo]:
        with open_steps(path) as steps:
            info = describe(path.name, steps, chosen, action_low, action_high)
            info.notes.extend([steps.unused] if steps.unused else [])

        def read() -> Iterator[Episode]:
            with open_steps(path) as steps:
                yield from episodes(steps, path.name, unfinished)

        return read(), info

    bounds = bounds_option(action_low, action_high)
    named = env_id and re.sub(r"[^\w-]", "_", env_id)
    options = (clip_actions and "clipped", unfinished == "drop" and "finished", named, bounds)
    folder = packed_folder(path.parent, f"{path.name}.packed", *options)
    return load_or_pack(folder, fingerprint_of([path], _READER, env_id), build, clip_actions=clip_actions)
