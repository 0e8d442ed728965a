"""Anything at all, to the validator of configurations and to every reader: it is accepted, or refused in one line.

    pytest -m robustness tests/robustness/test_fuzz.py --long 1000 -k npz

Without `--long` the examples are always the same.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
import torch
from helpers import few_steps
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from omegaconf import OmegaConf
from pendulum import ID
from setups import compose

from iwbc.config import validate
from iwbc.data import minari_source
from iwbc.data.array_files import open_steps
from iwbc.data.arrays import Steps, describe, episodes
from iwbc.data.checks import checked
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.packed import load_or_pack
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.report.collect import collect
from iwbc.runs.folder import RunFolder
from iwbc.runs.page import page
from iwbc.runs.read import finished_summary, read_config
from iwbc.settings import to_plain
from iwbc.system.files import write_json, write_tensors
from iwbc.training.trained import load_policy

Read = Callable[[], object]


def accepted_or_refused(read: Read) -> None:
    """Call a reader. Raises what it raises, unless that is a UserError of one line."""
    try:
        read()
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)


# --- what is read ----------------------------------------------------------------------------------------------------


# Makes a file, of a finished run or in an empty folder, and says how it is read.
Target = Callable[[Path, Path], tuple[Path, Read]]


def of_run(name: str, read: Callable[[Path], object]) -> Target:
    return lambda run, empty: (run / name, lambda: read(run))


def read_summary(run: Path) -> None:
    accepted_or_refused(lambda: finished_summary(run))
    collect([run])


def failure(run: Path, empty: Path) -> tuple[Path, Read]:
    RunFolder(empty).write_failure("it did not work", ["algo=bc", "seed=1"])
    return empty / "failure.json", lambda: collect([empty])


def on_the_page(name: str) -> Target:
    def target(run: Path, empty: Path) -> tuple[Path, Read]:
        summary = finished_summary(run)
        if name == "videos/videos.json":
            video = {"name": "best", "file": "best.mp4", "seed": 0, "episode": 1, "return": -3.5, "length": 20, "of": 2}
            write_json(run / name, [video | {"action": "mean"}])
        return run / name, lambda: page(run, summary)

    return target


def checkpoint(run: Path, empty: Path) -> tuple[Path, Read]:
    path = run / "checkpoint.safetensors"
    write_tensors(path, {"0.a": torch.zeros(3)}, {"progress": "{}", "config": "0"})
    return path, lambda: RunFolder(run).checkpoint()


def array_file(kind: str) -> Target:
    def target(run: Path, empty: Path) -> tuple[Path, Read]:
        path = empty / f"bad.{kind}"
        if kind == "npz":
            np.savez(path, **few_steps())
        else:
            with h5py.File(path, "w") as file:
                file.update(few_steps())

        def read() -> None:
            with open_steps(path) as steps:
                info = describe("fuzzed", steps)
                list(checked(episodes(steps, "fuzzed", "keep"), info))

        return path, read

    return target


def packed(name: str) -> Target:
    """Have a cache, which is not refused, but made again."""

    def target(run: Path, empty: Path) -> tuple[Path, Read]:
        folder, steps = empty / "packed", Steps(**few_steps())

        def load() -> Trajectories:
            return load_or_pack(folder, "f", lambda: (episodes(steps, "fuzzed", "keep"), describe("fuzzed", steps)))

        expected = arrays_of(load())

        def read() -> None:
            assert all((array == other).all() for array, other in zip(arrays_of(load()), expected, strict=True))

        return folder / name, read

    return target


def arrays_of(data: Trajectories) -> list[Any]:
    return [np.array(array) for array in (data.observations, data.actions, data.rewards, data.offsets, data.terminated)]


def dataset(name: str) -> Target:
    return lambda run, empty: (dataset_folder(ID) / "data" / name, lambda: minari_source.load(ID))


def of_parts(data_format: str, pattern: str) -> Target:
    """Have observations of several parts, which Minari's own code writes and reads."""

    def target(run: Path, empty: Path) -> tuple[Path, Read]:
        id, steps = f"fuzzed/parts-{data_format}-v0", few_steps()
        space = gym.spaces.Dict({"angle": gym.spaces.Box(-1e3, 1e3, (3,)), "goal": gym.spaces.Box(-1e3, 1e3, (3,))})
        seen = np.concatenate([steps["observations"], steps["observations"][-1:]])
        fields = {name: steps[name] for name in ("actions", "rewards", "terminations", "truncations")}
        spaces = {"observation_space": space, "action_space": gym.spaces.Box(-1.0, 1.0, (1,))}
        episode = EpisodeBuffer(observations={"angle": seen, "goal": seen}, **fields)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on authors and the like
            minari.create_dataset_from_buffers(id, [episode], **spaces, data_format=data_format)
        return min((dataset_folder(id) / "data").rglob(pattern)), lambda: minari_source.load(id)

    return target


