"""Ctrl-C where it would be lost, or do harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from iwbc.errors import Interrupted
from iwbc.system.interrupts import sigint_deferred, stop_requests


def test_a_first_request_is_noted_and_a_second_ends_at_once() -> None:
    before, stop = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], threading.Event()
    with pytest.raises(Interrupted), stop_requests(stop, Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it was not interrupted")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_other_threads_hear_nothing_and_change_nothing() -> None:
    handlers: list[object] = []

    def listen() -> None:
        with sigint_deferred(), stop_requests(threading.Event()):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_where_ctrl_c_is_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with sigint_deferred():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_begun_with_sigint_deferred_gets_no_signal() -> None:
    program = "print(flush=True); import time; time.sleep(60)"
    with sigint_deferred():
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.kill()
    process.communicate()


def test_sigint_is_raised_after_the_block_that_defers_it() -> None:
    before, over = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=time.sleep, args=(0.5,))
    thread.start()  # to which the signal goes where this one's blocks it
    with pytest.raises(KeyboardInterrupt), sigint_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        over.append("whole")
    assert over == ["whole"]
    assert signal.getsignal(signal.SIGINT) is before
    thread.join()
