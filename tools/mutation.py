"""Would the tests notice? One small change of the code at a time, at which some test of those that run it must fail.

    python -m tools.mutation [FILE …]        all of MODULES, or some of them

The changes are those of Cosmic Ray's operators, of which `changes` leaves out what any test would notice. Starting Python and
importing PyTorch for each would take hours: the tests run once, which tells the lines that each of them runs; then, for every
change, a fork replaces the code of the functions, and runs the tests of the changed statement up to the first that fails.
Tests that start processes of their own see the old code there: the share that is killed is a lower bound.

What survives must be in tools/survivors.csv with a reason. Results are kept in build/mutation.json; the same command goes on
where it was stopped, and tries again what had survived other tests.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import importlib
import itertools
import json
import os
import resource
import signal
import sys
import time
import types
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from hypothesis.errors import HypothesisException

ROOT = Path(__file__).resolve().parents[1]
RESULTS, SURVIVORS = ROOT / "build" / "mutation.json", ROOT / "tools" / "survivors.csv"
CHOSEN = "not (mixture or flow or squashed or tanh_mean-state)"  # of what is tried with every kind of policy, one will do
KILLED = ("killed", "timeout")
LEAST = 0.85  # the share that must be killed

# Files and the tests that are to notice a change in them: quick ones that run within pytest's own process.
MODULES = {
    "iwbc/objectives.py": "test_objectives",
    "iwbc/curation.py": "test_curation",
    "iwbc/data/curated.py": "test_trajectories test_curation test_sampling",
    "iwbc/data/sampling.py": "test_sampling",
    "iwbc/data/trajectories.py": "test_trajectories test_curation",
    "iwbc/algorithms/temperature.py": "test_temperature",
    "iwbc/algorithms/log_ratios.py": "test_log_ratios",
    "iwbc/algorithms/weights.py": "test_algorithms",
    "iwbc/algorithms/bc.py": "test_algorithms",
    "iwbc/algorithms/iw_bc.py": "test_algorithms",
    "iwbc/algorithms/awr.py": "test_algorithms",
    "iwbc/files.py": "test_files",
    "iwbc/runs.py": "test_files",
    "iwbc/recorder.py": "test_recorder",
}
# Tests that take more seconds are left out, and so are, for one change, the slowest beyond so many seconds in all.
SLOWEST, IN_ALL = 5.0, 30.0

# What an operator is replaced by; of each number, one more and one less.
_REPLACED = {
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul", "BitOr_BitAnd", "BitAnd_BitOr"),
    *("RShift_LShift", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt", "Eq_NotEq", "NotEq_Eq"),
    *("Is_IsNot", "IsNot_Is", "In_NotIn", "NotIn_In", "USub_UAdd", "Invert_UAdd"),
}


@dataclass(frozen=True)
class Change:
    """A changed file's code, the lines of the statement that differs, and that line before and after."""

    path: str
    code: str
    lines: range
    before: str
    after: str


