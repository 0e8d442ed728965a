"""examples/: each runs as it says, in a folder of its own, with few gradient steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from setups import Outcome, finish, python

EXAMPLES = Path(__file__).parent.parent / "examples"
STEPS = {"library": "20", "own_policy": "20", "own_environment": "200"}


def run(name: str, folder: Path) -> Outcome:
    outcome = finish(python(str(EXAMPLES / f"{name}.py"), STEPS[name], cwd=folder))
    assert outcome.code == 0, outcome.err
    return outcome


def returns(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"episodes, mean action: return (-?[\d.]+)[,)]", text)]


def test_every_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*STEPS, "bandit"}  # which test_tasks.py runs


@pytest.mark.robustness
@pytest.mark.usefixtures("hopper")
def test_the_library(tmp_path: Path) -> None:
    outcome = run("library", tmp_path)
    assert "iwbc/hopper/medium-replay-20000-v2" in outcome.out
    assert "the best of them:" in outcome.out
    assert len(returns(outcome.out)) == 2
    assert re.search(r"action \[.*\]\n$", outcome.out)
    assert [path.name for path in tmp_path.iterdir()] == ["hopper.safetensors"]


@pytest.mark.robustness
@pytest.mark.usefixtures("hopper")
def test_a_policy_of_one_s_own(tmp_path: Path) -> None:
    outcome = run("own_policy", tmp_path)
    assert len(returns(outcome.out)) == 2
    assert re.search(r"action \[.*\]\n$", outcome.out)
    assert [path.name for path in tmp_path.iterdir()] == ["own_policy.safetensors"]


@pytest.mark.robustness
@pytest.mark.usefixtures("hopper")
def test_the_policy_of_one_s_own_from_the_command_line(tmp_path: Path) -> None:
    # As the example's first lines say.
    lines = [line.strip() for line in (EXAMPLES / "own_policy.py").read_text().splitlines()]
    (written,), (command,) = (
        [line for line in lines if line.startswith(start)] for start in ("mkdir -p my_conf", "PYTHONPATH=examples")
    )
    (content,) = re.findall(r"echo '(.*)'", written)
    (tmp_path / "my_conf" / "policy").mkdir(parents=True)
    (tmp_path / "my_conf" / "policy" / "mine.yaml").write_text(content)
    assert command.split()[1:2] == ["python"]
    brief = ["dataset.steps=20000", "reference.steps=20", "algo.steps=20", "eval.episodes=2", "threads=1"]
    path = f"{EXAMPLES}:{EXAMPLES.parent}"
    outcome = finish(python(*command.split()[2:], *brief, "hydra.run.dir=run", cwd=tmp_path, PYTHONPATH=path))
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.robustness
def test_an_environment_of_one_s_own(tmp_path: Path) -> None:
    outcome = run("own_environment", tmp_path)
    reference, fine_tuned = returns(outcome.out)
    assert fine_tuned > reference
    assert list(tmp_path.iterdir()) == []
