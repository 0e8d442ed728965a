"""What weights cost: seconds of a gradient step, and peak memory, of TRL's SFTTrainer and of ours.

    python -m benchmarks.language_speed [size …] [model=FOLDER] [device=cpu] [rounds=20] [steps=10] [batch=16] [tokens=64]
                                        [lora=false] [out=FILE]

Sizes: wide (3.2 million parameters) and tiny (0.1 million, where fixed costs show), both from scratch; with a model, that one
instead. Rows are random tokens, up to so many of them. Kinds: sft (TRL's own), policy (κ = 1, q = π), auto (κ = auto, which
is looked for at each refresh, q = π) and ema (κ = 1, q a moving average); π_ref is read from the cache.

Seconds: all kinds train in one process and take turns of `steps` steps; the ratio to sft is of turns beside each other, its
median over rounds with the interval that holds it with 95 % confidence. Processor seconds bear a busy machine, wall-clock
seconds are for a GPU, which computes in float32 by TF32. Memory: each kind alone in a process: the peak of what PyTorch
allocated on the GPU, or, twice, of what the process holds in RAM, beside what it holds before there is a model.

Prints and writes to FILE, benchmarks/results/language/speed.json by default; what is not measured stays there as it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, chosen, machine
from iwbc.settings import Settings
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_json

SIZES = {"wide": (4, 256), "tiny": (2, 64)}  # layers and width
KINDS: dict[str, dict[str, Any]] = {
    "sft": {},
    "policy": {"kappa": 1.0, "ess_floor": 0.0},
    "auto": {"ess_share": 0.95, "ess_count": 1e4, "ess_floor": 0.0},  # κ = 1 falls short of it, so that κ is halved
    "ema": {"kappa": 1.0, "proposal": "ema", "ess_floor": 0.0},
}
ROWS, REPETITIONS = 1024, 2
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Setup:
    """A model and the size of what it is trained on."""

    size: str
    model: str | None
    device: str
    batch: int
    tokens: int
    lora: bool

    @property
    def name(self) -> str:
        of = self.size if self.model is None else Path(self.model).name
        return f"{of} {self.device} {self.batch} × {self.tokens}{' lora' if self.lora else ''}"

    def load(self) -> tuple[Any, Any]:
        """Return the model and its tokenizer."""
        if self.model is None:
            from iwbc.language.tasks import tiny_model, tiny_tokenizer

            tokenizer = tiny_tokenizer(ALPHABET)
            return tiny_model(tokenizer, self.tokens, 0, *SIZES[self.size]), tokenizer
        from iwbc.language.models import load

        return load(self.model, dtype="float32", device=self.device)

    def rows(self, vocabulary: int) -> Any:
        """Make rows of random tokens: from half to all of `tokens`, of which a quarter is the prompt."""
        from datasets import Dataset

        random = np.random.default_rng(0)
        lengths = random.integers(self.tokens // 2, self.tokens + 1, size=ROWS)
        tokens = [random.integers(vocabulary, size=length).tolist() for length in lengths]
        labels = [[-100] * (len(row) // 4) + row[len(row) // 4 :] for row in tokens]
        return Dataset.from_dict({"input_ids": tokens, "labels": labels})

    def trainer(self, kind: str, steps: int, folder: Path) -> Any:
        """Make a kind's trainer."""
        from peft import LoraConfig
        from transformers import PrinterCallback
        from trl import SFTConfig, SFTTrainer

        from iwbc.language import WeightedSFTConfig, WeightedSFTTrainer

        model, tokenizer = self.load()
        config = (SFTConfig if kind == "sft" else WeightedSFTConfig)(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=self.batch,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            use_cpu=self.device == "cpu",
            bf16=False,
            tf32=None if self.device == "cpu" else True,
            activation_checkpointing=False,
            max_length=None,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **KINDS[kind],
        )
        adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM") if self.lora else None
        trainer = (SFTTrainer if kind == "sft" else WeightedSFTTrainer)(
            model=model,
            args=config,
            train_dataset=self.rows(len(tokenizer)),
            processing_class=tokenizer,
            peft_config=adapter,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer


class Turns:
    """Trainers that train in threads of their own, one at a time, in turns of so many steps, whose seconds it keeps.

    A round has a turn of each trainer; every other round has them in reverse, so that a drift of the machine hits all alike.
    """

    def __init__(self, trainers: dict[str, Any], steps: int, rounds: int, device: str) -> None:
        """rounds: those that count. The first one besides has the start of training, the last one its end."""
        from transformers import TrainerCallback

        self._trainers, self._device = trainers, device
        names = list(trainers)
        self._order = [name for turn in range(rounds + 2) for name in (names if turn % 2 == 0 else names[::-1])]
        self._turns = {name: threading.Semaphore(0) for name in names}
        self._began = (0.0, 0.0)
        self._errors: list[BaseException] = []
        # Processor and wall-clock seconds of a step, turn after turn.
        self.seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        turns = self

        class AfterStep(TrainerCallback):
            def __init__(self, name: str) -> None:
                self._name = name

            def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
                if state.global_step % steps == 0:
                    turns.end(self._name, steps)
                    if state.global_step < args.max_steps:
                        turns.wait(self._name)

        for name, trainer in trainers.items():
            trainer.add_callback(AfterStep(name))  # the last one, so that a turn ends where a step does

    def _now(self) -> tuple[float, float]:
        if self._device != "cpu":
            import torch

            torch.cuda.synchronize()
        return time.process_time(), time.perf_counter()

    def wait(self, name: str) -> None:
        """Wait for the turn of a trainer."""
        self._turns[name].acquire()
        if self._errors:
            raise SystemExit
        self._began = self._now()

    def end(self, name: str, steps: int) -> None:
        """Note the seconds of a turn, and begin the next one."""
        now = self._now()
        self.seconds[name].append(((now[0] - self._began[0]) / steps, (now[1] - self._began[1]) / steps))
        self._next()

    def _next(self) -> None:
        if self._order:
            self._turns[self._order.pop(0)].release()

    def _train(self, name: str) -> None:
        try:
            self.wait(name)
            self._trainers[name].train()
        except BaseException as error:
            self._errors.append(error)
            for semaphore in self._turns.values():
                semaphore.release()

    def play(self) -> dict[str, list[tuple[float, float]]]:
        """Train all; the seconds of the turns that count."""
        threads = [threading.Thread(target=self._train, args=(name,), daemon=True) for name in self._trainers]
        for thread in threads:
            thread.start()
        self._next()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return {name: seconds[1:-1] for name, seconds in self.seconds.items()}


def median_interval(values: Sequence[float]) -> list[float]:
    """The median, and the order statistics that hold the true one with 95 % confidence."""
    ordered, count = sorted(values), len(values)
    below = max(0, int(np.floor(count / 2 - 0.98 * np.sqrt(count))))
    return [round(number, 4) for number in (statistics.median(ordered), ordered[below], ordered[count - 1 - below])]


def seconds(setup: Setup, rounds: int, steps: int, folder: Path) -> dict[str, Any]:
    """A step's seconds of each kind, and their ratios to those of TRL's."""
    trainers = {kind: setup.trainer(kind, steps * (rounds + 2), folder / kind) for kind in KINDS}
    turns = Turns(trainers, steps, rounds, setup.device).play()
    figures: dict[str, Any] = {}
    for kind, pairs in turns.items():
        for place, clock in enumerate(("processor", "wall")):
            figures.setdefault(f"{clock}_seconds_per_step", {})[kind] = round(statistics.median(p[place] for p in pairs), 5)
            if kind != "sft":
                ratios = [ours[place] / theirs[place] for ours, theirs in zip(pairs, turns["sft"], strict=True)]
                figures.setdefault(f"{clock}_ratio", {})[kind] = median_interval(ratios)
    return figures


def most_held() -> float:
    """MiB that this process held at most: getrusage would count what its parent held when it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def peak(setup: Setup, kind: str, steps: int) -> tuple[float, float]:
    """MiB: the peak while a kind trains, and what is held before there is a model."""
    import torch
    from trl import SFTTrainer  # noqa: F401

    from iwbc.language import WeightedSFTTrainer  # noqa: F401

    before = most_held()
    with tempfile.TemporaryDirectory() as folder:
        trainer = setup.trainer(kind, steps, Path(folder))
        if setup.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    if setup.device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20, 0.0
    return most_held(), before


def memory(setup: Setup, steps: int) -> dict[str, Any]:
    """Peak memory of each kind, and its ratio to that of TRL's."""
    peaks: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    spawn = multiprocessing.get_context("spawn")
    for _ in range(REPETITIONS if setup.device == "cpu" else 1):  # on a GPU it is the same each time
        for kind in KINDS:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                peaks[kind].append(pool.submit(peak, setup, kind, steps).result())
    medians = {
        kind: [round(statistics.median(values), 1) for values in zip(*pairs, strict=True)] for kind, pairs in peaks.items()
    }
    return {
        "peak_MiB": {kind: values[0] for kind, values in medians.items()},
        "before_MiB": {kind: values[1] for kind, values in medians.items()},
        "peak_ratio": {kind: round(medians[kind][0] / medians["sft"][0], 4) for kind in KINDS if kind != "sft"},
    }


def place(setup: Setup, rounds: int, steps: int) -> dict[str, Any]:
    """What a setup is measured on, and how often."""
    import peft
    import torch
    import transformers
    import trl

    versions = {library.__name__: library.__version__ for library in (torch, transformers, trl, peft)}
    gpu = {} if setup.device == "cpu" else {"gpu": torch.cuda.get_device_name()}
    of_machine = {**machine(), "threads": torch.get_num_threads(), **gpu}
    return {"rounds": rounds, "steps": steps, "versions": versions, "machine": of_machine}


@dataclass
class Options(Settings):
    sizes: list[str]
    model: str | None = None
    device: str = "cpu"
    rounds: int = at_least(1, 20)
    steps: int = at_least(1, 10)
    batch: int = at_least(1, 16)
    tokens: int = at_least(8, 64)
    lora: bool = False
    out: Path = RESULTS / "language" / "speed.json"


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    setup = Setup("", options.model, options.device, options.batch, options.tokens, options.lora)
    names = chosen(options.sizes, list(SIZES), "size")
    setups = [replace(setup, size=name) for name in names] if options.model is None else [setup]
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IWBC_CACHE"] = str(Path(folder) / "cache")  # which the processes for memory find filled
        for each in setups:
            figures = results[each.name] = place(each, options.rounds, options.steps)
            figures |= seconds(each, options.rounds, options.steps, Path(folder))
            write_json(options.out, results)
            figures |= memory(each, options.steps)
            write_json(options.out, results)
            print(each.name, json.dumps(results[each.name], indent=1, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    run(main, __doc__, "the sizes measured before are written")
