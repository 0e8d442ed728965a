"""One process at a time, with nothing left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from iwbc.errors import UserError


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; other processes wait. Raises UserError where it cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written to ({error.strerror or error})") from None
    try:
        yield
    finally:
        # Unlinked while held: a process that waits sees that the inode is gone and starts over with a new file.
        path.unlink(missing_ok=True)
        lock.release()
