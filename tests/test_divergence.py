"""A seed that diverges is noticed soon, said, and left behind; the others go on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pendulum import QUICK, make_pendulum
from rich.console import Console
from setups import read_csv, train

import iwbc
from iwbc.report.collect import collect
from iwbc.report.study import arrange
from iwbc.system.files import read_tensors
from iwbc.training.trained import load_policy
from iwbc.training.trainer import Learner

DIVERGED = (
    "the loss or the policy's parameters are NaN or infinite, or the parameters have grown a thousandfold; "
    "try a smaller learning rate (lr)"
)
TOO_FEW = (
    "the weights' effective sample size is {} of the curated set's, not algo.ess_floor=0.5 or more; "
    "try weights that say less (a smaller kappa or lr, a larger temperature)"
)


@pytest.fixture(autouse=True)
def data() -> None:
    make_pendulum()


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("loss", "parameter", "ess_share", "says"),
    [
        (NAN, 0.5, 1.0, DIVERGED),
        (INFINITE, 0.5, 1.0, DIVERGED),
        (-INFINITE, 0.5, 1.0, DIVERGED),
        (0.5, NAN, 1.0, DIVERGED),
        (0.5, INFINITE, 1.0, DIVERGED),
        (0.5, -1001.0, 1.0, DIVERGED),
        (NAN, NAN, NAN, DIVERGED),
        (0.5, 0.5, 0.25, TOO_FEW.format("0.25")),
        (0.5, 0.5, NAN, TOO_FEW.format("NaN")),
        (0.5, 999.0, 0.5, None),
    ],
)
def test_whichever_sign_shows_first_the_message_is_the_same(
    loss: float, parameter: float, ess_share: float, says: str | None
) -> None:
    policy, settings = torch.nn.Linear(2, 1), iwbc.IWBC(ess_floor=0.5)
    algorithm: Any = SimpleNamespace(policy=policy, by_autograd=False)
    algorithm.update = lambda *_: torch.tensor(loss)
    algorithm.metrics = lambda: {"ess_share": ess_share}
    sampler: Any = SimpleNamespace(seed=3, batch=lambda step: None)
    learner = Learner(algorithm, sampler, settings)
    learner.train(0, 1)
    with torch.no_grad():
        policy.weight[0, 1] = parameter
    assert learner.trouble() == says


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("algo=bc", "algo.lr=1e30", "algo.warmup_steps=0"), DIVERGED),
        (("algo=bc", "algo.lr=1e3", "algo.warmup_steps=0"), DIVERGED),
        (
            (
                "algo.level=trajectory",
                "algo.kappa=300",
                "algo.lr=1e-3",
                "algo.maximum=1e30",
                "algo.ess_floor=0.9",
                "algo.refresh_every=20",
            ),
            "not algo.ess_floor=0.9 or more",
        ),
        (
            ("algo.level=window", "algo.kappa=30", "algo.maximum=1e30", "algo.ess_floor=0.9", "algo.refresh_every=20"),
            "effective sample",
        ),
        (("algo=awr", "algo.value_steps=20", "algo.temperature=1e-3", "algo.ess_floor=0.5"), "algo.ess_floor=0.5"),
    ],
)
def test_it_is_noticed_within_100_steps(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    outcome = train(*QUICK, *arguments, "checkpoint_every=1000", "log_every=1000", f"hydra.run.dir={tmp_path / 'run'}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome
    assert says in outcome.err
    step = int(outcome.err.split("step ")[1].split(":")[0])
    assert step <= 100
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not (tmp_path / "run" / "policy.safetensors").exists()


def test_a_reference_that_diverges_says_so(tmp_path: Path) -> None:
    outcome = train(*QUICK, "reference.lr=1e30", f"hydra.run.dir={tmp_path / 'run'}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "Reference policy, seed 0, step 20: " in outcome.err
    assert not (tmp_path / "run").exists()


def test_the_other_seeds_finish_and_the_last_good_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    assert train(*QUICK, "seeds=[0,2]", f"hydra.run.dir={alone}").code == 0
    steps = {0: 0, 1: 0, 2: 0}
    original = Learner.trouble

    def trouble(self: Learner) -> str | None:
        seed = self.sampler.seed
        steps[seed] += self.diagnostics is not None  # not those of the reference
        return "it is said to" if seed == 1 and steps[seed] == 2 else original(self)

    monkeypatch.setattr(Learner, "trouble", trouble)
    outcome = train(*QUICK, "seeds=[0,1,2]", f"hydra.run.dir={run}")
    assert outcome.code == 1
    assert outcome.err == "Some seeds diverged, and are in no result: 1 (step 40: it is said to)\n"
    assert "Seed 1 diverged by step 40: it is said to. The other seeds go on." in outcome.out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["seeds"] == [result["seed"] for result in summary["results"]] == [0, 2]
    assert summary["diverged"] == [{"seed": 1, "step": 40, "why": "it is said to", "kept_step": 20}]
    assert (run / "policy.safetensors").read_bytes() == (alone / "policy.safetensors").read_bytes()
    assert (run / "evaluations.csv").read_bytes() == (alone / "evaluations.csv").read_bytes()
    assert {row["seed"] for row in read_csv(run / "metrics.csv") if row["step"] == "60"} == {"0", "2"}
    assert load_policy(run / "policy.safetensors").seeds == (0, 2)
    kept, metadata = read_tensors(run / "last-good-seed1.safetensors")
    assert metadata == {"step": "20"}
    assert all(name.startswith("1.") for name in kept)
    # The same command again tells the same, and so does the report.
    assert train(*QUICK, "seeds=[0,1,2]", f"hydra.run.dir={run}").code == 1
    assert any("seed 1 diverged by step 40" in note for note in arrange(collect([run])[0]).notes)


def test_a_density_that_refuses_nan_has_diverged_and_other_errors_are_passed_on() -> None:
    policy, settings = torch.nn.Linear(2, 1), iwbc.BC()
    algorithm: Any = SimpleNamespace(policy=policy, by_autograd=True, metrics=dict)

    def update(*_: Any) -> torch.Tensor:
        return -torch.distributions.Normal(policy.weight.mean(), 1.0).log_prob(torch.zeros(()))

    algorithm.update = update
    sampler: Any = SimpleNamespace(seed=3, batch=lambda step: None)
    learner = Learner(algorithm, sampler, settings)
    assert not learner.train(0, 1).requires_grad
    assert learner.trouble() is None
    with torch.no_grad():
        policy.weight[0, 1] = NAN
    learner.train(1, 2)
    assert learner.trouble() == DIVERGED

    def fails(*_: Any) -> torch.Tensor:
        raise ValueError("of another kind")

    algorithm.update = fails
    with torch.no_grad():
        policy.weight[0, 1] = 0.5
    with pytest.raises(ValueError, match="of another kind"):
        learner.train(2, 3)


def test_divergence_from_python_is_an_error(tmp_path: Path) -> None:
    data = iwbc.load("tests/pendulum/random-v0")
    with pytest.raises(iwbc.UserError, match=f"^BC, seed 3, step 50: {re.escape(DIVERGED)}$"):
        iwbc.fit(iwbc.BC(steps=50, lr=1e30, warmup_steps=0), data, seeds=[3], console=Console(quiet=True))
