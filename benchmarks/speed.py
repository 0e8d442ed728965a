"""What a step, an evaluation, a start and a dataset cost, as ratios within one run.

    python -m benchmarks.speed [part …] [jax=PYTHON] [d3rlpy=PYTHON] [imitation=PYTHON] [repetitions=5]
                               [steps=300] [data=hopper|synthetic] [out=FILE]

Parts: start, step, evaluation, memory, recipe, checkpoints; all by default. Every ratio is of medians of
interleaved repetitions. A repetition of `step` and `memory` is `steps` gradient steps. `step` trains on hopper
medium-replay, made on first use, or on random data of its size.

The peers of `step` are interpreters in environments of their own, which take turns with ours, with as many threads
(JAX always uses every core). With Python 3.11, and on a machine without a GPU PyTorch's CPU build as README.md says:

    python -m venv .venv-jax && .venv-jax/bin/pip install jax==0.10.2 optax==0.2.8
    python -m venv .venv-d3rlpy && .venv-d3rlpy/bin/pip install d3rlpy==2.8.1 torch==2.13.0
    python -m venv .venv-imitation && .venv-imitation/bin/pip install imitation==1.0.1 torch==2.13.0

Prints tables and writes them, with versions and a description of the machine, to FILE, benchmarks/results/speed.json
by default; parts that are not measured stay there as they were.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from benchmarks.common import RESULTS, chosen, machine
from benchmarks.peer import SCRIPTS, peer
from iwbc import engine
from iwbc.algorithms import Ingredients, make_algorithm
from iwbc.config import compose
from iwbc.data.arrays import from_arrays
from iwbc.data.curated import Curated
from iwbc.data.curation import curate
from iwbc.data.sampling import StepSampler
from iwbc.data.sources import load_dataset
from iwbc.data.streams import Stream, seeded
from iwbc.data.trajectories import Trajectories
from iwbc.engine import kernels
from iwbc.environments.gymnasium import make_env
from iwbc.evaluation import Evaluator
from iwbc.policies import GaussianMLP, Policy
from iwbc.policies.spec import policy_spec
from iwbc.runs.results import versions
from iwbc.settings import BC, IQL, Config, FilteredBC, GaussianPolicy, Recipe, Settings, TopFraction, setting
from iwbc.system import processes
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_json
from iwbc.training.diagnostics import Diagnostics
from iwbc.training.fit import fit
from iwbc.training.reference import reference_policy
from iwbc.training.trainer import Learner, Trainer

PARTS = ("start", "step", "evaluation", "memory", "recipe", "checkpoints")
PRODUCTS = 3
# The peers' scripts, and the numbers of seeds that they train at once.
PEERS = {"jax": ("jax_scan.py", (1, 5)), "d3rlpy": ("d3rlpy_bc.py", (1,)), "imitation": ("imitation_bc.py", (1,))}
console = Console()


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


def training(
    settings: Recipe,
    references: Sequence[Policy],
    curated: Curated,
    count: int,
    closing: ExitStack,
    log_every: int = 0,
    fast: bool = True,
) -> Callable[[], None]:
    """`count` gradient steps as a run makes them, with seed i starting at the i-th reference policy; with diagnostics every
    `log_every` steps (0: without), and without the engine where not `fast`."""

    def learner(seed: int) -> Learner:
        ingredients = Ingredients(copy.deepcopy(references[seed]), references[seed], curated, seed)
        sampler = StepSampler(curated, seed, settings.batch_size, Stream.TRAINING)
        return Learner(make_algorithm(settings, ingredients), sampler, settings, Diagnostics(curated, references[seed], seed))

    with engine.switched(fast):
        trainer = closing.enter_context(Trainer(learner, range(len(references))))
    position = 0

    def run() -> None:
        nonlocal position
        end = position + count
        with engine.switched(fast):
            while position < end:
                first, position = position, min(end, position + (log_every or count))
                trainer.train(first, position)
                if log_every:
                    trainer.measure()

    return run


def constant(settings: Recipe) -> Recipe:
    """A recipe at a constant learning rate, so that it has no end."""
    return replace(settings, lr=4e-4, schedule="constant", warmup_steps=0)


def untrained(settings: GaussianPolicy, trajectories: Trajectories, seeds: int) -> list[Policy]:
    """A policy for each of the seeds 0 … `seeds` − 1."""
    spec, parameters = policy_spec(settings, trajectories), []
    for seed in range(seeds):
        with seeded(Stream.POLICY, seed):
            parameters.append(spec.make())
    return parameters


def matrix_products(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], None]:
    """PRODUCTS float32 matrix products, 2048 × 2048, of 2 · 2048³ operations each."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)

    def run() -> None:
        for _ in range(PRODUCTS):
            product(a, b)

    return run


