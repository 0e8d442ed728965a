"""The fair table: tune every method with the same budget on other datasets, then play all cells of the table.

    python -m benchmarks.fair [FAMILY] … [folder=multirun/fair] [jobs=2]

benchmarks/protocol.md says what is run and how it is judged. The same command goes on where it was stopped. Writes
benchmarks/results/fair/<family>-tuning.csv, <family>-cells.csv (a row per seed) and <family>.md, the tables.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, Job, chosen, play_all, played, read
from iwbc.intervals import student_quantile
from iwbc.report.statistics import Array, Estimate, Scores, aggregates, improvement
from iwbc.runs.read import read_metrics
from iwbc.runs.summary import SeedResult, Summary, Total
from iwbc.settings import Settings
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_csv

Grid = Mapping[str, Sequence[str]]

BASELINE = "filtered_bc"
PHASES = {"final": "mean", "final_sampled": "sample"}  # of summaries, and the action that is played in each
RATES = ("4e-4", "1e-3")
SHARPNESS = ("0.01", "0.02", "0.05", "0.1", "0.2")
TEMPERATURES = ("0.1", "0.2", "0.3", "0.5", "0.7", "1")
TABLE = "dataset.seed=0 seeds=[0,1,2,3,4,5,6,7,8,9]"
SCHEDULES = ("cosine", "constant")
QUALITY = "curation=quality_levels"
TOP = [f"curation=top_fraction curation.fraction={fraction}" for fraction in SHARPNESS]
WEIGHTED = [f"curation=return_weighted curation.temperature={temperature}" for temperature in TEMPERATURES]


@dataclass(frozen=True)
class Family:
    """Tasks that share their settings: what is common to all runs, and each method's grid, of the same number of settings."""

    tasks: Mapping[str, str]
    common: str
    methods: Mapping[str, Grid]
    tuning: str  # what is set in tuning, and in the table
    table: str
    tuned_on: str | None = None  # the family whose choices are taken over, for the methods that it has


LOCOMOTION = Family(
    tasks={name: f"env={name} dataset=medium_replay" for name in ("hopper", "walker2d", "halfcheetah")},
    common="algo.start=reference algo.steps=2000",
    methods={
        "bc": {
            "": ["algo=bc curation=all averaging=transition algo.warmup_steps=300"],
            "algo.schedule": SCHEDULES,
            "algo.lr": ["1e-4", "4e-4", "1e-3"],
        },
        "filtered_bc": {"": [f"algo=filtered_bc {curation}" for curation in (*TOP, QUALITY)]},
        "rwr": {"": [f"algo=rwr {curation}" for curation in WEIGHTED]},
        "awr": {
            "": ["algo=awr curation=all averaging=transition"],
            "algo.temperature": ["0.2", "0.5", "1"],
            "algo.lr": RATES,
        },
        "iw_bc": {"": [f"algo=iw_bc algo.level=trajectory {curation}" for curation in TOP[1:4]], "algo.kappa": ["1", "5"]},
        "iw_bc_auto": {"": [f"algo=iw_bc algo.level=trajectory algo.kappa=auto {curation}" for curation in (*TOP, QUALITY)]},
        "iw_rwr": {
            "": [f"algo=iw_bc algo.level=trajectory {curation}" for curation in WEIGHTED[1:4]],
            "algo.kappa": ["1", "5"],
        },
    },
    tuning="dataset.seed=1 seeds=[100] eval.episodes=10",
    table=f"{TABLE} eval.episodes=20",
)
_CHANCE_RATES = ("2e-4", "4e-4", "1e-3")
CHANCE = Family(
    tasks={name: f"env={name}" for name in ("two_routes", "careful_or_hasty", "point_maze")},
    common="algo.start=reference algo.steps=5000 averaging=transition",
    methods={
        "bc": {"": ["algo=bc curation=all"], "algo.lr": _CHANCE_RATES, "algo.schedule": SCHEDULES},
        "filtered_bc": {
            "": ["algo=filtered_bc curation=success"],
            "algo.lr": _CHANCE_RATES,
            "algo.schedule": SCHEDULES,
        },
        "awr": {"": ["algo=awr curation=all"], "algo.lr": RATES, "algo.temperature": ["0.2", "0.5", "1"]},
        "iw_bc": {"": ["algo=iw_bc algo.level=trajectory curation=success"], "algo.lr": RATES, "algo.kappa": ["2", "10", "20"]},
        "iw_bc_auto": {
            "": ["algo=iw_bc algo.level=trajectory curation=success algo.kappa=auto"],
            "algo.lr": _CHANCE_RATES,
            "algo.schedule": SCHEDULES,
        },
    },
    tuning="dataset.seed=1 seeds=[100,101] eval.episodes=100",
    table=f"{TABLE} eval.episodes=100",
)
CHANCE_MIXTURE = Family(
    tasks={name: CHANCE.tasks[name] for name in ("two_routes", "careful_or_hasty")},
    common=f"{CHANCE.common} policy=mixture policy.hidden=[64,64]",
    methods={name: grid for name, grid in CHANCE.methods.items() if name != "awr"},
    tuning=CHANCE.tuning,
    table=CHANCE.table,
    tuned_on="chance",
)


