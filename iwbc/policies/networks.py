"""The parts of the shipped policies: a multi-layer perceptron, and the units that it works in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# atanh(±1) is infinite; the nearest float32 to 1 − 1e-6 keeps |u| below 7.3.
SQUASH_LIMIT = 1.0 - 1e-6


class Linear(nn.Linear):
    """Linear layer whose weights and biases start at U(±1/√inputs) as torch.nn.Linear's do, but are drawn input by input."""

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.in_features)
        with torch.no_grad():
            self.weight.copy_(((torch.rand(self.in_features, self.out_features) * 2.0 - 1.0) * bound).t())
            self.bias.copy_((torch.rand(self.out_features) * 2.0 - 1.0) * bound)


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Make a ReLU multi-layer perceptron with layer sizes `sizes`."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Units(nn.Module):
    """Change of units, from observations and actions as they come to the network's.

    Actions of action_low … action_high become ±1; `clip_actions` moves those beyond to the nearer of the two. Observations
    become (o − mean) / std if these are not None, clipped to observation_limits, the lowest and the highest of each entry.
    """

    def __init__(
        self,
        action_low: Sequence[float],
        action_high: Sequence[float],
        observation_mean: Sequence[float] | None = None,
        observation_std: Sequence[float] | None = None,
        observation_limits: tuple[Sequence[float], Sequence[float]] | None = None,
        clip_actions: bool = False,
    ) -> None:
        super().__init__()
        # On the CPU even inside PyTorch's meta device, because their values are needed below.
        low, high = torch.tensor(action_low, device="cpu"), torch.tensor(action_high, device="cpu")
        self.plain = bool((low == -1.0).all() and (high == 1.0).all() and not clip_actions)
        self.normalises = observation_mean is not None and observation_std is not None
        self.clips_observations, self.clips_actions = observation_limits is not None, clip_actions
        constants = {"middle": (low + high) / 2.0, "half_range": (high - low) / 2.0}
        if self.normalises:
            constants |= {"mean": torch.tensor(observation_mean), "std": torch.tensor(observation_std)}
        if observation_limits is not None:
            constants |= {"lowest": torch.tensor(observation_limits[0]), "highest": torch.tensor(observation_limits[1])}
        self.middle: Tensor
        self.half_range: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.lowest: Tensor
        self.highest: Tensor
        for name, value in constants.items():
            self.register_buffer(name, value.float(), persistent=False)  # constants, not state
        self.log_scale = float(self.half_range.log().sum())  # log |d action / d unit|

    def observations(self, observations: Tensor) -> Tensor:
        if not self.normalises:
            return observations
        normalised = (observations - self.mean) / self.std
        return normalised.clamp(self.lowest, self.highest) if self.clips_observations else normalised

    def to_units(self, actions: Tensor) -> Tensor:
        if self.plain:
            return actions
        units = (actions - self.middle) / self.half_range
        return units.clamp(-1.0, 1.0) if self.clips_actions else units

    def entries(self, actions: Tensor) -> tuple[Tensor, Tensor | None, Tensor | float]:
        """Change actions to vectors in units, with log |d action / d unit|: [B, act], or, of a chunk, [B, H, act] →
        [B, H · act], 0 where the action is NaN. Second come the entries that are not, None where all are there."""
        if actions.dim() == 2:
            return self.to_units(actions), None, self.log_scale
        units = self.to_units(actions)
        present = ~units.isnan()
        values = torch.where(present, units, 0.0).flatten(-2)
        return values, present.flatten(-2), self.log_scale * present[..., 0].sum(-1)

    def to_actions(self, units: Tensor) -> Tensor:
        return units if self.plain else self.middle + self.half_range * units


def of_present(values: Tensor, present: Tensor | None) -> Tensor:
    """Set values of entries that are not there to 0; None: all are there."""
    return values if present is None else torch.where(present, values, 0.0)


def unsquash(units: Tensor) -> tuple[Tensor, Tensor]:
    """Compute u = atanh(a) and log |da/du| = log(1 − a²) of actions in ±1, [B, act] → [B, act] each; a is first moved inside
    ±(1 − 1e-6), so that actions at the bounds have a finite log-likelihood and gradient."""
    before = units.clamp(-SQUASH_LIMIT, SQUASH_LIMIT).atanh()
    # log(1 − tanh²(u)) = 2 (log 2 − u − softplus(−2u)), which does not underflow.
    return before, 2.0 * (math.log(2.0) - before - F.softplus(-2.0 * before))
