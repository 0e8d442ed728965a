"""Runs of several methods from the same seeds, as many as a budget of time allows.

A folder holds a run for each method and block of seeds: filtered_bc-0-2 has the seeds 0, 1 and 2. The plan goes by the times
that summaries hold, so that the same command plans the same again, and time decides the number of seeds alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from iwbc.data.curation import pinned
from iwbc.errors import UserError
from iwbc.runs.read import read_choice, read_summary
from iwbc.runs.summary import Summary
from iwbc.settings import Config, OwnPolicy, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from iwbc.training.trained import Policies

AT_FIRST = 3  # seeds of every method, by which the others are planned; fewer allow no verdict
_WANTED = 5  # of which costly methods must leave room: with 3, Student's interval is two to three times as wide
_MOST = 20


@dataclass(frozen=True)
class Method:
    """A method of a comparison, by its settings. effort: the cost of its gradient step, in those of behaviour cloning; trials:
    policies that are trained before the first run, with as many steps as the method's."""

    settings: tuple[str, ...]
    effort: float = 1.0
    trials: int = 0


@dataclass(frozen=True)
class Cost:
    """Seconds that a method takes for each seed, and once for a run, whatever its seeds."""

    each: float
    once: float

    def of(self, seeds: int) -> float:
        """Return the seconds of a run of so many seeds."""
        return self.once + seeds * self.each


def cost_of(summaries: Sequence[Summary]) -> Cost:
    """Measure the cost of a method by its finished runs; a choice of curation, which is cached, is not made again."""
    loading = [summary.seconds["data"] for summary in summaries]
    cached = sum(summary.seconds.get("curation", 0.0) for summary in summaries)
    return Cost((_spent(summaries) - sum(loading) - cached) / _seeds(summaries), min(loading))


def estimate(summaries: Sequence[Summary], steps: float, trials: int = 0) -> Cost:
    """Estimate the cost of a method by runs of another, from the same references: of `steps` times as many gradient steps, with
    trials beforehand."""
    training, reference = (
        sum(run.seconds[name] for run in summaries) / _seeds(summaries) for name in ("training", "reference")
    )
    cost = cost_of(summaries)
    return Cost(cost.each + (steps - 1.0) * training - reference, cost.once + trials * steps * training)


@dataclass(frozen=True)
class Plan:
    """The state of a comparison: seconds spent, and for each method its cost and the seeds that it has been run with."""

    spent: float
    costs: Sequence[Cost]
    made: Sequence[int]

    def seconds(self, seeds: int) -> float:
        """Return the seconds in all when every method has been run with so many seeds."""
        missing = [(cost, seeds - made) for cost, made in zip(self.costs, self.made, strict=True)]
        return self.spent + sum(cost.of(more) for cost, more in missing if more > 0)

    def seeds(self, budget: float) -> int:
        """Return the seeds of every method that the budget allows: at least one, three at first, and no more where that would
        be less than a fifth more."""
        done = min(self.made)
        most = _MOST if done >= AT_FIRST else AT_FIRST
        allowed = max((seeds for seeds in range(1, most + 1) if self.seconds(seeds) <= budget), default=1)
        return allowed if done < AT_FIRST or 5 * (allowed - done) >= done else done


def _spent(summaries: Sequence[Summary]) -> float:
    return sum(sum(summary.seconds.values()) for summary in summaries)


def _seeds(summaries: Sequence[Summary]) -> int:
    """Count seeds, diverged ones too."""
    return sum(len(summary.seeds) + len(summary.diverged) for summary in summaries)


