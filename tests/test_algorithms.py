"""What every algorithm must do, and what importance-weighted BC and AWR compute, through their classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_info, make_trajectories
from iwbc.training import Algorithm, Stream, initial_policy
from setups import algorithm_of, compose, curated_of
from torch import Tensor

from iwbc.algorithms.awr import AdvantageWeightedRegression
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.config import AWR, IWBC, ImportanceWeights, Proposal
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch, StepSampler, generator
from iwbc.data.trajectories import Trajectories
from iwbc.policies import Policy, PolicySpec, policy_spec
from iwbc.train import config_folder

RECIPE = ("policy.hidden=[32,32]", "algo.batch_size=64", "algo.warmup_steps=20", "algo.lr=1e-3")
OTHERS = {name: [f"algo={name}"] for name in ("bc", "filtered_bc", "rwr", "awr")}
IW_BC = {
    f"iw_bc-{level}-{kind}-{estimator}": [
        "algo=iw_bc",
        f"algo.level={level}",
        f"algo.proposal={kind}",
        f"algo.estimator={estimator}",
        # A product over hundreds of steps is soon beyond any bound that fits a mean.
        f"algo.maximum={1e9 if level == 'clipped_product' else 3}",
        "algo.refresh_every=7",
        "algo.copy_every=7",
    ]
    for level in ("trajectory", "clipped_product", "step")
    for kind in ("ema", "policy", "copy")
    for estimator in ("running", "exact")
}
VARIANTS = OTHERS | IW_BC
every_variant = pytest.mark.parametrize("name", VARIANTS)


def test_every_algorithm_in_conf_is_here() -> None:
    shipped = {path.stem for path in (Path(config_folder()) / "algo").glob("*.yaml")}
    assert shipped == {name.split("-")[0] for name in VARIANTS}


def untrained_reference(trajectories: Trajectories, seeds: list[int]) -> Policy:
    policy = initial_policy(policy_spec(compose(*RECIPE).policy, trajectories), seeds, "cpu")
    policy.parameters.named()["log_std"].fill_(-0.5)
    return policy


class Trainer:
    """An algorithm with its minibatches; `overrides` are command-line arguments."""

    def __init__(self, trajectories: Trajectories, overrides: list[str], seeds: list[int] | None = None) -> None:
        seeds = seeds or [0]
        self.config = compose(*RECIPE, *overrides, f"seeds={seeds}")
        self.curated = curated_of(self.config, trajectories)
        reference = untrained_reference(trajectories, seeds) if self.config.algo.start == "reference" else None
        self.algorithm: Any = algorithm_of(self.config, self.curated, reference)
        self.sampler = StepSampler(self.curated, seeds, self.config.algo.batch_size, Stream.TRAINING)

    def run(self, steps: int, start: int = 0, each: Callable[[Algorithm], None] = lambda algorithm: None) -> Tensor:
        loss = torch.empty(0)
        for step in range(start, start + steps):
            each(self.algorithm)
            loss = self.algorithm.update(self.sampler.batch(step), self.config.algo.learning_rate(step))
        return loss

    @property
    def flat(self) -> Tensor:
        return self.algorithm.policy.parameters.flat


# --- the contract ----------------------------------------------------------------------------------------------------


@every_variant
def test_losses_and_metrics_are_finite_per_seed(name: str, hopper: Trajectories) -> None:
    trainer = Trainer(hopper, VARIANTS[name], [3, 4])
    before = trainer.flat.clone()
    for value in [trainer.run(10), *trainer.algorithm.metrics().values()]:
        assert value.shape == (2,)
        assert torch.isfinite(value).all()
    assert (trainer.flat != before).any(1).all()


@every_variant
def test_a_loaded_state_continues_bit_for_bit(name: str, hopper: Trajectories) -> None:
    whole = Trainer(hopper, VARIANTS[name], [0, 1])
    whole.run(10)
    saved = {key: value.clone() for key, value in whole.algorithm.state().items()}
    whole.run(10, start=10)
    continued = Trainer(hopper, VARIANTS[name], [0, 1])
    continued.algorithm.load(saved)
    continued.run(10, start=10)
    expected, found = whole.algorithm.state(), continued.algorithm.state()
    assert expected.keys() == found.keys()
    for key in expected:
        assert torch.equal(expected[key], found[key]), key
    for key, value in whole.algorithm.metrics().items():
        assert torch.equal(value, continued.algorithm.metrics()[key]), key


@every_variant
def test_a_loaded_state_is_a_copy(name: str, hopper: Trajectories) -> None:
    trainer = Trainer(hopper, VARIANTS[name])
    trainer.run(3)
    saved = {key: value.clone() for key, value in trainer.algorithm.state().items()}
    kept = {key: value.clone() for key, value in saved.items()}
    trainer.algorithm.load(saved)
    trainer.run(3, start=3)
    for key in saved:
        assert torch.equal(saved[key], kept[key]), key


@every_variant
def test_seeds_as_a_batch_equal_single_runs(name: str, hopper: Trajectories) -> None:
    together = Trainer(hopper, VARIANTS[name], [0, 1, 2])
    first = together.flat.clone()
    together.run(100)
    for row, seed in enumerate([0, 1, 2]):
        alone = Trainer(hopper, VARIANTS[name], [seed])
        assert torch.equal(alone.flat[0], first[row])
        for step in (0, 99):
            mine, theirs = alone.sampler.batch(step), together.sampler.batch(step)
            assert torch.equal(mine.observations[0], theirs.observations[row])
            assert torch.equal(mine.actions[0], theirs.actions[row])
        alone.run(100)
        assert (alone.flat[0] - first[row]).abs().max() > 1e-2  # it did train
        torch.testing.assert_close(alone.flat[0], together.flat[row], rtol=0.0, atol=1e-4)


# --- importance-weighted BC: what it has in common with filtered BC ----------------------------------------------------


def filtered_bc(hopper: Trajectories, steps: int = 20) -> Tensor:
    trainer = Trainer(hopper, ["algo=filtered_bc", "curation=quality_levels"])
    trainer.run(steps)
    return trainer.flat


@pytest.mark.parametrize("name", IW_BC)
def test_kappa_zero_is_filtered_bc(name: str, hopper: Trajectories) -> None:
    # A clipped product has no temperature: steps all clipped to a ratio of 1 are its κ = 0.
    change = "algo.step_ratio_bounds=[1,1]" if "clipped_product" in name else "algo.kappa=0"
    trainer = Trainer(hopper, [*IW_BC[name], change])
    trainer.run(20)
    torch.testing.assert_close(trainer.flat, filtered_bc(hopper), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in IW_BC if "-ema-" in name])
def test_a_frozen_proposal_is_filtered_bc(name: str, hopper: Trajectories) -> None:
    trainer = Trainer(hopper, [*IW_BC[name], "algo.decay=1"])
    trainer.run(20)
    torch.testing.assert_close(trainer.flat, filtered_bc(hopper), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("name", IW_BC)
def test_otherwise_it_is_not_filtered_bc(name: str, hopper: Trajectories) -> None:
    trainer = Trainer(hopper, IW_BC[name])
    trainer.run(40)
    assert (trainer.flat - filtered_bc(hopper, 40)).abs().max() > 1e-4


# --- importance-weighted BC: three trajectories by hand ----------------------------------------------------------------
#
# π_ref = N(0, 1), π_q = π_θ = N(m, 1) with m = 0.5 whatever the observation: a step's log ratio is m a − m²/2, that is
# 0.5 a − 0.125. Returns do not matter: all three trajectories are kept, with equal weight.

M = 0.5
ACTIONS = [[1.0, 0.5], [-1.0], [0.25, 0.25, 0.25]]
LOG_RATIOS = [[0.375, 0.125], [-0.625], [0.0, 0.0, 0.0]]
ROWS = [0, 1, 2, 5]  # a minibatch: both steps of the first trajectory, the second's, the last of the third's
TRAJECTORY = [0, 0, 1, 2]


def by_hand(level: str, kappa: float, minimum: float, maximum: float, self_normalise: bool) -> ImportanceWeightedBC:
    toy = make_trajectories([1.0, 2.0, 3.0], [2, 1, 3], observation_size=1, action_size=1)
    toy.actions[:, 0] = np.concatenate([np.asarray(actions) for actions in ACTIONS])
    spec = PolicySpec("tanh_mean", "global", (), (-5.0, 2.0), (-1.0,), (1.0,), 1)
    reference, policy = Policy(spec, (0,)), Policy(spec, (0,))
    policy.parameters.named()["bias0"].fill_(math.atanh(M))
    settings = IWBC(
        steps=1,
        lr=1.0,
        schedule="constant",
        warmup_steps=0,
        batch_size=4,
        name="iw_bc",
        proposal=Proposal("policy", 0.9, 1),
        weights=ImportanceWeights(level, kappa, minimum, maximum, [0.8, 1.2], self_normalise, "exact", 1),
    )
    return ImportanceWeightedBC(policy, reference, Curated(toy, np.ones(3), "trajectory"), settings)


@pytest.mark.parametrize(
    ("level", "kappa", "minimum", "maximum", "weights"),
    [
        # Mean log ratios 0.25, −0.625, 0.
        ("trajectory", 2.0, 0.0, 1000.0, [math.exp(0.5), math.exp(0.5), math.exp(-1.25), 1.0]),
        ("trajectory", 2.0, 0.0, 1.5, [1.5, 1.5, math.exp(-1.25), 1.0]),
        # Ratios e^0.375 and e^−0.625 are clipped to 1.2 and 0.8; the product is over steps, not their mean.
        ("clipped_product", 2.0, 0.0, 1000.0, [1.2 * math.exp(0.125)] * 2 + [0.8, 1.0]),
        ("clipped_product", 2.0, 0.9, 1.3, [1.3, 1.3, 0.9, 1.0]),
        ("step", 2.0, 0.0, 1000.0, [math.exp(0.75), math.exp(0.25), math.exp(-1.25), 1.0]),
        ("step", 2.0, 0.5, 2.0, [2.0, math.exp(0.25), 0.5, 1.0]),
    ],
)
@pytest.mark.parametrize("self_normalise", [True, False])
def test_weights_of_three_trajectories_by_hand(
    level: str, kappa: float, minimum: float, maximum: float, weights: list[float], self_normalise: bool
) -> None:
    algorithm = by_hand(level, kappa, minimum, maximum, self_normalise)
    data = algorithm.curated.trajectories
    rows = torch.tensor([ROWS])
    batch = Minibatch(
        observations=torch.from_numpy(data.observations)[rows],
        actions=torch.from_numpy(data.actions)[rows],
        trajectory=torch.tensor([TRAJECTORY]),
        row=rows,
    )
    ascended: list[Tensor] = []
    algorithm.likelihood.adam.ascend = lambda gradient, rate: ascended.extend(gradient)  # type: ignore[method-assign]
    loss = algorithm.update(batch, 0.0)
    actions, w = data.actions[ROWS, 0].astype(np.float64), np.asarray(weights)
    if self_normalise:
        w = w / w.mean()
    log_prob = -0.5 * (actions - M) ** 2 - 0.5 * math.log(2 * math.pi)
    assert loss.item() == pytest.approx(-(w * log_prob).mean(), abs=1e-6)
    # The gradient with respect to the bias, weights held constant: mean(w (a − m)) dm/dbias with m = tanh(bias).
    assert ascended[1].item() == pytest.approx((w * (actions - M)).mean() * (1 - M**2), abs=1e-6)
    # Diagnostics are of all three trajectories (of the minibatch's steps at step level), before self-normalisation.
    shown = np.asarray(weights if level == "step" else [weights[0], weights[2], weights[3]])
    metrics = {name: value.item() for name, value in algorithm.metrics().items()}
    assert metrics["weight_min"] == pytest.approx(shown.min(), abs=1e-6)
    assert metrics["weight_max"] == pytest.approx(shown.max(), abs=1e-6)
    assert metrics["ess_share"] == pytest.approx(shown.sum() ** 2 / (shown**2).sum() / len(shown), abs=1e-6)
    at_bounds = [(x == maximum) or (minimum > 0 and x == minimum) for x in shown]
    assert metrics["clipped_share"] == pytest.approx(np.mean(at_bounds))


def test_exact_log_ratios_by_hand() -> None:
    algorithm = by_hand("trajectory", 1.0, 0.0, 10.0, True)
    expected = torch.tensor([[np.mean(ratios) for ratios in LOG_RATIOS]])
    torch.testing.assert_close(algorithm.exact_log_ratios(algorithm.policy), expected, rtol=0.0, atol=1e-6)


# --- importance-weighted BC: the proposal ------------------------------------------------------------------------------


def proposals(hopper: Trajectories, name: str, next_proposal: Callable[[int, Tensor, Tensor], Tensor]) -> None:
    """Compare θ_q with a recursion: (step, θ_q, θ before the step's gradient) → θ_q."""
    trainer = Trainer(hopper, [*IW_BC[name], "algo.refresh_every=1"], [0, 1])
    expected = trainer.algorithm.proposal.parameters.flat.clone()
    for step in range(20):
        expected = next_proposal(step, expected, trainer.flat.clone())
        trainer.run(1, start=step)
        torch.testing.assert_close(trainer.algorithm.proposal.parameters.flat, expected, rtol=0.0, atol=1e-6)
    assert (expected - trainer.flat).abs().max() > 1e-4
    if "exact" in name and "step" not in name:
        exact = trainer.algorithm.exact_log_ratios(trainer.algorithm.proposal)
        assert torch.equal(trainer.algorithm.proposal_log_ratios, exact)


@pytest.mark.parametrize("name", ["iw_bc-trajectory-ema-exact", "iw_bc-step-ema-running"])
def test_the_average_moves_before_the_gradient_step(name: str, hopper: Trajectories) -> None:
    proposals(hopper, name, lambda step, proposal, policy: 0.9 * proposal + 0.1 * policy)


@pytest.mark.parametrize("name", ["iw_bc-trajectory-policy-exact", "iw_bc-step-policy-running"])
def test_the_policy_as_its_own_proposal(name: str, hopper: Trajectories) -> None:
    proposals(hopper, name, lambda step, proposal, policy: policy)


@pytest.mark.parametrize("name", [name for name in IW_BC if "-copy-" in name])
def test_the_copy_is_made_every_so_many_steps(name: str, hopper: Trajectories) -> None:
    proposals(hopper, name, lambda step, proposal, policy: policy if step % 7 == 0 else proposal)


@pytest.mark.parametrize("kind", ["ema", "policy"])
def test_running_log_ratios_follow_the_proposal(kind: str, hopper: Trajectories) -> None:
    trainer = Trainer(hopper, IW_BC[f"iw_bc-trajectory-{kind}-running"])
    rate = {"ema": 0.1, "policy": 1.0}[kind]
    expected = torch.zeros_like(trainer.algorithm.proposal_log_ratios)
    for step in range(40):
        trainer.run(1, start=step)
        if step % 16 == 0:  # the estimate has just taken note of the sixteen minibatches before this one
            for _ in range(16):
                expected = (1 - rate) * expected + rate * trainer.algorithm.running.estimate()
        torch.testing.assert_close(trainer.algorithm.proposal_log_ratios, expected)
    assert expected.abs().max() > 1e-3


# --- AWR -----------------------------------------------------------------------------------------------------------------


def awr_settings(**changes: Any) -> AWR:
    fields: dict[str, Any] = {
        "steps": 300,
        "lr": 5e-3,
        "schedule": "constant",
        "warmup_steps": 0,
        "batch_size": 128,
        "name": "awr",
        "start": "scratch",
        "gamma": 0.9,
        "lam": 0.5,
        "temperature": 1.0,
        "maximum": 20.0,
        "value_lr": 1e-2,
        "value_hidden": [],
        "refresh_every": 100,
    }
    return AWR(**(fields | changes))


def awr(trajectories: Trajectories, settings: AWR) -> AdvantageWeightedRegression:
    spec = PolicySpec("tanh_mean", "global", (), (-5.0, 2.0), (-1.0,), (1.0,), 1)
    everything = Curated(trajectories, np.ones(len(trajectories)), "transition")
    policy = initial_policy(spec, [0], "cpu")
    return AdvantageWeightedRegression(policy, everything, settings, [generator(Stream.VALUE, 0)])


def test_awr_targets_and_weights_by_hand() -> None:
    # Observations with mean 0 and standard deviation 1, so that V(s) = s for a linear V with weight 1 and bias 0.
    toy = Trajectories(
        info=make_info(1),
        content_hash="0" * 64,
        observations=np.array([[1.0], [-1.0], [1.0], [-1.0]], np.float32),
        actions=np.zeros((4, 1), np.float32),
        rewards=np.array([10.0, 20.0, 30.0, 40.0], np.float32),
        final_observations=np.array([[5.0], [3.0]], np.float32),
        offsets=np.array([0, 2, 4]),
        terminated=np.array([True, False]),
        successes=None,
    )
    algorithm = awr(toy, awr_settings(value_lr=0.0))
    algorithm.value.named()["weight0"].fill_(1.0)
    algorithm.value.named()["bias0"].fill_(0.0)
    batch = StepSampler(algorithm.curated, [0], 4, Stream.TRAINING).batch(0)
    algorithm.update(batch, 0.0)
    # Rewards times 1 − γ = 0.1; λ = 0.5. The first trajectory ends in a terminal state, the second at a time limit.
    last_1 = 2.0
    first_1 = 1.0 + 0.9 * (0.5 * -1.0 + 0.5 * last_1)
    last_2 = 4.0 + 0.9 * 3.0
    first_2 = 3.0 + 0.9 * (0.5 * -1.0 + 0.5 * last_2)
    targets = np.array([first_1, last_1, first_2, last_2])
    np.testing.assert_allclose(algorithm.targets[0].numpy(), targets, rtol=1e-6)
    advantages = targets - np.array([1.0, -1.0, 1.0, -1.0])
    weights = np.minimum(np.exp((advantages - advantages.mean()) / advantages.std()), 20.0)
    np.testing.assert_allclose(algorithm.weights[0].numpy(), weights, rtol=1e-5)


def test_awr_computes_targets_and_weights_anew_every_so_many_steps() -> None:
    toy = make_trajectories([1.0, 5.0, 2.0], [5, 3, 4], observation_size=1, action_size=1)
    algorithm = awr(toy, awr_settings(refresh_every=3))
    sampler = StepSampler(algorithm.curated, [0], 8, Stream.TRAINING)
    changed = []
    for step in range(7):
        before = algorithm.targets.clone(), algorithm.weights.clone()
        algorithm.update(sampler.batch(step), 1e-2)
        changed.append([not torch.equal(*pair) for pair in zip(before, (algorithm.targets, algorithm.weights), strict=True)])
    assert changed == [[step % 3 == 0] * 2 for step in range(7)]


def test_awr_prefers_the_better_action_of_a_bandit() -> None:
    random = np.random.default_rng(0)
    actions = random.uniform(-1.0, 1.0, (2000, 1)).astype(np.float32)
    bandit = Trajectories(
        info=make_info(1),
        content_hash="0" * 64,
        observations=np.zeros((2000, 1), np.float32),
        actions=actions,
        rewards=-((actions[:, 0] - 0.6) ** 2),
        final_observations=np.zeros((2000, 1), np.float32),
        offsets=np.arange(2001),
        terminated=np.ones(2000, np.bool_),
        successes=None,
    )
    # V is the same for all, so advantages are the rewards up to a constant; a Normal's fit is the weighted mean.
    standardised = (bandit.rewards - bandit.rewards.mean()) / bandit.rewards.std()
    weights = np.minimum(np.exp(standardised / 0.5), 5.0)
    expected = {5.0: (weights * actions[:, 0]).sum() / weights.sum(), 1e-6: actions.mean()}
    assert expected[5.0] > 0.4
    for maximum, mean in expected.items():
        algorithm = awr(bandit, awr_settings(temperature=0.5, maximum=maximum))
        sampler = StepSampler(algorithm.curated, [0], 128, Stream.TRAINING)
        for step in range(300):
            algorithm.update(sampler.batch(step), 2e-2)
        assert algorithm.policy.mean_action(torch.zeros(1, 1, 1)).item() == pytest.approx(mean, abs=0.05)
