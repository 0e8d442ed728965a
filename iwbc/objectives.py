"""The method's equations as pure functions (Qin & Springenberg, arXiv 2507.12856).

Notation: ℓ_i(π) = (1/T_i) Σ_t log π(a_t|s_t), in nats per step; ρ = log π_q − log π_ref, of a step or, as a mean over
steps, of a trajectory; κ the temperature of the weights; R_i a trajectory's curation weight. The last axis of every
tensor runs over what is weighted; leading axes broadcast. No gradient flows through a weight: pass detached
tensors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def tempered_weights(log_ratio: Tensor, kappa: float, minimum: float, maximum: float) -> Tensor:
    """Compute w = clip(exp(κ ρ), β_min, β_max), ρ = log π_q − log π_ref of a step, summed over the last steps, or the mean over
    a trajectory, ℓ_i(π_q) − ℓ_i(π_ref): there κ = T_i is exact importance sampling. κ = 0 is filtered BC."""
    return torch.exp(kappa * log_ratio).clamp(minimum, maximum)


def clipped_product_weights(clipped_log_ratio_sum: Tensor, minimum: float, maximum: float) -> Tensor:
    """Compute w_i = clip(Π_t clip(π_q/π_ref, a_min, a_max), β_min, β_max) from the sums of `clip_log_ratio`ed steps."""
    return torch.exp(clipped_log_ratio_sum).clamp(minimum, maximum)


def clip_log_ratio(log_ratio: Tensor, minimum: float, maximum: float) -> Tensor:
    """Compute log clip(π_q/π_ref, a_min, a_max) of a step's log ratio."""
    return log_ratio.clamp(math.log(minimum), math.log(maximum))


def trajectory_means(values: Tensor, offsets: Tensor) -> Tensor:
    """Average values per step over each trajectory, (1/T_i) Σ_t: [M] → [K], in double precision."""
    sums = torch.zeros(len(values) + 1, dtype=torch.float64, device=values.device)
    torch.cumsum(values.double(), 0, out=sums[1:])
    return sums[offsets].diff() / offsets.diff()


def windowed_sums(values: Tensor, offsets: Tensor, window: int) -> Tensor:
    """Compute Σ_{k=t−H+1..t} of values per step, [M] → [M] in double precision, over the last H = `window` steps of the step's
    trajectory, or all where there are fewer. Of log ratios ρ it is the log of the product of the last H ratios."""
    steps = torch.arange(len(values), device=values.device)
    starts = torch.repeat_interleave(offsets[:-1], offsets.diff())  # of each step's trajectory
    sums = torch.zeros(len(values) + 1, dtype=torch.float64, device=values.device)
    torch.cumsum(values.double(), 0, out=sums[1:])
    return sums[steps + 1] - sums[torch.maximum(starts, steps + 1 - window)]


def self_normalise(weights: Tensor) -> Tensor:
    """Scale weights to mean 1 over the last axis: w_i / ((1/n) Σ_j w_j)."""
    return weights / weights.mean(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def weighted_log_likelihood(log_prob: Tensor, weights: Tensor) -> Tensor:
    """Compute (1/n) Σ w log π_θ over the last axis: E_{D+}[(q/π_ref) log π_θ], whose gradient is importance-weighted BC's."""
    return (weights * log_prob).mean(-1)


def effective_sample_size(weights: Tensor) -> Tensor:
    """Compute (Σ w)² / Σ w² over the last axis: the number of equal weights that would be as informative."""
    return weights.sum(-1).square() / weights.square().sum(-1)


def reference_bound(reward: Tensor, policy_ratio: Tensor) -> Tensor:
    """Compute E_ref[R (1 + log π_θ/π_ref)] ≤ J, `policy_ratio` = log π_θ − log π_ref of a trajectory; tight at π_θ = π_ref."""
    return (reward * (1.0 + policy_ratio)).mean(-1)


def proposal_bound(reward: Tensor, weights: Tensor, policy_ratio: Tensor) -> Tensor:
    """Compute E_ref[(q/π_ref) R (1 + log π_θ/q)] ≤ J, `weights` = q/π_ref, `policy_ratio` = log π_θ − log q; tight at q =
    π_θ."""
    return (weights * reward * (1.0 + policy_ratio)).mean(-1)


def td_lambda_returns(
    rewards: Tensor, values: Tensor, final_values: Tensor, offsets: Tensor, gamma: float, lam: float
) -> Tensor:
    """Compute TD(λ) returns of packed trajectories: G_t = r_t + γ ((1 − λ) V(s_{t+1}) + λ G_{t+1}).

    Shapes: rewards [N], values [N] = V(s_t), final_values [n] = V of the observation after the last step (0 where the
    environment ended the episode), offsets [n + 1]. Returns [N]. (Sutton & Barto, §12.1; Peng et al. 2019.)
    """
    lengths = offsets.diff()
    # Trajectories in order of length, longest first: the ones still running at time t are then a prefix.
    order = lengths.argsort(descending=True)
    starts, lengths = offsets[:-1][order], lengths[order]
    longest = int(lengths[0])
    running = torch.searchsorted(-lengths, -torch.arange(longest, device=lengths.device)).tolist()  # #{i: T_i > t}
    targets = torch.empty_like(values)
    following = final_values[order].clone()  # G_{t+1}, which is V at the end
    next_value = following.clone()  # V(s_{t+1})
    for t in range(longest - 1, -1, -1):
        rows = starts[: running[t]] + t
        mixed = (1.0 - lam) * next_value[: running[t]] + lam * following[: running[t]]
        target = rewards[rows] + gamma * mixed
        targets[rows] = target
        following[: running[t]] = target
        next_value[: running[t]] = values[rows]
    return targets


def expectile_loss(errors: Tensor, expectile: float) -> Tensor:
    """Compute the mean of |τ − 1[u < 0]| u² over the last axis, u = target − estimate: least at the τ-expectile of the targets,
    which is their mean for τ = ½ (Kostrikov et al. 2021)."""
    return (expectile_slopes(errors, expectile) * errors).mean(-1)


def expectile_slopes(errors: Tensor, expectile: float) -> Tensor:
    """Compute |τ − 1[u < 0]| u of each error u: half of the slope of its loss."""
    return torch.where(errors < 0.0, 1.0 - expectile, expectile) * errors


def advantage_weights(advantages: Tensor, temperature: float, maximum: float) -> Tensor:
    """Compute AWR's weights min(exp(Â / β), w_max), Â the advantages standardised over the last axis (Peng et al. 2019)."""
    mean, std = advantages.mean(-1, keepdim=True), advantages.std(-1, correction=0, keepdim=True)
    standardised = (advantages - mean) / std.clamp_min(1e-8)
    return torch.exp(standardised / temperature).clamp(max=maximum)
