from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_trajectories
from iwbc.training import Stream, initial_policy
from rich.console import Console
from setups import compose
from torch import Tensor

from iwbc.algorithms.bc import BehaviourCloning
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.config import IWBC, Recipe
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch, StepSampler
from iwbc.diagnostics import Diagnostics
from iwbc.errors import UserError
from iwbc.policies import policy_spec
from iwbc.trainer import Learner, Trainer, fit, trainer

CONFIG = compose("policy.hidden=[8]")
CURATED = Curated(make_trajectories([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]), "trajectory")
SPEC = policy_spec(CONFIG.policy, CURATED.trajectories)
RECIPE = Recipe(steps=10, lr=1e-3, schedule="cosine", warmup_steps=4, batch_size=5)
QUIET = Console(quiet=True)


class Recorder(BehaviourCloning):
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        super().__init__(initial_policy(SPEC, [0], "cpu"))
        self.rates: list[float] = []
        self.rows: list[Tensor] = []

    def update(self, batch: Minibatch, learning_rate: float) -> Tensor:
        self.rates.append(learning_rate)
        self.rows.append(batch.row)
        return super().update(batch, learning_rate)


def recorded(*calls: tuple[int, int]) -> Recorder:
    recorder = Recorder()
    learner = Learner(recorder, StepSampler(CURATED, [0], RECIPE.batch_size, Stream.TRAINING), RECIPE)
    for first, last in calls:
        learner.train(first, last)
    return recorder


def learner_of(seeds: Sequence[int]) -> Learner:
    assert isinstance(CONFIG.algo, IWBC)
    reference = initial_policy(SPEC, seeds, "cpu")
    algorithm = ImportanceWeightedBC(reference.copy(), reference, CURATED, CONFIG.algo)
    sampler = StepSampler(CURATED, seeds, RECIPE.batch_size, Stream.TRAINING)
    return Learner(algorithm, sampler, RECIPE, Diagnostics(CURATED, reference, seeds))


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
    rates = recorded((0, 10)).rates
    assert rates == [RECIPE.learning_rate(step) for step in range(10)]
    assert rates[0] == 0.0
    assert rates[4] == 1e-3


def test_training_continues_with_the_minibatches_that_would_have_come() -> None:
    whole, rest = recorded((0, 10)), recorded((6, 8), (8, 10))
    assert rest.rates == whole.rates[6:]
    assert all(torch.equal(one, other) for one, other in zip(rest.rows, whole.rows[6:], strict=True))


def test_fit_pauses_where_it_is_asked_to_and_often_besides() -> None:
    def pauses(steps: int, *arguments: object) -> list[int]:
        recipe = Recipe(steps=steps, lr=1e-3, schedule="constant", warmup_steps=0, batch_size=1)
        learner = partial(Learner, BehaviourCloning(initial_policy(SPEC, [0], "cpu")), recipe=recipe)
        sampler = StepSampler(CURATED, [0], 1, Stream.TRAINING)
        with trainer(lambda _: learner(sampler), [0], "cpu") as training:
            return [step for step, _ in fit(training, recipe, "", QUIET, *arguments)]  # type: ignore[arg-type]

    assert pauses(10, (4, 3, 0)) == [3, 4, 6, 8, 9, 10]
    assert pauses(10, (4,), 5) == [8, 10]
    assert pauses(250) == [100, 200, 250]
    assert pauses(10, (), 10) == []


# --- in several processes ------------------------------------------------------------------------------------------------


def everything(training: Trainer) -> dict[str, Tensor]:
    return {"parameters": training.parameters(), **training.measure(), **training.state()}


