"""Runs → a grid of methods × datasets. Runs with other settings or other data are never put into one place silently."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from iwbc.errors import UserError
from iwbc.report.collect import Run, Task
from iwbc.runs.rows import EpisodeRow
from iwbc.settings import TIERS

# The order of columns in tables; a method stands with the longest of these names that its own begins with.
_ORDER = ("BC", "filtered BC", "SFT(Q)", "iw-BC", "iw-BC(Q)", "iw-BC(Q) step", "RWR", "AWR", "IQL")

REFERENCE = "reference"
_LONGEST = 24  # characters of settings in a method's name

# Settings that do not change what a run's final score means; `env`, `dataset` and `eval.action` are part of the task
# instead.
_IRRELEVANT = re.compile(
    r"(env|dataset|logger|hydra)\..*|seeds?|threads|device|log_every|checkpoint_every|resume|experiment"
    r"|eval\.(every|periodic_episodes|reference|action)|algo\.ess_floor"
)


@dataclass(frozen=True)
class Result:
    """One seed's final episodes in one run."""

    run: Run
    seed: int
    episodes: tuple[EpisodeRow, ...]

    @property
    def mean_return(self) -> float:
        return float(np.mean([episode.total for episode in self.episodes]))

    @property
    def mean_score(self) -> float:
        """The mean score; where there are no reference returns the success rate in per cent, and NaN without either."""
        scores = [np.nan if episode.score is None else episode.score for episode in self.episodes]
        return self.success_percent if self.run.task.normalisation is None else float(np.mean(scores))

    @property
    def success_percent(self) -> float:
        """The success rate in per cent, NaN where nothing is said of it."""
        return float(np.mean([np.nan if episode.success is None else 100.0 * episode.success for episode in self.episodes]))


@dataclass
class Study:
    """The grid: `cells[task, method]` holds a result per seed, in order; `runs[task, method]` the runs they come from.

    The reference policies, from which runs began, are a method too, without runs of their own. `differences` holds what
    methods with letters after their names differ in, by setting.
    """

    methods: list[str] = field(default_factory=list)
    tasks: dict[str, Task] = field(default_factory=dict)
    cells: dict[tuple[str, str], list[Result]] = field(default_factory=dict)
    runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    differences: dict[str, dict[str, str]] = field(default_factory=dict)

    def baseline(self) -> str | None:
        """Name the filtered BC that others are compared with: the only one, or else the one that keeps 10 %."""
        candidates = [method for method in self.methods if method.startswith("filtered BC")]
        return candidates[0] if len(candidates) == 1 else next((m for m in candidates if m == "filtered BC 10 %"), None)


def arrange(runs: Sequence[Run]) -> Study:
    """Arrange the runs in a grid. Raises UserError where two runs with the same settings, data and seed disagree."""
    study = Study()
    task_names = _task_names({run.task for run in runs})
    methods = {id(run): name for run, name in _method_names(runs, study)}
    study.notes += _untold_differences(runs, methods)
    study.methods = sorted(set(methods.values()), key=_method_order)
    study.tasks = dict(sorted(((name, task) for task, name in task_names.items()), key=lambda item: _task_order(item[0])))
    for run in runs:
        place = task_names[run.task], methods[id(run)]
        study.runs.setdefault(place, []).append(run)
        for seed in run.seeds:
            if final := run.final(seed):
                _add(study, place, Result(run, seed, tuple(final)))
        if run.summary.chosen is not None:
            study.notes.append(f"{run.name}: curation=auto chose {run.summary.chosen}.")
        for lost in run.summary.diverged:
            study.notes.append(
                f"{run.name}: seed {lost.seed} diverged by step {lost.step} ({lost.why}); it is in no table or figure."
            )
    for task, seed, result in _references(runs, task_names):
        cell = study.cells.setdefault((task, REFERENCE), [])
        if seed not in [result.seed for result in cell]:
            cell.append(result)
    if any(method == REFERENCE for _, method in study.cells):
        study.methods.insert(0, REFERENCE)
    for results in study.cells.values():
        results.sort(key=lambda result: result.seed)
    return study


def _references(runs: Sequence[Run], task_names: Mapping[Task, str]) -> Iterator[tuple[str, int, Result]]:
    """Return the results of the reference policies by task and seed, where a task's runs all began from one kind."""
    kinds: dict[str, set[str]] = {}
    results = []
    for run in runs:
        settings = {key: run.config.get(key) for key in ("reference", "policy")}
        for seed in run.seeds:
            if played := run.of_phase("reference", seed):
                kinds.setdefault(task_names[run.task], set()).add(repr(settings))
                results.append((task_names[run.task], seed, Result(run, seed, tuple(played))))
    return ((task, seed, result) for task, seed, result in results if len(kinds[task]) == 1)


def _add(study: Study, place: tuple[str, str], result: Result) -> None:
    results = study.cells.setdefault(place, [])
    for other in results:
        if other.seed != result.seed:
            continue
        task, method = place
        if [(e.total, e.length) for e in other.episodes] != [(e.total, e.length) for e in result.episodes]:
            raise UserError(
                f"{other.run.folder} and {result.run.folder}: both are {method} on {task} with seed {result.seed} "
                "and the same settings, but their results differ; give only one of them"
            )
        study.notes.append(
            f"Seed {result.seed} of {method} on {task} is in {other.run.name} and, with the same results, in "
            f"{result.run.name}; it counts once."
        )
        return
    results.append(result)


# --- names -----------------------------------------------------------------------------------------------------------


