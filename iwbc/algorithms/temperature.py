"""A temperature that sets itself: the largest κ with which the importance weights can still be relied on.

Few trajectories may take most of the weight for two reasons: they are of the better of some ways to succeed, or the policy
has learnt them by heart. In the first case those of a way weigh about the same, and the weights end abruptly; in the second
they have a long tail. The shape k̂ of a generalised Pareto distribution fitted to the largest weights tells one from the other
(Vehtari, Simpson, Gelman, Yao & Gabry 2024, "Pareto smoothed importance sampling").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iwbc.objectives import effective_sample_size

# The largest κ is found to a fifth of a percent of the ceiling.
_HALVINGS = 9
# So many trajectories may be a way to succeed; fewer may have been learnt by heart.
_WAY = 10
# Weights that differ by no more than this factor are no long tail, whatever its shape.
_ALIKE = 2.0


def largest_kappa(log_ratios: Tensor, reward: Tensor, ceiling: float, share: float, count: float = math.inf) -> float:
    """max{κ ≤ ceiling : ESS(w_κ ⊙ R) ≥ min(share · ESS(R), count), k̂(w_κ ⊙ R) ≤ k̂_max}, w_κ = exp(κ g̅), by halving.

    log_ratios: the mean log ratios g̅_i of the kept trajectories, [K]. reward: R_i, [K]. ceiling: their length T makes κ = T
    exact importance sampling, beyond which the bound does not hold. share, count: the paper's KL(q‖π_ref) < β in terms of
    trajectories; so many are enough to fit a policy to, of however many they are.
    """
    reward = reward.double() / reward.max()
    log_ratios = log_ratios.double() - log_ratios.max()
    fewest = (share * effective_sample_size(reward)).clamp(max=count)
    longest_tail = largest_reliable_shape(len(log_ratios))

    def reliable(kappa: float) -> bool:
        weights = torch.exp(kappa * log_ratios) * reward
        if effective_sample_size(weights) < fewest:
            return False
        tail = _tail(weights)
        return bool(tail[-1] <= _ALIKE * tail[0]) or bool(pareto_shape(weights) <= longest_tail)

    if reliable(ceiling):
        return ceiling
    low, high = 0.0, ceiling  # κ = 0 is filtered BC
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if reliable(middle) else (low, middle)
    return low


def _tail(weights: Tensor) -> Tensor:
    """Return the weights of the tail, after the largest that is not among them, in order."""
    return weights.double().topk(min(tail_length(len(weights)) + 1, len(weights)), sorted=True).values.flip(0)


def _above_the_gap(tail: Tensor) -> Tensor:
    """Shorten a tail to the weights above its widest gap, and the weight below it, where they are enough to be a way."""
    gaps = tail.log().diff().nan_to_num(0.0, posinf=math.inf)  # between two weights of 0 there is none
    widest = int(gaps.argmax())
    return tail[widest:] if len(gaps) - widest >= _WAY else tail


def largest_reliable_shape(samples: int) -> float:
    """k̂_max = min(1 − 1/log10 S, 0.7): up to there the estimate's error is acceptable (Vehtari et al. 2024, §3.2.4)."""
    return min(1.0 - 1.0 / math.log10(samples), 0.7) if samples > 10 else 0.0


def tail_length(samples: int) -> int:
    """Count the largest weights that are the tail: min(0.2 S, 3 √S), rounded up (Vehtari et al. 2024, §3)."""
    return math.ceil(min(0.2 * samples, 3.0 * math.sqrt(samples)))


def pareto_shape(weights: Tensor) -> Tensor:
    """k̂ of the tail of weights [S], a scalar: below 0 it ends abruptly, from 0.5 on the variance is infinite.

    Zhang & Stephens' (2009) estimate, drawn towards 0.5 by as much as ten samples say, as in Vehtari et al. (2024, app. G).
    A tail's widest gap, by ratios, that has ten or more weights above it ends the tail there: they are a way that is rarer
    than the tail would be long. Where fewer than five weights make the tail, or all of its weights are equal, there is no long
    one: −∞. Where a quarter of the tail and all that is below weighs the same, mostly nothing: ∞.
    """
    unit = torch.ones((), dtype=torch.float64, device=weights.device)
    if tail_length(len(weights)) < 5:
        return -math.inf * unit
    tail = _above_the_gap(_tail(weights))
    excess = tail[1:] - tail[0]
    count = len(excess)
    if excess[0] >= 0.999 * excess[-1]:
        return -math.inf * unit
    # A profile of the likelihood over θ = −k/σ, averaged with its own weights.
    points = 30 + int(math.sqrt(count))
    grid = torch.arange(1, points + 1, dtype=torch.float64, device=weights.device) - 0.5
    quartile = excess[int(count / 4 + 0.5) - 1]
    if quartile <= 0.0:
        return math.inf * unit
    theta = 1.0 / excess[-1] + (1.0 - torch.sqrt(points / grid)) / (3.0 * quartile)
    k = torch.log1p(-theta[:, None] * excess).mean(-1)
    profile = count * (torch.log(-theta / k) - k - 1.0)
    theta = (theta * torch.softmax(profile, 0)).sum()
    k = torch.log1p(-theta * excess).mean()
    return (count * k + 5.0) / (count + 10.0)
