"""What the commands without Hydra share: `key=value` arguments, errors in one line, and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from iwbc.errors import UserError, warnings_in_one_line

_REQUIRED: Any = object()


@dataclass(frozen=True)
class Option:
    """How the text after `key=` is read; without a default it must be given."""

    read: Callable[[str], Any] = str
    default: Any = _REQUIRED


def parse(arguments: Sequence[str], options: Mapping[str, Option]) -> dict[str, Any]:
    """The value of every option. Raises UserError for an argument that is unknown, unreadable, repeated or missing."""
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if key.startswith("-") and key.lstrip("-") in options:
            raise UserError(f"{argument}: write it as {key.lstrip('-')}=…")
        if not equals or key not in options:
            raise UserError(f"{argument}: not an option; the options are {', '.join(f'{name}=…' for name in options)}")
        if key in values:
            raise UserError(f"{argument}: {key} is given twice")
        try:
            values[key] = options[key].read(text)
        except ValueError as error:
            raise UserError(f"{argument}: {error}") from None
    for key, option in options.items():
        if values.setdefault(key, option.default) is _REQUIRED:
            raise UserError(f"{key}=… is missing (see --help)")
    return values


@dataclass(frozen=True)
class OneOf:
    """Reads one of `choices`, which the shell's completion offers."""

    choices: tuple[str, ...]

    def __call__(self, text: str) -> str:
        if text not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}")
        return text


def one_of(*choices: str) -> OneOf:
    """Reads one of `choices`."""
    return OneOf(choices)


def whole(minimum: int) -> Callable[[str], int]:
    """Reads a whole number of at least `minimum`; underscores may group its digits."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError("must be a whole number") from None
        if number < minimum:
            raise ValueError(f"must be at least {minimum}")
        return number

    return read


def number(text: str) -> float:
    """Reads a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


def boolean(text: str) -> bool:
    """Reads true or false."""
    return one_of("true", "false")(text) == "true"


def run(main: Callable[[Sequence[str]], None], usage: str | None, kept: str = "nothing was written") -> NoReturn:
    """Run `main` on the command line's arguments: exit code 0, 2 with one line for a UserError or a file that cannot be used,
    130 for Ctrl-C, after which `kept` tells what is left."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print((usage or "").strip())
        sys.exit(0)
    try:
        with warnings_in_one_line():
            main(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{error.filename}: cannot be used ({error.strerror})", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"interrupted: {kept}", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
