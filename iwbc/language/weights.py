"""The importance weights of completions, from a table of each row's log ratio when it was last seen.

A minibatch holds whole completions, so its own weights are exact. κ, the normaliser and the figures that tell whether the
weights can be trusted are of all curated rows that training has seen, and come from the table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iwbc.algorithms.temperature import largest_kappa, pareto_shape
from iwbc.language.settings import IWSFT
from iwbc.objectives import (
    clip_log_ratio,
    clipped_product_weights,
    effective_sample_size,
    proposal_bound,
    tempered_weights,
)

_FEWEST = 2.0  # rows that the effective sample size of the weights may come down to


class SequenceWeights:
    """w of completions: `of` gives a batch its weights, `observe` notes what it showed, `refresh` learns from the notes."""

    def __init__(self, settings: IWSFT, curation: Tensor, lengths: Tensor) -> None:
        """curation: R_i, [N]. lengths: tokens of each completion, [N]."""
        self._settings = settings
        self._curation = curation.double()
        # Exact importance sampling: κ = 1 for a sum, and the length for a mean.
        self._ceiling = float(lengths.double().mean()) if settings.level == "mean" else 1.0
        self.kappa = self._ceiling if isinstance(settings.kappa, str) else float(settings.kappa)
        self.normaliser = 1.0
        # Of each row, when last seen: what its weight is made of, and log π_θ − log π_q of the whole completion.
        self.table = torch.zeros(len(curation), dtype=torch.float64, device=curation.device)
        self.drift = torch.zeros_like(self.table)
        self.seen = torch.zeros(len(curation), dtype=torch.bool, device=curation.device)
        self._notes: list[tuple[Tensor, Tensor, Tensor]] = []

    def of(self, log_ratio: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the weights of a batch, [B, 1], or [B, T] where each token has its own, and what they are made of, [B].

        log_ratio: ρ, [B, T], without gradient. mask: 1 for the completions' tokens, [B, T].
        """
        settings = self._settings
        log_ratio = log_ratio.double() * mask
        count = mask.sum(-1).clamp(min=1)
        if settings.level == "token":
            weights = tempered_weights(log_ratio, self.kappa, *settings.step_ratio_bounds)
            statistic = (weights * mask).sum(-1) / count
            return weights / self.normaliser, statistic
        if settings.level == "clipped_product":
            log_ratio = clip_log_ratio(log_ratio, *settings.step_ratio_bounds)
        statistic = log_ratio.sum(-1) / (count if settings.level == "mean" else 1)
        return self._of_statistic(statistic)[:, None] / self.normaliser, statistic

    def _of_statistic(self, statistic: Tensor) -> Tensor:
        """Compute a row's weight, or the mean one of its tokens."""
        settings = self._settings
        if settings.level == "token":
            return statistic
        if settings.level == "clipped_product":
            return clipped_product_weights(statistic, settings.minimum, settings.maximum)
        return tempered_weights(statistic, self.kappa, settings.minimum, settings.maximum)

    def observe(self, rows: Tensor, statistic: Tensor, drift: Tensor) -> None:
        """Note a batch's rows, what their weights are made of, and log π_θ − log π_q; [B] each."""
        self._notes.append((rows, statistic, drift))

    def take_notes(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Hand over the notes, so that they can be exchanged between processes."""
        notes, self._notes = self._notes, []
        if not notes:
            return None
        rows, statistic, drift = (torch.cat(parts) for parts in zip(*notes, strict=True))
        return rows, statistic, drift

    def learn(self, rows: Tensor, statistic: Tensor, drift: Tensor) -> None:
        """Write notes into the table; a row that is there twice has one value, as the policy was the same."""
        self.table[rows] = statistic
        self.drift[rows] = drift
        self.seen[rows] = True

    def refresh(self, step: int) -> None:
        """Compute κ and the normaliser again: after each of the first `refresh_every` gradient steps, and then after every so
        many, as the policy leaves the reference soonest at first."""
        settings = self._settings
        if step > settings.refresh_every and step % settings.refresh_every:
            return
        if settings.kappa == "auto" and settings.tempered:
            bounds = self._ceiling, settings.ess_share, settings.ess_count
            self.kappa = largest_kappa(self.table[self.seen], self._curation[self.seen], *bounds)
        if settings.self_normalise:
            self.normaliser = max(self._mean(), torch.finfo(torch.float64).tiny)

    def last(self) -> Tensor:
        """Compute every row's weight, or the mean one of its tokens, when it was last seen, [N]; NaN where it never was."""
        return (self._of_statistic(self.table) / self.normaliser).where(self.seen, math.nan)

    def _of_seen(self) -> tuple[Tensor, Tensor]:
        """Compute the weights of the rows that training has seen, before they are normalised, and return their R_i."""
        return self._of_statistic(self.table[self.seen]), self._curation[self.seen]

    def _mean(self) -> float:
        weights, curation = self._of_seen()
        return float((weights * curation).sum() / curation.sum())

    def trouble(self) -> str | None:
        """Say why the weights cannot go on, if they cannot."""
        settings, (weights, curation) = self._settings, self._of_seen()
        every, size = effective_sample_size(curation), effective_sample_size(weights * curation)
        # One row is more than a thousandth of few: there the floor is two rows.
        floor = max(settings.ess_floor * float(every), min(_FEWEST, 0.5 * float(every)) if settings.ess_floor else 0.0)
        if not float(size) >= floor:
            return (
                f"the weights' effective sample size is {float(size):.2g} of {float(every):,.0f} rows', below "
                f"{floor:.2g} (ess_floor={settings.ess_floor:g}); a smaller kappa, or kappa=auto, trusts them less"
            )
        bounded = settings.level != "token" and settings.kappa != 0
        if bounded and bool((weights >= settings.maximum).all() | ((weights <= settings.minimum).all())):
            return (
                "all weights are at their bound: the policy is far from the reference everywhere; try a smaller learning rate"
            )
        return None

    def metrics(self) -> dict[str, float]:
        """Tell the share of rows seen, and of these: ESS as a share, k̂ of the tail, κ, quantiles, and the proposal's bound."""
        settings, (weights, curation) = self._settings, self._of_seen()
        at_bound = (weights >= settings.maximum) | ((weights <= settings.minimum) & (settings.minimum > 0.0))
        reward = curation * len(curation) / curation.sum()
        figures = {
            "rows_seen": float(self.seen.double().mean()),
            "ess_share": float(effective_sample_size(weights * curation) / effective_sample_size(curation)),
            "pareto_shape": float(pareto_shape(weights * curation)),
            "weight_mean": self._mean(),
            "weight_min": float(weights.amin()),
            "weight_median": float(weights.median()),
            "weight_max": float(weights.amax()),
            "weights_at_bound": float(at_bound.double().mean()),
            "proposal_bound": float(proposal_bound(reward, weights, self.drift[self.seen])),
        }
        return figures | ({"kappa": self.kappa} if settings.tempered else {})

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that training changes, but for the notes: between two gradient steps there are none."""
        numbers = {"kappa": self.kappa, "normaliser": self.normaliser}
        plain = {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
        return {"table": self.table, "drift": self.drift, "seen": self.seen, **plain}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        self.table.copy_(state["table"])
        self.drift.copy_(state["drift"])
        self.seen.copy_(state["seen"])
        self.normaliser = float(state["normaliser"])
        if self._settings.kappa == "auto":
            self.kappa = float(state["kappa"])
