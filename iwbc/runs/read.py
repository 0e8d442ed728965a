"""Files of one run folder, read again: everything but tensors, so that nothing here needs torch.

A folder may be somebody else's: the policy class and the modules that it names are imported only where the user names them too.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from iwbc.data.choice import Choice
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.runs.rows import EpisodeRow, MetricRow
from iwbc.runs.summary import Summary
from iwbc.settings import ALGORITHMS, Config, OwnPolicy, add_new, drop_gone, to_plain
from iwbc.system.files import KINDS, MALFORMED, kind_of, read_json, read_yaml
from iwbc.system.imports import import_named

if TYPE_CHECKING:
    from iwbc.training.trained import Policies

Columns = dict[str, npt.NDArray[np.float64]]
_Row = TypeVar("_Row")

REMEDY = "train this run again, or leave its folder out"


# --- settings --------------------------------------------------------------------------------------------------------


def read_settings(folder: Path) -> dict[str, Any]:
    """Read config.yaml as plain values, without settings that are gone. Raises UserError where it is missing or damaged, or
    needs another version."""
    return _checked_settings(folder, lambda plain: plain)


def read_config(folder: Path, imports: Sequence[str] = ()) -> Config:
    """Read a run's configuration. imports: modules that the user has named, one of which may register a custom algorithm.

    Raises UserError where the folder holds none, it is of another version, or nothing registers its algorithm.
    """
    algo = read_settings(folder).get("algo")
    if isinstance(algo, dict) and isinstance(name := algo.get("name"), str) and name not in ALGORITHMS:
        import_named(imports)
        if name not in ALGORITHMS:
            raise UserError(
                f"{folder}: its algorithm, {name}, is none of iwbc's; name the module that registers it, by "
                "env.imports=[module] where training goes on, by imports=module in other commands"
            )

    def typed(plain: dict[str, Any]) -> Config:
        from omegaconf import OmegaConf

        from iwbc.config import validate

        config = validate(OmegaConf.create(plain))
        if to_plain(config) != plain:
            raise UserError("not all settings are there")
        return config

    return _checked_settings(folder, typed)


class _OfLanguage(Exception):
    """The settings of a run of another kind."""


def _checked_settings(folder: Path, make: Callable[[dict[str, Any]], _Row]) -> _Row:
    path = folder / "config.yaml"
    if not path.exists():
        kind = kind_of(folder)
        hint = "" if kind == "other" else f"; it is {KINDS[kind]}"
        raise UserError(f"{folder}: not a run folder (it has no config.yaml){hint}")
    try:
        plain = read_yaml(path)
        if not isinstance(plain, dict):
            raise UserError("it holds no settings")
        if plain.get("kind") == "language":
            raise _OfLanguage
        if "${" in path.read_text(encoding="utf-8"):
            raise UserError("it holds an interpolation, which could read this machine's environment")
        drop_gone(plain)
        add_new(plain)
        return make({str(key): value for key, value in plain.items()})
    except _OfLanguage:
        raise UserError(f"{folder}: a run of a language model, which iwbc language evaluate, verify and report take") from None
    except (OSError, ValueError, AssertionError, UserError) as error:
        raise UserError(
            f"{path}: damaged, or written by another version of iwbc, which can continue it; or train again "
            f"({' '.join(str(error).split())})"
        ) from None


# --- results ---------------------------------------------------------------------------------------------------------


def read_summary(folder: Path) -> Summary | None:
    """Read the summary of a finished run; None where there is none. Raises UserError where it is damaged."""
    path = folder / "summary.json"
    if not path.exists():
        return None
    try:
        return Summary.of_plain(read_json(path))
    except MALFORMED as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: damaged ({reason}); delete it to run this again, or leave its folder out") from None


def finished_summary(folder: Path) -> Summary:
    """Read the summary of a run that must have finished. Raises UserError where it has not, or the summary is damaged."""
    summary = read_summary(folder)
    if summary is None:
        raise UserError(f"run={folder}: this run is not finished; continue it with python -m iwbc.train resume={folder}")
    return summary


def read_failure(folder: Path) -> str | None:
    """Read why a run stopped, with the settings that it was given; None where no word was left of it."""
    path = folder / "failure.json"
    if not path.exists():
        return None
    try:
        failure = read_json(path)
        overrides, reason = " ".join(map(str, failure.get("overrides") or [])), str(failure.get("error", "no reason given"))
    except MALFORMED as error:
        raise UserError(f"{path}: damaged ({error}); {REMEDY}") from None
    return f"{reason} ({overrides})" if overrides else reason


# Of which earlier versions wrote no hash.
NEWLY_HASHED = ("weights.csv", "curation.csv")


def file_hashes(folder: Path) -> dict[str, str]:
    """Compute the SHA-256 of the files that a run's results are made of and made by."""
    files = ["config.yaml", "policy.safetensors", "evaluations.csv", "metrics.csv"]
    files += [name for name in ("choice.json", *NEWLY_HASHED) if (folder / name).exists()]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


# --- tables ----------------------------------------------------------------------------------------------------------


