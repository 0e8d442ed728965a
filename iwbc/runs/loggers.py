"""Destinations of a run's figures besides its folder: Weights & Biases (offline unless asked for), TensorBoard, or nowhere.

What goes to metrics.csv and evaluations.csv goes here too, one stream for each seed; in the end the results.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import netrc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from iwbc.errors import UserError, extra
from iwbc.runs.summary import DatasetSummary
from iwbc.settings import Config, Logger, to_plain

_PATIENCE = 20.0  # seconds to wait for W&B's server, at the beginning and at the end


class RunLogger(Protocol):
    """One stream of figures for each seed of a run."""

    def log(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Log values of one seed at a gradient step."""

    def results(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        """Log the values that one seed ends with."""

    def close(self, failed: bool) -> None:
        """End every stream, so that the next job of the same process starts its own."""


def make_logger(
    config: Config, folder: Path, dataset: DatasetSummary, curation: Sequence[Mapping[str, float]], done: int
) -> RunLogger:
    """Make the logger that the settings ask for; it begins with the configuration, the dataset's id and content hash, and the
    histogram of returns, of all trajectories and of those kept (the rows of curation.csv). What the folder's events hold of
    later steps than `done` is logged again."""
    match config.logger.name:
        case "wandb":
            return WandbLogger(config, folder, dataset, curation)
        case "tensorboard":
            return TensorboardLogger(config, folder, dataset, curation, done)
        case _:
            return NoLogger()


class NoLogger:
    """Nowhere."""

    def log(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        pass

    def results(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        pass

    def close(self, failed: bool) -> None:
        pass


class WandbLogger:
    """One W&B run per seed, of one group; never a prompt. Where W&B or its server fails, training goes on, and says so once."""

    def __init__(self, config: Config, folder: Path, dataset: DatasetSummary, curation: Sequence[Mapping[str, float]]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # its log-in would greet
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # W&B's telemetry of itself would complain
        import wandb  # check_key has seen that it is there

        self._runs: dict[int, Any] = {}
        self._folder, self._failed = folder, False
        edges = [row["return_low"] for row in curation] + [curation[-1]["return_high"]]
        mode = config.logger.mode

        def begin(seed: int) -> Any:
            return wandb.init(
                project=config.logger.project,
                entity=config.logger.entity,
                mode=mode,  # type: ignore[arg-type]
                dir=str(folder),
                group=f"{config.algo.name}-{dataset.id.replace('/', '-')}",
                name=f"{folder.name}-seed{seed}",
                config={**to_plain(config), "seed": seed, "data": asdict(dataset)},
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    init_timeout=_PATIENCE,
                    finish_timeout=_PATIENCE,  # else it tries for days
                    finish_timeout_raises=True,
                ),
            )

        for seed in config.all_seeds:
            try:
                run = begin(seed)
            except wandb.Error as error:
                if mode == "offline":
                    raise UserError(f"logger=wandb: {_line(error)}") from None
                mode = "offline"  # for the seeds that follow too
                print(
                    f"logger.mode=online: W&B cannot be used ({_line(error)}); this run is logged offline, and "
                    f"`wandb sync {folder / 'wandb' / 'offline-run-*'}` uploads it",
                    file=sys.stderr,
                )
                run = begin(seed)
            self._runs[seed] = run
            for name in ("trajectories", "kept"):
                counts = np.array([row[name] for row in curation])
                run.summary[f"curation/{name}"] = wandb.Histogram(np_histogram=(counts, np.array(edges)))

    def log(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        with self._whatever_happens():
            self._runs[seed].log(dict(values), step=step)

    def results(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        with self._whatever_happens():
            self._runs[seed].log(dict(values), step=step)
            self._runs[seed].summary.update(dict(values))

    def close(self, failed: bool) -> None:
        for run in self._runs.values():
            with self._whatever_happens():
                run.finish(exit_code=int(failed))
        self._runs = {}
        if self._failed:
            import wandb

            with contextlib.suppress(Exception):  # which it would show when Python ends
                wandb.teardown()

    @contextlib.contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._failed:
                print(
                    f"logger=wandb: W&B failed ({_line(error)}); this run is whole all the same, and "
                    f"`wandb sync {self._folder / 'wandb' / '*run-*'}` uploads what W&B kept of it",
                    file=sys.stderr,
                )
            self._failed = True


class TensorboardLogger:
    """A folder of events per seed, tensorboard/seed<n> in the run's folder."""

    def __init__(
        self, config: Config, folder: Path, dataset: DatasetSummary, curation: Sequence[Mapping[str, float]], done: int
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(f"logger=tensorboard: {extra('tensorboard')}") from None

        self._writers: dict[int, Any] = {}
        for seed in config.all_seeds:
            writer = self._writers[seed] = SummaryWriter(folder / "tensorboard" / f"seed{seed}", purge_step=done + 1)
            settings = json.dumps({**to_plain(config), "seed": seed, "data": asdict(dataset)}, indent=2)
            writer.add_text("config", f"```json\n{settings}\n```")
            for name in ("trajectories", "kept"):
                middles = [(row["return_low"] + row["return_high"]) / 2.0 for row in curation]
                writer.add_histogram(f"curation/{name}", np.repeat(middles, [int(row[name]) for row in curation]), 0)

    def log(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writers[seed].add_scalar(name, value, step)

    def results(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        self.log(step, seed, values)

    def close(self, failed: bool) -> None:
        for writer in self._writers.values():
            writer.close()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_key(settings: Logger) -> None:
    """Raise UserError where W&B is not installed, or is to be online and there is no API key, for which it would ask."""
    if settings.name == "wandb" and importlib.util.find_spec("wandb") is None:
        raise UserError(f"logger=wandb: {extra('wandb')}")
    if settings.name == "wandb" and settings.mode == "online" and not _has_key():
        raise UserError("logger.mode=online: no W&B API key; set WANDB_API_KEY or run `wandb login`, or use mode=offline")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
