"""The exceptions that commands turn into one line for their user."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or an impossible request. Commands print it as one line and exit with code 2."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop (Ctrl-C or SIGTERM) and has written its checkpoint."""
