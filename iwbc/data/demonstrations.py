"""Demonstrations of iwbc.environments.tasks, played by their scripted demonstrators into local Minari datasets on first use.

    python -m iwbc.data.demonstrations env=two_routes

env       two_routes, careful_or_hasty or point_maze (or iwbc/TwoRoutes-v0, …)
episodes  how many (default 2000)
seed      the same seed gives the same bytes (default 0)
risky     the share of demonstrations that take the risky way (default 0.5)
slip      the probability that the risky way fails (default 0.5)
horizon   steps in an episode (default: the task's own number)

The dataset is written under MINARI_DATASETS_PATH (default ~/.minari/datasets) as iwbc/<env>/demonstrations-v1; what differs
from the defaults becomes part of its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iwbc import settings
from iwbc.config import composed
from iwbc.data.minari_folder import dataset_folder, make_once
from iwbc.data.minari_writer import write_minari
from iwbc.data.trajectories import DatasetInfo
from iwbc.environments.gymnasium import make_env
from iwbc.environments.spec import EnvironmentSpec
from iwbc.system.arguments import parse, run
from iwbc.system.files import config_folder
from iwbc.system.progress import tracked


def dataset_id(env_id: str, chosen: settings.Demonstrations) -> str:
    """Name a dataset `iwbc/<env>/demonstrations-v1`; differences from the defaults are part of the name."""
    usual = settings.Demonstrations()
    parts = ["demonstrations"]
    if chosen.episodes != usual.episodes:
        parts.append(str(chosen.episodes))
    for name in ("risky", "slip", "horizon", "seed"):
        if (value := getattr(chosen, name)) != getattr(usual, name):
            parts.append(f"{name}{value}".replace(".", "_"))  # Minari's names have no dots
    return f"iwbc/{env_id.split('/')[-1].split('-v')[0].lower()}/{'-'.join(parts)}-v1"


def ensure(env_id: str, chosen: settings.Demonstrations) -> str:
    """Make the dataset unless it is there, and return the id. A second process that needs it at once waits for the first.

    Raises UserError for an environment without a demonstrator, and where the dataset cannot be written.
    """
    from iwbc.data.demonstrators import demonstrated_environment  # with MuJoCo, for which other datasets should not wait

    usual = settings.Demonstrations()
    env_kwargs = {key: value for key in ("slip", "horizon") if (value := getattr(chosen, key)) != getattr(usual, key)}
    environment = demonstrated_environment(env_id, **env_kwargs)
    name = dataset_id(env_id, chosen)
    make_once(name, lambda: _write(name, environment, chosen, env_kwargs))
    return name


def _write(name: str, environment: EnvironmentSpec, chosen: settings.Demonstrations, env_kwargs: dict[str, Any]) -> None:
    from iwbc.data.demonstrators import demonstrations

    space: Any = make_env(environment).action_space
    info = DatasetInfo(
        id=name,
        environment=environment,
        action_low=space.low.tolist(),
        action_high=space.high.tolist(),
        reference_scores=None,
    )
    played = demonstrations(environment.id, chosen.episodes, chosen.seed, risky=chosen.risky, **env_kwargs)
    write_minari(
        info,
        tracked(played, f"Generating {name}", chosen.episodes),
        author="iwbc",
        algorithm_name="scripted",
        description=f"{chosen.episodes:,} demonstrations of {environment.id}, each by the risky way with "
        f"probability {chosen.risky:g}, "
        f"which fails with probability {chosen.slip:g}; seed {chosen.seed}.",
    )


@dataclass
class _Played:
    env: str


@dataclass
class Options(settings.Demonstrations, _Played):
    source: str = field(default="demonstrations", init=False)


def main(arguments: Sequence[str]) -> None:
    chosen = parse(arguments, Options)
    env = chosen.env
    if (Path(config_folder()) / "env" / f"{env}.yaml").exists():
        env = composed([f"env={env}"]).env.id or env
    made = ensure(env, chosen)
    print(f"{made} is in {dataset_folder(made)}")


if __name__ == "__main__":
    run(main, __doc__)
