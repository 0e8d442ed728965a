"""`iwbc compare`: what it runs, how it goes on, and what it ends with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import few_steps, make_trajectories
from pendulum import ID, QUICK, make_pendulum
from setups import Outcome, command, read_csv, summary_of, total

import iwbc
from iwbc import compare
from iwbc.compare import seconds_of, settings_of, usual_curation
from iwbc.config import compose
from iwbc.data.trajectories import Trajectories
from iwbc.errors import DataWarning, UserError
from iwbc.report import write
from iwbc.report.collect import collect
from iwbc.runs import comparison, pipeline
from iwbc.runs.comparison import Cost, Method, Plan, cost_of, estimate
from iwbc.runs.read import finished_summary, read_summary
from iwbc.settings import Config, Reference

OTHERS = ("filtered_bc_auto", "rwr", "iw_bc", "iw_bc_auto", "iql")
ENDLESS = "budget=1000h"  # as many seeds as there may be, whatever the machine
SHORT = "budget=0.001s"  # one seed, likewise
SETTINGS = [setting for setting in QUICK if not setting.startswith("eval.every")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, in which at most three seeds are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "_MOST", 3)
    monkeypatch.setenv("COLUMNS", "200")
    make_pendulum()
    return tmp_path


@pytest.fixture
def few(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with two methods beside BC, and no report, which takes most of the time to draw."""
    for method in OTHERS:
        if method != "iw_bc":
            monkeypatch.delitem(compare.METHODS, method)
    monkeypatch.setattr(write, "write_report", lambda *_, **__: None)
    return place


def compared(*arguments: str, settings: Sequence[str] = SETTINGS) -> Outcome:
    return command("iwbc.compare", *settings, *arguments)


def runs_of(folder: Path) -> dict[str, tuple[int, ...]]:
    return {path.parent.name: finished_summary(path.parent).seeds for path in sorted(folder.glob("*/summary.json"))}


def only(folder: Path) -> Path:
    (path,) = (folder / "multirun").iterdir()
    return path


# --- from end to end -------------------------------------------------------------------------------------------------


def test_methods_are_run_from_the_same_seeds_and_end_in_a_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brief = Method((*compare.METHODS["iql"].settings, "algo.steps=10", "algo.batch_size=8"))
    monkeypatch.setitem(compare.METHODS, "iql", brief)
    outcome = compared(ENDLESS)
    assert outcome.code == 0, outcome.err
    folder = only(place)
    assert re.fullmatch("compare-[0-9a-f]{10}", folder.name)
    assert runs_of(folder) == {
        **{"filtered_bc-0-0": (0,), "filtered_bc-1-2": (1, 2)},
        **{f"{method}-0-2": (0, 1, 2) for method in OTHERS},
    }
    table, said = outcome.out[outcome.out.index("Verdict") :], outcome.out.splitlines()[-2]
    for name in ("BC ", "filtered BC 25 %", "filtered BC(auto)", "RWR", "iw-BC 25 %", "iw-BC(auto)", "IQL"):
        assert f"│ {name}" in table
    assert "filtered BC 25 % and iw-BC 25 % learn from the same trajectories" in " ".join(table.split())
    assert "on 3 seeds: " in said and "P(better) " in said and re.search(r"; use \S*(algo|method)=\w+.*\.$", said)
    assert outcome.out.splitlines()[-1] == f"multirun/{folder.name}/report/index.html"
    # The page begins with the sentence, and a report of the folder has the same runs.
    page = (folder / "report" / "index.html").read_text()
    assert said.split(" against ")[0] in page.replace("&#39;", "'")
    assert 'id="verdict"' in page
    runs, missing = collect([folder])
    assert (len(runs), missing) == (7, [])
    # Scores are those of the last policies, and BC's of the references, from which all began.
    rows = read_csv(folder / "filtered_bc-1-2" / "evaluations.csv")
    assert {(row["phase"], row["seed"]) for row in rows} == {(phase, seed) for phase in ("reference", "final") for seed in "12"}
    assert {row["phase"] for row in read_csv(folder / "iw_bc-0-2" / "evaluations.csv")} == {"final"}
    means = [np.mean([float(row["return"]) for row in rows if row["phase"] == phase]) for phase in ("reference", "final")]
    assert len(set(means)) == 2


