"""What a run ends with: returns and scores with intervals, and the table that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from iwbc.data.curated import Curated
from iwbc.evaluation import Evaluation, interval
from iwbc.runs import versions
from iwbc.scores import ReferenceScores
from iwbc.settings import Config


def dataset_summary(curated: Curated) -> dict[str, Any]:
    """What summary.json says of the data: id, content hash, and how much of it is kept."""
    trajectories = curated.trajectories
    return {
        "id": trajectories.info.id,
        "content_hash": trajectories.content_hash,
        "trajectories": len(trajectories),
        "steps": trajectories.steps,
        "kept_trajectories": len(curated.kept),
        "kept_steps": curated.steps,
    }


def summary_of(
    config: Config,
    curated: Curated,
    scores: ReferenceScores | None,
    evaluations: Mapping[str, Evaluation],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What summary.json holds: results by seed and phase, the dataset, what scores are relative to, times, versions."""
    info = curated.trajectories.info
    seed_steps = config.algo.steps * len(config.all_seeds)
    return {
        "format": 1,
        "status": "finished",
        "method": config.method,
        "env_id": config.env.id or info.env_id,
        "env_kwargs": info.env_kwargs if config.env.id in (None, info.env_id) else {},
        "backend": config.eval.backend,
        "dataset": dataset_summary(curated),
        "algo": config.algo.name,
        "curation": config.curation.name,
        "averaging": config.averaging,
        "seeds": config.all_seeds,
        "results": [
            {"seed": seed, **{phase: _of_seed(one, row) for phase, one in evaluations.items()}}
            for row, seed in enumerate(config.all_seeds)
        ],
        "totals": {phase: totals(one) for phase, one in evaluations.items()},
        "normalisation": {"random": scores.random, "expert": scores.expert, "source": scores.source} if scores else None,
        "steps_per_second": config.algo.steps / seconds["training"],
        "seed_steps_per_second": seed_steps / seconds["training"],
        "seconds": seconds,
        "versions": versions(),
    }


def _of_seed(evaluation: Evaluation, row: int) -> dict[str, Any]:
    returns = evaluation.returns[row]
    return {
        "episodes": len(returns),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "score_mean": None if evaluation.scores is None else float(evaluation.scores[row].mean()),
    }


def totals(evaluation: Evaluation) -> dict[str, Any]:
    """Mean return and score over seeds and episodes with 95 % bootstrap intervals (scores None where there are none)."""
    found: dict[str, Any] = {
        "episodes": evaluation.returns.shape[1],
        "return_mean": float(evaluation.returns.mean()),
        "return_interval": interval(evaluation.returns),
        "score_mean": None,
        "score_interval": None,
    }
    if evaluation.scores is not None:
        found |= {"score_mean": evaluation.score, "score_interval": interval(evaluation.scores)}
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
