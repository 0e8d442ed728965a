"""What is broken or hostile, through the real commands: it ends in one clear line, runs no code of a file and harms nothing.

What one reader or check refuses is tested beside it; here is what only shows in a command. With `--long 2`, what needs a
process of its own is tried, too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import few_steps
from pendulum import ID, QUICK, make_pendulum
from setups import Outcome, command, finish, python, train

import iwbc
from iwbc.data.minari_folder import dataset_folder
from iwbc.runs.recorder import Recorder

RUN = (*QUICK, "eval.episodes=1", "hydra.run.dir=new")
MODULES = {"report": "iwbc.report.__main__"}
# What commands may leave beside a result; what is said on the way.
CACHES, PROGRESS = ("packed", "__pycache__"), ("Generating", "Converting", "Reading")


@dataclass(frozen=True)
class Place:
    """Where a case is tried: a working directory with `run`, finished, and `cut`, an interrupted run, beside a dataset."""

    root: Path
    other: Path
    patch: pytest.MonkeyPatch

    @property
    def bait(self) -> Path:
        """What exists when code of a file has run."""
        return self.root / "bait"

    def contents(self) -> dict[str, str]:
        """Hash every file that is no cache, by its name."""
        paths = {str(path.relative_to(self.root)): path for path in self.root.rglob("*") if path.is_file()}
        names = {name for name in paths if not any(word in name for word in CACHES) and not name.startswith("home")}
        return {name: hashlib.sha256(paths[name].read_bytes()).hexdigest() for name in names - {"bait"}}


@dataclass(frozen=True)
class Case:
    """A command with something wrong: `make` prepares it, in the working directory, and gives its name and arguments."""

    name: str
    make: Callable[[Place], tuple[str, ...]]
    says: str = ""  # words between |, of which one is in the line
    code: int = 2


@pytest.fixture(scope="module")
def runs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, an interrupted one, and a policy of an environment of other sizes."""
    folder = tmp_path_factory.mktemp("hostile")
    make_pendulum()
    shutil.copytree(run, folder / "run")
    original = Recorder._checkpoint

    def stopping(self: Recorder, done: int, trainer: Any, plays: bool) -> None:
        original(self, done, trainer, plays)
        self._stop.set()

    with mock.patch.object(Recorder, "_checkpoint", stopping):
        assert train(*QUICK, f"hydra.run.dir={folder / 'cut'}").code == 130
    narrow = iwbc.from_arrays(**few_steps(observations=np.zeros((40, 2))), env_id="MountainCarContinuous-v0")
    iwbc.fit(iwbc.BC(steps=1, warmup_steps=0), narrow).save(folder / "policy.safetensors")
    return folder


