"""What a change does to the speed of training.

    python -m benchmarks.compare BASE [HEAD] [bc_1|bc_5|iw_bc_1|iw_bc_5 …] [rounds=5] [steps=2000]

BASE and HEAD are commits; without HEAD it is the working tree, uncommitted changes included, which also trains by plain
autograd (`engine=false`). Measured is `python -m iwbc.train` of each, with this interpreter: behaviour cloning and
importance-weighted BC with one and five seeds on random data of Hopper's shape (200,000 steps), `steps` gradient steps a
run, logging as by default. Of that command nothing is assumed but a few settings and the times in its summary.json, so that
commits may differ in all else. The sides take turns (base, head, base, …), every run in a process of its own.

`steps_per_second` counts the steps of all seeds while training; `other_seconds` is the rest of the command, start-up
included. Prints medians over the rounds, their ratio, and the lowest and highest ratio of a round: where those lie on both
sides of 1, the figure did not change as far as this can tell. Everything is done in a temporary folder, which is removed in
the end.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from iwbc.errors import UserError
from iwbc.settings import Settings
from iwbc.system.arguments import at_least, parse, run

ROOT = Path(__file__).parents[1]
RUNS = {"bc_1": ("bc", 1), "bc_5": ("bc", 5), "iw_bc_1": ("iw_bc", 1), "iw_bc_5": ("iw_bc", 5)}  # algorithm, seeds


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


def commit(name: str) -> str:
    """The hash that `name` stands for. Raises UserError where it is no commit."""
    parsed = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if parsed.returncode:
        raise UserError(f"{name}: not a commit of the repository at {ROOT}")
    return parsed.stdout.strip()


@contextmanager
def checkout(name: str) -> Iterator[Path]:
    """A folder with commit `name`, for as long as the `with` block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        try:
            added = git("worktree", "add", "--detach", str(tree), commit(name))
            if added.returncode:
                raise UserError(f"{name}: {added.stderr.strip().splitlines()[-1]}")
            if not (tree / "iwbc" / "__init__.py").exists():
                raise UserError(f"{name}: has no package iwbc")
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def write_data(path: Path, count: int = 200_000, length: int = 500) -> None:
    """Random data of Hopper's shape, `count` steps in episodes of `length`, in D4RL's layout."""
    random, ends = np.random.default_rng(0), np.arange(1, count + 1) % length == 0
    with h5py.File(path, "w") as file:
        file["observations"] = random.standard_normal((count, 11), np.float32)
        file["actions"] = random.uniform(-1.0, 1.0, (count, 3)).astype(np.float32)
        file["rewards"] = random.standard_normal(count, np.float32)
        file["terminals"], file["timeouts"] = ends, np.zeros(count, np.bool_)


@dataclass
class Side:
    """What is measured: the package in `tree`, with `settings` of its own. `folder` is for its data, cache and runs."""

    name: str
    tree: Path
    folder: Path
    settings: tuple[str, ...] = ()
    figures: list[dict[str, float]] = field(default_factory=list)  # a mapping for each round

    def measure(self, name: str, steps: int) -> dict[str, float]:
        """The figures of one run. Raises UserError where the command fails."""
        algorithm, seeds = RUNS[name]
        self.folder.mkdir(exist_ok=True)
        data = self.folder / "data.hdf5"
        if not data.exists():
            write_data(data)
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            settings = ["dataset=d4rl", f"dataset.path={data}", f"algo={algorithm}", f"algo.steps={steps}", "reference.steps=1"]
            settings += [f"seeds={list(range(seeds))}".replace(" ", ""), f"hydra.run.dir={out}/run", *self.settings]
            start = time.perf_counter()
            # The working directory comes first in the module path, before an installed iwbc.
            done = subprocess.run(
                [sys.executable, "-m", "iwbc.train", *settings],
                cwd=self.tree,
                env={**os.environ, "PYTHONPATH": str(self.tree), "IWBC_CACHE": str(self.folder), "TMPDIR": str(self.folder)},
                capture_output=True,
                text=True,
            )
            seconds = time.perf_counter() - start
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                raise UserError(f"{self.name}: cannot train: {said[-1]}")
            training: float = json.loads((Path(out) / "run" / "summary.json").read_text())["seconds"]["training"]
        return {f"{name}.steps_per_second": seeds * steps / training, f"{name}.other_seconds": seconds - training}


def comparison(names: tuple[str, str], base: Sequence[Mapping[str, float]], head: Sequence[Mapping[str, float]]) -> Table:
    """Medians over the rounds and head / base, of figures other than 0. One mapping per round."""
    table = Table(title=f"{names[1]} against {names[0]}, medians of {len(base)} rounds")
    table.add_column("figure", overflow="fold")
    for column in (*names, "ratio", "lowest–highest"):
        table.add_column(column, justify="right")
    for figure in base[0]:
        pairs = [(base_round[figure], head_round[figure]) for base_round, head_round in zip(base, head, strict=True)]
        before, after = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        ratios = [after / before for before, after in pairs]
        span = f"{min(ratios):.3f}–{max(ratios):.3f}"
        table.add_row(figure, f"{before:.4g}", f"{after:.4g}", f"{after / before:.3f}", span)
    return table


@dataclass
class Options(Settings):
    words: list[str]
    rounds: int = at_least(1, 5)
    steps: int = at_least(1, 2000)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    commits = [word for word in options.words if word not in RUNS]
    runs = [word for word in options.words if word in RUNS] or list(RUNS)
    if not 1 <= len(commits) <= 2:
        raise UserError(f"give one or two commits, not {len(commits)}, and runs out of {', '.join(RUNS)} (see --help)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trees = [stack.enter_context(checkout(name)) for name in commits]
        sides = [Side(name, tree, folder / str(i)) for i, (name, tree) in enumerate(zip(commits, trees, strict=True))]
        if len(sides) == 1:
            sides.append(Side("working tree", ROOT, folder / "1"))
            sides.append(Side("engine=false", ROOT, folder / "1", ("engine=false",)))
        terminal = Console(stderr=True)
        with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
            task = progress.add_task("", total=options.rounds * len(runs) * len(sides))
            for number in range(options.rounds):
                for side in sides:
                    side.figures.append({})
                for name in runs:
                    for side in sides:
                        progress.update(task, description=f"round {number + 1} of {options.rounds}: {name}, {side.name}")
                        side.figures[-1] |= side.measure(name, options.steps)
                        progress.advance(task)
    for base, head in itertools.pairwise(sides):
        Console().print(comparison((base.name, head.name), base.figures, head.figures))


if __name__ == "__main__":
    run(main, __doc__)
