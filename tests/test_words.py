"""The rules for words that a program can check (CONTRIBUTING.md): the first word of docstrings, and names that say nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "iwbc"
RIDDLES = {"What", "Whatever", "Whether", "Where", "Why", "How", "Within"}
NOTHING = {"found", "one", "own", "given", "those"}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Yield every node of the package's files, with the file's name."""
    for path in PACKAGE.rglob("*.py"):
        yield from ((path.name, node) for node in ast.walk(ast.parse(path.read_text())))


def test_docstrings_do_not_begin_with_a_riddle() -> None:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    first = [(file, (ast.get_docstring(node) or "-").split()[0]) for file, node in nodes() if isinstance(node, documented)]
    assert len(first) > 300
    assert [(file, word) for file, word in first if word in RIDDLES] == []


def test_names_name_the_thing() -> None:
    names = [(file, node.arg) for file, node in nodes() if isinstance(node, ast.arg)]
    names += [(file, node.id) for file, node in nodes() if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    assert [(file, name) for file, name in names if name in NOTHING] == []
