"""Contents of summary.json, with which a finished run ends, as values of Python and as the file's plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.settings import SUMMARY_FORMAT

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """Mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of_plain(mean: Any, interval: Any) -> Estimate:
        """Make an estimate of a number and a pair of them. Raises TypeError or ValueError where they are none."""
        low, high = interval
        return Estimate(float(mean), float(low), float(high))

    def times(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        return Estimate(factor * self.mean, factor * self.low, factor * self.high)


@dataclass(frozen=True)
class Total:
    """Results of a phase over seeds and episodes, or, of one seed, over its episodes alone (`interval_over`); no scores without
    reference returns, no successes where the environment reports none."""

    episodes: int
    action: str
    interval_over: str
    returns: Estimate
    scores: Estimate | None
    successes: Estimate | None

    @property
    def measures(self) -> dict[str, Estimate]:
        """The measures that there are, by name; success in per cent."""
        percent = None if self.successes is None else self.successes.times(100.0)
        measures = {"return": self.returns, "score": self.scores, "success": percent}
        return {name: estimate for name, estimate in measures.items() if estimate is not None}

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        plain: dict[str, Any] = {"episodes": self.episodes, "action": self.action, "interval_over": self.interval_over}
        for (mean, interval), estimate in zip(_TOTAL_KEYS, (self.returns, self.scores, self.successes), strict=True):
            plain[mean] = None if estimate is None else estimate.mean
            plain[interval] = None if estimate is None else (estimate.low, estimate.high)
        return plain

    @staticmethod
    def of_plain(plain: Plain) -> Total:
        """Make a total of `to_plain`'s values. Raises an error of PLAIN_DAMAGE where they are none."""
        scores, successes = (
            None if (plain[mean], plain[interval]) == (None, None) else Estimate.of_plain(plain[mean], plain[interval])
            for mean, interval in _TOTAL_KEYS[1:]
        )
        returns = Estimate.of_plain(*(plain[key] for key in _TOTAL_KEYS[0]))
        return Total(int(plain["episodes"]), _name(plain["action"]), str(plain["interval_over"]), returns, scores, successes)


_TOTAL_KEYS = (("return_mean", "return_interval"), ("score_mean", "score_interval"), ("success_rate", "success_interval"))


@dataclass(frozen=True)
class Gain:
    """Difference between the last policy and its reference, of scores, successes or returns."""

    of: str
    difference: Estimate

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        difference = self.difference
        return {"of": self.of, "mean": difference.mean, "interval": (difference.low, difference.high)}

    @staticmethod
    def of_plain(plain: Plain) -> Gain:
        """Make a gain of `to_plain`'s values. Raises an error of PLAIN_DAMAGE where they are none."""
        return Gain(_name(plain["of"]), Estimate.of_plain(plain["mean"], plain["interval"]))


@dataclass(frozen=True)
class SeedResult:
    """Means over the episodes of one seed in a phase."""

    episodes: int
    return_mean: float
    return_std: float
    score_mean: float | None
    success_rate: float | None

    @staticmethod
    def of_plain(plain: Plain) -> SeedResult:
        """Make a result of plain values. Raises an error of PLAIN_DAMAGE where they are none."""
        score, success = (None if plain[key] is None else float(plain[key]) for key in ("score_mean", "success_rate"))
        return SeedResult(int(plain["episodes"]), float(plain["return_mean"]), float(plain["return_std"]), score, success)


@dataclass(frozen=True)
class DatasetSummary:
    """The data of a run, and how much of it the curation keeps."""

    id: str
    content_hash: str
    trajectories: int
    steps: int
    kept_trajectories: int
    kept_steps: int

    @staticmethod
    def of_plain(plain: Plain) -> DatasetSummary:
        """Make a summary of plain values. Raises an error of PLAIN_DAMAGE where they are none."""
        counts = (int(plain[key]) for key in ("trajectories", "steps", "kept_trajectories", "kept_steps"))
        return DatasetSummary(_name(plain["id"]), _name(plain["content_hash"]), *counts)


@dataclass(frozen=True)
class Diverged:
    """Seed whose training diverged, and the step of the checkpoint that is kept of it, None where there was none."""

    seed: int
    step: int
    why: str
    kept_step: int | None

    @staticmethod
    def of_plain(plain: Plain) -> Diverged:
        """Make it of plain values. Raises an error of PLAIN_DAMAGE where they are none."""
        kept = plain["kept_step"]
        return Diverged(int(plain["seed"]), int(plain["step"]), str(plain["why"]), None if kept is None else int(kept))


@dataclass(frozen=True)
class Summary:
    """A finished run: its method, data and environment, results by seed and phase, times, versions, and the SHA-256 of other
    files.

    seeds: those that finished. gains, sha256: None where an earlier version wrote none.
    """

    method: str
    environment: EnvironmentSpec | None
    dataset: DatasetSummary
    algo: str
    curation: str
    averaging: str
    seeds: tuple[int, ...]
    diverged: tuple[Diverged, ...]
    results: dict[int, dict[str, SeedResult]]
    totals: dict[str, Total]
    gains: dict[str, Gain] | None
    normalisation: ReferenceScores | None
    steps_per_second: float
    seed_steps_per_second: float
    seconds: dict[str, float]
    versions: dict[str, str]
    sha256: dict[str, str] | None

    @property
    def finals(self) -> dict[str, Total]:
        """The last policy's totals, by phase: one for each kind of action that was played."""
        return {phase: total for phase, total in self.totals.items() if phase.startswith("final")}

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "format": SUMMARY_FORMAT,
            "status": "finished",
            "method": self.method,
            "environment": None if self.environment is None else self.environment.to_plain(),
            "dataset": asdict(self.dataset),
            "algo": self.algo,
            "curation": self.curation,
            "averaging": self.averaging,
            "seeds": self.seeds,
            "diverged": [asdict(seed) for seed in self.diverged],
            "results": [
                {"seed": seed, **{phase: asdict(result) for phase, result in by_phase.items()}}
                for seed, by_phase in self.results.items()
            ],
            "totals": {phase: total.to_plain() for phase, total in self.totals.items()},
            **({} if self.gains is None else {"gains": {phase: gain.to_plain() for phase, gain in self.gains.items()}}),
            "normalisation": None if self.normalisation is None else asdict(self.normalisation),
            "steps_per_second": self.steps_per_second,
            "seed_steps_per_second": self.seed_steps_per_second,
            "seconds": self.seconds,
            "versions": self.versions,
            **({} if self.sha256 is None else {"sha256": self.sha256}),
        }

    @staticmethod
    def of_plain(plain: Any) -> Summary:
        """Make a summary of `to_plain`'s values. Raises an error of PLAIN_DAMAGE where they are none."""
        if not isinstance(plain, dict):
            raise TypeError("it holds no object")
        if (kind := plain.get("format")) != SUMMARY_FORMAT:
            raise ValueError(
                f"format {kind}, written by another version of iwbc, which can read it; this one reads {SUMMARY_FORMAT}"
            )
        if plain["status"] != "finished":
            raise ValueError(f"its status is {plain['status']}")
        environment, bounds = plain["environment"], plain["normalisation"]
        seeds = tuple(int(seed) for seed in plain["seeds"])
        totals = {phase: Total.of_plain(total) for phase, total in plain["totals"].items()}
        gains = {phase: Gain.of_plain(gain) for phase, gain in plain["gains"].items()} if "gains" in plain else None
        return Summary(
            method=_name(plain["method"]),
            environment=None if environment is None else EnvironmentSpec.of_plain(environment),
            dataset=DatasetSummary.of_plain(plain["dataset"]),
            algo=_name(plain["algo"]),
            curation=_name(plain["curation"]),
            averaging=_name(plain["averaging"]),
            seeds=seeds,
            diverged=tuple(map(Diverged.of_plain, plain.get("diverged", ()))),
            results=_results_of_plain(plain["results"], seeds, totals),
            totals=totals,
            gains=_only_of(totals, gains),
            normalisation=None if bounds is None else _scores_of_plain(bounds),
            steps_per_second=float(plain["steps_per_second"]),
            seed_steps_per_second=float(plain["seed_steps_per_second"]),
            seconds={phase: float(seconds) for phase, seconds in plain["seconds"].items()},
            versions={name: str(version) for name, version in plain["versions"].items()},
            sha256={name: str(digest) for name, digest in plain["sha256"].items()} if "sha256" in plain else None,
        )


def _results_of_plain(
    plain: Sequence[Plain], seeds: Sequence[int], phases: Mapping[str, Total]
) -> dict[int, dict[str, SeedResult]]:
    results = {int(row["seed"]): {phase: SeedResult.of_plain(row[phase]) for phase in phases} for row in plain}
    if set(results) != set(seeds):
        raise ValueError(f"it has results of seeds {sorted(results)}, but trained {sorted(seeds)}")
    return results


def _only_of(totals: Mapping[str, Total], gains: dict[str, Gain] | None) -> dict[str, Gain] | None:
    if unplayed := set(gains or ()) - set(totals):
        raise ValueError(f"it has a gain of {min(unplayed)}, which was not played")
    return gains


def _scores_of_plain(plain: Plain) -> ReferenceScores:
    return ReferenceScores(float(plain["random"]), float(plain["expert"]), str(plain["source"]))


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no name")
    return value
