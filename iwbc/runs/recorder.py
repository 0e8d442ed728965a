"""Record of a run while it trains: metrics, periodic evaluations, checkpoints, and the time that each phase takes."""

from __future__ import annotations

import contextlib
import csv
import io
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from iwbc.data.curated import Curated
from iwbc.data.curation import histogram
from iwbc.errors import Interrupted, UserError
from iwbc.evaluation import Evaluation, Evaluator
from iwbc.runs.folder import RunFolder
from iwbc.runs.loggers import RunLogger, make_logger
from iwbc.runs.results import dataset_summary, episode_rows, phase_name
from iwbc.runs.rows import EpisodeRow, MetricRow
from iwbc.runs.summary import Diverged, made
from iwbc.settings import Config
from iwbc.system.files import MALFORMED
from iwbc.system.interrupts import stop_requests
from iwbc.training.trained import Policies
from iwbc.training.trainer import Trainer


class Stopwatch:
    """Seconds by phase; a run without a critic has no such phase."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("data", "curation", "reference", "training", "checkpoints", "evaluation"), 0.0)
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time of the block to a phase; time before the block is not attributed to any."""
        self.lap()
        yield
        self.lap(phase)

    def lap(self, phase: str | None = None) -> None:
        """Count the time since the last lap to a phase, or to none."""
        now = time.perf_counter()
        if phase is not None:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now


