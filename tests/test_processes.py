"""Worker processes that end: what their user is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import types

import pytest
from setups import PATIENCE

from iwbc.errors import UserError
from iwbc.system.processes import Remote, WorkerLost, results_in_order


def here_alone() -> None:
    """What a worker process cannot import."""


def test_a_worker_that_cannot_start_is_not_called_killed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = types.ModuleType("only_here")
    module.here_alone = here_alone  # type: ignore[attr-defined]
    monkeypatch.setattr(here_alone, "__module__", "only_here")
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(UserError) as told:
        Remote(here_alone).wait_for_start()
    assert "a worker process could not go on (exit code 1); what it printed above says why" in str(told.value)
    assert "memory" not in str(told.value)
    assert "No module named 'only_here'" in capfd.readouterr().err


@pytest.mark.parametrize(("number", "memory"), [(signal.SIGKILL, True), (signal.SIGSEGV, False)])
def test_a_killed_worker_is_told_with_the_signal(number: signal.Signals, memory: bool) -> None:
    others = set(multiprocessing.active_children())
    worker = Remote(dict)
    worker.wait_for_start()
    (process,) = set(multiprocessing.active_children()) - others
    os.kill(process.pid or 0, number)
    with pytest.raises(UserError, match=rf"a worker process was killed \({number.name}\)") as told:
        worker.begin("keys")()
    assert ("for want of memory" in str(told.value)) == memory


def test_a_process_that_is_killed_as_it_sends_is_lost() -> None:
    worker = Remote(bytearray, 50_000_000)
    result = worker.begin("copy")
    assert worker._connection.poll(PATIENCE)  # more than a pipe holds is on its way
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=r"a worker process was killed \(SIGKILL\), perhaps for want of memory"):
        result()
    worker.close()


class Sleeper:
    """An object whose calls take as long as they are told to."""

    def after(self, seconds: float) -> float:
        if seconds < 0:
            raise UserError("a time before now")
        time.sleep(seconds)
        return seconds


def test_results_come_in_order_of_any_number_of_calls() -> None:
    workers = [Remote(Sleeper) for _ in range(2)]
    try:
        for seconds in ([0.3, 0.0, 0.1, 0.0, 0.0], [0.0], []):
            assert list(results_in_order(workers, "after", seconds)) == seconds
        with pytest.raises(UserError, match="a time before now"):
            list(results_in_order(workers, "after", [0.0, -1.0]))
    finally:
        for worker in workers:
            worker.close()
