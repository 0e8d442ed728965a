"""The files of a run folder, written atomically and read back.

config.yaml         the resolved configuration
metrics.csv         a row per logged step and seed
evaluations.csv     a row per episode, with its phase: reference, periodic or final
choice.json         where curation=auto: the chosen curation, and what the others that were tried come to
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

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from iwbc.data.choice import Choice
from iwbc.errors import UserError
from iwbc.runs.page import page
from iwbc.runs.read import read_config, read_summary
from iwbc.runs.summary import Summary
from iwbc.settings import Config, to_plain, training_part
from iwbc.system.files import (
    MALFORMED,
    cache_folder,
    parse_json,
    write_bytes,
    write_csv,
    write_json,
)
from iwbc.training.states import State, read_states, write_states
from iwbc.training.trained import Policies


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lock(self) -> FileLock:
        """Held by the one process that works in this folder."""
        name = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:32]
        lock = cache_folder() / "locks" / f"{name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(lock)

    def check(self, config: Config, resumed: bool = False) -> None:
        """Raise UserError where the folder already holds a run of another configuration; where it is `resumed`, of one that
        trains otherwise, or that is finished."""
        if not self.begun() or (held := read_config(self.path)) == config:
            return
        if not resumed or training_part(held) != training_part(config):
            raise UserError(f"{self.path}: holds a run with another configuration; choose another hydra.run.dir")
        if read_summary(self.path) is not None:
            raise UserError(f"{self.path}: is finished, and its settings with it; iwbc evaluate run={self.path} plays it again")

    def start(self, config: Config) -> None:
        """Write the configuration, with which the run can be resumed from here on."""
        write_bytes(self._config, yaml.safe_dump(to_plain(config), sort_keys=False).encode())
        self._training = _hash_of_training(config)

    def begun(self) -> bool:
        """Tell a folder with a run that can be resumed from others."""
        return self._config.exists()

    @property
    def _config(self) -> Path:
        return self.path / "config.yaml"

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

    def write_choice(self, choice: Choice) -> None:
        write_json(self.path / "choice.json", choice.to_plain())

    def write_curation(self, rows: list[dict[str, Any]]) -> None:
        write_csv(self.path / "curation.csv", rows)

    def write_weights(self, rows: list[dict[str, Any]]) -> None:
        write_csv(self.path / "weights.csv", rows)

    def write_policy(self, policies: Policies) -> None:
        policies.save(self.path / "policy.safetensors")

    def write_checkpoint(self, states: dict[int, State], progress: dict[str, Any]) -> None:
        """Write all that is needed to continue a run that was started: each seed's tensors, how far the tables go, and the
        times so far."""
        write_states(self._checkpoint, states, {"progress": json.dumps(progress), "config": self._training})

    @property
    def _checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def reference(self) -> Path:
        """The file in which the training of a custom reference leaves its state."""
        return self.path / "reference.safetensors"

    @property
    def has_checkpoint(self) -> bool:
        """True where training has been interrupted after a checkpoint."""
        return self._checkpoint.exists()

    def checkpoint(self) -> tuple[dict[int, State], dict[str, Any]] | None:
        """Read the last checkpoint, or None where there is none. Raises UserError where it is damaged."""
        if not self.has_checkpoint:
            return None
        try:
            states, metadata = read_states(self._checkpoint)
            if metadata["config"] != _hash_of_training(read_config(self.path)):
                raise ValueError("it is of a run with another configuration")
            progress: dict[str, Any] = parse_json(metadata["progress"])
            if not isinstance(progress, dict):
                raise ValueError("its progress is no object")
            return states, progress
        except MALFORMED as error:
            raise UserError(f"{self._checkpoint}: cannot be read ({error}); delete it to start this run again") from None

    def keep(self, seed: int) -> int | None:
        """Put what the checkpoint holds of a seed into last-good-seed<n>.safetensors, which stays; return the step that it is
        of, or None where there is no checkpoint."""
        checkpoint = self.checkpoint()
        if checkpoint is None:
            return None
        states, progress = checkpoint
        step = int(progress["done"])
        write_states(self.path / f"last-good-seed{seed}.safetensors", {seed: states[seed]}, {"step": str(step)})
        return step

    def finish(self, summary: Summary) -> None:
        """Write the page and the summary, which marks the run as finished, and remove what only an unfinished run needs."""
        self.write_page(summary)
        write_json(self.path / "summary.json", summary.to_plain())
        for unfinished in (self._checkpoint, self.reference, self._failure):
            unfinished.unlink(missing_ok=True)

    def write_page(self, summary: Summary) -> None:
        """Write or replace run.html, from the other files and the summary. Raises UserError where one is damaged."""
        write_bytes(self.path / "run.html", page(self.path, summary).encode())

    @property
    def _failure(self) -> Path:
        return self.path / "failure.json"

    def write_failure(self, error: str, overrides: list[str]) -> None:
        """Leave word of why the run stopped."""
        write_json(self._failure, {"error": error, "overrides": overrides})


def _hash_of_training(config: Config) -> str:
    """Compute the SHA-256 of the settings that a checkpoint depends on."""
    return hashlib.sha256(json.dumps(training_part(config), sort_keys=True).encode()).hexdigest()
