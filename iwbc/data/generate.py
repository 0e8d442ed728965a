"""Generated datasets: D4RL's tiers, rolled out from the shipped behaviour policies into local Minari datasets.

    python -m iwbc.data.generate env=hopper tier=medium-replay seed=0

env      hopper, halfcheetah or walker2d (or Hopper-v5, …)
tier     random, medium, medium-replay, medium-expert or expert
steps    how many, at least: whole episodes are kept (default 200000; medium-replay as many as D4RL's)
seed     the same seed gives the same bytes, on any number of cores of any x86-64 processor, with the versions of MuJoCo and
         Gymnasium in constraints.txt (default 0)

The dataset is written under MINARI_DATASETS_PATH (default ~/.minari/datasets) as iwbc/<env>/<tier>-v2; another size or seed
than the default becomes part of its name. Ctrl-C leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

import numpy as np

from iwbc.data.behaviours import OTHER_STEPS, Behaviours, behaviours
from iwbc.data.minari_folder import dataset_folder, make_once
from iwbc.data.minari_writer import write_minari
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.gymnasium import LocalEnvironments, make_env, play
from iwbc.environments.scores import d4rl_scores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.settings import TIERS, Settings, setting
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.processes import Remote, WorkerLost, cores, end_with_parent, results_in_order

VERSION = 2  # of the datasets: it changes with the bytes that the same seed gives


@dataclass
class Options(Settings):
    env: str
    tier: str = setting(MISSING, choices=TIERS)
    steps: int | None = at_least(1, None)
    seed: int = at_least(0, 0)


# Episodes played side by side at most, and steps of the unit for each of them, because all are played to the end; and the steps
# that a unit of work aims at. All three fix the dataset's bytes: a unit's arithmetic is the same in every process, so a dataset
# does not depend on the number of cores.
_LANES, _LANE_STEPS = 10, 800
_UNIT_STEPS = 10_000


def dataset_id(env_id: str, tier: str, steps: int | None = None, seed: int = 0) -> str:
    """Name a tier `iwbc/<env>/<tier>-v2`, with the size (None: the default) and the seed where they are not the defaults."""
    name = tier if steps is None else f"{tier}-{steps}"
    name = f"{name}-seed{seed}" if seed else name
    return f"iwbc/{env_id.split('-v')[0].lower()}/{name}-v{VERSION}"


@dataclass(frozen=True)
class Unit:
    """A share of the work: at least `steps` steps of whole episodes from one snapshot, with a separate random stream."""

    env_id: str
    snapshot: int
    steps: int
    entropy: tuple[int, ...]


def plan(source: Behaviours, tier: str, steps: int, seed: int) -> list[Unit]:
    """Return the units whose episodes, in order, make up a tier (as D4RL defines it).

    medium-replay goes through the snapshots in the order of training, from the untrained one on, each with the share of steps
    that training took from it to the next; medium-expert is half and half; the other tiers are one snapshot.
    """
    snapshots = {
        "random": [0],
        "medium": [source.medium],
        "medium-replay": list(range(source.replay_end + 1)),
        "medium-expert": [source.medium, source.expert],
        "expert": [source.expert],
    }[tier]
    ends = list(range(len(snapshots) + 1))
    if tier == "medium-replay":
        taken = source.steps[: source.replay_end + 1]
        ends = [*taken, 2 * taken[-1] - taken[-2]]  # the last one plays as long as the one before
    units: list[Unit] = []
    for share, snapshot in enumerate(snapshots):
        share_steps = steps * ends[share + 1] // ends[-1] - steps * ends[share] // ends[-1]
        parts = max(1, round(share_steps / _UNIT_STEPS))
        for part in range(parts):
            unit_steps = share_steps * (part + 1) // parts - share_steps * part // parts
            entropy = (seed, TIERS.index(tier), share, part)
            units.append(Unit(source.env_id, snapshot, unit_steps, entropy))
    return [unit for unit in units if unit.steps]


def play_unit(unit: Unit) -> list[Episode]:
    """Play one unit: whole episodes until they hold at least the unit's steps."""
    policy = behaviours(unit.env_id).load(unit.snapshot)
    random = np.random.default_rng(np.random.SeedSequence(unit.entropy))
    environments = LocalEnvironments(unit.env_id)
    episodes: list[Episode] = []
    total, lanes = 0, min(_LANES, math.ceil(unit.steps / _LANE_STEPS))
    while total < unit.steps:
        records: list[list[Any]] = [[] for _ in range(lanes)]
        seeds = [int(s) for s in random.integers(2**31, size=lanes)]
        for step in play(environments, lambda observations: policy.sample(observations, random), seeds):
            for k, lane in enumerate(step.active):
                records[lane].append(
                    (
                        step.observations[k],
                        step.actions[k],
                        step.rewards[k],
                        step.next_observations[k],
                        step.terminated[k],
                    )
                )
        # The lanes are exchangeable, so cutting the last of them to meet the share favours no kind of episode.
        for record in records:
            if total < unit.steps:
                observations, actions, rewards, following, terminated = (np.stack(part) for part in zip(*record, strict=True))
                episodes.append(Episode(observations, following[-1], actions, rewards, bool(terminated[-1])))
                total += len(rewards)
    environments.close()
    return episodes


