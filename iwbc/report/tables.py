"""The report's tables: what stands in them, and the same table as Markdown, LaTeX or HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from iwbc.report.collect import Missing, Run
from iwbc.report.statistics import AGGREGATES, Estimate, Scores
from iwbc.report.study import REFERENCE, Result, Study

if TYPE_CHECKING:
    import rich.table

_NONE = "–"


@dataclass(frozen=True)
class Cell:
    """Text, and for a number the value that sorting goes by."""

    text: str
    value: float | None = None
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption; `notes` say all that is needed to read it; `footer` rows stay at the bottom. `played`: the kind
    of action that it is of, where a study has several."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    footer: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    played: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(row[i].value is not None for row in self.rows) for i in range(len(self.columns))]


# --- contents --------------------------------------------------------------------------------------------------------


def score_table(study: Study) -> Table | None:
    """Tabulate mean ± std of the normalised score, dataset by method; None where nothing has scores."""
    tasks = [name for name, task in study.tasks.items() if task.normalisation]
    table = _grid(study, tasks, "scores", "Normalised score, mean ± standard deviation over seeds", lambda r: r.mean_score)
    if table is None:
        return None
    table.notes.append(_normalisation(study, [row[0].text for row in table.rows]))
    if len(table.rows) > 1:
        columns = range(1, len(table.columns))
        table.footer.append([Cell("average"), *(_average([row[i] for row in table.rows]) for i in columns)])
        if any(cell.value is None for cell in table.footer[0][1:]):
            table.notes.append("The average is given for methods with a score on every dataset.")
    return table


def success_table(study: Study) -> Table | None:
    """Tabulate mean ± std of the success rate in per cent, where environments tell of success; None where none do."""
    tasks = [name for name in study.tasks if _says_success(study, name)]
    caption = "Success rate in per cent, mean ± standard deviation over seeds"
    return _grid(study, tasks, "success", caption, lambda r: r.success_percent)


def _says_success(study: Study, task: str) -> bool:
    return any(np.isfinite(r.success_percent) for place, results in study.cells.items() if place[0] == task for r in results)


def return_table(study: Study) -> Table | None:
    """Tabulate mean ± std of the return on the datasets with neither reference returns nor successes; None without any."""
    tasks = [name for name, task in study.tasks.items() if not task.normalisation and not _says_success(study, name)]
    caption = "Undiscounted return, mean ± standard deviation over seeds, where no reference returns are known"
    return _grid(study, tasks, "returns", caption, lambda r: r.mean_return)


def aggregate_table(
    scores: Scores,
    estimates: Mapping[str, Mapping[str, Estimate]],
    better: Mapping[str, Estimate],
    baseline: str | None,
    repetitions: int,
) -> Table:
    """Aggregates over datasets with their intervals, a row per method."""
    columns = ["method", *AGGREGATES, *([f"P(better than {baseline})"] if baseline else [])]
    rows = []
    for method, of_method in estimates.items():
        cells = [_estimate(of_method[name], 1) for name in AGGREGATES]
        if baseline:
            cells.append(_estimate(better[method], 2) if method in better else Cell(_NONE))
        rows.append([Cell(method), *cells])
    notes = [
        f"Over {len(scores.tasks)} dataset{'s' * (len(scores.tasks) != 1)}: {', '.join(scores.tasks)}.",
        "Of normalised scores (where there are no reference returns, of success rates in per cent), one per seed and dataset "
        f"({counts(map(len, scores.matrices.values()), 'seed')} per dataset). "
        "IQM: mean of the middle half; median: of the datasets' means; optimality gap: how far scores stay below 100 on "
        "average (less is better).",
        f"In brackets: 95 % intervals, stratified bootstrap over seeds ({repetitions:,} samples); "
        "with a single seed there is none.",
    ]
    if baseline:
        notes.append(
            f"P(better than {baseline}): the probability that one seed of the method scores higher than one of {baseline} on "
            "the same dataset, averaged over datasets; ties count half."
        )
    name, title = "aggregates", "Aggregates over datasets"
    if scores.played:
        name, title = f"{name}-{scores.played.replace(' ', '-')}", f"{title}, {scores.played}"
    return Table(name, title, columns, rows, notes=notes + scores.notes, played=scores.played)


def difference_table(study: Study) -> Table | None:
    """Tabulate what methods that go by a letter differ in; None where none do."""
    keys = list(dict.fromkeys(key for of_column in study.differences.values() for key in of_column))
    rows = [
        [Cell(method), *(Cell(study.differences[method].get(key, _NONE)) for key in keys)]
        for method in study.methods
        if method in study.differences
    ]
    return Table("methods", "Methods that differ in their settings", ["method", *keys], rows) if rows else None


def run_table(study: Study) -> Table:
    """List every finished run: what it trained on, how long it took, where it is."""
    columns = ["folder", "method", "dataset", "seeds", "final episodes", "kept trajectories", "gradient steps/s", "minutes"]
    rows = []
    for (task, method), runs in sorted(study.runs.items(), key=lambda item: _place(study, item[0])):
        for run in runs:
            rows.append([Cell(run.name), Cell(method), Cell(task), Cell(_ranges(run.seeds)), *_figures_of(run)])
    notes = ["Final episodes are per seed; minutes are for all of a run's seeds together, data and evaluation included."]
    return Table("runs", "Finished runs", columns, rows, notes=notes)


def missing_table(missing: Sequence[Missing]) -> Table:
    """List the runs that failed or have not finished, with the reason."""
    rows = [[Cell(run.name), Cell(run.status), Cell(run.reason)] for run in missing]
    return Table("missing", "Failed and unfinished runs", ["folder", "status", "reason"], rows)


def _grid(study: Study, tasks: Sequence[str], name: str, caption: str, measure: Callable[[Result], float]) -> Table | None:
    filled = {place: results for place, results in study.cells.items() if place[0] in tasks and results}
    tasks = [task for task in tasks if any((task, method) in filled for method in study.methods)]
    methods = [method for method in study.methods if any((task, method) in filled for task in tasks)]
    if not filled:
        return None
    seeds = {len(results) for results in filled.values()}
    rows = []
    for task in tasks:
        values = {m: [measure(result) for result in filled[task, m]] for m in methods if (task, m) in filled}
        best = max(float(np.mean(of_seeds)) for of_seeds in values.values())
        cells = [mean_std(values.get(m, []), best if len(values) > 1 else None, len(seeds) > 1) for m in methods]
        rows.append([Cell(task), *cells])
    episodes = counts((len(result.episodes) for results in filled.values() for result in results), "episode")
    varying = " (n: number of seeds, where it varies)" if len(seeds) > 1 else ""
    notes = [
        f"Each seed's number is the mean of {episodes}, played by the last policy (never the best checkpoint) with its mean "
        f"action, or with sampled actions where the dataset's name says so. {counts(seeds, 'seed').capitalize()} per "
        f"cell{varying}; the standard deviation is the sample's (n − 1), over seeds. "
        "Bold: the highest mean of a row, whatever its margin."
    ]
    if REFERENCE in methods:
        notes.append("reference: the policies that the others began from, behaviour cloning of all data.")
    return Table(name, caption, ["dataset", *methods], rows, notes=notes)


def mean_std(values: Sequence[float], best: float | None = None, say_seeds: bool = False) -> Cell:
    """Write the mean, with the sample's standard deviation where there is more than one value."""
    if not values:
        return Cell(_NONE)
    mean = float(np.mean(values))
    digits = 1 if abs(mean) >= 1 else 3
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return Cell(f"{mean:.{digits}f}{spread}{f' (n={len(values)})' if say_seeds else ''}", mean, bold=mean == best)


