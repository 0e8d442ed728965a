"""Benchmarks run, compare commits whatever their code is like, and take turns with other projects' training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from setups import SMALL, Outcome, compose, finish, python

from benchmarks import fair
from benchmarks.common import Job, play_all
from benchmarks.compare import comparison
from benchmarks.peer import SCRIPTS, peer
from benchmarks.weights import compare as compare_weights
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError

ROOT = Path(__file__).parents[1]
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
def test_what_cannot_be_compared_is_said_in_a_line(repository: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    outcome = compare(repository, tmp_path / "tmp", *arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith(said)


def test_a_comparison_is_of_medians_over_the_rounds() -> None:
    base = [{"rate": 1.0}, {"rate": 2.0}, {"rate": 9.0}]
    head = [{"rate": 3.0}, {"rate": 4.0}, {"rate": 8.1}]
    table = comparison(("old", "new"), base, head)
    assert [list(column.cells) for column in table.columns] == [["rate"], ["2"], ["4"], ["2.000"], ["0.900–3.000"]]


def test_a_short_measurement_of_steps(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    arguments = ("step", "data=synthetic", "repetitions=1", "steps=3", f"out={out}")
    outcome = finish(python("-m", "benchmarks.speed", *arguments, cwd=ROOT))
    assert outcome.code == 0, outcome.err
    found = json.loads(out.read_text())["step"]
    assert found["machine"]["cores"] >= 1 and found["machine"]["threads"] == 1
    rates = {name: value for name, value in found.items() if name not in ("machine", "versions")}
    assert {"bc_steps_per_second", "iw_bc_seed_steps_per_second_5", "engine_over_autograd_1"} <= rates.keys()
    assert all(value > 0 for value in rates.values())


def test_what_speed_cannot_measure_is_said_in_a_line() -> None:
    outcome = finish(python("-m", "benchmarks.speed", "speed", cwd=ROOT))
    assert (outcome.code, outcome.err) == (
        2,
        "speed: not a part; there are start, step, evaluation, memory, recipe, checkpoints\n",
    )


def test_running_weights_are_compared_with_exact_ones(hopper: Trajectories) -> None:
    overrides = (*SMALL, "algo.steps=200", "algo.warmup_steps=10")
    rows = compare_weights("hopper", overrides, Console(quiet=True))
    assert [row["step"] for row in rows] == list(range(20, 201, 20))
    assert {row["kept_steps"] for row in rows} == {rows[0]["kept_steps"]}
    assert all(-1.0 <= float(str(row["rank_correlation"])) <= 1.0 for row in rows)
    assert float(str(rows[-1]["rank_correlation"])) > 0.5
    with pytest.raises(UserError, match="must be iw_bc"):
        compare_weights("hopper", ["algo=bc"], Console(quiet=True))


def script(folder: Path, body: str) -> Path:
    """A peer's script whose turn is `body`, a function of the number of seeds."""
    path = folder / "script.py"
    path.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from turns import take_turns\n"
        f"print('not an answer')\ntake_turns({body}, 'torch')\n"
    )
    return path


def test_a_peer_trains_when_it_is_its_turn_and_not_before(tmp_path: Path) -> None:
    log = tmp_path / "log"
    turn = f"lambda seeds: print(sys.argv[1], seeds, file=open({str(log)!r}, 'a'))"
    with peer("other", script(tmp_path, turn), sys.executable, 7) as other:
        assert list(other.versions) == ["torch"]
        assert not log.exists()
        for seeds in (1, 5):
            other.train(seeds)
            assert log.read_text().splitlines()[-1] == f"7 {seeds}"
        process = other.process
    assert process.poll() is not None


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    failing = script(tmp_path, "lambda seeds: 1 / 0")
    with peer("other", failing, sys.executable, 7) as other, pytest.raises(UserError, match=r"^other=.*: ZeroDivisionError"):
        other.train(1)
    with (
        pytest.raises(UserError, match=r"^other=/nowhere: cannot be run \(No such file"),
        peer("other", failing, "/nowhere", 7),
    ):
        pass
    missing = tmp_path / "missing.py"
    with pytest.raises(UserError, match=r"^other=.*missing\.py"), peer("other", missing, sys.executable, 7):
        pass


# --- the fair table --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fair.FAMILIES)
def test_every_method_of_the_fair_table_has_as_many_tries(name: str) -> None:
    family = fair.FAMILIES[name]
    tries = {method: fair.settings_of(grid) for method, grid in family.methods.items()}
    assert {len(settings) for settings in tries.values()} == ({6} if family.tuning else {1})
    for settings in tries.values():
        assert len(set(settings)) == len(settings)
        for setting in (settings[0], settings[-1]):
            task = next(iter(family.tasks.values()))
            config = compose(*f"{task} {setting} {family.common} {fair.EVERY_RUN} {family.table}".split())
            assert (config.algo.start, len(config.all_seeds), config.eval.actions) == ("reference", 10, ("mean", "sample"))


def test_the_best_setting_on_average_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fair").mkdir()
    (tmp_path / "fair" / "x-tuning.csv").write_text("method,setting,mean\nbc,a,9.5\nbc,b,10.25\niw_bc,c,1\niw_bc,d,1\n")
    monkeypatch.setattr(fair, "RESULTS", tmp_path)
    assert fair.choices("x") == {"bc": "b", "iw_bc": "c"}


def test_a_run_of_the_fair_table(tmp_path: Path) -> None:
    brief = "env=two_routes dataset.episodes=30 algo.steps=5 reference.steps=5 policy.hidden=[8] eval.episodes=2 seeds=[0,1]"
    setting = fair.settings_of(fair.CHANCE.methods["iw_bc_auto"])[0]
    job = Job(tuple(f"{setting} {brief} {fair.EVERY_RUN}".split()), tmp_path / "run")
    summary = play_all([job], 1)[job]
    rates = [summary["totals"][phase]["success_rate"] for phase in ("final", "final_sampled")]
    assert fair.final_score(summary) == pytest.approx(50.0 * sum(rates))
    assert "reference" not in summary["totals"]
    assert play_all([job], 1)[job]["seconds"] == summary["seconds"]  # it is not run again
