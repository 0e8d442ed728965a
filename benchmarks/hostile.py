"""Hostile and broken input through the real commands: does each end in one clear line, with nothing harmed?

    python -m benchmarks.hostile [only=WORD] [out=FILE]

A case is a command with something wrong: a setting, an option, a file, a folder, an environment, a disk, a server. It passes
where the exit code is the one expected, the error stream holds one line (none for exit code 0) that names the key or the file,
there is no traceback, no code from any file has run, and the results that were there before are untouched. Prints a line for
each case that does not pass, and N of M; exit code 1 where any does not. `only` keeps the cases whose name holds the word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import pickle
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from benchmarks.common import few_steps
from iwbc.settings import Settings
from iwbc.system.arguments import parse
from iwbc.system.arguments import run as run_command
from iwbc.system.files import write_json

_PATIENCE = 600.0  # seconds for a command to end, also on a machine that is busy with other things
_SMALL_DISK = Path(tempfile.gettempdir()) / f"iwbc-small-disk-{os.getpid()}"
ID = "hostile/pendulum/random-v0"
_DATA = ("env=from_dataset", "dataset=minari", f"dataset.id={ID}", "env.max_episode_steps=10")
_QUICK = (
    *("policy.hidden=[8]", "reference.steps=20", "reference.batch_size=16", "algo.batch_size=16", "algo.steps=20"),
    *("algo.warmup_steps=0", "curation=top_fraction", "curation.fraction=0.5", "eval.episodes=1", "eval.every=0", "threads=1"),
)
_RUN = (*_DATA, *_QUICK, "hydra.run.dir=new")


@dataclass(frozen=True)
class World:
    """What cases find: `run` and `other`, finished runs; `cut`, one that was interrupted; `bait`, which must never appear."""

    root: Path

    @property
    def bait(self) -> Path:
        return self.root / "bait"


@dataclass(frozen=True)
class Case:
    """`make` prepares the working directory and gives the command, as iwbc's module and arguments. `says` must be in the line;
    `apart` runs it in a process of its own."""

    name: str
    make: Callable[[World], tuple[str, ...]]
    says: str = ""
    code: int = 2
    apart: bool = False


class Explosive:
    """Pickled, it writes the bait when it is loaded."""

    def __init__(self, bait: Path) -> None:
        self.bait = bait

    def __reduce__(self) -> Any:
        return Path.touch, (self.bait,)


# --- settings ------------------------------------------------------------------------------------------------------------

_VALUES = (0, -1, math.nan, math.inf, 10**23, "word", [1], {"a": 1}, True)


def settings_cases() -> Iterator[Case]:
    """Every setting that is a number or a list of them, in a run folder that is resumed, which needs no composing."""
    from iwbc import settings

    base = settings.Config(dataset=settings.Minari(ID), curation=settings.All(), device="cuda:99")
    groups: list[tuple[str, settings.Settings]] = [
        ("", base),
        ("eval", base.eval),
        ("reference", base.reference),
        ("env", base.env),
    ]
    groups += [("algo", kind()) for kind in settings.ALGORITHMS.values()]
    groups += [("policy", kind()) for kind in settings.POLICIES.values()]
    groups += [("dataset", settings.Generated()), ("dataset", settings.Demonstrations())]
    needs: dict[str, tuple[Any, ...]] = {"threshold": (1.0,), "weights": ("weights.csv",)}
    groups += [("curation", kind(*needs.get(name, ()))) for name, kind in settings.CURATIONS.items()]
    for group, own in groups:
        config = dataclasses.replace(base, **({group: own} if group else {}))
        for one in fields(own):  # type: ignore[arg-type]
            key = f"{group}.{one.name}" if group else one.name
            if any(word in str(one.type) for word in ("int", "float")):
                for value in _VALUES:

                    def make(
                        world: World, config: Any = config, group: str = group, name: str = one.name, value: Any = value
                    ) -> tuple[str, ...]:
                        plain = settings.to_plain(config)
                        (plain[group] if group else plain)[name] = value
                        Path("bad").mkdir()
                        Path("bad/config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
                        return "train", "resume=bad"

                    # What may be is stopped by the device, which comes after all checks of settings.
                    kind = type(own).__name__
                    yield Case(
                        f"setting {kind}.{one.name}={value}", make, f"{key}|{one.name}=|not all settings are there|cuda:99"
                    )


_COMMAND_LINES = {
    "=3": "=3",
    "env=3": "env=3",
    "seed=1 =3": "=3",
    "env=nope": "env/nope",
    "algo=nope": "Available options",
    "nope=1": "nope",
    "algo.nope=1": "algo.nope",
    "+nope=1": "nope",
    "++algo.nope=1": "algo.nope",
    "~algo": "algo",
    "algo=null": "algo",
    "policy=3": "policy",
    "env.kwargs=3": "env.kwargs",
    "env.imports=3": "env.imports",
    "env.imports=[nope_nope]": "nope_nope",
    "env.id=nope:Nope-v0": "nope",
    "algo.lr=1 algo.lr=-2": "algo.lr",
    "algo.lr=${nope}": "nope",
    "algo.lr=${oc.env:NOPE}": "NOPE",
    "algo.lr=${": "algo.lr",
    "seeds=[0,": "seeds",
    "seeds=[0,0]": "seeds",
    "-m env=3": "env=3",
    "-m algo.lr=range(": "algo.lr",
    "--cfg": "--cfg",
    "--cfg nope": "nope",
    "--info nope": "nope",
    "--config-name nope": "nope",
    "--config-dir nope": "nope",
    "--run --multirun": "--run",
    "--nope": "--nope",
    "-x": "-x",
    "--experimental-rerun nope.pickle": "pickle",
    "--shell-completion": "shell-completion",
    "hydra/launcher=nope": "nope",
    "hydra/sweeper=nope": "nope",
    "hydra.run.dir=/dev/null/run": "/dev/null",
    "hydra.mode=nope": "hydra.mode",
    "resume=": "not a run folder",
    "resume=nope": "nope",
    "resume=run algo.lr=3": "algo.lr=3",
    "seed=1 resume=run": "resume",
    "device=tpu": "device=tpu",
    "dataset.id=a": "dataset.id",
    "dataset=minari dataset.id=../../etc-v0": "../../etc-v0",
    "dataset=minari dataset.id=/etc/passwd-v0": "/etc/passwd-v0",
    "dataset=minari dataset.id=a/../../b-v0": "a/../../b-v0",
    "dataset=minari dataset.id=iwbc/none/medium-v1": "has not been generated",
    "dataset=minari dataset.id=mujoco/hopper/medium-v0": "HF_HUB_OFFLINE",
    "dataset=d4rl dataset.path=nope.hdf5": "nope.hdf5",
    "dataset=d4rl dataset.path=run": "run: no such file",
    "policy._target_=os.system": "policy._target_",
    "+policy._target_=nope": "_target_",
}


def _command(module: str, line: str) -> Callable[[World], tuple[str, ...]]:
    return lambda world: (module, *line.split())


def command_lines() -> Iterator[Case]:
    for line, says in _COMMAND_LINES.items():
        yield Case(f"train {line}", _command("train", line), says)
    others = {
        "evaluate": (
            ("run=nope", "nope"),
            ("nope=1", "nope"),
            ("", "run="),
            ("run=run episodes=0", "episodes"),
            ("--run=run", "run="),
        ),
        "verify": (("run=nope", "nope"), ("run=run replay=maybe", "replay"), ("", "run="), ("run=cut", "not finished")),
        "report": (("nope", "nope"), ("", "at least one"), ("run out=run", "holds other things"), ("run mixed=3", "mixed")),
        "data.generate": (
            ("env=nope tier=medium", "nope"),
            ("env=hopper tier=nope", "tier"),
            ("env=hopper tier=medium steps=0", "steps"),
        ),
        "data.convert": (
            ("nope.npz id=a-v0", "nope.npz"),
            ("nope.npz", "id"),
            ("a b", "one file"),
            ("nope.npz id=..-v0", "nope.npz"),
        ),
    }
    for module, lines in others.items():
        for line, says in lines:
            yield Case(f"{module} {line}", _command(module, line), says)


# --- files of arrays -------------------------------------------------------------------------------------------------------


def _npz(**changes: Any) -> Callable[[World], tuple[str, ...]]:
    def make(world: World) -> tuple[str, ...]:
        np.savez("bad.npz", **few_steps(**changes))
        return "data.convert", "bad.npz", "id=new/data-v0"

    return make


def _written(name: str, content: bytes | Callable[[World], bytes]) -> Callable[[World], tuple[str, ...]]:
    def make(world: World) -> tuple[str, ...]:
        Path(name).write_bytes(content(world) if callable(content) else content)
        return "data.convert", name, "id=new/data-v0"

    return make


def _good_npz(world: World) -> bytes:
    file = io.BytesIO()
    np.savez(file, **few_steps())
    return file.getvalue()


def _claiming(world: World) -> bytes:
    """An npz whose header promises far more than is there."""
    file = io.BytesIO()
    np.savez(file, **few_steps())
    return (
        file.getvalue().replace(b"(40, 3)", b"(40, 3" + b"0" * 0 + b")").replace(b"'shape': (40, 3), }", b"'shape': (9e9,), }")
    )


def _hdf5(change: Callable[[Any, World], None]) -> Callable[[World], tuple[str, ...]]:
    def make(world: World) -> tuple[str, ...]:
        import h5py

        with h5py.File("bad.hdf5", "w") as file:
            for name, value in few_steps().items():
                file[name] = value
            change(file, world)
        return "data.convert", "bad.hdf5", "id=new/data-v0"

    return make


def _flipped_hdf5(seed: int) -> Callable[[World], tuple[str, ...]]:
    def make(world: World) -> tuple[str, ...]:
        _hdf5(lambda file, w: None)(world)
        content, random = bytearray(Path("bad.hdf5").read_bytes()), np.random.default_rng(seed)
        for place in random.integers(0, 2000, 20):  # where the structure is
            content[place] ^= 1 << int(random.integers(8))
        Path("bad.hdf5").write_bytes(content)
        return "data.convert", "bad.hdf5", "id=new/data-v0"

    return make


def _replace(name: str, value: Any) -> Callable[[Any, World], None]:
    def change(file: Any, world: World) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


def _external(file: Any, world: World) -> None:
    import h5py

    del file["rewards"]
    file["rewards"] = h5py.ExternalLink("/etc/passwd", "/rewards")


def _loop(file: Any, world: World) -> None:
    import h5py

    del file["rewards"]
    file["rewards"] = h5py.SoftLink("/rewards")


def array_files() -> Iterator[Case]:
    zeros = np.zeros
    npz: dict[str, tuple[dict[str, Any], str]] = {
        "no actions": ({"actions": None}, "has no actions"),
        "no ends": ({"truncations": None}, "truncations"),
        "NaN observations": ({"observations": np.full((40, 3), np.nan, np.float32)}, "observations"),
        "infinite rewards": ({"rewards": np.full(40, np.inf)}, "rewards"),
        "rewards beyond float32": ({"rewards": np.full(40, 1e300)}, "rewards"),
        "actions out of bounds": ({"actions": np.full((40, 1), 7.0)}, "actions"),
        "discrete actions": ({"actions": zeros((40, 1), int)}, "discrete"),
        "flat actions": ({"actions": zeros(40)}, "actions"),
        "images": ({"observations": zeros((40, 8, 8, 3), np.uint8)}, "observations"),
        "no observations in rows": ({"observations": zeros((40, 0))}, "observations"),
        "too few rewards": ({"rewards": zeros(39)}, "rewards"),
        "two rewards a step": ({"rewards": zeros((40, 2))}, "rewards"),
        "no steps": ({name: zeros((0, 2)) for name in ("observations", "actions")}, "no steps"),
        "words": ({"observations": np.array([["a"] * 3] * 40)}, "observations"),
        "complex numbers": ({"rewards": zeros(40, complex)}, "rewards"),
        "dates": ({"rewards": zeros(40, "datetime64[s]")}, "rewards"),
        "ends that are 2": ({"terminations": np.full(40, 2)}, "terminations"),
        "a number": ({"actions": np.float32(3)}, "actions"),
        "wrong successes": ({"successes": zeros(3)}, "successes"),
        "next observations of another width": ({"next_observations": zeros((40, 2))}, "next_observations"),
    }
    for name, (changes, says) in npz.items():
        yield Case(f"npz with {name}", _npz(**changes), says)
    yield Case("npz of objects", lambda w: _npz(rewards=np.array([Explosive(w.bait)] * 40, dtype=object))(w), "rewards")
    raw: dict[str, tuple[str, Any]] = {
        "empty npz": ("bad.npz", b""),
        "npz of text": ("bad.npz", b"hello"),
        "npz that is a pickle": ("bad.npz", lambda w: pickle.dumps(Explosive(w.bait))),
        "npz cut in half": ("bad.npz", lambda w: _good_npz(w)[:900]),
        "npz without its end": ("bad.npz", lambda w: _good_npz(w)[:-30]),
        "npz with an impossible shape": ("bad.npz", _claiming),
        "npz with flipped bits": ("bad.npz", lambda w: bytes(b ^ (i % 97 == 5) for i, b in enumerate(_good_npz(w)))),
        "empty hdf5": ("bad.hdf5", b""),
        "hdf5 of text": ("bad.hdf5", b"hello"),
        "hdf5 with only a signature": ("bad.hdf5", b"\x89HDF\r\n\x1a\n"),
        "file without a known name": ("bad", b"hello"),
    }
    for name, (file, content) in raw.items():
        yield Case(name, _written(file, content), file)
    for seed in range(6):
        # Where the flips happen to hit nothing that is read, the file is as good as before.
        yield Case(f"hdf5 with flipped bits, {seed}", _flipped_hdf5(seed), "bad.hdf5|new/data-v0", code=-2, apart=True)
    hdf5: dict[str, Callable[[Any, World], None]] = {
        "a group for rewards": lambda file, w: _replace("rewards", None)(file, w) or file.create_group("rewards"),
        "no rewards": _replace("rewards", None),
        "words for rewards": _replace("rewards", [b"a"] * 40),
        "a link to another file": _external,
        "a link to itself": _loop,
        "a compound type": _replace("rewards", np.zeros(40, [("a", "f4"), ("b", "f4")])),
        "an empty array": _replace("rewards", np.zeros(0)),
    }
    for name, change in hdf5.items():
        yield Case(f"hdf5 with {name}", _hdf5(change), "rewards")
    good: dict[str, dict[str, Any]] = {
        "one trajectory": {"truncations": np.arange(40) == 39},
        "trajectories of one step": {"truncations": np.ones(40, bool)},
        "constant returns": {"rewards": np.ones(40, np.float32)},
        "big-endian numbers": {"rewards": np.arange(40, dtype=">f4")},
        "half precision": {"observations": np.zeros((40, 3), np.float16)},
        "arrays in Fortran's order": {"observations": np.asfortranarray(np.random.default_rng(0).normal(size=(40, 3)))},
    }
    for name, changes in good.items():
        yield Case(f"npz with {name} is fine", _npz(**changes), code=0)


# --- Minari --------------------------------------------------------------------------------------------------------------


def _minari(change: Callable[[Path, World], None], *settings: str) -> Callable[[World], tuple[str, ...]]:
    """Train on a copy of the dataset, changed."""

    def make(world: World) -> tuple[str, ...]:
        datasets = Path(os.environ["MINARI_DATASETS_PATH"])
        shutil.copytree(datasets / ID, datasets / "hostile/bad-v0", ignore=shutil.ignore_patterns("packed*"))
        change(datasets / "hostile/bad-v0" / "data", world)
        return "train", *_RUN, "dataset.id=hostile/bad-v0", *settings

    return make


def _metadata(**changes: Any) -> Callable[[Path, World], None]:
    def change(data: Path, world: World) -> None:
        metadata = json.loads((data / "metadata.json").read_text())
        for key, value in changes.items():
            if value is None:
                metadata.pop(key, None)
            else:
                metadata[key] = value(metadata.get(key)) if callable(value) else value
        (data / "metadata.json").write_text(json.dumps(metadata))

    return change


def _spec(**changes: Any) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | changes)


def _in_hdf5(change: Callable[[Any], None]) -> Callable[[Path, World], None]:
    def apply(data: Path, world: World) -> None:
        import h5py

        with h5py.File(data / "main_data.hdf5", "a") as file:
            change(file)

    return apply


def _set(name: str, value: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[name]
        file[name] = value

    return change


def _cut(name: str, keep: int) -> Callable[[Path, World], None]:
    return lambda data, world: (data / name).write_bytes((data / name).read_bytes()[:keep]) and None  # type: ignore[func-returns-value]


def minari() -> Iterator[Case]:
    module = "hostile_module"
    cases: dict[str, tuple[Callable[[Path, World], None], str]] = {
        "without metadata": (lambda data, w: (data / "metadata.json").unlink(), "holds no dataset"),
        "with empty metadata": (_cut("metadata.json", 0), "metadata.json"),
        "with half its metadata": (_cut("metadata.json", 100), "metadata.json"),
        "with a list for metadata": (lambda data, w: (data / "metadata.json").write_text("[]") and None, "metadata.json"),  # type: ignore[func-returns-value]
        "without an action space": (_metadata(action_space=None), "action_space"),
        "with a discrete action space": (_metadata(action_space='{"type": "Discrete", "n": 3, "start": 0}'), "actions"),
        "with an unknown space": (_metadata(action_space='{"type": "Nope"}'), "cannot be opened"),
        "with an unknown format": (_metadata(data_format="nope"), "hostile/bad-v0"),
        "with no episodes": (_metadata(total_episodes=0), "no episodes"),
        "with more episodes than are there": (_metadata(total_episodes=99), "episode"),
        "with a count that is a word": (_metadata(total_episodes="many"), "hostile/bad-v0"),
        "with a damaged environment": (_metadata(env_spec="{", eval_env_spec=None), "environment"),
        "with a spec that is a list": (_metadata(env_spec="[1]", eval_env_spec=None), "environment"),
        "with reference scores that are words": (_metadata(ref_min_score="low", ref_max_score="high"), "ref_min_score"),
        "without data": (lambda data, w: (data / "main_data.hdf5").unlink(), "hostile/bad-v0"),
        "with half its data": (_cut("main_data.hdf5", 3000), "hostile/bad-v0"),
        "with empty data": (_cut("main_data.hdf5", 0), "hostile/bad-v0"),
        "without an episode": (_in_hdf5(lambda file: file.pop("episode_1") and None), "episode 1"),  # type: ignore[func-returns-value]
        "with an episode of other lengths": (_in_hdf5(_set("episode_1/rewards", np.zeros(3))), "episode 1"),
        "with NaN": (_in_hdf5(_set("episode_1/rewards", np.full(10, np.nan))), "episode 1"),
        "with words": (_in_hdf5(_set("episode_1/rewards", [b"a"] * 10)), "episode 1"),
        "with a wider episode": (_in_hdf5(_set("episode_1/observations", np.zeros((11, 4)))), "episode 1"),
    }
    for name, (change, says) in cases.items():
        yield Case(f"Minari dataset {name}", _minari(change), says)
    spec = {
        "that names a module": _spec(id="Nope-v0", entry_point=f"{module}:Env"),
        "whose id names a module": _spec(id=f"{module}:Nope-v0"),
        "with a wrapper of its own": _spec(
            additional_wrappers=[{"name": "Nope", "entry_point": f"{module}:Nope", "kwargs": {}}]
        ),
    }
    for name, changed in spec.items():
        # It imports nothing. As settings of its environment are given, training without evaluation is no way out.
        yield Case(f"Minari environment {name}", _minari(_metadata(env_spec=changed, eval_env_spec=None)), "environment ")
    yield Case(
        "Minari arguments that the environment does not know",
        _minari(_metadata(env_spec=_spec(kwargs={"nope": 1}), eval_env_spec=None)),
        "environment ",
    )


# --- run folders -----------------------------------------------------------------------------------------------------------


def _damaged(source: str, file: str, content: Any, *command: str) -> Callable[[World], tuple[str, ...]]:
    """A copy of a run with a file replaced: by bytes, or by what a function makes of the good ones."""

    def make(world: World) -> tuple[str, ...]:
        shutil.copytree(world.root / source, "bad")
        path = Path("bad") / file
        good = path.read_bytes() if path.exists() else b""
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content(good, world) if callable(content) else content)
        return tuple(part.replace("FOLDER", "bad") for part in command)

    return make


_RESUME, _EVALUATE, _VERIFY = ("train", "resume=FOLDER"), ("evaluate", "run=FOLDER"), ("verify", "run=FOLDER")
_REPORT = ("report", "FOLDER", "out=new")


def _flip(good: bytes, world: World) -> bytes:
    return good[:-40] + bytes([good[-40] ^ 16]) + good[-39:]


def _json(**changes: Any) -> Callable[[bytes, World], bytes]:
    return lambda good, world: json.dumps(json.loads(good) | changes).encode()


def _of(source: str, file: str) -> Callable[[bytes, World], bytes]:
    return lambda good, world: (world.root / source / file).read_bytes()


def _text(old: str, new: str) -> Callable[[bytes, World], bytes]:
    def change(good: bytes, world: World) -> bytes:
        assert old.encode() in good, old
        return good.replace(old.encode(), new.replace("BAIT", str(world.bait)).encode(), 1)

    return change


def run_folders() -> Iterator[Case]:
    def pickled(good: bytes, world: World) -> bytes:
        return pickle.dumps(Explosive(world.bait))

    def torch_saved(good: bytes, world: World) -> bytes:
        import torch

        file = io.BytesIO()
        torch.save(Explosive(world.bait), file)
        return file.getvalue()

    files: dict[str, Any] = {
        "empty": b"",
        "cut": lambda good, w: good[: len(good) // 2],
        "flipped": _flip,
        "pickled": pickled,
        "torch.saved": torch_saved,
        "of text": b"hello",
        "with a huge header": b"\xff" * 8 + b"{}",
    }
    for name, content in files.items():
        yield Case(f"checkpoint {name}", _damaged("cut", "checkpoint.safetensors", content, *_RESUME), "checkpoint.safetensors")
        yield Case(f"policy {name}", _damaged("run", "policy.safetensors", content, *_EVALUATE), "policy.safetensors")
    for name in ("empty", "cut", "flipped", "of text"):
        yield Case(f"unfinished metrics {name}", _damaged("cut", "metrics.csv", files[name], *_RESUME), "metrics.csv")
    yield Case(
        "unfinished metrics with half a row more",
        _damaged("cut", "metrics.csv", lambda good, w: good + b"20,0,0.", *_RESUME),
        code=0,
    )
    yield Case("policy flipped, verified", _damaged("run", "policy.safetensors", _flip, *_VERIFY), "policy.safetensors", code=1)
    # One run's file in the place of another's: the run that is harmed and its file, where that comes from, the command.
    checkpoint, policy = "checkpoint.safetensors", "policy.safetensors"
    for what, harmed, taken, command, says in (
        ("checkpoint of another run", ("cut", checkpoint), ("othercut", checkpoint), _RESUME, "another configuration"),
        ("checkpoint that is a policy", ("cut", checkpoint), ("run", policy), _RESUME, checkpoint),
        ("policy that is a checkpoint", ("run", policy), ("cut", checkpoint), _EVALUATE, policy),
        ("policy of another environment", ("run", policy), ("other", policy), _EVALUATE, "observations|policy"),
    ):
        yield Case(what, _damaged(*harmed, _of(*taken), *command), says)
    yield Case(
        "policy of another environment, verified",
        _damaged("run", "policy.safetensors", _of("other", "policy.safetensors"), *_VERIFY),
        "policy.safetensors",
        code=1,
    )
    configs: dict[str, Any] = {
        "empty": b"",
        "of bytes": b"\x00\xff\x00",
        "a list": b"[1, 2]",
        "cut": lambda good, w: good[: len(good) // 2],
        "with a tag that runs": lambda good, w: good + f"x: !!python/object/apply:os.system ['touch {w.bait}']\n".encode(),
        "with a tag that makes": lambda good, w: good + f"x: !!python/object/new:pathlib.Path ['{w.bait}']\n".encode(),
        "with a _target_": _text("policy:\n", "policy:\n  _target_: os.system\n"),
        "with only a _target_": lambda good, w: _text("algo:\n", "algo:\n  _target_: os.system\n")(good, w),
        "with an import": _text("imports: []", "imports:\n  - hostile_module"),
        "with an interpolation": _text("device: cpu", "device: ${oc.env:HOME}"),
        "with a resolver": _text("device: cpu", "device: ${job_key:}"),
        "with a wrong number": _text("steps: 20", "steps: -3"),
        "without a setting": _text("log_every", "log_never"),
        "of a million brackets": b"[" * 100_000,
        "of aliases that explode": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n".encode() for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
    }
    for name, content in configs.items():
        asks = name != "with an import"  # evaluating plays in the summary's environment, which asks for none
        yield Case(f"config {name}, resumed", _damaged("cut", "config.yaml", content, *_RESUME), "bad", apart=False)
        yield Case(
            f"config {name}, evaluated", _damaged("run", "config.yaml", content, *_EVALUATE), "bad", code=2 if asks else 0
        )
    summaries: dict[str, Any] = {
        "empty": b"",
        "a list": b"[]",
        "a number": b"3",
        "cut": lambda good, w: good[: len(good) // 2],
        "of another format": _json(format=1),
        "without totals": _json(totals=None),
        "with words": _json(seeds=["a"]),
        "with a seed without end": _json(seeds=[math.inf]),
        "with an environment that is a word": _json(environment="Pendulum-v1"),
        "with imports": lambda good, w: json.dumps(
            json.loads(good) | {"environment": json.loads(good)["environment"] | {"imports": ["hostile_module"]}}
        ).encode(),
        "of a thousand brackets": b"[" * 100_000,
    }
    for name, content in summaries.items():
        for command in (_RESUME, _EVALUATE, _VERIFY, _REPORT):
            if name == "with imports" and command in (_RESUME, _REPORT):
                continue
            yield Case(f"summary {name}: {command[0]}", _damaged("run", "summary.json", content, *command), "bad", code=2)
    tables: dict[str, Any] = {
        "empty": b"",
        "of bytes": b"\xff\xfe\x00",
        "without a column": _text("return", "reward"),
        "with words": lambda good, w: b"".join([good.splitlines(True)[0], b"final,20,0,zero,mean,a,b,c,d\n"]),
        "cut": lambda good, w: good[: len(good) // 2],
        "of a very long field": lambda good, w: good.splitlines(True)[0] + b"x" * 200_000,
    }
    for name, content in tables.items():
        yield Case(f"episodes {name}: report", _damaged("run", "evaluations.csv", content, *_REPORT), "evaluations.csv")
        yield Case(f"episodes {name}: verify", _damaged("run", "evaluations.csv", content, *_VERIFY), "evaluations.csv", code=1)
    yield Case("metrics of words: report", _damaged("run", "metrics.csv", _text("\n20,0,", "\na,b,"), *_REPORT), "metrics.csv")
    for file in ("weights.csv", "curation.csv"):
        numbers: dict[str, Any] = {
            "of words": lambda good, w: good.splitlines(True)[0] + b"a,b,c,d,e,f\n",
            "without numbers": lambda good, w: good.splitlines(True)[0] + b",,,,,\n",
            "infinite": lambda good, w: good.splitlines(True)[0] + b"inf,inf,inf,inf,inf,inf\n",
            "of another table": _of("run", "metrics.csv"),
            "of bytes": b"\xff\xfe\x00",
        }
        for name, content in numbers.items():
            yield Case(f"{file} {name}: report", _damaged("run", file, content, *_REPORT), file)
    videos: dict[str, bytes] = {
        "cut": b'[{"name": ',
        "a number": b"3",
        "of words": b'["best", "worst"]',
        "without a file": b'[{"name": "best"}]',
        "of a thousand brackets": b"[" * 100_000,
    }
    for name, content in videos.items():
        yield Case(f"videos {name}: report", _damaged("run", "videos/videos.json", content, *_REPORT), "videos.json")
    yield Case(
        "a run of another configuration there",
        lambda w: shutil.copytree(w.root / "run", "new") and ("train", *_RUN, "algo.lr=0.5"),
        "another configuration",
    )  # type: ignore[return-value]
    yield Case("a folder of something else there", lambda w: _with_file("new/notes.txt", "train", *_RUN), code=0)


def _with_file(path: str, *command: str) -> tuple[str, ...]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("mine")
    return command


# --- environments ----------------------------------------------------------------------------------------------------------

_MODULE = """
import gymnasium as gym
import numpy as np

