"""CSV files with a number for each trajectory of a dataset, such as a weight or a score.

The first line names the columns: trajectory (or episode), counted from 0 (2.0 is 2), and the column that is read; other
columns give a warning. Every trajectory of the dataset has one row, in any order.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from iwbc.errors import UserError, warn

_INDEX = ("trajectory", "episode")
# Python's int and float would also take digits of other scripts, and 1_0 for 10.
_WHOLE, _NUMBER = re.compile(r"[0-9]{1,18}"), re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def sha256_of(path: Path) -> str:
    """Hash a file's content. Raises UserError where it cannot be read."""
    return hashlib.sha256(_content(path)).hexdigest()


def read_column(
    path: Path, column: str, count: int, sha256: str | None = None, *, signed: bool = False, hint: str = ""
) -> npt.NDArray[np.float64]:
    """Read a column of finite numbers, one for each of `count` trajectories, [count]: any where `signed`, else weights, none
    negative and not all 0.

    hint: ends the message about a negative number. Raises UserError, naming file, line and column, where the file
    holds anything else, or its hash is not `sha256`.
    """
    content = _content(path)
    if sha256 not in (None, digest := hashlib.sha256(content).hexdigest()):
        raise UserError(f"{path}: has changed since the run began (its SHA-256 was {sha256}, and is {digest}); put the file of "
                        "then back, or train again in another folder")  # fmt: skip

    def fail(line: int, problem: str, name: str = "") -> NoReturn:
        raise UserError(f"{path}, line {line}{name and f', {name}'}: {problem}")

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(content.count(b"\n", 0, error.start) + 1, "is not text in UTF-8; save the file as UTF-8")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    values, lines = np.full(count, np.nan), np.zeros(count, np.int64)
    header: list[str] | None = None
    try:
        for row in rows:
            line, cells = rows.line_num, [cell.strip() for cell in row]
            if not any(cells):
                continue
            if header is None:
                header = cells
                where, what = _columns(path, line, header, column)
                continue
            if len(cells) != len(header):
                fail(line, f"has {len(cells)} values for {len(header)} columns")
            if (index := _whole(cells[where])) is None:
                fail(line, f"{cells[where]!r} is not the number of a trajectory, counted from 0", header[where])
            if index >= count:
                fail(line, f"there is no trajectory {index}: the dataset has {count}, 0 to {count - 1}", header[where])
            if lines[index]:
                fail(line, f"trajectory {index} has a row already, line {lines[index]}", header[where])
            value = float(cells[what]) if _NUMBER.fullmatch(cells[what]) else np.nan
            if not np.isfinite(value) or (value < 0.0 and not signed):
                allowed = "finite" if signed else f"finite and not negative{hint}"
                fail(line, f"{cells[what]!r} of trajectory {index} must be a number, {allowed}", column)
            values[index], lines[index] = value, line
    except csv.Error as error:
        fail(max(1, rows.line_num), f"is not CSV ({error})")
    if header is None:
        raise UserError(f"{path}: is empty; its first line names the columns trajectory and {column}")
    if len(missing := np.flatnonzero(lines == 0)):
        raise UserError(
            f"{path}: has no row for {len(missing)} of the dataset's {count} trajectories, such as {missing[0]}; give each its "
            f"{column}{'' if signed else ' (0 drops it)'}"
        )
    if not signed and not values.any():
        raise UserError(f"{path}, {column}: all {count} are 0, which keeps no trajectory")
    return values


def _whole(text: str) -> int | None:
    """Read a whole number that is not negative, also as NumPy and pandas write those of a column of floats; None for others."""
    if _WHOLE.fullmatch(text):
        return int(text)
    value = float(text) if _NUMBER.fullmatch(text) else np.nan
    return int(value) if 0 <= value < 1e15 and value.is_integer() and not text.startswith("-") else None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _columns(path: Path, line: int, header: list[str], column: str) -> tuple[int, int]:
    """Find the columns of the trajectories' numbers and of their values."""
    indices = [i for i, name in enumerate(header) if name in _INDEX]
    values = [i for i, name in enumerate(header) if name == column]
    if len(indices) != 1 or len(values) != 1:
        raise UserError(
            f"{path}, line {line}: must name one column {' or '.join(_INDEX)} and one column {column}, with commas between; it "
            f"names {', '.join(header)}"
        )
    if others := [name or "one without a name" for i, name in enumerate(header) if i not in (*indices, *values)]:
        warn(f"{path}: columns that are not used: {', '.join(others)}")
    return indices[0], values[0]
