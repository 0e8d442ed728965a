from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import iwbc
from iwbc.data.streams import Stream, seeded
from iwbc.data.trajectories import Trajectories
from iwbc.environments.gymnasium import make_env
from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import DataWarning, UserError
from iwbc.evaluation import Evaluation, Evaluator
from iwbc.policies.spec import PolicySpec, Spaces
from iwbc.runs.results import episode_rows
from iwbc.settings import GaussianPolicy
from iwbc.training.trained import Policies

ENV = "iwbc-tests/Countdown-v0"


class Countdown(gym.Env[Any, Any]):
    """An episode lasts as many steps as its first observation says. Every step gives that observation plus the action as
    its reward. The second episode since a reset with a seed is worth a million more."""

    observation_space = gym.spaces.Box(0.0, 100.0, (1,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))
    made = 0

    def __init__(self) -> None:
        Countdown.made += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.bonus = 0.0 if seed is not None else 1e6
        self.start = float(self.np_random.integers(1, 20))
        self.left = self.start
        return np.array([self.start], np.float32), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        terminated = self.left == 0 and self.start % 2 == 0
        truncated = self.left == 0 and not terminated
        return np.array([self.left], np.float32), self.start + float(action[0]) + self.bonus, terminated, truncated, {}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    gym.register(ENV, Countdown)
    yield
    del gym.registry[ENV]


def constant_policy(actions: list[float], seeds: tuple[int, ...]) -> Policies:
    """Acts the same whatever it sees: one action (in units of its range ±1) per seed."""
    spec = PolicySpec(GaussianPolicy(hidden=[]), Spaces(1, (-1.0,), (1.0,)))
    modules = [spec.make() for _ in seeds]
    for module, action in zip(modules, actions, strict=True):
        for name, parameter in module.named_parameters():
            parameter.data.fill_(float(np.arctanh(action)) if name == "network.0.bias" else 0.0)
    return Policies(modules, seeds, spec.spaces, spec)


class Beyond(torch.nn.Module):
    """Acts beyond the action space, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.action = torch.nn.Parameter(torch.tensor([1.7], dtype=torch.float64))

    def mean_action(self, observations: torch.Tensor) -> torch.Tensor:
        return self.action.expand(len(observations), -1)


def starts(seed: int, policy_seed: int, episodes: int) -> list[int]:
    """The first observations of a policy's episodes."""
    evaluation = Evaluator(ENV, seed).evaluate(constant_policy([0.0], (policy_seed,)), episodes)
    return evaluation.lengths[0].tolist()


def test_returns_and_lengths_are_of_the_first_episodes_alone() -> None:
    evaluation = Evaluator(ENV, 0).evaluate(constant_policy([0.25], (3,)), 30)
    assert evaluation.seeds == (3,)
    assert evaluation.lengths.shape == (1, 30)
    assert evaluation.lengths.min() < evaluation.lengths.max()
    np.testing.assert_allclose(evaluation.returns, evaluation.lengths * (evaluation.lengths + 0.25), rtol=1e-6)


def test_actions_are_clipped_to_the_environment() -> None:
    evaluation = Evaluator(ENV, 0).evaluate(Policies([Beyond()], (3,), Spaces(1, (-1.0,), (1.0,)), None), 5)
    np.testing.assert_allclose(evaluation.returns, evaluation.lengths * (evaluation.lengths + 1.0), rtol=1e-6)


def test_each_seed_plays_with_its_own_policy() -> None:
    evaluation = Evaluator(ENV, 0).evaluate(constant_policy([0.25, -0.25], (0, 1)), 10)
    for row, action in enumerate((0.25, -0.25)):
        expected = evaluation.lengths[row] * (evaluation.lengths[row] + action)
        np.testing.assert_allclose(evaluation.returns[row], expected, rtol=1e-6)


def test_an_episode_starts_the_same_whatever_else_is_played() -> None:
    few = starts(seed=7, policy_seed=2, episodes=4)
    many = starts(seed=7, policy_seed=2, episodes=130)  # more than are played side by side
    assert many[:4] == few
    evaluator = Evaluator(ENV, 7)
    policy = constant_policy([0.0, 0.0, 0.0], (1, 2, 5))
    for _ in range(2):  # environments that were played before
        assert evaluator.evaluate(policy, 4).lengths[1].tolist() == few
    assert evaluator.evaluate(policy, 40).lengths[1].tolist() == many[:40]  # in several waves


