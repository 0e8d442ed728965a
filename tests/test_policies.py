from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from iwbc.config import Recipe
from iwbc.errors import UserError
from iwbc.networks import Adam, Parameters, Shape, mlp, mlp_shapes
from iwbc.policies import Policy, PolicySpec, load_policy

KINDS = [(kind, std) for kind in ("tanh_mean", "squashed") for std in ("global", "state")]
RANGES = [((-1.0, -1.0), (1.0, 1.0)), ((-3.0, 0.5), (5.0, 0.9))]
NORMALISER = {"observation_mean": (1.0, -2.0, 0.5), "observation_std": (2.0, 0.1, 3.0)}


def make_spec(kind: str = "tanh_mean", std: str = "global", **changes: Any) -> PolicySpec:
    fields: dict[str, Any] = {
        "kind": kind,
        "std": std,
        "hidden": (16, 8),
        "log_std_bounds": (-5.0, 2.0),
        "action_low": (-1.0, -1.0),
        "action_high": (1.0, 1.0),
        "observation_size": 3,
    }
    return PolicySpec(**(fields | changes))


def make_policy(spec: PolicySpec, seeds: tuple[int, ...] = (0,)) -> Policy:
    policy = Policy(spec, seeds)
    policy.initialise([torch.Generator().manual_seed(seed) for seed in seeds])
    if spec.std == "global":
        for row, seed in enumerate(seeds):
            noise = torch.randn(1, spec.action_size, generator=torch.Generator().manual_seed(100 + seed))
            policy.parameters.named()["log_std"][row] = 0.5 * noise - 0.5
    return policy


def random_batch(spec: PolicySpec, seeds: int = 1, size: int = 20) -> tuple[Tensor, Tensor]:
    """Observations, and actions well inside the action range."""
    generator = torch.Generator().manual_seed(5)
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    units = 1.9 * torch.rand(seeds, size, spec.action_size, generator=generator) - 0.95
    observations = torch.randn(seeds, size, spec.observation_size, generator=generator)
    return observations, (low + high) / 2 + (high - low) / 2 * units


def expected_distribution(
    policy: Policy, row: int, observations: Tensor, named: dict[str, Tensor] | None = None
) -> torch.distributions.Distribution:
    """One seed's action distribution by torch.distributions, from a plain forward pass; `named` in place of its parameters."""
    spec = policy.spec
    named = named or {name: value[row] for name, value in policy.parameters.named().items()}
    hidden = observations
    if spec.observation_mean is not None and spec.observation_std is not None:
        hidden = (hidden - torch.tensor(spec.observation_mean)) / torch.tensor(spec.observation_std)
    for i in range(len(spec.hidden)):
        hidden = (hidden @ named[f"weight{i}"] + named[f"bias{i}"]).relu()
    output = hidden @ named[f"weight{len(spec.hidden)}"] + named[f"bias{len(spec.hidden)}"]
    mean, log_std = output.split(spec.action_size, -1) if spec.std == "state" else (output, named["log_std"])
    std = log_std.clamp(*spec.log_std_bounds).exp()
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    middle, half = (low + high) / 2, (high - low) / 2
    if spec.kind == "tanh_mean":
        return Normal(middle + half * mean.tanh(), half * std)
    return TransformedDistribution(Normal(mean, std), [TanhTransform(), AffineTransform(middle, half)])


# --- densities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normaliser", [{}, NORMALISER], ids=["plain", "normalised"])
@pytest.mark.parametrize(("low", "high"), RANGES, ids=["unit", "range"])
@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_log_prob_equals_torch_distributions(
    kind: str, std: str, low: tuple[float, ...], high: tuple[float, ...], normaliser: dict[str, Any]
) -> None:
    policy = make_policy(make_spec(kind, std, action_low=low, action_high=high, **normaliser), seeds=(0, 1))
    observations, actions = random_batch(policy.spec, seeds=2)
    log_prob = policy.log_prob(observations, actions)
    assert log_prob.shape == (2, 20)
    for row in range(2):
        expected = expected_distribution(policy, row, observations[row]).log_prob(actions[row]).sum(-1)
        torch.testing.assert_close(log_prob[row], expected, rtol=1e-4, atol=1e-4)


