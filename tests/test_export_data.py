"""Curated data in the layouts of others: every value as it was, weights that others apply, one line where it cannot be."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import formats
import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import everything, make_episode, make_info, quick
from hypothesis import given
from hypothesis import strategies as st
from pendulum import ID, QUICK
from setups import Outcome, command, read_csv, train

import iwbc
from iwbc import settings
from iwbc.data.curated import Curated
from iwbc.data.curation import curate
from iwbc.data.formats import lerobot_writer, robomimic_writer
from iwbc.data.formats.lerobot_writer import progress_table, write_lerobot
from iwbc.data.formats.robomimic_writer import write_robomimic
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.minari_writer import write_minari
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.environments.spaces import Part
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import DataWarning, UserError

NAME = "toy/robot/pick-v0"
KEPT = [0, 2, 3, 11]  # demo_11 comes before demo_2 in the order of letters
WEIGHTS = np.zeros(12)
WEIGHTS[KEPT] = [2.0, 0.5, 1.0, 2.0]
GROUPS: dict[int, tuple[str, ...]] = {0: ("better", "task: lift the cube"), 2: ("better",), 5: ("worse", "task: push")}


def info() -> DatasetInfo:
    parts = [Part(("object",), (2, 2)), Part(("robot", "eef_pos"), (3,)), Part(("grip",), (), (2,), (0,))]
    groups = ["better", "worse", "task: lift the cube", "task: push"]
    return dataclasses.replace(make_info(id=NAME), observation_parts=parts, groups=groups, fps=20.0)


def episodes() -> Iterator[Episode]:
    for i in range(12):
        made = make_episode(3 + i % 4, observation_size=9, terminated=i % 3 > 0, success=i % 2 == 0, seed=i)
        yield dataclasses.replace(made, groups=GROUPS.get(i, ()))


@pytest.fixture
def data(datasets: Path) -> Trajectories:
    write_minari(info(), episodes(), description="")
    return iwbc.load(NAME)


@pytest.fixture
def curated(data: Trajectories) -> Curated:
    return Curated(data, WEIGHTS, "trajectory")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "given.csv"
    path.write_text("episode,weight\n" + "".join(f"{i},{weight}\n" for i, weight in enumerate(WEIGHTS)))
    return path


def export(*arguments: object) -> Outcome:
    return command("iwbc.export_data", *map(str, arguments))


# --- a list --------------------------------------------------------------------------------------------------------------


def test_a_list_is_what_curation_takes_back(data: Trajectories, tmp_path: Path) -> None:
    out = tmp_path / "made" / "weights.csv"
    outcome = export(NAME, "curation=return_weighted", "format=list", f"out={out}")
    assert (outcome.code, outcome.err.count("\n")) == (0, 1)  # a warning of labelled failures
    with pytest.warns(DataWarning, match="labelled failures"):
        expected = curate(data, settings.ReturnWeighted())
    again = curate(data, settings.TrajectoryWeights(str(out)))
    assert again.curation_weights.tolist() == expected.curation_weights.tolist()
    assert list(read_csv(out)[0]) == ["episode", "weight"]


def test_what_is_kept_is_printed(data: Trajectories, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    outcome = export(NAME, "curation=weights", f"curation.path={file}", "format=list", f"out={out}")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        f"{NAME}: curation=weights keeps 4 of 12 trajectories, 20 of 54 steps",
        "kept episodes, counted from 0 as they are loaded: [0,2,3,11]",
        str(out),
    ]


def test_of_robomimic_s_files_the_demos_are_named_as_they_are_there(tmp_path: Path) -> None:
    def renumber(made: h5py.File) -> None:  # as after demos have been deleted
        del made["mask"]
        for old, new in ((3, 11), (2, 7)):
            made.move(f"data/demo_{old}", f"data/demo_{new}")

    source = formats.write_robomimic(tmp_path / "gaps.hdf5", formats.truths(4), change=renumber)
    marks = tmp_path / "marks.csv"
    marks.write_text("episode,weight\n0,0\n1,1\n2,0\n3,1\n")
    chosen = ("curation=weights", f"curation.path={marks}", "format=list")
    outcome = export(str(source), *chosen, f"out={tmp_path / 'x.csv'}")
    assert 'original file, robomimic\'s mask: {"kept": ["demo_1", "demo_11"]}' in outcome.out.splitlines()
    named = ("dataset=robomimic", f"dataset.path={source}")
    outcome = export(*named, *chosen, f"out={tmp_path / 'y.csv'}")
    assert 'original file, robomimic\'s mask: {"kept": ["demo_1", "demo_11"]}' in outcome.out.splitlines()


def test_of_lerobot_s_folders_the_episodes_are_printed_for_lerobot_train(tmp_path: Path) -> None:
    source = formats.write_lerobot(tmp_path / "folder", formats.truths(4))
    outcome = export(str(source), "curation=success", "format=list", f"out={tmp_path / 'x.csv'}")
    assert "original files, lerobot-train: --dataset.episodes=[0,3]" in outcome.out.splitlines()


def test_a_dataset_may_be_a_folder_a_file_or_settings(data: Trajectories, tmp_path: Path) -> None:
    arrays = tmp_path / "steps.hdf5"
    with h5py.File(arrays, "w") as steps:
        steps["observations"], steps["actions"] = data.observations, data.actions
        steps["rewards"], steps["timeouts"] = data.rewards, np.isin(np.arange(data.steps), data.offsets[1:] - 1)
        steps["terminals"] = np.zeros(data.steps, bool)
    for number, words in enumerate(
        ([dataset_folder(NAME)], [arrays], ["env=from_dataset", "dataset=minari", f"dataset.id={NAME}"])
    ):
        out = tmp_path / f"{number}.csv"
        outcome = export(*words, "curation=all", "format=list", f"out={out}")
        assert outcome.code == 0, outcome.err
        assert [row["weight"] for row in read_csv(out)] == ["1.0"] * 12


def test_a_named_dataset_is_read_with_settings(data: Trajectories, file: Path, tmp_path: Path) -> None:
    words = ["curation=all", "format=robomimic", f"out={tmp_path / 'some.hdf5'}"]
    outcome = export(NAME, "dataset.action_low=-2", "dataset.clip_actions=true", *words)
    assert outcome.code == 0, outcome.err
    refused = export(NAME, "dataset=medium", "curation=all", "format=list", f"out={tmp_path / 'x.csv'}")
    assert refused.code == 2
    assert f"dataset=medium: chooses a dataset, beside {NAME}" in refused.err


# --- robomimic -----------------------------------------------------------------------------------------------------------


def read_robomimic(path: Path) -> tuple[dict[str, Any], dict[int, dict[str, npt.NDArray[np.float64]]], dict[str, list[str]]]:
    """Read attributes, arrays by the demo's number, and filter keys."""
    arrays: dict[int, dict[str, npt.NDArray[np.float64]]] = {}
    with h5py.File(path) as opened:
        for name, demo in opened["data"].items():
            held: dict[str, npt.NDArray[np.float64]] = {}
            demo.visititems(lambda key, item, held=held: held.update({key: item[()]} if isinstance(item, h5py.Dataset) else {}))
            arrays[int(name[5:])] = held | {f"@{key}": value for key, value in demo.attrs.items()}
        masks = {key: [entry.decode() for entry in mask[()]] for key, mask in opened["mask"].items()}
        return dict(opened["data"].attrs), arrays, masks


