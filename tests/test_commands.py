"""The commands as a user starts them, each in a process of its own: what they print."""

from __future__ import annotations

from pathlib import Path

import pytest
from setups import SMALL, finish, python, read_csv, train


def test_a_damaged_checkpoint_is_one_line(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (folder / "checkpoint.safetensors").write_bytes((run / "policy.safetensors").read_bytes()[:-10])
    outcome = train(f"resume={folder}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "checkpoint.safetensors: cannot be read" in outcome.err


@pytest.mark.robustness
def test_the_terminal_is_quiet(tmp_path: Path) -> None:
    arguments = ["env=walker2d", *SMALL, "dataset.tier=random", "dataset.steps=1000", "algo.steps=20", "eval.episodes=1"]
    outcome = finish(python("-m", "iwbc.train", *arguments, "hydra.run.dir=run", cwd=tmp_path))
    assert outcome.code == 0, outcome.err
    # What it says of generating the dataset, on which the seconds pass, goes to stderr.
    assert all(line.startswith("Generating iwbc/walker2d/") for line in outcome.err.splitlines()), outcome.err
    for word in ("warn", "deprecat", "settotalmass", "gym has been"):
        assert word not in (outcome.out + outcome.err).lower()
    again = finish(python("-m", "iwbc.evaluate", "run=run", "out=episodes.csv", cwd=tmp_path))
    assert (again.code, again.err) == (0, "")
    played = [[row["return"] for row in read_csv(tmp_path / name)] for name in ("run/evaluations.csv", "episodes.csv")]
    assert played[0][-1:] == played[1]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "episodes.csv"}


@pytest.mark.robustness
def test_evaluate_is_one_line_where_there_is_no_run(tmp_path: Path) -> None:
    outcome = finish(python("-m", "iwbc.evaluate", "run=nowhere", cwd=tmp_path))
    assert outcome.code == 2
    assert outcome.err == "nowhere: not a run folder (it has no config.yaml)\n"
