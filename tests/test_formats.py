"""Formats of robot learning: what is in them arrives in the right place, and what is broken ends in one line."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import formats
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from formats import COUNT, MASKS, Truth, lerobot_actions, truths
from helpers import everything, seven_steps
from hub import Hub, running_hub
from setups import command, rarely, train

import iwbc
from iwbc.config import compose
from iwbc.data.formats import recognise
from iwbc.data.sources import load_dataset
from iwbc.data.trajectories import Trajectories
from iwbc.errors import DataWarning, UserError
from iwbc.settings import DATASETS

HAS_ZARR = importlib.util.find_spec("zarr") is not None
needs_zarr = pytest.mark.skipif(not HAS_ZARR, reason="needs the extra zarr")
EPISODES = truths()

Write = Callable[[Path], Path]
WRITERS: dict[str, Write] = {
    "robomimic": lambda folder: formats.write_robomimic(folder / "low_dim_v15.hdf5", EPISODES),
    "lerobot": lambda folder: formats.write_lerobot(folder / "pusht", EPISODES),
    "lerobot 2.1": lambda folder: formats.write_lerobot(folder / "pusht", EPISODES, "v2.1"),
    "lerobot 2.0": lambda folder: formats.write_lerobot(folder / "pusht", EPISODES, "v2.0"),
    "maniskill": lambda folder: formats.write_maniskill(folder / "trajectory.state.h5", EPISODES),
    "maniskill vectors": lambda folder: formats.write_maniskill(folder / "trajectory.h5", EPISODES, nested=False),
    "ogbench": lambda folder: formats.write_ogbench(folder / "cube-single-play-v0.npz", EPISODES),
    "zarr": lambda folder: formats.write_zarr(folder / "pusht.zarr", EPISODES),
    "zarr 3": lambda folder: formats.write_zarr(folder / "pusht.zarr", EPISODES, 3),
}
EVERY = [pytest.param(name, marks=[needs_zarr] if name.startswith("zarr") else []) for name in WRITERS]
ALSO_FINAL = ("robomimic", "maniskill", "ogbench")  # have the observation after the last action

pytestmark = pytest.mark.filterwarnings("ignore::iwbc.errors.DataWarning")


def read(path: Path, name: str, **options: Any) -> Trajectories:
    """Read as train does, past the recognition of the format."""
    return load_dataset(DATASETS[name.split()[0]](path=str(path), **options))


def check_truths(data: Trajectories, name: str, episodes: list[Truth] = EPISODES) -> None:
    """Compare everything that a format holds, by value, episode by episode."""
    raw = name.startswith(("lerobot", "zarr"))
    assert len(data) == len(episodes)
    for episode, truth in zip(data, episodes, strict=True):
        np.testing.assert_array_equal(episode.observations, truth.states[:-1])
        np.testing.assert_array_equal(episode.final_observation, truth.states[-1 if name.startswith(ALSO_FINAL) else -2])
        np.testing.assert_array_equal(episode.actions, lerobot_actions(truth) if raw else truth.actions)
        if name.startswith(("ogbench", "zarr")):
            assert episode.success is None
            assert not episode.rewards.any()
        else:
            assert episode.success == truth.success
            np.testing.assert_array_equal(episode.rewards, truth.rewards)


@pytest.mark.parametrize("name", EVERY)
def test_all_arrives_in_its_place(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path)
    assert recognise(path) == name.split()[0]
    data = iwbc.load(path)
    check_truths(data, name)
    assert data.info.id == path.name
    again = read(path, name)
    assert again.content_hash == data.content_hash
    assert [entry for entry in everything(tmp_path) if "packed/" in entry] == [
        entry for entry in everything(tmp_path) if entry.startswith(f"{path.name}.packed/")
    ]


# --- what each format says besides -----------------------------------------------------------------------------------


def test_robomimic_says_groups_rate_and_bounds(tmp_path: Path) -> None:
    data = iwbc.load(WRITERS["robomimic"](tmp_path))
    assert data.info.groups == sorted(MASKS)
    for index, episode in enumerate(data):
        assert set(episode.groups) == {name for name, members in MASKS.items() if index in members}
    assert data.info.fps == 20.0
    assert (data.info.action_low, data.info.action_high) == ([-1.0, -1.0], [1.0, 1.0])
    assert [part.name for part in data.info.observation_parts or ()] == ["object", "robot0_eef_pos"]
    assert data.terminated.all()
    assert data.info.notes == ["not used of its observations: robot0_joint_pos (dataset.observation_keys=[…] chooses)"]


def test_robomimic_takes_chosen_observations(tmp_path: Path) -> None:
    path = WRITERS["robomimic"](tmp_path)
    data = iwbc.load(path, observation_keys=["robot0_joint_pos", "object"])
    np.testing.assert_array_equal(data[10].observations[:, :2], EPISODES[10].states[:-1, :2])
    np.testing.assert_array_equal(data[10].observations[:, 2:], -EPISODES[10].states[:-1])
    np.testing.assert_array_equal(data[10].final_observation[2:], -EPISODES[10].states[-1])
    assert iwbc.load(path, observation_keys=["object"]).observations.shape[1] == 2
    assert iwbc.load(path).observations.shape[1] == 5


def test_robomimic_without_next_observations_says_so(tmp_path: Path) -> None:
    path = formats.write_robomimic(tmp_path / "low_dim.hdf5", EPISODES, next_obs=False)
    with pytest.warns(DataWarning, match="no observation after an episode's last action"):
        data = iwbc.load(path)
    np.testing.assert_array_equal(data[3].final_observation, EPISODES[3].states[-2])


def test_robomimic_next_observations_that_are_the_observations_are_not_believed(tmp_path: Path) -> None:
    def copied(file: h5py.File) -> None:
        for demo in file["data"].values():
            del demo["next_obs"]
            demo.copy("obs", "next_obs")

    def but_one(file: h5py.File) -> None:
        copied(file)
        file["data/demo_11/next_obs/object"][-1] += 1

    path = formats.write_robomimic(tmp_path / "copied.hdf5", EPISODES, change=copied)
    with pytest.warns(DataWarning, match="its next_obs is a copy of its obs in every demo: the last observation stands for"):
        data = iwbc.load(path)
    np.testing.assert_array_equal(data[11].final_observation, EPISODES[11].states[-2])
    assert "copy of its obs" not in " ".join(
        iwbc.load(formats.write_robomimic(tmp_path / "one.hdf5", EPISODES, change=but_one)).info.notes
    )


LIBERO = "pick up the black bowl and place it on the plate"


@pytest.mark.parametrize(
    ("attributes", "task"),
    [
        ({"problem_info": json.dumps({"language_instruction": LIBERO})}, LIBERO),
        ({"problem_info": json.dumps({"language_instruction": LIBERO.split()}).encode()}, LIBERO),
        ({"bddl_file_name": "bddl_files/libero_spatial/" + LIBERO.replace(" ", "_") + ".bddl"}, LIBERO),
        ({"bddl_file_name": "KITCHEN_SCENE10_close_the_top_drawer.bddl"}, "close the top drawer"),
        ({"problem_info": json.dumps({"language_instruction": LIBERO}), "bddl_file_name": "push.bddl"}, LIBERO),
        ({"problem_info": json.dumps({"problem_name": "x"}), "bddl_file_name": "push.bddl"}, "push"),
        ({"problem_info": json.dumps({"language_instruction": [1, {}]})}, None),
        ({"problem_info": "[]", "bddl_file_name": 3}, None),
    ],
)
def test_libero_tells_the_task_in_words(attributes: dict[str, Any], task: str | None, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["data"].attrs.update(attributes)

    data = iwbc.load(formats.write_robomimic(tmp_path / "libero.hdf5", EPISODES, change=change))
    told = [name for name in data.info.groups if name.startswith("task: ")]
    assert told == ([f"task: {task}"] if task else [])
    assert all(set(told) <= set(episode.groups) for episode in data)


def test_libero_tells_the_task_that_lerobot_is_given(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["data"].attrs["problem_info"] = json.dumps({"language_instruction": LIBERO})

    path = formats.write_robomimic(tmp_path / "libero.hdf5", EPISODES, change=change)
    outcome = command("iwbc.export_data", str(path), "format=lerobot", f"out={tmp_path / 'set'}")
    assert outcome.code == 0 and "no task is known" not in outcome.out
    assert pq.read_table(tmp_path / "set" / "meta" / "tasks.parquet")["task"].to_pylist() == [LIBERO]


def test_robomimic_without_rewards_has_no_labels(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        for demo in file["data"].values():
            del demo["rewards"], demo["dones"]

    path = formats.write_robomimic(tmp_path / "low_dim.hdf5", EPISODES, change=change)
    with pytest.warns(DataWarning, match="neither rewards nor success labels"):
        data = iwbc.load(path)
    assert data.successes is None
    assert not data.terminated.any()


def test_robomimic_success_is_any_reward_and_an_end_is_the_last_done(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        for index in range(COUNT):
            file[f"data/demo_{index}/dones"][:] = 0
        file["data/demo_1/rewards"][0] = 1.0
        file["data/demo_2/dones"][0] = 1
        file["data/demo_3/dones"][-1] = 1

    data = iwbc.load(formats.write_robomimic(tmp_path / "low_dim.hdf5", EPISODES, change=change))
    assert data.successes is not None
    assert bool(data.successes[1])
    assert np.flatnonzero(data.terminated).tolist() == [3]


def test_robomimic_rewards_that_are_never_above_0_are_no_labels(tmp_path: Path) -> None:
    """Dense rewards below 0 do not tell successes from failures."""

    def change(file: h5py.File) -> None:
        for demo in file["data"].values():
            demo["rewards"][:] = -1.5

    path = formats.write_robomimic(tmp_path / "low_dim.hdf5", EPISODES, change=change)
    with pytest.warns(DataWarning, match="none of its rewards is above 0, .*no labels of success"):
        data = iwbc.load(path)
    assert data.successes is None
    assert all((episode.rewards == -1.5).all() for episode in data)


@pytest.mark.parametrize(
    "rewards",
    [
        lambda steps: np.linspace(0.01, 0.2, steps),  # the approach alone is rewarded
        lambda steps: np.append(np.zeros(steps - 1), 0.5),
        lambda steps: np.append(np.full(steps - 1, -1.0), 1.0),
        lambda steps: np.append(np.ones(steps - 1), 2.25),
    ],
)
def test_robomimic_dense_rewards_are_no_labels(rewards: Callable[[int], Any], tmp_path: Path) -> None:
    """Such rewards of one demo say that those of the others mark no success either."""

    def change(file: h5py.File) -> None:
        file["data/demo_1/rewards"][:] = rewards(EPISODES[1].steps)

    path = formats.write_robomimic(tmp_path / "low_dim.hdf5", EPISODES, change=change)
    with pytest.warns(DataWarning, match="its rewards are not 0 and 1 alone: they are dense, .*no labels of success"):
        data = iwbc.load(path)
    assert data.successes is None
    np.testing.assert_allclose(data[1].rewards, rewards(EPISODES[1].steps), rtol=1e-6)


def test_robomimic_rewards_of_0_and_1_may_be_rounded(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["data/demo_0/rewards"][-1] = 1.0 - 1e-7
        file["data/demo_1/rewards"][-1] = 1e-9

    data = iwbc.load(formats.write_robomimic(tmp_path / "low_dim.hdf5", EPISODES, change=change))
    assert data.successes is not None
    assert data.successes.tolist() == [truth.success for truth in EPISODES]


@pytest.mark.parametrize("rewards", ["sparse", "dense", "none"])
def test_robomimic_success_is_an_attribute_where_every_demo_has_it(rewards: str, tmp_path: Path) -> None:
    labels = [index % 2 == 1 for index in range(COUNT)]

    def change(file: h5py.File) -> None:
        for index, label in enumerate(labels):
            demo = file[f"data/demo_{index}"]
            demo.attrs["success"] = label
            if rewards == "dense":
                demo["rewards"][:] = 0.25
            elif rewards == "none":
                del demo["rewards"]

    path = formats.write_robomimic(tmp_path / "low_dim.hdf5", EPISODES, change=change)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        data = iwbc.load(path)
    assert data.successes is not None
    assert data.successes.tolist() == labels
    assert not any("labels of success" in str(warning.message) for warning in given)
    if rewards == "none":
        assert data.returns.tolist() == labels


def with_labels(name: str, folder: Path, labels: Sequence[Any], rewards: bool = True) -> Path:
    """Write robomimic's demos with these attributes, or ManiSkill's trajectories with these labels in the json; None is no
    label."""

    def change(file: h5py.File, info: dict[str, Any]) -> None:
        groups = file["data"] if name == "robomimic" else file
        for index, label in enumerate(labels):
            group = groups[f"{'demo' if name == 'robomimic' else 'traj'}_{index}"]
            if not rewards:
                del group["rewards"]
            if name == "robomimic" and label is not None:
                group.attrs["success"] = label
            elif name == "maniskill":
                del group["success"], info["episodes"][index]["success"]
                info["episodes"][index] |= {} if label is None else {"success": label}

    if name == "maniskill":
        return formats.write_maniskill(folder / "trajectory.h5", EPISODES, change=change)
    return formats.write_robomimic(folder / "low_dim.hdf5", EPISODES, change=lambda file: change(file, {}))


@pytest.mark.parametrize("rewards", [True, False])
@pytest.mark.parametrize("kind", [bool, int, float, lambda label: [int(label)], np.int64, np.uint8, np.float32])
@pytest.mark.parametrize("name", ["robomimic", "maniskill"])
def test_labels_of_episodes_are_of_any_number_type(name: str, kind: Any, rewards: bool, tmp_path: Path) -> None:
    labels = [index % 2 == 1 for index in range(COUNT)]
    if name == "maniskill" and kind in (np.int64, np.uint8, np.float32):
        pytest.skip("not of JSON")
    data = iwbc.load(with_labels(name, tmp_path, list(map(kind, labels)), rewards))
    assert data.successes is not None
    assert data.successes.tolist() == labels


@pytest.mark.parametrize("rewards", [True, False])
@pytest.mark.parametrize("value", [None, 2, 0.5, float("nan"), "yes", [True, False]])
@pytest.mark.parametrize("name", ["robomimic", "maniskill"])
def test_labels_of_some_episodes_and_what_is_none_are_refused(name: str, value: Any, rewards: bool, tmp_path: Path) -> None:
    labels = [False, True, False, True, value, *[False] * (COUNT - 5)]
    message = "has no label success, which other" if value is None else "its success is .*; a label is true or false"
    with pytest.raises(UserError, match=rf"(data/demo|json, traj)_4: {message}"):
        iwbc.load(with_labels(name, tmp_path, labels, rewards))


@pytest.mark.parametrize("name", ["robomimic", "maniskill"])
def test_no_labels_of_any_episode_are_no_fault(name: str, tmp_path: Path) -> None:
    assert iwbc.load(with_labels(name, tmp_path, [None] * COUNT, rewards=False)).successes is None


@pytest.mark.parametrize("name", ["lerobot", "lerobot 2.1"])
def test_lerobot_says_tasks_rate_and_bounds(name: str, tmp_path: Path) -> None:
    data = iwbc.load(WRITERS[name](tmp_path))
    assert data.info.groups == ["task: open the drawer", "task: pick the cube"]
    assert [episode.groups for episode in data] == [(f"task: {truth.task}",) for truth in EPISODES]
    assert data.info.fps == 10.0
    assert (data.info.action_low, data.info.action_high) == ([-90.0, 0.0], [90.0, 61.875])
    assert [part.name for part in data.info.observation_parts or ()] == ["observation.environment_state", "observation.state"]


def test_lerobot_without_labels_says_how_to_give_them(tmp_path: Path) -> None:
    path = formats.write_lerobot(tmp_path / "so101", EPISODES, labels=())
    with pytest.warns(DataWarning, match="neither rewards nor success labels.*curation=weights"):
        data = iwbc.load(path)
    assert data.successes is None
    assert not data.rewards.any()
    assert not data.terminated.any()


@pytest.mark.parametrize("label", ["next.success", "is_episode_successful"])
def test_lerobot_success_stands_for_missing_rewards(label: str, tmp_path: Path) -> None:
    data = iwbc.load(formats.write_lerobot(tmp_path / "ported", EPISODES, labels=(label,)))
    assert data.successes is not None
    assert data.successes.tolist() == [truth.success for truth in EPISODES]
    np.testing.assert_array_equal(data.rewards, np.concatenate([truth.rewards for truth in EPISODES]))


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_lerobot_success_of_an_episode_may_stand_in_meta(version: str, tmp_path: Path) -> None:
    path = formats.write_lerobot(tmp_path / "marked", EPISODES, version, labels=())
    labels: list[Any] = [truth.success for truth in EPISODES]

    def mark() -> None:
        if version == "v3.0":
            file = path / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
            table = pq.read_table(file).to_pylist()
            pq.write_table(pa.Table.from_pylist([row | {"success": labels[i]} for i, row in enumerate(table)]), file)
        else:
            lines = [json.loads(line) for line in (path / "meta" / "episodes.jsonl").read_text().split("\n") if line]
            rows = [json.dumps(row | {"success": labels[i]}) + "\n" for i, row in enumerate(lines)]
            (path / "meta" / "episodes.jsonl").write_text("".join(rows))

    mark()
    data = iwbc.load(path)
    assert data.successes is not None
    assert data.successes.tolist() == labels
    np.testing.assert_array_equal(data.rewards, np.concatenate([truth.rewards for truth in EPISODES]))
    labels[2] = None
    mark()
    with pytest.raises(UserError, match=r"meta/episodes.*, episode 2: has no label success, which other episodes have"):
        iwbc.load(path)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
@pytest.mark.parametrize(
    ("name", "first", "change", "message"),
    [
        ("timestamp", 0, lambda values: 2 * values, r"episode 0.* 0\.2 s apart, .*fps.* is 10, .* 0\.1 s"),
        ("timestamp", 7, lambda values: 2 * values, r"episode 7.* 0\.2 s apart"),
        ("task_index", 4, lambda values: values + 2, "episode 4.* task_index 2, which meta/tasks does not have"),
    ],
)
def test_lerobot_frames_that_disagree_with_meta_are_told(
    version: str, name: str, first: int, change: Callable[[np.ndarray], Any], message: str, tmp_path: Path
) -> None:
    def columns(values: dict[str, Any]) -> dict[str, Any]:
        indices, array = values["episode_index"].to_numpy(), values[name].to_numpy().copy()
        if (indices == first).any():
            array[indices == first] = change(array[indices == first])
        return values | {name: pa.array(array)}

    path = formats.write_lerobot(tmp_path / "pusht", EPISODES, version, columns=columns)
    with pytest.warns(DataWarning, match=message):
        data = iwbc.load(path)
    assert len([note for note in data.info.notes if "frames" in note]) == 1
    check_truths(data, "lerobot")


def edited_tasks(path: Path, texts: Sequence[str], index: str = "task") -> None:
    """Give the tasks of meta/tasks other texts; `index` is the name of the column of texts in v3.0."""
    if (lines := path / "meta" / "tasks.jsonl").is_file():
        lines.write_text("".join(json.dumps({"task_index": i, "task": text}) + "\n" for i, text in enumerate(texts)))
    else:
        table = pa.table({"task_index": pa.array(range(len(texts))), index: pa.array(texts)})
        pq.write_table(table, path / "meta" / "tasks.parquet")


@pytest.mark.parametrize(
    ("version", "index"), [("v3.0", "task"), ("v3.0", "__index_level_0__"), ("v2.1", "task"), ("v2.0", "task")]
)
@pytest.mark.parametrize("texts", [("open the drawer", "pick the cube"), ("grasp the red cube", "open the drawer")])
def test_lerobot_tasks_are_those_that_lerobot_trains_on(
    texts: tuple[str, str], version: str, index: str, tmp_path: Path
) -> None:
    """Those of the frames' task_index, whatever meta/episodes says; frames of other texts are counted."""
    path = formats.write_lerobot(tmp_path / "pusht", EPISODES, version)
    edited_tasks(path, texts, index)
    kept = texts[1] == formats.TASKS[1]
    example = rf"{6 if kept else 12} of 12 episodes .*episode 0: {texts[0]}, not pick the cube"
    with pytest.warns(DataWarning, match=example):
        data = iwbc.load(path)
    assert data.info.groups == sorted(f"task: {text}" for text in texts)
    assert [episode.groups for episode in data] == [(f"task: {texts[number % 2]}",) for number in range(COUNT)]
    check_truths(data, "lerobot")


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_lerobot_frames_of_several_tasks_are_in_the_groups_of_all(version: str, tmp_path: Path) -> None:
    def columns(values: dict[str, Any]) -> dict[str, Any]:
        tasks = values["task_index"].to_numpy().copy()
        tasks[(values["episode_index"].to_numpy() == 3) & (values["frame_index"].to_numpy() == 0)] = 0
        return values | {"task_index": pa.array(tasks)}

    data = iwbc.load(formats.write_lerobot(tmp_path / "pusht", EPISODES, version, columns=columns))
    said = [note for note in data.info.notes if "frames of" in note]
    assert "episode 3 are of several tasks" in said[0]
    assert "1 of 12 episodes" in said[1] and "episode 3: pick the cube, open the drawer, not open the drawer" in said[1]
    assert set(data[3].groups) == set(data.info.groups)
    assert data[1].groups == ("task: open the drawer",)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_lerobot_without_texts_of_tasks_takes_those_of_episodes(version: str, tmp_path: Path) -> None:
    path = formats.write_lerobot(tmp_path / "pusht", EPISODES, version)
    (path / "meta" / ("tasks.parquet" if version == "v3.0" else "tasks.jsonl")).write_text("{}")
    with pytest.warns(DataWarning, match=r"meta/tasks\.\w+: cannot be read .*; the tasks that meta/episodes says are taken"):
        data = iwbc.load(path)
    assert [episode.groups for episode in data] == [(f"task: {truth.task}",) for truth in EPISODES]


