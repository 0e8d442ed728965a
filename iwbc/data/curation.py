"""Curation: from returns or success labels to one weight per trajectory (0 = dropped). All in double precision.

Percentiles are over trajectories, with linear interpolation; a trajectory is kept when G_i ≥ c, so ties at c are kept.
`rounding` is added to G_i, for what it has lost to the rounding of rewards to float32, in which 0.7 is less than 0.7.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from iwbc import settings
from iwbc.data.curated import Curated
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.data.trajectory_csv import read_column, sha256_of
from iwbc.errors import UserError, warn
from iwbc.settings import Settings

Weights = npt.NDArray[np.float64]


def all_trajectories(returns: Weights) -> Weights:
    """Set R = 1 for every trajectory: plain behaviour cloning. Returns G [n] → R [n]."""
    return np.ones(len(returns))


def top_fraction(returns: Weights, fraction: float, rounding: Weights | float = 0.0) -> Weights:
    """Compute R = 1[G ≥ percentile(G, 100 (1 − fraction))], [n] → [n]."""
    return threshold(returns, float(np.percentile(returns, 100.0 - 100.0 * fraction)), rounding)


def quality_levels(returns: Weights, percentiles: Sequence[float], rounding: Weights | float = 0.0) -> Weights:
    """Compute R = Σ_c 1[G ≥ c], the number of levels that a trajectory passes (the paper's Q), [n] → [n]."""
    levels = np.percentile(returns, np.asarray(percentiles, np.float64))
    passed: Weights = ((returns + rounding)[:, None] >= levels[None, :]).sum(1, dtype=np.float64)
    return passed


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


def return_weighted(returns: Weights, temperature: float) -> Weights:
    """Compute R ∝ exp((G − max G) / (β · std G)), β the temperature, [n] → [n]; all equal where the returns do not vary."""
    spread = temperature * returns.std()
    if spread == 0.0:
        return np.ones(len(returns))
    weights: Weights = np.exp((returns - returns.max()) / spread)
    return weights


@dataclass(frozen=True)
class Scores:
    """The figures a curation judges by, of every trajectory of control or row of language: [n] each.

    rounding: how much of a return may be lost to float32. last_rewards: None where the return is the last reward.
    """

    name: str  # of the dataset, in messages
    returns: Weights
    successes: npt.NDArray[np.bool_] | None = None
    rounding: Weights | float = 0.0
    last_rewards: npt.NDArray[np.float32] | None = None
    noun: str = "trajectories"

    @classmethod
    def of(cls, trajectories: Trajectories) -> Scores:
        """Collect the scores of packed trajectories."""
        last = trajectories.rewards[trajectories.first_rows + trajectories.lengths - 1]
        rounding = trajectories.return_rounding
        return cls(trajectories.info.id, trajectories.returns, trajectories.successes, rounding, last)

    def __len__(self) -> int:
        return len(self.returns)


def weights_of(scores: Scores, curation: Settings) -> Weights:
    """Compute R_i, [n], of a curation, such as settings.QualityLevels(); 0 drops.

    Raises UserError where nothing is kept, success labels are asked for and missing, or a file of weights does not fit. Gives
    a DataWarning where the choice is likely a mistake.
    """
    curation.check("curation")
    returns, rounding = scores.returns, scores.rounding
    match curation:
        case settings.All():
            weights = all_trajectories(returns)
        case settings.TopFraction(fraction=fraction):
            weights = top_fraction(returns, fraction, rounding)
        case settings.QualityLevels(percentiles=percentiles):
            weights = quality_levels(returns, percentiles, rounding)
        case settings.Threshold(minimum=minimum):
            weights = threshold(returns, minimum, rounding)
        case settings.Success(success_from="last_reward", minimum=minimum):
            last = returns.astype(np.float32) if scores.last_rewards is None else scores.last_rewards
            weights = success_by_last_reward(last, minimum)
        case settings.Success():
            if scores.successes is None:
                raise UserError(
                    f"curation=success: dataset {scores.name} has no success labels "
                    "(`success` or `is_success` in its infos); label by the last reward with "
                    "curation.success_from=last_reward, or choose another curation, such as top_fraction"
                )
            weights = success(scores.successes)
        case settings.ReturnWeighted(temperature=temperature):
            weights = return_weighted(returns, temperature)
        case settings.TrajectoryWeights(path=path, sha256=sha256):
            weights = read_column(Path(path).expanduser(), "weight", len(scores), sha256)
        case _:
            raise TypeError(f"not a curation: {curation!r}")
    if not weights.any():
        raise UserError(
            f"curation: keeps none of the {len(scores)} {scores.noun} of {scores.name} "
            f"(their returns reach from {returns.min():.1f} to {returns.max():.1f})"
        )
    for remark in _remarks(scores, weights, curation):
        warn(f"curation={getattr(curation, 'name', '')}, dataset {scores.name}: {remark}")
    return weights


def curate(trajectories: Trajectories, curation: Settings, averaging: str = "trajectory") -> Curated:
    """Keep the trajectories that a curation chooses, each with its weight R_i (`weights_of`, which says what is raised).

    averaging: log-likelihoods over steps, then over trajectories ("trajectory"), or over all steps alike ("transition").
    """
    return Curated(trajectories, weights_of(Scores.of(trajectories), curation), averaging)


def pinned(curation: Settings) -> Settings:
    """Add the hash of the file that a curation reads, if any, so that another content is another curation.

    Raises UserError where the file cannot be read.
    """
    if isinstance(curation, settings.TrajectoryWeights) and curation.sha256 is None:
        return dataclasses.replace(curation, sha256=sha256_of(Path(curation.path).expanduser()))
    return curation


def keeps_all(weights: Weights, curation: Settings) -> bool:
    """Tell whether a curation that is to choose has given every trajectory the same weight."""
    match curation:
        case settings.All() | settings.TopFraction(fraction=1.0):
            return False
        case settings.QualityLevels(percentiles=percentiles) if not any(percentiles):
            return False
    return bool((weights == weights[0]).all())


def _remarks(scores: Scores, weights: Weights, curation: Settings) -> Iterator[str]:
    """Yield remarks on a choice that is likely a mistake."""
    kept, noun = np.flatnonzero(weights), scores.noun
    returns, successes = scores.returns, scores.successes
    if len(kept) == 1 and not isinstance(curation, settings.All):
        yield f"keeps 1 of {len(scores)} {noun} (return {returns[kept[0]]:g}), which a policy learns by heart"
    elif keeps_all(weights, curation):
        span = f"are all {returns[0]:g}" if np.ptp(returns) == 0.0 else f"reach from {returns.min():g} to {returns.max():g}"
        yield f"keeps all {len(scores)} {noun}, each with the same weight, as curation=all does (their returns {span})"
    by_return = (settings.TopFraction, settings.QualityLevels, settings.Threshold, settings.ReturnWeighted)
    if isinstance(curation, by_return) and successes is not None and successes.any() and not successes.all():
        failures = int((~successes[kept]).sum())
        if failures and returns[~successes].max() >= returns[successes].min():
            yield (
                f"{failures:,} of the {len(kept):,} {noun} that it keeps are labelled failures; curation=success goes by "
                "the labels"
            )


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
