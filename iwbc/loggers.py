"""Weights & Biases, off or offline unless asked for. One W&B run per seed; never a prompt."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any

from iwbc.errors import UserError
from iwbc.settings import Config, Logger, to_plain


class WandbLogger:
    """Streams what goes to metrics.csv and evaluations.csv to one W&B run per seed; with mode "disabled" to none."""

    def __init__(self, config: Config, folder: Path, dataset_id: str) -> None:
        self._runs: dict[int, Any] = {}
        if config.logger.mode == "disabled":
            return
        import wandb

        for seed in config.all_seeds:
            self._runs[seed] = wandb.init(
                project=config.logger.project,
                entity=config.logger.entity,
                mode=config.logger.mode,  # type: ignore[arg-type]
                dir=str(folder),
                group=f"{config.algo.name}-{dataset_id.replace('/', '-')}",
                name=f"{folder.name}-seed{seed}",
                config={**to_plain(config), "seed": seed},
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", disable_git=True),
            )

    def log(self, step: int, seed: int, values: dict[str, float]) -> None:
        """Values of one seed at a gradient step."""
        if self._runs:
            self._runs[seed].log(values, step=step)

    def __enter__(self) -> WandbLogger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """End every W&B run, so that the next job of the same process starts its own."""
        for run in self._runs.values():
            run.finish(exit_code=int(kind is not None))
        self._runs = {}


def check_key(settings: Logger) -> None:
    """Raise UserError where mode is "online" and there is no API key, for which W&B would ask."""
    if settings.mode == "online" and not _has_key():
        raise UserError("logger.mode=online: no W&B API key; set WANDB_API_KEY or run `wandb login`, or use mode=offline")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
