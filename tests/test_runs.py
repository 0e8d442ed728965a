"""Whole runs and what their folders hold."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from setups import BRIEF, Outcome, column, compose, rarely, read_csv, train

from iwbc.data import minari_source
from iwbc.data.curation import curate
from iwbc.data.trajectories import Trajectories
from iwbc.environments.scores import ReferenceScores, d4rl_scores
from iwbc.errors import UserError
from iwbc.evaluate import main as evaluate
from iwbc.evaluation import Evaluation
from iwbc.runs.read import read_config
from iwbc.runs.results import gains
from iwbc.runs.show import results_table, verdict
from iwbc.runs.summary import Gain, Total
from iwbc.settings import ACTION_NAMES
from iwbc.training.trained import load_policy
from iwbc.verify import verify

ARGUMENTS = (*BRIEF, "seeds=[0,1]", "eval.every=20", "eval.periodic_episodes=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, hopper: Trajectories) -> tuple[Path, Outcome]:
    """A finished run's folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with mock.patch.dict(os.environ, IWBC_CACHE=str(folder.parent / "cache")):
        outcome = train(*ARGUMENTS, f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.err
    return folder, outcome


@pytest.fixture
def folder(run: tuple[Path, Outcome]) -> Path:
    return run[0]


def test_the_folder_holds_what_it_should_and_nothing_else(folder: Path) -> None:
    expected = {"config.yaml", "metrics.csv", "evaluations.csv", "curation.csv", "weights.csv", "policy.safetensors"}
    expected |= {"run.html", "summary.json"}
    assert {path.name for path in folder.iterdir()} == expected


def test_the_terminal_shows_progress_a_table_and_the_folder(run: tuple[Path, Outcome]) -> None:
    folder, outcome = run
    assert outcome.err == ""
    text = " ".join(outcome.out.split())
    assert "Reference policy" in text
    assert "100%" in text
    rows = {line.split("│")[1].strip(): line for line in outcome.out.splitlines() if line.startswith("│")}
    assert list(rows) == ["reference (BC on all data)", "iw-BC(Q)"]
    summary = json.loads((folder / "summary.json").read_text())
    for row, phase in zip(rows.values(), ("reference", "final"), strict=True):
        numbers = [float(number) for number in re.findall(r"-?\d+\.\d", row)]
        total = summary["totals"][phase]
        for what, printed in (("return", numbers[:3]), ("score", numbers[3:])):
            assert printed == pytest.approx([total[f"{what}_mean"], *total[f"{what}_interval"]], abs=0.051)
    assert "3 episodes for seeds 0, 1; mean action, last policy" in text
    assert "score 0 = return -20.2723, 100 = return 3234.3 (D4RL)" in text
    assert outcome.out.splitlines()[-1] == f"Run folder: {folder}"


def test_the_configuration_is_the_resolved_one(folder: Path) -> None:
    assert read_config(folder) == compose(*ARGUMENTS)
    assert yaml.safe_load((folder / "config.yaml").read_text())["algo"]["level"] == "window"


def test_metrics(folder: Path) -> None:
    rows = read_csv(folder / "metrics.csv")
    assert [(int(row["step"]), int(row["seed"])) for row in rows] == [(s, seed) for s in (10, 20, 30, 40) for seed in (0, 1)]
    columns = {"learning_rate", "loss", "log_prob_kept", "log_prob_dropped", "drift_kept", "drift_dropped", "ess_share"}
    columns |= {"weight_min", "weight_median", "weight_max", "clipped_share", "reference_bound"}
    assert columns | {"step", "seed"} == set(rows[0])
    assert all(math.isfinite(float(row[name])) for row in rows for name in columns)
    recipe = compose(*ARGUMENTS).algo
    assert column(rows, "learning_rate", seed=0) == [recipe.learning_rate(step - 1) for step in (10, 20, 30, 40)]
    drift, ess = column(rows, "drift_kept"), column(rows, "ess_share")
    assert min(drift) > 0.0  # the policy does move towards what is kept
    assert 0.5 < min(ess) <= max(ess) <= 1.0


def test_every_episode_is_in_evaluations(folder: Path) -> None:
    rows = read_csv(folder / "evaluations.csv")
    episodes = [(row["phase"], int(row["step"]), int(row["seed"]), int(row["episode"])) for row in rows]
    expected = [("periodic", 20, seed, episode) for seed in (0, 1) for episode in range(2)]
    expected += [(phase, step, s, e) for phase, step in (("reference", 0), ("final", 40)) for s in (0, 1) for e in range(3)]
    assert episodes == expected
    scores = d4rl_scores("Hopper-v5")
    assert scores is not None
    np.testing.assert_allclose(column(rows, "score"), scores.normalise(column(rows, "return")))
    assert min(column(rows, "length")) >= 1
    assert column(rows, "return", phase="reference") != column(rows, "return", phase="final")


def test_the_histogram_counts_every_trajectory(folder: Path, hopper: Trajectories) -> None:
    rows = read_csv(folder / "curation.csv")
    kept = curate(hopper, compose(*ARGUMENTS).curation).kept
    assert sum(column(rows, "trajectories")) == len(hopper)
    assert sum(column(rows, "kept")) == len(kept)
    lowest_kept = min(low for low, count in zip(column(rows, "return_high"), column(rows, "kept"), strict=True) if count)
    assert lowest_kept >= hopper.returns[kept].min()


def test_the_summary(folder: Path, hopper: Trajectories) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["format"], summary["status"], summary["method"]) == (2, "finished", "iw-BC(Q)")
    environment = summary["environment"]
    assert (environment["id"], environment["kwargs"]) == ("Hopper-v5", {})
    assert environment["max_episode_steps"] == 1000
    assert summary["totals"]["final"]["interval_over"] == "seeds"
    assert (summary["algo"], summary["curation"], summary["averaging"]) == ("iw_bc", "quality_levels", "trajectory")
    kept = curate(hopper, compose(*ARGUMENTS).curation).kept
    assert summary["dataset"] == {
        "id": hopper.info.id,
        "content_hash": hopper.content_hash,
        "trajectories": len(hopper),
        "steps": hopper.steps,
        "kept_trajectories": len(kept),
        "kept_steps": int(hopper.lengths[kept].sum()),
    }
    rows = read_csv(folder / "evaluations.csv")
    assert [result["seed"] for result in summary["results"]] == summary["seeds"] == [0, 1]
    for phase in ("reference", "final"):
        for result in summary["results"]:
            returns = column(rows, "return", phase=phase, seed=result["seed"])
            assert result[phase]["episodes"] == 3
            assert result[phase]["return_mean"] == pytest.approx(np.mean(returns))
            assert result[phase]["return_std"] == pytest.approx(np.std(returns))
            score = np.mean(column(rows, "score", phase=phase, seed=result["seed"]))
            assert result[phase]["score_mean"] == pytest.approx(score)
        total = summary["totals"][phase]
        assert total["return_mean"] == pytest.approx(np.mean(column(rows, "return", phase=phase)))
        assert total["score_interval"][0] <= total["score_mean"] <= total["score_interval"][1]
    assert summary["normalisation"] == {"random": -20.272305, "expert": 3234.3, "source": "D4RL"}
    assert set(summary["seconds"]) == {"data", "curation", "reference", "training", "checkpoints", "evaluation"}
    assert all(seconds > 0 for seconds in summary["seconds"].values())
    assert summary["steps_per_second"] == pytest.approx(40 / summary["seconds"]["training"])
    assert summary["seed_steps_per_second"] == pytest.approx(80 / summary["seconds"]["training"])
    assert summary["versions"]["torch"] == torch.__version__
    assert {"iwbc", "numpy", "gymnasium", "mujoco", "minari"} <= set(summary["versions"])


