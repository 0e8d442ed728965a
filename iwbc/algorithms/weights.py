"""The importance weights (q/π_ref)(τ) of iw-BC: what q is, for what a weight stands, and how exactly it is known.

StepWeights      w_t = clip(exp(κ ρ_t)), of every step by itself: q is asked at each minibatch
WindowWeights    w_t = clip(exp(κ Σ ρ)), of every step with the H − 1 before it, by a pass over the kept steps every so often
ExactWeights     w_i = clip(exp(κ ℓ̅_i)) of whole trajectories, by a pass over the kept steps every so often
RunningWeights   the same, estimated from the log-likelihoods that the minibatches compute anyway

ρ_t = log π_q(a_t|s_t) − log π_ref(a_t|s_t). For all: `follow` moves θ_q before a gradient step, `of` gives a minibatch its
weights, and `observe` takes what the step computed. No gradient flows through a weight.
"""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor

from iwbc import engine
from iwbc.algorithms.log_ratios import RunningLogRatios, log_probs, trajectory_means
from iwbc.algorithms.temperature import largest_kappa, pareto_smoothed
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch
from iwbc.engine.autograd import load_module, module_state
from iwbc.objectives import (
    clip_log_ratio,
    clipped_product_weights,
    effective_sample_size,
    proposal_bound,
    tempered_weights,
    windowed_sums,
)
from iwbc.policies.policy import Policy
from iwbc.settings import IWBC

# Minibatches that the running estimate learns from at once: it moves little in so few steps, and one by one each would
# cost as many small operations as all of them do.
_CHUNK = 16


class ImportanceWeights(Protocol):
    """Weights of iw-BC's minibatches."""

    def follow(self, policy: Policy, step: int) -> None:
        """Let θ_q follow θ, before gradient step `step`."""

    def of(self, batch: Minibatch) -> Tensor:
        """Return the weight of each of the minibatch's steps, [B], from what was known before it."""

    def observe(self, batch: Minibatch, log_prob: Tensor, weights: Tensor) -> None:
        """Learn from a gradient step: the policy's log π_θ(a|s) of the minibatch, [B], and its weights, [B], both before it."""

    def metrics(self) -> dict[str, Tensor]:
        """Return diagnostics, scalars."""

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that training changes."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""


def importance_weights(settings: IWBC, reference: Policy, curated: Curated, device: str | torch.device) -> ImportanceWeights:
    """Make the weights that the settings ask for. A copied proposal stands still long enough to be known exactly."""
    if settings.level == "step":
        return StepWeights(settings, reference, curated, device)
    if settings.level == "window":
        return WindowWeights(settings, reference, curated, device)
    if settings.estimator == "running" and settings.proposal != "copy":
        return RunningWeights(settings, reference, curated, device)
    return ExactWeights(settings, reference, curated, device)


class Proposal:
    """π_q: a moving average of the policy's parameters, a copy of it every so many steps, or the policy itself."""

    def __init__(self, settings: IWBC, reference: Policy) -> None:
        self._settings = settings
        self.policy = reference if settings.proposal == "policy" else copy.deepcopy(reference)  # q starts at π_ref

    def follow(self, policy: Policy, step: int) -> None:
        """Set θ_q ← α θ_q + (1 − α) θ; or θ_q ← θ every so many steps; or q = π_θ."""
        settings = self._settings
        if settings.proposal == "policy":
            self.policy = policy
        elif settings.proposal == "ema" or step % settings.copy_every == 0:
            rate = 1.0 - settings.decay if settings.proposal == "ema" else 1.0
            with torch.no_grad():
                for parameter, new in zip(self.policy.parameters(), policy.parameters(), strict=True):
                    parameter.lerp_(new, rate)
                for buffer, new_buffer in zip(self.policy.buffers(), policy.buffers(), strict=True):
                    buffer.copy_(new_buffer)  # a batch norm's, for example: they are averages already

    def state(self) -> dict[str, Tensor]:
        """Return the parameters of q's network, if it is not the policy's."""
        return {} if self._settings.proposal == "policy" else module_state(self.policy, "proposal.")

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        if self._settings.proposal != "policy":
            load_module(self.policy, state, "proposal.")


class StepWeights:
    """Weights w_t = clip(exp(κ ρ_t), β_min, β_max), [B], by asking q at every minibatch."""

    def __init__(self, settings: IWBC, reference: Policy, curated: Curated, device: str | torch.device) -> None:
        self._settings, self.proposal = settings, Proposal(settings, reference)
        self._kappa = _fixed_kappa(settings)
        self._reference_log_probs = log_probs(reference, curated, device)  # log π_ref, a constant of the data
        self._latest = torch.ones(1, device=device)  # the last minibatch's weights, for the metrics

    def follow(self, policy: Policy, step: int) -> None:
        self.proposal.follow(policy, step)

    def of(self, batch: Minibatch) -> Tensor:
        settings = self._settings
        proposal_log_prob = engine.log_prob(self.proposal.policy, batch.observations, batch.actions)
        log_ratio = proposal_log_prob - self._reference_log_probs[batch.step]
        return tempered_weights(log_ratio, self._kappa, settings.minimum, settings.upper_bound)

    def observe(self, batch: Minibatch, log_prob: Tensor, weights: Tensor) -> None:
        self._latest = weights

    def metrics(self) -> dict[str, Tensor]:
        """Return diagnostics of the last minibatch's weights."""
        return _weight_metrics(self._latest, torch.ones_like(self._latest), self._settings)

    def state(self) -> dict[str, Tensor]:
        return self.proposal.state()

    def load(self, state: dict[str, Tensor]) -> None:
        self.proposal.load(state)


