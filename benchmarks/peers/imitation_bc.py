"""imitation's BC on random data of hopper's size: 3 × 256, batch 256, logging off.

The policy is Stable-Baselines3's without the value network that it has by default, which BC does not need.
Run by benchmarks/speed.py with an interpreter that has imitation; turns.py says how.
"""

import sys
import tempfile

import gymnasium
import numpy as np
import torch
from imitation.algorithms import bc
from imitation.data.types import Transitions
from imitation.util import logger
from stable_baselines3.common.policies import ActorCriticPolicy
from turns import take_turns

OBS, ACT, HIDDEN, BATCH, STEPS = 11, 3, 256, 256, int(sys.argv[1])


def main() -> None:
    random = np.random.default_rng(0)
    observations = random.standard_normal((100_001, OBS), np.float32)
    demonstrations = Transitions(
        obs=observations[:-1],
        acts=random.uniform(-1.0, 1.0, (100_000, ACT)).astype(np.float32),
        infos=np.full(100_000, {}),
        next_obs=observations[1:],
        dones=np.arange(1, 100_001) % 500 == 0,
    )
    spaces = {
        "observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (OBS,)),
        "action_space": gymnasium.spaces.Box(-1.0, 1.0, (ACT,)),
    }
    layers = {"pi": [HIDDEN] * 3, "vf": []}
    policy = ActorCriticPolicy(**spaces, lr_schedule=lambda _: 1e-3, net_arch=layers, activation_fn=torch.nn.ReLU)
    with tempfile.TemporaryDirectory() as folder:  # which its logger wants even if it writes nothing
        algorithm = bc.BC(
            **spaces,
            rng=random,
            policy=policy,
            demonstrations=demonstrations,
            batch_size=BATCH,
            device="cpu",
            custom_logger=logger.configure(folder, []),
        )

        def train(seeds: int) -> None:
            assert seeds == 1
            algorithm.train(n_batches=STEPS, progress_bar=False)

        take_turns(train, "imitation", "stable-baselines3", "torch")


if __name__ == "__main__":
    main()
