"""Weights for each trajectory from a user's CSV file: read as they are, or refused with file, line and column."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import make_trajectories

import iwbc
from iwbc.data.curation import pinned
from iwbc.data.trajectory_csv import read_column, sha256_of
from iwbc.errors import DataWarning, UserError

GOOD = "trajectory,weight\n0,1\n1,0\n2,2.5\n"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("trajectory", "episode"),
        GOOD.replace("\n", "\r\n"),
        GOOD.removesuffix("\n"),
        "\ufeff" + GOOD,
        "\n" + GOOD.replace("\n", "\n\n,\n"),
        "weight,trajectory\n1,0\n2.5,2\n0,1\n",
        ' trajectory , "weight"\n "2",2.50\n0, 1.\n1,-0.0\n',
        "trajectory,weight\n2,25e-1\n00,+1E0\n1,.0\n",
        "trajectory,weight\n2.0,2.5\n0.0,1.0\n1.,0.0\n",
        "trajectory,weight\n" + "".join(f"{i:.18e},{weight:.18e}\n" for i, weight in enumerate([1.0, 0.0, 2.5])),
    ],
)
def test_weights_are_read_whatever_the_order_and_the_format(tmp_path: Path, text: str) -> None:
    file = tmp_path / "weights.csv"
    file.write_bytes(text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_column(file, "weight", 3).tolist() == [1.0, 0.0, 2.5]
        curated = iwbc.curate(make_trajectories([1.0, 2.0, 3.0]), iwbc.TrajectoryWeights(str(file)), "transition")
    assert (curated.curation_weights.tolist(), curated.averaging) == ([1.0, 0.0, 2.5], "transition")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": is empty; its first line names the columns trajectory and weight"),
        ("\n \n", ": is empty"),
        ("trajectory,weight\n", ": has no row for 3 of the dataset's 3 trajectories, such as 0"),
        (
            "trajectory,weight\n0,1\n2,1\n",
            ": has no row for 1 of the dataset's 3 trajectories, such as 1; give each its weight",
        ),
        ("0,1\n1,1\n2,1\n", ", line 1: must name one column trajectory or episode and one column weight"),
        ("trajectory;weight\n0;1\n", "; it names trajectory;weight"),
        ("trajectory\tweight\n", "must name one column"),
        ("trajectory,Weight\n0,1\n", "it names trajectory, Weight"),
        ("weight\n1\n1\n1\n", "it names weight"),
        ("trajectory,episode,weight\n", "it names trajectory, episode, weight"),
        ("trajectory,weight,weight\n", "it names trajectory, weight, weight"),
        (GOOD + "1,1\n", ", line 5, trajectory: trajectory 1 has a row already, line 3"),
        (GOOD.replace("trajectory", "episode") + "01,1\n", ", line 5, episode: trajectory 1 has a row already, line 3"),
        (GOOD + "3,1\n", ", line 5, trajectory: there is no trajectory 3: the dataset has 3, 0 to 2"),
        (GOOD + "-1,1\n", ", line 5, trajectory: '-1' is not the number of a trajectory"),
        (GOOD + "1.0,1\n", "line 5, trajectory: trajectory 1 has a row already, line 3"),
        (GOOD + "1.5,1\n", "line 5, trajectory: '1.5' is not"),
        (GOOD + "-1.0,1\n", "line 5, trajectory: '-1.0' is not"),
        (GOOD + "1e999,1\n", "line 5, trajectory: '1e999' is not"),
        (GOOD + "nan,1\n", "line 5, trajectory: 'nan' is not"),
        (GOOD + "3.0,1\n", ", line 5, trajectory: there is no trajectory 3: the dataset has 3, 0 to 2"),
        (GOOD + "one,1\n", "line 5, trajectory: 'one' is not"),
        (GOOD + "1_0,1\n", "line 5, trajectory: '1_0' is not"),
        (GOOD + ",1\n", "line 5, trajectory: '' is not"),
        (GOOD + "9" * 40 + ",1\n", "is not the number of a trajectory"),
        *(
            (GOOD.replace("0,1", f"0,{value}"), f", line 2, weight: '{value}' of trajectory 0 must be a number, finite and not")
            for value in ("-1", "nan", "NaN", "inf", "-inf", "1e999", "", "heavy", "1_0", "0x1", "１", "True", "1 2")
        ),
        (GOOD.replace("0,1", "0,1,5"), ", line 2: has 3 values for 2 columns"),
        (GOOD.replace("0,1", "0"), ", line 2: has 1 values for 2 columns"),
        (GOOD.replace("0,1", "0;1"), ", line 2: has 1 values for 2 columns"),
        (GOOD.replace("0,1", '0,"1'), "is not CSV"),
        (GOOD.replace("2.5", "0").replace("0,1", "0,0"), ", weight: all 3 are 0, which keeps no trajectory"),
        (GOOD + "\0", "line 5"),
    ],
)
def test_an_error_in_weights_is_one_line_with_file_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "weights.csv"
    file.write_bytes(text.encode())
    with pytest.raises(UserError) as caught:
        iwbc.curate(make_trajectories([1.0, 2.0, 3.0]), iwbc.TrajectoryWeights(str(file)))
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"), [(GOOD.encode("utf-16"), 1), (GOOD.encode() + b"2,\xff\n", 5), (b"trajectory,weight\n0,1\xb5\n", 2)]
)
def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    file = tmp_path / "weights.csv"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"weights.csv, line {line}: is not text in UTF-8"):
        read_column(file, "weight", 3)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_column(path, "weight", 3)


def test_other_columns_are_left_alone_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "weights.csv"
    file.write_text(",trajectory,weight,note\n0,0,1,good\n1,1,2,\n")
    with pytest.warns(DataWarning, match="columns that are not used: one without a name, note"):
        assert read_column(file, "weight", 2).tolist() == [1.0, 2.0]


def test_another_content_is_another_curation(tmp_path: Path) -> None:
    file = tmp_path / "weights.csv"
    file.write_text(GOOD)
    chosen = iwbc.TrajectoryWeights(str(file))
    first = pinned(chosen)
    assert first == replace(chosen, sha256=sha256_of(file))
    assert pinned(first) is first
    assert iwbc.curate(make_trajectories([1.0, 2.0, 3.0]), first).kept.tolist() == [0, 2]
    file.write_text(GOOD.replace("2.5", "2"))
    assert pinned(chosen) != first
    with pytest.raises(UserError, match=f"weights.csv: has changed since the run began .its SHA-256 was {first.sha256}"):
        iwbc.curate(make_trajectories([1.0, 2.0, 3.0]), first)
    assert pinned(iwbc.TopFraction()) == iwbc.TopFraction()


SCORES = "episode,score\n0,-1e308\n1,0.5\n2,1e308\n3,0.5\n"


@pytest.mark.parametrize(
    ("fraction", "kept"), [(0.01, [2]), (0.25, [2]), (0.4, [1, 2, 3]), (0.5, [1, 2, 3]), (0.75, [1, 2, 3]), (1, [0, 1, 2, 3])]
)
def test_a_fraction_of_the_best_by_any_scores_with_ties(tmp_path: Path, fraction: float, kept: list[int]) -> None:
    file = tmp_path / "scores.csv"
    file.write_text(SCORES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        chosen = iwbc.curate(make_trajectories([1.0] * 4), iwbc.TrajectoryScores(str(file), fraction=fraction))
    assert chosen.kept.tolist() == kept
    assert set(chosen.curation_weights.tolist()) <= {0.0, 1.0}


def test_scores_without_a_fraction_are_weights(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text(GOOD.replace("weight", "score"))
    data = make_trajectories([1.0, 2.0, 3.0])
    assert iwbc.curate(data, iwbc.TrajectoryScores(str(file))).curation_weights.tolist() == [1.0, 0.0, 2.5]
    file.write_text(GOOD.replace("weight", "score").replace("2.5", "-2.5"))
    with pytest.raises(UserError, match=r"line 4, score: '-2.5' of trajectory 2 must be a number, finite and not negative; "
                                        r"curation\.fraction=0\.1 keeps the best tenth by any scores$"):  # fmt: skip
        iwbc.curate(data, iwbc.TrajectoryScores(str(file)))
    file.write_text("trajectory,score\n0,0\n1,0\n2,0\n")
    with pytest.raises(UserError, match="score: all 3 are 0, which keeps no trajectory"):
        iwbc.curate(data, iwbc.TrajectoryScores(str(file)))
    with pytest.warns(DataWarning, match="keeps all 3 trajectories, each with the same weight, as curation=all does$"):
        iwbc.curate(data, iwbc.TrajectoryScores(str(file), fraction=0.1))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1e999", "", "bad"])
def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, value: str) -> None:
    file = tmp_path / "scores.csv"
    file.write_text(SCORES.replace("0,-1e308", f"0,{value}"))
    with pytest.raises(UserError, match=f"scores.csv, line 2, score: '{value}' of trajectory 0 must be a number, finite$"):
        iwbc.curate(make_trajectories([1.0] * 4), iwbc.TrajectoryScores(str(file), fraction=0.5))
    file.write_text(SCORES.replace("3,0.5\n", ""))
    with pytest.raises(UserError, match=r"such as 3; give each its score$"):
        iwbc.curate(make_trajectories([1.0] * 4), iwbc.TrajectoryScores(str(file), fraction=0.5))


def test_other_scores_are_another_curation(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    file.write_text(SCORES)
    first = pinned(iwbc.TrajectoryScores(str(file), fraction=0.5))
    assert first == iwbc.TrajectoryScores(str(file), sha256_of(file), 0.5)
    file.write_text(SCORES.replace("0.5", "0.6"))
    with pytest.raises(UserError, match="has changed since the run began"):
        iwbc.curate(make_trajectories([1.0] * 4), first)


def test_weights_are_of_the_whole_dataset_also_where_some_are_held_out(tmp_path: Path) -> None:
    from iwbc.data.curation import hold_out

    file, values = tmp_path / "weights.csv", np.arange(1.0, 11.0)
    file.write_text("trajectory,weight\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values)))
    rest, held = hold_out(iwbc.curate(make_trajectories(values), iwbc.TrajectoryWeights(str(file))), 0.3)
    assert held is not None
    for part in (rest, held):
        assert part.curation_weights.tolist() == pytest.approx(part.trajectories.returns.tolist())
