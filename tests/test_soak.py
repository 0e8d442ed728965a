"""A small part of benchmarks/soak.py: killed twice in phases drawn at random, runs end as if nothing had happened."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from benchmarks.soak import STORIES, Place, Story, soak

# One that begins with making its data, and one with several processes.
CHOSEN = [story for story in STORIES if story.name in ("demonstrations", "iw_bc, three seeds in processes")]


def test_killed_runs_end_as_if_undisturbed(tmp_path: Path) -> None:
    outcomes = soak(CHOSEN, 4, 2, tmp_path)
    assert len(outcomes) == 2
    assert [outcome.problems for outcome in outcomes.values()] == [[], []]
    assert sum(outcome.kills.total() - outcome.kills["came too late"] for outcome in outcomes.values()) == 4


def test_the_soak_sees_what_is_left(tmp_path: Path) -> None:
    place = Place(tmp_path)
    sleeper = place.start(Story("", ("-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: None)
        assert sleeper.pid in place.orphans()
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    assert place.orphans() == []  # its child has nobody to read from, and ends
