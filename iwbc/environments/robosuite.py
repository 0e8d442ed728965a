"""Robosuite's environments, as robomimic's files describe them: known to Gymnasium by name, repeated by a seed, and made from
plain values only.

    gymnasium.make("robosuite/Lift", robots="Panda", observation_keys=["object", "robot0_eef_pos"])
    gymnasium.make("robosuite/Lift", robots="Panda", observation_keys=[], images={"agentview_image": [84, 84, 3]})

make_env registers such an id by itself; robosuite, which has no environments for Gymnasium, is imported when one is made.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.environments.seeding import seeded
from iwbc.environments.spaces import VECTOR, Image
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError, extra

# Steps of an episode of proficient humans' data, and of multiple humans' data, in robomimic's study.
HORIZONS: dict[str, tuple[int, int]] = {
    "Lift": (400, 500),
    "PickPlaceCan": (400, 500),
    "NutAssemblySquare": (400, 500),
    "TwoArmTransport": (700, 1100),
    "ToolHang": (700, 700),  # of proficient humans only
}
_HORIZON = 1000  # robosuite's own

# Arguments of robosuite's environments that say what the task is. None of them is a file.
_PASSED = {
    *("base_types", "bin1_pos", "bin2_pos", "bin_size", "control_freq", "controller_configs", "env_configuration"),
    *("gripper_types", "initialization_noise", "lite_physics", "nut_type", "object_type", "peg_length", "peg_radius"),
    *("prehensile", "reward_scale", "reward_shaping", "robots", "single_object_mode", "table_friction", "table_full_size"),
    *("tables_boundary", "task_config", "use_latch", "use_object_obs", "z_offset", "z_rotation"),
}
# Those that say how it is looked at, when it ends, and how it is reset: for Robosuite to choose.
_CHOSEN = {
    *("camera_depths", "camera_heights", "camera_names", "camera_segmentations", "camera_widths", "hard_reset"),
    *("has_offscreen_renderer", "has_renderer", "horizon", "ignore_done", "render_camera", "render_collision_mesh"),
    *("render_gpu_device_id", "render_visual_mesh", "renderer", "renderer_config", "seed", "use_camera_obs"),
}
# Names that robomimic gives to observations.
_RENAMED = {"object": "object-state"}


def spec_of(
    env_args: Mapping[str, Any], observation_keys: Sequence[str], horizon: int | None = None, images: Sequence[Image] = ()
) -> EnvironmentSpec | None:
    """Describe the environment that a robomimic file names in its `env_args` (parsed): observations are `observation_keys`,
    flattened and joined in this order, and `images`; `horizon` in steps (default: of proficient humans' data in the study).

    Returns None where the file names neither robosuite (type 1) nor Gym (type 2). Arguments are kept as they are, but for those
    of rendering; Robosuite refuses what it does not know. Raises UserError where `env_args` are malformed.
    """
    name, kind, kwargs = (env_args.get(key) for key in ("env_name", "type", "env_kwargs"))
    if not (isinstance(name, str) and isinstance(kind, int) and isinstance(kwargs or {}, Mapping)):
        raise UserError("env_args: need a text env_name, a number type and an object env_kwargs; write them as robomimic does")
    if kind == 1:
        arguments = {key: value for key, value in (kwargs or {}).items() if key not in _CHOSEN}
        limit = horizon or HORIZONS.get(name, (_HORIZON,))[0]
        seen: dict[str, Any] = {"observation_keys": list(observation_keys)}
        if images:
            seen["images"] = {image.name: list(image.shape) for image in images}
        return EnvironmentSpec(f"robosuite/{name}", {**arguments, **seen}, limit)
    return EnvironmentSpec(name, dict(kwargs or {}), horizon) if kind == 2 else None


def register(env_id: str) -> None:
    """Make `robosuite/…` known to Gymnasium, once; leave any other id alone."""
    namespace, _, task = env_id.partition("/")
    if namespace == "robosuite" and task.isidentifier() and env_id not in gym.registry:
        limit = HORIZONS.get(task, (_HORIZON,))[0]
        gym.register(env_id, "iwbc.environments.robosuite:Robosuite", max_episode_steps=limit, kwargs={"task": task})


class Robosuite(gym.Env[Any, npt.NDArray[np.float32]]):
    """An environment of robosuite. Observations [obs] are those of `observation_keys`, as robomimic names them, flattened and
    joined in this order; actions [act] are robosuite's. With `images`, shapes by robomimic's names, observations are Dicts of
    that vector and the images, whose first row is the upper one. An episode ends at its first success, as in robomimic's study;
    every step's info says `success`."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        observation_keys: Sequence[str],
        render_mode: str | None = None,
        images: Mapping[str, Sequence[int]] | None = None,
        **arguments: Any,
    ) -> None:
        """Make it. Raises UserError where robosuite is not installed, does not know the task, or the arguments are not in the
        list of those that are passed."""
        where = f"environment robosuite/{task}"
        if unknown := sorted(arguments.keys() - _PASSED):
            raise UserError(
                f"{where}: the argument {unknown[0]} is not passed to robosuite (only {', '.join(sorted(_PASSED))})"
            )
        if "controller_configs" in arguments:
            arguments["controller_configs"] = _controllers(arguments["controller_configs"], where)
        shapes = {name: tuple(shape) for name, shape in (images or {}).items()}
        if strange := [name for name, shape in shapes.items() if not name.endswith("_image") or shape[2:] != (3,)]:
            raise UserError(
                f"{where}: has no images such as {strange[0]} {shapes[strange[0]]}, only CAMERA_image [height, width, 3]"
            )
        offscreen = render_mode == "rgb_array" or bool(shapes)
        cameras = {
            "camera_names": [name.removesuffix("_image") for name in shapes],
            "camera_heights": [shape[0] for shape in shapes.values()],
            "camera_widths": [shape[1] for shape in shapes.values()],
        }
        with seeded(0):
            self._env = _robosuite(where).make(
                task,
                **copy.deepcopy(arguments),
                **{"has_renderer": False, "has_offscreen_renderer": offscreen, "use_camera_obs": bool(shapes)},
                **{"renderer": "mujoco", "ignore_done": True, "hard_reset": True},
                **(cameras if shapes else {}),
            )
            first = self._env.reset()
        names = [_RENAMED.get(key, key) for key in observation_keys]
        named = [*zip(observation_keys, names, strict=True), *zip(shapes, shapes, strict=True)]
        if missing := [key for key, name in named if name not in first]:
            raise UserError(f"{where}: has no observation {missing[0]}, only {', '.join(sorted(first))}")
        self._names, self._images, self.render_mode = names, list(shapes), render_mode
        self.metadata = self.metadata | {"render_fps": int(self._env.control_freq)}
        size = len(self._vector(first))
        vectors = gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        pictures = {name: gym.spaces.Box(0, 255, shape, np.uint8) for name, shape in shapes.items()}
        self.observation_space = gym.spaces.Dict({VECTOR: vectors, **pictures}) if shapes else vectors
        low, high = (np.asarray(bound, np.float32) for bound in self._env.action_spec)
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        with seeded(int(self.np_random.integers(2**32))):
            return self._observed(self._env.reset()), {}

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _ = self._env.step(action)
        success = bool(self._env._check_success())
        return self._observed(observation), float(reward), success, False, {"success": success}

    def _observed(self, observation: Mapping[str, Any]) -> Any:
        if not self._images:
            return self._vector(observation)
        # As robomimic writes them: robosuite's begin at the bottom.
        pictures = {name: np.ascontiguousarray(observation[name][::-1]) for name in self._images}
        return {VECTOR: self._vector(observation), **pictures}

    def _vector(self, observation: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        return np.concatenate([np.zeros(0), *(np.ravel(observation[name]).astype(np.float64) for name in self._names)])

    def render(self) -> npt.NDArray[np.uint8]:
        """Draw what robomimic's first camera sees, [480, 640, 3]."""
        picture: npt.NDArray[np.uint8] = self._env.sim.render(width=640, height=480, camera_name="agentview")
        return picture[::-1]  # robosuite's begin at the bottom

    def close(self) -> None:
        self._env.close()


def _controllers(settings: Any, where: str) -> Any:
    """Return controllers' settings as robosuite 1.5 takes them: those of 1.4 are an arm's, whose actions are in the world's
    frame. Raises UserError where they are no settings, but the name of a file."""
    if isinstance(settings, list):
        return [_controllers(each, where) for each in settings]
    if settings is None:
        return None
    if not isinstance(settings, dict):
        raise UserError(f"{where}: controller_configs={settings!r} may name a file; give the settings themselves")
    if "body_parts" in settings:
        return settings
    kind = "absolute" if settings.get("control_delta") is False else "delta"
    arm = {**settings, "input_type": kind, "input_ref_frame": "world", "gripper": {"type": "GRIP"}}
    return {"type": "BASIC", "body_parts": {"right": arm}}


def _robosuite(where: str) -> Any:
    """Import robosuite: without its advice, which it logs, and without MUJOCO_GL, which it sets for all that come after."""
    logging.getLogger("robosuite_logs").addFilter(_is_error)
    renderer = os.environ.get("MUJOCO_GL")
    try:
        import robosuite
    except ImportError as error:
        raise UserError(f"{where}: robosuite cannot be imported ({error}); {extra('robosuite')}") from None
    finally:
        os.environ.pop("MUJOCO_GL", None)
        os.environ.update({} if renderer is None else {"MUJOCO_GL": renderer})
    return robosuite


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
