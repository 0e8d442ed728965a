"""The same configuration on the same machine: the same bytes, wherever and however the command is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pendulum import QUICK, make_pendulum
from setups import finish, python

FILES = ("policy.safetensors", "metrics.csv", "evaluations.csv", "curation.csv", "config.yaml")
EACH = {
    "another folder and working directory": ("deeply/nested place/run", {}),
    "another hash seed": ("run", {"PYTHONHASHSEED": "42"}),
    "another locale": ("run", {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "1"}),
    "another time zone and terminal": ("run", {"TZ": "Pacific/Chatham", "COLUMNS": "40", "TERM": "dumb"}),
}
ALL = ("deeply/nested place/run", {name: value for _, environment in EACH.values() for name, value in environment.items()})
CIRCUMSTANCES = {"all of them": ALL, **EACH}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_pendulum()
    return make(tmp_path_factory.mktemp("first"), "run")


def make(cwd: Path, folder: str, *arguments: str, **environment: str) -> Path:
    """A run of its own process, with caches of its own."""
    circumstances = {"PYTHONHASHSEED": "1", "IWBC_CACHE": str(cwd / "cache")} | environment
    command = ("-m", "iwbc.train", *arguments, *QUICK, "seeds=[1,0]", f"hydra.run.dir='{folder}'")
    outcome = finish(python(*command, cwd=cwd, **circumstances))
    assert outcome.code == 0, outcome.err
    return cwd / folder


# Each alone says which of them it was.
@pytest.mark.parametrize("circumstance", ["all of them", *(pytest.param(name, marks=pytest.mark.long) for name in EACH)])
def test_the_same_bytes(circumstance: str, expected: Path, tmp_path: Path) -> None:
    folder, environment = CIRCUMSTANCES[circumstance]
    assert_same(make(tmp_path, folder, **environment), expected)


@pytest.mark.parametrize("launcher", ["basic", "processes"])
def test_the_same_bytes_by_a_launcher(launcher: str, expected: Path, tmp_path: Path) -> None:
    arguments = ("-m", f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=run")
    make(tmp_path, "unused", *arguments)
    assert_same(tmp_path / "sweep" / "run", expected)


def assert_same(outcome: Path, expected: Path) -> None:
    for name in FILES:
        assert (outcome / name).read_bytes() == (expected / name).read_bytes(), name
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (outcome, expected)]
    for summary in summaries:
        for times in ("seconds", "steps_per_second", "seed_steps_per_second"):
            del summary[times]
    assert summaries[0] == summaries[1]
