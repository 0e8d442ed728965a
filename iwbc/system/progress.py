"""A progress bar on the terminal's error stream, which disappears when the work is done."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def tracked(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield the items as they come, with a bar that counts them."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    yield from track(items, escape(description), total, console=Console(stderr=True), transient=True)
