"""The rounds table: sample, verify, curate and train in turn, as the second part of benchmarks/language.md says.

    python -m benchmarks.language_rounds [METHOD] … [seeds=[0,1,2]] [folder=multirun/language_rounds]

The same command goes on where it was stopped. Writes benchmarks/results/language/rounds.csv (a row for each method, seed and
round, as it is done) and rounds.md, the table beside the expected figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import RESULTS, chosen, read
from benchmarks.language_common import Bench, spread
from iwbc.data.curation import quality_levels
from iwbc.language.jsonl import Prompts
from iwbc.language.scores import records_of, scores_of
from iwbc.language.tasks import sums
from iwbc.settings import Settings
from iwbc.system.arguments import parse, run
from iwbc.system.files import write_bytes, write_csv

Floats = npt.NDArray[np.float64]

TABLE = RESULTS / "language" / "rounds.csv"
START, ROUNDS = "start", 3
# The shares of careful demonstrations: the steps are learnt from the first, the start's habits from the second.
FIRST_CAREFUL, CAREFUL = 0.5, 0.1
LEARNT = 0.9  # of a start's careful answers are right, or there is nothing to choose
TRIES = 4  # of the first stage, each from where the one before ended
# Of the levels of sft_q: every success reaches the first.
PERCENTILES = (0.0, 50.0, 75.0)
METHODS: dict[str, dict[str, Any]] = {
    "rft": {"kappa": 0.0},
    "sft_q": {"kappa": 0.0},
    "dft": {"kappa": 0.0, "loss_type": "dft"},
    "iw_sft": {"kappa": 1.0},
    "iw_sft_auto": {},
    "rft_2x": {"kappa": 0.0},
}
FIGURES = ("accuracy", "greedy", "pass_at_8", "texts", "answers")


@dataclass(frozen=True)
class Sizes:
    """The numbers of everything: demonstrations, prompts, samples of each, and gradient steps."""

    demonstrations: int = 20_000
    first_steps: int = 1_000
    start_steps: int = 300
    prompts: int = 1_000
    samples: int = 8
    steps: int = 200
    test_prompts: int = 250
    test_samples: int = 16


class Rounds(Bench):
    """Rounds of sampling and training on sums, each from the model of the round before."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        super().__init__(folder, sums())
        self.sizes = sizes

    def play(self, method: str, seed: int, number: int) -> dict[str, float]:
        """Train and keep the model of a round, and score it."""
        start = self.kept(f"{START}-{seed}", partial(self._start, seed))
        if number == 0:
            return self.score(start, seed)
        model = start if number == 1 else self.load(f"{method}-{seed}-{number - 1}")
        counts = self._train_round(model, method, seed * 100 + number, self._prompts(seed))
        model.save_pretrained(self.folder / f"{method}-{seed}-{number}")
        return counts | self.score(model, seed)

    def _start(self, seed: int) -> Any:
        """Teach the steps until the model has learnt them, TRIES times at most, then the habits that the rounds are to mend."""
        model = self.untrained(seed)
        for number in range(TRIES):
            # Another seed than the second stage's, as the same would draw the same prompts; others at each go.
            demonstrations_seed = seed + 1000 * (number + 1)
            model = self._taught(model, seed + 1000 * number, FIRST_CAREFUL, demonstrations_seed, self.sizes.first_steps, 1e-3)
            if self.score(model, seed).get("careful_right", 0.0) >= LEARNT:
                break
        return self._taught(model, seed, CAREFUL, seed, self.sizes.start_steps, 5e-4)

    def _taught(self, model: Any, seed: int, careful: float, demonstrations_seed: int, steps: int, learning_rate: float) -> Any:
        """Train a model on demonstrations of which this share is careful."""
        rows = self.task.rows(self.sizes.demonstrations, careful, demonstrations_seed)
        dataset = self.dataset(rows.prompts, rows.completions)
        # Without a warm-up some seeds do not learn the steps.
        return self.train(model, dataset, seed, steps, learning_rate, kappa=0.0, warmup_steps=steps // 10).model

    def _prompts(self, seed: int) -> Prompts:
        """Draw the prompts that are sampled in every round, from those that demonstrations may have."""
        texts = self.task.rows(self.sizes.prompts, CAREFUL, seed).prompts
        return Prompts(texts, [self.task.answer(str(text)) for text in texts], [str(i) for i in range(len(texts))])

    def _train_round(self, model: Any, method: str, seed: int, prompts: Prompts) -> dict[str, float]:
        """Sample from a model and train it on the successes; methods with the same model draw the same."""
        samples = self.sizes.samples * (2 if method == "rft_2x" else 1)
        records = self._records(model, prompts, samples, 1.0, seed)
        # A completion that was cut has no end of text, which training would add.
        successes = [record for record in records if record["correct"] and not record["cut"]]
        levels = quality_levels(-np.array([record["tokens"] for record in successes], np.float64), PERCENTILES)
        dataset = self.dataset(
            [record["prompt"] for record in successes],
            [record["completion"] for record in successes],
            levels if method == "sft_q" else None,
        )
        # The trainer computes π_ref of the model as it stands, which is the sampler.
        trainer = self.train(model, dataset, seed, self.sizes.steps, 5e-4, **METHODS[method])
        kappa = {} if trainer.importance is None else {"kappa": round(trainer.importance.kappa, 4)}
        return {"samples": len(records), "successes": len(successes), **kappa}

    def _records(self, model: Any, prompts: Prompts, samples: int, temperature: float, seed: int) -> list[dict[str, Any]]:
        from iwbc.language.sampling import Sampling, sample
        from iwbc.language.verifiers import verify_all

        length = self.task.longest - len(str(prompts.prompts[0]))
        sampling = Sampling(samples, temperature, max_new_tokens=length, batch_size=500, seed=seed)
        drawn = sample(model.eval(), self.tokenizer, prompts.prompts, sampling)
        of_prompt = [(prompts.prompts[answer.prompt], prompts.answers[answer.prompt]) for answer in drawn]
        texts = [answer.text for answer in drawn]
        verdicts = verify_all(self.task.verifier, [prompt for prompt, _ in of_prompt], texts, [right for _, right in of_prompt])
        return records_of(prompts, drawn, verdicts)

    def score(self, model: Any, seed: int) -> dict[str, float]:
        """Score a model on prompts without demonstrations, the same for all methods of a seed."""
        sizes = self.sizes
        prompts = self.task.prompts(sizes.test_prompts, seed)
        records = self._records(model, prompts, sizes.test_samples, 1.0, 10_000 + seed)
        scores = scores_of(records)
        greedy = scores_of(self._records(model, prompts, 1, 0.0, 0))
        figures = {
            "accuracy": scores.pass_at[1],
            "greedy": greedy.pass_at[1],
            "pass_at_8": scores.pass_at[8],
            "texts": scores.distinct_texts,
            "answers": scores.distinct_answers,
            **by_manner(records, self.task.manners),
        }
        return {name: round(value, 4) for name, value in figures.items()}


def by_manner(records: Sequence[dict[str, Any]], manners: Sequence[str]) -> dict[str, float]:
    """Compute the share of each manner, by the first letter of completions, and the accuracy of those that there are."""
    figures = {}
    for manner in manners:
        right = [record["correct"] for record in records if record["completion"].startswith(manner[0])]
        figures[manner] = len(right) / len(records)
        if right:
            figures[f"{manner}_right"] = float(np.mean(right))
    return figures


def expected(method: str, shares: Floats, right: Floats, lengths: Floats) -> Floats:
    """Compute the shares of the manners after a round, from those before it, each manner's accuracy and length in tokens.

    SFT learns the shares among the successes, and sft_q those times the levels. DFT goes to the commonest among the successes,
    exact weights to the manner that is right most often, if there are steps enough for either. κ = auto is taken as 1.
    """
    successes = shares * right / (shares * right).sum()
    if method in ("iw_sft", "iw_sft_auto", "dft"):
        best = successes if method == "dft" else right
        return np.eye(len(shares))[int(best.argmax())]
    if method == "sft_q":
        counts = np.round(successes * 10_000).astype(int)
        levels = quality_levels(-np.repeat(lengths, counts), PERCENTILES)
        manner = np.repeat(np.arange(len(shares)), counts)
        successes = np.bincount(manner, levels, len(shares))
    result: Floats = successes / successes.sum()
    return result


def cells(methods: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    for seed in seeds:
        yield START, seed, 0
        yield from ((method, seed, number) for method in methods for number in range(1, ROUNDS + 1))


def summary(rows: Sequence[dict[str, str]]) -> str:
    """Make the table in Markdown: mean ± standard deviation over seeds, beside the expected accuracy and careful share. Seeds
    whose start has not learnt the steps are left out, and named."""
    task = sums()
    start = [row for row in rows if row["method"] == START]
    unlearnt = [row["seed"] for row in start if float(row["careful_right"] or 0.0) < LEARNT]
    note = f"\nLeft out, as the start has not learnt the steps: seed {', '.join(unlearnt)}.\n" if unlearnt else ""
    rows = [row for row in rows if row["seed"] not in unlearnt]
    start = [row for row in start if row["seed"] not in unlearnt]
    if not start:
        return note.lstrip()
    right, first = (
        np.array([np.mean([float(row[key] or 0.0) for row in start]) for key in keys])
        for keys in ([f"{manner}_right" for manner in task.manners], task.manners)
    )
    prompt, random = task.prompts(1, 0).prompts[0], np.random.default_rng(0)
    lengths = np.array([len(task.demonstrate(str(prompt), manner, random)[0]) + 1.0 for manner in task.manners])
    names = [*FIGURES, *task.manners, "careful_right"]
    heads = ["method", "round", "seeds", "samples", "successes", "κ", "accuracy, expected", "careful, expected", *names]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for method in (START, *METHODS):
        shares, samples = first, 0.0
        for number in [0] if method == START else range(1, ROUNDS + 1):
            shares = shares if method == START else expected(method, shares, right, lengths)
            cell = [row for row in rows if (row["method"], row["round"]) == (method, str(number))]
            if not cell:
                continue
            samples += float(cell[0].get("samples") or 0)
            shown = [f"{samples:,.0f}", *(spread(cell, key) for key in ("successes", "kappa"))]
            shown += [f"{shares @ right:.3f}", f"{shares[0]:.3f}", *(spread(cell, name) for name in names)]
            lines.append(f"| {method} | {number} | {len(cell)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n" + note


@dataclass
class Options(Settings):
    methods: list[str]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    folder: Path = Path("multirun/language_rounds")


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    rounds = Rounds(options.folder, Sizes())
    for method, seed, number in cells(chosen(options.methods, list(METHODS), "method"), options.seeds):
        rows = read(TABLE)
        if any((row["method"], row["seed"], row["round"]) == (method, str(seed), str(number)) for row in rows):
            continue
        figures = rounds.play(method, seed, number)
        rows.append({"method": method, "seed": str(seed), "round": str(number), **{k: str(v) for k, v in figures.items()}})
        write_csv(TABLE, rows)
        write_bytes(TABLE.with_suffix(".md"), summary(read(TABLE)).encode())
        print(f"{method} seed {seed} round {number}: {figures}", flush=True)


if __name__ == "__main__":
    run(main, __doc__, "the same command goes on")
