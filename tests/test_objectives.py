from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iwbc import objectives


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- weights by hand -------------------------------------------------------------------------------------------------


def test_trajectory_weights_of_three_trajectories_by_hand() -> None:
    mean_log_ratio = double(2.0, 1.0, 10.0).log()
    weights = objectives.tempered_weights(mean_log_ratio, kappa=2.0, minimum=0.0, maximum=50.0)
    torch.testing.assert_close(weights, double(4.0, 1.0, 50.0))  # 10² is clipped
    normalised = objectives.self_normalise(weights)
    torch.testing.assert_close(normalised, double(12 / 55, 3 / 55, 150 / 55))
    log_prob = double(-1.0, -2.0, -3.0)
    expected = torch.tensor(-(12 + 6 + 450) / 55 / 3, dtype=torch.float64)
    torch.testing.assert_close(objectives.weighted_log_likelihood(log_prob, normalised), expected)


def test_kappa_equal_to_the_length_is_exact_importance_sampling() -> None:
    step_ratios = double(0.5, 3.0, 1.7, 0.9)
    weights = objectives.tempered_weights(step_ratios.log().mean().reshape(1), kappa=4.0, minimum=0.0, maximum=math.inf)
    torch.testing.assert_close(weights, step_ratios.prod().reshape(1))


def test_clipped_product_weights_of_three_trajectories_by_hand() -> None:
    trajectories = [double(1.5, 3.0), double(0.1, 1.0), double(1.8, 2.0, 9.0)]
    sums = torch.stack([objectives.clip_log_ratio(ratios.log(), 0.2, 1.8).sum() for ratios in trajectories])
    torch.testing.assert_close(objectives.clipped_product_weights(sums, 0.0, 100.0), double(1.5 * 1.8, 0.2, 1.8**3))
    torch.testing.assert_close(objectives.clipped_product_weights(sums, 0.25, 5.0), double(2.7, 0.25, 5.0))


def test_clipped_product_weights_equal_the_product_inside_the_clip() -> None:
    ratios = double(0.5, 1.6, 1.1)
    total = objectives.clip_log_ratio(ratios.log(), 0.2, 1.8).sum()
    torch.testing.assert_close(objectives.clipped_product_weights(total, 0.0, math.inf), ratios.prod())


def test_step_weights_by_hand() -> None:
    log_ratio = double(0.5, 1.0, 3.0).log()
    torch.testing.assert_close(objectives.tempered_weights(log_ratio, 1.0, 0.0, 2.0), double(0.5, 1.0, 2.0))
    torch.testing.assert_close(objectives.tempered_weights(log_ratio, 2.0, 0.3, 10.0), double(0.3, 1.0, 9.0))


def test_windowed_sums_by_hand() -> None:
    values, offsets = double(1.0, 2.0, 3.0, 4.0, 10.0, 20.0), torch.tensor([0, 4, 6])
    torch.testing.assert_close(objectives.windowed_sums(values, offsets, 2), double(1.0, 3.0, 5.0, 7.0, 10.0, 30.0))
    assert torch.equal(objectives.windowed_sums(values, offsets, 1), values)
    assert torch.equal(objectives.windowed_sums(values, offsets, 9), double(1.0, 3.0, 6.0, 10.0, 10.0, 30.0))


def test_sums_and_means_are_over_the_last_axis() -> None:
    weights, values = torch.stack([double(1.0, 1.0, 4.0), double(2.0, 2.0, 2.0)]), double(1.0, 2.0, 3.0)
    torch.testing.assert_close(objectives.effective_sample_size(weights), double(36 / 18, 3.0))
    torch.testing.assert_close(objectives.weighted_log_likelihood(values, weights), double(5.0, 4.0))
    torch.testing.assert_close(objectives.reference_bound(weights, values), double((2 + 3 + 16) / 3, (4 + 6 + 8) / 3))
    torch.testing.assert_close(objectives.proposal_bound(values, weights, values), double((2 + 6 + 48) / 3, (4 + 12 + 24) / 3))


def test_advantage_weights_do_not_see_the_scale() -> None:
    advantages = double(-0.01, 0.01)  # standardised, −1 and 1
    torch.testing.assert_close(objectives.advantage_weights(advantages, 2.0, 10.0), double(math.exp(-0.5), math.exp(0.5)))


