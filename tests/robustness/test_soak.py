"""Kills at random moments, then the same command again: the result is the same, byte for byte, and nothing is left over.

    pytest -m robustness tests/robustness/test_soak.py --long 2

A story is a command that is first run undisturbed. Then, from the same start, it is killed twice (SIGKILL and SIGTERM of its
process, SIGINT of its group, as by Ctrl-C), each time in a phase drawn at random, and the same command finishes. Without
`--long` there is one story, which begins with making its data; `--long N` plays all of them N times.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from setups import PATIENCE

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What differs from run to run.
TIMES = ("seconds", "steps_per_second", "seed_steps_per_second")

IWBC = ("-m", "iwbc.train")
TRAIN = (
    *("hydra.run.dir=run", "reference.steps=1000", "reference.batch_size=64", "algo.batch_size=64", "algo.steps=1500"),
    *("log_every=50", "checkpoint_every=50", "eval.episodes=5", "eval.every=500", "eval.periodic_episodes=2"),
)
SMALL = ("policy.hidden=[32,32]",)
TASK = ("env=two_routes", "dataset.episodes=60")
PHASES = ("reference", "training", "checkpoint", "evaluation", "final")
# What is there when a command has come to a phase, or beyond.
SIGNS = {
    "generation": ("datasets/.*/",),
    "packing": ("datasets/*/*/*/.packed*", "datasets/*/*/*/packed"),
    "reference": ("cache/references/*.lock", "run/reference.safetensors"),
    "critic": ("cache/critics/*.lock",),
    "training": ("run/curation.csv",),
    "checkpoint": ("run/.checkpoint*",),
    "final": ("run/policy.safetensors", "run/.policy*"),
    "report": (".report*",),
}


@dataclass(frozen=True)
class Story:
    """A command, as arguments of Python, the phases in which it may be killed, and the folders that it starts with."""

    name: str
    arguments: tuple[str, ...]
    phases: tuple[str, ...] = PHASES
    needs: tuple[str, ...] = ("datasets",)


def training(name: str, *arguments: str, phases: tuple[str, ...] = PHASES) -> Story:
    needs = () if "generation" in phases else ("datasets",)
    return Story(name, (*IWBC, *TRAIN, *SMALL, *TASK, *arguments), phases, needs)


HOPPER, GENERATE = ("env=hopper", "dataset.steps=6000"), ("-m", "iwbc.data.generate")
USERS = ("policy=mine", "seeds=[0,1]", "threads=2")
SCRATCH = ("training", "checkpoint", "evaluation", "final")  # without a reference
STORIES = (
    Story("generation", (*IWBC, *TRAIN, *SMALL, *HOPPER, "algo=bc", "algo.steps=200"), ("generation", "packing"), ()),
    Story("generation on one core", (*GENERATE, "env=hopper", "tier=medium", "steps=4000"), ("generation",), ()),
    training("demonstrations", "algo=bc", "algo.steps=200", phases=("generation", "training")),
    training("iw_bc", "threads=1"),
    training("iw_bc, three seeds in processes", "seeds=[0,1,2]", "threads=2"),
    training("iw_bc, three seeds in one process", "seeds=[0,1,2]", "threads=1"),
    training("iw_bc every 70", "algo.refresh_every=70", "threads=1"),
    training("iw_bc copy", "algo.decay=0", "algo.refresh_every=70", "seeds=[0,1]", "threads=2"),
    training("iw_bc window", "algo.level=window", "seeds=[0,1]", "threads=2"),
    training(
        "awr",
        "algo=awr",
        "algo.value_steps=300",
        "algo.refresh_every=70",
        "seeds=[0,1]",
        "threads=2",
        phases=("critic", *SCRATCH),
    ),
    training("iql", "algo=iql", "algo.value_hidden=[32]", "algo.steps=400", "threads=1", phases=SCRATCH),
    training("bc", "algo=bc", "threads=1", phases=SCRATCH),
    training("filtered_bc", "algo=filtered_bc", "eval.action=both", "threads=2"),
    training("rwr", "+method=rwr", "seeds=[3,1]", "threads=2"),
    training("squashed", "policy=squashed", "policy.normalise_observations=true", "threads=1"),
    training("mixture", "policy=mixture", "algo=iw_bc", "seeds=[0,1]", "threads=2", "algo.steps=400", "reference.steps=300"),
    training("flow", "policy=flow", "algo=iw_bc", "threads=1", "algo.steps=400", "reference.steps=300"),
    training("autograd", "engine=false", "algo.steps=600", "reference.steps=600", "threads=1"),
    Story("a policy of the user's", (*IWBC, "--config-dir", "own", *TRAIN, *TASK, *USERS), needs=("datasets", "own")),
    Story("report", ("-m", "iwbc.report", "runs", "out=report"), ("report",), ("runs",)),
)


class Place:
    """A folder to work in, always the same one, so that nothing can differ by its name."""

    def __init__(self, root: Path) -> None:
        self.root, self.mark = root, uuid.uuid4().hex
        self.log = root / "log"

    def start(self, story: Story) -> subprocess.Popen[bytes]:
        folders = {"MINARI_DATASETS_PATH": str(self.root / "datasets"), "IWBC_CACHE": str(self.root / "cache")}
        environment = os.environ | folders | {"OMP_NUM_THREADS": "1", "IWBC_SOAK": self.mark}
        (self.root / "datasets").mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *story.arguments]
        with self.log.open("ab") as log:
            files = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            return subprocess.Popen(command, cwd=self.root, env=environment, start_new_session=True, **files)

    def finish(self, story: Story) -> str | None:
        """Run to the end, and say what went wrong, if anything."""
        code = self.start(story).wait(PATIENCE)
        return f"exit code {code}: {self.log.read_text()[-500:]}" if code else None

    def orphans(self, seconds: float = 5.0) -> list[int]:
        """List processes that were started here and are still there, after so many seconds to end."""
        end = time.monotonic() + seconds
        while True:
            left = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._is_mine(path)]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.1)

    def _is_mine(self, path: Path) -> bool:
        try:
            # A process that has ended and waits to be collected has an empty environment.
            return f"IWBC_SOAK={self.mark}".encode() in path.read_bytes()
        except OSError:
            return False

    def in_phase(self, phase: str, story: Story) -> bool:
        """Say whether its command has come that far."""
        if phase != "evaluation":
            return any(any(self.root.glob(sign)) for sign in SIGNS[phase])
        steps = [a.removeprefix("algo.steps=") for a in story.arguments if a.startswith("algo.steps=")][-1]
        path = self.root / "run" / "metrics.csv"
        return path.exists() and f"\n{steps}," in path.read_text()


def kill(place: Place, story: Story, phase: str, number: signal.Signals, delay: float) -> bool:
    """Start the command and kill it in a phase, some seconds after it began. Returns whether that came before its end."""
    process = place.start(story)
    while process.poll() is None and not place.in_phase(phase, story):
        time.sleep(0.0005)
    end = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.0005)
    if process.poll() is not None:
        return False
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    process.wait(PATIENCE)
    return True


def files(place: Place) -> dict[str, bytes]:
    """Read everything that is there, of which all is to be the same."""
    contents = {}
    for path in sorted(place.root.rglob("*")):
        name = str(path.relative_to(place.root))
        if not path.is_file() or name == "log":
            continue
        content = path.read_bytes()
        if path.name == "summary.json":
            summary = json.loads(content)
            content = json.dumps({key: value for key, value in summary.items() if key not in TIMES}).encode()
        elif path.suffix == ".hdf5" or path.name in ("metadata.json", "packed.json", "run.html"):
            content = b""  # hold times; what is in them is hashed in packed.json's arrays, beside it
        elif name.startswith("report/") and path.suffix not in (".csv", ".md", ".tex"):
            content = b""
        contents[name] = content
    return contents


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what stories begin with: datasets, runs to report on, and a policy's code with its configuration."""
    place = Place(tmp_path_factory.mktemp("made"))
    for seed in (0, 1):
        changes = ("algo=bc", "algo.steps=100", f"seed={seed}", f"hydra.run.dir=runs/{seed}")
        assert place.finish(Story("", (*IWBC, *TRAIN, *SMALL, *TASK, *changes))) is None
    (place.root / "own" / "policy").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[2] / "examples" / "own_policy.py", place.root / "own")
    (place.root / "own" / "policy" / "mine.yaml").write_text("_target_: own.own_policy.LaplacePolicy\nwidth: 32\n")
    return place.root