class Comparison:
    """The runs of every method in a folder, on data of a content hash. left_out: why methods have no place in it, by method."""

    def __init__(
        self, methods: Mapping[str, Method], configs: Mapping[str, Config], content: str, folder: Path, console: Console
    ) -> None:
        self.configs, self.folder, self.console, self._methods, self._content = configs, folder, console, methods, content
        self.left_out: dict[str, str] = {}

    @property
    def methods(self) -> list[str]:
        """The methods that are not left out."""
        return [method for method in self.configs if method not in self.left_out]

    def make(self, budget: float) -> None:
        """Make the runs that the budget, in seconds, allows, and end those that were begun. A method that fails is left out,
        and so is a costly one that does not fit.

        Raises UserError where the folder holds other runs, or the first run fails.
        """
        self._check_data()
        self._make(self.methods[0], 1)
        self._leave_out_costly(budget)
        while (target := max(self._begun(), (plan := self.plan()).seeds(budget))) > min(plan.made):
            for method in self.methods:
                self._make(method, target)

    def summaries(self, method: str) -> list[Summary]:
        """Read the summaries of a method's finished runs."""
        read = (read_summary(self._path(method, block)) for block in self._blocks(method))
        return [summary for summary in read if summary is not None]

    def curation(self, method: str) -> Settings:
        """Return what a method's runs, of which one is finished, learn from: what curation=auto has chosen, not auto."""
        choice = read_choice(self._path(method, self._blocks(method)[0]))
        return self.configs[method].curation if choice is None else choice.curation

    def seeds(self) -> list[int]:
        """List the seeds of which every method has a policy."""
        return sorted(set.intersection(*({s for run in self.summaries(method) for s in run.seeds} for method in self.methods)))

    def plan(self) -> Plan:
        """Return the state and the costs: as measured, or before a method's first run by the runs of the first method."""
        first, costs, made = self.methods[0], list[Cost](), list[int]()
        measured = self.summaries(first)
        for method in self.methods:
            steps = self._methods[method].effort * self.configs[method].algo.steps / self.configs[first].algo.steps
            runs = self.summaries(method)
            costs.append(cost_of(runs) if runs else estimate(measured, steps, self._methods[method].trials))
            made.append(_seeds(runs))
        return Plan(sum(_spent(self.summaries(method)) for method in self.methods), costs, made)

    def policies(self, method: str) -> Policies:
        """Load a method's last policies, of `seeds()`."""
        from iwbc.training.trained import Policies, load_policy

        custom, seeds = self.configs[method].policy, self.seeds()
        paths = [self._path(method, block) / "policy.safetensors" for block in self._blocks(method)]
        parts = [load_policy(path, policy=custom if isinstance(custom, OwnPolicy) else None) for path in paths]
        modules = {seed: part.of_seed(seed) for part in parts for seed in part.seeds}
        return Policies([modules[seed] for seed in seeds], seeds, parts[0].spaces, parts[0].spec)

    def _check_data(self) -> None:
        for data in (summary.dataset for method in self.configs for summary in self.summaries(method)):
            if data.content_hash != self._content:
                raise UserError(
                    f"folder={self.folder}: holds runs of other data (content {data.content_hash[:12]} and not "
                    f"{self._content[:12]}); choose another folder"
                )

    def _leave_out_costly(self, budget: float) -> None:
        """Leave out methods that cost more than the cheapest beside the first, the costliest first, until five seeds of the
        others fit. What was begun stays."""
        while (needed := (plan := self.plan()).seconds(_WANTED)) > budget:
            costs = [(cost.of(_WANTED), method) for method, cost in zip(self.methods, plan.costs, strict=True)][1:]
            costly = [(cost, method) for cost, method in costs if cost > 1.5 * min(costs)[0] and not self._blocks(method)]
            if not costly:
                return
            cost, method = max(costly)
            why = f"{_WANTED} seeds would take about {in_minutes(cost)}, and with the others {in_minutes(needed)}"
            self.leave_out(method, why)

    def leave_out(self, method: str, why: str) -> None:
        """Give a method no place, and say why."""
        self.left_out[method] = f"{self.configs[method].method} is left out: {why}"
        self.console.print(self.left_out[method], markup=False, highlight=False, soft_wrap=True)

    def _make(self, method: str, target: int) -> None:
        """End the blocks of a method that were begun, and make another up to `target` seeds."""
        from iwbc.runs.folder import RunFolder
        from iwbc.runs.pipeline import run

        blocks = self._blocks(method)
        end = blocks[-1].stop if blocks else 0
        for block in [*blocks, *([range(end, target)] if end < target else [])]:
            path, config = self._path(method, block), self.configs[method]
            config = replace(config, seeds=list(block), curation=pinned(config.curation))
            try:
                RunFolder(path).check(config)
            except UserError:
                raise UserError(f"folder={self.folder}: holds runs of other settings; choose another folder") from None
            if read_summary(path) is not None:
                continue
            self.console.print(f"{config.method}, seeds {', '.join(map(str, block))}", highlight=False, markup=False)
            try:
                run(config, path, self.console)
            except UserError as error:
                if not any(map(self.summaries, self.configs)):
                    raise
                RunFolder(path).write_failure(str(error), [])
                self.leave_out(method, str(error))
                return

    def _path(self, method: str, block: range) -> Path:
        return self.folder / f"{method}-{block[0]}-{block[-1]}"

    def _blocks(self, method: str) -> list[range]:
        """List the blocks of seeds that a method's runs were begun with, in order."""
        names = (re.fullmatch(rf"{method}-(\d+)-(\d+)", path.name) for path in self.folder.glob(f"{method}-*"))
        return sorted((range(int(match[1]), int(match[2]) + 1) for match in names if match), key=lambda block: block.start)

    def _begun(self) -> int:
        return max(block.stop for method in self.methods for block in self._blocks(method))


def in_minutes(seconds: float) -> str:
    """Write a time as a budget is written, rounded up."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes}m" if minutes < 120 else f"{math.ceil(minutes / 60)}h"
