"""Run and sweep folders → runs: what each one was, and how every evaluation episode went."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iwbc.environments.scores import ReferenceScores
from iwbc.errors import UserError
from iwbc.runs.read import REMEDY, read_episodes, read_failure, read_settings, read_summary
from iwbc.runs.rows import EpisodeRow
from iwbc.runs.summary import Summary
from iwbc.system.files import MALFORMED, folders_with


@dataclass(frozen=True)
class Task:
    """The task that a run is scored on: a dataset, the environment its policy is evaluated in (`made_with` is what else is
    known of it), which action is played, and how returns become scores."""

    dataset: str
    content_hash: str
    env_id: str | None
    made_with: str
    action: str
    normalisation: ReferenceScores | None


@dataclass(frozen=True)
class Run:
    """A finished run, as one action of its policy was played. `name` is its folder, told from the other runs' folders; `steps`
    its gradient steps."""

    folder: Path
    name: str
    task: Task
    steps: int
    config: dict[str, Any]
    summary: Summary
    episodes: tuple[EpisodeRow, ...]

    @property
    def method(self) -> str:
        return self.summary.method

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.summary.seeds

    def final(self, seed: int) -> list[EpisodeRow]:
        """Return the final episodes of one seed, which the last policy played."""
        return self.of_phase("final", seed)

    def of_phase(self, phase: str, seed: int) -> list[EpisodeRow]:
        """Return the episodes of one seed in a phase, with the task's action."""
        return [e for e in self.episodes if (e.phase, e.seed, e.action) == (phase, seed, self.task.action)]


@dataclass(frozen=True)
class Missing:
    """A run that failed, or has not finished."""

    name: str
    status: str
    reason: str


def collect(folders: Sequence[Path]) -> tuple[list[Run], list[Missing]]:
    """Read every run in the folders and below, each once, by name. Raises UserError, naming the file, for a damaged run."""
    places = sorted({folder for start in folders for folder in _run_folders(start)})
    if not places:
        raise UserError(
            f"{', '.join(map(str, folders))}: no run folder there or below (none holds summary.json or config.yaml)"
        )
    parent = os.path.commonpath([folder.parent for folder in places])
    read = [run for folder in places for run in _read(folder, os.path.relpath(folder, parent))]
    return [run for run in read if isinstance(run, Run)], [run for run in read if isinstance(run, Missing)]


def _run_folders(start: Path) -> Iterator[Path]:
    if not start.is_dir():
        raise UserError(f"{start}: {'not a folder' if start.exists() else 'no such folder'}; give run or sweep folders")
    yield from folders_with(start, "summary.json", "failure.json", "config.yaml")


def _read(folder: Path, name: str) -> list[Run] | list[Missing]:
    if (summary := read_summary(folder)) is not None:
        return _finished(folder, name, summary)
    if (reason := read_failure(folder)) is not None:
        return [Missing(name, "failed", reason)]
    return [Missing(name, "unfinished", "interrupted or still running: it has no summary.json")]


def _finished(folder: Path, name: str, summary: Summary) -> list[Run]:
    """Make the run, once for each action that was played."""
    config = read_settings(folder)
    try:
        steps = int(config["algo"]["steps"])
    except MALFORMED:
        raise UserError(f"{folder / 'config.yaml'}: damaged, algo.steps is missing; {REMEDY}") from None
    environment, episodes = summary.environment, tuple(read_episodes(folder))
    env_id = None if environment is None else environment.id
    others = {} if environment is None else environment.to_plain()
    known = {key: value for key, value in others.items() if key not in ("id", "package") and value}
    made_with, data = json.dumps(known, sort_keys=True), summary.dataset
    tasks = [
        Task(data.id, data.content_hash, env_id, made_with, action, summary.normalisation)
        for action in [total.action for total in summary.finals.values()] or ["mean"]
    ]
    runs = [Run(folder, name, task, steps, config, summary, episodes) for task in tasks]
    for run, phase in zip(runs, summary.finals, strict=False):
        for seed in run.seeds:
            result, totals = summary.results[seed][phase], [episode.total for episode in run.final(seed)]
            same = len(totals) == result.episodes and math.isclose(
                float(np.mean(totals)), result.return_mean, rel_tol=1e-6, abs_tol=1e-6
            )
            if not same:
                raise UserError(
                    f"{folder / 'evaluations.csv'}: not the final episodes of seed {seed} that summary.json sums up; {REMEDY}"
                )
    return runs
