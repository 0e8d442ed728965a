"""Ctrl-C and other requests to stop: handled, deferred or ignored."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

# Signals that ask a process to stop, a launcher's among them.
_REQUESTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def _handled_here() -> bool:
    """Tell whether this thread handles signals: it is the main thread, and Python installed the handler of SIGINT."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not None


@contextlib.contextmanager
def stop_requests(stop: threading.Event, at_once: type[KeyboardInterrupt] = KeyboardInterrupt) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM set the event inside the block, so that training stops between steps. A second one raises
    `at_once`."""
    if not _handled_here():
        yield
        return

    def request(number: int, frame: Any) -> None:
        if stop.is_set():
            raise at_once
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def sigint_deferred() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block. A process begun inside it gets no request to stop until it unblocks them."""
    if not (_handled_here() and hasattr(signal, "pthread_sigmask")):
        yield
        return
    waiting: list[int] = []
    # A signal that is blocked here may reach another thread, and Python then handles it in this one all the same.
    handler = signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if waiting:
            signal.raise_signal(signal.SIGINT)


def ignore_requests() -> None:
    """Ignore requests to stop in this process from now on, pending ones too: the process that began it decides."""
    for number in _REQUESTS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTS)
