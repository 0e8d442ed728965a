"""Ctrl-C where it would be lost, or do harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from setups import PATIENCE

from iwbc.interrupts import interruptible, unheard

# A module that swallows what is raised in it, as some do.
MODULE = """
import time
at = []
try:
    {begin}
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
except BaseException:
    at.append("swallowed")
at.append("whole")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that Ctrl-C interrupts while it is imported."""
    (tmp_path / "slow_to_import.py").write_text(MODULE.format(begin="import os, signal; os.kill(os.getpid(), signal.SIGINT)"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_to_import", raising=False)
    return "slow_to_import"


def wait() -> None:
    time.sleep(PATIENCE)
    raise AssertionError("it was never interrupted")


def test_an_import_is_interrupted_once_it_is_done(module: str) -> None:
    before = signal.getsignal(signal.SIGINT)

    def command() -> None:
        imported = __import__(module)
        assert imported.at == ["whole"]
        wait()

    with pytest.raises(KeyboardInterrupt):
        interruptible(command)
    assert sys.modules[module].at == ["whole"]
    assert signal.getsignal(signal.SIGINT) is before


def test_without_it_the_interrupt_is_swallowed(module: str) -> None:
    assert __import__(module).at == ["swallowed", "whole"]


def test_elsewhere_it_interrupts_at_once() -> None:
    def command() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it was not interrupted")

    with pytest.raises(KeyboardInterrupt):
        interruptible(command)


class Finalized:
    def __init__(self, over: list[str]) -> None:
        self.over = over

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        self.over.append("whole")


def test_a_finalizer_is_interrupted_once_it_is_done() -> None:
    over: list[str] = []

    def command() -> None:
        Finalized(over)
        assert over == ["whole"]
        wait()

    with pytest.raises(KeyboardInterrupt):
        interruptible(command)


def test_a_module_may_run_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import os, signal\nfrom iwbc.interrupts import interruptible\n"
    text += "def command():\n    os.kill(os.getpid(), signal.SIGINT)\n    raise AssertionError\n"
    text += "try:\n    interruptible(command)\nexcept KeyboardInterrupt:\n    ended = 'interrupted'\n"
    (tmp_path / "runs_a_command.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "runs_a_command", raising=False)
    assert __import__("runs_a_command").ended == "interrupted"


def test_results_and_errors_come_through() -> None:
    assert interruptible(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)


def test_other_threads_hear_nothing_and_change_nothing() -> None:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(interruptible(lambda: signal.getsignal(signal.SIGINT))))
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_where_ctrl_c_is_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with unheard():
            interruptible(lambda: os.kill(os.getpid(), signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_begun_unheard_hears_nothing() -> None:
    program = "print(flush=True); import time; time.sleep(60)"
    with unheard():
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.kill()
    process.communicate()


def test_sigint_is_deferred_while_unheard() -> None:
    before, over = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=time.sleep, args=(0.5,))
    thread.start()  # to which the signal goes where this one's blocks it
    with pytest.raises(KeyboardInterrupt), unheard():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        over.append("whole")
    assert over == ["whole"]
    assert signal.getsignal(signal.SIGINT) is before
    thread.join()
