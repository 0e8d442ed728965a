"""What a change does to the figures of benchmarks/speed.py.

    python -m benchmarks.compare BASE [HEAD] [part …] [rounds=3] [repetitions=5] [steps=300] [data=hopper|synthetic]

BASE and HEAD are commits; without HEAD it is the working tree, uncommitted changes included. Both are measured by the
benchmarks of the working tree, with this interpreter, in turns (base, head, base, …), each turn in a process of its own.
Parts are those of benchmarks.speed, `step` by default, and so are repetitions, steps and data.

Prints medians over the rounds, head / base, and the lowest and highest head / base of a round: where those lie on both
sides of 1, the figure did not change as far as this can tell. Commits are checked out into a temporary folder, which is
removed in the end; no result file of either is touched.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.options import MEASURING, PARTS
from iwbc.commands import Option, parse, run, whole
from iwbc.errors import UserError

BENCHMARKS = Path(__file__).parent
ROOT = BENCHMARKS.parent


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


def commit(name: str) -> str:
    """The hash that `name` stands for. Raises UserError where it is no commit."""
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if found.returncode:
        raise UserError(f"{name}: not a commit of the repository at {ROOT}")
    return found.stdout.strip()


@contextmanager
def checkout(name: str) -> Iterator[Path]:
    """A folder with commit `name` and the working tree's benchmarks, for as long as the `with` block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        try:
            added = git("worktree", "add", "--detach", str(tree), commit(name))
            if added.returncode:
                raise UserError(f"{name}: {added.stderr.strip().splitlines()[-1]}")
            if not (tree / "iwbc" / "__init__.py").exists():
                raise UserError(f"{name}: has no package iwbc")
            shutil.rmtree(tree / "benchmarks", ignore_errors=True)
            shutil.copytree(BENCHMARKS, tree / "benchmarks", ignore=shutil.ignore_patterns("results", "__pycache__"))
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def measure(name: str, tree: Path, arguments: Sequence[str]) -> dict[str, float]:
    """The figures that benchmarks.speed finds for the package in folder `tree`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speed.json"
        # The working directory comes first in the module path, before an installed iwbc.
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed", *arguments, f"out={out}"],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise UserError(f"{name}: the working tree's benchmarks do not run with its package: {said[-1]}")
        return figures(json.loads(out.read_text()))


def figures(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result file, by `part.figure`; what describes the machine and the versions is left out."""
    found: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            if name not in ("versions", "machine"):
                found |= {f"{name}.{inner}": number for inner, number in figures(value).items()}
        elif isinstance(value, int | float):
            found[name] = float(value)
    return found


def comparison(names: tuple[str, str], base: Sequence[Mapping[str, float]], head: Sequence[Mapping[str, float]]) -> Table:
    """Medians over the rounds and head / base, of the figures that every round of both has. One mapping per round."""
    table = Table(title=f"{names[1]} against {names[0]}, medians of {len(base)} rounds")
    table.add_column("figure", overflow="fold")
    for column in (*names, "ratio", "lowest–highest"):
        table.add_column(column, justify="right")
    for figure in base[0]:
        if not all(figure in found for found in (*base, *head)):
            continue
        pairs = [(one[figure], other[figure]) for one, other in zip(base, head, strict=True)]
        before, after = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        if all(one for one, _ in pairs):
            ratios = [other / one for one, other in pairs]
            table.add_row(
                figure, f"{before:.4g}", f"{after:.4g}", f"{after / before:.3f}", f"{min(ratios):.3f}–{max(ratios):.3f}"
            )
        else:
            table.add_row(figure, f"{before:.4g}", f"{after:.4g}", "–", "–")
    return table


def main(arguments: Sequence[str]) -> None:
    options = parse([argument for argument in arguments if "=" in argument], {"rounds": Option(whole(1), 3), **MEASURING})
    rounds = options.pop("rounds")
    words = [argument for argument in arguments if "=" not in argument]
    commits = [word for word in words if word not in PARTS]
    parts = [word for word in words if word in PARTS] or ["step"]
    if not 1 <= len(commits) <= 2:
        raise UserError(f"give one or two commits, not {len(commits)}, and parts out of {', '.join(PARTS)} (see --help)")
    with ExitStack() as stack:
        trees = {name: stack.enter_context(checkout(name)) for name in dict.fromkeys(commits)}
        sides = [(name, trees[name]) for name in commits]
        if len(sides) == 1:
            sides.append(("working tree", ROOT))
        found: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
        terminal = Console(stderr=True)
        with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
            task = progress.add_task("", total=2 * rounds)
            for turn in range(2 * rounds):
                name, tree = sides[turn % 2]
                progress.update(task, description=f"round {turn // 2 + 1} of {rounds}: {name}", completed=turn)
                given = [f"{option}={value}" for option, value in options.items()]
                found[turn % 2].append(measure(name, tree, [*parts, *given]))
    Console().print(comparison((sides[0][0], sides[1][0]), *found))


if __name__ == "__main__":
    run(main, __doc__)