class Broken(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Box(-2.0, 2.0, (1,))

    def __init__(self, how):
        self.how = how
        if how == "init":
            raise RuntimeError("no licence")
        if how == "exit":
            raise SystemExit(3)
        if how == "size":
            self.observation_space = gym.spaces.Box(-1.0, 1.0, (5,))
        if how == "discrete":
            self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        if self.how == "reset":
            raise RuntimeError("no room")
        return self.observe(), {}

    def observe(self):
        if self.how == "shape" and self.steps == 2:
            return np.zeros(4)
        return np.full(3, np.nan if self.how == "hole" and self.steps == 2 else 0.5, np.float32)

    def step(self, action):
        self.steps += 1
        if self.how == "step" and self.steps == 2:
            raise ValueError("stuck")
        if self.how == "four" and self.steps == 2:
            return self.observe(), 0.0, True, {}
        if self.how == "kill" and self.steps == 2:
            import os
            os.kill(os.getpid(), 9)
        reward = {"reward": float("nan"), "word": "high", "none": None, "infinite": float("inf")}.get(self.how, 1.0)
        return self.observe(), reward, self.steps > 9 and self.how != "never", False, {}

gym.registry.pop("Broken-v0", None)
gym.register("Broken-v0", Broken)
"""


def environments() -> Iterator[Case]:
    def make(how: str, threads: int) -> Callable[[World], tuple[str, ...]]:
        def prepare(world: World) -> tuple[str, ...]:
            Path("broken_env.py").write_text(_MODULE)
            arguments = [a for a in _RUN if not a.startswith(("env.", "threads"))]
            imports = ["env.imports=[broken_env]", "env.id=Broken-v0", f"env.kwargs={{how: {how}}}", f"threads={threads}"]
            return "train", *arguments, *imports

        return prepare

    says = {
        **{"init": "no licence", "reset": "no room", "step": "stuck", "four": "ValueError", "shape": "shape", "hole": "NaN"},
        **{"reward": "nan", "word": "reward|ValueError", "none": "reward", "infinite": "inf", "size": "5 observations"},
        **{"discrete": "actions are Discrete", "never": "env.max_episode_steps", "exit": "Broken-v0"},
    }
    for how, word in says.items():
        yield Case(f"an environment that goes wrong: {how}", make(how, 1), word)
    for how in ("step", "init", "hole", "exit"):
        yield Case(f"an environment that goes wrong in a worker: {how}", make(how, 2), f"{says[how]}|worker", apart=True)
    yield Case("an environment that kills its worker", make("kill", 2), "was killed", apart=True)


# --- disks, servers, other processes -----------------------------------------------------------------------------------------


# Converts, and fills the disk with the third episode, when its room has been looked for.
_FILLING = """
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


def disks() -> Iterator[Case]:
    def limited(*command: str) -> Callable[[World], tuple[str, ...]]:
        return lambda world: ("limited", *command)

    yield Case(
        "files may not grow: training",
        limited("iwbc.train", *_RUN, "policy.hidden=[256,256]"),
        "File too large|checkpoint",
        apart=True,
    )
    yield Case(
        "files may not grow: generation",
        limited("iwbc.data.generate", "env=hopper", "tier=random", "steps=3000"),
        "could not be written|File too large",
        apart=True,
    )
    yield Case(
        "files may not grow: conversion",
        lambda w: ("limited", "iwbc.data.convert", *_npz(observations=np.zeros((40, 5000), np.float32))(w)[1:]),
        "could not be written|File too large|too large",
        apart=True,
    )
    yield Case("a folder that is a file", lambda w: _with_file("new", "train", *_RUN), "new")
    yield Case("out is a device", lambda w: ("evaluate", f"run={w.root / 'run'}", "out=/dev/full/episodes.csv"), "/dev/full")
    yield Case(
        "datasets in a file", lambda w: ("datasets=/dev/null", "train", *_RUN), "MINARI_DATASETS_PATH=/dev/null", apart=True
    )
    yield Case("caches in a file", lambda w: ("cache=/dev/null", "train", *_RUN), "/dev/null", apart=True)
    yield Case("more memory than there is", lambda w: ("train", *_RUN, "policy.hidden=[2000000,2000000]"), "memory", apart=True)
    yield Case(
        "a batch larger than memory",
        lambda w: ("train", *_RUN, "algo=bc", "algo.batch_size=1000000000000"),
        "memory",
        apart=True,
    )

    def mounted(size: str) -> None:
        _SMALL_DISK.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(_SMALL_DISK)]
        if subprocess.run(command, capture_output=True).returncode:
            raise NotHere("a small disk cannot be mounted here")

    def full(world: World) -> tuple[str, ...]:
        mounted("300k")
        return "train", *_RUN, f"hydra.run.dir={_SMALL_DISK / 'new'}", "policy.hidden=[256,256]"

    def small_for(*command: str) -> Callable[[World], tuple[str, ...]]:
        def make(world: World) -> tuple[str, ...]:
            ends = np.arange(20_000) % 1000 == 999
            vectors = {"observations": np.ones((20_000, 1000), np.float32), "actions": np.zeros((20_000, 1), np.float32)}
            np.savez("bad.npz", **vectors, rewards=np.ones(20_000), terminations=ends, truncations=ends & False)
            mounted("60m")
            return *command, f"datasets={_SMALL_DISK}", "data.convert", "bad.npz", "id=new/data-v0"

        return make

    yield Case("a full disk", full, "No space left", apart=True)
    yield Case("a disk too small for a dataset", small_for(), "No space left", apart=True)
    yield Case("a disk that others fill under a dataset", small_for("filled"), "No space left", apart=True)
    for value, code, says in (("0", 0, ""), ("1e4", 0, ""), ("1e400", 2, "algo.kappa")):
        yield Case(f"kappa {value}", lambda w, v=value: ("train", *_RUN, f"algo.kappa={v}"), says, code=code)  # type: ignore[misc]
    yield Case("a learning rate of 1000", lambda w: ("train", *_RUN, "algo.lr=1e3"), "algo.lr")
    yield Case("a learning rate of 1e30", lambda w: ("train", *_RUN, "algo.lr=1e30"), "algo.lr")
    yield Case("two of the same run at once", lambda w: ("twice", "iwbc.train", *_RUN), code=0, apart=True)
    for server in ("unreachable", "hanging", "dying", "mute", "failing"):
        yield Case(
            f"W&B's server is {server}",
            lambda w, s=server: (s, *_RUN, "algo=bc", "logger=wandb", "logger.mode=online"),
            "W&B",
            code=-1,
            apart=True,
        )  # type: ignore[misc]


