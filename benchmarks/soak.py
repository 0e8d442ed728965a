"""Kills at random moments, then the same command again: is the result the same, byte for byte, and is nothing left over?

    python -m benchmarks.soak kills=40 seed=0 [only=WORD] [out=FILE]

Each story is a command that is first run undisturbed. Then, from the same start, it is killed twice (SIGKILL and SIGTERM of
its process, SIGINT of its group, as by Ctrl-C), each time in a phase drawn at random: as a dataset is generated, in reference
training, in training, while a checkpoint is written, in the evaluation, in the final writing, in a report. The same command
then finishes, and its files are compared with the undisturbed ones. Prints a line for each story and the count; exit code 1
where anything differs. `only` keeps the stories whose name holds the word.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iwbc.settings import Settings
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_json

_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_KILLS_A_STORY = 2
_PATIENCE = 3600.0  # seconds for a command to end, also on a machine that is busy with other things
# What differs from run to run.
_TIMES = ("seconds", "steps_per_second", "seed_steps_per_second")

_IWBC = ("-m", "iwbc.train")
_TRAIN = (
    *("hydra.run.dir=run", "reference.steps=1000", "reference.batch_size=64", "algo.batch_size=64", "algo.steps=1500"),
    *("log_every=50", "checkpoint_every=50", "eval.episodes=5", "eval.every=500", "eval.periodic_episodes=2"),
)
_SMALL = ("policy.hidden=[32,32]",)
_TASK = ("env=two_routes", "dataset.episodes=60")
_PHASES = ("reference", "training", "checkpoint", "evaluation", "final")


@dataclass(frozen=True)
class Story:
    """A command, as arguments of Python, the phases in which it may be killed, and the folders that it starts with."""

    name: str
    arguments: tuple[str, ...]
    phases: tuple[str, ...] = _PHASES
    needs: tuple[str, ...] = ("datasets",)


def _training(name: str, *arguments: str, phases: tuple[str, ...] = _PHASES) -> Story:
    needs = () if "generation" in phases else ("datasets",)
    return Story(name, (*_IWBC, *_TRAIN, *_SMALL, *_TASK, *arguments), phases, needs)


_SCRATCH = ("training", "checkpoint", "evaluation", "final")  # without a reference
STORIES = (
    Story(
        "generation",
        (*_IWBC, *_TRAIN, *_SMALL, "env=hopper", "dataset.steps=6000", "algo=bc", "algo.steps=200"),
        phases=("generation", "packing"),
        needs=(),
    ),
    Story(
        "generation on one core",
        ("-m", "iwbc.data.generate", "env=hopper", "tier=medium", "steps=4000"),
        phases=("generation",),
        needs=(),
    ),
    _training("demonstrations", "algo=bc", "algo.steps=200", phases=("generation", "training")),
    _training("iw_bc", "threads=1"),
    _training("iw_bc, three seeds in processes", "seeds=[0,1,2]", "threads=2"),
    _training("iw_bc, three seeds in one process", "seeds=[0,1,2]", "threads=1"),
    _training("iw_bc exact", "algo.estimator=exact", "algo.refresh_every=70", "threads=1"),
    _training("iw_bc copy", "algo.proposal=copy", "algo.copy_every=70", "threads=1"),
    _training("iw_bc policy", "algo.proposal=policy", "seeds=[0,1]", "threads=2"),
    _training("iw_bc clipped product", "algo.level=clipped_product", "threads=1"),
    _training("iw_bc step", "algo.level=step", "seeds=[0,1]", "threads=2"),
    _training("awr", "algo=awr", "algo.refresh_every=70", "seeds=[0,1]", "threads=2", phases=_SCRATCH),
    _training("bc", "algo=bc", "threads=1", phases=_SCRATCH),
    _training("filtered_bc", "algo=filtered_bc", "eval.action=both", "threads=2"),
    _training("rwr", "algo=rwr", "seeds=[3,1]", "threads=2"),
    _training("squashed", "policy=squashed", "policy.normalise_observations=true", "threads=1"),
    _training("mixture", "policy=mixture", "algo=iw_bc", "seeds=[0,1]", "threads=2", "algo.steps=400", "reference.steps=300"),
    _training("flow", "policy=flow", "algo=iw_bc", "threads=1", "algo.steps=400", "reference.steps=300"),
    _training("autograd", "engine=false", "algo.steps=600", "reference.steps=600", "threads=1"),
    Story(
        "a policy of one's own",
        (*_IWBC, "--config-dir", "own", *_TRAIN, *_TASK, "policy=mine", "seeds=[0,1]", "threads=2"),
        needs=("datasets", "own"),
    ),
    Story("report", ("-m", "iwbc.report", "runs", "out=report"), ("report",), ("runs",)),
)


@dataclass
class Outcome:
    """What became of a story."""

    kills: Counter[str] = field(default_factory=Counter)  # by phase and signal
    problems: list[str] = field(default_factory=list)


class Place:
    """A folder to work in, always the same one, so that nothing can differ by its name."""

    def __init__(self, root: Path) -> None:
        self.root, self.mark = root, uuid.uuid4().hex
        self.log = root / "log"

    def environment(self) -> dict[str, str]:
        own = {"MINARI_DATASETS_PATH": str(self.root / "datasets"), "IWBC_CACHE": str(self.root / "cache")}
        return os.environ | own | {"OMP_NUM_THREADS": "1", "IWBC_SOAK": self.mark, "HF_HUB_OFFLINE": "1"}

    def start(self, story: Story) -> subprocess.Popen[bytes]:
        (self.root / "datasets").mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *story.arguments],
                cwd=self.root,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, story: Story) -> str | None:
        """Run to the end; what went wrong, or None."""
        code = self.start(story).wait(_PATIENCE)
        return f"exit code {code}: {self.log.read_text()[-500:]}" if code else None

    def orphans(self, seconds: float = 5.0) -> list[int]:
        """Processes that were started here and are still there, after so many seconds to end."""
        end = time.monotonic() + seconds
        while True:
            found = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._is_mine(path)]
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.1)

    def _is_mine(self, path: Path) -> bool:
        try:
            # A process that has ended and waits to be collected has an empty environment.
            return f"IWBC_SOAK={self.mark}".encode() in path.read_bytes()
        except OSError:
            return False

    def in_phase(self, phase: str, story: Story) -> bool:
        """Whether its command has come that far."""
        run, datasets = self.root / "run", self.root / "datasets"
        match phase:
            case "generation":
                return any(path.is_dir() and path.name.startswith(".") for path in datasets.iterdir())
            case "packing":
                return any(datasets.glob("*/*/*/.packed*")) or any(datasets.glob("*/*/*/packed"))
            case "reference":
                return any((self.root / "cache" / "references").glob("*.lock")) or (run / "reference.safetensors").exists()
            case "training":
                return (run / "curation.csv").exists()
            case "checkpoint":
                return any(run.glob(".checkpoint*"))
            case "evaluation":
                steps = [a.removeprefix("algo.steps=") for a in story.arguments if a.startswith("algo.steps=")][-1]
                path = run / "metrics.csv"
                return path.exists() and f"\n{steps}," in path.read_text()
            case "final":
                return (run / "policy.safetensors").exists() or any(run.glob(".policy*"))
            case "report":
                return any(self.root.glob(".report*"))
        raise ValueError(phase)


def kill(place: Place, story: Story, phase: str, number: signal.Signals, delay: float) -> bool:
    """Start the command and kill it in a phase, some seconds after it began; whether that came before its end."""
    process = place.start(story)
    while process.poll() is None and not place.in_phase(phase, story):
        time.sleep(0.0005)
    end = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.0005)
    if process.poll() is not None:
        return False
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait(_PATIENCE)
    return True


def files(place: Place) -> dict[str, bytes]:
    """Everything that is there, with what is to be the same."""
    found = {}
    for path in sorted(place.root.rglob("*")):
        name = str(path.relative_to(place.root))
        if not path.is_file() or name == "log":
            continue
        content = path.read_bytes()
        if path.name == "summary.json":
            summary = json.loads(content)
            content = json.dumps({key: value for key, value in summary.items() if key not in _TIMES}).encode()
        elif path.suffix == ".hdf5" or path.name in ("metadata.json", "packed.json", "run.html"):
            content = b""  # hold times; what is in them is hashed in packed.json's arrays, beside it
        elif name.startswith("report/") and path.suffix not in (".csv", ".md", ".tex"):
            content = b""
        found[name] = content
    return found


def play(story: Story, root: Path, prepare: Callable[[Path], None], draw: random.Random, kills: int) -> Outcome:
    """A story, from the undisturbed run to the comparison."""
    outcome = Outcome()

    def fresh() -> Place:
        shutil.rmtree(root, ignore_errors=True)
        prepare(root)
        return Place(root)

    place = fresh()
    begun = time.monotonic()
    if problem := place.finish(story):
        outcome.problems.append(f"undisturbed: {problem}")
        return outcome
    seconds, expected = time.monotonic() - begun, files(place)
    place = fresh()
    for _ in range(kills):
        phase, number = draw.choice(story.phases), draw.choice(_SIGNALS)
        # Writing is soon over; the other phases are shares of the whole time.
        delay = draw.uniform(0.0, 0.002 if phase in ("checkpoint", "final") else 0.3 * max(seconds - 4.0, 0.5))
        if kill(place, story, phase, number, delay):
            outcome.kills[f"{phase} {number.name}"] += 1
        else:
            outcome.kills["came too late"] += 1
        if orphans := place.orphans():
            outcome.problems.append(f"{phase} {number.name}: processes {orphans} were left")
            for orphan in orphans:
                os.kill(orphan, signal.SIGKILL)
    if problem := place.finish(story):
        outcome.problems.append(f"again: {problem}")
        return outcome
    found = files(place)
    outcome.problems += [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    outcome.problems += [f"{name} is left over" for name in sorted(found.keys() - expected.keys())]
    outcome.problems += [f"{name} differs" for name in sorted(found.keys() & expected.keys()) if found[name] != expected[name]]
    return outcome


def _prepared(root: Path) -> Iterator[tuple[str, Path]]:
    """What stories begin with, made once: datasets, runs to report on, and a policy's code with its configuration."""
    place = Place(root / "place")
    for seed in (0, 1):
        changes = ("algo=bc", "algo.steps=100", f"seed={seed}", f"hydra.run.dir=runs/{seed}")
        place_run = Story("", (*_IWBC, *_TRAIN, *_SMALL, *_TASK, *changes))
        if problem := place.finish(place_run):
            raise RuntimeError(problem)
    own = place.root / "own"
    (own / "policy").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "examples" / "own_policy.py", own)
    (own / "policy" / "mine.yaml").write_text("_target_: own.own_policy.LaplacePolicy\nwidth: 32\n")
    for name in ("datasets", "runs", "own"):
        shutil.move(place.root / name, root / name)
        yield name, root / name
    shutil.rmtree(place.root)


