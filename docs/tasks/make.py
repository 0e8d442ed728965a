"""The pictures of docs/tasks.md:  MUJOCO_GL=egl python docs/tasks/make.py

A frame of each task as Gymnasium renders it, with the paths of 60 demonstrations drawn over it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np

from iwbc.data.demonstrators import demonstrations
from iwbc.environments.gymnasium import make_env
from iwbc.environments.spec import EnvironmentSpec
from iwbc.environments.tasks.careful_or_hasty import LINK

FOLDER = Path(__file__).parent
COLOURS = {True: "#2b8a3e", False: "#c92a2a"}  # by success
HEIGHT = 0.05  # of what moves, in m: where the camera's picture is measured


def background(axes: Any, env_id: str) -> None:
    """A frame at the start of an episode, on the scale of the plane in which things move."""
    env: Any = make_env(EnvironmentSpec(env_id, {"render_mode": "rgb_array", "width": 480, "height": 480}))
    env.reset(seed=0)
    camera = env.unwrapped.model.camera("above")
    x, y, z = camera.pos
    half = (z - HEIGHT) * np.tan(np.radians(camera.fovy[0] / 2))
    axes.imshow(env.render(), extent=(x - half, x + half, y - half, y + half))
    axes.set(xlabel="x (m)", ylabel="y (m)", xlim=(x - half, x + half), ylim=(y - half, y + half))
    env.close()


def two_routes() -> None:
    figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    background(axes, "iwbc/TwoRoutes-v0")
    for episode in demonstrations("iwbc/TwoRoutes-v0", 60):
        path = np.vstack([episode.observations, episode.final_observation])
        axes.plot(path[:, 0], path[:, 1], color=COLOURS[bool(episode.success)], linewidth=0.7, alpha=0.7)
    axes.set_title("60 demonstrations: success green, failure red", fontsize="small")
    save(figure, "two-routes")


def careful_or_hasty() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    background(left, "iwbc/CarefulOrHasty-v0")
    for episode in demonstrations("iwbc/CarefulOrHasty-v0", 60):
        steps = np.vstack([episode.observations, episode.final_observation])
        shoulder, elbow = np.arctan2(steps[:, 1], steps[:, 0]), np.arctan2(steps[:, 3], steps[:, 2])
        style = {"color": COLOURS[bool(episode.success)], "linewidth": 0.7, "alpha": 0.7}
        x = LINK * (np.cos(shoulder) + np.cos(shoulder + elbow))
        y = LINK * (np.sin(shoulder) + np.sin(shoulder + elbow))
        left.plot(x, y, **style)
        right.plot(np.linalg.norm(steps[:, 6:8], axis=1), **style)
    left.set_title("tip of the arm, 60 demonstrations", fontsize="small")
    right.set(xlabel="control step", ylabel="from tip to glass (m)")
    save(figure, "careful-or-hasty")


def save(figure: Any, name: str) -> None:
    """As a PNG of few colours, which keeps it small."""
    from PIL import Image

    figure.savefig(FOLDER / f"{name}.png", dpi=100)
    plt.close(figure)
    Image.open(FOLDER / f"{name}.png").convert("RGB").quantize(128).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    two_routes()
    careful_or_hasty()
