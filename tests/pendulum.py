"""A small dataset whose environment is quick to play, and runs on it that take a second."""

from __future__ import annotations

import numpy as np

import iwbc
from iwbc.data.minari_folder import make_once

ID = "tests/pendulum/random-v0"
# With 20 trajectories of 40 steps, of which the best five are kept.
QUICK = (
    *("env=from_dataset", "dataset=minari", f"dataset.id={ID}", "policy.hidden=[16,16]", "env.max_episode_steps=20"),
    *("reference.steps=40", "reference.batch_size=32", "algo.batch_size=32", "algo.steps=60", "algo.warmup_steps=10"),
    *("curation=top_fraction", "curation.fraction=0.25", "log_every=20", "checkpoint_every=20"),
    *("eval.episodes=3", "eval.every=0", "threads=1"),
)


def make_pendulum(seed: int = 0) -> None:
    """Write the dataset, unless it is there; tests in several processes make it once."""
    make_once(ID, lambda: _write(seed))


def _write(seed: int) -> None:
    random = np.random.default_rng(seed)
    angle = random.uniform(-np.pi, np.pi, 800)
    ends = np.arange(800) % 40 == 39
    iwbc.from_arrays(
        observations=np.stack([np.cos(angle), np.sin(angle), random.uniform(-8, 8, 800)], 1).astype(np.float32),
        actions=random.uniform(-2, 2, (800, 1)).astype(np.float32),
        rewards=-np.abs(angle),
        terminations=np.zeros(800, bool),
        truncations=ends,
        id=ID,
        env_id="Pendulum-v1",
    )
