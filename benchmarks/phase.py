"""When importance weights pay: iw-BC's success over filtered BC's, by success gap, horizon, amount of data and κ.

    python -m benchmarks.phase [folder=multirun/phase] [jobs=2]

TwoRoutes with a slip of 0.2, 0.5 and 0.8, 30 and 90 control steps, 100 and 1,000 demonstrations; a Gaussian (2 × 64),
5,000 steps at lr 4e-4 from the reference, seeds 0 and 1, 200 episodes of sampled actions each. κ = 0 is filtered BC. The same
command goes on where it was stopped. Writes benchmarks/results/phase.csv and docs/figures/phase.png.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, Job, play_all
from iwbc.settings import Settings
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_csv

SLIPS, HORIZONS, EPISODES, KAPPAS = (0.2, 0.5, 0.8), (30, 90), (100, 1000), ("0", "1", "5", "20", "auto")
COMMON = (
    "env=two_routes curation=success averaging=transition policy.hidden=[64,64] algo=iw_bc algo.level=trajectory "
    "algo.steps=5000 seeds=[0,1] threads=1 eval.every=0 eval.periodic_episodes=0 eval.episodes=200 eval.action=sample "
    "eval.reference=false log_every=500"
)
FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "phase.png"


def figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each horizon and κ: the gain over filtered BC in points, by slip and amount of data."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    gains = {(r["horizon"], r["kappa"], r["slip"], r["episodes"]): r["gain"] for r in rows}
    panels, axes = pyplot.subplots(len(HORIZONS), len(KAPPAS) - 1, figsize=(10, 4.6), sharex=True, sharey=True, squeeze=False)
    for (i, horizon), (j, kappa) in itertools.product(enumerate(HORIZONS), enumerate(KAPPAS[1:])):
        values = np.array([[gains[horizon, kappa, slip, episodes] for episodes in EPISODES] for slip in SLIPS])
        image = axes[i, j].imshow(values, cmap="RdBu", vmin=-30, vmax=30, origin="lower", aspect="auto")
        for y, x in itertools.product(range(len(SLIPS)), range(len(EPISODES))):
            axes[i, j].text(x, y, f"{values[y, x]:+.0f}", ha="center", va="center")
        axes[i, j].set_title(f"κ = {kappa}, {horizon} steps", fontsize=10)
        axes[i, j].set_xticks(range(len(EPISODES)), [str(n) for n in EPISODES])
        axes[i, j].set_yticks(range(len(SLIPS)), [f"{slip:g}" for slip in SLIPS])
    panels.supxlabel("demonstrations")
    panels.supylabel("how often the risky way fails")
    panels.colorbar(image, ax=axes, label="success over filtered BC's, points")
    path.parent.mkdir(exist_ok=True)
    panels.savefig(path, dpi=120, bbox_inches="tight")


@dataclass
class Options(Settings):
    folder: Path = Path("multirun/phase")
    jobs: int = at_least(1, 2)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    places = list(itertools.product(SLIPS, HORIZONS, EPISODES, KAPPAS))
    jobs = {}
    for slip, horizon, episodes, kappa in places:
        changes = f"dataset.slip={slip} dataset.horizon={horizon} dataset.episodes={episodes} algo.kappa={kappa}"
        folder = options.folder / f"slip{slip}-horizon{horizon}-episodes{episodes}-kappa{kappa}"
        jobs[slip, horizon, episodes, kappa] = Job(tuple(f"{COMMON} {changes}".split()), folder)
    summaries = play_all(list(jobs.values()), options.jobs)
    success = {place: summaries[job].totals["final"].measures["success"].mean for place, job in jobs.items()}
    rows = []
    for slip, horizon, episodes, kappa in places:
        own_rate, filtered = success[slip, horizon, episodes, kappa], success[slip, horizon, episodes, "0"]
        place = {"slip": slip, "horizon": horizon, "episodes": episodes, "kappa": kappa}
        rows.append({**place, "success": round(own_rate, 2), "gain": round(own_rate - filtered, 2)})
    write_csv(RESULTS / "phase.csv", rows)
    figure(rows, FIGURE)


if __name__ == "__main__":
    from benchmarks.phase import main as main_by_name  # worker processes see no __main__

    run(main_by_name, __doc__, "the same command goes on")
