"""The trials of curation=auto: for each candidate and fold a policy, cloned from the reference on what the candidate keeps of
the data without the fold, and the log-likelihood of the fold's trajectories under it. Choices are cached by content.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from iwbc import settings
from iwbc.algorithms import make_algorithm
from iwbc.algorithms.algorithm import Ingredients
from iwbc.algorithms.weights import trajectory_log_probs
from iwbc.data.choice import FOLDS, Choice, among, candidate_weights, effective_number, foregone, question_of
from iwbc.data.curated import Curated
from iwbc.data.curation import pinned
from iwbc.data.sampling import StepSampler
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.engine.autograd import module_state
from iwbc.errors import UserError
from iwbc.policies.policy import Policy, window_of
from iwbc.settings import FilteredBC, Recipe, Settings, to_plain
from iwbc.system.files import MALFORMED, cache_folder, digest_of, read_json, write_json
from iwbc.system.interrupts import stop_requests
from iwbc.system.locks import exclusive_lock
from iwbc.training.checkpoints import Checkpoints
from iwbc.training.trained import Policies
from iwbc.training.trainer import Learner, Trainer, steps

# Bump when the same inputs give another choice than before.
_FORMAT = 3
SEED = 0  # of the reference that all are cloned from, so that runs with other seeds choose the same
_TITLE = "trials of curations"


def choose_curation(
    trajectories: Trajectories,
    reference: Policies,
    auto: settings.Auto | None = None,
    *,
    algo: Recipe | None = None,
    averaging: str = "trajectory",
    device: str | torch.device = "cpu",
    console: Console | None = None,
    checkpoint_every: int = 1000,
) -> Choice:
    """Choose a curation (the rule is in data/choice.py), or read from the cache what was chosen for the same inputs before.

    reference: π_ref, of which the first seed counts. algo: whose steps, learning rate and batches the trials have, where it
    starts from the reference; default: FilteredBC(). Raises UserError where there are too few trajectories, KeyboardInterrupt
    when told to stop.
    """
    auto, console = auto or settings.Auto(), console or Console(stderr=True)
    if not (isinstance(auto, settings.Auto) and isinstance(reference, Policies) and reference):
        raise UserError("choose_curation: needs trajectories, the reference policies that fit returns, and Auto(…) or nothing")
    auto.check("curation")
    auto = pinned(auto)  # another content of its file is another question
    if (choice := foregone(auto, trajectories)) is not None:
        return choice
    values, best, candidates = question_of(auto, trajectories)
    recipe = _recipe(algo or FilteredBC())
    parameters = digest_of(module_state(reference[0]), {})
    # Names of groups too: the content hash is of arrays alone, and a choice names groups.
    content = [trajectories.content_hash, trajectories.info.groups]
    inputs = [_FORMAT, *content, to_plain(auto), to_plain(recipe), averaging, parameters]
    path = cache_folder() / "curations" / f"{hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()}.json"
    checkpoint = path.with_suffix(".checkpoint")
    checkpoints = Checkpoints(_TITLE, lambda: checkpoint, path.stem, recipe.steps, checkpoint_every, console, drops=True)
    with exclusive_lock(path.with_suffix(".lock")):  # of processes that ask the same at once, one makes the trials
        if (known := _read(path)) is not None:
            return known
        folds = [np.sort(best[fold::FOLDS]) for fold in range(FOLDS)]
        each = without(folds, candidates, trajectories, values, averaging)
        trained = _train(reference, each, recipe, device, console, checkpoints)
        held_out = [trajectories.subset(fold) for fold in folds]
        likelihoods = np.full((len(candidates), len(best)), np.nan)
        for trial, module in trained.items():
            candidate, fold = divmod(trial, FOLDS)
            likelihoods[candidate, fold::FOLDS] = held_out_log_probs(module, held_out[fold], device)
        effective = [effective_number(candidate_weights(candidate, trajectories, values)) for candidate in candidates]
        choice = among(candidates, effective, likelihoods)
        write_json(path, choice.to_plain())
        checkpoint.unlink(missing_ok=True)
    return choice


def without(
    folds: Sequence[npt.NDArray[np.int64]],
    candidates: Sequence[Settings],
    trajectories: Trajectories,
    values: npt.NDArray[np.float64],
    averaging: str,
) -> list[Curated]:
    """Curate the data without each fold by each candidate: those of a candidate beside each other."""
    places = [np.setdiff1d(np.arange(len(trajectories)), fold) for fold in folds]
    rests = [(trajectories.subset(some), values[some]) for some in places]
    return [
        Curated(rest, candidate_weights(candidate, rest, ranks), averaging) for candidate in candidates for rest, ranks in rests
    ]


def _recipe(algo: Recipe) -> FilteredBC:
    """Return the recipe of the trials: cloning with the algorithm's steps, where it starts from the reference too."""
    if algo.start != "reference":
        return FilteredBC()
    return FilteredBC(**{name: getattr(algo, name) for name in Recipe.of_steps})


def _train(
    reference: Policies,
    data: Sequence[Curated],
    recipe: FilteredBC,
    device: str | torch.device,
    console: Console,
    checkpoints: Checkpoints,
) -> dict[int, Policy]:
    """Clone from the reference on each of the data, side by side; policies by places in `data`, without those that have
    diverged."""
    start = copy.deepcopy(reference[0]).to(device)

    def make_learner(place: int) -> Learner:
        ingredients = Ingredients(copy.deepcopy(start), start, data[place], SEED, device)
        sampler = StepSampler(data[place], SEED, recipe.batch_size, Stream.CHOICE, device, window_of(start))
        return Learner(make_algorithm(recipe, ingredients), sampler, recipe)

    places = range(len(data))
    policies = Policies([copy.deepcopy(start) for _ in places], places, reference.spaces, reference.spec)
    with stop_requests(checkpoints.stop), Trainer(make_learner, places, device) as trainer:
        done = checkpoints.start(trainer, policies)
        for step, loss in steps(trainer, recipe, _TITLE.capitalize(), console, checkpoints.every, done):
            for place in trainer.troubles():
                trainer.drop(place)
            if not trainer.seeds:
                return {}
            checkpoints.after(step, loss, trainer)
        finished = policies.select(*trainer.seeds)
        finished.load(trainer.parameters())
    return dict(zip(finished.seeds, finished, strict=True))


def held_out_log_probs(module: Policy, held_out: Trajectories, device: str | torch.device = "cpu") -> npt.NDArray[np.float64]:
    """Compute ℓ of each trajectory, in nats a step, [n]."""
    everything = Curated(held_out, np.ones(len(held_out)), "trajectory")
    return trajectory_log_probs(module, everything, device).cpu().numpy()


def _read(path: Path) -> Choice | None:
    """Read a choice from the cache, or None where there is none or what is there is damaged."""
    try:
        return Choice.of_plain(read_json(path)) if path.exists() else None
    except (*MALFORMED, UserError):
        path.unlink()
        return None