def test_robomimic_has_every_value(curated: Curated, tmp_path: Path) -> None:
    write_robomimic(curated, tmp_path / "demo.hdf5")
    attributes, demos, _ = read_robomimic(tmp_path / "demo.hdf5")
    assert attributes["total"] == 54
    assert sorted(demos) == list(range(12))
    for index, episode in enumerate(curated.trajectories):
        demo, steps = demos[index], len(episode.rewards)
        seen = np.concatenate([episode.observations, episode.final_observation[None]]).astype(np.float64)
        for group, rows in (("obs", seen[:-1]), ("next_obs", seen[1:])):
            assert np.array_equal(demo[f"{group}/object"], rows[:, :4].reshape(steps, 2, 2))
            assert np.array_equal(demo[f"{group}/robot_eef_pos"], rows[:, 4:7])
            assert np.array_equal(demo[f"{group}/grip"], rows[:, 7:])
        assert np.array_equal(demo["actions"], episode.actions)
        assert np.array_equal(demo["rewards"], episode.rewards)
        assert demo["dones"].tolist() == [0.0] * (steps - 1) + [float(episode.terminated)]
        assert {array.dtype for key, array in demo.items() if key[0] != "@"} == {np.dtype(np.float64)}
        assert (demo["@num_samples"], demo["@weight"], demo["@success"]) == (steps, WEIGHTS[index], episode.success)


def test_robomimic_has_filter_keys(curated: Curated, tmp_path: Path) -> None:
    write_robomimic(curated, tmp_path / "demo.hdf5")
    masks = read_robomimic(tmp_path / "demo.hdf5")[2]
    assert masks == {
        "kept": ["demo_0", "demo_2", "demo_3", "demo_11"],
        "weight_0.5": ["demo_2"],
        "weight_1": ["demo_3"],
        "weight_2": ["demo_0", "demo_11"],
        "better": ["demo_0", "demo_2"],
        "worse": ["demo_5"],
        "task: lift the cube": ["demo_0"],
        "task: push": ["demo_5"],
    }


def test_weights_that_are_many_have_no_filter_keys(data: Trajectories) -> None:
    assert robomimic_writer.weight_keys(Curated(data, np.arange(12.0), "trajectory")) == {}  # 11 of them
    assert len(robomimic_writer.weight_keys(Curated(data, np.arange(12.0).clip(max=10.0), "trajectory"))) == 10
    assert robomimic_writer.weight_keys(Curated(data, np.full(12, 3.0), "trajectory")) == {}
    assert robomimic_writer.weight_keys(Curated(data, 1.0 + 1e-9 * np.arange(12.0).clip(max=1.0), "trajectory")) == {}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (None, {"env_name": "none", "type": 0, "env_kwargs": {}}),
        (EnvironmentSpec("Hopper-v5", {"a": 1}), {"env_name": "Hopper-v5", "type": 2, "env_kwargs": {"a": 1}}),
        (
            EnvironmentSpec("robosuite/Lift", {"robots": "Panda", "observation_keys": ["object"]}),
            {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": "Panda"}},
        ),
    ],
)
def test_robomimic_is_told_the_environment(environment: EnvironmentSpec | None, expected: dict[str, Any]) -> None:
    made = robomimic_writer.env_args(dataclasses.replace(info(), environment=environment))
    assert {key: value for key, value in made.items() if key != "env_version"} == expected


