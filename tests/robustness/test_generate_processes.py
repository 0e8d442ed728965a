"""Generating a dataset: interrupted, killed, and wanted twice at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from helpers import everything
from setups import PATIENCE, wait_for
from test_data_generate import generate, nothing_goes_on  # noqa: F401

from iwbc.data.minari_source import load

LONG = ("env=hopper", "tier=medium", "steps=5_000_000")


def running(session: int) -> bool:
    """Whether a process of the session is alive."""
    rows = subprocess.run(["ps", "-A", "-o", "sid=,stat="], capture_output=True, text=True, check=True).stdout.splitlines()
    return any(int(sid) == session and not state.startswith("Z") for sid, state in map(str.split, rows))


def workers(command: subprocess.Popen[str]) -> list[int]:
    """Its worker processes, which live as long as it does."""
    listed = subprocess.run(["pgrep", "-P", str(command.pid), "-f", "spawn_main"], capture_output=True, text=True).stdout
    return [int(pid) for pid in listed.split()]


@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "kill"])
def test_ctrl_c_leaves_nothing_behind(whole_group: bool, datasets: Path) -> None:
    command = generate(*LONG)
    wait_for(lambda: any("main_data" in name for name in everything(datasets)), command)
    time.sleep(1.5)  # the workers are at work by now
    interrupt = os.killpg if whole_group else os.kill  # a terminal interrupts the workers too
    interrupt(command.pid, signal.SIGINT)
    assert_interrupted(command, datasets)
    end = time.monotonic() + PATIENCE
    while running(command.pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def assert_interrupted(command: subprocess.Popen[str], datasets: Path) -> None:
    """It ends, says so in one line, and leaves nothing."""
    _, errors = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130
    # The bar's last state, and the line.
    said = [line for line in errors.splitlines() if line.strip() and not line.startswith("Generating")]
    assert said == ["interrupted: nothing was written"]
    assert everything(datasets) == []


def test_ctrl_c_as_soon_as_there_is_a_worker_is_one_line(datasets: Path) -> None:
    command = generate(*LONG)
    wait_for(lambda: workers(command) != [], command)
    os.killpg(command.pid, signal.SIGINT)
    assert_interrupted(command, datasets)


# Ctrl-C as the main thread has just taken a condition's lock, which it then never gives back: a function in Python takes it,
# and the interpreter looks at signals as it returns. Where the main thread takes no such lock, Ctrl-C comes within 2 seconds.
LOCK_KEPT = """
import signal, threading
from iwbc.data import generate
from iwbc.system import processes
from iwbc.system.arguments import run

take, begin, working = threading.Condition.__enter__, processes.Remote.begin, []

def interrupt(*_):
    if working and threading.current_thread() is threading.main_thread():
        working.clear()
        raise KeyboardInterrupt

def take_and_interrupt(condition):
    take(condition)
    interrupt()

def begin_and_tell(*arguments):
    working.append(True)
    return begin(*arguments)

threading.Condition.__enter__, processes.Remote.begin = take_and_interrupt, begin_and_tell
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 2, 2)
run(generate.main, None)
"""


def test_ctrl_c_that_leaves_a_lock_taken_is_one_line(datasets: Path) -> None:
    assert_interrupted(generate(*LONG, program=("-c", LOCK_KEPT)), datasets)


# A worker that imports glfw begins a process which tells glfw its version, and lives for an instant. This one lives for as long
# as its worker does. Like the true one, it complains where the worker alone is lost.
GLFW = """
import multiprocessing, subprocess, sys
from pathlib import Path

if multiprocessing.parent_process() is not None:
    subprocess.run([sys.executable, Path(__file__).with_name("asked.py")], check=True)
path = str(Path(__file__).parents[1])  # which the workers have from the process that begins them
sys.path.remove(path)
del sys.modules["glfw"]
import glfw
sys.path.insert(0, path)
"""
ASKED = """
import os, sys, time
from pathlib import Path

worker = os.getppid()
(Path(__file__).parent / "begun").write_text(str(os.getpid()))
while os.getppid() == worker:
    time.sleep(0.02)
sys.exit("whoever asked is lost")
"""


def test_ctrl_c_while_a_worker_has_a_child_process_is_one_line(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "path" / "glfw"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text(GLFW)
    (stand_in / "asked.py").write_text(ASKED)
    monkeypatch.setenv("PYTHONPATH", str(stand_in.parent), prepend=os.pathsep)
    command = generate(*LONG)
    wait_for((stand_in / "begun").exists, command)
    os.killpg(command.pid, signal.SIGINT)
    assert_interrupted(command, datasets)


def test_a_worker_that_is_killed_is_one_line(datasets: Path) -> None:
    command = generate(*LONG)
    wait_for(lambda: workers(command) != [], command)
    worker = workers(command)[0]
    # At work, and no longer importing: glfw asks a process for its version, which would complain of the loss.
    wait_for(lambda: "libglfw" in Path(f"/proc/{worker}/maps").read_text(), command)
    time.sleep(1)
    os.kill(worker, signal.SIGKILL)
    _, errors = command.communicate(timeout=PATIENCE)
    assert command.returncode == 2
    assert errors.splitlines()[-1].startswith("dataset iwbc/hopper/medium-5000000-v2: a worker process was killed")
    assert "Traceback" not in errors
    assert everything(datasets) == []


def test_two_processes_that_want_it_at_once_make_it_once(datasets: Path) -> None:
    commands = [generate("env=hopper", "tier=medium", "steps=3000") for _ in range(2)]
    outputs = [command.communicate(timeout=PATIENCE) for command in commands]
    assert [command.returncode for command in commands] == [0, 0], outputs
    assert [errors.count("Generating") for _, errors in outputs].count(0) == 1
    assert load("iwbc/hopper/medium-3000-v2").steps >= 3000
    assert [name for name in everything(datasets) if "/." in f"/{name}"] == []
