"""Draw the rooms of the package, from its imports:  python -m tools.rooms

Writes docs/figures/rooms.svg: an arrow leads from a room to one that it imports, but where a longer way shows that already.
tests/test_structure.py says which rooms there are, in which order.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Mapping
from pathlib import Path

from iwbc import cli

PACKAGE = Path(__file__).parents[1] / "iwbc"
PICTURE = PACKAGE.parent / "docs" / "figures" / "rooms.svg"
# The commands that are files of the package's root; the others lie in rooms.
COMMANDS = {module.removeprefix("iwbc.") for module, _ in cli.COMMANDS.values() if module.count(".") == 1} | {"__main__"}
WIDTH, HEIGHT, ACROSS, DOWN = 110, 30, 130, 64  # of a box, and from one to the next, in pixels


def modules() -> dict[str, Path]:
    """Find every module of the package, by its full name."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(path: Path, known: Mapping[str, Path]) -> set[str]:
    """Collect the modules of the package that a file imports, at its top or within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {full if (full := f"{node.module}.{name.name}") in known else node.module for name in node.names}
        elif isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
    return names & known.keys()


def module_graph() -> dict[str, set[str]]:
    """Collect the modules that each module imports, but for the package itself, which all of them could."""
    known = modules()
    return {name: imports(path, known) - {name, "iwbc"} for name, path in known.items() if name != "iwbc"}


def room(module: str) -> str:
    """Name the folder or the file of the package's root in which a module lies; the commands are one."""
    name = module.split(".")[1]
    return "commands" if name in COMMANDS else name


def room_graph(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Collect the rooms that each room imports."""
    rooms: dict[str, set[str]] = {}
    for module, others in graph.items():
        rooms.setdefault(room(module), set()).update(room(other) for other in others)
    return {name: others - {name} for name, others in rooms.items()}


def drawn(rooms: Mapping[str, set[str]]) -> str:
    """Draw the picture as SVG: each room one floor above the highest that it imports."""
    floors: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(rooms).static_order():
        floors[name] = 1 + max((floors[other] for other in rooms[name]), default=-1)
    below = {name: set(others) for name, others in rooms.items()}
    for name in sorted(floors, key=lambda name: floors[name]):
        for other in rooms[name]:
            below[name] |= below[other]
    top, across = max(floors.values()), max(list(floors.values()).count(floor) for floor in set(floors.values()))
    places = {}
    for floor in range(top + 1):
        names = sorted(name for name in floors if floors[name] == floor)
        left = (across - len(names)) * ACROSS / 2 + 10
        places.update({name: (left + ACROSS * i, 10 + DOWN * (top - floor)) for i, name in enumerate(names)})
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across * ACROSS}" height="{DOWN * (top + 1)}" '
        'font-family="sans-serif" font-size="13">',
        '<defs><marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#888"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for name, others in sorted(rooms.items()):
        for other in sorted(others):
            if not any(other in below[third] for third in others):
                (x, y), (to_x, to_y) = places[name], places[other]
                lines.append(
                    f'<path d="M{x + WIDTH / 2:g} {y + HEIGHT:g} {to_x + WIDTH / 2:g} {to_y:g}" stroke="#888" '
                    'fill="none" marker-end="url(#end)"/>'
                )
    for name, (x, y) in sorted(places.items()):
        lines.append(f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="#eef3fa" stroke="#456"/>')
        lines.append(f'<text x="{x + WIDTH / 2:g}" y="{y + 20:g}" text-anchor="middle">{name}</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawn(room_graph(module_graph())))