class Recorder:
    """Observer of `fit` that writes a run's files and plays policies; a context manager, for its logger."""

    measures = True

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        console: Console,
        stopwatch: Stopwatch,
        evaluator: Evaluator | None,
        curated: Curated,
    ) -> None:
        self.config, self.folder, self.console, self.stopwatch = config, folder, console, stopwatch
        self.evaluator = evaluator
        self._plays_every = config.eval.period if evaluator else 0
        self.every: Sequence[int] = (config.log_every, self._plays_every, config.checkpoint_every)
        # The texts of metrics.csv and evaluations.csv, kept as written: making them again each time would take ever longer.
        self.metrics, self.evaluations = io.StringIO(), io.StringIO()
        self._curated = curated
        self.diverged_seeds: list[Diverged] = []
        self._stop = threading.Event()
        self._closing = contextlib.ExitStack()
        self._logger: RunLogger

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._closing.__exit__(kind, error, traceback)

    def start(self, trainer: Trainer, policies: Policies) -> int:
        """Load the checkpoint, if there is one. The trainer has forked its processes by now: what follows begins threads."""
        self._all_policies, done, unplayed = policies, 0, False
        checkpoint = self.folder.checkpoint()
        if checkpoint is not None:
            states, progress = checkpoint
            self._check_data(progress)
            try:
                self.diverged_seeds = [made(Diverged, lost) for lost in progress["diverged"]]
                for lost in self.diverged_seeds:
                    trainer.drop(lost.seed)
                trainer.load(states)
                done, self.stopwatch.seconds, unplayed = progress["done"], progress["seconds"], progress["unplayed"]
                metrics, evaluations = progress["tables"]
            except (*MALFORMED, RuntimeError) as error:
                raise UserError(
                    f"{self.folder.path}: its checkpoint does not fit the policy ({error}); has its code changed? Train again"
                ) from None
            self.metrics.write(self.folder.read_table("metrics.csv", metrics))
            self.evaluations.write(self.folder.read_table("evaluations.csv", evaluations))
            self.console.print(f"Continuing after step {done:,}")
        # Not before: a run that is refused leaves nothing behind.
        self.folder.start(self.config)
        bins = histogram(self._curated.trajectories.returns, self._curated.kept)
        self.folder.write_curation(bins)
        self._logger = make_logger(self.config, self.folder.path, dataset_summary(self._curated), bins, done)
        self._closing.push(lambda kind, error, traceback: self._logger.close(kind is not None))
        self._closing.enter_context(stop_requests(self._stop, Interrupted))
        self.stopwatch.lap()
        if unplayed and self._plays_after(done):
            self._play_periodically(done, trainer)
        return done

    def _check_data(self, progress: Mapping[str, Any]) -> None:
        """Raise UserError where a checkpoint was trained on other data; earlier versions wrote no hash."""
        data, path = self._curated.trajectories, getattr(self.config.dataset, "path", None)
        if (held := progress.get("data", data.content_hash)) != data.content_hash:
            place = "" if path is None else f" (dataset.path={path})"
            raise UserError(
                f"{self.folder.path}: its checkpoint was trained on other content of dataset {data.info.id}{place}, "
                f"{str(held)[:12]} and not {data.content_hash[:12]}; bring that back, or choose another hydra.run.dir"
            )

    def after(self, step: int, loss: dict[int, Tensor], trainer: Trainer) -> None:
        """Log, write a checkpoint and play where it is time to; at the end write the policy, too."""
        config, last = self.config, step == self.config.algo.steps
        if step % config.log_every == 0 or last:
            self._log(step, {seed: {"loss": loss[seed], **measured} for seed, measured in trainer.measure().items()})
        self.stopwatch.lap("training")
        plays = self._plays_after(step)
        if last:
            self.folder.write_policy(self._trained(trainer))
            self.folder.write_weights(weight_rows(self._curated, trainer.trajectory_weights()))
        if last or plays or step % config.checkpoint_every == 0 or self._stop.is_set():
            with self.stopwatch.timed("checkpoints"):
                self._checkpoint(step, trainer, plays)
            if not last:
                self.check_stop()
        # Not before the checkpoint: an environment may take the process with it.
        if plays:
            self._play_periodically(step, trainer)
        self.stopwatch.lap()

    def play_finally(self, reference: Policies | None, policies: Policies) -> dict[str, Evaluation]:
        """Play the reference, of the seeds that have not diverged, and the last policies; the evaluations by phase."""
        settings, evaluations = self.config.eval, dict[str, Evaluation]()
        if self.evaluator is None or not settings.episodes:
            return evaluations
        playing = [("final", policies, self.config.algo.steps)]
        if reference is not None and settings.reference:
            playing.insert(0, ("reference", reference.select(*policies.seeds), 0))
        for phase, players, step in playing:
            for action in settings.actions:
                with self.console.status(f"Playing {settings.episodes} episodes per seed: {phase} policy, {action} action"):
                    name = phase_name(phase, action, settings.action)
                    evaluations[name] = self.play(phase, step, players, settings.episodes, action)
                self.check_stop()
        return evaluations

    def _plays_after(self, step: int) -> bool:
        """Decide whether policies are played after `step` gradient steps, before the end."""
        return self._plays_every > 0 and step % self._plays_every == 0 and step < self.config.algo.steps

    def _play_periodically(self, step: int, trainer: Trainer) -> None:
        settings = self.config.eval
        self.play("periodic", step, self._trained(trainer), settings.periodic_episodes, settings.actions[0])

    def _trained(self, trainer: Trainer) -> Policies:
        """Return the policies as they are by now, of the seeds that have not diverged."""
        policies = self._all_policies.select(*trainer.seeds)
        policies.load(trainer.parameters())
        return policies

    def diverged(self, seed: int, step: int, why: str, trainer: Trainer) -> None:
        """Keep what the last checkpoint holds of a seed, and go on with the others. Raises UserError where there are none."""
        if trainer.seeds == (seed,):
            raise UserError(f"step {step}: {why}; the run folder keeps the checkpoint before, if there was one")
        kept = self.folder.keep(seed)
        trainer.drop(seed)
        self.diverged_seeds.append(Diverged(seed, step, why, kept))
        self.console.print(
            f"Seed {seed} diverged by step {step:,}: {why}. The other seeds go on.", soft_wrap=True, markup=False
        )

    def _checkpoint(self, done: int, trainer: Trainer, unplayed: bool) -> None:
        """Write a checkpoint; `unplayed` where the episodes that are played after this step are yet to be."""
        progress = {
            "done": done,
            "data": self._curated.trajectories.content_hash,
            "unplayed": unplayed,
            "tables": self.write_tables(),
            "diverged": list(map(asdict, self.diverged_seeds)),
            "seconds": self.stopwatch.seconds,
        }
        self.folder.write_checkpoint(trainer.state(), progress)

    def write_tables(self) -> list[dict[str, Any]]:
        """Write metrics.csv and evaluations.csv as they are by now, and return what a checkpoint holds of them."""
        tables = {"metrics.csv": self.metrics, "evaluations.csv": self.evaluations}
        return [self.folder.write_table(name, table.getvalue()) for name, table in tables.items()]

    def check_stop(self) -> None:
        """Raise Interrupted where the run was asked to stop."""
        if self._stop.is_set():
            raise Interrupted

    def _log(self, step: int, by_seed: dict[int, dict[str, Tensor]]) -> None:
        learning_rate = self.config.algo.learning_rate(step - 1)
        for seed, values in by_seed.items():
            # One transfer from the device for all of them.
            table = torch.stack([value.double() for value in values.values()]).cpu().tolist()
            row = MetricRow(step, seed, {"learning_rate": learning_rate, **dict(zip(values, table, strict=True))})
            append_rows(self.metrics, [row])
            self._logger.log(step, seed, row.values)

    def play(self, phase: str, step: int, policies: Policies, episodes: int, action: str) -> Evaluation:
        """Play policies; every episode is a row of evaluations.csv. Raises UserError, which says how to go on, where that
        fails."""
        assert self.evaluator is not None
        with self.stopwatch.timed("evaluation"):
            try:
                evaluation = self.evaluator.evaluate(policies, episodes, action)
            except UserError as error:
                raise UserError(
                    f"{error}; what was trained is kept: resume={self.folder.path} goes on, also with other env.… and eval.… "
                    "(eval.episodes=0 plays nothing)"
                ) from error
        append_rows(self.evaluations, episode_rows(evaluation, phase, step))
        name = phase_name(phase, action, self.config.eval.action)
        for row, seed in enumerate(policies.seeds):
            values = {f"{name}/return": float(evaluation.returns[row].mean())}
            if evaluation.scores is not None:
                values[f"{name}/score"] = float(evaluation.scores[row].mean())
            if evaluation.successes is not None:
                values[f"{name}/success"] = float(evaluation.successes[row].mean())
            if phase == "periodic":
                self._logger.log(step, seed, values)
            else:
                self._logger.results(self.config.algo.steps, seed, values)
        return evaluation


def append_rows(table: io.StringIO, rows: Sequence[EpisodeRow | MetricRow]) -> None:
    """Append rows, all of the same columns, to a table's text, which begins with the columns' names."""
    writer, plain = csv.writer(table, lineterminator="\n"), [row.to_plain() for row in rows]
    if not table.tell():
        writer.writerow(plain[0])
    writer.writerows(row.values() for row in plain)


def weight_rows(curated: Curated, weights: dict[int, Tensor]) -> list[dict[str, Any]]:
    """Make the rows of weights.csv, one for each seed and kept trajectory: its index, return and length, its curation weight
    R_i, and its importance weight or the like (1 where there is none)."""
    of_data, kept = curated.trajectories, curated.kept
    columns = [
        kept.tolist(),
        of_data.returns[kept].tolist(),
        of_data.lengths[kept].tolist(),
        curated.curation_weights[kept].tolist(),
    ]
    names = ("trajectory", "return", "length", "curation", "weight")
    return [
        {"seed": seed, **dict(zip(names, values, strict=True))}
        for seed, of_seed in weights.items()
        for values in zip(*columns, of_seed.tolist(), strict=True)
    ]
