"""Import of the modules that a user names, which register environments or algorithms."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from iwbc.errors import UserError


def import_named(modules: Sequence[str]) -> None:
    """Import modules that the user has named. Raises UserError where one cannot be."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"env.imports: {module} cannot be imported ({error}); is its folder in PYTHONPATH?") from None
