"""Log-likelihoods and log ratios of whole trajectories, exactly or from the minibatches alone.

The reference's log-likelihoods of the data never change: they are computed once. The policy's change slowly, and every
gradient step computes them for its own minibatch anyway; `RunningLogRatios` keeps those, so that the importance weights
cost no pass over the data and no network beyond the one that is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iwbc import engine
from iwbc.data.curated import Curated
from iwbc.policies.policy import Policy


def log_probs(policy: Policy, curated: Curated, device: str | torch.device) -> Tensor:
    """Compute log π(a|s) of every kept step, in nats: [M]."""
    result = torch.empty(curated.steps, device=device)
    for steps, observations, actions in curated.batches(device):
        result[steps] = engine.log_prob(policy, observations, actions)
    return result


def trajectory_means(values: Tensor, offsets: Tensor) -> Tensor:
    """Average values per kept step over each trajectory, (1/T_i) Σ_t: [M] → [K], in double precision."""
    sums = torch.zeros(len(values) + 1, dtype=torch.float64, device=values.device)
    torch.cumsum(values.double(), 0, out=sums[1:])
    return sums[offsets].diff() / offsets.diff()


class RunningLogRatios:
    """Estimate of the policy's mean log ratio g̅_i of every kept trajectory from the steps that the minibatches show.

    A table holds each step's value from when it was last drawn, so its mean over a trajectory lags behind the policy.
    The steps being drawn tell by how much: their residuals (new − table) average, per trajectory, to just that lag. The
    estimate is the table's mean plus a running average of the residuals: a control variate, as in SAGA
    (Defazio et al. 2014), at a cost that does not depend on the length of the trajectories.

    State: `table` [M], `means` [K] of the table, `lag` [K]. All start at 0, which is exact at π_θ = π_ref.
    """

    def __init__(self, curated: Curated, device: str | torch.device) -> None:
        self._lengths = torch.from_numpy(curated.lengths).to(device)
        # A residual's weight in the running average, so that the average reaches back about one pass over the trajectory:
        # as long as the table's own entries are old.
        self._rates = 1.0 / (self._lengths + 1.0)
        self.table = torch.zeros(curated.steps, device=device)
        self.means = torch.zeros(len(curated.kept), dtype=torch.float64, device=device)
        self.lag = torch.zeros_like(self.means)
        self._drawn_last = torch.zeros(curated.steps, dtype=torch.int64, device=device)

    def observe(self, trajectory: Tensor, step: Tensor, values: Tensor) -> None:
        """Learn from the values g(ρ_t) of some steps under the policy as it is now; their kept trajectories, and their
        indices among the kept steps; [B] each."""
        residual = (values - self.table[step]).double()
        # A step that is here twice changes the table once, to the value of one of its draws.
        order = torch.arange(len(step), device=step.device)
        drawn_last = self._drawn_last.scatter_(0, step, order)[step]
        self.table.scatter_(0, step, values[drawn_last])
        zeros = torch.zeros_like(self.means)
        self.means += zeros.scatter_add(0, trajectory, residual * (drawn_last == order)) / self._lengths
        count = zeros.scatter_add(0, trajectory, torch.ones_like(residual))
        average = zeros.scatter_add(0, trajectory, residual) / count.clamp(min=1.0)
        self.lag += (1.0 - (1.0 - self._rates) ** count) * (average - self.lag)

    def estimate(self) -> Tensor:
        """Return the estimate of g̅_i, [K]."""
        return self.means + self.lag

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that observing changes."""
        return {"ratio_table": self.table, "ratio_means": self.means, "ratio_lag": self.lag}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