def test_lerobot_tasks_in_another_order_are_not_believed(tmp_path: Path) -> None:
    """LeRobot takes a row by its place, whatever its task_index."""
    path = formats.write_lerobot(tmp_path / "pusht", EPISODES)
    table = pa.table({"task_index": pa.array([1, 0]), "task": pa.array(["open the drawer", "pick the cube"])})
    pq.write_table(table, path / "meta" / "tasks.parquet")
    with pytest.warns(DataWarning, match="its task_index is not 0, 1, 2, … .*; the tasks that meta/episodes says are taken"):
        data = iwbc.load(path)
    assert [episode.groups for episode in data] == [(f"task: {truth.task}",) for truth in EPISODES]


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_lerobot_tasks_that_are_cut_to_the_same_are_told(version: str, tmp_path: Path) -> None:
    path = formats.write_lerobot(tmp_path / "pusht", EPISODES, version)
    edited_tasks(path, ["x" * 500 + "a", "x" * 500 + "b"])
    with pytest.warns(DataWarning, match="1 of its 2 tasks are the same as another up to 500 characters"):
        data = iwbc.load(path)
    assert data.info.groups == ["task: " + "x" * 500]


@pytest.mark.parametrize("sign", ["\u2028", "\u0085", "\x1c"])
@pytest.mark.parametrize("version", ["v2.1", "v2.0"])
def test_lerobot_lines_end_at_line_feeds_alone(version: str, sign: str, tmp_path: Path) -> None:
    path = formats.write_lerobot(tmp_path / "pusht", EPISODES, version)
    for name in ("episodes.jsonl", "tasks.jsonl"):
        file = path / "meta" / name
        # JSON allows all but control characters below U+0020 as they are.
        text = sign if sign >= " " else json.dumps(sign)[1:-1]
        file.write_text(file.read_text().replace("pick the", f"pick{text}the") + "\r\n \r\n", encoding="utf-8")
    data = iwbc.load(path)
    assert not [note for note in data.info.notes if "frames" in note]
    check_truths(data, "lerobot")


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_lerobot_frames_that_agree_with_meta_need_no_note(version: str, tmp_path: Path) -> None:
    data = iwbc.load(formats.write_lerobot(tmp_path / "pusht", EPISODES, version))
    assert not [note for note in data.info.notes if "frames" in note]


