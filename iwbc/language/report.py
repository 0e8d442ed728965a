"""Runs of language models beside each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iwbc.errors import UserError
from iwbc.language.verify import SCORES, SUMMARY, is_evaluation, is_run, read_run
from iwbc.runs.read import read_failure
from iwbc.system.files import MALFORMED, folders_with, read_json, write_csv

if TYPE_CHECKING:
    from rich.table import Table

_REMEDY = "train this run again, or leave its folder out"


def folders_of(places: Sequence[Path]) -> list[Path]:
    """Find the folders of language models' runs, finished or not, in places and below, each once. Raises UserError where runs
    of policies lie beside them."""
    folders = {folder for place in places for folder in folders_with(place, "config.yaml")}
    runs = sorted(folder for folder in folders if is_run(folder))
    if runs and len(runs) < len(folders):
        others = min(folders - set(runs))
        raise UserError(f"{runs[0]} is a run of a language model, and {others} is none; report them apart")
    return runs


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Print the table of runs and write it as runs.csv. Raises UserError for a damaged run."""
    write_csv(out / "runs.csv", show(folders))


def show(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Print the table of runs and return its rows. Raises UserError for a damaged run."""
    from rich.console import Console

    runs, console = runs_of(folders), Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, 140))
    console.print(table_of(runs))
    return runs


def runs_of(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Read runs as rows of a table, by name. Raises UserError for a damaged one."""
    parent = os.path.commonpath([folder.absolute().parent for folder in folders])
    return [_row(folder, os.path.relpath(folder.absolute(), parent)) for folder in folders]


def _row(folder: Path, name: str) -> dict[str, Any]:
    summary = read_run(folder)
    if summary is None:
        reason = read_failure(folder)
        return {"run": name, "method": "unfinished" if reason is None else f"failed: {reason}"}
    try:
        data, figures = summary["data"], summary["figures"]
        row = {
            **{"run": name, "method": summary["method"], "data": f"{Path(data['path']).name} {data['sha256'][:8]}"},
            **{"reference": summary["reference"], "kept": f"{data['kept']} of {data['rows']}", "steps": summary["steps"]},
            **{"nll": figures.get("nll"), "kappa": figures.get("kappa"), "ess_share": figures.get("ess_share")},
        }
        sampled, greedy = _scores(folder, summary)
        if sampled:
            row |= {"pass@1": sampled["pass_at"]["1"], "low": sampled["low"], "high": sampled["high"]}
        row |= {"greedy": greedy["pass_at"]["1"]} if greedy else {}
        row |= {"distinct_answers": sampled["distinct_answers"]} if sampled else {}
    except MALFORMED as error:
        raise UserError(f"{folder}: its {SUMMARY} or {SCORES} is damaged ({error}); {_REMEDY}") from None
    return row


def _scores(folder: Path, summary: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the scores of sampled completions and of the likeliest: of the run's end, or else of a later evaluation in the
    run's folder; None where there are none."""
    if scores := summary["scores"]:
        return scores["evaluation"], scores["greedy"]
    later: dict[bool, Any] = {}
    for name in ("evaluation", "greedy"):
        if is_evaluation(folder / name):
            written = read_json(folder / name / SCORES)
            later.setdefault(written["temperature"] == 0, written["scores"])
    return later.get(False), later.get(True)


def line(folder: Path) -> str:
    """Sum up a finished run in a line."""
    row = _row(folder, folder.name)
    return f"{row['method']}: pass@1 {_pass(row)}" if "pass@1" in row else f"{row['method']}: nll {_number(row.get('nll'))}"


def table_of(runs: Sequence[dict[str, Any]]) -> Table:
    """Make the table of runs that `runs_of` read; ESS: as a share of the curated rows', distinct: answers to a prompt."""
    from rich.markup import escape
    from rich.table import Table

    scored = any("pass@1" in run or "greedy" in run for run in runs)
    intervals = any("pass@1" in run for run in runs)
    table = Table(caption="in brackets: 95 % interval over prompts" if intervals else None, caption_justify="left")
    names = ["run", "method", "data", "reference", "kept", "κ", "ESS"]
    names += ["pass@1", "greedy", "distinct"] if scored else ["nll"]
    rows = []
    for run in runs:
        cells = [str(run.get(name, "")) for name in ("run", "method", "data", "reference", "kept")]
        cells += [_number(run.get(name)) for name in ("kappa", "ess_share")]
        last = [_pass(run), _number(run.get("greedy")), _number(run.get("distinct_answers"))]
        rows.append(cells + (last if scored else [_number(run.get("nll"))]))
    if len(rows) == 1:  # beside nothing, it is read from top to bottom
        table.show_header = False
        for pair in zip(names, rows[0], strict=True):
            table.add_row(*map(escape, pair))
        return table
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _pass(run: dict[str, Any]) -> str:
    return f"{run['pass@1']:.3f} [{run['low']:.3f}, {run['high']:.3f}]" if "pass@1" in run else ""
