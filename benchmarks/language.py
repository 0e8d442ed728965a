"""The language tables: train every method of benchmarks/language.md, from the same references, and score its answers.

    python -m benchmarks.language [BLOCK] … [folder=multirun/language]

A block is named as 0.25-right-all. The same command goes on where it was stopped. Writes
benchmarks/results/language/parity.csv (a row per cell, as it is done) and parity.md, the tables beside the predictions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, chosen, read
from benchmarks.language_common import Bench, spread
from iwbc.language.tasks import Task, accuracy, parity, predicted
from iwbc.settings import Settings
from iwbc.system.arguments import parse, run
from iwbc.system.files import write_bytes, write_csv

TABLE = RESULTS / "language" / "parity.csv"
DEMONSTRATIONS, FEW, PROMPTS, GREEDY = 20_000, 300, 1_000, 500
SEEDS = range(5)
CUT = {"level": "clipped_product", "maximum": 10.0, "proposal": "ema"}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"kappa": 0.0},
    "dft": {"kappa": 0.0, "loss_type": "dft"},
    "published": {"kappa": 1.0, "level": "mean", "maximum": 16.0, "self_normalise": False},
    "mean": {"kappa": 4.0, "level": "mean", "proposal": "ema"},
    "token": {"kappa": 1.0, "level": "token", "self_normalise": False},
    "clipped_product": CUT,
    "exact_ema": {"kappa": 1.0, "proposal": "ema"},
    "exact": {"kappa": 1.0},
    "auto": {},
}
# Each method's name in `predicted`, and its κ there.
CLOSED_FORM = {
    **{"sft": ("sft", 1.0), "dft": ("dft", 1.0), "published": ("mean", 1.0), "mean": ("mean", 4.0)},
    **{"token": ("clipped", 1.0), "clipped_product": ("clipped", 1.0)},
    **dict.fromkeys(("exact_ema", "exact", "auto"), ("sum", 1.0)),
}


@dataclass(frozen=True)
class Block:
    """Cells that share their data and reference: the share of careful demonstrations, and how many rows are trained on."""

    careful: float
    reference: str
    rows: str

    @property
    def reference_careful(self) -> float:
        """The share of careful demonstrations that the reference has seen."""
        if self.reference == "right":
            return self.careful
        return 0.25 if self.careful == 0.5 else 0.5

    def __str__(self) -> str:
        return f"{self.careful:g}-{self.reference}-{self.rows}"


BLOCKS = {
    str(block): block
    for block in (
        Block(careful, reference, rows)
        for careful in (0.25, 0.75, 0.5)
        for rows, reference in itertools.product(("all", "few"), ("right", "wrong"))
    )
}


class Cell(Bench):
    """Training and scoring on parity."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, parity())

    def reference(self, careful: float, demonstrations_seed: int, seed: int) -> Any:
        """Return a fresh copy of the reference that has seen these demonstrations."""

        def make() -> Any:
            rows = self.task.rows(DEMONSTRATIONS, careful, demonstrations_seed)
            dataset = self.dataset(rows.prompts, rows.completions)
            return self.train(self.untrained(seed), dataset, seed, steps=2_500, learning_rate=2e-3, kappa=0.0).model

        return self.kept(f"references/{careful:g}-{demonstrations_seed}-{seed}", make)

    def score(self, model: Any, seed: int) -> dict[str, float]:
        """Sample answers: their accuracy, the share of careful ones, and the accuracy of greedy ones."""
        from iwbc.language.sampling import Sampling, sample

        drawn = self.task.prompts(PROMPTS, seed)
        length = self.task.longest - len(str(drawn.prompts[0]))
        figures = {}
        for name, count, temperature in (("", PROMPTS, 1.0), ("greedy_", GREEDY, 0.0)):
            sampling = Sampling(1, temperature, max_new_tokens=length, batch_size=250, seed=seed)
            answers = sample(model.eval(), self.tokenizer, drawn.prompts[:count], sampling)
            right = [answer.text.endswith(f"={drawn.answers[answer.prompt]}") for answer in answers]
            figures[f"{name}accuracy"] = round(float(np.mean(right)), 4)
            figures[f"{name}careful"] = round(float(np.mean([answer.text.startswith("c") for answer in answers])), 4)
        return figures

    def play(self, block: Block, method: str, seed: int) -> dict[str, float]:
        """Train a method from the block's reference and score it."""
        # The wrong reference has seen other demonstrations.
        other = 0 if block.reference == "right" else 1000
        model = self.reference(block.reference_careful, seed + other, seed)
        if method == "reference":
            return self.score(model, seed)
        rows = self.task.rows(DEMONSTRATIONS, block.careful, seed)
        assert rows.successes is not None
        successes = np.flatnonzero(rows.successes)
        kept = successes if block.rows == "all" else successes[:FEW]
        data = self.dataset([rows.prompts[row] for row in kept], [rows.completions[row] for row in kept])
        trainer = self.train(model, data, seed, steps=500, learning_rate=5e-4, **METHODS[method])
        kappa = {} if method != "auto" or trainer.importance is None else {"kappa": round(trainer.importance.kappa, 4)}
        return self.score(trainer.model, seed) | kappa


def cells(blocks: Sequence[Block]) -> Iterator[tuple[Block, str, int]]:
    """Yield the cells, every block's of a seed before another seed's, so that all blocks are known early."""
    for seed in SEEDS:
        for block in blocks:
            yield from ((block, method, seed) for method in ("reference", *METHODS))


def summary(task: Task) -> str:
    """Make the tables in Markdown: mean ± standard deviation over seeds beside the closed form."""
    rows = read(TABLE)
    lengths = (len(task.demonstrate("0" * 16 + ">", "careful", np.random.default_rng(0))[0]) + 1, 4)
    lines = []
    for name, block in BLOCKS.items():
        of_block = [row for row in rows if row["block"] == name]
        if not of_block:
            continue
        lines += [f"{block.careful:g} careful, {block.reference} reference, {block.rows} rows", ""]
        lines += ["| method | seeds | predicted | accuracy | careful share, predicted | careful share | greedy accuracy |"]
        lines += ["|---|--:|--:|--:|--:|--:|--:|"]
        for method in ("reference", *METHODS):
            of_method = [row for row in of_block if row["method"] == method]
            if of_method:
                kind, kappa = CLOSED_FORM.get(method, ("reference", 1.0))
                careful = predicted(kind, block.careful, block.reference_careful, kappa, lengths)
                shown = [spread(of_method, key) for key in ("accuracy", "careful", "greedy_accuracy")]
                cells = [str(len(of_method)), f"{accuracy(careful):.3f}", shown[0], f"{careful:.3f}", shown[1], shown[2]]
                lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


@dataclass
class Options(Settings):
    blocks: list[str]
    folder: Path = Path("multirun/language")


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    names = chosen(options.blocks, list(BLOCKS), "block")
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    cell = Cell(options.folder)
    for block, method, seed in cells([BLOCKS[name] for name in names]):
        rows = read(TABLE)
        if any((row["block"], row["method"], row["seed"]) == (str(block), method, str(seed)) for row in rows):
            continue
        figures = cell.play(block, method, seed)
        rows.append({"block": str(block), "method": method, "seed": str(seed), **{k: str(v) for k, v in figures.items()}})
        write_csv(TABLE, rows)
        write_bytes(TABLE.with_suffix(".md"), summary(cell.task).encode())
        print(f"{block} {method} seed {seed}: {figures}", flush=True)


if __name__ == "__main__":
    run(main, __doc__, "the same command goes on")
