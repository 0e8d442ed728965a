"""`fit`: where seeds start, what it refuses, and that training makes policies better."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_trajectories
from rich.console import Console
from setups import compose, curated_of, rarely
from torch import Tensor, nn

import iwbc
from iwbc.data.curated import Curated
from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.evaluation import Evaluator
from iwbc.settings import BC, IWBC, GaussianPolicy
from iwbc.training.fit import fit
from iwbc.training.reference import reference_policy
from iwbc.training.trained import Policies

TOY = make_trajectories([float(i) for i in range(10)])
SMALL = GaussianPolicy(hidden=[8])
QUIET = Console(quiet=True)


def brief(**options: Any) -> Policies:
    return fit(BC(steps=1, warmup_steps=10, batch_size=8), TOY, policy=SMALL, console=QUIET, **options)


def flat(policies: Policies, seed: int) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in policies.of_seed(seed).parameters()])


def test_seeds_start_differently_and_the_same_alone_or_beside_others() -> None:
    # The first learning rate of a warm-up is 0: these are the parameters at the start.
    together, alone = brief(seeds=[4, 5]), brief(seeds=[5])
    assert torch.equal(flat(together, 5), flat(alone, 5))
    assert not torch.equal(flat(together, 4), flat(together, 5))


def test_training_leaves_pytorch_s_own_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    brief(seeds=[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_uncurated_trajectories_are_those_of_which_every_step_counts_the_same() -> None:
    settings = BC(steps=5, warmup_steps=0, batch_size=8)
    everything = Curated(TOY, np.ones(len(TOY)), "transition")
    fitted, expected = (fit(settings, data, policy=SMALL, console=QUIET) for data in (TOY, everything))
    assert torch.equal(flat(fitted, 0), flat(expected, 0))


def test_seeds_are_those_of_the_reference_unless_they_are_named() -> None:
    reference = brief(seeds=[3, 1])
    assert iwbc.fit(IWBC(steps=1, batch_size=8), TOY, reference=reference, console=QUIET).seeds == (3, 1)
    assert iwbc.fit(IWBC(steps=1, batch_size=8), TOY, reference=reference, seeds=[1], console=QUIET).seeds == (1,)
    assert iwbc.fit(BC(steps=1, batch_size=8), TOY, policy=SMALL, console=QUIET).seeds == (0,)


def test_an_impossible_fit_is_refused_in_one_line() -> None:
    with pytest.raises(
        UserError, match=r"^iw-BC: starts from a reference policy; give reference=, such as fit\(BC\(\), data\)$"
    ):
        fit(IWBC(), TOY)
    with pytest.raises(UserError, match=r"^seeds: the reference has no seed 7, only 0$"):
        fit(IWBC(), TOY, reference=brief(), seeds=[0, 7])
    with pytest.raises(UserError, match=r"^algo\.lr=-1: must be positive$"):
        fit(BC(lr=-1), TOY)
    with pytest.raises(
        UserError, match=r"^policy: Linear lacks log_prob and mean_action; a policy has log_prob and mean_action$"
    ):
        fit(BC(), TOY, policy=lambda: nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"^policy: is a Linear; give what makes one, such as lambda: Linear\(…\)$"):
        fit(BC(), TOY, policy=nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"^fit: needs the settings of an algorithm, such as BC\(\), not <class '.*BC'>$"):
        fit(BC, TOY)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^fit: reference= takes the policies that fit or load_policy returns, not a Gaus"):
        fit(IWBC(), TOY, reference=brief()[0])


@pytest.mark.parametrize("seeds", [3, [], [-1], [0.5], [0, 0], ["a"]])
def test_seeds_are_different_whole_numbers(seeds: Any) -> None:
    with pytest.raises(UserError, match=r"^fit: seeds=.*: must be different whole numbers of at least 0"):
        brief(seeds=seeds)


def test_seeds_of_numpy_are_saved(tmp_path: Path) -> None:
    brief(seeds=np.arange(2)).save(tmp_path / "policies.safetensors")
    assert iwbc.load_policy(tmp_path / "policies.safetensors").seeds == (0, 1)


class Frozen(nn.Module):
    """A policy of unit variance behind an encoder that is not to be trained."""

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2).requires_grad_(head)

    def mean_action(self, observations: Tensor) -> Tensor:
        mean: Tensor = self.head(self.encoder(observations))
        return mean

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        return torch.distributions.Normal(self.mean_action(observations), 1.0).log_prob(actions).sum(-1)


def test_what_requires_no_gradient_is_not_trained(tmp_path: Path) -> None:
    made: list[Frozen] = []

    def make() -> Frozen:
        made.append(Frozen())
        return made[-1]

    start = fit(BC(steps=1, warmup_steps=10, batch_size=8), TOY, policy=make, console=QUIET)
    encoder, head = (copy.deepcopy(part.weight) for part in (start[0].encoder, start[0].head))
    tuned = fit(iwbc.FilteredBC(steps=5, warmup_steps=0, batch_size=8), TOY, reference=start, console=QUIET)
    assert torch.equal(tuned[0].encoder.weight, encoder)
    assert not torch.equal(tuned[0].head.weight, head)
    tuned.save(tmp_path / "policy.safetensors")
    assert not iwbc.load_policy(tmp_path / "policy.safetensors", policy=Frozen)[0].encoder.weight.requires_grad

    shipped = brief()
    shipped[0].requires_grad_(False)
    last = list(shipped[0].parameters())[-1].requires_grad_(True)
    before = [parameter.clone() for parameter in shipped[0].parameters()]
    tuned = fit(iwbc.FilteredBC(steps=5, warmup_steps=0, batch_size=8), TOY, reference=shipped, console=QUIET)
    moved = [not torch.equal(a, b) for a, b in zip(before, tuned[0].parameters(), strict=True)]
    assert moved == [parameter is last for parameter in shipped[0].parameters()]

    with pytest.raises(UserError, match=r"^Frozen: has no parameter that requires a gradient"):
        fit(BC(), TOY, policy=lambda: Frozen(head=False), console=QUIET)


def test_another_policy_than_the_reference_s_is_refused_where_training_starts_there() -> None:
    algo, reference = iwbc.FilteredBC(steps=1, batch_size=8), brief()
    for policy in (GaussianPolicy(hidden=[9]), iwbc.settings.MixturePolicy(), Frozen):
        with pytest.raises(UserError, match=r"^filtered BC: starts from the reference, .* leave policy out$"):
            fit(algo, TOY, reference=reference, policy=policy, console=QUIET)
    with pytest.raises(UserError, match="leave policy out"):
        custom = fit(BC(steps=1, batch_size=8), TOY, policy=Frozen, console=QUIET)
        fit(algo, TOY, reference=custom, policy=SMALL, console=QUIET)
    fit(algo, TOY, reference=reference, policy=SMALL, console=QUIET)


def test_predict_draws_samples_only_where_there_are_any() -> None:
    policies = fit(BC(steps=1, batch_size=8), TOY, policy=Frozen, console=QUIET)
    policies.predict(np.zeros(3))
    with pytest.raises(UserError, match=r"^action=sample: Frozen has no method sample"):
        policies.predict(np.zeros(3), deterministic=False)


def test_other_rewards_have_another_value_function() -> None:
    rewards = np.random.default_rng(1).normal(size=TOY.steps).astype(np.float32)
    other = dataclasses.replace(TOY, rewards=rewards)
    assert other.content_hash != TOY.content_hash
    assert dataclasses.replace(TOY, rewards=rewards).content_hash == other.content_hash
    assert other.subset(np.array([0, 1])).content_hash != TOY.subset(np.array([0, 1])).content_hash


def test_a_policy_tuned_on_data_of_other_bounds_is_the_same_when_it_is_loaded(tmp_path: Path) -> None:
    wider = dataclasses.replace(TOY, info=dataclasses.replace(TOY.info, action_low=[-1.05] * 2, action_high=[1.05] * 2))
    algo = iwbc.FilteredBC(steps=3, warmup_steps=0, batch_size=8)
    tuned = fit(algo, wider, reference=brief(), console=QUIET)
    tuned.save(tmp_path / "policy.safetensors")
    loaded = iwbc.load_policy(tmp_path / "policy.safetensors")
    observations, actions = torch.zeros(3, 3), torch.tensor([[1.04, 0.0], [-1.02, 1.05], [0.5, 0.5]])
    assert torch.equal(tuned[0].log_prob(observations, actions), loaded[0].log_prob(observations, actions))


@pytest.mark.parametrize(
    ("algo", "averaging", "factor"),
    [
        ("iw_bc", "trajectory", 5.0),
        rarely("filtered_bc", "trajectory", 5.0),
        rarely("iw_bc", "transition", 1.5),
        rarely("filtered_bc", "transition", 1.5),
    ],
)
def test_fine_tuning_beats_the_reference_by_a_wide_margin(
    algo: str, averaging: str, factor: float, mostly_short_hopper: Trajectories
) -> None:
    # With trajectory averaging, the many short and bad episodes make the reference weak.
    overrides = ["policy.hidden=[64,64]", "reference.steps=1000", "algo.steps=400", "algo.warmup_steps=50", "algo.lr=1e-3"]
    config = compose(f"algo={algo}", f"reference.averaging={averaging}", *overrides)
    reference = reference_policy(mostly_short_hopper, config.policy, config.reference, [0, 1, 2], "cpu", QUIET)
    policies = fit(config.algo, curated_of(config, mostly_short_hopper), reference=reference, console=QUIET)
    evaluator = Evaluator("Hopper-v5", seed=0)
    before, after = (evaluator.evaluate(policy, 10).returns.mean() for policy in (reference, policies))
    assert after > factor * before
    assert after > before + 150.0


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (GaussianPolicy(hidden=[0]), "policy.hidden=.0.: must be positive layer sizes"),
        (GaussianPolicy(hidden=64), "policy.hidden=64: must be a list"),  # type: ignore[arg-type]
        (GaussianPolicy(std="none"), "policy.std=none: must be one of global, state"),
    ],
)
def test_settings_of_a_policy_are_checked_from_python_too(policy: GaussianPolicy, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(BC(steps=1), TOY, policy=policy, console=QUIET)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "needs episodes to play, not 0"),
        ({"episodes": -1}, "evaluate.episodes=-1: must lie between 0 and 1,000,000"),
        ({"episodes": 2.0}, "evaluate.episodes=2.0: must be a whole number"),
        ({"episodes": float("nan")}, "evaluate.episodes=nan: must be a whole number"),
        ({"episodes": 10**9}, "evaluate.episodes=1000000000: must lie between"),
        ({"episodes": None}, "evaluate.episodes=None: must be a whole number"),
        ({"seed": -1}, "evaluate.seed=-1: must not be negative"),
        ({"seed": "a"}, "evaluate.seed=a: must be a whole number"),
        ({"workers": -1}, "workers=-1: must be at least 0"),
        ({"action": "both"}, "one action, not both"),
        ({"action": "best"}, "evaluate.action=best: must be one of mean, sample, both"),
    ],
)
def test_an_impossible_evaluation_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        iwbc.evaluate(brief(), "Pendulum-v1", **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", [-np.ones(10), np.full(10, np.nan), np.zeros(10), np.ones(3), np.ones((10, 1))])
def test_weights_that_cannot_be_are_no_traceback_of_training(weights: Any) -> None:
    with pytest.raises(UserError, match="curation weights"):
        fit(IWBC(steps=1), Curated(TOY, weights, "trajectory"), reference=brief(), console=QUIET)