@pytest.mark.parametrize("lost", ["timestamp", "task_index"])
def test_lerobot_needs_no_such_columns(lost: str, tmp_path: Path) -> None:
    def columns(values: dict[str, Any]) -> dict[str, Any]:
        return {name: column for name, column in values.items() if name != lost}

    check_truths(iwbc.load(formats.write_lerobot(tmp_path / "pusht", EPISODES, columns=columns)), "lerobot")


@pytest.mark.parametrize("version", ["v3.0", "v2.1", "v2.0"])
@pytest.mark.parametrize(
    ("labels", "terminated"),
    [
        (("next.truncated",), [False] * COUNT),
        (("next.done",), [True] * COUNT),
        (("next.done", "next.truncated"), [truth.success for truth in EPISODES]),
    ],
)
def test_lerobot_an_episode_that_was_cut_is_not_ended_by_the_environment(
    labels: tuple[str, ...], terminated: list[bool], version: str, tmp_path: Path
) -> None:
    """next.done is true at the last frame of every episode, next.truncated at that of the failures, which were cut."""
    assert iwbc.load(formats.write_lerobot(tmp_path / "set", EPISODES, version, labels)).terminated.tolist() == terminated


def test_lerobot_only_the_last_frame_says_how_an_episode_ends(tmp_path: Path) -> None:
    def columns(values: dict[str, Any]) -> dict[str, Any]:
        return values | {"next.truncated": pa.array(values["frame_index"].to_numpy() == 0)}

    path = formats.write_lerobot(tmp_path / "set", EPISODES, labels=("next.done", "next.truncated"), columns=columns)
    assert iwbc.load(path).terminated.all()


def test_an_episode_of_one_frame_may_be_dropped(tmp_path: Path) -> None:
    """Ends are not marked in LeRobot's files: a short recording is no wrong mark."""
    truth = EPISODES[0]
    long = Truth(np.repeat(truth.states, 10, 0)[:31], np.repeat(truth.actions, 10, 0)[:30], True, truth.task)
    short = Truth(truth.states[:2], truth.actions[:1], False, truth.task)
    with pytest.warns(DataWarning, match=r"the first is episode 2\).* weight 0 \(curation=weights\)"):
        iwbc.load(formats.write_lerobot(tmp_path / "pusht", [long, long, short, long]))


def test_lerobot_images_are_skipped_and_named(tmp_path: Path) -> None:
    camera = {"observation.images.top": {"dtype": "video", "shape": [96, 96, 3], "names": ["height", "width", "channels"]}}
    path = formats.write_lerobot(tmp_path / "aloha", EPISODES, features=camera)
    with pytest.warns(DataWarning, match=r"images are not read: observation\.images\.top"):
        check_truths(iwbc.load(path), "lerobot")
    with pytest.raises(UserError, match=r"observation\.images\.top: images are not read, vectors only"):
        iwbc.load(path, observation_keys=["observation.images.top"])


def test_lerobot_actions_that_never_change_have_room(tmp_path: Path) -> None:
    still = [Truth(truth.states, truth.actions * [1, 0] + [0, 0.5], truth.success, truth.task) for truth in EPISODES]
    path = formats.write_lerobot(tmp_path / "still", still)
    with pytest.warns(DataWarning, match="actions 1 never change"):
        data = iwbc.load(path)
    assert (data.info.action_low, data.info.action_high) == ([-90.0, 44.0], [90.0, 46.0])


def test_lerobot_bounds_can_be_said(tmp_path: Path) -> None:
    path = WRITERS["lerobot"](tmp_path)
    (path / "meta" / "stats.json").unlink()
    data = iwbc.load(path, action_low=-100.0, action_high=[100.0, 90.0])
    assert (data.info.action_low, data.info.action_high) == ([-100.0, -100.0], [100.0, 90.0])


def test_lerobot_episodes_may_lie_in_several_files(tmp_path: Path) -> None:
    """An episode's frames are those of its episode_index."""
    path = WRITERS["lerobot"](tmp_path)
    whole = pa.concat_tables([pq.read_table(file) for file in sorted((path / "data").rglob("*.parquet"))])
    shutil.rmtree(path / "data")
    for number, (start, end) in enumerate([(0, 7), (7, 8), (8, 40), (40, len(whole))]):
        file = path / "data" / "chunk-000" / f"file-{number:03d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(whole.slice(start, end - start), file)
    check_truths(iwbc.load(path), "lerobot")


