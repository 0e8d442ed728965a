"""What a dataset's size costs: packing, loading, memory and gradient steps at some sizes, of data made up and removed.

`python -m benchmarks.data sizes=[0.1,1,10]` (in GB) calls it and writes benchmarks/results/sizes.json; with images=true the
data are frames of 84 × 84 × 3 and a vector, the policy is of convolutions, memory is the most at any of its steps, and the
file is benchmarks/results/sizes_images.json.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, machine

_OBSERVATION, _ACTION, _LENGTH = 44, 7, 400  # a robot's arm and what it handles, as in robomimic's low-dimensional data
_STEPS = 500
_SHAPE, _VECTOR, _IMAGE_STEPS, _IMAGE_BATCH = (84, 84, 3), 9, 50, 64  # a camera, and the arm's own state


def episodes(count: int, images: bool = False) -> Iterator[Any]:
    from iwbc.data.trajectories import Episode

    random = np.random.default_rng(0)
    for _ in range(count):
        observations = random.standard_normal((_LENGTH + 1, _VECTOR if images else _OBSERVATION), np.float32)
        actions = random.uniform(-1.0, 1.0, (_LENGTH, _ACTION)).astype(np.float32)
        episode = Episode(observations[:-1], observations[-1], actions, random.random(_LENGTH, np.float32), True)
        if images:
            film = random.integers(0, 256, (_LENGTH + 1, *_SHAPE), np.uint8)
            episode = replace(episode, images={"camera": film[:-1]}, final_images={"camera": film[-1]})
        yield episode


def seeing() -> Any:
    """Make a policy of images."""
    import torch
    from torch import Tensor, nn

    class Seeing(nn.Module):
        """A small policy of convolutions, and the most memory that it has seen."""

        def __init__(self) -> None:
            super().__init__()
            self.eye = nn.Sequential(nn.Conv2d(3, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(32 * 9 * 9 + _VECTOR, _ACTION)
            self.most_memory = 0

        def mean_action(self, observations: dict[str, Tensor]) -> Tensor:
            seen = self.eye(observations["camera"].permute(0, 3, 1, 2).float() / 255)
            return self.head(torch.cat([observations["observations"], seen], -1)).tanh()

        def log_prob(self, observations: dict[str, Tensor], actions: Tensor) -> Tensor:
            log_prob = -(actions - self.mean_action(observations)).square().sum(-1)
            self.most_memory = max(self.most_memory, anonymous_memory())
            return log_prob

    return Seeing()


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
    """Load, then train filtered BC on the best half for some steps: from cold files, and again; with images also compute
    log-likelihoods of some steps, as a pass for weights does."""
    import torch

    from iwbc import engine
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
    policy: Any = seeing() if data.images else GaussianMLP(_OBSERVATION, Units([-1.0] * _ACTION, [1.0] * _ACTION))
    recipe = FilteredBC(batch_size=_IMAGE_BATCH) if data.images else FilteredBC()
    steps = _IMAGE_STEPS if data.images else _STEPS
    sampler = StepSampler(curated, 0, recipe.batch_size, Stream.TRAINING)
    learner = Learner(make_algorithm(recipe, Ingredients(policy, None, curated, 0)), sampler, recipe)
    learner.train(0, 20)
    rates = {}
    for name, first in (("cold", 20), ("warm", 20 + steps)):
        if name == "cold":
            forget(folder)
        start = time.perf_counter()
        learner.train(first, first + steps)
        rates[f"{name}_steps_per_second"] = steps / (time.perf_counter() - start)
    memory = anonymous_memory()
    if data.images:
        for _, observations, actions in itertools.islice(curated.batches(), 4):
            engine.log_prob(policy, observations, actions)
        memory = policy.most_memory
    return {
        "bytes": sum(path.stat().st_size for path in folder.glob("*.npy")),
        "load_seconds": loaded,
        "memory_bytes": memory - before,
        **rates,
    }


def main(sizes: Sequence[float], images: bool = False) -> None:
    """Make, measure and remove datasets of some sizes in GB."""
    from iwbc.data.packed import pack
    from iwbc.data.trajectories import DatasetInfo
    from iwbc.environments.spaces import Image

    seen = [Image(("camera",), _SHAPE)] if images else []
    info = DatasetInfo("made/up-v0", None, [-1.0] * _ACTION, [1.0] * _ACTION, None, images=seen)
    step = 4 * (_VECTOR + _ACTION + 1) + math.prod(_SHAPE) if images else 4 * (_OBSERVATION + _ACTION + 1)
    rows = []
    for size in sizes:
        count = max(2, round(size * 1e9 / (_LENGTH * step)))
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "packed"
            start = time.perf_counter()
            pack(episodes(count, images), info, folder, "sizes")
            packed = time.perf_counter() - start
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.data", f"measure={folder}"]
            told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
        rows.append({"gigabytes": size, "episodes": count, "pack_seconds": packed, **told})
        print(json.dumps(rows[-1]))
    command = "python -m benchmarks.data sizes=…" + " images=true" * images
    results = {"command": command, "machine": machine(), "rows": rows}
    (RESULTS / ("sizes_images.json" if images else "sizes.json")).write_text(json.dumps(results, indent=1) + "\n")