def _damaged_cache(pattern: str, change: Callable[[Path], object]) -> Callable[[World], tuple[str, ...]]:
    def make(world: World) -> tuple[str, ...]:
        roots = (Path(os.environ["MINARI_DATASETS_PATH"]), Path(os.environ["IWBC_CACHE"]))
        found = [path for root in roots for path in root.glob(pattern)]
        assert found, pattern
        for path in found:
            change(path)
        return "train", *_RUN

    return make


def caches() -> Iterator[Case]:
    changes: dict[str, Callable[[Path], object]] = {
        "emptied": lambda path: path.write_bytes(b""),
        "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
        "replaced by text": lambda path: path.write_bytes(b"hello"),
        "deleted": lambda path: path.unlink(),
    }
    for how, change in changes.items():
        for pattern in (
            f"{ID}/packed/packed.json",
            f"{ID}/packed/rewards.npy",
            f"{ID}/packed/offsets.npy",
            "references/*.safetensors",
        ):
            yield Case(f"cache {pattern} {how}", _damaged_cache(pattern, change), code=0)

    def pickled(path: Path) -> None:
        np.save(path, np.array([Explosive(path.parents[4] / "bait")] * 3, dtype=object), allow_pickle=True)

    yield Case("cache of pickled objects", _damaged_cache(f"{ID}/packed/rewards.npy", pickled), code=0)


