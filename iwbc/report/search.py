"""A picture of an Optuna search: how the best score grew, and every trial's score over each setting.

    python -m iwbc.report.search tune/study-….log [out=study.png]

Needs the extras `optuna` and `report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iwbc.errors import UserError, extra
from iwbc.settings import Settings
from iwbc.system.arguments import parse, run
from iwbc.system.files import MALFORMED


@dataclass
class Options(Settings):
    log: Path
    out: Path = Path("study.png")


def draw(log: Path, picture: Path) -> None:
    """Draw the finished trials of the one study in a file of `iwbc tune`. Raises UserError where there are none."""
    try:
        import optuna
        from matplotlib.figure import Figure
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UserError(f"cannot import {error.name}; {extra('optuna,report')}") from None
    if not log.is_file():
        raise UserError(f"{log}: no such file")
    try:
        storage = JournalStorage(JournalFileBackend(str(log)))
        (summary,) = optuna.get_all_study_summaries(storage)
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        (_,) = study.directions
        trials = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        values = np.array([trial.value for trial in trials])
        numbers = np.array([trial.number for trial in trials])
        settings = trials[0].distributions if trials else {}
        places = {name: [_place(trial.params[name], its) for trial in trials] for name, its in settings.items()}
    except (*MALFORMED, RuntimeError):
        raise UserError(f"{log}: not a study, as iwbc tune writes them") from None
    if not trials:
        raise UserError(f"{log}: no trial has finished")
    best = int(values.argmax())

    figure = Figure(figsize=(4 * (1 + len(settings)), 3.5), layout="constrained")
    axes = figure.subplots(1, 1 + len(settings), sharey=True, squeeze=False)[0]
    axes[0].plot(numbers, np.maximum.accumulate(values), drawstyle="steps-post", color="tab:gray", label="best so far")
    axes[0].legend()
    axes[0].set(xlabel="trial", ylabel="final score")
    axes[0].scatter(numbers, values, c=numbers, cmap="viridis")
    for axis, (name, distribution) in zip(axes[1:], settings.items(), strict=True):
        points = places[name]
        axis.scatter(points, values, c=numbers, cmap="viridis")
        ring = {"s": 120, "facecolors": "none", "edgecolors": "tab:red"}
        axis.scatter(points[best], values[best], label=f"best: {_label(trials[best].params[name])}", **ring)
        choices = getattr(distribution, "choices", None)
        axis.set(xlabel=name, xscale="log" if getattr(distribution, "log", False) else "linear")
        if choices is not None:
            axis.set_xticks(range(len(choices)), choices)
        axis.legend()
    figure.suptitle(f"{len(trials)} trials; later ones are lighter")
    figure.savefig(picture, dpi=150)


def _place(value: Any, distribution: Any) -> float:
    """Place a value on its axis: by itself, or among its choices."""
    choices = getattr(distribution, "choices", None)
    return float(value) if choices is None else float(choices.index(value))


def _label(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    draw(options.log, options.out)
    print(options.out)


if __name__ == "__main__":
    run(main, __doc__)
