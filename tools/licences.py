"""Write docs/licences.md: the licences of everything that an installation brings, from the packages' own metadata.

python -m tools.licences        where iwbc[all] is installed
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).resolve().parents[1] / "docs" / "licences.md"
BEGIN, END = "<!-- by tools/licences.py -->\n", "<!-- to here -->\n"


def needed(name: str, extras: frozenset[str], seen: dict[str, set[str]]) -> dict[str, set[str]]:
    """The packages that a package needs on this platform, directly or not, with their extras: added to `seen`."""
    new = {"", *extras} - seen.get(name, set())
    seen.setdefault(name, set()).update(new)
    for text in distribution(name).requires or () if new else ():
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in new):
            needed(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)
    return seen


def licence(package: Distribution) -> str:
    """What its metadata says: a licence expression, else the classifiers, else the first line of its licence field."""
    metadata = package.metadata
    classified = [c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier", []) if c.startswith("License :: ")]
    text = (
        metadata.get("License-Expression")
        or "; ".join(classified)
        or (metadata.get("License") or "").strip().partition("\n")[0]
    )
    return text.replace("|", "/") or "not stated"


def table() -> str:
    default, everything = (needed("iwbc", frozenset(extras), {}) for extras in ((), ("all",)))
    rows = ["| package | version | licence | |", "|---|---|---|---|"]
    for name in sorted(everything.keys() - {"iwbc"}):
        package = distribution(name)
        version = re.sub(r"\+.*", "", package.version)
        rows.append(f"| {package.metadata['Name']} | {version} | {licence(package)} | {'' if name in default else '`[all]`'} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    try:
        new = table()
    except PackageNotFoundError as error:
        raise SystemExit(f"{error.name} is not installed; install iwbc[all] first") from None
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + new + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