def test_episodes_seeds_and_evaluation_seeds_differ() -> None:
    states = starts(seed=0, policy_seed=0, episodes=40)
    assert len(set(states)) > 10
    assert starts(seed=0, policy_seed=1, episodes=40) != states
    assert starts(seed=1, policy_seed=0, episodes=40) != states


def test_environments_are_made_once() -> None:
    evaluator = Evaluator(ENV, 0)
    before = Countdown.made
    for _ in range(3):
        evaluator.evaluate(constant_policy([0.0], (0,)), 5)
    assert Countdown.made - before <= 5


def test_rows_for_the_table() -> None:
    returns, lengths = np.array([[10.0, 20.0], [30.0, 40.0]]), np.array([[1, 2], [3, 4]])
    evaluation = Evaluation((4, 9), returns, lengths, ReferenceScores(10.0, 30.0, "made up"))
    rows = [row.to_plain() for row in episode_rows(evaluation, "final", 50)]
    assert evaluation.score == 75.0
    assert [row["seed"] for row in rows] == [4, 4, 9, 9]
    assert rows[3] == {
        "phase": "final",
        "step": 50,
        "seed": 9,
        "episode": 1,
        "action": "mean",
        "return": 40.0,
        "length": 4,
        "score": 150.0,
        "success": "",
    }
    tried = Evaluation((4, 9), returns, lengths, None, np.array([[True, False], [True, True]]), "sample")
    assert [row.to_plain()["success"] for row in episode_rows(tried, "final", 50)] == [1, 0, 1, 1]
    assert [row.action for row in episode_rows(tried, "final", 50)] == ["sample"] * 4
    assert tried.success_rate == 0.75
    without = Evaluation((4, 9), returns, lengths)
    assert episode_rows(without, "final", 50)[0].to_plain()["score"] == ""
    assert without.score is without.scores is None


# --- success and sampled actions -----------------------------------------------------------------------------------------


class Button(gym.Env[Any, Any]):
    """Three steps; success is reported, by the key that is asked for, where the action of the second is above a half."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, key: str | None = "is_success") -> None:
        self.key = key

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        info = {self.key: self.steps == 2 and float(action[0]) > 0.5} if self.key else {}
        return np.zeros(1, np.float32), float(action[0]), False, self.steps == 3, info


@pytest.fixture
def button() -> Iterator[str]:
    gym.register("iwbc-tests/Button-v0", Button)
    yield "iwbc-tests/Button-v0"
    del gym.registry["iwbc-tests/Button-v0"]


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_success_at_any_step_is_success(button: str, key: str) -> None:
    spec = EnvironmentSpec(button, {"key": key})
    evaluation = Evaluator(spec, 0).evaluate(constant_policy([0.75, 0.25], (0, 1)), 4)
    assert evaluation.successes is not None
    assert evaluation.successes.tolist() == [[True] * 4, [False] * 4]
    assert evaluation.success_rate == 0.5
    assert Evaluator(EnvironmentSpec(button, {"key": None}), 0).evaluate(constant_policy([0.75], (0,)), 4).successes is None


class Saying(Button):
    """Three steps; its info is what it is made with."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, False, self.steps == 3, dict(self.info)


@pytest.fixture
def saying() -> Iterator[str]:
    gym.register("iwbc-tests/Saying-v0", Saying, disable_env_checker=True)
    yield "iwbc-tests/Saying-v0"
    del gym.registry["iwbc-tests/Saying-v0"]


YES = [True, np.True_, 1, np.int8(1), 1.0, np.float32(1.0), np.array(1), np.array([True]), np.array([[1.0]]), [1]]
NO = [False, np.False_, 0, np.uint8(0), 0.0, -0.0, np.float64(0.0), np.array(False), np.array([0.0]), (0,)]