def gradient_of(policy: Policy, observations: Tensor, actions: Tensor, weights: Tensor) -> Tensor:
    """∇ (1/B) Σ w log π of each seed, [S, P]."""
    _, score = policy.log_prob_and_score(observations, actions)
    gradient = torch.empty_like(policy.parameters.flat)
    for part, found in zip(policy.parameters.parts(gradient), score(weights), strict=True):
        part.copy_(found)
    return gradient


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("low", "high"), RANGES, ids=["unit", "range"])
@pytest.mark.parametrize("log_std_max", [2.0, -0.5])  # at −0.5, some are clamped and some are not
@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_the_score_equals_autograd_of_torch_distributions(
    kind: str, std: str, log_std_max: float, low: tuple[float, ...], high: tuple[float, ...], batched: bool
) -> None:
    fields: dict[str, Any] = {"action_low": low, "action_high": high, "log_std_bounds": (-5.0, log_std_max), **NORMALISER}
    one = make_policy(make_spec(kind, std, **fields), seeds=(0, 1, 2))
    policy = Policy(one.spec, one.seeds, batched=batched)
    policy.parameters.flat.copy_(one.parameters.flat)
    observations, actions = random_batch(policy.spec, seeds=3)
    weights = torch.rand(3, 20, generator=torch.Generator().manual_seed(7))
    gradient = gradient_of(policy, observations, actions, weights)
    clamped = []
    for row in range(3):
        named = {name: value[row].clone().requires_grad_() for name, value in policy.parameters.named().items()}
        log_prob = expected_distribution(policy, row, observations[row], named).log_prob(actions[row]).sum(-1)
        (weights[row] * log_prob).mean().backward()
        expected = torch.cat([value.grad.flatten() for value in named.values()])
        torch.testing.assert_close(gradient[row], expected, rtol=1e-3, atol=1e-4)
        if std == "global":
            clamped.append(named["log_std"] > log_std_max)
            assert (gradient[row, -2:] == 0).tolist() == clamped[-1].flatten().tolist()
    if std == "global":
        assert torch.stack(clamped).any() == (log_std_max < 0)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_bfloat16_changes_log_prob_and_its_gradient_by_its_rounding_and_actions_not_at_all(
    kind: str, std: str, batched: bool
) -> None:
    exact = make_policy(make_spec(kind, std), seeds=(0, 1))
    rounded = Policy(make_spec(kind, std, precision="bfloat16"), (0, 1), batched=batched)
    rounded.parameters.flat.copy_(exact.parameters.flat)
    observations, actions = random_batch(exact.spec, seeds=2, size=200)
    log_prob, of_rounded = (policy.log_prob(observations, actions) for policy in (exact, rounded))
    assert of_rounded.dtype == torch.float32
    assert 0 < (of_rounded - log_prob).abs().mean() < 0.02
    gradients = [gradient_of(policy, observations, actions, torch.ones(2, 200)) for policy in (exact, rounded)]
    assert (torch.nn.functional.cosine_similarity(*gradients) > 0.999).all()
    torch.testing.assert_close(rounded.mean_action(observations), exact.mean_action(observations), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("value", "clamped"), [(10.0, 2.0), (-10.0, -5.0), (0.3, 0.3)])
