from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_trajectories, named
from rich.console import Console
from setups import PATIENCE, compose, untrained, wait_for_the_end_of
from torch import Tensor

from iwbc.algorithms import Ingredients
from iwbc.algorithms.bc import BehaviourCloning
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch, StepSampler
from iwbc.data.streams import Stream
from iwbc.errors import UserError
from iwbc.settings import IWBC, Recipe
from iwbc.training.diagnostics import Diagnostics
from iwbc.training.trainer import Learner, Trainer, steps

CONFIG = compose("policy.hidden=[8]")
CURATED = Curated(make_trajectories([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]), "trajectory")
RECIPE = Recipe(steps=10, lr=1e-3, schedule="cosine", warmup_steps=4, batch_size=5)
QUIET = Console(quiet=True)


def behaviour_cloning() -> BehaviourCloning:
    return BehaviourCloning(RECIPE, Ingredients(untrained(CONFIG, CURATED.trajectories), None, CURATED, 0))


class Recorder(BehaviourCloning):
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        super().__init__(RECIPE, Ingredients(untrained(CONFIG, CURATED.trajectories), None, CURATED, 0))
        self.steps: list[int] = []
        self.rates: list[float] = []
        self.rows: list[Tensor] = []

    def update(self, batch: Minibatch, step: int, learning_rate: float) -> Tensor:
        self.steps.append(step)
        self.rates.append(learning_rate)
        self.rows.append(batch.step)
        return super().update(batch, step, learning_rate)


def recorded(*calls: tuple[int, int]) -> Recorder:
    recorder = Recorder()
    learner = Learner(recorder, StepSampler(CURATED, 0, RECIPE.batch_size, Stream.TRAINING), RECIPE)
    for first, last in calls:
        learner.train(first, last)
    return recorder


def learner_of(seed: int) -> Learner:
    assert isinstance(CONFIG.algo, IWBC)
    reference = untrained(CONFIG, CURATED.trajectories, seed)
    algorithm = ImportanceWeightedBC(CONFIG.algo, Ingredients(copy.deepcopy(reference), reference, CURATED, seed))
    sampler = StepSampler(CURATED, seed, RECIPE.batch_size, Stream.TRAINING)
    return Learner(algorithm, sampler, RECIPE, Diagnostics(CURATED, reference, seed))


forked = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[partial[None]]:
    """Call it with the number of threads to train with, and of the machine's cores."""

    def use(threads: int, cores: int) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)

    yield partial(use)


# --- in this process -----------------------------------------------------------------------------------------------------


def test_every_step_is_made_with_its_learning_rate() -> None:
    recorder = recorded((0, 10))
    assert recorder.steps == list(range(10))
    rates = recorder.rates
    assert rates == [RECIPE.learning_rate(step) for step in range(10)]
    assert rates[0] == 0.0
    assert rates[4] == 1e-3


def test_training_continues_with_the_minibatches_that_would_have_come() -> None:
    whole, rest = recorded((0, 10)), recorded((6, 8), (8, 10))
    assert rest.rates == whole.rates[6:]
    assert all(torch.equal(first, second) for first, second in zip(rest.rows, whole.rows[6:], strict=True))


def test_training_pauses_where_it_is_asked_to_and_often_besides() -> None:
    def pauses(number: int, every: tuple[int, ...] = (), done: int = 0) -> list[int]:
        recipe = Recipe(steps=number, lr=1e-3, schedule="constant", warmup_steps=0, batch_size=1)

        def make(seed: int) -> Learner:
            return Learner(behaviour_cloning(), StepSampler(CURATED, seed, 1, Stream.TRAINING), recipe)

        with Trainer(make, [0]) as trainer:
            return [step for step, _ in steps(trainer, recipe, "", QUIET, every, done)]

    assert pauses(10, (4, 3, 0)) == [3, 4, 6, 8, 9, 10]
    assert pauses(10, (4,), 5) == [8, 10]
    assert pauses(250) == [100, 200, 250]
    assert pauses(10, (), 10) == []


def test_a_process_trains_a_seed_by_itself() -> None:
    with Trainer(learner_of, [5]) as trainer:
        (loss,) = trainer.train(0, 10).values()
        assert trainer.measure().keys() == {5}
        parameters = trainer.parameters()
    learner = learner_of(5)
    assert torch.equal(learner.train(0, 10), loss)
    assert all(torch.equal(value, parameters[5][name]) for name, value in learner.parameters().items())


