"""What a step, an evaluation, a start and a dataset cost, as ratios within one run.

    python -m benchmarks.speed [part …] [jax=PYTHON] [repetitions=5]

Parts: start, step, evaluation, memory, recipe; all by default. Every ratio is of medians of
interleaved repetitions. `jax` is an interpreter with jax and optax, in an environment of its own:

    python -m venv .venv-jax && .venv-jax/bin/pip install jax optax

Prints tables and writes benchmarks/results/speed.json with versions and a description of the machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from rich.console import Console

from iwbc import config as configs
from iwbc import processor
from iwbc.algorithms.bc import BehaviourCloning
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.config import IWBC, Config, validate
from iwbc.curation import curate
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.sources import load_dataset
from iwbc.data.trajectories import DatasetInfo, Trajectories
from iwbc.diagnostics import Diagnostics
from iwbc.environments import make_env
from iwbc.evaluation import Evaluator
from iwbc.files import write_json
from iwbc.policies import Policy, policy_spec
from iwbc.reference import reference_policy
from iwbc.runs import versions
from iwbc.train import config_folder
from iwbc.training import Algorithm, Stream, initial_policy

RESULTS = Path(__file__).parent / "results"
STEPS = 300
console = Console()


def composed(*overrides: str) -> Config:
    """The shipped configuration with overrides."""
    with hydra.initialize_config_dir(config_folder(), version_base="1.3"):
        return validate(hydra.compose("train", list(overrides)))


def interleaved(tasks: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Median seconds of each task, the tasks taking turns so that a slow moment of the machine hits all alike."""
    for task in tasks.values():
        task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repetitions):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def training(algorithm: Algorithm, sampler: StepSampler, diagnostics: Diagnostics, log_every: int) -> Callable[[], None]:
    """STEPS gradient steps as the pipeline makes them, with diagnostics."""
    position = 0

    def run() -> None:
        nonlocal position
        for _ in range(STEPS):
            algorithm.update(sampler.batch(position), 1e-4)
            position += 1
            if position % log_every == 0:
                values = {**diagnostics.measure(algorithm.policy, algorithm.kappa), **algorithm.metrics()}
                torch.stack([value.double() for value in values.values()]).cpu()

    return run


def matmul_rate(repetitions: int) -> float:
    """Float32 operations per second of PyTorch's matrix product, 2048 × 2048."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / interleaved({"product": lambda: a @ b}, repetitions)["product"]


def flops(policy: Policy) -> float:
    """Forward and backward operations of one gradient step of one network: 2 per weight and row, each way twice but the
    first layer's input, whose gradient nobody needs."""
    weights = [shape.shape[0] * shape.shape[1] for shape in policy.parameters.shapes if "weight" in shape.name]
    return 2.0 * 256 * (3 * sum(weights) - weights[0])


