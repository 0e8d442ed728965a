"""A verdict on methods that were run on the same data from the same seeds: a sentence with its uncertainty, and a table.

Methods are compared in pairs: what two of them did from the same seed, and so from the same reference policy. The difference's
interval is Student's, since of a handful of seeds a bootstrap interval is far too narrow. The best is picked from k methods:
the interval of its difference from another is Bonferroni's of k − 1 comparisons. With it the simplest of equal methods is
passed over in less than one comparison of twenty; that the best may be the luckiest of the k is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iwbc.intervals import student_quantile
from iwbc.report.statistics import Array, probability_of_improvement
from iwbc.report.tables import Cell, Table

FEWEST = 3  # pairs that a verdict takes
_POWER = 0.8


@dataclass(frozen=True)
class Contender:
    """A method with its results by seed, or by what else is paired. settings: what `iwbc train` takes for it; curation: a
    name for the trajectories that it learns from, and their weights."""

    name: str
    settings: str
    curation: str
    values: Mapping[int, float]
    seconds: float = 0.0  # for each seed


@dataclass(frozen=True)
class Measure:
    """The figure that methods are compared by, larger is better, and what is paired, in the singular and plural. caveat: the
    words with which a sentence begins. step: the least difference of two values, such as an episode's of a success rate."""

    name: str
    paired: tuple[str, str] = ("seed", "seeds")
    digits: int = 1
    caveat: str = ""
    step: float = 0.0

    def text(self, value: float) -> str:
        return f"{value:.{self.digits}f}"

    def count(self, pairs: int) -> str:
        return f"{pairs} {self.paired[pairs != 1]}"

    def change(self, told: Difference) -> str:
        """Write a difference with its interval."""
        mean, low, high = (f"{value:+.{self.digits}f}" for value in (told.mean, told.low, told.high))
        return f"{mean} [{low}, {high}]"

    def difference(self, first: Array, second: Array, comparisons: int = 1) -> Difference:
        """Compare paired values, [n] each, n at least 2, as one of so many comparisons."""
        change = first - second
        error = float(change.std(ddof=1)) / math.sqrt(len(change))
        if error < 1e-12 * max(1.0, float(np.abs(first).max())):  # equal but for rounding
            error = 0.0
        # Differences that are all alike are no surer than whole episodes can tell, each to within half a step.
        error = max(error, self.step * math.sqrt(2 / 12 / len(change)))
        freedom, mean = len(change) - 1, float(change.mean())
        reach = student_quantile(1.0 - 0.025 / comparisons, freedom)
        detectable = (reach + student_quantile(_POWER, freedom)) * error
        return Difference(mean, mean - reach * error, mean + reach * error, self._better(first, second), detectable)

    def _better(self, first: Array, second: Array) -> float:
        if self.paired[0] == "seed":
            return float(probability_of_improvement(first[:, None], second[:, None]))
        # Trajectories differ more from each other than methods do: only pairs tell.
        return float(((first > second) + 0.5 * (first == second)).mean())


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its interval, the probability that the first is better, and the difference that as many
    pairs, as noisy as these, show in four of five comparisons."""

    mean: float
    low: float
    high: float
    better: float
    detectable: float

    @property
    def told(self) -> bool:
        """Truth of the first's being measurably better than the second."""
        return self.low > 0.0


# --- the sentence ----------------------------------------------------------------------------------------------------


