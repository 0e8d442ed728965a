"""What tests of whole runs share: configurations, algorithms made from them, and the commands, called as a user would."""

from __future__ import annotations

import copy
import csv
import functools
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import hydra
from rich.console import Console

from iwbc.config import Config, validate
from iwbc.curation import curate
from iwbc.data.curated import Curated
from iwbc.data.trajectories import Trajectories
from iwbc.pipeline import _Run
from iwbc.policies import Policy, policy_spec
from iwbc.runs import RunFolder
from iwbc.train import config_folder, main
from iwbc.training import Algorithm

# Networks and sets small enough for a run of a second or two.
SMALL = ("dataset.steps=20000", "policy.hidden=[32,32]", "reference.steps=60", "reference.batch_size=64", "algo.batch_size=64")
BRIEF = (*SMALL, "algo.steps=40", "algo.warmup_steps=10", "log_every=10", "eval.episodes=3", "threads=1")


def compose(*overrides: str) -> Config:
    """The configuration that these command-line arguments stand for."""
    return copy.deepcopy(_compose(overrides))


@functools.cache
def _compose(overrides: tuple[str, ...]) -> Config:
    with hydra.initialize_config_dir(config_folder(), version_base="1.3"):
        return validate(hydra.compose("train", list(overrides)))


def curated_of(config: Config, trajectories: Trajectories) -> Curated:
    return Curated(trajectories, curate(trajectories, config.curation), config.averaging)


def algorithm_of(config: Config, curated: Curated, reference: Policy | None) -> Algorithm:
    """The algorithm that a run of this configuration trains."""
    run = _Run(config, RunFolder(Path()), Console(quiet=True))
    spec = policy_spec(config.policy, curated.trajectories)
    return run._algorithm(spec, curated, reference, config.all_seeds)


@dataclass
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def train(*arguments: str) -> Outcome:
    """`python -m iwbc.train`, within this process and its working directory."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    # Hydra sets logging up anew, which shuts down the handlers of libraries that other tests have imported.
    logging = mock.patch("logging.shutdown")
    with mock.patch.object(sys, "argv", ["iwbc.train", *arguments]), mock.patch.dict(os.environ), logging:
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as end:
            assert isinstance(end.code, int)
            code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start Python in a process of its own, with one thread."""
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
    out, err = process.communicate(timeout=120)
    return Outcome(process.returncode, out, err)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(rows: Sequence[dict[str, str]], name: str, **where: object) -> list[float]:
    """A column's numbers, of the rows that have these values."""
    return [float(row[name]) for row in rows if all(row[key] == str(value) for key, value in where.items())]
