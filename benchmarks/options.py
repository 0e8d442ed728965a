"""The parts of benchmarks/speed.py and how they are measured: what benchmarks/compare.py passes on."""

from __future__ import annotations

from iwbc.commands import Option, one_of, whole

PARTS = ("start", "step", "evaluation", "memory", "recipe")
MEASURING = {
    "repetitions": Option(whole(1), 5),
    "steps": Option(whole(1), 300),
    "data": Option(one_of("hopper", "synthetic"), "hopper"),
}