def _untuned(settings: Mapping[str, str]) -> dict[str, Grid]:
    """Make grids of one setting each."""
    return {name: {"": [setting]} for name, setting in settings.items()}


def _same_curation(curation: str, *importance_weights: str) -> Family:
    """Filtered BC and iw-BC of some κ on the same trajectories, with nothing tuned."""
    methods = {"filtered_bc": f"algo=filtered_bc {curation}"}
    for kappa in importance_weights:
        name = "iw_bc_auto" if kappa == "auto" else "iw_bc"
        methods[name] = f"algo=iw_bc algo.level=trajectory algo.kappa={kappa} {curation}"
    return Family(LOCOMOTION.tasks, LOCOMOTION.common, _untuned(methods), tuning="", table=LOCOMOTION.table)


def _passes(curation: str) -> dict[str, Grid]:
    """Filtered BC, and the default weights by a pass every 100 and every 500 gradient steps, with nothing tuned."""
    every = {f"every_{steps}": f"algo=iw_bc algo.refresh_every={steps}" for steps in (100, 500)}
    return _untuned({name: f"{setting} {curation}" for name, setting in {"filtered_bc": "algo=filtered_bc", **every}.items()})


_WEIGHTS = {
    "filtered_bc": "algo=filtered_bc",
    "iw_bc": "algo=iw_bc",
    "iw_bc_trajectory": "algo=iw_bc algo.level=trajectory algo.kappa=1",
    "iw_bc_auto": "algo=iw_bc algo.level=trajectory algo.kappa=auto",
}
_KAPPAS = ("0.5", "2", "3", "5")


def _weights(curation: str, *left_out: str) -> dict[str, Grid]:
    """Filtered BC and each kind of weights on the same trajectories, with nothing tuned."""
    return _untuned({name: f"{setting} {curation}" for name, setting in _WEIGHTS.items() if name not in left_out})


def _kappas(curation: str) -> dict[str, Grid]:
    """Trajectory weights at further κ."""
    return _untuned({f"iw_bc_{kappa}": f"algo=iw_bc algo.level=trajectory algo.kappa={kappa} {curation}" for kappa in _KAPPAS})


def _fresh(tasks: Mapping[str, str], seeds: Sequence[int]) -> dict[str, str]:
    """The tasks with other datasets, by dataset seed."""
    return {f"{name}-{seed}": f"{arguments} dataset.seed={seed}" for seed in seeds for name, arguments in tasks.items()}


