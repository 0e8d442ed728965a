"""Generated datasets: D4RL's tiers, rolled out from the shipped behaviour policies into local Minari datasets.

    python -m iwbc.data.generate env=hopper tier=medium-replay steps=200000 seed=0
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from iwbc import __version__
from iwbc.data.behaviours import Behaviours, behaviours
from iwbc.data.minari_source import dataset_folder
from iwbc.data.tiers import DEFAULT_STEPS, TIERS, dataset_id
from iwbc.data.trajectories import Episode
from iwbc.errors import UserError
from iwbc.scores import d4rl_scores



# Episodes played side by side, and the steps a unit of work aims at. Both fix the dataset's bytes: a unit's arithmetic
# is the same whichever process does it, so a dataset does not depend on the number of cores.
_LANES = 10
_UNIT_STEPS = 10_000


@dataclass(frozen=True)
class Unit:
    """A share of the work: at least `steps` steps of whole episodes from one snapshot, with a random stream of its own."""

    env_id: str
    snapshot: int
    steps: int
    entropy: tuple[int, ...]


def plan(source: Behaviours, tier: str, steps: int, seed: int) -> list[Unit]:
    """The units whose episodes, in order, make up a tier (as D4RL defines it).

    medium-replay goes through the snapshots in the order of training, from the untrained one up to the medium one, with
    equal shares; medium-expert is half and half; the other tiers are one snapshot.
    """
    shares = {
        "random": [0],
        "medium": [source.medium],
        "medium-replay": list(range(source.medium + 1)),
        "medium-expert": [source.medium, source.expert],
        "expert": [source.expert],
    }[tier]
    units: list[Unit] = []
    for share, snapshot in enumerate(shares):
        share_steps = steps * (share + 1) // len(shares) - steps * share // len(shares)
        parts = max(1, round(share_steps / _UNIT_STEPS))
        for part in range(parts):
            unit_steps = share_steps * (part + 1) // parts - share_steps * part // parts
            entropy = (seed, TIERS.index(tier), share, part)
            units.append(Unit(source.env_id, snapshot, unit_steps, entropy))
    return [unit for unit in units if unit.steps]


def play_unit(unit: Unit) -> list[Episode]:
    """Play one unit: whole episodes until they hold at least its steps."""
    from iwbc.environments import make_env, play

    policy = behaviours(unit.env_id).load(unit.snapshot)
    random = np.random.default_rng(np.random.SeedSequence(unit.entropy))
    envs = [make_env(unit.env_id) for _ in range(_LANES)]
    episodes: list[Episode] = []
    total = 0
    while total < unit.steps:
        records: list[list[Any]] = [[] for _ in envs]
        seeds = [int(s) for s in random.integers(2**31, size=len(envs))]
        for step in play(envs, lambda observations: policy.sample(observations, random), seeds):
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
    for env in envs:
        env.close()
    return episodes


def ensure(env_id: str, tier: str, steps: int = DEFAULT_STEPS, seed: int = 0) -> str:
    """Make the dataset unless it is there; its id. A second process that wants it at the same time waits for the first."""
    name = dataset_id(env_id, tier, steps, seed)
    folder = dataset_folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not folder.exists():
                _generate(name, env_id, tier, steps, seed)
    return name


def _generate(name: str, env_id: str, tier: str, steps: int, seed: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    source = behaviours(env_id)
    units = plan(source, tier, steps, seed)
    episodes: list[Episode] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn())
    with Progress(*columns) as progress, _workers(len(units)) as workers:
        task = progress.add_task(f"Generating {name}", total=sum(unit.steps for unit in units))
        for unit, result in zip(units, workers.map(play_unit, units), strict=True):
            episodes += result
            progress.advance(task, unit.steps)
    write_minari(
        name,
        iter(episodes),
        env_id=env_id,
        algorithm_name="SAC",
        description=f"D4RL-style {tier} tier of {env_id}, rolled out from snapshots of a SAC policy ({source.training}); "
        f"{steps:,} steps asked for, seed {seed}.",
    )


@contextlib.contextmanager
def _workers(units: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned, not forked: a fork would inherit the locks of whatever threads this process runs.
    context = multiprocessing.get_context("spawn")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ProcessPoolExecutor(min(cores, units), mp_context=context, initializer=_one_thread)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _one_thread() -> None:
    import threadpoolctl

    threadpoolctl.threadpool_limits(1)


def write_minari(
    name: str,
    episodes: Iterator[Episode],
    *,
    env_id: str | None,
    description: str,
    algorithm_name: str | None = None,
    observation_space: Any = None,
    action_space: Any = None,
) -> None:
    """Write episodes as a local Minari dataset, which appears under its id whole or not at all."""
    import gymnasium as gym
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import create_namespace, list_local_namespaces

    from iwbc.environments import make_env

    folder = dataset_folder(name)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    env = make_env(env_id) if env_id else None
    spec = env.spec if env else None
    scores = d4rl_scores(env_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storage = MinariStorage.new(
                building / "data",
                observation_space=observation_space or env.observation_space,  # type: ignore[union-attr]
                action_space=action_space or env.action_space,  # type: ignore[union-attr]
                env_spec=spec,
            )
            metadata: dict[str, Any] = {
                "dataset_id": name,
                "minari_version": _minari_version(),
                "description": description,
                "author": {"iwbc"},
                "code_permalink": f"https://pypi.org/project/iwbc/{__version__}/",
                "requirements": [f"gymnasium[mujoco]=={gym.__version__}"] if env_id else [],
            }
            if spec is not None:
                metadata["eval_env_spec"] = spec.to_json()
            if algorithm_name:
                metadata["algorithm_name"] = algorithm_name
            if scores:
                metadata |= {
                    "ref_min_score": scores.random,
                    "ref_max_score": scores.expert,
                    "reference_scores_source": scores.source,
                }
            storage.update_metadata(metadata)
            storage.update_episodes(_buffer(EpisodeBuffer, episode) for episode in episodes)
            namespace = name.rpartition("/")[0]
            if namespace and namespace not in list_local_namespaces():
                create_namespace(namespace)
        os.replace(building, folder)
    except OSError as error:
        raise UserError(f"dataset {name}: could not be written to {folder.parent} ({error.strerror or error})") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _buffer(kind: Any, episode: Episode) -> Any:
    steps = len(episode.rewards)
    ends = np.zeros((2, steps), np.bool_)
    ends[0 if episode.terminated else 1, -1] = True
    infos = None if episode.success is None else {"success": np.full(steps + 1, episode.success)}
    return kind(
        observations=np.concatenate([episode.observations, episode.final_observation[None]]),
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=ends[0],
        truncations=ends[1],
        infos=infos,
    )


def _minari_version() -> str:
    from importlib.metadata import version

    return version("minari")
