"""The stand-ins of tests/formats.py are laid out as the formats' own readers expect, which `make test-readers` installs."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import formats
import numpy as np
import pytest
from formats import COUNT, MASKS, lerobot_actions, truths

EPISODES = truths()


def stand_in(name: str, **content: Any) -> None:
    """Let a package that only images need be imported."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    module.__getattr__ = lambda attribute: MagicMock()  # type: ignore[method-assign]
    vars(module).update(content)
    sys.modules.setdefault(name, module)


def test_robomimic_reads_robomimic(tmp_path: Path) -> None:
    pytest.importorskip("robomimic")
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    keys = ["object", "robot0_eef_pos"]
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": keys}})
    path = formats.write_robomimic(tmp_path / "low_dim.hdf5", EPISODES)
    options: dict[str, Any] = {"obs_keys": keys, "dataset_keys": ["actions", "rewards", "dones"], "load_next_obs": True}
    everything = SequenceDataset(str(path), **options)
    assert everything.demos == [f"demo_{index}" for index in range(COUNT)]
    rows = [everything[index] for index in range(len(everything))]
    for name, part in (("object", slice(0, 2)), ("robot0_eef_pos", slice(2, 5))):
        for source, steps in (("obs", slice(None, -1)), ("next_obs", slice(1, None))):
            expected = np.concatenate([truth.states[steps, part] for truth in EPISODES])
            np.testing.assert_array_equal(np.concatenate([row[source][name] for row in rows]), expected)
    np.testing.assert_array_equal(
        np.concatenate([row["actions"] for row in rows]), np.concatenate([t.actions for t in EPISODES])
    )
    np.testing.assert_array_equal(
        np.concatenate([row["rewards"] for row in rows]), np.concatenate([t.rewards for t in EPISODES])
    )
    better = SequenceDataset(str(path), filter_by_attribute="better", **options)
    assert better.demos == [f"demo_{index}" for index in MASKS["better"]]


@pytest.fixture
def lerobot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging_face"))
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "lerobot"))
    pytest.importorskip("lerobot")
    if "torchvision" not in sys.modules:
        stand_in("torchvision")
        stand_in("torchvision.transforms.v2", Transform=type("Transform", (), {}))
        stand_in("torchvision.transforms.v2.functional")
        stand_in("torchvision.transforms", v2=sys.modules["torchvision.transforms.v2"])


def check_lerobot(path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("stand/in", root=path)
    assert (data.meta.total_episodes, data.fps) == (COUNT, 10)
    rows = [data[index] for index in range(len(data))]
    states = np.concatenate([truth.states[:-1] for truth in EPISODES])
    np.testing.assert_array_equal(np.stack([row["observation.environment_state"] for row in rows]), states[:, :2])
    np.testing.assert_array_equal(np.stack([row["observation.state"] for row in rows]), states[:, 2:])
    np.testing.assert_array_equal(
        np.stack([row["action"] for row in rows]), np.concatenate(list(map(lerobot_actions, EPISODES)))
    )
    assert [row["episode_index"].item() for row in rows] == [i for i, truth in enumerate(EPISODES) for _ in range(truth.steps)]
    assert [row["task"] for row in rows] == [truth.task for truth in EPISODES for _ in range(truth.steps)]
    success = np.concatenate([truth.last & truth.success for truth in EPISODES])
    assert [bool(row["next.success"]) for row in rows] == success.tolist()
    np.testing.assert_array_equal(data.meta.stats["action"]["min"], [-90, 0])
    np.testing.assert_array_equal(data.meta.stats["action"]["max"], [90, 61.875])


def test_lerobot_reads_lerobot(lerobot: None, tmp_path: Path) -> None:
    check_lerobot(formats.write_lerobot(tmp_path / "pusht", EPISODES))


def test_lerobot_converts_its_former_version(lerobot: None, tmp_path: Path) -> None:
    """LeRobot reads v3.0 alone; its converter reads v2.1."""
    from lerobot.datasets.v30 import convert_dataset_v21_to_v30 as converter

    old, new = formats.write_lerobot(tmp_path / "old", EPISODES, "v2.1"), tmp_path / "new"
    converter.convert_info(old, new, 100, 200)
    converter.convert_tasks(old, new)
    metadata = converter.convert_data(old, new, 100)
    converter.convert_episodes_metadata(old, new, metadata, None)
    check_lerobot(new)


def test_ogbench_reads_ogbench(tmp_path: Path) -> None:
    pytest.importorskip("ogbench")
    from ogbench.utils import load_dataset

    data = load_dataset(str(formats.write_ogbench(tmp_path / "cube-single-play-v0.npz", EPISODES)), add_info=True)
    for name, steps in (("observations", slice(None, -1)), ("next_observations", slice(1, None)), ("qpos", slice(None, -1))):
        np.testing.assert_array_equal(data[name], np.concatenate([truth.states[steps] for truth in EPISODES]))
    np.testing.assert_array_equal(data["actions"], np.concatenate([truth.actions for truth in EPISODES]))
    np.testing.assert_array_equal(data["terminals"], np.concatenate([truth.last for truth in EPISODES]))


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_reads_zarr(version: int, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(formats.write_zarr(tmp_path / "pusht.zarr", EPISODES, version), mode="r")
    assert root["meta/episode_ends"][:].tolist() == np.cumsum([truth.steps for truth in EPISODES]).tolist()
    np.testing.assert_array_equal(root["data/action"][:], np.concatenate(list(map(lerobot_actions, EPISODES))))
