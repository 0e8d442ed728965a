"""Other projects' BC training, each in an interpreter of its own that waits for its turn."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch

from iwbc.errors import UserError

SCRIPTS = Path(__file__).parent / "peers"


@dataclass
class Peer:
    """A running script of peers/: what to call it in a message, its process, what it writes to stderr, its versions."""

    name: str
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    versions: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.versions = json.loads(self._answer())

    def train(self, seeds: int) -> None:
        """Wait while it trains `seeds` networks for one turn. Raises UserError where it fails."""
        assert self.process.stdin
        with suppress(BrokenPipeError):  # then there is no answer either
            self.process.stdin.write(f"{seeds}\n".encode())
        self._answer()

    def _answer(self) -> bytes:
        assert self.process.stdout
        if line := self.process.stdout.readline():
            return line
        self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().decode().strip().splitlines() or ["it ended without a word"]
        raise UserError(f"{self.name}: {said[-1]}")


@contextmanager
def peer(name: str, script: Path, python: str, steps: int) -> Iterator[Peer]:
    """`script` run by the interpreter `python`, with as many threads as this process; a turn is `steps` gradient steps.

    Raises UserError where it does not start.
    """
    command = [python, str(script), str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
            )
        except OSError as error:
            raise UserError(f"{name}={python}: cannot be run ({error.strerror})") from None
        with process:
            try:
                yield Peer(f"{name}={python}", process, errors)
            finally:
                process.kill()
