"""The reference policy π_ref: behaviour cloning on all data, trained once, frozen, and cached by content.

An entry's name is the hash of everything it depends on: the dataset's content, the policy's spec, the recipe, the seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console

from iwbc import config
from iwbc.algorithms.bc import BehaviourCloning
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.files import cache_folder, write_tensors
from iwbc.policies import Policy, PolicySpec, load_policy
from iwbc.trainer import Learner, fit, trainer
from iwbc.training import Stream, initial_policy

# Bump when the same inputs give another reference than before.
_FORMAT = 2


def reference_policy(
    trajectories: Trajectories,
    spec: PolicySpec,
    recipe: config.Reference,
    seeds: Sequence[int],
    device: str | torch.device,
    console: Console,
) -> Policy:
    """The reference policies of `seeds`, from the cache; those not there are trained together first."""
    paths = {seed: _entry(trajectories, spec, recipe, seed) for seed in seeds}
    lock = _entry(trajectories, spec, recipe, None).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        found = {seed: _read(path, spec, seed, console) for seed, path in paths.items()}
        missing = [seed for seed, policy in found.items() if policy is None]
        if missing:
            trained = _train(trajectories, spec, recipe, missing, device, console)
            for seed in missing:
                one = trained.select(seed)
                write_tensors(paths[seed], one.tensors(), {**one.metadata(), "sha256": _digest(one)})
                found[seed] = one
    policy = Policy(spec, seeds, device)
    for row, cached in enumerate(found.values()):
        assert cached is not None
        policy.parameters.flat[row].copy_(cached.parameters.flat[0])
    return policy


def _train(
    trajectories: Trajectories,
    spec: PolicySpec,
    recipe: config.Reference,
    seeds: Sequence[int],
    device: str | torch.device,
    console: Console,
) -> Policy:
    everything = Curated(trajectories, np.ones(len(trajectories)), recipe.averaging)

    def learner(seeds: Sequence[int]) -> Learner:
        sampler = StepSampler(everything, seeds, recipe.batch_size, Stream.REFERENCE, device)
        return Learner(BehaviourCloning(initial_policy(spec, seeds, device)), sampler, recipe)

    policy = Policy(spec, seeds, device)
    with trainer(learner, seeds, device) as training:
        for _ in fit(training, recipe, "Reference policy", console):
            pass
        policy.parameters.flat.copy_(training.parameters())
    return policy


def _entry(trajectories: Trajectories, spec: PolicySpec, recipe: config.Reference, seed: int | None) -> Path:
    contents = [_FORMAT, trajectories.content_hash, asdict(spec), asdict(recipe), seed]
    name = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "references" / f"{name}.safetensors"


def _read(path: Path, spec: PolicySpec, seed: int, console: Console) -> Policy | None:
    """The cached policy, or None where there is none or what is there is damaged."""
    if not path.exists():
        return None
    try:
        policy = load_policy(path)
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            intact = file.metadata().get("sha256") == _digest(policy)
    except UserError:
        intact = False
    if not intact or policy.spec != spec or policy.seeds != (seed,):
        console.print(f"The cached reference policy {path.name[:12]}… is damaged; it is trained again.")
        path.unlink()
        return None
    return policy


def _digest(policy: Policy) -> str:
    return hashlib.sha256(policy.parameters.flat.cpu().numpy().tobytes()).hexdigest()
