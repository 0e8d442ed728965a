"""A part of benchmarks/hostile.py: what is broken or hostile ends in one clear line, runs no code and harms nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from benchmarks.hostile import Case, NotHere, World, attempt, build, cases

# Every tenth setting, and a third of all else that is quick: no command line that Hydra composes, no process of its own.
CASES = [
    case for i, case in enumerate(c for c in cases() if not c.apart) if i % 10 == 0 or not case.name.startswith("setting ")
]
QUICK = [case for case in CASES if not case.name.startswith(("train ", "Minari", "cache", "an environment", "kappa", "a "))]
SOME = [case for case in CASES if case not in QUICK][::30]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    before = Path.cwd()
    with mock.patch.dict(os.environ), mock.patch.object(sys, "path", list(sys.path)):
        yield build(tmp_path_factory.mktemp("hostile").resolve())
    os.chdir(before)


def test_every_case_has_a_name_of_its_own_and_every_command_has_some() -> None:
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
    for begins in ("setting ", "train ", "Minari", "cache", "an environment", "a "):
        assert any(name.startswith(begins) for name in names), begins


@pytest.mark.parametrize("case", [*QUICK[::3], *SOME], ids=lambda case: case.name)
def test_it_ends_as_it_should(case: Case, world: World) -> None:
    try:
        assert attempt(case, world) == []
    except NotHere as reason:
        pytest.skip(str(reason))


def test_the_table_sees_what_is_wrong(world: World) -> None:
    def harm(world: World) -> tuple[str, ...]:
        (world.root / "run" / "metrics.csv").write_text("harmed")
        world.bait.touch()
        Path("left.txt").touch()
        return "verify", "run=nope"

    saved = (world.root / "run" / "metrics.csv").read_bytes()
    found = attempt(Case("harm", harm, "something else", code=0), world)
    (world.root / "run" / "metrics.csv").write_bytes(saved)
    said = " ".join(found)
    for problem in ("exit code 2, not 0", "code from a file has run", "have changed", "left behind: left.txt"):
        assert problem in said
