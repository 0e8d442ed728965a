"""The dataset that settings name, from any source."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from iwbc import settings
from iwbc.config import in_quotes
from iwbc.data import d4rl_source, demonstrations, formats, generate, minari_source
from iwbc.data.d4rl_source import is_d4rl
from iwbc.data.formats import lerobot_download
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError, warn

# Content hash of every tier and task of the default size and seed, by dataset id; docs/datasets/make.py writes it.
PUBLISHED = Path(__file__).parent / "published.json"
_SHORT = 50  # of a name that is too long for a file's

Dataset: TypeAlias = settings.Generated | demonstrations.Chosen | settings.Minari | settings.D4RL | settings.Recording


def is_local(dataset: Dataset, env_id: str | None = None) -> bool:
    """Tell whether the dataset is on this machine, so that `load_dataset` would neither make nor fetch it."""
    match dataset:
        case settings.D4RL():
            return Path(dataset.path).expanduser().is_file()
        case settings.Recording():
            return formats.place_of(dataset).exists()
        case settings.Minari():
            return all(dataset_folder(part).exists() for part in dataset.id.split("+"))
        case settings.Generated() if env_id is not None:
            name = generate.name_of(env_id, dataset.tier, dataset.steps, dataset.seed)
        case settings.Demonstrations() | settings.OperatorDemonstrations() if env_id is not None:
            name = demonstrations.dataset_id(env_id, dataset)
        case _:
            return False
    return dataset_folder(name).exists()


def load_dataset(dataset: Dataset, env_id: str | None = None) -> Trajectories:
    """Load a dataset in packed form, making or fetching it first if need be; `env_id` is the environment of a generated tier or
    of demonstrations.

    Raises UserError where the dataset cannot be made, fetched or trained on.
    """
    _check_format(dataset)
    match dataset:
        case settings.Generated():
            if env_id is None:
                raise UserError("dataset: a generated tier needs an environment; add env=hopper (or halfcheetah, walker2d)")
            return _published(minari_source.load(generate.ensure(env_id, dataset.tier, dataset.steps, dataset.seed)))
        case settings.Demonstrations() | settings.OperatorDemonstrations():
            if env_id is None:
                raise UserError(
                    "dataset: demonstrations need an environment; add env=two_routes (or careful_or_hasty, point_maze, "
                    "metaworld/pick_place)"
                )
            return _published(minari_source.load(demonstrations.ensure(env_id, dataset)))
        case settings.Minari():
            bounds = dataset.action_low, dataset.action_high
            return minari_source.load(dataset.id, dataset.clip_actions, dataset.unfinished, dataset.observation_keys, *bounds)
        case settings.D4RL():
            bounds = dataset.action_low, dataset.action_high
            return d4rl_source.load(dataset.path, dataset.unfinished, dataset.clip_actions, dataset.env_id, *bounds)
        case settings.Recording():
            return formats.load(dataset)


def _check_format(dataset: Dataset) -> None:
    """Raise UserError where a file or folder is in another format than that of the settings which name it."""
    match dataset:
        case settings.Recording():
            path = formats.place_of(dataset)
        case settings.D4RL():
            path = Path(dataset.path).expanduser()
        case settings.Minari():
            path = Path(dataset.id).expanduser()
        case _:
            return
    kind = formats.recognise(path) or ("d4rl" if isinstance(dataset, settings.Recording) and is_d4rl(path) else None)
    if kind not in (None, dataset.source):
        choice = shlex.join([f"dataset={kind}", f"dataset.path={path}"])
        raise UserError(f"dataset={dataset.source}: {path} is of {kind}; take {choice}")


def settings_with(name: str, words: Sequence[str]) -> list[str]:
    """Return the settings of a configuration whose dataset is that of a Minari id, in the folder of a Minari dataset, or in a
    D4RL file or a format of robots' data, with others such as dataset.clip_actions=true or the format, dataset=robomimic.

    Raises UserError where one of these chooses another dataset, or the name is no dataset's.
    """
    formats_named = [f"dataset={source}" for source in ("minari", "d4rl", *settings.RECORDINGS)]
    places = ("dataset", "dataset.source", "dataset.id", "dataset.path", "dataset.revision")
    for word in words:
        if word.lstrip("+").partition("=")[0] in places and word not in formats_named:
            raise UserError(f"{word}: chooses a dataset, beside {name}; give one of them")
    chosen = [word for word in words if word in formats_named]
    source, key, place = place_of(name, chosen[0].partition("=")[2] if chosen else None)
    return [f"dataset={source}", f"dataset.{key}={in_quotes(place)}", *(word for word in words if word not in chosen)]


def place_of(name: str, source: str | None = None) -> tuple[str, str, str]:
    """Return the source of a named dataset, the setting of that source that says where it is, and the value of this setting.

    source: a name of settings.DATASETS (default: what the name, or the content of a file, tells). Raises UserError where the
    name is no dataset's.
    """
    path = Path(name).expanduser()
    try:
        path.exists()
    except OSError as error:
        raise UserError(f"dataset {name[:_SHORT]}…: neither a file nor an id ({error.strerror})") from None
    if source is not None:
        of_hub = source == "lerobot" and not path.exists() and lerobot_download.is_id(name)
        return source, "id" if source == "minari" or of_hub else "path", name
    if layout := formats.recognise(path):
        return layout, "path", name
    if path.suffix.lower() in (".hdf5", ".h5"):
        return "d4rl", "path", name
    if path.suffix in (".npz", ".zip") and not path.exists():
        raise UserError(f"{name}: no such file")
    if path.is_dir():
        root = dataset_folder().resolve()
        if not path.resolve().is_relative_to(root) or not (path / "data").is_dir():
            raise UserError(
                f"{name}: this is a folder that holds no Minari dataset, or not where MINARI_DATASETS_PATH={root} has them"
            )
        return "minari", "id", path.resolve().relative_to(root).as_posix()
    for part in name.split("+"):
        dataset_folder(part)  # raises UserError for a name that is no id
    return "minari", "id", name


def _published(trajectories: Trajectories) -> Trajectories:
    """Return a generated dataset; give a DataWarning where its content is not that of the published one of its name."""
    published = json.loads(PUBLISHED.read_text()).get(trajectories.info.id, trajectories.content_hash)
    if trajectories.content_hash != published:
        warn(
            f"dataset {trajectories.info.id}: its content is {trajectories.content_hash[:16]}, that of the published one "
            f"{published[:16]}: it was generated with other versions of MuJoCo, Gymnasium or the C library, or on a processor "
            "without FMA; do not compare results with published tables"
        )
    return trajectories
