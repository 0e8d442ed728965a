"""Anything at all, to the validator of configurations and to every reader: is it accepted, or refused in one line?

    python -m benchmarks.fuzz minutes=60 [engine=hypothesis|atheris] [only=WORD] [out=FILE]

Each of the targets gets an equal share of the time, in a process of its own. `hypothesis` draws new examples as they come;
`atheris` (pip install atheris) goes by which lines of the package, and of the libraries that it reads with, they reach, and
keeps those that reached new ones in build/fuzz/, with which the next run begins. Prints for each target how many were tried and
in how many seconds of the processor; an input at which something else happened stays in build/fuzz/, and the exit code is 1.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from omegaconf import OmegaConf

import iwbc
from benchmarks.common import few_steps
from iwbc.config import compose, validate
from iwbc.data import minari_source
from iwbc.data.array_files import open_steps
from iwbc.data.arrays import Steps, describe, episodes
from iwbc.data.checks import checked
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.packed import load_or_pack
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.runs.folder import RunFolder
from iwbc.runs.page import write_page
from iwbc.runs.read import collect
from iwbc.settings import Settings, setting, to_plain
from iwbc.system.arguments import parse, run
from iwbc.system.files import write_json, write_tensors
from iwbc.training.trained import load_policy

# What atheris watches: modules whose names begin so.
_INSTRUMENTED = ("iwbc", "yaml", "omegaconf", "zipfile", "csv", "json", "numpy.lib", "h5py", "minari", "gymnasium")
_KEPT = Path("build") / "fuzz"

Read = Callable[[], object]


def accepted_or_refused(read: Read) -> None:
    """Call a reader. Raises what it raises, unless that is a UserError of one line."""
    try:
        read()
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)


# --- what is read ----------------------------------------------------------------------------------------------------


def make_run(root: Path) -> Path:
    """A finished run that takes seconds, on a dataset of its own, both below `root`."""
    id = "fuzzed/pendulum-v0"
    iwbc.from_arrays(**few_steps(), id=id, env_id="Pendulum-v1")
    folder = root / "run"
    brief = ("env=from_dataset", "dataset=minari", f"dataset.id={id}", "policy.hidden=[4]", "env.max_episode_steps=20")
    steps = ("reference.steps=20", "algo.steps=20", "algo.batch_size=16", "log_every=10", "eval.episodes=2", "eval.every=0")
    subprocess.run([sys.executable, "-m", "iwbc.train", *brief, *steps, f"hydra.run.dir={folder}"], check=True)
    return folder


@dataclass(frozen=True)
class Place:
    """A finished run, and a folder to make other things in."""

    run: Path
    empty: Path


def _configuration(place: Place) -> tuple[Path, Read]:
    return place.run / "config.yaml", lambda: RunFolder(place.run).config()


def _summary(place: Place) -> tuple[Path, Read]:
    def read() -> None:
        accepted_or_refused(lambda: RunFolder(place.run).summary())
        collect([place.run])

    return place.run / "summary.json", read


def _episodes(place: Place) -> tuple[Path, Read]:
    return place.run / "evaluations.csv", lambda: collect([place.run])


def _failure(place: Place) -> tuple[Path, Read]:
    failed = place.empty / "failed"
    failed.mkdir()
    RunFolder(failed).write_failure("it did not work", ["algo=bc", "seed=1"])
    return failed / "failure.json", lambda: collect([failed])


def _on_the_page(name: str) -> Callable[[Place], tuple[Path, Read]]:
    def target(place: Place) -> tuple[Path, Read]:
        path, summary = place.run / name, RunFolder(place.run).summary()
        assert summary is not None
        if not path.exists():
            video = {"name": "best", "file": "best.mp4", "seed": 0, "episode": 1, "return": -3.5, "length": 20, "of": 2}
            write_json(path, [video | {"action": "mean"}])
        return path, lambda: write_page(place.run, summary)

    return target


def _policy(place: Place) -> tuple[Path, Read]:
    return place.run / "policy.safetensors", lambda: load_policy(place.run / "policy.safetensors")


def _checkpoint(place: Place) -> tuple[Path, Read]:
    path = place.run / "checkpoint.safetensors"
    write_tensors(path, {"0.a": torch.zeros(3)}, {"progress": "{}", "config": "0"})
    return path, lambda: RunFolder(place.run).checkpoint()


def _array_file(kind: str) -> Callable[[Place], tuple[Path, Read]]:
    def target(place: Place) -> tuple[Path, Read]:
        path = place.empty / f"bad.{kind}"
        if kind == "npz":
            np.savez(path, **few_steps())
        else:
            with h5py.File(path, "w") as file:
                for name, values in few_steps().items():
                    file[name] = values

        def read() -> None:
            with open_steps(path) as steps:
                info = describe("fuzzed", steps)
                list(checked(episodes(steps, "fuzzed", "keep"), info))

        return path, read

    return target


def _packed(name: str) -> Callable[[Place], tuple[Path, Read]]:
    """A cache is not refused, but made again."""

    def target(place: Place) -> tuple[Path, Read]:
        folder, steps = place.empty / "packed", Steps(**few_steps())

        def load() -> Trajectories:
            return load_or_pack(folder, "f", lambda: (episodes(steps, "fuzzed", "keep"), describe("fuzzed", steps)))

        expected = _arrays(load())

        def read() -> None:
            assert all((own == other).all() for own, other in zip(_arrays(load()), expected, strict=True))

        return folder / name, read

    return target


def _arrays(data: Trajectories) -> list[Any]:
    return [np.array(array) for array in (data.observations, data.actions, data.rewards, data.offsets, data.terminated)]


def _dataset(name: str) -> Callable[[Place], tuple[Path, Read]]:
    def target(place: Place) -> tuple[Path, Read]:
        id = RunFolder(place.run).config().dataset.id  # type: ignore[union-attr]
        return dataset_folder(id) / "data" / name, lambda: minari_source.load(id)

    return target


def _of_parts(data_format: str, pattern: str) -> Callable[[Place], tuple[Path, Read]]:
    """Observations of several parts, which Minari's own code writes and reads."""

    def target(place: Place) -> tuple[Path, Read]:
        id, steps = f"fuzzed/parts-{data_format}-v0", few_steps()
        space = gym.spaces.Dict({"angle": gym.spaces.Box(-1e3, 1e3, (3,)), "goal": gym.spaces.Box(-1e3, 1e3, (3,))})
        seen = np.concatenate([steps["observations"], steps["observations"][-1:]])
        fields = {name: steps[name] for name in ("actions", "rewards", "terminations", "truncations")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on authors and the like
            minari.create_dataset_from_buffers(
                id,
                [EpisodeBuffer(observations={"angle": seen, "goal": seen}, **fields)],
                observation_space=space,
                action_space=gym.spaces.Box(-1.0, 1.0, (1,)),
                data_format=data_format,
            )
        return min((dataset_folder(id) / "data").rglob(pattern)), lambda: minari_source.load(id)

    return target


# Each puts a file in its place and says how it is read.
FILES: dict[str, Callable[[Place], tuple[Path, Read]]] = {
    "config.yaml": _configuration,
    "summary.json": _summary,
    "evaluations.csv": _episodes,
    "failure.json": _failure,
    **{name: _on_the_page(name) for name in ("metrics.csv", "weights.csv", "curation.csv", "videos/videos.json")},
    "policy.safetensors": _policy,
    "checkpoint.safetensors": _checkpoint,
    "an npz file": _array_file("npz"),
    "an HDF5 file": _array_file("hdf5"),
    **{f"a packed cache's {name}": _packed(name) for name in ("packed.json", "rewards.npy", "offsets.npy")},
    **{f"a Minari dataset's {name}": _dataset(name) for name in ("metadata.json", "main_data.hdf5")},
    "a Minari dataset of parts in HDF5": _of_parts("hdf5", "main_data.hdf5"),
    "a Minari dataset of parts in Arrow": _of_parts("arrow", "*.arrow"),
}
VALIDATOR = "settings"
TARGETS = (VALIDATOR, *FILES)


# --- what they are given ---------------------------------------------------------------------------------------------

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def fuzz_settings(chosen: settings) -> Any:
    """A property: any values in some places of a configuration."""
    plain = to_plain(compose())
    places = [(group,) for group in plain] + [(g, name) for g, v in plain.items() if isinstance(v, dict) for name in v]

    @chosen
    @given(st.lists(st.tuples(st.sampled_from(places), _values), min_size=1, max_size=3))
    def fuzz(changes: list[tuple[tuple[str, ...], Any]]) -> None:
        changed = json.loads(json.dumps(plain))
        for place, value in changes:
            inner = changed
            for name in place[:-1]:
                inner = inner[name] if isinstance(inner.get(name), dict) else inner.setdefault(f"_{name}", {})
            inner[place[-1]] = value
        try:
            composed = OmegaConf.create(changed)
        except Exception:  # no YAML file holds this
            return
        accepted_or_refused(lambda: validate(composed))

    return fuzz


def fuzz_file(path: Path, read: Read, chosen: settings) -> Any:
    """A property: a file cut, changed, doubled, or another altogether."""
    good = path.read_bytes()
    places = st.integers(0, len(good) - 1)
    flips = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)

    def flipped(changes: list[tuple[int, int]]) -> bytes:
        content = bytearray(good)
        for place, byte in changes:
            content[place] = byte
        return bytes(content)

    swapped = st.tuples(places, places, st.binary(max_size=30)).map(lambda t: good[: t[0]] + t[2] + good[t[1] :])

    @chosen
    @given(flips.map(flipped) | swapped | st.binary(max_size=200) | places.map(lambda n: good[:n]))
    def fuzz(content: bytes) -> None:
        path.write_bytes(content)
        accepted_or_refused(read)

    return fuzz