def test_the_policy_is_rebuilt_from_its_file_alone(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "policy.safetensors", tmp_path / "elsewhere.safetensors")
    policy = load_policy(tmp_path / "elsewhere.safetensors")
    assert policy.seeds == (0, 1)
    assert policy.spec is not None
    assert policy.spec.settings.hidden == [32, 32]  # not the default
    assert policy.spaces.action_high == (1.0, 1.0, 1.0)
    action, _ = policy.predict(np.zeros(11))
    assert action.shape == (3,)
    state = policy.state()
    assert not torch.equal(state[0]["network.0.weight"], state[1]["network.0.weight"])


def test_the_same_command_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    assert train(*ARGUMENTS, f"hydra.run.dir={tmp_path / 'again'}").code == 0
    for name in ("metrics.csv", "evaluations.csv", "curation.csv", "config.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name
    policies = [(path / "policy.safetensors").read_bytes() for path in (folder, tmp_path / "again")]
    assert policies[0] == policies[1]


def test_a_finished_run_is_not_run_again(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    for arguments in ([*ARGUMENTS, f"hydra.run.dir={folder}"], [f"resume={folder}"]):
        outcome = train(*arguments)
        assert outcome.code == 0
        assert "is finished already" in " ".join(outcome.out.split())
        assert "iw-BC(Q)" in outcome.out
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_folder_with_another_run_is_refused(folder: Path) -> None:
    outcome = train(*ARGUMENTS, "algo.lr=0.5", f"hydra.run.dir={folder}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "holds a run with another configuration" in outcome.err


# --- python -m iwbc.evaluate ---------------------------------------------------------------------------------------------


def evaluated(*arguments: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        evaluate(arguments)
    return out.getvalue()


def test_evaluate_repeats_the_final_evaluation(folder: Path, run: tuple[Path, Outcome], tmp_path: Path) -> None:
    printed = evaluated(f"run={folder}", f"out={tmp_path / 'episodes.csv'}")
    repeated, expected = read_csv(tmp_path / "episodes.csv"), read_csv(folder / "evaluations.csv")
    assert column(repeated, "return") == column(expected, "return", phase="final")
    assert column(repeated, "length") == column(expected, "length", phase="final")
    final = next(line for line in run[1].out.splitlines() if line.startswith("│ iw-BC(Q)"))
    assert final.split() == next(line for line in printed.splitlines() if line.startswith("│ iw-BC(Q)")).split()


def test_evaluate_with_other_episodes_and_seed(folder: Path, tmp_path: Path) -> None:
    evaluated(f"run={folder}", "episodes=5", f"out={tmp_path / 'more.csv'}")
    evaluated(f"run={folder}", "seed=1", f"out={tmp_path / 'other.csv'}")
    final = column(read_csv(folder / "evaluations.csv"), "return", phase="final", seed=0)
    more = read_csv(tmp_path / "more.csv")
    assert len(more) == 10
    assert column(more, "return", seed=0)[:3] == pytest.approx(final, rel=1e-3)
    assert column(read_csv(tmp_path / "other.csv"), "return", seed=0) != pytest.approx(final, rel=1e-3)


def test_evaluate_refuses_what_is_not_a_finished_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        evaluate([f"run={tmp_path}"])
    shutil.copy(folder / "config.yaml", tmp_path)
    with pytest.raises(UserError, match=r"this run is not finished; continue it with python -m iwbc.train resume="):
        evaluate([f"run={tmp_path}"])
    shutil.copy(folder / "summary.json", tmp_path)
    with pytest.raises(UserError, match=r"policy .*: cannot be read"):
        evaluate([f"run={tmp_path}"])
    (tmp_path / "policy.safetensors").write_bytes((folder / "policy.safetensors").read_bytes()[:-10])
    with pytest.raises(UserError, match=r"policy .*: cannot be read"):
        evaluate([f"run={tmp_path}"])
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary.json: damaged"):
        evaluate([f"run={tmp_path}"])
    with pytest.raises(UserError, match="run=… is missing"):
        evaluate([])


# --- other runs ----------------------------------------------------------------------------------------------------------


def test_numbers_stay_whole_in_a_terminal_of_80_columns() -> None:
    measures = (1234.5, (1111.1, 2222.2), 38.9, (35.1, 68.9), 0.512, (0.431, 0.622))
    names = ("reference (BC on all data)", "iw-BC return-weighted")
    rows = {
        f"{name}, {says}": Total(100, action, "seeds and episodes", *measures)
        for name in names
        for action, says in ACTION_NAMES.items()
    }
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(rows, "Hopper-v5", [0, 1, 2], None))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for cell in ("1234.5 [1111.1, 2222.2]", "38.9 [35.1, 68.9]", "51.2 [43.1, 62.2]"):
        assert text.count(cell) == 4
    assert "…" not in text


@pytest.mark.parametrize("algo", ["bc", "filtered_bc", "rwr", "awr", "iql"])
def test_every_algorithm_runs(algo: str, hopper: Trajectories, tmp_path: Path) -> None:
    extra = {
        "awr": ["algo.value_hidden=[16]", "algo.value_steps=60", "algo.refresh_every=20"],
        "iql": ["algo.value_hidden=[16]", "algo.lr=1e-3"],
        "rwr": ["curation=return_weighted"],
    }.get(algo, [])
    outcome = train(*BRIEF, f"algo={algo}", *extra, "eval.episodes=1", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    phases = {"final"} if algo in ("bc", "awr", "iql") else {"reference", "final"}  # the first start from scratch
    assert set(summary["totals"]) == phases
    assert (summary["seconds"].get("critic", 0.0) > 0.0) == (algo == "awr")
    rows = read_csv(tmp_path / "run" / "metrics.csv")
    assert ("drift_kept" in rows[0]) == ("reference" in phases)
    assert column(rows, "log_prob_kept")[-1] > column(rows, "log_prob_kept")[0]


def test_a_squashed_policy_with_a_normaliser_runs(hopper: Trajectories, tmp_path: Path) -> None:
    outcome = train(*BRIEF, "policy=squashed", "policy.normalise_observations=true", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    spec = load_policy(tmp_path / "run" / "policy.safetensors").spec
    assert spec is not None
    assert (spec.settings.kind, spec.settings.std) == ("squashed", "state")
    assert spec.observation_mean == pytest.approx(hopper.observation_scales.mean)


@pytest.mark.parametrize("family", ["mixture", rarely("flow")])
def test_every_family_of_policies_runs_and_is_played_again(family: str, hopper: Trajectories, tmp_path: Path) -> None:
    outcome = train(*BRIEF, f"policy={family}", "seeds=[0,1]", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    evaluated(f"run={tmp_path / 'run'}", f"out={tmp_path / 'episodes.csv'}")
    final = column(read_csv(tmp_path / "run" / "evaluations.csv"), "return", phase="final")
    assert column(read_csv(tmp_path / "episodes.csv"), "return") == final


OWN = """
import torch
print("imported")
from torch import nn

class Mine(nn.Module):
    def __init__(self, observation_size, action_size, width=8):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(observation_size, width), nn.Tanh(), nn.Linear(width, action_size))

    def mean_action(self, observations):
        return self.network(observations).tanh()

    def log_prob(self, observations, actions):
        return torch.distributions.Normal(self.mean_action(observations), 0.5).log_prob(actions).sum(-1)
"""


def test_samples_of_a_policy_that_draws_none_are_refused_before_training(hopper: Trajectories, tmp_path: Path) -> None:
    (tmp_path / "mine_without_samples.py").write_text(OWN)
    (tmp_path / "conf" / "policy").mkdir(parents=True)
    (tmp_path / "conf" / "policy" / "mine.yaml").write_text("_target_: mine_without_samples.Mine\n")
    custom = ["--config-dir", str(tmp_path / "conf"), "policy=mine", "algo=bc", "eval.action=both"]
    arguments = [a for a in BRIEF if not a.startswith("policy.")]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        outcome = train(*custom, *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "action=sample: Mine has no method sample" in outcome.err
    assert not (tmp_path / "run").exists()


BROKEN_SUMMARIES = {
    "a list": lambda good: [good],
    "a number": lambda good: 3,
    "another format": lambda good: good | {"format": 1},
    "no totals": lambda good: {key: value for key, value in good.items() if key != "totals"},
    "a total that is a list": lambda good: good | {"totals": {"final": []}},
    "a mean that is a word": lambda good: good | {"totals": {"final": good["totals"]["final"] | {"return_mean": "high"}}},
    "an environment that is a word": lambda good: good | {"environment": "Pendulum-v1"},
    "an environment without an id": lambda good: good | {"environment": {"kwargs": {}}},
    "a normalisation without an expert": lambda good: good | {"normalisation": {"random": 0.0}},
    "gains that are a number": lambda good: good | {"gains": 5},
    "a gain without an interval": lambda good: good | {"gains": {"final": {"of": "scores", "mean": 1.0}}},
    "a gain of what was not played": lambda good: good | {"gains": {"other": good["gains"]["final"]}},
    "seeds that are words": lambda good: good | {"seeds": ["a"]},
    "a dataset that is a name": lambda good: good | {"dataset": "hopper"},
}


@pytest.mark.parametrize("how", BROKEN_SUMMARIES)
def test_a_damaged_summary_is_one_line_for_every_command(how: str, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    good = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps(BROKEN_SUMMARIES[how](good)))
    outcome = train(f"resume={copy}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome
    assert "summary.json: damaged" in outcome.err
    for command in (lambda: evaluate([f"run={copy}"]), lambda: verify(copy)):
        with pytest.raises(UserError, match=r"summary\.json: damaged"):
            command()


def test_without_final_episodes_nothing_is_played(hopper: Trajectories, tmp_path: Path) -> None:
    outcome = train(*BRIEF, "algo=bc", "eval.episodes=0", "eval.every=0", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert "No evaluation was made." in outcome.out
    assert read_csv(tmp_path / "run" / "evaluations.csv") == []


def test_a_dataset_whose_environment_is_not_installed(hopper: Trajectories, tmp_path: Path) -> None:
    dataset = minari_source.dataset_folder("tests/uninstalled-v0")
    shutil.copytree(minari_source.dataset_folder(hopper.info.id) / "data", dataset / "data")
    metadata = json.loads((dataset / "data" / "metadata.json").read_text())
    for key in ("env_spec", "eval_env_spec"):
        spec = json.loads(metadata[key])
        metadata[key] = json.dumps(spec | {"id": "Uninstalled-v3", "entry_point": "uninstalled:Env"})
    (dataset / "data" / "metadata.json").write_text(json.dumps(metadata))
    arguments = [argument for argument in BRIEF if not argument.startswith("dataset.")]
    arguments += ["dataset=minari", "dataset.id=tests/uninstalled-v0"]
    outcome = train(*arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    printed = " ".join(outcome.out.split())
    assert "Training without evaluation: environment Uninstalled-v3: cannot be made" in printed
    assert "No evaluation was made." in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["environment"]["id"], summary["totals"]) == ("Uninstalled-v3", {})
    assert summary["dataset"]["content_hash"] == hopper.content_hash
    assert load_policy(tmp_path / "run" / "policy.safetensors").seeds == (0,)
    with pytest.raises(UserError, match="environment Uninstalled-v3: cannot be made"):
        evaluate([f"run={tmp_path / 'run'}"])


def test_a_loss_that_is_not_finite_ends_the_run(hopper: Trajectories, tmp_path: Path) -> None:
    outcome = train(*BRIEF, "algo=bc", "algo.lr=1e30", "algo.warmup_steps=0", f"hydra.run.dir={tmp_path / 'run'}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "NaN or infinite" in outcome.err
    assert not (tmp_path / "run" / "summary.json").exists()


# --- sweeps --------------------------------------------------------------------------------------------------------------


@pytest.mark.robustness
def test_a_sweep_goes_on_after_a_failed_job_and_runs_only_what_is_missing(
    hopper: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", *BRIEF, "algo=bc", "eval.episodes=1", "eval.every=0", "seed=0,1,-1"]
    first = train(*arguments)
    assert first.code == 1
    assert "none negative" in first.err
    folders = sorted((tmp_path / "multirun").glob("hopper-bc-*"))
    assert len(folders) == 3
    finished = [folder for folder in folders if (folder / "summary.json").exists()]
    (failed,) = set(folders) - set(finished)
    assert len(finished) == 2
    assert "none negative" in json.loads((failed / "failure.json").read_text())["error"]
    assert "1 of 3 jobs did not finish" in " ".join(first.out.split())
    before = [(folder / "summary.json").stat().st_mtime_ns for folder in finished]
    second = train(*arguments)
    assert second.code == 1
    assert second.out.count("is finished already") == 2
    assert [(folder / "summary.json").stat().st_mtime_ns for folder in finished] == before
    assert sorted((tmp_path / "multirun").glob("hopper-bc-*")) == folders


# --- the verdict on a run ------------------------------------------------------------------------------------------------


def played(returns: list[list[float]], scores: ReferenceScores | None = None, **more: Any) -> Evaluation:
    array = np.array(returns)
    return Evaluation(tuple(range(len(array))), array, np.ones(array.shape, int), scores, **more)


def test_a_gain_is_the_mean_difference_of_the_same_episodes() -> None:
    unit = ReferenceScores(0.0, 200.0, "here")
    before, after = played([[1.0, 2.0], [3.0, 4.0]], unit), played([[3.0, 4.0], [5.0, 6.0]], unit)
    # 2 of return in every episode, hence 1 of score; an interval of no width, as the differences do not vary.
    gain = gains({"reference": before, "final": after})["final"]
    assert (gain.of, gain.mean, gain.interval) == ("scores", pytest.approx(1.0), pytest.approx((1.0, 1.0)))
    assert gains({"reference_sampled": before, "final_sampled": after}).keys() == {"final_sampled"}
    assert gains({"final": after}) == {}
    assert gains({"reference": played([[1.0]], unit), "final": after}) == {}  # a seed has diverged
    assert gains({"reference": played([[1.0]], unit), "final": played([[2.0]], unit)}) == {}  # an episode tells nothing
    labels = [np.array([[False, True]]), np.array([[True, True]])]
    before, other = (played([[0.0, 1.0]], successes=of_episodes) for of_episodes in labels)
    gain = gains({"reference": before, "final": other})["final"]
    assert (gain.of, gain.mean) == ("successes", 0.5)


@pytest.mark.parametrize(
    ("interval", "seeds", "says"),
    [
        ((1.0, 3.0), 3, "M does better than the reference that it started from: +2.0 [+1.0, +3.0] of score over 3 seeds."),
        ((-3.0, 5.0), 2, "M cannot be told from the reference that it started from: +2.0 [-3.0, +5.0] of score over 2 seeds."),
        (
            (-3.0, -1.0),
            1,
            "M does worse than the reference that it started from: +2.0 [-3.0, -1.0] of score for this seed alone; ",
        ),
    ],
)
def test_the_verdict_says_how_sure_it_is(interval: tuple[float, float], seeds: int, says: str) -> None:
    assert verdict("M", Gain("scores", 2.0, interval), seeds).startswith(says)


def test_a_run_ends_with_its_verdict(run: tuple[Path, Outcome]) -> None:
    folder, outcome = run
    summary = json.loads((folder / "summary.json").read_text())
    assert verdict(summary["method"], Gain(**summary["gains"]["final"]), 2) in outcome.out
