"""`tune`: what is searched, what a study keeps, and how it goes on. Opt-in: needs the extra optuna."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pendulum import QUICK, make_pendulum
from setups import BRIEF, command, finish, python

from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.report.search import draw
from iwbc.settings import IWBC
from iwbc.tune import _check_ranges, open_study, split, usual

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.optuna


def studies(folder: Path) -> list[Any]:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    studies = []
    for path in sorted(folder.glob("study-*.log")):
        storage = JournalStorage(JournalFileBackend(str(path)))
        (name,) = optuna.get_all_study_names(storage)
        studies.append(optuna.load_study(study_name=name, storage=storage))
    return studies


def test_ranges_are_hydra_s() -> None:
    fixed, searched = split(
        [
            *("env=hopper", "seeds=[0,1]", "algo.kappa=tag(log, interval(0.1, 20))", "algo.decay=interval(0.5,0.9)"),
            *("policy=choice(tanh_mean,mixture)", "algo.steps=range(10,20,5)", "algo.lr=1e-3,1e-4"),
        ]
    )
    assert fixed == ["env=hopper", "seeds=[0,1]"]
    distributions = optuna.distributions
    assert searched == {
        "algo.kappa": distributions.FloatDistribution(0.1, 20.0, log=True),
        "algo.decay": distributions.FloatDistribution(0.5, 0.9),
        "policy": distributions.CategoricalDistribution(("tanh_mean", "mixture")),
        "algo.steps": distributions.IntDistribution(10, 15, step=5),
        "algo.lr": distributions.CategoricalDistribution(("0.001", "0.0001")),
    }
    with pytest.raises(UserError, match=r"algo\.lr=glob\(\*\): give interval"):
        split(["algo.lr=glob(*)"])
    with pytest.raises(UserError, match="env: "):
        split(["env"])


@pytest.mark.parametrize(
    ("fixed", "low", "high"),
    [
        ([], 0.05, 2.0),
        (["algo.window=1"], 0.05, 2.0),
        (["algo.level=trajectory"], 0.1, 20.0),
        (["algo.level=trajectory", "algo.kappa=auto"], 0.1, 20.0),
    ],
)
def test_the_usual_range_is_that_of_the_level(fixed: list[str], low: float, high: float) -> None:
    _, searched = split(usual(["env=hopper", *fixed]))
    assert searched["algo.kappa"] == optuna.distributions.FloatDistribution(low, high, log=True)
    default = IWBC(**({"level": "trajectory"} if "algo.level=trajectory" in fixed else {})).fixed_kappa
    assert default is not None and low < default < high


@pytest.mark.robustness
def test_a_study_is_kept_and_goes_on(hopper: Trajectories, tmp_path: Path) -> None:
    # Of a decay that cannot be, trials fail, and the search goes on.
    arguments = ["-m", "iwbc", "tune", "env=hopper", *BRIEF, "algo.decay=choice(0.5,2.0)", "algo.kappa=interval(0.1,2)"]
    first = finish(python(*arguments, "trials=4", cwd=tmp_path))
    assert first.code == 0, first.err
    (study,) = studies(tmp_path / "tune")
    states = [trial.state.name for trial in study.trials]
    assert states.count("COMPLETE") + states.count("FAIL") == 4
    assert "FAIL" in states and "COMPLETE" in states
    for trial in study.trials:
        if trial.state.name == "COMPLETE":
            summary = json.loads((tmp_path / "tune" / trial.user_attrs["run"] / "summary.json").read_text())
            assert trial.value == pytest.approx(summary["totals"]["final"]["score_mean"])
    assert "algo.decay=2.0: must lie in [0, 1]" in first.out
    assert f"algo.decay={study.best_params['algo.decay']}" in first.out.split("Train so: ")[1]
    assert "'seeds=[1,2,3]' eval.seed=12346" in first.out.split("Train so: ")[1]  # the best by chance is no result
    # The same command adds trials to the study, and draws other settings.
    second = finish(python(*arguments, "trials=2", cwd=tmp_path))
    assert second.code == 0, second.err
    (study,) = studies(tmp_path / "tune")
    kappas = [trial.params["algo.kappa"] for trial in study.trials]
    assert len(set(kappas)) == len(kappas) == 6
    pytest.importorskip("matplotlib")
    (log,) = (tmp_path / "tune").glob("study-*.log")
    drawn = finish(python("-m", "iwbc.report.search", str(log), "out=study.png", cwd=tmp_path))
    assert (drawn.code, drawn.err) == (0, "")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["env=hoper"], "Could not find 'env/hoper'"),
        (["trials=0"], "trials=0: must be at least 1"),
        (["algo.kappa=glob(*)"], "give interval(low, high)"),
        (["env=hopper", "algo.lr=interval(1e-2,1e-4)"], "algo.lr=interval(1e-2,1e-4): cannot be searched ("),
        (["env=hopper", "algo.kappa=tag(log, interval(0,2))"], "algo.kappa=tag(log, interval(0,2)): cannot be searched ("),
        (["env=hopper", "algo.window=range(5,2)"], "algo.window=range(5,2): cannot be searched ("),
        (["env=hopper", "algo.window=range(1,9,0)"], "algo.window=range(1,9,0): cannot be searched ("),
        (["env=hopper", "algo.window=tag(log, range(1,9,2))"], "algo.window=tag(log, range(1,9,2)): cannot be searched ("),
        (["env=hopper", "algo.nope=interval(0.1,0.2)"], "algo.nope=0.1: Could not override 'algo.nope'"),
        (["env=hopper", "algo.decay=choice(2,3)"], "algo.decay=2.0: must lie in [0, 1]"),
        (["env=hopper", "algo=bc"], "algo=bc: has no usual ranges; name one"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("iwbc.tune", *arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_what_goes_with_one_choice_alone_may_be_searched() -> None:
    _check_ranges(*split(["env=hopper", "policy=choice(tanh_mean,mixture)", "policy.components=range(2,5)"]))


@pytest.mark.robustness
def test_a_study_is_of_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_pendulum()
    quick = [*QUICK, "algo.kappa=interval(0.1,2)", "trials=1"]
    first = command("iwbc.tune", *quick)
    assert first.code == 0, first.err
    again = command("iwbc.tune", *quick)
    assert again.code == 0, again.err
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "other"))
    make_pendulum(seed=1)
    outcome = command("iwbc.tune", *quick)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "folder=tune: its study of these settings is on other data (content " in outcome.err


def test_no_study_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "study-x.log").write_text("no study\n")
    outcome = command("iwbc.report.search", str(tmp_path / "study-x.log"))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "not a study" in outcome.err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"param_name":"lr"', '"param_name":"rl"'),
        ('"directions":[2]', '"directions":[2,2]'),
        ('"directions":[2]', '"directions":["up"]'),
        ('{"op_code"', "op_code"),
    ],
)
def test_a_damaged_study_is_one_line(old: str, new: str, tmp_path: Path) -> None:
    searched = {"lr": optuna.distributions.FloatDistribution(0.1, 1.0)}
    study = open_study(tmp_path, ["env=hopper"], searched, 0)
    study.optimize(lambda trial: trial.suggest_float("lr", 0.1, 1.0), n_trials=2)
    (log,) = tmp_path.glob("study-*.log")
    content = log.read_text()
    assert old in content
    log.write_text(content.replace(old, new, 1))
    with pytest.raises(UserError, match=r"study-.*\.log: not a study") as caught:
        draw(log, tmp_path / "study.png")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "study.png").exists()
    if "directions" in old or "op_code" in old:  # with other settings in it, a search goes on
        with pytest.raises(UserError, match=r"study-.*\.log: damaged \(.*\); delete it to search anew"):
            open_study(tmp_path, ["env=hopper"], searched, 0)
