"""A little of benchmarks/fuzz.py: examples that are always the same, to every target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pendulum import ID
from setups import finish, python

from benchmarks.fuzz import TARGETS, Place, fuzz_file, property_of, settings_of
from iwbc.data.minari_folder import dataset_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("target", TARGETS)
def test_anything_is_accepted_or_refused_in_one_line(
    target: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(dataset_folder(ID), tmp_path / "datasets" / ID)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    property_of(target, Place(tmp_path / "run", tmp_path / "empty"), settings_of(15, always_the_same=True))()


def test_what_is_raised_is_told(tmp_path: Path) -> None:
    def read() -> None:
        if path.read_bytes()[:1] != b"g":
            raise RuntimeError("not one line")

    path = tmp_path / "file"
    path.write_bytes(b"good")
    with pytest.raises(RuntimeError, match="not one line"):
        fuzz_file(path, read, settings_of(100, always_the_same=True))()


def test_a_short_run_of_the_command(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    outcome = finish(python("-m", "benchmarks.fuzz", "minutes=0.001", "only=failure", f"out={out}", cwd=ROOT))
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("failure.json: 100 in ")
    (found,) = json.loads(out.read_text())["targets"].values()
    assert (found["tried"], found["broken"]) == (100, False) and found["seconds"] > 0


def test_what_cannot_be_fuzzed_is_said_in_a_line() -> None:
    outcome = finish(python("-m", "benchmarks.fuzz", "only=nothing", cwd=ROOT))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith("only=nothing: no such target; there are settings, config.yaml, ")