class WindowWeights:
    """Weights w_t = clip(exp(κ Σ_{k=t−H+1..t} ρ_k), β_min, β_max): the ratio of the last H steps, between step and trajectory.
    By a pass over the kept steps under q every `refresh_every` steps, or whenever q is copied again."""

    def __init__(self, settings: IWBC, reference: Policy, curated: Curated, device: str | torch.device) -> None:
        self._settings, self._curated, self._device = settings, curated, device
        self.proposal, self._kappa = Proposal(settings, reference), _fixed_kappa(settings)
        self._reference_log_probs = log_probs(reference, curated, device)  # log π_ref, a constant of the data
        self._offsets = torch.from_numpy(curated.offsets).to(device)
        shares = torch.from_numpy(curated.probabilities / curated.lengths).to(device)
        self._probabilities = torch.repeat_interleave(shares, self._offsets.diff())  # of each kept step, [M]
        self._weights = torch.ones(curated.steps, device=device)

    def follow(self, policy: Policy, step: int) -> None:
        settings = self._settings
        self.proposal.follow(policy, step)
        if step % _refresh_every(settings) == 0:
            log_ratio = log_probs(self.proposal.policy, self._curated, self._device) - self._reference_log_probs
            sums = windowed_sums(log_ratio, self._offsets, settings.window)
            self._weights = tempered_weights(sums, self._kappa, settings.minimum, settings.upper_bound).float()

    def of(self, batch: Minibatch) -> Tensor:
        return self._weights[batch.step]

    def observe(self, batch: Minibatch, log_prob: Tensor, weights: Tensor) -> None:
        """Learn nothing: q is asked, not estimated."""

    def metrics(self) -> dict[str, Tensor]:
        """Return diagnostics over all kept steps."""
        return _weight_metrics(self._weights, self._probabilities, self._settings)

    def state(self) -> dict[str, Tensor]:
        return {"weights": self._weights, **self.proposal.state()}

    def load(self, state: dict[str, Tensor]) -> None:
        self._weights = state["weights"].to(self._device, copy=True)
        self.proposal.load(state)


