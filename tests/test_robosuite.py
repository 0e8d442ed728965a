"""Robosuite's environments as robomimic's files describe them: with a stand-in, and with robosuite where it is installed."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
from setups import column, command, rarely, read_csv, train

from iwbc.data.minari_source import load
from iwbc.data.minari_writer import write_minari
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.gymnasium import LocalEnvironments, WorkerEnvironments, make_env
from iwbc.environments.robosuite import HORIZONS, spec_of
from iwbc.environments.spaces import Image
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.record import Played, frames_of

KEYS = ["robot0_eef_pos", "object", "robot0_gripper_qpos"]
ARM = {
    **{"type": "OSC_POSE", "input_max": 1, "input_min": -1, "output_max": [0.05] * 3 + [0.5] * 3, "kp": 150},
    **{"output_min": [-0.05] * 3 + [-0.5] * 3, "damping_ratio": 1, "impedance_mode": "fixed", "kp_limits": [0, 300]},
    **{"damping_ratio_limits": [0, 10], "position_limits": None, "orientation_limits": None, "uncouple_pos_ori": True},
    **{"interpolation": None, "ramp_ratio": 0.2},
}
OLD = {**ARM, "control_delta": True}
NEW = {
    "type": "BASIC",
    "body_parts": {"right": {**ARM, "input_type": "delta", "input_ref_frame": "world", "gripper": {"type": "GRIP"}}},
}


def env_args(name: str = "Lift", kind: int = 1, **kwargs: Any) -> dict[str, Any]:
    """What a file of robomimic says of its environment."""
    usual = {"robots": ["Panda"], "controller_configs": NEW, "control_freq": 20, "reward_shaping": False}
    looks = {"has_renderer": True, "has_offscreen_renderer": True, "use_camera_obs": True, "camera_names": ["agentview"]}
    looks |= {"camera_heights": 84, "camera_widths": 84, "render_gpu_device_id": 0, "camera_depths": False}
    named = {"env_name": name, "env_version": "1.5.1", "type": kind}
    return json.loads(json.dumps({**named, "env_kwargs": {**usual, **looks, "ignore_done": False, **kwargs}}))


@pytest.fixture(params=["stand-in", rarely("robosuite")])
def robosuite(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets `import robosuite` find the stand-in, or robosuite, where it is installed."""
    if request.param == "stand-in":
        monkeypatch.syspath_prepend(Path(__file__).parent / "stand_ins")
        monkeypatch.delitem(sys.modules, "robosuite", raising=False)
        request.addfinalizer(lambda: sys.modules.pop("robosuite", None))
    elif importlib.util.find_spec("robosuite") is None:
        pytest.skip("needs the extra robosuite")
    return request.param


def lift(**kwargs: Any) -> EnvironmentSpec:
    spec = spec_of(env_args(**kwargs), KEYS, 3)
    assert spec is not None
    return spec


# --- what a file says ----------------------------------------------------------------------------------------------------


def test_a_file_s_environment_is_plain_values_without_those_of_rendering() -> None:
    spec = spec_of(env_args(reward_scale=2.0), KEYS)
    arguments = {"robots": ["Panda"], "controller_configs": NEW, "control_freq": 20, "reward_shaping": False}
    assert spec == EnvironmentSpec("robosuite/Lift", {**arguments, "reward_scale": 2.0, "observation_keys": KEYS}, 400)
    assert EnvironmentSpec.of_plain(json.loads(json.dumps(spec.to_plain()))) == spec


@pytest.mark.parametrize(
    ("name", "horizon", "steps"),
    [("TwoArmTransport", None, 700), ("TwoArmTransport", 1100, 1100), ("NutAssemblySquare", None, 400), ("Wipe", None, 1000)],
)
def test_the_horizon_is_the_study_s_or_the_caller_s(name: str, horizon: int | None, steps: int) -> None:
    spec = spec_of(env_args(name), KEYS, horizon)
    assert spec is not None and spec.max_episode_steps == steps
    assert HORIZONS["TwoArmTransport"] == (700, 1100)


def test_other_types_than_robosuite() -> None:
    kwargs = {"env_name": "Hopper-v5", "type": 2, "env_kwargs": {"reset_noise_scale": 0.1}}
    assert spec_of(kwargs, ["flat"], 100) == EnvironmentSpec("Hopper-v5", {"reset_noise_scale": 0.1}, 100)
    assert spec_of(env_args(kind=3), KEYS) is None


@pytest.mark.parametrize("changes", [{"env_name": None}, {"type": "1"}, {"env_kwargs": [1]}, {"env_name": ["Lift"]}])
def test_malformed_env_args_are_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^env_args: need a text env_name, a number type and an object env_kwargs"):
        spec_of({**env_args(), **changes}, KEYS)


# --- how it is played ----------------------------------------------------------------------------------------------------