# With what was tuned on other datasets: the choices of `locomotion`, and the best share of nine datasets in the trial of auto.
_COMPARED = {
    "filtered_bc": "algo=filtered_bc curation=auto",
    "bc": "algo=bc curation=all averaging=transition algo.warmup_steps=300 algo.lr=4e-4 algo.start=reference algo.steps=2000",
    "filtered_bc_10": "algo=filtered_bc curation=top_fraction",
    "filtered_bc_5": "algo=filtered_bc curation=top_fraction curation.fraction=0.05",
    "filtered_bc_levels": f"algo=filtered_bc {QUALITY}",
    "rwr": "algo=rwr curation=return_weighted curation.temperature=0.2",
    "awr": "algo=awr curation=all averaging=transition algo.temperature=0.2 algo.start=reference algo.steps=2000",
    "iw_bc": "algo=iw_bc curation=auto",
    "iw_bc_levels": f"algo=iw_bc {QUALITY}",
    "iw_bc_auto": "algo=iw_bc algo.level=trajectory algo.kappa=auto curation=auto",
    "iw_bc_auto_levels": f"algo=iw_bc algo.level=trajectory algo.kappa=auto {QUALITY}",
}
_OFFLINE_RL = {
    "filtered_bc": "algo=filtered_bc curation=auto",
    "iw_bc": "algo=iw_bc curation=auto",
    "iql": "algo=iql curation=all averaging=transition algo.steps=50000",
}


def _tier(tier: str, methods: Mapping[str, str], seeds: str) -> Family:
    """A tier of three tasks with dataset seed 4, with nothing tuned on it."""
    tasks = {name: f"env={name} dataset={tier} dataset.seed=4" for name in LOCOMOTION.tasks}
    return Family(tasks, "", _untuned(methods), tuning="", table=f"seeds={seeds} eval.episodes=10")


_OPERATED = "averaging=transition algo.start=reference"


def _by_operators(best: str) -> dict[str, Grid]:
    """Methods on demonstrations by operators, of whom `best` is the best: filters, with weights and without, and what needs no
    filter."""
    filters = {
        "": "curation=success",
        "_operator": f"curation=groups curation.keep=[{best}]",
        "_length": "curation=top_fraction curation.fraction=0.3 curation.rank_by=length",
        "_auto": "curation=auto curation.rank_by=length",
    }
    settings = {
        "bc": "algo=bc curation=all algo.steps=2000 algo.lr=4e-4 algo.warmup_steps=300",
        "awr": "algo=awr curation=all algo.steps=2000 algo.lr=4e-4 algo.warmup_steps=300",
    }
    for name, curation in filters.items():
        settings |= {f"filtered_bc{name}": f"algo=filtered_bc {curation}", f"iw_bc{name}": f"algo=iw_bc {curation}"}
    kappa = "algo=iw_bc algo.level=trajectory algo.kappa=auto"
    settings["iw_bc_trajectory"] = f"{kappa} {filters['']}"
    settings["iql"] = "algo=iql curation=all algo.steps=20000 algo.warmup_steps=300"  # takes as long as all others
    return _untuned(settings)


_NETWORKS = {
    "gaussian": "policy=tanh_mean",
    "mixture": "policy=mixture",
    "chunks": "policy=mixture policy.history=4 policy.chunk=8 policy.execute=4",
    "lstm": "policy=lstm_mixture",
}
# Tasks by the name of their best operator.
_MANIPULATION = {"careful": ("pick_place", "assembly"), "patient": ("pick_place_hasty",)}


def _manipulation() -> dict[str, Family]:
    """A family for each network and best operator."""
    return {
        f"{'manipulation' if best == 'careful' else 'hasty'}-{network}": Family(
            {name: f"env=metaworld/{name}" for name in names},
            f"{_OPERATED} {policy}",
            _by_operators(best),
            tuning="",
            table="seeds=[0,1,2,3,4] eval.episodes=50",
        )
        for best, names in _MANIPULATION.items()
        for network, policy in _NETWORKS.items()
    }


