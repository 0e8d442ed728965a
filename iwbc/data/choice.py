"""The curation that the data choose: what is tried, what is held out, and the rule.

H, the held-out trajectories, are the best few, in folds. Each curation c has the log-likelihood, in nats a step, of every one
of them under a policy that was cloned without it on what c keeps of the others (training/trials.py):

    ℓ̄_c = (1/|H|) Σ_{i ∈ H} ℓ_i(θ_c^{−i})        c* = the broadest of {c : ℓ̄_max − ℓ̄_c ≤ its standard error over H}

Too few trajectories are learnt by heart, too many are too mixed, and the likelihood of good ones that were not seen tells both.
The broadest is the one with the largest effective number of trajectories, (Σ R)² / Σ R². No environment is needed.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc import settings
from iwbc.data.curation import Scores, Weights, top_fraction, vary, weights_of
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.data.trajectory_csv import read_column
from iwbc.errors import DataWarning, UserError, warn
from iwbc.settings import CURATIONS, Settings, ranked_by, to_plain

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
TEMPERATURES = (0.25, 0.5)
FOLDS = 2
# The best: this share of the trajectories, and at least so many.
_SHARE, _LEAST = 0.01, 8
_MOST_GROUPS = 8


@dataclass(frozen=True)
class Trial:
    """A curation that was tried. log_prob: of the held-out best, in nats a step; behind: by how much less than that of the
    likeliest curation, with the standard error of this difference. effective: (Σ R)² / Σ R² trajectories."""

    curation: Settings
    effective: float
    log_prob: float
    behind: float
    error: float

    @property
    def words(self) -> str:
        """The curation in a few words."""
        return words(self.curation)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**dataclasses.asdict(self), "curation": to_plain(self.curation)}


@dataclass(frozen=True)
class Choice:
    """The chosen curation, and the trials that it is chosen by: none where all trajectories are equally good."""

    curation: Settings
    trials: tuple[Trial, ...] = ()

    @property
    def words(self) -> str:
        """The chosen curation in a few words."""
        return words(self.curation)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"curation": to_plain(self.curation), "trials": [trial.to_plain() for trial in self.trials]}

    @staticmethod
    def of_plain(plain: Any) -> Choice:
        """Make a choice of `to_plain`'s values. Raises an error of MALFORMED, or UserError, where they are none."""
        trials = [Trial(_curation(each["curation"]), *(float(each[name]) for name in _FIGURES)) for each in plain["trials"]]
        return Choice(_curation(plain["curation"]), tuple(trials))


_FIGURES = ("effective", "log_prob", "behind", "error")


def _curation(plain: dict[str, Any]) -> Settings:
    curation = CURATIONS[plain["name"]](**plain)
    curation.check("curation")
    return curation


def words(curation: Settings) -> str:
    """Say a curation in a few words."""
    ranked = ranked_by(curation)
    match curation:
        case settings.TopFraction(fraction=fraction):
            return f"top {100 * fraction:g} %{ranked}"
        case settings.TrajectoryScores(fraction=float(fraction)):
            return f"top {100 * fraction:g} % by scores"
        case settings.ReturnWeighted(temperature=temperature):
            return f"return-weighted, temperature {temperature:g}{ranked}"
        case settings.Groups(keep=keep):
            return f"group {', '.join(keep)}"
        case _:
            return f"{getattr(curation, 'name', '').replace('_', ' ')}{ranked}"


def among(candidates: Sequence[Settings], effective: Sequence[float], log_probs: Weights) -> Choice:
    """Choose by log-likelihoods of the held-out best under each candidate, [candidates, H], NaN where it has diverged.

    Raises UserError where all have.
    """
    finished = np.isfinite(log_probs).all(1)
    if not finished.any():
        raise UserError("curation=auto: every trial has diverged; try a smaller learning rate (algo.lr), or choose a curation")
    means = np.where(finished, log_probs.mean(1), -np.inf)
    behind = log_probs[means.argmax()] - log_probs
    errors = behind.std(1, ddof=1) / math.sqrt(log_probs.shape[1])
    trials = [
        Trial(candidates[i], effective[i], float(means[i]), float(behind[i].mean()), float(errors[i]))
        for i in np.flatnonzero(finished).tolist()
    ]
    near = [trial for trial in trials if trial.behind <= trial.error]
    # Of those that are as broad to two digits the first: it is the simplest.
    return Choice(max(near, key=lambda trial: float(f"{trial.effective:.2g}")).curation, tuple(trials))