# --- in several processes ------------------------------------------------------------------------------------------------


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """All that it says of itself; copies."""
    return named(trainer.parameters()) | named(trainer.measure()) | named(trainer.state())


@forked
@pytest.mark.parametrize(("count", "cores", "processes"), [(2, 2, 3), (4, 4, 3), (2, 8, 2)])
def test_seeds_learn_the_same_side_by_side_in_turn_and_alone(
    threads: partial[None], count: int, cores: int, processes: int
) -> None:
    seeds = [5, 3, 8]
    threads(1, cores)
    with Trainer(learner_of, seeds) as in_turn:
        assert len(in_turn._handles) == 1
        first_losses = in_turn.train(0, 7)
        half = copy.deepcopy(in_turn.state())
        losses, expected = in_turn.train(7, 10), everything(in_turn)
    threads(count, cores)
    with Trainer(learner_of, seeds) as side_by_side:
        assert len(side_by_side._handles) == processes
        assert side_by_side.train(0, 7) == first_losses
        assert side_by_side.train(7, 10) == losses
        tensors = everything(side_by_side)
        side_by_side.load(half)
        assert side_by_side.train(7, 10) == losses
        again = everything(side_by_side)
    assert list(losses) == seeds
    assert tensors.keys() == again.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(tensors[name], value), name
        assert torch.equal(again[name], value), name
    for seed in seeds:
        alone = learner_of(seed)
        alone.train(0, 10)
        for name, value in alone.parameters().items():
            assert torch.equal(value, expected[f"{seed}.{name}"]), name


def workers() -> list[int]:
    """The processes that this one has begun, in order."""
    pids = sorted(process.pid for process in multiprocessing.active_children() if process.pid is not None)
    assert len(pids) == 2
    return pids


@forked
def test_a_failure_in_a_process_is_raised_here(threads: partial[None]) -> None:
    threads(2, 2)

    def failing(seed: int) -> Learner:
        learner = learner_of(seed)
        if seed == 1:

            def fail(batch: Minibatch, step: int, learning_rate: float) -> Tensor:
                raise UserError("not like this")

            learner.algorithm.update = fail  # type: ignore[method-assign]
        return learner

    with Trainer(failing, [0, 1]) as trainer, pytest.raises(UserError, match="not like this"):
        trainer.train(0, 1)


@forked
def test_a_learner_that_cannot_be_made_is_told_at_once(threads: partial[None]) -> None:
    threads(2, 2)

    def failing(seed: int) -> Learner:
        if seed == 1:
            raise UserError("no such seed")
        return learner_of(seed)

    with pytest.raises(UserError, match="no such seed"):
        Trainer(failing, [0, 1])
    assert multiprocessing.active_children() == []


@forked
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_requests_to_stop_are_for_the_process_that_began_the_others(threads: partial[None], number: int) -> None:
    threads(2, 2)
    with Trainer(learner_of, [0, 1]) as trainer:
        trainer.train(0, 1)
        for process in workers():
            os.kill(process, number)
        assert all(loss.isfinite() for loss in trainer.train(1, 2).values())


@forked
def test_a_killed_process_is_told(threads: partial[None]) -> None:
    threads(2, 2)
    with Trainer(learner_of, [0, 1]) as trainer:
        trainer.train(0, 1)
        os.kill(workers()[1], signal.SIGKILL)
        with pytest.raises(UserError, match=r"a worker process was killed.*`threads=1` does all work in one process"):
            trainer.train(1, 2)


BEGIN = f"""
    import os, sys, time
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import torch
    import test_trainer
    torch.get_num_threads = lambda: 2
    os.sched_getaffinity = lambda _: {{0, 1}}
    trainer = test_trainer.Trainer(test_trainer.learner_of, [0, 1])
    trainer.train(0, 1)
    print(*test_trainer.workers(), flush=True)
"""


def begun(end: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that trains two seeds and then does `end`, and the processes that it has begun."""
    script = textwrap.dedent(BEGIN) + end
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    return process, pids


@forked
def test_processes_end_with_the_one_that_began_them() -> None:
    process, pids = begun("time.sleep(600)")
    process.kill()
    process.communicate()
    wait_for_the_end_of(pids)


@forked
@pytest.mark.robustness
def test_processes_that_nobody_closes_hold_up_no_exit() -> None:
    process, pids = begun("sys.exit('some failure')")
    assert process.communicate(timeout=PATIENCE)[1] == "some failure\n"
    wait_for_the_end_of(pids)
