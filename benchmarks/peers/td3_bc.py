"""TD3+BC (Fujimoto & Gu 2021, arXiv 2106.06860) on this package's data, played by its evaluator: plain PyTorch, one file.

    python -m benchmarks.peers.td3_bc [env=hopper] [dataset=medium_replay] [steps=1000000] [seeds=0] [episodes=100] [out=FILE]

    Q ← argmin_Q E_D[(r + γ min(Q̄₁, Q̄₂)(s', π̄(s') + ε) − Q(s, a))²]
    π ← argmax_π E_D[λ Q₁(s, π(s)) − (π(s) − a)²],   λ = α / E|Q₁(s, π(s))|

dataset may have settings behind it, as "medium_replay dataset.seed=4". With the settings of the authors' code for locomotion.
Unlike there, a trajectory's last step counts although a time limit cut it, as the observation that follows is known. Trains one
seed after the other, prints a line for each, and writes them to FILE, benchmarks/results/td3_bc.csv by default.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import RESULTS
from iwbc.api import evaluate
from iwbc.config import compose
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch, StepSampler
from iwbc.data.sources import load_dataset
from iwbc.data.streams import Stream, generator, seeded
from iwbc.data.trajectories import Trajectories
from iwbc.data.transitions import Transitions
from iwbc.policies.networks import Units, mlp
from iwbc.policies.policy import Policy
from iwbc.policies.spec import spaces_of
from iwbc.settings import Settings
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_csv
from iwbc.training.trained import Policies


@dataclass(frozen=True)
class Recipe:
    """The published settings."""

    alpha: float = 2.5
    lr: float = 3e-4
    batch_size: int = 256
    gamma: float = 0.99
    tau: float = 0.005
    policy_noise: float = 0.2
    noise_clip: float = 0.5
    policy_every: int = 2
    hidden: tuple[int, ...] = (256, 256)


class Actor(Policy):
    """The deterministic policy."""

    def __init__(self, units: Units, observations: int, actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.units, self.network = units, mlp([observations, *hidden, actions])

    def forward(self, states: Tensor) -> Tensor:
        """Compute actions in ±1 of normalised states."""
        actions: Tensor = self.network(states).tanh()
        return actions

    def mean_action(self, observations: Tensor) -> Tensor:
        return self.units.to_actions(self(self.units.observations(observations)))


class TD3BC:
    """One seed in training."""

    def __init__(self, recipe: Recipe, data: Trajectories, seed: int) -> None:
        self.recipe, self.transitions, scales = recipe, Transitions(everything(data)), data.observation_scales
        observations, actions = data.observations.shape[1], data.actions.shape[1]
        spread = (scales.spread + 1e-3).tolist()
        self.units = Units(data.info.action_low, data.info.action_high, scales.mean.tolist(), spread)
        with seeded(Stream.POLICY, seed):
            self.actor = Actor(self.units, observations, actions, recipe.hidden)
            self.twins = nn.ModuleList([mlp([observations + actions, *recipe.hidden, 1]) for _ in range(2)])
        self.target_actor, self.target_twins = copy.deepcopy(self.actor), copy.deepcopy(self.twins)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), recipe.lr, fused=True)
        self.twin_adam = torch.optim.Adam(self.twins.parameters(), recipe.lr, fused=True)
        self.random = generator(Stream.ACTIONS, seed)

    def update(self, batch: Minibatch, step: int) -> None:
        """Make gradient step `step`, from 0: of Q, and, at every second, of the policy and the targets."""
        recipe = self.recipe
        states, actions = self.units.observations(batch.observations), self.units.to_units(batch.actions)
        with torch.no_grad():
            rewards, following, continues = self.transitions.of(batch)
            next_states = self.units.observations(following)
            noise = torch.randn(actions.shape, generator=self.random) * recipe.policy_noise
            next_actions = self.target_actor(next_states) + noise.clamp(-recipe.noise_clip, recipe.noise_clip)
            next_pairs = torch.cat([next_states, next_actions.clamp(-1.0, 1.0)], dim=-1)
            next_q = torch.minimum(*(target(next_pairs)[:, 0] for target in self.target_twins))
            targets = rewards + recipe.gamma * continues * next_q
        pairs = torch.cat([states, actions], dim=-1)
        self._descend(self.twin_adam, sum(F.mse_loss(twin(pairs)[:, 0], targets) for twin in self.twins))
        if step % recipe.policy_every == recipe.policy_every - 1:
            chosen = self.actor(states)
            q = self.twins[0](torch.cat([states, chosen], dim=-1))
            weight = recipe.alpha / q.abs().mean().detach()
            self._descend(self.actor_adam, F.mse_loss(chosen, actions) - weight * q.mean())
            for targets_of, latest in ((self.target_actor, self.actor), (self.target_twins, self.twins)):
                with torch.no_grad():
                    torch._foreach_lerp_(list(targets_of.parameters()), list(latest.parameters()), recipe.tau)

    def _descend(self, adam: torch.optim.Adam, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()


def everything(data: Trajectories) -> Curated:
    """All trajectories, every step alike."""
    return Curated(data, np.ones(len(data)), "transition")


def train(data: Trajectories, steps: int, seed: int, recipe: Recipe | None = None) -> Policies:
    """Train one seed and return the last policy."""
    recipe = recipe or Recipe()
    trained = TD3BC(recipe, data, seed)
    sampler = StepSampler(everything(data), seed, recipe.batch_size, Stream.TRAINING)
    for step in range(steps):
        trained.update(sampler.batch(step), step)
    return Policies([trained.actor], [seed], spaces_of(data), None)


@dataclass
class Options(Settings):
    env: str = "hopper"
    dataset: str = "medium_replay"
    steps: int = at_least(1, 1_000_000)
    seeds: list[int] = field(default_factory=lambda: [0])
    episodes: int = at_least(1, 100)
    out: Path = RESULTS / "td3_bc.csv"


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    config = compose(*f"env={options.env} dataset={options.dataset}".split())
    data, rows = load_dataset(config.dataset, config.env.id), []
    for seed in options.seeds:
        start = time.perf_counter()
        policies = train(data, options.steps, seed)
        seconds = time.perf_counter() - start
        evaluation = evaluate(policies, data, options.episodes)
        print(f"seed {seed}, {options.steps:,} steps in {seconds:.0f} s: {evaluation!r}", flush=True)
        where = {"env": options.env, "dataset": data.info.id, "steps": options.steps, "seed": seed}
        score = "" if evaluation.score is None else round(evaluation.score, 2)
        rows.append({**where, "return": round(float(evaluation.returns.mean()), 2), "score": score, "seconds": round(seconds)})
    write_csv(options.out, rows)


if __name__ == "__main__":
    run(main, __doc__)
