"""One run from end to end: dataset → curation → reference → training → evaluation → run folder."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from iwbc import engine
from iwbc.data.checks import difference
from iwbc.data.choice import Choice, foregone
from iwbc.data.curated import Curated
from iwbc.data.curation import curate, hold_out, pinned
from iwbc.data.sources import is_local, load_dataset
from iwbc.data.trajectories import Trajectories
from iwbc.engine import kernels
from iwbc.environments.scores import ReferenceScores, d4rl_scores
from iwbc.environments.spec import EnvironmentSpec, environment_spec
from iwbc.errors import UserError
from iwbc.evaluation import Evaluator
from iwbc.policies.policy import check_samples
from iwbc.policies.spec import PolicyFactory, continued, imported, policy_factory, spaces_of
from iwbc.runs.folder import RunFolder
from iwbc.runs.loggers import check_key
from iwbc.runs.read import file_hashes, read_choice, read_summary
from iwbc.runs.recorder import Recorder, Stopwatch
from iwbc.runs.results import method_name, summary_of
from iwbc.runs.summary import Summary
from iwbc.settings import Auto, Config, Env, Minari, OwnPolicy
from iwbc.system import processes
from iwbc.system.imports import import_named
from iwbc.training.critic import fitted_critics
from iwbc.training.fit import fit
from iwbc.training.reference import reference_policy
from iwbc.training.trained import Policies
from iwbc.training.trials import SEED, choose_curation


def run(config: Config, path: Path, console: Console, resumed: bool = False) -> Summary:
    """Run a configuration in a folder, or continue there; the summary that the folder ends up with.

    A finished run is not run again. resumed: the folder's configuration may differ in what does not change the training.
    Raises UserError for what a user can put right, Interrupted when told to stop while training or evaluating.
    """
    folder, config = RunFolder(path), replace(config, curation=pinned(config.curation))
    # A second process with the same job waits, and then finds it finished.
    with folder.lock():
        folder.check(config, resumed)
        finished = read_summary(path)
        if finished is not None:
            _check_data(config, folder, finished)
            content = f"{finished.dataset.id}, content {finished.dataset.content_hash[:12]}"
            console.print(f"{path} is finished already, trained on {content}.", soft_wrap=True, markup=False)
            return finished
        _check_device(config.device)
        check_key(config.logger)
        kernels.keep_freed_memory()
        processes.set_threads(config.threads)
        with engine.switched(config.engine):
            return _execute(config, folder, console)


def _check_data(config: Config, folder: RunFolder, finished: Summary) -> None:
    """Raise UserError where the data of a finished run are on this machine, and no longer those that it was trained on."""
    known = finished.dataset.content_hash
    try:
        if not is_local(config.dataset, config.env.id):
            return  # making or fetching them takes time
        content = trained_part(config, load_dataset(config.dataset, config.env.id)).content_hash
    except UserError:
        return  # which says nothing of the run
    if content != known:
        raise UserError(
            f"{folder.path}: holds a finished run on other content of dataset {finished.dataset.id}, {known[:12]} and not "
            f"{content[:12]}; choose another hydra.run.dir"
        )


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device}: cannot be used ({str(error).splitlines()[0]}); device=cpu can") from None


def _execute(config: Config, folder: RunFolder, console: Console) -> Summary:
    _refuse_early(config, folder)
    stopwatch = Stopwatch()
    with stopwatch.timed("data"):
        trajectories = load_dataset(config.dataset, config.env.id)
    with stopwatch.timed("curation"):
        choice = _choice(config, folder, trajectories, console)
        curation = config.curation if choice is None else choice.curation
        curated, held_out = hold_out(curate(trajectories, curation, config.averaging), config.held_out)
        reference_data = _reference_data(config, curated.trajectories)
    _say_kept(config, curated, choice, console)
    factory = _policy_factory(config, curated.trajectories, reference_data, console)
    environment = _environment(config, curated.trajectories)
    evaluator, scores = _evaluator(config, environment, curated.trajectories, factory, console)
    with (
        contextlib.nullcontext() if evaluator is None else contextlib.closing(evaluator),
        Recorder(config, folder, console, stopwatch, evaluator, curated) as recorder,
    ):
        reference = _reference(config, folder, reference_data, factory, stopwatch, console)
        policies = fit(
            config.algo,
            curated,
            reference=reference,
            policy=factory,
            seeds=config.all_seeds,
            device=config.device,
            console=console,
            title=method_name(config, curated),
            observer=recorder,
            held_out=held_out,
            critics=_critics(config, curated.trajectories, stopwatch, console),
        )
        evaluations = recorder.play_finally(reference, policies)
        recorder.write_tables()
        summary = summary_of(
            config,
            curated,
            environment,
            scores,
            evaluations,
            stopwatch.seconds,
            policies.seeds,
            recorder.diverged_seeds,
            file_hashes(folder.path),
            choice,
        )
        folder.finish(summary)  # before the logger ends, which may have to wait for a server
    return summary


def _refuse_early(config: Config, folder: RunFolder) -> None:
    """Raise UserError, before any work, where the checkpoint is damaged or code that the user names is missing."""
    folder.checkpoint()
    if isinstance(config.policy, OwnPolicy):
        imported(config.policy.target)
    import_named(config.env.needed_imports)


def _choice(config: Config, folder: RunFolder, trajectories: Trajectories, console: Console) -> Choice | None:
    """Let curation=auto choose, or read what the run has chosen before; None for other curations."""
    if not isinstance(config.curation, Auto):
        return None
    # Without a checkpoint the file may be of other data; the choice for these is cached.
    choice = read_choice(folder.path) if folder.has_checkpoint else None
    if choice is None:
        choice = chosen(config, trajectories, console)
        folder.start(config)  # from here on the run can be resumed
        folder.write_choice(choice)
    return choice


def trained_part(config: Config, trajectories: Trajectories) -> Trajectories:
    """Return the trajectories that are not held out. Raises UserError where all or none would be."""
    return hold_out(Curated(trajectories, np.ones(len(trajectories)), config.averaging), config.held_out)[0].trajectories


def chosen(config: Config, trajectories: Trajectories, console: Console) -> Choice:
    """Choose the curation of a configuration with curation=auto, on the trajectories that are not held out.

    Raises UserError where there is nothing to choose by, KeyboardInterrupt when told to stop.
    """
    auto = config.curation
    assert isinstance(auto, Auto)
    data = trained_part(config, trajectories)
    if (choice := foregone(auto, data)) is not None:  # before anything is trained
        return choice
    reference_data = _reference_data(config, data)
    datasets = (data,) if reference_data is data else (data, reference_data)
    factory = policy_factory(config.policy, *datasets)
    every = config.checkpoint_every
    reference = reference_policy(reference_data, factory, config.reference, [SEED], config.device, console, every)
    return choose_curation(
        data,
        reference,
        auto,
        algo=config.algo,
        averaging=config.averaging,
        device=config.device,
        console=console,
        checkpoint_every=every,
    )


def _say_kept(config: Config, curated: Curated, choice: Choice | None, console: Console) -> None:
    data = curated.trajectories
    chose = "" if choice is None else f" chose {choice.words}, which"
    console.print(
        f"{data.info.id}: {len(data):,} trajectories, {data.steps:,} steps; "
        f"{config.curation.name}{chose} keeps {len(curated.kept):,} trajectories, {curated.steps:,} steps",
        markup=False,
    )


def _reference_data(config: Config, trajectories: Trajectories) -> Trajectories:
    """Return what the reference is trained on: the data, or another dataset of the same task."""
    if config.reference.dataset_id is None or config.algo.start != "reference":
        return trajectories
    assert isinstance(config.dataset, Minari)
    other = load_dataset(replace(config.dataset, id=config.reference.dataset_id))
    if what := difference(other, trajectories):
        raise UserError(f"reference.dataset_id={other.info.id}: it and {trajectories.info.id} have different {what}")
    return other


def _policy_factory(
    config: Config, trajectories: Trajectories, reference_data: Trajectories, console: Console
) -> PolicyFactory:
    """Choose what makes the policies, in units that hold the data and what the reference is trained on; they are told where
    they are not the data's. Raises UserError where none hold both."""
    datasets = (trajectories,) if reference_data is trajectories else (trajectories, reference_data)
    factory = policy_factory(config.policy, *datasets)
    if (spec := factory.spec) is not None:
        for data in datasets:
            continued(spec, spec.spaces, data)
        spec.say(console)
    return factory


