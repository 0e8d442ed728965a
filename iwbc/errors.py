"""The one exception that users see: a single line saying what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or an impossible request. Commands print it as one line and exit with code 2."""
