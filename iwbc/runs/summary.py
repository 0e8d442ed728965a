"""What a run ends with: returns and scores with intervals, and the table that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from iwbc.data.curated import Curated
from iwbc.data.curation import keeps_all
from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.evaluation import Evaluation, interval
from iwbc.runs.folder import versions
from iwbc.settings import ACTION_NAMES, SUMMARY_FORMAT, Config


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


def method_name(config: Config, curated: Curated) -> str:
    """A run's method as tables name it, which says where a curation that was to choose has kept everything alike."""
    return config.method + (" (keeps all)" if keeps_all(curated.curation_weights, config.curation) else "")


def phase_name(phase: str, action: str, chosen: str) -> str:
    """What a phase is called among results: `final`, or `final_sampled` beside it where eval.action is both."""
    return f"{phase}_sampled" if chosen == "both" and action == "sample" else phase


def summary_of(
    config: Config,
    curated: Curated,
    environment: EnvironmentSpec | None,
    scores: ReferenceScores | None,
    evaluations: Mapping[str, Evaluation],
    seconds: Mapping[str, float],
    seeds: Sequence[int],
    diverged: Sequence[Mapping[str, Any]],
    hashes: Mapping[str, str],
) -> dict[str, Any]:
    """What summary.json holds: results by seed and phase, the dataset, what scores are relative to, times, versions, and the
    SHA-256 of other files. `seeds` are those that finished."""
    seed_steps = config.algo.steps * len(seeds)
    return {
        "format": SUMMARY_FORMAT,
        "status": "finished",
        "method": method_name(config, curated),
        "environment": None if environment is None else environment.to_plain(),
        "dataset": dataset_summary(curated),
        "algo": config.algo.name,
        "curation": config.curation.name,
        "averaging": config.averaging,
        "seeds": list(seeds),
        "diverged": list(diverged),
        "results": [
            {"seed": seed, **{phase: of_seed(one, row) for phase, one in evaluations.items()}} for row, seed in enumerate(seeds)
        ],
        "totals": {phase: totals(one) for phase, one in evaluations.items()},
        "gains": gains(evaluations),
        "normalisation": {"random": scores.random, "expert": scores.expert, "source": scores.source} if scores else None,
        "steps_per_second": config.algo.steps / seconds["training"],
        "seed_steps_per_second": seed_steps / seconds["training"],
        "seconds": seconds,
        "versions": versions(),
        "sha256": dict(hashes),
    }


def of_seed(evaluation: Evaluation, row: int) -> dict[str, Any]:
    """Mean return, score and success rate of one seed's episodes; None where there are no scores or successes."""
    returns = evaluation.returns[row]
    return {
        "episodes": len(returns),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "score_mean": None if evaluation.scores is None else float(evaluation.scores[row].mean()),
        "success_rate": None if evaluation.successes is None else float(evaluation.successes[row].mean()),
    }


def totals(evaluation: Evaluation) -> dict[str, Any]:
    """Mean return, score and success rate over seeds and episodes with 95 % bootstrap intervals: over seeds and episodes, or,
    of one seed, over its episodes alone. Scores and success are None where there are none."""
    found: dict[str, Any] = {
        "episodes": evaluation.returns.shape[1],
        "action": evaluation.action,
        "interval_over": "seeds and episodes" if len(evaluation.seeds) > 1 else "episodes",
    }
    measures = {"return": evaluation.returns, "score": evaluation.scores, "success": evaluation.successes}
    for name, values in measures.items():
        found[_MEANS[name]] = None if values is None else float(values.mean())
        found[f"{name}_interval"] = None if values is None else interval(values)
    return found


def gains(evaluations: Mapping[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """Compare the last policy with the reference that it started from, for each kind of action that both played: the mean
    difference of scores (else of successes, else of returns) in episodes of the same seeds, and its 95 % interval."""
    compared = {}
    for phase, final in evaluations.items():
        reference = evaluations.get(phase.replace("final", "reference"))
        if reference is None or reference is final or reference.seeds != final.seeds:
            continue
        measure = next(name for name in ("scores", "successes", "returns") if getattr(final, name) is not None)
        difference = getattr(final, measure) - getattr(reference, measure).astype(float)
        compared[phase] = {"of": measure, "mean": float(difference.mean()), "interval": interval(difference)}
    return compared


# What the mean of each measure is called in summary.json.
_MEANS = {"return": "return_mean", "score": "score_mean", "success": "success_rate"}


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the table of a run's summary: its reference policy, if it has one, and its last policy."""
    if not summary["totals"]:
        console.print("No evaluation was made.")
        return
    names = {"reference": "reference (BC on all data)", "final": summary["method"]}
    both = len({total["action"] for total in summary["totals"].values()}) > 1
    rows = {}
    for phase, total in summary["totals"].items():
        name = names[phase.removesuffix("_sampled")]
        rows[f"{name}, {ACTION_NAMES[total['action']]}" if both else name] = total
    scores = ReferenceScores(**summary["normalisation"]) if summary["normalisation"] else None
    console.print(results_table(rows, summary["environment"]["id"], summary["seeds"], scores))
    for phase, gain in summary.get("gains", {}).items():  # an earlier version wrote none
        played = f", {ACTION_NAMES[summary['totals'][phase]['action']]}" if both else ""
        console.print(verdict(summary["method"] + played, gain, len(summary["seeds"])), markup=False, soft_wrap=True)


def verdict(name: str, gain: Mapping[str, Any], seeds: int) -> str:
    """Say in a sentence how the last policy compares with its reference, and how sure that is."""
    low, high = gain["interval"]
    says = "does better than" if low > 0 else "does worse than" if high < 0 else "cannot be told from"
    by, unit = (100.0, " points of success") if gain["of"] == "successes" else (1.0, f" of {gain['of'][:-1]}")
    numbers = f"{by * gain['mean']:+.1f} [{by * low:+.1f}, {by * high:+.1f}]{unit}"
    sure = f"over {seeds} seeds" if seeds > 1 else "for this seed alone; seeds=[0,1,2] tells more"
    return f"{name} {says} the reference that it started from: {numbers} {sure}."


def results_table(rows: dict[str, dict[str, Any]], env: str, seeds: list[int], scores: ReferenceScores | None) -> Table:
    """A table of `totals`, one named row each."""
    first = next(iter(rows.values()))
    played = {row["action"] for row in rows.values()}
    actions = " and ".join(name for action, name in ACTION_NAMES.items() if action in played)
    note = f"{first['episodes']} episodes for seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; {actions}, last policy"
    if scores is not None:
        note += f"\nscore 0 = return {scores.random:g}, 100 = return {scores.expert:g} ({scores.source})"
    note += f"\nin brackets: 95 % bootstrap interval of the mean over {first['interval_over']}"
    table = Table(title=env, caption=note, caption_justify="left")
    table.add_column("policy", overflow="fold")  # what gives way in a narrow terminal: numbers stay whole
    shown = {"return": 1.0, "score": 1.0, "success": 100.0}
    if first["success_rate"] is None:
        del shown["success"]
    for name in shown:
        table.add_column("success %" if name == "success" else name, justify="right", no_wrap=True)
    for row, total in rows.items():
        table.add_row(row, *(_cell(total[_MEANS[what]], total[f"{what}_interval"], by) for what, by in shown.items()))
    return table


def _cell(mean: float | None, bounds: tuple[float, float] | None, by: float) -> str:
    if mean is None or bounds is None:
        return "–"
    return f"{by * mean:.1f} \\[{by * bounds[0]:.1f}, {by * bounds[1]:.1f}]"