@pytest.mark.parametrize("key", ["success", "is_success"])
@pytest.mark.parametrize(("values", "rate"), [(YES, 1.0), (NO, 0.0)])
def test_only_true_and_false_and_one_and_zero_are_labels(key: str, values: list[Any], rate: float, saying: str) -> None:
    for value in values:
        evaluation = Evaluator(EnvironmentSpec(saying, {"info": {key: value}}), 0).evaluate(constant_policy([0.0], (0,)), 2)
        assert evaluation.success_rate == rate, value


LABELS_THAT_ARE_NONE = [
    *(np.nan, 0.3, -1, 2, np.inf, np.float32(0.999), "false", "True", b"1", None, [], {}, {"a": True}, 1 + 0j),
    *(np.array([True, False]), np.array([]), np.array(["1"]), np.array([np.nan]), [[1], [1, 0]], np.array(None)),
]


@pytest.mark.parametrize("key", ["success", "is_success"])
def test_anything_else_is_refused(key: str, saying: str) -> None:
    for value in LABELS_THAT_ARE_NONE:
        evaluator = Evaluator(EnvironmentSpec(saying, {"info": {key: value}}), 0)
        with pytest.raises(UserError) as raised:
            evaluator.evaluate(constant_policy([0.0], (0,)), 1)
        assert str(raised.value).startswith(f"environment {saying}: its info says {key}="), value
        assert str(raised.value).endswith("; a success label is true or false (1 or 0)")


@pytest.mark.parametrize(("success", "is_success"), [(False, True), (True, False), (True, True), (False, False)])
def test_either_key_makes_a_success(success: bool, is_success: bool, saying: str) -> None:
    info = {"success": success, "is_success": is_success}
    evaluation = Evaluator(EnvironmentSpec(saying, {"info": info}), 0).evaluate(constant_policy([0.0], (0,)), 1)
    assert evaluation.success_rate == float(success or is_success)


def test_sampled_actions_have_the_policy_s_distribution_and_are_the_same_every_time(button: str) -> None:
    policy = constant_policy([0.5], (3,))
    policy[0].log_std.data.fill_(np.log(0.1))
    evaluator = Evaluator(button, 0)
    evaluation = evaluator.evaluate(policy, 300, "sample")
    assert evaluation.action == "sample"
    assert evaluation.success_rate is not None
    assert abs(evaluation.success_rate - 0.5) < 0.1  # P(N(0.5, 0.1) > 0.5)
    np.testing.assert_allclose(evaluation.returns.mean(), 1.5, atol=4 * 0.1 * np.sqrt(3 / 300))
    np.testing.assert_allclose(evaluation.returns.std(), 0.1 * np.sqrt(3), rtol=0.2)
    again = Evaluator(button, 0).evaluate(constant_policy_pair(policy), 300, "sample")
    assert np.array_equal(again.returns[1], evaluation.returns[0])  # whatever is played beside it
    assert np.array_equal(evaluator.evaluate(policy, 300, "sample").returns, evaluation.returns)
    assert len(np.unique(evaluator.evaluate(policy, 5).returns)) == 1  # the mean


def constant_policy_pair(policy: Policies) -> Policies:
    """Two seeds, the second as given."""
    other = constant_policy([0.0], (2,))
    return Policies([other[0], policy[0]], (2, *policy.seeds), policy.spaces, policy.spec)


# --- MuJoCo --------------------------------------------------------------------------------------------------------------


def hopper_policy(seeds: list[int]) -> Policies:
    spec = PolicySpec(GaussianPolicy(hidden=[16]), Spaces(11, (-1.0,) * 3, (1.0,) * 3))
    modules = []
    for seed in seeds:
        with seeded(Stream.POLICY, seed):
            modules.append(spec.make())
    return Policies(modules, seeds, spec.spaces, spec)


