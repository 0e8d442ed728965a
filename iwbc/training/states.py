"""Tensors by seed and name. In a file, which has one name for each tensor, seed 3's `mean` is `3.mean`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from iwbc.system.files import read_tensors, write_tensors

State = dict[str, Tensor]


def write_states(path: Path, states: Mapping[int, State], metadata: Mapping[str, str]) -> None:
    """Write or replace a safetensors file, as `write_tensors` does."""
    flat = {f"{seed}.{name}": value for seed, state in states.items() for name, value in state.items()}
    write_tensors(path, flat, metadata)


def read_states(path: Path) -> tuple[dict[int, State], dict[str, str]]:
    """Read what `write_states` wrote; tensors of no seed, as version 0.1 wrote them, are left out. Raises OSError where the
    file cannot be read, and ValueError where it is damaged."""
    tensors, metadata = read_tensors(path)
    states: dict[int, State] = {}
    for key, value in tensors.items():
        seed, _, name = key.partition(".")
        if seed.isdecimal():
            states.setdefault(int(seed), {})[name] = value
    return states, metadata
