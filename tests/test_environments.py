"""What `play` relies on, of every implementation of Environments."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest

from iwbc.environments.gymnasium import Environments, LocalEnvironments, WorkerEnvironments, make_env, play
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError

Make = Callable[..., Environments]


@pytest.fixture(params=["local", "workers"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes environments of each implementation, and closes them after the test."""
    made: list[Environments] = []

    def one(env_id: str = "Hopper-v5", **env_kwargs: Any) -> Environments:
        match request.param:
            case "local":
                made.append(LocalEnvironments(EnvironmentSpec(env_id, env_kwargs)))
            case "workers":
                made.append(WorkerEnvironments(EnvironmentSpec(env_id, env_kwargs), 2))
        return made[-1]

    yield one
    for environments in made:
        environments.close()


def actions(steps: int, count: int) -> npt.NDArray[np.float32]:
    """Hopper's, [steps, count, 3]."""
    return np.random.default_rng(0).uniform(-1.0, 1.0, (steps, count, 3)).astype(np.float32)


def test_a_seed_is_an_initial_state(make: Make) -> None:
    environments = make()
    three = environments.reset([5, 6, 7]).copy()
    assert three.shape == (3, 11)
    assert len(np.unique(three[:, 0])) == 3
    for _ in range(2):  # with environments that were played before
        environments.step(np.arange(2), actions(1, 2)[0])
        assert np.array_equal(environments.reset([7, 5]), three[[2, 0]])
    assert np.array_equal(make().reset([1, 2, 3, 6])[3], three[1])


def test_an_episode_depends_on_its_seed_and_actions_alone(make: Make) -> None:
    chosen = actions(12, 4)
    together, alone = make(), make()
    together.reset([10, 11, 12, 13])
    alone.reset([12])
    for step, acts in enumerate(chosen):
        # Some of them, in an order of its own; environment 2 always.
        indices = np.array([[3, 2, 0], [2, 1, 3], [2]][step % 3])
        results = together.step(indices, acts[indices])
        expected = alone.step(np.array([0]), acts[[2]])
        row = indices.tolist().index(2)
        for whole, single in zip(results, expected, strict=True):
            assert len(whole) == len(indices)
            assert np.array_equal(whole[row], single[0], equal_nan=True)


def test_types_and_shapes(make: Make) -> None:
    environments = make()
    assert environments.reset([1, 2, 3]).dtype == np.float64
    observations, rewards, terminated, truncated, success = environments.step(np.array([2, 0]), actions(1, 2)[0])
    assert (observations.shape, observations.dtype) == ((2, 11), np.float64)
    assert (rewards.shape, rewards.dtype) == ((2,), np.float64)
    assert (success.shape, success.dtype) == ((2,), np.float32)
    assert np.isnan(success).all()  # Hopper says nothing of it
    assert (terminated.shape, terminated.dtype) == (truncated.shape, truncated.dtype) == ((2,), np.bool_)


def test_returned_observations_stay_unchanged(make: Make) -> None:
    environments = make()
    returned = [environments.reset([1, 2])]
    returned += [environments.step(np.arange(2), acts).observations for acts in actions(10, 2)]
    kept = [observations.copy() for observations in returned]
    returned[0][:] = 0.0  # which is `play`'s to write to
    environments.step(np.arange(2), actions(1, 2)[0])
    assert all(np.array_equal(a, b) for a, b in zip(returned[1:], kept[1:], strict=True))


def test_actions_are_clipped(make: Make) -> None:
    environments = make()
    results = []
    for action in (1.0, 7.0):
        environments.reset([3])
        results.append(environments.step(np.array([0]), np.full((1, 3), action, np.float32)))
    assert np.array_equal(results[0].observations, results[1].observations)
    assert results[0].rewards == results[1].rewards


def test_episodes_end_each_at_its_own_time(make: Make) -> None:
    def lengths(seeds: list[int]) -> list[int]:
        count = np.zeros(len(seeds), int)
        ended = np.zeros(len(seeds), int)
        for step in play(environments, lambda observations: -0.1 * observations[:, 2:5], seeds):
            count[step.active] += 1
            ended[step.active] += step.terminated
        assert ended.tolist() == [1] * len(seeds)
        return count.tolist()

    environments = make()
    counts = lengths(list(range(12)))
    assert len(set(counts)) > 2
    assert lengths([7, 2]) == [counts[7], counts[2]]