def soak(stories: Sequence[Story], kills: int, seed: int, root: Path) -> dict[str, Outcome]:
    """Play stories, again and again, until there are so many kills; what became of each."""
    made = dict(_prepared(root))

    def prepare_for(story: Story) -> Callable[[Path], None]:
        def prepare(place: Path) -> None:
            place.mkdir()
            for name in story.needs:
                shutil.copytree(made[name], place / name)

        return prepare

    draw, outcomes = random.Random(seed), {}
    count = total = 0
    while total < kills:
        story = stories[count % len(stories)]
        now = min(_KILLS_A_STORY, kills - total)
        outcome = play(story, root / "place", prepare_for(story), draw, now)
        outcomes[f"{count}: {story.name}"] = outcome
        done = sum(number for what, number in outcome.kills.items() if what != "came too late")
        how = ", ".join(outcome.kills.elements())
        print(f"{story.name}: {how}: {'; '.join(outcome.problems) or 'the same bytes, nothing left'}", flush=True)
        total += done
        count += 1
        if outcome.problems and not done:
            break
    return outcomes


@dataclass
class Options(Settings):
    kills: int = at_least(1, 40)
    seed: int = at_least(0, 0)
    only: str = ""
    out: Path | None = None


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments, Options)
    stories = [story for story in STORIES if given.only in story.name]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background would have its children ignore it
    with tempfile.TemporaryDirectory(prefix="iwbc-soak-") as folder:
        outcomes = soak(stories, given.kills, given.seed, Path(folder))
    killed: Counter[str] = sum((outcome.kills for outcome in outcomes.values()), Counter())
    late = killed.pop("came too late", 0)
    problems = {name: outcome.problems for name, outcome in outcomes.items() if outcome.problems}
    by_signal = Counter(
        {number.name: sum(n for what, n in killed.items() if what.endswith(number.name)) for number in _SIGNALS}
    )
    print(f"{sum(killed.values())} kills ({dict(by_signal)}) in {len(outcomes)} stories, {late} came after the end; ", end="")
    print(f"{len(outcomes) - len(problems)} of {len(outcomes)} stories ended as if undisturbed.")
    if given.out is not None:
        found: dict[str, Any] = {"seed": given.seed, "kills": dict(killed), "stories": len(outcomes), "problems": problems}
        write_json(given.out, found)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    run(main, __doc__)
