"""What a run folder holds, written atomically and read back.

config.yaml         the resolved configuration
metrics.csv         a row per logged step and seed
evaluations.csv     a row per episode, with its phase: reference, periodic or final
curation.csv        the histogram of returns: all trajectories and those kept
weights.csv         every kept trajectory's return, curation weight and importance weight at the end, for each seed
run.html            the run on one page
policy.safetensors  the last policy of every seed with all that is needed to rebuild it
summary.json        results, dataset, times, versions; there only when the run is finished
checkpoint.safetensors   there only while it is not
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from torch import Tensor

from iwbc import __version__
from iwbc.config import validate
from iwbc.errors import UserError
from iwbc.files import cache_folder, write_bytes, write_csv, write_json, write_tensors
from iwbc.settings import Config, OwnPolicy, to_plain
from iwbc.trained import Policies, load_policy

_LIBRARIES = ("torch", "numpy", "gymnasium", "mujoco", "minari", "hydra-core", "safetensors")


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lock(self) -> FileLock:
        """Held by the one process that works in this folder."""
        name = hashlib.sha256(str(self.path.absolute()).encode()).hexdigest()[:32]
        lock = cache_folder() / "locks" / f"{name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(lock)

    def check(self, config: Config) -> None:
        """Raise UserError where the folder already holds a run of another configuration."""
        if self._config.exists() and self.config() != config:
            raise UserError(f"{self.path}: holds a run with another configuration; choose another hydra.run.dir")

    def start(self, config: Config) -> None:
        """Write the configuration, with which the run can be resumed from here on."""
        write_bytes(self._config, yaml.safe_dump(to_plain(config), sort_keys=False).encode())

    @property
    def _config(self) -> Path:
        return self.path / "config.yaml"

    def config(self) -> Config:
        """The run's configuration. Raises UserError where the folder holds none."""
        if not self._config.exists():
            raise UserError(f"{self.path}: not a run folder (it has no config.yaml)")
        try:
            plain = yaml.safe_load(self._config.read_text())
            config = validate(OmegaConf.create(plain))
            if to_plain(config) != plain:
                raise UserError("not all settings are there")
        except (yaml.YAMLError, AssertionError, UserError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._config}: damaged, or written by another version of iwbc, which can continue it; or train again "
                f"({reason})"
            ) from None
        return config

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        write_csv(self.path / "metrics.csv", rows)

    def write_evaluations(self, rows: list[dict[str, Any]]) -> None:
        write_csv(self.path / "evaluations.csv", rows)

    def write_curation(self, rows: list[dict[str, Any]]) -> None:
        write_csv(self.path / "curation.csv", rows)

    def write_weights(self, rows: list[dict[str, Any]]) -> None:
        write_csv(self.path / "weights.csv", rows)

    def write_policy(self, policies: Policies) -> None:
        policies.save(self.path / "policy.safetensors")

    def policy(self, own: OwnPolicy | None = None) -> Policies:
        """The saved policies; `own` names what to import where they are the user's own. Raises UserError where there are none
        or they are damaged."""
        return load_policy(self.path / "policy.safetensors", policy=own)

    def write_checkpoint(self, state: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """All that is needed to continue: the algorithm's tensors, and the rows and times so far."""
        write_tensors(self._checkpoint, state, {"progress": json.dumps(progress)})

    @property
    def _checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None where there is none. Raises UserError where it is damaged."""
        if not self._checkpoint.exists():
            return None
        try:
            with safe_open(self._checkpoint, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["progress"])  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self._checkpoint}: cannot be read ({error}); delete it to start this run again") from None

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which marks the run as finished, and remove what only an unfinished run needs."""
        write_json(self.path / "summary.json", summary)
        self._checkpoint.unlink(missing_ok=True)
        self._failure.unlink(missing_ok=True)

    @property
    def _failure(self) -> Path:
        return self.path / "failure.json"

    def write_failure(self, error: str, overrides: list[str]) -> None:
        """Leave word of why the run stopped."""
        write_json(self._failure, {"error": error, "overrides": overrides})

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); delete it to run this again") from None
        return found


def versions() -> dict[str, str]:
    """Of this package, the libraries that results depend on, and PyTorch's device libraries."""
    found = {"iwbc": __version__, **{name: version(name) for name in _LIBRARIES}}
    for extra in ("envpool", "wandb"):
        with contextlib.suppress(PackageNotFoundError):
            found[extra] = version(extra)
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
