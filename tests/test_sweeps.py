"""Sweeps with Hydra's own launcher: summaries, failures, interruptions, two at the same time."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from setups import BRIEF, every, finish, python, summary_of, total, train

from iwbc.data.trajectories import Trajectories
from iwbc.environments.spec import EnvironmentSpec
from iwbc.runs import recorder, sweeps
from iwbc.runs.show import line
from iwbc.runs.summary import Diverged
from iwbc.runs.sweeps import Sweep, objective, remaining
from iwbc.system.files import write_json

SWEEP = ["-m", *BRIEF, "algo=bc", "eval.episodes=1", "eval.every=0"]


def folders(sweep: Path) -> dict[str, Path]:
    """The run folders, by name; a sweep leaves nothing else but Hydra's copy of its configuration."""
    entries = {path.name: path for path in sweep.iterdir()}
    assert entries.pop("multirun.yaml")
    return entries


def test_jobs_are_listed_with_what_tells_them_apart(
    hopper: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    outcome = train(*SWEEP, "seed=0,1")
    assert outcome.code == 0, outcome.err
    table = outcome.out[outcome.out.index("Sweep") :]
    runs = folders(tmp_path / "multirun")
    assert len(runs) == 2
    for seed, name in zip(("seed=0", "seed=1"), sorted(runs, key=table.index), strict=True):
        (row,) = [line for line in table.splitlines() if name in line]
        summary = json.loads((runs[name] / "summary.json").read_text())
        assert f"seed={summary['seeds'][0]}" == seed
        assert f"│ {seed} " in row
        assert f"return {summary['totals']['final']['return_mean']:.1f}" in row
    assert "did not finish" not in outcome.out
    assert re.findall(r"\] \((.*left)\)", outcome.out) == ["1 of 2 jobs; less than a minute left"]


def test_the_time_that_a_sweep_still_takes() -> None:
    assert remaining(seconds=600, done=2, jobs=8) == "about 30 min left"
    assert remaining(seconds=7200, done=1, jobs=4) == "about 6 h left"
    assert remaining(seconds=40, done=9, jobs=10) == "less than a minute left"


def test_a_killed_job_tells_nothing_of_the_time_that_others_take(tmp_path: Path) -> None:
    sweep = Sweep()
    sweep.reports, sweep.jobs, sweep.begun = tmp_path, 3, time.time()
    sweep._report(0, [], None, "running", None)
    assert sweep._progress() == ""
    sweep._report(1, [], None, "failed", "why")
    assert sweep._progress() == " (1 of 3 jobs; less than a minute left)"


@pytest.mark.robustness
def test_an_unforeseen_error_fails_its_job_alone(hopper: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    original = recorder.histogram

    def once_broken(*arguments: object) -> list[dict[str, object]]:
        monkeypatch.setattr(recorder, "histogram", original)
        raise ZeroDivisionError("bins")

    monkeypatch.setattr(recorder, "histogram", once_broken)
    outcome = train(*SWEEP, "seed=0,1")
    assert outcome.code == 1
    assert "once_broken" in outcome.err, "no traceback"
    assert "1 of 2 jobs did not finish" in outcome.out
    assert "failed: ZeroDivisionError: bins" in " ".join(outcome.out.replace("│", " ").split())
    runs = folders(tmp_path / "multirun")
    (failed,) = [path for path in runs.values() if not (path / "summary.json").exists()]
    assert json.loads((failed / "failure.json").read_text())["error"] == "ZeroDivisionError: bins"
    again = train(*SWEEP, "seed=0,1")
    assert again.code == 0
    assert again.out.count("is finished already") == 1
    assert not (failed / "failure.json").exists()


def test_a_setting_that_does_not_exist_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train("-m", "algo=bc", "algo.step=1,2")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "algo.step: no such setting; did you mean algo.steps" in outcome.err
    assert outcome.out == ""


EXTRAS = {"launcher=cores": "joblib", "launcher=slurm": "submitit", "launcher=ray_cores": "ray"}


@pytest.mark.parametrize("choice", every(3, EXTRAS))
def test_a_launcher_that_is_not_installed_is_one_line(choice: str, tmp_path: Path) -> None:
    without_plugins = "import sys; sys.modules['hydra_plugins'] = None; from iwbc.train import main; main()"
    outcome = finish(python("-c", without_plugins, "-m", f"hydra/{choice}", cwd=tmp_path))
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    needed = (
        f"it needs the extra {EXTRAS[choice]}: pip install -c constraints.txt -e '.[{EXTRAS[choice]}]', in a clone of iwbc\n"
    )
    assert outcome.err.endswith(needed)


@pytest.mark.robustness
def test_at_80_columns_a_run_folder_is_in_one_piece_and_the_best_is_marked(
    hopper: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    outcome = train(*SWEEP, "seed=0,1", "algo=bc,filtered_bc")
    assert outcome.code == 0, outcome.err
    assert "┃ policy" not in outcome.out, "a table for every job"
    table = outcome.out[outcome.out.index("Sweep in multirun") :]
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    returns = {}
    for name, folder in folders(tmp_path / "multirun").items():
        (row,) = [line for line in lines if name in line]
        final = json.loads((folder / "summary.json").read_text())["totals"]["final"]
        returns[final["score_mean"]] = row
        assert f" return {final['return_mean']:.1f}" in row
    assert re.search(r" \[-?[0-9.]+, +│", table), "no interval"
    assert [row for row in returns.values() if " * │" in row] == [returns[max(returns)]]
    assert "*: the best on its dataset" in table


def jobs_with(folder: Path, *scores: float) -> list[dict[str, Any]]:
    """Finished jobs on one dataset, of these scores."""
    jobs = []
    for number, score in enumerate(scores):
        (folder / str(number)).mkdir()
        write_json(folder / str(number) / "summary.json", summary_of({"final": total(1.0, score)}).to_plain())
        jobs.append({"job": number, "status": "finished", "folder": str(folder / str(number))})
    return jobs


@pytest.mark.parametrize(
    ("scores", "best"), [((99.0, 100.0), {1}), ((100.0, 100.0, 3.0), set()), ((7.0,), set()), ((1.0, 1.0, 2.0), {2})]
)
def test_of_several_that_did_as_well_none_is_the_best(scores: tuple[float, ...], best: set[int], tmp_path: Path) -> None:
    assert sweeps.best(jobs_with(tmp_path, *scores)) == best


def test_a_job_s_result_tells_of_both_kinds_of_action() -> None:
    finals = {"final": total(5.0), "final_sampled": total(3.0, action="sample")}
    expected = "mean action: return 5.0 [4.0, 6.0]; sampled actions: return 3.0 [2.0, 4.0]"
    assert line(summary_of({"reference": total(1.0), **finals})) == expected
    assert line(summary_of({"final": total(5.0)})) == "return 5.0 [4.0, 6.0]"
    measured = "return 5.0 [4.9, 5.1], score 7.0 [6.9, 7.1], success 50.0 [40.0, 60.0] %"
    assert line(summary_of({"final": total(5.0, 7.0, 0.5, width=0.1)})) == measured
    assert line(summary_of({})) == "finished, not evaluated"


@pytest.mark.robustness
def test_the_best_is_told_only_among_runs_on_the_same_dataset(
    hopper: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train(*SWEEP, "dataset.tier=medium-replay,random")
    assert outcome.code == 0, outcome.err
    assert "the best" not in outcome.out and " * │" not in outcome.out


def test_what_a_search_maximises() -> None:
    assert objective(summary_of({"final": total(3.0, 1.5, 0.5)})) == 1.5
    assert objective(summary_of({"final": total(3.0, None, 0.5)})) == 0.5
    assert objective(summary_of({"final": total(3.0)})) == 3.0
    assert objective(summary_of({})) is None
    # What is left of seeds of which the worst diverged would win.
    lost = (Diverged(1, 40, "NaN", None),)
    assert math.isnan(objective(summary_of({"final": total(9.0)}, diverged=lost)))  # type: ignore[arg-type]
    assert line(summary_of({"final": total(5.0)}, diverged=lost)) == "return 5.0 [4.0, 6.0]; 1 of 2 seeds diverged"


OTHERWISE: dict[str, Any] = {
    "content_hash": lambda s: s["dataset"].update(content_hash="cd" * 32),
    "environment": lambda s: s.update(environment=EnvironmentSpec("Hopper-v5", {"a": 1}).to_plain()),
    "normalisation": lambda s: s.update(normalisation={"random": 0.0, "expert": 1.0, "source": "here"}),
    "action": lambda s: s["totals"]["final"].update(action="sample"),
    "episodes": lambda s: s["totals"]["final"].update(episodes=7),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_the_best_is_one_of_those_that_were_evaluated_alike(what: str, tmp_path: Path) -> None:
    jobs = jobs_with(tmp_path, 9.0, 2.0, 1.0)
    path = tmp_path / "0" / "summary.json"
    plain = json.loads(path.read_text())
    OTHERWISE[what](plain)
    write_json(path, plain)
    assert sweeps.best(jobs) == {1}


def test_brackets_in_the_folder_of_a_sweep_are_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = Sweep()
    sweep.folder = tmp_path / "[" / "old]"
    sweep.show([{"job": 0, "overrides": [], "folder": None, "status": "failed", "error": "why"}])
    assert "Sweep in [/old]" in capsys.readouterr().out
