"""d3rlpy's BC on random data of hopper's size: 3 × 256, batch 256, its default policy and loss, logging off.

Run by benchmarks/speed.py with an interpreter that has d3rlpy; turns.py says how.
"""

import logging
import sys

import d3rlpy
import numpy as np
import structlog
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models.encoders import VectorEncoderFactory
from turns import take_turns

OBS, ACT, HIDDEN, BATCH, STEPS = 11, 3, 256, 256, int(sys.argv[1])


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    random = np.random.default_rng(0)
    dataset = d3rlpy.dataset.MDPDataset(
        observations=random.standard_normal((100_000, OBS), np.float32),
        actions=random.uniform(-1.0, 1.0, (100_000, ACT)).astype(np.float32),
        rewards=random.standard_normal(100_000, np.float32),
        terminals=np.arange(1, 100_001) % 500 == 0,
    )
    encoder = VectorEncoderFactory(hidden_units=[HIDDEN] * 3)
    bc = d3rlpy.algos.BCConfig(batch_size=BATCH, encoder_factory=encoder).create(device="cpu")

    def train(seeds: int) -> None:
        assert seeds == 1
        quiet = {"logger_adapter": NoopAdapterFactory(), "show_progress": False}
        bc.fit(dataset, n_steps=STEPS, n_steps_per_epoch=STEPS, **quiet)

    take_turns(train, "d3rlpy", "torch")


if __name__ == "__main__":
    main()
