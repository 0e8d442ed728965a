"""The exceptions and warnings that commands turn into one line for their user."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence


class UserError(Exception):
    """Bad input or an impossible request. Commands print it as one line and exit with code 2."""

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(message.splitlines()))  # names from files may hold line breaks


class DataWarning(UserWarning):
    """Data that can be trained on, but that its owner should look at. Commands print it as one line and go on."""


def warn(message: str) -> None:
    """Give a DataWarning."""
    warnings.warn(" ".join(message.splitlines()), DataWarning, stacklevel=2)


def print_without_fail() -> None:
    """Let ? stand for characters that the encoding of stdout and stderr lacks, as where a log is in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Print every DataWarning as one line on stderr, without the line of code that gave it; each text once."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        usual, said = warnings.showwarning, set()

        def show(message: Warning | str, category: type[Warning], *place: object) -> None:
            if not issubclass(category, DataWarning):
                usual(message, category, *place)  # type: ignore[arg-type]
            elif str(message) not in said:
                said.add(str(message))
                print(f"warning: {message}", file=sys.stderr)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def listed(names: Sequence[str], most: int = 12) -> str:
    """Join names by commas, with a count of those beyond `most`."""
    return ", ".join([*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])])


def extra(name: str) -> str:
    """Say how to install an optional part of iwbc, to end a message."""
    return f"it needs the extra {name}: pip install -c constraints.txt -e '.[{name}]', in a clone of iwbc"


class Interrupted(KeyboardInterrupt):
    """Stop of a run that was asked for (Ctrl-C or SIGTERM), after the run has written a checkpoint."""
