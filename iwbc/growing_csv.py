"""A CSV file that grows: rows are appended, so that a checkpoint late in a long run costs no more than an early one."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from iwbc.files import write_bytes


class GrowingCSV:
    """A CSV file whose columns are those of its first row. What was added is in the file from the next `write` on.

    `write` says how far the file then goes, for a checkpoint to hold; `cut` goes back there, whatever was appended since,
    and were it half a row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []
        self._waiting: list[Mapping[str, Any]] = []
        self._size, self._digest = 0, hashlib.sha256()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows for the next `write`."""
        self._waiting += rows

    def write(self) -> dict[str, Any]:
        """Append what was added, so that it outlasts a power cut; the file's size in bytes and its SHA-256.

        The first time, the file is written anew. Raises OSError where it cannot be written, and ValueError for a row with a
        column that the first had not.
        """
        text = io.StringIO()
        if self._waiting and not self._size:
            self._columns = list(self._waiting[0])
            csv.writer(text, lineterminator="\n").writerow(self._columns)
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(self._waiting)
        content = text.getvalue().encode()
        if not self._size:
            write_bytes(self.path, content)
        elif content:
            self._append(content)
        self._extend(content)
        self._waiting = []
        return {"size": self._size, "sha256": self._digest.hexdigest()}

    def _append(self, content: bytes) -> None:
        try:
            with self.path.open("r+b") as file:
                file.truncate(self._size)
                file.seek(self._size)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a full disk says no name
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def _extend(self, content: bytes) -> None:
        self._size += len(content)
        self._digest.update(content)

    def cut(self, written: Mapping[str, Any]) -> None:
        """Go on from what a `write` said. Raises OSError where the file cannot be read, and ValueError where it has not that
        beginning."""
        content = self.path.read_bytes()[: written["size"]]
        if hashlib.sha256(content).hexdigest() != written["sha256"]:
            raise ValueError("it does not begin as it did then")
        write_bytes(self.path, content)
        self._columns = next(csv.reader(io.StringIO(content.decode())), [])
        self._extend(content)
