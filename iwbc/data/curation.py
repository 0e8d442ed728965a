"""Curation: from returns or success labels to one weight per trajectory (0 = dropped). All in double precision.

Percentiles are over trajectories, with linear interpolation; a trajectory is kept when G_i ≥ c, so ties at c are kept.
`rounding` is added to G_i, for what it has lost to the rounding of rewards to float32, in which 0.7 is less than 0.7.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from iwbc import settings
from iwbc.data.curated import Curated
from iwbc.data.ranking import discounted_returns, failures_below, smoothness
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.data.trajectory_csv import read_column, sha256_of
from iwbc.errors import UserError, listed, warn
from iwbc.settings import Settings

Weights = npt.NDArray[np.float64]
C = TypeVar("C", bound=Settings)
_WHOLE = 1e-12  # of the number of values: how far float64 may move the position of a percentile


def all_trajectories(returns: Weights) -> Weights:
    """Set R = 1 for every trajectory: plain behaviour cloning. Returns G [n] → R [n]."""
    return np.ones(len(returns))


def top_fraction(returns: Weights, fraction: float, rounding: Weights | float = 0.0) -> Weights:
    """Compute R = 1[G ≥ percentile(G, 100 (1 − fraction))], [n] → [n]."""
    return threshold(returns, float(percentiles_of(returns, 100.0 - 100.0 * fraction)), rounding)


def quality_levels(returns: Weights, percentiles: Sequence[float], rounding: Weights | float = 0.0) -> Weights:
    """Compute R = Σ_c 1[G ≥ c], the number of levels that a trajectory passes (the paper's Q), [n] → [n]."""
    levels = percentiles_of(returns, np.asarray(percentiles, np.float64))
    passed: Weights = ((returns + rounding)[:, None] >= levels[None, :]).sum(1, dtype=np.float64)
    return passed


def percentiles_of(values: Weights, percentiles: Weights | float) -> Weights:
    """Compute percentiles, by linear interpolation, [n] and [k] → [k]; one that falls on a value is exactly that value."""
    levels: Weights = np.asarray(np.percentile(values, percentiles))
    positions = np.asarray(percentiles) / 100.0 * (len(values) - 1)
    whole = np.rint(positions)
    # 0.56 · 25 is a little more than 14: interpolated, the level would lie above the value that it falls on, and drop it.
    falls = np.abs(positions - whole) <= _WHOLE * len(values)
    return np.where(falls, np.sort(values)[whole.astype(np.int64)], levels)


def threshold(returns: Weights, minimum: float, rounding: Weights | float = 0.0) -> Weights:
    """Compute R = 1[G ≥ minimum], [n] → [n]."""
    return (returns + rounding >= minimum).astype(np.float64)


def success(successes: npt.NDArray[np.bool_]) -> Weights:
    """Set R = 1 where the trajectory is labelled a success, else 0, [n] → [n]."""
    return successes.astype(np.float64)


def success_by_last_reward(last_rewards: npt.NDArray[np.float32], minimum: float) -> Weights:
    """Set R = 1 where the last reward is at least `minimum`, else 0, [n] → [n]: for tasks that end on a rewarded success."""
    # In the rewards' precision, because 0.7 in float32 is a little less than 0.7.
    return (last_rewards >= np.float32(minimum)).astype(np.float64)


def vary(values: Weights, rounding: Weights | float = 0.0) -> bool:
    """Tell whether values [n] differ by more than they may have lost to rounding."""
    return bool(np.ptp(values) > 2.0 * np.max(rounding))


def return_weighted(returns: Weights, temperature: float, rounding: Weights | float = 0.0) -> Weights:
    """Compute R ∝ exp((G − max G) / (β · std G)), β the temperature, [n] → [n]; all equal where the returns do not vary."""
    spread = temperature * returns.std()
    if spread == 0.0 or not vary(returns, rounding):
        return np.ones(len(returns))
    weights: Weights = np.exp((returns - returns.max()) / spread)
    return weights


@dataclass(frozen=True)
class Scores:
    """The figures a curation judges by, of every trajectory of control or row of language: [n] each.

    rounding: how much of a return may be lost to float32. last_rewards: None where the return is the last reward. lengths: of
    trajectories in steps, of rows in characters. members [n, g]: who belongs to each of `groups`. trajectories: None of rows.
    """

    name: str  # of the dataset, in messages
    returns: Weights
    lengths: npt.NDArray[np.int64]
    successes: npt.NDArray[np.bool_] | None = None
    rounding: Weights | float = 0.0
    last_rewards: npt.NDArray[np.float32] | None = None
    groups: Sequence[str] = ()
    members: npt.NDArray[np.bool_] | None = None
    trajectories: Trajectories | None = None
    noun: str = "trajectories"

    @classmethod
    def of(cls, trajectories: Trajectories) -> Scores:
        """Collect the scores of packed trajectories."""
        return cls(
            trajectories.info.id,
            trajectories.returns,
            trajectories.lengths,
            trajectories.successes,
            trajectories.return_rounding,
            trajectories.rewards[trajectories.first_rows + trajectories.lengths - 1],
            trajectories.info.groups,
            trajectories.groups,
            trajectories,
        )

    def __len__(self) -> int:
        return len(self.returns)

    @property
    def rewarded_last(self) -> npt.NDArray[np.float32]:
        """The last reward of each, [n]."""
        return self.returns.astype(np.float32) if self.last_rewards is None else self.last_rewards

    def ranked(self, curation: settings.Ranked) -> tuple[Weights, Weights | float]:
        """Compute what a curation ranks by, larger is better, [n], and how much of it may be lost to float32.

        Raises UserError where rows are to be ranked by what only trajectories have.
        """
        match curation.rank_by:
            case "return":
                return self.returns, self.rounding
            case "length":
                return failures_below(-self.lengths.astype(np.float64), self.successes), 0.0
        if self.trajectories is None:
            raise UserError(f"curation.rank_by={curation.rank_by}: {self.noun} have none; must be one of return, length")
        if curation.rank_by == "discounted_return":
            return discounted_returns(self.trajectories, curation.discount)
        return failures_below(smoothness(self.trajectories), self.successes), 0.0


def group_weights(scores: Scores, curation: settings.Groups) -> Weights:
    """Set R to the largest weight of the kept groups that a trajectory belongs to (0 where it belongs to none, or to a dropped
    group too), [n].

    Raises UserError where the dataset has no group of a name.
    """
    if scores.members is None or not scores.groups:
        raise UserError(f"curation=groups: dataset {scores.name} has no groups; choose another curation, such as scores")
    for setting in ("keep", "drop"):
        if unknown := [name for name in getattr(curation, setting) if name not in scores.groups]:
            raise UserError(
                f"curation.{setting}={unknown[0]}: dataset {scores.name} has no such group; it has {listed(scores.groups)}"
            )
    kept = [scores.groups.index(name) for name in curation.keep]
    dropped = [scores.groups.index(name) for name in curation.drop]
    each = np.array(curation.weights or np.ones(len(kept)), np.float64)
    weights = (scores.members[:, kept] * each).max(1) if kept else np.ones(len(scores))
    weights[scores.members[:, dropped].any(1)] = 0.0
    return weights


def _read(curation: settings.FromFile, column: str, count: int, **options: Any) -> Weights:
    return read_column(Path(curation.path).expanduser(), column, count, curation.sha256, **options)


def weights_of(scores: Scores, curation: Settings) -> Weights:
    """Compute R_i, [n], of a curation, such as settings.QualityLevels(); 0 drops.

    Raises UserError where nothing is kept, success labels or groups are asked for and missing, or a file does not fit. Gives a
    DataWarning where the choice is likely a mistake.
    """
    curation.check("curation")
    returns = scores.returns
    values, rounding = scores.ranked(curation) if isinstance(curation, settings.Ranked) else (returns, scores.rounding)
    match curation:
        case settings.All():
            weights = all_trajectories(returns)
        case settings.TopFraction(fraction=fraction):
            weights = top_fraction(values, fraction, rounding)
        case settings.QualityLevels(percentiles=percentiles):
            weights = quality_levels(values, percentiles, rounding)
        case settings.Threshold(minimum=minimum):
            weights = threshold(values, minimum, rounding)
        case settings.Success(success_from="last_reward", minimum=minimum):
            weights = success_by_last_reward(scores.rewarded_last, minimum)
        case settings.Success():
            if scores.successes is None:
                raise UserError(
                    f"curation=success: dataset {scores.name} has no success labels (`success` or `is_success` in its infos, "
                    f"`next.success` of a LeRobotDataset); to choose, set {_instead_of_labels(scores)}"
                )
            weights = success(scores.successes)
        case settings.ReturnWeighted(temperature=temperature):
            weights = return_weighted(values, temperature, rounding)
        case settings.Groups():
            weights = group_weights(scores, curation)
        case settings.TrajectoryWeights():
            weights = _read(curation, "weight", len(scores))
        case settings.TrajectoryScores(fraction=None):
            hint = "; curation.fraction=0.1 keeps the best tenth by any scores"
            weights = _read(curation, "score", len(scores), hint=hint)
        case settings.TrajectoryScores():
            assert curation.fraction is not None
            # Half of each, because the difference of two of the largest numbers is not finite.
            weights = top_fraction(_read(curation, "score", len(scores), signed=True) / 2.0, curation.fraction)
        case settings.Auto():
            raise UserError("curation=auto: trials choose it, iwbc.choose_curation in Python; curate takes what they chose")
        case _:
            raise TypeError(f"not a curation: {curation!r}")
    if not weights.any():
        reason = _why_none(scores, curation, values)
        raise UserError(f"curation: keeps none of the {len(scores)} {scores.noun} of {scores.name}{reason}")
    for remark in _remarks(scores, weights, curation, values):
        warn(f"curation={getattr(curation, 'name', '')}, dataset {scores.name}: {remark}")
    return weights


def _why_none(scores: Scores, curation: Settings, values: Weights) -> str:
    """Say in brackets why a curation keeps nothing, where the figures that it goes by, such as `values`, tell it."""
    match curation:
        case settings.Groups():
            return ""
        case settings.Success(success_from="labels"):
            return " (none is labelled a success)"
        case settings.Success():
            what, figures = "last rewards", scores.rewarded_last.astype(np.float64)
        case _:
            what, figures = "returns" if values is scores.returns else "discounted returns", values
    return f" (their {what} reach from {figures.min():.1f} to {figures.max():.1f})"


def curate(trajectories: Trajectories, curation: Settings, averaging: str = "trajectory") -> Curated:
    """Keep the trajectories that a curation chooses, each with its weight R_i (`weights_of`, which says what is raised).

    averaging: log-likelihoods over steps, then over trajectories ("trajectory"), or over all steps alike ("transition").
    """
    return Curated(trajectories, weights_of(Scores.of(trajectories), curation), averaging)


def pinned(curation: C) -> C:
    """Add the hash of the file that a curation reads, if any, so that another content is another curation.

    Raises UserError where the file cannot be read.
    """
    match curation:
        case settings.FromFile(path=str(path), sha256=None) | settings.Auto(path=str(path), sha256=None):
            return dataclasses.replace(curation, sha256=sha256_of(Path(path).expanduser()))
    return curation


def keeps_all(weights: Weights, curation: Settings) -> bool:
    """Tell whether a curation that is to choose has given every trajectory the same weight."""
    match curation:
        case settings.All() | settings.TopFraction(fraction=1.0) | settings.TrajectoryScores(fraction=1.0):
            return False
        case settings.QualityLevels(percentiles=percentiles) if not any(percentiles):
            return False
    return bool((weights == weights[0]).all())


def _remarks(scores: Scores, weights: Weights, curation: Settings, values: Weights) -> Iterator[str]:
    """Yield remarks on a choice that is likely a mistake; `values` are what it ranks by."""
    kept, noun = np.flatnonzero(weights), scores.noun
    returns, successes = scores.returns, scores.successes
    if len(kept) == 1 and not isinstance(curation, settings.All):
        yield f"keeps 1 of {len(scores)} {noun} (return {returns[kept[0]]:g}), which a policy learns by heart"
    elif keeps_all(weights, curation):
        yield (
            f"keeps all {len(scores)} {noun}, each with the same weight, as curation=all does"
            f"{_span(scores, curation, values)}{_remedy(scores, curation)}"
        )
    if not isinstance(curation, settings.Ranked):
        return
    by_return = curation.rank_by in ("return", "discounted_return")
    weighted_by_others = isinstance(curation, settings.ReturnWeighted) and not by_return
    if successes is not None and successes.any() and not successes.all() and not weighted_by_others:
        failures = int((~successes[kept]).sum())
        if failures and (not by_return or values[~successes].max() >= values[successes].min()):
            yield (
                f"{failures:,} of the {len(kept):,} {noun} that it keeps are labelled failures; curation=success goes by "
                "the labels"
            )
    unlabelled = successes is None or not successes.any()
    if not by_return and unlabelled and returns[kept].mean() + np.max(scores.rounding) < returns.mean():
        yield (
            f"the {len(kept):,} {noun} that it keeps have a lower return on average ({returns[kept].mean():g}) than all "
            f"({returns.mean():g}), and no labels tell failures, which may be the best by {curation.rank_by}"
        )


def _span(scores: Scores, curation: Settings, values: Weights) -> str:
    """Say how far the figures reach that a curation goes by, unless a file or groups say it."""
    if isinstance(curation, settings.FromFile | settings.Groups):
        return ""
    what, figures = "returns", values
    if isinstance(curation, settings.Ranked) and curation.rank_by != "return":
        what = {"discounted_return": "discounted returns", "length": "lengths"}.get(curation.rank_by, "figures of smoothness")
        figures = scores.lengths.astype(np.float64) if curation.rank_by == "length" else values
    low, high = f"{figures.min():g}", f"{figures.max():g}"
    return f" (their {what} {f'are all {low}' if low == high else f'reach from {low} to {high}'})"


def _instead_of_labels(scores: Scores) -> str:
    """Name settings that may choose where no success is labelled."""
    remedies = ["curation.success_from=last_reward"] if np.ptp(scores.rewarded_last) else []
    if vary(scores.returns, scores.rounding):
        remedies.append("curation=top_fraction")
    elif not remedies:
        remedies = _remedies(scores, settings.Success())
    return " or ".join(remedies or ["curation=scores", "curation=weights, of a file of yours"])


def _remedy(scores: Scores, curation: Settings) -> str:
    """Advise curations that may choose where returns or success labels do not."""
    remedies = _remedies(scores, curation)
    return f"; to choose, set {' or '.join(remedies)}" if remedies else ""


def _remedies(scores: Scores, curation: Settings) -> list[str]:
    """Name curations that may choose where returns or success labels do not."""
    by_return = isinstance(curation, settings.Ranked) and curation.rank_by in ("return", "discounted_return")
    remedies = []
    if (by_return or isinstance(curation, settings.Success)) and np.ptp(scores.lengths):
        ranks = isinstance(curation, settings.Ranked) and not isinstance(curation, settings.Threshold)
        remedies.append("curation.rank_by=length" if ranks else "curation=top_fraction curation.rank_by=length")
    if scores.groups and not isinstance(curation, settings.Groups):
        remedies.append(f"curation=groups, by the groups {listed(scores.groups, 6)}")
    return remedies


def hold_out(curated: Curated, share: float) -> tuple[Curated, Curated | None]:
    """Return the part to train on and the part held out, a share of the trajectories that is always the same for the same data;
    all and None where the share is 0. Raises UserError where one of the two would keep none."""
    return curated.split(share, np.random.default_rng(Stream.HELD_OUT)) if share else (curated, None)


def histogram(returns: Weights, kept: npt.NDArray[np.int64], bins: int = 50) -> list[dict[str, float]]:
    """Count trajectories by return, all and the kept ones (whose indices are `kept`): the rows of curation.csv."""
    edges = np.histogram_bin_edges(returns, bins)
    everything, _ = np.histogram(returns, edges)
    chosen, _ = np.histogram(returns[kept], edges)
    return [
        {"return_low": float(low), "return_high": float(high), "trajectories": int(all_), "kept": int(kept_)}
        for low, high, all_, kept_ in zip(edges[:-1], edges[1:], everything, chosen, strict=True)
    ]