def carried_over(units: Sequence[Unit], played: Iterable[Sequence[Episode]]) -> Iterator[Episode]:
    """Yield the units' episodes in order. Steps that a unit has beyond its share are taken from the next units, so that the
    dataset has less than an episode too many."""
    wanted = total = 0
    for unit, episodes in zip(units, played, strict=True):
        wanted += unit.steps
        for episode in episodes:
            if total < wanted:
                total += len(episode.rewards)
                yield episode


def ensure(env_id: str, tier: str, steps: int | None = None, seed: int = 0) -> str:
    """Make the dataset unless it is there, and return the id. A second process that needs it at once waits for the first.

    Raises UserError for an environment without behaviour policies, and where the dataset cannot be written.
    """
    source, name = behaviours(env_id), name_of(env_id, tier, steps, seed)
    make_once(name, lambda: _generate(name, source, tier, steps or _usual_steps(source, tier), seed))
    return name


def name_of(env_id: str, tier: str, steps: int | None = None, seed: int = 0) -> str:
    """Return the dataset's id. Raises UserError for an environment without behaviour policies."""
    usual = _usual_steps(behaviours(env_id), tier)
    return dataset_id(env_id, tier, None if steps == usual else steps, seed)


def _usual_steps(source: Behaviours, tier: str) -> int:
    return source.replay_steps if tier == "medium-replay" else OTHER_STEPS


def _generate(name: str, source: Behaviours, tier: str, steps: int, seed: int) -> None:
    env_id = source.env_id
    space: Any = make_env(env_id).action_space
    info = DatasetInfo(
        id=name,
        environment=EnvironmentSpec(env_id),
        action_low=space.low.tolist(),
        action_high=space.high.tolist(),
        reference_scores=d4rl_scores(env_id),
    )
    # Closed by hand, because on Ctrl-C the workers must end at once, and not when the generator happens to be collected.
    with contextlib.closing(_play(name, plan(source, tier, steps, seed))) as episodes:
        write_minari(
            info,
            episodes,
            author="iwbc",
            algorithm_name="SAC",
            description=f"D4RL-style {tier} tier of {env_id}, rolled out from snapshots of a SAC policy ({source.training}); "
            f"{steps:,} steps asked for, seed {seed}.",
        )


def _play(name: str, units: list[Unit]) -> Generator[Episode, None, None]:
    """Play the units on all cores and yield their episodes in order."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    # The bar gives way to the rest where the terminal is narrow.
    columns = (TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress, contextlib.ExitStack() as stack:
        task = progress.add_task(f"Generating {name}", total=sum(unit.steps for unit in units))
        workers = [stack.enter_context(contextlib.closing(Remote(_Player))) for _ in range(min(cores(), len(units)))]
        played = results_in_order(workers, "play", units)
        try:
            yield from carried_over(units, _counted(units, played, lambda steps: progress.advance(task, steps)))
        except WorkerLost as error:
            raise UserError(f"dataset {name}: a worker process {error.how}; nothing was written") from None


def _counted(units: Sequence[Unit], played: Iterable[list[Episode]], advance: Callable[[int], None]) -> Iterator[list[Episode]]:
    """Yield the episodes of every unit, and count its steps once they are taken."""
    for unit, episodes in zip(units, played, strict=True):
        yield episodes
        advance(unit.steps)


class _Player:
    """Worker process that plays units of episodes."""

    def __init__(self) -> None:
        import threadpoolctl

        end_with_parent()
        threadpoolctl.threadpool_limits(1)

    def play(self, unit: Unit) -> list[Episode]:
        return play_unit(unit)


def main(arguments: Sequence[str]) -> None:
    dashed = [argument.replace("_", "-") if argument.startswith("tier=") else argument for argument in arguments]
    chosen = parse(dashed, Options)
    env_id = behaviours(chosen.env).env_id
    if "-v" in chosen.env and chosen.env != env_id:
        raise UserError(f"env={chosen.env}: behaviour policies are shipped for {env_id} alone")
    made = ensure(env_id, chosen.tier, chosen.steps, chosen.seed)
    print(f"{made} is in {dataset_folder(made)}")


if __name__ == "__main__":
    # By the module's name: worker processes see no __main__, and look for the functions that they are to call in the module.
    from iwbc.data.generate import main as main_by_name

    run(main_by_name, __doc__)
