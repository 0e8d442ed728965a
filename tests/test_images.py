"""Data with images, from a file to a policy of the user's own: kept as uint8, gathered, trained on, played."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from helpers import make_episode, make_info, make_trajectories
from lamp import BARE, ENV, SHAPE, Lamp, Seeing, recorded
from minari.data_collector import EpisodeBuffer
from setups import command, read_csv, train
from torch import Tensor, nn

import iwbc
from iwbc.algorithms import Ingredients, make_algorithm
from iwbc.data.content import content_hash
from iwbc.data.curated import Curated
from iwbc.data.packed import joined, open_packed, pack
from iwbc.data.sampling import StepSampler
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Episode, Trajectories
from iwbc.environments.gymnasium import LocalEnvironments, WorkerEnvironments
from iwbc.environments.spaces import Image, Part, divided, observed, parts_of
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.evaluation import Evaluator
from iwbc.settings import BC, IWBC, Recipe
from iwbc.training.trainer import Learner

CAMERA = Image(("camera",), SHAPE)


class Flat(nn.Module):
    """A linear policy of vectors, or of the vector and an image that it flattens and scales."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2 + 4 * 4 * 3, 2)

    def mean_action(self, observations: Any) -> Tensor:
        if isinstance(observations, dict):
            picture = observations["camera"].flatten(1) / 255
            observations = torch.cat([observations["observations"], picture], -1)
        action: Tensor = self.layer(observations)
        return action

    def log_prob(self, observations: Any, actions: Tensor) -> Tensor:
        return -(actions - self.mean_action(observations)).square().sum(-1)


def lamp_data(count: int = 20, **more: Any) -> Trajectories:
    """The lamp's episodes, from arrays."""
    episodes = recorded(count)

    def laid(key: str) -> np.ndarray:
        return np.stack([step[key] for episode in episodes for step in episode["seen"][:-1]])

    ends = np.arange(5 * count) % 5 == 4
    return iwbc.from_arrays(
        laid("position"),
        np.concatenate([episode["actions"] for episode in episodes]),
        np.concatenate([episode["rewards"] for episode in episodes]),
        np.zeros_like(ends),
        ends,
        images={"camera": laid("camera")},
        **more,
    )


def with_image(episode: Episode, seed: int = 0, name: str = "camera", shape: tuple[int, ...] = (4, 4, 3)) -> Episode:
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 256, (len(episode.actions) + 1, *shape), np.uint8)
    images, finals = {name: pictures[:-1]}, {name: pictures[-1]}
    return dataclasses.replace(episode, images=episode.images | images, final_images=episode.final_images | finals)


INFO = dataclasses.replace(make_info(), images=[Image(("camera",), (4, 4, 3))])


def packed(folder: Path, lengths: tuple[int, ...] = (5, 1, 3), size: int = 3) -> tuple[Trajectories, list[Episode]]:
    episodes = [with_image(make_episode(steps, seed=i, observation_size=size), i) for i, steps in enumerate(lengths)]
    pack(episodes, INFO, folder, "f")
    return open_packed(folder), episodes


# --- the packed form -------------------------------------------------------------------------------------------------


def test_images_come_back_as_they_were(tmp_path: Path) -> None:
    data, episodes = packed(tmp_path / "cache")
    assert data.info == INFO
    assert isinstance(data.images["camera"], np.memmap)
    assert data.images["camera"].dtype == data.final_images["camera"].dtype == np.uint8
    for made, read in zip(episodes, data, strict=True):
        np.testing.assert_array_equal(read.images["camera"], made.images["camera"])
        np.testing.assert_array_equal(read.final_images["camera"], made.final_images["camera"])
    assert repr(data).startswith("Trajectories('toy/data-v0': 3 trajectories, 9 steps, observations [3], camera [4, 4, 3], ")


