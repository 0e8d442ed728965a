"""docs/extending.md, done as it says: the code on the page is what runs here. And what `register` refuses."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from setups import BRIEF, Outcome, column, finish, python, read_csv

import iwbc
from iwbc import algorithms
from iwbc.algorithms import Ingredients, register
from iwbc.algorithms.bc import BehaviourCloning
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.settings import ALGORITHMS, BC, Recipe

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "extending.md").read_text()
SECTION = GUIDE.split("## An algorithm of your own\n")[1].split("\n## ")[0]
MODULE, FROM_PYTHON = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
(CHOICE,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, hopper: Trajectories) -> Path:
    """A folder with the files of the page's section on algorithms, each at the path that it begins with."""
    for text in (MODULE, CHOICE):
        path = tmp_path / text.removeprefix("# @package _global_\n").splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def iwbc_command(folder: Path, line: str, *more: str) -> Outcome:
    """The outcome of a command of the page, in its folder, with FOLDER for the run's."""
    _, name, *arguments = shlex.split(line.replace("FOLDER", "run"), comments=True)
    return finish(python("-m", "iwbc", name, *arguments, *more, cwd=folder, PYTHONPATH=str(folder)))


def test_every_file_that_the_guide_names_is_there() -> None:
    named = re.findall(r"`((?:iwbc|conf|tests|examples|docs)/[\w/.-]*)`", GUIDE)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_attribute_of_the_protocol_is_in_the_guide() -> None:
    names = [name for name in (*vars(algorithms.Algorithm), *algorithms.Algorithm.__annotations__) if not name.startswith("_")]
    assert set(names) == {"policy", "by_autograd", "update", "metrics", "state", "load"}
    table = "".join(line.split("|")[1] for line in SECTION.splitlines() if line.startswith("|"))
    assert [name for name in (*names, "weigh") if not re.search(rf"`{name}\b", table)] == []


def test_an_algorithm_from_python(folder: Path) -> None:
    (folder / "try.py").write_text(FROM_PYTHON.replace("=200", "=20") + "print(policy)\n")
    outcome = finish(python("try.py", cwd=folder))
    assert (outcome.code, outcome.out) == (0, "Policies(GaussianMLP, seeds 0)\n"), outcome.err


