"""The environment that data was recorded in is the one that policies are played in, and no file names what is imported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium.wrappers import (
    Autoreset,
    ClipReward,
    HumanRendering,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeAwareObservation,
    TimeLimit,
)
from minari.data_collector import EpisodeBuffer
from setups import column, read_csv, train
from stable_baselines3.common.monitor import Monitor

import iwbc
from iwbc.data.minari_source import load
from iwbc.environments.gymnasium import LocalEnvironments, make_env
from iwbc.environments.ogbench import ogbench_spec
from iwbc.environments.spec import EnvironmentSpec, Wrapper, environment_spec
from iwbc.errors import UserError

SHORT = (
    *("dataset=minari", "env=from_dataset", "curation=all", "policy.hidden=[8]", "algo.steps=2", "algo.warmup_steps=0"),
    *("reference.steps=2", "eval.episodes=2", "eval.every=0", "threads=1"),
)


def stacked(observations: list[Any]) -> Any:
    """Dicts of them, in Dicts, where observations are Dicts."""
    if not isinstance(observations[0], dict):
        return observations
    return {key: stacked([observation[key] for observation in observations]) for key in observations[0]}


def record(env: gym.Env[Any, Any], name: str, episodes: int = 3, success: Callable[[int], bool] | None = None) -> str:
    """Episodes of random actions, as a Minari dataset of this very environment."""
    buffers, random = [], np.random.default_rng(0)
    for episode in range(episodes):
        seen, actions, rewards, done = [env.reset(seed=episode)[0]], [], [], False
        while not done:
            actions.append(random.uniform(env.action_space.low, env.action_space.high).astype(np.float32))  # type: ignore[attr-defined]
            observation, reward, terminated, truncated, _ = env.step(actions[-1])
            seen.append(observation)
            rewards.append(float(reward))
            done = terminated or truncated
        steps = len(rewards)
        ends = np.arange(steps) == steps - 1
        infos = None if success is None else {"success": np.full(steps + 1, success(episode))}
        fields = {
            "observations": stacked(seen),
            "actions": actions,
            "rewards": rewards,
            "terminations": list(ends & bool(terminated)),
            "truncations": list(ends & (not terminated)),
            "infos": infos,
        }
        buffers.append(EpisodeBuffer(**fields))
    minari.create_dataset_from_buffers(
        name, buffers, env=env, description="", author="a", author_email="a@b.c", code_permalink="x", algorithm_name="none"
    )
    return name


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "datasets"


def lengths(folder: Path) -> list[float]:
    (table,) = folder.rglob("evaluations.csv")
    return column(read_csv(table), "length", phase="final")


# --- the dataset's own environment ---------------------------------------------------------------------------------------


def test_time_limit_wrappers_and_arguments_are_those_of_the_recording(datasets: Path, tmp_path: Path) -> None:
    env = TimeAwareObservation(ClipReward(gym.make("Pendulum-v1", max_episode_steps=50, g=2.0), -1.0, 0.0))
    trajectories = load(record(env, "mine/pendulum-v0"))
    spec = trajectories.info.environment
    assert spec is not None
    assert (spec.id, spec.kwargs, spec.max_episode_steps) == ("Pendulum-v1", {"g": 2.0}, 50)
    assert [wrapper.name for wrapper in spec.wrappers] == ["ClipReward", "TimeAwareObservation"]
    made = make_env(spec)
    assert made.unwrapped.g == 2.0  # type: ignore[attr-defined]
    assert made.observation_space == env.observation_space
    outcome = train(*SHORT, "dataset.id=mine/pendulum-v0")
    assert outcome.code == 0, outcome.err
    assert lengths(tmp_path) == [50.0, 50.0]
    returns = column(read_csv(next(tmp_path.rglob("evaluations.csv"))), "return", phase="final")
    assert all(-50.0 <= total <= 0.0 for total in returns)  # clipped


@pytest.mark.parametrize("kwargs", ["env.kwargs={g: 3.0}", "+env.kwargs.g=3.0"])
def test_settings_of_the_user_come_last(datasets: Path, tmp_path: Path, kwargs: str) -> None:
    record(gym.make("Pendulum-v1", max_episode_steps=50, g=2.0), "mine/pendulum-v0", 1)
    changes = ("env.max_episode_steps=20", kwargs)
    outcome = train(*SHORT, "dataset.id=mine/pendulum-v0", *changes)
    assert outcome.code == 0, outcome.err
    assert lengths(tmp_path) == [20.0, 20.0]
    summary = json.loads(next(tmp_path.rglob("summary.json")).read_text())
    assert (summary["environment"]["kwargs"], summary["environment"]["max_episode_steps"]) == ({"g": 3.0}, 20)


RECORDED = EnvironmentSpec("Maze-v3", {"a": 1}, 120, (Wrapper("ClipAction"),), "gymnasium_robotics")


@pytest.mark.parametrize("env_id", [None, "Maze-v3", "somewhere:Maze-v3"])
def test_the_recorded_environment_by_whatever_name(env_id: str | None) -> None:
    spec = environment_spec(RECORDED, env_id, {"b": 2}, None, ())
    imports = ("somewhere",) if env_id and ":" in env_id else ()
    assert spec == EnvironmentSpec("Maze-v3", {"a": 1, "b": 2}, 120, RECORDED.wrappers, "gymnasium_robotics", imports)


def test_another_environment_takes_nothing_from_the_recorded_one() -> None:
    assert environment_spec(RECORDED, "Maze-v4", {}, 7, ("module",)) == EnvironmentSpec("Maze-v4", {}, 7, imports=("module",))
    assert environment_spec(None, None, {}, None, ()) is None


def test_a_spec_survives_json() -> None:
    assert EnvironmentSpec.of_plain(json.loads(json.dumps(RECORDED.to_plain()))) == RECORDED


# --- what is not there ---------------------------------------------------------------------------------------------------


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a trace when it is imported, and registers an environment."""
    (tmp_path / "trap_module.py").write_text(
        f"import gymnasium\nopen({str(tmp_path / 'sprung')!r}, 'w').close()\n"
        "from gymnasium.envs.classic_control.pendulum import PendulumEnv\n"
        "gymnasium.register('Trap-v0', PendulumEnv, max_episode_steps=9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "sprung"
    sys.modules.pop("trap_module", None)
    gym.registry.pop("Trap-v0", None)


def name_in_metadata(datasets: Path, name: str, **spec: Any) -> None:
    path = datasets / name / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    changed = json.loads(metadata["env_spec"]) | spec
    path.write_text(json.dumps(metadata | {"env_spec": json.dumps(changed), "eval_env_spec": json.dumps(changed)}))


def test_a_module_that_only_a_file_names_is_not_imported(datasets: Path, trap: Path) -> None:
    name = record(gym.make("Pendulum-v1", max_episode_steps=9), "mine/pendulum-v0", 1)
    wrapper = {"name": "Evil", "entry_point": "trap_module:Evil", "kwargs": {}}
    named = {"id": "Trap-v0", "entry_point": "trap_module:make"}
    for spec in (named, {"id": "Pendulum-v1", "additional_wrappers": [wrapper]}):
        name_in_metadata(datasets, name, **spec)
        outcome = train(*SHORT, f"dataset.id={name}")
        assert outcome.code == 0
        assert "Training without evaluation" in outcome.out
        assert not trap.exists()
    assert "the wrapper Evil, which may change observations, actions or rewards" in outcome.out


def test_a_module_is_imported_where_the_user_names_it_and_not_where_a_run_folder_does(
    datasets: Path, trap: Path, tmp_path: Path
) -> None:
    name = record(gym.make("Pendulum-v1", max_episode_steps=9), "mine/pendulum-v0", 1)
    name_in_metadata(datasets, name, id="Trap-v0", entry_point="trap_module:make")
    outcome = train(*SHORT, f"dataset.id={name}")
    assert "name the module that registers it with 'env.imports=[its_module]'" in outcome.out
    outcome = train(*SHORT, f"dataset.id={name}", "env.imports=[trap_module]", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert lengths(tmp_path / "run") == [9.0, 9.0]
    trap.unlink()
    del sys.modules["trap_module"], gym.registry["Trap-v0"]
    refused = train(f"resume={tmp_path / 'run'}")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "to trust them, add env.imports=[trap_module]" in refused.err
    assert not trap.exists()
    assert train(f"resume={tmp_path / 'run'}", "env.imports=[trap_module]").code == 0

    from iwbc.evaluate import main as evaluate

    with pytest.raises(UserError, match=r"Trap-v0 needs imports; to import what .* add imports=trap_module$"):
        evaluate([f"run={tmp_path / 'run'}"])
    assert not trap.exists()
    evaluate([f"run={tmp_path / 'run'}", "imports=trap_module"])
    assert trap.exists()


def test_a_known_package_that_is_not_installed_is_named(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "panda_gym", None)
    name = record(gym.make("Pendulum-v1", max_episode_steps=9), "mine/pendulum-v0", 1)
    name_in_metadata(datasets, name, id="PandaReach-v3", entry_point="panda_gym.envs:PandaReachEnv")
    assert "pip install panda-gym" in train(*SHORT, f"dataset.id={name}").out


def test_a_wrapper_whose_arguments_are_not_recorded_is_refused() -> None:
    with pytest.raises(UserError, match=r"Pendulum-v1: the data was recorded with the wrapper TimeAwareObservation, which"):
        make_env(EnvironmentSpec("Pendulum-v1", wrappers=(Wrapper("TimeAwareObservation", None),)))
    with pytest.raises(UserError, match=r"NormalizeReward, which may change observations, actions or rewards, .* env\.id=…"):
        make_env(EnvironmentSpec("Pendulum-v1", wrappers=(Wrapper("NormalizeReward"),)))
    for package in ("", "mine", "gym"):  # of the same name, but not the same
        with pytest.raises(UserError, match="the data was recorded with the wrapper Monitor"):
            make_env(EnvironmentSpec("Pendulum-v1", wrappers=(Wrapper("Monitor", {}, package),)))


class Named(gym.ObservationWrapper[Any, Any, Any]):
    """A custom wrapper with the name of a wrapper that only watches."""

    def observation(self, observation: Any) -> Any:
        return 2.0 * observation


Named.__name__ = "Monitor"
WATCHED: dict[str, Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]] = {
    "statistics": RecordEpisodeStatistics,
    "order": OrderEnforcing,
    "checks": PassiveEnvChecker,
    "resets": Autoreset,
    "a window": HumanRendering,
    "pictures": lambda env: env,  # Gymnasium wraps it itself
    "stable-baselines3": Monitor,
    "minari": lambda env: minari.DataCollector(env),
    "several": lambda env: Monitor(RecordEpisodeStatistics(Monitor(env))),
}


@pytest.mark.parametrize("how", WATCHED)
def test_wrappers_that_only_watch_do_not_cost_the_evaluation(how: str, datasets: Path) -> None:
    datasets.mkdir()
    rendering = {"a window": "rgb_array", "pictures": "rgb_array_list"}
    plain = gym.make("Pendulum-v1", max_episode_steps=30, g=2.0, render_mode=rendering.get(how))
    env = WATCHED[how](ClipReward(TimeLimit(plain, 20), -1.0, 0.0))
    assert env.spec is not None
    spec = EnvironmentSpec.of_gymnasium(env.spec.to_json())
    for named in (
        spec,
        environment_spec(spec, "Pendulum-v1", {}, None, ()),
        environment_spec(spec, None, {"g": 2.0}, None, ()),
    ):
        assert named is not None
        made = make_env(named)
        assert (type(made), made.spec.max_episode_steps, made.render_mode) == (ClipReward, 20, None)  # type: ignore[union-attr]
        assert made.unwrapped.g == 2.0  # type: ignore[attr-defined]
    env.close()


@pytest.mark.parametrize(
    ("name", "package"),
    [
        *((name, "gymnasium") for name in ("RecordVideo", "RecordVideoV0", "RecordEpisodeStatisticsV0", "AutoResetWrapper")),
        *(("DataCollectorV0", "minari"), ("RolloutInfoWrapper", "imitation")),
    ],
)
@pytest.mark.parametrize("kwargs", [None, {}, {"video_folder": "x", "render_mode": "human"}])
def test_watching_wrappers_need_nothing_that_they_were_made_with(
    name: str, package: str, kwargs: dict[str, Any] | None
) -> None:
    spec = EnvironmentSpec("Pendulum-v1", wrappers=(Wrapper(name, kwargs, package), Wrapper("ClipAction")))
    assert spec.to_play().wrappers == (Wrapper("ClipAction"),)


def test_wrappers_that_an_environment_puts_on_itself_are_not_put_on_again() -> None:
    # What Gymnasium says of Meta-World/MT1, whose entry point wraps it.
    inner = (Wrapper("AutoTerminateOnSuccessWrapper", None, "metaworld"), Wrapper("CheckpointWrapper", {}, "metaworld"))
    spec = EnvironmentSpec("Meta-World/MT1", wrappers=(Wrapper("ClipAction"), *inner), package="metaworld")
    assert spec.to_play().wrappers == (Wrapper("ClipAction"),)
    elsewhere = EnvironmentSpec("Mine-v0", wrappers=inner, package="mine")
    assert elsewhere.to_play().wrappers == inner


def test_a_wrapper_of_the_user_s_own_is_named(datasets: Path) -> None:
    spec = EnvironmentSpec.of_gymnasium(Named(gym.make("Pendulum-v1")).spec.to_json())  # type: ignore[union-attr]
    with pytest.raises(UserError, match="the data was recorded with the wrapper Monitor, which may change observations"):
        make_env(spec)
    other = environment_spec(spec, "MountainCarContinuous-v0", {}, None, ())
    assert other is not None
    make_env(other).close()


@pytest.mark.parametrize("mode", ["human", "rgb_array", "rgb_array_list", "ansi", "nonsense"])
def test_nothing_is_rendered_while_playing(mode: str) -> None:
    wrapped = (Wrapper("ClipAction", {"render_mode": mode}),)
    for spec in (
        EnvironmentSpec("Pendulum-v1", {"render_mode": mode, "g": 2.0}, wrappers=wrapped),
        EnvironmentSpec("Pendulum-v1").changed({"render_mode": mode, "g": 2.0}),
    ):
        assert make_env(spec).render_mode is None
        assert spec.to_play().kwargs == {"g": 2.0}
        assert make_env(spec, "rgb_array").render_mode == "rgb_array"


def test_observations_that_are_pictures_are_rendered() -> None:
    spec = EnvironmentSpec("Pendulum-v1", {"render_mode": "rgb_array"}, wrappers=(Wrapper("AddRenderObservation", {}),))
    assert spec.to_play().kwargs == {"render_mode": "rgb_array"}


def test_a_damaged_spec_is_one_line(datasets: Path) -> None:
    name = record(gym.make("Pendulum-v1", max_episode_steps=5), "mine/pendulum-v0", 1)
    path = datasets / name / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"eval_env_spec": "[]"}))
    damaged = r"^dataset mine/pendulum-v0: .*(cannot be opened|damaged environment) \(.*\); download or make it again$"
    with pytest.raises(UserError, match=damaged):
        load(name)