class Counted(gym.Env[Any, Any]):
    """Begins at whole numbers and goes on at fractions; `kind` says as what."""

    def __init__(self, kind: str) -> None:
        box = gym.spaces.Box(0.0, 9.0, (2,), np.float32)
        self._pictured = kind == "picture"
        picture = gym.spaces.Box(0, 255, (2, 2, 1), np.uint8)
        self.observation_space = gym.spaces.Dict({"at": box, "camera": picture}) if self._pictured else box
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._first: Any = [0, 0] if kind == "list" else np.zeros(2, np.int64)

    def _seen(self, at: Any) -> Any:
        return {"at": at, "camera": np.zeros((2, 2, 1), np.uint8)} if self._pictured else at

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._seen(self._first), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        return self._seen(np.array([0.25, 0.5]) * self._t), 0.0, False, self._t == 3, {}


@pytest.mark.parametrize("kind", ["list", "array", "picture"])
def test_observations_keep_their_fractions_where_the_first_is_of_whole_numbers(kind: str) -> None:
    gym.register("tests/Counted-v0", Counted, kwargs={"kind": kind})
    environments = LocalEnvironments("tests/Counted-v0")
    try:
        seen = []
        for step in play(environments, lambda observations: np.zeros((len(observations), 1)), [0]):
            seen.append((step.observations["observations"] if kind == "picture" else step.observations)[0].tolist())
    finally:
        environments.close()
        del gym.registry["tests/Counted-v0"]
    assert seen == [[0.0, 0.0], [0.25, 0.5], [0.5, 1.0]]


def test_the_time_limit(make: Make) -> None:
    environments = make("HalfCheetah-v5", max_episode_steps=7)
    steps = list(play(environments, lambda observations: observations[:, :6], [0, 1]))
    assert [step.truncated.tolist() for step in steps] == [[False] * 2] * 6 + [[True] * 2]
    assert not any(step.terminated.any() for step in steps)


def test_settings_reach_the_environment(make: Make) -> None:
    first = [environments.reset([4]) for environments in (make(), make(reset_noise_scale=0.05))]
    assert np.abs(first[0][0, 0] - 1.25) < 0.005 < np.abs(first[1] - first[0]).max()


def test_a_name_that_would_have_a_module_imported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # It may come from a dataset or from somebody else's run folder.
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    with pytest.raises(UserError, match=r"^environment antigravity:Hopper-v5: names a module to import; import it yourself"):
        make_env("antigravity:Hopper-v5")
    assert "antigravity" not in sys.modules


class Careless(gym.Env[Any, Any]):
    """An environment that looks for its initial state everywhere but at the seed."""

    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (5,))

    def __init__(self) -> None:
        self.goal = np.random.normal()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        drawn = [np.random.randint(1000), random.random(), self.np_random.random(), self.action_space.sample()[0]]
        return np.array([self.goal, *drawn]), {}

    def step(self, action: Any) -> Any:
        return np.zeros(5), 0.0, True, False, {}


def test_a_seed_is_an_initial_state_where_an_environment_draws_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Meta-World (its own generator), OGBench (NumPy's and the action space's) and robosuite (NumPy's and Python's) do.
    monkeypatch.setitem(gym.registry, "Careless-v0", gym.envs.registration.EnvSpec("Careless-v0", Careless))
    np.random.seed(3)
    random.seed(3)
    environments = LocalEnvironments("Careless-v0")
    states = environments.reset([5, 6]).copy()
    assert (states[0, 1:] != states[1, 1:]).all()
    assert np.array_equal(environments.reset([6, 5]), states[::-1])
    np.random.seed(4)  # as in another process
    assert np.array_equal(LocalEnvironments("Careless-v0").reset([5]), states[:1])
    np.random.seed(3)
    random.seed(3)
    LocalEnvironments("Careless-v0").reset([5])
    # What others draw is what they would have drawn.
    assert np.random.normal() == np.random.RandomState(3).normal()
    assert random.random() == random.Random(3).random()
