"""Seeds that train side by side: as one batch on an accelerator, and on a processor in a process for each, one thread each.

Seeds share nothing but the data, so that processes need not wait for each other as threads inside an operation do, and no
core needs what another has just written.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from multiprocessing.util import Finalize
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from iwbc.config import Recipe
from iwbc.data.sampling import StepSampler
from iwbc.diagnostics import Diagnostics
from iwbc.errors import UserError
from iwbc.training import Algorithm

# Gradient steps between two looks at the progress bar and at requests to stop.
_AT_MOST = 100
_PR_SET_PDEATHSIG = 1  # of sys/prctl.h


class Learner:
    """Seeds in training in this process: an algorithm, the minibatches that it sees, and what is watched meanwhile."""

    def __init__(
        self, algorithm: Algorithm, sampler: StepSampler, recipe: Recipe, diagnostics: Diagnostics | None = None
    ) -> None:
        self.algorithm, self.sampler, self.recipe, self.diagnostics = algorithm, sampler, recipe, diagnostics

    @torch.inference_mode()  # nothing is left to autograd; without its bookkeeping a step takes 4 % less
    def train(self, first: int, last: int) -> Tensor:
        """Make gradient steps `first` … `last` − 1; the last one's loss of each seed, [S]."""
        for step in range(first, last):
            loss = self.algorithm.update(self.sampler.batch(step), self.recipe.learning_rate(step))
        return loss

    @torch.inference_mode()
    def measure(self) -> dict[str, Tensor]:
        """Diagnostics, and what the algorithm itself has to tell, [S] each."""
        watched = self.diagnostics.measure(self.algorithm.policy, self.algorithm.kappa) if self.diagnostics else {}
        return {**watched, **self.algorithm.metrics()}

    def parameters(self) -> Tensor:
        """The policies' parameters, [S, P]."""
        return self.algorithm.policy.parameters.flat

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return self.algorithm.state()

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        self.algorithm.load(state)


class Part(Protocol):
    """Some seeds of a trainer."""

    seeds: int

    def begin(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Begin a call of a method of Learner; what is returned waits for its result."""

    def close(self) -> None:
        """End it."""


class Trainer:
    """All seeds of a run in training; offers what a Learner offers, seeds in order."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        pending = [part.begin(method, *arguments) for part in self._parts]
        return [result() for result in pending]

    def train(self, first: int, last: int) -> Tensor:
        """Make gradient steps `first` … `last` − 1; the last one's loss of each seed, [S]."""
        return torch.cat(self._all("train", first, last))

    def measure(self) -> dict[str, Tensor]:
        """Diagnostics, and what the algorithm itself has to tell, [S] each."""
        found = self._all("measure")
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}

    def parameters(self) -> Tensor:
        """The policies' parameters, [S, P]."""
        return torch.cat(self._all("parameters"))

    def state(self) -> dict[str, Tensor]:
        """A copy of every tensor that training changes: rows are seeds, scalars the same for all."""
        found = self._all("state")
        return {
            name: torch.cat([one[name] for one in found]) if value.dim() else value.clone() for name, value in found[0].items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        pending, row = [], 0
        for part in self._parts:
            rows = slice(row, row := row + part.seeds)
            own = {name: value[rows] if value.dim() else value for name, value in state.items()}
            pending.append(part.begin("load", own))
        for result in pending:
            result()

    def close(self) -> None:
        """End the processes."""
        for part in self._parts:
            part.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def trainer(learner: Callable[[Sequence[int]], Learner], seeds: Sequence[int], device: str | torch.device) -> Trainer:
    """Train `seeds` as suits the device; `learner` makes the learner of some of them."""
    if torch.device(device).type != "cpu":
        return Trainer([_Here(learner(seeds))])
    threads = torch.get_num_threads()
    if len(seeds) == 1 or threads == 1 or sys.platform != "linux":
        return _in_turn(learner, seeds)
    # The system shares out the cores best among a process for each seed; where not all cores are ours, no more may run.
    processes = len(seeds) if threads >= len(os.sched_getaffinity(0)) else min(len(seeds), threads)
    forked = [_Forked(learner, share.tolist()) for share in np.array_split(seeds, processes)]
    for one in forked:
        one.wait()
    return Trainer(forked)


def _in_turn(learner: Callable[[Sequence[int]], Learner], seeds: Sequence[int]) -> Trainer:
    return Trainer([_Here(learner([seed])) for seed in seeds])


class _Here:
    """A learner in this process."""

    def __init__(self, learner: Learner) -> None:
        self.seeds, self._learner = len(learner.parameters()), learner

    def begin(self, method: str, *arguments: Any) -> Callable[[], Any]:
        result = getattr(self._learner, method)(*arguments)
        return lambda: result

    def close(self) -> None:
        pass


class _Forked:
    """A process that trains some seeds in turn, and shares the data's memory with this one."""

    def __init__(self, learner: Callable[[Sequence[int]], Learner], seeds: Sequence[int]) -> None:
        self.seeds = len(seeds)
        context = multiprocessing.get_context("fork")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, learner, seeds, os.getpid()), daemon=True)
        self._process.start()
        there.close()
        # Also where nobody closes it: Python waits at its exit for processes that it has only asked to stop.
        self.close = Finalize(self, _end, (self._process, self._connection), exitpriority=0)

    def begin(self, method: str, *arguments: Any) -> Callable[[], Any]:
        with contextlib.suppress(BrokenPipeError):  # as receiving will tell
            self._connection.send((method, [_exported(argument) for argument in arguments]))
        return self.wait

    def wait(self) -> Any:
        """The result of what was begun last, or of making the learners. Raises what it raised there."""
        try:
            failed, result = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise UserError(
                "a training process was killed, perhaps for want of memory; `threads=1` trains all seeds in one process"
            ) from None
        if failed:
            raise result
        return _imported(result)


def _end(process: ForkProcess, connection: Connection) -> None:
    process.kill()
    process.join()
    connection.close()


def _serve(connection: Connection, learner: Callable[[Sequence[int]], Learner], seeds: Sequence[int], parent: int) -> None:
    """A process: answers requests until it is killed, at the latest when the process that began it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # Requests to stop, a launcher's among them, reach every process of a group; the one that began this one decides.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)  # more would wait for threads that a fork leaves behind
    try:
        own = _in_turn(learner, seeds)
        connection.send((False, None))
        while True:
            method, arguments = connection.recv()
            connection.send((False, _exported(getattr(own, method)(*map(_imported, arguments)))))
    except Exception as error:
        connection.send((True, error))


def _exported(value: Any) -> Any:
    """Tensors as arrays, which are sent by value; PyTorch sends tensors as files of shared memory."""
    if isinstance(value, dict):
        return {name: _exported(one) for name, one in value.items()}
    return value.numpy() if isinstance(value, Tensor) else value


def _imported(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _imported(one) for name, one in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def fit(
    trainer: Trainer, recipe: Recipe, title: str, console: Console, every: Sequence[int] = (), done: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Train from step `done` to the recipe's end, with a progress bar. Pauses, and yields the number of steps made and the
    loss of each seed, at multiples of the positive numbers among `every`, at the end, and often besides."""
    with Progress(console=console) as progress:
        bar = progress.add_task(title, total=recipe.steps, completed=done)
        while done < recipe.steps:
            first, done = done, min(recipe.steps, *(done - done % n + n for n in [_AT_MOST, *every] if n > 0))
            loss = trainer.train(first, done)
            progress.update(bar, completed=done)
            yield done, loss
