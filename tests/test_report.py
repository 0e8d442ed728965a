"""The report: which runs stand together, the numbers in its tables, what it writes, and its command."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from test_report_folders import HOPPER, make_failure, make_run

from iwbc.errors import UserError
from iwbc.report import figures, statistics, tables
from iwbc.report.collect import collect
from iwbc.report.page import page
from iwbc.report.statistics import Scores
from iwbc.report.study import Study, arrange
from iwbc.report.write import write_report
from iwbc.system.files import write_csv

FILTERED = "filtered BC 10 %"


def study_of(folder: Path) -> Study:
    return arrange(collect([folder])[0])


def texts(table: tables.Table | None) -> list[list[str]]:
    assert table is not None
    return [[cell.text for cell in row] for row in table.rows + table.footer]


# --- the grid --------------------------------------------------------------------------------------------------------


def test_seeds_of_several_runs_share_a_cell(tmp_path: Path) -> None:
    make_run(tmp_path / "a", returns={0: [10.0, 20.0], 1: [25.0, 25.0]})
    make_run(tmp_path / "b", returns={2: [30.0]})
    (cell,) = study_of(tmp_path).cells.values()
    assert [(result.seed, result.mean_return, result.mean_score) for result in cell] == [(0, 15, 15), (1, 25, 25), (2, 30, 30)]


def test_methods_and_datasets_come_in_the_field_s_order(tmp_path: Path) -> None:
    methods = ["AWR", "other", "iw-BC(Q) step", "RWR", "iw-BC(Q)", "iw-BC 10 %", "SFT(Q)", FILTERED, "BC", "filtered BC 2 %"]
    for i, method in enumerate(methods):
        make_run(tmp_path / f"m{i}", method)
    for i, level in enumerate(["hopper/expert-v0", "hopper/medium-replay-v0", "ant/medium-v0"]):
        make_run(tmp_path / f"d{i}", dataset=f"iwbc/{level}")
    study = study_of(tmp_path)
    assert study.methods == [
        *("BC", "filtered BC 2 %", FILTERED, "SFT(Q)", "iw-BC 10 %", "iw-BC(Q)", "iw-BC(Q) step", "RWR", "AWR", "other")
    ]
    levels = ["ant/medium-v0", "hopper/medium-v0", "hopper/medium-replay-v0", "hopper/expert-v0"]
    assert list(study.tasks) == [f"iwbc/{level}" for level in levels]


def test_other_settings_on_one_dataset_are_other_columns_named_by_them(tmp_path: Path) -> None:
    for kappa in (10.0, 2.0):
        make_run(tmp_path / f"k{kappa}", "iw-BC(Q)", settings={"kappa": kappa})
    for steps in (2000, 4000):
        make_run(tmp_path / f"bc{steps}", "BC", steps=steps)
        make_run(tmp_path / f"sft{steps}", "SFT(Q)", steps=steps, settings={"start": "reference"})
    study = study_of(tmp_path)
    assert study.differences == {}
    assert study.methods == [
        *("BC (steps=2000)", "BC (steps=4000)"),
        *("SFT(Q) (algo.steps=2000)", "SFT(Q) (algo.steps=4000)"),  # there are also reference.steps
        *("iw-BC(Q) (kappa=2)", "iw-BC(Q) (kappa=10)"),
    ]
    assert (
        "iw-BC(Q) was run with different settings (algo.kappa) on the same data: each has a column of its own." in study.notes
    )


def test_differences_of_methods_beside_their_names_are_noted(tmp_path: Path) -> None:
    def notes() -> list[str]:
        return [note for note in study_of(tmp_path).notes if "more than their names say" in note]

    # Another number of steps on another dataset, in both methods alike, is no difference between them.
    for number, method in enumerate((FILTERED, "iw-BC(Q)")):
        make_run(tmp_path / f"a{number}", method, settings={"schedule": "cosine"})
        make_run(tmp_path / f"b{number}", method, dataset="iwbc/hopper/expert-v0", steps=10, settings={"schedule": "cosine"})
    assert notes() == []
    shutil.rmtree(tmp_path / "a1")
    make_run(tmp_path / "a1", "iw-BC(Q)", settings={"schedule": "constant"})
    shutil.rmtree(tmp_path / "b1")
    make_run(tmp_path / "b1", "iw-BC(Q)", dataset="iwbc/hopper/expert-v0", steps=10, settings={"schedule": "constant"})
    assert notes() == [
        "Methods differ in more than their names say: algo.schedule is constant in iw-BC(Q); cosine in filtered BC 10 %."
    ]


def test_many_other_settings_go_by_a_letter_and_a_table(tmp_path: Path) -> None:
    for kappa, decay in ((10.0, 0.9), (2.0, 0.99)):
        settings = {"kappa": kappa, "decay": decay, "minimum": 1.0 - decay}
        make_run(tmp_path / f"k{kappa}", "iw-BC(Q)", settings=settings)
    study = study_of(tmp_path)
    assert study.methods == ["iw-BC(Q) a", "iw-BC(Q) b"]
    table = tables.difference_table(study)
    assert table is not None
    assert table.columns == ["method", "decay", "kappa", "minimum"]
    assert texts(table) == [
        ["iw-BC(Q) a", "0.9", "10", "0.1"],
        ["iw-BC(Q) b", "0.99", "2", "0.01"],
    ]


def test_the_reference_is_a_method_too(tmp_path: Path) -> None:
    reference = {0: [1.0, 3.0], 1: [4.0, 4.0]}
    for i, method in enumerate((FILTERED, "iw-BC(Q)")):
        make_run(tmp_path / str(i), method, returns={0: [10.0 + i, 20.0], 1: [30.0, 30.0]}, reference=reference)
    study = study_of(tmp_path)
    assert study.methods == ["reference", FILTERED, "iw-BC(Q)"]
    assert study.notes == []
    table = tables.score_table(study)
    assert table is not None
    assert texts(table)[0][:2] == ["iwbc/hopper/medium-v0", "3.0 ± 1.4"]
    assert "reference: the policies that the others began from" in " ".join(table.notes)
    assert statistics.shared_scores(study).matrices["reference"].tolist() == [[2], [4]]
    assert [cell[0] for cell in texts(tables.run_table(study))] == ["0", "1"]
    make_run(tmp_path / "bc", dataset="iwbc/hopper/expert-v0")  # which has no reference
    make_run(tmp_path / "other", FILTERED, dataset="iwbc/hopper/expert-v0")
    make_run(tmp_path / "another", "iw-BC(Q)", dataset="iwbc/hopper/expert-v0")
    assert "reference" not in statistics.shared_scores(study_of(tmp_path)).matrices


def test_the_lead_says_who_is_best(tmp_path: Path) -> None:
    make_run(tmp_path / "a", FILTERED, returns={0: [10.0], 1: [20.0]})
    make_run(tmp_path / "b", "iw-BC(Q)", returns={0: [30.0], 1: [40.0]})
    report(tmp_path, tmp_path / "report")
    text = Outline((tmp_path / "report" / "index.html").read_text()).text
    assert (
        "iw-BC(Q) has the highest IQM of the scores, 35.0 [30.0, 40.0], with its 95 % interval; next is filtered BC 10 % with "
        "15.0 [10.0, 20.0]. P(better than filtered BC 10 %): 1.00 [1.00, 1.00]."
    ) in text


def test_videos_of_a_run_are_in_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (run / "videos").mkdir()
    row = {"name": "best", "file": "best.mp4", "seed": 0, "episode": 1, "return": 20.0, "length": 7, "of": 2, "action": "mean"}
    others = [{**row, "name": "worst", "file": "../../../secret"}, {**row, "name": "median", "file": "large.mp4"}]
    (run / "videos" / "videos.json").write_text(json.dumps([row, *others]))
    (run / "videos" / "best.mp4").write_bytes(b"film")
    (run / "videos" / "large.mp4").write_bytes(b"f" * 2_000_001)
    report(tmp_path / "a", tmp_path / "report")
    outline = Outline((tmp_path / "report" / "index.html").read_text())
    assert outline.tags.count("video") == 1
    assert "data:video/mp4;base64,ZmlsbQ==" in outline.references
    assert "the best of 2 episodes, return 20.0, 7 steps" in outline.text


def test_settings_chosen_per_dataset_stay_one_column_with_a_note(tmp_path: Path) -> None:
    for i, (level, lr) in enumerate({"medium": 0.1, "expert": 0.1, "random": 0.2}.items()):
        make_run(tmp_path / str(i), "SFT(Q)", f"iwbc/hopper/{level}-v0", settings={"lr": lr})
    study = study_of(tmp_path)
    assert study.methods == ["SFT(Q)"]
    assert study.notes == [
        "SFT(Q) was not run with the same algo.lr on every dataset: 0.2 on iwbc/hopper/random-v0; 0.1 elsewhere."
    ]


@pytest.mark.parametrize(("method", "columns"), [("BC", 1), (FILTERED, 2)])
def test_the_reference_s_settings_matter_to_those_that_start_from_it(tmp_path: Path, method: str, columns: int) -> None:
    make_run(tmp_path / "a", method, returns={0: [1.0]})
    run = make_run(tmp_path / "b", method, returns={1: [2.0]})
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("reference:\n  steps: 10", "reference:\n  steps: 99"))
    assert "99" in (run / "config.yaml").read_text()
    assert len(study_of(tmp_path).methods) == columns


def test_where_and_how_fast_a_run_ran_makes_no_other_column(tmp_path: Path) -> None:
    make_run(tmp_path / "a", returns={0: [1.0]})
    run = make_run(tmp_path / "b", returns={1: [2.0]})
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("cpu", "cuda") + "threads: 4\nlog_every: 7\n")
    assert study_of(tmp_path).methods == ["BC"]


def test_the_same_result_twice_counts_once_and_is_noted(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "copy")
    study = study_of(tmp_path)
    assert [len(cell) for cell in study.cells.values()] == [1]
    (note,) = study.notes
    assert note == "Seed 0 of BC on iwbc/hopper/medium-v0 is in a and, with the same results, in copy; it counts once."


def test_two_results_for_one_seed_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a", returns={0: [1.0], 1: [3.0]})
    make_run(tmp_path / "b", returns={1: [4.0]})
    with pytest.raises(UserError, match=r"a and .*b: both are BC on iwbc/hopper/medium-v0 with seed 1 .* give only one"):
        study_of(tmp_path)


@pytest.mark.parametrize(
    ("other", "rows"),
    [
        ({"content_hash": "cd" * 32}, ["(content abababab)", "(content cdcdcdcd)"]),
        ({"env_id": "Hopper-v4"}, ["(evaluated in Hopper-v4)", "(evaluated in Hopper-v5)"]),
        ({"normalisation": HOPPER}, ["(scores from 0 to 100, the test)", "(scores from -20.2723 to 3234.3, D4RL)"]),
    ],
)
def test_other_data_under_one_name_are_other_rows(tmp_path: Path, other: dict[str, Any], rows: list[str]) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **other)
    assert list(study_of(tmp_path).tasks) == [f"iwbc/hopper/medium-v0 {row}" for row in rows]


# --- tables ----------------------------------------------------------------------------------------------------------


def test_scores_are_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    # BC: seed means 15 and 25, so 20 ± √50. Filtered BC: 40 ± 0 and 10 alone. Averages: (20 + 5) / 2 and (40 + 10) / 2.
    make_run(tmp_path / "a", returns={0: [10.0, 20.0], 1: [25.0, 25.0]})
    make_run(tmp_path / "b", FILTERED, returns={0: [40.0, 40.0], 1: [40.0, 40.0]})
    make_run(tmp_path / "c", dataset="iwbc/hopper/expert-v0", returns={0: [0.0, 10.0], 1: [5.0, 5.0]})
    make_run(tmp_path / "d", FILTERED, dataset="iwbc/hopper/expert-v0", returns={0: [10.0, 10.0]})
    table = tables.score_table(study_of(tmp_path))
    assert texts(table) == [
        ["iwbc/hopper/medium-v0", "20.0 ± 7.1 (n=2)", "40.0 ± 0.0 (n=2)"],
        ["iwbc/hopper/expert-v0", "5.0 ± 0.0 (n=2)", "10.0 (n=1)"],
        ["average", "12.5", "25.0"],
    ]
    assert table is not None
    assert [[cell.bold for cell in row] for row in table.rows] == [[False, False, True]] * 2
    notes = " ".join(table.notes)
    assert "2 episodes, played by the last policy (never the best checkpoint)" in notes
    assert "1 to 2 seeds per cell" in notes
    assert "Hopper-v5: 0 and 100 (the test)" in notes


def test_an_average_needs_every_dataset(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", FILTERED)
    make_run(tmp_path / "c", dataset="iwbc/hopper/expert-v0", returns={0: [5.0]})
    table = tables.score_table(study_of(tmp_path))
    assert texts(table)[1:] == [["iwbc/hopper/expert-v0", "5.0", "–"], ["average", "10.0", "–"]]
    assert table is not None
    assert "The average is given for methods with a score on every dataset." in table.notes
    assert "1 to 2 episodes" in table.notes[0]


def test_runs_without_reference_returns_get_a_table_of_returns(tmp_path: Path) -> None:
    make_run(tmp_path / "a", returns={0: [0.25], 1: [0.75]}, normalisation=None, dataset="own/maze-v0")
    make_run(tmp_path / "b", returns={0: [50.0]})
    study = study_of(tmp_path)
    assert texts(tables.return_table(study)) == [["own/maze-v0", "0.500 ± 0.354"]]
    assert texts(tables.score_table(study)) == [["iwbc/hopper/medium-v0", "50.0"]]


def test_unevaluated_runs_are_in_the_list_of_runs_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "a", returns={0: [], 3: [], 4: []}, env_id=None, normalisation=None)
    study = study_of(tmp_path)
    assert tables.score_table(study) is tables.return_table(study) is None
    ((name, method, dataset, seeds, episodes, kept, speed, minutes),) = texts(tables.run_table(study))
    assert (name, method, dataset, seeds, episodes) == ("a", "BC", "iwbc/hopper/medium-v0", "0, 3–4", "not evaluated")
    assert (kept, speed, minutes) == ("4 of 40", "250", "1.5")


TABLE = tables.Table(
    name="odd",
    caption="Odd 100 % <names>",
    columns=["a|b", "x_1"],
    rows=[[tables.Cell("p|q & <r>"), tables.Cell("1.0 ± 0.5", 1.0, bold=True)]],
    footer=[[tables.Cell("average"), tables.Cell("–")]],
    notes=["n − 1 > 0"],
)


def test_markdown() -> None:
    lines = tables.to_markdown(TABLE).splitlines()
    assert lines[0] == "### Odd 100 % <names>"
    assert lines[2:6] == ["| a\\|b | x_1 |", "| --- | ---: |", "| p\\|q & <r> | **1.0 ± 0.5** |", "| average | – |"]
    assert lines[-1] == "- n − 1 > 0"


def test_latex() -> None:
    text = tables.to_latex(TABLE)
    assert r"\caption{Odd 100 \% $<$names$>$. n $-$ 1 $>$ 0}" in text
    assert r"\begin{tabular}{lr}" in text
    assert r"a|b & x\_1 \\" in text
    assert r"p|q \& $<$r$>$ & \textbf{1.0 $\pm$ 0.5} \\" in text
    assert text.isascii() is False or "±" not in text
    assert text.count("{") == text.count("}")


def test_html() -> None:
    text = page(Study(), [TABLE], [], [])
    assert "<caption>Odd 100 % &lt;names&gt;</caption>" in text
    assert '<td class="number" data-value="1.0"><b>1.0 ± 0.5</b></td>' in text
    assert '<th scope="row">p|q &amp; &lt;r&gt;</th>' in text
    assert re.search(r"<tfoot>.*average.*</tfoot>", text, re.S)


# --- statistics ------------------------------------------------------------------------------------------------------


def scores(**matrices: Sequence[Sequence[float]]) -> Scores:
    arrays = {name: np.array(matrix, float) for name, matrix in matrices.items()}
    return Scores([f"t{i}" for i in range(next(iter(arrays.values())).shape[1])], arrays, [])


def test_aggregates_match_a_hand_calculation() -> None:
    # Sorted: 1 2 3 4 5 6 120 800. IQM = (3 + 4 + 5 + 6) / 4; task means 2.5 and 232.75; gap = 100 − (21 + 200) / 8.
    estimates = statistics.aggregates(scores(m=[[1, 800], [4, 5], [2, 6], [3, 120]]))["m"]
    assert estimates["IQM"].value == pytest.approx(4.5)
    assert estimates["mean"].value == pytest.approx((2.5 + 232.75) / 2)
    assert estimates["median"].value == pytest.approx((2.5 + 232.75) / 2)
    assert estimates["optimality gap"].value == pytest.approx(100 - 221 / 8)


def test_intervals_hold_the_value_and_are_the_same_every_time() -> None:
    values = np.random.default_rng(1).normal(50, 10, (5, 3))
    estimates = statistics.aggregates(scores(m=values.tolist()))["m"]
    assert statistics.aggregates(scores(m=values.tolist()))["m"] == estimates
    for estimate in estimates.values():
        assert estimate.low < estimate.value < estimate.high
    # The mean's standard error is its seeds' within each task: an interval of about ± 1.96 of them.
    error = np.sqrt((values.var(0) / 5).sum()) / 3
    assert estimates["mean"].high - estimates["mean"].low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_a_method_s_interval_does_not_depend_on_the_others() -> None:
    values = np.random.default_rng(1).normal(50, 10, (2, 5, 3)).tolist()
    assert statistics.aggregates(scores(a=values[0], b=values[1]))["b"] == statistics.aggregates(scores(b=values[1]))["b"]


def test_one_seed_has_no_interval() -> None:
    estimate = statistics.aggregates(scores(m=[[1, 2, 3, 4]]))["m"]["IQM"]
    assert estimate.value == 2.5
    assert np.isnan([estimate.low, estimate.high]).all()
    assert np.isnan(statistics.improvement(scores(a=[[1], [2]], b=[[1]]), "b")["a"].low)


# Five and four seeds of three tasks, and what rliable 1.2.0 makes of them: aggregates with 50,000 bootstrap samples, the
# probability of improvement with 3,000, the profile with 20,000.
X = [[130.0, 47.4, 62.8], [52.1, 39.3, 57.2], [76.1, 68.9, 35.9], [24.7, 37.5, 50.8], [3.5, 45.6, 25.1]]
Y = [[36.7, 41.4, 47.1], [65.3, 81.1, 51.8], [89.2, 38.4, 63.8], [77.6, 57.4, 36.4]]
RLIABLE = {
    "IQM": (47.62222222222222, 36.84444444444445, 58.5),
    "mean": (50.46, 37.386500000000005, 64.88683333333334),
    "median": (47.74, 38.82, 58.32),
    "optimality gap": (51.54, 40.1265, 62.8),
}


def test_numbers_are_rliable_s() -> None:
    estimates = statistics.aggregates(scores(x=X))["x"]
    for name, (value, low, high) in RLIABLE.items():
        assert estimates[name].value == pytest.approx(value)
        assert (estimates[name].low, estimates[name].high) == pytest.approx((low, high), abs=1.0)  # of other samples
    better = statistics.improvement(scores(x=X, y=Y), "x")["y"]
    assert (better.value, better.low, better.high) == pytest.approx((0.61666667, 0.38333333, 0.83333333), abs=0.02)
    share, low, high = statistics.profiles(scores(x=X), np.array([0.0, 40.0, 60.0, 80.0]))["x"]
    assert share == pytest.approx([1.0, 0.6, 4 / 15, 1 / 15])
    assert low == pytest.approx([1.0, 1 / 3, 1 / 15, 0.0], abs=0.07)
    assert high == pytest.approx([1.0, 13 / 15, 7 / 15, 0.2], abs=0.07)


def test_probability_of_improvement_by_hand() -> None:
    # Task 1: 3 of 4 pairs won, one tied. Task 2: none of 4 won.
    x, y = np.array([[2.0, 0.0], [3.0, 0.0]]), np.array([[1.0, 5.0], [2.0, 5.0]])
    assert statistics.improvement(scores(x=x.tolist(), y=y.tolist()), "y")["x"].value == pytest.approx((3.5 / 4 + 0) / 2)


def test_profiles_count_what_lies_above() -> None:
    share, low, high = statistics.profiles(scores(m=[[10, 20], [30, 40]]), np.array([0.0, 10.0, 25.0, 40.0]))["m"]
    assert share.tolist() == [1, 0.75, 0.5, 0]
    assert (low <= share).all()
    assert (share <= high).all()


def test_aggregates_are_over_the_datasets_that_all_methods_share(tmp_path: Path) -> None:
    make_run(tmp_path / "a", returns={0: [10.0], 1: [20.0], 2: [99.0]})
    make_run(tmp_path / "b", dataset="iwbc/hopper/expert-v0", returns={0: [30.0], 1: [40.0]})
    make_run(tmp_path / "c", dataset="iwbc/hopper/random-v0", returns={0: [1.0], 1: [2.0]})
    make_run(tmp_path / "d", FILTERED, returns={0: [50.0]})
    make_run(tmp_path / "e", FILTERED, dataset="iwbc/hopper/expert-v0", returns={4: [60.0]})
    make_run(tmp_path / "f", dataset="own/maze-v0", normalisation=None)
    study = study_of(tmp_path)
    shared = statistics.shared_scores(study)
    assert shared.tasks == ["iwbc/hopper/medium-v0", "iwbc/hopper/expert-v0"]
    assert shared.matrices["BC"].tolist() == [[10, 30], [20, 40]]
    assert shared.matrices[FILTERED].tolist() == [[50, 60]]
    assert shared.notes == [
        "Aggregates count 2 seeds of BC, 1 fewer than some of its datasets have.",
        "Aggregates leave out what not every method was run on: iwbc/hopper/random-v0.",
    ]


def test_kinds_of_action_have_aggregates_of_their_own(tmp_path: Path) -> None:
    # Sampled actions of the same policies are no second dataset: pooled, they would count every seed twice.
    make_run(tmp_path / "a", returns={0: [10.0], 1: [20.0]}, sampled={0: [1.0], 1: [2.0]})
    make_run(tmp_path / "b", FILTERED, returns={0: [30.0], 1: [40.0]}, sampled={0: [0.0], 1: [3.0]})
    study = study_of(tmp_path)
    mean, sampled = (statistics.shared_scores(study, action) for action in ("mean", "sample"))
    assert (mean.tasks, mean.matrices["BC"].tolist(), mean.played) == (["iwbc/hopper/medium-v0"], [[10], [20]], "mean action")
    assert (sampled.matrices["BC"].tolist(), sampled.played) == ([[1], [2]], "sampled actions")
    write_report([tmp_path], tmp_path / "report", Console(quiet=True))
    text = (tmp_path / "report" / "tables.md").read_text()
    for title in ("Aggregates over datasets, mean action", "Aggregates over datasets, sampled actions"):
        assert text.count(title) == 1
    assert text.count("Over 1 dataset: ") == 2
    page = (tmp_path / "report" / "index.html").read_text()
    assert f"Mean action: {FILTERED} has the highest IQM of the scores, 35.0" in page
    assert "Sampled actions: " in page
    names = {path.stem for path in (tmp_path / "report" / "figures").glob("*.svg")}
    assert {"aggregates_mean_action", "aggregates_sampled_actions", "performance_profiles_mean_action"} <= names


def test_no_shared_dataset_no_aggregates(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", FILTERED, dataset="iwbc/hopper/expert-v0")
    shared = statistics.shared_scores(study_of(tmp_path))
    assert (shared.tasks, shared.matrices) == ([], {})
    assert "iwbc/hopper/medium-v0, iwbc/hopper/expert-v0" in shared.notes[0]


@pytest.mark.parametrize(
    ("methods", "baseline"),
    [
        (["BC"], None),
        (["BC", "filtered BC 20 %"], "filtered BC 20 %"),
        (["filtered BC 20 %", FILTERED], FILTERED),
        (["filtered BC 20 %", "filtered BC 5 %"], None),
    ],
)
def test_the_baseline_is_filtered_bc(methods: list[str], baseline: str | None) -> None:
    assert Study(methods=methods).baseline() == baseline


# --- figures' numbers ------------------------------------------------------------------------------------------------


def test_learning_curves_are_means_over_seeds_at_common_steps(tmp_path: Path) -> None:
    make_run(tmp_path / "a", returns={0: [10.0, 30.0]}, periodic={500: {0: 4.0}, 700: {0: 1.0}}, steps=1000)
    make_run(tmp_path / "b", returns={1: [40.0]}, periodic={500: {1: 6.0}}, steps=1000)
    (runs,) = study_of(tmp_path).runs.values()
    share, mean, std = figures.curve(runs, scored=True)
    assert share.tolist() == [50, 100]
    assert mean.tolist() == [5, 30]
    assert std == pytest.approx([np.sqrt(2), np.sqrt(200)])


def test_a_seed_that_diverged_is_in_no_curve(tmp_path: Path) -> None:
    metrics = [{"step": step, "seed": seed, "drift_kept": 10.0**seed} for step, seed in [(50, 0), (50, 9), (100, 0)]]
    make_run(tmp_path / "a", returns={0: [30.0]}, periodic={500: {0: 4.0, 9: -1e6}, 700: {0: 5.0}}, metrics=metrics, steps=1000)
    (runs,) = study_of(tmp_path).runs.values()
    share, mean, _ = figures.curve(runs, scored=True)
    assert (share.tolist(), mean.tolist()) == ([50, 70, 100], [4, 5, 30])
    assert figures.mean_metrics(runs)["drift_kept"].tolist() == [1, 1]


def test_a_curve_is_of_one_kind_of_action(tmp_path: Path) -> None:
    make_run(tmp_path / "a", returns={0: [30.0]}, sampled={0: [10.0]}, periodic={500: {0: 4.0}}, steps=1000)
    curves = [figures.curve(runs, scored=True)[1].tolist() for runs in study_of(tmp_path).runs.values()]
    assert sorted(curves) == [[4.0, 30.0], [10.0]]


def test_metrics_are_averaged_over_seeds_at_each_step(tmp_path: Path) -> None:
    rows = [
        {"step": step, "seed": seed, "ess_share": value} for step, seed, value in [(50, 0, 1.0), (50, 1, 0.5), (100, 0, 0.2)]
    ]
    of_others = [{"step": 100, "seed": 1, "ess_share": 0.4}]
    make_run(tmp_path / "a", returns={0: [1.0], 1: [1.0]}, metrics=[*rows, *of_others])
    make_run(tmp_path / "b", returns={5: [1.0]}, metrics=[{"step": 50, "seed": 5, "ess_share": 0.0, "loss": 3.0}])
    make_run(tmp_path / "c", returns={6: [1.0]})
    (runs,) = study_of(tmp_path).runs.values()
    metrics = figures.mean_metrics(runs)
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "step": [50, 100],
        "ess_share": pytest.approx([0.5, 0.3]),
    }


def test_curations_that_keep_the_same_share_a_histogram(tmp_path: Path) -> None:
    kept = [(0.0, 1.0, 9, 0), (1.0, 2.0, 3, 2)]
    make_run(tmp_path / "a", FILTERED, histogram=kept)
    make_run(tmp_path / "b", "iw-BC(Q)", histogram=kept)
    make_run(tmp_path / "c", "BC", histogram=[(0.0, 1.0, 9, 9), (1.0, 2.0, 3, 3)])
    drawn = figures.histograms(study_of(tmp_path), "iwbc/hopper/medium-v0")
    assert list(drawn) == ["all", "top fraction, quality levels"]
    assert [array.tolist() for array in drawn["top fraction, quality levels"]] == [[0, 1, 2], [9, 3], [0, 2]]


def test_curations_of_one_name_that_keep_others_are_drawn_apart(tmp_path: Path) -> None:
    make_run(tmp_path / "a", FILTERED, histogram=[(0.0, 1.0, 9, 0), (1.0, 2.0, 3, 2)])
    make_run(tmp_path / "b", f"{FILTERED} by length", histogram=[(0.0, 1.0, 9, 1), (1.0, 2.0, 3, 1)])
    drawn = figures.histograms(study_of(tmp_path), "iwbc/hopper/medium-v0")
    assert [value[2].tolist() for value in drawn.values()] == [[0, 2], [1, 1]]
    assert list(drawn) == [f"top fraction ({FILTERED})", f"top fraction ({FILTERED} by length)"]


# --- the whole -------------------------------------------------------------------------------------------------------


def make_sweep(folder: Path) -> Path:
    """Three methods on two datasets, everything there is to draw, a failed and an unfinished run."""
    generator = np.random.default_rng(0)
    for i, (method, level) in enumerate((m, d) for m in ("BC", FILTERED, "iw-BC(Q)") for d in ("medium", "expert")):
        returns = {seed: (20 * i + generator.normal(0, 5, 3)).tolist() for seed in (0, 1)}
        metrics: list[Mapping[str, Any]] = [
            {"step": step, "seed": seed, "loss": 1.0, "drift_kept": 0.1, "drift_dropped": -0.1}
            | ({"ess_share": 0.9, "weight_min": 0.0, "weight_median": 1.0, "weight_max": 5.0} if "iw" in method else {})
            for step in (100, 200)
            for seed in (0, 1)
        ]
        histogram = [(0.0, 50.0, 30, 0), (50.0, 100.0, 10, 4)]
        run = make_run(
            *(folder / f"run{i}", method, f"iwbc/hopper/{level}-v0", returns),
            periodic={100: {0: 1.0, 1: 2.0}},
            metrics=metrics if method != "BC" else (),
            histogram=histogram,
            reference={seed: [5.0 + seed] * 3 for seed in (0, 1)} if method != "BC" else None,
        )
        if "iw" in method:
            rows = [
                {
                    "seed": seed,
                    "trajectory": j,
                    "return": 50.0 + j,
                    "length": 7,
                    "curation": 1 + j % 2,
                    "weight": 0.5 + j + seed,
                }
                for seed in (0, 1)
                for j in range(10)
            ]
            write_csv(run / "weights.csv", rows)
    make_failure(folder / "bad", "step 50: the loss of seed 1 is not <finite>", ["algo=awr", "env=hopper"])
    (folder / "cut").mkdir()
    (folder / "cut" / "config.yaml").write_text("algo: {name: bc}\n")
    return folder


def report(folder: Path, out: Path) -> None:
    write_report([folder], out, Console(quiet=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    report(make_sweep(folder / "sweep"), folder / "report")
    return folder / "report"


def test_a_report_holds_tables_figures_and_every_episode(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == ["episodes.csv", "figures", "index.html", "tables.md", "tables.tex"]
    names = {"aggregates", "curated_returns", "learning_curves", "performance_profiles", "seeds"}
    names |= {f"{kind}-iwbc-hopper-{tier}-v0" for kind in ("weights", "trajectory_weights") for tier in ("medium", "expert")}
    assert {path.name for path in (made / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    }
    rows = list(csv.DictReader((made / "episodes.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {"reference", "BC", FILTERED, "iw-BC(Q)"}
    rows = [row for row in rows if row["method"] != "reference"]
    assert len({(row["run"], row["seed"], row["episode"]) for row in rows}) == len(rows) == 6 * 2 * 3
    first = next(row for row in rows if row["method"] == "BC")
    assert (first["run"], first["method"], first["dataset"], first["env_id"]) == (
        "run0",
        "BC",
        "iwbc/hopper/medium-v0",
        "Hopper-v5",
    )
    assert float(first["score"]) == pytest.approx(float(first["return"]), rel=1e-6)
    for name, tables_ in (("tables.md", 3), ("tables.tex", 2)):
        text = (made / name).read_text()
        assert len(re.findall(r"^###|\\begin\{table\}", text, re.M)) == tables_


class Outline(HTMLParser):
    """What a page refers to, its ids, its tables' cells and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "xlink:href"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained_and_holds_everything(made: Path) -> None:
    text = (made / "index.html").read_text()
    outline = Outline(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    pictures = [reference for reference in outline.references if reference.startswith("data:image/svg+xml;base64,")]
    assert len(pictures) == 9
    anchors = [reference for reference in outline.references if reference not in pictures]
    assert {anchor.removeprefix("#") for anchor in anchors} <= set(outline.ids)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {"scores", "aggregates", "runs", "missing"} <= set(outline.ids)
    assert outline.tags.count("details") == 6
    assert "6 finished runs, 3 methods, 2 datasets. 2 more runs failed or unfinished." in outline.text
    assert "kappa: 2.0" in outline.text
    assert "step 50: the loss of seed 1 is not <finite> (algo=awr env=hopper)" in outline.text
    assert "interrupted or still running" in outline.text
    assert "Hopper-v5: 0 and 100 (the test)" in outline.text
    assert "95 % intervals" in outline.text
    assert "P(better than filtered BC 10 %)" in outline.text.replace("\N{NO-BREAK SPACE}", " ")
    markdown = (made / "tables.md").read_text()
    for number in re.findall(r"\d+\.\d+ ± \d+\.\d+", markdown):
        assert number in outline.text


@pytest.mark.robustness
def test_the_same_runs_make_the_same_report(made: Path, tmp_path: Path) -> None:
    report(make_sweep(tmp_path / "sweep"), tmp_path / "report")
    for path in made.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "report" / path.relative_to(made)).read_bytes(), path.name