def effective_number(weights: Weights) -> float:
    """Compute (Σ R)² / Σ R²."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def values_of(auto: settings.Auto, trajectories: Trajectories) -> Weights:
    """Compute what trajectories are ranked by, larger is better, [n]."""
    if auto.path is None:
        return Scores.of(trajectories).ranked(auto)[0]
    return read_column(Path(auto.path).expanduser(), "score", len(trajectories), auto.sha256, signed=True) / 2.0


def _tell_apart(auto: settings.Auto, trajectories: Trajectories, good: Weights) -> bool:
    """Tell whether the values of the good trajectories, which labels may tell, differ by more than float32's rounding."""
    return vary(good, Scores.of(trajectories).ranked(auto)[1] if auto.path is None else 0.0)


def best_of(values: Weights, trajectories: Trajectories) -> npt.NDArray[np.int64]:
    """Return the best trajectories' indices, best first, of equals some at random: successes, where labels tell them."""
    order = np.random.default_rng(Stream.CHOICE).permutation(len(values))
    if trajectories.successes is not None and trajectories.successes.any():
        order = order[trajectories.successes[order]]
    count = max(_LEAST, round(_SHARE * len(values)))
    if len(order) < 2 * count:
        raise UserError(
            f"curation=auto: holds out the best {count} of at least {2 * count} good trajectories, and there are {len(order)}; "
            "choose another curation"
        )
    return order[np.argsort(-values[order], kind="stable")][:count]


def question_of(auto: settings.Auto, trajectories: Trajectories) -> tuple[Weights, npt.NDArray[np.int64], list[Settings]]:
    """Return what trajectories are ranked by, [n], the indices of those that are held out, best first, and the curations that
    may be tried. Raises UserError where there are too few trajectories."""
    values = values_of(auto, trajectories)
    best = best_of(values, trajectories)
    return values, best, candidates_of(auto, trajectories, values, best)


def foregone(auto: settings.Auto, trajectories: Trajectories) -> Choice | None:
    """Return the choice, with a warning, where there is but one that may be tried; else None.

    Raises UserError where there are too few trajectories.
    """
    values, _, candidates = question_of(auto, trajectories)
    if len(candidates) > 1:
        return None
    (only,) = candidates
    good = values[candidate_weights(only, trajectories, values) > 0]
    kept = "all trajectories" if isinstance(only, settings.All) else "the successes"
    equal = not _tell_apart(auto, trajectories, good)
    why = "they are equally good by what it ranks by" if equal else "what ranks higher holds failures, too"
    warn(
        f"curation=auto, dataset {trajectories.info.id}: keeps {kept}; {why}, "
        "and curation.rank_by=length or curation.path=scores.csv may tell them apart"
    )
    return Choice(only)


def candidates_of(
    auto: settings.Auto, trajectories: Trajectories, values: Weights, best: npt.NDArray[np.int64]
) -> list[Settings]:
    """List the curations that keep something else each, not the held-out `best` alone, and no failure that labels tell: where
    success is chance, a failure looks as a success does, and likelihood cannot tell them apart."""
    ranked: dict[str, Any] = {"rank_by": auto.rank_by, "discount": auto.discount}
    candidates: list[Settings] = [settings.All()]
    failed = np.zeros(len(values), bool)
    if trajectories.successes is not None and trajectories.successes.any():
        candidates.append(settings.Success())
        failed = ~trajectories.successes
    ranks = _tell_apart(auto, trajectories, values[~failed])  # otherwise a ranking is one of noise
    if ranks and auto.path is None:
        candidates += [settings.TopFraction(fraction=fraction, **ranked) for fraction in FRACTIONS]
        candidates.append(settings.QualityLevels(**ranked))
        candidates += [settings.ReturnWeighted(temperature=temperature, **ranked) for temperature in TEMPERATURES]
    elif ranks and auto.path is not None:
        kind = partial(settings.TrajectoryScores, path=auto.path, sha256=auto.sha256)
        candidates += [kind(fraction=fraction) for fraction in FRACTIONS]
    candidates += [settings.Groups(keep=[name]) for name in trajectories.info.groups[:_MOST_GROUPS]]
    different: dict[bytes, Settings] = {}
    for candidate in candidates:
        weights = candidate_weights(candidate, trajectories, values)
        ranked_anew = isinstance(candidate, settings.Ranked | settings.TrajectoryScores)  # without the best
        if (ranked_anew or np.delete(weights, best).any()) and not weights[failed].any():
            different.setdefault(np.round(weights / weights.max(), 9).tobytes(), candidate)
    return list(different.values())


def candidate_weights(candidate: Settings, trajectories: Trajectories, values: Weights) -> Weights:
    """Compute R_i of a candidate, [n]; `values` are what it ranks by."""
    if isinstance(candidate, settings.TrajectoryScores):
        assert candidate.fraction is not None
        return top_fraction(values, candidate.fraction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # of choices that nobody has made
        return weights_of(Scores.of(trajectories), candidate)
