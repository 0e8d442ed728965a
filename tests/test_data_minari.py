from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from helpers import everything
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from setups import BRIEF, train

from iwbc.data import packed
from iwbc.data.minari_source import load
from iwbc.environments.spaces import Part, flatten, parts_of
from iwbc.errors import DataWarning, UserError
from iwbc.training.trained import load_policy

Box, Dict, Tuple, Discrete = gym.spaces.Box, gym.spaces.Dict, gym.spaces.Tuple, gym.spaces.Discrete
MultiBinary, MultiDiscrete = gym.spaces.MultiBinary, gym.spaces.MultiDiscrete
FORMATS = ["hdf5", "arrow"]
VECTOR = Box(-np.inf, np.inf, (3,), np.float64)
ACTIONS = Box(-1.0, 1.0, (2,), np.float32)
LENGTHS = [4, 1, 6]


def buffer(space: gym.Space, length: int, seed: int = 0, **changes: Any) -> EpisodeBuffer:
    """An episode of samples of the spaces, cut by a time limit; observations have a row more than steps."""
    space.seed(seed)
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "observations": stack(space, [space.sample() for _ in range(length + 1)]),
        "actions": rng.uniform(-1, 1, size=(length, 2)).astype(np.float32),
        "rewards": rng.normal(size=length),
        "terminations": np.zeros(length, bool),
        "truncations": np.arange(length) == length - 1,
    }
    return EpisodeBuffer(**fields | changes)


