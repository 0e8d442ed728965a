"""The tasks of chance: what their physics does, that seeds decide all of it, and that they are environments like any other."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from setups import check_refused, rarely, read_csv, train

import iwbc
from iwbc.data.demonstrations import dataset_id
from iwbc.data.demonstrators import demonstrations
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.trajectories import Episode
from iwbc.environments.gymnasium import make_env
from iwbc.environments.spec import EnvironmentSpec
from iwbc.environments.tasks import ENTRY_POINTS, register
from iwbc.environments.tasks.point_maze import HORIZON, MAP
from iwbc.errors import UserError
from iwbc.runs.folder import RunFolder
from iwbc.runs.read import read_summary
from iwbc.settings import Demonstrations

TASKS = list(ENTRY_POINTS)
MAZE = "PointMaze_UMaze-v3"
QUICK = ("policy.hidden=[32,32]", "reference.steps=20", "algo.steps=20", "eval.periodic_episodes=0", "threads=1")


@pytest.fixture(params=TASKS)
def env_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def successes(env_id: str, episodes: int, **options: object) -> np.ndarray:
    return np.array([episode.success for episode in demonstrations(env_id, episodes, **options)])  # type: ignore[arg-type]


def bits(episode: Episode) -> list[object]:
    """All of an episode, as a dataset holds it: in single precision."""
    arrays = (episode.observations, episode.final_observation, episode.actions, episode.rewards)
    return [*(np.asarray(array, np.float32).tobytes() for array in arrays), episode.terminated, episode.success]


def same(first: Iterable[Episode], second: Iterable[Episode]) -> bool:
    return [bits(episode) for episode in first] == [bits(episode) for episode in second]


# --- the physics -----------------------------------------------------------------------------------------------------


def test_the_safe_way_always_succeeds_and_the_risky_one_half_of_the_time(env_id: str) -> None:
    assert successes(env_id, 100, risky=0.0).all()
    assert successes(env_id, 100, risky=1.0, slip=0.0).all()
    assert not successes(env_id, 20, risky=1.0, slip=1.0, noise=0.0).any()
    risky = successes(env_id, 200, risky=1.0).mean()
    assert abs(risky - 0.5) < 3.3 * np.sqrt(0.25 / 200)  # 99.9 % of a binomial's mass
    assert abs(successes(env_id, 200, risky=1.0, slip=0.2).mean() - 0.8) < 3.3 * np.sqrt(0.16 / 200)


def test_demonstrators_draw_their_way_and_show_it(env_id: str) -> None:
    def risky(episode: Episode) -> bool:
        if "TwoRoutes" in env_id:
            return bool(episode.observations[:, 1].min() < -0.2)
        return bool(np.abs(episode.observations[:, 4:6]).max() > 1.6)

    played = list(demonstrations(env_id, 200, 3))
    ways = np.array([risky(episode) for episode in played])
    assert abs(ways.mean() - 0.5) < 3.3 * np.sqrt(0.25 / 200)
    labels = np.array([episode.success for episode in played])
    assert labels[~ways].all()
    assert 0.3 < labels[ways].mean() < 0.7
    assert all(episode.rewards.sum() == episode.success for episode in played)
    assert all((np.abs(episode.actions) <= 1).all() for episode in played)


def test_an_episode_takes_twenty_to_thirty_steps_and_more_at_a_longer_horizon(env_id: str) -> None:
    usual = np.mean([len(episode.rewards) for episode in demonstrations(env_id, 20, risky=0.0)])
    longer = np.mean([len(episode.rewards) for episode in demonstrations(env_id, 20, risky=0.0, horizon=90)])
    assert 20 <= usual <= 30
    assert longer == pytest.approx(3 * usual, rel=0.1)
    env = make_env(EnvironmentSpec(env_id, {"horizon": 7}))
    env.reset(seed=0)
    assert [env.step(np.zeros(2))[3] for _ in range(7)] == [False] * 6 + [True]


def test_bad_luck_is_not_seen_before_it_strikes(env_id: str) -> None:
    """The same seed and actions with and without the risk: the same observations, until one of the two fails."""
    options = {"risky": 1.0, "noise": 0.0}
    for lucky, unlucky in zip(
        demonstrations(env_id, 5, slip=0.0, **options), demonstrations(env_id, 5, slip=1.0, **options), strict=True
    ):
        assert lucky.success and not unlucky.success
        ahead = len(unlucky.rewards) - 2
        assert ahead >= 5
        np.testing.assert_array_equal(lucky.observations[:ahead], unlucky.observations[:ahead])
        np.testing.assert_array_equal(lucky.actions[:ahead], unlucky.actions[:ahead])


# --- environments like any other -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*A Box observation space.*")
def test_gymnasiums_checker(env_id: str) -> None:
    check_env(gym.make(env_id).unwrapped, skip_render_check=True)


def test_seeds_decide_everything_and_info_tells_of_success(env_id: str) -> None:
    def played(seed: int) -> list[tuple[object, ...]]:
        env = gym.make(env_id)
        observation, _ = env.reset(seed=seed)
        actions = np.random.default_rng(7).uniform(-1, 1, size=(12, 2))
        steps: list[tuple[object, ...]] = [(observation.tobytes(),)]
        for action in actions:
            observation, reward, terminated, truncated, info = env.step(action)
            assert info["is_success"] is (reward == 1.0)
            steps.append((observation.tobytes(), reward, terminated, truncated))
            if terminated or truncated:
                break
        return steps

    assert played(1) == played(1)
    assert played(1) != played(2)


def test_kwargs_that_cannot_be_are_refused_in_one_line(env_id: str) -> None:
    for kwargs in ({"slip": 1.5}, {"horizon": 0}, {"horizon": 2.5}, {"grip": 1}):
        with pytest.raises(UserError, match=next(iter(kwargs))) as refused:
            make_env(EnvironmentSpec(env_id, kwargs))
        assert "\n" not in str(refused.value)


def test_registering_again_changes_nothing() -> None:
    before = {env_id: gym.spec(env_id) for env_id in TASKS}
    register()
    assert all(gym.spec(env_id) is spec for env_id, spec in before.items())


def test_gymnasium_alone_makes_them(env_id: str) -> None:
    code = f"import gymnasium; print(gymnasium.make('iwbc.environments.tasks:{env_id}').observation_space.shape)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("(")


def test_rendering(env_id: str) -> None:
    code = (
        "import sys, numpy as np; from iwbc.environments.gymnasium import EnvironmentSpec, make_env\n"
        f"env = make_env(EnvironmentSpec({env_id!r}, dict(width=120, height=120)), 'rgb_array')\n"
        "env.reset(seed=0)\n"
        "frame = env.render(); print(frame.shape, frame.std() > 10)"
    )
    outcomes = []
    for backend in ("egl", "osmesa"):
        environment = os.environ | {"MUJOCO_GL": backend}
        outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        if outcome.returncode == 0:
            assert outcome.stdout.strip() == "(120, 120, 3) True"
            return
        outcomes.append(outcome.stderr.strip().splitlines()[-1])
    pytest.skip(f"no OpenGL without a screen here: {outcomes}")


# --- datasets --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes(env_id: str) -> None:
    assert same(demonstrations(env_id, 6, 4), demonstrations(env_id, 6, 4))
    assert not same(demonstrations(env_id, 6, 4), demonstrations(env_id, 6, 5))
    longer = list(demonstrations(env_id, 8, 4))
    assert same(longer[:6], demonstrations(env_id, 6, 4))


def test_a_dataset_holds_its_demonstrations_and_what_to_evaluate_in(datasets, env_id: str) -> None:
    data = iwbc.demonstrations(env_id, episodes=40, seed=2, slip=0.25, horizon=40)
    assert data.info.id == f"iwbc/{env_id[5:-3].lower()}/demonstrations-40-slip0_25-horizon40-seed2-v1"
    assert data.info.environment is not None
    assert (data.info.env_id, data.info.environment.kwargs) == (env_id, {"slip": 0.25, "horizon": 40})
    assert same(data, demonstrations(env_id, 40, 2, slip=0.25, horizon=40))
    again = dataset_folder(data.info.id).stat().st_mtime_ns
    assert iwbc.demonstrations(env_id, episodes=40, seed=2, slip=0.25, horizon=40).content_hash == data.content_hash
    assert dataset_folder(data.info.id).stat().st_mtime_ns == again


def test_every_setting_of_a_dataset_is_part_of_its_name() -> None:
    assert dataset_id("iwbc/TwoRoutes-v0", Demonstrations()) == "iwbc/tworoutes/demonstrations-v1"
    changes = {"episodes": 10, "seed": 1, "risky": 0.25, "slip": 0.9, "horizon": 50}
    names = {dataset_id("iwbc/TwoRoutes-v0", Demonstrations(**{key: value})) for key, value in changes.items()}
    assert len(names) == len(changes)


def test_there_are_no_demonstrations_of_other_environments(datasets) -> None:
    with pytest.raises(UserError, match=r"Hopper-v5: has no demonstrators \(there are: iwbc/TwoRoutes-v0"):
        iwbc.demonstrations("Hopper-v5")
    with pytest.raises(UserError, match="add env=two_routes"):
        iwbc.demonstrations(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"dataset\.slip=2"):
        iwbc.demonstrations("iwbc/TwoRoutes-v0", slip=2)


# --- PointMaze -------------------------------------------------------------------------------------------------------


@pytest.mark.robustness
def test_in_the_maze_the_long_way_is_a_matter_of_time(datasets) -> None:
    assert successes(MAZE, 40, risky=0.0).all()
    assert successes(MAZE, 20, risky=1.0, horizon=320).all()
    late = successes(MAZE, 100, risky=1.0)
    assert 0.3 < late.mean() < 0.7
    assert same(demonstrations(MAZE, 3, 1), demonstrations(MAZE, 3, 1))


def test_a_dataset_of_the_maze_is_evaluated_in_the_same_maze(datasets, tmp_path) -> None:
    outcome = train(
        "env=point_maze", "curation=success", "dataset.episodes=8", "eval.episodes=2", *QUICK, f"hydra.run.dir={tmp_path}"
    )
    assert outcome.code == 0, outcome.err
    summary = read_summary(tmp_path)
    assert summary is not None and summary.dataset.id == "iwbc/pointmaze_umaze/demonstrations-8-v1"
    environment = summary.environment
    assert environment is not None
    assert (environment.kwargs["maze_map"], environment.max_episode_steps) == (MAP, HORIZON)
    assert all(int(row["length"]) <= HORIZON for row in read_csv(tmp_path / "evaluations.csv"))
    with pytest.raises(UserError, match=r"PointMaze_UMaze-v3: has no dataset\.slip"):
        iwbc.demonstrations(MAZE, slip=0.2)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["two_routes", rarely("careful_or_hasty")])
def test_the_command_makes_demonstrations_trains_and_evaluates(datasets, tmp_path, env: str) -> None:
    arguments = (f"env={env}", "curation=success", "dataset.episodes=60", "dataset.horizon=40", "eval.episodes=4", *QUICK)
    outcome = train(*arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    folder = RunFolder(tmp_path / "run")
    summary = read_summary(folder.path)
    assert summary is not None
    assert summary.environment is not None and summary.environment.kwargs == {"horizon": 40}
    assert summary.dataset.id.endswith("/demonstrations-60-horizon40-v1")
    assert summary.dataset.kept_trajectories < summary.dataset.trajectories == 60
    rows = read_csv(folder.path / "evaluations.csv")
    assert {float(row["return"]) for row in rows} <= {0.0, 1.0}
    assert all(int(row["length"]) <= 40 for row in rows)


def test_the_command_refuses_what_does_not_go_together(datasets, tmp_path) -> None:
    for arguments, says in {
        ("env=hopper", "dataset=demonstrations"): "Hopper-v5: has no demonstrators",
        ("env=two_routes", "dataset=medium"): "iwbc/TwoRoutes-v0: no behaviour policies",
        ("env=two_routes", "dataset.horizon=0"): "dataset.horizon=0: must be positive",
    }.items():
        check_refused(arguments, says, tmp_path / "run")


# --- the bandit ------------------------------------------------------------------------------------------------------


def test_on_the_bandit_filtered_bc_ends_at_the_posterior_and_iw_bc_goes_on(tmp_path, capsys) -> None:
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "bandit.py"))
    policy = example["REFERENCE"]
    for odds in (2, 4, 8, 16):  # each full fit doubles them
        policy = example["full_fit"](policy)
        assert policy[1] / policy[0] == pytest.approx(odds)
    shares = example["main"](str(tmp_path / "bandit.png"))
    assert shares["BC"] == pytest.approx(1 / 2, abs=0.015)
    assert shares["filtered BC"] == pytest.approx(2 / 3, abs=0.015)  # 4.5 standard errors of 20,000 pulls
    assert shares["iw-BC, q = π"] > 0.98
    assert (tmp_path / "bandit.png").stat().st_size > 1000
    assert "0.6667      2            0.8333" in capsys.readouterr().out