FILES: dict[str, Target] = {
    "config.yaml": of_run("config.yaml", lambda run: read_config(run)),
    "summary.json": of_run("summary.json", read_summary),
    "evaluations.csv": of_run("evaluations.csv", lambda run: collect([run])),
    "failure.json": failure,
    **{name: on_the_page(name) for name in ("metrics.csv", "weights.csv", "curation.csv", "videos/videos.json")},
    "policy.safetensors": of_run("policy.safetensors", lambda run: load_policy(run / "policy.safetensors")),
    "checkpoint.safetensors": checkpoint,
    "an npz file": array_file("npz"),
    "an HDF5 file": array_file("hdf5"),
    **{f"a packed cache's {name}": packed(name) for name in ("packed.json", "rewards.npy", "offsets.npy")},
    **{f"a Minari dataset's {name}": dataset(name) for name in ("metadata.json", "main_data.hdf5")},
    "a Minari dataset of parts in HDF5": of_parts("hdf5", "main_data.hdf5"),
    "a Minari dataset of parts in Arrow": of_parts("arrow", "*.arrow"),
}


# --- what they are given ---------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANY = st.recursive(SCALARS, lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(max_size=8), some, max_size=4))


@pytest.fixture
def chosen(request: pytest.FixtureRequest) -> settings:
    """How hypothesis goes about it: new examples with --long."""
    long = request.config.getoption("--long")
    return settings(
        max_examples=15 * long,
        deadline=None,
        database=None,
        derandomize=long == 1,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # what is found says enough; shrinking it takes minutes
    )


def fuzz_file(path: Path, read: Read, chosen: settings) -> None:
    """Read a file cut, changed, doubled, or another altogether."""
    good = path.read_bytes()
    places = st.integers(0, len(good) - 1)
    flips = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)

    def flipped(changes: list[tuple[int, int]]) -> bytes:
        content = bytearray(good)
        for place, byte in changes:
            content[place] = byte
        return bytes(content)

    swapped = st.tuples(places, places, st.binary(max_size=30)).map(lambda t: good[: t[0]] + t[2] + good[t[1] :])

    @chosen
    @given(flips.map(flipped) | swapped | st.binary(max_size=200) | places.map(lambda n: good[:n]))
    def fuzz(content: bytes) -> None:
        path.write_bytes(content)
        accepted_or_refused(read)

    fuzz()


@pytest.mark.parametrize("target", FILES)
def test_any_file_is_accepted_or_refused_in_one_line(
    target: str, run: Path, chosen: settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(dataset_folder(ID), tmp_path / "datasets" / ID)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    fuzz_file(*FILES[target](tmp_path / "run", tmp_path / "empty"), chosen)


def test_any_settings_are_accepted_or_refused_in_one_line(chosen: settings) -> None:
    plain = to_plain(compose())
    places = [(group,) for group in plain] + [(g, name) for g, v in plain.items() if isinstance(v, dict) for name in v]

    @chosen
    @given(st.lists(st.tuples(st.sampled_from(places), ANY), min_size=1, max_size=3))
    def fuzz(changes: list[tuple[tuple[str, ...], Any]]) -> None:
        changed = json.loads(json.dumps(plain))
        for place, value in changes:
            inner = changed
            for name in place[:-1]:
                inner = inner[name] if isinstance(inner.get(name), dict) else inner.setdefault(f"_{name}", {})
            inner[place[-1]] = value
        try:
            composed = OmegaConf.create(changed)
        except Exception:  # no YAML file holds this
            return
        accepted_or_refused(lambda: validate(composed))

    fuzz()


def test_fuzzing_reports_an_unexpected_exception(tmp_path: Path, chosen: settings) -> None:
    def read() -> None:
        if path.read_bytes()[:1] != b"g":
            raise RuntimeError("not one line")

    path = tmp_path / "file"
    path.write_bytes(b"good")
    with pytest.raises(RuntimeError, match="not one line"):
        fuzz_file(path, read, settings(chosen, max_examples=100))