def _average(cells: Sequence[Cell]) -> Cell:
    values = [cell.value for cell in cells]
    if any(value is None for value in values):
        return Cell(_NONE)
    mean = float(np.mean([value for value in values if value is not None]))
    return Cell(f"{mean:.1f}", mean)


def _estimate(estimate: Estimate, digits: int) -> Cell:
    bounds = f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]" if np.isfinite(estimate.low) else ""
    return Cell(f"{estimate.value:.{digits}f}{bounds}", estimate.value)


def _normalisation(study: Study, tasks: Sequence[str]) -> str:
    bounds = dict.fromkeys((study.tasks[task].env_id, study.tasks[task].normalisation) for task in tasks)
    listed = "; ".join(f"{env_id}: {b.random:g} and {b.expert:g} ({b.source})" for env_id, b in bounds if b)
    return f"Score: 100 (G − random) / (expert − random) for a return G. Random and expert returns, and their source: {listed}."


def counts(numbers: Iterable[int], thing: str) -> str:
    """Write 3 seeds, 1 seed, or 3 to 5 seeds where the numbers differ."""
    low, high = min(levels := set(numbers)), max(levels)
    return f"{low} to {high} {thing}s" if low != high else f"{low} {thing}{'s' * (low != 1)}"


def _ranges(seeds: Iterable[int]) -> str:
    """Write 0–4, 7 for 0, 1, 2, 3, 4, 7."""
    ends: list[list[int]] = []
    for seed in sorted(seeds):
        if ends and seed == ends[-1][1] + 1:
            ends[-1][1] = seed
        else:
            ends.append([seed, seed])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in ends)


