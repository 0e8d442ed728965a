"""Curation of rows: through the same door as trajectories, by what rows have."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from iwbc import settings
from iwbc.errors import DataWarning, UserError
from iwbc.language.curate import curation_weights
from iwbc.language.jsonl import read_rows
from iwbc.language.settings import Train

ROWS: list[dict[str, Any]] = [
    {"completion": "four", "reward": 1.0, "success": True, "group": "better"},
    {"completion": "4", "reward": 0.0, "success": False, "group": ["better", 7]},
    {"completion": "it is 4", "reward": 1.0, "success": True, "group": []},
    {"completion": "4.0", "reward": 0.5, "success": True, "group": "okay"},
]


def weights(chosen: settings.Settings, folder: Path, *without: str, **others: Any) -> list[float]:
    path = folder / "rows.jsonl"
    kept = [{key: value for key, value in row.items() if key not in without} for row in ROWS]
    rows = [{"prompt": "2+2=", **row, **others} for row in kept]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return curation_weights(read_rows(path), Train(model="m", data=str(path), curation=chosen)).tolist()


def test_groups_of_rows(tmp_path: Path) -> None:
    assert weights(settings.Groups(["better", "okay"], weights=[2.0, 1.0]), tmp_path) == [2, 2, 0, 1]
    assert weights(settings.Groups(["better"], ["7"]), tmp_path) == [1, 0, 0, 0]
    assert weights(settings.Groups(drop=["better"]), tmp_path, "reward", "success") == [0, 0, 1, 1]
    with pytest.raises(UserError, match=r"curation.keep=worse: dataset .*rows.jsonl has no such group; it has 7, better, okay"):
        weights(settings.Groups(["worse"]), tmp_path)
    with pytest.raises(UserError, match="has no groups"):
        weights(settings.Groups(["worse"]), tmp_path, "group")


def test_successes_by_the_reward_whatever_the_labels_say(tmp_path: Path) -> None:
    by_reward = settings.Success(success_from="last_reward", minimum=0.8)
    assert weights(by_reward, tmp_path) == [1, 0, 1, 0]
    assert weights(by_reward, tmp_path, success=True) == [1, 0, 1, 0]


def test_scores_of_rows_by_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text("trajectory,score\n0,-3\n1,4\n2,-1\n3,2\n")
    assert weights(settings.TrajectoryScores(str(file), fraction=0.5), tmp_path, "reward", "success") == [0, 1, 0, 1]
    with pytest.raises(UserError, match=r"scores.csv, line 2, score: '-3' of trajectory 0 must be a number, finite and not"):
        weights(settings.TrajectoryScores(str(file)), tmp_path)


def test_rows_are_ranked_by_reward_or_length(tmp_path: Path) -> None:
    assert weights(settings.TopFraction(0.25, rank_by="length"), tmp_path) == [0, 0, 0, 1]  # the shortest success
    assert weights(settings.TopFraction(0.25, rank_by="length"), tmp_path, "success", "reward") == [0, 1, 0, 0]
    for rank_by in ("smoothness", "discounted_return"):
        with pytest.raises(UserError, match=f"^curation.rank_by={rank_by}: rows have none; must be one of return, length$"):
            weights(settings.TopFraction(rank_by=rank_by), tmp_path)
    with pytest.raises(UserError, match="has neither reward nor success, by which it goes"):
        weights(settings.TopFraction(), tmp_path, "success", "reward")
