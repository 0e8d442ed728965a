"""One run from end to end: dataset → curation → reference → training → evaluation → run folder."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from iwbc import engine
from iwbc.data.checks import difference
from iwbc.data.curation import curate, hold_out, pinned
from iwbc.data.sources import load_dataset
from iwbc.data.trajectories import Trajectories
from iwbc.engine import kernels
from iwbc.environments.gymnasium import import_named
from iwbc.environments.scores import ReferenceScores, d4rl_scores
from iwbc.environments.spec import EnvironmentSpec, environment_spec
from iwbc.errors import UserError
from iwbc.evaluation import Evaluation, Evaluator, check_samples
from iwbc.policies.spec import PolicyChoice, continued, imported, policy_factory, policy_spec, spaces_of
from iwbc.runs.folder import RunFolder
from iwbc.runs.loggers import check_key
from iwbc.runs.read import file_hashes, read_summary
from iwbc.runs.recorder import Recorder, Stopwatch
from iwbc.runs.results import method_name, phase_name, summary_of
from iwbc.runs.summary import Summary
from iwbc.settings import Config, Env, GaussianPolicy, Minari, OwnPolicy
from iwbc.system import processes
from iwbc.training.fit import fit
from iwbc.training.reference import reference_policy
from iwbc.training.trained import Policies


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
            console.print(f"{folder.path} is finished already.", soft_wrap=True)
            return finished
        _check_device(config.device)
        check_key(config.logger)
        kernels.keep_freed_memory()
        processes.set_threads(config.threads)
        with engine.switched(config.engine):
            return _execute(config, folder, console)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device}: cannot be used ({str(error).splitlines()[0]}); device=cpu can") from None


def _execute(config: Config, folder: RunFolder, console: Console) -> Summary:
    # What is damaged or missing is refused before any work.
    folder.checkpoint()
    if isinstance(config.policy, OwnPolicy):
        imported(config.policy.target)
    import_named(config.env.needed_imports)
    seeds, device, stopwatch = config.all_seeds, config.device, Stopwatch()
    with stopwatch.timed("data"):
        trajectories = load_dataset(config.dataset, config.env.id)
        curated, held_out = hold_out(curate(trajectories, config.curation, config.averaging), config.held_out)
        trajectories = curated.trajectories
        own = _reference_data(config, trajectories)
    console.print(
        f"{trajectories.info.id}: {len(trajectories):,} trajectories, {trajectories.steps:,} steps; "
        f"{config.curation.name} keeps {len(curated.kept):,} trajectories, {curated.steps:,} steps"
    )
    policy = _policy(config, trajectories, own, console)
    env = config.env
    environment = environment_spec(
        trajectories.info.environment, env.id, env.kwargs or {}, env.max_episode_steps, tuple(env.imports)
    )
    evaluator, scores = _evaluator(config, environment, trajectories, console)
    with contextlib.ExitStack() as closing:
        if evaluator is not None:
            closing.callback(evaluator.close)
            if "sample" in config.eval.actions and isinstance(config.policy, OwnPolicy):
                make, _ = policy_factory(config.policy, trajectories)
                check_samples(make())  # now, and not after training
        reference = None

        def begin_own() -> Path:
            folder.start(config)  # from here on the run can be resumed
            return folder.reference

        if config.algo.start == "reference":
            with stopwatch.timed("reference"):
                every = config.checkpoint_every
                reference = reference_policy(own, policy, config.reference, seeds, device, console, every, begin_own)
        recorder = Recorder(config, folder, console, stopwatch, evaluator, curated)
        closing.enter_context(recorder)
        policies = fit(
            config.algo,
            curated,
            reference=reference,
            policy=policy,
            seeds=seeds,
            device=device,
            console=console,
            title=method_name(config, curated),
            observer=recorder,
            held_out=held_out,
        )
        if reference is not None:
            reference = reference.select(*policies.seeds)
        evaluations = _final(config, reference, policies, recorder)
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
        )
        folder.finish(summary)  # before the logger ends, which may have to wait for a server
    return summary


def _reference_data(config: Config, trajectories: Trajectories) -> Trajectories:
    """What the reference is trained on: the data, or another dataset of the same task."""
    if config.reference.dataset_id is None or config.algo.start != "reference":
        return trajectories
    assert isinstance(config.dataset, Minari)
    own = load_dataset(replace(config.dataset, id=config.reference.dataset_id))
    if what := difference(own, trajectories):
        raise UserError(f"reference.dataset_id={own.info.id}: it and {trajectories.info.id} have different {what}")
    return own


def _policy(config: Config, trajectories: Trajectories, own: Trajectories, console: Console) -> PolicyChoice:
    """Choose what is trained, in units that hold the data and what the reference is trained on; they are told where they are
    not the data's. Raises UserError where none hold both."""
    if not isinstance(config.policy, GaussianPolicy):
        choice: PolicyChoice = config.policy
        return choice
    datasets = (trajectories,) if own is trajectories else (trajectories, own)
    spec = policy_spec(config.policy, *datasets)
    for one in datasets:
        continued(spec, spec.spaces, one)
    spec.say(console)
    return spec


def _evaluator(
    config: Config, environment: EnvironmentSpec | None, trajectories: Trajectories, console: Console
) -> tuple[Evaluator | None, ReferenceScores | None]:
    """Make what plays the policies, and find what scores are relative to; no evaluator where there is no environment, or
    nothing is to be played in it."""
    env, info = config.env, trajectories.info
    if environment is None:
        console.print(f"{info.id} names no environment: training without evaluation.")
        return None, info.reference_scores
    scores = info.reference_scores if environment.id == info.env_id else d4rl_scores(environment.id)
    if not config.eval.episodes:
        return None, scores
    try:
        workers = processes.environment_workers()
        evaluator = Evaluator(environment, config.eval.seed, workers, scores)
    except UserError as error:
        if env != Env(name=env.name):  # asked for by name
            raise
        console.print(f"Training without evaluation: {error}", soft_wrap=True, markup=False)
        return None, scores
    scales = trajectories.action_scales
    evaluator.check_spaces(spaces_of(trajectories), f"dataset {info.id}", (scales.lowest, scales.highest))
    return evaluator, scores


def _final(config: Config, reference: Policies | None, policies: Policies, recorder: Recorder) -> dict[str, Evaluation]:
    """Play the reference and the last policy."""
    episodes, found = config.eval.episodes, {}
    if recorder.evaluator is not None and episodes:
        played = [("reference", reference, 0)] if reference is not None and config.eval.reference else []
        for phase, one, step in [*played, ("final", policies, config.algo.steps)]:
            for action in config.eval.actions:
                with recorder.console.status(f"Playing {episodes} episodes per seed: {phase} policy, {action} action"):
                    name = phase_name(phase, action, config.eval.action)
                    found[name] = recorder.play(phase, step, one, episodes, action)
                recorder.check_stop()
    return found
