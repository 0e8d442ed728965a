"""The dataset that a configuration names, wherever it comes from."""

from __future__ import annotations

from iwbc import config
from iwbc.data import d4rl_source, generate, minari_source
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError


def load_dataset(dataset: config.Generated | config.Minari | config.D4RL, env: config.Env) -> Trajectories:
    """Load it in packed form, making or fetching it first where need be. Raises UserError where that cannot be done."""
    match dataset:
        case config.Generated():
            if env.id is None:
                raise UserError("dataset: a generated tier needs an environment; add env=hopper (or halfcheetah, walker2d)")
            return minari_source.load(generate.ensure(env.id, dataset.tier, dataset.steps, dataset.seed))
        case config.Minari():
            return minari_source.load(dataset.id, dataset.clip_actions, dataset.unfinished)
        case config.D4RL():
            return d4rl_source.load(dataset.path, dataset.unfinished, dataset.clip_actions, dataset.env_id)