def test_observations_are_in_the_order_of_the_keys(robosuite: str) -> None:
    env = make_env(lift())
    first, _ = env.reset(seed=1)
    theirs = env.unwrapped._env._get_observations()  # type: ignore[attr-defined]
    expected = [theirs["robot0_eef_pos"], theirs["object-state"], theirs["robot0_gripper_qpos"]]
    np.testing.assert_array_equal(first, np.concatenate(expected))
    assert env.observation_space.contains(first) and first.shape == (15,)
    assert isinstance(env.action_space, gym.spaces.Box)
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all() and env.action_space.shape == (7,)
    env.close()


def test_a_seed_repeats_an_episode_and_nobody_else_s_randomness_moves(robosuite: str) -> None:
    np.random.seed(3)
    random.seed(3)
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 7))

    def episodes(environments: LocalEnvironments | WorkerEnvironments) -> list[Any]:
        steps = [environments.reset([5, 6])]
        return steps + [environments.step(np.arange(2), acts).observations for acts in actions]

    local = LocalEnvironments(lift())
    once = episodes(local)
    assert (once[0][0] != once[0][1]).any()
    workers = WorkerEnvironments(lift(), 2)
    for other in (episodes(local), episodes(LocalEnvironments(lift())), episodes(workers)):
        assert all(np.array_equal(a, b) for a, b in zip(once, other, strict=True))
    workers.close()
    local.close()
    env = make_env(lift())
    assert np.array_equal(env.reset(seed=5)[0], env.reset(seed=5)[0])
    assert not np.array_equal(env.reset()[0], env.reset()[0])
    assert np.random.normal() == np.random.RandomState(3).normal()
    assert random.random() == random.Random(3).random()


def test_a_success_ends_an_episode_and_is_reported(robosuite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(lift())
    env.reset(seed=0)
    assert env.step(np.zeros(7))[1:] == (0.0, False, False, {"success": False})
    monkeypatch.setattr(env.unwrapped._env, "_check_success", lambda: np.True_)  # type: ignore[attr-defined]
    assert env.step(np.zeros(7))[1:] == (1.0, True, False, {"success": True})


def test_the_horizon_cuts_an_episode(robosuite: str) -> None:
    env = make_env(lift(horizon=1))  # robosuite's, which is the file's
    env.reset(seed=0)
    assert [env.step(np.zeros(7))[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_nothing_is_rendered_unless_asked_for(robosuite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    env = make_env(lift())
    assert not env.unwrapped._env.has_offscreen_renderer  # type: ignore[attr-defined]
    assert "MUJOCO_GL" not in os.environ  # what robosuite sets would hold for every other environment
    env.close()


def test_pictures(robosuite: str) -> None:
    played = Played(0, 0, 1, np.zeros((3, 7), np.float32), 0.0)
    try:
        frames, rate = frames_of(lift(), played, 10)
    except UserError as error:
        pytest.skip(str(error))  # no EGL
    assert len(frames) == 4 and rate == 20
    assert frames[0].shape == (480, 640, 3)
    assert robosuite == "stand-in" or frames[0].std() > 10
    assert robosuite != "stand-in" or (frames[0][-1].min(), frames[0][:-1].max()) == (255, 0)  # the floor is below


@pytest.mark.parametrize("settings", [OLD, [OLD]])
def test_settings_of_controllers_from_before_1_5(robosuite: str, settings: Any) -> None:
    made = [make_env(lift(controller_configs=each)) for each in (settings, NEW)]
    starts = [env.reset(seed=1)[0] for env in made]
    assert np.array_equal(*starts)
    steps = [[env.step(np.full(7, 0.5))[0] for _ in range(2)] for env in made]
    np.testing.assert_array_equal(*steps)
    (robot,) = made[0].unwrapped._env.robots  # type: ignore[attr-defined]
    right = robot.composite_controller_config["body_parts"]["right"]
    assert right["input_ref_frame"] == "world" and right["input_type"] == "delta"
    assert settings in (OLD, [OLD])  # unchanged


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"placement_initializer": "x"}, r"the argument placement_initializer is not passed to robosuite \(only base_types, "),
        (
            {"controller_configs": "/etc/passwd.json"},
            "controller_configs='/etc/passwd.json' may name a file; give the settings",
        ),
        ({"controller_configs": [NEW, "a.json"]}, "controller_configs='a.json' may name a file; give the settings themselves"),
        ({"name": "Fly"}, r"cannot be made \(Environment Fly not found"),
    ],
)
def test_what_a_file_may_not_ask_for_is_one_line(robosuite: str, changes: dict[str, Any], problem: str) -> None:
    spec = lift(**changes)
    with pytest.raises(UserError, match=rf"^environment {spec.id}: {problem}"):
        make_env(spec)


def test_observations_that_are_not_there_are_named(robosuite: str) -> None:
    spec = spec_of(env_args(), ["object", "agentview_image"])
    assert spec is not None
    with pytest.raises(
        UserError, match=r"^environment robosuite/Lift: has no observation agentview_image, only .*object-state"
    ):
        make_env(spec)


