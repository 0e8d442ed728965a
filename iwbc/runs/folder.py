"""The files of a run folder, written atomically and read back.

config.yaml         the resolved configuration
metrics.csv         a row per logged step and seed
evaluations.csv     a row per episode, with its phase: reference, periodic or final
curation.csv        the histogram of returns: all trajectories and those kept
weights.csv         every kept trajectory's return, curation weight and importance weight at the end, for each seed
run.html            the run on one page
policy.safetensors  the last policy of every seed with all that is needed to rebuild it
summary.json        results, dataset, times, versions; there only when the run is finished
checkpoint.safetensors   there only while it is not
reference.safetensors    likewise, where the policy is of the user's own: the training of its reference
last-good-seed<n>.safetensors   of a seed that diverged: what the last checkpoint before held of it
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
from torch import Tensor

from iwbc import __version__
from iwbc.config import validate
from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.settings import SUMMARY_FORMAT, Config, OwnPolicy, drop_gone, to_plain, training_part
from iwbc.system.files import (
    KINDS,
    MALFORMED,
    cache_folder,
    kind_of,
    parse_json,
    read_json,
    read_tensors,
    read_yaml,
    write_bytes,
    write_csv,
    write_json,
    write_tensors,
)
from iwbc.training.trained import Policies, load_policy

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

    def check(self, config: Config, resumed: bool = False) -> None:
        """Raise UserError where the folder already holds a run of another configuration; where it is `resumed`, of one that
        trains otherwise, or that is finished."""
        if not self.begun() or (held := self.config()) == config:
            return
        if not resumed or training_part(held) != training_part(config):
            raise UserError(f"{self.path}: holds a run with another configuration; choose another hydra.run.dir")
        if self.summary() is not None:
            raise UserError(f"{self.path}: is finished, and its settings with it; iwbc evaluate run={self.path} plays it again")

    def start(self, config: Config) -> None:
        """Write the configuration, with which the run can be resumed from here on."""
        write_bytes(self._config, yaml.safe_dump(to_plain(config), sort_keys=False).encode())
        self._training = _hash_of_training(config)

    def begun(self) -> bool:
        """Whether there is a run that can be resumed."""
        return self._config.exists()

    @property
    def _config(self) -> Path:
        return self.path / "config.yaml"

    def config(self) -> Config:
        """The run's configuration. Raises UserError where the folder holds none."""
        if not self.begun():
            kind = kind_of(self.path)
            hint = "" if kind == "other" else f"; it is {KINDS[kind]}"
            raise UserError(f"{self.path}: not a run folder (it has no config.yaml){hint}")
        try:
            plain = read_yaml(self._config)
            if not isinstance(plain, dict):
                raise UserError("it holds no settings")
            if "${" in self._config.read_text():
                raise UserError("it holds an interpolation, which could read this machine's environment")
            drop_gone(plain)
            config = validate(OmegaConf.create(plain))
            if to_plain(config) != plain:
                raise UserError("not all settings are there")
        except (OSError, ValueError, AssertionError, UserError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._config}: damaged, or written by another version of iwbc, which can continue it; or train again "
                f"({reason})"
            ) from None
        return config

    def write_table(self, name: str, text: str) -> dict[str, Any]:
        """Write metrics.csv or evaluations.csv, and return what a checkpoint holds of it: its size in bytes and its SHA-256."""
        content = text.encode()
        write_bytes(self.path / name, content)
        return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def read_table(self, name: str, written: dict[str, Any]) -> str:
        """Read the text that `write_table` wrote when it returned `written`, whatever came after. Raises UserError where the
        file does not begin with it."""
        path = self.path / name
        try:
            content = path.read_bytes()[: written["size"]]
            if hashlib.sha256(content).hexdigest() != written["sha256"]:
                raise ValueError("it does not begin as it did then")
            return content.decode()
        except MALFORMED as error:
            raise UserError(
                f"{path}: is not the one that the checkpoint goes with ({error}); delete checkpoint.safetensors to start this "
                "run again"
            ) from None

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
        """Write all that is needed to continue a run that was started: the algorithm's tensors, how far the tables go, and the
        times so far."""
        write_tensors(self._checkpoint, state, {"progress": json.dumps(progress), "config": self._training})

    @property
    def _checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def reference(self) -> Path:
        """Where the training of a reference of the user's own leaves its state."""
        return self.path / "reference.safetensors"

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None where there is none. Raises UserError where it is damaged."""
        if not self._checkpoint.exists():
            return None
        try:
            state, metadata = read_tensors(self._checkpoint)
            if metadata["config"] != _hash_of_training(self.config()):
                raise ValueError("it is of a run with another configuration")
            progress: dict[str, Any] = parse_json(metadata["progress"])
            if not isinstance(progress, dict):
                raise ValueError("its progress is no object")
            return state, progress
        except MALFORMED as error:
            raise UserError(f"{self._checkpoint}: cannot be read ({error}); delete it to start this run again") from None

    def hashes(self) -> dict[str, str]:
        """The SHA-256 of the files that a run's results are made of and made by."""
        files = ("config.yaml", "policy.safetensors", "evaluations.csv", "metrics.csv")
        return {name: hashlib.sha256((self.path / name).read_bytes()).hexdigest() for name in files}

    def keep(self, seed: int) -> int | None:
        """Put what the checkpoint holds of a seed into a file of its own, last-good-seed<n>.safetensors, which stays; its step,
        or None where there is no checkpoint."""
        found = self.checkpoint()
        if found is None:
            return None
        state, progress = found
        own = {name: value for name, value in state.items() if name.startswith(f"{seed}.")}
        write_tensors(self.path / f"last-good-seed{seed}.safetensors", own, {"step": str(progress["done"])})
        return int(progress["done"])

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary, which marks the run as finished, and remove what only an unfinished run needs."""
        write_json(self.path / "summary.json", summary)
        for unfinished in (self._checkpoint, self.reference, self._failure):
            unfinished.unlink(missing_ok=True)

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
            found: dict[str, Any] = read_json(path)
            _check_summary(found)
        except MALFORMED as error:
            raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); delete it to run this again") from None
        return found

    def finished_summary(self) -> dict[str, Any]:
        """The summary of a run that must have finished. Raises UserError where it has not, or the summary is damaged."""
        found = self.summary()
        if found is None:
            raise UserError(
                f"run={self.path}: this run is not finished; continue it with python -m iwbc.train resume={self.path}"
            )
        return found


def _hash_of_training(config: Config) -> str:
    """The SHA-256 of the settings that a checkpoint depends on."""
    return hashlib.sha256(json.dumps(training_part(config), sort_keys=True).encode()).hexdigest()


def _check_summary(found: dict[str, Any]) -> None:
    """Raise an error unless what the commands read of a summary is there."""
    if not isinstance(found, dict):
        raise TypeError("it holds no object")
    if found["format"] != SUMMARY_FORMAT:
        raise ValueError(f"its format is {found['format']}, not {SUMMARY_FORMAT}")
    if found["environment"] is not None:
        EnvironmentSpec.of_plain(found["environment"])
    if found["normalisation"] is not None:
        ReferenceScores(**found["normalisation"])
    for total in found["totals"].values():
        for name in ("return_mean", "score_mean", "success_rate"):
            mean, bounds = total[name], total[f"{name.split('_')[0]}_interval"]
            if (mean, bounds) != (None, None):
                float(mean), *map(float, bounds)
        str(total["action"]), int(total["episodes"]), str(total["interval_over"])
    for phase, gain in found.get("gains", {}).items():  # an earlier version wrote none
        (low, high), _ = gain["interval"], found["totals"][phase]
        str(gain["of"]), float(gain["mean"]), float(low), float(high)
    [int(seed) for seed in found["seeds"]]
    if not isinstance(found["method"], str) or not found["dataset"]["id"]:
        raise TypeError("method and dataset.id are names")


def versions() -> dict[str, str]:
    """Of this package, the libraries that results depend on, and PyTorch's device libraries."""
    found = {"iwbc": __version__, **{name: version(name) for name in _LIBRARIES}}
    with contextlib.suppress(PackageNotFoundError):
        found["wandb"] = version("wandb")
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found
