"""Contents of summary.json, with which a finished run ends, as values of Python and as the file's plain data."""

from __future__ import annotations

import types
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.settings import SUMMARY_FORMAT

Interval = tuple[float, float]


class Estimate(NamedTuple):
    """Mean with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Total:
    """Results of a phase, with intervals over seeds, or, of one seed, over its episodes (`interval_over`); no score without
    reference returns, no success where the environment reports none."""

    episodes: int
    action: str
    interval_over: str
    return_mean: float
    return_interval: Interval
    score_mean: float | None
    score_interval: Interval | None
    success_rate: float | None
    success_interval: Interval | None

    @property
    def measures(self) -> dict[str, Estimate]:
        """The measures that there are, by name; success in per cent."""
        measures = {"return": Estimate(self.return_mean, *self.return_interval)}
        if self.score_mean is not None and self.score_interval is not None:
            measures["score"] = Estimate(self.score_mean, *self.score_interval)
        if self.success_rate is not None and self.success_interval is not None:
            measures["success"] = Estimate(*(100.0 * value for value in (self.success_rate, *self.success_interval)))
        return measures


@dataclass(frozen=True)
class Gain:
    """Mean difference between the last policy and its reference, `of` scores, successes or returns."""

    of: str
    mean: float
    interval: Interval


@dataclass(frozen=True)
class SeedResult:
    """Means over the episodes of one seed in a phase."""

    episodes: int
    return_mean: float
    return_std: float
    score_mean: float | None
    success_rate: float | None


@dataclass(frozen=True)
class DatasetSummary:
    """The data of a run, and how much of it the curation keeps."""

    id: str
    content_hash: str
    trajectories: int
    steps: int
    kept_trajectories: int
    kept_steps: int


@dataclass(frozen=True)
class Diverged:
    """Seed whose training diverged, and the step of the checkpoint that is kept of it, None where there was none."""

    seed: int
    step: int
    why: str
    kept_step: int | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A finished run: its method, data and environment, results by seed and phase, times, versions, and the SHA-256 of other
    files.

    seeds: those that finished. chosen: by curation=auto, in words. diverged, gains, sha256: earlier versions wrote none.
    """

    method: str
    environment: EnvironmentSpec | None
    dataset: DatasetSummary
    algo: str
    curation: str
    chosen: str | None = None
    averaging: str
    seeds: tuple[int, ...]
    diverged: tuple[Diverged, ...] = ()
    results: dict[int, dict[str, SeedResult]]
    totals: dict[str, Total]
    gains: dict[str, Gain] | None = None
    normalisation: ReferenceScores | None
    steps_per_second: float
    seed_steps_per_second: float
    seconds: dict[str, float]
    versions: dict[str, str]
    sha256: dict[str, str] | None = None

    @property
    def finals(self) -> dict[str, Total]:
        """The last policy's totals, by phase: one for each kind of action that was played."""
        return {phase: total for phase, total in self.totals.items() if phase.startswith("final")}

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        plain = asdict(self)
        plain["results"] = [{"seed": seed, **by_phase} for seed, by_phase in plain["results"].items()]
        unwritten = [name for name in ("chosen", "gains", "sha256") if plain[name] is None]
        plain = {name: value for name, value in plain.items() if name not in unwritten}
        return {"format": SUMMARY_FORMAT, "status": "finished", **plain}

    @staticmethod
    def of_plain(plain: Any) -> Summary:
        """Make a summary of `to_plain`'s values. Raises an error of MALFORMED where they are none."""
        if not isinstance(plain, dict):
            raise TypeError("it holds no object")
        if (kind := plain.get("format")) != SUMMARY_FORMAT:
            raise ValueError(
                f"format {kind}, written by another version of iwbc, which can read it; this one reads {SUMMARY_FORMAT}"
            )
        if plain["status"] != "finished":
            raise ValueError(f"its status is {plain['status']}")
        by_seed = {row["seed"]: {phase: row[phase] for phase in plain["totals"]} for row in plain["results"]}
        summary: Summary = made(Summary, {**plain, "results": by_seed})
        if set(summary.results) != set(summary.seeds):
            raise ValueError(f"it has results of seeds {sorted(summary.results)}, but trained {sorted(summary.seeds)}")
        if unplayed := set(summary.gains or ()) - set(summary.totals):
            raise ValueError(f"it has a gain of {min(unplayed)}, which was not played")
        return summary


def made(kind: Any, plain: Any) -> Any:
    """Make a value of a kind, such as a dataclass or tuple[int, ...], of plain data. Raises an error of MALFORMED where they
    do not fit."""
    if kind is EnvironmentSpec:
        return EnvironmentSpec.of_plain(plain)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        needed = [field.name for field in fields(kind) if field.name in plain or field.default is MISSING]
        return kind(**{name: made(hints[name], plain[name]) for name in needed})  # type: ignore[operator]
    arguments = get_args(kind)
    match get_origin(kind):
        case types.UnionType:  # with None
            return None if plain is None else made(arguments[0], plain)
        case origin if origin is dict:
            return {made(arguments[0], key): made(arguments[1], value) for key, value in plain.items()}
        case origin if origin is tuple and arguments[-1] is Ellipsis:
            return tuple(made(arguments[0], value) for value in plain)
        case origin if origin is tuple:
            return tuple(made(argument, value) for argument, value in zip(arguments, plain, strict=True))
    if kind is str and not (isinstance(plain, str) and plain):
        raise TypeError(f"{plain!r} is no name")
    return kind(plain)