def flops(policy: GaussianMLP) -> float:
    """Forward and backward operations of one gradient step of one network: 2 per weight and row, each way twice but the
    first layer's input, whose gradient nobody needs."""
    weights = [layer.weight.numel() for layer in policy.network if isinstance(layer, nn.Linear)]
    return 2.0 * 256 * (3 * sum(weights) - weights[0])


def hopper(*overrides: str) -> tuple[Config, Trajectories]:
    """The shipped configuration for hopper, with overrides, and its dataset."""
    config = compose("env=hopper", *overrides)
    return config, load_dataset(config.dataset, config.env.id)


def steps(repetitions: int, count: int, data: str, interpreters: dict[str, str]) -> dict[str, Any]:
    """BC, also by autograd, iw-BC and IQL with 1 and 5 seeds, the matrix-product rate and the peers' BC.

    Steps alone, as the peers make them; iw-BC's price is that of steps with diagnostics.
    """
    config = compose("env=hopper")
    bc, iw_bc = constant(BC()), constant(config.algo)
    bias = torch.zeros(2048)
    tasks: dict[str, Callable[[], Any]] = {
        "PyTorch's products": matrix_products(torch.mm),
        "our products": matrix_products(lambda a, b: kernels.affine(a, b, bias, relu=False)),
    }
    with ExitStack() as stack:
        peers = {
            name: stack.enter_context(peer(name, SCRIPTS / PEERS[name][0], python, count))
            for name, python in interpreters.items()
        }
        trajectories = synthetic(200_000) if data == "synthetic" else hopper()[1]
        curated = curate(trajectories, config.curation, config.averaging)
        for seeds in (1, 5):
            references = untrained(config.policy, trajectories, seeds)
            tasks |= {
                f"bc {seeds}": training(bc, references, curated, count, stack),
                f"iw_bc {seeds}": training(iw_bc, references, curated, count, stack),
                f"bc with diagnostics {seeds}": training(bc, references, curated, count, stack, config.log_every),
                f"iw_bc with diagnostics {seeds}": training(iw_bc, references, curated, count, stack, config.log_every),
                f"autograd {seeds}": training(bc, references, curated, count, stack, fast=False),
                f"iql {seeds}": training(constant(IQL()), references, curated, count, stack),
            }
            for name, other in peers.items():
                if seeds in PEERS[name][1]:
                    tasks[f"{name} {seeds}"] = partial(other.train, seeds)
        seconds = interleaved(tasks, repetitions)
    rate, ours_rate = (PRODUCTS * 2 * 2048**3 / seconds[f"{whose} products"] for whose in ("PyTorch's", "our"))
    fastest = max(rate, ours_rate)
    assert isinstance(references[0], GaussianMLP)
    of_a_step = flops(references[0])
    figures: dict[str, Any] = {
        "bc_steps_per_second": count / seconds["bc 1"],
        "bc_seed_steps_per_second_5": 5 * count / seconds["bc 5"],
        "iw_bc_steps_per_second": count / seconds["iw_bc 1"],
        "iw_bc_seed_steps_per_second_5": 5 * count / seconds["iw_bc 5"],
        "iw_over_bc_1": seconds["iw_bc with diagnostics 1"] / seconds["bc with diagnostics 1"],
        "iw_over_bc_5": seconds["iw_bc with diagnostics 5"] / seconds["bc with diagnostics 5"],
        "iql_over_bc_1": seconds["iql 1"] / seconds["bc 1"],
        "iql_over_bc_5": seconds["iql 5"] / seconds["bc 5"],
        "diagnostics_over_none_1": seconds["bc with diagnostics 1"] / seconds["bc 1"],
        "diagnostics_over_none_5": seconds["bc with diagnostics 5"] / seconds["bc 5"],
        "engine_over_autograd_1": seconds["autograd 1"] / seconds["bc 1"],
        "engine_over_autograd_5": seconds["autograd 5"] / seconds["bc 5"],
        "matmul_gflops": rate / 1e9,
        "share_of_matmul_rate_1": of_a_step * count / seconds["bc 1"] / rate,
        "share_of_matmul_rate_5": of_a_step * 5 * count / seconds["bc 5"] / rate,
        "fastest_matmul_gflops": fastest / 1e9,
        "share_of_fastest_matmul_rate_1": of_a_step * count / seconds["bc 1"] / fastest,
        "share_of_fastest_matmul_rate_5": of_a_step * 5 * count / seconds["bc 5"] / fastest,
        "kept_steps": curated.steps,
    }
    for name, other in peers.items():
        rates = {str(seeds): seeds * count / seconds[f"{name} {seeds}"] for seeds in PEERS[name][1]}
        figures[name] = {"seed_steps_per_second": rates, "versions": other.versions}
        for seeds in PEERS[name][1]:
            figures[f"bc_over_{name}_{seeds}"] = seconds[f"{name} {seeds}"] / seconds[f"bc {seeds}"]
    return figures


