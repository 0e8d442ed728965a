"""Mean log ratios of whole trajectories, (1/T_i) Σ_t g(log π_q − log π_ref), exactly or from the minibatches alone.

The reference's log-likelihoods of the data never change: they are computed once. The policy's change slowly, and every
gradient step computes them for its own minibatch anyway; `RunningLogRatios` keeps those, so that the importance weights
cost no pass over the data and no network beyond the one that is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iwbc.data.curated import Curated
from iwbc.policies import Policy


def log_probs(policy: Policy, curated: Curated) -> Tensor:
    """log π(a|s) of every kept step, in nats: [S, M]."""
    device = policy.parameters.flat.device
    seeds = len(policy.seeds)
    result = torch.empty(seeds, curated.steps, device=device)
    data = curated.trajectories
    for places, rows in curated.chunks():
        observations = torch.from_numpy(data.observations[rows]).to(device).expand(seeds, -1, -1)
        actions = torch.from_numpy(data.actions[rows]).to(device).expand(seeds, -1, -1)
        result[:, places] = policy.log_prob(observations, actions)
    return result


def trajectory_means(values: Tensor, offsets: Tensor) -> Tensor:
    """(1/T_i) Σ_t of values per kept step: [S, M] → [S, K], in double precision."""
    sums = torch.zeros(values.shape[0], values.shape[1] + 1, dtype=torch.float64, device=values.device)
    torch.cumsum(values.double(), 1, out=sums[:, 1:])
    return sums[:, offsets].diff(dim=1) / offsets.diff()


class RunningLogRatios:
    """Estimates the policy's mean log ratio g̅_i of every kept trajectory from the steps that the minibatches show.

    A table holds each step's value from when it was last drawn, so its mean over a trajectory lags behind the policy.
    The steps being drawn tell by how much: their residuals (new − table) average, per trajectory, to just that lag. The
    estimate is the table's mean plus a running average of the residuals: a control variate, as in SAGA
    (Defazio et al. 2014), at a cost that does not depend on the length of the trajectories.

    State: `table` [S, M], `means` [S, K] of the table, `lag` [S, K]. All start at 0, which is exact at π_θ = π_ref.
    """

    def __init__(self, curated: Curated, seeds: int, device: torch.device) -> None:
        self._shift = torch.from_numpy(curated.shift).to(device)
        self._lengths = torch.from_numpy(curated.lengths).to(device)
        # A residual's weight in the running average, so that the average reaches back about one pass over the trajectory:
        # as long as the table's own entries are old.
        self._rates = 1.0 / (self._lengths + 1.0)
        self.table = torch.zeros(seeds, curated.steps, device=device)
        self.means = torch.zeros(seeds, len(curated.kept), dtype=torch.float64, device=device)
        self.lag = torch.zeros_like(self.means)
        self._drawn_last = torch.zeros(seeds, curated.steps, dtype=torch.int64, device=device)

    def place(self, trajectory: Tensor, row: Tensor) -> Tensor:
        """Where steps lie among the kept steps, from their kept trajectories and their rows in the dataset, [S, B] each."""
        return row + self._shift[trajectory]

    def observe(self, trajectory: Tensor, place: Tensor, values: Tensor) -> None:
        """Take note of the values g(ρ_t) of some steps under the policy as it is now, and of their kept trajectories and
        places among the kept steps; [S, B] each."""
        residual = (values - self.table.gather(1, place)).double()
        # A step that is here twice changes the table once, to the value of one of its draws.
        order = torch.arange(place.shape[1], device=place.device).expand_as(place)
        drawn_last = self._drawn_last.scatter_(1, place, order).gather(1, place)
        self.table.scatter_(1, place, values.gather(1, drawn_last))
        zeros = torch.zeros_like(self.means)
        self.means += zeros.scatter_add(1, trajectory, residual * (drawn_last == order)) / self._lengths
        count = zeros.scatter_add(1, trajectory, torch.ones_like(residual))
        average = zeros.scatter_add(1, trajectory, residual) / count.clamp(min=1.0)
        self.lag += (1.0 - (1.0 - self._rates) ** count) * (average - self.lag)

    def estimate(self) -> Tensor:
        """The estimate of g̅_i, [S, K]."""
        return self.means + self.lag

    def state(self) -> dict[str, Tensor]:
        """Every tensor that observing changes."""
        return {"ratio_table": self.table, "ratio_means": self.means, "ratio_lag": self.lag}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state()`."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