def steps(repetitions: int, jax: str | None) -> dict[str, Any]:
    """BC with 1 and 5 seeds, iw-BC with 1, the matrix-product rate and JAX's scan."""
    config = composed("env=hopper")
    assert isinstance(config.algo, IWBC)
    trajectories = load_dataset(config.dataset, config.env)
    curated = Curated(trajectories, curate(trajectories, config.curation), config.averaging)
    spec = policy_spec(config.policy, trajectories)
    tasks: dict[str, Callable[[], Any]] = {}
    for seeds in (1, 5):
        rows = list(range(seeds))
        reference = initial_policy(spec, rows, "cpu")
        sampler = StepSampler(curated, rows, 256, Stream.TRAINING)
        diagnostics = Diagnostics(curated, reference, rows)
        bc = BehaviourCloning(reference.copy())
        tasks[f"bc {seeds}"] = training(bc, sampler, diagnostics, config.log_every)
        iw = ImportanceWeightedBC(reference.copy(), reference, curated, config.algo)
        tasks[f"iw_bc {seeds}"] = training(iw, StepSampler(curated, rows, 256, Stream.TRAINING), diagnostics, config.log_every)
    seconds = interleaved(tasks, repetitions)
    rate = matmul_rate(repetitions)
    found: dict[str, Any] = {
        "bc_steps_per_second": STEPS / seconds["bc 1"],
        "bc_seed_steps_per_second_5": 5 * STEPS / seconds["bc 5"],
        "iw_over_bc_1": seconds["iw_bc 1"] / seconds["bc 1"],
        "iw_over_bc_5": seconds["iw_bc 5"] / seconds["bc 5"],
        "matmul_gflops": rate / 1e9,
        "share_of_matmul_rate_1": flops(bc.policy) * STEPS / seconds["bc 1"] / rate,
        "share_of_matmul_rate_5": flops(bc.policy) * 5 * STEPS / seconds["bc 5"] / rate,
        "kept_steps": curated.steps,
    }
    if jax:
        command = [jax, str(Path(__file__).parent / "peers" / "jax_scan.py"), str(repetitions)]
        peer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found["jax"] = peer
        rates = peer["seed_steps_per_second"]
        found["bc_over_jax_1"] = found["bc_steps_per_second"] / rates["1"]
        found["bc_over_jax_5"] = found["bc_seed_steps_per_second_5"] / rates["5"]
    return found


def evaluation(repetitions: int) -> dict[str, Any]:
    """100 hopper episodes of a trained policy: ours against one environment and one observation at a time."""
    config = composed("env=hopper")
    trajectories = load_dataset(config.dataset, config.env)
    spec = policy_spec(config.policy, trajectories)
    policy = reference_policy(trajectories, spec, config.reference, [0], "cpu", console)
    algorithm = BehaviourCloning(policy)
    curated = Curated(trajectories, curate(trajectories, configs.TopFraction("top_fraction", 0.05)), "trajectory")
    sampler = StepSampler(curated, [0], 256, Stream.TRAINING)
    for step in range(2000):
        algorithm.update(sampler.batch(step), 4e-4)
    evaluator = Evaluator("Hopper-v5", {}, 0, workers=torch.get_num_threads())
    env = make_env("Hopper-v5")
    played = 0

    def one_at_a_time() -> None:
        nonlocal played
        played = 0
        for episode in range(10):
            observation, _ = env.reset(seed=episode)
            over = False
            while not over:
                with torch.no_grad():
                    batch = torch.tensor(observation.reshape(1, 1, -1), dtype=torch.float32)
                    action = policy.mean_action(batch).cpu().numpy().flatten()
                observation, _, terminated, truncated, _ = env.step(np.clip(action, -1.0, 1.0))
                over = terminated or truncated
                played += 1

    ours = evaluator.evaluate(policy, 100)
    seconds = interleaved({"ours": lambda: evaluator.evaluate(policy, 100), "loop": one_at_a_time}, repetitions)
    evaluator.close()
    per_step = {"ours": seconds["ours"] / int(ours.lengths.sum()), "loop": seconds["loop"] / played}
    return {
        "microseconds_per_step": per_step["ours"] * 1e6,
        "microseconds_per_step_one_at_a_time": per_step["loop"] * 1e6,
        "times_faster": per_step["loop"] / per_step["ours"],
        "mean_return": float(ours.returns.mean()),
    }


def recipe() -> dict[str, Any]:
    """The full recipe on a cached dataset, from the command to the table, with one and with five seeds."""
    found: dict[str, Any] = {}
    for seeds in (1, 5):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "iwbc.train", "env=hopper", f"seeds={list(range(seeds))}".replace(" ", "")]
            command.append(f"hydra.run.dir={folder}/run")
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "IWBC_CACHE": folder})
            found[f"seconds_{seeds}"] = time.perf_counter() - start
            summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
            found[f"phases_{seeds}"] = summary["seconds"]
            found[f"score_{seeds}"] = summary["totals"]["final"]["score_mean"]
    found["five_over_one"] = found["seconds_5"] / found["seconds_1"]
    # 10,000 reference steps at 1.5 s and 2,000 fine-tuning steps at 5-7 s, the published code on two cores (steps alone).
    ours = found["phases_1"]["reference"] + found["phases_1"]["training"]
    found["times_published_steps"] = (10_000 * 1.5 + 2_000 * 6.0) / ours
    return found


