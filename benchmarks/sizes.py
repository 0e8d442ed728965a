"""What a dataset's size costs: packing, loading, memory and gradient steps at some sizes, of data made up and removed.

`python -m benchmarks.data sizes=[0.1,1,10]` (in GB) calls it and writes benchmarks/results/sizes.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, machine

_OBSERVATION, _ACTION, _LENGTH = 44, 7, 400  # a robot's arm and what it handles, as in robomimic's low-dimensional data
_STEPS = 500


def episodes(count: int) -> Iterator[Any]:
    from iwbc.data.trajectories import Episode

    random = np.random.default_rng(0)
    for _ in range(count):
        observations = random.standard_normal((_LENGTH + 1, _OBSERVATION), np.float32)
        actions = random.uniform(-1.0, 1.0, (_LENGTH, _ACTION)).astype(np.float32)
        yield Episode(observations[:-1], observations[-1], actions, random.random(_LENGTH, np.float32), True)


def anonymous_memory() -> int:
    """Memory of this process that is not of mapped files, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


def forget(folder: Path) -> None:
    """Drop a folder's files from the system's cache."""
    for path in folder.glob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path) -> dict[str, float]:
    """Load, then train filtered BC on the best half for some steps: from cold files, and again."""
    import torch

    from iwbc.algorithms import Ingredients, make_algorithm
    from iwbc.data.curation import curate
    from iwbc.data.packed import load_or_pack
    from iwbc.data.sampling import StepSampler
    from iwbc.data.streams import Stream
    from iwbc.policies import GaussianMLP, Units
    from iwbc.settings import FilteredBC, TopFraction
    from iwbc.training.trainer import Learner

    def never() -> Any:
        raise AssertionError("the packed cache is not used")

    torch.set_num_threads(1)
    before = anonymous_memory()
    start = time.perf_counter()
    data = load_or_pack(folder, "sizes", never)
    loaded = time.perf_counter() - start
    curated = curate(data, TopFraction(0.5))
    policy = GaussianMLP(_OBSERVATION, Units([-1.0] * _ACTION, [1.0] * _ACTION))
    recipe = FilteredBC()
    sampler = StepSampler(curated, 0, recipe.batch_size, Stream.TRAINING)
    learner = Learner(make_algorithm(recipe, Ingredients(policy, None, curated, 0)), sampler, recipe)
    learner.train(0, 20)
    rates = {}
    for name, first in (("cold", 20), ("warm", 20 + _STEPS)):
        if name == "cold":
            forget(folder)
        start = time.perf_counter()
        learner.train(first, first + _STEPS)
        rates[f"{name}_steps_per_second"] = _STEPS / (time.perf_counter() - start)
    return {
        "bytes": sum(path.stat().st_size for path in folder.glob("*.npy")),
        "load_seconds": loaded,
        "memory_bytes": anonymous_memory() - before,
        **rates,
    }


def main(sizes: Sequence[float]) -> None:
    """Make, measure and remove datasets of some sizes in GB."""
    from iwbc.data.packed import pack
    from iwbc.data.trajectories import DatasetInfo

    info = DatasetInfo("made/up-v0", None, [-1.0] * _ACTION, [1.0] * _ACTION, None)
    rows = []
    for size in sizes:
        count = max(2, round(size * 1e9 / (4 * _LENGTH * (_OBSERVATION + _ACTION + 1))))
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "packed"
            start = time.perf_counter()
            pack(episodes(count), info, folder, "sizes")
            packed = time.perf_counter() - start
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.data", f"measure={folder}"]
            told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
        rows.append({"gigabytes": size, "episodes": count, "pack_seconds": packed, **told})
        print(json.dumps(rows[-1]))
    results = {"command": "python -m benchmarks.data sizes=…", "machine": machine(), "rows": rows}
    (RESULTS / "sizes.json").write_text(json.dumps(results, indent=1) + "\n")
