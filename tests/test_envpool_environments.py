"""EnvPool's environments against Gymnasium's of the same name. `.ci/run` installs it. Skipped where it is not installed:

pip install -c constraints.txt -e '.[dev,envpool]'
pytest -m envpool
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from setups import BRIEF, column, read_csv, train

from iwbc.data.streams import Stream, seeded
from iwbc.data.trajectories import Trajectories
from iwbc.environment_spec import EnvironmentSpec
from iwbc.environments import make_env
from iwbc.envpool_environments import EnvpoolEnvironments
from iwbc.errors import UserError
from iwbc.evaluate import main as evaluate
from iwbc.evaluation import Evaluator
from iwbc.policies.spec import PolicySpec, Spaces
from iwbc.settings import GaussianPolicy
from iwbc.trained import Policies

pytest.importorskip("envpool", reason="needs pip install -c constraints.txt -e '.[envpool]'")
stats = pytest.importorskip("scipy.stats")
pytestmark = pytest.mark.envpool

LOCOMOTION = ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"]


def policy_for(env_id: str, seeds: tuple[int, ...] = (0,)) -> Policies:
    """A small policy with random parameters; on Hopper and Walker2d it falls within a second."""
    env = make_env(env_id)
    assert isinstance(env.action_space, gym.spaces.Box) and env.observation_space.shape
    low, high = tuple(env.action_space.low.tolist()), tuple(env.action_space.high.tolist())
    spec = PolicySpec(GaussianPolicy(hidden=[16]), Spaces(env.observation_space.shape[0], low, high))
    modules = []
    for seed in seeds:
        with seeded(Stream.POLICY, seed):
            modules.append(spec.make())
    return Policies(modules, seeds, spec.spaces, spec)


def returns(backend: str, policy: Policies, env_id: str = "Hopper-v5", **env_kwargs: Any) -> np.ndarray:
    """Of 200 episodes."""
    return Evaluator(EnvironmentSpec(env_id, env_kwargs), 0, backend=backend).evaluate(policy, 200).returns[0]


# --- the same environment -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [*LOCOMOTION, "Ant-v5", "Humanoid-v5", "Swimmer-v5"])
def test_sizes_and_action_range_are_gymnasium_s(env_id: str) -> None:
    env, found = make_env(env_id), EnvpoolEnvironments(EnvironmentSpec(env_id), 1)
    assert isinstance(env.action_space, gym.spaces.Box)
    assert (found.observation_size,) == env.observation_space.shape
    assert found.action_space.shape == env.action_space.shape
    assert np.array_equal(found.action_space.low, env.action_space.low)
    assert np.array_equal(found.action_space.high, env.action_space.high)


@pytest.mark.parametrize("env_id", LOCOMOTION)
def test_from_the_same_state_episodes_are_gymnasium_s(env_id: str) -> None:
    everything = {"exclude_current_positions_from_observation": False}  # so that an initial observation is the whole state
    environments = EnvpoolEnvironments(EnvironmentSpec(env_id, everything), 1)
    starts = environments.reset([3, 4, 5])
    env = make_env(EnvironmentSpec(env_id, everything))
    positions = env.unwrapped.model.nq  # type: ignore[attr-defined]
    random = np.random.default_rng(0)
    for i, start in enumerate(starts):
        env.reset()
        env.unwrapped.set_state(start[:positions], start[positions:])  # type: ignore[attr-defined]
        over, length = False, 0
        while not over and length < (25 if env_id == "HalfCheetah-v5" else 1000):  # it never falls; small differences grow
            action = random.uniform(-1.0, 1.0, environments.action_space.shape).astype(np.float32)
            observation, reward, terminated, truncated, _ = env.step(action)
            found = environments.step(np.array([i]), action[None])
            np.testing.assert_allclose(found.observations[0], observation, rtol=0.0, atol=1e-8)
            np.testing.assert_allclose(found.rewards[0], reward, rtol=1e-6, atol=1e-6)
            assert (bool(found.terminated[0]), bool(found.truncated[0])) == (terminated, truncated)
            over, length = terminated or truncated, length + 1
        assert length > 5


@pytest.mark.parametrize("env_id", LOCOMOTION)
def test_initial_states_have_gymnasium_s_distribution(env_id: str) -> None:
    env = make_env(env_id)
    theirs = np.array([env.reset(seed=seed)[0] for seed in range(200)])
    ours = EnvpoolEnvironments(EnvironmentSpec(env_id), 1).reset(range(200))
    assert not np.isclose(ours, theirs).all(1).any()  # another generator
    assert min(stats.ks_2samp(a, b).pvalue for a, b in zip(ours.T, theirs.T, strict=True)) > 1e-3
    wider = {"reset_noise_scale": 2.0 * env.unwrapped._reset_noise_scale}  # type: ignore[attr-defined]
    other = EnvpoolEnvironments(EnvironmentSpec(env_id, wider), 1).reset(range(200))
    assert min(stats.ks_2samp(a, b).pvalue for a, b in zip(other.T, theirs.T, strict=True)) < 1e-6


# --- the same returns -----------------------------------------------------------------------------------------------------


def test_returns_have_gymnasium_s_distribution() -> None:
    policy = policy_for("Hopper-v5")
    theirs = returns("gymnasium", policy)
    assert stats.ks_2samp(returns("envpool", policy), theirs).pvalue > 0.01
    # The same test tells an environment that rewards 1 % more for speed, and a policy that acts a little differently.
    assert stats.ks_2samp(returns("envpool", policy, forward_reward_weight=1.01), theirs).pvalue < 1e-6
    policy[0].network[-1].bias.data.add_(0.02)
    assert stats.ks_2samp(returns("envpool", policy), theirs).pvalue < 1e-6


@pytest.mark.parametrize("env_id", ["Walker2d-v5", "HalfCheetah-v5", "Ant-v5"])
def test_other_environments_have_gymnasium_s_returns(env_id: str) -> None:
    policy = policy_for(env_id)
    theirs = returns("gymnasium", policy, env_id, max_episode_steps=25)
    assert stats.ks_2samp(returns("envpool", policy, env_id, max_episode_steps=25), theirs).pvalue > 0.01


# --- evaluation -----------------------------------------------------------------------------------------------------------


def test_an_episode_is_the_same_whatever_else_is_played() -> None:
    evaluator = Evaluator("Hopper-v5", 7, backend="envpool")
    few = Evaluator("Hopper-v5", 7, backend="envpool").evaluate(policy_for("Hopper-v5", (2,)), 4)
    many = evaluator.evaluate(policy_for("Hopper-v5", (1, 2, 5)), 40)  # in several waves
    again = evaluator.evaluate(policy_for("Hopper-v5", (1, 2, 5)), 40)
    assert np.array_equal(again.returns, many.returns)
    np.testing.assert_allclose(many.returns[1, :4], few.returns[0], rtol=1e-3)
    assert np.array_equal(many.lengths[1, :4], few.lengths[0])
    assert len(np.unique(many.returns)) == many.returns.size


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    policy = policy_for("Hopper-v5", (0, 1))
    expected = Evaluator("Hopper-v5", 0, backend="envpool").evaluate(policy, 10)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        evaluator = Evaluator("Hopper-v5", 0, backend="envpool")
        found = evaluator.evaluate(policy, 10)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found.returns, expected.returns)


# --- what it cannot do ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "problem"),
    [
        ("AntMaze_UMaze-v5", {}, "environment AntMaze_UMaze-v5: EnvPool does not have it"),
        ("Hopper-v5", {"healthy_z_range": [0.5, 2.0]}, "environment Hopper-v5: EnvPool has no setting healthy_z_range"),
        ("Hopper-v5", {"xml_file": "other.xml"}, "environment Hopper-v5: EnvPool has no setting xml_file"),
        ("Hopper-v5", {"num_envs": 3}, "environment Hopper-v5: EnvPool has no setting num_envs"),
        ("Hopper-v5", {"frame_skip": "two"}, "environment Hopper-v5: EnvPool cannot set {'frame_skip': 'two'}"),
        ("FetchReach-v4", {}, "environment FetchReach-v4: EnvPool's observations or actions are not vectors"),
        ("Pong-v5", {}, "environment Pong-v5: EnvPool's observations or actions are not vectors"),
    ],
)
def test_what_envpool_lacks_is_one_line_with_the_way_out(env_id: str, env_kwargs: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=f"^{problem}; use eval.backend=gymnasium ") as error:
        EnvpoolEnvironments(EnvironmentSpec(env_id, env_kwargs), 1)
    assert "\n" not in str(error.value)


# --- commands -------------------------------------------------------------------------------------------------------------


def test_a_run_says_that_envpool_played(hopper: Trajectories, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    outcome = train(*BRIEF, "algo=bc", "eval=envpool", "eval.episodes=3", "eval.every=0", f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.err
    assert "Hopper-v5 (envpool)" in outcome.out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["backend"] == "envpool"
    assert "envpool" in summary["versions"]
    played = column(read_csv(folder / "evaluations.csv"), "return", phase="final")
    for backend, same in (("", True), ("envpool", True), ("gymnasium", False)):
        out = tmp_path / f"{backend}.csv"
        evaluate([f"run={folder}", f"out={out}", *([f"backend={backend}"] if backend else [])])
        assert ("Hopper-v5 (envpool)" in capsys.readouterr().out) == same
        assert (column(read_csv(out), "return") == played) == same


def test_a_run_in_an_environment_that_envpool_lacks(hopper: Trajectories, tmp_path: Path) -> None:
    arguments = [argument for argument in BRIEF if not argument.startswith("dataset.")]
    arguments += ["dataset=minari", f"dataset.id={hopper.info.id}", "env.id=Nothing-v0", "eval=envpool"]
    outcome = train(*arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "Nothing-v0: EnvPool does not have it; use eval.backend=gymnasium" in outcome.err
    assert not (tmp_path / "run").exists()
