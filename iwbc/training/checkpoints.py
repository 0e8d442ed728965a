"""Checkpoints of a training that is no run: the reference policies', and that of others that a cache keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from iwbc.errors import UserError
from iwbc.system.files import MALFORMED
from iwbc.training.states import State, read_states, write_states
from iwbc.training.trainer import Trainer


class Checkpoints:
    """Observer that writes checkpoints of a training, of which `title` is the name in messages."""

    measures = False

    def __init__(
        self,
        title: str,
        begin: Callable[[], Path],
        inputs: str,
        steps: int,
        every: int,
        console: Console,
        drops: bool = False,
    ) -> None:
        """Take `begin`, which says, as training begins, where the checkpoint is, and `inputs`, of which it must be made.

        drops: seeds that a checkpoint lacks have diverged before it, and are dropped again.
        """
        self.every: Sequence[int] = (every,)
        self.stop = threading.Event()
        self._title, self._begin, self._inputs, self._steps, self._console = title, begin, inputs, steps, console
        self._drops = drops

    def start(self, trainer: Trainer, policies: object = None) -> int:
        """Load the checkpoint, if there is one and it is whole."""
        self._path = self._begin()
        if not self._path.exists():
            return 0
        try:
            state, metadata = read_states(self._path)
            done = int(metadata["step"])
            now = trainer.state()
            lost = [seed for seed in now if seed not in state] if self._drops else []
            if metadata["inputs"] != self._inputs or _shapes(state) != _shapes({s: now[s] for s in now if s not in lost}):
                raise ValueError
        except MALFORMED:
            self._console.print(f"The checkpoint of the {self._title} is damaged or of other data or code; it begins anew.")
            self._path.unlink()
            return 0
        for seed in lost:
            trainer.drop(seed)
        trainer.load(state)
        self._console.print(f"Continuing the {self._title} after step {done:,}")
        return done

    def diverged(self, seed: int, step: int, why: str, trainer: Trainer) -> None:
        raise UserError(f"{self._title.capitalize()}, seed {seed}, step {step}: {why}")

    def after(self, step: int, loss: dict[int, Tensor], trainer: Trainer) -> None:
        """Write a checkpoint where it is time to, at the end, and where the process is to stop."""
        if step % self.every[0] == 0 or step == self._steps or self.stop.is_set():
            write_states(self._path, trainer.state(), {"step": str(step), "inputs": self._inputs})
        if self.stop.is_set():
            raise KeyboardInterrupt


def _shapes(states: dict[int, State]) -> dict[int, dict[str, torch.Size]]:
    return {seed: {name: tensor.shape for name, tensor in state.items()} for seed, state in states.items()}
