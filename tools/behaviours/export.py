"""Choose among the snapshots of a `tools.behaviours.train` run and pack the file that the package ships.

    python -m tools.behaviours.export hopper

Rule. medium: its mean return is to be that of D4RL's medium dataset. Of the snapshots up to the first around which (five
snapshots, 20 sampled episodes each) that return is reached, the one that comes nearest: 20 episodes choose five, 100 more
choose the one. medium-replay ends at the snapshot, from the medium one on, up to which the returns of a replay (2,500 steps of
each snapshot, weighted as the tier weights them) are nearest D4RL's in mean and standard deviation. Shipped: the untrained
policy, all snapshots up to that one (at most 120, evenly spaced, and the medium one), and the expert of the file that is there.
The returns stored with them are of 20 fresh episodes (100 for medium) of sampled actions.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from iwbc.data.behaviours import Behaviour, Behaviours, behaviour_file, behaviours
from iwbc.environments.gymnasium import LocalEnvironments, play

# D4RL's v2 datasets: mean return of medium; mean and standard deviation of medium-replay's returns, and its steps.
MEDIUM_RETURN = {"hopper": 1422.1, "halfcheetah": 4770.3, "walker2d": 2852.1}
REPLAY_RETURNS = {"hopper": (467.3, 511.0), "halfcheetah": (3093.3, 1680.7), "walker2d": (682.7, 896.0)}
REPLAY_STEPS = {"hopper": 400_000, "halfcheetah": 200_000, "walker2d": 300_000}
_MOST = 120

Tensors = dict[str, np.ndarray]


def behaviour(tensors: Tensors) -> Behaviour:
    def layer(key: str) -> tuple[np.ndarray, np.ndarray]:
        # The shipped file is in half precision, and it is the shipped policy that is measured.
        weight, bias = (tensors[f"{part}{key}"].astype(np.float16).astype(np.float64) for part in ("weight", "bias"))
        return weight, bias

    return Behaviour((layer("0"), layer("1")), layer("_mean"), layer("_log_std"))


def returns_and_lengths(tensors: Tensors, env_id: str, seed: int, episodes: int = 0, steps: int = 0) -> np.ndarray:
    """Play whole episodes, at least as many or of as many steps as asked for; rows of their return and length [n, 2]."""
    policy, random, environments = behaviour(tensors), np.random.default_rng(seed), LocalEnvironments(env_id)
    rows = np.zeros((0, 2))
    while len(rows) < episodes or rows[:, 1].sum() < steps:
        played = np.zeros((10, 2))
        for step in play(environments, lambda o: policy.sample(o, random), [int(s) for s in random.integers(2**31, size=10)]):
            played[step.active] += np.stack([step.rewards, np.ones(len(step.active))], 1)
        rows = np.concatenate([rows, played])
    return rows


def mean_return(tensors: Tensors, env_id: str, episodes: int, seed: int) -> float:
    return float(returns_and_lengths(tensors, env_id, seed, episodes)[:, 0].mean())


def find_medium(snapshots: dict[int, Tensors], env_id: str, target: float) -> int:
    """The snapshot whose mean return is nearest to the target's, of those up to where training first reaches it."""
    returns: dict[int, float] = {}
    for step, tensors in snapshots.items():
        returns[step] = mean_return(tensors, env_id, 20, seed=4)
        if len(returns) >= 5 and np.mean(list(returns.values())[-5:]) >= target:
            break
    nearest = sorted(returns, key=lambda step: abs(returns[step] - target))[:5]
    return min(nearest, key=lambda step: abs(mean_return(snapshots[step], env_id, 100, seed=5) - target))


def find_replay_end(snapshots: dict[int, Tensors], env_id: str, medium: int, mean: float, std: float) -> int:
    """The snapshot, from the medium one on, up to which a replay's returns are nearest to this mean and standard deviation."""
    steps = list(snapshots)
    played = [returns_and_lengths(snapshots[step], env_id, seed=6, steps=2_500) for step in steps]
    distance = {}
    for end in range(steps.index(medium), len(steps)):
        shares = np.diff(steps[: end + 1])
        shares = np.append(shares, shares[-1])
        weight = np.concatenate(
            [np.full(len(rows), share / rows[:, 1].sum()) for rows, share in zip(played, shares, strict=False)]
        )
        returns = np.concatenate([rows[:, 0] for rows in played[: end + 1]])
        of_mean = float(np.average(returns, weights=weight))
        of_std = float(np.sqrt(np.average((returns - of_mean) ** 2, weights=weight)))
        distance[steps[end]] = float(np.hypot(of_mean - mean, of_std - std))
        print(f"replay up to {steps[end]:>9,}: mean {of_mean:,.0f}, standard deviation {of_std:,.0f}", flush=True)
    return min(distance, key=distance.__getitem__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=MEDIUM_RETURN)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("outputs/behaviours"))
    arguments = parser.parse_args()
    old, path = behaviours(arguments.env), behaviour_file(arguments.env)
    folder = arguments.folder / f"{arguments.env}-{arguments.seed}"
    rows = [(int(r[0]), float(r[1]), int(r[2])) for r in csv.reader((folder / "curve.csv").open())]
    snapshots = {int(path.stem): load_file(path) for path in sorted((folder / "snapshots").glob("*.safetensors"))}
    medium = find_medium(snapshots, old.env_id, MEDIUM_RETURN[arguments.env])
    end = find_replay_end(snapshots, old.env_id, medium, *REPLAY_RETURNS[arguments.env])
    before = [step for step in snapshots if step <= end]
    spaced = {before[i] for i in np.linspace(0, len(before) - 1, min(_MOST, len(before))).round().astype(int)}
    chosen = sorted({*spaced, medium})
    returns = []
    for step in chosen:
        returns.append(round(mean_return(snapshots[step], old.env_id, 100 if step == medium else 20, seed=3), 1))
        print(f"{arguments.env} step {step:>9,}  return {returns[-1]:9.1f}", flush=True)
    expert_training = old.training.split("expert: ")[1]
    training = (
        f"Stable-Baselines-JAX {version('sbx-rl')} SAC, {end:,} steps, seed {arguments.seed}; "
        f"gymnasium {version('gymnasium')}, mujoco {version('mujoco')}, jax {version('jax')}; expert: {expert_training}"
    )
    fields = Behaviours(
        old.env_id,
        steps=(*chosen, old.steps[old.expert]),
        returns=(*returns, old.returns[old.expert]),
        medium=chosen.index(medium),
        replay_end=len(chosen) - 1,
        expert=len(chosen),
        training=training,
        replay_steps=REPLAY_STEPS[arguments.env],
    )
    stacked = {name: np.stack([snapshots[step][name] for step in chosen]).astype(np.float16) for name in snapshots[medium]}
    expert = {name: value for name, value in load_file(path).items() if name.startswith("expert.")}
    save_file(stacked | expert, path, {"behaviours": json.dumps(asdict(fields))})
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    with (results / f"behaviour_curve_{arguments.env}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "return_of_last_100_training_episodes", "seconds"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
