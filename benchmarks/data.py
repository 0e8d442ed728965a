"""How fast datasets are made and loaded, and the memory that loading takes.

    python -m benchmarks.data [repetitions=5]
    python -m benchmarks.data sizes=[0.1,1,10]      GB of made-up data, as benchmarks/sizes.py says; images=true: of images

Generation: the wall time of `python -m iwbc.data.generate`, start-up included, on one core and on two. Loading: one
million steps of Hopper; the time to iterate the Minari dataset's episodes, the first load (which checks and packs them)
and later loads, each in a process of its own after its imports, with the files in the system's cache. Memory: the
growth of the peak over what the imports left, while the load is made and every array is read once. Medians of
repetitions, which take turns. Writes benchmarks/results/data.json.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks import sizes
from benchmarks.common import RESULTS, machine
from iwbc.settings import Settings
from iwbc.system.arguments import at_least, parse, run

TIER, STEPS = "medium-expert", 1_000_000
GENERATED = 200_000
TARGETS = {
    "generation on 2 cores / 1 core": "≥ 1.7",
    "first load / iterating": "≤ 1.2",
    "iterating / later load": "≥ 20",
    "peak memory / float32 size, first load": "≤ 1.3",
    "peak memory / float32 size, later load": "≤ 1.3",
}


def generation(cores: int, seed: int) -> float:
    """Steps per second of the command on the first `cores` cores that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    with tempfile.TemporaryDirectory() as folder:
        command = ["env=hopper", f"tier={TIER}", f"steps={GENERATED}", f"seed={seed}"]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "iwbc.data.generate", *command],
            env=os.environ | {"MINARI_DATASETS_PATH": folder},
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return GENERATED / (time.perf_counter() - start)


def peak_memory() -> int:
    """The most memory this process has had, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def iterate(dataset_id: str) -> dict[str, float]:
    import minari

    start, cpu = time.perf_counter(), time.process_time()
    steps = sum(len(episode) for episode in minari.load_dataset(dataset_id).iterate_episodes())
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "steps": steps}


def load(dataset_id: str) -> dict[str, float]:
    import h5py  # noqa: F401  (what a first load imports as well)
    import minari  # noqa: F401

    from iwbc.data.minari_source import load

    before = peak_memory()
    start, cpu = time.perf_counter(), time.process_time()
    data = load(dataset_id)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    arrays = (data.observations, data.actions, data.rewards, data.final_observations)
    checksum = sum(float(array.sum()) for array in arrays)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": data.steps,
        "episodes": len(data),
        "float32_bytes": sum(array.nbytes for array in arrays),
        "peak_bytes": peak_memory() - before,
        "checksum": checksum,
    }


def in_a_process(what: str, dataset_id: str) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.data", f"measure={what}", f"id={dataset_id}"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


@dataclass
class Options(Settings):
    repetitions: int = at_least(1, 5)
    sizes: list[float] = field(default_factory=list)
    images: bool = False
    measure: str | None = None  # for processes of its own: iterate or load the dataset `id`, or a folder of made-up data
    id: str = ""


def main(arguments: Sequence[str]) -> None:
    measured = {"iterate": iterate, "load": load}
    options = parse(arguments, Options)
    if options.measure in measured:
        print(json.dumps(measured[options.measure](options.id)))
    elif options.measure:
        print(json.dumps(sizes.measure(Path(options.measure))))
    elif options.sizes:
        sizes.main(options.sizes, options.images)
    else:
        generation_and_loading(options)


def generation_and_loading(options: Options) -> None:
    """Measure how fast datasets are made and loaded."""

    os.environ["OMP_NUM_THREADS"] = "1"
    repetitions = range(options.repetitions)
    measured_on = machine()  # before anything raises its load average
    rates = [(generation(1, seed), generation(2, seed)) for seed in repetitions]

    from iwbc.data.generate import ensure
    from iwbc.data.minari_folder import dataset_folder

    dataset_id = ensure("Hopper-v5", TIER, STEPS)
    loads: dict[str, list[dict[str, float]]] = {"iterating": [], "first load": [], "later load": []}
    iterations, first, later = loads.values()
    for _ in repetitions:
        iterations.append(in_a_process("iterate", dataset_id))
        shutil.rmtree(dataset_folder(dataset_id) / "packed", ignore_errors=True)
        first.append(in_a_process("load", dataset_id))
        later.append(in_a_process("load", dataset_id))

    def median(rows: list[dict[str, float]], key: str) -> float:
        return statistics.median(row[key] for row in rows)

    one_core, two_cores = (statistics.median(pair[i] for pair in rates) for i in (0, 1))
    size = first[0]["float32_bytes"]
    ratios = {
        "generation on 2 cores / 1 core": two_cores / one_core,
        "first load / iterating": median(first, "seconds") / median(iterations, "seconds"),
        "iterating / later load": median(iterations, "seconds") / median(later, "seconds"),
        "peak memory / float32 size, first load": median(first, "peak_bytes") / size,
        "peak memory / float32 size, later load": median(later, "peak_bytes") / size,
    }
    results = {
        "command": "python -m benchmarks.data",
        "repetitions": options.repetitions,
        "machine": measured_on,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "gymnasium", "mujoco", "minari", "h5py")},
        "dataset": {"id": dataset_id, "steps": first[0]["steps"], "episodes": first[0]["episodes"], "float32_bytes": size},
        "generation_steps_per_second": {"1 core": [pair[0] for pair in rates], "2 cores": [pair[1] for pair in rates]},
        **{unit: {name: [row[unit] for row in rows] for name, rows in loads.items()} for unit in ("seconds", "cpu_seconds")},
        "ratios": ratios,
    }
    (RESULTS / "data.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"{one_core:,.0f} steps/s on one core, {two_cores:,.0f} on two")
    for name in ("iterating", "first load", "later load"):
        print(
            f"{name:12} {median(loads[name], 'seconds'):8.4f} s, of the processor {median(loads[name], 'cpu_seconds'):8.4f} s"
        )
    for name, ratio in ratios.items():
        print(f"{name:42} {ratio:7.2f}   (target {TARGETS[name]})")


if __name__ == "__main__":
    run(main, __doc__)
