"""The names of the generated datasets."""

from __future__ import annotations

TIERS = ("random", "medium", "medium-replay", "medium-expert", "expert")
VERSION = 2  # changes with the bytes that the same seed gives
OTHER_STEPS = 200_000  # how many a tier has by default; medium-replay has as many as D4RL's


def dataset_id(env_id: str, tier: str, steps: int | None = None, seed: int = 0) -> str:
    """`iwbc/<env>/<tier>-v2`; another size (None: the default) or seed than the default is part of the name."""
    name = tier if steps is None else f"{tier}-{steps}"
    name = f"{name}-seed{seed}" if seed else name
    return f"iwbc/{env_id.split('-v')[0].lower()}/{name}-v{VERSION}"