def test_observation_keys() -> None:
    plain = dataclasses.replace(make_info(), observation_parts=None)
    assert robomimic_writer.observation_keys(plain, 3) == {"flat": (slice(0, 3), (3,))}
    same = dataclasses.replace(plain, observation_parts=[Part(("a", "b"), (2,)), Part(("a_b",), ())])
    assert robomimic_writer.observation_keys(same, 3) == {"a_b": (slice(0, 2), (2,)), "a_b_2": (slice(2, 3), (1,))}


def test_robomimic_is_told_of_what_does_not_fit(data: Trajectories, tmp_path: Path) -> None:
    wide = dataclasses.replace(
        data, actions=2.0 * data.actions, info=dataclasses.replace(data.info, groups=["kept", "b", "c", "d"])
    )
    with pytest.warns(DataWarning) as given:
        write_robomimic(Curated(wide, WEIGHTS, "trajectory"), tmp_path / "demo.hdf5")
    said = [str(warning.message) for warning in given]
    assert "robomimic wants -1 to 1" in said[0]
    other = sum(bool((episode.rewards > 0).any()) != episode.success for episode in data)
    assert f"a reward above 0 for success, which is not the label of {other} of 12 episodes" in said[1]
    assert "group kept: is left out" in said[2]
    assert read_robomimic(tmp_path / "demo.hdf5")[2]["kept"] == ["demo_0", "demo_2", "demo_3", "demo_11"]


def test_robomimic_of_a_subset_goes_by_the_rewards_of_the_subset(data: Trajectories, tmp_path: Path) -> None:
    rewards = np.zeros(data.steps, np.float32)
    ends = data.offsets[1:] - 1
    assert data.successes is not None
    rewards[ends[data.successes]] = 1.0
    some = dataclasses.replace(data, rewards=rewards).subset(np.array([7, 2, 1, 10]))
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        write_robomimic(Curated(some, np.ones(4), "trajectory"), tmp_path / "demo.hdf5")
    assert not any("reward above 0" in str(warning.message) for warning in given)


# --- lerobot -------------------------------------------------------------------------------------------------------------


