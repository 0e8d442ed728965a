"""The environments that OGBench's datasets are played in, by the names of its files."""

from __future__ import annotations

import re

from iwbc.environments.spec import EnvironmentSpec

_NAME = re.compile(
    r"(?P<env>(?:visual-)?(?:antmaze|antsoccer|cube|humanoidmaze|pointmaze|powderworld|puzzle|scene)(?:-\w+)*?)"
    r"-(?:explore|navigate|noisy|play|stitch)(?P<single>-singletask(?:-task\d)?)?(?P<goal>-oraclerep)?-(?P<version>v\d+)"
)


def ogbench_spec(dataset_name: str) -> EnvironmentSpec | None:
    """Describe the environment of a dataset, from its name as OGBench has it, such as cube-single-play-v0 or
    cube-single-play-singletask-task2-v0; folders before it, and `.npz` and `-val` after it, are left out.

    Returns None for a name that is not OGBench's. Without `singletask`, each episode's seed chooses one of five goals, which no
    observation shows.
    """
    match = _NAME.fullmatch(dataset_name.rpartition("/")[2].removesuffix(".npz").removesuffix("-val"))
    if match is None:
        return None
    env_id = f"{match['env']}{match['single'] or ''}-{match['version']}"
    return EnvironmentSpec(env_id, {"use_oracle_rep": True} if match["goal"] else {}, package="ogbench")
