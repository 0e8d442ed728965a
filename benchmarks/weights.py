"""How well the running importance weights follow the exact ones, over a whole training run on real data.

    python -m benchmarks.weights [hopper walker2d halfcheetah …] [override=…]

Trains iw-BC(Q) with the shipped settings and compares, at ten points of training, the weights in use with those from a
pass over all kept steps under the EMA proposal itself. Writes benchmarks/results/weights.csv.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from rich.console import Console
from scipy.stats import spearmanr

from benchmarks.common import RESULTS
from iwbc.algorithms import Ingredients
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.algorithms.weights import Proposal, RunningWeights
from iwbc.config import compose
from iwbc.data.curation import curate
from iwbc.data.sampling import StepSampler
from iwbc.data.sources import load_dataset
from iwbc.data.streams import Stream
from iwbc.errors import UserError
from iwbc.settings import IWBC
from iwbc.system.arguments import run
from iwbc.system.files import write_csv
from iwbc.training.reference import reference_policy
from iwbc.training.trainer import Learner


def compare(env: str, overrides: Sequence[str], console: Console) -> list[dict[str, object]]:
    """One training run of one environment, compared at ten points. Raises UserError where its weights are not running
    estimates of those under an EMA proposal."""
    config = compose(f"env={env}", *overrides)
    settings, seed = config.algo, config.all_seeds[0]
    if not isinstance(settings, IWBC) or settings.proposal != "ema":
        raise UserError("algo: must be iw_bc with proposal=ema, whose running weights are compared")
    trajectories = load_dataset(config.dataset, config.env.id)
    curated = curate(trajectories, config.curation, config.averaging)
    reference = reference_policy(trajectories, config.policy, config.reference, [seed], "cpu", console)[0]
    algorithm = ImportanceWeightedBC(settings, Ingredients(copy.deepcopy(reference), reference, curated, seed))
    weights = algorithm.weights
    if not isinstance(weights, RunningWeights):
        raise UserError("algo: must have estimator=running and a level of whole trajectories")
    learner = Learner(algorithm, StepSampler(curated, seed, settings.batch_size, Stream.TRAINING), settings)
    proposal = Proposal(settings, reference)  # θ_q, which the running estimate does without
    rows: list[dict[str, object]] = []
    for step in range(settings.steps):
        proposal.follow(algorithm.policy, step)
        learner.train(step, step + 1)
        if (step + 1) % max(1, settings.steps // 10) == 0:
            exact, used = weights.exact_log_ratios(proposal.policy), weights.log_ratios
            error = settings.kappa * (used - exact)
            rows.append(
                {
                    "env": env,
                    "dataset": trajectories.info.id,
                    "step": step + 1,
                    "kept_trajectories": len(curated.kept),
                    "kept_steps": curated.steps,
                    "kappa": settings.kappa,
                    "rank_correlation": round(float(spearmanr(used.numpy(), exact.numpy()).statistic), 5),
                    # A common factor cancels when the weights are self-normalised.
                    "relative_error_of_weights": round(float((error - error.mean()).exp().sub(1).abs().mean()), 5),
                    "spread_of_log_weights": round(float((settings.kappa * exact).std()), 5),
                }
            )
            console.print(rows[-1])
    return rows


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    overrides = [argument for argument in arguments if "=" in argument]
    envs = [argument for argument in arguments if "=" not in argument] or ["hopper", "walker2d", "halfcheetah"]
    console = Console()
    rows = [row for env in envs for row in compare(env, overrides, console)]
    write_csv(RESULTS / "weights.csv", rows)
    console.print(f"lowest rank correlation: {min(float(str(row['rank_correlation'])) for row in rows)}")


if __name__ == "__main__":
    run(main, __doc__)