# --- OGBench --------------------------------------------------------------------------------------------------------------


OGBENCH = {
    "cube-single-play-v0": "cube-single-v0",
    "folder/cube-single-noisy-v0-val.npz": "cube-single-v0",
    "cube-double-play-singletask-v0": "cube-double-singletask-v0",
    "cube-double-play-singletask-task2-v0": "cube-double-singletask-task2-v0",
    "antmaze-large-stitch-v0": "antmaze-large-v0",
    "antmaze-medium-explore-v0": "antmaze-medium-v0",
    "humanoidmaze-giant-navigate-v0": "humanoidmaze-giant-v0",
    "scene-play-v0": "scene-v0",
    "puzzle-3x3-play-oraclerep-v0": "puzzle-3x3-v0",
    "powderworld-easy-play-v0": "powderworld-easy-v0",
    "visual-cube-single-play-v0": "visual-cube-single-v0",
}


@pytest.mark.parametrize("name", OGBENCH)
def test_the_environment_of_a_dataset_of_ogbench(name: str) -> None:
    kwargs = {"use_oracle_rep": True} if "oraclerep" in name else {}
    assert ogbench_spec(name) == EnvironmentSpec(OGBENCH[name], kwargs, package="ogbench")


@pytest.mark.parametrize(
    "name", ["cube-single-v0", "hopper-medium-v0", "cube-single-play", "mine-play-v0", "cube-single-play-v0.h5"]
)
def test_names_that_are_not_ogbench_s(name: str) -> None:
    assert ogbench_spec(name) is None


