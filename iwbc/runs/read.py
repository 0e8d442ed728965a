"""Run and sweep folders → runs: what each one was, and how every evaluation episode went."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from iwbc.environments.scores import ReferenceScores
from iwbc.errors import UserError
from iwbc.settings import SUMMARY_FORMAT, drop_gone
from iwbc.system.files import MALFORMED, read_json, read_yaml

_REMEDY = "train this run again, or leave its folder out"


class Episode(NamedTuple):
    """One row of evaluations.csv; `score` is None where there are no reference returns, `success` where none is reported."""

    phase: str
    step: int
    seed: int
    episode: int
    total: float
    length: int
    score: float | None
    action: str
    success: bool | None


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
    method: str
    task: Task
    steps: int
    seeds: tuple[int, ...]
    config: dict[str, Any]
    summary: dict[str, Any]
    episodes: tuple[Episode, ...]

    def final(self, seed: int) -> list[Episode]:
        """The final episodes of one seed, which the last policy played."""
        return self.of_phase("final", seed)

    def of_phase(self, phase: str, seed: int) -> list[Episode]:
        """The episodes of one seed in a phase, with the task's action."""
        return [e for e in self.episodes if (e.phase, e.seed, e.action) == (phase, seed, self.task.action)]


@dataclass(frozen=True)
class Missing:
    """A run that failed, or has not finished."""

    name: str
    status: str
    reason: str


def collect(folders: Sequence[Path]) -> tuple[list[Run], list[Missing]]:
    """Every run in the folders and below, each once, by name. Raises UserError, naming the file, for a damaged run."""
    found = sorted({folder for given in folders for folder in _run_folders(given)})
    if not found:
        raise UserError(
            f"{', '.join(map(str, folders))}: no run folder there or below (none holds summary.json or config.yaml)"
        )
    parent = os.path.commonpath([folder.parent for folder in found])
    read = [one for folder in found for one in _read(folder, os.path.relpath(folder, parent))]
    return [one for one in read if isinstance(one, Run)], [one for one in read if isinstance(one, Missing)]


def _run_folders(given: Path) -> Iterator[Path]:
    if not given.is_dir():
        raise UserError(f"{given}: {'not a folder' if given.exists() else 'no such folder'}; give run or sweep folders")
    for place, folders, files in os.walk(given.resolve()):
        if {"summary.json", "failure.json", "config.yaml"} & set(files):
            yield Path(place)
            folders.clear()  # what lies in a run folder belongs to that run
        folders[:] = [name for name in folders if not name.startswith(".")]


def _read(folder: Path, name: str) -> list[Run] | list[Missing]:
    if (folder / "summary.json").exists():
        summary = _json(folder / "summary.json")
        if summary.get("format") != SUMMARY_FORMAT:
            raise UserError(
                f"{folder / 'summary.json'}: format {summary.get('format')}, written by another version of iwbc, whose report "
                f"can read it (this one reads format {SUMMARY_FORMAT}); or {_REMEDY}"
            )
        if summary.get("status") == "finished":
            return _finished(folder, name, summary)
        return [Missing(name, "unfinished", f"its status is {summary.get('status')}")]
    if (folder / "failure.json").exists():
        failure = _json(folder / "failure.json")
        overrides = " ".join(map(str, failure.get("overrides") or []))
        reason = str(failure.get("error", "no reason given"))
        return [Missing(name, "failed", f"{reason} ({overrides})" if overrides else reason)]
    return [Missing(name, "unfinished", "interrupted or still running: it has no summary.json")]