class _TrajectoryWeights:
    """Base class of trajectory weights: w_i from g̅_i = (1/T_i) Σ_t g(ρ_t), and the running estimate of the policy's g̅_i.
    Level `trajectory`: g(ρ) = ρ, w = clip(exp(κ g̅)). Level `clipped_product`: g clips, w = clip(exp(T g̅)).
    """

    def __init__(self, settings: IWBC, reference: Policy, curated: Curated, device: str | torch.device) -> None:
        self._settings, self._curated, self._device = settings, curated, device
        self._reference_log_probs = log_probs(reference, curated, device)  # log π_ref, a constant of the data
        self._running = RunningLogRatios(curated, device)
        self._lengths = torch.from_numpy(curated.lengths).to(device)
        self._offsets = torch.from_numpy(curated.offsets).to(device)
        self._probabilities = torch.from_numpy(curated.probabilities).to(device)
        # Exact importance sampling is κ = T, here of the mean length; at π_q = π_ref any κ will do.
        self._longest = float(curated.lengths.mean())
        self.kappa = self._longest if settings.fixed_kappa is None else settings.fixed_kappa
        # What the latest minibatches told of the policy: kept trajectory, step and log_prob, [B] each.
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._set(torch.zeros_like(self._running.means))

    def _set(self, log_ratios: Tensor) -> None:
        """Set g̅_i under q as the weights see it, [K], and the weights that it makes."""
        self.log_ratios, self._weights = log_ratios, self._of_trajectories(log_ratios).float()

    def _set_kappa(self) -> None:
        """Search κ again where it sets itself."""
        settings = self._settings
        if settings.fixed_kappa is None:
            bounds = self._longest, settings.ess_share, settings.ess_count
            self.kappa = largest_kappa(self.log_ratios, self._probabilities, *bounds)
            self._set(self.log_ratios)

    def _g(self, log_ratio: Tensor) -> Tensor:
        """Compute g(ρ_t), which is averaged over a trajectory's steps."""
        clipped = self._settings.level == "clipped_product"
        return clip_log_ratio(log_ratio, *self._settings.step_ratio_bounds) if clipped else log_ratio

    def _of_trajectories(self, log_ratios: Tensor) -> Tensor:
        """Compute w_i of all kept trajectories, [K]."""
        settings = self._settings
        if settings.level == "clipped_product":
            weights = clipped_product_weights(self._lengths * log_ratios, settings.minimum, settings.upper_bound)
        else:
            weights = tempered_weights(log_ratios, self.kappa, settings.minimum, settings.upper_bound)
        return pareto_smoothed(weights) if settings.pareto_smoothing else weights

    def exact_log_ratios(self, policy: Policy) -> Tensor:
        """Compute (1/T_i) Σ_t g(log π − log π_ref) by a pass over all kept steps, [K]."""
        ratios = log_probs(policy, self._curated, self._device) - self._reference_log_probs
        return trajectory_means(self._g(ratios), self._offsets)

    def of(self, batch: Minibatch) -> Tensor:
        # From before this minibatch: a weight is independent of the noise in its own gradient.
        return self._weights[batch.trajectory]

    def observe(self, batch: Minibatch, log_prob: Tensor, weights: Tensor) -> None:
        self._pending.append((batch.trajectory, batch.step, log_prob))

    def _learn(self) -> None:
        if self._pending:
            trajectory, step, log_prob = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
            self._running.observe(trajectory, step, self._g(log_prob - self._reference_log_probs[step]))
            self._pending = []

    def metrics(self) -> dict[str, Tensor]:
        """Return diagnostics over all kept trajectories."""
        weights = self._of_trajectories(self.log_ratios)
        metrics = _weight_metrics(weights, self._probabilities, self._settings)
        if self._settings.level == "trajectory":
            # κ-tempered, and in units of the kept trajectories' reward: 1 at π_θ = q = π_ref.
            drift = self.kappa * (self._running.estimate() - self.log_ratios)
            reward = self._probabilities * len(self._probabilities)
            metrics["proposal_bound"] = proposal_bound(reward, weights, drift)
        if self._settings.fixed_kappa is None:
            metrics["kappa"] = torch.tensor(self.kappa)
        return metrics

    def state(self) -> dict[str, Tensor]:
        pending = {f"pending_{i}_{j}": part for i, parts in enumerate(self._pending) for j, part in enumerate(parts)}
        kappa = torch.tensor(self.kappa, dtype=torch.float64)
        return {"kappa": kappa, "log_ratios": self.log_ratios, **pending, **self._running.state()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.kappa = float(state["kappa"])
        self._set(state["log_ratios"].to(self._device, copy=True))
        count = sum(name.startswith("pending_") for name in state) // 3
        pending = [[state[f"pending_{i}_{j}"].to(self._device) for j in range(3)] for i in range(count)]
        self._pending = [(parts[0], parts[1], parts[2]) for parts in pending]
        self._running.load(state)


class RunningWeights(_TrajectoryWeights):
    """Weights estimated from the minibatches. To first order in θ, q's log ratios follow the policy's as θ_q follows θ: q needs
    no network."""

    def follow(self, policy: Policy, step: int) -> None:
        if step % _CHUNK == 0:
            self._learn()
            rate = 1.0 - self._settings.decay if self._settings.proposal == "ema" else 1.0
            self._set(self.log_ratios.lerp(self._running.estimate(), 1.0 - (1.0 - rate) ** _CHUNK))
            if step % self._settings.refresh_every < _CHUNK:  # κ changes slowly, and is some work
                self._set_kappa()


class ExactWeights(_TrajectoryWeights):
    """Weights by a pass over the kept steps under q every `refresh_every` steps, or whenever q is copied again."""

    def __init__(self, settings: IWBC, reference: Policy, curated: Curated, device: str | torch.device) -> None:
        super().__init__(settings, reference, curated, device)
        self.proposal = Proposal(settings, reference)

    def follow(self, policy: Policy, step: int) -> None:
        if step % _CHUNK == 0:
            self._learn()  # for the reported bound
        self.proposal.follow(policy, step)
        if step % _refresh_every(self._settings) == 0:
            self._set(self.exact_log_ratios(self.proposal.policy))
            self._set_kappa()

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), **self.proposal.state()}

    def load(self, state: dict[str, Tensor]) -> None:
        super().load(state)
        self.proposal.load(state)


def _refresh_every(settings: IWBC) -> int:
    """Count the steps between two passes over the data: a copy stands still until it is made again."""
    return settings.copy_every if settings.proposal == "copy" else settings.refresh_every


def _fixed_kappa(settings: IWBC) -> float:
    assert settings.fixed_kappa is not None  # the settings' check has seen to it
    return settings.fixed_kappa


def _weight_metrics(weights: Tensor, curation: Tensor, settings: IWBC) -> dict[str, Tensor]:
    """Describe weights by scalars; `ess_share` is the effective sample size as a share of the curated set's (κ = 0)."""
    at_bound = (weights >= settings.upper_bound) | ((weights <= settings.minimum) & (settings.minimum > 0.0))
    return {
        "ess_share": effective_sample_size(weights * curation) / effective_sample_size(curation),
        "weight_min": weights.amin(),
        "weight_median": weights.median(),
        "weight_max": weights.amax(),
        "clipped_share": at_bound.double().mean(),
    }
