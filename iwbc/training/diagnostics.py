"""Diagnostics of training by any algorithm: log-likelihoods of kept and of dropped trajectories, and how far the policy has
moved from the reference on both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from iwbc import engine
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch, StepSampler
from iwbc.data.streams import Stream
from iwbc.data.windows import STEP, Window, per_action
from iwbc.objectives import reference_bound
from iwbc.policies.policy import Policy, window_of

# Steps per seed and set: the standard error of a mean log ratio is then about 1/20 of its spread.
_STEPS = 512


class Diagnostics:
    """Fixed samples of kept and of dropped steps, drawn as the sampler draws, with their reference log-likelihoods; and of
    trajectories that would be kept, had they not been held out of the data.

    `kappa` scales the log ratios of the bound; `window` is the reach of the policy that will be measured.
    """

    def __init__(
        self,
        curated: Curated,
        reference: Policy | None,
        seed: int,
        kappa: float = 1.0,
        device: str | torch.device = "cpu",
        held_out: Curated | None = None,
        window: Window = STEP,
    ) -> None:
        dropped = (curated.curation_weights == 0).astype(np.float64)
        sets = {"kept": curated, **({"dropped": replace(curated, curation_weights=dropped)} if dropped.any() else {})}
        if held_out is not None:
            sets["held_out"] = held_out
        self._kappa = kappa

        def probes(window: Window) -> dict[str, Minibatch]:
            return {
                name: StepSampler(data, seed, _STEPS, Stream.PROBES, device, window).batch(0) for name, data in sets.items()
            }

        self._probes = probes(window)
        self._reference: dict[str, Tensor] = {}
        if reference is not None and window_of(reference).sequence == window.sequence:  # else they see other steps
            seen = probes(window_of(reference))
            self._reference = {name: _log_prob(reference, probe) for name, probe in seen.items()}

    def measure(self, policy: Policy) -> dict[str, Tensor]:
        """Measure log_prob and drift ℓ(π_θ) − ℓ(π_ref), in nats per step, of each set, and the lower bound at the reference.

        The bound is κ-tempered and in units of the kept trajectories' reward: E_{D+}[1 + κ (ℓ(π_θ) − ℓ(π_ref))], 1 at
        π_θ = π_ref. Scalars; without a reference there are no drifts and no bound.
        """
        measured: dict[str, Tensor] = {}
        for name, probe in self._probes.items():
            log_prob = _log_prob(policy, probe)
            measured[f"log_prob_{name}"] = log_prob.mean()
            if name in self._reference:
                log_ratio = log_prob - self._reference[name]
                measured[f"drift_{name}"] = log_ratio.mean()
                if name == "kept":
                    measured["reference_bound"] = reference_bound(torch.ones_like(log_ratio), self._kappa * log_ratio)
        return measured


def _log_prob(policy: Policy, probe: Minibatch) -> Tensor:
    return per_action(engine.log_prob(policy, probe.observations, probe.actions), probe.actions)