def test_a_seed_alone_or_in_a_batch_gives_the_same_returns() -> None:
    evaluator = Evaluator("Hopper-v5", 0)
    together = evaluator.evaluate(hopper_policy([0, 1]), 5)
    alone = Evaluator("Hopper-v5", 0).evaluate(hopper_policy([1]), 5)
    np.testing.assert_allclose(alone.returns[0], together.returns[1], rtol=1e-3)
    assert np.abs(together.returns[0] - together.returns[1]).max() > 0.1


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_give_the_same_bits(workers: int) -> None:
    policy = hopper_policy([0, 1])
    here, there = Evaluator("Hopper-v5", 0), Evaluator("Hopper-v5", 0, workers)
    for episodes in (1, 4):
        expected, played = (evaluator.evaluate(policy, episodes) for evaluator in (here, there))
        assert np.array_equal(played.returns, expected.returns)
        assert np.array_equal(played.lengths, expected.lengths)
    there.close()


def test_the_mean_action_is_played() -> None:
    policy = hopper_policy([3])
    evaluation = Evaluator("Hopper-v5", 1).evaluate(policy, 1)
    env = make_env("Hopper-v5")
    observation, _ = env.reset(seed=Evaluator("Hopper-v5", 1).start(3, 0))
    total, length, over = 0.0, 0, False
    while not over:
        action, _ = policy.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, length, over = total + float(reward), length + 1, terminated or truncated
    assert evaluation.lengths[0, 0] == length
    assert evaluation.returns[0, 0] == pytest.approx(total, rel=1e-4)


def test_an_environment_that_is_not_installed() -> None:
    with pytest.raises(UserError, match="environment Nothing-v0: cannot be made"):
        Evaluator("Nothing-v0", 0)


def test_an_environment_of_other_sizes() -> None:
    evaluator = Evaluator("Hopper-v5", 0)
    evaluator.check_spaces(Spaces(11, (-1.0,) * 3, (1.0,) * 3), "dataset some/data-v0")
    with pytest.raises(UserError, match=r"Hopper-v5: has 11 observations and 3 actions, dataset some/data-v0 has 17 and 6"):
        evaluator.check_spaces(Spaces(17, (-1.0,) * 6, (1.0,) * 6), "dataset some/data-v0")


# --- the range of actions, and their precision ---------------------------------------------------------------------------


