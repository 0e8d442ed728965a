"""Runs that were evaluated in different ways are not put side by side, unless the user asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iwbc.errors import UserError
from iwbc.report.collect import Run

# The versions that returns may depend on.
_VERSIONS = ("iwbc", "torch", "gymnasium", "mujoco")


def check_protocol(runs: Sequence[Run]) -> None:
    """Raise UserError, naming what differs and where, unless all evaluated runs had as many episodes, the same choice of
    actions and evaluation seed, and the same versions, and the runs of a dataset the same reference returns."""
    first: dict[tuple[str, str], tuple[Any, Run]] = {}
    for run in runs:
        if not run.summary.totals:
            continue
        for (name, where), value in _protocol(run).items():
            known, other = first.setdefault((name, where), (value, run))
            if known != value:
                place = f" on {where}" if where else ""
                raise UserError(
                    f"{other.folder} and {run.folder}: were not evaluated alike{place}: {name} is {known} and {value}; report "
                    "on them one by one, or, to mix them, add mixed=true"
                )


def _protocol(run: Run) -> dict[tuple[str, str], Any]:
    """List what must be the same, by name and by the dataset on which it must be (all, where that is empty)."""
    evaluation, versions = run.config.get("eval"), run.summary.versions
    settings: dict[tuple[str, str], Any] = {("reference returns", run.task.dataset): run.task.normalisation}
    if isinstance(evaluation, dict):
        settings |= {(f"eval.{key}", ""): evaluation[key] for key in ("episodes", "action", "seed") if key in evaluation}
    return settings | {(f"the version of {key}", ""): versions[key] for key in _VERSIONS if key in versions}
