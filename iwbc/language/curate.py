"""Rows → their curation weights, and the reference that they allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc import settings
from iwbc.data.curation import Scores, weights_of
from iwbc.errors import UserError, warn
from iwbc.language.jsonl import Rows, text_of
from iwbc.language.settings import IWSFT, Level, Train

Weights = npt.NDArray[np.float64]


def curation_weights(rows: Rows, train: Train) -> Weights:
    """Compute R_i of every row, [N]; 0 drops it. Raises UserError where the rows lack what the curation goes by."""
    curation, successes = train.curation, rows.successes
    if isinstance(curation, Level):
        if rows.levels is None or not rows.levels.any():
            raise UserError(f"curation=level: no row of {train.data} has a level above 0")
        return rows.levels.astype(np.float64)
    if isinstance(curation, settings.Success) and curation.success_from == "labels":
        if successes is None:
            raise UserError(
                f"curation=success: {train.data} has no success; add it, or set curation.success_from=last_reward, which goes "
                "by the reward"
            )
        if successes.all():
            return np.ones(len(rows))  # without a remark that it chooses nothing: `reference_of` says what follows from it
    scores = rows.rewards if rows.rewards is not None else None if successes is None else successes.astype(np.float64)
    by_length = isinstance(curation, settings.Ranked) and curation.rank_by == "length"
    if scores is None and isinstance(curation, settings.Ranked | settings.Success) and not by_length:
        raise UserError(
            f"curation={getattr(curation, 'name', '')}: {train.data} has neither reward nor success, by which it goes; add "
            "either, or set curation=all"
        )
    each = [[group] if isinstance(group, str) else group for group in rows.groups or ()]
    groups = sorted({name for names in each for name in names})
    scores_of_rows = Scores(
        train.data,
        np.zeros(len(rows)) if scores is None else scores,
        np.array([len(text_of(completion)) for completion in rows.completions]),
        successes,
        groups=groups,
        members=_members(each, groups) if isinstance(curation, settings.Groups) else None,
        noun="rows",
    )
    return weights_of(scores_of_rows, curation)


def _members(each: Sequence[Sequence[str]], groups: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Mark the rows of each group, [N, g]."""
    columns = {name: column for column, name in enumerate(groups)}
    members = np.zeros((len(each), len(groups)), bool)
    for i, names in enumerate(each):
        members[i, [columns[name] for name in names]] = True
    return members


def failures(rows: Rows, weights: Weights) -> int:
    """Count the rows that are no successes and weigh less than others: those that a reference can learn from, too."""
    failed = np.ones(len(rows), bool) if rows.successes is None else ~rows.successes
    return int((failed & (weights < weights.max())).sum())


def reference_of(rows: Rows, weights: Weights, train: Train) -> str:
    """Decide what the reference is: `fit`, `start` or `logp`.

    Raises UserError where it cannot be what the settings say, or has to be said. Warns where a mistake would go unseen.
    """
    count = failures(rows, weights)
    if train.reference == "logp" and rows.logps is None:
        raise UserError(f"reference=logp: {train.data} has neither logp nor token_logps; set reference=start, or fit")
    by_token = isinstance(train.algo, IWSFT) and train.algo.by_token
    if train.reference == "logp" and by_token and rows.token_logps is None:
        raise UserError(f"reference=logp: algo.level={train.algo.level} needs token_logps, a number for each token")
    if train.reference == "fit" and not count:
        raise UserError(
            f"reference=fit: {train.data} has no failures: the reference would be the curated rows; set reference=start, if "
            "the rows were sampled from the model"
        )
    if train.reference is None and not count and train.weighted:
        raise UserError(
            f"reference: {train.data} has no failures to fit one to; set reference=start, if the rows were sampled from the "
            "model, or reference=logp"
        )
    if train.reference == "start" and not count and train.weighted:
        warn(
            f"reference=start: {train.data} holds successes only; unless they were sampled from the model, the weights "
            "amplify what it differs in, and may make answers worse than algo=sft does"
        )
    # SFT of what is kept needs no reference; with kappa=0 it is beside others that begin at theirs.
    kind = train.reference or ("fit" if count and isinstance(train.algo, IWSFT) else "start")
    for name in (name for name, value in vars(train.fit).items() if value != getattr(type(train.fit)(), name)):
        train.fit.require(kind == "fit", "fit", name, "would change nothing; it needs reference=fit")
    return kind


def log_probs_of(rows: Rows, train: Train) -> Sequence[Any] | None:
    """List log π_ref of every row as its file says: a number for each token where there are some, or else a row's."""
    if not train.weighted:
        return None
    return rows.token_logps if rows.token_logps is not None else rows.logps.tolist() if rows.logps is not None else None
