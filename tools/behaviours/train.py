"""Train the behaviour policies that the generated datasets come from: SAC, one run per environment.

    pip install -e '.[behaviours]'
    python -m tools.behaviours.train hopper --steps 400000

The actor is small (2 × 64), so that a hundred snapshots of it fit in a megabyte; the critics are SAC's usual 2 × 256.
A snapshot of the actor is written at the start and every 2,500 environment steps; `tools.behaviours.export` chooses among
them and packs the file that the package ships. A run stopped anywhere continues from its last checkpoint (every 100,000
steps) when the same command is given again; the simulator restarts its episode there, so a resumed run is a valid SAC run
but not the same one to the bit.

One process uses one thread, so that several environments can be trained side by side.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

# Read by XLA when jax is first imported: one thread per process.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import numpy as np
import torch
from safetensors.numpy import save_file
from sbx import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

ENVIRONMENTS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5"}
SNAPSHOT_EVERY = 2_500
ACTOR = [64, 64]
CHECKPOINT_EVERY = 100_000


def actor_tensors(model: SAC) -> dict[str, np.ndarray]:
    """The actor's parameters: hidden layers `weight0`, `bias0`, … then the mean's and the log-std's output layers."""
    layers = jax.device_get(model.policy.actor_state.params)["params"]
    names = [f"Dense_{i}" for i in range(len(layers))]
    keys = [*(str(i) for i in range(len(names) - 2)), "_mean", "_log_std"]
    tensors: dict[str, np.ndarray] = {}
    for name, key in zip(names, keys, strict=True):
        tensors[f"weight{key}"] = np.asarray(layers[name]["kernel"])
        tensors[f"bias{key}"] = np.asarray(layers[name]["bias"])
    return tensors


class Recorder(BaseCallback):
    """Writes snapshots, the training curve and checkpoints."""

    def __init__(self, folder: Path, seconds_before: float) -> None:
        super().__init__()
        self.folder, self.seconds_before = folder, seconds_before
        self.started = time.monotonic()

    def _on_rollout_start(self) -> None:
        # Off-policy rollouts are short (8 steps of 4 environments), so these multiples are hit to within one of them.
        step = self.num_timesteps
        if step // SNAPSHOT_EVERY > self.last_snapshot // SNAPSHOT_EVERY:
            self.last_snapshot = step
            save_file(actor_tensors(self.model), self.folder / "snapshots" / f"{step:08d}.safetensors")
            returns = [episode["r"] for episode in self.model.ep_info_buffer]
            mean = float(np.mean(returns)) if returns else float("nan")
            seconds = self.seconds_before + time.monotonic() - self.started
            with (self.folder / "curve.csv").open("a", newline="") as file:
                csv.writer(file).writerow([step, f"{mean:.1f}", f"{seconds:.0f}"])
            print(f"step {step:>9,}  return of the last 100 training episodes {mean:8.1f}  {seconds / 60:6.1f} min", flush=True)
        if step // CHECKPOINT_EVERY > self.last_checkpoint // CHECKPOINT_EVERY:
            self.last_checkpoint = step
            save_checkpoint(self.model, self.folder)

    def _on_training_start(self) -> None:
        self.last_snapshot = self.last_checkpoint = self.num_timesteps
        if self.num_timesteps == 0:
            save_file(actor_tensors(self.model), self.folder / "snapshots" / "00000000.safetensors")  # the untrained policy

    def _on_step(self) -> bool:
        return True


def save_checkpoint(model: SAC, folder: Path) -> None:
    model.save(folder / "model.new.zip")
    model.save_replay_buffer(folder / "buffer.new.pkl")
    os.replace(folder / "buffer.new.pkl", folder / "buffer.pkl")
    os.replace(folder / "model.new.zip", folder / "model.zip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=ENVIRONMENTS)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("outputs/behaviours"))
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    folder = arguments.folder / f"{arguments.env}-{arguments.seed}"
    (folder / "snapshots").mkdir(parents=True, exist_ok=True)
    env = make_vec_env(ENVIRONMENTS[arguments.env], n_envs=4, seed=arguments.seed)
    seconds_before = 0.0
    if (folder / "model.zip").exists():
        model = SAC.load(folder / "model.zip", env=env)
        model.load_replay_buffer(folder / "buffer.pkl")
        rows = list(csv.reader((folder / "curve.csv").open()))
        rows = [row for row in rows if int(row[0]) <= model.num_timesteps]
        with (folder / "curve.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        seconds_before = float(rows[-1][2])
    else:
        (folder / "curve.csv").unlink(missing_ok=True)
        # SAC's defaults, except: updates in blocks of 32 (one compiled call for 32 updates) and batches of 128,
        # which together double the rate on one core; one update per environment step as usual.
        model = SAC(
            "MlpPolicy",
            env,
            learning_starts=1_000,
            policy_kwargs={"net_arch": {"pi": ACTOR, "qf": [256, 256]}},
            train_freq=8,
            gradient_steps=32,
            batch_size=128,
            buffer_size=1_000_000,
            seed=arguments.seed,
        )
    recorder = Recorder(folder, seconds_before)
    steps = arguments.steps - model.num_timesteps
    model.learn(steps, callback=recorder, reset_num_timesteps=False, log_interval=None)
    save_checkpoint(model, folder)


if __name__ == "__main__":
    main()
