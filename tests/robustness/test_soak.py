"""A small part of benchmarks/soak.py: killed twice in phases drawn at random, runs end as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from setups import PATIENCE

from benchmarks.soak import STORIES, Place, Story, soak

# One that begins with making its data.
CHOSEN = [story for story in STORIES if story.name == "demonstrations"]


def test_killed_runs_end_as_if_undisturbed(tmp_path: Path) -> None:
    (outcome,) = soak(CHOSEN, 2, 2, tmp_path).values()
    assert outcome.problems == []
    assert outcome.kills.total() - outcome.kills["came too late"] == 2


def test_the_soak_sees_what_is_left(tmp_path: Path) -> None:
    place = Place(tmp_path)
    child = f"import time; time.sleep({2 * PATIENCE})"
    parent = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); {child}"
    sleeper = place.start(Story("", ("-c", parent)))
    deadline = time.monotonic() + PATIENCE
    while not (printed := place.log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sorted(place.orphans(0.0)) == sorted([sleeper.pid, int(printed)])
    sleeper.kill()
    sleeper.wait()
    assert place.orphans(0.0) == [int(printed)]
    os.kill(int(printed), signal.SIGKILL)
    assert place.orphans() == []
