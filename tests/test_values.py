"""Algorithms with value networks: what AWR, its critic and IQL compute, through their classes, and transitions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_info, make_trajectories
from torch import Tensor, nn

from iwbc import engine
from iwbc.algorithms import Ingredients
from iwbc.algorithms.awr import AdvantageWeightedRegression
from iwbc.algorithms.critic import FittedValue
from iwbc.algorithms.iql import ImplicitQLearning, published_reward_scale
from iwbc.algorithms.values import value_network, value_units
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch, StepSampler
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.data.transitions import Transitions
from iwbc.policies import GaussianMLP, Units
from iwbc.settings import AWR, IQL, Critic
from iwbc.training.trainer import Learner


def all_of(trajectories: Trajectories) -> Curated:
    return Curated(trajectories, np.ones(len(trajectories)), "transition")


def small_policy(observation_size: int = 1) -> GaussianMLP:
    return GaussianMLP(observation_size, Units([-1.0], [1.0]), hidden=[])


def set_linear(network: nn.Module, *values: float) -> None:
    """Give a network of one layer these weights and then this bias."""
    weight, bias = network.parameters()
    weight.data.copy_(torch.tensor([values[:-1]]))
    bias.data.fill_(values[-1])


# Observations with mean 0 and standard deviation 1, so that a linear V of weight 1 and bias 0 is V(s) = s. The first
# trajectory ends in a terminal state, the second at a time limit.
TOY = Trajectories(
    info=make_info(1),
    known_hash="0" * 64,
    observations=np.array([[1.0], [-1.0], [1.0], [-1.0]], np.float32),
    actions=np.array([[0.5], [-0.5], [0.25], [1.0]], np.float32),
    rewards=np.array([10.0, 20.0, 30.0, 40.0], np.float32),
    final_observations=np.array([[5.0], [3.0]], np.float32),
    offsets=np.array([0, 2, 4]),
    terminated=np.array([True, False]),
    successes=None,
)
# With rewards times 1 − γ = 0.1, and λ = 0.5.
FIRST = 1.0 + 0.9 * (0.5 * -1.0 + 0.5 * 2.0)
SECOND = 3.0 + 0.9 * (0.5 * -1.0 + 0.5 * (4.0 + 0.9 * 3.0))
TD_LAMBDA = np.array([FIRST, 2.0, SECOND, 4.0 + 0.9 * 3.0])


# --- transitions -----------------------------------------------------------------------------------------------------


def batch_of(curated: Curated, *steps: int) -> Minibatch:
    """A minibatch of these kept steps."""
    step = torch.tensor(steps)
    trajectory = torch.from_numpy(np.searchsorted(curated.offsets, steps, side="right") - 1)
    observations, actions = curated.trajectories.tensors()
    rows = torch.from_numpy(curated.rows)[step]
    return Minibatch(observations[rows], actions[rows], trajectory, step)


def in_turn(whole: Trajectories) -> dict[str, tuple[Trajectories, np.ndarray]]:
    """Ways to keep trajectories 4, 1 and 3 of five, with their indices in the dataset as it then is."""
    weights = np.array([0.0, 1.0, 0.0, 2.0, 1.0])
    return {"curated": (whole, weights), "a subset": (whole.subset(np.array([4, 0, 1, 3])), np.array([1.0, 0.0, 1.0, 1.0]))}


@pytest.mark.parametrize("kept", ["curated", "a subset"])
def test_a_step_is_followed_by_the_next_row_or_by_the_final_observation(kept: str) -> None:
    whole = make_trajectories(range(5), [3, 1, 4, 2, 5], terminated=[True, True, False, False, True])
    data, weights = in_turn(whole)[kept]
    curated = Curated(data, weights, "trajectory")
    batch = batch_of(curated, *range(curated.steps), 0, curated.steps - 1)
    rewards, following, continues = Transitions(curated).of(batch)
    expected: list[tuple[float, np.ndarray, bool]] = []
    for index in curated.kept:
        episode = data[int(index)]
        observations = np.concatenate([episode.observations, episode.final_observation[None]])
        for t, reward in enumerate(episode.rewards):
            ended = t == len(episode.rewards) - 1 and episode.terminated
            expected.append((float(reward), observations[t + 1], not ended))
    expected += [expected[0], expected[-1]]
    assert rewards.tolist() == [reward for reward, _, _ in expected]
    assert np.array_equal(following.numpy(), np.stack([observation for _, observation, _ in expected]))
    assert continues.tolist() == [goes_on for _, _, goes_on in expected]


def test_transitions_copy_neither_observations_nor_rewards() -> None:
    data = make_trajectories([1.0, 2.0], [3, 4])
    transitions = Transitions(all_of(data))
    data.observations[1] = 7.0
    data.rewards[0] = 9.0
    rewards, following, _ = transitions.of(batch_of(all_of(data), 0))
    assert (rewards.tolist(), following[0].tolist()) == ([9.0], [7.0] * 3)


# --- the units -------------------------------------------------------------------------------------------------------


def test_values_see_standardised_observations_and_actions_of_one() -> None:
    toy = make_trajectories([1.0], [2], observation_size=1, action_size=1)
    toy.observations[:, 0] = -1.0, 5.0  # with mean 2 and standard deviation 3
    units = value_units(toy)
    assert units.observations(torch.tensor([[5.0], [-4.0], [1e6]])).flatten().tolist() == pytest.approx([1.0, -2.0, 100.0])
    wide = replace(toy, info=make_info(1, low=[0.0], high=[4.0]))
    wide.actions[:, 0] = 0.5, 3.0
    assert value_units(wide).to_units(torch.tensor([[0.0], [3.0]])).flatten().tolist() == pytest.approx([-1.0, 0.5])


# --- AWR -------------------------------------------------------------------------------------------------------------


def awr(trajectories: Trajectories, critic: nn.Sequential, **changes: Any) -> AdvantageWeightedRegression:
    settings = AWR(**({"gamma": 0.9, "lam": 0.5, "temperature": 1.0} | changes))
    return AdvantageWeightedRegression(settings, Ingredients(small_policy(), None, all_of(trajectories), 0, critic=critic))


def linear_critic(*values: float) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(len(values) - 1, 1))
    set_linear(network, *values)
    return network


def test_awr_weights_by_hand() -> None:
    algorithm = awr(TOY, linear_critic(1.0, 0.0))
    advantages = TD_LAMBDA - np.array([1.0, -1.0, 1.0, -1.0])
    weights = np.minimum(np.exp((advantages - advantages.mean()) / advantages.std()), 20.0)
    np.testing.assert_allclose(algorithm.weights.numpy(), weights, rtol=1e-5)
    batch = StepSampler(all_of(TOY), 0, 4, Stream.TRAINING).batch(0)
    with torch.no_grad():
        loss = algorithm.update(batch, 0, 0.0)
    log_prob = engine.log_prob(algorithm.policy, batch.observations, batch.actions)
    assert loss.item() == pytest.approx(-(algorithm.weigh(batch) * log_prob).mean().item(), rel=1e-5)


def test_weights_of_awr_stay_as_they_are() -> None:
    algorithm = awr(TOY, linear_critic(1.0, 0.0))
    before = algorithm.weights.clone()
    sampler = StepSampler(all_of(TOY), 0, 8, Stream.TRAINING)
    with torch.no_grad():
        for step in range(5):
            algorithm.update(sampler.batch(step), step, 1e-2)
    assert torch.equal(algorithm.weights, before)


def test_diagnostics_of_awr_by_hand() -> None:
    algorithm = awr(make_trajectories([1.0], [4], observation_size=1, action_size=1), linear_critic(1.0, 0.0), maximum=20.0)
    algorithm.weights = torch.tensor([1.0, 2.0, 3.0, 20.0])
    metrics = {name: value.item() for name, value in algorithm.metrics().items()}
    expected = {"weight_min": 1.0, "weight_median": 2.0, "weight_max": 20.0, "clipped_share": 0.25}
    assert metrics == pytest.approx(expected | {"ess_share": 26**2 / 414 / 4})


def bandit() -> Trajectories:
    """2,000 episodes of a step, of which the best action is 0.6."""
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (2000, 1)).astype(np.float32)
    return Trajectories(
        info=make_info(1),
        known_hash="0" * 64,
        observations=np.zeros((2000, 1), np.float32),
        actions=actions,
        rewards=-((actions[:, 0] - 0.6) ** 2),
        final_observations=np.zeros((2000, 1), np.float32),
        offsets=np.arange(2001),
        terminated=np.ones(2000, np.bool_),
        successes=None,
    )


@pytest.mark.parametrize("maximum", [5.0, 1e-6])
def test_awr_prefers_the_better_action_of_a_bandit(maximum: float) -> None:
    data = bandit()
    # V is the same for all, so advantages are the rewards up to a constant; a Normal's fit is the weighted mean.
    standardised = (data.rewards - data.rewards.mean()) / data.rewards.std()
    weights = np.minimum(np.exp(standardised / 0.5), maximum)
    mean = (weights * data.actions[:, 0]).sum() / weights.sum()
    assert (mean > 0.4) == (maximum == 5.0)
    algorithm = awr(data, linear_critic(1.0, 0.0), temperature=0.5, maximum=maximum)
    sampler = StepSampler(all_of(data), 0, 128, Stream.TRAINING)
    with torch.no_grad():
        for step in range(300):
            algorithm.update(sampler.batch(step), step, 2e-2)
    assert algorithm.policy.mean_action(torch.zeros(1, 1)).item() == pytest.approx(mean, abs=0.05)


# --- the critic ------------------------------------------------------------------------------------------------------


def fitted(trajectories: Trajectories, **changes: Any) -> tuple[FittedValue, Learner]:
    settings = Critic(**({"gamma": 0.9, "lam": 0.5, "hidden": [], "lr": 1e-2, "batch_size": 8} | changes))
    algorithm = FittedValue(settings, all_of(trajectories), 0)
    return algorithm, Learner(algorithm, StepSampler(all_of(trajectories), 0, settings.batch_size, Stream.CRITIC), settings)


def test_targets_of_the_critic_by_hand() -> None:
    algorithm, _ = fitted(TOY)
    set_linear(algorithm.policy, 1.0, 0.0)
    with torch.no_grad():
        loss = algorithm.update(batch_of(all_of(TOY), 0, 3), 0, 0.0)
    np.testing.assert_allclose(algorithm.targets.numpy(), TD_LAMBDA, rtol=1e-6)
    assert loss.item() == pytest.approx(((TD_LAMBDA[0] - 1.0) ** 2 + (TD_LAMBDA[3] + 1.0) ** 2) / 2.0)


def test_without_discount_rewards_stay_as_they_are() -> None:
    toy = make_trajectories([4.0, 3.0], [2, 1], observation_size=1, action_size=1)
    algorithm, learner = fitted(toy, gamma=1.0, lam=1.0)
    learner.train(0, 1)
    assert algorithm.targets.tolist() == pytest.approx([4.0, 2.0, 3.0])


def test_the_critic_recomputes_its_targets_every_so_many_steps() -> None:
    toy = make_trajectories([1.0, 5.0, 2.0], [5, 3, 4], observation_size=1, action_size=1)
    algorithm, learner = fitted(toy, refresh_every=3)
    changed = []
    for step in range(7):
        before = algorithm.targets.clone()
        learner.train(step, step + 1)
        changed.append(not torch.equal(before, algorithm.targets))
    assert changed == [step % 3 == 0 for step in range(7)]


def test_the_critic_of_a_bandit_is_the_mean_reward() -> None:
    data = bandit()
    algorithm, learner = fitted(data, refresh_every=100, steps=400, batch_size=128)
    learner.train(0, 400)
    value = engine.values(algorithm.policy, algorithm.returns.units.observations(torch.zeros(1, 1)))
    assert value.item() == pytest.approx(0.1 * data.rewards.mean(), abs=0.01)


# --- IQL -------------------------------------------------------------------------------------------------------------

BRIEF: dict[str, Any] = {"gamma": 0.9, "value_hidden": [], "value_lr": 1e-2, "reward_scale": 0.1}


def iql(trajectories: Trajectories, **changes: Any) -> ImplicitQLearning:
    settings = IQL(**(BRIEF | changes))
    return ImplicitQLearning(settings, Ingredients(small_policy(), None, all_of(trajectories), 0))


def after_first_adam_step(value: float, slope: float, rate: float = 1e-2) -> float:
    """A parameter after Adam's first step down a slope, which is as long as the learning rate."""
    return value - rate * np.sign(slope)


