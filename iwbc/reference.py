"""The reference policy π_ref: behaviour cloning on all data, trained once, frozen, and cached by content.

An entry's name is the hash of everything it depends on: the dataset's content, the policy's spec, the recipe, the seed.
Policies of the user's own are not cached: no hash tells what their code does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from rich.console import Console
from safetensors import safe_open

from iwbc.data.curated import Curated
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.files import cache_folder
from iwbc.fitting import fit
from iwbc.policies.spec import GaussianPolicy, PolicyChoice, PolicySpec, policy_spec
from iwbc.settings import Reference, to_plain
from iwbc.trained import Policies, load_policy

# Bump when the same inputs give another reference than before.
_FORMAT = 3


def reference_policy(
    trajectories: Trajectories,
    policy: PolicyChoice,
    recipe: Reference,
    seeds: Sequence[int],
    device: str | torch.device,
    console: Console,
) -> Policies:
    """The reference policies of `seeds`, from the cache; those not there are trained together first."""
    everything = Curated(trajectories, np.ones(len(trajectories)), recipe.averaging)

    def train(missing: Sequence[int]) -> Policies:
        return fit(
            recipe,
            everything,
            policy=policy,
            seeds=missing,
            device=device,
            console=console,
            title="Reference policy",
            stream=Stream.REFERENCE,
        )

    if not isinstance(policy, GaussianPolicy):
        return train(seeds)
    spec = policy_spec(policy, trajectories)
    paths = {seed: _entry(trajectories, spec, recipe, seed) for seed in seeds}
    lock = _entry(trajectories, spec, recipe, None).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        found = {seed: _read(path, spec, seed, device, console) for seed, path in paths.items()}
        missing = [seed for seed, one in found.items() if one is None]
        if missing:
            trained = train(missing)
            for seed in missing:
                found[seed] = one = trained.select(seed)
                one.save(paths[seed], sha256=_digest(one))
    modules = [one[0] for one in found.values() if one is not None]
    return Policies(modules, seeds, spec.spaces, spec)


def _entry(trajectories: Trajectories, spec: PolicySpec, recipe: Reference, seed: int | None) -> Path:
    contents = [_FORMAT, trajectories.content_hash, spec.plain(), to_plain(recipe), seed]
    name = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "references" / f"{name}.safetensors"


def _read(path: Path, spec: PolicySpec, seed: int, device: str | torch.device, console: Console) -> Policies | None:
    """The cached policy, or None where there is none or what is there is damaged."""
    if not path.exists():
        return None
    try:
        policy = load_policy(path, device=device)
        with safe_open(path, framework="pt") as file:
            intact = file.metadata().get("sha256") == _digest(policy)
    except UserError:
        intact = False
    if not intact or policy.spec != spec or policy.seeds != (seed,):
        console.print(f"The cached reference policy {path.name[:12]}… is damaged; it is trained again.")
        path.unlink()
        return None
    return policy


def _digest(policy: Policies) -> str:
    digest = hashlib.sha256()
    for value in policy.state().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
