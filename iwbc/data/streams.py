"""Random numbers, a separate stream for each use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """Use of a generator: part of the generator's entropy, beside the seed."""

    POLICY = 0
    REFERENCE = 1
    TRAINING = 2
    VALUE = 3
    PROBES = 4
    ACTIONS = 5
    HELD_OUT = 6
    CHOICE = 7
    CRITIC = 8


def _seed(entropy: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(2, np.uint64)[0] >> np.uint64(1))


def generator(*entropy: int) -> torch.Generator:
    """Make a CPU generator that is a function of `entropy` alone; different tuples give independent streams."""
    return torch.Generator().manual_seed(_seed(entropy))


@contextlib.contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed PyTorch's global CPU generator inside the block, so that module initialisation is reproducible."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(entropy))
        yield
