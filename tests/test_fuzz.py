"""Anything at all, to the validator of configurations and to every reader: accepted, or refused in one line.

FUZZ_SECONDS=1800 fuzzes for that long, with new examples each time; without it each test makes a few that are always the same.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers import make_episode, make_info
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from setups import compose

from iwbc.config import validate
from iwbc.data.array_files import open_steps
from iwbc.data.arrays import describe, episodes
from iwbc.data.checks import checked
from iwbc.data.packed import load_or_pack
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.files import write_tensors
from iwbc.report.collect import collect
from iwbc.runs import RunFolder
from iwbc.settings import to_plain
from iwbc.trained import load_policy

SECONDS = float(os.environ.get("FUZZ_SECONDS", 0)) / 11  # there are eleven tests
few = settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=not SECONDS,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # what is found says enough; shrinking it takes minutes
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def for_its_time(fuzz: Callable[[], Any]) -> None:
    """Once, and again until a test's share of the time is over."""
    begun = time.monotonic()
    fuzz()
    while time.monotonic() - begun < SECONDS:
        fuzz()


def accepted_or_refused(read: Callable[[], Any]) -> None:
    try:
        read()
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)


PLAIN = to_plain(compose())
PLACES = [(group,) for group in PLAIN] + [(g, name) for g, v in PLAIN.items() if isinstance(v, dict) for name in v]


def test_the_validator_of_configurations() -> None:
    @few
    @given(st.lists(st.tuples(st.sampled_from(PLACES), values), min_size=1, max_size=3))
    def fuzz(changes: list[tuple[tuple[str, ...], Any]]) -> None:
        plain = json.loads(json.dumps(PLAIN))
        for place, value in changes:
            inner = plain
            for name in place[:-1]:
                inner = inner[name] if isinstance(inner.get(name), dict) else inner.setdefault(f"_{name}", {})
            inner[place[-1]] = value
        try:
            composed = OmegaConf.create(plain)
        except Exception:  # no YAML file holds this
            return
        accepted_or_refused(lambda: validate(composed))

    for_its_time(fuzz)


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """Bytes cut, changed, doubled, or others altogether."""
    places = st.integers(0, len(good) - 1)
    flips = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)

    def flipped(changes: list[tuple[int, int]]) -> bytes:
        content = bytearray(good)
        for place, byte in changes:
            content[place] = byte
        return bytes(content)

    swapped = st.tuples(places, places, st.binary(max_size=30)).map(lambda t: good[: t[0]] + t[2] + good[t[1] :])
    return flips.map(flipped) | swapped | st.binary(max_size=200) | places.map(lambda n: good[:n])


def fuzz_file(path: Path, read: Callable[[], Any]) -> None:
    good = path.read_bytes()

    @few
    @given(damaged(good))
    def fuzz(content: bytes) -> None:
        path.write_bytes(content)
        accepted_or_refused(read)

    for_its_time(fuzz)
    path.write_bytes(good)


def test_configurations(run: Path) -> None:
    fuzz_file(run / "config.yaml", lambda: RunFolder(run).config())


def test_summaries(run: Path) -> None:
    def read() -> None:
        accepted_or_refused(lambda: RunFolder(run).summary())
        collect([run])

    fuzz_file(run / "summary.json", read)


def test_episodes(run: Path) -> None:
    fuzz_file(run / "evaluations.csv", lambda: collect([run]))


def test_policies(run: Path) -> None:
    fuzz_file(run / "policy.safetensors", lambda: load_policy(run / "policy.safetensors"))


def test_checkpoints(run: Path) -> None:
    path = run / "checkpoint.safetensors"
    write_tensors(path, {"0.a": torch.zeros(3)}, {"progress": "{}", "config": "0"})
    fuzz_file(path, lambda: RunFolder(run).checkpoint())
    path.unlink()


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_arrays(kind: str, tmp_path: Path) -> None:
    ends = np.arange(12) % 4 == 3
    arrays = {"observations": np.ones((12, 3)), "actions": np.zeros((12, 1)), "rewards": np.ones(12)}
    arrays |= {"terminations": ends, "truncations": ~ends & False}
    path = tmp_path / f"bad.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values

    def read() -> None:
        with open_steps(path) as steps:
            info = describe("fuzzed", steps)
            list(checked(episodes(steps, "fuzzed", "keep"), info))

    fuzz_file(path, read)


@pytest.mark.parametrize("name", ["packed.json", "rewards.npy", "offsets.npy"])
def test_packed_caches_are_whole_or_made_again(name: str, tmp_path: Path) -> None:
    def load() -> Trajectories:
        return load_or_pack(tmp_path / "packed", "f", lambda: ([make_episode(seed=seed) for seed in range(3)], make_info()))

    expected = load()

    def read() -> None:
        assert all((own == other).all() for own, other in zip(arrays_of(load()), arrays_of(expected), strict=True))

    fuzz_file(tmp_path / "packed" / name, read)


def arrays_of(data: Trajectories) -> list[Any]:
    return [np.array(array) for array in (data.observations, data.actions, data.rewards, data.offsets, data.terminated)]
