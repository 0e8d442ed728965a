"""The reference policy π_ref: behaviour cloning on all data, trained once, frozen, and cached by content.

It depends on the dataset's content, the policy's spec, the recipe and the seed (iwbc.training.once says how it is cached).
Policies of the user's own are not cached: no hash tells what their code does. Their checkpoint lies with the run that trains
them, which alone goes on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from iwbc.data.curated import Curated
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.policies.spec import PolicyChoice, policy_factory
from iwbc.settings import Reference, to_plain
from iwbc.system.interrupts import stop_requests
from iwbc.training.checkpoints import Checkpoints
from iwbc.training.fit import Observer, fit
from iwbc.training.once import Once
from iwbc.training.trained import Policies, load_policy

# Bump when the same inputs give another reference than before.
_FORMAT = 3
_NAME = "reference policy"


def reference_policy(
    trajectories: Trajectories,
    policy: PolicyChoice,
    recipe: Reference,
    seeds: Sequence[int],
    device: str | torch.device,
    console: Console,
    checkpoint_every: int = 1000,
    begin_own: Callable[[], Path] | None = None,
) -> Policies:
    """Return the reference policies of `seeds`, from the cache; missing ones are trained together first, with a checkpoint
    every so many steps. Custom ones are trained each time, with checkpoints in the file that `begin_own` names when training
    begins; it stays, and whoever names it again goes on from it.

    Raises UserError where training diverges, KeyboardInterrupt when told to stop.
    """
    factory = policy_factory(policy, trajectories)
    everything = Curated(trajectories, np.ones(len(trajectories)), recipe.averaging)

    def train(missing: Sequence[int], observer: Observer | None = None) -> Policies:
        return fit(
            recipe,
            everything,
            policy=factory,
            seeds=missing,
            device=device,
            console=console,
            title=_NAME.capitalize(),
            stream=Stream.REFERENCE,
            observer=observer,
        )

    spec = factory.spec
    if spec is None:
        if begin_own is None:
            return train(seeds)
        inputs = f"{trajectories.content_hash} {to_plain(recipe)} {list(seeds)}"
        custom = Checkpoints(_NAME, begin_own, inputs, recipe.steps, checkpoint_every, console)
        with stop_requests(custom.stop):
            return train(seeds, custom)

    def read(path: Path, seed: int) -> Policies:
        policy = load_policy(path, device=device)
        if policy.spec != spec or policy.seeds != (seed,):
            raise UserError(f"policy {path}: is another one")
        return policy

    cached = Once(
        "references",
        _NAME,
        train=lambda missing, checkpoints: train(missing, checkpoints).split(),
        save=lambda policies, path, seed: policies.save(path),
        read=read,
    )
    contents = [_FORMAT, trajectories.content_hash, spec.plain(), to_plain(recipe)]
    each = cached.results(contents, recipe, seeds, checkpoint_every, console)
    return Policies([policies[0] for policies in each], seeds, spec.spaces, spec)
