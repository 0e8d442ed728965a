"""A stand-in for robosuite, for machines without it: what iwbc.environments.robosuite uses of it, and no physics."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace
from typing import Any

import numpy as np

os.environ["MUJOCO_GL"] = "egl"  # as robosuite does
__version__ = "1.5.1"
renders = True  # False: as on a machine without EGL


class RenderContext:
    """A renderer, which is half made where nothing renders."""

    def __init__(self) -> None:
        if not renders:
            raise ImportError("Cannot initialize a EGL device display.")
        self.con: list[Any] = []

    def __del__(self) -> None:
        self.con.clear()


class Lift:
    """A cube at a place drawn from the global generators, and an arm that actions move."""

    def __init__(self, robots: Any, control_freq: float = 20, horizon: int = 1000, **settings: Any) -> None:
        self.control_freq, self.settings = control_freq, settings
        self.has_offscreen_renderer = settings["has_offscreen_renderer"]
        if self.has_offscreen_renderer:
            self.context = RenderContext()
        self.robots = [
            SimpleNamespace(composite_controller_config=each)
            for each in (
                settings["controller_configs"]
                if isinstance(settings["controller_configs"], list)
                else [settings["controller_configs"]]
            )
        ]
        self.action_spec = -np.ones(7), np.ones(7)
        self.sim = SimpleNamespace(render=self._render)
        self.reset()

    def reset(self) -> dict[str, Any]:
        self.cube, self.arm = np.random.uniform(-1, 1, 10), np.array([random.random(), 0.0, 0.0])
        return self._get_observations()

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        self.arm = self.arm + np.asarray(action)[:3] / self.control_freq
        return self._get_observations(), 1.0 if self._check_success() else 0.0, False, {}

    def _get_observations(self) -> dict[str, Any]:
        named = {"robot0_eef_pos": self.arm, "robot0_eef_quat": np.ones(4), "robot0_gripper_qpos": np.zeros(2)}
        return {**named, "cube_pos": self.cube[:3], "object-state": self.cube, **self._pictures()}

    def _pictures(self) -> dict[str, Any]:
        """Pictures, from the bottom up, of which each row has its number, and the first column the camera's."""
        if not self.settings["use_camera_obs"]:
            return {}
        pictures = {}
        sizes = zip(*(self.settings[f"camera_{what}"] for what in ("names", "heights", "widths")), strict=True)
        for number, (name, height, width) in enumerate(sizes):
            picture = np.zeros((height, width, 3), np.uint8) + np.arange(height, dtype=np.uint8)[::-1, None, None]
            picture[:, 0] = number
            pictures[f"{name}_image"] = picture
        return pictures

    def _render(self, width: int, height: int, camera_name: str) -> np.ndarray:
        if not self.has_offscreen_renderer:
            raise AttributeError("'NoneType' object has no attribute 'render'")
        if camera_name not in ("frontview", "birdview", "agentview", "sideview"):
            raise ValueError(f"No camera with name {camera_name} exists.")
        picture = np.zeros((height, width, 3), np.uint8)
        picture[0] = 255  # the floor: OpenGL's first row is the lowest
        return picture

    def _check_success(self) -> bool:
        return False

    def close(self) -> None:
        pass


def make(env_name: str, **settings: Any) -> Lift:
    if env_name != "Lift":
        raise Exception(f"Environment {env_name} not found. Make sure it is a registered environment among: Lift")
    return Lift(**settings)