def test_robomimic_says_environment_and_horizon(tmp_path: Path) -> None:
    environment = iwbc.load(formats.write_robomimic(tmp_path / "several.hdf5", truths(4))).info.environment
    assert environment is not None
    assert (environment.id, environment.max_episode_steps) == ("robosuite/NutAssemblySquare", 500)  # better and worse people
    assert environment.kwargs["observation_keys"] == ["object", "robot0_eef_pos"]
    assert environment.kwargs["robots"] == ["Panda"]

    def proficient(file: h5py.File) -> None:
        del file["mask"]

    environment = iwbc.load(formats.write_robomimic(tmp_path / "one.hdf5", truths(4), change=proficient)).info.environment
    assert environment is not None and environment.max_episode_steps == 400

    def broken(file: h5py.File) -> None:
        file["data"].attrs["env_args"] = '{"env_name": "Lift"}'

    with pytest.raises(UserError, match=r"broken\.hdf5, env_args: need a text env_name"):
        iwbc.load(formats.write_robomimic(tmp_path / "broken.hdf5", truths(4), change=broken))


def test_maniskill_says_environment_and_rate(tmp_path: Path) -> None:
    data = iwbc.load(WRITERS["maniskill"](tmp_path))
    environment = data.info.environment
    assert environment is not None
    assert (environment.id, environment.max_episode_steps, environment.package) == ("PickCube-v1", 50, "mani_skill")
    assert environment.kwargs["control_mode"] == "pd_ee_delta_pose"
    assert data.info.fps == 20.0
    assert [part.name for part in data.info.observation_parts or ()] == ["agent/qpos", "extra/goal", "extra/near"]
    assert data.terminated.tolist() == [truth.success for truth in EPISODES]


def test_maniskill_takes_chosen_observations_and_skips_images(tmp_path: Path) -> None:
    def change(file: h5py.File, info: dict[str, Any]) -> None:
        for index, truth in enumerate(EPISODES):
            file[f"traj_{index}/obs/sensor_data/base/rgb"] = np.zeros((truth.steps + 1, 4, 4, 3), np.uint8)

    path = formats.write_maniskill(tmp_path / "trajectory.h5", EPISODES, change=change)
    with pytest.warns(DataWarning, match=r"not used of its observations: sensor_data/base/rgb \(dataset\.observation_keys"):
        check_truths(iwbc.load(path), "maniskill")
    data = iwbc.load(path, observation_keys=["extra"])
    np.testing.assert_array_equal(data[11].observations, EPISODES[11].states[:-1, 2:])
    assert iwbc.load(path, observation_keys=["agent/qpos"]).observations.shape[1] == 2


def test_maniskill_without_rewards_has_those_of_success(tmp_path: Path) -> None:
    def change(file: h5py.File, info: dict[str, Any]) -> None:
        for group in file.values():
            del group["rewards"]

    path = formats.write_maniskill(tmp_path / "trajectory.h5", EPISODES, change=change)
    with pytest.warns(DataWarning, match="1 at the end of each success"):
        check_truths(iwbc.load(path), "maniskill")


@pytest.mark.parametrize(
    ("mode", "environment", "normalised"),
    [
        *((mode, "pd_joint_pos", True) for mode in ("pd_ee_delta_pose", "pd_joint_target_delta_pos", "pd_joint_delta_pos")),
        *((mode, "pd_ee_delta_pose", False) for mode in ("pd_joint_pos", "pd_ee_pose")),
        (None, "pd_ee_delta_pose", True),
        (None, "pd_joint_pos", False),
        (None, None, False),
    ],
)
def test_maniskill_bounds_are_the_controller_s(
    mode: str | None, environment: str | None, normalised: bool, tmp_path: Path
) -> None:
    def change(file: h5py.File, info: dict[str, Any]) -> None:
        info["env_info"]["env_kwargs"]["control_mode"] = environment
        for episode in info["episodes"]:
            episode["control_mode"] = mode
        for group in file.values():
            actions = group["actions"][...] * np.float32(0.5)
            del group["actions"]
            group["actions"] = actions

    path = formats.write_maniskill(tmp_path / "trajectory.h5", EPISODES, change=change)
    data = iwbc.load(path)
    controller = mode or environment or "unknown"
    assert (f"its controller {controller} has bounds of its own" in " ".join(data.info.notes)) == (not normalised)
    assert (data.info.action_low, data.info.action_high) == (
        ([-1.0, -1.0], [1.0, 1.0]) if normalised else ([-0.5, 0.0], [0.5, 11 / 32])  # what the data reach
    )
    assert iwbc.load(path, action_low=-2.0, action_high=[2.0, 3.0]).info.action_high == [2.0, 3.0]


def test_maniskill_names_several_controllers(tmp_path: Path) -> None:
    def change(file: h5py.File, info: dict[str, Any]) -> None:
        info["episodes"][3]["control_mode"] = "pd_joint_pos"

    path = formats.write_maniskill(tmp_path / "trajectory.h5", EPISODES, change=change)
    with pytest.warns(DataWarning, match=r"several control modes \(pd_ee_delta_pose, pd_joint_pos\)"):
        iwbc.load(path)


@pytest.mark.parametrize(
    ("name", "env_id"),
    [
        ("cube-single-play-v0.npz", "cube-single-v0"),
        ("antmaze-large-navigate-v0-val.npz", "antmaze-large-v0"),
        ("puzzle-3x3-noisy-v0.npz", "puzzle-3x3-v0"),
        ("mine.npz", None),
    ],
)
def test_ogbench_guesses_its_environment(name: str, env_id: str | None, tmp_path: Path) -> None:
    path = formats.write_ogbench(tmp_path / name, EPISODES)
    assert iwbc.load(path).info.env_id == env_id
    assert iwbc.load(path, env_id="none").info.env_id is None
    chosen = iwbc.load(path, env_id="scene-v0").info.environment
    assert chosen is not None and (chosen.id, chosen.package) == ("scene-v0", "ogbench")


@needs_zarr
def test_zarr_takes_chosen_observations(tmp_path: Path) -> None:
    path = WRITERS["zarr"](tmp_path)
    extra = np.arange(sum(truth.steps for truth in EPISODES), dtype=np.float64)
    shutil.rmtree(path)
    formats.write_zarr(path, EPISODES, **{"data/keypoint": extra, "data/reward": extra})
    data = iwbc.load(path, observation_keys=["keypoint", "state"])
    np.testing.assert_array_equal(data.observations[:, 0], extra)
    np.testing.assert_array_equal(data.rewards, extra)
    assert (data.info.action_low, data.info.action_high) == ([-90.0, 0.0], [90.0, 61.875])


@needs_zarr
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["state", "action", "reward"])
def test_zarr_chunks_that_are_not_on_disk_are_told(name: str, version: int, tmp_path: Path) -> None:
    rewards = np.ones(sum(truth.steps for truth in EPISODES))
    path = formats.write_zarr(tmp_path / "pusht.zarr", EPISODES, version, **{"data/reward": rewards})
    assert not [note for note in iwbc.load(path).info.notes if "chunks" in note]
    inner = [] if name == "reward" else ["0"]
    place = path / "data" / name / (".".join(["1", *inner]) if version == 2 else "/".join(["c", "1", *inner]))
    place.unlink()
    with pytest.warns(
        DataWarning, match=rf"1 of 8 chunks of data/{name} are not on disk, .* fill value, 0\.0; Zarr leaves out "
    ):
        data = iwbc.load(path)
    assert not {"state": data.observations, "action": data.actions, "reward": data.rewards}[name][7:14].any()


# --- the ways in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["robomimic", "lerobot", "maniskill", "ogbench"])
def test_convert_writes_the_same_as_minari(name: str, datasets: Path, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path)
    outcome = command("iwbc.data.convert", str(path), "id=my/robot/pick-v0", "env_id=none")
    assert outcome.code == 0, outcome.err
    assert f"{COUNT} episodes" in outcome.out
    data, direct = iwbc.load("my/robot/pick-v0"), iwbc.load(path)
    assert data.content_hash == direct.content_hash
    assert (data.info.groups, data.info.fps, data.info.notes) == (direct.info.groups, direct.info.fps, direct.info.notes)
    assert data.info.observation_parts == direct.info.observation_parts
    assert (data.info.action_low, data.info.action_high) == (direct.info.action_low, direct.info.action_high)


def test_convert_takes_observations_and_leaves_out_an_environment_that_is_not_here(datasets: Path, tmp_path: Path) -> None:
    path = WRITERS["maniskill"](tmp_path)
    outcome = command("iwbc.data.convert", str(path), "id=my/pick-v0", "observation_keys=[agent/qpos,extra/near]")
    assert outcome.code == 0, outcome.err
    assert "the environment is not kept with the data: environment PickCube-v1" in outcome.err
    assert iwbc.load("my/pick-v0").observations.shape[1] == 3


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("ogbench", "observation_keys=[state]", "would change nothing"),
        ("robomimic", "unfinished=drop", "would change nothing"),
        ("robomimic", "observation_keys=[nothing]", "has no nothing"),
    ],
)
def test_convert_refuses_what_changes_nothing(name: str, argument: str, message: str, datasets: Path, tmp_path: Path) -> None:
    outcome = command("iwbc.data.convert", str(WRITERS[name](tmp_path)), "id=my/pick-v0", argument)
    assert outcome.code == 2
    assert message in outcome.err
    assert everything(datasets) == []


@pytest.mark.parametrize("name", ["robomimic", "lerobot", "maniskill", "ogbench"])
def test_info_shows_it(name: str, tmp_path: Path) -> None:
    outcome = command("iwbc.info", str(WRITERS[name](tmp_path)))
    assert outcome.code == 0, outcome.err
    assert str(COUNT) in outcome.out


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("robomimic", ["dataset.observation_keys=[object]"]),
        rarely("lerobot", ["dataset.clip_actions=true"]),
        rarely("maniskill", []),
        rarely("ogbench", ["curation=all"]),
    ],
)
def test_train_takes_it(name: str, more: list[str], tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path)
    small = ["policy.hidden=[8]", "reference.steps=3", "algo.steps=3", "algo.warmup_steps=0", "threads=1"]
    outcome = train(f"dataset={name}", f"dataset.path={path}", *small, *more, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "summary.json").is_file()


