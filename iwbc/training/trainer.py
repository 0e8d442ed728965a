"""The training loop, and seeds side by side: on a processor in a process for each, with one thread each.

Seeds share nothing but the data, so that processes need not wait for each other as threads inside an operation do, and no
core needs what another has just written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from iwbc.algorithms.algorithm import Algorithm
from iwbc.data.sampling import Minibatch, StepSampler
from iwbc.engine.autograd import module_state
from iwbc.settings import Recipe
from iwbc.system import processes
from iwbc.system.processes import Handle, Here, Remote
from iwbc.training.diagnostics import Diagnostics
from iwbc.training.states import State

# Gradient steps between two looks at the progress bar, at requests to stop, and for signs of divergence.
_CHUNK = 100
# By how much the largest parameter may grow.
_EXPLODED = 1e3
# One message for all symptoms: which of them shows first depends on the processor.
_DIVERGED = (
    "the loss or the policy's parameters are NaN or infinite, or the parameters have grown a thousandfold; "
    "try a smaller learning rate (lr)"
)


class Learner:
    """One seed in training: an algorithm, the minibatches that it sees, and what is watched meanwhile."""

    def __init__(
        self, algorithm: Algorithm, sampler: StepSampler, recipe: Recipe, diagnostics: Diagnostics | None = None
    ) -> None:
        self.algorithm, self.sampler, self.recipe, self.diagnostics = algorithm, sampler, recipe, diagnostics
        self._limit = _EXPLODED * max(1.0, float(self._largest_parameter()))

    def train(self, first: int, last: int) -> Tensor:
        """Make gradient steps `first` … `last` − 1 and return the last loss, a scalar."""
        # Where gradients are written out nothing is left to autograd; without its bookkeeping a step takes 4 % less.
        with torch.enable_grad() if self.algorithm.by_autograd else torch.inference_mode():
            try:
                for step in range(first, last):
                    loss = self.algorithm.update(self.sampler.batch(step), step, self.recipe.learning_rate(step))
            except ValueError:  # of torch.distributions, which refuse parameters that are NaN
                largest = self._largest_parameter()
                if largest <= self._limit:
                    raise
                loss = torch.full_like(largest, math.nan)
        self._loss = loss.detach()
        return self._loss

    def _largest_parameter(self) -> Tensor:
        return torch.stack([p.detach().abs().amax() for p in self.algorithm.policy.parameters() if p.numel()]).amax()

    @torch.no_grad()
    def trouble(self) -> str | None:
        """Say why training has diverged, and what to do; None where it has not."""
        loss, largest = torch.stack([self._loss.float(), self._largest_parameter().float()]).tolist()
        if not (math.isfinite(loss) and largest <= self._limit):
            return _DIVERGED
        if self.recipe.ess_floor > 0.0:
            share = float(self.algorithm.metrics().get("ess_share", 1.0))
            if not share >= self.recipe.ess_floor:
                size = "NaN" if math.isnan(share) else f"{share:.3g}"
                return (
                    f"the weights' effective sample size is {size} of the curated set's, not "
                    f"algo.ess_floor={self.recipe.ess_floor:g} or more; try weights that say less (a smaller kappa or lr, a "
                    "larger temperature)"
                )
        return None

    @torch.no_grad()
    def measure(self) -> dict[str, Tensor]:
        """Return diagnostics, and the algorithm's metrics, scalars."""
        watched = self.diagnostics.measure(self.algorithm.policy) if self.diagnostics else {}
        return {**watched, **self.algorithm.metrics()}

    @torch.no_grad()
    def trajectory_weights(self) -> Tensor:
        """Average the weights of each kept trajectory's steps, [K]; 1 where the algorithm weighs none."""
        curated, device = self.sampler.curated, self.sampler.device
        weigh = getattr(self.algorithm, "weigh", None)
        if weigh is None:
            return torch.ones(len(curated.kept))
        lengths = torch.from_numpy(curated.lengths)
        trajectory, step = torch.arange(len(lengths)).repeat_interleave(lengths), torch.arange(curated.steps)
        weights = [
            weigh(Minibatch(observations, actions, trajectory[some].to(device), step[some].to(device))).double().cpu()
            for some, observations, actions in curated.batches(device, window=self.sampler.window)
        ]
        return torch.zeros(len(lengths), dtype=torch.float64).index_add_(0, trajectory, torch.cat(weights)) / lengths

    def parameters(self) -> State:
        """Return the policy's parameters and buffers by name."""
        return module_state(self.algorithm.policy)

    def state(self) -> State:
        """Return every tensor that training changes."""
        return self.algorithm.state()

    def load(self, state: State) -> None:
        """Continue from a `state()`."""
        self.algorithm.load(state)