def test_no_run_has_finished(tmp_path: Path) -> None:
    make_failure(tmp_path / "sweep" / "bad")
    report(tmp_path / "sweep", tmp_path / "report")
    assert "out of luck (algo=bc)" in (tmp_path / "report" / "index.html").read_text()
    assert (tmp_path / "report" / "episodes.csv").read_text().count("\n") == 1


def command(*arguments: str | Path, cwd: Path, code: str = "-m iwbc.report") -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "error::UserWarning:iwbc", *code.split(), *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_the_command_reports_one_run_with_one_seed(tmp_path: Path) -> None:
    make_run(tmp_path / "algo=bc", normalisation=None, env_id="Own-v0")
    done = command("algo=bc", cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "report/index.html\n")
    assert "| iwbc/hopper/medium-v0 | 15.0 |" in (tmp_path / "report" / "tables.md").read_text()
    assert list((tmp_path / "report" / "figures").iterdir()) == []


def test_a_damaged_run_is_one_line_and_leaves_the_earlier_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "index.html").write_text("earlier")
    (run / "summary.json").write_text('{"format": 1,')
    done = command("run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(run / "summary.json") in done.stderr
    assert (tmp_path / "report" / "index.html").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "run"]


def test_a_report_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("earlier")
    report(tmp_path / "run", tmp_path / "report")
    assert "earlier" not in (tmp_path / "report" / "index.html").read_text()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years")
    with pytest.raises(UserError, match="holds other things than a report"):
        report(tmp_path / "run", tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "run", "thesis"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give at least one run or sweep folder"),
        (["nowhere"], "no such folder"),
        (["x", "out=a", "out=b"], "out is given twice"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path: Path, arguments: list[str], problem: str) -> None:
    done = command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert problem in done.stderr


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import json, runpy, sys\n"
        "sys.argv = ['report', '--help']\n"
        "try: runpy.run_module('iwbc.report', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'matplotlib', 'numpy', 'omegaconf'}\n"
        "print(json.dumps([code, sorted(heavy & set(sys.modules))]))"
    )
    (tmp_path / "check.py").write_text(script)
    done = command(cwd=tmp_path, code="check.py")
    *usage, last = done.stdout.splitlines()
    assert json.loads(last) == [0, []]
    assert "    python -m iwbc.report FOLDER... [out=report] [mixed=false]" in usage


def test_missing_libraries_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        UserError, match=r"cannot import matplotlib; it needs the extra report: pip install .* -e '\.\[report\]'"
    ):
        report(tmp_path / "run", tmp_path / "report")


def test_an_option_with_dashes_is_one_line(tmp_path: Path) -> None:
    for option, message in {"--out=x": "--out=x: write it as out=…\n", "--foo": "--foo: not an option; "}.items():
        done = subprocess.run([sys.executable, "-m", "iwbc.report", str(tmp_path), option], capture_output=True, text=True)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert done.stderr.startswith(message)