def test_the_same_command_repeats_nothing_and_a_larger_budget_adds_seeds(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compared(SHORT)
    assert first.code == 0, first.err
    assert f"{SHORT} is too small for a verdict: 1 seed of every method, and 3 take about 1m; so far " in first.out
    folder = only(few)
    assert set(runs_of(folder)) == {"filtered_bc-0-0", "iw_bc-0-0"}
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}
    again = compared(SHORT)
    assert again.out.splitlines()[-2] == first.out.splitlines()[-2]
    monkeypatch.setattr(comparison, "_MOST", 4)
    more = compared(ENDLESS)
    assert more.code == 0, more.err
    assert set(runs_of(folder)) == {f"{name}-{block}" for name in compare.METHODS for block in ("0-0", "1-2", "3-3")}
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert "on 4 seeds" in more.out


def test_what_costs_most_is_left_out_where_the_budget_is_small(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compare.METHODS, "auto", Method(("algo=filtered_bc", "curation=auto"), trials=20))
    outcome = compared(SHORT)
    assert outcome.code == 0, outcome.err
    assert "filtered BC(auto) is left out: 5 seeds would take about 1m, and with the others 1m" in outcome.out
    assert set(runs_of(only(few))) == {"filtered_bc-0-0", "iw_bc-0-0"}


@pytest.mark.robustness
def test_an_interrupted_comparison_goes_on(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compared(ENDLESS, "folder=whole")
    assert whole.code == 0, whole.err
    run, done = pipeline.run, list[Path]()

    def until_the_last(config: Config, path: Path, *others: Any) -> Any:
        if len(done) == 2:
            path.mkdir(parents=True)
            raise KeyboardInterrupt
        done.append(path)
        return run(config, path, *others)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run", until_the_last)
        stopped = compared(ENDLESS, "folder=parts")
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1] == "interrupted: parts holds the runs so far; the same command goes on"
    assert len(runs_of(few / "parts")) == 2
    rest = compared(ENDLESS, "folder=parts")
    assert rest.code == 0, rest.err
    assert runs_of(few / "parts") == runs_of(few / "whole")
    for name in runs_of(few / "whole"):
        tables = [(few / folder / name / "evaluations.csv").read_bytes() for folder in ("parts", "whole")]
        assert tables[0] == tables[1]


NOWHERE = [setting for setting in SETTINGS if not setting.startswith(("dataset", "env", "curation.fraction"))]


def make_nowhere(name: str) -> str:
    """Make a dataset without an environment."""
    random = np.random.default_rng(0)
    actions = random.uniform(-0.9, 0.9, (400, 1)).astype(np.float32)
    arrays = few_steps(
        observations=random.normal(size=(400, 3)).astype(np.float32),
        actions=actions,
        rewards=actions[:, 0],
        terminations=np.zeros(400, bool),
        truncations=np.arange(400) % 10 == 9,
    )
    iwbc.from_arrays(**arrays, id=name)
    return name


def test_without_an_environment_held_out_trajectories_decide(few: Path) -> None:
    outcome = compared(ENDLESS, make_nowhere("tests/nowhere-v0"), "curation.fraction=0.5", settings=NOWHERE)
    assert outcome.code == 0, outcome.err
    said = outcome.out.splitlines()[-2]
    assert said.startswith("Without an environment, by the log-likelihood of the best trajectories that were held out: ")
    (kept, held) = re.search(
        r"Log-likelihood of the (\d+) trajectories .* of the (\d+) that were held", " ".join(outcome.out.split())
    ).groups()  # type: ignore[union-attr]
    assert (held, f"on {kept} held-out trajectories: " in said) == ("8", True)
    assert "│ BC " in outcome.out
    assert {path.parent.name for path in few.glob("multirun/*/*/summary.json")} >= {"filtered_bc-0-0", "iw_bc-0-2"}
    (folder,) = few.glob("multirun/*")
    assert all("held_out: 0.2" in path.read_text() for path in folder.glob("*/config.yaml"))


