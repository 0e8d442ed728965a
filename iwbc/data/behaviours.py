"""The behaviour policies shipped with the package: snapshots of SAC's actor over the course of its training.

One safetensors file per environment, all snapshots stacked, in half precision; `tools/behaviours` made them.

Their actions are the same numbers on every processor, since a simulator makes another trajectory of another last bit: products
of matrices are exact sums, and the functions are made of operations that IEEE 754 rounds correctly, one at a time.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from iwbc.errors import UserError

FOLDER = Path(__file__).parent / "behaviours"
OTHER_STEPS = 200_000  # of a tier by default; medium-replay has as many as D4RL's

Vector = npt.NDArray[np.float64]

# Inputs of a layer are multiples of GRID within ±LIMIT. Weights in half precision are multiples of 2⁻²⁴, so that the sums of
# their products are multiples of 2⁻³⁸; below 2⁻³⁸ · 2⁵³ = 2¹⁵ every order of summation gives them exactly.
GRID, LIMIT = 2.0**-14, 2.0**8
# Noise and actions are multiples of ACTION_GRID. NumPy makes normal numbers far from 0 with a logarithm of the C library, whose
# last bit differs from one library to another; and float32 holds such actions exactly.
ACTION_GRID = 2.0**-20


def on_grid(values: npt.NDArray[np.floating], grid: float) -> Vector:
    """Round to the nearest multiples of `grid`, a power of two."""
    return np.rint(np.asarray(values, np.float64) / grid) * grid


# exp(r) = Σ rⁿ / n!; for |r| ≤ ½ log 2 the terms after the 13th power are below the last bit.
_EXP = [1.0 / math.factorial(n) for n in range(13, -1, -1)]
_LOG2 = 0.6931471805599453


def exp(values: Vector) -> Vector:
    """Compute exp of numbers in ±50, to a relative error of 1e-14, with the same bits on every processor.

    NumPy has as many ways to compute it as there are instruction sets.
    """
    doublings = np.rint(values / _LOG2)
    rest = values - doublings * _LOG2
    total = np.full_like(rest, _EXP[0])
    for coefficient in _EXP[1:]:
        total = total * rest + coefficient  # two operations of NumPy, which are never fused
    return np.ldexp(total, doublings.astype(np.int32))


def tanh(values: Vector) -> Vector:
    """Compute tanh by `exp`."""
    shrunk = exp(-2.0 * np.minimum(np.abs(values), 25.0))
    return np.copysign((1.0 - shrunk) / (1.0 + shrunk), values)


@dataclass(frozen=True)
class Behaviour:
    """A stochastic policy: tanh of a Gaussian with state-dependent mean and standard deviation, actions in ±1."""

    layers: tuple[tuple[Vector, Vector], ...]
    mean: tuple[Vector, Vector]
    log_std: tuple[Vector, Vector]

    def sample(self, observations: npt.NDArray[np.floating], generator: np.random.Generator) -> npt.NDArray[np.float32]:
        """Draw actions [n, act] for observations [n, obs]."""
        hidden = np.clip(on_grid(observations, GRID), -LIMIT, LIMIT)
        for weight, bias in self.layers:
            hidden = np.clip(on_grid(hidden @ weight + bias, GRID), 0.0, LIMIT)
        mean = hidden @ self.mean[0] + self.mean[1]
        std = exp(np.clip(hidden @ self.log_std[0] + self.log_std[1], -20.0, 2.0))
        noise = on_grid(generator.standard_normal(mean.shape), ACTION_GRID)
        return on_grid(tanh(mean + std * noise), ACTION_GRID).astype(np.float32)


@dataclass(frozen=True)
class Behaviours:
    """All snapshots of an environment: `steps` [K] of training, `returns` [K], the mean return of sampled actions. `medium` and
    `expert` are the snapshots of the tiers so named, `replay_end` the last snapshot of medium-replay, 0 the untrained policy.
    `replay_steps` is the default number of steps of medium-replay."""

    env_id: str
    steps: tuple[int, ...]
    returns: tuple[float, ...]
    medium: int
    replay_end: int
    expert: int
    training: str
    replay_steps: int = OTHER_STEPS

    def load(self, snapshot: int) -> Behaviour:
        """Load the policy of one snapshot."""
        with safe_open(behaviour_file(self.env_id), framework="numpy") as file:
            names = set(file.keys())
            # The expert, of another training, has larger networks than the snapshots that are stacked.
            expert = snapshot == self.expert

            def layer(key: str) -> tuple[Vector, Vector]:
                parts = (f"{part}{key}" for part in ("weight", "bias"))
                weight, bias = (
                    file.get_tensor(f"expert.{name}") if expert else file.get_slice(name)[snapshot] for name in parts
                )
                return weight.astype(np.float64), bias.astype(np.float64)

            hidden = sum(name.removeprefix("weight").isdigit() for name in names)
            return Behaviour(tuple(layer(str(i)) for i in range(hidden)), layer("_mean"), layer("_log_std"))


def behaviour_file(env_id: str) -> Path:
    """Return the path of the behaviours of an environment, Hopper-v5 or hopper."""
    return FOLDER / f"{env_id.split('-v')[0].lower()}.safetensors"


@lru_cache
def behaviours(env_id: str) -> Behaviours:
    """Load the shipped behaviours of an environment. Raises UserError where there are none."""
    path = behaviour_file(env_id)
    if not path.exists():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.safetensors")))
        raise UserError(
            f"environment {env_id}: no behaviour policies are shipped for it (there are: {known}); "
            "bring data, with dataset=minari dataset.id=… or dataset=d4rl dataset.path=…"
        )
    with safe_open(path, framework="numpy") as file:
        fields: dict[str, Any] = json.loads(file.metadata()["behaviours"])
    return Behaviours(**fields | {key: tuple(fields[key]) for key in ("steps", "returns")})
