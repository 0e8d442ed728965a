"""Take curated data away, to train on them elsewhere: the kept episodes and their weights, in the layouts of others.

    python -m iwbc.export_data mujoco/hopper/medium-v0 curation=top_fraction format=robomimic out=demo.hdf5
    python -m iwbc.export_data env=hopper dataset=medium_replay curation=quality_levels format=lerobot out=hopper
    python -m iwbc.export_data weights=FOLDER format=list out=weights.csv

DATASET            a Minari id, a file or folder that iwbc.load takes, with dataset.clip_actions=true and the like if need be,
                   or settings such as env=hopper dataset=medium; curation=… and averaging=… as train takes them, with the
                   same defaults
format             list: a CSV with each episode's weight, which curation=weights takes back
                   robomimic: an HDF5 file of all episodes, with the filter key `kept` and one for each group
                   lerobot: the folder of a LeRobotDataset v3.0 of the kept episodes, with weights of frames for RA-BC
                   rabc: weights of frames for RA-BC alone, for the frames of original=FOLDER
                   minari: a local Minari dataset of the kept episodes, id=…, with the weights in its metadata
out                the file or folder to write, which must not be there yet (all but minari)
weights            a finished run's folder: the curation is the run's, and a trajectory's weight is R_i · w_i at the end of
                   training, w_i being the importance weight; without a DATASET it is the run's
seed               which of that run's seeds (default: the mean weight over all of them)
id                 the new Minari dataset's id, (namespace/)name-vN
fps                frames in a second, with format=lerobot (default: the data's)
task               with format=lerobot: the task, in words, of episodes whose data tell none (default: the dataset's id)
environment_state  with format=lerobot: the parts of observations, with commas, that are the environment's state and not the
                   robot's; all: the whole vector is both. ACT and diffusion policies want one, or images
original           with format=rabc: the folder of the LeRobotDataset v3.0 that the data were read from
chunk              chunk_size of the policy that is to be trained with RA-BC (default 50)
imports            module,module that register the run's algorithm, where that is one of your own

Prints which episodes are kept: of robomimic's and LeRobot's files as robomimic and lerobot-train take them for those, else by
their numbers in the dataset as it is loaded, from 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from iwbc.errors import UserError
from iwbc.settings import Config, Settings, positive, setting
from iwbc.system.arguments import at_least, is_setting, parse, run

if TYPE_CHECKING:
    from iwbc.data.curated import Curated

_FPS = 30.0  # lerobot's usual


@dataclass
class Options(Settings):
    datasets: list[str]
    format: str = setting(MISSING, choices=("list", "robomimic", "lerobot", "rabc", "minari"))
    out: Path | None = None
    weights: Path | None = None
    seed: int | None = at_least(0, None)
    id: str | None = None
    fps: float | None = positive(None)
    task: str | None = setting(None, lambda value: value is None or bool(value.strip()), "give the task in words")
    environment_state: list[str] = field(default_factory=list)
    original: Path | None = None
    chunk: int = at_least(1, 50)
    imports: list[str] = field(default_factory=list)

    def check_together(self, group: str) -> None:
        self.require_used(self.format == "minari", group, "id", "format=minari")
        self.require_used(
            self.format != "minari", group, "out", "another format: a Minari dataset lies where Minari keeps them"
        )
        self.require_used(self.format == "lerobot", group, "fps", "format=lerobot")
        self.require_used(self.format == "lerobot", group, "task", "format=lerobot")
        self.require_used(self.format == "lerobot", group, "environment_state", "format=lerobot")
        self.require_used(self.format in ("lerobot", "rabc"), group, "chunk", "format=lerobot or rabc")
        self.require_used(self.format == "rabc", group, "original", "format=rabc")
        self.require_used(self.weights is not None, group, "seed", "weights=FOLDER")
        self.require_used(self.weights is not None, group, "imports", "weights=FOLDER")
        needed = {"minari": ["id"], "rabc": ["out", "original"]}.get(self.format, ["out"])
        for name in needed:
            if getattr(self, name) is None:
                raise UserError(f"{name}=… is missing (see --help)")
        if self.out is not None and self.out.exists():
            raise UserError(f"out={self.out}: is there already; choose another name")


def main(arguments: Sequence[str]) -> None:
    """Write what is asked for, and print what is kept and where it is."""
    settings = [argument for argument in arguments if is_setting(argument, Options)]
    options = parse([argument for argument in arguments if argument not in settings], Options)
    if len(options.datasets) > 1 or not (options.datasets or settings or options.weights):
        raise UserError("give one dataset: an id, a file, or settings such as env=hopper dataset=medium (see --help)")
    if options.id is not None:
        _refuse_known(options.id)
    if options.weights is None:
        curated, by, config = _by_curation(options, settings)
    else:
        curated, by, config = _by_run(options, settings)
    data, kept = curated.trajectories, curated.kept
    print(f"{data.info.id}: {by} keeps {len(kept):,} of {len(data):,} trajectories, {curated.steps:,} of {data.steps:,} steps")
    try:
        _write(options, curated, by)
    except OSError as error:
        if options.out is None:
            raise
        reason = error.strerror or " ".join(str(error).split())
        raise UserError(f"out={options.out}: cannot be written ({reason})") from None
    print(_in_the_source(config, kept.tolist()))
    print(options.out or options.id)


def _in_the_source(config: Config, kept: Sequence[int]) -> str:
    """Say which episodes are kept, in the words of the training that reads the file or folder that the data come from."""
    from iwbc.data.formats import place_of, robomimic
    from iwbc.settings import LeRobot, Robomimic

    numbers = json.dumps(kept, separators=(",", ":"))
    match config.dataset:
        case Robomimic():
            names = robomimic.names(place_of(config.dataset))  # whose numbers may have gaps
            return f"original file, robomimic's mask: {json.dumps({'kept': [names[index] for index in kept]})}"
        case LeRobot():
            return f"original files, lerobot-train: --dataset.episodes={numbers}"
    return f"kept episodes, counted from 0 as they are loaded: {numbers}"


def _refuse_known(dataset_id: str) -> None:
    """Raise UserError, before any work, where a Minari dataset of this id is there, or it is no id."""
    from iwbc.data.minari_folder import dataset_folder

    if dataset_folder(dataset_id).exists():
        raise UserError(f"dataset {dataset_id}: is there already; choose another id")


def _by_curation(options: Options, settings: Sequence[str]) -> tuple[Curated, str, Config]:
    """Curate the dataset as train would; return it with words for the curation, and the configuration."""
    from rich.console import Console

    from iwbc.data.choice import words
    from iwbc.data.curation import curate
    from iwbc.data.sources import load_dataset
    from iwbc.runs.pipeline import chosen
    from iwbc.settings import Auto

    config = _composed(options, settings)
    data = load_dataset(config.dataset, config.env.id)
    curation, by = config.curation, f"curation={config.curation.name}"
    if isinstance(curation, Auto):
        curation = chosen(config, data, Console(stderr=True)).curation
        by += f" chose {words(curation)}, which"
    return curate(data, curation, config.averaging), by, config


def _composed(options: Options, settings: Sequence[str]) -> Config:
    """Compose the configuration of the dataset that is named, or else of settings alone. Raises UserError for both."""
    from iwbc.config import composed
    from iwbc.data.sources import settings_with
    from iwbc.system.files import KINDS, kind_of

    if not options.datasets:
        return composed(settings)
    name = options.datasets[0]
    if chosen := [word for word in settings if word.lstrip("+").partition("=")[0].split(".")[0] == "env"]:
        raise UserError(f"{chosen[0]}: chooses a dataset, beside {name}; give one of them")
    if (kind := kind_of(Path(name).expanduser())) in ("run", "policy"):
        raise UserError(f"{name}: no dataset, but {KINDS[kind]}" + ("; its weights: weights=FOLDER" if kind == "run" else ""))
    return composed(settings_with(name, settings))


def _by_run(options: Options, settings: Sequence[str]) -> tuple[Curated, str, Config]:
    """Weigh the trajectories of a finished run's dataset as its training did at the end: R_i · w_i, 0 for those that were
    dropped or held out. Returns them with words for the weights, and the configuration.

    Raises UserError where the run kept no weights, or the dataset is not the one that it was trained on.
    """
    import numpy as np

    from iwbc.data.curated import Curated
    from iwbc.data.curation import hold_out
    from iwbc.data.sources import load_dataset
    from iwbc.runs.read import open_run, read_weights

    assert options.weights is not None
    folder = options.weights
    saved = open_run(folder, options.imports)
    config, source, known = saved.config, saved.config, saved.summary.dataset
    if chosen := [word for word in settings if word.lstrip("+").startswith(("curation", "averaging"))]:
        raise UserError(f"{chosen[0]}: would change nothing; the curation is that of weights={folder}")
    if options.datasets or settings:
        source = _composed(options, settings)
    data = load_dataset(source.dataset, source.env.id)
    # Numbers, from 1, in the place of weights: what is left of them tells which trajectories were trained on.
    numbered = Curated(data, np.arange(1.0, len(data) + 1.0), "trajectory")
    trained, _ = hold_out(numbered, config.held_out)
    if trained.trajectories.content_hash != known.content_hash:
        raise UserError(
            f"weights={folder}: was trained on {known.id} of content {known.content_hash[:16]}, and {data.info.id} has "
            f"{trained.trajectories.content_hash[:16]}: other data than the run's"
        )
    rows = read_weights(folder)
    if not all(np.isfinite(rows.get(name, np.full(1, np.nan))).all() for name in ("seed", "trajectory")):
        raise UserError(f"{folder / 'weights.csv'}: does not name the trajectories of its weights; train this run again")
    seeds = sorted({int(seed) for seed in rows["seed"]})
    if options.seed is not None:
        if options.seed not in seeds:
            raise UserError(f"seed={options.seed}: the run has {', '.join(map(str, seeds))}")
        seeds = [options.seed]
    places = rows["trajectory"].astype(np.int64)
    if not ((places >= 0) & (places < len(trained.trajectories))).all():
        raise UserError(f"{folder / 'weights.csv'}: damaged (there is no trajectory {places.max()}); train this run again")
    weights = np.zeros(len(data))
    originals = trained.curation_weights.astype(np.int64) - 1
    of_seeds = np.isin(rows["seed"], seeds)
    np.add.at(weights, originals[places[of_seeds]], (rows["curation"] * rows["weight"])[of_seeds] / len(seeds))
    words = f"seed {seeds[0]}" if len(seeds) == 1 else f"the mean over seeds {', '.join(map(str, seeds))}"
    return Curated(data, weights, config.averaging), f"{saved.summary.method} of {folder}, {words},", source


def _write(options: Options, curated: Curated, by: str) -> None:
    """Write the format that is asked for. Raises OSError where its file or folder cannot be written."""
    out, info = options.out, curated.trajectories.info
    if options.format == "minari":
        assert options.id is not None
        _write_minari(curated, options.id, by)
        return
    assert out is not None
    if options.format == "list":
        from iwbc.system.files import write_csv

        weights = curated.curation_weights.tolist()
        write_csv(out, [{"episode": index, "weight": weight} for index, weight in enumerate(weights)])
    elif options.format == "robomimic":
        from iwbc.data.formats.robomimic_writer import weight_keys, write_robomimic

        if info.environment is None:
            print("no environment is known: env_args names none, so that robomimic can train and not roll out")
        write_robomimic(curated, out)
        if keys := weight_keys(curated):
            each = [{"path": str(out), "filter_key": name, "weight": weight} for name, weight in keys.items()]
            print(f"train.data (robomimic from 0.4): {json.dumps(each)}")
    elif options.format == "rabc":
        from iwbc.data.formats.lerobot_writer import write_frame_weights

        assert options.original is not None
        write_frame_weights(curated, options.original, out, options.chunk)
        _print_flags(out)
    else:
        from iwbc.data.formats.lerobot_writer import PROGRESS, without_last_observation, without_task, write_lerobot

        fps, unnamed = options.fps or info.fps, without_task(curated)
        if fps is None:
            fps = _FPS
            print(f"frames in a second are not known: {fps:g} is written; fps=… says another")
        if options.task is not None and not unnamed:
            raise UserError(f"task={options.task}: would change nothing; the data tell the task of every kept episode")
        if options.task is None and unnamed:
            print(f"no task is known of {unnamed:,} episodes: {info.id} is written; task=… says another")
        if not without_last_observation(curated):
            print("lerobot has no place for the observation after an episode's last action: it is left out")
        state = options.environment_state
        write_lerobot(curated, out, fps=fps, task=options.task, environment_state=state, chunk=options.chunk)
        print(f"--dataset.repo_id=local/{out.name} --dataset.root={out}")
        _print_flags(out / PROGRESS)


def _print_flags(path: Path) -> None:
    """Print what lerobot-train is told to weigh frames by a table."""
    print(f"--sample_weighting.type=rabc --sample_weighting.kappa=2 --sample_weighting.progress_path={path}")
    print(f"--use_rabc=true --rabc_kappa=2 --rabc_progress_path={path} (lerobot before 0.6)")


def _write_minari(curated: Curated, id: str, by: str) -> None:
    from iwbc.data.minari_writer import with_environment_here, write_minari
    from iwbc.system.progress import tracked

    data, kept = curated.trajectories, curated.kept.tolist()
    write_minari(
        with_environment_here(replace(data.info, id=id), f"id={id}"),
        tracked((data[index] for index in kept), f"Writing {id}", len(kept)),
        {"weights": curated.curation_weights[kept].tolist(), "original_episodes": kept},
        description=f"{len(kept)} of {len(data)} episodes of {data.info.id}, kept by {by}",
    )


if __name__ == "__main__":
    run(main, __doc__)
