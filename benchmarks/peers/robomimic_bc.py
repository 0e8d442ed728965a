"""robomimic's BC and BC-RNN-GMM beside this package's, on the same demonstrations: gradient steps a second, and success.

    PYTHON -m benchmarks.peers.robomimic_bc [kind=bc] [data=ARGUMENTS] [steps=5000] [seeds=0,1,2] [episodes=50] [out=FILE]

PYTHON has this package and robomimic 0.3.0. data: of `iwbc train`, such as "env=two_routes curation=success". Both train the
network of robomimic's study with its batches of 100 and its constant learning rate of 1e-4: a mixture of 5 Gaussians after
1024 × 1024 units (kind=bc), or after an LSTM of 2 × 400 on sequences of 10 (kind=bc_rnn). robomimic reads the curated
trajectories from a file in its layout, cached in memory as in the study, with its loaders, and plays as it does by default (a
component by its probability, then its mean). One seed after the other, robomimic first, then this package; a line for each, and
FILE, benchmarks/results/robomimic.csv by default.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import gymnasium as gym
import numpy as np
import torch

from benchmarks.common import RESULTS, machine
from iwbc import settings
from iwbc.config import compose
from iwbc.data.curated import Curated
from iwbc.data.curation import curate
from iwbc.data.formats.robomimic_writer import KEPT, write_robomimic
from iwbc.data.sources import load_dataset
from iwbc.environments.gymnasium import make_env
from iwbc.environments.spec import EnvironmentSpec, environment_spec
from iwbc.errors import UserError
from iwbc.evaluation import Evaluator
from iwbc.settings import Settings
from iwbc.system.arguments import at_least, parse, run
from iwbc.system.files import write_csv
from iwbc.training.fit import fit

BATCH, RATE, SEQUENCE, COMPONENTS, LEAST_STD = 100, 1e-4, 10, 5, 1e-4


def without_torchvision() -> None:
    """Let robomimic be imported without torchvision, which only its image encoders need."""
    for module in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.models"):
        sys.modules.setdefault(module, MagicMock())


def robomimic_config(kind: str, file: Path, seed: int) -> Any:
    """The study's settings for low-dimensional data of people, as far as they are not robomimic's defaults."""
    from robomimic.config import config_factory

    config = config_factory("bc")
    with config.unlocked():
        config.train.data, config.train.batch_size, config.train.seed = str(file), BATCH, seed
        config.train.hdf5_filter_key, config.train.cuda = KEPT, False
        config.train.seq_length = SEQUENCE if kind == "bc_rnn" else 1
        config.observation.modalities.obs.low_dim = ["flat"]
        config.algo.optim_params.policy.learning_rate.initial = RATE
        config.algo.gmm.enabled, config.algo.gmm.num_modes, config.algo.gmm.min_std = True, COMPONENTS, LEAST_STD
        config.algo.rnn.enabled = kind == "bc_rnn"
        config.algo.rnn.horizon, config.algo.rnn.hidden_dim, config.algo.rnn.num_layers = SEQUENCE, 400, 2
        config.algo.actor_layer_dims = () if kind == "bc_rnn" else (1024, 1024)
    return config


def train_robomimic(kind: str, file: Path, sizes: tuple[int, int], steps: int, seed: int) -> tuple[Any, float]:
    """Train one seed; the policy, and the seconds that `steps` gradient steps take without reading the file."""
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.algo import RolloutPolicy, algo_factory
    from robomimic.utils.train_utils import dataset_factory, run_epoch
    from torch.utils.data import DataLoader

    config = robomimic_config(kind, file, seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        obs_utils.initialize_obs_utils_with_config(config)
        model = algo_factory("bc", config, {"flat": [sizes[0]]}, sizes[1], torch.device("cpu"))
        dataset = dataset_factory(config, ["flat"], filter_by_attribute=KEPT)
        loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=0, drop_last=True)
        start = time.perf_counter()
        run_epoch(model, loader, epoch=1, num_steps=steps)
    return RolloutPolicy(model), time.perf_counter() - start


def policy_settings(kind: str) -> Any:
    """The same network in this package."""
    if kind == "bc":
        return settings.MixturePolicy(
            hidden=[1024, 1024],
            components=COMPONENTS,
            std="state",
            log_std_min=float(np.log(LEAST_STD)),
            normalise_observations=False,
        )
    return settings.LSTMPolicy(normalise_observations=False)


@dataclass
class Options(Settings):
    kind: str = "bc"
    data: str = "env=two_routes curation=success"
    steps: int = at_least(1, 5000)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    episodes: int = at_least(1, 50)
    out: Path = RESULTS / "robomimic.csv"


def played(policy: Any, evaluator: Evaluator, environment: EnvironmentSpec, seed: int, episodes: int) -> float:
    """Play robomimic's policy from the starts that an evaluator has for this seed; the share that succeeds."""
    env, successes = make_env(environment), 0
    for episode in range(episodes):
        observation, _ = env.reset(seed=evaluator.start(seed, episode))
        policy.start_episode()
        succeeded = ended = False
        while not ended:
            action = policy({"flat": gym.spaces.flatten(env.observation_space, observation).astype(np.float32)})
            space = env.action_space
            assert isinstance(space, gym.spaces.Box)
            observation, _, terminated, truncated, info = env.step(np.clip(action, space.low, space.high))
            succeeded |= bool(info.get("success", info.get("is_success", False)))
            ended = terminated or truncated
        successes += succeeded
    return successes / episodes


def compare(options: Options, curated: Curated, environment: EnvironmentSpec, file: Path) -> None:
    """Train and play every seed of both."""
    data, rows = curated.trajectories, []
    sizes = data.observations.shape[1], data.actions.shape[1]
    algo = settings.BC(steps=options.steps, lr=RATE, schedule="constant", batch_size=BATCH)
    evaluator = Evaluator(environment, seed=0)
    for seed in options.seeds:
        policy, theirs = train_robomimic(options.kind, file, sizes, options.steps, seed)
        with torch.no_grad():
            success = played(policy, evaluator, environment, seed, options.episodes)
        start = time.perf_counter()
        policies = fit(algo, curated, policy=policy_settings(options.kind), seeds=[seed])
        ours = time.perf_counter() - start
        shares = {action: evaluator.evaluate(policies, options.episodes, action).success_rate for action in ("mean", "sample")}
        row = {
            **{
                "kind": options.kind,
                "dataset": data.info.id,
                "steps": options.steps,
                "seed": seed,
                "episodes": options.episodes,
            },
            **{"robomimic_success": success, "success": shares["mean"], "success_sampled": shares["sample"]},
            **{"robomimic_steps_per_second": round(options.steps / theirs, 1)},
            **{"steps_per_second": round(options.steps / ours, 1), "ratio": round(theirs / ours, 2)},
            **{"threads": torch.get_num_threads(), "robomimic": version("robomimic"), "torch": version("torch")},
            **{"processor": machine()["processor"], "load_average": round(os.getloadavg()[0], 2)},
        }
        rows.append(row)
        print(row, flush=True)
        write_csv(options.out, rows)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments, Options)
    without_torchvision()
    config = compose(*options.data.split())
    data = load_dataset(config.dataset, config.env.id)
    curated = curate(data, config.curation, "transition")
    env = config.env
    environment = environment_spec(data.info.environment, env.id, env.kwargs or {}, env.max_episode_steps, tuple(env.imports))
    if environment is None:
        raise UserError(f"dataset {data.info.id} names no environment; name one with env.id=…")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "demonstrations.hdf5"
        write_robomimic(curated, file)
        compare(options, curated, environment, file)


if __name__ == "__main__":
    run(main, __doc__)
