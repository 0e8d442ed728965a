"""The table of docs/tasks.md about operators in Meta-World, its picture, and the datasets' hashes in iwbc/data/published.json:

    MUJOCO_GL=egl python docs/tasks/operators.py

Makes the datasets of the default size and seed where they are not there yet: some six minutes on one core.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from iwbc.data import demonstrations
from iwbc.data.minari_source import load
from iwbc.data.sources import PUBLISHED
from iwbc.data.trajectories import Trajectories
from iwbc.environments.gymnasium import make_env
from iwbc.environments.metaworld import HORIZONS, expert
from iwbc.settings import OperatorDemonstrations

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "tasks.md"
BEGIN, END = "<!-- by docs/tasks/operators.py -->\n", "<!-- to here -->\n"
AFTER = 45  # steps of the expert, before the picture is taken


def rows(task: str, data: Trajectories) -> list[str]:
    """Of each operator: episodes, the share of successes, and lengths of these."""
    assert data.groups is not None and data.successes is not None
    lines = []
    for index, name in enumerate(data.info.groups):
        of_this = data.groups[:, index]
        successes = data.successes[of_this]
        low, middle, high = np.percentile(data.lengths[of_this][successes], [10, 50, 90])
        spread = f"{middle:.0f} | {low:.0f}–{high:.0f}"
        figures = f"{of_this.sum()} | {data.lengths[of_this].sum():,} | {100 * successes.mean():.0f} | {spread}"
        first = f"`{task.replace('-', '_')}` (at most {HORIZONS[task]} steps)" if index == 0 else ""
        lines.append(f"| {first} | {name} | {figures} |")
    return lines


def frame(env_id: str) -> Any:
    """The expert at work."""
    env, act = make_env(env_id, "rgb_array"), expert(env_id)
    observation, _ = env.reset(seed=1)
    for _ in range(AFTER):
        observation, *_ = env.step(np.clip(act(observation), -1.0, 1.0).astype(np.float32))
    picture: Any = env.render()
    env.close()
    return picture


def main() -> None:
    ids = {task: f"metaworld/{task}-v3" for task in HORIZONS}
    sets = {task: load(demonstrations.ensure(env_id, OperatorDemonstrations())) for task, env_id in ids.items()}
    table = ["| task | operator | episodes | steps | success % | steps to success: median | 10–90 % |"]
    table += ["|---|---|--:|--:|--:|--:|--:|"]
    table += [row for task, data in sets.items() for row in rows(task, data)]
    page = PAGE.read_text()
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    said = f"Meta-World {version('metaworld')}, mujoco {version('mujoco')}, gymnasium {version('gymnasium')}."
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(table) + f"\n\n{said}\n\n{END}{after}")

    shown = [task for task in HORIZONS if not task.endswith("-hasty")]
    figure, axes = plt.subplots(1, len(shown), figsize=(2.2 * len(shown), 2.5), layout="constrained")
    for axis, task in zip(axes, shown, strict=True):
        axis.imshow(frame(ids[task]))
        axis.set_title(task, fontsize="small")
        axis.set_axis_off()
    figure.savefig(FOLDER / "operators.png", dpi=100)
    plt.close(figure)
    Image.open(FOLDER / "operators.png").convert("RGB").quantize(128).save(FOLDER / "operators.png", optimize=True)

    hashes = json.loads(PUBLISHED.read_text()) | {data.info.id: data.content_hash for data in sets.values()}
    PUBLISHED.write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()