@forked
@pytest.mark.parametrize(("count", "cores", "processes"), [(2, 2, 3), (4, 4, 3), (2, 8, 2)])
def test_seeds_learn_the_same_side_by_side_in_turn_and_in_a_batch(
    threads: partial[None], count: int, cores: int, processes: int
) -> None:
    seeds = [5, 3, 8]
    threads(1, cores)
    with trainer(learner_of, seeds, "cpu") as in_turn:
        assert len(in_turn._parts) == 3
        first_losses = in_turn.train(0, 7)
        half = in_turn.state()
        losses, expected = in_turn.train(7, 10), everything(in_turn)
    threads(count, cores)
    with trainer(learner_of, seeds, "cpu") as side_by_side:
        assert len(side_by_side._parts) == processes
        assert torch.equal(side_by_side.train(0, 7), first_losses)
        assert torch.equal(side_by_side.train(7, 10), losses)
        found = everything(side_by_side)
        side_by_side.load(half)
        assert torch.equal(side_by_side.train(7, 10), losses)
        again = everything(side_by_side)
    assert found.keys() == again.keys() == expected.keys()
    for name, value in expected.items():
        assert value.shape[:1] in ((3,), ()), name
        assert torch.equal(found[name], value), name
        assert torch.equal(again[name], value), name
    batch = learner_of(seeds)
    batch.train(0, 10)
    torch.testing.assert_close(batch.parameters(), expected["parameters"], rtol=1e-4, atol=1e-6)


@forked
def test_a_failure_in_a_process_is_raised_here(threads: partial[None]) -> None:
    threads(2, 2)

    def failing(seeds: Sequence[int]) -> Learner:
        learner = learner_of(seeds)
        if seeds == [1]:

            def fail(batch: Minibatch, learning_rate: float) -> Tensor:
                raise UserError("not like this")

            learner.algorithm.update = fail  # type: ignore[method-assign]
        return learner

    with trainer(failing, [0, 1], "cpu") as training, pytest.raises(UserError, match="not like this"):
        training.train(0, 1)


@forked
def test_a_learner_that_cannot_be_made_is_told_at_once(threads: partial[None]) -> None:
    threads(2, 2)

    def failing(seeds: Sequence[int]) -> Learner:
        if seeds == [1]:
            raise UserError("no such seed")
        return learner_of(seeds)

    with pytest.raises(UserError, match="no such seed"):
        trainer(failing, [0, 1], "cpu")


@forked
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_requests_to_stop_are_for_the_process_that_began_the_others(threads: partial[None], number: int) -> None:
    threads(2, 2)
    with trainer(learner_of, [0, 1], "cpu") as training:
        training.train(0, 1)
        for part in training._parts:
            os.kill(part._process.pid, number)  # type: ignore[attr-defined]
        assert training.train(1, 2).isfinite().all()


@forked
def test_a_killed_process_is_told(threads: partial[None]) -> None:
    threads(2, 2)
    with trainer(learner_of, [0, 1], "cpu") as training:
        training.train(0, 1)
        os.kill(training._parts[1]._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        with pytest.raises(UserError, match="a training process was killed"):
            training.train(1, 2)


BEGIN = f"""
    import os, sys, time
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import torch
    import test_trainer
    torch.get_num_threads = lambda: 2
    os.sched_getaffinity = lambda _: {{0, 1}}
    training = test_trainer.trainer(test_trainer.learner_of, [0, 1], "cpu")
    training.train(0, 1)
    print(*(part._process.pid for part in training._parts), flush=True)
"""


def begun(end: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that trains two seeds and then does `end`, and the processes that it has begun."""
    script = textwrap.dedent(BEGIN) + end
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    return process, pids


def wait_for_the_end_of(pids: list[int]) -> None:
    patience = time.monotonic() + 10.0
    while any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text() for pid in pids):
        assert time.monotonic() < patience
        time.sleep(0.05)


@forked
def test_processes_end_with_the_one_that_began_them() -> None:
    process, pids = begun("time.sleep(60)")
    process.kill()
    process.communicate()
    wait_for_the_end_of(pids)


@forked
def test_processes_that_nobody_closes_hold_up_no_exit() -> None:
    process, pids = begun("sys.exit('some failure')")
    assert process.communicate(timeout=20)[1] == "some failure\n"
    wait_for_the_end_of(pids)