def settings_of(examples: int, always_the_same: bool) -> settings:
    """How hypothesis goes about it."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=always_the_same,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # what is found says enough; shrinking it takes minutes
    )


def property_of(target: str, place: Place, chosen: settings) -> Any:
    """What hypothesis calls with its examples."""
    return fuzz_settings(chosen) if target == VALIDATOR else fuzz_file(*FILES[target](place), chosen)


# --- for a time ------------------------------------------------------------------------------------------------------


def _by_hypothesis(target: str, place: Place, seconds: float) -> None:
    begun, tried = time.monotonic(), 0
    fuzz = property_of(target, place, settings_of(100, always_the_same=False))
    while time.monotonic() - begun < seconds:
        fuzz()
        tried += 100
    print(f"number_of_executed_units: {tried}")


def _by_atheris(target: str, place: Place, seconds: float) -> None:
    import atheris

    functions = [one for one in gc.get_objects() if type(one) is types.FunctionType]
    for function in functions:
        if str(function.__module__).startswith(_INSTRUMENTED):
            atheris.instrument_func(function)
    kept = _folder(target)
    if target == VALIDATOR:
        test = fuzz_settings(settings_of(100, always_the_same=False)).hypothesis.fuzz_one_input
    else:
        path, read = FILES[target](place)
        (kept / "corpus" / "whole").write_bytes(path.read_bytes())

        def test(content: bytes) -> None:
            path.write_bytes(content)
            accepted_or_refused(read)

    limits = (f"-max_total_time={seconds:.0f}", "-timeout=120", "-rss_limit_mb=6000", "-print_final_stats=1", "-verbosity=0")
    atheris.Setup([sys.argv[0], str(kept / "corpus"), f"-artifact_prefix={kept}/found-", "-close_fd_mask=1", *limits], test)
    atheris.Fuzz()


def _folder(target: str) -> Path:
    folder = (_KEPT / re.sub(r"\W+", "-", target)).absolute()
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    return folder


def _alone(target: str, engine: str, seconds: float) -> None:
    """What the process of one target does; atheris ends it."""
    root = Path(tempfile.mkdtemp())
    os.environ |= {"MINARI_DATASETS_PATH": str(root / "datasets"), "IWBC_CACHE": str(root / "cache")}
    (root / "datasets").mkdir()
    (root / "empty").mkdir()
    place = Place(make_run(root), root / "empty")
    (_by_atheris if engine == "atheris" else _by_hypothesis)(target, place, seconds)


def _in_its_process(target: str, engine: str, minutes: float) -> dict[str, Any]:
    """How many examples of a target were tried, in how many seconds of the processor, and whether one broke it."""
    command = ["-m", "benchmarks.fuzz", f"target={target}", f"minutes={minutes}", f"engine={engine}"]
    before = _seconds()
    with tempfile.TemporaryDirectory(prefix="iwbc-fuzz-") as folder:
        environment = os.environ | {"TMPDIR": folder}
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, errors="replace")
    said = done.stdout + done.stderr
    if done.returncode:
        (_folder(target) / "found.log").write_text(said)
    tried = sum(int(count) for count in re.findall(r"number_of_executed_units: (\d+)", said))
    return {"tried": tried, "seconds": round(_seconds() - before, 1), "broken": done.returncode != 0}


@dataclass
class Options(Settings):
    minutes: float = 1.0
    engine: str = setting("hypothesis", choices=("hypothesis", "atheris"))
    only: str = ""
    out: Path | None = None
    target: str = setting("", choices=("", *TARGETS))


def main(arguments: Sequence[str]) -> None:
    chosen = parse(arguments, Options)
    engine, minutes = chosen.engine, chosen.minutes
    if engine == "atheris" and importlib.util.find_spec("atheris") is None:
        raise UserError("engine=atheris: is not installed; pip install atheris, or take engine=hypothesis")
    if chosen.target:
        _alone(chosen.target, engine, 60 * minutes)
        return
    targets = [target for target in TARGETS if chosen.only in target]
    if not targets:
        raise UserError(f"only={chosen.only}: no such target; there are {', '.join(TARGETS)}")
    found = {}
    for target in targets:
        found[target] = _in_its_process(target, engine, minutes / len(targets))
        how = f": broken, see {_folder(target) / 'found.log'}" if found[target]["broken"] else ""
        print(f"{target}: {found[target]['tried']:,} in {found[target]['seconds']:.0f} s{how}", flush=True)
    total = sum(one["seconds"] for one in found.values())
    print(f"{sum(one['tried'] for one in found.values()):,} in {total / 60:.1f} minutes of the processor")
    if chosen.out is not None:
        write_json(chosen.out, {"engine": engine, "targets": found})
    if any(one["broken"] for one in found.values()):
        sys.exit(1)


def _seconds() -> float:
    """Of the processor, of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    run(main, __doc__)
