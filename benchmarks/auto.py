"""Does the held-out likelihood choose well? Every fixed curation and the one that curation=auto chooses, on fresh datasets.

    python -m benchmarks.auto [TASK …] [folder=multirun/auto] [jobs=1]

Tasks are env:dataset seed, such as hopper:1. By the protocol (benchmarks/protocol.md, The curation that the data choose). The
same command goes on where it was stopped. Writes benchmarks/results/auto.csv, a row for each task, curation and seed, and
auto.json: auto against each fixed curation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, Job, chosen, play_all
from iwbc.data.choice import FRACTIONS, Choice
from iwbc.runs.read import read_choice
from iwbc.settings import Settings
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_csv, write_json

LOCOMOTION, CHANCE = ("hopper", "walker2d", "halfcheetah"), ("two_routes", "careful_or_hasty", "point_maze")
TASKS = [f"{env}:{seed}" for seed in (1, 2, 3) for env in LOCOMOTION] + [f"{env}:1" for env in CHANCE]
FIXED = {
    **{f"top {100 * share:g} %": f"curation=top_fraction curation.fraction={share}" for share in FRACTIONS},
    "quality levels": "curation=quality_levels",
}
FIXED_CHANCE = {"all": "curation=all", "success": "curation=success"}
COMMON = "algo=filtered_bc threads=1 eval.every=0 eval.periodic_episodes=0 eval.reference=false log_every=1000"


def jobs_of(task: str, folder: Path) -> dict[str, Job]:
    """The runs of a task, by curation; `auto` is the first."""
    env, seed = task.split(":")
    played = "eval.episodes=20" if env in LOCOMOTION else "eval.episodes=100 eval.action=sample averaging=transition"
    fixed = FIXED if env in LOCOMOTION else FIXED_CHANCE
    return {
        name: Job(
            tuple(f"env={env} dataset.seed={seed} seeds=[0,1,2] {COMMON} {played} {curation}".split()),
            folder / f"{env}-{seed}-{name.replace(' ', '-').replace('-%', '')}",
        )
        for name, curation in {"auto": "curation=auto", **fixed}.items()
    }


def rows_of(task: str, jobs: dict[str, Job], summaries: dict[Job, Any]) -> list[dict[str, Any]]:
    """Tell every seed's score, or success in per cent, beside the held-out log-likelihood."""
    choice = read_choice(jobs["auto"].folder)
    assert isinstance(choice, Choice)
    trials = {trial.words: trial for trial in choice.trials}
    rows = []
    for name, job in jobs.items():
        trial = trials.get(choice.words if name == "auto" else name)
        for seed, phases in summaries[job].results.items():
            final = phases["final"]
            score = final.score_mean if final.score_mean is not None else 100.0 * final.success_rate
            figures = {} if trial is None else {"log_prob": round(trial.log_prob, 4), "error": round(trial.error, 4)}
            words_of_choice = choice.words if name == "auto" else ""
            place = {"task": task, "curation": name, "chose": words_of_choice, "seed": seed}
            rows.append({**place, "score": round(score, 2), **{"log_prob": "", "error": ""}, **figures})
    return rows


def against(rows: Sequence[dict[str, Any]], tasks: Sequence[str], random: np.random.Generator) -> dict[str, Any]:
    """Compare auto with each fixed curation: the mean difference over tasks, with a 95 % bootstrap interval over tasks and over
    seeds of each."""
    scores = {(row["task"], row["curation"], row["seed"]): row["score"] for row in rows}
    compared = {}
    for name in dict.fromkeys(row["curation"] for row in rows if row["task"] in tasks and row["curation"] != "auto"):
        differences = np.array([[scores[t, "auto", s] - scores[t, name, s] for s in range(3)] for t in tasks])
        some = random.integers(len(tasks), size=(5000, len(tasks), 1))
        drawn = differences[some, random.integers(3, size=(5000, len(tasks), 3))].mean((1, 2))
        low, high = np.percentile(drawn, [2.5, 97.5])
        mean = np.mean([scores[t, name, s] for t in tasks for s in range(3)])
        compared[name] = {"score": mean, "auto": differences.mean(), "low": low, "high": high}
    return {name: {key: round(float(value), 2) for key, value in each.items()} for name, each in compared.items()}


@dataclass
class Options(Settings):
    tasks: list[str]
    folder: Path = Path("multirun/auto")
    jobs: int = at_least(1, 1)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    rows: list[dict[str, Any]] = []
    tasks = chosen(options.tasks, TASKS, "task")
    for task in tasks:
        jobs = jobs_of(task, options.folder)
        rows += rows_of(task, jobs, play_all(list(jobs.values()), options.jobs))
        write_csv(RESULTS / "auto.csv", rows)
    groups = {"locomotion": LOCOMOTION, "chance": CHANCE}
    random = np.random.default_rng(0)
    compared = {
        name: against(rows, some, random)
        for name, envs in groups.items()
        if (some := [task for task in tasks if task.split(":")[0] in envs])
    }
    write_json(RESULTS / "auto.json", compared)
    for name, table in compared.items():
        print(name)
        for curation, each in table.items():
            print(f"  auto − {curation}: {each['auto']:+.1f} [{each['low']:+.1f}, {each['high']:+.1f}]  ({each['score']:.1f})")


if __name__ == "__main__":
    from benchmarks.auto import main as main_by_name  # worker processes see no __main__

    run(main_by_name, __doc__, "the same command goes on")
