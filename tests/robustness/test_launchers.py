"""Sweeps with the launchers that are extras, for real. Each part is skipped unless it is installed; dev has
joblib and submitit. docs/sweeps.md says when the others were last run.

pip install -c constraints.txt -e '.[dev,ray]'
apt-get install --no-install-recommends slurm-wlm slurmdbd munge mariadb-server     # for Slurm, as root
pytest -m robustness tests/robustness/test_launchers.py     # or one of them: -m joblib, submitit, slurm, ray
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from setups import BRIEF, SMALL, Outcome, finish, python, wait_for

from iwbc.data.trajectories import Trajectories

SLURM_SCRIPT = Path(__file__).parents[1] / "slurm" / "cluster.sh"
RUN = ["-m", "iwbc.train", "-m"]
SHORT = [*RUN, *BRIEF, "eval.episodes=1", "eval.every=0"]
LONG = [*RUN, *SMALL, "algo=bc", "algo.steps=4000", "checkpoint_every=100", "eval.episodes=1", "eval.every=0", "threads=1"]
LONG += ["seed=0,1"]


def needs(mark: str, plugin: str, *programs: str) -> list[pytest.MarkDecorator]:
    """The mark, and a skip where the plugin or a program is missing."""
    module = f"hydra_plugins.hydra_{plugin}"
    installed = importlib.util.find_spec("hydra_plugins") is not None and importlib.util.find_spec(module) is not None
    missing = [name for name in programs if shutil.which(name) is None]
    here = installed and not missing and (not programs or os.geteuid() == 0)
    return [getattr(pytest.mark, mark), pytest.mark.skipif(not here, reason=f"see the top of {Path(__file__).name}")]


JOBLIB = needs("joblib", "joblib_launcher")
SUBMITIT = needs("submitit", "submitit_launcher")
SLURM = needs("slurm", "submitit_launcher", "munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
RAY = needs("ray", "ray_launcher")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Slurm cluster on this machine; the environment that leads to it."""
    folder = tmp_path_factory.mktemp("cluster")
    subprocess.run([SLURM_SCRIPT, "start", folder], check=True, timeout=180)
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([SLURM_SCRIPT, "stop", folder], check=True, timeout=60)


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """What the commands of this test need in their environment."""
    slurm = request.node.get_closest_marker("slurm") is not None
    return {"COLUMNS": "150"} | (request.getfixturevalue("cluster") if slurm else {})


def results(outcome: Outcome) -> dict[str, str]:
    """The summary table's results, by the settings that tell the jobs apart."""
    table = outcome.out[outcome.out.index("┃ job ┃") :]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    return {settings: result for _, settings, _, result in rows}


def descendants(parent: int, name: str) -> list[int]:
    """The processes below one whose command line holds `name`."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    family, pids = {parent}, []
    for pid, ppid, *command in sorted(rows, key=lambda row: int(row[0])):
        if int(ppid) in family:
            family.add(int(pid))
            pids += [int(pid)] if name in "".join(command) else []
    return pids


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until the first job has written one."""

    def there() -> bool:
        written = folder.glob("multirun/*/checkpoint.safetensors")
        return any("\nseed: 0\n" in (path.parent / "config.yaml").read_text() for path in written)

    wait_for(there, process)


LAUNCHERS = [
    pytest.param("cores", marks=JOBLIB),
    pytest.param("processes", marks=SUBMITIT),
    pytest.param("slurm hydra.launcher.mem_gb=2", marks=SLURM),
    pytest.param("ray_cores", marks=RAY),
]


