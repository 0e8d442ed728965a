"""Command lines without Hydra: `key=value` arguments, errors in one line, and exit codes.

A command's options are the fields of its module's Options, with types, defaults and rules like those of a run's settings. What
stands alone among its arguments, such as a folder, is the first field's, where that is a path or a list of what stands alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from iwbc.errors import UserError, print_without_fail, warnings_in_one_line
from iwbc.settings import Settings, setting

_Options = TypeVar("_Options", bound=Settings)

_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: ({"true": True, "false": False}.__getitem__, "must be one of true, false"),
    int: (int, "must be a whole number"),
    float: (float, "must be a number"),
    # A shell leaves the ~ of out=~/x as it is.
    Path: (lambda text: Path(os.path.expanduser(text)), ""),
}


def at_least(minimum: int, default: int | None) -> Any:
    """Make a field for a whole number of at least `minimum` (or none, where that is the default)."""
    return setting(default, lambda value: value is None or value >= minimum, f"must be at least {minimum}")


def option_names(kind: type[Settings]) -> list[str]:
    """List the fields that are written key=value: all but a list of arguments that stand alone."""
    hints = get_type_hints(kind)
    names = [option.name for option in fields(kind) if option.init]
    return names[get_origin(hints[names[0]]) is list :]


def is_setting(argument: str, kind: type[Settings]) -> bool:
    """Tell a setting of the configuration, group.name=value, from an option of a command, a flag, and a file's name."""
    is_option = argument.startswith("-") or argument.partition("=")[0] in option_names(kind)
    return "=" in argument and not is_option and not Path(argument).expanduser().exists()


def parse(arguments: Sequence[str], kind: type[_Options]) -> _Options:
    """Read the value of every option. Raises UserError for an argument that is unknown, unreadable, repeated or missing."""
    hints, names = get_type_hints(kind), option_names(kind)
    first = fields(kind)[0].name
    values: dict[str, Any] = {} if first in names else {first: []}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key not in names:
            if key.startswith("-") and key.lstrip("-") in names:
                raise UserError(f"{argument}: write it as {key.lstrip('-')}=…")
            takes = first not in names or hints[first] is Path
            if argument.startswith("-") or not takes or (equals and not Path(argument).expanduser().exists()):
                missing = "no such file, and " if takes and "/" in argument else ""
                raise UserError(
                    f"{argument}: {missing}not an option; the options are {', '.join(f'{option}=…' for option in names)}"
                )
            key, text = first, argument
        if key not in names:
            element = get_args(hints[key])[0]
            values[key].append(_READERS.get(element, (element, ""))[0](text))
        elif key in values:
            raise UserError(f"{argument}: {key} is given twice")
        else:
            values[key] = _read(key, text, hints[key])
    for option in fields(kind):
        if option.name not in values and option.default is option.default_factory is MISSING:
            raise UserError(f"{option.name}=… is missing (see --help)")
    options = kind(**values)
    options.check()
    return options


def _read(key: str, text: str, hint: Any) -> Any:
    """Read a value by its field's type, which may be a list, with commas, and may be none where it is not given."""
    if get_origin(hint) is UnionType:
        hint, _ = get_args(hint)
    several = get_origin(hint) is list
    kind = get_args(hint)[0] if several else hint
    read, says = _READERS.get(kind, (kind, ""))
    try:
        return [read(part) for part in text.strip("[]").split(",")] if several else read(text)
    except (KeyError, ValueError):
        raise UserError(f"{key}={text}: {says}") from None


def run(main: Callable[[Sequence[str]], None], usage: str | None, kept: str = "nothing was written") -> NoReturn:
    """Run `main` on the command line's arguments: exit code 0, 2 with one line for a UserError or a file that cannot be used,
    130 for Ctrl-C, after which `kept` tells what is left, unless `main` raised Interrupted with a text that does."""
    print_without_fail()
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
    except KeyboardInterrupt as stop:
        print(f"interrupted: {str(stop) or kept}", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