def _finished(folder: Path, name: str, summary: dict[str, Any]) -> list[Run]:
    """The run, once for each action that was played."""
    path = folder / "summary.json"
    try:
        bounds = summary["normalisation"]
        scores = ReferenceScores(float(bounds["random"]), float(bounds["expert"]), str(bounds["source"])) if bounds else None
        environment = summary["environment"]
        env_id = None if environment is None else str(environment["id"])
        others = {key: value for key, value in (environment or {}).items() if key not in ("id", "package") and value}
        made_with = json.dumps(others, sort_keys=True)
        dataset, content_hash = str(summary["dataset"]["id"]), str(summary["dataset"]["content_hash"])
        seeds = tuple(int(seed) for seed in summary["seeds"])
        method = str(summary["method"])
        results = {int(result["seed"]): result for result in summary["results"]}
        if set(results) != set(seeds):
            raise ValueError(f"it has results of seeds {sorted(results)}, but trained {sorted(seeds)}")
        finals = {phase: total["action"] for phase, total in summary["totals"].items() if phase.startswith("final")}
        expected = {
            (str(action), seed): (int(result[phase]["episodes"]), float(result[phase]["return_mean"]))
            for phase, action in finals.items()
            for seed, result in results.items()
        }
        actions = [str(action) for action in finals.values()] or ["mean"]
    except KeyError as error:
        raise UserError(f"{path}: damaged, {error} is missing; {_REMEDY}") from None
    except MALFORMED as error:
        raise UserError(f"{path}: damaged, {error}; {_REMEDY}") from None
    config = _config(folder / "config.yaml")
    try:
        steps = int(config["algo"]["steps"])
    except MALFORMED:
        raise UserError(f"{folder / 'config.yaml'}: damaged, algo.steps is missing; {_REMEDY}") from None
    episodes = tuple(read_episodes(folder))
    tasks = [Task(dataset, content_hash, env_id, made_with, action, scores) for action in actions]
    runs = [Run(folder, name, method, task, steps, seeds, config, summary, episodes) for task in tasks]
    for run in runs:
        for seed in seeds if finals else ():
            count, mean = expected[run.task.action, seed]
            totals = [episode.total for episode in run.final(seed)]
            if len(totals) != count or not math.isclose(float(np.mean(totals)), mean, rel_tol=1e-6, abs_tol=1e-6):
                raise UserError(
                    f"{folder / 'evaluations.csv'}: not the final episodes of seed {seed} that summary.json sums up; {_REMEDY}"
                )
    return runs


def _json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged, not readable as JSON ({error}); {_REMEDY}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged, it holds no object; {_REMEDY}")
    return value


def _config(path: Path) -> dict[str, Any]:
    try:
        config = read_yaml(path)  # and no interpolation, which could read this machine's environment
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or missing ({str(error).splitlines()[0]}); {_REMEDY}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: damaged, it holds no settings; {_REMEDY}")
    try:
        drop_gone(config)
    except UserError as error:
        raise UserError(f"{path}: {error}; {_REMEDY}") from None
    return {str(key): value for key, value in config.items()}


def read_episodes(folder: Path) -> Iterator[Episode]:
    """The rows of a run's evaluations.csv; none where there is no such file."""
    path = folder / "evaluations.csv"
    if not path.exists():  # as without an environment; `_finished` notices any that are missing
        return
    for line, row in enumerate(_rows(path), start=2):
        try:
            score = float(row["score"]) if row.get("score") else None
            yield Episode(
                row["phase"],
                int(row["step"]),
                int(row["seed"]),
                int(row["episode"]),
                float(row["return"]),
                int(row["length"]),
                score,
                row["action"],
                bool(int(row["success"])) if row.get("success") else None,
            )
        except MALFORMED as error:
            raise UserError(f"{path}, line {line}: damaged ({error}); {_REMEDY}") from None


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: damaged ({error}); {_REMEDY}") from None


def read_numbers(path: Path, *needed: str) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of metrics.csv, weights.csv or curation.csv; NaN where a row has no number; empty where there is no such
    file, or no row. Raises UserError where it is damaged, and where a `needed` column is missing or not all finite."""
    rows = _rows(path) if path.exists() else []
    try:
        found = {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}
        if missing := [name for name in needed if rows and not np.isfinite(found.get(name, np.nan)).all()]:
            raise ValueError(f"no number in column {missing[0]}")
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); {_REMEDY}") from None
    return found


def read_weights(folder: Path) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of a run's weights.csv, as `read_numbers` gives them; no weight is negative, and not all are 0."""
    path = folder / "weights.csv"
    found = read_numbers(path, "seed", "return", "length", "curation", "weight")
    weights = [found[name] for name in ("curation", "weight") if found]
    if any(some.min() < 0.0 or some.max() == 0.0 for some in weights):
        raise UserError(f"{path}: damaged (negative weights, or none above 0); {_REMEDY}")
    return found


def read_curation(folder: Path) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of a run's curation.csv, as `read_numbers` gives them."""
    return read_numbers(folder / "curation.csv", "return_low", "return_high", "trajectories", "kept")


def read_videos(folder: Path) -> list[dict[str, Any]]:
    """What `iwbc record` says of the videos that it left in a run folder: name, file, seed, episode, return, length, action,
    and of how many episodes it is. Raises UserError where that is damaged."""
    path = folder / "videos" / "videos.json"
    try:
        rows = read_json(path) if path.exists() else []
        kinds = {"name": str, "seed": int, "episode": int, "return": float, "length": int, "of": int, "action": str}
        return [{"file": Path(row["file"]).name, **{key: kind(row[key]) for key, kind in kinds.items()}} for row in rows]
    except MALFORMED as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); record again, or delete it") from None
