"""The peer TD3+BC: its updates by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_values import TOY, batch_of, set_linear
from torch import nn

from benchmarks.peers.td3_bc import TD3BC, Recipe, everything, train

LINEAR = Recipe(hidden=(), policy_noise=0.0, gamma=0.9)


def slopes(network: nn.Module) -> list[float]:
    """The gradient that the last step took down."""
    return [slope for value in network.parameters() if value.grad is not None for slope in value.grad.flatten().tolist()]


def values(network: nn.Module) -> list[float]:
    return [value for parameter in network.parameters() for value in parameter.flatten().tolist()]


def test_two_updates_by_hand() -> None:
    algorithm = TD3BC(LINEAR, TOY, 0)
    set_linear(algorithm.actor.network, 0.5, 0.1)  # π(s) = tanh(s/2 + 0.1)
    set_linear(algorithm.target_actor.network, 0.2, 0.0)
    for network, bias in zip((*algorithm.twins, *algorithm.target_twins), (0.0, 1.0, 2.0, 4.0), strict=True):
        set_linear(network, 1.0, 2.0, bias)  # Q(s, a) = s + 2 a + bias
    batch = batch_of(everything(TOY), 0, 1, 2, 3)
    # The spread is 1, to which the published code adds 0.001. The first trajectory's end is terminal, the second's is not.
    s, following = np.array([1.0, -1.0, 1.0, -1.0]) / 1.001, np.array([-1.0, 5.0, -1.0, 3.0]) / 1.001
    a, r = TOY.actions.flatten().astype(np.float64), TOY.rewards.astype(np.float64)
    y = r + 0.9 * np.array([1, 0, 1, 1]) * (following + 2.0 * np.tanh(0.2 * following) + 2.0)
    algorithm.update(batch, 0)
    for twin, bias in zip(algorithm.twins, (0.0, 1.0), strict=True):
        error = s + 2.0 * a + bias - y
        assert slopes(twin) == pytest.approx([(2.0 * error * x).mean() for x in (s, a, np.ones(4))], rel=1e-5)
    assert slopes(algorithm.actor) == []  # the policy's turn is every second step
    assert values(algorithm.target_twins[0]) == pytest.approx([1.0, 2.0, 2.0])

    algorithm.update(batch, 1)
    w, v, bias = values(algorithm.twins[0])
    chosen = np.tanh(0.5 * s + 0.1)
    weight = 2.5 / np.abs(w * s + v * chosen + bias).mean()
    by_action = (2.0 * (chosen - a) - weight * v) * (1.0 - chosen**2)
    assert slopes(algorithm.actor) == pytest.approx([(by_action * s).mean(), by_action.mean()], rel=1e-4)
    latest = values(algorithm.twins[0])
    expected = [before + 0.005 * (after - before) for before, after in zip((1.0, 2.0, 2.0), latest, strict=True)]
    assert values(algorithm.target_twins[0]) == pytest.approx(expected)
    assert values(algorithm.target_actor) == pytest.approx(
        [before + 0.005 * (after - before) for before, after in zip((0.2, 0.0), values(algorithm.actor), strict=True)]
    )


def test_noise_of_the_next_action_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = TD3BC(replace(LINEAR, policy_noise=100.0, noise_clip=0.5), TOY, 0)
    set_linear(algorithm.target_actor.network, 0.0, 0.0)  # π̄ = 0
    seen: list[torch.Tensor] = []
    algorithm.target_twins[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][:, 1]))
    algorithm.update(batch_of(everything(TOY), *[0, 1, 2, 3] * 20), 0)
    assert seen[0].abs().tolist() == pytest.approx([0.5] * 80, abs=1e-3)


def test_a_seed_trains_alike_each_time() -> None:
    recipe = replace(Recipe(), hidden=(8,), lr=1e-2, batch_size=16)
    actions = [train(TOY, 10, seed, recipe).predict(TOY.observations)[0] for seed in (3, 3, 4)]
    assert np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])
