"""Published scores of D4RL's datasets, beside a report's, and the end of a sweep over such datasets.

corl.json: mean and standard deviation over seeds of the last policies (never the best), from the tables "Last Scores" of CORL's
README (https://github.com/corl-team/CORL, commit 2ed69e3), by dataset and method.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from iwbc.report.collect import Run, collect
from iwbc.report.study import REFERENCE, Study, arrange
from iwbc.report.tables import Cell, Table, mean_std, to_terminal
from iwbc.runs import sweeps

_SCORES = Path(__file__).parent / "corl.json"


def d4rl_name(run: Run) -> str | None:
    """Name the dataset of D4RL that a run's dataset is, or is a remake of, without its version, such as hopper-medium; None
    where it is neither."""
    dataset = run.config.get("dataset")
    source = dataset.get("source") if isinstance(dataset, dict) else None
    if source == "d4rl":
        return re.sub(r"-v\d+$", "", Path(run.task.dataset).stem.replace("_", "-"))
    match = re.fullmatch(r"(?:mujoco|D4RL)/(.+)-v\d+", run.task.dataset, re.IGNORECASE)
    return match[1].replace("/", "-") if match and source == "minari" else None


def published_table(study: Study) -> Table | None:
    """Tabulate the study's scores on D4RL's datasets beside the published ones; None where it has none of them."""
    scores = {re.sub(r"-v\d+$", "", name): (name, of_methods) for name, of_methods in _read().items()}
    places = {task: [run for (other, _), runs in study.runs.items() if other == task for run in runs] for task in study.tasks}
    names = {task: name for task, runs in places.items() if runs and (name := d4rl_name(runs[0])) in scores}
    methods = [m for m in study.methods if m != REFERENCE and any((task, m) in study.cells for task in names)]
    if not methods:
        return None
    published = list(dict.fromkeys(method for name in names.values() for method in scores[name][1]))
    rows = []
    for task, name in names.items():
        ours = [mean_std(_scores(study, task, method)) for method in methods]
        theirs = [_published(scores[name][1].get(method)) for method in published]
        rows.append([Cell(task), *ours, Cell(scores[name][0]), *theirs])
    columns = ["dataset", *methods, "CORL on", *(f"CORL: {method}" for method in published)]
    notes = [
        "CORL: github.com/corl-team/CORL, last scores after a million gradient steps, mean ± standard deviation over "
        "its seeds; the other columns are of this report's runs.",
        _played([run for task in names for run in places[task]]),
    ]
    if remade := [task for task in names if not _is_d4rl_s(places[task][0])]:
        notes.append(f"Minari's, not D4RL's own data, and so no figures to be reached: {', '.join(remade)}.")
    return Table("published", "Beside published scores, mean ± standard deviation over seeds", columns, rows, notes=notes)


def _read() -> dict[str, dict[str, tuple[float, float]]]:
    scores: dict[str, dict[str, tuple[float, float]]] = json.loads(_SCORES.read_text(encoding="utf-8"))
    return scores


def _scores(study: Study, task: str, method: str) -> list[float]:
    """List the score of each seed; none where no reference returns are known, and success rates stand for scores."""
    known = study.tasks[task].normalisation is not None
    return [result.mean_score for result in study.cells.get((task, method), [])] if known else []


def _published(score: tuple[float, float] | None) -> Cell:
    return Cell("–") if score is None else Cell(f"{score[0]:.1f} ± {score[1]:.1f}", score[0])


def _is_d4rl_s(run: Run) -> bool:
    return bool(run.config["dataset"]["source"] == "d4rl")


def _played(runs: list[Run]) -> str:
    """Say in which environments and versions the runs were played, and the published ones."""
    versions = runs[0].summary.versions
    environments = ", ".join(sorted({run.task.env_id for run in runs if run.task.env_id})) or "no environment"
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("gymnasium", "mujoco") if name in versions)
    return (
        f"Played in {environments}{f' ({libraries})' * bool(libraries)}; the published scores are of D4RL's older "
        "environments. The reference returns of hopper, walker2d and halfcheetah are the same."
    )


class Sweep(sweeps.Sweep):
    """Called by Hydra, as conf/experiment/d4rl_files.yaml asks; ends with the table of published scores."""

    def show(self, jobs: list[dict[str, Any]]) -> None:
        """Print the table of jobs, and that of the finished ones beside the published scores."""
        from rich.console import Console

        super().show(jobs)
        folders = [Path(job["folder"]) for job in jobs if job["status"] == "finished"]
        table = published_table(arrange(collect(folders)[0])) if folders else None
        if table is not None:
            Console().print(to_terminal(table))
