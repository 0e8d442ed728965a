"""The commands as a user starts them, each in a process of its own: interruptions, quietness, the wheel."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from setups import SMALL, finish, python, read_csv, train

from iwbc.data.trajectories import Trajectories
from iwbc.trained import load_policy

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
    "eval.every=100",
    "eval.periodic_episodes=2",
    "eval.episodes=2",
]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise TimeoutError


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
    wait_for(lambda: (folder / "evaluations.csv").exists() and (folder / "evaluations.csv").stat().st_size > 0, process)
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
    found, expected = (load_policy(path / "policy.safetensors") for path in (folder, uninterrupted))
    assert found.state().keys() == expected.state().keys()
    assert all(torch.equal(value, expected.state()[name]) for name, value in found.state().items())
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


def test_a_damaged_checkpoint_is_one_line(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((uninterrupted / "config.yaml").read_bytes())
    (folder / "checkpoint.safetensors").write_bytes((uninterrupted / "policy.safetensors").read_bytes()[:-10])
    outcome = train(f"resume={folder}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "checkpoint.safetensors: cannot be read" in outcome.err


def test_the_terminal_is_quiet(tmp_path: Path) -> None:
    arguments = ["env=halfcheetah", *SMALL, "dataset.steps=3000", "algo.steps=20", "eval.episodes=1"]
    outcome = finish(python("-m", "iwbc.train", *arguments, "hydra.run.dir=run", cwd=tmp_path))
    assert outcome.code == 0, outcome.err
    # What it says of generating the dataset, on which the seconds pass, goes to stderr.
    assert all(line.startswith("Generating iwbc/halfcheetah/") for line in outcome.err.splitlines()), outcome.err
    for word in ("warn", "deprecat", "settotalmass", "gym has been"):
        assert word not in (outcome.out + outcome.err).lower()
    again = finish(python("-m", "iwbc.evaluate", "run=run", "out=episodes.csv", cwd=tmp_path))
    assert (again.code, again.err) == (0, "")
    played = [[row["return"] for row in read_csv(tmp_path / name)] for name in ("run/evaluations.csv", "episodes.csv")]
    assert played[0][-1:] == played[1]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "episodes.csv"}


def test_evaluate_is_one_line_where_there_is_no_run(tmp_path: Path) -> None:
    outcome = finish(python("-m", "iwbc.evaluate", "run=nowhere", cwd=tmp_path))
    assert outcome.code == 2
    assert outcome.err == "nowhere: not a run folder (it has no config.yaml)\n"


def test_the_wheel_carries_the_configurations_and_the_behaviours(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    built_here = all(importlib.util.find_spec(name) for name in ("hatchling", "hatch_fancy_pypi_readme"))
    isolation = ["--no-build-isolation"] if built_here else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolation, "-w", str(tmp_path), str(root)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("building needs hatchling, and there is no package index")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("iwbc-*.whl")
    assert wheel.stat().st_size < 10_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        archive.extractall(tmp_path / "installed")
    configurations = {path.relative_to(root / "conf").as_posix() for path in (root / "conf").rglob("*.yaml")}
    assert {f"iwbc/conf/{name}" for name in configurations} <= names
    environments = ("hopper", "halfcheetah", "walker2d")
    assert {f"iwbc/data/behaviours/{env}-v{version}.safetensors" for env in environments for version in (0, 1)} <= names
    assert not {name for name in names if name.startswith(("tests", "benchmarks", "conf"))}
    assert {"iwbc/py.typed", "iwbc/templates/run.html", "iwbc/templates/model_card.md", "iwbc/report/page.html"} <= names
    assert "iwbc = iwbc.cli:main" in (tmp_path / "installed" / next(n for n in names if "entry_points" in n)).read_text()
    # PyPI shows the README alone: nothing in it points into the repository.
    readme = metadata.split("\n\n", 1)[1]
    assert "# iwbc" in readme
    assert re.findall(r"\]\((?!https?://|#)[^)]*\)", readme) == []
    # From the wheel, not the checkout.
    outcome = finish(python("-m", "iwbc.train", "--cfg", "job", cwd=tmp_path, PYTHONPATH=str(tmp_path / "installed")))
    assert outcome.code == 0, outcome.err
    assert "iw_bc" in outcome.out
    where = finish(python("-c", "import iwbc.train as t; print(t.config_folder())", cwd=tmp_path, PYTHONPATH="installed"))
    assert Path(where.out.strip()).resolve() == (tmp_path / "installed" / "iwbc" / "conf").resolve()
