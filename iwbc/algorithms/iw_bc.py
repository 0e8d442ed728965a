"""Importance-weighted behaviour cloning (Qin & Springenberg, arXiv 2507.12856; there iw-SFT).

    max_θ  E_{D+}[(q/π_ref)(τ) log π_θ(τ)]

tightens filtered BC's lower bound on the RL objective: tight as q → π_θ. The curation weight R_i of a trajectory is the
probability with which the sampler draws it; its importance weight (q/π_ref)(τ_i), tempered and clipped, multiplies its
log-likelihood. No gradient flows through a weight. π_θ starts at the frozen π_ref.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iwbc.config import IWBC
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch
from iwbc.likelihood import WeightedLikelihood
from iwbc.log_ratios import RunningLogRatios, log_probs, trajectory_means
from iwbc.objectives import (
    clip_log_ratio,
    clipped_product_weights,
    effective_sample_size,
    proposal_bound,
    self_normalise,
    step_weights,
    trajectory_weights,
    weighted_log_likelihood,
)
from iwbc.policies import Policy

# Minibatches that the running estimate takes note of at once: it moves little in so few steps, and one by one
# each would cost as many small operations as all of them do.
_AT_ONCE = 16


class ImportanceWeightedBC:
    """State: the policy and its optimiser, the proposal π_q, and what is known of the log ratios."""

    def __init__(self, policy: Policy, reference: Policy, curated: Curated, settings: IWBC) -> None:
        device = policy.parameters.flat.device
        self.policy, self.curated, self.settings = policy, curated, settings
        self.level, self.kappa = settings.weights.level, settings.weights.kappa
        self.likelihood = WeightedLikelihood(policy)
        self.proposal = reference.copy()  # θ_q
        self.reference_log_probs = log_probs(reference, curated)  # log π_ref, a constant of the data
        self.running = RunningLogRatios(curated, len(policy.seeds), device)
        # Whether log ratios are estimated from the minibatches: not for single steps, and a copy stands still long enough.
        self._estimated = self.level != "step" and settings.weights.estimator == "running" and settings.proposal.kind != "copy"
        # What the latest minibatches told of the policy: trajectory, row and log_prob of their steps, [S, B] each.
        self._pending: list[tuple[Tensor, ...]] = []
        self.steps = 0
        self._lengths = torch.from_numpy(curated.lengths).to(device)
        self._offsets = torch.from_numpy(curated.offsets).to(device)
        self._probabilities = torch.from_numpy(curated.probabilities).to(device)
        # (1/T_i) Σ_t g(log π_q − log π_ref) as the weights see it, [S, K], and the weights that it makes.
        self._set_log_ratios(torch.zeros_like(self.running.means))
        self._latest_weights = torch.ones(len(policy.seeds), 1, device=device)

    def update(self, batch: Minibatch, learning_rate: float) -> Tensor:
        """One gradient step; the loss of each seed, [S]."""
        self._move_proposal()
        # From what was known before this minibatch, so that a weight is independent of the noise in its own gradient.
        weights = self._weights(batch)
        if self.settings.weights.self_normalise:
            weights = self_normalise(weights)
        log_prob = self.likelihood.climb(batch.observations, batch.actions, weights, learning_rate)
        if self.level != "step":
            self._pending.append((batch.trajectory, batch.row, log_prob))
        self.steps += 1
        return -weighted_log_likelihood(log_prob, weights)

    def _move_proposal(self) -> None:
        """θ_q ← α θ_q + (1 − α) θ before the gradient step; or θ_q = θ; or θ_q ← θ every so many steps."""
        proposal = self.settings.proposal
        copying = self.steps % proposal.every == 0
        rate = {"ema": 1.0 - proposal.decay, "policy": 1.0, "copy": float(copying)}[proposal.kind]
        taking_note = self.steps % _AT_ONCE == 0
        if taking_note:
            self._observe_pending()
        if self._estimated:
            # To first order in θ, the log ratios follow as θ_q does; θ_q itself is then needed no more.
            if taking_note:
                self._set_log_ratios(self.proposal_log_ratios.lerp(self.running.estimate(), 1.0 - (1.0 - rate) ** _AT_ONCE))
            return
        self.proposal.parameters.flat.lerp_(self.policy.parameters.flat, rate)
        due = copying if proposal.kind == "copy" else self.steps % self.settings.weights.refresh_every == 0
        if self.level != "step" and due:
            self._set_log_ratios(self.exact_log_ratios(self.proposal))

    def _set_log_ratios(self, proposal_log_ratios: Tensor) -> None:
        self.proposal_log_ratios = proposal_log_ratios
        self._trajectory_weights = self._of_trajectories(proposal_log_ratios).float()

    def _weights(self, batch: Minibatch) -> Tensor:
        """The importance weight of each of the minibatch's steps, [S, B]: its trajectory's, or its own."""
        if self.level == "step":
            settings, place = self.settings.weights, self.running.place(batch.trajectory, batch.row)
            proposal_log_prob = self.proposal.log_prob(batch.observations, batch.actions)
            log_ratio = proposal_log_prob - self.reference_log_probs.gather(1, place)
            weights = step_weights(log_ratio, self.kappa, settings.minimum, settings.upper_bound)
            self._latest_weights = weights
            return weights
        return self._trajectory_weights.gather(1, batch.trajectory)

    def _observe_pending(self) -> None:
        if self._pending:
            trajectory, row, log_prob = (torch.cat(parts, dim=1) for parts in zip(*self._pending, strict=True))
            place = self.running.place(trajectory, row)
            self.running.observe(trajectory, place, self._g(log_prob - self.reference_log_probs.gather(1, place)))
            self._pending = []

    def _g(self, log_ratio: Tensor) -> Tensor:
        """g(ρ_t): what is summed over a trajectory's steps."""
        bounds = self.settings.weights.step_ratio_bounds
        return clip_log_ratio(log_ratio, *bounds) if self.level == "clipped_product" else log_ratio

    def _of_trajectories(self, mean_log_ratios: Tensor) -> Tensor:
        """w_i of all kept trajectories from (1/T_i) Σ_t g(ρ_t), [S, K]."""
        settings = self.settings.weights
        if self.level == "clipped_product":
            return clipped_product_weights(self._lengths * mean_log_ratios, settings.minimum, settings.upper_bound)
        return trajectory_weights(mean_log_ratios, self.kappa, settings.upper_bound)

    def exact_log_ratios(self, policy: Policy) -> Tensor:
        """(1/T_i) Σ_t g(log π − log π_ref) by a pass over all kept steps, [S, K]."""
        return trajectory_means(self._g(log_probs(policy, self.curated) - self.reference_log_probs), self._offsets)

    def metrics(self) -> dict[str, Tensor]:
        """Diagnostics of the weights, [S] each. Trajectory level: over all kept trajectories; step level: the last batch.

        `ess_share` is the effective sample size as a share of that of the curated set itself (κ = 0).
        """
        settings = self.settings.weights
        if self.level == "step":
            weights, curation = self._latest_weights, torch.ones_like(self._latest_weights)
        else:
            weights = self._of_trajectories(self.proposal_log_ratios)
            curation = self._probabilities.expand_as(weights)
        at_bound = (weights >= settings.upper_bound) | ((weights <= settings.minimum) & (settings.minimum > 0.0))
        found = {
            "ess_share": effective_sample_size(weights * curation) / effective_sample_size(curation),
            "weight_min": weights.amin(-1),
            "weight_median": weights.median(-1).values,
            "weight_max": weights.amax(-1),
            "clipped_share": at_bound.double().mean(-1),
        }
        if self.level == "trajectory":
            # κ-tempered, and in units of the kept trajectories' reward: 1 at π_θ = q = π_ref.
            drift = self.kappa * (self.running.estimate() - self.proposal_log_ratios)
            reward = curation * curation.shape[-1]
            found["proposal_bound"] = proposal_bound(reward, weights, drift)
        return found

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        return {
            **self.likelihood.state(),
            "proposal": self.proposal.parameters.flat,
            "proposal_log_ratios": self.proposal_log_ratios,
            "steps": torch.tensor(self.steps),
            **{f"pending_{i}_{j}": part for i, parts in enumerate(self._pending) for j, part in enumerate(parts)},
            **self.running.state(),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        self.likelihood.load(state)
        self.proposal.parameters.flat.copy_(state["proposal"])
        self._set_log_ratios(state["proposal_log_ratios"].to(self.proposal_log_ratios, copy=True))
        self.steps = int(state["steps"])
        count = sum(name.startswith("pending_") for name in state) // 3
        device = self.policy.parameters.flat.device
        self._pending = [tuple(state[f"pending_{i}_{j}"].to(device) for j in range(3)) for i in range(count)]
        self.running.load(state)
