"""Files of step arrays, one's own or D4RL's, and formats of robot learning, to a local Minari dataset.

    python -m iwbc.data.convert demo.npz id=my/robot/pick-v0
    python -m iwbc.data.convert hopper_medium-v2.hdf5 id=d4rl/hopper/medium-v2
    python -m iwbc.data.convert low_dim_v15.hdf5 id=robomimic/can/mh-v0

Data of robomimic, LeRobot (the folder), ManiSkill (the h5), OGBench and Diffusion Policy (zarr, the folder) are told by their
content, and read as dataset=robomimic and so on of train read them. Any other file is npz or HDF5 and holds N steps of
episodes laid end to end (in brackets what D4RL and others call it):

observations       [N, obs]   (observation, obs)
actions            [N, act]   floating-point (action, acts)
rewards            [N]        (reward); without them 1 at the end of each success stands for them
terminations       [N]        (terminals, terminated) the environment ended the episode at this step
truncations        [N]        (timeouts, truncated) the episode was cut after this step, by a time limit for example
dones              [N]        (done) either, where one of them is missing: the environment ended it, unless the other says not
next_observations  [N, obs]   optional (next_obs); else an episode's last observation also stands for the one after its last
                              action
successes          [N] or one per episode, optional (success, is_success, infos/success, infos/is_success)

Other names are given as options, with slashes for groups: observations=data/state actions=u dones=end. none leaves a field
out: truncations=none where no episode is cut, rewards=none. What is not used of the file is said.

id           the dataset's id, (namespace/)name-vN
env_id       the Gymnasium environment to evaluate in, or module:Id where a module registers it (default: guessed from D4RL's
             file names; none: there is none)
observation_keys  which observations of robomimic, LeRobot, ManiSkill or zarr to take, such as [object,robot0_eef_pos]; vectors,
             because images are not written
action_low   the bounds of the action space, one number or one per dimension, with commas
action_high  (default: the environment's, or -1 and 1)
unfinished   keep (default) or drop a last episode that neither terminates nor truncates
clip_actions true moves actions outside the bounds to them; false (default) refuses them
data_format  hdf5 (default), or arrow: less room and time for many thousands of short episodes
description  what Minari is to say of it (default: the file's name); likewise author and algorithm_name
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iwbc.data import formats
from iwbc.data.array_files import NAMES, open_steps
from iwbc.data.arrays import describe, ends_of, episodes
from iwbc.data.d4rl_source import choose_env_id
from iwbc.data.formats import recognise
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.minari_source import load
from iwbc.data.minari_writer import DATA_FORMATS, with_environment_here, write_minari
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.environments.spec import environment_spec
from iwbc.errors import UserError, warn
from iwbc.settings import RECORDINGS, Settings, setting
from iwbc.system.arguments import parse, run
from iwbc.system.progress import tracked


def convert(
    path: Path,
    id: str,
    *,
    names: Mapping[str, str] | None = None,
    env_id: str | None = None,
    action_low: Sequence[float] | None = None,
    action_high: Sequence[float] | None = None,
    unfinished: str = "keep",
    clip_actions: bool = False,
    description: str | None = None,
    author: str | None = None,
    algorithm_name: str | None = None,
    data_format: str = "hdf5",
    observation_keys: Sequence[str] = (),
) -> Trajectories:
    """Write the episodes of a file, or of a folder in a format of robots' data, as the local Minari dataset `id`, and load it.

    names: the file's name of a field of arrays, such as {"observations": "data/state"}; "none" leaves it out. observation_keys:
    of formats that have them. Unused arrays of the file give a DataWarning. Raises UserError where the file is not fit to train
    on.
    """
    about: dict[str, Any] = {"author": author, "algorithm_name": algorithm_name}
    if not names and (kind := recognise(path)) is not None:
        options = {"clip_actions": clip_actions, "action_low": action_low, "action_high": action_high}
        read, info = _recording(path, kind, env_id, unfinished, observation_keys, options)
        description = description or f"Converted from {path.name}, {kind}."
        write_minari(
            replace(info, id=id), read, description=description, clip_actions=clip_actions, data_format=data_format, **about
        )
        return load(id)
    if observation_keys:
        raise UserError(f"observation_keys={list(observation_keys)}: {path} has no keys; name its array with observations=…")
    with open_steps(path, names) as steps:
        info = describe(id, steps, choose_env_id(path, env_id), action_low, action_high)
        if steps.unused:
            warn(f"dataset {id}: {steps.unused}")
        whole = tracked(episodes(steps, id, unfinished), f"Converting {path.name}", len(ends_of(steps, id)[0]))
        description = description or f"Converted from {path.name}."
        write_minari(info, whole, description=description, clip_actions=clip_actions, data_format=data_format, **about)
    return load(id)


def _recording(
    path: Path, kind: str, env_id: str | None, unfinished: str, observation_keys: Sequence[str], options: dict[str, Any]
) -> tuple[Iterator[Episode], DatasetInfo]:
    """Read a format of robot learning. Its own environment is left out, with a DataWarning, where it cannot be made here."""
    if unfinished != "keep":
        raise UserError(f"unfinished={unfinished}: would change nothing; {path} is of {kind}, whose episodes have ends")
    if observation_keys:
        if not hasattr(RECORDINGS[kind](path=str(path)), "observation_keys"):
            raise UserError(f"observation_keys={list(observation_keys)}: would change nothing; {path} is of {kind}")
        options = options | {"observation_keys": list(observation_keys)}
    settings = RECORDINGS[kind](path=str(path), **options)
    settings.check()
    read, info = formats.read(settings)
    if env_id is None:
        return read, with_environment_here(info, str(path))
    return read, replace(info, environment=None if env_id == "none" else environment_spec(None, env_id, {}, None, ()))


def _array() -> Any:
    return setting(None, lambda value: value != "", "give the array's name in the file, or none")


@dataclass
class Options(Settings):
    files: list[Path]
    id: str | None = None
    observations: str | None = _array()
    actions: str | None = _array()
    rewards: str | None = _array()
    terminations: str | None = _array()
    truncations: str | None = _array()
    dones: str | None = _array()
    next_observations: str | None = _array()
    successes: str | None = _array()
    env_id: str | None = None
    action_low: list[float] | None = None
    action_high: list[float] | None = None
    unfinished: str = setting("keep", choices=("keep", "drop"))
    clip_actions: bool = False
    description: str | None = None
    author: str | None = None
    algorithm_name: str | None = None
    data_format: str = setting("hdf5", choices=DATA_FORMATS)
    observation_keys: list[str] = field(default_factory=list)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    if len(options.files) != 1:
        raise UserError(f"need one file to convert, not {len(options.files)} (see --help)")
    if options.id is None:
        raise UserError("id=… is missing (see --help)")
    names = {field: name for field in NAMES if (name := getattr(options, field))}
    others = {name: value for name, value in vars(options).items() if name not in ("files", *NAMES)}
    made = convert(options.files[0], names=names, **others)
    print(f"{made.info.id}: {len(made):,} episodes, {made.steps:,} steps, in {dataset_folder(made.info.id)}")


if __name__ == "__main__":
    run(main, __doc__)
