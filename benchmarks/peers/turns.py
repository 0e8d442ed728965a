"""How a peer's script takes turns with benchmarks/speed.py, which measures from outside: nothing here keeps time.

    PYTHON benchmarks/peers/SCRIPT.py STEPS

prints one line of JSON, the versions, when it is ready. Then it trains for STEPS gradient steps for each line that it
reads, the number of seeds, and answers each with an empty line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version

answers = sys.stdout
sys.stdout = sys.stderr  # what a library prints is no answer


def take_turns(train: Callable[[int], None], *packages: str) -> None:
    """Call `train` with the number of seeds whenever it is this peer's turn, until the input ends."""
    print(json.dumps({name: version(name) for name in packages}), file=answers, flush=True)
    for line in sys.stdin:
        train(int(line))
        print(file=answers, flush=True)
