"""Gaussian policies over continuous actions, batched over seeds.

A policy carries everything it needs to act: layer sizes, the action range, the observation normaliser. Saved as one
safetensors file, it can be rebuilt without any of the code's defaults.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from iwbc import config
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.networks import Parameters, Shape, mlp, mlp_shapes

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
# atanh(±1) is infinite; the nearest float32 to 1 − 1e-6 keeps |u| below 7.3.
_SQUASH_LIMIT = 1.0 - 1e-6


@dataclass(frozen=True)
class PolicySpec:
    """All that defines a policy besides its parameters.

    kind: "tanh_mean" (mean = tanh(net), a Normal that is not squashed) or "squashed" (tanh of a Normal).
    std: "global" (one per action) or "state" (a second output of the network); its log is clamped to log_std_bounds.
    Actions are scaled from ±1 to action_low … action_high. Observations become (o − mean) / std where those are given.
    precision: of the matrix products of `log_prob`, "float32" or "bfloat16". Acting is always in float32.
    """

    kind: str
    std: str
    hidden: tuple[int, ...]
    log_std_bounds: tuple[float, float]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    observation_size: int
    observation_mean: tuple[float, ...] | None = None
    observation_std: tuple[float, ...] | None = None
    precision: str = "float32"

    @property
    def action_size(self) -> int:
        return len(self.action_low)


def policy_spec(settings: config.Policy, trajectories: Trajectories) -> PolicySpec:
    """The spec of a policy for a dataset: its sizes, its action range and, where asked for, its observation normaliser.

    An action bound that is infinite gives no range to scale to: the range of the data's own actions takes its place.
    """
    info = trajectories.info
    low, high = np.asarray(info.action_low), np.asarray(info.action_high)
    unbounded = ~(np.isfinite(low) & np.isfinite(high))
    if unbounded.any():
        data_low, data_high = trajectories.actions.min(0), trajectories.actions.max(0)
        constant = data_high <= data_low
        low = np.where(unbounded, np.where(constant, data_low - 1.0, data_low), low)
        high = np.where(unbounded, np.where(constant, data_high + 1.0, data_high), high)
    mean, std = trajectories.observation_statistics if settings.normalise_observations else (None, None)
    return PolicySpec(
        kind=settings.kind,
        std=settings.std,
        hidden=tuple(settings.hidden),
        log_std_bounds=(settings.log_std_min, settings.log_std_max),
        action_low=tuple(low.tolist()),
        action_high=tuple(high.tolist()),
        observation_size=trajectories.observations.shape[1],
        observation_mean=None if mean is None else tuple(mean.tolist()),
        observation_std=None if std is None else tuple(std.tolist()),
        precision=settings.precision,
    )


class Policy:
    """S policies of one spec (one per seed): observations [S, B, obs] → distributions over actions [S, B, act]."""

    def __init__(
        self, spec: PolicySpec, seeds: Sequence[int], device: str | torch.device = "cpu", batched: bool | None = None
    ) -> None:
        self.spec, self.seeds = spec, tuple(seeds)
        outputs = spec.action_size * (2 if spec.std == "state" else 1)
        shapes = mlp_shapes((spec.observation_size, *spec.hidden, outputs))
        if spec.std == "global":
            shapes.append(Shape("log_std", (1, spec.action_size)))
        self.parameters = Parameters(shapes, len(seeds), device, batched)
        self._log_std = self.parameters.named().get("log_std")  # [S, 1, act], or None: part of the network's output
        low, high = (torch.tensor(bound, device=device) for bound in (spec.action_low, spec.action_high))
        self._middle, self._half_range = (low + high) / 2.0, (high - low) / 2.0
        # Of a standard Normal's density, and of the scale of actions.
        self._log_scale = spec.action_size * _HALF_LOG_2PI + float(self._half_range.log().sum())
        self._unit_actions = bool((low == -1.0).all() and (high == 1.0).all())
        self._normaliser: tuple[Tensor, Tensor] | None = None
        if spec.observation_mean is not None and spec.observation_std is not None:
            self._normaliser = (
                torch.tensor(spec.observation_mean, device=device),
                torch.tensor(spec.observation_std, device=device),
            )

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Starting parameters, one generator per seed."""
        for row, generator in enumerate(generators):
            self.parameters.initialise(row, generator)

    def copy(self) -> Policy:
        """An independent policy with the same parameters."""
        return self.select(*self.seeds)

    def _distribution(
        self, observations: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], list[Tensor]]]:
        """Mean and log-std of the Normal, in units of ±1 actions (before the tanh where squashed), and how to take
        gradients by them back to the parameters."""
        if self._normaliser is not None:
            observations = (observations - self._normaliser[0]) / self._normaliser[1]
        output, through_network = mlp(self.parameters, observations, dtype)
        mean, free_log_std = output.chunk(2, dim=-1) if self._log_std is None else (output, self._log_std)
        if self.spec.kind == "tanh_mean":
            mean = mean.tanh()
        log_std = free_log_std.clamp(*self.spec.log_std_bounds)

        def pullback(by_mean: Tensor, by_log_std: Tensor) -> list[Tensor]:
            if self.spec.kind == "tanh_mean":
                by_mean = torch.ops.aten.tanh_backward.default(by_mean, mean)
            by_log_std = by_log_std * (log_std == free_log_std)  # none where it is clamped
            if self._log_std is None:
                return self.parameters.gradient(through_network(torch.cat([by_mean, by_log_std], dim=-1)))
            summed = by_log_std.sum(1, keepdim=True)
            of_blocks = [summed] if self.parameters.batched else summed.unbind()
            network = through_network(by_mean)
            return self.parameters.gradient([[*block, one] for block, one in zip(network, of_blocks, strict=True)])

        return mean, log_std, pullback

    def log_prob_and_score(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        """log π(a|s) as `log_prob` gives it, [S, B], and the function from weights w [S, B] to ∇_θ (1/B) Σ w log π_θ(a|s),
        in the form of `Parameters.parts`."""
        dtype = torch.bfloat16 if self.spec.precision == "bfloat16" else torch.float32
        mean, log_std, pullback = self._distribution(observations, dtype)
        units = actions if self._unit_actions else (actions - self._middle) / self._half_range
        log_normaliser = log_std.sum(-1) + self._log_scale
        if self.spec.kind == "squashed":
            units = units.clamp(-_SQUASH_LIMIT, _SQUASH_LIMIT).atanh()
            # log(1 − tanh²(u)) = 2 (log 2 − u − softplus(−2u)), which does not underflow.
            log_normaliser = log_normaliser + (2.0 * (math.log(2.0) - units - F.softplus(-2.0 * units))).sum(-1)
        inverse_std = torch.exp(-log_std)
        deviation = (units - mean) * inverse_std
        log_prob = torch.add(-log_normaliser, deviation.square().sum(-1), alpha=-0.5)

        def score(weights: Tensor) -> list[Tensor]:
            # ∂ log N/∂μ = (u − μ)/σ², ∂ log N/∂ log σ = (u − μ)²/σ² − 1.
            share = (weights / weights.shape[-1])[..., None]
            weighted = share * deviation
            return pullback(weighted * inverse_std, weighted * deviation - share)

        return log_prob, score

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """log π(a|s) in nats: observations [S, B, obs] and actions [S, B, act] → [S, B].

        Squashed: log N(atanh a) − Σ log(1 − a²), with a first moved inside ±(1 − 1e-6), so that actions at the bounds
        have a finite log-likelihood and gradient.
        """
        return self.log_prob_and_score(observations, actions)[0]

    def _to_action_range(self, units: Tensor) -> Tensor:
        return units if self._unit_actions else self._middle + self._half_range * units

    def mean_action(self, observations: Tensor) -> Tensor:
        """The mean action (squashed: tanh of the Normal's mean), [S, B, obs] → [S, B, act]."""
        mean, _, _ = self._distribution(observations)
        return self._to_action_range(mean.tanh() if self.spec.kind == "squashed" else mean)

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions drawn from the policy, [S, B, obs] → [S, B, act]; a tanh-mean policy may draw beyond the bounds."""
        mean, log_std, _ = self._distribution(observations)
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        units = mean + log_std.exp() * noise
        return self._to_action_range(units.tanh() if self.spec.kind == "squashed" else units)

    def predict(
        self,
        observation: npt.NDArray[np.floating],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[npt.NDArray[np.float32], tuple[npt.NDArray[Any], ...] | None]:
        """Stable-Baselines3's interface: observation [obs] or [B, obs] → (action [act] or [B, act], state).

        Actions are clipped to the action space. Acts as the first of the seeds; `select` picks another. Policies have no
        memory: `state` and `episode_start` are returned and ignored.
        """
        batch = torch.as_tensor(np.atleast_2d(observation), dtype=torch.float32, device=self.parameters.flat.device)
        one = self if len(self.seeds) == 1 else self.select(self.seeds[0])
        if deterministic:
            action = one.mean_action(batch[None])[0]
        else:
            if not hasattr(self, "_predict_generator"):
                self._predict_generator = torch.Generator().manual_seed(self.seeds[0])
            action = one.sample(batch[None], self._predict_generator)[0]
        clipped = np.clip(action.cpu().numpy(), self.spec.action_low, self.spec.action_high).astype(np.float32)
        return (clipped if np.ndim(observation) > 1 else clipped[0]), state

    def select(self, *seeds: int) -> Policy:
        """Independent policies with the parameters of some of the seeds."""
        some = Policy(self.spec, seeds, self.parameters.flat.device, self.parameters.batched)
        some.parameters.flat.copy_(self.parameters.flat[[self.seeds.index(seed) for seed in seeds]])
        return some

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name, each [S, *shape], contiguous on the CPU."""
        return {name: value.cpu().contiguous() for name, value in self.parameters.named().items()}

    def metadata(self) -> dict[str, str]:
        """The spec and seeds, as safetensors metadata."""
        return {"policy": json.dumps({"spec": asdict(self.spec), "seeds": self.seeds})}


def load_policy(path: str | Path, device: str | torch.device = "cpu") -> Policy:
    """Rebuild a saved policy from its file alone. Raises UserError where the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads(file.metadata()["policy"])
            spec: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in fields["spec"].items()
            }
            policy = Policy(PolicySpec(**spec), fields["seeds"], device)
            for name, view in policy.parameters.named().items():
                saved = file.get_tensor(name)
                if saved.shape != view.shape:
                    raise ValueError(f"{name} has shape {tuple(saved.shape)}, its spec says {tuple(view.shape)}")
                view.copy_(saved)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"policy {path}: cannot be read ({error})") from None
    return policy
