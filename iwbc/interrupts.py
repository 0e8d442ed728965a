"""Ctrl-C and other requests to stop: where they may be heard."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

# What asks a process to stop, a launcher's signals among them.
_REQUESTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
# Where KeyboardInterrupt is swallowed: by modules that are imported, which may also be left in halves, at which something
# else fails; in callbacks of weak references and in finalizers, of which Python only says "Exception ignored".
_DEAF_FILES = ("<frozen importlib._bootstrap>", weakref.__file__)
_DEAF_METHOD = "__del__"
_AGAIN = 0.02  # seconds


def _heard_here() -> bool:
    """Whether signals are this thread's to handle, and no program's around Python."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not None


@contextlib.contextmanager
def stop_requests(stop: threading.Event, at_once: type[KeyboardInterrupt] = KeyboardInterrupt) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM set the event, so that training stops between steps; a second one raises `at_once`."""
    if not _heard_here():
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


def interruptible(call: Callable[[], Result]) -> Result:
    """What `call` returns. Meanwhile Ctrl-C raises KeyboardInterrupt as ever, but where that would be swallowed only
    afterwards."""
    if not _heard_here() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return call()  # whoever handles it otherwise, or ignores it, as in the background, goes on to
    here = sys._getframe()

    def interrupt(number: int, frame: Any) -> None:
        while frame not in (None, here):
            if frame.f_code.co_filename in _DEAF_FILES or frame.f_code.co_name == _DEAF_METHOD:
                _thread.start_new_thread(_interrupt_later, ())  # not threading's, whose locks may be taken right here
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        return call()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_later() -> None:
    time.sleep(_AGAIN)
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main:  # to that very thread: else what it waits for goes on
        signal.pthread_kill(main, signal.SIGINT)
    else:
        _thread.interrupt_main()


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Within, Ctrl-C waits. A process that is begun here hears no request to stop, until it unblocks them."""
    if not (_heard_here() and hasattr(signal, "pthread_sigmask")):
        yield
        return
    waiting: list[int] = []
    # A signal that is blocked here may reach another thread, and is then heard by this one all the same.
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
    """From here on, and also where they had to wait, this process ignores them: the one that began it decides."""
    for number in _REQUESTS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTS)