def test_without_an_environment_what_the_data_chose_decides(few: Path) -> None:
    outcome = compared(ENDLESS, make_nowhere("tests/nowhere-v1"), "curation=auto", settings=NOWHERE)
    assert outcome.code == 0, outcome.err
    assert re.search(r"Log-likelihood of the \d+ trajectories that the curation would keep", " ".join(outcome.out.split()))


@pytest.mark.robustness
def test_scores_of_a_file_go_on_too_unless_they_change(few: Path) -> None:
    scores = few / "scores.csv"
    scores.write_text("trajectory,score\n" + "".join(f"{i},{i % 4}\n" for i in range(20)))
    settings = [word for word in SETTINGS if not word.startswith("curation")]
    for _ in range(2):
        outcome = compared(SHORT, "folder=runs", "curation=scores", f"curation.path={scores}", settings=settings)
        assert outcome.code == 0, outcome.err
    assert "│ iw-BC scores (scores)" in outcome.out
    scores.write_text(scores.read_text().replace("19,3", "19,2"))
    changed = compared(SHORT, "folder=runs", "curation=scores", f"curation.path={scores}", settings=settings)
    assert (changed.code, changed.err) == (2, "folder=runs: holds runs of other settings; choose another folder\n")


def test_sampled_actions_have_a_verdict_of_their_own(few: Path) -> None:
    outcome = compared(SHORT, "eval.action=both")
    assert outcome.code == 0, outcome.err
    said = outcome.out.splitlines()[-3:-1]
    assert [sentence.split(":")[0] for sentence in said] == ["Mean action", "Sampled actions"]
    assert "Verdict, mean action" in outcome.out and "Verdict, sampled actions" in outcome.out


def test_a_method_that_fails_is_left_out(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compare.METHODS, "successes", Method(("algo=filtered_bc", "curation=success")))
    outcome = compared(SHORT)
    assert outcome.code == 0, outcome.err
    reason = f"filtered BC success is left out: curation=success: dataset {ID} has no success labels"
    assert reason in outcome.out
    assert "so far " in outcome.out
    assert not list(only(few).glob("successes-*/summary.json"))