def test_a_frame_takes_its_bytes_and_no_more(tmp_path: Path) -> None:
    shape = (84, 84, 3)
    info = dataclasses.replace(INFO, images=[Image(("camera",), shape)])
    pack([with_image(make_episode(50), shape=shape)], info, tmp_path / "cache", "f")
    files = {path.name: path.stat().st_size for path in (tmp_path / "cache").glob("*.npy")}
    assert files["images_0.npy"] == 50 * 21_168 + 128
    assert sum(files.values()) < 51 * 21_168 + 10_000


def test_the_content_hash_is_of_the_images_too(tmp_path: Path) -> None:
    data, episodes = packed(tmp_path / "one")
    assert content_hash(data.arrays()) == data.content_hash
    for number, where in enumerate(("images", "final_images")):
        changed = {"camera": getattr(episodes[1], where)["camera"] ^ np.uint8(1)}
        others = [episodes[0], dataclasses.replace(episodes[1], **{where: changed}), episodes[2]]
        pack(others, INFO, tmp_path / str(number), "f")
        assert open_packed(tmp_path / str(number)).content_hash != data.content_hash
    pack([dataclasses.replace(e, images={}, final_images={}) for e in episodes], make_info(), tmp_path / "none", "f")
    assert open_packed(tmp_path / "none").content_hash != data.content_hash


def test_any_name_is_a_safe_file(tmp_path: Path) -> None:
    name = "../wrist/..:\n rgb"
    info = dataclasses.replace(INFO, images=[Image((name,), (4, 4, 3)), *INFO.images])
    pack([with_image(with_image(make_episode(), 1), 2, name)], info, tmp_path / "a" / "cache", "f")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    data = open_packed(tmp_path / "a" / "cache")
    assert list(data.images) == [name, "camera"]
    np.testing.assert_array_equal(data.images[name], with_image(make_episode(), 2).images["camera"])


def test_subsets_and_joined_data_keep_their_images(tmp_path: Path) -> None:
    data, episodes = packed(tmp_path / "cache")
    some = data.subset(np.array([2, 0]))
    assert some.images["camera"] is data.images["camera"]
    np.testing.assert_array_equal(some[0].images["camera"], episodes[2].images["camera"])
    np.testing.assert_array_equal(some[0].final_images["camera"], episodes[2].final_images["camera"])
    np.testing.assert_array_equal(
        some.steps_of(some.images["camera"]), np.concatenate([episodes[i].images["camera"] for i in (2, 0)])
    )
    both = joined("toy/both-v0", [data, data], tmp_path)
    assert both.images["camera"].shape == (18, 4, 4, 3)
    np.testing.assert_array_equal(both[4].images["camera"], episodes[1].images["camera"])
    other = dataclasses.replace(data, info=make_info(id="toy/blind-v0"), images={}, final_images={})
    with pytest.raises(UserError, match=r"toy/data-v0 and toy/blind-v0 have different images \(camera of 4×4×3 and none\)"):
        joined("toy/both-v0", [data, other], tmp_path)


@pytest.mark.parametrize("averaging", ["trajectory", "transition"])
def test_minibatches_are_gathered_rows(averaging: str, tmp_path: Path) -> None:
    data, _ = packed(tmp_path / "cache")
    curated = Curated(data, np.array([1.0, 0.0, 2.0]), averaging)
    batch = StepSampler(curated, 0, 16, Stream.TRAINING).batch(3)
    rows = curated.rows[batch.step]
    assert batch.observations["camera"].dtype == torch.uint8
    np.testing.assert_array_equal(batch.observations["camera"], data.images["camera"][rows])
    np.testing.assert_array_equal(batch.observations["observations"], data.observations[rows])
    seen = list(curated.batches(size=5))
    np.testing.assert_array_equal(
        torch.cat([observations["camera"] for _, observations, _ in seen]), data.images["camera"][curated.rows]
    )


def test_on_the_processor_the_arrays_themselves_are_gathered_from(tmp_path: Path) -> None:
    data, _ = packed(tmp_path / "cache")
    observations, _ = data.tensors()
    assert observations["camera"].data_ptr() == data.images["camera"].ctypes.data
    assert observations["observations"].data_ptr() == data.observations.ctypes.data