def test_images_are_those_of_cameras_with_the_upper_row_first(robosuite: str) -> None:
    images = [Image((f"{name}_image",), (height, 6, 3)) for name, height in (("agentview", 4), ("robot0_eye_in_hand", 5))]
    spec = spec_of(env_args(), KEYS, None, images)
    assert spec is not None and spec.kwargs["images"] == {"agentview_image": [4, 6, 3], "robot0_eye_in_hand_image": [5, 6, 3]}
    env, plain = LocalEnvironments(spec), LocalEnvironments(lift())
    assert env.images == images
    seen = env.reset([3])[0]
    np.testing.assert_array_equal(seen["observations"], plain.reset([3])[0])
    if robosuite == "stand-in":  # whose rows have numbers
        assert seen["agentview_image"][:, 1, 0].tolist() == [0, 1, 2, 3]
        assert seen["robot0_eye_in_hand_image"][:, :2, 0].tolist() == [[1, row] for row in range(5)]
    for odd in (Image(("depth",), (4, 4, 3)), Image(("agentview_image",), (4, 4))):
        spec = spec_of(env_args(), [], None, [odd])
        assert spec is not None
        with pytest.raises(UserError, match=rf"^environment robosuite/Lift: has no images such as {odd.name}"):
            make_env(spec)


@pytest.mark.parametrize("robosuite", ["stand-in"], indirect=True)
@pytest.mark.parametrize("mode", [None, "rgb_array"])
def test_where_nothing_renders_a_line_names_what_would(
    robosuite: str, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import robosuite as stand_in

    monkeypatch.setattr(stand_in, "renders", False, raising=False)
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    spec = spec_of(env_args(), KEYS, None, () if mode else [Image(("agentview_image",), (4, 6, 3))])
    assert spec is not None
    with pytest.raises(UserError, match=r"cannot be made \(Cannot initialize a EGL .*; MuJoCo renders by EGL or OSMesa where"):
        make_env(spec, mode)
    gc.collect()
    assert not complaints  # of the renderer that is half made, as robosuite's
    make_env(lift()).close()


def test_a_library_that_mujoco_gl_names_and_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mujoco.py").write_text("raise AttributeError(\"'NoneType' object has no attribute 'glGetError'\")")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(UserError, match=r"^MuJoCo cannot be imported with MUJOCO_GL=osmesa \('NoneType' .*libosmesa6\)$"):
        make_env("Pendulum-v1")


def test_without_robosuite_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(
        UserError, match=r"^environment robosuite/Lift: robosuite cannot be imported .*needs the extra robosuite"
    ):
        make_env(lift())
    with pytest.raises(UserError, match=r"^environment robosuite/a b: cannot be made"):
        make_env("robosuite/a b")


def test_data_of_robosuite_is_trained_on_and_evaluated_in_it(
    robosuite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    env, draw = make_env(lift()), np.random.default_rng(0)
    episodes = []
    for seed in range(3):
        seen, actions = [env.reset(seed=seed)[0]], draw.uniform(-1, 1, (3, 7)).astype(np.float32)
        seen += [env.step(action)[0] for action in actions]
        episode = {"observations": np.stack(seen[:-1]), "final_observation": seen[-1], "actions": actions}
        episodes.append(Episode(**episode, rewards=np.zeros(3), terminated=False, success=seed == 0))
    info = DatasetInfo("mine/lift-v0", lift(), [-1.0] * 7, [1.0] * 7, reference_scores=None)
    write_minari(info, episodes, description="")
    recorded = load("mine/lift-v0").info.environment
    assert recorded is not None and (recorded.id, recorded.max_episode_steps) == ("robosuite/Lift", 3)
    assert recorded.kwargs == {**lift().kwargs, "task": "Lift"}
    short = ("dataset=minari", "env=from_dataset", "policy.hidden=[8]", "algo.steps=2", "algo.warmup_steps=0", "eval.every=0")
    outcome = train(*short, "dataset.id=mine/lift-v0", "curation=all", "reference.steps=2", "eval.episodes=2", "threads=1")
    assert outcome.code == 0, outcome.err
    table = read_csv(next(tmp_path.rglob("evaluations.csv")))
    assert column(table, "length", phase="final") == [3.0, 3.0] and {row["success"] for row in table} == {"0"}
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))  # else record tries which works
    (folder,) = (path.parent for path in tmp_path.rglob("summary.json"))
    outcome = command("iwbc.record", str(folder), "format=gif", "episodes=2")
    if robosuite != "stand-in" and "cannot be rendered here" in outcome.err:
        pytest.skip(outcome.err)  # no EGL
    assert outcome.code == 0, outcome.err
    rows = json.loads((folder / "videos" / "videos.json").read_text())
    assert [(row["name"], row["length"]) for row in rows] == [("best", 3), ("median", 3), ("worst", 3)]
    for row in rows:
        assert imageio.mimread(folder / "videos" / row["file"])[0].shape[:2] == (240, 320)