def test_an_algorithm_from_the_command_line(folder: Path) -> None:
    train, _, evaluate = COMMANDS.splitlines()
    outcome = iwbc_command(folder, train, *BRIEF, "algo.lr=1e-2", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    rows = read_csv(folder / "run" / "metrics.csv")
    assert column(rows, "kept_share")[-1] == 0.75
    assert column(rows, "loss")[-1] < column(rows, "loss")[0]
    assert json.loads((folder / "run" / "summary.json").read_text())["method"] == "trimmed BC(Q)"
    again = iwbc_command(folder, evaluate)
    assert (again.code, again.err) == (0, "")


@pytest.mark.robustness
def test_other_commands_take_the_run_where_the_module_is_named(folder: Path) -> None:
    train, resume, evaluate = COMMANDS.splitlines()
    assert iwbc_command(folder, train, *BRIEF, "hydra.run.dir=run").code == 0
    assert "run is finished already" in iwbc_command(folder, resume).out
    for line in (evaluate, "iwbc verify FOLDER imports=my_algorithms", "iwbc export FOLDER format=hub imports=my_algorithms"):
        outcome = iwbc_command(folder, line)
        assert (outcome.code, outcome.err) == (0, ""), line
    # Somebody else's folder makes iwbc import nothing.
    (folder / "my_algorithms.py").write_text("raise SystemExit('imported')")
    for line in ("iwbc train resume=FOLDER", *(f"iwbc {name} FOLDER" for name in ("evaluate", "verify", "export format=hub"))):
        outcome = iwbc_command(folder, line)
        assert (outcome.code, outcome.err) == (
            2,
            "run: its algorithm, trimmed_bc, is none of iwbc's; name the module that registers it, by "
            "env.imports=[module] where training goes on, by imports=module in other commands\n",
        )


@pytest.mark.robustness
def test_a_choice_in_a_folder_of_ones_own(folder: Path) -> None:
    (line,) = re.findall(r"`(iwbc train --config-dir[^`]*)`", SECTION.replace("\n", " "))
    outcome = iwbc_command(folder, line, *BRIEF, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert json.loads((folder / "run" / "summary.json").read_text())["method"] == "trimmed BC 10 %"
    assert column(read_csv(folder / "run" / "metrics.csv"), "kept_share")[-1] == 0.75


@pytest.mark.robustness
@pytest.mark.parametrize("launcher", ["basic", "cores"])
def test_a_sweep_over_a_custom_algorithm(folder: Path, launcher: str) -> None:
    line = f"iwbc train -m 'env.imports=[my_algorithms]' algo=bc,trimmed_bc hydra/launcher={launcher} hydra.sweep.dir=sweep"
    outcome = iwbc_command(folder, line, *BRIEF, "eval.episodes=0")
    assert outcome.code == 0, outcome.err
    methods = {json.loads(path.read_text())["method"] for path in folder.glob("sweep/*/summary.json")}
    assert methods == {"BC(Q)", "trimmed BC(Q)"}


def test_a_custom_algorithms_settings_are_checked(folder: Path) -> None:
    train = COMMANDS.splitlines()[0].replace("=0.25", "=2")
    refused = iwbc_command(folder, train, *BRIEF, "hydra.run.dir=run")
    assert (refused.code, refused.err) == (2, "algo.trimmed=2.0: must lie in [0, 1]\n")


# --- what is refused -------------------------------------------------------------------------------------------------


@dataclass
class Mine(Recipe):
    """Settings that can be registered."""

    label: ClassVar[str] = "mine"

    name: str = "mine"


@dataclass
class Nameless(Recipe):
    """Settings without a name."""

    label: ClassVar[str] = "nameless"


@dataclass
class Unlabelled(Recipe):
    """Settings without a label."""

    name: str = "unlabelled"


@dataclass
class Taken(Recipe):
    """Settings with the name of others."""

    label: ClassVar[str] = "taken"

    name: str = "awr"


@dataclass
class Alike(BC):
    """Settings with the label of others."""

    name: str = "alike"


class Bare(BC):
    """Settings whose fields are those of BC alone."""

    label: ClassVar[str] = "bare"
    name: str = "bare"


class Silent(BehaviourCloning):
    """An algorithm without two of its methods."""

    metrics = load = None  # type: ignore[assignment]


class Blind(BehaviourCloning):
    """An algorithm without an attribute."""

    def __init__(self, settings: Recipe, ingredients: Ingredients) -> None:
        super().__init__(settings, ingredients)
        del self.by_autograd


REFUSED: dict[str, tuple[Any, Any]] = {
    "Nameless: cannot be registered; settings need a name, such as trimmed_bc, and a label": (Nameless, BehaviourCloning),
    "Unlabelled: cannot be registered; settings need a name, such as trimmed_bc, and a label": (Unlabelled, BehaviourCloning),
    "Taken: cannot be registered; AWR has the name awr or the label taken already": (Taken, BehaviourCloning),
    "Alike: cannot be registered; BC has the name alike or the label BC already": (Alike, BehaviourCloning),
    "Bare: cannot be registered; settings are a @dataclass": (Bare, BehaviourCloning),
    "int: cannot be registered; settings are a @dataclass that inherits": (int, BehaviourCloning),
    "Mine: cannot be registered; Silent has no method metrics, load": (Mine, Silent),
}


@pytest.mark.parametrize("words", REFUSED)
def test_register_refuses(words: str) -> None:
    before = dict(ALGORITHMS), dict(algorithms.CLASSES)
    with pytest.raises(UserError) as refused:
        register(*REFUSED[words])
    assert str(refused.value).startswith(words)
    assert "\n" not in str(refused.value)
    assert before == (ALGORITHMS, algorithms.CLASSES)


def test_an_algorithm_without_an_attribute_or_a_registration_is_refused(
    monkeypatch: pytest.MonkeyPatch, hopper: Trajectories
) -> None:
    with pytest.raises(UserError, match=r"^Mine: no algorithm has these settings; iwbc\.algorithms\.register adds one$"):
        iwbc.fit(Mine(start="scratch"), hopper)
    monkeypatch.setitem(algorithms.CLASSES, Mine, Blind)
    with pytest.raises(UserError, match=r"^Blind: has no attribute by_autograd$"):
        iwbc.fit(Mine(start="scratch"), hopper)
