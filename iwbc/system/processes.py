"""Threads and worker processes: how many there are, how they are talked to, and how they fail."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Protocol

import numpy.typing as npt

from iwbc.errors import UserError
from iwbc.system.interrupts import ignore_requests, sigint_deferred

_PR_SET_PDEATHSIG = 1  # of sys/prctl.h


def cores() -> int:
    """Count the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int | None) -> None:
    """Set how many threads, and so how many worker processes, this process uses; None leaves PyTorch's choice."""
    if threads is not None:
        _torch().set_num_threads(threads)


def threads() -> int:
    """Return how many threads this process uses."""
    number: int = _torch().get_num_threads()
    return number


def _torch() -> Any:
    # Not imported with this module, because processes that play environments do not need it.
    import torch

    return torch


def environment_workers() -> int:
    """Return how many processes play environments: as many as there are threads, which idle while policies are played."""
    return threads() if threads() > 1 else 0


def training_workers(seeds: int) -> int:
    """Return how many processes train `seeds` seeds on a processor; 0: this process trains them in turn."""
    if seeds == 1 or threads() == 1 or sys.platform != "linux":
        return 0
    # The system shares out the cores best among a process for each seed; where some cores are not ours, no more may run.
    return seeds if threads() >= cores() else min(seeds, threads())


def end_with_parent() -> None:
    """Let the system kill this process when the one that began it ends, however it does (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it has ended already
            os._exit(1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread inside the block: idle threads would spin on the cores that other processes work on."""
    before = threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


class _FreshProcess(SpawnProcess):
    """A spawned process: a fork would inherit the locks of this process's threads."""

    def start(self) -> None:
        # A child takes on its parent's start method by name. Under joblib that is "loky", which multiprocessing rejects: use
        # "spawn".
        if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
            multiprocessing.set_start_method("spawn", force=True)
        # A spawned process would run the user's script again, up to `if __name__ == "__main__"` or all of it. It needs none of
        # the script, because all that it runs is in this package.
        main = sys.modules["__main__"]
        hidden = {name: getattr(main, name, None) for name in ("__spec__", "__file__")}
        try:
            main.__spec__ = main.__file__ = None
            super().start()
        finally:
            for name, value in hidden.items():
                setattr(main, name, value)


class _FreshContext(SpawnContext):
    Process = _FreshProcess


_FRESH = _FreshContext()


class WorkerLost(UserError):
    """Error for a worker process that has ended; `how` says why, to follow "a worker process "."""

    def __init__(self, how: str) -> None:
        super().__init__(f"a worker process {how}; `threads=1` does all work in one process")
        self.how = how


class Handle(Protocol):
    """An object, here or in another process."""

    def begin(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Begin a call of one of the object's methods; the function returned waits for the result."""

    def close(self) -> None:
        """End the process of the object, if it has one."""


class Here:
    """An object of this process."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def begin(self, method: str, *arguments: Any) -> Callable[[], Any]:
        result = getattr(self._value, method)(*arguments)
        return lambda: result

    def close(self) -> None:
        pass


class Remote:
    """A process that makes an object and answers calls of its methods, one after the other.

    It starts while the constructor's caller goes on; the first result waits for it. With context "fork" it shares this
    process's memory as it is now, and must be made before other threads are. A process that dies is a
    UserError at the next result; what a method raises there is raised here.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any, context: str = "spawn") -> None:
        chosen = _FRESH if context == "spawn" else multiprocessing.get_context(context)
        self._connection, there = chosen.Pipe()
        work = pickle.dumps((make, arguments)) if context == "spawn" else (make, arguments)
        process = chosen.Process(target=_serve, args=(there, work, context), daemon=True)  # type: ignore[attr-defined]
        if context == "spawn":
            resource_tracker.ensure_running()  # before `start`: started inside the block below, it would unblock the signals
        with sigint_deferred():  # Ctrl-C would end it with a traceback as it starts, or lose sight of it here
            process.start()
            there.close()
            self._started, self._process = False, process
            # Also where nobody closes it: at exit Python waits for processes that it has only asked to stop.
            self.close = Finalize(self, _end, (process, self._connection), exitpriority=0)

    def begin(self, method: str, *arguments: Any) -> Callable[[], Any]:
        self.wait_for_start()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # receiving raises WorkerLost
            self._connection.send((method, [_exported(argument) for argument in arguments]))
        return self._receive

    def call(self, seconds: float, method: str, *arguments: Any) -> Any:
        """Call a method. Raises TimeoutError where the result takes longer; close the process then."""
        receive = self.begin(method, *arguments)
        if not self._connection.poll(seconds):
            raise TimeoutError
        return receive()

    def wait_for_start(self) -> None:
        """Wait until the object is made. Raises what making it raised."""
        if not self._started:
            self._started = True
            self._receive()

    def _receive(self) -> Any:
        try:
            failed, result = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(5)
            raise WorkerLost(_how_it_ended(self._process.exitcode)) from None
        if failed:
            raise result
        return _imported(result)