@pytest.fixture
def nothing_yet(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without datasets and without a cache."""
    (tmp_path / "datasets").mkdir()
    return {"MINARI_DATASETS_PATH": str(tmp_path / "datasets"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "IWBC_CACHE": ""}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failed_job_leaves_the_others_whole(
    launcher: str, nothing_yet: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = [*SHORT, *f"hydra/launcher={launcher}".split(), "algo=iw_bc", "algo.lr=1e-3,5e-4,-1", "seeds=[0,1]"]
    arguments += ["dataset.tier=random", "dataset.steps=2000"]
    # Jobs on this machine start every kind of process: to generate data, to train a seed, to play.
    local = launcher in ("cores", "processes")
    arguments += ["threads=2", "eval.every=20", "eval.periodic_episodes=1"] if local else ["threads=1"]
    first = finish(python(*arguments, cwd=tmp_path, **environment, **nothing_yet))
    assert first.code == 1, first.err
    rows = results(first)
    assert len(rows) == 3, first.out
    assert first.out.splitlines()[-1].startswith("1 of 3 jobs did not finish")
    for rate in ("0.001", "0.0005"):
        assert rows[f"algo.lr={rate}"].startswith("return ")
    assert rows["algo.lr=-1"].startswith("failed: algo.lr=-1.0: must be positive")
    assert "Traceback" not in first.err
    summaries = {path: path.stat().st_mtime_ns for path in tmp_path.glob("multirun/*/summary.json")}
    assert len(summaries) == 2
    assert [path.name for path in (tmp_path / "multirun").glob(".sweep*")] == []
    assert len(list(tmp_path.glob("cache/iwbc/references/*.safetensors"))) == 2  # one for each seed
    assert len(list(tmp_path.glob("datasets/iwbc/hopper/random-2000-v*/data/main_data.hdf5"))) == 1
    second = finish(python(*arguments, cwd=tmp_path, **environment, **nothing_yet))
    assert (second.code, results(second)) == (1, rows)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("multirun/*/summary.json")} == summaries


def kill_worker(process: subprocess.Popen[str], environment: dict[str, str]) -> None:
    workers = [pid for name in ("LokyProcess", "-m submitit.core._submit") for pid in descendants(process.pid, name)]
    os.kill(workers[0], signal.SIGKILL)


def cancel(process: subprocess.Popen[str], environment: dict[str, str]) -> None:
    queue = ["squeue", "--noheader", "--states=R", "--format=%F_%K"]
    listed = subprocess.run(queue, capture_output=True, text=True, check=True, env=os.environ | environment)
    subprocess.run(["scancel", sorted(listed.stdout.split())[0]], check=True, env=os.environ | environment)


@pytest.mark.parametrize(
    ("launcher", "kill"),
    [
        pytest.param("cores hydra.launcher.n_jobs=2", kill_worker, marks=JOBLIB),
        pytest.param("processes", kill_worker, marks=SUBMITIT),
        pytest.param("slurm hydra.launcher.mem_gb=2", cancel, marks=SLURM),
    ],
)
def test_a_killed_job_is_finished_by_the_same_command(
    launcher: str,
    kill: Callable[[subprocess.Popen[str], dict[str, str]], None],
    hopper: Trajectories,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    arguments = [*LONG, *f"hydra/launcher={launcher}".split()]
    process = python(*arguments, cwd=tmp_path, **environment)
    wait_for_checkpoint(tmp_path, process)
    kill(process, environment)
    first = finish(process)
    assert first.code == 1
    assert "interrupted or killed" in results(first).values()
    if launcher.startswith("cores"):
        # joblib ends all workers when one is killed.
        assert "The launcher gave up: TerminatedWorkerError" in first.err
    else:
        assert sorted(result.split()[0] for result in results(first).values()) == ["interrupted", "return"]
        assert "1 of 2 jobs did not finish" in first.out
    second = finish(python(*arguments, cwd=tmp_path, **environment))
    assert second.code == 0, second.err
    assert [result.split()[0] for result in results(second).values()] == ["return"] * 2
    logs = [second.out, *(path.read_text() for path in tmp_path.glob("multirun/.submitit/*/*.out"))]
    assert any("Continuing after step" in log for log in logs)
    assert len(list(tmp_path.glob("multirun/*/summary.json"))) == 2


@pytest.mark.parametrize("launcher", [pytest.param("slurm hydra.launcher.mem_gb=2", marks=SLURM)])
def test_a_job_cancelled_in_the_queue_is_listed(
    launcher: str, hopper: Trajectories, environment: dict[str, str], tmp_path: Path
) -> None:
    # One at a time, so that the second waits.
    arguments = [*LONG, *f"hydra/launcher={launcher}".split(), "hydra.launcher.array_parallelism=1"]
    process = python(*arguments, cwd=tmp_path, **environment)
    wait_for_checkpoint(tmp_path, process)
    queue = ["squeue", "--noheader", "--array", "--states=PD", "--format=%F_%K"]
    waiting = subprocess.run(queue, capture_output=True, text=True, check=True, env=os.environ | environment).stdout.split()
    subprocess.run(["scancel", *waiting], check=True, env=os.environ | environment)
    outcome = finish(process)
    assert outcome.code == 1
    rows = results(outcome)
    assert rows["seed=0"].startswith("return ")
    assert rows["seed=1"].startswith("failed: it never began")


@pytest.mark.parametrize("launcher", [pytest.param("slurm hydra.launcher.mem_gb=1000000", marks=SLURM)])
def test_a_refusal_of_the_cluster_is_reported(launcher: str, environment: dict[str, str], tmp_path: Path) -> None:
    outcome = finish(python(*SHORT, *f"hydra/launcher={launcher}".split(), "seed=0,1", cwd=tmp_path, **environment))
    assert outcome.code == 1
    assert "Memory specification can not be satisfied" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("launcher", [pytest.param("ray_cores", marks=RAY)])
def test_ray_starts_a_killed_job_again(
    launcher: str, hopper: Trajectories, environment: dict[str, str], tmp_path: Path
) -> None:
    process = python(*LONG, f"hydra/launcher={launcher}", "seed=0", cwd=tmp_path, **environment)
    wait_for_checkpoint(tmp_path, process)
    os.kill(descendants(process.pid, "ray::_run_job")[0], signal.SIGKILL)
    outcome = finish(process)
    assert outcome.code == 0, outcome.err
    assert "Continuing after step" in outcome.out
    assert len(list(tmp_path.glob("multirun/*/summary.json"))) == 1