def test_log_std_is_clamped(value: float, clamped: float) -> None:
    policy = make_policy(make_spec())
    policy.parameters.named()["log_std"].fill_(value)
    observations, _ = random_batch(policy.spec)
    at_mean = policy.log_prob(observations, policy.mean_action(observations))
    expected = -2 * (clamped + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(at_mean, torch.full((1, 20), expected))


@pytest.mark.parametrize(("low", "high"), RANGES, ids=["unit", "range"])
@pytest.mark.parametrize("std", ["global", "state"])
def test_squashed_log_prob_and_gradient_are_finite_at_the_bounds(
    std: str, low: tuple[float, ...], high: tuple[float, ...]
) -> None:
    policy = make_policy(make_spec("squashed", std, action_low=low, action_high=high))
    actions = torch.tensor([[low, high, (low[0], high[1]), (high[0], low[1])]])
    observations = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    assert policy.log_prob(observations, actions).isfinite().all()
    gradient = gradient_of(policy, observations, actions, torch.ones(1, 4))
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_the_density_over_a_non_unit_range_integrates_to_one(kind: str, std: str) -> None:
    policy = make_policy(make_spec(kind, std, action_low=(-3.0,), action_high=(5.0,)))
    reach = 60.0 if kind == "tanh_mean" else 4.0
    grid = torch.linspace(1.0 - reach, 1.0 + reach, 40_001)[1:-1]
    observations = torch.tensor([0.3, -0.2, 1.0]).expand(1, len(grid), 3)
    density = policy.log_prob(observations, grid.view(1, -1, 1)).exp()[0]
    assert torch.trapezoid(density.double(), grid.double()).item() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_samples_follow_the_density(kind: str, std: str) -> None:
    policy = make_policy(make_spec(kind, std, action_low=(-3.0,), action_high=(5.0,)))
    observations = torch.tensor([0.3, -0.2, 1.0]).expand(1, 20_000, 3)
    samples = policy.sample(observations, torch.Generator().manual_seed(0))
    expected = expected_distribution(policy, 0, observations[0, :1])
    torch.manual_seed(1)
    others = expected.sample((20_000,))[:, 0]
    probabilities = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(samples[0, :, 0].quantile(probabilities), others[:, 0].quantile(probabilities), rtol=0, atol=0.2)


def test_the_normaliser_is_inside_the_policy() -> None:
    plain = make_policy(make_spec())
    normalised = make_policy(make_spec(**NORMALISER))
    normalised.parameters.flat.copy_(plain.parameters.flat)
    observations, actions = random_batch(plain.spec)
    raw = observations * torch.tensor(NORMALISER["observation_std"]) + torch.tensor(NORMALISER["observation_mean"])
    torch.testing.assert_close(normalised.log_prob(raw, actions), plain.log_prob(observations, actions), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalised.mean_action(raw), plain.mean_action(observations), rtol=1e-4, atol=1e-4)


# --- seeds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_batched_seeds_equal_single_seeds(kind: str, std: str) -> None:
    spec, seeds = make_spec(kind, std), (3, 5, 8)
    together = make_policy(spec, seeds)
    observations, actions = random_batch(spec, seeds=3)
    log_prob = together.log_prob(observations, actions)
    for row, seed in enumerate(seeds):
        alone = make_policy(spec, (seed,))
        assert torch.equal(alone.parameters.flat[0], together.parameters.flat[row])
        assert torch.equal(together.select(seed).parameters.flat, alone.parameters.flat)
        single = alone.log_prob(observations[row : row + 1], actions[row : row + 1])
        torch.testing.assert_close(single[0], log_prob[row], rtol=1e-5, atol=1e-5)
    assert not torch.equal(together.parameters.flat[0], together.parameters.flat[1])
    some = together.select(8, 3)
    assert some.seeds == (8, 3)
    assert torch.equal(some.parameters.flat, together.parameters.flat[[2, 0]])


def test_initial_weights_are_those_of_linear_layers() -> None:
    parameters = Parameters([*mlp_shapes((100, 50, 2)), Shape("log_std", (1, 2))], seeds=1)
    parameters.initialise(0, torch.Generator().manual_seed(0))
    named = parameters.named()
    for name, bound in (("weight0", 0.1), ("bias0", 0.1), ("weight1", 1 / math.sqrt(50))):
        assert 0.8 * bound < named[name].abs().max() <= bound
        assert named[name].mean().abs() < 0.3 * bound
    assert not named["log_std"].any()


def test_a_copy_is_independent() -> None:
    policy = make_policy(make_spec())
    before = policy.parameters.flat.clone()
    twin = policy.copy()
    assert torch.equal(twin.parameters.flat, before)
    twin.parameters.flat.add_(1.0)
    assert torch.equal(policy.parameters.flat, before)


# --- files -----------------------------------------------------------------------------------------------------------


def save(policy: Policy, path: Path) -> Path:
    safetensors.torch.save_file(policy.tensors(), path, metadata=policy.metadata())
    return path


@pytest.mark.parametrize("normaliser", [{}, NORMALISER], ids=["plain", "normalised"])
@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_save_and_load(kind: str, std: str, normaliser: dict[str, Any], tmp_path: Path) -> None:
    spec = make_spec(kind, std, action_low=(-0.1, -3.0), action_high=(0.3, 1.0), **normaliser)
    policy = make_policy(spec, seeds=(4, 2))
    loaded = load_policy(save(policy, tmp_path / "policy.safetensors"))
    assert loaded.spec == spec
    assert loaded.seeds == (4, 2)
    assert torch.equal(loaded.parameters.flat, policy.parameters.flat)
    observations, actions = random_batch(spec, seeds=2)
    assert torch.equal(loaded.log_prob(observations, actions), policy.log_prob(observations, actions))


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "truncated", "text", "no metadata", "wrong metadata", "missing tensor", "wrong shape"]
)
def test_a_damaged_file_is_an_error_of_one_line(damage: str, tmp_path: Path) -> None:
    policy = make_policy(make_spec())
    path = save(policy, tmp_path / "policy.safetensors")
    content, tensors, metadata = path.read_bytes(), policy.tensors(), policy.metadata()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "text":
            path.write_text("not a policy\n" * 10)
        case "no metadata":
            safetensors.torch.save_file(tensors, path)
        case "wrong metadata":
            safetensors.torch.save_file(tensors, path, metadata={"policy": '{"spec": {"kind": "other"}, "seeds": [0]}'})
        case "missing tensor":
            del tensors["weight1"]
            safetensors.torch.save_file(tensors, path, metadata=metadata)
        case "wrong shape":
            tensors["weight1"] = tensors["weight1"][:, 1:].contiguous()
            safetensors.torch.save_file(tensors, path, metadata=metadata)
    with pytest.raises(UserError, match=r"policy\.safetensors: cannot be read") as caught:
        load_policy(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weight1", "bias0", "log_std"])
def test_a_tensor_that_would_broadcast_is_not_accepted(name: str, tmp_path: Path) -> None:
    policy = make_policy(make_spec(), seeds=(0, 1))
    tensors = policy.tensors()
    tensors[name] = tensors[name][:1].contiguous()
    path = tmp_path / "policy.safetensors"
    safetensors.torch.save_file(tensors, path, metadata=policy.metadata())
    with pytest.raises(UserError, match="cannot be read"):
        load_policy(path)


# --- acting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [(0,), (6, 1)])
@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_predict(kind: str, std: str, seeds: tuple[int, ...]) -> None:
    policy = make_policy(make_spec(kind, std, action_low=(-3.0, 0.5), action_high=(5.0, 0.9)), seeds)
    observations = np.random.default_rng(0).normal(size=(6, 3))
    actions, state = policy.predict(observations)
    assert actions.shape == (6, 2)
    assert actions.dtype == np.float32
    assert state is None
    again, _ = policy.predict(observations)
    np.testing.assert_array_equal(actions, again)
    one, _ = policy.predict(observations[0])
    assert one.shape == (2,)
    np.testing.assert_allclose(one, actions[0], rtol=1e-5, atol=1e-6)
    batch = torch.from_numpy(observations).float()[None].repeat(len(seeds), 1, 1)
    np.testing.assert_allclose(actions, policy.mean_action(batch)[0].numpy(), rtol=1e-5, atol=1e-6)
    first, _ = policy.predict(observations, deterministic=False)
    second, _ = policy.predict(observations, deterministic=False)
    assert first.shape == (6, 2)
    assert not np.array_equal(first, second)


def test_predict_clips_to_the_action_space() -> None:
    policy = make_policy(make_spec(action_low=(-3.0, 0.5), action_high=(5.0, 0.9)))
    policy.parameters.named()["log_std"].fill_(2.0)
    actions, _ = policy.predict(np.zeros((500, 3)), deterministic=False)
    low, high = np.float32(policy.spec.action_low), np.float32(policy.spec.action_high)
    assert (actions >= low).all() and (actions <= high).all()
    assert (actions == low).any(axis=0).all() and (actions == high).any(axis=0).all()


def test_predict_returns_the_state_it_is_given() -> None:
    state = (np.zeros(1),)
    _, returned = make_policy(make_spec()).predict(np.zeros(3), state, np.array([True]))
    assert returned is state


# --- learning rates and Adam -----------------------------------------------------------------------------------------


def test_warm_up_from_zero_and_cosine_to_zero() -> None:
    recipe = Recipe(steps=1100, lr=4e-4, schedule="cosine", warmup_steps=100, batch_size=1)
    assert recipe.learning_rate(0) == 0.0
    assert recipe.learning_rate(50) == pytest.approx(2e-4)
    assert recipe.learning_rate(100) == pytest.approx(4e-4)
    assert recipe.learning_rate(350) == pytest.approx(4e-4 * (1 + math.sqrt(0.5)) / 2)
    assert recipe.learning_rate(600) == pytest.approx(2e-4)
    assert recipe.learning_rate(1100) == pytest.approx(0.0, abs=1e-12)
    rates = [recipe.learning_rate(step) for step in range(1101)]
    assert (np.diff(rates[:101]) > 0).all() and (np.diff(rates[100:]) < 0).all()


def test_constant_schedule() -> None:
    recipe = Recipe(steps=10, lr=1e-3, schedule="constant", warmup_steps=0, batch_size=1)
    assert [recipe.learning_rate(step) for step in range(10)] == [1e-3] * 10
    warm = Recipe(steps=10, lr=1e-3, schedule="constant", warmup_steps=4, batch_size=1)
    assert [warm.learning_rate(step) for step in range(6)] == pytest.approx([0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_cosine_without_warm_up_starts_at_the_full_rate() -> None:
    recipe = Recipe(steps=10, lr=1e-3, schedule="cosine", warmup_steps=0, batch_size=1)
    assert recipe.learning_rate(0) == 1e-3
    only_warm_up = Recipe(steps=10, lr=1e-3, schedule="cosine", warmup_steps=10, batch_size=1)
    assert only_warm_up.learning_rate(9) == pytest.approx(9e-4)


def regress(adam: Adam, parameters: Parameters, inputs: Tensor, rate: float) -> None:
    """A step down the mean squared error of networks that are to add up their inputs."""
    outputs, pullback = mlp(parameters, inputs)
    error = inputs.sum(-1, keepdim=True) - outputs
    adam.ascend(parameters.gradient(pullback(2.0 * error / inputs.shape[1])), rate)


@pytest.mark.parametrize("batched", [False, True])
def test_adam_equals_torch_on_plain_parameters(batched: bool) -> None:
    seeds, rates = 2, [1e-2, 5e-3, 0.0, 2e-2, 1e-3]
    parameters = Parameters(mlp_shapes((3, 8, 1)), seeds, batched=batched)
    for row in range(seeds):
        parameters.initialise(row, torch.Generator().manual_seed(row))
    plain = [{name: value[row].clone().requires_grad_() for name, value in parameters.named().items()} for row in range(seeds)]
    optimisers = [torch.optim.Adam(network.values(), fused=False, foreach=False) for network in plain]
    adam = Adam(parameters)
    inputs = torch.randn(seeds, 16, 3, generator=torch.Generator().manual_seed(9))
    for rate in rates * 4:
        regress(adam, parameters, inputs, rate)
        for network, optimiser, x in zip(plain, optimisers, inputs, strict=True):
            output = (x @ network["weight0"] + network["bias0"]).relu() @ network["weight1"] + network["bias1"]
            optimiser.zero_grad()
            (output - x.sum(-1, keepdim=True)).square().mean().backward()
            optimiser.param_groups[0]["lr"] = rate
            optimiser.step()
    for name, value in parameters.named().items():
        expected = torch.stack([network[name].detach() for network in plain])
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_adam_continues_from_its_state() -> None:
    def fresh() -> tuple[Parameters, Adam]:
        parameters = Parameters(mlp_shapes((3, 4, 1)), 1)
        parameters.initialise(0, torch.Generator().manual_seed(0))
        return parameters, Adam(parameters)

    inputs = torch.randn(1, 16, 3, generator=torch.Generator().manual_seed(9))
    onward, adam = fresh()
    for _ in range(5):
        regress(adam, onward, inputs, 1e-2)
    resumed, other = fresh()
    resumed.flat.copy_(onward.flat)
    other.load(adam.state())
    for _ in range(5):
        regress(adam, onward, inputs, 1e-2)
        regress(other, resumed, inputs, 1e-2)
    assert torch.equal(onward.flat, resumed.flat)
