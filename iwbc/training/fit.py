"""Training from end to end: policies, learners of every seed, the loop."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from iwbc.algorithms import make_algorithm
from iwbc.algorithms.algorithm import Ingredients
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch, StepSampler
from iwbc.data.streams import Stream, seeded
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.policies.policy import Policy, window_of
from iwbc.policies.spec import PolicyChoice, PolicyFactory, continued, policy_factory, spaces_of
from iwbc.settings import GaussianPolicy, Recipe, Settings
from iwbc.training.critic import fitted_critics
from iwbc.training.diagnostics import Diagnostics
from iwbc.training.trained import Policies
from iwbc.training.trainer import Learner, Trainer, steps


class Observer(Protocol):
    """Onlooker of `fit`, which may raise an error to stop it."""

    every: Sequence[int]
    measures: bool  # whether it asks the trainer to `measure`

    def start(self, trainer: Trainer, policies: Policies) -> int:
        """Begin, and return the number of steps made already, where a checkpoint is loaded. The observer may load the trainer's
        parameters into the policies."""

    def diverged(self, seed: int, step: int, why: str, trainer: Trainer) -> None:
        """Hear that a seed has diverged; to let the others go on, drop it from the trainer."""

    def after(self, step: int, loss: dict[int, Tensor], trainer: Trainer) -> None:
        """Look on after `step` gradient steps: at multiples of `every`, at the end, and often besides."""


def fit(
    settings: Recipe,
    data: Curated | Trajectories,
    *,
    reference: Policies | None = None,
    policy: PolicyChoice | None = None,
    seeds: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
    console: Console | None = None,
    title: str | None = None,
    stream: Stream = Stream.TRAINING,
    observer: Observer | None = None,
    held_out: Curated | None = None,
    critics: Mapping[int, nn.Sequential] | None = None,
) -> Policies:
    """Train a policy by an algorithm, one of each seed, and return the last policies.

    data: curated trajectories; of uncurated ones every step counts the same. reference: the frozen policies π_ref of the
    same seeds, which the algorithm starts from unless its `start` is "scratch". policy: what is trained from scratch, settings
    (such as GaussianPolicy), a PolicySpec, or a function that makes a torch.nn.Module; default: as the reference, or
    GaussianPolicy(). seeds: those of the
    reference, or 0, by default; with several threads they train side by side. held_out: trajectories whose log-likelihood an
    observer is told. critics: V of each seed where the algorithm needs it, by default fitted to all trajectories, or taken from
    the cache.

    Raises UserError where settings cannot be, the algorithm needs a reference and there is none or one of other units, or
    training diverges.
    """
    if not isinstance(settings, Recipe):
        raise UserError(f"fit: needs the settings of an algorithm, such as BC(), not {settings!r}")
    if not isinstance(reference, Policies | None):
        raise UserError(f"fit: reference= takes the policies that fit or load_policy returns, not a {type(reference).__name__}")
    settings.check("algo")
    if isinstance(policy, Settings):
        policy.check("policy")
    curated = data if isinstance(data, Curated) else Curated(data, np.ones(len(data)), "transition")
    seeds = _checked(seeds if seeds is not None else reference.seeds if reference is not None else (0,))
    starts_at_reference = settings.start == "reference"
    if starts_at_reference and reference is None:
        raise UserError(f"{settings.label}: starts from a reference policy; give reference=, such as fit(BC(), data)")
    if reference is not None and (unknown := set(seeds) - set(reference.seeds)):
        raise UserError(f"seeds: the reference has no seed {min(unknown)}, only {', '.join(map(str, reference.seeds))}")
    trajectories, console = curated.trajectories, console or Console(stderr=True)
    if reference is not None:
        spec, spaces = continued(reference.spec, reference.spaces, trajectories)
    starts = {} if reference is None else {seed: copy.deepcopy(reference.of_seed(seed)).to(device) for seed in seeds}
    if starts_at_reference:
        assert reference is not None
        same = (None,) if spec is None else (None, spec, spec.settings)
        if not isinstance(policy, PolicyFactory) and policy not in same:
            raise UserError(f"{settings.label}: starts from the reference, whose policy it trains on; leave policy out")
        policies = Policies([copy.deepcopy(start) for start in starts.values()], seeds, spaces, spec)
    else:
        if policy is None and reference is not None:
            if spec is None:
                raise UserError(
                    f"{settings.label}: starts from scratch, and the reference is custom; give policy=, which makes one"
                )
            policy = spec.settings
        policy = policy if policy is not None else GaussianPolicy()
        factory = policy_factory(policy, trajectories)
        if factory.spec is not None and isinstance(policy, GaussianPolicy):  # who gives a spec has said it
            factory.spec.say(console)
        modules = [_untrained(factory, seed, device) for seed in seeds]
        policies = Policies(modules, seeds, spaces_of(trajectories), factory.spec)

    if policies.spec is None:
        first = StepSampler(curated, seeds[0], settings.batch_size, stream, device, window_of(policies[0])).batch(0)
        check_custom(policies[0], first)
    if critics is None:
        critics = {} if settings.critic is None else fitted_critics(trajectories, settings.critic, seeds, device, console)

    def make_learner(seed: int) -> Learner:
        start = starts.get(seed)
        ingredients = Ingredients(policies.of_seed(seed), start, curated, seed, device, critics.get(seed))
        window = window_of(ingredients.policy)
        sampler = StepSampler(curated, seed, settings.batch_size, stream, device, window)
        looked_at = observer is not None and observer.measures
        watched = Diagnostics(curated, start, seed, settings.bound_kappa, device, held_out, window) if looked_at else None
        return Learner(make_algorithm(settings, ingredients), sampler, settings, watched)

    with Trainer(make_learner, seeds, device) as trainer:
        done = 0 if observer is None else observer.start(trainer, policies)
        every = () if observer is None else observer.every
        for step, loss in steps(trainer, settings, title or settings.label, console, every, done):
            for seed, why in trainer.troubles().items():
                if observer is None:
                    raise UserError(f"{title or settings.label}, seed {seed}, step {step}: {why}")
                observer.diverged(seed, step, why, trainer)
            if observer is not None:
                observer.after(step, loss, trainer)
        policies = policies.select(*trainer.seeds)
        policies.load(trainer.parameters())
    return policies


def _checked(seeds: Sequence[int]) -> tuple[int, ...]:
    """Return seeds as whole numbers of Python. Raises UserError unless there are some, each at least 0 and there once."""
    try:
        numbers = tuple(map(operator.index, seeds))
    except TypeError:
        numbers = ()
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UserError(f"fit: seeds={seeds!r}: must be different whole numbers of at least 0, such as seeds=(0, 1, 2)")
    return numbers


@torch.no_grad()
def check_custom(policy: Policy, batch: Minibatch) -> None:
    """Raise UserError where what a custom policy makes of a minibatch has not the shapes of log_prob and mean_action, where
    its log-likelihood of chunks that end early is not finite, or where nothing of it can be trained."""
    name, actions = type(policy).__name__, batch.actions
    if not any(parameter.requires_grad for parameter in policy.parameters()):
        raise UserError(f"{name}: has no parameter that requires a gradient, so that nothing can be trained")
    log_prob, means = policy.log_prob(batch.observations, actions), policy.mean_action(batch.observations)
    for what, made, shape in (("log_prob", log_prob, actions.shape[:1]), ("mean_action", means, actions.shape)):
        if made.shape != shape:
            raise UserError(f"{name}: its {what} gives {list(made.shape)} for actions {list(actions.shape)}, not {list(shape)}")
    if actions.dim() == 3:
        early = actions.clone()
        early[:, 1:] = torch.nan
        if not policy.log_prob(batch.observations, early).isfinite().all():
            raise UserError(
                f"{name}: its log_prob is not finite where a trajectory ends within the chunk; actions beyond the end are NaN, "
                "and it must be the density of the others"
            )


def _untrained(factory: PolicyFactory, seed: int, device: str | torch.device) -> torch.nn.Module:
    """Make an untrained policy: seed s starts with the same parameters alone or beside others."""
    with seeded(Stream.POLICY, seed):
        module: torch.nn.Module = factory.make()
    return module.to(device)
