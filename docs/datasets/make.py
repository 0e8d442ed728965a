"""The cards of the generated datasets: README.md in this folder with its pictures, and the hashes in iwbc/data/published.json.

    python docs/datasets/make.py

Makes the tiers and tasks of the default size and seed where they are not there yet (some minutes in all).
"""

from __future__ import annotations

import json
import textwrap
from importlib.metadata import version
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from iwbc.data import demonstrations
from iwbc.data.behaviours import behaviours
from iwbc.data.generate import ensure
from iwbc.data.minari_source import load
from iwbc.data.sources import PUBLISHED
from iwbc.data.trajectories import Trajectories
from iwbc.environments.tasks.point_maze import ENV_ID as POINT_MAZE
from iwbc.settings import TIERS, Demonstrations

ENVIRONMENTS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5")
TASKS = ("iwbc/TwoRoutes-v0", "iwbc/CarefulOrHasty-v0", POINT_MAZE)
FOLDER = Path(__file__).parent
MEANING = {
    "random": "the untrained policy",
    "medium": "one policy whose mean return is that of D4RL's medium dataset",
    "medium-replay": "the policies that training went through, in order, with shares by training time",
    "medium-expert": "half from the medium policy, half from the expert",
    "expert": "the expert policy",
}

# Of D4RL's v2 datasets: episodes, steps, and return: mean, standard deviation, best (tables in Chen et al. 2021, "Decision
# Transformer", and in its code, which prints them as it loads the files).
D4RL = {
    ("Hopper-v5", "medium"): (2186, 999_906, 1422.06, 378.95, 3222.36),
    ("Hopper-v5", "medium-replay"): (2041, 402_000, 467.30, 511.03, 3192.93),
    ("HalfCheetah-v5", "medium"): (1000, 1_000_000, 4770.33, 355.75, 5309.38),
    ("HalfCheetah-v5", "medium-replay"): (202, 202_000, 3093.29, 1680.69, 4985.14),
    ("Walker2d-v5", "medium"): (1190, 999_995, 2852.09, 1095.44, 4226.94),
    ("Walker2d-v5", "medium-replay"): (1093, 302_000, 682.70, 895.96, 4132.00),
}


def comparison() -> list[str]:
    """Our tiers beside D4RL's, in scores."""
    rows = ["| | episodes | steps | mean score | std | best | 25 % | median | 75 % |", "|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for (env_id, tier), (episodes, steps, mean, std, best) in D4RL.items():
        data = load(ensure(env_id, tier))
        scores = data.info.reference_scores
        assert scores is not None
        ours = scores.normalise(data.returns)
        unit = 100.0 / (scores.expert - scores.random)
        name = f"{env_id.split('-v')[0].lower()} {tier}"
        quartiles = " | ".join(f"{value:.1f}" for value in np.percentile(ours, [25, 50, 75]))
        figures = f"{ours.mean():.1f} | {ours.std():.1f} | {ours.max():.1f}"
        rows.append(f"| {name} | {len(data):,} | {data.steps:,} | {figures} | {quartiles} |")
        theirs = f"{scores.normalise(mean):.1f} | {std * unit:.1f} | {scores.normalise(best):.1f} | | |"
        rows.append(f"| – D4RL's | {episodes:,} | {steps:,} | {theirs}")
    return rows


def picture(data: Trajectories, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(5.6, 1.7), dpi=90, layout="constrained")
    panels = (data.returns, "return", None), (data.lengths, "episode length (steps)", (0, 1000))
    for axis, (values, label, limits) in zip(axes, panels, strict=True):
        axis.hist(values, bins=40, range=limits, color="#33658a")
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylabel("episodes", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def card(env_id: str, tier: str) -> str:
    data = load(ensure(env_id, tier))
    assert data.info.reference_scores is not None
    scores = data.info.reference_scores.normalise(data.returns)
    name = f"{env_id.split('-v')[0].lower()}-{tier}.png"
    picture(data, FOLDER / name)
    low, quarter, middle, three_quarters, high = np.percentile(scores, [0, 25, 50, 75, 100])
    lengths = np.percentile(data.lengths, [0, 25, 50, 75, 100]).astype(int)
    cut = f"{100 * (1 - data.terminated.mean()):.0f} % reach the time limit"
    return "\n".join(
        [
            f"### `{data.info.id}`",
            "",
            f"{MEANING[tier][0].upper()}{MEANING[tier][1:]}. {len(data):,} episodes, {data.steps:,} steps; {cut}.",
            "",
            "| | mean | min | 25 % | median | 75 % | max |",
            "|---|--:|--:|--:|--:|--:|--:|",
            f"| score | {scores.mean():.1f} | {low:.1f} | {quarter:.1f} | {middle:.1f} | {three_quarters:.1f} | {high:.1f} |",
            f"| return | {data.returns.mean():,.0f} | "
            + " | ".join(f"{value:,.0f}" for value in np.percentile(data.returns, [0, 25, 50, 75, 100]))
            + " |",
            f"| length | {data.lengths.mean():.0f} | " + " | ".join(map(str, lengths)) + " |",
            "",
            f"![returns and lengths of {data.info.id}]({name})",
            "",
        ]
    )


def main() -> None:
    sections = [
        "# Generated datasets",
        "",
        "What `python -m iwbc.data.generate` makes with its default size and seed (0), episode by episode. Scores are "
        "normalised with D4RL's reference returns: 0 is D4RL's random policy, 100 its expert. A tier means what it means in "
        "D4RL, and medium and medium-replay resemble D4RL's in these figures; the policies are others.",
        "",
        *comparison(),
        "",
        f"`python docs/datasets/make.py` wrote this page (gymnasium {version('gymnasium')}, mujoco {version('mujoco')}, "
        f"minari {version('minari')}, numpy {version('numpy')}). The same seed gives the same bytes with the same versions of "
        "mujoco and gymnasium ([what is promised](../data.md)).",
        "",
        "| behaviour | medium: step, return | medium-replay ends at step | expert: step, return | trained with |",
        "|---|---|--:|---|---|",
    ]
    for env_id in ENVIRONMENTS:
        source = behaviours(env_id)
        medium, expert = (f"{source.steps[i]:,}, {source.returns[i]:,.0f}" for i in (source.medium, source.expert))
        end = source.steps[source.replay_end]
        sections.append(f"| {env_id} | {medium} | {end:,} | {expert} | {source.training} |")
    sections.append("")
    for env_id in ENVIRONMENTS:
        sections += [f"## {env_id}", "", *(card(env_id, tier) for tier in TIERS)]
    lines = [line for section in sections for line in section.split("\n")]
    prose = [line if line.startswith("|") else textwrap.fill(line, 120, break_on_hyphens=False) for line in lines]
    (FOLDER / "README.md").write_text("\n".join(prose).rstrip() + "\n")
    print(FOLDER / "README.md")
    names = [ensure(env_id, tier) for env_id in ENVIRONMENTS for tier in TIERS]
    names += [demonstrations.ensure(env_id, Demonstrations()) for env_id in TASKS]
    hashes = json.loads(PUBLISHED.read_text()) | {name: load(name).content_hash for name in names}
    PUBLISHED.write_text(json.dumps(hashes, indent=1) + "\n")
    print(PUBLISHED)


if __name__ == "__main__":
    main()
