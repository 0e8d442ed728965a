"""Demonstrations of iwbc.environments.tasks and of Meta-World, played by scripts into local Minari datasets on first use.

    python -m iwbc.data.demonstrations env=two_routes
    python -m iwbc.data.demonstrations env=metaworld/pick_place operators=careful,sloppy

env        two_routes, careful_or_hasty or point_maze (or iwbc/TwoRoutes-v0, …)
episodes   how many (default 2000)
seed       the same seed gives the same bytes (default 0)
risky      the share of demonstrations that take the risky way (default 0.5)
slip       the probability that the risky way fails (default 0.5)
horizon    steps in an episode (default: the task's own number)

env        metaworld/assembly, drawer_open, hammer, pick_place or pick_place_hasty (or metaworld/push-v3, …)
episodes   how many, by the operators in turn (default 300)
seed       the same seed gives the same bytes (default 0)
operators  some of careful, average, sloppy, patient and hasty (default: the task's)
outcomes   all (default), or successes: an operator who fails tries again
slip       the probability that what is taken away in haste slips (default: the task's, 0 or 0.5)
horizon    steps in an episode (default: the task's own number)

The dataset is written under MINARI_DATASETS_PATH (default ~/.minari/datasets) as iwbc/<env>/demonstrations-v1; what differs
from the defaults becomes part of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from iwbc import settings
from iwbc.config import composed
from iwbc.data.minari_folder import dataset_folder, make_once
from iwbc.data.minari_writer import write_minari
from iwbc.data.operators import has_operators, operated, usual_operators
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.gymnasium import make_env
from iwbc.environments.metaworld import expert
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.system.arguments import parse, run
from iwbc.system.files import config_folder
from iwbc.system.progress import tracked

Chosen: TypeAlias = settings.Demonstrations | settings.OperatorDemonstrations


def settings_of(env_id: str | None) -> type[Chosen]:
    """Return the class of settings for the demonstrations of an environment."""
    return settings.OperatorDemonstrations if has_operators(env_id or "") else settings.Demonstrations


def dataset_id(env_id: str, chosen: Chosen) -> str:
    """Name a dataset `iwbc/<env>/demonstrations-v1`; differences from the defaults are part of the name."""
    usual = settings_of(env_id)()
    parts = ["demonstrations"]
    if chosen.episodes != usual.episodes:
        parts.append(str(chosen.episodes))
    if isinstance(chosen, settings.OperatorDemonstrations):
        parts += [*chosen.operators, *(["successes"] if chosen.outcomes == "successes" else [])]
    for name in ("risky", "slip", "horizon", "seed"):
        if (value := getattr(chosen, name, None)) != getattr(usual, name, None):
            parts.append(f"{name}{value}".replace(".", "_"))  # Minari's names have no dots
    return f"iwbc/{env_id.removeprefix('iwbc/').split('-v')[0].lower()}/{'-'.join(parts)}-v1"


def ensure(env_id: str, chosen: Chosen) -> str:
    """Make the dataset unless it is there, and return the id. A second process that needs it at once waits for the first.

    Raises UserError for an environment without a demonstrator or operators, and where the dataset cannot be written.
    """
    match chosen:
        case settings.OperatorDemonstrations():
            played = _by_operators(env_id, chosen)
        case settings.Demonstrations():
            played = _by_demonstrators(env_id, chosen)
    name = dataset_id(env_id, chosen)
    make_once(name, lambda: _write(name, played, chosen.episodes))
    return name


@dataclass(frozen=True)
class _Played:
    """Episodes of scripts in an environment, not yet played, each in some of the groups."""

    environment: EnvironmentSpec
    episodes: Callable[[], Iterator[Episode]]
    description: str
    groups: Sequence[str] = ()


def _by_demonstrators(env_id: str, chosen: settings.Demonstrations) -> _Played:
    from iwbc.data.demonstrators import demonstrated_environment, demonstrations  # with MuJoCo, for which others need not wait

    if has_operators(env_id):
        raise UserError(f"environment {env_id}: has operators in place of demonstrators; take dataset=operators")
    usual = settings.Demonstrations()
    env_kwargs = {key: value for key in ("slip", "horizon") if (value := getattr(chosen, key)) != getattr(usual, key)}
    environment = demonstrated_environment(env_id, **env_kwargs)
    return _Played(
        environment,
        lambda: demonstrations(env_id, chosen.episodes, chosen.seed, risky=chosen.risky, **env_kwargs),
        f"{chosen.episodes:,} demonstrations of {env_id}, each by the risky way with probability {chosen.risky:g}, "
        f"which fails with probability {chosen.slip:g}; seed {chosen.seed}.",
    )


def _by_operators(env_id: str, chosen: settings.OperatorDemonstrations) -> _Played:
    if not has_operators(env_id):
        raise UserError(f"environment {env_id}: has no operators, as Meta-World's tasks have, such as env=metaworld/pick_place")
    environment = EnvironmentSpec(env_id, {} if chosen.slip is None else {"slip": chosen.slip}, chosen.horizon)
    names = chosen.operators or usual_operators(env_id)
    only = chosen.outcomes == "successes"
    return _Played(
        environment,
        lambda: operated(environment, expert(env_id), names, chosen.episodes, chosen.seed, successes_only=only),
        f"{chosen.episodes:,} demonstrations of {env_id}{', all of them successes,' if only else ''} by operators in turn: "
        f"{', '.join(names)}; seed {chosen.seed}.",
        list(dict.fromkeys(names)),
    )


def _write(name: str, played: _Played, episodes: int) -> None:
    env = make_env(played.environment)
    space: Any = env.action_space
    env.close()
    info = DatasetInfo(
        id=name,
        environment=played.environment,
        action_low=space.low.tolist(),
        action_high=space.high.tolist(),
        reference_scores=None,
        groups=list(played.groups),
    )
    write_minari(
        info,
        tracked(played.episodes(), f"Generating {name}", episodes),
        author="iwbc",
        algorithm_name="scripted",
        description=played.description,
    )


@dataclass
class _Environment:
    env: str


@dataclass
class Options(settings.Demonstrations, _Environment):
    source: str = field(default="demonstrations", init=False)


@dataclass
class OperatorOptions(settings.OperatorDemonstrations, _Environment):
    source: str = field(default="operators", init=False)


def main(arguments: Sequence[str]) -> None:
    named = [argument for argument in arguments if argument.startswith("env=")]
    chosen: Options | OperatorOptions
    if named and has_operators(named[0].removeprefix("env=")):
        chosen = parse(arguments, OperatorOptions)
    else:
        chosen = parse(arguments, Options)
    env = chosen.env
    if (Path(config_folder()) / "env" / f"{env}.yaml").exists():
        env = composed([f"env={env}"]).env.id or env
    made = ensure(env, chosen)
    print(f"{made} is in {dataset_folder(made)}")


if __name__ == "__main__":
    run(main, __doc__)