def test_data_may_be_of_images_alone(tmp_path: Path) -> None:
    data, episodes = packed(tmp_path / "cache", size=0)
    assert data.observations.shape == (9, 0)
    np.testing.assert_array_equal(data[2].images["camera"], episodes[2].images["camera"])
    assert content_hash(data.arrays()) == data.content_hash
    made = iwbc.from_arrays(None, np.zeros((4, 2)), np.ones(4), images={"camera": [np.zeros((5, 5), np.uint8)] * 4})
    assert made.images["camera"].shape == (4, 5, 5)
    assert made.observations.shape == (4, 0)


# --- checks ----------------------------------------------------------------------------------------------------------


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "lengths": (
        {"images": {"camera": np.zeros((4, 4, 4, 3), np.uint8)}},
        r"image camera: must be uint8 of shape \(5, 4, 4, 3\)",
    ),
    "type": ({"images": {"camera": np.zeros((5, 4, 4, 3), np.float32)}}, "image camera: must be uint8 .*, not float32"),
    "shape": ({"images": {"camera": np.zeros((5, 4, 5, 3), np.uint8)}}, r"image camera: .* not uint8 of shape \(5, 4, 5, 3\)"),
    "final": ({"final_images": {"camera": np.zeros((1, 4, 4, 3), np.uint8)}}, "final image camera: must be uint8 of shape"),
    "missing": ({"images": {}}, "images: are missing, not camera"),
    "another": ({"images": {"wrist": np.zeros((5, 4, 4, 3), np.uint8)}}, "images: are wrist, not camera"),
    "no final": ({"final_images": {}}, "final images: are missing, not camera"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_images_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    changes, message = BROKEN[name]
    episodes = [with_image(make_episode()), dataclasses.replace(with_image(make_episode()), **changes)]
    with pytest.raises(UserError, match=f"^dataset toy/data-v0, episode 1, {message}") as caught:
        pack(episodes, INFO, tmp_path / "cache", "f")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_names_must_tell_images_apart(tmp_path: Path) -> None:
    for names, message in ((("observations",), "observations is the vector's name"), (("a", "a"), "a is that of two")):
        info = dataclasses.replace(INFO, images=[Image((name,), (4, 4, 3)) for name in names])
        with pytest.raises(UserError, match=f"^dataset toy/data-v0, images: {message}; rename the image"):
            pack([make_episode()], info, tmp_path / "cache", "f")


def test_arrays_that_do_not_fit_are_refused() -> None:
    actions = np.zeros((4, 2))
    for image, message in (
        (np.zeros((3, 5, 5), np.uint8), r"must be uint8 for each of 4 steps, not uint8 of shape \(3, 5, 5\)"),
        (np.zeros((4, 5, 5)), "must be uint8 for each of 4 steps, not float64"),
        ([np.zeros((5, 5), np.uint8), np.zeros((5, 6), np.uint8)] * 2, "the rows differ in length"),
    ):
        with pytest.raises(UserError, match=f"^dataset from_arrays, image camera: {message}"):
            iwbc.from_arrays(None, actions, np.ones(4), images={"camera": image})
    with pytest.raises(UserError, match=r"^dataset my/data-v0, images: stay in memory, and are not written to a dataset"):
        iwbc.from_arrays(None, actions, np.ones(4), images={"camera": np.zeros((4, 5, 5), np.uint8)}, id="my/data-v0")
    with pytest.raises(UserError, match="images: are eye of 12×12×3; iwbc-tests/Lamp-v0's are camera of 12×12×3"):
        iwbc.from_arrays(actions, actions, np.ones(4), images={"eye": np.zeros((4, *SHAPE), np.uint8)}, env_id=ENV)


# --- spaces ----------------------------------------------------------------------------------------------------------


def test_an_observation_is_a_record_of_a_vector_and_images() -> None:
    parts, images = divided(parts_of(Dict({"b": Box(0, 1, (2,)), "eyes": Dict({"left": Box(0, 255, (4, 4), np.uint8)})})))
    assert (parts, images) == ([Part(("b",), (2,))], [Image(("eyes", "left"), (4, 4))])
    seen = {"b": np.array([0.25, 0.5]), "eyes": {"left": np.arange(16, dtype=np.uint8).reshape(4, 4)}}
    record = observed(parts, images, seen)
    np.testing.assert_array_equal(record["observations"], seen["b"])
    np.testing.assert_array_equal(record["eyes/left"], seen["eyes"]["left"])  # type: ignore[call-overload]
    for wrong, message in (
        ({"b": seen["b"], "eyes": {}}, "has no eyes/left"),
        (
            seen | {"eyes": {"left": np.zeros((4, 4))}},
            r"has eyes/left of shape \(4, 4\) and type float64, not \(4, 4\) and uint8",
        ),
        (seen | {"eyes": {"left": np.zeros((2, 4, 4), np.uint8)}}, "parts of different batch sizes"),
    ):
        with pytest.raises(ValueError, match=message):
            observed(parts, images, wrong)
    assert parts_of(Box(0, 255, SHAPE, np.uint8)) == [Image((), SHAPE)] and Image((), SHAPE).name == "image"


def test_workers_play_as_this_process_does() -> None:
    local, workers = LocalEnvironments(ENV), WorkerEnvironments(EnvironmentSpec(ENV, imports=("lamp",)), 2)
    try:
        seeds, actions = [1, 2, 3], np.zeros((2, 2))
        assert np.array_equal(local.reset(seeds), workers.reset(seeds))
        steps = [some.step(np.array([0, 2]), actions).observations for some in (local, workers)]
        assert steps[0].dtype.names == ("observations", "camera") and np.array_equal(*steps)
    finally:
        workers.close()


def test_an_environment_whose_images_are_others_than_it_says_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lamp, "look", lambda self: {"position": np.zeros(2), "camera": np.zeros((3, 3, 3), np.uint8)})
    with pytest.raises(UserError, match=r"^environment iwbc-tests/Lamp-v0: its observation has camera of shape \(3, 3, 3\)"):
        LocalEnvironments(ENV).reset([0])
    monkeypatch.setattr(Lamp, "look", lambda self: {"position": np.full(2, np.nan), "camera": np.zeros(SHAPE, np.uint8)})
    with pytest.raises(UserError, match="its observation holds NaN"):
        LocalEnvironments(ENV).reset([0])


