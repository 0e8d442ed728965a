"""The policies of a run, one for each seed, with what it takes to act and to be saved.

Saved as one safetensors file, policies of the shipped families can be rebuilt without any of the code's defaults. No file
names code to run: a policy of the user's own is loaded with the function that makes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from iwbc.data.streams import generator
from iwbc.engine.autograd import load_module, module_state
from iwbc.environments.spaces import VECTOR
from iwbc.errors import UserError
from iwbc.policies.policy import check_samples, reach_of
from iwbc.policies.spec import PolicySpec, Spaces, own_factory, spaces_of_plain
from iwbc.settings import OwnPolicy
from iwbc.system.files import MALFORMED, parse_json
from iwbc.training.acting import Actor, Memory
from iwbc.training.states import State, read_states, write_states

_FORMAT = 3
_READ = (2, 3)  # 2 knew no other units than the bounds and a normaliser without limits


class Policies(Sequence[Any]):
    """Policies by seed: `policies[0]` is the torch.nn.Module of the first seed.

    `spec` is that of a shipped family, None for modules of the user's own.
    """

    def __init__(self, modules: Sequence[Any], seeds: Sequence[int], spaces: Spaces, spec: PolicySpec | None) -> None:
        self.modules, self.seeds, self.spaces, self.spec = list(modules), tuple(seeds), spaces, spec
        for module in self.modules:
            module.eval()
        self._random = generator(self.seeds[0])
        self._memory: Memory | None = None

    def __len__(self) -> int:
        return len(self.modules)

    def __getitem__(self, index: Any) -> Any:
        return self.modules[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.modules)

    def __repr__(self) -> str:
        return f"Policies({type(self.modules[0]).__name__}, seeds {', '.join(map(str, self.seeds))})"

    def of_seed(self, seed: int) -> Any:
        """Return the module of one seed."""
        return self.modules[self.seeds.index(seed)]

    def select(self, *seeds: int) -> Policies:
        """Return the policies of some of the seeds; the same modules, not copies."""
        return Policies([self.of_seed(seed) for seed in seeds], seeds, self.spaces, self.spec)

    def split(self) -> dict[int, Policies]:
        """Return the policies of each seed by themselves."""
        return {seed: self.select(seed) for seed in self.seeds}

    def predict(
        self,
        observation: npt.NDArray[np.floating] | Mapping[str, Any],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[npt.NDArray[np.float32], tuple[npt.NDArray[Any], ...] | None]:
        """Stable-Baselines3's interface: observation [obs], [B, obs] or a Dict of arrays → (action [act] or [B, act], state).
        Images are uint8.

        Acts as the first of the seeds. Actions are clipped to the range that the training data declares, spaces.action_low …
        spaces.action_high, whatever an environment's may be; they are float32, rounded so that they lie in a space of these
        bounds in any precision.

        Policies with history, chunks or a sequence remember episodes. They go on with a `state` that an earlier call returned,
        begin the episodes that `episode_start` [B] marks, and all where it stands without a state. With neither they go on from
        the call before, and `reset` begins episodes. Others return the state as it is. Raises UserError where the observation
        is not of the spaces, or not finite, or of other episodes than the state, and where a custom policy draws no samples.
        """
        if not deterministic:
            check_samples(self.modules[0])
        seen = self.spaces.observed(observation)
        finite = np.isfinite(seen[VECTOR] if self.spaces.images else seen)
        if not finite.all():
            raise UserError(f"predict: the observation holds NaN or infinity at {self.spaces.entry(~finite)}")
        several = seen.ndim == (1 if self.spaces.images else 2)
        batch = seen if several else seen[None]
        actor = Actor(self.modules[0], self.spaces, None if deterministic else self._random)
        if actor.remembers:
            memory, starts = self._remembered(actor, len(batch), state, episode_start)
            action, state = actor.act(batch, memory, starts)
            self._memory = state
        else:
            action, _ = actor.act(batch)
        played = self.spaces.clip(action)
        return (played if several else played[0]), state

    def _remembered(
        self,
        actor: Actor,
        count: int,
        state: tuple[npt.NDArray[Any], ...] | None,
        episode_start: npt.NDArray[np.bool_] | None,
    ) -> tuple[Memory | None, npt.NDArray[np.bool_]]:
        """Return what is remembered of `count` episodes, and which of them begin."""
        starts = np.zeros(count, np.bool_) if episode_start is None else np.asarray(episode_start, np.bool_).reshape(-1)
        memory = self._memory if episode_start is None else None
        if state is not None:
            memory = actor.memory_of(state)
        for episodes in (len(starts), *(map(len, memory) if memory is not None else ())):
            if episodes != count:
                raise UserError(
                    f"predict: {count} observations go on with {episodes} episodes; call reset() first, or give the state and "
                    "episode_start of as many"
                )
        return memory, starts

    def reset(self) -> None:
        """Begin new episodes: let `predict` forget what it has seen."""
        self._memory = None

    def __call__(
        self,
        observation: npt.NDArray[np.floating] | Mapping[str, Any],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.float32], tuple[npt.NDArray[Any], ...] | None]:
        """Predict with the mean action, as the rollouts of imitation call a policy."""
        return self.predict(observation, state, episode_start)

    def state(self) -> dict[int, State]:
        """Return every parameter and buffer, by seed and name."""
        return {seed: module_state(module) for seed, module in zip(self.seeds, self.modules, strict=True)}

    def load(self, states: Mapping[int, State]) -> None:
        """Take on a `state()`."""
        for seed, module in zip(self.seeds, self.modules, strict=True):
            load_module(module, states[seed])

    def save(self, path: str | Path) -> None:
        """Write them to one safetensors file, atomically."""
        fields = {
            "format": _FORMAT,
            "class": type(self.modules[0]).__name__,
            "seeds": self.seeds,
            "spaces": asdict(self.spaces),
            "spec": None if self.spec is None else self.spec.plain(),
            "reach": reach_of(self.modules[0]) if self.spec is None else None,  # a spec says it
        }
        write_states(Path(path), self.state(), {"policy": json.dumps(fields)})


def load_policy(
    path: str | Path,
    seed: int | None = None,
    device: str | torch.device = "cpu",
    policy: OwnPolicy | Callable[[], nn.Module] | None = None,
) -> Policies:
    """Rebuild saved policies from their file alone: of all seeds, or of one. `policy` makes the module where it is one of the
    user's own, or names what to import. Raises UserError where the file is missing, damaged or of an earlier format, or was
    trained with another history, chunk or sequence."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"policy {path}: is a folder; give its file {path / 'policy.safetensors'}")
    try:
        saved, metadata = read_states(path)
        fields = parse_json(metadata["policy"])
        if fields.get("format") not in _READ:
            raise UserError(f"policy {path}: was saved by iwbc 0.1, which can load it; or train it again")
        seeds = fields["seeds"] if seed is None else [seed]
        if seed is not None and seed not in fields["seeds"]:
            raise UserError(f"policy {path}: has no seed {seed}, only {', '.join(map(str, fields['seeds']))}")
        spec = None if fields["spec"] is None else PolicySpec.of_plain(fields["spec"])
        spaces = spaces_of_plain(fields["spaces"])
        if spec is None and policy is None:
            raise UserError(
                f"policy {path}: is a {fields['class']} of your own; load it with the function that makes it: "
                "load_policy(path, policy=…)"
            )
        if spec is not None:
            with torch.device("meta"):  # no memory is given to networks of which the file holds no parameters
                _check_shapes(Policies([spec.make() for _ in seeds], seeds, spaces, spec).state(), saved)
        make: Callable[[], Any] = own_factory(policy, spaces) if spec is None else spec.make  # type: ignore[arg-type]
        policies = Policies([make().to(device) for _ in seeds], seeds, spaces, spec)
        _check_shapes(policies.state(), saved)
        made = reach_of(policies[0])
        reach = dict(fields.get("reach") or made)
        if other := [name for name in reach if reach[name] != made.get(name)]:
            trained, now = (", ".join(f"{name}={each.get(name)}" for name in other) for each in (reach, made))
            raise UserError(f"policy {path}: was trained with {trained}, and is made with {now} now")
        policies.load(saved)
    except (*MALFORMED, RuntimeError, MemoryError) as error:
        raise UserError(f"policy {path}: cannot be read ({error})") from None
    return policies


def _check_shapes(states: dict[int, State], saved: dict[int, State]) -> None:
    """Raise ValueError where saved parameters are not those of policies in these states."""
    for seed, state in states.items():
        for name, value in state.items():
            shape = saved[seed][name].shape if name in saved.get(seed, ()) else None
            if shape != value.shape:
                has = "is missing" if shape is None else f"has shape {tuple(shape)}, not {tuple(value.shape)}"
                raise ValueError(f"{seed}.{name} {has}")
