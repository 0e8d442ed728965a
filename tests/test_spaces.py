"""One flattening: of data, of environments, and of what `predict` is given, alone or in a batch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer
from rich.console import Console
from setups import summary_of

import iwbc
from iwbc.data.minari_source import load
from iwbc.environments.gymnasium import LocalEnvironments
from iwbc.environments.spaces import Part, entry_names, flatten, part_of_plain, parts_of, size_of
from iwbc.errors import UserError
from iwbc.export import described
from iwbc.policies.spec import PolicySpec, Spaces
from iwbc.settings import GaussianPolicy
from iwbc.training.trained import Policies, load_policy

Box, Dict, Tuple, Discrete = gym.spaces.Box, gym.spaces.Dict, gym.spaces.Tuple, gym.spaces.Discrete
MultiBinary, MultiDiscrete = gym.spaces.MultiBinary, gym.spaces.MultiDiscrete

SPACES: dict[str, gym.Space] = {
    "vector": Box(-1, 1, (4,), np.float32),
    "number": Box(-1, 1, (), np.float64),
    "frame stack": Box(-1, 1, (3, 4), np.float32),
    "one frame": Box(-1, 1, (1, 4), np.float64),
    "three axes": Box(-1, 1, (2, 3, 2), np.float32),
    "bytes": Box(0, 255, (4,), np.uint8),
    "choice": Discrete(3),
    "choice from 5": Discrete(3, start=5),
    "choices": MultiDiscrete([3, 2]),
    "a matrix of choices": MultiDiscrete([[3, 2], [2, 2]], start=[[1, 0], [0, 7]]),
    "flags": MultiBinary(3),
    "a matrix of flags": MultiBinary((2, 2)),
    "tuple": Tuple([Box(-1, 1, (2,), np.float32), Discrete(2)]),
    "dict with a choice": Dict({"position": Box(-1, 1, (2,), np.float64), "mode": Discrete(3)}),
    "keys out of order": Dict([("z", Box(-1, 1, (2,))), ("a", Box(-1, 1, (1,))), ("M", Discrete(2))]),
    "keys with /": Dict({"arm/left": Box(-1, 1, (2,)), "arm": Dict({"right": Discrete(2)}), "a/b/c": MultiBinary(2)}),
    "nested": Dict(
        {
            "z": Tuple([Discrete(2, start=1), Dict({"m": Box(-1, 1, (2, 2)), "k": MultiDiscrete([2, 3])})]),
            "a": Tuple([Tuple([Box(-1, 1, (3,))])]),
        }
    ),
}
every_space = pytest.mark.parametrize("name", SPACES)


def expected_of(space: gym.Space, value: Any) -> np.ndarray:
    """What Gymnasium flattens, with the keys of Dicts in alphabetical order."""
    if isinstance(space, Dict):
        return np.concatenate([expected_of(space.spaces[key], value[key]) for key in sorted(space.spaces)])
    if isinstance(space, Tuple):
        return np.concatenate([expected_of(part, entry) for part, entry in zip(space.spaces, value, strict=True)])
    return np.asarray(gym.spaces.flatten(space, value), np.float32)


def batch_of(space: gym.Space, values: list[Any]) -> Any:
    """Observations side by side, as vector environments and recordings have them."""
    if isinstance(space, Dict):
        return {key: batch_of(part, [value[key] for value in values]) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(batch_of(part, [value[i] for value in values]) for i, part in enumerate(space.spaces))
    return np.stack([np.asarray(value) for value in values])


def samples(space: gym.Space, count: int) -> list[Any]:
    space.seed(3)
    return [space.sample() for _ in range(count)]


def policies_of(parts: list[Part]) -> Policies:
    spaces = Spaces(size_of(parts), (-1.0,), (1.0,), tuple(parts))
    spec = PolicySpec(GaussianPolicy(hidden=[8]), spaces)
    return Policies([spec.make()], (0,), spaces, spec)


@every_space
def test_it_is_that_of_gymnasium_with_sorted_keys_alone_and_in_batches(name: str) -> None:
    space, parts = SPACES[name], parts_of(SPACES[name])
    values = samples(space, 5)
    expected = np.stack([expected_of(space, value) for value in values])
    assert size_of(parts) == expected.shape[1] == gym.spaces.flatdim(space)
    for value, row in zip(values, expected, strict=True):
        np.testing.assert_array_equal(flatten(parts, value).astype(np.float32), row)
    for count in (1, 3, 5):
        vectors = flatten(parts, batch_of(space, values[:count]))
        np.testing.assert_array_equal(vectors.astype(np.float32), expected[:count])
    assert len(entry_names(parts, size_of(parts))) == size_of(parts)


@every_space
def test_predict_takes_it_alone_in_batches_and_flat(name: str, tmp_path: Path) -> None:
    space, parts = SPACES[name], parts_of(SPACES[name])
    policies_of(parts).save(tmp_path / "policy.safetensors")
    policies = load_policy(tmp_path / "policy.safetensors")
    assert policies.spaces.observation_parts == tuple(parts)
    values = samples(space, 4)
    alone = np.stack([policies.predict(value)[0] for value in values])
    assert alone.shape == (4, 1)
    for batch in (batch_of(space, values), np.stack([flatten(parts, value) for value in values]).astype(np.float64)):
        together = policies.predict(batch)[0]
        assert together.shape == (4, 1)
        np.testing.assert_allclose(together, alone, atol=1e-4)


class Recorded(gym.Env[Any, Any]):
    """Observations of a space, in which an episode takes four steps."""

    def __init__(self, name: str) -> None:
        self.observation_space, self.action_space = SPACES[name], Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), 0.0, False, self.steps == 4, {}


def env_id_of(name: str) -> str:
    """The environment whose observations are of a space, registered as of a module: the data would not be written otherwise."""
    env_id = f"iwbc-test/Recorded{list(SPACES).index(name)}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, f"{__name__}:Recorded", kwargs={"name": name})
    return env_id


@every_space
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_data_environment_and_predict_agree(name: str, data_format: str, datasets: Path) -> None:
    space = SPACES[name]
    env = gym.make(env_id_of(name), disable_env_checker=True)
    buffers, starts = [], []
    for seed in range(3):
        observations = [env.reset(seed=seed)[0]]
        starts.append(observations[0])
        observations += [env.step(None)[0] for _ in range(4)]
        ends = np.arange(4) == 3
        recorded = batch_of(space, observations)
        if data_format == "arrow" and isinstance(space, Box) and space.shape == ():
            pytest.skip("Minari writes no numbers to arrow")
        buffers.append(EpisodeBuffer(None, seed, None, recorded, np.zeros((4, 2), np.float32), np.zeros(4), 0 * ends, ends))
    minari.create_dataset_from_buffers(
        "mine/recorded-v0", buffers, env=env, observation_space=space, action_space=env.action_space, data_format=data_format,
        description="", author="me", author_email="a@b.c", code_permalink="-", algorithm_name="-",
    )  # fmt: skip
    data = load("mine/recorded-v0")
    environments = LocalEnvironments(data.info.environment or "")
    played = environments.reset([0, 1, 2])
    environments.close()
    np.testing.assert_array_equal(played.astype(np.float32), data.observations[data.offsets[:-1]])
    policies = iwbc.fit(iwbc.BC(steps=2), data, policy=GaussianPolicy(hidden=[8]), console=Console(quiet=True))
    expected = policies.predict(data.observations[data.offsets[:-1]])[0]
    for start, action in zip(starts, expected, strict=True):
        np.testing.assert_allclose(policies.predict(start)[0], action, atol=1e-4)
    np.testing.assert_allclose(policies.predict(batch_of(space, starts))[0], expected, atol=1e-4)
    assert iwbc.evaluate(policies, data, episodes=2).lengths.tolist() == [[4, 4]]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", ["frame stack", "dict with a choice", "keys with /", "tuple"])
def test_arrays_of_an_environment_are_taken_as_it_flattens_them(name: str, stored: bool, datasets: Path) -> None:
    space, parts = SPACES[name], parts_of(SPACES[name])
    values = samples(space, 8)
    ends = np.arange(8) % 4 == 3
    data = iwbc.from_arrays(
        np.stack([flatten(parts, value) for value in values]).astype(float), np.zeros((8, 2)), np.zeros(8), 0 * ends, ends,
        env_id=env_id_of(name), id="mine/arrays-v0" if stored else None,
    )  # fmt: skip
    assert data.info.observation_parts == parts
    policies = iwbc.fit(iwbc.BC(steps=2), data, policy=GaussianPolicy(hidden=[8]), console=Console(quiet=True))
    for value, row in zip(values, data.observations, strict=True):
        np.testing.assert_array_equal(policies.predict(value)[0], policies.predict(row)[0])


@pytest.mark.parametrize("value", ["x", [1], [{"path": [], "shape": [5], "choices": None, "first": None}]])
def test_damaged_parts_in_a_dataset_s_metadata_are_one_line(value: Any, datasets: Path) -> None:
    ends = np.arange(8) % 4 == 3
    arrays = np.zeros((8, 4)), np.zeros((8, 2)), np.zeros(8), 0 * ends, ends
    iwbc.from_arrays(*arrays, env_id=env_id_of("tuple"), id="mine/arrays-v0")
    path = datasets / "mine/arrays-v0/data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"observation_parts": value}))
    with pytest.raises(UserError, match=r"observation_parts of its metadata\.json are damaged \(.*\); make it again"):
        load("mine/arrays-v0")


DICT, TUPLE, STACK = SPACES["dict with a choice"], SPACES["tuple"], SPACES["frame stack"]
GOOD = {"position": np.zeros(2), "mode": 1}
REFUSED: dict[str, tuple[gym.Space, Any, str]] = {
    "no key": (DICT, {"mode": 1}, "has no position"),
    "another shape": (DICT, GOOD | {"position": np.zeros(3)}, r"has position of shape \(3,\), not \(2,\)"),
    "too many axes": (DICT, GOOD | {"position": np.zeros((1, 1, 2))}, r"has position of shape \(1, 1, 2\), not \(2,\)"),
    "not a choice": (DICT, GOOD | {"mode": 3}, "has 3 as mode, not a whole number from 0 to 2"),
    "a negative choice": (DICT, GOOD | {"mode": -1}, "has -1 as mode, not a whole number from 0 to 2"),
    "half a choice": (DICT, GOOD | {"mode": 0.5}, "has 0.5 as mode, not a whole number from 0 to 2"),
    "nan for a choice": (DICT, GOOD | {"mode": np.nan}, "has nan as mode"),
    "words": (DICT, GOOD | {"mode": "slow"}, "has mode of shape"),
    "batches of two sizes": (
        DICT,
        {"position": np.zeros((3, 2)), "mode": np.zeros(2, int)},
        r"has parts of different batch sizes \(mode \(2,\), position \(3,\)\)",
    ),
    "one of a batch": (DICT, {"position": np.zeros((3, 2)), "mode": 1}, "has parts of different batch sizes"),
    "a vector of another size": (DICT, np.zeros(6), "has no "),
    "rows that differ": (DICT, [[0.0], [0.0, 1.0]], "has no "),
    "a longer tuple": (TUPLE, (np.zeros(2), 1, 1), "has no 0 .of a tuple of 2"),
    "a dict for a tuple": (TUPLE, GOOD, "has no 0"),
    "a stack of another height": (STACK, np.zeros((2, 4)), r"has shape \(2, 4\), not \(3, 4\)"),
    "a dict for an array": (STACK, GOOD, r"has shape \(\), not \(3, 4\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_observation_outside_the_space_is_refused_in_one_line(name: str) -> None:
    space, value, message = REFUSED[name]
    with pytest.raises(UserError, match=f"^predict: the observation {message}") as caught:
        policies_of(parts_of(space)).predict(value)
    assert "\n" not in str(caught.value)


def test_numbers_that_come_as_vectors_of_length_one_are_numbers() -> None:
    parts = parts_of(DICT)
    expected = flatten(parts, GOOD)
    np.testing.assert_array_equal(flatten(parts, GOOD | {"mode": np.array([1])}), expected)
    two = {"position": np.zeros((2, 2)), "mode": np.array([[1], [1]])}
    np.testing.assert_array_equal(flatten(parts, two), np.stack([expected] * 2))


def test_the_vector_of_one_choice_is_one_observation() -> None:
    spaces = Spaces(4, (-1.0,), (1.0,), (Part((), (), (4,), (0,)),))
    hot = np.eye(4, dtype=np.float32)
    assert np.array_equal(spaces.observed(hot[2]), hot[2])
    assert np.array_equal(spaces.observed(2), hot[2])
    assert np.array_equal(spaces.observed(np.array([3, 0, 1, 2])), hot[[3, 0, 1, 2]])
    assert np.array_equal(spaces.observed(hot), hot)


def test_other_keys_are_let_pass() -> None:
    np.testing.assert_array_equal(flatten(parts_of(DICT), GOOD | {"image": "…"}), flatten(parts_of(DICT), GOOD))


@every_space
def test_parts_are_read_back_from_json(name: str) -> None:
    parts = parts_of(SPACES[name])
    assert [part_of_plain(plain) for plain in json.loads(json.dumps([dataclasses.asdict(part) for part in parts]))] == parts


def test_an_exported_file_says_the_parts() -> None:
    summary = summary_of({})
    policies = policies_of(parts_of(SPACES["nested"]))
    text = described(summary, policies)["observation_parts"]
    assert [part_of_plain(part) for part in json.loads(text)] == parts_of(SPACES["nested"])
    vectors = Policies(policies.modules, (0,), dataclasses.replace(policies.spaces, observation_parts=None), None)
    assert described(summary, vectors)["observation_parts"] == "null"


def test_names_of_entries() -> None:
    assert entry_names(None, 2) == entry_names(parts_of(Box(-1, 1, (2,))), 2) == ["0", "1"]
    assert entry_names(parts_of(DICT), 5) == ["mode[0]", "mode[1]", "mode[2]", "position[0]", "position[1]"]
    assert entry_names(parts_of(TUPLE), 4) == ["0[0]", "0[1]", "1[0]", "1[1]"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gym.spaces.Text(5), "no numbers"),
        (gym.spaces.Sequence(Discrete(2)), "no fixed size"),
        (gym.spaces.Graph(Box(-1, 1, (2,)), None), "Graph"),
        (gym.spaces.OneOf([Discrete(2), Discrete(3)]), "OneOf"),
    ],
)
def test_an_environment_that_cannot_be_flattened_is_one_line(space: gym.Space, message: str) -> None:
    class Odd(Recorded):
        def __init__(self) -> None:
            super().__init__("vector")
            self.observation_space = Dict({"it": space})

    gym.register("iwbc-test/Odd-v0", Odd)
    try:
        with pytest.raises(UserError, match=f"iwbc-test/Odd-v0: its observations cannot be flattened to a vector: .*{message}"):
            LocalEnvironments("iwbc-test/Odd-v0")
        with pytest.raises(UserError, match="its observations cannot be flattened"):
            iwbc.from_arrays(np.zeros((2, 3)), np.zeros((2, 2)), np.zeros(2), [0, 1], [0, 0], env_id="iwbc-test/Odd-v0")
    finally:
        gym.registry.pop("iwbc-test/Odd-v0")