@pytest.fixture
def place(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path, runs / "policy.safetensors", monkeypatch)
    shutil.copytree(dataset_folder(ID), tmp_path / "datasets" / ID)
    for name in ("run", "cut"):
        shutil.copytree(runs / name, tmp_path / "work" / name)
    (tmp_path / "home").mkdir()
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "hostile_module.py").write_text(f"import pathlib\npathlib.Path({str(made.bait)!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return made


def called(name: str, *arguments: str) -> Outcome:
    return train(*arguments) if name == "train" else command(MODULES.get(name, f"iwbc.{name}"), *arguments)


def attempt(case: Case, place: Place, call: Callable[..., Outcome] = called) -> list[str]:
    """Try a case; say what is wrong with how it ended."""
    words = case.make(place)
    before = place.contents()
    outcome = call(*words)
    after, problems = place.contents(), []
    lines = [line for line in outcome.err.splitlines() if line.strip() and not line.startswith(PROGRESS)]
    if outcome.code != case.code:
        problems.append(f"exit code {outcome.code}, not {case.code}")
    if "Traceback" in outcome.out + outcome.err:
        problems.append(f"a traceback: {outcome.err[-400:]}")
    if len(lines) != (outcome.code != 0):
        problems.append(f"{len(lines)} lines: {' | '.join(lines)[:300]}")
    elif lines and not any(word in lines[0] for word in case.says.split("|")):
        problems.append(f"does not name {case.says}: {lines[0][:300]}")
    if place.bait.exists():
        problems.append("code of a file has run")
    resumed = "work/cut/" if outcome.code == 0 else "no such folder"
    changed = [name for name in before if after.get(name) != before[name] and not name.startswith(resumed)]
    left = [name for name in after.keys() - before.keys() if not name.startswith(("work/new", resumed))]
    problems += [f"has changed: {name}" for name in changed] + [f"left behind: {name}" for name in left]
    if Path("new").is_dir() and not any(Path("new").iterdir()):
        problems.append("left an empty folder")
    return problems


# --- files of a run ------------------------------------------------------------------------------------------------------


class Explosive:
    """Pickled, it writes the bait when it is loaded."""

    def __init__(self, bait: Path) -> None:
        self.bait = bait

    def __reduce__(self) -> Any:
        return Path.touch, (self.bait,)


Change = Callable[[bytes, Place], bytes]
CHECKPOINT, POLICY, EPISODES = "cut/checkpoint.safetensors", "run/policy.safetensors", "run/evaluations.csv"
RESUME, EVALUATE, VERIFY, REPORT = "train resume=cut", "evaluate run=run", "verify run=run", "report run out=new"


def damaged(file: str, change: bytes | Change, line: str) -> Callable[[Place], tuple[str, ...]]:
    """A file of a run becomes other bytes, or what a function makes of the good ones."""

    def make(place: Place) -> tuple[str, ...]:
        path = Path(file)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(change if isinstance(change, bytes) else change(path.read_bytes(), place))
        return tuple(line.split())

    return make


def pickled(good: bytes, place: Place) -> bytes:
    return pickle.dumps(Explosive(place.bait))


def torch_saved(good: bytes, place: Place) -> bytes:
    file = io.BytesIO()
    torch.save(Explosive(place.bait), file)
    return file.getvalue()


def flipped(good: bytes, place: Place) -> bytes:
    return good[:-40] + bytes([good[-40] ^ 16]) + good[-39:]


def content_of(path: str) -> Change:
    return lambda good, place: Path(path).read_bytes()


def text(old: str, new: str) -> Change:
    def change(good: bytes, place: Place) -> bytes:
        assert old.encode() in good, old
        return good.replace(old.encode(), new.encode(), 1)

    return change


def below_the_header(rows: bytes) -> Change:
    return lambda good, place: good.splitlines(True)[0] + rows


def importing(good: bytes, place: Place) -> bytes:
    summary = json.loads(good)
    return json.dumps(summary | {"environment": summary["environment"] | {"imports": ["hostile_module"]}}).encode()


def other_policy(good: bytes, place: Place) -> bytes:
    return place.other.read_bytes()


ALIASES = b"".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n".encode() for p, c in zip("abcdefgh", "bcdefghi", strict=True))
CONFIGS: dict[str, bytes | Change] = {
    "with a tag that runs": lambda good, place: good + f"x: !!python/object/apply:os.system ['touch {place.bait}']\n".encode(),
    "with a tag that makes": lambda good, place: good + f"x: !!python/object/new:pathlib.Path ['{place.bait}']\n".encode(),
    "with a _target_": text("policy:\n", "policy:\n  _target_: os.system\n"),
    "with a _target_ that no setting is": text("algo:\n", "algo:\n  _target_: os.system\n"),
    "with a resolver": text("device: cpu", "device: ${job_key:}"),
    "of aliases that explode": b"a: &a [x,x,x,x,x,x,x,x,x]\n" + ALIASES,
    "of bytes": b"\x00\xff\x00",
}
TABLES: dict[str, bytes | Change] = {
    "of bytes": b"\xff\xfe\x00",
    "without a column": text("return", "reward"),
    "of words": below_the_header(b"final,20,0,zero,mean,a,b,c,d\n"),
    "of a very long field": below_the_header(b"x" * 200_000),
}
FILES = [
    Case("a pickled checkpoint", damaged(CHECKPOINT, pickled, RESUME), "checkpoint.safetensors"),
    Case("a torch.saved checkpoint", damaged(CHECKPOINT, torch_saved, RESUME), "checkpoint.safetensors"),
    Case("a checkpoint that is a policy", damaged(CHECKPOINT, content_of(POLICY), RESUME), "checkpoint.safetensors"),
    Case("half a row more of metrics", damaged("cut/metrics.csv", lambda good, place: good + b"20,0,0.", RESUME), code=0),
    Case("a pickled policy", damaged(POLICY, pickled, EVALUATE), "policy.safetensors"),
    Case("a flipped policy, evaluated", damaged(POLICY, flipped, EVALUATE), "policy.safetensors"),
    Case("a flipped policy, verified", damaged(POLICY, flipped, VERIFY), "policy.safetensors", code=1),
    Case("a policy that is a checkpoint", damaged(POLICY, content_of(CHECKPOINT), EVALUATE), "policy.safetensors"),
    Case("a policy of another environment, evaluated", damaged(POLICY, other_policy, EVALUATE), "observations|policy"),
    Case("a policy of another environment, verified", damaged(POLICY, other_policy, VERIFY), "policy.safetensors", code=1),
    *(Case(f"settings {name}, resumed", damaged("cut/config.yaml", CONFIGS[name], RESUME), "cut") for name in CONFIGS),
    *(Case(f"settings {name}, evaluated", damaged("run/config.yaml", CONFIGS[name], EVALUATE), "run") for name in CONFIGS),
    # Evaluating plays in the summary's environment, which asks for no import.
    Case("an import", damaged("run/config.yaml", text("imports: []", "imports:\n  - hostile_module"), EVALUATE), code=0),
    Case("a summary with imports, verified", damaged("run/summary.json", importing, VERIFY), "run"),
    *(Case(f"episodes {name}, reported", damaged(EPISODES, TABLES[name], REPORT), "evaluations.csv") for name in TABLES),
    *(Case(f"episodes {name}, verified", damaged(EPISODES, TABLES[name], VERIFY), "evaluations.csv", 1) for name in TABLES),
    Case("metrics of words", damaged("run/metrics.csv", text("\n20,0,", "\na,b,"), REPORT), "metrics.csv"),
    Case("weights of bytes", damaged("run/weights.csv", b"\xff\xfe\x00", REPORT), "weights.csv"),
    Case("a curation of words", damaged("run/curation.csv", below_the_header(b"a,b,c,d,e,f\n"), REPORT), "curation.csv"),
    Case("an infinite curation", damaged("run/curation.csv", below_the_header(b"inf,inf,inf,inf\n"), REPORT), "curation.csv"),
]


# --- datasets, folders, options ------------------------------------------------------------------------------------------


def environment(**changes: Any) -> Callable[[Place], tuple[str, ...]]:
    """Train with an environment as a dataset names it. As settings of it are given, training without is no way out."""

    def make(place: Place) -> tuple[str, ...]:
        path = dataset_folder(ID) / "data" / "metadata.json"
        metadata = json.loads(path.read_text())
        spec = json.dumps(json.loads(metadata["env_spec"]) | changes)
        path.write_text(json.dumps(metadata | {"env_spec": spec, "eval_env_spec": spec}))
        return "train", *RUN

    return make


def pickled_cache(place: Place) -> tuple[str, ...]:
    path = dataset_folder(ID) / "packed" / "rewards.npy"
    assert path.exists()
    np.save(path, np.array([Explosive(place.bait)] * 3, dtype=object), allow_pickle=True)
    return "train", *RUN


def with_file(path: str) -> Callable[[Place], tuple[str, ...]]:
    def make(place: Place) -> tuple[str, ...]:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("mine")
        return "train", *RUN

    return make


def without_a_cache(place: Place) -> tuple[str, ...]:
    place.patch.setenv("IWBC_CACHE", "/dev/null")
    return "train", *RUN


def line(*words: str) -> Callable[[Place], tuple[str, ...]]:
    return lambda place: words


WRAPPER = {"name": "Nope", "entry_point": "hostile_module:Nope", "kwargs": {}}
OTHERS = [
    Case("an environment whose class is in a module", environment(id="A-v0", entry_point="hostile_module:Env"), "environment "),
    Case("an environment whose id names a module", environment(id="hostile_module:Nope-v0"), "environment "),
    Case("an environment with a wrapper of its own", environment(additional_wrappers=[WRAPPER]), "environment "),
    Case("an environment of unknown arguments", environment(kwargs={"nope": 1}), "environment "),
    Case("a cache of pickled objects", pickled_cache, code=0),
    Case("a folder of something else", with_file("new/notes.txt"), code=0),
    Case("a folder that is a file", with_file("new"), "new"),
    Case("caches in a file", without_a_cache, "/dev/null"),
    Case("a full device", line("evaluate", "run=run", "out=/dev/full/episodes.csv"), "/dev/full"),
    Case("no episodes to evaluate", line("evaluate", "run=run", "episodes=0"), "episodes"),
    Case("a replay that is no flag", line("verify", "run=run", "replay=maybe"), "replay"),
    Case("a mixture that is no flag", line("report", "run", "mixed=3"), "mixed"),
    Case("kappa 0", line("train", *RUN, "algo.kappa=0"), code=0),
    Case("kappa 10,000", line("train", *RUN, "algo.kappa=1e4"), code=0),
]


@pytest.mark.parametrize("case", [*FILES, *OTHERS], ids=lambda case: case.name)
def test_it_ends_as_it_should(case: Case, place: Place) -> None:
    assert attempt(case, place) == []


def test_the_attempt_reports_each_kind_of_harm(place: Place) -> None:
    def harm(name: str, *arguments: str) -> Outcome:
        Path("run/metrics.csv").write_text("harmed")
        place.bait.touch()
        Path("left.txt").touch()
        Path("new").mkdir()
        return Outcome(2, "", "Traceback\n")

    said = attempt(Case("harm", line("verify", "run=nowhere"), "something else", code=0), place, harm)
    for problem in ("exit code 2, not 0", "a traceback", "code of a file has run", "left an empty folder"):
        assert any(text.startswith(problem) for text in said)
    assert {"has changed: work/run/metrics.csv", "left behind: work/left.txt"} <= set(said)
    assert any(text.startswith("does not name something else") for text in said)
    assert any(text.startswith("2 lines") for text in attempt(Case("", line()), place, lambda: Outcome(2, "", "a\nb\n")))


# --- processes of their own: memory, disks ------------------------------------------------------------------------------


def alone(name: str, *arguments: str) -> Outcome:
    return finish(python("-m", f"iwbc.{name}", *arguments, cwd=Path.cwd(), PYTHONPATH=str(Path.cwd())))


def limited(name: str, *arguments: str) -> Outcome:
    """Call a command whose files may not grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # of the process that is started, too
    try:
        process = python("-m", f"iwbc.{name}", *arguments, cwd=Path.cwd())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return finish(process)


def twice(name: str, *arguments: str) -> Outcome:
    """Call a command beside itself."""
    started = [python("-m", f"iwbc.{name}", *arguments, cwd=Path.cwd()) for _ in range(2)]
    ends = [finish(process) for process in started]
    return Outcome(max(end.code for end in ends), "", "".join(end.err for end in ends))


# Converts, and fills the disk with the third episode, when its room has been looked for.
FILLING = """
import contextlib, os, sys
from iwbc.system.arguments import run
from iwbc.data import convert, minari_writer

buffer, written = minari_writer._buffer, []

def filling(episode):
    written.append(episode)
    if len(written) == 3:
        with open(os.path.join(os.environ["MINARI_DATASETS_PATH"], "filler"), "wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
    return buffer(episode)

minari_writer._buffer = filling
sys.argv = sys.argv[1:]
run(convert.main, None)
"""


def filled(name: str, *arguments: str) -> Outcome:
    outcome = finish(python("-c", FILLING, name, *arguments, cwd=Path.cwd()))
    Path(os.environ["MINARI_DATASETS_PATH"], "filler").unlink()
    return outcome


@pytest.fixture
def small_disk(place: Place) -> Iterator[Callable[[str], None]]:
    """Give a function that mounts a disk of a size, for `new` or datasets."""
    disk = place.root / "disk"

    def mount(size: str) -> None:
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted here")

    yield mount
    subprocess.run(["umount", disk], capture_output=True)


def convert(**arrays: Any) -> Callable[[Place], tuple[str, ...]]:
    def make(place: Place) -> tuple[str, ...]:
        np.savez("bad.npz", **few_steps(**arrays))
        return "data.convert", "bad.npz", "id=new/data-v0"

    return make


WIDE = {"observations": np.ones((20_000, 1000), np.float32), "actions": np.zeros((20_000, 1), np.float32)}
WIDE |= {"rewards": np.ones(20_000), "terminations": np.zeros(20_000, bool), "truncations": np.arange(20_000) % 1000 == 999}
GENERATE = ("data.generate", "env=hopper", "tier=random", "steps=3000")
LARGE = ("policy.hidden=[256,256]",)
ALONE = [
    (limited, Case("files may not grow: training", line("train", *RUN, *LARGE), "File too large|checkpoint")),
    (limited, Case("files may not grow: generation", line(*GENERATE), "could not be written|File too large")),
    (limited, Case("files may not grow: conversion", convert(observations=np.zeros((40, 5000))), "oo large|be written")),
    (alone, Case("more memory than there is", line("train", *RUN, "policy.hidden=[2000000,2000000]"), "memory")),
    (alone, Case("a batch beyond memory", line("train", *RUN, "algo=bc", "algo.batch_size=1000000000000"), "memory")),
    (twice, Case("two of the same run at once", line("train", *RUN), code=0)),
]


@pytest.mark.long
@pytest.mark.parametrize(("call", "case"), ALONE, ids=lambda part: part.name if isinstance(part, Case) else "")
def test_a_separate_process_ends_as_it_should(call: Callable[..., Outcome], case: Case, place: Place) -> None:
    assert attempt(case, place, call) == []


@pytest.mark.long
def test_a_full_disk(place: Place, small_disk: Callable[[str], None]) -> None:
    small_disk("300k")
    run = (*RUN, *LARGE, f"hydra.run.dir={place.root / 'disk' / 'work' / 'new'}")
    problems = attempt(Case("", line("train", *run), "No space left"), place, alone)
    assert [problem for problem in problems if not problem.startswith("left behind: disk/work/new")] == []


@pytest.mark.long
@pytest.mark.parametrize("call", [alone, filled])
def test_a_disk_too_small_for_a_dataset(call: Callable[..., Outcome], place: Place, small_disk: Callable[[str], None]) -> None:
    small_disk("60m")
    place.patch.setenv("MINARI_DATASETS_PATH", str(place.root / "disk"))
    assert attempt(Case("", convert(**WIDE), "No space left"), place, call) == []
