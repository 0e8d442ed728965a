"""Notes on ends of episodes that look as if they were marked wrongly; none on data as it should be."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import make_trajectories

import iwbc
from iwbc import info
from iwbc.data.checks import notes_of_ends
from iwbc.data.convert import convert
from iwbc.errors import DataWarning


def flags(*lengths: int, last: bool = True) -> np.ndarray:
    """Ends of episodes of these lengths; without `last` the final one has none."""
    ends = np.zeros(sum(lengths), bool)
    ends[np.cumsum(lengths) - 1] = True
    ends[-1] = last
    return ends


def arrays(ends: np.ndarray, field: str = "terminations") -> dict[str, Any]:
    random, count = np.random.default_rng(0), len(ends)
    none = np.zeros(count, bool)
    return {
        "observations": random.normal(size=(count, 3)),
        "actions": random.uniform(-1, 1, (count, 2)),
        "rewards": random.normal(size=count),
        **({"terminations": none, "truncations": none} | {field: ends}),
    }


TWENTY = flags(*[20] * 80)
# The last steps of an episode all marked, as by a recorder that goes on until it is reset.
REPEATED = np.repeat(TWENTY, np.where(TWENTY, 2, 1))
SUSPICIOUS = {
    "the end repeated once": (REPEATED, "80 of 160 episodes have 1 step (the first is episode 1), beside others of 20"),
    "the end repeated in three of four": (
        np.repeat(TWENTY, np.where(TWENTY & (np.cumsum(TWENTY) % 4 > 0), 2, 1)),
        "60 of 140 episodes have 1 step (the first is episode 1), beside others of 20",
    ),
    "the end repeated five times": (np.repeat(TWENTY, np.where(TWENTY, 6, 1)), "400 of 480 episodes have 1 step"),
    "first steps marked, not last ones": (np.roll(TWENTY, 1), "1 of 81 episodes have 1 step (the first is episode 0)"),
    "steps that go on marked, not ends": (~TWENTY, "of 1,521 episodes have 1 step"),
    "one false mark": (flags(*[20] * 5, 1, *[20] * 5), "1 of 11 episodes have 1 step (the first is episode 5)"),
    "none at all": (np.zeros(2000, bool), "all its 2,000 steps are one episode; are the ends of episodes marked"),
    "the last step alone": (flags(2000), "all its 2,000 steps are one episode"),
}
FINE = {
    "episodes of one length": TWENTY,
    "of a time limit": flags(*[1000] * 3),
    "of any length from six on": flags(*range(6, 60)),
    "a step left over": flags(*[20] * 5, 1, last=False),
    "an episode left over": flags(*[20] * 5, 300, last=False),
    "bandits": flags(*[1] * 200),
    "one or two steps": flags(*[1, 2, 2] * 30),
    "up to four steps": flags(*[1, 2, 3, 4] * 30),
    "one short demonstration": flags(60),
    "one bandit": flags(1),
    "two steps among many": flags(2, *[100] * 5),
}


@pytest.mark.parametrize("name", SUSPICIOUS)
@pytest.mark.parametrize("field", ["terminations", "truncations"])
def test_suspicious_ends_are_told_of(name: str, field: str) -> None:
    ends, message = SUSPICIOUS[name]
    with pytest.warns(DataWarning) as caught:
        data = iwbc.from_arrays(**arrays(ends, field))
    assert len(caught) == 1
    assert str(caught[0].message).startswith("dataset from_arrays: ")
    assert message in str(caught[0].message)
    assert data.info.notes == [str(caught[0].message).removeprefix("dataset from_arrays: ")]


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("field", ["terminations", "truncations"])
def test_ends_as_they_should_be_are_not(name: str, field: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        assert iwbc.from_arrays(**arrays(FINE[name], field)).info.notes == []


def of_minari(folder: Path) -> Callable[[], Any]:
    with pytest.warns(DataWarning):
        iwbc.from_arrays(**arrays(REPEATED), id="tests/repeated-v0")
    return lambda: iwbc.load("tests/repeated-v0")


def of_d4rl(folder: Path) -> Callable[[], Any]:
    with h5py.File(folder / "repeated.hdf5", "w") as file:
        for name, array in arrays(REPEATED).items():
            file[{"terminations": "terminals", "truncations": "timeouts"}.get(name, name)] = array
    return lambda: iwbc.load(folder / "repeated.hdf5")


def of_npz(folder: Path) -> Callable[[], Any]:
    np.savez(folder / "repeated.npz", **arrays(REPEATED))
    return lambda: info.main([str(folder / "repeated.npz")])


def of_convert(folder: Path) -> Callable[[], Any]:
    np.savez(folder / "repeated.npz", **arrays(REPEATED))
    return lambda: convert(folder / "repeated.npz", "tests/converted-v0")


@pytest.mark.parametrize("make", [of_minari, of_d4rl, of_npz, of_convert])
def test_every_door_tells_of_them(make: Callable[[Path], Callable[[], Any]], datasets: Path, tmp_path: Path) -> None:
    load = make(tmp_path)
    with pytest.warns(DataWarning, match="80 of 160 episodes have 1 step"):
        load()


def test_a_dataset_loaded_from_its_cache_tells_again(datasets: Path, tmp_path: Path) -> None:
    load = of_d4rl(tmp_path)
    for _ in range(2):
        with pytest.warns(DataWarning, match="have 1 step"):
            load()


def test_the_last_of_many_counts_where_it_terminates() -> None:
    lengths = np.array([20, 20, 20, 1])
    assert len(notes_of_ends(lengths, True)) == 1
    assert notes_of_ends(lengths, False) == []
    assert make_trajectories([1.0], [1]).info.notes == []
