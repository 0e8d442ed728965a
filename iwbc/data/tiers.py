"""The names of the generated datasets."""

from __future__ import annotations

TIERS = ("random", "medium", "medium-replay", "medium-expert", "expert")
DEFAULT_STEPS = 200_000


def dataset_id(env_id: str, tier: str, steps: int = DEFAULT_STEPS, seed: int = 0) -> str:
    """`iwbc/<env>/<tier>-v0`; another size or seed than the default is part of the name."""
    name = f"{tier}-{steps}" if steps != DEFAULT_STEPS else tier
    name = f"{name}-seed{seed}" if seed else name
    return f"iwbc/{env_id.split('-v')[0].lower()}/{name}-v0"
