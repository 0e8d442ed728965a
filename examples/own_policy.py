"""A policy of your own: any torch.nn.Module with log_prob and mean_action trains by every algorithm.

    python examples/own_policy.py

From the command line the same class is a choice of the policy group, in a folder of your own:

    mkdir -p my_conf/policy && echo '_target_: own_policy.LaplacePolicy' > my_conf/policy/mine.yaml
    PYTHONPATH=examples python -m iwbc.train --config-dir my_conf policy=mine env=hopper
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import iwbc


class LaplacePolicy(nn.Module):
    """A Laplace distribution around tanh(network): heavier tails than a Gaussian, so that odd demonstrations pull less."""

    def __init__(self, observation_size: int, action_size: int, width: int = 128) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(observation_size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, action_size)
        )
        self.log_scale = nn.Parameter(torch.zeros(action_size))

    def mean_action(self, observations: Tensor) -> Tensor:
        return self.network(observations).tanh()

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        scale = self.log_scale.clamp(-5.0, 2.0).exp()
        return torch.distributions.Laplace(self.mean_action(observations), scale).log_prob(actions).sum(-1)

    def sample(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(len(observations), len(self.log_scale), generator=generator) - 0.5
        noise = -uniform.sign() * torch.log1p(-2.0 * uniform.abs())
        return self.mean_action(observations) + self.log_scale.clamp(-5.0, 2.0).exp() * noise


def main(steps: int = 2_000) -> None:
    data = iwbc.generate("Hopper-v5", "medium-replay", steps=20_000)
    make = lambda: LaplacePolicy(data.observations.shape[1], data.actions.shape[1])  # noqa: E731
    reference = iwbc.fit(iwbc.BC(steps=5 * steps), data, policy=make)
    kept = iwbc.curate(data, iwbc.QualityLevels([90, 95, 98]))
    policy = iwbc.fit(iwbc.IWBC(steps=steps), kept, reference=reference)
    print("reference", iwbc.evaluate(reference, "Hopper-v5", episodes=20))
    print("iw-BC(Q) ", iwbc.evaluate(policy, "Hopper-v5", episodes=20))
    policy.save("own_policy.safetensors")
    loaded = iwbc.load_policy("own_policy.safetensors", policy=make)
    print("action", loaded.predict(data.observations[0])[0])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