_HOPPERS = {name: LOCOMOTION.tasks[name] for name in ("hopper", "walker2d")}
_TEN = "[0,1,2,3,4,5,6,7,8,9]"
_PLAIN = "algo.start=reference"
FAMILIES = {
    "locomotion": LOCOMOTION,
    "chance": CHANCE,
    "chance-mixture": CHANCE_MIXTURE,
    "locomotion-top5": _same_curation(TOP[2], "5", "auto"),
    "locomotion-levels": _same_curation(QUALITY, "auto"),
    "fresh-locomotion": Family(
        _fresh(_HOPPERS, (1, 2, 3)),
        _PLAIN,
        _weights("curation=auto") | _kappas("curation=auto"),
        tuning="",
        table=f"seeds={_TEN} eval.episodes=10",
    ),
    "fresh-chance": Family(
        _fresh(CHANCE.tasks, (1,)),
        CHANCE.common,
        _weights("curation=success", "iw_bc_trajectory"),
        tuning="",
        table=f"seeds={_TEN} eval.episodes=100",
    ),
    "fresh-mixture": Family(
        _fresh(CHANCE_MIXTURE.tasks, (1,)),
        CHANCE_MIXTURE.common,
        _weights("curation=success", "iw_bc_trajectory"),
        tuning="",
        table=f"seeds={_TEN} eval.episodes=100",
    ),
    "replay": _tier("medium_replay", _COMPARED, _TEN),
    "medium-expert": _tier("medium_expert", _COMPARED, _TEN),
    "medium": _tier("medium", _COMPARED, _TEN),
    "replay-rl": _tier("medium_replay", _OFFLINE_RL, "[0,1,2]"),
    "passes-chance": Family(CHANCE_MIXTURE.tasks, CHANCE.common, _passes("curation=success"), tuning="", table=CHANCE.table),
    **_manipulation(),
    "passes-locomotion": Family(LOCOMOTION.tasks, LOCOMOTION.common, _passes(QUALITY), tuning="", table=LOCOMOTION.table),
}

EVERY_RUN = "threads=1 eval.every=0 eval.periodic_episodes=0 eval.action=both eval.reference=false log_every=500"


def settings_of(grid: Grid) -> list[str]:
    """Every setting of a grid, as the arguments that it stands for."""
    return [
        " ".join(f"{key}={value}" if key else value for key, value in zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    ]


def final_score(summary: Summary) -> float:
    """Return the last policies' score, or success rate in per cent, averaged over mean and sampled actions."""
    return float(np.mean([score_of(summary.totals[phase]) for phase in PHASES]))


def score_of(result: SeedResult | Total) -> float:
    """Return the mean score, or, where there are none, the success rate in per cent."""
    if result.score_mean is not None:
        return result.score_mean
    assert result.success_rate is not None
    return 100.0 * result.success_rate


def tune(name: str, folder: Path, workers: int) -> dict[str, str]:
    """Play every setting of every method on the tuning datasets, but for methods that another family has tuned or that have one
    setting only; each method's best setting on average over the tasks."""
    family = FAMILIES[name]
    taken = choices(family.tuned_on) if family.tuned_on else {}
    taken |= {method: settings_of(grid)[0] for method, grid in family.methods.items() if len(settings_of(grid)) == 1}
    own_grids = {method: grid for method, grid in family.methods.items() if method not in taken}
    if not own_grids:
        return taken
    jobs = {}
    for method, grid in own_grids.items():
        for number, setting in enumerate(settings_of(grid)):
            for task, arguments in family.tasks.items():
                overrides = f"{arguments} {setting} {family.common} {EVERY_RUN} {family.tuning}".split()
                jobs[method, setting, task] = Job(tuple(overrides), folder / "tuning" / f"{method}-{number}-{task}")
    summaries = play_all(list(jobs.values()), workers)
    scores = {key: final_score(summaries[job]) for key, job in jobs.items()}
    rows = []
    for method, grid in own_grids.items():
        for setting in settings_of(grid):
            of_tasks = {task: round(scores[method, setting, task], 2) for task in family.tasks}
            rows.append(
                {"method": method, "setting": setting, **of_tasks, "mean": round(float(np.mean(list(of_tasks.values()))), 3)}
            )
    write_csv(RESULTS / "fair" / f"{name}-tuning.csv", rows)
    return taken | choices(name)


def choices(name: str) -> dict[str, str]:
    """Each method's best setting in the family's tuning table; the first of equals."""
    with (RESULTS / "fair" / f"{name}-tuning.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_method = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)
    return {method: max(candidates, key=lambda row: float(row["mean"]))["setting"] for method, candidates in by_method.items()}


def table(name: str, chosen_settings: Mapping[str, str], folder: Path, workers: int) -> None:
    """Play the family's cells, and write each seed's score by task, method and action, cell by cell: those that the file has
    already are not played again, wherever they were played."""
    family = FAMILIES[name]
    path = RESULTS / "fair" / f"{name}-cells.csv"
    cells = list(itertools.product(family.tasks, family.methods))
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in read(path):
        rows[row["task"], row["method"]].append(row)
    jobs = {
        Job(
            tuple(f"{family.tasks[task]} {chosen_settings[method]} {family.common} {EVERY_RUN} {family.table}".split()),
            folder / "cells" / f"{method}-{task}",
        ): (task, method)
        for task, method in cells
        if (task, method) not in rows
    }
    for job, summary in played(list(jobs), workers):
        task, method = jobs[job]
        shares = last_ess_shares(job.folder)
        for seed, results in summary.results.items():
            for phase, action in PHASES.items():
                where = {"task": task, "method": method, "action": action, "seed": seed}
                score = round(score_of(results[phase]), 3)
                rows[task, method].append({**where, "score": score, "ess_share": shares.get(seed, "")})
        write_csv(path, [row for cell in cells for row in rows[cell]])


def last_ess_shares(folder: Path) -> dict[int, float]:
    """Return the last policies' effective sample size by seed, as a share of the curated set's; none without weights."""
    metrics = read_metrics(folder)
    if "ess_share" not in metrics:
        return {}
    columns = zip(metrics["seed"], metrics["ess_share"], strict=True)  # by step: a later row replaces an earlier one
    return {int(seed): round(float(share), 4) for seed, share in columns if not np.isnan(share)}


def scores_of(name: str, action: str) -> Scores:
    """The table's scores by method, [seeds, tasks]."""
    rows = [row for row in read(RESULTS / "fair" / f"{name}-cells.csv") if row["action"] == action]
    tasks, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "method"))
    scores = {(row["task"], row["method"], row["seed"]): float(row["score"]) for row in rows}
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    matrices = {m: np.array([[scores[task, m, seed] for task in tasks] for seed in seeds]) for m in methods}
    return Scores(tasks, matrices, [])