def _place(study: Study, place: tuple[str, str]) -> tuple[int, int]:
    return list(study.tasks).index(place[0]), study.methods.index(place[1])


def _figures_of(run: Run) -> list[Cell]:
    """Make the cells of episodes, kept trajectories, speed and time."""
    finals = [len(run.final(seed)) for seed in run.seeds]
    dataset, speed = run.summary.dataset, run.summary.steps_per_second
    kept, minutes = dataset.kept_trajectories, sum(run.summary.seconds.values()) / 60
    return [
        Cell(counts(finals, "episode").split(" episode")[0], min(finals)) if any(finals) else Cell("not evaluated"),
        Cell(f"{kept:,} of {dataset.trajectories:,}", kept),
        Cell(f"{speed:.0f}", speed),
        Cell(f"{minutes:.1f}", minutes),
    ]


# --- renderings ------------------------------------------------------------------------------------------------------


def to_terminal(table: Table) -> rich.table.Table:
    """Make a table for the terminal, notes below."""
    from rich.markup import escape
    from rich.table import Table as Drawn

    caption = "\n".join(map(escape, table.notes))
    drawn = Drawn(title=escape(table.caption), caption=caption, caption_justify="left")
    for name, right in zip(table.columns, table.numeric, strict=True):
        drawn.add_column(escape(name), justify="right" if right else "left", overflow="fold")
    for row in table.rows + table.footer:
        drawn.add_row(*(f"[bold]{escape(cell.text)}[/bold]" if cell.bold else escape(cell.text) for cell in row))
    return drawn


def to_markdown(table: Table) -> str:
    """Write a pipe table under its caption, notes below."""

    def line(texts: Iterable[str]) -> str:
        return f"| {' | '.join(texts)} |"

    def cell(cell: Cell) -> str:
        text = cell.text.replace("|", "\\|").replace("\n", " ")
        return f"**{text}**" if cell.bold else text

    lines = [
        line(text.replace("|", "\\|") for text in table.columns),
        line("---:" if right else "---" for right in table.numeric),
    ]
    lines += [line(map(cell, row)) for row in table.rows + table.footer]
    return "\n".join([f"### {table.caption}", "", *lines, "", *(f"- {note}" for note in table.notes), ""])


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$"},
    **{"±": r"$\pm$", "–": "--", "−": "$-$"},
}


def to_latex(table: Table) -> str:
    r"""Write a booktabs table; the notes are part of its caption. Needs \usepackage{booktabs} and nothing else."""

    def escape(text: str) -> str:
        return "".join(_LATEX.get(character, character) for character in text)

    def line(cells: Iterable[Cell]) -> str:
        texts = (rf"\textbf{{{escape(cell.text)}}}" if cell.bold else escape(cell.text) for cell in cells)
        return "  " + " & ".join(texts) + r" \\"

    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(' '.join([table.caption + '.', *table.notes]))}}}",
        rf"  \label{{tab:{table.name}}}",
        rf"  \begin{{tabular}}{{{''.join('r' if right else 'l' for right in table.numeric)}}}",
        r"  \toprule",
        line(map(Cell, table.columns)),
        r"  \midrule",
        *map(line, table.rows),
        *([r"  \midrule", *map(line, table.footer)] if table.footer else []),
        r"  \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