def read_episodes(folder: Path) -> Iterator[EpisodeRow]:
    """Yield the rows of evaluations.csv; none where there is no such file, as without an environment."""
    return _made_rows(folder / "evaluations.csv", EpisodeRow.of_plain)


def read_metrics(folder: Path) -> Columns:
    """Read the columns of metrics.csv, NaN where a row has no number; empty where there is no such file, or no row."""
    rows = list(_made_rows(folder / "metrics.csv", MetricRow.of_plain))
    names = rows[0].to_plain() if rows else ()
    plain = [row.to_plain() for row in rows]
    return {name: np.array([row[name] for row in plain], np.float64) for name in names}


def of_seeds(columns: Columns, seeds: Sequence[int]) -> Columns:
    """Select the rows of some seeds, such as those that have not diverged."""
    some = np.isin(columns["seed"], seeds) if columns else np.zeros(0, bool)
    return {name: column[some] for name, column in columns.items()} if some.any() else {}


def read_weights(folder: Path) -> Columns:
    """Read the columns of weights.csv, as `read_numbers` does; no weight is negative, and not all are 0."""
    path = folder / "weights.csv"
    columns = read_numbers(path, "seed", "return", "length", "curation", "weight")
    weights = [columns[name] for name in ("curation", "weight") if columns]
    if any(some.min() < 0.0 or some.max() == 0.0 for some in weights):
        raise UserError(f"{path}: damaged (negative weights, or none above 0); {REMEDY}")
    return columns


def read_curation(folder: Path) -> Columns:
    """Read the columns of curation.csv, as `read_numbers` does."""
    return read_numbers(folder / "curation.csv", "return_low", "return_high", "trajectories", "kept")


def read_choice(folder: Path) -> Choice | None:
    """Read the choice of a run with curation=auto; None where there is none. Raises UserError where it is damaged."""
    path = folder / "choice.json"
    try:
        return Choice.of_plain(read_json(path)) if path.exists() else None
    except (*MALFORMED, UserError) as error:
        raise UserError(f"{path}: damaged ({error}); {REMEDY}") from None


def read_numbers(path: Path, *needed: str) -> Columns:
    """Read the columns of a table of numbers; NaN where a row has no number; empty where there is no such file, or no row.
    Raises UserError where it is damaged, and where a `needed` column is missing or not all finite."""
    rows = _rows(path)
    try:
        columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}
        if missing := [name for name in needed if rows and not np.isfinite(columns.get(name, np.nan)).all()]:
            raise ValueError(f"no number in column {missing[0]}")
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); {REMEDY}") from None
    return columns


def _made_rows(path: Path, make: Callable[[Mapping[str, str]], _Row]) -> Iterator[_Row]:
    for line, row in enumerate(_rows(path), start=2):
        try:
            yield make(row)
        except MALFORMED as error:
            raise UserError(f"{path}, line {line}: damaged ({error}); {REMEDY}") from None


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: damaged ({error}); {REMEDY}") from None


def read_videos(folder: Path) -> list[dict[str, Any]]:
    """Read what `iwbc record` says of the videos that it left in a run folder: name, file, seed, episode, return, length,
    action, and of how many episodes it is. Raises UserError where that is damaged."""
    path = folder / "videos" / "videos.json"
    try:
        rows = read_json(path) if path.exists() else []
        kinds = {"name": str, "seed": int, "episode": int, "return": float, "length": int, "of": int, "action": str}
        return [{"file": Path(row["file"]).name, **{key: kind(row[key]) for key, kind in kinds.items()}} for row in rows]
    except MALFORMED as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); record again, or delete it") from None


# --- a finished run, opened by a command -----------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedRun:
    """A finished run's folder with its configuration and summary."""

    folder: Path
    config: Config
    summary: Summary

    def custom_policy(self, trusted: str | None) -> OwnPolicy | None:
        """Return the custom policy that the run names, if it does. Raises UserError unless the user trusts it by name."""
        policy = self.config.policy if isinstance(self.config.policy, OwnPolicy) else None
        if policy is not None and policy.target != trusted:
            raise UserError(f"run={self.folder}: holds a policy of its own; to import it, add policy={policy.target}")
        return policy

    def policies(self, trusted: str | None) -> Policies:
        """Load the policies, which needs torch. Raises UserError where they are damaged, or as `custom_policy` does."""
        from iwbc.training.trained import load_policy

        return load_policy(self.folder / "policy.safetensors", policy=self.custom_policy(trusted))

    def environment(self, imports: Sequence[str]) -> EnvironmentSpec:
        """Return the environment to play in. Raises UserError where there is none, or `imports` are not those that it needs."""
        environment = self.summary.environment
        if environment is None:
            raise UserError(f"run={self.folder}: its dataset names no environment to evaluate in")
        if list(environment.imports) != list(imports):
            needed = f"needs imports; to import what registers it, add imports={','.join(environment.imports)}"
            what = needed if environment.imports else "needs no imports"
            raise UserError(f"run={self.folder}: its environment {environment.id} {what}")
        return environment


def open_run(folder: Path, imports: Sequence[str] = ()) -> SavedRun:
    """Open a finished run, as `read_config` does. Raises UserError where the folder holds none."""
    return SavedRun(folder, read_config(folder, imports), finished_summary(folder))