class Learners:
    """Some seeds of a process, in turn: a Learner's methods, for all of them."""

    def __init__(self, make: Callable[[int], Learner], seeds: Sequence[int]) -> None:
        self._learners = {seed: make(seed) for seed in seeds}

    def all(self, method: str, *arguments: object) -> dict[int, Any]:
        """Call a method of every learner, with the same arguments; the results by seed."""
        return {seed: getattr(learner, method)(*arguments) for seed, learner in self._learners.items()}

    def load(self, states: dict[int, State]) -> None:
        for seed, learner in self._learners.items():
            learner.load(states[seed])

    def drop(self, seed: int) -> None:
        self._learners.pop(seed, None)


class Trainer:
    """All seeds of a run in training. Results are by seed, in order."""

    def __init__(self, make: Callable[[int], Learner], seeds: Sequence[int], device: str | torch.device = "cpu") -> None:
        """Begin the processes. `make` makes the learner of a seed, in the process that trains it, and may raise errors."""
        self.seeds = tuple(seeds)
        workers = processes.training_workers(len(seeds)) if torch.device(device).type == "cpu" else 0
        self._handles: list[Handle]
        if workers:
            shares = [share.tolist() for share in np.array_split(seeds, workers)]
            forked = [Remote(Learners, make, share, context="fork") for share in shares]
            self._handles = list(forked)
            try:
                for handle in forked:
                    handle.wait_for_start()
            except BaseException:
                self.close()
                raise
        else:
            self._handles = [Here(Learners(make, seeds))]

    def _all(self, method: str, *arguments: object) -> dict[int, Any]:
        pending = [handle.begin("all", method, *arguments) for handle in self._handles]
        results = {seed: result for wait in pending for seed, result in wait().items()}
        return {seed: results[seed] for seed in self.seeds}

    def train(self, first: int, last: int) -> dict[int, Tensor]:
        """Make gradient steps `first` … `last` − 1 and return the last loss of each seed."""
        return self._all("train", first, last)

    def troubles(self) -> dict[int, str]:
        """Map each diverged seed to the reason."""
        return {seed: why for seed, why in self._all("trouble").items() if why is not None}

    def drop(self, seed: int) -> None:
        """Train a seed no further."""
        self.seeds = tuple(other for other in self.seeds if other != seed)
        for wait in [handle.begin("drop", seed) for handle in self._handles]:
            wait()

    def measure(self) -> dict[int, dict[str, Tensor]]:
        """Return diagnostics of each seed, and its algorithm's metrics, scalars."""
        return self._all("measure")

    def trajectory_weights(self) -> dict[int, Tensor]:
        """Average the weights of each kept trajectory's steps, [K], for each seed."""
        return self._all("trajectory_weights")

    def parameters(self) -> dict[int, State]:
        """Return the parameters of each seed's policy, as `Policies.load` takes them."""
        return self._all("parameters")

    def state(self) -> dict[int, State]:
        """Return every tensor that training changes, of each seed."""
        return self._all("state")

    def load(self, states: dict[int, State]) -> None:
        """Continue from a `state()`."""
        for wait in [handle.begin("load", states) for handle in self._handles]:
            wait()

    def close(self) -> None:
        """End the processes."""
        for handle in self._handles:
            handle.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def steps(
    trainer: Trainer, recipe: Recipe, title: str, console: Console, every: Sequence[int] = (), done: int = 0
) -> Iterator[tuple[int, dict[int, Tensor]]]:
    """Train from step `done` to the recipe's end, with a progress bar. Pauses, and yields the number of steps made and the
    loss of each seed, at multiples of the positive numbers among `every`, at the end, and often besides."""
    with Progress(console=console) as progress:
        bar = progress.add_task(title, total=recipe.steps, completed=done)
        while done < recipe.steps:
            first, done = done, min(recipe.steps, *(done - done % n + n for n in [_CHUNK, *every] if n > 0))
            loss = trainer.train(first, done)
            progress.update(bar, completed=done)
            yield done, loss
