"""What tests of whole runs share: configurations, algorithms made from them, and the commands, called as a user would."""

from __future__ import annotations

import copy
import csv
import functools
import importlib
import io
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from _pytest.mark import ParameterSet

from iwbc import config as configs
from iwbc.algorithms import Algorithm, Ingredients, make_algorithm
from iwbc.algorithms.values import value_network
from iwbc.data.curated import Curated
from iwbc.data.curation import curate
from iwbc.data.streams import Stream, seeded
from iwbc.data.trajectories import Trajectories
from iwbc.policies import Policy
from iwbc.policies.spec import policy_factory
from iwbc.runs.summary import DatasetSummary, SeedResult, Summary, Total
from iwbc.settings import Config
from iwbc.system.arguments import run
from iwbc.train import main

# Networks and sets small enough for a run of a second or two.
SMALL = ("dataset.steps=20000", "policy.hidden=[32,32]", "reference.steps=60", "reference.batch_size=64", "algo.batch_size=64")
BRIEF = (*SMALL, "algo.steps=40", "algo.warmup_steps=10", "log_every=10", "eval.episodes=3", "threads=1")


def rarely(*values: object) -> ParameterSet:
    """Mark a test's parameters as ones that `make test` leaves to `make test-all`."""
    return pytest.param(*values, marks=pytest.mark.robustness)


def seldom(*values: object) -> ParameterSet:
    """Mark a test's parameters as ones that `make test-all` leaves to `--long 2`."""
    return pytest.param(*values, marks=[pytest.mark.robustness, pytest.mark.long])


def every(nth: int, values: Iterable[object]) -> list[object]:
    """Leave all but the first of every `nth` values to `make test-all`."""
    return [value if i % nth == 0 else rarely(value) for i, value in enumerate(values)]


# Seconds after which a test that waits takes it that something hangs. Nothing else may depend on the time that it takes.
PATIENCE = 300.0


def compose(*overrides: str) -> Config:
    """The configuration that these command-line arguments stand for."""
    return copy.deepcopy(_compose(overrides))


@functools.cache
def _compose(overrides: tuple[str, ...]) -> Config:
    return configs.compose(*overrides)


def curated_of(config: Config, trajectories: Trajectories) -> Curated:
    return curate(trajectories, config.curation, config.averaging)


def untrained(config: Config, trajectories: Trajectories, seed: int = 0) -> Policy:
    """The policy that training from scratch begins with."""
    with seeded(Stream.POLICY, seed):
        return policy_factory(config.policy, trajectories).make()


def algorithm_of(config: Config, curated: Curated, reference: Policy | None, seed: int = 0) -> Algorithm:
    """The algorithm that a run of this configuration trains, with an untrained critic where it needs one."""
    policy = untrained(config, curated.trajectories, seed) if reference is None else copy.deepcopy(reference)
    critic = None
    if config.algo.critic is not None:
        with seeded(Stream.VALUE, seed):
            critic = value_network(curated.trajectories, config.algo.critic.hidden)
    return make_algorithm(config.algo, Ingredients(policy, reference, curated, seed, critic=critic))


@dataclass
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def train(*arguments: str) -> Outcome:
    """`python -m iwbc.train`, within this process and its working directory."""
    return called(main, "iwbc.train", *arguments)


def check_refused(arguments: Sequence[str], says: str, folder: Path) -> None:
    """Training says so in one line, exits with 2 and leaves no folder."""
    outcome = train(*arguments, f"hydra.run.dir={folder}")
    assert outcome.code == 2
    assert says in outcome.err and outcome.err.count("\n") == 1
    assert not folder.exists()


def command(module: str, *arguments: str) -> Outcome:
    """`python -m` of another module that is a command, within this process and its working directory."""
    made = importlib.import_module(module)
    return called(lambda: run(made.main, made.__doc__), module, *arguments)


def called(call: Callable[[], object], *words: str) -> Outcome:
    """What comes of a call, as of a process with such a command line."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    # Hydra sets logging up again, which shuts down the handlers of libraries that other tests have imported.
    logging = mock.patch("logging.shutdown")
    with mock.patch.object(sys, "argv", list(words)), mock.patch.dict(os.environ), logging:
        try:
            with redirect_stdout(out), redirect_stderr(err):
                call()
        except SystemExit as end:
            assert isinstance(end.code, int)
            code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start Python in a process of its own, with one thread. A PYTHONPATH comes before the one that there is."""
    if "PYTHONPATH" in environment and "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=PATIENCE)
    return Outcome(process.returncode, out, err)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds, while the process goes on."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for_the_end_of(pids: Iterable[int]) -> None:
    """Wait until none of the processes runs; what nobody has collected has ended, too."""
    end, listed = time.monotonic() + PATIENCE, ",".join(map(str, pids))
    ask = ["ps", "-o", "stat=", "-p", listed]
    while any(not state.startswith("Z") for state in subprocess.run(ask, capture_output=True, text=True).stdout.split()):
        assert time.monotonic() < end
        time.sleep(0.05)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows: Sequence[dict[str, str]], name: str, **where: object) -> list[float]:
    """A column's numbers, of the rows that have these values."""
    return [float(row[name]) for row in rows if all(row[key] == str(value) for key, value in where.items())]


def total(
    returns: float, scores: float | None = None, successes: float | None = None, *, action: str = "mean", width: float = 1.0
) -> Total:
    """The total of a phase with these means, each in the middle of an interval of twice the width."""
    measures = [(mean, None if mean is None else (mean - width, mean + width)) for mean in (returns, scores, successes)]
    return Total(2, action, "episodes", *itertools.chain(*measures))  # type: ignore[arg-type]


def summary_of(totals: dict[str, Total], **changes: Any) -> Summary:
    """The summary of a run of seed 0 with these totals."""
    results = {phase: SeedResult(2, of_phase.return_mean, 0.0, None, None) for phase, of_phase in totals.items()}
    known: dict[str, Any] = {
        "method": "BC",
        "environment": None,
        "dataset": DatasetSummary("a/b-v0", "ab" * 32, 40, 400, 4, 40),
        **{"algo": "bc", "curation": "all", "averaging": "trajectory"},
        **{"seeds": (0,), "diverged": (), "results": {0: results}, "totals": totals, "gains": {}, "normalisation": None},
        **{"steps_per_second": 250.0, "seed_steps_per_second": 250.0, "seconds": {"training": 60.0, "evaluation": 30.0}},
        **{"versions": {"iwbc": "0"}, "sha256": {}},
    }
    return Summary(**{**known, **changes})
