"""How well the running importance weights follow the exact ones, over a whole training run on real data.

    python -m benchmarks.weights [hopper walker2d halfcheetah …] [override=…]

Trains iw-BC(Q) with the shipped settings and compares, at ten points of training, the weights in use with those from a
pass over all kept steps under the EMA proposal itself. Writes benchmarks/results/weights.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
import numpy as np
import torch
from iwbc.training import Stream
from rich.console import Console
from scipy.stats import spearmanr

from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.config import IWBC, validate
from iwbc.curation import curate
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.sources import load_dataset
from iwbc.files import write_csv
from iwbc.policies import policy_spec
from iwbc.reference import reference_policy
from iwbc.train import config_folder

RESULTS = Path(__file__).parent / "results"


def compare(env: str, overrides: list[str], console: Console) -> list[dict[str, object]]:
    """One training run of one environment, compared at ten points."""
    with hydra.initialize_config_dir(config_folder(), version_base="1.3"):
        config = validate(hydra.compose("train", [f"env={env}", *overrides]))
    assert isinstance(config.algo, IWBC)
    trajectories = load_dataset(config.dataset, config.env)
    curated = Curated(trajectories, curate(trajectories, config.curation), config.averaging)
    spec = policy_spec(config.policy, trajectories)
    reference = reference_policy(trajectories, spec, config.reference, config.all_seeds, config.device, console)
    policy = reference.copy()
    algorithm = ImportanceWeightedBC(policy, reference, curated, config.algo)
    sampler = StepSampler(curated, config.all_seeds, config.algo.batch_size, Stream.TRAINING)
    proposal = reference.copy()  # θ_q, which the running estimate does without
    rows: list[dict[str, object]] = []
    for step in range(config.algo.steps):
        proposal.parameters.flat.lerp_(policy.parameters.flat, 1.0 - config.algo.decay)
        algorithm.update(sampler.batch(step), config.algo.learning_rate(step))
        if (step + 1) % (config.algo.steps // 10) == 0:
            exact = algorithm.exact_log_ratios(proposal)[0]
            used = algorithm.proposal_log_ratios[0]
            error = algorithm.kappa * (used - exact)
            rows.append(
                {
                    "env": env,
                    "dataset": trajectories.info.id,
                    "step": step + 1,
                    "kept_trajectories": len(curated.kept),
                    "kept_steps": curated.steps,
                    "kappa": algorithm.kappa,
                    "rank_correlation": round(float(spearmanr(used.numpy(), exact.numpy()).statistic), 5),
                    # A common factor cancels when the weights are self-normalised.
                    "relative_error_of_weights": round(float((error - error.mean()).exp().sub(1).abs().mean()), 5),
                    "spread_of_log_weights": round(float((algorithm.kappa * exact).std()), 5),
                }
            )
            console.print(rows[-1])
    return rows


def main() -> None:
    torch.set_num_threads(1)
    overrides = [argument for argument in sys.argv[1:] if "=" in argument]
    envs = [argument for argument in sys.argv[1:] if "=" not in argument] or ["hopper", "walker2d", "halfcheetah"]
    console = Console()
    rows = [row for env in envs for row in compare(env, overrides, console)]
    write_csv(RESULTS / "weights.csv", rows)
    worst = min(float(np.float64(str(row["rank_correlation"]))) for row in rows)
    console.print(f"lowest rank correlation: {worst}")


if __name__ == "__main__":
    main()