@pytest.mark.robustness
def test_ogbench_knows_its_environments() -> None:
    pytest.importorskip("ogbench")
    assert set(OGBENCH.values()) <= gym.registry.keys()
    environments = LocalEnvironments(EnvironmentSpec("cube-single-v0", package="ogbench"))
    states = environments.reset([1, 2]).copy()
    assert np.array_equal(environments.reset([2, 1]), states[::-1])


@pytest.mark.robustness
def test_meta_world_repeats_an_episode() -> None:
    pytest.importorskip("metaworld")
    spec = EnvironmentSpec("Meta-World/MT1", {"env_name": "reach-v3"}, package="metaworld")
    environments = LocalEnvironments(spec)
    states = environments.reset([1, 2]).copy()
    assert np.array_equal(environments.reset([2, 1]), states[::-1])
    assert np.array_equal(LocalEnvironments(spec).reset([1]), states[:1])


# --- gymnasium-robotics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("PointMaze_UMaze-v3", {"continuing_task": False}),
        ("AntMaze_UMaze-v5", {}),
        ("AdroitHandDoor-v1", {}),
    ],
)
def test_gymnasium_robotics(datasets: Path, tmp_path: Path, env_id: str, kwargs: dict[str, Any]) -> None:
    """Recorded there, trained, played with the recording's time limit, predicted: Dict observations and successes too."""
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    env = gym.make(env_id, max_episode_steps=20, **kwargs)
    name = record(env, "mine/robot-v0", 4, success=lambda episode: episode % 2 == 0)
    outcome = train(*SHORT, f"dataset.id={name}", "curation=success", "eval.action=both", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert "success %" in outcome.out
    assert lengths(tmp_path / "run") == [20.0] * 4
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["totals"]["final"]["success_rate"] == summary["totals"]["final_sampled"]["success_rate"] == 0.0
    assert {row["success"] for row in read_csv(tmp_path / "run" / "evaluations.csv")} == {"0"}
    policy = iwbc.load_policy(tmp_path / "run" / "policy.safetensors")
    observation, _ = env.reset(seed=0)
    action, _ = policy.predict(observation)
    assert env.action_space.contains(action)
    if isinstance(observation, dict):
        flat = np.concatenate([np.ravel(observation[key]) for key in sorted(observation)])
        np.testing.assert_array_equal(policy.predict(flat)[0], action)
        two = {key: np.stack([value, value]) for key, value in observation.items()}
        np.testing.assert_allclose(policy.predict(two)[0], np.stack([action, action]), atol=1e-6)
        with pytest.raises(UserError, match="predict: the observation has no achieved_goal"):
            policy.predict({"observation": observation["observation"]})


def test_the_kitchen_experiment_is_evaluated_in_the_kitchen(datasets: Path, tmp_path: Path) -> None:
    """Its datasets have other goals each; policies see what they share, in the environment of the complete demonstrations."""
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    complete = ["microwave", "kettle", "bottom burner", "light switch"]
    goals = {"partial": ["kettle"], "complete": complete, "mixed": ["kettle", "light switch", "slide cabinet"]}
    for name, tasks in goals.items():
        env = gym.make("FrankaKitchen-v1", tasks_to_complete=tasks, max_episode_steps=20)
        record(env, f"D4RL/kitchen/{name}-v2", 3)
    changes = ("policy.hidden=[8]", "algo.steps=2", "algo.warmup_steps=0", "reference.steps=2", "threads=1", "eval.every=0")
    outcome = train(
        "+experiment=kitchen", *changes, "eval.episodes=2", "averaging=transition", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert outcome.code == 0, outcome.err
    assert lengths(tmp_path / "run") == [20.0, 20.0]
    environment = json.loads((tmp_path / "run" / "summary.json").read_text())["environment"]
    assert (environment["id"], environment["kwargs"]) == ("FrankaKitchen-v1", {"tasks_to_complete": complete})
    assert environment["wrappers"] == [
        {"name": "FilterObservation", "kwargs": {"filter_keys": ["observation"]}, "package": "gymnasium"}
    ]
    policy = iwbc.load_policy(tmp_path / "run" / "policy.safetensors")
    assert env.action_space.contains(policy.predict(env.reset(seed=0)[0])[0])