def _environment(config: Config, trajectories: Trajectories) -> EnvironmentSpec | None:
    env, recorded = config.env, trajectories.info.environment
    return environment_spec(recorded, env.id, env.kwargs or {}, env.max_episode_steps, tuple(env.imports))


def _reference(
    config: Config, folder: RunFolder, data: Trajectories, factory: PolicyFactory, stopwatch: Stopwatch, console: Console
) -> Policies | None:
    """Train the reference or take it from the cache; None where the algorithm starts without one."""
    if config.algo.start != "reference":
        return None

    def begin() -> Path:
        folder.start(config)  # from here on the run can be resumed
        return folder.reference

    seeds, every = config.all_seeds, config.checkpoint_every
    with stopwatch.timed("reference"):
        return reference_policy(data, factory, config.reference, seeds, config.device, console, every, begin)


def _critics(config: Config, data: Trajectories, stopwatch: Stopwatch, console: Console) -> dict[int, nn.Sequential]:
    """Fit the critics or take them from the cache; none where the algorithm needs none."""
    if config.algo.critic is None:
        return {}
    with stopwatch.timed("critic"):
        return fitted_critics(data, config.algo.critic, config.all_seeds, config.device, console, config.checkpoint_every)


def _evaluator(
    config: Config,
    environment: EnvironmentSpec | None,
    trajectories: Trajectories,
    factory: PolicyFactory,
    console: Console,
) -> tuple[Evaluator | None, ReferenceScores | None]:
    """Make what plays the policies, and find what scores are relative to; no evaluator where there is no environment, or
    nothing is to be played in it. Raises UserError where the policies cannot be played there."""
    info = trajectories.info
    scores = info.reference_scores
    if environment is not None and environment.id != info.env_id:
        scores = d4rl_scores(environment.id)
    evaluator = make_evaluator(config, trajectories, console, processes.environment_workers(), scores)
    if evaluator is None:
        return None, scores
    scales = trajectories.action_scales
    try:
        evaluator.check_spaces(spaces_of(trajectories), f"dataset {info.id}", (scales.lowest, scales.highest))
        if "sample" in config.eval.actions and factory.spec is None:
            check_samples(factory.make())  # now, and not after training
    except UserError:
        evaluator.close()
        raise
    return evaluator, scores


def make_evaluator(
    config: Config,
    trajectories: Trajectories,
    console: Console,
    workers: int = 0,
    scores: ReferenceScores | None = None,
) -> Evaluator | None:
    """Make what plays policies; None where nothing is to be played, or, with a line that says why, where it cannot be.

    Raises UserError where an environment that was asked for cannot be made.
    """
    environment = _environment(config, trajectories)
    if environment is None:
        console.print(f"{trajectories.info.id} names no environment: training without evaluation.", markup=False)
        return None
    if not config.eval.episodes:
        return None
    try:
        return Evaluator(environment, config.eval.seed, workers, scores)
    except UserError as error:
        if config.env != Env(name=config.env.name):  # asked for by name
            raise
        console.print(f"Training without evaluation: {error}", soft_wrap=True, markup=False)
        return None
