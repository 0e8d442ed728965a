"""A small part of benchmarks/soak.py: killed twice in phases drawn at random, runs end as if nothing had happened."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from benchmarks.soak import STORIES, Place, Story, soak

# One that begins with making its data.
CHOSEN = [story for story in STORIES if story.name == "demonstrations"]


def test_killed_runs_end_as_if_undisturbed(tmp_path: Path) -> None:
    (outcome,) = soak(CHOSEN, 2, 2, tmp_path).values()
    assert outcome.problems == []
    assert outcome.kills.total() - outcome.kills["came too late"] == 2


def test_the_soak_sees_what_is_left(tmp_path: Path) -> None:
    place = Place(tmp_path)
    sleeper = place.start(Story("", ("-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])")))
    deadline = time.monotonic() + 30
    while not place._is_mine(Path(f"/proc/{sleeper.pid}/environ")):  # until the program itself has been started
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: None)
        assert sleeper.pid in place.orphans()
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    assert place.orphans() == []  # its child has nobody to read from, and ends