def test_settings_are_those_of_conf() -> None:
    config = compose("dataset=robomimic", "dataset.path=a.hdf5", "dataset.observation_keys=[object]")
    assert config.dataset == DATASETS["robomimic"](path="a.hdf5", observation_keys=["object"])
    assert compose("dataset=lerobot", "dataset.id=lerobot/pusht").dataset.path is None
    for words, message in (
        (["dataset=lerobot"], r"give dataset\.path, a folder, or dataset\.id"),
        (["dataset=lerobot", "dataset.id=a/b", "dataset.path=c"], "and not both"),
        (["dataset=lerobot", "dataset.path=c", "dataset.revision=v2.1"], "would change nothing"),
        (["dataset=robomimic"], "dataset.path: must be given"),
    ):
        with pytest.raises(UserError, match=message):
            compose(*words)


def test_arrays_of_ones_own_stay_arrays(tmp_path: Path) -> None:
    """Files that look a little like a format are read as they were before there were formats."""
    arrays = seven_steps()
    np.savez(tmp_path / "arrays.npz", **arrays)
    np.savez(tmp_path / "ends.npz", observations=arrays["observations"], actions=arrays["actions"], terminals=np.ones(7))
    with h5py.File(tmp_path / "arrays.hdf5", "w") as file:
        for name, values in arrays.items():
            file[f"data/{name}"] = values
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        file.update(arrays)
    (tmp_path / "damaged.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(10))
    (tmp_path / "folder").mkdir()
    assert [recognise(path) for path in sorted(tmp_path.iterdir())] == [None] * 6
    assert recognise(tmp_path / "nothing") is None
    assert len(iwbc.load(tmp_path / "d4rl.hdf5")) == 3


@pytest.mark.parametrize("name", ["cube-single-play-v0.npz", "cube-single-play-v0-val.npz"])
def test_ogbench_without_states_is_told_by_its_name(name: str, tmp_path: Path) -> None:
    path = formats.write_ogbench(tmp_path / name, EPISODES, qpos=None, qvel=None)
    assert recognise(path) == "ogbench"
    check_truths(iwbc.load(path), "ogbench")


def test_arrays_that_may_be_ogbench_name_both_readings(tmp_path: Path) -> None:
    """The last row of an episode is a step or leads nowhere: observations, actions and terminals alone do not tell which."""
    path = formats.write_ogbench(tmp_path / "cube.npz", EPISODES, qpos=None, qvel=None)
    assert recognise(path) is None
    outcome = command("iwbc.info", str(path))
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert re.search(r"rewards=none .*leads nowhere.*dataset=ogbench", outcome.err)
    check_truths(read(path, "ogbench"), "ogbench")


# --- the Hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "cache"))
    with running_hub(monkeypatch, tmp_path, "lerobot") as hub:
        path = formats.write_lerobot(tmp_path / "published", EPISODES)
        hub.files["pusht"] = {
            path.relative_to(tmp_path / "published").as_posix(): path.read_bytes() for path in path.rglob("*") if path.is_file()
        }
        hub.files["pusht"]["videos/observation.image/chunk-000/file-000.mp4"] = b"a film"
        hub.files["pusht"]["README.md"] = b"a card"
        hub.files["other"] = {"README.md": b"a card"}
        shutil.rmtree(path)
        yield hub


def pusht(**options: Any) -> Trajectories:
    return load_dataset(DATASETS["lerobot"](id="lerobot/pusht", **options))


def test_lerobot_is_downloaded_once_and_without_films(hub: Hub, tmp_path: Path) -> None:
    data = pusht()
    check_truths(data, "lerobot")
    assert iwbc.load("lerobot/pusht", source="lerobot").content_hash == data.content_hash
    assert data.info.id == "lerobot/pusht"
    assert {name.split("/")[0] for name in hub.sent} == {"meta", "data"}
    sent = len(hub.sent)
    assert pusht().content_hash == data.content_hash
    assert len(hub.sent) == sent
    there = [entry for entry in everything(tmp_path / "cache" / "lerobot" / "lerobot") if not entry.endswith(".lock")]
    assert {entry.split("/")[0] for entry in there} == {"pusht", "pusht.packed"}
    assert not any(".cache" in entry for entry in there)
    assert len(pusht(revision="v3.0")) == COUNT
    assert len(hub.sent) == 2 * sent


@pytest.mark.robustness  # for seconds the Hub is asked again
def test_a_broken_download_of_lerobot_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.broken.add("meta/info.json")
    with pytest.raises(UserError, match=r"^dataset lerobot/pusht: could not be downloaded") as caught:
        pusht()
    assert "\n" not in str(caught.value)
    assert [entry for entry in everything(tmp_path / "cache") if not entry.endswith((".lock", "lerobot"))] == []
    hub.broken.clear()
    assert len(pusht()) == COUNT


@pytest.mark.parametrize(
    ("name", "message"),
    [("lerobot/nothing", "could not be downloaded"), ("lerobot/other", "holds no meta/info.json on the Hub")],
)
def test_what_the_hub_has_not_is_said(name: str, message: str, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^dataset {name}: {message}") as caught:
        load_dataset(DATASETS["lerobot"](id=name))
    assert "\n" not in str(caught.value)


def test_lerobot_offline_says_how_to_fetch_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set.*hf download lerobot/pusht --repo-type dataset") as caught:
        pusht()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "pusht"}, "not an id of the Hub"),
        ({"id": "../a/b"}, "not an id"),
        ({"id": "a/b", "revision": "../x"}, "not a tag"),
    ],
)
def test_ids_of_the_hub_lead_nowhere_else(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dataset(DATASETS["lerobot"](**options))


# --- what is broken --------------------------------------------------------------------------------------------------


def robomimic(change: Callable[[h5py.File], None]) -> Write:
    return lambda folder: formats.write_robomimic(folder / "low_dim.hdf5", EPISODES, change=change)


def raw_robomimic(file: h5py.File) -> None:
    for demo in file["data"].values():
        del demo["obs"], demo["next_obs"]


def replaced(place: str, change: Callable[[np.ndarray], Any]) -> Callable[[h5py.File], None]:
    """Replace an array of a file."""

    def apply(file: h5py.File) -> None:
        values = change(file[place][()])
        del file[place]
        file[place] = values

    return apply


def deleted(*places: str) -> Callable[[h5py.File], None]:
    def apply(file: h5py.File) -> None:
        for place in places:
            del file[place]

    return apply


def with_nan(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    values.reshape(-1)[1] = np.nan
    return values


def truncated(write: Write) -> Write:
    def apply(folder: Path) -> Path:
        path = write(folder)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return path

    return apply


def extra_link(file: h5py.File) -> None:
    del file["data/demo_3/actions"]
    file["data/demo_3/actions"] = h5py.ExternalLink("other.hdf5", "values")


def with_pictures(file: h5py.File) -> None:
    for name, demo in file["data"].items():
        demo["obs/agentview_image"] = np.zeros((EPISODES[int(name[5:])].steps, 8, 8, 3), np.uint8)


def only_pictures_and(*keys: str) -> Callable[[h5py.File], None]:
    def apply(file: h5py.File) -> None:
        with_pictures(file)
        for demo in file["data"].values():
            demo.create_group("obs/more")
            for key in {"object", "robot0_eef_pos", "robot0_joint_pos"}.difference(keys):
                del demo[f"obs/{key}"]

    return apply


def attribute(place: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file[place].attrs.__setitem__(name, value)


def maniskill(change: Callable[[h5py.File, dict[str, Any]], None]) -> Write:
    return lambda folder: formats.write_maniskill(folder / "trajectory.h5", EPISODES, change=change)


def maniskill_file(change: Callable[[h5py.File], None]) -> Write:
    return maniskill(lambda file, info: change(file))


def without_observations(file: h5py.File, info: dict[str, Any]) -> None:
    for group in file.values():
        del group["obs"]


def lerobot(change: Callable[[Path], Any], version: str = "v3.0") -> Write:
    def apply(folder: Path) -> Path:
        path = formats.write_lerobot(folder / "pusht", EPISODES, version)
        change(path)
        return path

    return apply


def lerobot_info(**changes: Any) -> Write:
    def change(path: Path) -> None:
        info = json.loads((path / "meta" / "info.json").read_text())
        (path / "meta" / "info.json").write_text(json.dumps(info | changes))

    return lerobot(change)


def lerobot_columns(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Write:
    return lambda folder: formats.write_lerobot(folder / "pusht", EPISODES, columns=change)


def column(name: str, change: Callable[[np.ndarray], Any]) -> Write:
    return lerobot_columns(lambda columns: columns | {name: pa.array(change(columns[name].to_numpy(zero_copy_only=False)))})


def lerobot_episodes(change: Callable[[list[dict[str, Any]]], Any]) -> Write:
    def apply(path: Path) -> None:
        file = path / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        rows = pq.read_table(file).to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows), file)

    return lerobot(apply)


def cut(name: str, keep: float = 0.5) -> Callable[[Path], Any]:
    """Cut a file of a dataset off."""

    def apply(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: int(keep * len(content))])

    return apply


def write_text(name: str, text: str) -> Callable[[Path], Any]:
    return lambda path: (path / name).write_text(text)


def some_vectors(columns: dict[str, Any]) -> dict[str, Any]:
    lists = columns["action"].to_pylist()
    return columns | {"action": pa.array([[*lists[0], 0.0], *lists[1:]], pa.list_(pa.float32()))}


def nothing_there(columns: dict[str, Any]) -> dict[str, Any]:
    lists = columns["action"].to_pylist()
    return columns | {"action": pa.array([None, *lists[1:]], pa.list_(pa.float32(), 2))}


def ogbench(**changes: Any) -> Write:
    return lambda folder: formats.write_ogbench(folder / "cube-single-play-v0.npz", EPISODES, **changes)


ROWS = sum(truth.steps + 1 for truth in EPISODES)
ENDS = np.cumsum([truth.steps + 1 for truth in EPISODES]) - 1
TERMINALS = np.isin(np.arange(ROWS), ENDS).astype(np.float32)
STEPS = sum(truth.steps for truth in EPISODES)
FILM = {"dtype": "video", "shape": [4, 4, 3]}
FILE = "data/chunk-000/file-001.parquet"

BROKEN: dict[str, tuple[str, Write, str]] = {
    "robomimic truncated": ("robomimic", truncated(WRITERS["robomimic"]), "cannot be read"),
    "robomimic text": ("robomimic", lambda folder: text_file(folder / "low_dim.hdf5"), "cannot be read"),
    "robomimic raw": ("robomimic", robomimic(raw_robomimic), "dataset_states_to_obs.py"),
    "robomimic without data": ("robomimic", robomimic(deleted("data")), "cannot be read"),
    "robomimic without demos": (
        "robomimic",
        robomimic(deleted(*(f"data/demo_{index}" for index in range(COUNT)))),
        "it holds no episodes",
    ),
    "robomimic other names": (
        "robomimic",
        robomimic(lambda file: file.move("data/demo_3", "data/episode3")),
        "data/episode3: is no demo_N",
    ),
    "robomimic without actions": ("robomimic", robomimic(deleted("data/demo_3/actions")), "data/demo_3: has no actions"),
    "robomimic some rewards": (
        "robomimic",
        robomimic(deleted("data/demo_3/rewards")),
        "data/demo_3: has no rewards, which other demos have",
    ),
    "robomimic short rewards": (
        "robomimic",
        robomimic(replaced("data/demo_3/rewards", lambda values: values[:-1])),
        r"data/demo_3/rewards: has shape \(5,\), not \(6,\)",
    ),
    "robomimic short observations": (
        "robomimic",
        robomimic(replaced("data/demo_3/obs/object", lambda values: values[:-1])),
        r"data/demo_3/obs/object: has shape \(5, 2\), not \(6, 2\)",
    ),
    "robomimic other observations": (
        "robomimic",
        robomimic(replaced("data/demo_3/obs/object", lambda values: values[:, :1])),
        "data/demo_3/obs/object: has shape",
    ),
    "robomimic missing key": (
        "robomimic",
        robomimic(deleted("data/demo_3/obs/object")),
        "data/demo_3: has no obs/object, which other demos have",
    ),
    "robomimic missing key of the first": (
        "robomimic",
        robomimic(deleted("data/demo_0/obs/object", "data/demo_0/next_obs/object")),
        "data/demo_0: has no obs/object, which other demos have",
    ),
    "robomimic images and a vector": (
        "robomimic",
        robomimic(only_pictures_and("robot0_joint_pos")),
        r"choose some of agentview_image, robot0_joint_pos with dataset\.observation_keys",
    ),
    "robomimic images": (
        "robomimic",
        robomimic(only_pictures_and()),
        "none of its observations is one of the study's; choose some of agentview_image with",
    ),
    "robomimic missing next key": (
        "robomimic",
        robomimic(deleted("data/demo_2/next_obs/object")),
        "data/demo_2: has no next_obs/object, which its obs has",
    ),
    "robomimic number of samples": (
        "robomimic",
        robomimic(attribute("data/demo_3", "num_samples", 5)),
        "data/demo_3: its attribute num_samples says 5 steps, its actions have 6",
    ),
    "robomimic NaN": (
        "robomimic",
        robomimic(replaced("data/demo_3/obs/object", with_nan)),
        "episode 3, observations: holds NaN",
    ),
    "robomimic actions": (
        "robomimic",
        robomimic(replaced("data/demo_3/actions", lambda values: 3 * values)),
        "actions: .*lie outside the action space",
    ),
    "robomimic discrete": (
        "robomimic",
        robomimic(replaced("data/demo_0/actions", lambda values: np.zeros(3, int))),
        "data/demo_0/actions: has shape",
    ),
    "robomimic whole actions": (
        "robomimic",
        robomimic(replaced("data/demo_3/actions", lambda values: values.astype(int))),
        "data/demo_3/actions: discrete actions",
    ),
    "robomimic no steps": (
        "robomimic",
        robomimic(
            lambda file: (
                [
                    replaced(f"data/demo_3/{name}", lambda values: values[:0])(file)
                    for name in ("actions", "rewards", "dones", "obs/object", "obs/robot0_eef_pos")
                ]
                and attribute("data/demo_3", "num_samples", 0)(file)
            )
        ),
        "data/demo_3",
    ),
    "robomimic dones": (
        "robomimic",
        robomimic(replaced("data/demo_3/dones", lambda values: values + 2)),
        "data/demo_3/dones: must be true or false",
    ),
    "robomimic mask": (
        "robomimic",
        robomimic(replaced("mask/better", lambda values: np.array([b"demo_99"]))),
        "mask/better: names demo_99, which is not in data",
    ),
    "robomimic env_args": ("robomimic", robomimic(attribute("data", "env_args", "{")), "env_args of data: cannot be read"),
    "robomimic link": ("robomimic", robomimic(extra_link), "into another file"),
    "lerobot info": ("lerobot", lerobot(write_text("meta/info.json", "{")), "meta/info.json: cannot be read"),
    "lerobot no object": ("lerobot", lerobot(write_text("meta/info.json", "[]")), r"meta/info\.json: is damaged"),
    "lerobot version": (
        "lerobot",
        lerobot_info(codebase_version="v1.6"),
        "its codebase_version is v1.6; read are v2.0, v2.1, v3.0",
    ),
    "lerobot lance": ("lerobot", lerobot_info(storage_format="lance"), "its storage_format is lance"),
    "lerobot features": ("lerobot", lerobot_info(features=[]), "features: is damaged"),
    "lerobot images": (
        "lerobot",
        lerobot_info(features={"observation.image": FILM, "action": {"dtype": "float32", "shape": [2]}}),
        "has neither .*; it has images alone, which are not read",
    ),
    "lerobot images and a vector": (
        "lerobot",
        lerobot_info(
            features={
                "observation.depth": {"dtype": "uint16", "shape": [4, 4, 1]},
                "observation.image": FILM,
                "next.reward": {"dtype": "float32", "shape": [1]},
                "observation.arm": {"dtype": "float32", "shape": [3]},
            }
        ),
        r"choose some of observation\.arm with",
    ),
    "lerobot no action": (
        "lerobot",
        lerobot_info(features={"observation.state": {"dtype": "float32", "shape": [3]}}),
        "feature action: is damaged",
    ),
    "lerobot no state": (
        "lerobot",
        lerobot_info(features={"action": {"dtype": "float32", "shape": [2]}}),
        "has neither observation.state nor observation.environment_state",
    ),
    "lerobot fps": ("lerobot", lerobot_info(fps="10"), "its fps is 10"),
    "lerobot totals": ("lerobot", lerobot_info(total_episodes=13), "its total_episodes is 13, but meta/episodes has 12"),
    "lerobot parquet": ("lerobot", lerobot(cut(FILE)), "file-001.parquet: cannot be read"),
    "lerobot parquet of episodes": (
        "lerobot",
        lerobot(cut("meta/episodes/chunk-000/file-000.parquet")),
        "meta/episodes: file-000.parquet: cannot be read",
    ),
    "lerobot no parquet": ("lerobot", lerobot(lambda path: shutil.rmtree(path / "data")), "holds no parquet files"),
    "lerobot no episodes": (
        "lerobot",
        lerobot(lambda path: shutil.rmtree(path / "meta" / "episodes")),
        "meta/episodes: it holds no episodes",
    ),
    "lerobot a file is missing": ("lerobot", lerobot(lambda path: (path / FILE).unlink()), "episode 10: comes after 4"),
    "lerobot the last is missing": (
        "lerobot",
        lerobot(lambda path: (path / "data/chunk-000/file-002.parquet").unlink()),
        "episode 10: is in meta/episodes, but not in data/",
    ),
    "lerobot a file is there twice": (
        "lerobot",
        lerobot(lambda path: shutil.copy(path / FILE, path / "data/chunk-000/file-009.parquet")),
        "episode 5: is there twice",
    ),
    "lerobot length": ("lerobot", lerobot_episodes(lambda rows: rows[3].update(length=5)), "episode 3: its dataset_from_index"),
    "lerobot lengths": (
        "lerobot",
        lerobot_episodes(
            lambda rows: (
                rows[3].update(length=5, dataset_to_index=rows[3]["dataset_to_index"] - 1),
                rows[4].update(length=4, dataset_from_index=rows[4]["dataset_from_index"] - 1),
            )
        ),
        "episode 3: has 6 frames in data/, its length in meta/episodes is 5",
    ),
    "lerobot episode twice": ("lerobot", lerobot_episodes(lambda rows: rows.append(rows[3])), "episode 3 is there twice"),
    "lerobot episode missing": ("lerobot", lerobot_episodes(lambda rows: rows.pop(3)), "episode 3 is missing"),
    "lerobot frames": (
        "lerobot",
        column("frame_index", lambda values: values[::-1]),
        "its frame_index does not count up from 0",
    ),
    "lerobot fractions of frames": (
        "lerobot",
        column("frame_index", lambda values: values / 2),
        "its frame_index must be whole numbers",
    ),
    "lerobot column": (
        "lerobot",
        lerobot_columns(lambda columns: {name: values for name, values in columns.items() if name != "next.success"}),
        "file-000.parquet: has no next.success",
    ),
    "lerobot NaN": ("lerobot", column("next.reward", lambda values: values * np.nan), "episode 0, rewards: holds NaN"),
    "lerobot labels": ("lerobot", column("next.success", lambda values: values * 3), "next.success: must be true or false"),
    "lerobot ragged": ("lerobot", lerobot_columns(some_vectors), "action: its rows differ in length"),
    "lerobot missing values": ("lerobot", lerobot_columns(nothing_there), "action: some values are missing"),
    "lerobot stats": ("lerobot", lerobot(write_text("meta/stats.json", "{}")), "min and max of action: cannot be read"),
    "lerobot no stats": (
        "lerobot",
        lerobot(lambda path: (path / "meta/stats.json").unlink()),
        "unless dataset.action_low=… and action_high=… say them",
    ),
    "lerobot small stats": (
        "lerobot",
        lerobot(write_text("meta/stats.json", '{"action": {"min": [-1, -1], "max": [1, 1]}}')),
        "lie outside the action space",
    ),
    "lerobot 2.1 episodes": (
        "lerobot",
        lerobot(cut("meta/episodes.jsonl", 0.52), "v2.1"),
        "meta/episodes.jsonl: cannot be read",
    ),
    "lerobot 2.1 parquet": (
        "lerobot",
        lerobot(cut("data/chunk-000/episode_000003.parquet"), "v2.1"),
        "episode_000003.parquet: cannot be read",
    ),
    "lerobot 2.1 missing": (
        "lerobot",
        lerobot(lambda path: (path / "data/chunk-000/episode_000003.parquet").unlink(), "v2.1"),
        "episode 4: comes after 2",
    ),
    "lerobot 2.1 stats": (
        "lerobot",
        lerobot(write_text("meta/episodes_stats.jsonl", "{}\n"), "v2.1"),
        "min and max of action: cannot be read",
    ),
    "lerobot a file": ("lerobot", lambda folder: text_file(folder / "pusht"), "is a file, not a folder"),
    "maniskill truncated": ("maniskill", truncated(WRITERS["maniskill"]), "cannot be read"),
    "maniskill without json": (
        "maniskill",
        lambda folder: removed(WRITERS["maniskill"](folder), ".json"),
        "trajectory.state.json is not beside it",
    ),
    "maniskill json": ("maniskill", lambda folder: damaged(WRITERS["maniskill"](folder), ".json"), "json: cannot be read"),
    "maniskill no environment": (
        "maniskill",
        maniskill(lambda file, info: info.pop("env_info")),
        "env_info: is damaged",
    ),
    "maniskill without observations": (
        "maniskill",
        maniskill(without_observations),
        "python -m mani_skill.trajectory.replay_trajectory",
    ),
    "maniskill empty observations": (
        "maniskill",
        maniskill_file(deleted("traj_0/obs/agent", "traj_0/obs/extra")),
        "python -m mani_skill.trajectory.replay_trajectory",
    ),
    "maniskill an episode too few": ("maniskill", maniskill_file(deleted("traj_3")), "traj_3 is in its json, but not in"),
    "maniskill an episode too many": (
        "maniskill",
        maniskill(lambda file, info: info["episodes"].pop(3)),
        "traj_3 is in trajectory.h5, but not in its json",
    ),
    "maniskill an episode twice": (
        "maniskill",
        maniskill(lambda file, info: info["episodes"].append(info["episodes"][3])),
        "json, episodes: episode_id 3 is there twice",
    ),
    "maniskill an episode's number twice": (
        "maniskill",
        maniskill(lambda file, info: info["episodes"][4].update(episode_id=3)),
        "json, episodes: episode_id 3 is there twice",
    ),
    "maniskill no episodes": (
        "maniskill",
        maniskill_file(deleted(*(f"traj_{index}" for index in range(COUNT)))),
        "it holds no episodes",
    ),
    "maniskill lengths": (
        "maniskill",
        maniskill_file(replaced("traj_3/obs/agent/qpos", lambda values: values[:-1])),
        r"traj_3/obs/agent/qpos: has shape \(6, 2\), not \(7, 2\)",
    ),
    "maniskill steps": (
        "maniskill",
        maniskill(lambda file, info: info["episodes"][3].update(elapsed_steps=9)),
        "traj_3: elapsed_steps of its json is 9, its actions are 6",
    ),
    "maniskill NaN": ("maniskill", maniskill_file(replaced("traj_3/actions", with_nan)), "episode 3, actions: holds NaN"),
    "maniskill missing key": ("maniskill", maniskill_file(deleted("traj_3/obs/extra/goal")), "traj_3: cannot be read .*goal"),
    "maniskill other things": ("maniskill", maniskill_file(lambda file: file.create_group("more")), "more: is no traj_N"),
    "ogbench truncated": ("ogbench", truncated(WRITERS["ogbench"]), "cannot be read"),
    "ogbench missing": ("ogbench", ogbench(terminals=None), "has no terminals"),
    "ogbench lengths": ("ogbench", ogbench(terminals=TERMINALS[:-1]), "terminals: has shape"),
    "ogbench no episodes": ("ogbench", ogbench(terminals=0 * TERMINALS), "it holds no episodes"),
    "ogbench cut off": ("ogbench", ogbench(terminals=TERMINALS * (np.arange(ROWS) < ROWS - 1)), "the file was cut off"),
    "ogbench one row": (
        "ogbench",
        ogbench(terminals=np.maximum(TERMINALS, np.arange(ROWS) == 4)),
        "episode 1: has one row, so no step",
    ),
    "ogbench images": (
        "ogbench",
        ogbench(observations=np.zeros((ROWS, 8, 8, 3), np.uint8)),
        r"observations: have shape \(\d+, 8, 8, 3\); need vectors",
    ),
    "ogbench pickle": ("ogbench", ogbench(observations=np.array([{}] * ROWS)), "cannot be read .*pickle"),
    "ogbench discrete": ("ogbench", ogbench(actions=np.zeros(ROWS, int)), "discrete actions"),
    "ogbench NaN": ("ogbench", ogbench(observations=np.full((ROWS, 2), np.nan)), "episode 0, observations: holds NaN"),
}
for one, (key, change, message) in {
    "no actions": ("data/action", None, "has no action, only img, state"),
    "no ends": ("meta/episode_ends", None, "meta/episode_ends: is no array"),
    "no observations": ("data/state", None, "has neither state nor obs; choose some of img with"),
    "lengths": ("data/state", np.zeros((3, 2)), "data/state: has shape"),
    "ends that fall": ("meta/episode_ends", np.array([5, 3, STEPS]), "must go up"),
    "ends elsewhere": ("meta/episode_ends", np.array([5, STEPS - 1]), "must go up"),
    "NaN": ("data/action", np.full((STEPS, 2), np.nan), "data/action: holds NaN"),
}.items():
    BROKEN[f"zarr {one}"] = (
        "zarr",
        lambda folder, key=key, change=change: formats.write_zarr(folder / "pusht.zarr", EPISODES, **{key: change}),  # type: ignore[misc]
        message,
    )


def text_file(path: Path) -> Path:
    path.write_text("no data")
    return path


def removed(path: Path, suffix: str) -> Path:
    path.with_suffix(suffix).unlink()
    return path


def damaged(path: Path, suffix: str) -> Path:
    path.with_suffix(suffix).write_text('{"env_info": {')
    return path


@pytest.mark.parametrize("case", [pytest.param(case, marks=[needs_zarr] if case.startswith("zarr") else []) for case in BROKEN])
def test_what_is_broken_ends_in_one_line(case: str, tmp_path: Path) -> None:
    name, write, message = BROKEN[case]
    path = write(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read(path, name)
    assert "\n" not in str(caught.value)
    assert path.stem in str(caught.value)
    assert [entry for entry in everything(tmp_path) if not entry.endswith(".lock")] == before


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("robomimic", "nothing", "has no nothing, only object, robot0_eef_pos, robot0_joint_pos"),
        ("lerobot", "observation.nothing", r"has no observation\.nothing, only"),
        ("maniskill", "nothing", "has no nothing, only agent/qpos, extra/goal, extra/near"),
        pytest.param("zarr", "nothing", "has no nothing, only", marks=[needs_zarr]),
    ],
)
def test_a_key_that_is_not_there_is_named_beside_those_that_are(name: str, key: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(WRITERS[name](tmp_path), name, observation_keys=[key])


def picture(truth: Truth) -> np.ndarray:
    """Images [T + 1, 4, 5, 3] of which each says where it belongs."""
    size = 4 * 5 * 3
    return (truth.states[:, :1] + np.arange((truth.steps + 1) * size).reshape(-1, size)).astype(np.uint8).reshape(-1, 4, 5, 3)


def with_films(file: h5py.File) -> None:
    """Put images of a camera into robomimic's or ManiSkill's file."""
    for index, truth in enumerate(EPISODES):
        film = picture(truth)
        if "data" in file:
            demo = file[f"data/demo_{index}"]
            demo["obs/agentview_image"], demo["next_obs/agentview_image"] = film[:-1], film[1:]
        else:
            file[f"traj_{index}/obs/sensor_data/base/rgb"] = film


def recording_with_films(name: str, folder: Path) -> tuple[Path, str, str]:
    """A recording of robomimic, ManiSkill or Zarr, and the names of its image and of its least vector."""
    if name == "robomimic":
        return formats.write_robomimic(folder / "demo.hdf5", EPISODES, change=with_films), "agentview_image", "robot0_eef_pos"
    if name == "maniskill":
        path = formats.write_maniskill(folder / "trajectory.h5", EPISODES, change=lambda file, info: with_films(file))
        return path, "sensor_data/base/rgb", "extra/goal"
    films = np.concatenate([picture(truth)[:-1] for truth in EPISODES])
    return formats.write_zarr(folder / "pusht.zarr", EPISODES, **{"data/img": films}), "img", "state"


SEEN = ["robomimic", "maniskill", pytest.param("zarr", marks=needs_zarr)]


@pytest.mark.parametrize("name", SEEN)
def test_chosen_images_are_read(name: str, tmp_path: Path) -> None:
    path, image, vector = recording_with_films(name, tmp_path)
    data = iwbc.load(path, observation_keys=[image, vector])
    blind = iwbc.load(path, observation_keys=[vector])
    assert blind.images == {} and blind.content_hash != data.content_hash
    np.testing.assert_array_equal(data.observations, blind.observations)
    np.testing.assert_array_equal(data.images[image], np.concatenate([picture(truth)[:-1] for truth in EPISODES]))
    last = -2 if name == "zarr" else -1  # whose files have no observation after the last action
    np.testing.assert_array_equal(data.final_images[image], np.stack([picture(truth)[last] for truth in EPISODES]))
    alone = iwbc.load(path, observation_keys=[image])
    assert alone.observations.shape == (STEPS, 0) and list(alone.images) == [image]
    environment = data.info.environment
    if name == "robomimic":
        assert environment is not None and environment.kwargs["observation_keys"] == [vector]
        assert environment.kwargs["images"] == {image: [4, 5, 3]}


@pytest.mark.parametrize("name", SEEN)
def test_images_that_differ_are_refused(name: str, tmp_path: Path) -> None:
    path, image, vector = recording_with_films(name, tmp_path)
    if name == "zarr":
        path = formats.write_zarr(tmp_path / "short.zarr", EPISODES, **{"data/img": np.zeros((3, 4, 5, 3), np.uint8)})
    else:
        place = {"robomimic": "data/demo_3/obs", "maniskill": "traj_3/obs"}[name]
        with h5py.File(path, "r+") as file:
            del file[f"{place}/{image}"]
            file[f"{place}/{image}"] = np.zeros((2, 4, 5, 3), np.uint8)
    with pytest.raises(UserError, match=rf"data/img: has 3 rows for {STEPS} actions|_3/obs/{image}: has shape \(2, 4, 5, 3\)"):
        iwbc.load(path, observation_keys=[image, vector])


def test_robomimic_without_next_obs_ends_with_the_last_image(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        with_films(file)
        for demo in file["data"].values():
            del demo["next_obs"]

    path = formats.write_robomimic(tmp_path / "demo.hdf5", EPISODES, change=change)
    data = iwbc.load(path, observation_keys=["agentview_image"])
    np.testing.assert_array_equal(data.final_images["agentview_image"], np.stack([picture(truth)[-2] for truth in EPISODES]))


def picture_of(name: str, folder: Path) -> tuple[Path, str]:
    """Write a stand-in with an image beside its vectors; return its path and the image's key."""
    if name == "robomimic":
        return robomimic(with_pictures)(folder), "agentview_image"
    if name == "zarr":
        return WRITERS[name](folder), "img"
    if name == "lerobot":
        film = {"observation.images.top": {"dtype": "video", "shape": [4, 4, 3], "names": None}}
        return formats.write_lerobot(folder / "pusht", EPISODES, features=film), "observation.images.top"

    def change(file: h5py.File, info: dict[str, Any]) -> None:
        for index, truth in enumerate(EPISODES):
            file[f"traj_{index}/obs/sensor_data/base/rgb"] = np.zeros((truth.steps + 1, 4, 4, 3), np.uint8)

    return formats.write_maniskill(folder / "trajectory.h5", EPISODES, change=change), "sensor_data/base/rgb"


@pytest.mark.parametrize("name", ["robomimic", "lerobot", "maniskill", pytest.param("zarr", marks=[needs_zarr])])
def test_images_are_among_the_keys_that_can_be_chosen_where_they_are_read(name: str, tmp_path: Path) -> None:
    path, image = picture_of(name, tmp_path)
    with pytest.raises(UserError, match="has no nothing, only ") as caught:
        read(path, name, observation_keys=["nothing"])
    assert (image in str(caught.value)) is (name != "lerobot")
    (note,) = [note for note in iwbc.load(path).info.notes if image in note]
    assert note.startswith("images are not read: " if name == "lerobot" else "not used of its observations: ")


@pytest.mark.parametrize("alone", [False, True])
def test_robomimic_groups_among_observations_are_no_images(alone: bool, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        for demo in file["data"].values():
            demo["obs/more/pose"] = np.zeros((demo["actions"].shape[0], 3))
            if alone:
                for name in ("object", "robot0_eef_pos", "robot0_joint_pos"):
                    del demo[f"obs/{name}"]
            else:
                demo["obs/depth"] = np.zeros((demo["actions"].shape[0], 8, 8, 1), np.float32)

    path = robomimic(change)(tmp_path)
    if alone:
        with pytest.raises(UserError, match="none of its observations is one of the study's; it has no other arrays"):
            iwbc.load(path)
        return
    notes = iwbc.load(path).info.notes
    assert "images are not read: depth" in notes
    assert "not read of its observations, since they are no arrays: more" in notes


def test_images_of_numbers_are_refused_by_name(tmp_path: Path) -> None:
    def depth(file: h5py.File) -> None:
        for demo in file["data"].values():
            demo["obs/depth"] = np.zeros((demo["actions"].shape[0], 8, 8, 1), np.float32)

    path = robomimic(depth)(tmp_path)
    check_truths(iwbc.load(path), "robomimic")
    with pytest.raises(UserError, match="obs/depth: images are read as uint8, and it holds 8×8×1 float32"):
        iwbc.load(path, observation_keys=["depth"])


@pytest.mark.parametrize("asked", ["robomimic", "lerobot", "maniskill", "ogbench", "zarr", "d4rl", "minari"])
@pytest.mark.parametrize("name", ["robomimic", "lerobot", "maniskill", "ogbench", pytest.param("zarr", marks=[needs_zarr])])
def test_another_format_is_named_with_the_setting_that_reads_it(name: str, asked: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path)
    if name == asked:
        check_truths(read(path, name), name)
        return
    with pytest.raises(UserError) as caught:
        load_dataset(DATASETS[asked](**{"id" if asked == "minari" else "path": str(path)}))
    assert str(caught.value) == f"dataset={asked}: {path} is of {name}; take dataset={name} dataset.path={path}"
    with pytest.raises(UserError, match=f"take dataset={name}"):
        iwbc.load(path, source=asked)


@pytest.mark.parametrize("asked", ["robomimic", "maniskill", "ogbench"])
def test_arrays_as_d4rl_s_are_named(asked: str, tmp_path: Path) -> None:
    path = tmp_path / "hopper.hdf5"
    with h5py.File(path, "w") as file:
        for key, value in seven_steps().items():
            file[key] = value
    with pytest.raises(UserError, match=r"hopper\.hdf5 is of d4rl; take dataset=d4rl"):
        read(path, asked)


@pytest.mark.parametrize("name", ["robomimic", "lerobot", "maniskill", "ogbench", "zarr"])
def test_what_is_not_there_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: no such f"):
        read(tmp_path / "nothing", name)


@needs_zarr
@pytest.mark.parametrize("version", [2, 3])
def test_a_codec_that_runs_code_is_refused(version: int, tmp_path: Path) -> None:
    path = formats.write_zarr(tmp_path / "pusht.zarr", EPISODES, version)
    file = path / "data" / "action" / (".zarray" if version == 2 else "zarr.json")
    metadata = json.loads(file.read_text())
    if version == 2:
        metadata["filters"] = [{"id": "pickle"}]
    else:
        metadata["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"its codec (numcodecs\.)?pickle is not one of"):
        iwbc.load(path)


@needs_zarr
@pytest.mark.parametrize("name", ["pusht.zarr.zip", "pusht.zip", "deep.zip"])
def test_a_zarr_folder_in_a_zip_is_to_be_unpacked(name: str, tmp_path: Path) -> None:
    folder = WRITERS["zarr"](tmp_path)
    path = Path(
        shutil.make_archive(str(tmp_path / name.removesuffix(".zip")), "zip", *([tmp_path] if "deep" in name else [folder]))
    )
    for read in (
        lambda: iwbc.load(path),
        lambda: iwbc.load(path, source="zarr"),
        lambda: load_dataset(DATASETS["zarr"](path=str(path))),
    ):
        with pytest.raises(UserError, match=rf"{name}: is a Zarr folder in a zip, which is not read; unpack it"):
            read()
    with pytest.raises(UserError, match=r"nothing\.zarr\.zip: no such file"):
        iwbc.load(tmp_path / "nothing.zarr.zip")


@needs_zarr
def test_zarr_offers_vectors_alone(tmp_path: Path) -> None:
    """Images of some have a codec that is not read; they are no reason to refuse the rest by."""
    arm = {"data/state": None, "data/arm": np.zeros((STEPS, 3), np.float32)}
    path = formats.write_zarr(tmp_path / "pusht.zarr", EPISODES, **arm)
    file = path / "data" / "img" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"compressor": {"id": "imagecodecs_jpegxl"}}))
    with pytest.raises(UserError, match=r"has neither state nor obs; choose some of arm with"):
        iwbc.load(path)


@needs_zarr
def test_a_shape_beyond_the_files_is_refused(tmp_path: Path) -> None:
    path = formats.write_zarr(tmp_path / "pusht.zarr", EPISODES)
    file = path / "data" / "action" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shape": [10**9, 2]}))
    with pytest.raises(UserError, match="larger than the files can hold"):
        iwbc.load(path)


@pytest.mark.skipif(HAS_ZARR, reason="the extra zarr is installed")
def test_zarr_names_its_extra(tmp_path: Path) -> None:
    for name in ("data/action", "meta/episode_ends"):
        (tmp_path / "pusht.zarr" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="it needs the extra zarr"):
        iwbc.load(tmp_path / "pusht.zarr")
