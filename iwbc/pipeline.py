"""One run from end to end: dataset → curation → reference → training → evaluation → run folder."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from iwbc import processor
from iwbc.algorithms.awr import AdvantageWeightedRegression
from iwbc.algorithms.bc import BehaviourCloning
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.config import AWR, IWBC, Config, method_name
from iwbc.curation import curate
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler, generator
from iwbc.data.sources import load_dataset
from iwbc.data.trajectories import Trajectories
from iwbc.diagnostics import Diagnostics
from iwbc.errors import Interrupted, UserError
from iwbc.evaluation import Evaluation, Evaluator
from iwbc.loggers import WandbLogger, check_key
from iwbc.policies import Policy, PolicySpec, policy_spec
from iwbc.reference import reference_policy
from iwbc.results import totals
from iwbc.runs import RunFolder, versions
from iwbc.scores import ReferenceScores, d4rl_scores
from iwbc.trainer import Learner, Trainer, fit, trainer
from iwbc.training import Algorithm, Stream, initial_policy


def run(config: Config, path: Path, console: Console) -> dict[str, Any]:
    """Run a configuration in a folder, or continue there; the summary that the folder ends up with.

    A finished run is not run again. Raises UserError for what a user can put right, Interrupted when told to stop while
    training or evaluating.
    """
    folder = RunFolder(path)
    # A second process with the same job waits, and then finds it finished.
    with folder.lock():
        return _run_or_read(config, folder, console)


def _run_or_read(config: Config, folder: RunFolder, console: Console) -> dict[str, Any]:
    folder.check(config)
    finished = folder.summary()
    if finished is not None:
        console.print(f"{folder.path} is finished already.", soft_wrap=True)
        return finished
    _check_device(config.device)
    check_key(config.logger)
    processor.keep_freed_memory()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return _Run(config, folder, console).execute()


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device}: cannot be used ({str(error).splitlines()[0]}); device=cpu can") from None


class _Run:
    def __init__(self, config: Config, folder: RunFolder, console: Console) -> None:
        self.config, self.folder, self.console = config, folder, console
        self.stop = threading.Event()
        self.seconds = dict.fromkeys(("data", "reference", "training", "evaluation"), 0.0)
        self.metrics: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start

    def execute(self) -> dict[str, Any]:
        config = self.config
        checkpoint = self.folder.checkpoint()
        with self._timed("data"):
            trajectories = load_dataset(config.dataset, config.env)
            curated = Curated(trajectories, curate(trajectories, config.curation), config.averaging)
        self.console.print(
            f"{trajectories.info.id}: {len(trajectories):,} trajectories, {trajectories.steps:,} steps; "
            f"{config.curation.name} keeps {len(curated.kept):,} trajectories, {curated.steps:,} steps"
        )
        evaluator, scores = self._evaluator(trajectories)
        spec = policy_spec(config.policy, trajectories)
        with self._timed("reference"):
            reference = self._reference(trajectories, spec)
        policy = Policy(spec, config.all_seeds, config.device)
        with contextlib.ExitStack() as closing:
            if evaluator is not None:
                closing.callback(evaluator.close)
            training = closing.enter_context(self._trainer(spec, curated, reference))
            done = 0
            if checkpoint is not None:
                state, progress = checkpoint
                training.load(state)
                done, self.metrics, self.evaluations = progress["done"], progress["metrics"], progress["evaluations"]
                self.seconds = progress["seconds"]
                self.console.print(f"Continuing after step {done:,}")
            # Not before: a run that is refused leaves nothing behind.
            self.folder.start(config)
            self.folder.write_curation(_histogram(trajectories, curated))
            logger = closing.enter_context(WandbLogger(config, self.folder.path, trajectories.info.id))
            closing.enter_context(_stop_requests(self.stop))
            self._train(training, policy, evaluator, scores, logger, done)
            training.close()
            results = self._final(policy, reference, evaluator, scores)
        summary = self._summary(trajectories, curated, scores, results)
        self.folder.write_policy(policy)
        self.folder.write_metrics(self.metrics)
        self.folder.write_evaluations(self.evaluations)
        self.folder.finish(summary)
        return summary

    def _evaluator(self, trajectories: Trajectories) -> tuple[Evaluator | None, ReferenceScores | None]:
        """What plays the policies, and what scores are relative to; no evaluator where there is no environment."""
        env, info = self.config.env, trajectories.info
        same = env.id is None or env.id == info.env_id
        scores = info.reference_scores if same else d4rl_scores(env.id)
        env_id = env.id or info.env_id
        if env_id is None:
            self.console.print(f"{info.id} names no environment: training without evaluation.")
            return None, scores
        try:
            # As many processes as the run has threads, which are idle while policies are played.
            workers = torch.get_num_threads() if torch.get_num_threads() > 1 else 0
            kwargs = info.env_kwargs if same else {}
            evaluator = Evaluator(env_id, kwargs, self.config.eval.seed, workers, self.config.eval.backend)
        except UserError as error:
            if env.id is not None or self.config.eval.backend != "gymnasium":  # asked for by name
                raise
            self.console.print(f"Training without evaluation: {error}", soft_wrap=True)
            return None, scores
        evaluator.check_sizes(trajectories.observations.shape[1], trajectories.actions.shape[1], info.id)
        return evaluator, scores

    def _reference(self, trajectories: Trajectories, spec: PolicySpec) -> Policy | None:
        config = self.config
        if config.algo.start == "scratch":
            return None
        return reference_policy(trajectories, spec, config.reference, config.all_seeds, config.device, self.console)

    def _trainer(self, spec: PolicySpec, curated: Curated, reference: Policy | None) -> Trainer:
        recipe, device = self.config.algo, self.config.device

        def learner(seeds: Sequence[int]) -> Learner:
            own = None if reference is None else reference.select(*seeds)
            return Learner(
                self._algorithm(spec, curated, own, seeds),
                StepSampler(curated, seeds, recipe.batch_size, Stream.TRAINING, device),
                recipe,
                Diagnostics(curated, own, seeds, device),
            )

        return trainer(learner, self.config.all_seeds, device)

    def _algorithm(self, spec: PolicySpec, curated: Curated, reference: Policy | None, seeds: Sequence[int]) -> Algorithm:
        algo, device = self.config.algo, self.config.device
        policy = initial_policy(spec, seeds, device) if reference is None else reference.copy()
        if isinstance(algo, IWBC):
            assert reference is not None
            return ImportanceWeightedBC(policy, reference, curated, algo)
        if isinstance(algo, AWR):
            return AdvantageWeightedRegression(policy, curated, algo, [generator(Stream.VALUE, seed) for seed in seeds])
        return BehaviourCloning(policy)

    def _train(
        self,
        training: Trainer,
        policy: Policy,
        evaluator: Evaluator | None,
        scores: ReferenceScores | None,
        logger: WandbLogger,
        done: int,
    ) -> None:
        """Train, and leave the last parameters in `policy`."""
        config, recipe = self.config, self.config.algo
        every = (config.log_every, config.eval.every if evaluator else 0, config.checkpoint_every)
        started = time.perf_counter()
        for step, loss in fit(training, recipe, method_name(config), self.console, every, done):
            if step % config.log_every == 0 or step == recipe.steps:
                self._log(step, recipe.learning_rate(step - 1), {"loss": loss, **training.measure()}, logger)
            last = step == recipe.steps
            if evaluator and not last and config.eval.every and step % config.eval.every == 0:
                policy.parameters.flat.copy_(training.parameters())
                self.seconds["training"] += time.perf_counter() - started
                self._evaluate("periodic", step, policy, evaluator, scores, config.eval.periodic_episodes, logger)
                started = time.perf_counter()
            if not last and (step % config.checkpoint_every == 0 or self.stop.is_set()):
                self.seconds["training"] += time.perf_counter() - started
                self._checkpoint(step, training)
                started = time.perf_counter()
                self._check_stop()
        policy.parameters.flat.copy_(training.parameters())
        self.seconds["training"] += time.perf_counter() - started
        self._checkpoint(recipe.steps, training)

    def _checkpoint(self, done: int, training: Trainer) -> None:
        progress = {"done": done, "metrics": self.metrics, "evaluations": self.evaluations, "seconds": self.seconds}
        self.folder.write_checkpoint(training.state(), progress)
        self.folder.write_metrics(self.metrics)
        self.folder.write_evaluations(self.evaluations)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Interrupted

    def _log(self, step: int, learning_rate: float, values: dict[str, torch.Tensor], logger: WandbLogger) -> None:
        # One transfer from the device for all of them.
        table = torch.stack([value.double() for value in values.values()]).cpu().numpy()
        for row, seed in enumerate(self.config.all_seeds):
            found = {"learning_rate": learning_rate, **dict(zip(values, table[:, row].tolist(), strict=True))}
            self.metrics.append({"step": step, "seed": seed, **found})
            logger.log(step, seed, found)
        if not np.isfinite(table[0]).all():
            bad = [seed for row, seed in enumerate(self.config.all_seeds) if not np.isfinite(table[0, row])]
            raise UserError(f"step {step}: the loss of seed {bad[0]} is not finite; try a smaller algo.lr")

    def _evaluate(
        self,
        phase: str,
        step: int,
        policy: Policy,
        evaluator: Evaluator,
        scores: ReferenceScores | None,
        episodes: int,
        logger: WandbLogger | None = None,
    ) -> Evaluation:
        with self._timed("evaluation"):
            evaluation = evaluator.evaluate(policy, episodes)
        rows = evaluation.rows(phase, step, scores)
        self.evaluations += rows
        if logger is not None:
            for row, seed in enumerate(policy.seeds):
                values = {"return": float(evaluation.returns[row].mean())}
                if scores:
                    values["score"] = float(scores.normalise(evaluation.returns[row]).mean())
                logger.log(step, seed, {f"{phase}/{name}": value for name, value in values.items()})
        return evaluation

    def _final(
        self, policy: Policy, reference: Policy | None, evaluator: Evaluator | None, scores: ReferenceScores | None
    ) -> dict[str, Evaluation]:
        """Play the reference and the last policy."""
        episodes, found = self.config.eval.episodes, {}
        if evaluator is not None and episodes:
            played = {"reference": (reference, 0), "final": (policy, self.config.algo.steps)}
            for phase, (one, step) in played.items():
                if one is not None:
                    with self.console.status(f"Playing {episodes} episodes per seed: {phase} policy"):
                        found[phase] = self._evaluate(phase, step, one, evaluator, scores, episodes)
                    self._check_stop()
        return found

    def _summary(
        self, trajectories: Trajectories, curated: Curated, scores: ReferenceScores | None, results: dict[str, Evaluation]
    ) -> dict[str, Any]:
        config, info = self.config, trajectories.info
        seed_steps = config.algo.steps * len(config.all_seeds)
        return {
            "format": 1,
            "status": "finished",
            "method": method_name(config),
            "env_id": config.env.id or info.env_id,
            "env_kwargs": info.env_kwargs if config.env.id in (None, info.env_id) else {},
            "backend": config.eval.backend,
            "dataset": {
                "id": info.id,
                "content_hash": trajectories.content_hash,
                "trajectories": len(trajectories),
                "steps": trajectories.steps,
                "kept_trajectories": len(curated.kept),
                "kept_steps": curated.steps,
            },
            "algo": config.algo.name,
            "curation": config.curation.name,
            "averaging": config.averaging,
            "seeds": config.all_seeds,
            "results": [
                {"seed": seed, **{phase: _of_seed(one, row, scores) for phase, one in results.items()}}
                for row, seed in enumerate(config.all_seeds)
            ],
            "totals": {phase: totals(one, scores) for phase, one in results.items()},
            "normalisation": {"random": scores.random, "expert": scores.expert, "source": scores.source} if scores else None,
            "steps_per_second": config.algo.steps / self.seconds["training"],
            "seed_steps_per_second": seed_steps / self.seconds["training"],
            "seconds": self.seconds,
            "versions": versions(),
        }


def _of_seed(evaluation: Evaluation, row: int, scores: ReferenceScores | None) -> dict[str, Any]:
    returns = evaluation.returns[row]
    return {
        "episodes": len(returns),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "score_mean": float(scores.normalise(returns).mean()) if scores else None,
    }


def _histogram(trajectories: Trajectories, curated: Curated, bins: int = 50) -> list[dict[str, Any]]:
    returns = trajectories.returns
    edges = np.histogram_bin_edges(returns, bins)
    everything, _ = np.histogram(returns, edges)
    kept, _ = np.histogram(returns[curated.kept], edges)
    return [
        {"return_low": float(low), "return_high": float(high), "trajectories": int(all_), "kept": int(kept_)}
        for low, high, all_, kept_ in zip(edges[:-1], edges[1:], everything, kept, strict=True)
    ]


@contextlib.contextmanager
def _stop_requests(stop: threading.Event) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM set the event, so that a run stops between steps; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return

    def request(number: int, frame: Any) -> None:
        if stop.is_set():
            raise Interrupted
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
