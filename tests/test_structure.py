"""Imports run one way, from room to room and from module to module. The lock says what the constraints say."""

from __future__ import annotations

import graphlib
import re
import tomllib
from pathlib import Path

import pytest
from setups import finish, python

from tools.rooms import PICTURE, drawn, module_graph, room, room_graph

ROOT = Path(__file__).parents[1]


# The rooms of the package, and the files beside them: each imports only from those before it (docs/architecture.md).
ROOMS = (
    *("errors", "settings", "objectives", "intervals", "system", "config", "environments", "data", "policies"),
    *("engine", "algorithms", "training", "evaluation", "runs", "language", "report", "api", "cli"),
)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """The modules of the package that each of them imports."""
    graph = module_graph()
    assert len(graph) > 50
    assert "iwbc.objectives" in graph["iwbc.algorithms.iw_bc"]
    return graph


def test_rooms_import_only_from_rooms_before_them(graph: dict[str, set[str]]) -> None:
    places = {name: place for place, name in enumerate([*ROOMS, "commands"])}
    assert {room(module) for module in graph} == set(places)
    upward = [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if places[room(other)] > places[room(module)]
    ]
    assert upward == []


def test_the_picture_of_the_rooms_is_that_of_the_imports(graph: dict[str, set[str]]) -> None:
    assert PICTURE.read_text() == drawn(room_graph(graph)), "draw it again: python -m tools.rooms"


def test_nothing_within_imports_a_command(graph: dict[str, set[str]]) -> None:
    assert [(module, other) for module, others in graph.items() for other in others if room(other) == "commands"] == []


def test_no_import_cycles(graph: dict[str, set[str]]) -> None:
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle


def pins(name: str) -> dict[str, str]:
    """Versions by name, as PyPI spells it."""
    versions = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in versions}


def test_the_lock_has_the_versions_of_the_constraints() -> None:
    lock, constraints = pins("requirements.lock"), pins("constraints.txt")
    elsewhere = {"httpx2-jsfetch"}  # only for Python in browsers
    assert {name: constraints.get(name) for name in lock.keys() - elsewhere} == {
        name: version for name, version in lock.items() if name not in elsewhere
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    dev = {re.split(r"[\[<>=]", requirement)[0] for requirement in extras["dev"]} - {"iwbc"}
    assert dev <= lock.keys()
    assert (ROOT / "requirements.lock").read_text().count("--hash=sha256:") > len(lock)


# Imports every module, by each form of import in turn, and looks at what the package offers after each. Forked with the
# libraries loaded, which take seconds, and without the package.
DOORS = """
import importlib, os, pkgutil, sys
import gymnasium, minari, torch
firsts = ["", "import iwbc.evaluate", "from iwbc.evaluate import main", "from iwbc import evaluate"]
assert not any(name.startswith("iwbc") for name in sys.modules)
for first in firsts:
    if os.fork() == 0:
        break
else:
    sys.exit(any([os.wait()[1] for _ in firsts]))
exec(first)
import iwbc
offered = lambda: {name: getattr(iwbc, name) for name in iwbc.__all__}
before = offered()
import iwbc.evaluate
from iwbc import evaluate
from iwbc.evaluate import main
assert iwbc.evaluate is evaluate is before["evaluate"] is sys.modules["iwbc.api"].evaluate
assert main is sys.modules["iwbc.evaluate"].main and callable(main)
assert importlib.import_module("iwbc.evaluate").main is main
for module in pkgutil.walk_packages(iwbc.__path__, "iwbc."):
    importlib.import_module(module.name)
after = offered()
assert all(callable(one) for one in after.values()), after
assert all(after[name] is before[name] for name in after)
assert all(getattr(sys.modules[place], name) is after[name] for name, place in iwbc._PLACE.items())
"""


@pytest.mark.robustness
def test_every_name_is_the_api_s_after_any_import(tmp_path: Path) -> None:
    outcome = finish(python("-c", DOORS, cwd=tmp_path))
    assert outcome.code == 0, outcome.err