# --- training --------------------------------------------------------------------------------------------------------


def seeing(data: Trajectories) -> Any:
    shapes = {name: image.shape[1:] for name, image in data.images.items()}
    return lambda: Seeing(data.observations.shape[1], 2, shapes)


def test_a_policy_that_flattens_and_scales_learns_what_one_of_vectors_does() -> None:
    vectors = make_trajectories([1.0, 2.0, 3.0], observation_size=2)
    pictures = np.random.default_rng(0).integers(0, 256, (vectors.steps, 4, 4, 3), np.uint8)
    info = dataclasses.replace(vectors.info, images=INFO.images)
    finals = {"camera": np.zeros((3, 4, 4, 3), np.uint8)}
    images = dataclasses.replace(vectors, info=info, images={"camera": pictures}, final_images=finals)
    scaled = (pictures.reshape(len(pictures), -1) / np.float32(255)).astype(np.float32)
    flat = dataclasses.replace(vectors, observations=np.concatenate([vectors.observations, scaled], 1))
    trained = []
    for data in (flat, images):
        reference = iwbc.fit(BC(steps=30, batch_size=8, lr=1e-2), data, policy=Flat)
        kept = iwbc.curate(data, iwbc.TopFraction(0.5))
        trained.append(iwbc.fit(IWBC(steps=30, batch_size=8, warmup_steps=0), kept, reference=reference)[0])
    for one, other in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_policy_of_convolutions_is_cloned_weighted_and_played() -> None:
    data = lamp_data(env_id=ENV)
    assert data.info.images == [CAMERA]
    reference = iwbc.fit(BC(steps=150, batch_size=32, lr=3e-3), data, policy=seeing(data))
    kept = iwbc.curate(data, iwbc.TopFraction(0.5))
    policy = iwbc.fit(IWBC(steps=150, batch_size=32, lr=3e-3, warmup_steps=0), kept, reference=reference)
    for action in ("mean", "sample"):
        played = iwbc.evaluate(policy, data, episodes=20, action=action)
        assert played.success_rate is not None and played.success_rate > 0.9


