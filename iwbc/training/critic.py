"""The critic: V of the policy that recorded the data, fitted once on all of them and cached by content, as a reference is.

It depends on the dataset's content, the recipe and the seed (iwbc.training.once says how it is cached).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from iwbc.algorithms.critic import FittedValue
from iwbc.algorithms.values import value_network
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.engine.autograd import module_state
from iwbc.errors import UserError
from iwbc.settings import Critic, to_plain
from iwbc.system.files import MALFORMED
from iwbc.training.checkpoints import Checkpoints
from iwbc.training.once import Once
from iwbc.training.states import State, read_states, write_states
from iwbc.training.trainer import Learner, Trainer, steps

# Bump when the same inputs give another critic than before.
_FORMAT = 1
_NAME = "critic"


def fitted_critics(
    trajectories: Trajectories,
    recipe: Critic,
    seeds: Sequence[int],
    device: str | torch.device,
    console: Console,
    checkpoint_every: int = 1000,
) -> dict[int, nn.Sequential]:
    """Return V(s) of each seed, from the cache; missing ones are trained together first, with a checkpoint every so many steps.

    Raises UserError where training diverges, KeyboardInterrupt when told to stop.
    """
    everything = Curated(trajectories, np.ones(len(trajectories)), "transition")

    def learner(seed: int) -> Learner:
        sampler = StepSampler(everything, seed, recipe.batch_size, Stream.CRITIC, device)
        return Learner(FittedValue(recipe, everything, seed, device), sampler, recipe)

    def train(missing: Sequence[int], checkpoints: Checkpoints) -> dict[int, nn.Sequential]:
        with Trainer(learner, missing, device) as trainer:
            done = checkpoints.start(trainer)
            for step, loss in steps(trainer, recipe, _NAME.capitalize(), console, checkpoints.every, done):
                for seed, why in trainer.troubles().items():
                    checkpoints.diverged(seed, step, why, trainer)
                checkpoints.after(step, loss, trainer)
            return {seed: network_of(state) for seed, state in trainer.parameters().items()}

    def network_of(state: State) -> nn.Sequential:
        network = value_network(trajectories, recipe.hidden)
        network.load_state_dict(state)
        return network.to(device)

    def read(path: Path, seed: int) -> nn.Sequential:
        try:
            return network_of(read_states(path)[0][seed])
        except (*MALFORMED, RuntimeError) as error:
            raise UserError(f"critic {path}: cannot be read ({error})") from None

    cached = Once(
        "critics",
        _NAME,
        train=train,
        save=lambda network, path, seed: write_states(path, {seed: module_state(network)}, {}),
        read=read,
    )
    contents = [_FORMAT, trajectories.content_hash, to_plain(recipe)]
    networks = cached.results(contents, recipe, seeds, checkpoint_every, console)
    return dict(zip(seeds, networks, strict=True))
