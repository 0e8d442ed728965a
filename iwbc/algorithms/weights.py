"""The importance weights (q/π_ref)(τ) of iw-BC, known exactly by a pass over the kept steps under q every so often.

trajectory   w_i = clip(exp(κ (1/T_i) Σ_t ρ_t)), for every step of trajectory i
window       w_t = clip(exp(κ Σ_{k=t−H+1..t} ρ_k)), of every step with the H − 1 before it

ρ_t = log π_q(a_t|s_t) − log π_ref(a_t|s_t); of a policy of chunks, the chunk's from t on, divided by its number of actions.
No gradient flows through a weight.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from iwbc import engine
from iwbc.algorithms.temperature import largest_kappa
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch
from iwbc.data.windows import per_action
from iwbc.engine.autograd import load_module, module_state
from iwbc.objectives import (
    effective_sample_size,
    proposal_bound,
    tempered_weights,
    trajectory_means,
    windowed_sums,
)
from iwbc.policies.policy import Policy, window_of
from iwbc.settings import IWBC


def log_probs(policy: Policy, curated: Curated, device: str | torch.device = "cpu") -> Tensor:
    """Compute log π(a|s) of every kept step, in nats, or the mean over the actions of the chunk that begins there: [M]."""
    result = torch.empty(curated.steps, device=device)
    for steps, observations, actions in curated.batches(device, window=window_of(policy)):
        result[steps] = per_action(engine.log_prob(policy, observations, actions), actions)
    return result


def trajectory_log_probs(policy: Policy, curated: Curated, device: str | torch.device = "cpu") -> Tensor:
    """Compute the mean of log π(a|s) over the steps of every kept trajectory, in nats: [K]."""
    return trajectory_means(log_probs(policy, curated, device), torch.from_numpy(curated.offsets).to(device))


def weight_metrics(weights: Tensor, maximum: float, minimum: float = 0.0, shares: Tensor | None = None) -> dict[str, Tensor]:
    """Describe weights [n], within minimum … maximum, by scalars; `shares` are the curation's, [n] (None: all alike)."""
    shared, whole = (weights, len(weights)) if shares is None else (weights * shares, effective_sample_size(shares))
    at_bound = (weights >= maximum) | ((weights <= minimum) & (minimum > 0.0))
    return {
        "ess_share": effective_sample_size(shared) / whole,
        "weight_min": weights.amin(),
        "weight_median": weights.median(),
        "weight_max": weights.amax(),
        "clipped_share": at_bound.double().mean(),
    }


class ImportanceWeights:
    """Weights of the M kept steps, [M]: all 1 at first, where q = π_ref.

    State: the proposal π_q, a moving average of the policy; ρ of every kept step under the q of the last pass, [M]; κ.
    """

    def __init__(self, settings: IWBC, reference: Policy, curated: Curated, device: str | torch.device) -> None:
        self._settings, self._curated, self._device = settings, curated, device
        self.proposal = copy.deepcopy(reference)
        self._reference_log_probs = log_probs(reference, curated, device)  # a constant of the data
        self._offsets = torch.from_numpy(curated.offsets).to(device)
        self._lengths = self._offsets.diff()
        self._probabilities = torch.from_numpy(curated.probabilities).to(device)  # of the kept trajectories, [K]
        # Exact importance sampling is κ = T, here of the mean length; at q = π_ref any κ will do.
        self._exact_kappa = float(curated.lengths.mean())
        self.kappa = self._exact_kappa if settings.fixed_kappa is None else settings.fixed_kappa
        # The curation's share of each weight that the metrics describe: a step's, [M], or a trajectory's, [K].
        of_steps = settings.level == "window"
        self._shares = torch.from_numpy(curated.step_probabilities).to(device) if of_steps else self._probabilities
        self.log_ratios = torch.zeros(curated.steps, device=device)
        self._set_weights()

    def follow(self, policy: Policy, step: int) -> None:
        """Set θ_q ← α θ_q + (1 − α) θ before gradient step `step`; every `pass_every` steps set the weights by q."""
        with torch.no_grad():
            for parameter, new in zip(self.proposal.parameters(), policy.parameters(), strict=True):
                parameter.lerp_(new, 1.0 - self._settings.decay)
            for buffer, latest in zip(self.proposal.buffers(), policy.buffers(), strict=True):
                buffer.copy_(latest)  # a batch norm's, for example: they are averages already
        if step % self._settings.pass_every == 0:
            self.log_ratios = log_probs(self.proposal, self._curated, self._device) - self._reference_log_probs
            if self._settings.fixed_kappa is None:
                means = trajectory_means(self.log_ratios, self._offsets)
                self.kappa = largest_kappa(means, self._probabilities, self._exact_kappa, self._settings.ess_share)
            self._set_weights()

    def _set_weights(self) -> None:
        settings = self._settings
        if settings.level == "window":
            log_ratios = windowed_sums(self.log_ratios, self._offsets, settings.window)
        else:
            log_ratios = trajectory_means(self.log_ratios, self._offsets).repeat_interleave(self._lengths)
        self.weights = tempered_weights(log_ratios, self.kappa, settings.minimum, settings.upper_bound).float()
        self._described = self._describe()

    def of(self, batch: Minibatch) -> Tensor:
        """Return the weight of each of a minibatch's steps, [B]."""
        return self.weights[batch.step]

    def _describe(self) -> dict[str, Tensor]:
        settings = self._settings
        weights = self.weights if settings.level == "window" else self.weights[self._offsets[:-1]]
        return weight_metrics(weights, settings.upper_bound, settings.minimum, self._shares)

    def metrics(self, batch: Minibatch | None, log_prob: Tensor | None) -> dict[str, Tensor]:
        """Describe the weights of all kept trajectories, or steps, by scalars, and the bound at q by a minibatch.

        batch, log_prob: the last minibatch and its log π_θ(a|s), [B]; None before the first. `ess_share` is the effective
        sample size as a share of the curated set's (κ = 0).
        """
        metrics = dict(self._described)  # they change at a pass alone
        # A policy that reads sequences is trained from other steps on than its weights are measured from.
        if self._settings.level == "trajectory" and window_of(self.proposal).sequence == 1:
            # κ-tempered, and in units of the kept trajectories' reward: 1 at π_θ = q = π_ref.
            metrics["proposal_bound"] = torch.ones(()) if batch is None or log_prob is None else self._bound(batch, log_prob)
        if self._settings.fixed_kappa is None:
            metrics["kappa"] = torch.tensor(self.kappa)
        return metrics

    def _bound(self, batch: Minibatch, log_prob: Tensor) -> Tensor:
        log_prob = per_action(log_prob, batch.actions)
        log_ratio = log_prob - self._reference_log_probs[batch.step] - self.log_ratios[batch.step]  # log π_θ − log π_q
        return proposal_bound(torch.ones_like(log_prob), self.of(batch), self.kappa * log_ratio)

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that training changes."""
        kappa = torch.tensor(self.kappa, dtype=torch.float64)
        return {"kappa": kappa, "log_ratios": self.log_ratios, **module_state(self.proposal, "proposal.")}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        self.kappa = float(state["kappa"])
        self.log_ratios = state["log_ratios"].to(self._device, copy=True)
        load_module(self.proposal, state, "proposal.")
        self._set_weights()
