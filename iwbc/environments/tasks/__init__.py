"""Tasks whose success is a matter of chance: two ways to do each, one of which succeeds less often.

    gymnasium.make("iwbc/TwoRoutes-v0", slip=0.5, horizon=30)

Importing this package registers them (gymnasium.make("iwbc.environments.tasks:iwbc/TwoRoutes-v0") does both); every command
of iwbc does so by itself. Gymnasium has no entry points for plugins since its version 1.0.
"""

from __future__ import annotations

import gymnasium as gym

ENTRY_POINTS = {
    "iwbc/TwoRoutes-v0": "iwbc.environments.tasks.two_routes:TwoRoutes",
    "iwbc/CarefulOrHasty-v0": "iwbc.environments.tasks.careful_or_hasty:CarefulOrHasty",
}


def register() -> None:
    """Make the tasks known to Gymnasium, once."""
    for env_id, entry_point in ENTRY_POINTS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point)


register()
