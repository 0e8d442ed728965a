"""Imports run one way: no module of the package imports itself through others."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "iwbc"


def modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that a file imports, at its top or within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {full if (full := f"{node.module}.{name.name}") in known else node.module for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & known.keys()


def test_no_import_cycles() -> None:
    known = modules()
    assert len(known) > 50
    graph = {name: imports(path, known) - {name, "iwbc"} for name, path in known.items()}
    assert "iwbc.objectives" in graph["iwbc.algorithms.iw_bc"]
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle
