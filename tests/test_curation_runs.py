"""Runs by custom weights, groups, scores and ranks, and what tables say of a curation that has chosen nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pendulum import ID, QUICK, make_pendulum
from rich.console import Console
from setups import column, read_csv, train

import iwbc
from iwbc import info, settings
from iwbc.data.minari_writer import write_minari
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.data.trajectory_csv import sha256_of
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import DataWarning
from iwbc.report.write import write_report
from iwbc.verify import verify

VALUES = np.where(np.arange(20) % 4 == 0, np.arange(20) / 2 + 1, 0.0)  # five are kept


def write(file: Path, values: np.ndarray = VALUES) -> Path:
    file.write_text("trajectory,weight\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values)))
    return file


def test_a_run_by_weights_from_a_file(tmp_path: Path) -> None:
    make_pendulum()
    file, folder = write(tmp_path / "human.csv"), tmp_path / "run"
    command = [
        *(setting for setting in QUICK if not setting.startswith("curation")),
        "curation=weights",
        f"curation.path={file}",
    ]
    outcome = train(*command, f"hydra.run.dir={folder}")
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert "weights keeps 5 trajectories" in " ".join(outcome.out.split())
    rows = read_csv(folder / "weights.csv")
    assert column(rows, "trajectory") == [0, 4, 8, 12, 16]
    assert column(rows, "curation") == [1, 3, 5, 7, 9]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["method"] == "iw-BC weights (human)"
    assert sha256_of(file) in (folder / "config.yaml").read_text()
    assert "iw-BC weights (human)" in (folder / "run.html").read_text()
    assert all(check.same for check in verify(folder))

    again = train(*command, f"hydra.run.dir={folder}")
    assert (again.code, "is finished already" in again.out) == (0, True)
    write(file, VALUES + 1)  # another content under the same name
    other = train(*command, f"hydra.run.dir={folder}")
    assert (other.code, len(other.err.splitlines())) == (2, 1)
    assert "holds a run with another configuration" in other.err
    assert {check.what: check.same for check in verify(folder, replay=False)}["data"] is False
    file.unlink()
    assert {check.what: check.same for check in verify(folder, replay=False)}["data"] is None


def test_a_run_goes_on_with_the_weights_that_it_began_with(tmp_path: Path) -> None:
    make_pendulum()
    file, folder = write(tmp_path / "human.csv"), tmp_path / "run"
    command = [
        *(setting for setting in QUICK if not setting.startswith("curation")),
        "curation=weights",
        f"curation.path={file}",
    ]
    assert train(*command, f"hydra.run.dir={folder}").code == 0
    (folder / "summary.json").unlink()  # as if it had been interrupted
    write(file, VALUES + 1)
    outcome = train(f"resume={folder}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "human.csv: has changed since the run began" in outcome.err
    write(file)
    assert train(f"resume={folder}").code == 0


def test_info_lists_what_weights_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pendulum()
    file = write(tmp_path / "human.csv")
    info.main([ID, "curation=weights", f"curation.path={file}"])
    assert any("curation=weights" in line for line in capsys.readouterr().out.splitlines())


def test_weights_from_a_file_are_those_from_an_array(tmp_path: Path) -> None:
    make_pendulum()
    data = iwbc.load(ID)
    chosen = iwbc.curate(data, iwbc.TrajectoryWeights(str(write(tmp_path / "human.csv"))))
    np.testing.assert_array_equal(chosen.curation_weights, iwbc.Curated(data, VALUES, "trajectory").curation_weights)


def equal_returns(datasets: Path) -> str:
    random, ends = np.random.default_rng(0), np.arange(400) % 20 == 19
    angle = random.uniform(-np.pi, np.pi, 400)
    observations = np.stack([np.cos(angle), np.sin(angle), random.uniform(-8, 8, 400)], 1).astype(np.float32)
    actions = random.uniform(-2, 2, (400, 1)).astype(np.float32)
    name = "tests/equal-v0"
    iwbc.from_arrays(observations, actions, np.ones(400), np.zeros(400, bool), ends, id=name, env_id="Pendulum-v1")
    return name


def test_a_table_says_that_a_curation_has_kept_everything(datasets: Path, tmp_path: Path) -> None:
    name, folder = equal_returns(datasets), tmp_path / "run"
    command = [setting for setting in QUICK if not setting.startswith(("dataset.id", "curation"))]
    command += [f"dataset.id={name}", "+method=filtered_bc_top10", f"hydra.run.dir={folder}"]
    outcome = train(*command)
    assert outcome.code == 0
    says = "keeps all 20 trajectories, each with the same weight, as curation=all does (their returns are all 20)"
    assert outcome.err.splitlines()[0] == f"warning: curation=top_fraction, dataset {name}: {says}"
    assert "filtered BC 10 % (keeps all)" in outcome.out
    assert json.loads((folder / "summary.json").read_text())["method"] == "filtered BC 10 % (keeps all)"
    write_report([folder], tmp_path / "report", Console(quiet=True))
    assert "filtered BC 10 % (keeps all)" in (tmp_path / "report" / "tables.md").read_text()
    assert "(keeps all)" in (tmp_path / "report" / "index.html").read_text()


OPERATORS = ("better", "okay", "worse")


def multi_human() -> str:
    """Write 100 demonstrations as of robomimic's Multi-Human sets: all succeed, with a reward of 1 in the last step, in 5 to 24
    steps, by operators who are the slower the worse they are."""
    random, lengths = np.random.default_rng(0), 5 + np.arange(100) // 5
    info = DatasetInfo("tests/human-v0", EnvironmentSpec("Pendulum-v1"), [-2.0], [2.0], None, groups=list(OPERATORS), fps=20.0)
    episodes = [
        Episode(
            observations=random.normal(size=(steps, 3)),
            final_observation=random.normal(size=3),
            actions=random.uniform(-2, 2, (steps, 1)),
            rewards=np.eye(steps)[-1],
            terminated=True,
            success=True,
            groups=(OPERATORS[min(i // 33, 2)],),
        )
        for i, steps in enumerate(lengths)
    ]
    write_minari(info, episodes, description="")
    return info.id


def on_multi_human(name: str, *more: str) -> list[str]:
    return [*(setting for setting in QUICK if not setting.startswith(("dataset.id", "curation"))), f"dataset.id={name}", *more]


def test_data_of_successes_alone_are_not_filtered_by_returns_which_a_run_says_with_the_remedy(
    datasets: Path, tmp_path: Path
) -> None:
    name, folder, better = multi_human(), tmp_path / "run", tmp_path / "better"
    outcome = train(*on_multi_human(name, "+method=filtered_bc_top10", f"hydra.run.dir={folder}"))
    assert outcome.code == 0
    assert outcome.err.splitlines()[0] == (
        f"warning: curation=top_fraction, dataset {name}: keeps all 100 trajectories, each with the same weight, as "
        "curation=all does (their returns are all 1); to choose, set curation.rank_by=length or curation=groups, by the groups "
        "better, okay, worse"
    )
    assert "top_fraction keeps 100 trajectories" in " ".join(outcome.out.split())
    assert "filtered BC 10 % (keeps all)" in outcome.out
    assert json.loads((folder / "summary.json").read_text())["method"] == "filtered BC 10 % (keeps all)"

    outcome = train(
        *on_multi_human(name, "+method=filtered_bc_top10", "curation.rank_by=length", f"hydra.run.dir={better}"),
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert "top_fraction keeps 10 trajectories, 55 steps" in " ".join(outcome.out.split())
    assert all(check.same for check in verify(better))
    write_report([folder, better], tmp_path / "report", Console(quiet=True))
    tables = (tmp_path / "report" / "tables.md").read_text()
    assert "filtered BC 10 % (keeps all)" in tables
    assert "filtered BC 10 % by length" in tables


def test_a_run_by_groups(datasets: Path, tmp_path: Path) -> None:
    name, folder = multi_human(), tmp_path / "run"
    chosen = ("algo=iw_bc", "curation=groups", "curation.keep=[better,okay]", "curation.weights=[2,1]")
    outcome = train(*on_multi_human(name, *chosen, f"hydra.run.dir={folder}"))
    assert (outcome.code, outcome.err) == (0, "")
    assert column(read_csv(folder / "weights.csv"), "curation") == [2.0] * 33 + [1.0] * 33
    assert json.loads((folder / "summary.json").read_text())["method"] == "iw-BC groups (better 2, okay 1)"
    assert all(check.same for check in verify(folder))
    refused = train(*on_multi_human(name, "curation=groups", "curation.keep=[best]", f"hydra.run.dir={tmp_path / 'other'}"))
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "curation.keep=best: dataset tests/human-v0 has no such group; it has better, okay, worse" in refused.err
    assert not (tmp_path / "other").exists()


def test_a_run_by_a_fraction_of_scores(datasets: Path, tmp_path: Path) -> None:
    name, file, folder = multi_human(), tmp_path / "deminf.csv", tmp_path / "run"
    file.write_text("episode,score\n" + "".join(f"{i},{-(i % 10)}\n" for i in range(100)))
    chosen = ("curation=scores", f"curation.path={file}", "curation.fraction=0.3")
    outcome = train(*on_multi_human(name, *chosen, f"hydra.run.dir={folder}"))
    assert (outcome.code, outcome.err) == (0, "")
    assert column(read_csv(folder / "weights.csv"), "trajectory") == [i for i in range(100) if i % 10 < 3]
    assert json.loads((folder / "summary.json").read_text())["method"] == "iw-BC scores (deminf 30 %)"
    assert sha256_of(file) in (folder / "config.yaml").read_text()
    assert all(check.same for check in verify(folder))
    file.unlink()
    assert {check.what: check.same for check in verify(folder, replay=False)}["data"] is None


BY = [
    *(settings.TopFraction(0.3, rank_by=rank_by) for rank_by in ("discounted_return", "length", "smoothness")),
    *(settings.Groups(["better", "okay"], weights=[2.0, 1.0]), settings.TrajectoryScores("scores.csv", fraction=0.3)),
]


@pytest.mark.parametrize("algo", sorted(set(settings.ALGORITHMS) - {"rwr"}))
@pytest.mark.parametrize("chosen", BY, ids=lambda chosen: f"{chosen.name}-{getattr(chosen, 'rank_by', '')}")
def test_importance_weights_go_with_any_curation(
    algo: str, chosen: settings.Settings, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scores.csv").write_text("trajectory,score\n" + "".join(f"{i},{i}\n" for i in range(100)))
    data = iwbc.load(multi_human())
    kept = iwbc.curate(data, chosen)
    policy = settings.GaussianPolicy(hidden=[8])
    reference = iwbc.fit(iwbc.BC(steps=5, batch_size=16), data, policy=policy)
    critic = {"value_steps": 10} if algo == "awr" else {}
    recipe = settings.ALGORITHMS[algo](steps=10, batch_size=16, warmup_steps=2, **critic)
    fitted = iwbc.fit(recipe, kept, reference=reference if recipe.start == "reference" else None, policy=policy)
    action, _ = fitted.predict(np.zeros((2, 3)))
    assert np.isfinite(action).all()


@pytest.mark.filterwarnings("error")
def test_info_warns_of_the_curation_that_was_asked_for_alone(datasets: Path) -> None:
    name = equal_returns(datasets)
    info.main([name])
    with pytest.raises(DataWarning, match=r"curation=top_fraction.*keeps all 20"):
        info.main([name, "curation=top_fraction"])
