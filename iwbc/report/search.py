"""A picture of an Optuna search: how the best score grew, and every trial's score over each setting.

    python -m iwbc.report.search multirun/study-….db [out=study.png]

Needs the extras `optuna` and `report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iwbc.commands import Option, parse, run
from iwbc.errors import UserError


def draw(database: Path, picture: Path) -> None:
    """Draw the finished trials of the one study in an SQLite file. Raises UserError where there are none."""
    try:
        import optuna
        from matplotlib.figure import Figure
        from sqlalchemy.exc import DatabaseError
    except ImportError as error:
        raise UserError(f"cannot import {error.name}; pip install 'iwbc[optuna,report]'") from None
    if not database.is_file():
        raise UserError(f"{database}: no such file")
    storage = f"sqlite:///{database}"
    try:
        (summary,) = optuna.get_all_study_summaries(storage)
    except (DatabaseError, ValueError):
        raise UserError(f"{database}: not a study, as hydra/sweeper=tune_iw_bc writes them") from None
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    trials = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if not trials:
        raise UserError(f"{database}: no trial has finished")
    values = np.array([trial.value for trial in trials])
    numbers = np.array([trial.number for trial in trials])
    settings = trials[0].distributions
    best = int(values.argmax())

    figure = Figure(figsize=(4 * (1 + len(settings)), 3.5), layout="constrained")
    axes = figure.subplots(1, 1 + len(settings), sharey=True, squeeze=False)[0]
    axes[0].plot(numbers, np.maximum.accumulate(values), drawstyle="steps-post", color="tab:gray", label="best so far")
    axes[0].legend()
    axes[0].set(xlabel="trial", ylabel="final score")
    axes[0].scatter(numbers, values, c=numbers, cmap="viridis")
    for axis, (name, distribution) in zip(axes[1:], settings.items(), strict=True):
        points = [trial.params[name] for trial in trials]
        axis.scatter(points, values, c=numbers, cmap="viridis")
        ring = {"s": 120, "facecolors": "none", "edgecolors": "tab:red"}
        axis.scatter(points[best], values[best], label=f"best: {points[best]:.3g}", **ring)
        is_log = isinstance(distribution, optuna.distributions.LogUniformDistribution)
        axis.set(xlabel=name, xscale="log" if is_log else "linear")
        axis.legend()
    figure.suptitle(f"{len(trials)} trials; later ones are lighter")
    figure.savefig(picture, dpi=150)


def main(arguments: Sequence[str]) -> None:
    # A sweep's folders may be called key=value: only `out=` is an option.
    options = [argument for argument in arguments if argument.startswith("out=")]
    out = parse(options, {"out": Option(Path, Path("study.png"))})["out"]
    databases = [argument for argument in arguments if argument not in options]
    if len(databases) != 1:
        raise UserError("give one study-….db (see --help)")
    draw(Path(databases[0]), out)
    print(out)


if __name__ == "__main__":
    run(main, __doc__)
