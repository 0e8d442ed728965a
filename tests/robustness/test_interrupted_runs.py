"""Runs, sweeps and searches, interrupted or killed, go on with the same command as if nothing had happened."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from helpers import named
from setups import BRIEF, SMALL, Outcome, command, finish, python, read_csv, train, wait_for
from test_runs import OWN
from test_sweeps import SWEEP, folders

from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.training.trained import load_policy

# Long enough to be interrupted while training.


# Long enough to be interrupted while training.
LONG = [
    "-m",
    "iwbc.train",
    *SMALL,
    "algo.steps=2000",
    "seeds=[0,1]",
    "threads=1",
    "log_every=100",
    "checkpoint_every=200",
    "eval.every=200",
    "eval.periodic_episodes=1",
    "eval.episodes=1",
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, hopper: Trajectories) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert train(*LONG[2:], f"hydra.run.dir={folder}").code == 0
    return folder


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_continues_bit_for_bit(how: signal.Signals, uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = python(*LONG, "hydra.run.dir=run", cwd=tmp_path)
    # Its first rows come with the second checkpoint.
    wait_for(lambda: (folder / "evaluations.csv").exists() and len(read_csv(folder / "evaluations.csv")) > 0, process)
    process.send_signal(how)
    outcome = finish(process)
    if how == signal.SIGKILL:
        assert outcome.code == -signal.SIGKILL
    else:
        assert outcome.code == 130
        assert outcome.err == "Interrupted. Continue with: python -m iwbc.train resume=run\n"
    assert not (folder / "summary.json").exists()
    assert 0 < len(read_csv(folder / "metrics.csv")) < 40
    assert len(read_csv(folder / "evaluations.csv")) > 0
    resumed = train(f"resume={folder}")
    assert resumed.code == 0, resumed.err
    after = re.search(r"Continuing after step ([\d,]+)", resumed.out)
    assert after
    assert 0 < int(after[1].replace(",", "")) < 2000
    for name in ("metrics.csv", "evaluations.csv", "curation.csv", "config.yaml"):
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    trained, expected = (load_policy(path / "policy.safetensors") for path in (folder, uninterrupted))
    assert named(trained.state()).keys() == named(expected.state()).keys()
    assert all(torch.equal(value, named(expected.state())[name]) for name, value in named(trained.state()).items())
    # A process that is killed while it writes leaves a hidden temporary file.
    visible = {path.name for path in folder.iterdir() if not (how == signal.SIGKILL and path.name.startswith("."))}
    assert visible == {path.name for path in uninterrupted.iterdir()}
    totals = [json.loads((path / "summary.json").read_text())["totals"] for path in (folder, uninterrupted)]
    assert totals[0] == totals[1]


def test_interrupted_before_training_nothing_is_left(hopper: Trajectories, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = python(*LONG, "reference.steps=1000000", "hydra.run.dir=run", cwd=tmp_path, IWBC_CACHE=str(cache))
    wait_for(lambda: any((cache / "references").glob("*.lock")), process)
    process.send_signal(signal.SIGINT)
    outcome = finish(process)
    assert outcome.code == 130
    assert outcome.err == "Interrupted before training began; the same command goes on.\n"
    assert list((cache / "references").glob("*.safetensors")) == []
    assert not (tmp_path / "run").exists()


def test_a_custom_policy_is_imported_only_where_the_user_names_it(
    hopper: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_of_mine.py").write_text(OWN)
    (tmp_path / "conf" / "policy").mkdir(parents=True)
    (tmp_path / "conf" / "policy" / "mine.yaml").write_text("_target_: mine_of_mine.Mine\nwidth: 16\n")
    arguments = [a for a in BRIEF if not a.startswith(("policy.", "algo.steps"))]
    custom = ["--config-dir", str(tmp_path / "conf"), "policy=mine"]
    arguments += ["algo.steps=1500", "reference.steps=1500", "checkpoint_every=50", "eval.every=0", "eval.episodes=1"]

    def importing(module: str, *words: str) -> Outcome:
        return finish(python("-m", module, *words, cwd=tmp_path, PYTHONPATH=str(tmp_path)))

    resume = ["resume=run", "policy._target_=mine_of_mine.Mine"]
    for file, settings in (("reference", [*custom, *arguments, "hydra.run.dir=run"]), ("checkpoint", resume)):
        process = python("-m", "iwbc.train", *settings, cwd=tmp_path, PYTHONPATH=str(tmp_path))
        wait_for((tmp_path / "run" / f"{file}.safetensors").exists, process)
        process.send_signal(signal.SIGINT)
        interrupted = finish(process)
        assert interrupted.code == 130, interrupted.err
        assert interrupted.err == f"Interrupted. Continue with: python -m iwbc.train {' '.join(resume)}\n"
    assert "Continuing the reference policy after step" in interrupted.out
    refused = train("resume=run")
    assert (refused.code, len(refused.err.splitlines()), refused.out) == (2, 1, "")
    assert "to trust them, add policy._target_=mine_of_mine.Mine" in refused.err
    assert train("resume=run", "policy._target_=os.system").code == 2
    shutil.copytree(tmp_path / "run", tmp_path / "changed")
    (tmp_path / "mine_of_mine.py").write_text(OWN.replace("nn.Tanh(), ", "nn.Tanh(), nn.Linear(width, width), "))
    refused = importing("iwbc.train", "resume=changed", resume[1])
    assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
    assert "its checkpoint does not fit the policy" in refused.err
    (tmp_path / "mine_of_mine.py").write_text(OWN)
    resumed = importing("iwbc.train", *resume)
    assert resumed.code == 0, resumed.err
    assert "imported" in resumed.out
    assert "Continuing the reference policy after step 1,500" in resumed.out
    assert "Continuing after step" in resumed.out
    assert not (tmp_path / "run" / "reference.safetensors").exists()
    refused = command("iwbc.evaluate", "run=run")
    assert (refused.code, len(refused.err.splitlines()), refused.out) == (2, 1, "")
    assert "to import it, add policy=mine_of_mine.Mine" in refused.err
    assert importing("iwbc.evaluate", "run=run", "policy=mine_of_mine.Mine", "episodes=1").code == 0
    with pytest.raises(UserError, match="is a Mine of your own; load it with the function that makes it"):
        load_policy(tmp_path / "run" / "policy.safetensors")


# --- sweeps --------------------------------------------------------------------------------------------------------------

LONG_SWEEP = ["-m", "iwbc.train", "-m", *SMALL, "algo=bc", "algo.steps=1500", "checkpoint_every=100", "eval.episodes=1"]
LONG_SWEEP += ["threads=1"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_sweep_goes_on_with_the_same_command(how: signal.Signals, hopper: Trajectories, tmp_path: Path) -> None:
    process = python(*LONG_SWEEP, "seed=0,1", cwd=tmp_path)
    wait_for(lambda: any((tmp_path / "multirun").glob("*/checkpoint.safetensors")), process)
    process.send_signal(how)
    outcome = finish(process)
    if how == signal.SIGINT:
        assert outcome.code == 130
        assert "interrupted or killed" in " ".join(outcome.out.replace("│", " ").split())
        assert len(folders(tmp_path / "multirun")) == 1
    again = finish(python(*LONG_SWEEP, "seed=0,1", cwd=tmp_path))
    assert again.code == 0, again.err
    assert again.out.count("Continuing after step") == 1
    finished = list((tmp_path / "multirun").glob("*/summary.json"))
    assert len(finished) == 2


def test_two_sweeps_at_the_same_time_share_what_they_need(tmp_path: Path) -> None:
    places = {"MINARI_DATASETS_PATH": str(tmp_path / "datasets"), "IWBC_CACHE": str(tmp_path / "cache")}
    (tmp_path / "datasets").mkdir()
    arguments = ["-m", "iwbc.train", *SWEEP, "dataset.tier=random", "dataset.steps=3000", "algo=filtered_bc,iw_bc", "seed=0"]
    both = [python(*arguments, cwd=tmp_path, **places) for _ in range(2)]
    outcomes = [finish(process) for process in both]
    assert [outcome.code for outcome in outcomes] == [0, 0], [outcome.err for outcome in outcomes]
    # Each job ran in one of them, while the other waited and read the result.
    assert sum(outcome.out.count("is finished already") for outcome in outcomes) == 2
    runs = folders(tmp_path / "multirun")
    assert len(runs) == 2
    assert all((path / "summary.json").exists() for path in runs.values())
    assert len(list((tmp_path / "cache" / "references").glob("*.safetensors"))) == 1
    assert sum("Generating" in outcome.err for outcome in outcomes) == 1


# --- searches ------------------------------------------------------------------------------------------------------------


@pytest.mark.optuna
def test_an_interrupted_trial_goes_on(hopper: Trajectories, tmp_path: Path) -> None:
    from test_tune import studies

    long = ["env=hopper", *SMALL, "algo.steps=3000", "checkpoint_every=100", "threads=1"]
    long += ["eval.every=100", "eval.periodic_episodes=1", "eval.episodes=2"]
    arguments = ["-m", "iwbc.tune", *long, "algo.kappa=interval(0.1,2)", "trials=1"]
    process = python(*arguments, cwd=tmp_path)
    wait_for(lambda: any(tmp_path.glob("tune/run-*/evaluations.csv")), process)
    process.send_signal(signal.SIGINT)
    stopped = finish(process)
    assert (stopped.code, stopped.err) == (130, "Interrupted; the same command goes on with this trial.\n")
    again = finish(python(*arguments, cwd=tmp_path))
    assert again.code == 0, again.err
    assert re.search(r"Continuing after step [\d,]+", again.out)
    (study,) = studies(tmp_path / "tune")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[0].params == study.trials[1].params