def changes(path: str) -> Iterator[Change]:
    """All changes of a file that make a difference to what it does: annotations are not among them."""
    source = (ROOT / path).read_text()
    meaning, statements = _meaning(source), _statements(source)
    for name in operator_names():
        operator, kind = get_operator(name), name.split("/")[-1]
        replaces = kind.startswith("Replace") and "Operator" in kind
        if operator.arguments() or kind == "RemoveDecorator" or (replaces and kind.split("_", 1)[-1] not in _REPLACED):
            continue
        places = [place for node in ast_nodes(get_ast(source)) for place in operator().mutation_positions(node)]
        for occurrence, ((first, _), _) in enumerate(places):
            try:
                code = mutate_code(source, operator(), occurrence)
            except AttributeError:  # ExceptionReplacer, of a name with a dot
                continue
            if code is None or first not in statements or _meaning(code) == meaning:
                continue  # of no effect, or in a decorator
            old, new = source.splitlines(), code.splitlines()
            row = next(i for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
            yield Change(path, code, statements[first], old[row].strip(), new[row].strip())


def _meaning(source: str) -> str:
    """The code without annotations; code that does not compile means nothing."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = None  # type: ignore[assignment]
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def _statements(source: str) -> dict[int, range]:
    """The lines of the innermost statement that each line is of; of one that has a body, those before the body."""
    found: dict[int, range] = {}
    for node in ast.walk(ast.parse(source)):  # outer ones first
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno
            for line in range(node.lineno, max(node.lineno, last or 0) + 1):
                found[line] = range(node.lineno, max(node.lineno, last or 0) + 1)
    return found


def graft(change: Change) -> None:
    """Give the functions and constants of a module that is in use the changed code: whoever has imported them sees it. Raises
    what importing the changed file would, or NotImplementedError where the change is out of reach."""
    name = change.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    module = importlib.import_module(name)
    changed = types.ModuleType(name)
    changed.__file__ = module.__file__
    exec(compile(change.code, str(module.__file__), "exec"), changed.__dict__)
    if not _graft(module, changed, name):
        raise NotImplementedError(f"{change.path}: {change.before} → {change.after}")


def _graft(old: Any, new: Any, module: str) -> bool:
    """Of a module or a class; whether that makes a difference."""
    different = False
    for name, value in vars(new).items():
        mine = vars(old).get(name)
        if isinstance(value, bool | int | float) and value != mine:
            setattr(old, name, value)
            different = True
        elif isinstance(value, type) and value.__module__ == module:
            different |= _graft(mine, value, module)
        elif its := _function(value, module):
            own = _function(mine, module)
            parts = "__code__", "__defaults__", "__kwdefaults__"
            different |= any(getattr(own, part) != getattr(its, part) for part in parts)
            for part in parts:
                setattr(own, part, getattr(its, part))
    return different


def _function(value: Any, module: str) -> Any:
    """The function of this module within a property or the like, or None."""
    for inner in ("fget", "func", "__func__", "__wrapped__"):
        value = getattr(value, inner, None) or value
    return value if isinstance(value, types.FunctionType) and value.__module__ == module else None


class Mutation:
    """A plugin that runs the tests as the module's docstring says."""

    def __init__(self, paths: list[str]) -> None:
        self.paths, self._forked = paths, False
        self.results: dict[str, dict[str, str]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """In a fork the first failure is all that matters: nothing is said about it."""
        if self._forked and call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
            os._exit(1)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._measure(session)
        for path in self.paths:
            found = list(changes(path))
            tests = b"".join((ROOT / "tests" / f"{name}.py").read_bytes() for name in MODULES[path].split())
            digest = hashlib.sha256(tests).hexdigest()[:16]
            unchanged = self._fork(None, self._affordable(path, set(session.items)), session)
            assert unchanged == "survived", f"{path}: the tests fail without any change"
            for number, change in enumerate(found):
                key = f"{path} {hashlib.sha256(change.code.encode()).hexdigest()[:16]}"
                known = self.results.get(key)
                if known is None or (known["outcome"] not in KILLED and known["tests"] != digest):
                    outcome = self._try(session, change)
                    row = {"path": path, "before": change.before, "after": change.after, "outcome": outcome}
                    self.results[key] = {**row, "tests": digest}
                    RESULTS.write_text(json.dumps(self.results, indent=1))
                    print(f"{path} {number + 1}/{len(found)} {outcome}: {change.before} → {change.after}", flush=True)
            current = {f"{path} {hashlib.sha256(change.code.encode()).hexdigest()[:16]}" for change in found}
            self.results = {k: v for k, v in self.results.items() if v["path"] != path or k in current}
            RESULTS.write_text(json.dumps(self.results, indent=1))
        return True

    def _measure(self, session: pytest.Session) -> None:
        """Run every test: the seconds that it takes, and who runs each line."""
        cover = coverage.Coverage(data_file=None, config_file=False, include=[str(ROOT / path) for path in self.paths])
        self._seconds: dict[pytest.Item, float] = {}
        for item, following in itertools.zip_longest(session.items, session.items[1:], fillvalue=session):
            cover.start()
            cover.switch_context(item.nodeid)
            before = time.process_time()
            reports = _run(item, following)
            cover.stop()
            self._seconds[item] = time.process_time() - before
            assert not any(report.failed for report in reports), f"{item.nodeid} fails without any change"
        by_id = {item.nodeid: item for item in session.items}
        self._by_line: dict[tuple[str, int], set[pytest.Item]] = {}
        for path in self.paths:
            for line, contexts in cover.get_data().contexts_by_lineno(str(ROOT / path)).items():
                self._by_line[path, line] = {
                    item for name in contexts if name in by_id for item in _sharing(by_id[name], session.items)
                }

    def _try(self, session: pytest.Session, change: Change) -> str:
        """killed, timeout, survived, uncovered (by any test) or out of reach (of a fork)."""
        covering = [self._by_line.get((change.path, line), set()) for line in change.lines]
        items = self._affordable(change.path, set().union(*covering))
        if not items and any(_is_top_level(change)):
            items = self._affordable(change.path, set(session.items))
        if not items:
            return "uncovered"
        return self._fork(change, items, session)

    def _fork(self, change: Change | None, items: list[pytest.Item], session: pytest.Session) -> str:
        """Run tests with a change; or without one, which must survive."""
        child = os.fork()
        if child == 0:
            self._child(change, items, session)
        _, status = os.waitpid(child, 0)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what a test has started
        if os.WIFSIGNALED(status):
            return "timeout"
        return {0: "survived", 1: "killed", 2: "out of reach"}[os.WEXITSTATUS(status)]

    def _affordable(self, path: str, items: set[pytest.Item]) -> list[pytest.Item]:
        """Those of a file's tests that there is time for, the quickest first, but tests that share something side by side."""
        files = {f"{name}.py" for name in MODULES[path].split()}
        mine = [item for item in items if item.path.name in files and self._seconds[item] <= SLOWEST]
        mine.sort(key=lambda item: (self._seconds[item], item.nodeid))
        total = itertools.accumulate(self._seconds[item] for item in mine)
        chosen = [item for item, seconds in zip(mine, total, strict=True) if seconds <= IN_ALL]
        return sorted(chosen, key=lambda item: item.path.name if _shares(item) else "")

    def _child(self, change: Change | None, items: list[pytest.Item], session: pytest.Session) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1), os.dup2(nowhere, 2)
            seconds = 10 + 5 * int(sum(self._seconds[item] for item in items))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            signal.alarm(60 * seconds)  # for one that waits for ever
            self._forked, os.kill = True, _kill_own
            try:
                if change is not None:
                    graft(change)
            except NotImplementedError:
                code = 2
                return
            for item, following in itertools.zip_longest(items, items[1:], fillvalue=session):
                _end_at_the_first_example(item)
                _run(item, following)
            code = 0
        finally:
            os._exit(code)


_kill = os.kill


def _kill_own(process: int, number: int) -> None:
    """A signal that a change has made of another reaches no stranger."""
    if number and os.getpgid(process) != os.getpgid(0):
        raise PermissionError
    _kill(process, number)


def _run(item: pytest.Item, following: Any) -> list[pytest.TestReport]:
    """Run one test; fixtures that the following one shares stay, and those of the whole session always do."""
    from _pytest.runner import runtestprotocol

    return runtestprotocol(item, nextitem=following, log=False)


def _end_at_the_first_example(item: pytest.Item) -> None:
    """Hypothesis would look for the simplest one."""
    handle = getattr(item.obj, "hypothesis", None)  # type: ignore[attr-defined]
    if handle is None:
        return
    test = handle.inner_test

    def inner(*arguments: Any, **named: Any) -> None:
        try:
            test(*arguments, **named)
        except HypothesisException:
            raise
        except Exception:
            os._exit(1)

    handle.inner_test = inner


def _shares(item: pytest.Item) -> bool:
    """Whether it has a fixture that is made once for all tests of its file."""
    fixtures = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
    return any(definitions[-1].scope == "module" for definitions in fixtures)


def _sharing(item: pytest.Item, items: list[pytest.Item]) -> list[pytest.Item]:
    """The test, and where it may have made what others share, those too."""
    return [other for other in items if other.path == item.path and _shares(other)] if _shares(item) else [item]


def _is_top_level(change: Change) -> Iterator[bool]:
    """Whether the statement runs when the module is imported, not when a test runs."""
    for node in ast.walk(ast.parse((ROOT / change.path).read_text())):
        if isinstance(node, ast.Module | ast.ClassDef):
            yield any(not isinstance(child, ast.ClassDef) and child.lineno == change.lines[0] for child in node.body)


def report(paths: list[str], results: dict[str, dict[str, str]]) -> int:
    """Print the table; 1 where too few are killed, or one survives without a reason, or a reason has no survivor."""
    with SURVIVORS.open(newline="") as file:
        listed = {(row["path"], row["before"], row["after"]) for row in csv.DictReader(file)}
    print("| file | changes | killed | share |\n|---|---:|---:|---:|")
    everything, survivors = [], set()
    for path in paths:
        own = [result for result in results.values() if result["path"] == path]
        left = [result for result in own if result["outcome"] not in KILLED]
        survivors |= {(path, result["before"], result["after"]) for result in left}
        everything += [result["outcome"] in KILLED for result in own]
        print(f"| {path} | {len(own)} | {len(own) - len(left)} | {100 * (1 - len(left) / max(1, len(own))):.0f} % |")
    share = sum(everything) / max(1, len(everything))
    print(f"| all | {len(everything)} | {sum(everything)} | {100 * share:.1f} % |")
    listed = {one for one in listed if one[0] in paths}
    for what, some in (("has no reason", survivors - listed), ("does not survive", listed - survivors)):
        for path, before, after in sorted(some):
            print(f"{what}: {path}: {before} → {after}", file=sys.stderr)
    return int(share < LEAST or survivors != listed)


def main() -> int:
    os.environ["OMP_NUM_THREADS"] = "1"
    paths = sys.argv[1:] or list(MODULES)
    RESULTS.parent.mkdir(exist_ok=True)
    plugin = Mutation(paths)
    files = dict.fromkeys(name for path in paths for name in MODULES[path].split())
    arguments = [str(ROOT / "tests" / f"{name}.py") for name in files]
    code = pytest.main(
        ["-x", "-s", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", "-k", CHOSEN, *arguments], [plugin]
    )
    return int(code) or report(paths, plugin.results)


if __name__ == "__main__":
    sys.exit(main())