def test_the_first_method_may_fail_later(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pipeline.run

    def failing(config: Config, path: Path, *others: Any) -> Any:
        if path.name == "filtered_bc-1-2":
            raise UserError("all seeds diverged")
        return run(config, path, *others)

    monkeypatch.setattr(pipeline, "run", failing)
    outcome = compared(ENDLESS)
    assert outcome.code == 0, outcome.err
    assert "filtered BC 25 % is left out: all seeds diverged" in outcome.out
    assert "iw-BC 25 % alone was run" in outcome.out  # and not BC, of whose references one was played


@pytest.mark.robustness
def test_a_method_that_diverges_with_a_seed_is_left_out(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its other seeds did would be its best ones."""
    run = pipeline.run

    def diverging(config: Config, path: Path, *others: Any) -> Any:
        summary = run(config, path, *others)
        if not path.name.startswith("iw_bc-") or 1 not in summary.seeds:
            return summary
        plain = json.loads((path / "summary.json").read_text())
        place = plain["seeds"].index(1)
        plain["diverged"] = [{"seed": 1, "step": 3, "why": "NaN", "kept_step": None}]
        for name in ("seeds", "results"):
            del plain[name][place]
        (path / "summary.json").write_text(json.dumps(plain))
        return read_summary(path)

    monkeypatch.setattr(pipeline, "run", diverging)
    outcome = compared(ENDLESS)
    assert outcome.code == 0, outcome.err
    assert "iw-BC 25 % is left out: it diverged with seed 1; a smaller algo.lr may not" in outcome.out
    assert "iw-BC 25 %" not in outcome.out.splitlines()[-2]


def test_the_settings_of_bc_are_those_of_the_references() -> None:
    assert compare._clones(Reference()) == "+method=bc_all"
    other = Reference(steps=3000, averaging="trajectory", warmup_steps=300)
    assert compare._clones(other) == "+method=bc_all algo.steps=3000 algo.warmup_steps=300 averaging=trajectory"


# --- plans -----------------------------------------------------------------------------------------------------------


def test_seeds_are_planned_by_what_a_seed_costs() -> None:
    def plan(spent: float, *made: int) -> Plan:
        return Plan(spent, [Cost(each=8.0, once=1.0), Cost(each=2.0, once=1.0)], made)

    # The first method has a seed already: 2 more of it, and 3 of the other.
    assert plan(10.0, 1, 0).seconds(3) == 10.0 + (1.0 + 16.0) + (1.0 + 6.0)
    assert plan(10.0, 1, 0).seconds(1) == 10.0 + (1.0 + 2.0)
    # Of 100 s, 10 are spent and 2 go to loading: 8 seeds of 10 s.
    assert plan(10.0, 3, 3).seeds(100.0) == 11
    assert plan(10.0, 1, 0).seeds(100.0) == 3  # which are to tell more than a guess
    assert plan(10.0, 1, 0).seeds(34.0) == 3
    assert plan(10.0, 1, 0).seeds(33.9) == 2
    assert plan(200.0, 1, 0).seeds(100.0) == 1
    assert plan(200.0, 3, 3).seeds(100.0) == 3
    assert plan(70.0, 12, 12).seeds(100.0) == 12  # 2 more would tell nothing new
    assert plan(60.0, 12, 12).seeds(100.0) == 15
    assert plan(60.0, 12, 12).seeds(1e6) == 20


def test_costs_are_measured_or_estimated_by_steps() -> None:
    seconds = {"data": 3.0, "reference": 20.0, "training": 8.0, "checkpoints": 1.0, "evaluation": 1.0}
    runs = [summary_of({"final": total(1.0)}, seconds=seconds)]
    assert cost_of(runs) == Cost(each=30.0, once=3.0)
    assert cost_of([*runs, summary_of({"final": total(1.0)}, seconds=seconds | {"data": 1.0})]) == Cost(each=30.0, once=1.0)
    assert estimate(runs, 1.0) == Cost(each=10.0, once=3.0)  # the references are there
    assert estimate(runs, 5.0) == Cost(each=42.0, once=3.0)
    assert estimate(runs, 1.0, trials=20) == Cost(each=10.0, once=163.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("0m", 0.0), ("10", 0.0), ("m", 0.0), ("-1m", 0.0)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


# --- settings --------------------------------------------------------------------------------------------------------


def test_methods_share_settings_and_curation_as_far_as_they_have_them() -> None:
    shared = ["env=hopper", "curation=success", "averaging=transition", "algo.lr=1e-3", "algo.window=3"]
    assert settings_of("iw_bc", shared) == ["algo=iw_bc", *shared, "eval.periodic_episodes=0", "eval.reference=false"]
    assert settings_of("filtered_bc", shared) == ["algo=filtered_bc", *shared[:-1], "eval.periodic_episodes=0"]
    # What does not clone has steps of its own.
    iql = ["algo=iql", "curation=all", "averaging=transition"]
    quiet = ["eval.periodic_episodes=0", "eval.reference=false"]
    assert settings_of("iql", [*shared[:4], "algo.beta=1.0"]) == [*iql, "env=hopper", "algo.beta=1.0", *quiet]
    rwr = settings_of("rwr", [*shared, "eval.every=10"])
    assert rwr == ["algo=rwr", "curation=return_weighted", "env=hopper", *shared[2:4], "eval.every=10", "eval.reference=false"]


def test_success_labels_are_the_usual_curation_where_they_tell_trajectories_apart() -> None:
    def chosen(successes: list[bool] | None, *settings: str) -> list[str]:
        return usual_curation(make_trajectories([1.0, 2.0], successes=successes), settings)

    assert chosen([True, False]) == ["curation=success", "averaging=transition"]
    assert chosen([True, False], "averaging=trajectory") == ["curation=success"]
    assert chosen([True, False], "curation=all") == chosen([True, True]) == chosen([False, False]) == chosen(None) == []


def test_what_another_method_does_already_is_not_run() -> None:
    def twins(trajectories: Trajectories, *settings: str) -> dict[str, str]:
        configs = {method: compose(*settings_of(method, ["env=two_routes", *settings])) for method in compare.METHODS}
        return compare.twins_of({method: compare._decided(config, trajectories) for method, config in configs.items()})

    labels, tied, graded = [True, False] * 20, [1.0] * 40, [float(i) for i in range(40)]
    both = {"filtered_bc_auto": "filtered_bc", "iw_bc_auto": "iw_bc"}
    assert twins(make_trajectories(graded), "curation=auto") == both
    assert twins(make_trajectories(graded, successes=sorted(labels)), "curation=success") == {}
    with pytest.warns(DataWarning, match="keeps the successes; they are equally good"):
        assert twins(make_trajectories(tied, successes=labels), "curation=success") == both
    # What the data refuse is left to the run, which says why.
    assert twins(make_trajectories(tied[:8], successes=labels[:8]), "curation=success") == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one dataset: an id, a file, or settings such as env=hopper dataset=medium (see --help)"),
        (["a/b-v0", "a/c-v0"], "give one dataset: an id, a file, or settings such as"),
        (["env=hopper", "budget=5"], "budget=5: must be a time such as 90s, 10m or 2h"),
        (["env=hopper", "budget=0m"], "budget=0m: must be a time such as 90s, 10m or 2h"),
        (["env=hopper", "algo=bc"], "algo=bc: compare chooses methods and seeds by itself; leave it out"),
        (["env=hopper", "+method=bc_all"], "+method=bc_all: compare chooses methods and seeds by itself; leave it out"),
        (["env=hopper", "+experiment=d4rl"], "+experiment=d4rl: compare chooses methods and seeds by itself; leave it out"),
        (["env=hopper", "seeds=[0,1]"], "seeds=[0,1]: compare chooses methods and seeds by itself; leave it out"),
        (["env=hopper", "hydra.run.dir=out"], "hydra.run.dir=out: compare chooses methods and seeds by itself; leave it out"),
        (["env=hoper"], "Could not find 'env/hoper'"),
        (["env=hopper,walker2d"], "env=hopper,walker2d"),
        (["env=hopper", "algo.foo=1"], "algo.foo=1: no method that is compared has this setting"),
        (["env=hopper", "algo.lr=-1"], "algo.lr=-1.0: must be positive"),
        (["nowhere.hdf5"], "nowhere.hdf5: no such file"),
        (["tests/nothing-v0"], "dataset tests/nothing-v0: is not on this machine"),
        (["--budget=5m", "env=hopper"], "--budget=5m: write it as budget=…"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("iwbc.compare", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1), outcome.err
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_first_run_that_fails_is_one_line(few: Path) -> None:
    outcome = compared("curation=success", settings=[word for word in SETTINGS if not word.startswith("curation")])
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert f"curation=success: dataset {ID} has no success labels" in outcome.err


def test_a_folder_of_other_runs_is_refused(few: Path) -> None:
    assert compared(SHORT, "folder=runs").code == 0
    outcome = compared(SHORT, "folder=runs", "eval.episodes=2")
    assert (outcome.code, outcome.err) == (2, "folder=runs: holds runs of other settings; choose another folder\n")


@pytest.mark.robustness
def test_a_folder_of_runs_on_other_data_is_refused(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compared(SHORT).code == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(few / "other"))
    make_pendulum(seed=1)
    for budget in (SHORT, ENDLESS):  # nothing is to be made, and seeds are
        outcome = compared(budget)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
        assert re.search(r"folder=multirun/compare-\w+: holds runs of other data \(content .*\); choose another", outcome.err)
    assert set(runs_of(only(few))) == {"filtered_bc-0-0", "iw_bc-0-0"}


def test_settings_to_use_may_be_pasted() -> None:
    assert compare._use("iw_bc", ["curation=scores", "curation.path='my scores.csv'"]) == (
        """algo=iw_bc curation=scores 'curation.path='"'"'my scores.csv'"'"''"""
    )
