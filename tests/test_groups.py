"""Groups of episodes and steps per second, from an episode to the packed form, through Minari, subsets and joined datasets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import make_episode, make_info

from iwbc.data import minari_source
from iwbc.data.content import content_hash
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.minari_writer import DATA_FORMATS, write_minari
from iwbc.data.packed import joined, open_packed, pack
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.errors import UserError

NAMES: list[tuple[str, ...]] = [("better", "first"), (), ("better",), ("worse",)]
MEMBERS = [[True, False, True], [False, False, False], [True, False, False], [False, True, False]]


def info(id: str = "toy/groups-v0") -> DatasetInfo:
    return dataclasses.replace(make_info(id=id), groups=["better", "worse", "first"], fps=20.0)


def episodes() -> list[Episode]:
    return [dataclasses.replace(make_episode(3, seed=i), groups=names) for i, names in enumerate(NAMES)]


def test_groups_are_packed(tmp_path: Path) -> None:
    pack(episodes(), info(), tmp_path / "cache", "f")
    data = open_packed(tmp_path / "cache")
    assert data.groups is not None
    assert data.groups.tolist() == MEMBERS
    assert data.info.groups == ["better", "worse", "first"]
    assert [episode.groups for episode in data] == NAMES
    assert content_hash(data.arrays()) == data.content_hash
    assert dataclasses.replace(data, groups=~data.groups).content_hash != data.content_hash
    some = data.subset(np.array([3, 0]))
    assert [episode.groups for episode in some] == [NAMES[3], NAMES[0]]


def test_data_without_groups_has_none(tmp_path: Path) -> None:
    pack([make_episode(3)], make_info(), tmp_path / "cache", "f")
    data = open_packed(tmp_path / "cache")
    assert data.groups is None
    assert data[0].groups == ()
    assert data.subset(np.array([0])).groups is None


def test_a_group_that_was_not_declared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="episode 1, groups: sloppy is none of the dataset's groups"):
        pack([make_episode(3), dataclasses.replace(make_episode(3), groups=("sloppy",))], info(), tmp_path / "cache", "f")


@pytest.mark.parametrize("data_format", DATA_FORMATS)
def test_minari_keeps_groups_and_fps(data_format: str, datasets: Path) -> None:
    write_minari(info(), episodes(), description="", data_format=data_format)
    data = minari_source.load("toy/groups-v0")
    assert data.info.groups == ["better", "worse", "first"]
    assert [episode.groups for episode in data] == NAMES
    assert data.info.fps == 20.0


def test_groups_are_those_of_the_metadata(datasets: Path) -> None:
    write_minari(info(), episodes(), description="")
    metadata = dataset_folder("toy/groups-v0") / "data" / "metadata.json"
    changed = json.loads(metadata.read_text())
    changed["groups"]["first"] = [1]
    metadata.write_text(json.dumps(changed))
    assert [episode.groups for episode in minari_source.load("toy/groups-v0")] == [
        ("better",),
        ("first",),
        ("better",),
        ("worse",),
    ]


@pytest.mark.parametrize("damage", [{"better": [4]}, {"better": [-1]}, {"better": ["0"]}, {"better": 3}, [3], {"a\nb": [0]}])
def test_damaged_groups_are_refused(damage: object, datasets: Path) -> None:
    write_minari(info(), episodes(), description="")
    metadata = dataset_folder("toy/groups-v0") / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"groups": damage}))
    with pytest.raises(UserError, match=r"groups of its metadata\.json are damaged"):
        minari_source.load("toy/groups-v0")


@pytest.mark.parametrize("fps", [0, -1, "20", [20]])
def test_a_damaged_fps_is_refused(fps: object, datasets: Path) -> None:
    write_minari(info(), episodes(), description="")
    metadata = dataset_folder("toy/groups-v0") / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"fps": fps}))
    with pytest.raises(UserError, match=r"fps of its metadata\.json"):
        minari_source.load("toy/groups-v0")


def test_joined_datasets_have_the_groups_of_all(tmp_path: Path) -> None:
    pack(episodes(), info(), tmp_path / "first", "f")
    other = dataclasses.replace(make_info(id="toy/other-v0"), groups=["other", "worse"])
    pack([dataclasses.replace(make_episode(3), groups=("other", "worse"))], other, tmp_path / "second", "f")
    data = joined("both", [open_packed(tmp_path / "first"), open_packed(tmp_path / "second")], tmp_path)
    assert data.info.groups == ["better", "worse", "first", "other"]
    assert [episode.groups for episode in data] == [*NAMES, ("worse", "other")]
