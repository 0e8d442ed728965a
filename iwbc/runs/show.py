"""A summary as people read it: a table, sentences, a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from iwbc.environments.scores import ReferenceScores
from iwbc.runs.summary import Gain, Summary, Total
from iwbc.settings import ACTION_NAMES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def show(summary: Summary, console: Console) -> None:
    """Print the table of a run's summary: its reference policy, if it has one, and its last policy."""
    if not summary.totals or summary.environment is None:
        console.print("No evaluation was made.")
        return
    names = {"reference": "reference (BC on all data)", "final": summary.method}
    both = len({total.action for total in summary.totals.values()}) > 1
    rows = {}
    for phase, total in summary.totals.items():
        name = names[phase.removesuffix("_sampled")]
        rows[f"{name}, {ACTION_NAMES[total.action]}" if both else name] = total
    console.print(results_table(rows, summary.environment.id, summary.seeds, summary.normalisation))
    for phase, gain in (summary.gains or {}).items():
        played = f", {ACTION_NAMES[summary.totals[phase].action]}" if both else ""
        console.print(verdict(summary.method + played, gain, len(summary.seeds)), markup=False, soft_wrap=True)


def verdict(name: str, gain: Gain, seeds: int) -> str:
    """Say in a sentence how the last policy compares with its reference, and how sure that is."""
    by, unit = (100.0, " points of success") if gain.of == "successes" else (1.0, f" of {gain.of[:-1]}")
    low, high = gain.interval
    says = "does better than" if low > 0 else "does worse than" if high < 0 else "cannot be told from"
    numbers = f"{by * gain.mean:+.1f} [{by * low:+.1f}, {by * high:+.1f}]{unit}"
    sure = f"over {seeds} seeds" if seeds > 1 else "for this seed alone; seeds=[0,1,2] tells more"
    return f"{name} {says} the reference that it started from: {numbers} {sure}."


def episodes_of(total: Total) -> str:
    """Say how many episodes were played."""
    return f"{total.episodes} episode{'s' * (total.episodes != 1)}"


def results_table(rows: Mapping[str, Total], env: str, seeds: Sequence[int], scores: ReferenceScores | None) -> Table:
    """Make a table of `totals`, one named row each."""
    from rich.markup import escape
    from rich.table import Table

    first = next(iter(rows.values()))
    played = {row.action for row in rows.values()}
    actions = " and ".join(name for action, name in ACTION_NAMES.items() if action in played)
    note = f"{episodes_of(first)} for seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; {actions}, last policy"
    if scores is not None:
        note += f"\nscore 0 = return {scores.random:g}, 100 = return {scores.expert:g} ({escape(scores.source)})"
    note += f"\nin brackets: 95 % interval of the mean over {first.interval_over}"
    table = Table(title=escape(env), caption=note, caption_justify="left")
    table.add_column("policy", overflow="fold")  # what gives way in a narrow terminal: numbers stay whole
    shown = ("return", "score") if first.success_rate is None else ("return", "score", "success")
    for name in shown:
        table.add_column("success %" if name == "success" else name, justify="right", no_wrap=True)
    for name, total in rows.items():
        cells = (total.measures.get(measure) for measure in shown)
        table.add_row(escape(name), *("–" if e is None else f"{e.mean:.1f} \\[{e.low:.1f}, {e.high:.1f}]" for e in cells))
    return table


def line(summary: Summary) -> str:
    """Say the last policy's return, score and success rate, each with its interval, on one line, for each kind of action."""
    finals, lost = list(summary.finals.values()), len(summary.diverged)
    diverged = f"; {lost} of {lost + len(summary.seeds)} seeds diverged" if lost else ""
    if not finals:
        return f"finished, not evaluated{diverged}"
    if len(finals) == 1:
        return _measures(finals[0]) + diverged
    return "; ".join(f"{ACTION_NAMES[final.action]}: {_measures(final)}" for final in finals) + diverged


def _measures(final: Total) -> str:
    return ", ".join(
        f"{name} {e.mean:.1f} [{e.low:.1f}, {e.high:.1f}]{' %' * (name == 'success')}" for name, e in final.measures.items()
    )


def sentences(summary: Summary) -> list[str]:
    """Say the results, a sentence for each policy and action."""
    said = []
    for phase, total in summary.totals.items():
        who = "The reference (BC on all data)" if phase.startswith("reference") else summary.method
        measures = [(name, total.measures[name]) for name in ("success", "score", "return") if name in total.measures]
        parts = [f"{name} {e.mean:.1f}{' %' * (name == 'success')} [{e.low:.1f}, {e.high:.1f}]" for name, e in measures]
        what = f"{episodes_of(total)} of each seed, {ACTION_NAMES[total.action]}"
        said.append(f"{who}: {', '.join(parts)} ({what}; 95 % interval over {total.interval_over}).")
    return said or ["The policy was not evaluated."]


def facts(summary: Summary) -> list[tuple[str, str]]:
    """List what else there is to say of a run, by name."""
    dataset, environment, scores = summary.dataset, summary.environment, summary.normalisation
    kept = f"{dataset.kept_trajectories:,} of {dataset.trajectories:,} trajectories, {dataset.kept_steps:,} steps"
    listed = [
        ("curation", f"{summary.curation}{(summary.chosen and f' chose {summary.chosen}, which') or ''} keeps {kept}"),
        ("environment", "none" if environment is None else environment.id),
        ("seeds", ", ".join(map(str, summary.seeds))),
        ("time", f"{sum(summary.seconds.values()):.0f} s, {summary.steps_per_second:.0f} gradient steps a second"),
    ]
    if scores:
        listed.append(("score", f"0 is a return of {scores.random:g}, 100 of {scores.expert:g} ({scores.source})"))
    return listed
