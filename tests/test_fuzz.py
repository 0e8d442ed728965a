"""A little of benchmarks/fuzz.py: examples that are always the same, to every target."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pendulum import ID

from benchmarks.fuzz import TARGETS, Place, property_of, settings_of
from iwbc.data.minari_folder import dataset_folder


@pytest.mark.parametrize("target", TARGETS)
def test_anything_is_accepted_or_refused_in_one_line(
    target: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(dataset_folder(ID), tmp_path / "datasets" / ID)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    property_of(target, Place(tmp_path / "run", tmp_path / "empty"), settings_of(15, always_the_same=True))()