def test_one_observation_or_a_batch_is_acted_on(tmp_path: Path) -> None:
    data = lamp_data(env_id=ENV)
    policy = iwbc.fit(BC(steps=2, batch_size=4), data, policy=seeing(data))
    policy.save(tmp_path / "seeing.safetensors")
    loaded = iwbc.load_policy(tmp_path / "seeing.safetensors", policy=seeing(data))
    assert loaded.spaces == policy.spaces and loaded.spaces.images == (CAMERA,)
    batch = {"position": data.observations[:3], "camera": data.images["camera"][:3]}
    actions, _ = loaded.predict(batch)
    assert actions.shape == (3, 2) and actions.dtype == np.float32
    single, _ = loaded.predict({name: array[1] for name, array in batch.items()})
    np.testing.assert_allclose(single, actions[1], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        expected = policy[0].mean_action(
            {"observations": torch.from_numpy(batch["position"]), "camera": torch.from_numpy(batch["camera"])}
        )
    np.testing.assert_allclose(actions, expected.numpy(), rtol=1e-5, atol=1e-6)
    for wrong, message in (
        (data.observations[0], "predict: the observation has no "),
        (batch | {"position": batch["position"] * np.nan}, r"predict: the observation holds NaN or infinity at position\[0\]"),
        (batch | {"camera": batch["camera"] / 255}, "predict: the observation has camera of shape .* and type float64"),
    ):
        with pytest.raises(UserError, match=message):
            loaded.predict(wrong)


def test_without_an_environment_the_vector_has_a_name_of_its_own() -> None:
    data = lamp_data()
    policy = iwbc.fit(BC(steps=2, batch_size=4), data, policy=seeing(data))
    action, _ = policy.predict({"observations": data.observations[0], "camera": data.images["camera"][0]})
    assert action.shape == (2,)
    ends = np.arange(100) % 5 == 4
    film = {"image": data.images["camera"]}
    alone = iwbc.from_arrays(None, data.actions, data.rewards, 0 * ends, ends, images=film, env_id=BARE)
    blind = iwbc.fit(BC(steps=2, batch_size=4), alone, policy=seeing(alone))
    assert blind.predict(data.images["camera"][0])[0].shape == (2,)
    assert iwbc.evaluate(blind, BARE, episodes=2).returns.shape == (1, 2)


@pytest.mark.parametrize("recipe", [BC(steps=8, batch_size=4), IWBC(steps=8, batch_size=4, warmup_steps=0)])
def test_training_goes_on_bit_for_bit(recipe: Recipe) -> None:
    data = lamp_data(4)
    curated = Curated(data, np.ones(4), "trajectory")

    def learner() -> Learner:
        torch.manual_seed(0)
        policy, reference = seeing(data)(), seeing(data)()
        sampler = StepSampler(curated, 0, recipe.batch_size, Stream.TRAINING)
        return Learner(make_algorithm(recipe, Ingredients(policy, reference, curated, 0)), sampler, recipe)

    whole, first, second = learner(), learner(), learner()
    whole.train(0, 8)
    first.train(0, 5)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    second.train(5, 8)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, second.state()[name]), name