def cases() -> list[Case]:
    """All of them."""
    parts = (settings_cases, command_lines, array_files, minari, run_folders, environments, disks, caches)
    return [case for part in parts for case in part()]


# --- running them ------------------------------------------------------------------------------------------------------------


class NotHere(Exception):
    """A case that cannot be tried on this machine."""


@dataclass
class Outcome:
    code: int
    err: str
    failed_with: str = ""


def _here(module: str, arguments: Sequence[str]) -> Outcome:
    """A command, within this process."""
    import importlib

    err = io.StringIO()
    main = importlib.import_module(f"iwbc.{module}.__main__" if module == "report" else f"iwbc.{module}").main
    logging = mock.patch("logging.shutdown")  # Hydra's would shut down other libraries' handlers
    silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err)
    try:
        with mock.patch.object(sys, "argv", [module, *arguments]), mock.patch.dict(os.environ), logging, silent[0], silent[1]:
            if module == "train":
                main()
            else:
                run_command(main, None)
    except SystemExit as end:
        return Outcome(int(end.code or 0), err.getvalue())
    except BaseException as error:
        return Outcome(1, err.getvalue(), "".join(traceback.format_exception(error)[-3:]))
    return Outcome(0, err.getvalue())


@contextlib.contextmanager
def wandb_server(how: str) -> Iterator[str]:
    """The address of something in the place of W&B's server. unreachable: nothing is there; hanging: it never says a word. It
    lets a run begin, and from then on — dying: hangs up; mute: says no more; failing: has errors alone."""
    if how in ("unreachable", "hanging"):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            if how == "hanging":
                listening.listen(100)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        return
    over, begun = threading.Event(), threading.Event()
    names = {"name": "iwbc", "entity": {"id": "1", "name": "somebody"}}
    run = {
        "upsertBucket": {
            "bucket": {"id": "1", "name": "run", "config": "{}", "project": {"id": "1", **names}},
            "inserted": True,
        }
    }

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if begun.is_set() and how == "mute":
                over.wait()
            if begun.is_set() and how != "failing":
                self.close_connection = True
                return
            first = b"mutation UpsertBucket" in asked
            answer = json.dumps({"data": run if first else {}}).encode()
            self.send_response(500 if begun.is_set() else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            if first:
                begun.set()

        do_GET = do_POST

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        over.set()
        server.shutdown()


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def _apart(command: Sequence[str]) -> Outcome:
    """A command in a process of its own, in whatever way its first word says."""
    kind, *arguments = command
    environment = os.environ | {"PYTHONPATH": f"{Path.cwd()}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    program = [sys.executable, "-m"]
    with contextlib.ExitStack() as closing:
        if kind == "limited":
            options["preexec_fn"] = _limit
        elif kind.startswith(("datasets=", "cache=")):
            name = "MINARI_DATASETS_PATH" if kind.startswith("datasets") else "IWBC_CACHE"
            environment[name] = kind.partition("=")[2]
            arguments[0] = f"iwbc.{arguments[0]}"
        elif kind == "filled":
            environment["MINARI_DATASETS_PATH"] = arguments[0].removeprefix("datasets=")
            program, arguments = [sys.executable, "-c", _FILLING], arguments[1:]
        elif kind in ("unreachable", "hanging", "dying", "mute", "failing"):
            environment |= {"WANDB_BASE_URL": closing.enter_context(wandb_server(kind)), "WANDB_API_KEY": "0" * 40}
            code = "import iwbc.runs.loggers; iwbc.runs.loggers._PATIENCE = 3.0; from iwbc.train import main; main()"
            program, arguments = [sys.executable, "-c", code], list(arguments)
        elif kind != "twice":
            arguments = [f"iwbc.{kind}", *arguments]
        running = [
            subprocess.Popen([*program, *arguments], env=environment, **options) for _ in range(2 if kind == "twice" else 1)
        ]
        ended = [(process.communicate(timeout=_PATIENCE)[1], process.returncode) for process in running]
    return Outcome(max((code for _, code in ended), key=abs), "".join(err for err, _ in ended))


def _contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def build(root: Path) -> World:
    """The data and the runs that cases begin with."""
    import iwbc
    from iwbc.runs.recorder import Recorder

    world = World(root)
    for name in ("datasets", "cache", "home"):
        (root / name).mkdir()
    (root / "hostile_module.py").write_text(f"import pathlib\npathlib.Path({str(world.bait)!r}).touch()\n")
    os.environ |= {
        "MINARI_DATASETS_PATH": str(root / "datasets"),
        "IWBC_CACHE": str(root / "cache"),
        "HOME": str(root / "home"),
    }
    os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    os.environ.pop("WANDB_API_KEY", None)
    sys.path.insert(0, str(root))
    iwbc.from_arrays(**few_steps(), id=ID, env_id="Pendulum-v1")
    two = few_steps(observations=np.zeros((40, 2), np.float32))
    iwbc.from_arrays(**two, id="hostile/two-v0", env_id="MountainCarContinuous-v0")
    os.chdir(root)
    for folder, *changes in (("run",), ("other", "dataset.id=hostile/two-v0")):
        outcome = _here("train", (*_RUN, *changes, f"hydra.run.dir={folder}"))
        assert outcome.code == 0, outcome
    original = Recorder._checkpoint

    def stopping(self: Recorder, done: int, trainer: Any, plays: bool) -> None:
        original(self, done, trainer, plays)
        self._stop.set()

    with mock.patch.object(Recorder, "_checkpoint", stopping):
        for folder, *changes in (("cut",), ("othercut", "algo=awr")):
            outcome = _here("train", (*_RUN, "checkpoint_every=10", "log_every=5", *changes, f"hydra.run.dir={folder}"))
            assert outcome.code == 130, outcome
    return world


def attempt(case: Case, world: World) -> list[str]:
    """What is wrong with how a case ended. Raises NotHere where it cannot be tried."""
    work, before = world.root / "work", _contents(world.root / "run")
    saved = {name: world.root / f"{name}-saved" for name in ("datasets", "cache")}
    for name, path in saved.items():
        if not path.exists():
            shutil.copytree(world.root / name, path)
    work.mkdir()
    (work / "run").symlink_to(world.root / "run")
    (work / "cut").symlink_to(world.root / "cut")
    os.chdir(work)
    with mock.patch.object(sys, "path", [str(work), *sys.path]):
        try:
            module, *arguments = case.make(world)
            outcome = _apart((module, *arguments)) if case.apart else _here(module, arguments)
        finally:
            os.chdir(world.root)
            left = {path.name for path in work.iterdir()} - {"run", "cut", "bad", "new", "broken_env.py", "__pycache__"}
            left = {name for name in left if not name.startswith("bad.")}
            half = (work / "new").is_dir() and {p.name for p in (work / "new").iterdir()} == set()
            shutil.rmtree(work)
            if _SMALL_DISK.exists():
                subprocess.run(["umount", str(_SMALL_DISK)], capture_output=True)
                _SMALL_DISK.rmdir()
            sys.modules.pop("broken_env", None)
            for name, path in saved.items():
                if not case.name.startswith("setting ") and (name == "cache" or _names(world.root / name) != _names(path)):
                    shutil.rmtree(world.root / name)
                    shutil.copytree(path, world.root / name)
    problems = []
    lines = [
        line
        for line in outcome.err.splitlines()
        if line.strip() and not line.startswith(("Generating", "Converting", "Reading"))
    ]
    allowed = {-1: (0,), -2: (0, 2)}.get(case.code, (case.code,))  # one line and success; either
    if outcome.code not in allowed:
        problems.append(f"exit code {outcome.code}, not {allowed[-1]}")
    if outcome.failed_with or "Traceback" in outcome.err:
        problems.append(f"a traceback: {(outcome.failed_with or outcome.err)[-400:]}")
    wanted = 0 if outcome.code == 0 and case.code != -1 else 1
    if len(lines) != wanted:
        problems.append(f"{len(lines)} lines: {' | '.join(lines)[:300]}")
    elif wanted and case.says and not any(word in lines[0] for word in case.says.split("|")):
        problems.append(f"does not name {case.says}: {lines[0][:300]}")
    if world.bait.exists():
        problems.append("code from a file has run")
        world.bait.unlink()
    if _contents(world.root / "run") != before:
        problems.append("results that were there have changed")
    if left:
        problems.append(f"left behind: {', '.join(sorted(left))}")
    if half:
        problems.append("left an empty folder")
    return problems


@dataclass
class Options(Settings):
    only: str = ""
    out: Path | None = None


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments, Options)
    out = None if given.out is None else given.out.absolute()
    todo = [case for case in cases() if given.only in case.name]
    found: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}
    folder = tempfile.mkdtemp(prefix="iwbc-hostile-")
    try:
        world = build(Path(folder).resolve())
        for case in todo:
            try:
                found[case.name] = attempt(case, world)
            except NotHere as reason:
                skipped[case.name] = str(reason)
            else:
                if found[case.name]:
                    print(f"{case.name}: {'; '.join(found[case.name])}", flush=True)
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    bad = {name: problems for name, problems in found.items() if problems}
    settings = sum(name.startswith("setting ") for name in found)
    print(
        f"{len(found) - len(bad)} of {len(found)} cases ended as they should ({settings} of them values of settings), ", end=""
    )
    print(f"{len(skipped)} could not be tried here{''.join(f' ({name}: {why})' for name, why in skipped.items())}.")
    if out is not None:
        write_json(out, {"cases": len(found), "passed": len(found) - len(bad), "failed": bad, "skipped": skipped})
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    run_command(main, __doc__)
