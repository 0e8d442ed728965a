"""run.html: what a run did, on one page that needs no other file, no network and no extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from iwbc import __version__
from iwbc.runs.charts import Array, Chart, figures
from iwbc.runs.read import of_seeds, read_choice, read_curation, read_episodes, read_metrics, read_videos, read_weights
from iwbc.runs.rows import EpisodeRow
from iwbc.runs.show import facts, sentences
from iwbc.runs.summary import Summary

Columns = Mapping[str, Array]


def page(folder: Path, summary: Summary) -> str:
    """Make the text of run.html from a run folder's other files and its summary. Raises UserError where one is damaged."""
    from jinja2 import Environment, FileSystemLoader

    templates = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    return templates.get_template("run.html").render(
        title=f"{summary.method} on {summary.dataset.id}",
        lead=sentences(summary),
        facts=facts(summary),
        charts=figures(_charts(folder, summary)),
        videos=read_videos(folder),
        settings=(folder / "config.yaml").read_text(encoding="utf-8"),
        version=__version__,
    )


def _charts(folder: Path, summary: Summary) -> list[Chart]:
    metrics, weights = (of_seeds(read(folder), summary.seeds) for read in (read_metrics, read_weights))
    charts = [_learning_curve(folder, summary), _trials(folder), _returns(folder)]
    if len(np.unique(weights.get("weight", np.ones(0)))) > 1:
        charts += [_weights(weights), _weight_histogram(weights)]
    charts.append(_over_steps("Effective sample size", "share of the curated trajectories' own", metrics, {"ess_share": ""}))
    charts.append(_over_steps("κ", "κ that gives the weights their effective sample size", metrics, {"kappa": ""}))
    likelihoods = {"log_prob_kept": "kept", "log_prob_dropped": "dropped", "log_prob_held_out": "held out"}
    charts.append(_over_steps("Log-likelihood", "nats a step, mean over seeds", metrics, likelihoods))
    drifts = {"drift_kept": "kept", "drift_dropped": "dropped"}
    charts.append(_over_steps("Drift from the reference", "nats a step, mean over seeds", metrics, drifts))
    return charts


def _learning_curve(folder: Path, summary: Summary) -> Chart:
    """Draw the mean of every evaluation, for each seed and over them."""
    action = summary.totals["final"].action if "final" in summary.totals else "mean"
    episodes = [e for e in read_episodes(folder) if e.action == action and e.seed in summary.seeds]
    measure = _result(episodes[0])[0] if episodes else "return"
    chart = Chart("Learning curve", "gradient steps", f"{measure}, mean of episodes")
    by_seed: dict[int, dict[int, list[float]]] = {}
    for episode in episodes:
        by_seed.setdefault(episode.seed, {}).setdefault(episode.step, []).append(_result(episode)[1])
    curves = {
        seed: {step: float(np.mean(values)) for step, values in sorted(by_step.items())} for seed, by_step in by_seed.items()
    }
    for by_step in curves.values() if len(curves) > 1 else ():
        chart.line(np.array(list(by_step)), np.array(list(by_step.values())), "faint")
    steps = sorted(set.intersection(*map(set, curves.values()))) if curves else []
    means = np.array([np.mean([by_step[step] for by_step in curves.values()]) for step in steps])
    chart.line(np.array(steps), means, "s0", "mean over seeds (thin: each)" if len(curves) > 1 else None)
    chart.points(np.array(steps), means, "s0")
    return chart


def _result(episode: EpisodeRow) -> tuple[str, float]:
    """Return the name and the value of what is told of an episode."""
    if episode.score is not None:
        return "score", episode.score
    return ("return", episode.total) if episode.success is None else ("success rate", float(episode.success))


def _returns(folder: Path) -> Chart:
    columns = read_curation(folder)
    chart = Chart("Returns", "return", "trajectories, logarithmic", log_y=True)
    if columns:
        edges = np.append(columns["return_low"], columns["return_high"][-1])
        chart.bars(edges, columns["trajectories"], "all", "all")
        chart.bars(edges, columns["kept"], "s0", "kept")
    return chart


def _trials(folder: Path) -> Chart:
    chart = Chart("Trials of curations", "effective number of trajectories, logarithmic", "held-out nats a step", log_x=True)
    if (choice := read_choice(folder)) is not None and choice.trials:
        tried = sorted(choice.trials, key=lambda trial: trial.effective)
        for style, name, some in (
            ("s0", "tried", tried),
            ("s1", choice.words, [trial for trial in tried if trial.curation == choice.curation]),
        ):
            figures = np.array([(trial.effective, trial.log_prob) for trial in some])
            chart.points(figures[:, 0], figures[:, 1], style, name)
    return chart


def _weights(columns: Columns) -> Chart:
    x = "return" if np.ptp(columns["return"]) > 1e-6 else "length"  # where only success is rewarded, say
    chart = Chart("Weights at the end", x, "weight of a trajectory, logarithmic", log_y=True)
    for i, seed in enumerate(np.unique(columns["seed"])):
        rows = columns["seed"] == seed
        chart.points(columns[x][rows], columns["weight"][rows], f"s{i % 4}", f"seed {seed:.0f}")
    return chart


def _weight_histogram(columns: Columns) -> Chart:
    chart = Chart("Weights at the end", "weight of a trajectory, logarithmic", "trajectories, all seeds", log_x=True)
    positive = columns["weight"][columns["weight"] > 0]
    edges = np.geomspace(positive.min(), positive.max() * (1 + 1e-9), 31)
    chart.bars(edges, np.histogram(positive, edges)[0], "s0")
    return chart


def _over_steps(title: str, y: str, metrics: Columns, names: dict[str, str]) -> Chart:
    """Draw columns of metrics.csv over the gradient steps, each the mean over seeds."""
    chart = Chart(title, "gradient steps", y)
    for i, (name, label) in enumerate((name, label) for name, label in names.items() if name in metrics):
        steps, row = np.unique(metrics["step"], return_inverse=True)
        chart.line(steps, np.bincount(row, metrics[name]) / np.bincount(row), f"s{i}", label or None)
    return chart
