"""Exported data, read by the programs that they are for: robomimic 0.3.0 and lerobot 0.4.4, where these are installed.

A venv over the project's own, as neither resolves beside it: robomimic and lerobot by `pip install --no-deps`, and of what
they need that is missing, datasets<5, av<16, draccus==0.10.0, jsonlines, deepdiff, einops, termcolor, tensorboardX. torchvision
has no part in reading vectors and is stood in for.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

import numpy as np
import pytest
from test_export_data import KEPT, NAME, WEIGHTS, episodes, info

import iwbc
from iwbc.data.curated import Curated
from iwbc.data.formats.lerobot_writer import write_lerobot
from iwbc.data.formats.robomimic_writer import write_robomimic
from iwbc.data.minari_writer import write_minari

_TORCHVISION = (
    "",
    ".io",
    ".models",
    ".ops",
    ".transforms",
    ".transforms.functional",
    ".transforms.v2",
    ".transforms.v2.functional",
)


class _Anything(types.ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torchvision") is None:
        for name in (f"torchvision{part}" for part in _TORCHVISION):
            module = _Anything(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def curated(datasets: Path) -> Curated:
    write_minari(info(), episodes(), description="")
    return Curated(iwbc.load(NAME), WEIGHTS, "trajectory")


def test_robomimic_reads_the_kept(curated: Curated, torchvision: None, tmp_path: Path) -> None:
    pytest.importorskip("robomimic")
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    write_robomimic(curated, tmp_path / "demo.hdf5")
    keys = ["grip", "object", "robot_eef_pos"]
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": keys, "rgb": []}})
    read = SequenceDataset(str(tmp_path / "demo.hdf5"), keys, ["actions", "rewards", "dones"], filter_by_attribute="kept")
    assert read.demos == [f"demo_{index}" for index in KEPT]
    assert len(read) == 20
    rows = curated.rows
    columns = {"object": slice(0, 4), "robot_eef_pos": slice(4, 7), "grip": slice(7, 9)}
    for step, row in enumerate(rows.tolist()):
        item = read[step]
        assert np.array_equal(item["actions"], curated.trajectories.actions[[row]])
        assert np.array_equal(item["rewards"], curated.trajectories.rewards[[row]])
        for key, part in columns.items():
            assert np.array_equal(item["obs"][key].ravel(), curated.trajectories.observations[row, part])
    final = read[19]["next_obs"]
    assert np.array_equal(final["robot_eef_pos"].ravel(), curated.trajectories.final_observations[11, 4:7])


def test_lerobot_reads_the_kept(curated: Curated, torchvision: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lerobot")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data, folder = curated.trajectories, tmp_path / "set"
    write_lerobot(curated, folder, fps=20.0, environment_state=["object"])
    read = LeRobotDataset("local/set", root=folder, delta_timestamps={"action": [0.0, 0.05, 0.1]})
    assert (len(read), read.num_episodes, read.fps) == (20, 4, 20)
    for frame, row in enumerate(curated.rows.tolist()):
        item = read[frame]
        number = int(item["episode_index"])
        end = int(data.offsets[KEPT[number] + 1])
        assert np.array_equal(item["observation.environment_state"], data.observations[row, :4])
        assert np.array_equal(item["observation.state"], data.observations[row, 4:])
        assert np.array_equal(item["action"], data.actions[[min(row + ahead, end - 1) for ahead in range(3)]])
        assert item["action_is_pad"].tolist() == [row + ahead >= end for ahead in range(3)]
        assert float(item["next.reward"]) == data.rewards[row]
        assert bool(item["next.done"]) == (row == end - 1)
        assert item["task"] == ("lift the cube" if number == 0 else NAME)
    some = LeRobotDataset("local/set", root=folder, episodes=[1, 3])
    assert [int(some[frame]["episode_index"]) for frame in range(len(some))] == [1] * 5 + [3] * 6
    np.testing.assert_allclose(read.meta.stats["action"]["mean"], data.actions[curated.rows].mean(0), rtol=1e-5)


@pytest.mark.parametrize("averaging", ["trajectory", "transition"])
def test_lerobot_weighs_frames_as_they_are_weighed(averaging: str, curated: Curated, torchvision: None, tmp_path: Path) -> None:
    pytest.importorskip("lerobot")
    try:
        from lerobot.utils.rabc import RABCWeights  # before 0.6
    except ImportError:
        from lerobot.rewards.sarm.rabc import RABCWeights
    import torch

    curated = dataclasses.replace(curated, averaging=averaging)
    write_lerobot(curated, tmp_path / "set", fps=20.0, chunk=4)
    path = tmp_path / "set" / "sarm_progress.parquet"
    weigher = RABCWeights(path, chunk_size=4, kappa=2.0, device=torch.device("cpu"))
    weights, _ = weigher.compute_batch_weights({"index": torch.arange(20)})
    expected = np.repeat(curated.probabilities / curated.lengths, curated.lengths)
    expected[curated.offsets[1:] - 1] = 0.0
    np.testing.assert_allclose(weights.numpy(), 20 * expected / expected.sum(), rtol=1e-5, atol=1e-6)