class Ranged(gym.Env[Any, Any]):
    """Two steps; its action space is what it is made with, and is asserted."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))

    def __init__(self, low: Any, high: Any, dtype: str = "float32") -> None:
        bounds = (np.broadcast_to(np.asarray(bound, dtype), (2,)) for bound in (low, high))
        self.action_space = gym.spaces.Box(*bounds, dtype=np.dtype(dtype).type)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is outside"
        self.steps += 1
        return self.np_random.normal(size=3).astype(np.float32), float(action.sum()), False, self.steps == 2, {}


@pytest.fixture
def ranged() -> Iterator[str]:
    gym.register("iwbc-tests/Ranged-v0", Ranged, disable_env_checker=True)
    yield "iwbc-tests/Ranged-v0"
    del gym.registry["iwbc-tests/Ranged-v0"]


INFINITE, TENTH = float("inf"), float(np.float32(0.1))
# Bounds of the data, then of the environment, and both as they are to be told; None: they are the same.
RANGES: dict[str, tuple[Any, Any, Any, Any, str | None]] = {
    "the same": (-2.0, 2.0, -2.0, 2.0, None),
    "half": (-1.0, 1.0, -2.0, 2.0, r"takes actions of -2 … 2, .* has actions of -1 … 1;"),
    "twice": (-2.0, 2.0, -1.0, 1.0, r"takes actions of -1 … 1, .* has actions of -2 … 2;"),
    "one side": (-1.0, 1.0, 0.0, 1.0, r"takes actions of 0 … 1, .* has actions of -1 … 1;"),
    "shifted": (0.0, 1.0, -1.0, 0.0, r"takes actions of -1 … 0, .* has actions of 0 … 1;"),
    "one dimension": ((-1, -1), (1, 1), (-1, -3), (1, 1), r"takes actions of -3 … 1 in dimension 1, .* has actions of -1 … 1;"),
    "by a thousandth": (-1.0, 1.0, -1.001, 1.001, r"takes actions of -1.001 … 1.001, .* has actions of -1 … 1;"),
    "tiny": (-1e-9, 1e-9, -2e-9, 2e-9, r"takes actions of -2e-09 … 2e-09, .* has actions of -1e-09 … 1e-09;"),
    "rounded in the data": (-TENTH, TENTH, -0.1, 0.1, None),
    "rounded in the environment": (-0.1, 0.1, -TENTH, TENTH, None),
    "an environment without bounds": (-1.0, 1.0, -INFINITE, INFINITE, None),
    "an environment bounded below": (-1.0, 1.0, -2.0, INFINITE, r"takes actions of -2 … inf, .* has actions of -1 … 1;"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", RANGES)
def test_the_data_s_range_of_actions_must_be_the_environment_s(case: str, dtype: str, ranged: str) -> None:
    data_low, data_high, low, high, says = RANGES[case]
    spec = EnvironmentSpec(ranged, {"low": low, "high": high, "dtype": dtype})
    spaces = Spaces(3, *(tuple(np.broadcast_to(bound, (2,)).astype(float).tolist()) for bound in (data_low, data_high)))
    policies = PolicySpec(GaussianPolicy(hidden=[]), spaces)
    evaluator = Evaluator(spec, 0)
    if says is None:
        evaluator.evaluate(Policies([policies.make()], (0,), spaces, policies), 2)
        return
    with pytest.raises(UserError, match=rf"^env {ranged}: {says} .*action_low=… action_high=….*env_id=….*env\.id=…"):
        evaluator.evaluate(Policies([policies.make()], (0,), spaces, policies), 2)


def of_arrays(bound: float, low: float = -1.0, high: float = 1.0) -> Trajectories:
    """Data whose actions reach ±bound, declared as low … high."""
    actions = np.repeat(np.linspace(-bound, bound, 20)[:, None], 2, axis=1)
    ends = np.arange(20) == 19
    return iwbc.from_arrays(np.zeros((20, 3)), actions, np.zeros(20), ends & False, ends, action_low=low, action_high=high)


@pytest.mark.parametrize(("bound", "said"), [(0.3, False), (1.0, False), (5.0, True)])
def test_data_without_bounds_that_reaches_beyond_the_environment_is_told(bound: float, said: bool, ranged: str) -> None:
    data = of_arrays(bound, -np.inf, np.inf)
    policies = iwbc.fit(iwbc.BC(steps=1), data, policy=iwbc.GaussianPolicy(hidden=[4]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        iwbc.evaluate(policies, ranged, episodes=1, env_kwargs={"low": -1.0, "high": 1.0})
    told = [str(warning.message) for warning in caught if issubclass(warning.category, DataWarning)]
    assert bool(told) is said
    assert not said or "takes actions of -1 … 1, the policy has actions of -5 … 5, of data that declares no bounds" in told[0]


def test_a_saved_policy_keeps_whether_its_data_had_bounds(ranged: str, tmp_path: Path) -> None:
    policies = iwbc.fit(iwbc.BC(steps=1), of_arrays(0.3, -np.inf, np.inf), policy=iwbc.GaussianPolicy(hidden=[4]))
    policies.save(tmp_path / "policy.safetensors")
    assert iwbc.load_policy(tmp_path / "policy.safetensors").spaces == policies.spaces
    assert policies.spaces.action_low == (-np.inf, -np.inf)
    iwbc.evaluate(iwbc.load_policy(tmp_path / "policy.safetensors"), ranged, 1, env_kwargs={"low": -1.0, "high": 1.0})
    bounded = iwbc.fit(iwbc.BC(steps=1), of_arrays(0.3), policy=iwbc.GaussianPolicy(hidden=[4]))
    with pytest.raises(UserError, match=r"takes actions of -2 … 2, the policy has actions of -1 … 1;"):
        iwbc.evaluate(bounded, ranged, 1, env_kwargs={"low": -2.0, "high": 2.0})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bounds", [(-0.1, 0.1), (-0.3, 0.7), ((-0.1, -3.3), (0.2, -1e-3)), (1e-30, 3e-30), (-16777217.0, 0.1)])
@pytest.mark.parametrize("action", ["mean", "sample"])
def test_actions_lie_in_the_space_in_its_own_precision(bounds: Any, dtype: str, action: str, ranged: str) -> None:
    env = Ranged(*bounds, dtype)
    spaces = Spaces(3, tuple(env.action_space.low.tolist()), tuple(env.action_space.high.tolist()))
    spec = PolicySpec(GaussianPolicy(hidden=[]), spaces)
    policies = Policies([spec.make()], (0,), spaces, spec)
    for name, parameter in policies[0].named_parameters():
        parameter.data.fill_({"network.0.bias": 50.0, "log_std": 2.0}.get(name, 0.0))
    policies[0].network[0].bias.data[0] = -50.0  # at a bound, whether lower or upper
    made = EnvironmentSpec(ranged, {"low": bounds[0], "high": bounds[1], "dtype": dtype})
    Evaluator(made, 0).evaluate(policies, 20, action)
    actions, _ = policies.predict(np.zeros((20, 3)), deterministic=action == "mean")
    assert all(env.action_space.contains(action) for action in actions), actions
    assert env.action_space.contains(policies.predict(np.zeros(3), deterministic=action == "mean")[0])


@pytest.mark.parametrize("space", [gym.spaces.Box(0, 5, (2,), np.int64), gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (2, 2))])
def test_actions_that_are_no_vector_of_continuous_ones_are_refused(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Countdown, "action_space", space)
    with pytest.raises(UserError, match=f"environment {ENV}: its actions are .*, not a vector of continuous ones"):
        Evaluator(ENV, 0)


class Broken(gym.Env[Any, Any]):
    """An environment that goes wrong in its second step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, how: str) -> None:
        if how == "making":
            raise RuntimeError("no licence")
        if how == "exit":
            raise SystemExit(3)
        self.how = how

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        if self.how == "reset":
            raise RuntimeError("no room")
        return np.full(2 if self.how == "first shape" else 1, np.nan if self.how == "first NaN" else 0.0), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        second, how = self.steps == 2, self.how
        if second and how == "step":
            raise ValueError("the arm\nis stuck")
        if second and how == "four":
            return np.zeros(1), 0.0, True, {}
        observation = np.zeros(2 if second and how == "shape" else 1)
        reward = REWARDS.get(how, 1.0) if second else 1.0
        over = second and how != "never"
        return observation + (np.inf if second and how == "observation" else 0.0), reward, False, over, {}