def test_one_update_of_iql_by_hand() -> None:
    algorithm = iql(TOY, beta=0.5, maximum=2.0)
    set_linear(algorithm.value, 1.0, 0.5)  # V(s) = s + 0.5
    for network, bias in zip((*algorithm.twins, *algorithm.targets), (0.0, 1.0, 0.25, 4.0), strict=True):
        set_linear(network, 1.0, 2.0, bias)  # Q(s, a) = s + 2 a + bias
    batch = batch_of(all_of(TOY), 0, 1, 2, 3)
    s, a, r = (array.flatten() for array in (TOY.observations, TOY.actions, TOY.rewards))
    q = s + 2.0 * a + 0.25  # the lesser of the targets
    u = q - (s + 0.5)
    w = np.minimum(np.exp(0.5 * u), 2.0)
    np.testing.assert_allclose(algorithm.weigh(batch).numpy(), w, rtol=1e-6)
    assert ((w == 2.0).sum(), (u < 0.0).sum()) == (1, 1)
    log_prob = engine.log_prob(algorithm.policy, batch.observations, batch.actions).numpy()
    with torch.no_grad():
        loss = algorithm.update(batch, 0, 0.0)
    assert loss.item() == pytest.approx(-(w * log_prob).mean(), rel=1e-6)
    # The first trajectory's end is terminal; the second's is followed by the observation 3.
    following = np.array([-1.0 + 0.5, 0.0, -1.0 + 0.5, 3.0 + 0.5])
    y = 0.1 * r + 0.9 * following
    for network, bias, average in zip(algorithm.twins, (0.0, 1.0), (0.25, 4.0), strict=True):
        error = y - (s + 2.0 * a + bias)
        slopes = [-(error * x).mean() for x in (s, a, np.ones(4))]
        expected = [after_first_adam_step(*pair) for pair in zip((1.0, 2.0, bias), slopes, strict=True)]
        assert parameters_of(network) == pytest.approx(expected, abs=1e-5)
        target = algorithm.targets[algorithm.twins.index(network)]
        averaged = [b + 0.005 * (x - b) for b, x in zip((1.0, 2.0, average), expected, strict=True)]
        assert parameters_of(target) == pytest.approx(averaged, abs=1e-6)
    slopes = [-(np.where(u < 0.0, 0.3, 0.7) * u * x).mean() for x in (s, np.ones(4))]
    expected = [after_first_adam_step(*pair) for pair in zip((1.0, 0.5), slopes, strict=True)]
    assert parameters_of(algorithm.value) == pytest.approx(expected, abs=1e-5)


