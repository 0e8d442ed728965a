"""A picture of an Optuna study: how the best score grew, and every trial's score over each setting.

    python benchmarks/study_picture.py multirun/study-….db study.png

Needs the extras `optuna` and `report`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.distributions import LogUniformDistribution


def draw(database: Path, picture: Path) -> None:
    """Draw the finished trials of the one study in an SQLite file."""
    storage = f"sqlite:///{database}"
    (summary,) = optuna.get_all_study_summaries(storage)
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    trials = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if not trials:
        sys.exit(f"{database}: no trial has finished")
    values = np.array([trial.value for trial in trials])
    numbers = np.array([trial.number for trial in trials])
    settings = trials[0].distributions
    best = int(values.argmax())

    figure, axes = plt.subplots(1, 1 + len(settings), figsize=(4 * (1 + len(settings)), 3.5), sharey=True, layout="constrained")
    axes[0].plot(numbers, np.maximum.accumulate(values), drawstyle="steps-post", color="tab:gray", label="best so far")
    axes[0].legend()
    axes[0].set(xlabel="trial", ylabel="final score")
    axes[0].scatter(numbers, values, c=numbers, cmap="viridis")
    for axis, (name, distribution) in zip(axes[1:], settings.items(), strict=True):
        points = [trial.params[name] for trial in trials]
        axis.scatter(points, values, c=numbers, cmap="viridis")
        ring = {"s": 120, "facecolors": "none", "edgecolors": "tab:red"}
        axis.scatter(points[best], values[best], label=f"best: {points[best]:.3g}", **ring)
        axis.set(xlabel=name, xscale="log" if isinstance(distribution, LogUniformDistribution) else "linear")
        axis.legend()
    figure.suptitle(f"{len(trials)} trials; later ones are lighter")
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    if len(sys.argv) != 3 or not Path(sys.argv[1]).exists():
        sys.exit("usage: python benchmarks/study_picture.py STUDY.db PICTURE.png")
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
