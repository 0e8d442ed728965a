"""Choose each method's few hyper-parameters on data that is in no table, four settings for each.

    python -m benchmarks.tuning [folder=multirun/tuning] [method …]

Data: walker2d medium-replay generated with dataset seed 1; training seeds 100, 101, 102; 20 final episodes each. Rule: the
highest mean score. Runs go on where they were stopped. Writes benchmarks/results/tuning.csv when all methods are done, and
prints the choices, which conf/tuned/ holds.
"""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, chosen, words_and_options
from iwbc.commands import Option, run
from iwbc.files import write_csv
from iwbc.runs import RunFolder

COMMON = [
    "env=walker2d",
    "dataset=medium_replay",
    "dataset.seed=1",
    "seeds=[100,101,102]",
    "threads=1",
    "eval.every=0",
    "eval.episodes=20",
]
RATES = ["1e-4", "4e-4", "1e-3", "2e-3"]
IW = {"algo.lr": ["4e-4", "1e-3"], "algo.kappa": ["0.5", "1"]}
GRIDS: dict[str, dict[str, list[str]]] = {
    "bc": {"algo.lr": RATES},
    "filtered_bc": {"algo.lr": RATES},
    "sft_q": {"algo.lr": RATES},
    "iw_bc": IW,
    "iw_bc_q": IW,
    "iw_bc_q_step": IW,
    "rwr": {"algo.lr": ["4e-4", "1e-3"], "curation.temperature": ["0.2", "0.5"]},
    "awr": {"algo.lr": ["4e-4", "1e-3"], "algo.temperature": ["0.5", "1"]},
}


def result(folder: Path, method: str, settings: dict[str, str]) -> dict[str, Any]:
    """A row for the table: mean final score, and the lowest effective sample size as a share of the curated set's."""
    summary = RunFolder(folder).summary()
    assert summary is not None
    with (folder / "metrics.csv").open() as file:
        shares = [float(row.get("ess_share") or 1.0) for row in csv.DictReader(file)]
    score = summary["totals"]["final"]["score_mean"]
    return {"method": method, **settings, "score": round(score, 2), "lowest_ess_share": round(min(shares), 3)}


def sweep(method: str, grid: dict[str, list[str]], folder: Path) -> list[dict[str, Any]]:
    """Run (what is missing of) one method's settings."""
    rows = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        run = folder / "-".join([method, *(f"{name.split('.')[-1]}{value}" for name, value in settings.items())])
        chosen = [f"{name}={value}" for name, value in settings.items()]
        command = [sys.executable, "-m", "iwbc.train", *COMMON, f"+method={method}", *chosen, f"hydra.run.dir={run}"]
        subprocess.run(command, check=True)
        rows.append(result(run, method, settings))
    return rows


def main(arguments: Sequence[str]) -> None:
    words, options = words_and_options(arguments, {"folder": Option(Path, Path("multirun/tuning"))})
    folder, methods = options["folder"], chosen(words, list(GRIDS), "method")
    rows = [row for method in methods for row in sweep(method, GRIDS[method], folder)]
    if set(methods) == set(GRIDS):
        write_csv(RESULTS / "tuning.csv", rows)
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        print(max(own, key=lambda row: row["score"]))


if __name__ == "__main__":
    run(main, __doc__, "the same command goes on")