def test_trajectory_means_equal_a_loop() -> None:
    values = torch.randn(12, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([part.double().mean() for part in values.split([3, 5, 4])])
    torch.testing.assert_close(objectives.trajectory_means(values, torch.tensor([0, 3, 8, 12])), expected)


@quick
@given(st.lists(st.floats(-20.0, 20.0), min_size=1, max_size=8))
def test_kappa_zero_gives_weights_of_one(log_ratios: list[float]) -> None:
    ratios, ones = double(*log_ratios), torch.ones(len(log_ratios), dtype=torch.float64)
    torch.testing.assert_close(objectives.tempered_weights(ratios, 0.0, 0.0, 1000.0), ones, rtol=0, atol=0)
    torch.testing.assert_close(objectives.tempered_weights(ratios, 0.0, 0.0, 2.0), ones, rtol=0, atol=0)
    torch.testing.assert_close(objectives.self_normalise(ones), ones, rtol=0, atol=0)


def test_weights_broadcast_over_seeds() -> None:
    log_ratio = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = objectives.self_normalise(objectives.tempered_weights(log_ratio, 2.0, 0.0, 10.0))
    alone = [objectives.self_normalise(objectives.tempered_weights(row, 2.0, 0.0, 10.0)) for row in log_ratio]
    torch.testing.assert_close(together, torch.stack(alone))
    torch.testing.assert_close(together.mean(-1), torch.ones(3, dtype=torch.float64))


# --- lower bounds on bandits -----------------------------------------------------------------------------------------


@st.composite
def bandits(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Expected rewards ≥ 0 of some arms, and three distributions over them: reference, proposal and policy."""
    arms = draw(st.integers(2, 6))
    rewards = draw(st.lists(st.floats(0.0, 10.0), min_size=arms, max_size=arms))
    logits = [draw(st.lists(st.floats(-4.0, 4.0), min_size=arms, max_size=arms)) for _ in range(3)]
    reference, proposal, policy = (double(*row).softmax(-1) for row in logits)
    return double(*rewards), reference, proposal, policy


def under(reference: Tensor, rewards: Tensor) -> Tensor:
    """Rewards whose plain mean over the arms is the expectation under `reference`."""
    return rewards * reference * len(rewards)


@quick
@given(bandits())
def test_reference_bound_is_below_the_expected_return(bandit: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    rewards, reference, _, policy = bandit
    bound = objectives.reference_bound(under(reference, rewards), (policy / reference).log())
    assert bound <= (policy * rewards).sum() + 1e-9
    tight = objectives.reference_bound(under(reference, rewards), torch.zeros_like(policy))
    torch.testing.assert_close(tight, (reference * rewards).sum())


@quick
@given(bandits())
def test_proposal_bound_is_below_the_expected_return(bandit: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    rewards, reference, proposal, policy = bandit
    weights = objectives.tempered_weights((proposal / reference).log(), kappa=1.0, minimum=0.0, maximum=math.inf)
    bound = objectives.proposal_bound(under(reference, rewards), weights, (policy / proposal).log())
    assert bound <= (policy * rewards).sum() + 1e-9


@quick
@given(bandits())
def test_proposal_bound_is_tight_at_the_policy(bandit: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    rewards, reference, _, policy = bandit
    weights = objectives.tempered_weights((policy / reference).log(), kappa=1.0, minimum=0.0, maximum=math.inf)
    bound = objectives.proposal_bound(under(reference, rewards), weights, torch.zeros_like(policy))
    torch.testing.assert_close(bound, (policy * rewards).sum())


@quick
@given(bandits())
def test_proposal_equal_to_the_reference_gives_the_reference_bound(bandit: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    rewards, reference, _, policy = bandit
    reward, ratio = under(reference, rewards), (policy / reference).log()
    torch.testing.assert_close(
        objectives.proposal_bound(reward, torch.ones_like(policy), ratio), objectives.reference_bound(reward, ratio)
    )


# --- the two-armed bandit: P(R = 1 | left) = 0.5, P(R = 1 | right) = 1, uniform reference ----------------------------

REWARDS, UNIFORM = double(0.5, 1.0), double(0.5, 0.5)


def full_fit(policy: Tensor, kappa: float) -> Tensor:
    """The policy that maximises the weighted log-likelihood of the rewarded data: the weighted frequencies."""
    weights = objectives.tempered_weights((policy / UNIFORM).log(), kappa, 0.0, math.inf)
    mass = UNIFORM * REWARDS * weights
    fitted = mass / mass.sum()
    # It is indeed the maximum: the gradient of the objective vanishes there.
    logits = fitted.log().requires_grad_()
    objectives.weighted_log_likelihood(logits.log_softmax(-1), mass).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(2, dtype=torch.float64))
    return fitted


def test_filtered_bc_ends_at_one_third_two_thirds() -> None:
    policy = UNIFORM
    for _ in range(5):
        policy = full_fit(policy, kappa=0.0)
        torch.testing.assert_close(policy, double(1 / 3, 2 / 3))
    assert (policy * REWARDS).sum().item() == pytest.approx(5 / 6)


def test_importance_weighted_bc_doubles_the_odds_and_ends_at_the_optimum() -> None:
    policy = UNIFORM
    for fit in range(1, 31):
        policy = full_fit(policy, kappa=1.0)
        assert (policy[1] / policy[0]).item() == pytest.approx(2.0**fit)
    assert policy[1].item() == pytest.approx(1.0, abs=1e-8)
    assert (policy * REWARDS).sum().item() == pytest.approx(1.0, abs=1e-8)


# --- effective sample size -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 100])
def test_effective_sample_size_end_points(n: int) -> None:
    assert objectives.effective_sample_size(torch.full((n,), 0.3)).item() == pytest.approx(n, rel=1e-5)
    assert objectives.effective_sample_size(torch.eye(n)[0] * 7.0).item() == pytest.approx(1.0)


def test_effective_sample_size_by_hand() -> None:
    assert objectives.effective_sample_size(double(1.0, 2.0, 3.0)).item() == pytest.approx(36 / 14)


@quick
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.floats(0.01, 100.0))
def test_effective_sample_size_is_bounded_and_scale_free(weights: list[float], scale: float) -> None:
    size = objectives.effective_sample_size(double(*weights)).item()
    assert 1.0 - 1e-9 <= size <= len(weights) * (1 + 1e-9)
    assert objectives.effective_sample_size(scale * double(*weights)).item() == pytest.approx(size)


# --- TD(λ) and advantage weights -------------------------------------------------------------------------------------

Packed = tuple[Tensor, Tensor, Tensor, Tensor]


@st.composite
def packed(draw: st.DrawFn) -> Packed:
    """Random rewards [N], values [N], final values [n] and offsets [n + 1]."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    final_values = rng.normal(size=len(lengths)) * rng.integers(0, 2, size=len(lengths))
    return (
        torch.from_numpy(rng.normal(size=sum(lengths))),
        torch.from_numpy(rng.normal(size=sum(lengths))),
        torch.from_numpy(final_values),
        torch.tensor([0, *np.cumsum(lengths).tolist()]),
    )


@quick
@given(packed(), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_td_lambda_returns_equal_a_double_loop(data: Packed, gamma: float, lam: float) -> None:
    rewards, values, final_values, offsets = data
    expected = torch.zeros_like(values)
    for i in range(len(offsets) - 1):
        following = next_value = final_values[i].item()
        for row in range(int(offsets[i + 1]) - 1, int(offsets[i]) - 1, -1):
            following = rewards[row].item() + gamma * ((1.0 - lam) * next_value + lam * following)
            next_value = values[row].item()
            expected[row] = following
    torch.testing.assert_close(objectives.td_lambda_returns(*data, gamma=gamma, lam=lam), expected)


@quick
@given(packed(), st.floats(0.0, 1.0))
def test_lambda_one_is_the_discounted_monte_carlo_return_of_terminated_trajectories(data: Packed, gamma: float) -> None:
    rewards, values, final_values, offsets = data
    returns = objectives.td_lambda_returns(rewards, values, torch.zeros_like(final_values), offsets, gamma, 1.0)
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        for row in range(start, end):
            monte_carlo = sum(gamma**k * rewards[row + k].item() for k in range(end - row))
            assert returns[row].item() == pytest.approx(monte_carlo)


@quick
@given(packed(), st.floats(0.0, 1.0))
def test_lambda_zero_is_one_step_td(data: Packed, gamma: float) -> None:
    rewards, values, final_values, offsets = data
    following = torch.cat([values[1:], final_values[-1:]])
    following[offsets[1:] - 1] = final_values
    expected = rewards + gamma * following
    torch.testing.assert_close(objectives.td_lambda_returns(*data, gamma=gamma, lam=0.0), expected)


def test_advantage_weights_by_hand() -> None:
    # Mean 3 and standard deviation 2 (over n, not n − 1).
    weights = objectives.advantage_weights(double(1.0, 1.0, 5.0, 5.0), temperature=0.5, maximum=20.0)
    torch.testing.assert_close(weights, double(math.exp(-2), math.exp(-2), math.exp(2), math.exp(2)))
    clipped = objectives.advantage_weights(double(1.0, 1.0, 5.0, 5.0), temperature=0.25, maximum=20.0)
    torch.testing.assert_close(clipped, double(math.exp(-4), math.exp(-4), 20.0, 20.0))


def test_advantage_weights_of_equal_advantages_are_one() -> None:
    torch.testing.assert_close(objectives.advantage_weights(torch.full((2, 4), 3.0), 0.05, 20.0), torch.ones(2, 4))


def test_advantage_weights_standardise_each_seed() -> None:
    advantages = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled = torch.stack([advantages[0], 7.0 * advantages[0] + 3.0])
    weights = objectives.advantage_weights(scaled, 1.0, 20.0)
    torch.testing.assert_close(weights[0], weights[1])