def _task_names(tasks: set[Task]) -> dict[Task, str]:
    """Name each task by its dataset's id; where several tasks share it, with all that tells them apart."""
    names = {}
    for task in tasks:
        same = [other for other in tasks if other.dataset == task.dataset]
        extra = []
        if len({other.content_hash for other in same}) > 1:
            extra.append(f"content {task.content_hash[:8]}")
        if len({(other.env_id, other.made_with) for other in same}) > 1:
            made_with = f" with {task.made_with}" if task.made_with != "{}" else ""
            extra.append(f"evaluated in {task.env_id}{made_with}" if task.env_id else "not evaluated")
        if task.action == "sample":
            extra.append("sampled actions")
        if len({other.normalisation for other in same}) > 1:
            bounds = task.normalisation
            extra.append(f"scores from {bounds.random:g} to {bounds.expert:g}, {bounds.source}" if bounds else "no scores")
        names[task] = f"{task.dataset} ({', '.join(extra)})" if extra else task.dataset
    return names


def _method_names(runs: Sequence[Run], study: Study) -> list[tuple[Run, str]]:
    """Name each run's column: the method's name, with every setting that differs between its runs on a dataset; or,
    where that is much, with a letter, and the settings among the study's differences.

    A setting that only differs between datasets was chosen for each of them: it is noted, and the column stays one.
    """
    named, notes = [], study.notes
    for method in sorted({run.method for run in runs}):
        of_method = [(run, _settings(run.config)) for run in runs if run.method == method]
        within = [_differing([s for run, s in of_method if run.task == task]) for task in {run.task for run, _ in of_method}]
        keys = sorted(set().union(*within))
        if keys:
            listed = ", ".join(keys)
            notes.append(f"{method} was run with different settings ({listed}) on the same data: each has a column of its own.")
        labels = {id(run): {_short(key, settings): _text(settings.get(key)) for key in keys} for run, settings in of_method}
        texts = {run: ", ".join(f"{key}={value}" for key, value in label.items()) for run, label in labels.items()}
        different = sorted(set(texts.values()), key=_natural)
        lettered = max(map(len, different)) > _LONGEST
        columns: dict[str, list[tuple[Run, Mapping[str, Any]]]] = {}
        for run, settings in of_method:
            label = texts[id(run)]
            name = f"{method} {_letter(different.index(label))}" if lettered else f"{method} ({label})" if label else method
            if lettered:
                study.differences[name] = labels[id(run)]
            columns.setdefault(name, []).append((run, settings))
        for column, members in columns.items():
            named += [(run, column) for run, _ in members]
            for key in sorted(_differing([settings for _, settings in members])):
                datasets: dict[str, set[str]] = {}
                for run, own_settings in members:
                    datasets.setdefault(_text(own_settings.get(key)), set()).add(run.task.dataset)
                *few, most = sorted(datasets, key=lambda value: (len(datasets[value]), value))
                listed = "; ".join(f"{value} on {', '.join(sorted(datasets[value]))}" for value in few)
                notes.append(f"{column} was not run with the same {key} on every dataset: {listed}; {most} elsewhere.")
    return named


# What every algorithm has, beside the curation and the settings of its own, of which the names of methods tell.
_SHARED = re.compile(r"averaging|held_out|policy\..*|reference\..*|algo\.(steps|lr|schedule|warmup_steps|batch_size|start)")


def _untold_differences(runs: Sequence[Run], methods: Mapping[int, str]) -> list[str]:
    """Note the settings in which methods on the same data differ although neither their names nor columns of their own say so:
    what a table then compares is not the algorithm or the curation alone."""
    values: dict[str, dict[tuple[Task, str], set[str]]] = {}  # of each setting, by task and method
    for run in runs:
        for key, value in _settings(run.config).items():
            if _SHARED.fullmatch(key):
                values.setdefault(key, {}).setdefault((run.task, methods[id(run)]), set()).add(_text(value))
    differing = []
    for key, by_place in sorted(values.items()):
        if any(f"{_short(key, values)}=" in name or len(texts) > 1 for (_, name), texts in by_place.items()):
            continue  # its column is named after it, or another note tells of it
        by_task: dict[Task, set[str]] = {}
        names: dict[str, set[str]] = {}
        for (task, name), (text,) in by_place.items():
            by_task.setdefault(task, set()).add(text)
            names.setdefault(text, set()).add(name)
        if max(map(len, by_task.values())) > 1:
            listed = "; ".join(
                f"{text} in {', '.join(sorted(names[text], key=_method_order))}" for text in sorted(names, key=_natural)
            )
            differing.append(f"{key} is {listed}")
    return [f"Methods differ in more than their names say: {difference}." for difference in differing]


def _letter(number: int) -> str:
    """Count a, b, … z, aa, ab, …"""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a run's final score depends on, by dotted key."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif not _IRRELEVANT.fullmatch(prefix):
            flat[prefix] = value

    walk("", config)
    if flat.get("algo.start") == "scratch":  # the reference policy then plays no part
        flat = {key: value for key, value in flat.items() if not key.startswith("reference.")}
    return flat


def _differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    keys = set().union(*settings)
    return {key for key in keys if len({_text(values.get(key)) for values in settings}) > 1}


def _short(key: str, settings: Mapping[str, Any]) -> str:
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in settings) == 1 else key


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "unset" if value is None else str(value)


def _method_order(name: str) -> tuple[int, list[Any]]:
    fitting = [known for known in _ORDER if name.startswith(known)]
    return (_ORDER.index(max(fitting, key=len)) if fitting else len(_ORDER), _natural(name))


def _task_order(name: str) -> tuple[str, int, list[Any]]:
    """Sort by environment, then from random to expert."""
    family, _, level = name.rpartition("/")
    tier = re.sub(r"-v\d+.*", "", level)
    return (family, TIERS.index(tier) if tier in TIERS else len(TIERS), _natural(name))


def _natural(text: str) -> list[Any]:
    """Make a sorting key that puts 2 before 10."""
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", text))]
