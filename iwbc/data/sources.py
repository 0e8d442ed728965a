"""The dataset that settings name, wherever it comes from."""

from __future__ import annotations

from iwbc import settings
from iwbc.data import d4rl_source, demonstrations, generate, minari_source
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError


def load_dataset(
    dataset: settings.Generated | settings.Demonstrations | settings.Minari | settings.D4RL, env_id: str | None = None
) -> Trajectories:
    """Load it in packed form, making or fetching it first where need be; `env_id` is what a generated tier is of, or what is
    demonstrated.

    Raises UserError where that cannot be done.
    """
    match dataset:
        case settings.Generated():
            if env_id is None:
                raise UserError("dataset: a generated tier needs an environment; add env=hopper (or halfcheetah, walker2d)")
            return minari_source.load(generate.ensure(env_id, dataset.tier, dataset.steps, dataset.seed, dataset.version))
        case settings.Demonstrations():
            if env_id is None:
                raise UserError(
                    "dataset: demonstrations need an environment; add env=two_routes (or careful_or_hasty, point_maze)"
                )
            return minari_source.load(demonstrations.ensure(env_id, dataset))
        case settings.Minari():
            return minari_source.load(dataset.id, dataset.clip_actions, dataset.unfinished, dataset.observation_keys)
        case settings.D4RL():
            return d4rl_source.load(dataset.path, dataset.unfinished, dataset.clip_actions, dataset.env_id)
