"""Does the held-out likelihood choose the steps and the learning rate of fine-tuning? The likelihood and the score of each.

    python -m benchmarks.recipe [TASK …] [jobs=1]

Tasks are env:dataset seed, such as hopper:1. By the protocol (benchmarks/protocol.md, The recipe that the data choose). The
same command goes on where it was stopped. Writes benchmarks/results/recipe.csv, a row for each task and recipe.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common import RESULTS, Job, chosen, play_all, read
from iwbc.config import compose
from iwbc.data.choice import FOLDS, best_of, values_of
from iwbc.data.sources import load_dataset
from iwbc.data.trajectories import Trajectories
from iwbc.runs.pipeline import chosen as chosen_curation
from iwbc.settings import Auto, FilteredBC, Settings, to_plain
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_csv
from iwbc.training.fit import fit
from iwbc.training.reference import reference_policy
from iwbc.training.trained import Policies
from iwbc.training.trials import held_out_log_probs, without

TASKS = [f"{env}:{seed}" for seed in (1, 2, 3) for env in ("hopper", "walker2d", "halfcheetah")]
STEPS, RATES = (500, 1000, 2000, 4000), (1e-4, 4e-4, 1e-3)
QUIET = Console(quiet=True)
RECIPES = list(itertools.product(STEPS, RATES))
PLAYED = (
    "algo=filtered_bc seeds=[0,1,2] threads=1 eval.every=0 eval.periodic_episodes=0 eval.reference=false eval.episodes=20 "
    "log_every=1000"
)
TABLE = RESULTS / "recipe.csv"


def held_out_likelihoods(data: Trajectories, curation: Settings, reference: Policies) -> dict[tuple[int, float], float]:
    """Compute ℓ̄ of the held-out best under every recipe, in nats a step, in the folds of curation=auto."""
    values = values_of(Auto(), data)
    best = best_of(values, data)
    folds = [np.sort(best[fold::FOLDS]) for fold in range(FOLDS)]
    rests = without(folds, [curation], data, values, "trajectory")
    likelihoods = {}
    for steps, rate in RECIPES:
        policies = [fit(FilteredBC(steps=steps, lr=rate), rest, reference=reference, console=QUIET)[0] for rest in rests]
        each = [held_out_log_probs(policy, data.subset(fold)) for policy, fold in zip(policies, folds, strict=True)]
        likelihoods[steps, rate] = float(np.concatenate(each).mean())
    return likelihoods


def rows_of(task: str, folder: Path, workers: int) -> list[dict[str, Any]]:
    """Tell every recipe's score, a mean over three seeds, beside the held-out likelihood."""
    env, seed = task.split(":")
    config = compose(f"env={env}", f"dataset.seed={seed}", "curation=auto", "algo=filtered_bc", "threads=1")
    data = load_dataset(config.dataset, config.env.id)
    reference = reference_policy(data, config.policy, config.reference, [0], "cpu", QUIET)
    curation = chosen_curation(config, data, QUIET).curation
    plain = {f"curation.{key}": value for key, value in to_plain(curation).items() if key != "name"}
    words = " ".join(f"{key}={value}".replace(" ", "") for key, value in {"curation": curation.name, **plain}.items())
    jobs = {
        (steps, rate): Job(
            tuple(f"env={env} dataset.seed={seed} {words} algo.steps={steps} algo.lr={rate} {PLAYED}".split()),
            folder / f"{env}-{seed}-{steps}-{rate:g}",
        )
        for steps, rate in RECIPES
    }
    likelihoods, summaries = held_out_likelihoods(data, curation, reference), play_all(list(jobs.values()), workers)
    rows = []
    for (steps, rate), job in jobs.items():
        score = float(np.mean([phases["final"].score_mean for phases in summaries[job].results.values()]))
        figures = {"log_prob": round(likelihoods[steps, rate], 4), "score": round(score, 2)}
        rows.append({"task": task, "curation": words, "steps": steps, "lr": rate, **figures})
    return rows


@dataclass
class Options(Settings):
    tasks: list[str]
    folder: Path = Path("multirun/recipe")
    jobs: int = at_least(1, 1)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    rows: list[dict[str, Any]] = [*read(TABLE)]
    for task in chosen(options.tasks, TASKS, "task"):
        if task not in {row["task"] for row in rows}:
            rows += rows_of(task, options.folder, options.jobs)
            write_csv(TABLE, rows)
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for task in tasks:
        of_task = [row for row in rows if row["task"] == task]
        likeliest = max(of_task, key=lambda row: float(row["log_prob"]))
        usual = next(row for row in of_task if (int(row["steps"]), float(row["lr"])) == (2000, 4e-4))
        best = max(of_task, key=lambda row: float(row["score"]))
        shown = [
            f"{name} {row['steps']} × {row['lr']}: {row['score']}"
            for name, row in (("likeliest", likeliest), ("default", usual), ("best", best))
        ]
        print(f"{task}  {'; '.join(shown)}")


if __name__ == "__main__":
    from benchmarks.recipe import main as main_by_name  # worker processes see no __main__

    run(main_by_name, __doc__, "the same command goes on")
