"""The commands that measure: steps per second, and commits side by side, whatever their code is like."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from setups import Outcome, finish, python

ROOT = Path(__file__).parents[2]


TINY = ("bc_1", "rounds=1", "steps=3")


def git(repository: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commits `broken` and `slow`, in which a BC step sleeps and functions have other names, both without benchmarks; then the
    present code."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    repository = tmp_path_factory.mktemp("repository")
    for folder in ("iwbc", "conf"):
        shutil.copytree(ROOT / folder, repository / folder, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    (repository / ".gitignore").write_text("__pycache__/\n")
    git(repository, "init", "--quiet")

    def commit(name: str) -> None:
        git(repository, "add", "--all")
        git(repository, "commit", "--quiet", "--message", name)
        git(repository, "tag", name)

    package, bc = repository / "iwbc" / "__init__.py", repository / "iwbc" / "algorithms" / "bc.py"
    present = {path: path.read_text() for path in (repository / "iwbc").rglob("*.py")}
    package.write_text("raise RuntimeError('out of order')\n")
    commit("broken")
    for path, text in present.items():
        path.write_text(text.replace("make_algorithm", "create_algorithm"))
    first = "        log_prob = self.optimizer.step("
    assert present[bc].count(first) == 1
    bc.write_text(present[bc].replace(first, f"        __import__('time').sleep(0.1)\n{first}"))
    commit("slow")
    for path, text in present.items():
        path.write_text(text)
    shutil.copytree(ROOT / "benchmarks", repository / "benchmarks", ignore=shutil.ignore_patterns("results", "__pycache__"))
    commit("present")
    return repository


def compare(repository: Path, temporary: Path, *arguments: str) -> Outcome:
    """`python -m benchmarks.compare`, which must leave the repository and the folder of temporary files as they were."""
    temporary.mkdir()
    outcome = finish(python("-m", "benchmarks.compare", *arguments, cwd=repository, TMPDIR=str(temporary)))
    assert git(repository, "worktree", "list").count("\n") == 1
    assert git(repository, "status", "--porcelain") == ""
    assert list(temporary.iterdir()) == []
    return outcome


def test_a_slower_commit_shows_in_the_ratio(repository: Path, tmp_path: Path) -> None:
    outcome = compare(repository, tmp_path / "tmp", "slow", *TINY)
    assert outcome.code == 0, outcome.err
    rows = [[cell.strip() for cell in line.split("│")] for line in outcome.out.splitlines()]
    against_base, autograd = [row[2:6] for row in rows if row[1:2] == ["bc_1.steps_per_second"]]
    base, head, ratio, span = against_base
    assert float(base) < 10.0  # each step sleeps for a tenth of a second
    assert float(ratio) == pytest.approx(float(head) / float(base), rel=0.01)
    assert float(ratio) > 2.0
    assert span == f"{ratio}–{ratio}"
    assert autograd[0] == head
    assert float(autograd[2]) == pytest.approx(float(autograd[1]) / float(head), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: not a commit"),
        (["slow", "nowhere"], "nowhere: not a commit"),
        (["broken", *TINY], "broken: cannot train: RuntimeError: out of order"),
        (["bc_1"], "give one or two commits, not 0"),
        (["slow", "turns=3"], "turns=3: not an option"),
    ],
)
def test_figures_that_cannot_be_compared_are_refused_in_a_line(
    repository: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    outcome = compare(repository, tmp_path / "tmp", *arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith(said)


def test_a_short_measurement_of_steps(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    arguments = ("step", "data=synthetic", "repetitions=1", "steps=3", f"out={out}")
    outcome = finish(python("-m", "benchmarks.speed", *arguments, cwd=ROOT))
    assert outcome.code == 0, outcome.err
    figures = json.loads(out.read_text())["step"]
    assert figures["machine"]["cores"] >= 1 and figures["machine"]["threads"] == 1
    rates = {name: value for name, value in figures.items() if name not in ("machine", "versions")}
    assert {"bc_steps_per_second", "iw_bc_seed_steps_per_second_5", "engine_over_autograd_1"} <= rates.keys()
    assert all(value > 0 for value in rates.values())