def parameters_of(network: nn.Module) -> list[float]:
    return [value for parameter in network.parameters() for value in parameter.flatten().tolist()]


def test_the_rewards_scale_is_the_published_rule() -> None:
    data = make_trajectories([100.0, 3300.0, 500.0], [40, 1000, 700])
    assert published_reward_scale(data) == pytest.approx(1000.0 / 3200.0)
    assert published_reward_scale(make_trajectories([2.0, 2.0])) == 1.0
    assert iql(TOY, reward_scale=None).reward_scale == pytest.approx(2.0 / 40.0)


@pytest.mark.parametrize("fast", [True, False])
def test_v_of_a_bandit_is_the_expectile_of_what_its_actions_are_worth(fast: bool) -> None:
    data = bandit()
    with engine.switched(fast):
        algorithm = iql(data, reward_scale=1.0, expectile=0.9, target_rate=0.05, value_hidden=[32], beta=10.0)
        learner = Learner(algorithm, StepSampler(all_of(data), 0, 256, Stream.TRAINING), replace(IQL(**BRIEF), lr=2e-2))
        learner.train(0, 600)
    states = torch.zeros(1, 1)
    pairs = torch.tensor([[0.0, -0.5], [0.0, 0.2], [0.0, 0.6]])
    for twin in algorithm.twins:  # Q is the reward, whatever comes after
        assert engine.values(twin, pairs).tolist() == pytest.approx([-1.21, -0.16, 0.0], abs=0.08)
    rewards = torch.from_numpy(data.rewards).double()
    assert engine.values(algorithm.value, states).item() == pytest.approx(expectile_of(rewards, 0.9), abs=0.05)
    weights = torch.exp(10.0 * (rewards - expectile_of(rewards, 0.9)))
    best = float((weights * torch.from_numpy(data.actions[:, 0])).sum() / weights.sum())
    assert algorithm.policy.mean_action(states).item() == pytest.approx(best, abs=0.05)
    assert best == pytest.approx(0.56, abs=0.05)


def expectile_of(values: Tensor, expectile: float) -> float:
    """Where the weighted distances of the values above and below balance, by halving."""
    low, high = float(values.min()), float(values.max())
    for _ in range(60):
        middle = (low + high) / 2.0
        above, below = (values - middle).clamp_min(0.0).sum(), (middle - values).clamp_min(0.0).sum()
        low, high = (middle, high) if expectile * above > (1.0 - expectile) * below else (low, middle)
    return low


def test_value_networks_of_a_seed_are_the_same_alone_or_beside_others() -> None:
    assert parameters_of(iql(TOY).value) == parameters_of(iql(TOY).value)
    first, second = iql(TOY).twins
    assert parameters_of(first) != parameters_of(second)
    assert [parameters_of(twin) for twin in iql(TOY).twins] == [parameters_of(target) for target in iql(TOY).targets]
    assert sum(1 for _ in value_network(TOY, [4]).parameters()) == 4