def summary(name: str) -> str:
    """The family's tables in Markdown: mean ± standard deviation over seeds, the mean of all tasks with its interval, IQM,
    P(better than filtered BC) over all tasks and on each, and the mean difference to filtered BC of the same seeds."""
    lines = []
    for action, title in (("mean", "Mean action"), ("sample", "Sampled actions")):
        scores = scores_of(name, action)
        pooled, better = aggregates(scores), improvement(scores, BASELINE)
        alone = [
            improvement(Scores([task], {m: matrix[:, [j]] for m, matrix in scores.matrices.items()}, []), BASELINE)
            for j, task in enumerate(scores.tasks)
        ]
        columns = [*scores.tasks, "mean", "IQM", "P(better)", "difference", *(f"P on {task}" for task in scores.tasks)]
        lines += [f"| {title} | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
        for method, matrix in scores.matrices.items():
            cells = [f"{mean:.1f} ± {std:.1f}" for mean, std in zip(matrix.mean(0), matrix.std(0, ddof=1), strict=True)]
            cells += [_estimate(_mean(matrix), 1), _estimate(pooled[method]["IQM"], 1)]
            if method == BASELINE:
                cells += ["–"] * (2 + len(alone))
            else:
                cells += [_estimate(better[method], 2), _estimate(_mean(matrix - scores.matrices[BASELINE]), 1)]
                cells += [_estimate(estimates[method], 2) for estimates in alone]
            lines.append(f"| {method.replace('_', ' ')} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *of_the_weights(name), *by_share(name)])


def same_trajectories(family: Family) -> dict[str, str]:
    """Return for each method of one setting the filtered BC that clones the same trajectories, where the family has it."""

    def curated(setting: str) -> list[str]:
        return sorted(word for word in setting.split() if word.startswith(("curation", "averaging=")))

    settings = {method: only[0] for method, grid in family.methods.items() if len(only := settings_of(grid)) == 1}
    filters = {method: curated(setting) for method, setting in settings.items() if "algo=filtered_bc" in setting.split()}
    twins = {}
    for method, setting in settings.items():
        if method not in filters and (alike := [name for name in filters if filters[name] == curated(setting)]):
            twins[method] = alike[0]
    return twins


def of_the_weights(name: str) -> list[str]:
    """The weights' part: the mean difference to filtered BC on the same trajectories, of pairs of the same task and seed, with
    its interval and the pairs' standard deviation."""
    twins = same_trajectories(FAMILIES[name])
    if not twins:
        return []
    lines = ["| On the same trajectories | less | pairs | mean action | SD | sampled actions | SD |", "|---|---|" + "---:|" * 5]
    scores = {action: scores_of(name, action).matrices for action in PHASES.values()}
    played_methods = scores["mean"].keys()
    for method, twin in ((method, twin) for method, twin in twins.items() if {method, twin} <= played_methods):
        differences = [of_action[method] - of_action[twin] for of_action in scores.values()]
        cells = [str(differences[0].size)]
        for pairs in differences:
            cells += [_estimate(_mean(pairs), 1), f"{pairs.std(ddof=1):.1f}"]
        lines.append(f"| {' | '.join([method.replace('_', ' '), twin.replace('_', ' '), *cells])} |")
    return [*lines, ""]


_MANY_SEEDS = 10
SHARES = (0.0, 0.5, 0.7, 0.9, 0.95, 1.01)  # of the curated set's effective sample size


def by_share(name: str) -> list[str]:
    """The mean difference to filtered BC on the same trajectories, of pairs of the same task and seed, by the effective sample
    size that the weights end with; nothing where no cell tells it."""
    twins = same_trajectories(FAMILIES[name])
    rows = read(RESULTS / "fair" / f"{name}-cells.csv")
    scores = {(row["method"], row["task"], row["action"], row["seed"]): float(row["score"]) for row in rows}
    told = [row for row in rows if row["method"] in twins and row.get("ess_share")]
    if not told:
        return []
    lines = ["| Effective sample size, share | pairs | mean action | sampled actions |", "|---|---:|---:|---:|"]
    for low, high in itertools.pairwise(SHARES):
        cells = []
        for action in PHASES.values():
            some = [row for row in told if row["action"] == action and low <= float(row["ess_share"]) < high]
            others = [scores[twins[row["method"]], row["task"], action, row["seed"]] for row in some]
            pairs = np.array([float(row["score"]) for row in some]) - others
            cells.append(_estimate(_mean(pairs[:, None]), 1) if len(pairs) > 1 else "–")
        if some:
            lines.append(f"| {low:g} to {min(high, 1.0):g} | {len(some)} | {' | '.join(cells)} |")
    return [*lines, ""]


def _mean(scores: Array) -> Estimate:
    """The mean of scores, or differences of pairs, [seeds, tasks], with its 95 % interval over each task's seeds: of fewer than
    ten Student's, as a bootstrap of so few is too narrow."""
    seeds, tasks = scores.shape
    mean = float(scores.mean())
    if 1 < seeds < _MANY_SEEDS:
        error = math.sqrt(float(scores.var(0, ddof=1).sum()) / seeds) / tasks
        reach = student_quantile(0.975, (seeds - 1) * tasks) * error
        return Estimate(mean, mean - reach, mean + reach)
    drawn = np.random.default_rng(0).integers(seeds, size=(5000, *scores.shape))
    low, high = np.percentile(np.take_along_axis(scores[None], drawn, 1).mean((1, 2)), [2.5, 97.5])
    return Estimate(mean, float(low), float(high))


def _estimate(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


@dataclass
class Options(Settings):
    families: list[str]
    folder: Path = Path("multirun/fair")
    jobs: int = at_least(1, 2)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    (RESULTS / "fair").mkdir(exist_ok=True)
    for name in chosen(options.families, list(FAMILIES), "family"):
        settings = tune(name, options.folder / name, options.jobs)
        for method in FAMILIES[name].methods:
            print(f"{name} {method}: {settings[method]}", flush=True)
        table(name, settings, options.folder / name, options.jobs)
        (RESULTS / "fair" / f"{name}.md").write_text(summary(name))


if __name__ == "__main__":
    from benchmarks.fair import main as main_by_name  # worker processes see no __main__

    run(main_by_name, __doc__, "the same command goes on")
