"""The behaviour policies shipped with the package: snapshots of SAC's actor over the course of its training.

One safetensors file per environment and version, all snapshots stacked, in half precision; `tools/behaviours` made them.
Version 1 has many snapshots of small networks, for a medium-replay tier like D4RL's; version 0 has 25 of larger ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from iwbc.data.tiers import OTHER_STEPS, VERSION
from iwbc.errors import UserError

FOLDER = Path(__file__).parent / "behaviours"


@dataclass(frozen=True)
class Behaviour:
    """A stochastic policy: tanh of a Gaussian with state-dependent mean and standard deviation, actions in ±1."""

    layers: tuple[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]], ...]
    mean: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    log_std: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

    def sample(self, observations: npt.NDArray[np.floating], generator: np.random.Generator) -> npt.NDArray[np.float32]:
        """Actions [n, act] drawn for observations [n, obs]."""
        hidden = observations.astype(np.float32)
        for weight, bias in self.layers:
            hidden = np.maximum(hidden @ weight + bias, 0.0)
        mean = hidden @ self.mean[0] + self.mean[1]
        std = np.exp(np.clip(hidden @ self.log_std[0] + self.log_std[1], -20.0, 2.0))
        return np.tanh(mean + std * generator.standard_normal(mean.shape, np.float32))


@dataclass(frozen=True)
class Behaviours:
    """All snapshots of one environment. `steps` [K] is when each was taken, `returns` [K] what it earns (mean return of
    sampled actions); `medium` and `expert` are the snapshots that the tiers of those names are made with; snapshot 0 is
    the untrained policy. `replay_steps` is how many steps the medium-replay tier has by default."""

    env_id: str
    steps: tuple[int, ...]
    returns: tuple[float, ...]
    medium: int
    expert: int
    training: str
    version: int = 0
    replay_steps: int = OTHER_STEPS

    @property
    def file(self) -> Path:
        """Where they are."""
        return _file(self.env_id, self.version)

    def load(self, snapshot: int) -> Behaviour:
        """The policy of one snapshot."""
        with safe_open(self.file, framework="numpy") as file:
            names = set(file.keys())
            # Version 1's expert, of another training, has larger networks than the snapshots that are stacked.
            apart = snapshot == self.expert and "expert.weight0" in names

            def layer(key: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
                parts = (f"{part}{key}" for part in ("weight", "bias"))
                weight, bias = (
                    file.get_tensor(f"expert.{name}") if apart else file.get_slice(name)[snapshot] for name in parts
                )
                return weight.astype(np.float32), bias.astype(np.float32)

            hidden = sum(name.removeprefix("weight").isdigit() for name in names)
            return Behaviour(tuple(layer(str(i)) for i in range(hidden)), layer("_mean"), layer("_log_std"))


def _file(env_id: str, version: int) -> Path:
    return FOLDER / f"{env_id.split('-v')[0].lower()}-v{version}.safetensors"


@lru_cache
def behaviours(env_id: str, version: int = VERSION) -> Behaviours:
    """The shipped behaviours of an environment. Raises UserError where there are none."""
    if not _file(env_id, version).exists():
        known = ", ".join(sorted(path.stem.removesuffix(f"-v{version}") for path in FOLDER.glob(f"*-v{version}.safetensors")))
        raise UserError(
            f"environment {env_id}: no behaviour policies are shipped for it (there are: {known}); "
            "bring data, with dataset=minari dataset.id=… or dataset=d4rl dataset.path=…"
        )
    with safe_open(_file(env_id, version), framework="numpy") as file:
        fields: dict[str, Any] = json.loads(file.metadata()["behaviours"])
    return Behaviours(**fields | {key: tuple(fields[key]) for key in ("steps", "returns")})
