"""Scores of completions: how often they are right, and how much they differ, by prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from iwbc.intervals import interval, wilson
from iwbc.language.jsonl import Prompts
from iwbc.language.sampling import Answer
from iwbc.language.verifiers import Verdict


@dataclass(frozen=True)
class Scores:
    """Means over prompts: `pass_at[k]`, the probability that one of k samples is right, with the 95 % interval of pass@1,
    `low` to `high` (prompts are drawn again: they are what there could be others of; Wilson's where all are alike); the
    shares of completions that hold an answer (`parsable`), that were `cut`, and whose verification failed; their length in
    tokens; and how many different answers and texts a prompt's samples hold."""

    prompts: int
    samples: int
    pass_at: dict[int, float]
    low: float
    high: float
    parsable: float
    cut: float
    failed: float
    length: float
    distinct_answers: float
    distinct_texts: float

    def to_plain(self) -> dict[str, Any]:
        """Return what scores.json holds."""
        return {**asdict(self), "pass_at": {str(k): value for k, value in self.pass_at.items()}}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Scores:
        """Make scores of what `to_plain` returned. Raises TypeError or ValueError for anything else."""
        return cls(**{**plain, "pass_at": {int(k): float(value) for k, value in plain["pass_at"].items()}})


def records_of(prompts: Prompts, answers: Sequence[Answer], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """List the completions, each with its verdict, as answers.jsonl holds them."""
    return [
        {
            "prompt_id": prompts.ids[answer.prompt],
            "sample": answer.sample,
            "prompt": prompts.prompts[answer.prompt],
            "completion": answer.text,
            "expected": prompts.answers[answer.prompt],
            **asdict(verdict),
            "tokens": answer.tokens,
            "logp": answer.logp,
            "cut": answer.cut,
        }
        for answer, verdict in zip(answers, verdicts, strict=True)
    ]


def scores_of(records: Sequence[Mapping[str, Any]]) -> Scores:
    """Compute scores of completions. Raises ValueError where prompts have different numbers of them, or none."""
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_prompt.setdefault(record["prompt_id"], []).append(record)
    groups = list(by_prompt.values())
    samples = len(groups[0]) if groups else 0
    if not samples or any({record["sample"] for record in group} != set(range(samples)) for group in groups):
        raise ValueError("completions are missing, or there twice")
    right = np.array([sum(record["correct"] for record in group) for group in groups])
    shares = right / samples
    # Drawn again, prompts that are all alike would be as certain as if there were no others.
    low, high = wilson(float(shares[0]), len(groups)) if np.ptp(shares) == 0.0 else interval(shares[None])

    def share(key: str) -> float:
        return float(np.mean([bool(record[key]) for record in records]))

    def distinct(key: str) -> float:
        return float(np.mean([len({record[key] for record in group} - {None}) for group in groups]))

    return Scores(
        prompts=len(groups),
        samples=samples,
        pass_at={k: float(np.mean([pass_at_k(samples, int(count), k) for count in right])) for k in powers(samples)},
        low=low,
        high=high,
        parsable=float(np.mean([record["answer"] is not None for record in records])),
        cut=share("cut"),
        failed=share("failure"),
        length=float(np.mean([record["tokens"] for record in records])),
        distinct_answers=distinct("answer"),
        distinct_texts=distinct("completion"),
    )


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Estimate the probability that one of k is right, without bias, from c of n samples: 1 − C(n−c, k) / C(n, k)."""
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def powers(samples: int) -> list[int]:
    """List 1, 2, 4, … up to `samples`."""
    return [2**i for i in range(samples.bit_length())]
