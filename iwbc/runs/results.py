"""From evaluations and the curated data to what a run's files say of them: rows, totals, gains, the summary."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from iwbc import __version__
from iwbc.data.choice import Choice
from iwbc.data.curated import Curated
from iwbc.data.curation import keeps_all
from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.evaluation import Evaluation
from iwbc.intervals import interval
from iwbc.runs.rows import EpisodeRow
from iwbc.runs.summary import DatasetSummary, Diverged, Gain, SeedResult, Summary, Total
from iwbc.settings import Config

_LIBRARIES = ("torch", "numpy", "gymnasium", "mujoco", "minari", "hydra-core", "safetensors")

KEEPS_ALL = " (keeps all)"  # after a method's name


def dataset_summary(curated: Curated) -> DatasetSummary:
    """Sum up the data, and how much of it is kept."""
    data, kept = curated.trajectories, curated.kept
    return DatasetSummary(data.info.id, data.content_hash, len(data), data.steps, len(kept), curated.steps)


def method_name(config: Config, curated: Curated) -> str:
    """Name a run's method as tables do, with a word where a curation that was to choose has kept everything alike."""
    return config.method + (KEEPS_ALL if keeps_all(curated.curation_weights, config.curation) else "")


def phase_name(phase: str, action: str, chosen: str) -> str:
    """Name a phase among results: `final`, or `final_sampled` beside it where eval.action is both."""
    return f"{phase}_sampled" if chosen == "both" and action == "sample" else phase


def summary_of(
    config: Config,
    curated: Curated,
    environment: EnvironmentSpec | None,
    scores: ReferenceScores | None,
    evaluations: Mapping[str, Evaluation],
    seconds: Mapping[str, float],
    seeds: Sequence[int],
    diverged: Sequence[Diverged],
    hashes: Mapping[str, str],
    choice: Choice | None,
) -> Summary:
    """Sum up a run. `seeds` are those that finished; `choice` is that of curation=auto."""
    return Summary(
        method=method_name(config, curated),
        environment=environment,
        dataset=dataset_summary(curated),
        algo=config.algo.name,
        curation=config.curation.name,
        chosen=None if choice is None else choice.words,
        averaging=config.averaging,
        seeds=tuple(seeds),
        diverged=tuple(diverged),
        results={
            seed: {phase: of_seed(evaluation, row) for phase, evaluation in evaluations.items()}
            for row, seed in enumerate(seeds)
        },
        totals={phase: totals(evaluation) for phase, evaluation in evaluations.items()},
        gains=gains(evaluations),
        normalisation=scores,
        steps_per_second=config.algo.steps / seconds["training"],
        seed_steps_per_second=config.algo.steps * len(seeds) / seconds["training"],
        seconds=dict(seconds),
        versions=versions(),
        sha256=dict(hashes),
    )


def of_seed(evaluation: Evaluation, row: int) -> SeedResult:
    """Average the episodes of one seed."""
    returns = evaluation.returns[row]
    score, success = (
        None if values is None else float(values[row].mean()) for values in (evaluation.scores, evaluation.successes)
    )
    return SeedResult(len(returns), float(returns.mean()), float(returns.std()), score, success)


def totals(evaluation: Evaluation) -> Total:
    """Average over seeds and episodes, with 95 % intervals: over seeds, or, of one seed, over its episodes."""
    over = "seeds" if len(evaluation.seeds) > 1 else "episodes"
    measures = (evaluation.returns, evaluation.scores, evaluation.successes)
    means = [(None, None) if values is None else (float(values.mean()), interval(values)) for values in measures]
    return Total(evaluation.returns.shape[1], evaluation.action, over, *itertools.chain(*means))  # type: ignore[arg-type]


def gains(evaluations: Mapping[str, Evaluation]) -> dict[str, Gain]:
    """Compare the last policy with the reference that it started from, for each kind of action that both played: the mean
    difference of scores (else of successes, else of returns) in episodes of the same seeds, and its 95 % interval."""
    compared = {}
    for phase, final in evaluations.items():
        reference = evaluations.get(phase.replace("final", "reference"))
        if reference is None or reference is final or reference.seeds != final.seeds:
            continue
        if final.returns.size == 1:  # an episode says nothing of others
            continue
        measure = next(name for name in ("scores", "successes", "returns") if getattr(final, name) is not None)
        difference = getattr(final, measure) - getattr(reference, measure).astype(float)
        compared[phase] = Gain(measure, float(difference.mean()), interval(difference, differences=measure == "successes"))
    return compared


def episode_rows(evaluation: Evaluation, phase: str, step: int) -> list[EpisodeRow]:
    """List every episode of an evaluation."""
    scores, successes = evaluation.scores, evaluation.successes
    return [
        EpisodeRow(
            phase,
            step,
            seed,
            episode,
            evaluation.action,
            float(evaluation.returns[row, episode]),
            int(evaluation.lengths[row, episode]),
            None if scores is None else float(scores[row, episode]),
            None if successes is None else bool(successes[row, episode]),
        )
        for row, seed in enumerate(evaluation.seeds)
        for episode in range(evaluation.returns.shape[1])
    ]


def versions() -> dict[str, str]:
    """List the versions of this package, of the libraries that results depend on, and of PyTorch's device libraries."""
    known = {"iwbc": __version__, **{name: version(name) for name in _LIBRARIES}}
    with contextlib.suppress(PackageNotFoundError):
        known["wandb"] = version("wandb")
    if torch.version.cuda:
        known["cuda"] = torch.version.cuda
    return known
