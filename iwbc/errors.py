"""The exceptions that commands turn into one line for their user."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or an impossible request. Commands print it as one line and exit with code 2."""

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(message.splitlines()))  # names from files may hold line breaks


def extra(name: str) -> str:
    """What to do where an optional part of iwbc is not installed, to end a message."""
    return f"it needs the extra {name}: pip install -c constraints.txt -e '.[{name}]', in a clone of iwbc"


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop (Ctrl-C or SIGTERM) and has written its checkpoint."""