def results_in_order(workers: Sequence[Remote], method: str, arguments: Iterable[Any]) -> Iterator[Any]:
    """Yield the result of a call of the method with each argument, in order. Whichever process is idle makes the next call.

    No thread waits for a process: Ctrl-C as this thread takes a lock that both share would leave it taken, and no thread would
    ever end.
    """
    left = enumerate(arguments)
    calls: dict[Any, tuple[Remote, int, Callable[[], Any]]] = {}
    results: dict[int, Any] = {}

    def call_next(worker: Remote) -> None:
        for index, argument in itertools.islice(left, 1):
            calls[worker._connection] = worker, index, worker.begin(method, argument)

    for worker in workers:
        call_next(worker)
    wanted = 0
    while calls:
        for connection in wait(list(calls)):
            worker, index, receive = calls.pop(connection)
            results[index] = receive()
            call_next(worker)
        while wanted in results:
            yield results.pop(wanted)
            wanted += 1


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "was lost"
    if code >= 0:
        return f"could not go on (exit code {code}); what it printed above says why"
    why = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
    return f"was killed ({signal.Signals(-code).name}){why}"


def _end(process: BaseProcess, connection: Connection) -> None:
    # Windows has no groups, a process that starts has none yet, and macOS permits none whose processes have all ended.
    with contextlib.suppress(AttributeError, ProcessLookupError, PermissionError):
        if process.is_alive() and process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    connection.close()


def _serve(connection: Connection, work: Any, context: str) -> None:
    """Answer calls in a worker process until the other end is closed or the process is killed, at the latest with its
    parent."""
    if context == "fork":  # then the pipe's other end may live on in processes that were forked later
        end_with_parent()
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # a group to be ended with what it begins: glfw's question for its version, a verifier's programs
    ignore_requests()  # a launcher sends them to every process of a job
    # Not unpickled before there is a group: that imports the modules.
    make, arguments = pickle.loads(work) if context == "spawn" else work
    if "torch" in sys.modules:
        set_threads(1)  # a fork has no other threads, and would wait for them
    try:
        value = make(*arguments)
        connection.send((False, None))
        while True:
            method, values = connection.recv()
            connection.send((False, _exported(getattr(value, method)(*map(_imported, values)))))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        with contextlib.suppress(OSError):
            connection.send((True, error))


@dataclass(frozen=True)
class _Sent:
    """A tensor on its way, by value; PyTorch would send it as a file of shared memory."""

    array: npt.NDArray[Any]


def _exported(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _exported(item) for name, item in value.items()}
    is_tensor = "torch" in sys.modules and isinstance(value, _torch().Tensor)
    return _Sent(value.detach().numpy()) if is_tensor else value


def _imported(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _imported(item) for name, item in value.items()}
    return _torch().from_numpy(value.array) if isinstance(value, _Sent) else value