def sentence(contenders: Sequence[Contender], measure: Measure, short: str | None = None) -> str:
    """Say which method to use, with the uncertainty. contenders: from the simplest to the most complex; short: why there are
    too few seeds, if there are."""
    values = common(contenders)
    pairs = len(values[0])
    best = _best(values)
    if short is not None or pairs < FEWEST:
        level = len(values) > 1 and len({float(each.mean()) for each in values}) == 1
        leads = f"all {len(values)} are level at" if level else f"{contenders[best].name} is highest with"
        so_far = f"so far {leads} {_mean(values[best], measure)}"
        return f"{short or f'{measure.count(pairs)} that all methods have are too few for a verdict'}; {so_far}."
    if len(contenders) == 1:
        return f"{contenders[0].name} alone was run, with {_mean(values[0], measure)}: there is nothing to compare it with."
    others = [i for i in range(len(values)) if i != best]
    from_others = {i: measure.difference(values[best], values[i], len(others)) for i in others}
    alike = [i for i in others if not from_others[i].told]
    simplest, behind = min([best, *alike]), [i for i in others if i not in alike]
    rival = simplest if simplest != best else max(behind or others, key=lambda i: float(values[i].mean()))
    told, first, second, advised = from_others[rival], contenders[best], contenders[rival], contenders[simplest]
    elsewhere = "" if first.curation == second.curation else ", learning from other trajectories,"
    on = measure.count(pairs)
    scores = f"{first.name} {_mean(values[best], measure)} against {second.name} {_mean(values[rival], measure)}"
    compared = f"{scores}{elsewhere} on {on}: {measure.change(told)} of pairs, P(better) {told.better:.2f}"
    if told.told:
        names = _listed([contenders[i].name for i in alike])
        return f"{measure.caveat}{compared}; {f'{names} cannot be told from it; ' if alike else ''}use {advised.settings}."
    power = f"{on} would have shown a difference of {measure.text(told.detectable)}; " if told.detectable else ""
    advice = f"{power}the simplest is {advised.name}; use {advised.settings}."
    return f"{measure.caveat}No measurable difference: {compared}; {advice}"


def common(contenders: Sequence[Contender]) -> list[Array]:
    """List the values of each contender, [n], of the seeds that all of them have, in the same order."""
    shared = sorted(set.intersection(*(set(contender.values) for contender in contenders)))
    return [np.array([contender.values[unit] for unit in shared]) for contender in contenders]


def _best(values: Sequence[Array]) -> int:
    """Find the highest mean; of equal ones the simplest's."""
    means = [float(of_method.mean()) for of_method in values] if len(values[0]) else [0.0]
    return means.index(max(means))


def _mean(values: Array, measure: Measure) -> str:
    if not len(values):
        return "no result"
    spread = f" ± {measure.text(float(values.std(ddof=1)))}" if len(values) > 1 else ""
    return f"{measure.text(float(values.mean()))}{spread}"


# --- the table -------------------------------------------------------------------------------------------------------


def verdict_table(contenders: Sequence[Contender], measure: Measure, notes: Sequence[str] = (), played: str = "") -> Table:
    """Tabulate every method beside the best."""
    values = common(contenders)
    best, pairs = _best(values), len(values[0])
    columns = ["method", "learns from", f"{measure.name}, mean ± std", "from the best", "P(better than it)", "seconds a seed"]
    rows = []
    for i, (contender, of_method) in enumerate(zip(contenders, values, strict=True)):
        cells = [Cell("–"), Cell("–")]
        if i != best and pairs > 1:
            told = measure.difference(of_method, values[best], len(contenders) - 1)
            cells = [Cell(measure.change(told), told.mean), Cell(f"{told.better:.2f}", told.better)]
        mean = Cell(_mean(of_method, measure), float(of_method.mean()) if pairs else None, bold=i == best)
        time = Cell(f"{contender.seconds:.1f}", contender.seconds)
        rows.append([Cell(contender.name), Cell(contender.curation), mean, *cells, time])
    said = [
        f"Of {measure.count(pairs)}, the same for every method; of the last policy, never of the best checkpoint. "
        "Bold: the highest mean.",
        f"from the best: mean of paired differences, with Student's 95 % interval, wider for {len(contenders) - 1} comparisons "
        "(Bonferroni). P(better than it): that the method is better than the best; ties count half.",
        *_curations(contenders),
        *notes,
        f"iwbc train … {'; '.join(f'{contender.settings} ({contender.name})' for contender in contenders)}.",
    ]
    name, caption = ("verdict", "Verdict") if not played else (f"verdict-{played.replace(' ', '-')}", f"Verdict, {played}")
    return Table(name, caption, columns, rows, notes=said)


def _curations(contenders: Sequence[Contender]) -> list[str]:
    """Say which methods learn from the same trajectories, where not all do."""
    groups: dict[str, list[str]] = {}
    for contender in contenders:
        groups.setdefault(contender.curation, []).append(contender.name)
    if len(groups) < 2:
        return []
    alike = [_listed(names) for names in groups.values() if len(names) > 1]
    same = [f"{names} learn from the same trajectories: their differences are the methods'." for names in alike]
    return [*same, "Between methods that learn from others, part of the difference is the curation's."]


def _listed(names: Sequence[str]) -> str:
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last