def test_what_takes_vectors_alone_refuses_images() -> None:
    data = lamp_data(4)
    choose = r"choose vectors with dataset\.observation_keys=\[…\], or a policy of your own"
    for policy in (None, iwbc.MixturePolicy(), iwbc.FlowPolicy()):
        with pytest.raises(
            UserError, match=rf"^dataset from_arrays: has images \(camera\), which shipped policies .*; {choose}"
        ):
            iwbc.fit(BC(steps=2), data, policy=policy)
    for settings in (iwbc.AWR(steps=2), iwbc.IQL(steps=2)):
        with pytest.raises(
            UserError, match=r"^awr, iql: a value function takes vectors, and from_arrays has images \(camera\)"
        ):
            iwbc.fit(settings, data, policy=seeing(data))
    seen = iwbc.fit(BC(steps=2, batch_size=4), data, policy=seeing(data))
    blind = dataclasses.replace(data, info=dataclasses.replace(data.info, images=[]), images={}, final_images={})
    with pytest.raises(UserError, match=r"^reference: takes camera of 12×12×3; dataset from_arrays has no images"):
        iwbc.fit(IWBC(steps=2), blind, reference=seen)
    with pytest.raises(UserError, match=r"^env Pendulum-v1: "):
        iwbc.evaluate(seen, "Pendulum-v1", episodes=1)


def test_images_that_a_policy_does_not_take_are_left_out_in_play() -> None:
    data = lamp_data(4)
    blind = dataclasses.replace(data, info=dataclasses.replace(data.info, images=[]), images={}, final_images={})
    policy = iwbc.fit(BC(steps=2, batch_size=4), blind)
    assert iwbc.evaluate(policy, ENV, episodes=2).returns.shape == (1, 2)
    evaluator = Evaluator(ENV, 0)
    wide = dataclasses.replace(policy.spaces, images=(Image(("camera",), (9, 9, 3)),))
    with pytest.raises(UserError, match=r"^env iwbc-tests/Lamp-v0: has camera of 12×12×3, the policy has camera of 9×9×3"):
        evaluator.check_spaces(wide, "the policy")


def test_the_guide_s_policy_sees() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
    module, used = re.findall(r"```python\n(.*?)```", guide.split("### A policy that sees\n")[1].split("\n## ")[0], re.DOTALL)
    names: dict[str, Any] = {}
    exec(module, names)
    film, actions = np.zeros((8, 84, 84, 3), np.uint8), np.zeros((8, 7), np.float32)
    data = iwbc.from_arrays(actions[:, :3], actions, actions[:, 0], images={"agentview_image": film})
    info = dataclasses.replace(data.info, observation_parts=[Part(("robot0_eef_pos",), (3,))])
    brief = SimpleNamespace(load=lambda *path, **keys: dataclasses.replace(data, info=info), fit=iwbc.fit)
    brief.BC = lambda: BC(steps=2, batch_size=4)
    names |= {"iwbc": brief, "picture": film[0], "position": np.zeros(3)}
    exec(used, names)
    assert names["action"].shape == (7,)


# --- Minari, and the commands ----------------------------------------------------------------------------------------


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def make_minari(alone: bool = False) -> str:
    """The lamp's episodes, as others write them."""

    def stacked(seen: list[Any]) -> Any:
        return np.stack(seen) if alone else {key: np.stack([step[key] for step in seen]) for key in seen[0]}

    buffers = [
        EpisodeBuffer(
            observations=stacked(episode["seen"]),
            actions=episode["actions"],
            rewards=episode["rewards"],
            terminations=np.zeros(5, bool),
            truncations=np.arange(5) == 4,
        )
        for episode in recorded(20, alone)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "tests/lamp-v0",
            buffers,
            env=gym.make(BARE if alone else ENV),
            observation_space=Lamp(alone).observation_space,
            action_space=Lamp.action_space,
            description="",
        )
    return "tests/lamp-v0"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_s_images_are_read_where_they_are_chosen(datasets: Path) -> None:
    name = make_minari()
    with pytest.raises(
        UserError, match=r"observations: hold images \(camera\); dataset\.observation_keys=\[…\] chooses among camera"
    ):
        iwbc.load(name)
    assert iwbc.load(name, observation_keys=["position"]).images == {}
    data, same = iwbc.load(name, observation_keys=["position", "camera"]), lamp_data()
    np.testing.assert_array_equal(data.images["camera"], same.images["camera"])
    np.testing.assert_array_equal(data.observations, same.observations)
    last = np.stack([episode["seen"][-1]["camera"] for episode in recorded()])
    np.testing.assert_array_equal(data.final_images["camera"], last)
    alone = iwbc.load(name, observation_keys=["camera"])
    assert alone.observations.shape == (100, 0) and alone.info.observation_parts is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_s_observations_may_be_an_image(datasets: Path) -> None:
    data = iwbc.load(make_minari(alone=True))
    assert data.info.images == [Image((), SHAPE)]
    assert data.images["image"].shape == (100, *SHAPE)


