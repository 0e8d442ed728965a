"""A finished run opened again by a command: its policies, and the environment that they play in.

A folder may be somebody else's: the policy class and the modules that it names are imported only where the user names them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.runs.folder import RunFolder
from iwbc.settings import Config, OwnPolicy
from iwbc.training.trained import Policies


@dataclass(frozen=True)
class SavedRun:
    """What a finished run's folder holds; `environment` is None where its data names none."""

    folder: RunFolder
    config: Config
    summary: dict[str, Any]
    policies: Policies
    environment: EnvironmentSpec | None
    scores: ReferenceScores | None

    def played_in(self, imports: Sequence[str]) -> EnvironmentSpec:
        """The environment to play in. Raises UserError where there is none, or `imports` are not those that it needs."""
        if self.environment is None:
            raise UserError(f"run={self.folder.path}: its dataset names no environment to evaluate in")
        _check_imports(self.folder.path, self.environment, imports)
        return self.environment


def open_run(path: Path, policy: str | None) -> SavedRun:
    """Open a run; `policy` names its policy's class where that is one of the user's own.

    Raises UserError where the folder holds no finished run, or a policy of its own that is not named.
    """
    folder = RunFolder(path)
    config = folder.config()
    summary = folder.finished_summary()
    own = _own_policy(path, config, policy)
    environment = EnvironmentSpec.of_plain(summary["environment"]) if summary["environment"] else None
    scores = ReferenceScores(**summary["normalisation"]) if summary["normalisation"] else None
    return SavedRun(folder, config, summary, folder.policy(own), environment, scores)


def check_trust(
    path: Path, config: Config, environment: EnvironmentSpec, policy: str | None, imports: Sequence[str]
) -> OwnPolicy | None:
    """The policy of the user's own that a run names, if it does. Raises UserError unless the user has named, too, whatever
    the folder would import."""
    own = _own_policy(path, config, policy)
    _check_imports(path, environment, imports)
    return own


def _own_policy(path: Path, config: Config, policy: str | None) -> OwnPolicy | None:
    own = config.policy if isinstance(config.policy, OwnPolicy) else None
    if own is not None and own.target != policy:
        raise UserError(f"run={path}: holds a policy of its own; to import it, add policy={own.target}")
    return own


def _check_imports(path: Path, environment: EnvironmentSpec, imports: Sequence[str]) -> None:
    if list(environment.imports) != list(imports):
        needed = f"to import what registers it, add imports={','.join(environment.imports)}"
        what = needed if environment.imports else "needs no imports"
        raise UserError(f"run={path}: its environment {environment.id} {what}")