def evaluation(repetitions: int) -> dict[str, Any]:
    """100 hopper episodes of a good policy (the best tenth of medium-expert cloned): ours, against the field's
    usual loop: a torch.nn actor, one environment, one observation at a time."""
    config, trajectories = hopper("dataset=medium_expert")
    reference = reference_policy(trajectories, config.policy, config.reference, [0], "cpu", console)
    policies = fit(FilteredBC(), curate(trajectories, TopFraction()), reference=reference, console=console)
    evaluator = Evaluator("Hopper-v5", 0, workers=processes.environment_workers())
    env, actor = make_env("Hopper-v5"), nn.Sequential(*policies[0].network, nn.Tanh())
    played = 0

    def one_at_a_time() -> None:
        nonlocal played
        played = 0
        for episode in range(10):
            observation, _ = env.reset(seed=episode)
            over = False
            while not over:
                with torch.no_grad():
                    action = actor(torch.tensor(observation.reshape(1, -1), dtype=torch.float32)).cpu().numpy().flatten()
                observation, _, terminated, truncated, _ = env.step(np.clip(action, -1.0, 1.0))
                over = terminated or truncated
                played += 1

    ours = evaluator.evaluate(policies, 100)
    seconds = interleaved({"ours": partial(evaluator.evaluate, policies, 100), "loop": one_at_a_time}, repetitions)
    evaluator.close()
    loop, per_step = seconds["loop"] / played, seconds["ours"] / int(ours.lengths.sum())
    return {
        "microseconds_per_step_one_at_a_time": loop * 1e6,
        "microseconds_per_step": per_step * 1e6,
        "times_faster": loop / per_step,
        "mean_return": float(ours.returns.mean()),
    }


def recipe() -> dict[str, Any]:
    """The full recipe on a cached dataset, from the command to the table, with one and with five seeds."""
    figures: dict[str, Any] = {}
    for seeds in (1, 5):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "iwbc.train", "env=hopper", f"seeds={list(range(seeds))}".replace(" ", "")]
            command.append(f"hydra.run.dir={folder}/run")
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "IWBC_CACHE": folder})
            figures[f"seconds_{seeds}"] = time.perf_counter() - start
            summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
            figures[f"phases_{seeds}"] = summary["seconds"]
            figures[f"score_{seeds}"] = summary["totals"]["final"]["score_mean"]
    figures["five_over_one"] = figures["seconds_5"] / figures["seconds_1"]
    # 10,000 reference steps at 1.5 s and 2,000 fine-tuning steps at 5-7 s, the published code on two cores (steps alone).
    ours = figures["phases_1"]["reference"] + figures["phases_1"]["training"]
    figures["times_published_steps"] = (10_000 * 1.5 + 2_000 * 6.0) / ours
    return figures