QUICK = (
    *("--config-dir", "conf"),
    *("dataset=minari", "dataset.id=tests/lamp-v0", "dataset.observation_keys=[camera,position]", "env=from_dataset"),
    *("policy=mine", "curation=top_fraction", "curation.fraction=0.5", "reference.steps=40"),
    *("reference.batch_size=16", "algo.batch_size=16", "algo.steps=40", "algo.warmup_steps=0", "log_every=10"),
    *("checkpoint_every=20", "eval.episodes=2", "eval.every=20", "threads=1"),
)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_from_the_command_line(datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_minari()
    (tmp_path / "conf" / "policy").mkdir(parents=True)
    (tmp_path / "conf" / "policy" / "mine.yaml").write_text("_target_: lamp.Seeing\n")
    outcome = train(*QUICK, "hydra.run.dir=whole")
    assert outcome.code == 0, outcome.err
    assert len(read_csv(tmp_path / "whole" / "evaluations.csv")) >= 4

    with monkeypatch.context() as patch:
        patch.setattr(Lamp, "step", lambda self, action: 1 / 0)
        assert train(*QUICK, "hydra.run.dir=cut").code == 2
    resumed = train("resume=cut", "policy._target_=lamp.Seeing")
    assert resumed.code == 0, resumed.err
    for name in ("policy.safetensors", "metrics.csv", "evaluations.csv", "weights.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    verified = command("iwbc.verify", "whole", "policy=lamp.Seeing")
    assert verified.code == 0, verified.out
    assert command("iwbc.evaluate", "whole", "policy=lamp.Seeing", "episodes=2").code == 0
    exported = command("iwbc.export", "whole", "format=torchscript", "policy=lamp.Seeing")
    assert exported.code == 2 and "a policy that takes images is not written as onnx or torchscript" in exported.err
    refused = train(*[word for word in QUICK if word != "policy=mine"], "hydra.run.dir=other")
    assert refused.code == 2 and "has images (camera), which shipped policies do not take" in refused.err
    assert not (tmp_path / "other").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_commands_for_data_name_images(datasets: Path, tmp_path: Path) -> None:
    name = make_minari()
    keys = "dataset.observation_keys=[camera,position]"
    shown = command("iwbc.info", name, keys)
    assert shown.code == 0, shown.err
    assert "camera of 12×12×3, 432 bytes a step" in shown.out
    alone = command("iwbc.info", name, "dataset.observation_keys=[camera]")
    assert alone.code == 0, alone.err
    for words in (
        ("format=robomimic", "out=data.hdf5"),
        ("format=lerobot", "out=lerobot"),
        ("format=minari", "id=tests/cut-v0"),
    ):
        written = command("iwbc.export_data", name, keys, "curation=all", *words)
        assert written.code == 0 and "its images are left out (camera); only vectors are written" in written.err, written.err
        written = command(
            "iwbc.export_data", name, "dataset.observation_keys=[camera]", *(word + "0" for word in words[1:]), words[0]
        )
        assert written.code == 2 and "holds images alone (camera), and only vectors are written" in written.err
    assert json.loads((datasets / "tests/cut-v0/data/metadata.json").read_text())["total_episodes"] == 20
