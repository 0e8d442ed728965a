"""Choose among the snapshots of a finished `tools.behaviours.train` run and pack the file that the package ships.

    python -m tools.behaviours.export hopper

Rule. expert: the best, by 20 sampled episodes, of ten snapshots of the last tenth of training. medium: of the snapshots
up to the first at which the last 100 training episodes average a third of the expert's return, the one whose own D4RL
score is nearest to a third of the expert's: 20 sampled episodes choose five, 100 more choose the one. (The training
average lags behind: a policy that it says is at a third is often far beyond.) Shipped: the untrained policy, 12
snapshots evenly spaced up to the medium one, the medium one, 10 evenly spaced from there to the end, and the expert.
The returns stored with them are of 20 fresh episodes (100 for medium and expert) of sampled actions.
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

from iwbc.data.behaviours import FOLDER, Behaviour, Behaviours
from iwbc.environments import LocalEnvironments, make_env, play
from iwbc.scores import d4rl_scores
from tools.behaviours.train import ENVIRONMENTS, actor_tensors


def untrained(env_id: str, seed: int) -> dict[str, np.ndarray]:
    from sbx import SAC

    return actor_tensors(SAC("MlpPolicy", make_env(env_id), seed=seed))


def behaviour(tensors: dict[str, np.ndarray]) -> Behaviour:
    def layer(key: str) -> tuple[np.ndarray, np.ndarray]:
        # The shipped file is in half precision, and it is the shipped policy that is measured.
        return tuple(tensors[f"{part}{key}"].astype(np.float16).astype(np.float32) for part in ("weight", "bias"))

    return Behaviour((layer("0"), layer("1")), layer("_mean"), layer("_log_std"))


def mean_return(tensors: dict[str, np.ndarray], env_id: str, episodes: int, seed: int) -> float:
    policy, random, environments = behaviour(tensors), np.random.default_rng(seed), LocalEnvironments(env_id)
    total = 0.0
    for _ in range(episodes // 10):
        seeds = [int(s) for s in random.integers(2**31, size=10)]
        total += sum(step.rewards.sum() for step in play(environments, lambda o: policy.sample(o, random), seeds))
    return total / episodes


def find_medium(snapshots: dict[int, dict[str, np.ndarray]], env_id: str, expert_return: float) -> int:
    """The snapshot whose score is nearest to a third of the expert's."""
    scores = d4rl_scores(env_id)
    target = scores.normalise(expert_return) / 3.0

    def nearest(steps: list[int], episodes: int, seed: int) -> list[int]:
        distance = {s: abs(scores.normalise(mean_return(snapshots[s], env_id, episodes, seed)) - target) for s in steps}
        return sorted(steps, key=lambda step: distance[step])

    return nearest(nearest(list(snapshots), 20, seed=4)[:5], 100, seed=5)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=ENVIRONMENTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("outputs/behaviours"))
    arguments = parser.parse_args()
    env_id = ENVIRONMENTS[arguments.env]
    folder = arguments.folder / f"{arguments.env}-{arguments.seed}"
    rows = [(int(r[0]), float(r[1]), int(r[2])) for r in csv.reader((folder / "curve.csv").open())]
    curve = {step: training_return for step, training_return, _ in rows}
    steps = sorted(curve)

    def snapshot(step: int) -> dict[str, np.ndarray]:
        return load_file(folder / "snapshots" / f"{step:08d}.safetensors")

    late = [step for step in steps if step >= 0.9 * steps[-1]]
    candidates = [late[i] for i in np.linspace(0, len(late) - 1, 10).round().astype(int)]
    expert = max(candidates, key=lambda step: mean_return(snapshot(step), env_id, 20, seed=1))
    expert_return = mean_return(snapshot(expert), env_id, 100, seed=2)
    crossing = next(step for step in steps if curve[step] >= expert_return / 3.0)
    medium = find_medium({step: snapshot(step) for step in steps if step <= crossing}, env_id, expert_return)
    before = [step for step in steps if step < medium]
    after = [step for step in steps if step > medium]
    chosen = {before[i] for i in np.linspace(0, len(before) - 1, 12).round().astype(int)} | {medium, expert}
    chosen |= {after[i] for i in np.linspace(0, len(after) - 1, 10).round().astype(int)}
    order = sorted(chosen)
    policies = [untrained(env_id, arguments.seed), *(snapshot(step) for step in order)]
    returns = []
    for step, policy in zip([0, *order], policies, strict=True):
        episodes = 100 if step in (medium, expert) else 20
        returns.append(round(mean_return(policy, env_id, episodes, seed=3), 1))
        print(f"{arguments.env} step {step:>9,}  return {returns[-1]:9.1f}", flush=True)
    training = (
        f"Stable-Baselines-JAX {version('sbx-rl')} SAC, {rows[-1][0]:,} steps, seed {arguments.seed}, "
        f"{rows[-1][2] / 3600:.1f} hours; gymnasium {version('gymnasium')}, mujoco {version('mujoco')}, jax {version('jax')}"
    )
    fields = Behaviours(env_id, (0, *order), tuple(returns), 1 + order.index(medium), 1 + order.index(expert), training)
    stacked = {name: np.stack([policy[name] for policy in policies]).astype(np.float16) for name in policies[0]}
    FOLDER.mkdir(exist_ok=True)
    save_file(stacked, FOLDER / f"{arguments.env}.safetensors", {"behaviours": json.dumps(asdict(fields))})
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    with (results / f"behaviour_curve_{arguments.env}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "return_of_last_100_training_episodes", "seconds"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