def start(repetitions: int) -> dict[str, Any]:
    """Seconds to --help, to a configuration error, and from the command to the first gradient step on a cached dataset."""
    command = [sys.executable, "-m", "iwbc.train"]
    with tempfile.TemporaryDirectory() as folder:
        one_step = ["algo=bc", "algo.steps=1", "eval.episodes=0", f"hydra.run.dir={folder}/"]
        count = 0

        def first_step() -> None:
            nonlocal count
            count += 1
            arguments = [*one_step[:-1], f"{one_step[-1]}{count}"]
            subprocess.run([*command, *arguments], check=True, capture_output=True)

        return interleaved(
            {
                "help_seconds": lambda: subprocess.run([*command, "--help"], check=True, capture_output=True),
                "error_seconds": lambda: subprocess.run([*command, "algo.lr=-1"], check=False, capture_output=True),
                "one_step_run_seconds": first_step,
            },
            repetitions,
        )


def synthetic(count: int) -> Trajectories:
    """Random data of hopper's shape: `count` steps in trajectories of 500."""
    random, trajectories = np.random.default_rng(0), count // 500
    return Trajectories(
        info=DatasetInfo("synthetic", None, {}, [-1.0] * 3, [1.0] * 3, None),
        content_hash=f"synthetic-{count}",
        observations=random.standard_normal((count, 11), np.float32),
        actions=random.uniform(-1.0, 1.0, (count, 3)).astype(np.float32),
        rewards=random.standard_normal(count, np.float32),
        final_observations=random.standard_normal((trajectories, 11), np.float32),
        offsets=np.arange(0, count + 1, 500),
        terminated=np.ones(trajectories, np.bool_),
        successes=None,
    )


def memory(repetitions: int) -> dict[str, Any]:
    """Milliseconds per iw-BC step by dataset size."""
    config = composed("env=hopper")
    assert isinstance(config.algo, IWBC)
    tasks: dict[str, Callable[[], Any]] = {}
    for count in (100_000, 1_000_000, 5_000_000):
        trajectories = synthetic(count)
        curated = Curated(trajectories, curate(trajectories, config.curation), config.averaging)
        reference = initial_policy(policy_spec(config.policy, trajectories), [0], "cpu")
        algorithm = ImportanceWeightedBC(reference.copy(), reference, curated, config.algo)
        sampler = StepSampler(curated, [0], 256, Stream.TRAINING)
        tasks[f"{count:,}"] = training(algorithm, sampler, Diagnostics(curated, reference, [0]), config.log_every)
    return {
        f"milliseconds_per_step at {count} steps": seconds / STEPS * 1e3
        for count, seconds in interleaved(tasks, repetitions).items()
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    parts = [argument for argument in sys.argv[1:] if "=" not in argument]
    repetitions, jax = int(options.get("repetitions", 5)), options.get("jax")
    available: dict[str, Callable[[], dict[str, Any]]] = {
        "start": lambda: start(repetitions),
        "step": lambda: steps(repetitions, jax),
        "evaluation": lambda: evaluation(repetitions),
        "memory": lambda: memory(repetitions),
        "recipe": recipe,
    }
    processor.keep_freed_memory()
    path = RESULTS / "speed.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for part in parts or available:
        console.rule(part)
        results[part] = {**available[part](), "versions": versions(), "machine": machine()}
        for name, value in results[part].items():
            if name not in ("versions", "machine"):
                console.print(f"{name:40s} {value:.3f}" if isinstance(value, float) else f"{name:40s} {value}")
        write_json(path, results)


if __name__ == "__main__":
    main()
