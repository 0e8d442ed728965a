"""A report's folder, written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iwbc.errors import UserError, extra
from iwbc.report import figures, statistics, tables
from iwbc.report.collect import Missing, collect
from iwbc.report.page import page
from iwbc.report.protocol import check_protocol
from iwbc.report.published import published_table
from iwbc.report.study import Study, arrange
from iwbc.system.files import temporary_prefix

if TYPE_CHECKING:
    from rich.console import Console

_FILES = {"index.html", "episodes.csv", "tables.md", "tables.tex", "figures"}


def write_report(
    folders: Sequence[Path],
    out: Path,
    console: Console,
    mixed: bool = False,
    said: str = "",
    first: Sequence[tables.Table] = (),
) -> None:
    """Sum up the runs in `folders` and below into `out`; `mixed` allows runs that were evaluated differently. said: the words
    with which the page begins, in place of the usual ones; first: tables before the others.

    Raises UserError where there are none, one is damaged, they were not evaluated alike, or `out` holds anything but an
    earlier report.
    """
    _check_libraries()
    with _replacing(out) as building:
        with console.status("Reading runs"):
            runs, missing = collect(folders)
            if not mixed:
                check_protocol(runs)
            study = arrange(runs)
        with console.status(f"Aggregating {len(runs)} runs"):
            results, pictures = _results(study)
        with console.status("Drawing"), figures.style():
            drawn = (figures.seed_results(study), figures.learning_curves(study), figures.curated_returns(study))
            pictures += [picture for picture in drawn if picture]
            pictures += [*figures.trajectory_weights(study), *figures.weight_diagnostics(study)]
        _write(building, study, missing, [*first, *results], pictures, said)


def _check_libraries() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(f"the report cannot import {error.name}; {extra('report')}") from None


def _results(study: Study) -> tuple[list[tables.Table], list[figures.Picture]]:
    """Make the tables of results, and the figures of their aggregates."""
    of_results = (tables.score_table(study), published_table(study), tables.success_table(study), tables.return_table(study))
    written = [table for table in (*of_results, tables.difference_table(study)) if table]
    pictures: list[figures.Picture] = []
    for action in sorted({task.action for task in study.tasks.values()}):  # the mean action's before sampled ones'
        scores = statistics.shared_scores(study, action)
        if scores.matrices:
            table, drawn_of = _aggregates(study, scores)
            written.append(table)
            pictures += drawn_of
        else:
            study.notes.extend(scores.notes)
    return written, pictures


def _aggregates(study: Study, scores: statistics.Scores) -> tuple[tables.Table, list[figures.Picture]]:
    """Make the table and the figures of one kind of action."""
    baseline = study.baseline()
    baseline = baseline if baseline in scores.matrices else None
    estimates = statistics.aggregates(scores)
    better = statistics.improvement(scores, baseline) if baseline else {}
    values = np.concatenate([matrix.ravel() for matrix in scores.matrices.values()])
    thresholds = np.linspace(min(0.0, values.min()), max(100.0, values.max()), 201)
    with figures.style():
        pictures = [
            figures.aggregate_intervals(study, scores, estimates, better, baseline),
            figures.performance_profiles(study, scores, thresholds, statistics.profiles(scores, thresholds)),
        ]
    return tables.aggregate_table(scores, estimates, better, baseline, statistics.REPETITIONS), pictures


def _write(
    folder: Path,
    study: Study,
    missing: Sequence[Missing],
    results: Sequence[tables.Table],
    pictures: Sequence[figures.Picture],
    said: str,
) -> None:
    with (folder / "episodes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ("run", "method", "dataset", "env_id", "seed", "step", "episode", "action", "return", "length", "score", "success")
        )
        for (task, method), cell in study.cells.items():
            for result in cell:
                place = (result.run.name, method, task, study.tasks[task].env_id, result.seed)
                for e in result.episodes:
                    score = "" if e.score is None else f"{e.score:.7g}"
                    success = "" if e.success is None else int(e.success)
                    writer.writerow((*place, e.step, e.episode, e.action, f"{e.total:.7g}", e.length, score, success))
    failures = [tables.missing_table(missing)] if missing else []
    notes = "".join(f"> {note}\n\n" for note in study.notes)
    (folder / "tables.md").write_text(notes + "\n".join(map(tables.to_markdown, [*results, *failures])), encoding="utf-8")
    (folder / "tables.tex").write_text("\n".join(map(tables.to_latex, results)), encoding="utf-8")
    (folder / "figures").mkdir()
    for picture in pictures:
        (folder / "figures" / f"{picture.name}.svg").write_bytes(picture.svg)
        (folder / "figures" / f"{picture.name}.png").write_bytes(picture.png)
    text = page(study, results, [*failures, tables.run_table(study)], pictures, said)
    (folder / "index.html").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out` that takes its place at the end, and is gone if anything goes wrong before."""
    if out.exists() and not (out.is_dir() and {entry.name for entry in out.iterdir()} <= _FILES):
        raise UserError(f"out={out}: is there and holds other things than a report; choose another folder")
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=temporary_prefix(out), dir=out.parent))
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from None
    old = building.with_name(f"{building.name}-old")
    try:
        yield building
        building.chmod(0o755)
        if out.exists():
            os.replace(out, old)
        os.replace(building, out)
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