def checkpoints(repetitions: int, count: int) -> dict[str, Any]:
    """The time that checkpoints take, one every `count` steps, as a share of that which iw-BC trains meanwhile, medians of
    `repetitions` runs: of ten checkpoints with one and with five seeds, and of fifty, as what is written must not grow."""
    figures: dict[str, Any] = {}
    for seeds, written in ((1, 10), (5, 10), (1, 50)):
        shares = []
        for _ in range(repetitions):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "iwbc.train", "env=hopper", f"seeds={list(range(seeds))}".replace(" ", "")]
                command += [
                    "reference.steps=100",
                    f"algo.steps={written * count}",
                    f"checkpoint_every={count}",
                    "eval.episodes=0",
                ]
                command.append(f"hydra.run.dir={folder}/run")
                subprocess.run(command, check=True, capture_output=True, env={**os.environ, "IWBC_CACHE": folder})
                seconds = json.loads((Path(folder) / "run" / "summary.json").read_text())["seconds"]
                shares.append(seconds["checkpoints"] / seconds["training"])
        name = f"{seeds}_seeds_{written}_checkpoints"
        figures[f"share_of_training_{name}"] = statistics.median(shares)
        figures[f"shares_{name}"] = shares
    return figures


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
    random, ends = np.random.default_rng(0), np.arange(1, count + 1) % 500 == 0
    return from_arrays(
        random.standard_normal((count, 11), np.float32),
        random.uniform(-1.0, 1.0, (count, 3)).astype(np.float32),
        random.standard_normal(count, np.float32),
        ends,
        np.zeros_like(ends),
        action_low=[-1.0] * 3,
        action_high=[1.0] * 3,
    )


def memory(repetitions: int, count: int) -> dict[str, Any]:
    """Milliseconds per iw-BC step by dataset size."""
    config = compose("env=hopper")
    tasks: dict[str, Callable[[], Any]] = {}
    with ExitStack() as stack:
        for size in (100_000, 1_000_000, 5_000_000):
            trajectories = synthetic(size)
            curated = curate(trajectories, config.curation, config.averaging)
            references = untrained(config.policy, trajectories, 1)
            tasks[f"{size:,}"] = training(constant(config.algo), references, curated, count, stack, config.log_every)
        seconds = interleaved(tasks, repetitions)
    return {f"milliseconds_per_step at {size} steps": duration / count * 1e3 for size, duration in seconds.items()}


@dataclass
class Options(Settings):
    parts: list[str]
    jax: str | None = None
    d3rlpy: str | None = None
    imitation: str | None = None
    repetitions: int = at_least(1, 5)
    steps: int = at_least(1, 300)
    data: str = setting("hopper", choices=("hopper", "synthetic"))
    out: Path = RESULTS / "speed.json"


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    parts = chosen(options.parts, PARTS, "part")
    repetitions, count, out = options.repetitions, options.steps, options.out
    interpreters = {name: python for name in PEERS if (python := getattr(options, name))}
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "start": lambda: start(repetitions),
        "step": lambda: steps(repetitions, count, options.data, interpreters),
        "evaluation": lambda: evaluation(repetitions),
        "memory": lambda: memory(repetitions, count),
        "recipe": recipe,
        "checkpoints": lambda: checkpoints(repetitions, compose("env=hopper").checkpoint_every),
    }
    kernels.keep_freed_memory()
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for part in parts:
        console.rule(part)
        results[part] = {**measure[part](), "versions": versions(), "machine": {**machine(), "threads": processes.threads()}}
        for name, value in results[part].items():
            if name not in ("versions", "machine"):
                console.print(f"{name:40s} {value:.3f}" if isinstance(value, float) else f"{name:40s} {value}")
        write_json(out, results)


if __name__ == "__main__":
    run(main, __doc__, "the parts measured before are written")