def play(story: Story, root: Path, made: Path | None, draw: random.Random) -> tuple[int, list[str]]:
    """Play a story, from the undisturbed run to the comparison. Returns how many kills came in time, and what is wrong."""

    def fresh() -> Place:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name in story.needs:
            assert made is not None
            shutil.copytree(made / name, root / name)
        return Place(root)

    place, problems, kills = fresh(), [], 0
    begun = time.monotonic()
    if problem := place.finish(story):
        return 0, [f"undisturbed: {problem}"]
    seconds, expected = time.monotonic() - begun, files(place)
    place = fresh()
    for _ in range(2):
        phase, number = draw.choice(story.phases), draw.choice(SIGNALS)
        # Writing is soon over; the other phases are shares of the whole time.
        delay = draw.uniform(0.0, 0.002 if phase in ("checkpoint", "final") else 0.3 * max(seconds - 4.0, 0.5))
        kills += kill(place, story, phase, number, delay)
        if orphans := place.orphans():
            problems.append(f"{phase} {number.name}: processes {orphans} were left")
            for orphan in orphans:
                os.kill(orphan, signal.SIGKILL)
    if problem := place.finish(story):
        return kills, [*problems, f"again: {problem}"]
    after = files(place)
    problems += [f"{name} is missing" for name in sorted(expected.keys() - after.keys())]
    problems += [f"{name} is left over" for name in sorted(after.keys() - expected.keys())]
    problems += [f"{name} differs" for name in sorted(expected.keys() & after.keys()) if after[name] != expected[name]]
    return kills, problems


CHOSEN = [pytest.param(s, id=s.name, marks=() if s.name == "demonstrations" else pytest.mark.long) for s in STORIES]


@pytest.mark.parametrize("story", CHOSEN)
def test_killed_runs_end_as_if_undisturbed(story: Story, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made = request.getfixturevalue("made") if story.needs else None
    draw, long = random.Random(2), request.config.getoption("--long")
    ends = [play(story, tmp_path / "place", made, draw) for _ in range(long)]
    assert [problems for _, problems in ends] == [[]] * long
    assert long > 1 or ends[0][0] == 2


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
