"""What a run ends with: returns and scores with intervals, and the table that shows them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from iwbc.evaluation import Evaluation, interval
from iwbc.scores import ReferenceScores


def totals(evaluation: Evaluation, scores: ReferenceScores | None) -> dict[str, Any]:
    """Mean return and score over seeds and episodes with 95 % bootstrap intervals (scores None where there are none)."""
    found: dict[str, Any] = {
        "episodes": evaluation.returns.shape[1],
        "return_mean": float(evaluation.returns.mean()),
        "return_interval": interval(evaluation.returns),
        "score_mean": None,
        "score_interval": None,
    }
    if scores is not None:
        normalised = scores.normalise(evaluation.returns)
        found |= {"score_mean": float(normalised.mean()), "score_interval": interval(normalised)}
    return found


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the table of a run's summary: its reference policy, if it has one, and its last policy."""
    if "final" not in summary["totals"]:
        console.print("No evaluation was made.")
        return
    names = {"reference": "reference (BC on all data)", "final": summary["method"]}
    rows = {names[phase]: total for phase, total in summary["totals"].items()}
    scores = ReferenceScores(**summary["normalisation"]) if summary["normalisation"] else None
    env = environment_name(summary["env_id"], summary.get("backend", "gymnasium"))
    console.print(results_table(rows, env, summary["seeds"], scores))


def environment_name(env_id: str, backend: str) -> str:
    """The environment's name, with the backend that played it where that was not Gymnasium."""
    return env_id if backend == "gymnasium" else f"{env_id} ({backend})"


def results_table(rows: dict[str, dict[str, Any]], env: str, seeds: list[int], scores: ReferenceScores | None) -> Table:
    """A table of `totals`, one named row each."""
    episodes = next(iter(rows.values()))["episodes"]
    note = f"{episodes} episodes for seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}; mean action, last policy"
    if scores is not None:
        note += f"\nscore 0 = return {scores.random:g}, 100 = return {scores.expert:g} ({scores.source})"
    table = Table(title=env, caption=f"{note}\nin brackets: 95 % bootstrap interval of the mean", caption_justify="left")
    table.add_column("policy", no_wrap=True)
    table.add_column("return", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for name, total in rows.items():
        table.add_row(name, *(_cell(total[f"{what}_mean"], total[f"{what}_interval"]) for what in ("return", "score")))
    return table


def _cell(mean: float | None, bounds: tuple[float, float] | None) -> str:
    if mean is None or bounds is None:
        return "–"
    return f"{mean:.1f} \\[{bounds[0]:.1f}, {bounds[1]:.1f}]"
