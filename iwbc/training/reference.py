"""The reference policy π_ref: behaviour cloning on all data, trained once, frozen, and cached by content.

An entry's name is the hash of everything it depends on: the dataset's content, the policy's spec, the recipe, the seed.
What is interrupted leaves a checkpoint under such a name, from which whoever needs the same references goes on.
Policies of the user's own are not cached: no hash tells what their code does. Their checkpoint lies with the run that trains
them, which alone goes on from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console

from iwbc import engine
from iwbc.data.curated import Curated
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.policies.spec import PolicyChoice, PolicySpec, policy_factory
from iwbc.settings import Reference, to_plain
from iwbc.system.files import cache_folder
from iwbc.system.interrupts import stop_requests
from iwbc.training.checkpoints import Checkpoints
from iwbc.training.fit import Observer, fit
from iwbc.training.trained import Policies, load_policy

# Bump when the same inputs give another reference than before.
_FORMAT = 3


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
            title="Reference policy",
            stream=Stream.REFERENCE,
            observer=observer,
        )

    spec = factory.spec
    if spec is None:
        if begin_own is None:
            return train(seeds)
        inputs = f"{trajectories.content_hash} {to_plain(recipe)} {list(seeds)}"
        custom = Checkpoints("reference policy", begin_own, inputs, recipe.steps, checkpoint_every, console)
        with stop_requests(custom.stop):
            return train(seeds, custom)
    paths = {seed: _entry(trajectories, spec, recipe, seed) for seed in seeds}
    lock = _entry(trajectories, spec, recipe, None).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        by_seed = {seed: _read(path, spec, seed, device, console) for seed, path in paths.items()}
        missing = [seed for seed, policies in by_seed.items() if policies is None]
        if missing:
            path = _entry(trajectories, spec, recipe, [engine.is_on(), *missing]).with_suffix(".checkpoint")
            checkpoints = Checkpoints("reference policy", lambda: path, path.stem, recipe.steps, checkpoint_every, console)
            with stop_requests(checkpoints.stop):
                trained = train(missing, checkpoints)
            for seed in missing:
                by_seed[seed] = policies = trained.select(seed)
                policies.save(paths[seed])
            path.unlink(missing_ok=True)
    modules = [policies[0] for policies in by_seed.values() if policies is not None]
    return Policies(modules, seeds, spec.spaces, spec)


def _entry(trajectories: Trajectories, spec: PolicySpec, recipe: Reference, seed: int | list[int] | None) -> Path:
    contents = [_FORMAT, trajectories.content_hash, spec.plain(), to_plain(recipe), seed]
    name = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "references" / f"{name}.safetensors"


def _read(path: Path, spec: PolicySpec, seed: int, device: str | torch.device, console: Console) -> Policies | None:
    """Read the cached policy, or None where there is none or what is there is damaged."""
    if not path.exists():
        return None
    try:
        policy = load_policy(path, device=device)
    except UserError:
        policy = None
    if policy is None or policy.spec != spec or policy.seeds != (seed,):
        console.print(f"The cached reference policy {path.name[:12]}… is damaged; it is trained again.")
        path.unlink()
        return None
    return policy
