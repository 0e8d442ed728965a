"""Datasets written in Arrow: read back equal to those in HDF5, and smaller where episodes are short."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import everything, make_episode, make_info, seven_steps

import iwbc
from iwbc.data import convert, minari_writer
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.minari_writer import write_minari
from iwbc.errors import DataWarning, UserError

KINDS: dict[str, dict[str, Any]] = {
    "float64": {},
    "float32": {name: seven_steps()[name].astype(np.float32) for name in ("observations", "actions", "rewards")},
    "integers": {"observations": np.arange(28).reshape(7, 4), "rewards": np.arange(7)},
    "labels of steps": {"successes": np.array([0, 0, 1, 0, 0, 0, 0])},
    "labels of episodes": {"successes": np.array([True, False, True])},
    "next observations": {"next_observations": np.arange(28.0).reshape(7, 4)},
    "rewards in a column": {"rewards": np.arange(7.0)[:, None]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrow_holds_what_hdf5_holds(kind: str, datasets: Path) -> None:
    first, second = (
        iwbc.from_arrays(**seven_steps(**KINDS[kind]), id=f"tests/{name}-v0", data_format=name) for name in ("hdf5", "arrow")
    )
    assert first.content_hash == second.content_hash
    assert (first.info.action_low, first.info.action_high) == (second.info.action_low, second.info.action_high)
    files = everything(dataset_folder("tests/arrow-v0") / "data")
    assert "0/part-0.arrow" in files and "main_data.hdf5" not in files
    assert iwbc.load("tests/arrow-v0").content_hash == first.content_hash


def test_an_environment_and_converted_files_in_arrow(datasets: Path, tmp_path: Path) -> None:
    steps = seven_steps(observations=np.zeros((7, 3)), actions=np.linspace(-2, 2, 7)[:, None])
    np.savez(tmp_path / "demo.npz", **steps)
    for name in ("hdf5", "arrow"):
        convert.main([str(tmp_path / "demo.npz"), f"id=tests/{name}-v0", "env_id=Pendulum-v1", f"data_format={name}"])
    first, second = (iwbc.load(f"tests/{name}-v0") for name in ("hdf5", "arrow"))
    assert first.content_hash == second.content_hash
    assert first.info.environment == second.info.environment
    assert first.info.environment is not None


def test_many_short_episodes_take_less_room(datasets: Path) -> None:
    sizes = {}
    for name in ("hdf5", "arrow"):
        info = make_info(id=f"tests/{name}-v0")
        write_minari(info, (make_episode(4, seed=i) for i in range(30)), description="", data_format=name)
        sizes[name] = sum(path.stat().st_size for path in (dataset_folder(info.id) / "data").rglob("*") if path.is_file())
    assert sizes["arrow"] < 0.6 * sizes["hdf5"]


def test_many_short_episodes_in_hdf5_are_told_of(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minari_writer, "_MANY", 20)

    def write(name: str, count: int, steps: int, **options: str) -> None:
        write_minari(make_info(id=name), (make_episode(steps, seed=i) for i in range(count)), description="", **options)

    with pytest.warns(DataWarning, match="20 episodes so short take much room as HDF5; data_format=arrow takes less"):
        write("tests/short-v0", 20, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        write("tests/few-v0", 19, 9)
        write("tests/longer-v0", 20, 10)
        write("tests/arrow-v0", 20, 9, data_format="arrow")


@pytest.mark.parametrize("name", ["parquet", "", "HDF5", None])
def test_another_format_is_refused(name: Any, datasets: Path) -> None:
    with pytest.raises(UserError, match="must be one of hdf5, arrow"):
        iwbc.from_arrays(**seven_steps(), id="tests/one-v0", data_format=name)
    assert everything(datasets) == []


def test_a_refused_dataset_leaves_nothing_behind_in_arrow(datasets: Path) -> None:
    with pytest.raises(UserError, match="lie outside the action space"):
        iwbc.from_arrays(**seven_steps(actions=np.full((7, 2), 3.0)), id="tests/one-v0", data_format="arrow")
    assert everything(datasets) == []