def stack(space: gym.Space, values: list[Any]) -> Any:
    if isinstance(space, Dict):
        return {key: stack(part, [value[key] for value in values]) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(stack(part, [value[i] for value in values]) for i, part in enumerate(space.spaces))
    return np.stack(values) if isinstance(space, Box) else np.array(values)


def create(
    buffers: list[EpisodeBuffer],
    space: gym.Space = VECTOR,
    data_format: str = "hdf5",
    actions: gym.Space = ACTIONS,
    **more: Any,
) -> str:
    """A dataset as others make it, with Minari's own code."""
    minari.create_dataset_from_buffers(
        "others/task-v0",
        buffers,
        observation_space=space,
        action_space=actions,
        data_format=data_format,
        description="",
        author="someone",
        author_email="someone@example.org",
        code_permalink="https://example.org",
        algorithm_name="none",
        **more,
    )
    return "others/task-v0"


def three(space: gym.Space = VECTOR) -> list[EpisodeBuffer]:
    return [buffer(space, length, seed) for seed, length in enumerate(LENGTHS)]


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_format", FORMATS)
def test_both_formats_are_read(data_format: str, datasets: Path) -> None:
    buffers = three()
    trajectories = load(create(buffers, data_format=data_format))
    assert trajectories.lengths.tolist() == LENGTHS
    for name in ("actions", "rewards"):
        expected = np.concatenate([np.asarray(getattr(b, name)) for b in buffers]).astype(np.float32)
        np.testing.assert_array_equal(getattr(trajectories, name), expected)
    observations = [np.asarray(b.observations, np.float32) for b in buffers]
    np.testing.assert_array_equal(trajectories.observations, np.concatenate([o[:-1] for o in observations]))
    np.testing.assert_array_equal(trajectories.final_observations, np.stack([o[-1] for o in observations]))
    np.testing.assert_allclose(trajectories.returns, [np.sum(b.rewards) for b in buffers], rtol=1e-6)
    assert not trajectories.terminated.any()
    assert trajectories.info.env_id is None
    assert trajectories.info.reference_scores is None


GOAL = Dict(
    observation=Box(-1, 1, (4,), np.float64),
    achieved_goal=Box(-1, 1, (2,), np.float64),
    desired_goal=Box(-1, 1, (2,), np.float64),
)
SPACES = {
    "goal environment": GOAL,
    "nested (kitchen)": Dict(
        {
            "observation": Box(-1, 1, (5,), np.float64),
            "desired_goal": Dict({"kettle": Box(-1, 1, (3,), np.float64), "burner": Box(-1, 1, (2,), np.float32)}),
        }
    ),
    "tuple": Tuple([Box(-1, 1, (2,), np.float64), Box(-1, 1, (3,), np.float32)]),
    "dict with a choice": Dict({"position": Box(-1, 1, (2,), np.float64), "mode": Discrete(3)}),
    "matrix": Box(-1, 1, (2, 3), np.float64),
    "nothing but a choice": Discrete(3, start=2),
    "choices": MultiDiscrete([3, 2]),
    "flags": MultiBinary(4),
    "keys with /": Dict(
        {"arm/left": Box(-1, 1, (2,), np.float32), "arm": Dict({"right": Discrete(2)}), "a/b/c": MultiBinary(2)}
    ),
    "all of them": Dict(
        {
            "z": Tuple([Discrete(2), Dict({"m": Box(-1, 1, (2, 2), np.float32), "k": MultiDiscrete([2, 3])})]),
            "a": Box(-1, 1, (3,), np.float64),
            "flag": MultiBinary(2),
        }
    ),
}


def sorted_(space: gym.Space) -> gym.Space:
    """The same with the keys of Dicts in alphabetical order."""
    if isinstance(space, Dict):
        return Dict([(key, sorted_(space.spaces[key])) for key in sorted(space.spaces)])
    return Tuple([sorted_(part) for part in space.spaces]) if isinstance(space, Tuple) else space


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("name", SPACES)
def test_structured_observations_are_laid_out_as_gymnasium_flattens_them(name: str, data_format: str, datasets: Path) -> None:
    space = SPACES[name]
    space.seed(7)
    samples = [space.sample() for _ in range(5)]
    trajectories = load(create([buffer(space, 4, observations=stack(space, samples))], space, data_format))
    expected = np.stack([np.asarray(gym.spaces.flatten(sorted_(space), sample)) for sample in samples]).astype(np.float32)
    np.testing.assert_array_equal(trajectories.observations, expected[:-1])
    np.testing.assert_array_equal(trajectories.final_observations, expected[-1:])


def test_the_keys_of_a_goal_environment_are_flattened_in_alphabetical_order() -> None:
    value = {"observation": np.zeros(4), "achieved_goal": np.full(2, 0.25), "desired_goal": np.full(2, 0.5)}
    # Gymnasium keeps the order that the space was made with, which a stored dataset does not.
    assert list(GOAL.spaces) == ["observation", "achieved_goal", "desired_goal"]
    assert flatten(parts_of(GOAL), value).tolist() == [0.25, 0.25, 0.5, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("key", ["success", "is_success"])
def test_infos_label_success(key: str, data_format: str, datasets: Path) -> None:
    labels = [[0, 0, 1, 0, 0], [0, 0], [0, 0, 0, 0, 0, 0, 1]]
    buffers = [
        buffer(VECTOR, length, i, infos={key: [bool(x) for x in label]})
        for i, (length, label) in enumerate(zip(LENGTHS, labels, strict=True))
    ]
    successes = load(create(buffers, data_format=data_format)).successes
    assert successes is not None
    assert successes.tolist() == [True, False, True]


def stored(labels: np.ndarray, data_format: str) -> Any:
    """Labels as Minari can read them back: in Arrow, numbers only from a list."""
    return labels.tolist() if data_format == "arrow" and labels.ndim == 1 else labels


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize(
    "values",
    [
        *([False, np.True_, False], [0.0, 1.0, 0.0], np.array([0, 1, 0], np.int8), np.array([[0], [1], [0]]), [-0.0, 1.0, 1.0]),
        np.array([[0.0], [0.0], [1.0]], np.float32),
    ],
)
def test_labels_of_any_number_type(values: Any, data_format: str, datasets: Path) -> None:
    infos = [np.asarray(values), np.zeros_like(np.asarray(values))]
    buffers = [buffer(VECTOR, 2, i, infos={"success": stored(info, data_format)}) for i, info in enumerate(infos)]
    successes = load(create(buffers, data_format=data_format)).successes
    assert successes is not None
    assert successes.tolist() == [True, False]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("key", ["success", "is_success"])
@pytest.mark.parametrize(
    "values",
    [
        *([np.nan, 1.0, 1.0], [0.0, 0.3, 1.0], [0, -1, 1], [0, 2, 1], [np.inf, 0.0, 1.0]),
        np.array([[True, False], [False, False], [True, True]]),
    ],
)
def test_infos_that_are_no_labels_are_refused(values: Any, key: str, data_format: str, datasets: Path) -> None:
    wrong = np.asarray(values)
    fine = np.zeros_like(wrong) if wrong.ndim == 1 else np.zeros((3, 1), bool)
    infos = [wrong, wrong] if wrong.ndim > 1 and data_format == "arrow" else [fine, wrong]  # of one shape, in Arrow
    buffers = [buffer(VECTOR, 2, i, infos={key: stored(info, data_format)}) for i, info in enumerate(infos)]
    name = create(buffers, data_format=data_format)
    with pytest.raises(
        UserError, match=rf"^dataset {name}, episode [01], infos row [01]: its info says {key}=.*; a success label"
    ):
        load(name)


@pytest.mark.parametrize("values", [["no", "false", "true"], [b"1", b"0", b"1"], np.array([0, 1, 0], "c8")])
def test_labels_in_words_are_refused(values: Any, datasets: Path) -> None:
    name = create([buffer(VECTOR, 2, 1, infos={"success": np.zeros(3, bool)})])
    with h5py.File(datasets / name / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/infos/success"]
        file["episode_0/infos/success"] = values
    with pytest.raises(
        UserError, match=rf"^dataset {name}, episode 0, infos row 0: its info says success=.*; a success label is"
    ):
        load(name)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("plain", [True, False])
def test_either_key_makes_an_episode_a_success(plain: bool, data_format: str, datasets: Path) -> None:
    space = VECTOR if plain else gym.spaces.Dict({"a": VECTOR})
    said = [(False, True), (True, False), (False, False)]
    infos = [{"success": [by_success] * 3, "is_success": [by_is_success] * 3} for by_success, by_is_success in said]
    buffers = [buffer(space, 2, i, infos=info) for i, info in enumerate(infos)]
    successes = load(create(buffers, space, data_format)).successes
    assert successes is not None
    assert successes.tolist() == [True, True, False]


def test_unfinished_episodes_are_dropped_on_request(datasets: Path) -> None:
    buffers = three()
    buffers[1] = buffer(VECTOR, 1, 1, truncations=np.array([False]))
    name = create(buffers)
    assert load(name).lengths.tolist() == LENGTHS
    assert load(name, unfinished="drop").lengths.tolist() == [4, 6]
    assert load(name).lengths.tolist() == LENGTHS


def test_each_choice_of_options_has_its_own_cache(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = create([buffer(VECTOR, 2, actions=np.array([[2.0, 0.0], [0.0, 0.0]], np.float32))], actions=ACTIONS)
    with pytest.raises(
        UserError, match=r"dataset others/task-v0, actions: 1 of 2 lie outside .* by up to 1; .*clip_actions=true"
    ):
        load(name)
    assert load(name, clip_actions=True).actions.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    load(name, clip_actions=True, unfinished="drop")
    monkeypatch.setattr(packed, "pack", lambda *_: pytest.fail("packed again"))
    load(name, clip_actions=True)
    load(name, clip_actions=True, unfinished="drop")


@pytest.mark.parametrize("data_format", FORMATS)
def test_changed_data_is_packed_again(data_format: str, datasets: Path) -> None:
    name = create(three(), data_format=data_format)
    before = load(name).content_hash
    minari.load_dataset(name).update_dataset_from_buffer([buffer(VECTOR, 2, 9)])
    after = load(name)
    assert after.lengths.tolist() == [*LENGTHS, 2]
    assert after.content_hash != before


# --- reference scores ------------------------------------------------------------------------------------------------


def test_reference_scores_are_the_datasets_own_or_d4rls(datasets: Path) -> None:
    hopper = gym.make("Hopper-v5")
    episode = buffer(hopper.observation_space, 3, actions=np.zeros((3, 3), np.float32))
    name = create([episode], hopper.observation_space, actions=hopper.action_space, env=hopper)
    scores = load(name).info.reference_scores
    assert scores is not None
    assert (scores.random, scores.expert, scores.source) == (-20.272305, 3234.3, "D4RL")

    minari.load_dataset(name).storage.update_metadata({"ref_min_score": 5.0, "ref_max_score": 105.0})
    scores = load(name).info.reference_scores
    assert scores is not None
    assert (scores.random, scores.expert, scores.source) == (5.0, 105.0, "the dataset's own metadata")
    np.testing.assert_allclose(scores.normalise([5.0, 55.0]), [0.0, 50.0])


def test_nothing_that_the_metadata_names_is_imported(datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\ndef make(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = create(three())
    path = datasets / name / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    spec = {"id": "Trap-v0", "entry_point": "trap:make", "kwargs": {}, "additional_wrappers": []}
    path.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec), "eval_env_spec": json.dumps(spec)}))
    assert load(name).info.env_id == "Trap-v0"
    del metadata["observation_space"]
    path.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    with pytest.raises(UserError, match="no observation_space"):
        load(name)
    assert not (tmp_path / "sprung").exists()


# --- observation keys ------------------------------------------------------------------------------------------------

CAMERA = Box(0, 255, (40, 40, 3), np.uint8)
BESIDE: dict[str, gym.Space] = {
    "image": CAMERA,
    "small image": Box(0, 255, (4, 4, 3), np.uint8),
    "nested image": Dict({"front": CAMERA, "depth": Box(0, 1, (2, 2), np.float32)}),
    "vector": Box(-1, 1, (5,), np.float64),
    "choice": Discrete(4),
}


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("beside", BESIDE)
def test_observations_that_are_not_chosen_do_not_matter(beside: str, data_format: str, datasets: Path) -> None:
    alone = Dict({"p": Box(-1, 1, (2,), np.float64)})
    space = Dict({"p": alone["p"], "other": BESIDE[beside]})
    buffers = three(space)
    for buffer in buffers:
        if beside == "vector":
            buffer.observations["other"][:] = np.nan
    name = create(buffers, space, data_format)
    chosen = load(name, observation_keys=["p"])
    expected = np.concatenate([buffer.observations["p"][:-1] for buffer in buffers]).astype(np.float32)
    np.testing.assert_array_equal(chosen.observations, expected)
    assert chosen.info.observation_parts == [Part(("p",), (2,))]
    assert load(name, observation_keys="p").content_hash == chosen.content_hash
    if "image" in beside:
        with pytest.raises(UserError, match=r"hold images \(other.*\); dataset.observation_keys=\[…\] chooses among other, p"):
            load(name)


@pytest.mark.parametrize("change", ["other length", "other width", "missing", "text"])
def test_observations_that_are_not_chosen_may_be_damaged(change: str, datasets: Path) -> None:
    space = Dict({"p": Box(-1, 1, (2,), np.float64), "other": Box(-1, 1, (5,), np.float64)})
    name = create(three(space), space)
    before = load(name, observation_keys=["p"])

    def damage(file: h5py.File) -> None:
        group = file["episode_1/observations"]
        del group["other"]
        if change != "missing":
            values = {"other length": np.zeros((9, 5)), "other width": np.zeros((2, 3)), "text": ["a", "b"]}
            group["other"] = values[change]

    edit(damage)(datasets / name / "data")
    np.testing.assert_array_equal(load(name, observation_keys=["p"]).observations, before.observations)
    with pytest.raises(UserError, match="dataset others/task-v0, episode 1"):
        load(name)


@pytest.mark.parametrize("data_format", FORMATS)
def test_a_key_may_be_a_dict_but_not_a_part_of_one(data_format: str, datasets: Path) -> None:
    space = Dict({"robot": Dict({"q": Box(-1, 1, (2,), np.float64), "v": Box(-1, 1, (3,), np.float32)}), "camera": CAMERA})
    name = create(three(space), space, data_format)
    assert load(name, observation_keys=["robot"]).info.observation_parts == [
        Part(("robot", "q"), (2,)),
        Part(("robot", "v"), (3,)),
    ]
    with pytest.raises(UserError, match="robot/q is a part of robot; only the whole of robot can be chosen"):
        load(name, observation_keys=["robot/q"])
    with pytest.raises(UserError, match=r"others/task-v0 has no arm among its observations, only "):
        load(name, observation_keys=["arm"])


def test_a_key_may_hold_a_slash(datasets: Path) -> None:
    space = Dict({"robot/q": Box(-1, 1, (2,), np.float64), "robot/v": Box(-1, 1, (3,), np.float64)})
    buffers = three(space)
    chosen = load(create(buffers, space), observation_keys=["robot/q"])
    np.testing.assert_array_equal(chosen.observations[:4], buffers[0].observations["robot/q"][:-1].astype(np.float32))


# --- bounds of actions, and what float32 loses -----------------------------------------------------------------------


def test_bounds_in_the_settings_replace_the_dataset_s(datasets: Path) -> None:
    name = create([buffer(VECTOR, 2, actions=np.array([[5.0, 0.0], [-4.0, 0.0]], np.float32))])
    with pytest.raises(UserError, match=r"action_low=\[-4,-1\] action_high=\[5,1\]"):
        load(name)
    trajectories = load(name, action_low=[-4, -1], action_high=5)
    assert (trajectories.info.action_low, trajectories.info.action_high) == ([-4, -1], [5, 5])
    assert load(name, action_low=-5, action_high=5).info.action_low == [-5, -5]
    with pytest.raises(UserError, match="need one value, or one for each of the 2 dimensions"):
        load(name, action_low=[1, 2, 3])


@pytest.mark.parametrize("data_format", FORMATS)
def test_a_part_that_float32_cannot_hold_is_named_at_each_load(data_format: str, datasets: Path) -> None:
    space = Dict({"clock": Box(0, np.inf, (1,), np.float64), "q": Box(-1, 1, (2,), np.float32)})
    buffers = three(space)
    for buffer in buffers:
        buffer.observations["clock"] = 1.7e9 + 0.05 * np.arange(float(len(buffer.observations["q"])))[:, None]
    name = create(buffers, space, data_format)
    for _ in range(2):
        with pytest.warns(DataWarning, match=r"^dataset others/task-v0: observations .* feature 0 \(clock\) keeps 0 of"):
            load(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*float32", DataWarning)
        load(name, observation_keys=["q"])


def test_datasets_that_are_joined_give_their_notes_once(datasets: Path) -> None:
    observations = {"observations": np.full((5, 3), 1e9) + 0.1 * np.arange(5.0)[:, None]}
    name = create([buffer(VECTOR, 4, **observations), buffer(VECTOR, 4, **observations)])
    with pytest.warns(DataWarning) as said:
        load(f"{name}+{name}")
    assert len({str(warning.message) for warning in said if warning.category is DataWarning}) == 1


# --- what cannot be read ---------------------------------------------------------------------------------------------


REFUSED_SPACES: dict[str, tuple[gym.Space, gym.Space, str]] = {
    "discrete actions": (VECTOR, Discrete(4), "actions: need a vector of continuous actions"),
    "action matrix": (VECTOR, Box(-1, 1, (2, 2), np.float32), "actions: need a vector of continuous actions"),
    "images in a dict": (Dict({"camera": Box(0, 255, (40, 40, 3), np.uint8)}), ACTIONS, "observations: .*images"),
    "text": (Dict({"task": gym.spaces.Text(9)}), ACTIONS, "observations: cannot be flattened .*Text.* no numbers"),
}


def without_episodes(datasets: Path, observations: gym.Space, actions: gym.Space) -> None:
    (datasets / "others/task-v0/data").mkdir(parents=True)
    storage = MinariStorage.new(datasets / "others/task-v0/data", observations, actions)
    storage.update_metadata({"dataset_id": "others/task-v0", "minari_version": minari.__version__})


@pytest.mark.parametrize("name", REFUSED_SPACES)
def test_unfit_spaces_are_refused(name: str, datasets: Path) -> None:
    observations, actions, message = REFUSED_SPACES[name]
    without_episodes(datasets, observations, actions)
    MinariStorage.read(datasets / "others/task-v0/data").update_metadata({"total_episodes": 1})
    with pytest.raises(UserError, match=f"dataset others/task-v0, {message}") as caught:
        load("others/task-v0")
    assert "\n" not in str(caught.value)


def test_a_dataset_without_episodes_is_refused(datasets: Path) -> None:
    without_episodes(datasets, VECTOR, ACTIONS)
    with pytest.raises(UserError, match="dataset others/task-v0: it holds no episodes"):
        load("others/task-v0")


EPISODES: dict[str, tuple[dict[str, Any], str]] = {
    "nan observation": ({"observations": np.full((3, 3), np.nan)}, "episode 1, observations: holds NaN"),
    "nan final observation": (
        {"observations": np.array([[0.0] * 3, [0.0] * 3, [np.nan] * 3])},
        "episode 1, final observation: holds NaN or infinity",
    ),
    "infinite reward": ({"rewards": np.array([0.0, np.inf])}, "episode 1, rewards: holds NaN or infinity, first at step 1"),
    "fewer rewards": ({"rewards": np.zeros(1)}, "episode 1, observations: has 3 rows for 1 rewards"),
    "more observations": ({"observations": np.zeros((5, 3))}, "episode 1, observations: has 5 rows for 2 rewards"),
    "fewer actions": ({"actions": np.zeros((1, 2), np.float32)}, "episode 1, observations: has 2 rows for 1 actions"),
    "wide actions": (
        {"actions": np.zeros((2, 5), np.float32)},
        r"episode 1, actions: has shape \(5,\) .*action space says \(2,\)",
    ),
    "narrow observations": ({"observations": np.zeros((3, 2))}, r"episode 1, observations: has shape \(2,\) .* \(3,\)"),
}


@pytest.mark.parametrize("fault", EPISODES)
def test_unfit_episodes_are_refused(fault: str, datasets: Path) -> None:
    changes, message = EPISODES[fault]
    name = create([buffer(VECTOR, 4), buffer(VECTOR, 2, **changes)])
    with pytest.raises(UserError, match=f"^dataset others/task-v0, {message}") as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert not any("packed" in path for path in everything(datasets))


def edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        with h5py.File(data / "main_data.hdf5", "a") as file:
            change(file)

    return damage


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda data: (data / name).write_bytes(change((data / name).read_bytes())) and None


def alter(**fields: Any) -> Callable[[Path], None]:
    return rewrite("metadata.json", lambda text: json.dumps(json.loads(text) | fields).encode())


def replace_with_zero_steps(file: h5py.File) -> None:
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        array = file["episode_1"][name][:0] if name != "observations" else file["episode_1"][name][:1]
        del file["episode_1"][name]
        file["episode_1"][name] = array


def replace_with_words(file: h5py.File) -> None:
    del file["episode_1/rewards"]
    file["episode_1/rewards"] = [b"a"]


def claim(steps: int, *names: str) -> Callable[[h5py.File], None]:
    """Fields of an episode that say that they are so long, of which nothing is written."""

    def change(file: h5py.File) -> None:
        for name in names:
            shape = (steps + (name == "observations"), *file["episode_1"][name].shape[1:])
            del file["episode_1"][name]
            file["episode_1"].create_dataset(name, shape, "f4", chunks=(1000, *shape[1:]))

    return change


LARGER = r"episode 1: cannot be read \([a-z]+: its shape .* is larger than the file can hold"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (rewrite("main_data.hdf5", lambda data: data[: len(data) // 2]), "cannot be read|cannot be opened"),
    "garbage": (rewrite("main_data.hdf5", lambda data: b"x" * 1000), "cannot be read"),
    "no bytes": (rewrite("main_data.hdf5", lambda data: b""), "cannot be read"),
    "no data file": (lambda data: (data / "main_data.hdf5").unlink(), "cannot be opened"),
    "episode missing": (edit(lambda file: file.pop("episode_1")), "episode 1: cannot be read"),
    "rewards missing": (edit(lambda file: file["episode_2"].pop("rewards")), "episode 2: cannot be read .*rewards"),
    "rewards without end": (edit(claim(2**47, "rewards")), LARGER),
    "rewards of more than fits": (edit(claim(2**34, "rewards")), LARGER),
    "an episode without end": (
        edit(claim(2**47, "observations", "actions", "rewards", "terminations", "truncations")),
        LARGER,
    ),
    "empty episode": (edit(replace_with_zero_steps), r"episode 1, actions: the episode is empty \(0 steps\)"),
    "metadata cut": (rewrite("metadata.json", lambda text: text[:-20]), "metadata.json is damaged"),
    "metadata nested too deeply": (rewrite("metadata.json", lambda text: b"[" * 100_000), "metadata.json is damaged"),
    "environment nested too deeply": (alter(env_spec="[" * 100_000), "metadata.json has a damaged environment"),
    "environment nested too deeply to be kept": (
        alter(env_spec='{"id": "A-v0", "kwargs": {"a": ' + "[" * 500 + "]" * 500 + "}}"),
        "metadata.json has a damaged environment .*nested too deeply",
    ),
    "space nested too deeply": (alter(observation_space="[" * 100_000), "cannot be opened .*nested too deeply"),
    "space in spaces without end": (
        alter(observation_space='{"type": "Tuple", "subspaces": [' * 60 + "]}" * 60),
        "cannot be opened .*nested too deeply",
    ),
    "metadata not an object": (rewrite("metadata.json", lambda text: b"[]"), "metadata.json is damaged"),
    "metadata missing": (lambda data: (data / "metadata.json").unlink(), "holds no dataset"),
    "unknown format": (alter(data_format="tape"), "cannot be opened"),
    "unknown space": (alter(observation_space='{"type": "Sphere"}'), "cannot be opened"),
    "bad space": (alter(action_space="{"), "cannot be opened"),
    "numbers of no kind": (
        alter(observation_space='{"type": "Box", "dtype": "float3,,2", "shape": [3], "low": [0], "high": [1]}'),
        "cannot be opened",
    ),
    "as many episodes as a word": (alter(total_episodes="many"), ""),
    "environment cut": (alter(env_spec="{"), "damaged environment"),
    "scores in words": (alter(ref_min_score="low", ref_max_score="high"), "ref_min_score"),
    "rewards in words": (edit(replace_with_words), "episode 1"),
    "too many episodes": (alter(total_episodes=9), "episode 3: cannot be read"),
    "no action space": (rewrite("metadata.json", lambda text: text.replace(b"action_space", b"space")), "no action_space"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_datasets_are_refused(damage: str, datasets: Path) -> None:
    name = create(three())
    apply, message = DAMAGE[damage]
    apply(datasets / name / "data")
    with pytest.raises(UserError, match=f"^dataset others/task-v0.*({message})") as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert not any("packed" in path for path in everything(datasets))


def test_a_success_that_claims_more_than_fits_is_refused(datasets: Path) -> None:
    name = create([buffer(VECTOR, 3, 0), buffer(VECTOR, 2, 1, infos={"success": np.zeros(3, bool)})])
    edit(claim(2**34, "infos/success"))(datasets / name / "data")
    with pytest.raises(UserError, match=f"^dataset others/task-v0, {LARGER}"):
        load(name)


@pytest.mark.robustness
def test_the_most_compressible_data_is_read(datasets: Path) -> None:
    name, steps = create(three()), 10**7

    def write_zeros(file: h5py.File) -> None:
        for field in ("observations", "actions", "rewards", "terminations", "truncations"):
            shape = (steps + (field == "observations"), *file["episode_1"][field].shape[1:])
            del file["episode_1"][field]
            zeros = np.zeros(shape, np.uint8 if field.endswith("ations") else np.float32)
            file["episode_1"].create_dataset(field, data=zeros, chunks=True, compression="gzip", compression_opts=9)

    edit(write_zeros)(datasets / name / "data")
    assert load(name).steps == steps + 10


@pytest.mark.parametrize("field", ["actions", "observations/observation", "infos/success"])
def test_parts_that_claim_more_than_fits_are_refused(field: str, datasets: Path) -> None:
    name = create([buffer(GOAL, 3, 0), buffer(GOAL, 2, 1, infos={"success": np.zeros(3)})], GOAL)
    edit(claim(2**34, field))(datasets / name / "data")
    with pytest.raises(UserError, match=f"^dataset others/task-v0, {LARGER}") as caught:
        load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data_format", FORMATS)
def test_episodes_beyond_those_of_the_metadata_are_refused(data_format: str, datasets: Path) -> None:
    name = create(three(), data_format=data_format)
    path = datasets / name / "data" / "metadata.json"
    before = everything(datasets)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_episodes": 2}))
    with pytest.raises(UserError, match=r"dataset others/task-v0: .*total_episodes 2, its data hold more") as caught:
        load(name)
    assert "\n" not in str(caught.value)
    assert [entry for entry in everything(datasets) if not entry.endswith(".lock")] == before


def test_damaged_arrow_is_refused(datasets: Path) -> None:
    name = create(three(), data_format="arrow")
    parts = sorted((datasets / name / "data").rglob("*.arrow"))
    parts[1].write_bytes(parts[1].read_bytes()[:100])
    with pytest.raises(UserError, match=r"dataset others/task-v0, episode .: cannot be read") as caught:
        load(name)
    assert "\n" not in str(caught.value)
    shutil.rmtree(parts[2].parent)
    with pytest.raises(UserError, match=r"dataset others/task-v0, episode .: cannot be read"):
        load(name)


def test_vectors_of_impossible_sizes_in_arrow_do_not_end_the_process(datasets: Path) -> None:
    name = create(three(), data_format="arrow")
    part = min((datasets / name / "data" / "0").rglob("*.arrow"))
    # In a process of its own: pyarrow calls abort.
    program = f"""if True:
        import re
        from pathlib import Path
        from iwbc.data.minari_source import load
        from iwbc.errors import UserError

        path, refused = Path({str(part)!r}), []
        good = path.read_bytes()
        for found in re.finditer(re.escape((3).to_bytes(4, "little")), good):  # one of them is the size of observations
            path.write_bytes(good[: found.start()] + (-3).to_bytes(4, "little", signed=True) + good[found.end() :])
            try:
                load({name!r})
            except UserError as error:
                refused.append(str(error))
        print(*refused, sep="\\n")
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert any("episode 0: cannot be read" in line and "negative list size" in line for line in result.stdout.splitlines())


@pytest.mark.parametrize("name", ["hopper", "mujoco/hopper/medium", "../../etc-v0", "a b-v0"])
def test_an_id_must_be_one_of_minaris(name: str) -> None:
    with pytest.raises(UserError, match="not an id; ids look like mujoco/hopper/medium-v0"):
        load(name)


def test_a_generated_dataset_that_is_missing_names_its_command(datasets: Path) -> None:
    with pytest.raises(
        UserError, match=r"iwbc/hopper/medium-v0: has not been generated here; see python -m iwbc\.data\.generate"
    ):
        load("iwbc/hopper/medium-v0")


def test_a_datasets_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"MINARI_DATASETS_PATH=.*file: cannot be used"):
        load("others/task-v0")


def test_a_cache_that_cannot_be_written(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = create(three())
    replace = os.replace

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"dataset others/task-v0: its packed cache .*\(No space left on device\)"):
        load(name)
    assert not any("packed" in path for path in everything(datasets))
    monkeypatch.setattr(os, "replace", replace)
    assert load(name).lengths.tolist() == LENGTHS


# --- Franka Kitchen's layout -----------------------------------------------------------------------------------------


def kitchen(dataset_id: str, tasks: list[str], episodes: int, seed: int) -> str:
    """A stand-in for Minari's D4RL/kitchen/…: the same nested Dicts, whose goals depend on the tasks of a dataset."""
    goals = Dict({task: Box(-1, 1, (size + 1,), np.float64) for size, task in enumerate(tasks)})
    space = Dict({"observation": Box(-1, 1, (59,), np.float64), "achieved_goal": goals, "desired_goal": goals})
    buffers = [buffer(space, 12, seed + episode, rewards=np.arange(12) % 4 * 1.0 + episode) for episode in range(episodes)]
    minari.create_dataset_from_buffers(
        dataset_id, buffers, observation_space=space, action_space=ACTIONS, description="", author="someone",
        author_email="someone@example.org", code_permalink="https://example.org", algorithm_name="none",
    )  # fmt: skip
    return dataset_id


def test_datasets_with_other_goals_are_joined_by_what_they_share(datasets: Path) -> None:
    complete = kitchen("D4RL/kitchen/complete-v2", ["kettle", "microwave"], 2, seed=0)
    mixed = kitchen("D4RL/kitchen/mixed-v2", ["bottom burner", "kettle", "light switch"], 3, seed=10)
    both = load(f"{complete}+{mixed}", observation_keys=["observation"])
    each = [load(name, observation_keys=["observation"]) for name in (complete, mixed)]
    assert both.info.id == f"{complete}+{mixed}" and both.lengths.tolist() == [12] * 5
    for name in ("observations", "actions", "rewards", "final_observations"):
        np.testing.assert_array_equal(getattr(both, name), np.concatenate([getattr(part, name) for part in each]))
    assert both.observations.shape[1] == 59 and both.info.observation_parts == [Part(("observation",), (59,))]
    again = load(f"{complete}+{mixed}", observation_keys=["observation"])
    assert again.content_hash == both.content_hash not in (part.content_hash for part in each)
    with pytest.raises(UserError, match=r"mixed-v2 have different observations; dataset\.obs"):
        load(f"{complete}+{mixed}")
    with pytest.raises(UserError, match=r"^dataset.observation_keys: D4RL/kitchen/mixed-v2 has no state among .* only "):
        load(mixed, observation_keys=["state"])


def test_the_kitchen_experiment_trains_on_a_stand_in(datasets: Path, tmp_path: Path) -> None:
    for name, tasks in {
        "partial": ["kettle"],
        "complete": ["kettle", "microwave"],
        "mixed": ["light switch", "kettle"],
    }.items():
        kitchen(f"D4RL/kitchen/{name}-v2", tasks, 4, seed=len(name))
    outcome = train("+experiment=kitchen", *BRIEF[1:], "averaging=transition", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert "names no environment" in outcome.out
    policy = load_policy(tmp_path / "run" / "policy.safetensors")
    action, _ = policy.predict({"observation": np.zeros(59)})
    assert action.shape == (2,)
    refused = train("+experiment=kitchen", *BRIEF[1:], "dataset.observation_keys=[]", f"hydra.run.dir={tmp_path / 'no'}")
    assert refused.code == 2 and "have different observations" in refused.err and refused.err.count("\n") == 1