REWARDS = {"reward": np.nan, "infinite": np.inf, "rewards": [1.0, 2.0], "word": "high", "none": None}
BROKEN = {
    "making": "cannot be made (no licence)",
    "exit": "cannot be made",
    "reset": "its reset raised RuntimeError: no room",
    "step": "its step raised ValueError: the arm is stuck",
    "four": "its step raised ValueError",
    "first shape": "its observation has shape (2,), its space says (1,)",
    "shape": "its observation has shape (2,), its space says (1,)",
    "first NaN": "its observation holds NaN or infinity",
    "observation": "its observation holds NaN or infinity",
    "reward": "its reward is nan, not a finite number",
    "infinite": "its reward is inf, not a finite number",
    "word": "its step raised ValueError: could not convert string to float",
    "none": "its reward is None, not a finite number",
    "rewards": "its reward is [1.0, 2.0], not a finite number",
    "never": "an episode has not ended after 1,000 steps; give it a time limit with env.max_episode_steps",
}


@pytest.mark.parametrize("how", BROKEN)
def test_an_environment_that_goes_wrong_is_named_in_one_line(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iwbc.evaluation._LONGEST", 1_000)  # 100,000 would take a minute
    gym.register("iwbc-tests/Broken-v0", Broken, disable_env_checker=True, order_enforce=False)
    try:
        with pytest.raises(UserError) as raised:
            environment = EnvironmentSpec("iwbc-tests/Broken-v0", {"how": how})
            Evaluator(environment, 0).evaluate(constant_policy([0.0], (0,)), 2)
    finally:
        del gym.registry["iwbc-tests/Broken-v0"]
    assert BROKEN[how] in str(raised.value)
    assert "environment iwbc-tests/Broken-v0: " in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_policy_that_acts_with_nan_has_diverged() -> None:
    with pytest.raises(UserError, match="the policy's action is not a number"):
        Evaluator(ENV, 0).evaluate(constant_policy([np.nan], (0,)), 2)
