"""The commands' work from Python: load → curate → fit → evaluate. `iwbc` itself offers these names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iwbc.data.demonstrations import settings_of
from iwbc.data.sources import load_dataset, place_of
from iwbc.data.trajectories import Trajectories
from iwbc.environments.scores import d4rl_scores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.evaluation import Evaluation, Evaluator
from iwbc.settings import DATASETS, RECORDINGS, Eval, Generated
from iwbc.training.trained import Policies


def load(name: str | Path, source: str | None = None, **options: Any) -> Trajectories:
    """Load a dataset by a Minari id such as "mujoco/hopper/medium-v0" (downloaded once, then local), a D4RL file such as
    "hopper_medium-v2.hdf5", or a file or folder of robomimic, LeRobot, ManiSkill, OGBench or Diffusion Policy (zarr), which are
    told apart by their content. source: minari, d4rl, robomimic, lerobot, maniskill, ogbench or zarr, where the name does not
    tell, as that of a dataset on the Hugging Face Hub, load("lerobot/pusht", source="lerobot"). options: the fields of
    settings.Minari, settings.D4RL, or the format's settings.

    Raises UserError where the dataset is not available or not fit to train on.
    """
    if source not in (None, "minari", "d4rl", *RECORDINGS):
        raise UserError(f"source={source}: must be one of minari, d4rl, {', '.join(RECORDINGS)}")
    kind, key, place = place_of(str(name), source)
    dataset: Any = DATASETS[kind](**{key: place}, **options)
    dataset.check("dataset")
    return load_dataset(dataset)


def generate(env_id: str, tier: str = "medium-replay", **options: Any) -> Trajectories:
    """Roll out a tier with the shipped behaviour policies, such as generate("Hopper-v5"); made once, then local.

    options: the fields of settings.Generated. Raises UserError for an environment without behaviour policies.
    """
    source = Generated(tier=tier, **options)
    source.check("dataset")
    return load_dataset(source, env_id)


def demonstrations(env_id: str, **options: Any) -> Trajectories:
    """Make demonstrations of one of iwbc.environments.tasks, such as demonstrations("iwbc/TwoRoutes-v0"), or of one of
    Meta-World's, such as demonstrations("metaworld/pick-place-v3"); made once, then local.

    options: the fields of settings.Demonstrations, or of settings.OperatorDemonstrations in Meta-World. Raises UserError for an
    environment without a demonstrator.
    """
    source = settings_of(env_id)(**options)
    source.check("dataset")
    return load_dataset(source, env_id)


def evaluate(
    policies: Policies,
    environment: str | EnvironmentSpec | Trajectories,
    episodes: int = 100,
    *,
    seed: int = 12345,
    action: str = "mean",
    env_kwargs: Mapping[str, Any] | None = None,
    workers: int = 0,
) -> Evaluation:
    """Play episodes with each policy's mean action, or with samples (action="sample"); `.score` is their mean score where
    reference returns are known, `.success_rate` the share that succeeds where the environment says so.

    environment: an id or a spec, or the data, for the environment that it was recorded in. Episode e of a policy's seed always
    starts from the same state. workers: processes that play besides this process. env_kwargs: arguments of gymnasium.make,
    which replace the data's; render_mode is left out. Raises UserError where the environment is not installed, or has other
    sizes, or another range of actions than the policy's data.
    """
    if not isinstance(policies, Policies):
        raise UserError(f"evaluate: plays the policies that fit or load_policy returns, not a {type(policies).__name__}")
    if workers < 0:
        raise UserError(f"evaluate: workers={workers}: must be at least 0")
    Eval(episodes=episodes, seed=seed, action=action).check("evaluate")
    if episodes == 0 or action == "both":
        raise UserError(f"evaluate: needs episodes to play, not {episodes}, and one action, not {action}")
    recorded = environment.info.environment if isinstance(environment, Trajectories) else environment
    if recorded is None:
        raise UserError("evaluate: the data names no environment; give the id of one")
    spec = EnvironmentSpec.of(recorded)
    scores = environment.info.reference_scores if isinstance(environment, Trajectories) else d4rl_scores(spec.id)
    evaluator = Evaluator(spec.changed(env_kwargs or {}), seed, workers, scores)
    try:
        return evaluator.evaluate(policies, episodes, action)
    finally:
        evaluator.close()