def frames_of(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the columns of all frames."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("data/*/*.parquet"))])
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


@pytest.fixture
def folder(curated: Curated, tmp_path: Path) -> Path:
    write_lerobot(curated, tmp_path / "set", fps=20.0, environment_state=["object"])
    return tmp_path / "set"


def test_lerobot_has_every_value_of_the_kept(curated: Curated, folder: Path) -> None:
    frames, data = frames_of(folder), curated.trajectories
    start = 0
    for number, index in enumerate(KEPT):
        episode = data[index]
        steps = len(episode.rewards)
        of_episode = {name: values[start : start + steps] for name, values in frames.items()}
        last = [False] * (steps - 1) + [True]
        assert np.array_equal(of_episode["observation.environment_state"].astype(np.float32), episode.observations[:, :4])
        assert np.array_equal(of_episode["observation.state"].astype(np.float32), episode.observations[:, 4:])
        assert np.array_equal(of_episode["action"].astype(np.float32), episode.actions)
        assert np.array_equal(of_episode["next.reward"].astype(np.float32), episode.rewards)
        assert of_episode["next.done"].tolist() == last
        assert of_episode["next.truncated"].tolist() == [end and not episode.terminated for end in last]
        assert of_episode["next.success"].tolist() == [end and episode.success for end in last]
        assert of_episode["timestamp"].astype(np.float32).tolist() == (np.arange(steps) / 20.0).astype(np.float32).tolist()
        assert of_episode["frame_index"].tolist() == list(range(steps))
        assert set(of_episode["episode_index"].tolist()) == {number}
        assert of_episode["index"].tolist() == list(range(start, start + steps))
        assert set(of_episode["task_index"].tolist()) == {0 if number == 0 else 1}
        start += steps
    assert start == len(frames["index"]) == 20


def test_lerobot_types_and_row_groups(folder: Path) -> None:
    read = pq.ParquetFile(folder / "data" / "chunk-000" / "file-000.parquet")
    types = {column.name: str(column.type) for column in read.schema_arrow}
    assert types["observation.state"] == "fixed_size_list<element: float>[5]"
    assert types["action"] == "fixed_size_list<element: float>[2]"
    assert (types["next.reward"], types["next.done"], types["index"]) == ("float", "bool", "int64")
    assert [read.metadata.row_group(group).num_rows for group in range(read.num_row_groups)] == [3, 5, 6, 6]


def test_lerobot_descriptions(folder: Path) -> None:
    described = json.loads((folder / "meta" / "info.json").read_text())
    totals = [described[f"total_{what}"] for what in ("episodes", "frames", "tasks")]
    assert (described["codebase_version"], described["fps"], totals) == ("v3.0", 20, [4, 20, 2])
    state = {
        "dtype": "float32",
        "shape": [5],
        "names": ["robot/eef_pos[0]", "robot/eef_pos[1]", "robot/eef_pos[2]", "grip[0]", "grip[1]"],
    }
    assert described["features"]["observation.state"] == state
    assert set(described["features"]) == set(frames_of(folder))
    tasks = pq.read_table(folder / "meta" / "tasks.parquet").to_pandas()
    assert (tasks.index.tolist(), tasks["task_index"].tolist()) == (["lift the cube", NAME], [0, 1])
    rows = pq.read_table(folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"], row["length"]) for row in rows] == [
        *((0, 3, 3), (3, 8, 5), (8, 14, 6), (14, 20, 6))
    ]
    assert [row["tasks"] for row in rows] == [["lift the cube"], [NAME], [NAME], [NAME]]
    assert [tuple(row.values()) for row in read_csv(folder / "curation.csv")] == [
        ("0", "0", "2.0", "better; task: lift the cube"),
        ("1", "2", "0.5", "better"),
        ("2", "3", "1.0", ""),
        ("3", "11", "2.0", ""),
    ]


def test_lerobot_statistics(folder: Path) -> None:
    frames, stats = frames_of(folder), json.loads((folder / "meta" / "stats.json").read_text())
    rows = pq.read_table(folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert set(stats) == set(frames)
    for name, values in frames.items():
        columns = values.reshape(20, -1).astype(np.float64)
        for some, of_frames in ((slice(0, 20), stats[name]), (slice(3, 8), None)):
            said = of_frames or {
                key.split("/")[-1]: value for key, value in rows[1].items() if key.startswith(f"stats/{name}/")
            }
            expected = {"mean": columns[some].mean(0), "std": columns[some].std(0), "min": columns[some].min(0)}
            expected |= {"max": columns[some].max(0), "count": np.array([len(columns[some])])}
            expected |= {f"q{share:02d}": np.quantile(columns[some], share / 100, axis=0) for share in (1, 10, 50, 90, 99)}
            assert set(said) == set(expected)
            for key, value in expected.items():
                np.testing.assert_allclose(said[key], value, rtol=1e-6, atol=1e-9, err_msg=f"{name} {key}")


def test_lerobot_begins_another_file_where_one_is_full(
    curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lerobot(curated, tmp_path / "whole", fps=20.0)
    monkeypatch.setattr(lerobot_writer, "_MEGABYTES", 0.0007)
    monkeypatch.setattr(lerobot_writer, "_FILES", 2)
    monkeypatch.setattr(lerobot_writer, "_EPISODES_AT_ONCE", 3)
    write_lerobot(curated, tmp_path / "parts", fps=20.0)
    names = [name for name in everything(tmp_path / "parts" / "data") if name.endswith("parquet")]
    assert names == ["chunk-000/file-000.parquet", "chunk-000/file-001.parquet", "chunk-001/file-000.parquet"]
    rows = pq.read_table(tmp_path / "parts" / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    for row in rows:
        path = (
            tmp_path / "parts" / "data" / f"chunk-{row['data/chunk_index']:03d}" / f"file-{row['data/file_index']:03d}.parquet"
        )
        assert row["episode_index"] in pq.read_table(path)["episode_index"].to_pylist()
    whole, parts = frames_of(tmp_path / "whole"), frames_of(tmp_path / "parts")
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_what_is_the_environment_s_state(curated: Curated, tmp_path: Path) -> None:
    write_lerobot(curated, tmp_path / "both", fps=20.0, environment_state=["all"])
    write_lerobot(curated, tmp_path / "state", fps=20.0)
    both, state = frames_of(tmp_path / "both"), frames_of(tmp_path / "state")
    assert np.array_equal(both["observation.environment_state"], both["observation.state"])
    assert state["observation.state"].shape == (20, 9)
    assert "observation.environment_state" not in state
    parts = [Part(("observation.environment_state",), (4,)), Part(("observation.state",), (5,))]
    named = dataclasses.replace(curated.trajectories, info=dataclasses.replace(info(), observation_parts=parts))
    write_lerobot(dataclasses.replace(curated, trajectories=named), tmp_path / "named", fps=20.0)
    assert np.array_equal(frames_of(tmp_path / "named")["observation.environment_state"], state["observation.state"][:, :4])
    with pytest.raises(UserError, match=r"environment_state=cube: no part of the observations .* object, robot/eef_pos, grip"):
        write_lerobot(curated, tmp_path / "x", fps=20.0, environment_state=["object", "cube"])


def test_lerobot_is_told_of_what_does_not_fit(curated: Curated, tmp_path: Path) -> None:
    data = curated.trajectories
    groups = np.ones((12, 4), bool)
    crowded = dataclasses.replace(data, actions=data.actions[:, :1], groups=groups)
    with pytest.warns(DataWarning) as given:
        write_lerobot(dataclasses.replace(curated, trajectories=crowded), tmp_path / "set", fps=20.0)
    said = [str(warning.message) for warning in given]
    assert "action has 1 entry" in said[0]
    assert "4 episodes have several tasks; each is written with that which is first among the dataset's groups" in said[1]


@pytest.mark.parametrize(
    ("curation", "words", "said", "tasks"),
    [
        ("curation=weights", [], f"no task is known of 3 episodes: {NAME} is written; task=… says another", [NAME]),
        ("curation=weights", ["task=pour tea"], None, ["pour tea"]),
        ("curation=groups", ["curation.keep=[task: push]"], None, ["push"]),
    ],
)
def test_a_task_that_no_group_tells_is_said(
    curation: str, words: list[str], said: str | None, tasks: list[str], data: Trajectories, file: Path, tmp_path: Path
) -> None:
    path = [f"curation.path={file}"] if curation == "curation=weights" else []
    outcome = export(NAME, curation, *path, *words, "format=lerobot", f"out={tmp_path / 'set'}")
    assert outcome.code == 0, outcome.err
    assert [line for line in outcome.out.splitlines() if "task is known" in line] == ([said] if said else [])
    written = pq.read_table(tmp_path / "set" / "meta" / "tasks.parquet")["task"].to_pylist()
    assert written[-1:] == tasks


def test_a_task_for_none_is_refused(data: Trajectories, tmp_path: Path) -> None:
    words = ["curation=groups", "curation.keep=[task: push]", "format=lerobot", f"out={tmp_path / 'set'}"]
    assert export(NAME, *words, "task=pour tea").err.splitlines()[-1].startswith("task=pour tea: would change nothing")


@pytest.mark.parametrize("next_obs", [True, False])
def test_a_last_observation_that_data_never_had_is_not_said_to_be_left_out(next_obs: bool, tmp_path: Path) -> None:
    source = formats.write_robomimic(tmp_path / "demo.hdf5", formats.truths(4), next_obs=next_obs)
    outcome = export(str(source), "format=lerobot", f"out={tmp_path / 'set'}")
    assert outcome.code == 0, outcome.err
    assert ("lerobot has no place for the observation after" in outcome.out) == next_obs


# --- weights of frames ---------------------------------------------------------------------------------------------------


def weights_in_training(table: pa.Table, chunk: int, kappa: float = 2.0) -> dict[int, float]:
    """Compute each frame's weight by the equations of lerobot's RA-BC (lerobot/utils/rabc.py of 0.4.4)."""
    index, episode, progress = (table[name].to_pylist() for name in ("index", "episode_index", "progress_sparse"))
    at, end = dict(zip(index, progress, strict=True)), dict[int, int]()
    for i, e in zip(index, episode, strict=True):
        end[e] = max(end.get(e, 0), i)
    deltas = {i: at[min(i + chunk, end[e])] - at[i] for i, e in zip(index, episode, strict=True)}
    mean, std = max(float(np.mean(list(deltas.values()))), 0.0), max(float(np.std(list(deltas.values()))), 1e-6)

    def weight(delta: float) -> float:
        soft = min(max((delta - (mean - 2.0 * std)) / (4.0 * std + 1e-6), 0.0), 1.0)
        return 0.0 if delta < 0 else 1.0 if delta > kappa else soft

    return {i: weight(delta) for i, delta in deltas.items()}


@quick
@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.0, 8.0)), min_size=1, max_size=8),
    st.integers(1, 40),
    st.sampled_from([1.0, 1e-6, 1e6]),
)
def test_lerobot_weighs_frames_as_they_are_weighed(episodes: list[tuple[int, float]], chunk: int, unit: float) -> None:
    lengths, weights = np.array([length for length, _ in episodes]), unit * np.array([weight for _, weight in episodes])
    starts = np.cumsum(lengths) - lengths
    if not (weights[lengths > 1] > 1e-3 * unit).any():
        return
    table = progress_table(starts, lengths, weights, chunk)
    trained = weights_in_training(table, chunk)
    expected = np.repeat(weights, lengths)
    expected[starts + lengths - 1] = 0.0
    received = np.array([trained[index] for index in range(lengths.sum())])
    assert received.max() > 0.0
    np.testing.assert_allclose(received / received.max(), expected / expected.max(), atol=1e-6)
    assert table["index"].to_pylist() == list(range(len(table)))
    assert len(table) <= 5 * lengths.sum() + 20


def test_an_average_over_trajectories_weighs_frames_of_long_ones_less(data: Trajectories, tmp_path: Path) -> None:
    for averaging in ("trajectory", "transition"):
        curated = Curated(data, WEIGHTS, averaging)
        write_lerobot(curated, tmp_path / averaging, fps=20.0, chunk=4)
        trained = weights_in_training(pq.read_table(tmp_path / averaging / "sarm_progress.parquet"), 4)
        frames = frames_of(tmp_path / averaging)
        kept = WEIGHTS[KEPT] / (data.lengths[KEPT] if averaging == "trajectory" else 1.0)
        expected = np.where(frames["next.done"], 0.0, kept[frames["episode_index"]])
        received = np.array([trained[index] for index in frames["index"].tolist()])
        np.testing.assert_allclose(received / received.max(), expected / expected.max(), atol=1e-6)


def test_frames_of_the_original_are_weighed(data: Trajectories, file: Path, tmp_path: Path) -> None:
    original, out = tmp_path / "original", tmp_path / "x" / "weights.parquet"
    write_lerobot(Curated(data, np.ones(12), "trajectory"), original, fps=20.0)
    words = [NAME, "curation=weights", f"curation.path={file}", "averaging=transition", "format=rabc", f"original={original}"]
    outcome = export(*words, f"out={out}", "chunk=3")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"--sample_weighting.type=rabc --sample_weighting.kappa=2 --sample_weighting.progress_path={out}\n" in outcome.out
    trained, frames = weights_in_training(pq.read_table(out), 3), frames_of(original)
    expected = np.where(frames["next.done"], 0.0, WEIGHTS[frames["episode_index"]])
    received = np.array([trained[index] for index in frames["index"].tolist()])
    np.testing.assert_allclose(received / received.max(), expected / expected.max(), atol=1e-6)


def test_episodes_of_one_step_cannot_be_weighed() -> None:
    with pytest.raises(UserError, match="no episode that is kept has a second one"):
        progress_table(np.arange(3), np.ones(3, np.int64), np.ones(3), 50)


def with_episodes(folder: Path, change: dict[str, list[int]]) -> None:
    path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    columns = pq.read_table(path).to_pydict()
    pq.write_table(pa.table({**{name: columns[name] for name in columns if "/" not in name}, **change}), path)


def with_info(folder: Path, change: dict[str, object]) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


WRONG_ORIGINALS = {
    "nothing": (shutil.rmtree, "no LeRobotDataset; .*info.json cannot be used"),
    "no JSON": (lambda folder: (folder / "meta" / "info.json").write_text("{"), "no LeRobotDataset; .*cannot be used"),
    "version": (lambda folder: with_info(folder, {"codebase_version": "v2.1"}), "is of version v2.1, not v3.0; convert it by"),
    "no episodes": (lambda folder: shutil.rmtree(folder / "meta" / "episodes"), "holds no meta/episodes"),
    "damage": (
        lambda folder: (folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet").write_bytes(b"PAR1"),
        r"file-000\.parquet: cannot be read",
    ),
    "missing episode": (
        lambda folder: with_episodes(folder, {"episode_index": [0, *range(2, 13)]}),
        "has 12 episodes, dataset",
    ),
    "another length": (
        lambda folder: with_episodes(folder, {"dataset_to_index": [9] * 12, "dataset_from_index": [0] * 12}),
        "episode 0: has 9 frames, 3 in dataset",
    ),
    "null": (lambda folder: with_episodes(folder, {"dataset_to_index": [None] * 12}), "damaged|are they the same"),
}


@pytest.mark.parametrize("kind", WRONG_ORIGINALS)
def test_another_original_is_refused(kind: str, data: Trajectories, tmp_path: Path) -> None:
    break_it, message = WRONG_ORIGINALS[kind]
    original = tmp_path / "original"
    write_lerobot(Curated(data, np.ones(12), "trajectory"), original, fps=20.0)
    break_it(original)
    outcome = export(NAME, "curation=all", "format=rabc", f"original={original}", f"out={tmp_path / 'out.parquet'}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert_matches(message, outcome.err)
    assert [path.name for path in tmp_path.iterdir() if path != original] == ["datasets"]


def assert_matches(pattern: str, text: str) -> None:
    with pytest.raises(UserError, match=pattern):
        raise UserError(text)


# --- Minari --------------------------------------------------------------------------------------------------------------


def test_a_minari_dataset_of_the_kept(data: Trajectories, file: Path) -> None:
    outcome = export(NAME, "curation=weights", f"curation.path={file}", "format=minari", "id=toy/robot/kept-v0")
    assert (outcome.code, outcome.err, outcome.out.splitlines()[-1]) == (0, "", "toy/robot/kept-v0")
    kept = iwbc.load("toy/robot/kept-v0")
    assert kept.info == dataclasses.replace(data.info, id="toy/robot/kept-v0")
    assert len(kept) == 4
    for made, index in zip(kept, KEPT, strict=True):
        for name, value in dataclasses.asdict(data[index]).items():
            assert np.array_equal(getattr(made, name), value), name
    metadata = json.loads((dataset_folder("toy/robot/kept-v0") / "data" / "metadata.json").read_text())
    assert (metadata["weights"], metadata["original_episodes"]) == ([2.0, 0.5, 1.0, 2.0], KEPT)
    assert export(NAME, "format=minari", "id=toy/robot/kept-v0").err.startswith("dataset toy/robot/kept-v0: is there already")


def test_an_environment_that_is_not_here_is_left_out_of_a_minari_dataset(datasets: Path, tmp_path: Path) -> None:
    source = formats.write_maniskill(tmp_path / "trajectory.h5", formats.truths())
    outcome = export(source, "curation=success", "format=minari", "id=toy/robot/kept-v0")
    assert outcome.code == 0, outcome.err
    assert "id=toy/robot/kept-v0: the environment is not kept with the data: environment PickCube-v1: cannot" in outcome.err
    kept, made = iwbc.load("toy/robot/kept-v0"), iwbc.load(source)
    assert kept.info == dataclasses.replace(made.info, id=kept.info.id, environment=None)
    assert made.successes is not None
    for episode, index in zip(kept, np.flatnonzero(made.successes).tolist(), strict=True):
        assert np.array_equal(episode.observations, made[index].observations)


# --- weights of a run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeds(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds, from which a fifth of the trajectories was held out."""
    folder = tmp_path_factory.mktemp("runs") / "seeds"
    assert train(*QUICK, "curation.fraction=0.6", "seeds=[3,5]", "held_out=0.2", f"hydra.run.dir={folder}").code == 0
    return folder


def listed(out: Path, *words: object) -> npt.NDArray[np.float64]:
    outcome = export(*words, "format=list", f"out={out}")
    assert outcome.code == 0, outcome.err
    return np.array([float(row["weight"]) for row in read_csv(out)])


def test_a_run_s_weights(run: Path, tmp_path: Path) -> None:
    weights = listed(tmp_path / "all.csv", f"weights={run}")
    rows = read_csv(run / "weights.csv")
    expected = np.zeros(20)
    for row in rows:
        expected[int(row["trajectory"])] = float(row["curation"]) * float(row["weight"])
    assert np.count_nonzero(expected) == 5
    assert weights.tolist() == expected.tolist()
    assert listed(tmp_path / "same.csv", ID, f"weights={run}", "seed=0").tolist() == expected.tolist()


def test_weights_of_held_out_trajectories_are_0_and_others_their_own(seeds: Path, tmp_path: Path) -> None:
    data, rows = iwbc.load(ID), read_csv(seeds / "weights.csv")
    by_seed = {seed: listed(tmp_path / f"{seed}.csv", f"weights={seeds}", f"seed={seed}") for seed in (3, 5)}
    for seed, weights in by_seed.items():
        of_seed = [row for row in rows if row["seed"] == str(seed)]
        assert len(of_seed) == np.count_nonzero(weights)
        expected = {float(row["return"]): float(row["curation"]) * float(row["weight"]) for row in of_seed}
        for index in np.flatnonzero(weights):
            assert weights[index] == expected[float(data.returns[index])]
    np.testing.assert_allclose(listed(tmp_path / "mean.csv", f"weights={seeds}"), (by_seed[3] + by_seed[5]) / 2, rtol=1e-12)
    assert "the mean over seeds 3, 5, keeps" in export(f"weights={seeds}", "format=list", f"out={tmp_path / 'x.csv'}").out


def test_a_run_of_other_data_is_refused(run: Path, seeds: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    write_minari(make_info(id="toy/other-v0"), [make_episode(4, seed=i) for i in range(20)], description="")
    for words, message in {
        ("toy/other-v0", f"weights={run}"): "was trained on tests/pendulum/random-v0 of content .* other data than the run's",
        ("toy/other-v0", f"weights={seeds}"): "other data than the run's",
        (f"weights={run}", "seed=7"): "seed=7: the run has 0",
        (f"weights={run}", "curation=all"): "curation=all: would change nothing; the curation is that of weights=",
        (f"weights={tmp_path}",): "not a run folder",
    }.items():
        outcome = export(*words, "format=list", f"out={out}")
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert_matches(message, outcome.err)
    shutil.rmtree(dataset_folder("toy/other-v0"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not name the trajectories of its weights; train this run again"),
        (
            "seed,return,length,curation,weight\n0,1,1,1,1\n",
            "does not name the trajectories of its weights; train this run again",
        ),
        ("seed,trajectory,return,length,curation,weight\n0,20,1,1,1,1\n", "there is no trajectory 20"),
        ("seed,trajectory,return,length,curation,weight\n0,,1,1,1,1\n", "does not name the trajectories"),
        ("seed,trajectory,return,length,curation,weight\n0,3,1,1,1,-1\n", "negative weights"),
    ],
)
def test_damaged_weights_of_a_run_are_refused(text: str | None, message: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "weights.csv"
    path.unlink()
    if text is not None:
        path.write_text(text)
    outcome = export(f"weights={tmp_path / 'run'}", "format=list", f"out={tmp_path / 'x.csv'}")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert_matches(message, outcome.err)
    assert not (tmp_path / "x.csv").exists()


# --- what goes wrong -----------------------------------------------------------------------------------------------------

WRONG = {
    (): "format=… is missing",
    ("format=list", "out=x"): "give one dataset: an id, a file, or settings",
    (NAME, "a", "format=list", "out=x"): "give one dataset",
    (NAME, "format=hdf5", "out=x"): "format=hdf5: must be one of list, robomimic, lerobot, rabc, minari",
    (NAME, "format=list"): "out=… is missing",
    (NAME, "format=minari"): "id=… is missing",
    (NAME, "format=rabc", "out=x"): "original=… is missing",
    (NAME, "format=minari", "id=a/b-v0", "out=x"): "out=x: would change nothing",
    (NAME, "format=list", "out=x", "id=a/b-v0"): "id=a/b-v0: would change nothing; it needs format=minari",
    (NAME, "format=list", "out=x", "fps=30"): "fps=30.0: would change nothing",
    (NAME, "format=lerobot", "out=x", "fps=0"): "fps=0.0: must be positive",
    (NAME, "format=list", "out=x", "task=push"): "task=push: would change nothing",
    (NAME, "format=lerobot", "out=x", "task= "): "task= : give the task in words",
    (NAME, "format=lerobot", "out=x", "chunk=0"): "chunk=0: must be at least 1",
    (NAME, "format=list", "out=x", "seed=1"): "seed=1: would change nothing",
    (NAME, "format=list", "out=there"): "out=there: is there already; choose another name",
    (NAME, "format=list", "out=x", "curatoin=all"): "curatoin",
    (NAME, "env=hopper", "format=list", "out=x"): "env=hopper: chooses a dataset, beside toy/robot/pick-v0",
    (NAME, "format=list", "out=x", "curation=threshold", "curation.minimum=1e6"): "keeps none of the 12 trajectories",
    (NAME, "curation=all", "format=minari", "id=a"): "dataset a: not an id",
    (NAME, "curation=all", "format=robomimic", "out=there/x"): "out=there/x: cannot be written",
    (NAME, "curation=all", "format=lerobot", "out=there/x"): "out=there/x: cannot be written",
    (
        NAME,
        "curation=all",
        "format=lerobot",
        "out=x",
        "environment_state=cube",
    ): "environment_state=cube: no part of the observations",
    ("nowhere.hdf5", "format=list", "out=x"): "nowhere.hdf5",
    ("policy.safetensors", "format=list", "out=x"): "policy.safetensors: no dataset, but a policy's file",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_is_one_line_and_nothing_is_written(
    words: tuple[str, ...], data: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    for name in ("there", "policy.safetensors"):
        (place / name).touch()
    outcome = export(*words)
    *warnings, error = outcome.err.splitlines()
    assert outcome.code == 2
    assert all(line.startswith("warning: ") for line in warnings), warnings
    assert WRONG[words] in error
    assert everything(place) == ["policy.safetensors", "there"]


@pytest.mark.parametrize("kind", ["robomimic", "lerobot"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_ends_in_the_middle_leaves_nothing(
    kind: str, error: type[BaseException] | OSError, data: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ending(items: Any, *_: object) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 2:
                raise error
            yield item

    module = {"robomimic": robomimic_writer, "lerobot": lerobot_writer}[kind]
    monkeypatch.setattr(module, "tracked", ending)
    outcome = export(NAME, "curation=all", f"format={kind}", f"out={tmp_path / 'place' / 'out'}")
    assert outcome.code == (130 if error is KeyboardInterrupt else 2)
    assert "nothing was written" in outcome.err or "cannot be written (No space left on device)" in outcome.err
    assert everything(tmp_path / "place") == []


def test_robomimic_takes_no_more_than_the_disk_has(curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match="No space left"):
        write_robomimic(curated, tmp_path / "place" / "demo.hdf5")
    assert everything(tmp_path / "place") == []


def test_what_has_come_to_be_there_meanwhile_stays(curated: Curated, tmp_path: Path) -> None:
    (tmp_path / "demo.hdf5").write_text("mine")
    with pytest.raises(FileExistsError):
        write_robomimic(curated, tmp_path / "demo.hdf5")
    assert (tmp_path / "demo.hdf5").read_text() == "mine"


# --- read again by iwbc's readers ----------------------------------------------------------------------------------------


def test_our_reader_of_robomimic_reads_it(curated: Curated, tmp_path: Path) -> None:
    data = curated.trajectories
    write_robomimic(curated, tmp_path / "demo.hdf5")
    again = iwbc.load(tmp_path / "demo.hdf5", observation_keys=["object", "robot_eef_pos", "grip"])
    assert np.array_equal(again.actions, data.actions)
    assert np.array_equal(again.rewards, data.rewards)
    assert again.successes is not None and np.array_equal(again.successes, data.successes)
    assert np.array_equal(again.offsets, data.offsets)
    assert np.array_equal(again.terminated, data.terminated)
    names = [part.name for part in again.info.observation_parts or ()]
    columns = {"object": [0, 1, 2, 3], "robot_eef_pos": [4, 5, 6], "grip": [7, 8]}
    order = [column for name in names for column in columns[name]]
    assert np.array_equal(again.observations, data.observations[:, order])
    assert np.array_equal(again.final_observations, data.final_observations[:, order])
    assert again.groups is not None
    kept = again.groups[:, again.info.groups.index("kept")]
    assert np.flatnonzero(kept).tolist() == KEPT


def test_our_reader_of_lerobot_reads_it(curated: Curated, folder: Path) -> None:
    data = curated.trajectories
    again = iwbc.load(folder)
    assert len(again) == 4
    assert again.info.fps == 20.0
    names = [part.name for part in again.info.observation_parts or ()]
    columns = {"observation.state": [*range(4, 9)], "observation.environment_state": [*range(4)]}
    order = [column for name in names for column in columns[name]]
    for number, index in enumerate(KEPT):
        made, episode = again[number], data[index]
        steps = len(made.rewards)
        assert len(episode.rewards) - steps in (0, 1)
        assert np.array_equal(made.observations, episode.observations[:steps, order])
        assert np.array_equal(made.actions, episode.actions[:steps])
        assert made.success == episode.success
        assert made.terminated == episode.terminated
