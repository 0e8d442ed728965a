"""What every family of policies must do, their files, and acting."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import named
from setups import finish, python, rarely
from torch import Tensor, nn
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from iwbc.data.streams import seeded
from iwbc.environments.spaces import Part
from iwbc.errors import UserError
from iwbc.policies import CouplingFlow, GaussianMixture, GaussianMLP, Policy
from iwbc.policies.networks import mlp
from iwbc.policies.spec import PolicySpec, Spaces
from iwbc.settings import POLICIES, Recipe, SequencePolicy
from iwbc.system.files import read_tensors
from iwbc.training.trained import Policies, load_policy

FAMILIES = [(family, kind, std) for family in POLICIES for kind in ("tanh_mean", "squashed") for std in ("global", "state")]
every_family = pytest.mark.parametrize(("family", "kind", "std"), FAMILIES)
KINDS = [(kind, std) for kind in ("tanh_mean", "squashed") for std in ("global", "state")]
RANGES = [((-1.0, -1.0), (1.0, 1.0)), ((-3.0, 0.5), (5.0, 0.9))]
NORMALISER = {"observation_mean": (1.0, -2.0, 0.5), "observation_std": (2.0, 0.1, 3.0)}


def make_spec(
    family: str = "gaussian",
    kind: str = "tanh_mean",
    std: str = "global",
    low: tuple[float, ...] = (-1.0, -1.0),
    high: tuple[float, ...] = (1.0, 1.0),
    normaliser: dict[str, Any] | None = None,
    **settings: Any,
) -> PolicySpec:
    smaller = {"hidden": [16, 8]} | ({"width": 32} if family == "transformer" else {})
    chosen = POLICIES[family](kind=kind, std=std, **(smaller | settings))
    return PolicySpec(chosen, Spaces(3, low, high), **(normaliser or {}))


def make_policy(spec: PolicySpec, seed: int = 0) -> Any:
    """A policy whose parameters are all random, those that start at 0 too."""
    with seeded(seed):
        policy = spec.make()
        for parameter in policy.parameters():
            if not parameter.any():
                parameter.data.copy_(0.3 * torch.randn(parameter.shape) - (0.5 if parameter.dim() == 1 else 0.0))
    return policy


def random_batch(spec: PolicySpec, size: int = 20) -> tuple[Tensor, Tensor]:
    """Observations, and actions well inside the action range."""
    generator = torch.Generator().manual_seed(5)
    low, high = torch.tensor(spec.spaces.action_low), torch.tensor(spec.spaces.action_high)
    units = 1.9 * torch.rand(size, len(low), generator=generator) - 0.95
    return torch.randn(size, 3, generator=generator), (low + high) / 2 + (high - low) / 2 * units


# --- densities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normaliser", [None, NORMALISER], ids=["plain", "normalised"])
@pytest.mark.parametrize(("low", "high"), RANGES, ids=["unit", "range"])
@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_the_gaussian_is_that_of_torch_distributions(
    kind: str, std: str, low: tuple[float, ...], high: tuple[float, ...], normaliser: dict[str, Any] | None
) -> None:
    spec = make_spec("gaussian", kind, std, low, high, normaliser)
    policy = make_policy(spec)
    observations, actions = random_batch(spec)
    inputs = observations
    if normaliser is not None:
        inputs = (observations - torch.tensor(normaliser["observation_mean"])) / torch.tensor(normaliser["observation_std"])
    output = policy.network(inputs)
    mean, log_std = output.split(2, -1) if std == "state" else (output, policy.log_std)
    log_std = log_std.clamp(spec.settings.log_std_min, spec.settings.log_std_max)
    middle, half = (torch.tensor(low) + torch.tensor(high)) / 2, (torch.tensor(high) - torch.tensor(low)) / 2
    expected: Any = Normal(middle + half * mean.tanh(), half * log_std.exp())
    if kind == "squashed":
        expected = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(), AffineTransform(middle, half)])
    log_prob = policy.log_prob(observations, actions)
    assert log_prob.shape == (20,)
    torch.testing.assert_close(log_prob, expected.log_prob(actions).sum(-1), rtol=1e-4, atol=1e-4)


def test_a_mixture_by_hand() -> None:
    policy = make_policy(make_spec("mixture", components=2, hidden=[], low=(-1.0,), high=(1.0,)))
    for parameter in policy.parameters():
        parameter.data.zero_()
    # log 3 : 0 are odds of 3 to 1; means tanh(0.5) and tanh(−1); standard deviations 1 and e^−1.
    policy.network[0].bias.data.copy_(torch.tensor([math.log(3.0), 0.0, 0.5, -1.0]))
    policy.log_std.data[1] = -1.0
    observation = torch.zeros(1, 3)
    density = 0.75 * Normal(math.tanh(0.5), 1.0).log_prob(torch.tensor(0.2)).exp()
    density += 0.25 * Normal(math.tanh(-1.0), math.exp(-1.0)).log_prob(torch.tensor(0.2)).exp()
    assert policy.log_prob(observation, torch.tensor([[0.2]])).item() == pytest.approx(math.log(density), abs=1e-6)
    assert policy.mean_action(observation).item() == pytest.approx(math.tanh(0.5))  # of the likelier, not of both
    policy.network[0].bias.data[0] = -1.0
    assert policy.mean_action(observation).item() == pytest.approx(math.tanh(-1.0))


@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_a_flow_starts_as_its_gaussian(kind: str, std: str) -> None:
    flow, gaussian = (make_spec(family, kind, std) for family in ("flow", "gaussian"))
    with seeded(1):
        policy: Any = flow.make()
    with seeded(1):
        base = gaussian.make()
    observations, actions = random_batch(flow)
    torch.testing.assert_close(policy.log_prob(observations, actions), base.log_prob(observations, actions))
    torch.testing.assert_close(policy.mean_action(observations), base.mean_action(observations))


@pytest.mark.parametrize(
    ("family", "kind", "std", "size"),
    [
        # A flow's takes seconds in two dimensions: every run of the tests has one.
        rarely(*case, size) if (case[0], size) == ("flow", 2) and case[1:] != KINDS[0] else (*case, size)
        for case in FAMILIES
        for size in (1, 2)
    ],
)
def test_the_density_over_a_non_unit_range_integrates_to_one(family: str, kind: str, std: str, size: int) -> None:
    low, high = (-3.0, 0.5)[:size], (5.0, 1.1)[:size]
    # The grid resolves no needles and ends before the bounds, where a wide squashed density has much of its mass.
    bounds = {"log_std_min": -1.0, "log_std_max": 0.5} if family == "transformer" else {}
    policy = make_policy(make_spec(family, kind, std, low, high, **bounds))
    inside = kind == "squashed"
    axes = []
    for bottom, top in zip(low, high, strict=True):
        middle, half = (bottom + top) / 2, (top - bottom) / 2
        reach = half * (0.999999 if inside else 12.0)
        # Squashed densities crowd at the bounds: so do the points.
        points = torch.linspace(-1.0, 1.0, 40_001 if size == 1 else 301, dtype=torch.float64)
        axes.append(middle + reach * (torch.sin(points * math.pi / 2) if inside else points))
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2).float()
    observation = torch.tensor([0.3, -0.2, 1.0]).expand(len(grid), 3)
    with torch.no_grad():
        density = policy.log_prob(observation, grid).exp().double().view([len(axis) for axis in axes])
    for axis in reversed(axes):
        density = torch.trapezoid(density, axis)
    assert density.item() == pytest.approx(1.0, abs=5e-3)


@every_family
def test_samples_follow_the_density(family: str, kind: str, std: str) -> None:
    policy = make_policy(make_spec(family, kind, std, (-3.0,), (5.0,)))
    observations = torch.tensor([0.3, -0.2, 1.0]).expand(20_000, 3)
    with torch.no_grad():
        samples = policy.sample(observations, torch.Generator().manual_seed(0))[:, 0]
        # The share of samples below a point is the integral of the density up to there.
        edge = 4.99999 if kind == "squashed" else 60.0
        grid = torch.linspace(2.0 - edge if kind != "squashed" else -2.99999, edge, 60_001)
        density = policy.log_prob(observations[:1].expand(len(grid), 3), grid[:, None]).exp()
        cumulative = torch.cumulative_trapezoid(density.double(), grid.double())
    for point in samples.quantile(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])):
        below = (samples <= point).double().mean().item()
        expected = cumulative[torch.searchsorted(grid, point) - 1].item()
        assert below == pytest.approx(expected, abs=0.02)
    assert torch.equal(policy.sample(observations, torch.Generator().manual_seed(0))[:, 0], samples)
    assert not torch.equal(policy.sample(observations, torch.Generator().manual_seed(1))[:, 0], samples)


@every_family
def test_log_prob_and_gradient_are_finite_at_the_bounds(family: str, kind: str, std: str) -> None:
    low, high = RANGES[1]
    policy = make_policy(make_spec(family, kind, std, low, high))
    actions = torch.tensor([low, high, (low[0], high[1]), (high[0], low[1])])
    log_prob = policy.log_prob(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), actions)
    assert log_prob.isfinite().all()
    log_prob.mean().backward()
    gradients = [parameter.grad for parameter in policy.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


@pytest.mark.parametrize("family", ["gaussian", "flow"])
@pytest.mark.parametrize(("value", "clamped"), [(10.0, 2.0), (-10.0, -5.0), (0.3, 0.3)])
def test_log_std_is_clamped(family: str, value: float, clamped: float) -> None:
    spec = make_spec(family)
    policy: Any = spec.make()
    (policy.base if family == "flow" else policy).log_std.data.fill_(value)
    observations, _ = random_batch(spec)
    at_mean = policy.log_prob(observations, policy.mean_action(observations))
    torch.testing.assert_close(at_mean, torch.full((20,), -2 * (clamped + 0.5 * math.log(2 * math.pi))))


@every_family
def test_the_normaliser_is_inside_the_policy(family: str, kind: str, std: str) -> None:
    spec = make_spec(family, kind, std)
    plain, normalised = make_policy(spec), make_policy(make_spec(family, kind, std, normaliser=NORMALISER))
    observations, actions = random_batch(spec)
    raw = observations * torch.tensor(NORMALISER["observation_std"]) + torch.tensor(NORMALISER["observation_mean"])
    torch.testing.assert_close(normalised.log_prob(raw, actions), plain.log_prob(observations, actions), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(normalised.mean_action(raw), plain.mean_action(observations), rtol=1e-4, atol=1e-4)


@every_family
def test_mean_actions_lie_in_the_action_range_where_the_family_says_so(family: str, kind: str, std: str) -> None:
    spec = make_spec(family, kind, std, *RANGES[1])
    actions = make_policy(spec).mean_action(100.0 * random_batch(spec)[0])
    assert actions.shape == (20, 2)
    if (family, kind) != ("flow", "tanh_mean"):  # couplings move a mean anywhere
        assert (actions >= torch.tensor(RANGES[1][0]) - 1e-6).all()
        assert (actions <= torch.tensor(RANGES[1][1]) + 1e-6).all()


def test_initial_weights_are_those_of_linear_layers() -> None:
    with seeded(0):
        first, _, second = mlp([100, 50, 2])
    for layer, bound in ((first, 0.1), (second, 1 / math.sqrt(50))):
        for values in (layer.weight, layer.bias):
            assert values.abs().max() <= bound  # type: ignore[union-attr, operator]
        assert 0.9 * bound < layer.weight.abs().max()  # type: ignore[union-attr, operator]
        assert layer.weight.mean().abs() < 0.3 * bound  # type: ignore[union-attr, operator]
    assert isinstance(make_spec().make(), GaussianMLP)
    assert isinstance(make_spec("mixture").make(), GaussianMixture)
    assert isinstance(make_spec("flow").make(), CouplingFlow)


# --- files -----------------------------------------------------------------------------------------------------------


def make_policies(spec: PolicySpec, seeds: tuple[int, ...]) -> Policies:
    return Policies([make_policy(spec, seed) for seed in seeds], seeds, spec.spaces, spec)


@pytest.mark.parametrize("normaliser", [None, NORMALISER], ids=["plain", "normalised"])
@every_family
def test_save_and_load(family: str, kind: str, std: str, normaliser: dict[str, Any] | None, tmp_path: Path) -> None:
    spec = make_spec(family, kind, std, (-0.1, -3.0), (0.3, 1.0), normaliser)
    policies = make_policies(spec, (4, 2))
    policies.save(tmp_path / "policy.safetensors")
    loaded = load_policy(tmp_path / "policy.safetensors")
    assert (loaded.spec, loaded.spaces, loaded.seeds) == (spec, spec.spaces, (4, 2))
    observations, actions = random_batch(spec)
    for saved, restored in zip(policies, loaded, strict=True):
        assert torch.equal(restored.log_prob(observations, actions), saved.log_prob(observations, actions))
    chosen = load_policy(tmp_path / "policy.safetensors", seed=2)
    assert chosen.seeds == (2,)
    numbers = observations.numpy()
    np.testing.assert_array_equal(chosen.predict(numbers)[0], policies.select(2).predict(numbers)[0])
    with pytest.raises(UserError, match="has no seed 3, only 4, 2"):
        load_policy(tmp_path / "policy.safetensors", seed=3)


DAMAGES = [
    *("missing", "empty", "truncated", "text", "no metadata", "wrong metadata", "missing tensor", "wrong shape"),
    *("no observations", "no actions", "actions of two sizes"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_an_error_of_one_line(damage: str, tmp_path: Path) -> None:
    policies, path = make_policies(make_spec(), (0,)), tmp_path / "policy.safetensors"
    policies.save(path)
    content = path.read_bytes()
    tensors = named(policies.state())
    _, metadata = read_tensors(path)
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
            fields = json.loads(metadata["policy"]) | {"spec": {"settings": {"family": "other"}}}
            safetensors.torch.save_file(tensors, path, metadata={"policy": json.dumps(fields)})
        case "no observations" | "no actions" | "actions of two sizes":
            fields = json.loads(metadata["policy"])
            of = {"no observations": {"observation_size": 0}, "no actions": {"action_low": [], "action_high": []}}
            fields["spec"]["spaces"] |= of.get(damage, {"action_low": [0.0] * 7})
            safetensors.torch.save_file(tensors, path, metadata={"policy": json.dumps(fields)})
        case "missing tensor":
            del tensors["0.network.2.weight"]
            safetensors.torch.save_file(tensors, path, metadata=metadata)
        case "wrong shape":
            tensors["0.network.2.weight"] = tensors["0.network.2.weight"][1:].contiguous()
            safetensors.torch.save_file(tensors, path, metadata=metadata)
    with pytest.raises(UserError, match=r"policy\.safetensors: cannot be read") as caught:
        load_policy(path)
    assert "\n" not in str(caught.value)


def test_no_memory_is_given_to_networks_that_the_file_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.safetensors"
    policies = make_policies(make_spec(), (0,))
    policies.save(path)
    fields = json.loads(read_tensors(path)[1]["policy"])
    fields["spec"]["settings"]["hidden"] = [2**20, 2**20]  # four terabytes
    safetensors.torch.save_file(named(policies.state()), path, metadata={"policy": json.dumps(fields)})
    made: list[str] = []
    monkeypatch.setattr("iwbc.policies.networks.Linear.reset_parameters", lambda self: made.append(self.weight.device.type))
    with pytest.raises(UserError, match=r"cannot be read \(0\.network\.0\.weight has shape .*, not \(1048576, ") as caught:
        load_policy(path)
    assert "\n" not in str(caught.value)
    assert set(made) == {"meta"}


@pytest.mark.parametrize("name", ["0.network.2.weight", "0.network.0.bias", "0.log_std"])
def test_a_tensor_that_would_broadcast_is_not_accepted(name: str, tmp_path: Path) -> None:
    policies, path = make_policies(make_spec(), (0, 1)), tmp_path / "policy.safetensors"
    policies.save(path)
    _, metadata = read_tensors(path)
    tensors = named(policies.state())
    tensors[name] = tensors[name][:1].contiguous()
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    with pytest.raises(UserError, match="cannot be read"):
        load_policy(path)


def test_a_file_of_the_version_before_and_a_folder_are_refused_in_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    old = {"policy": json.dumps({"spec": {"kind": "tanh_mean"}, "seeds": [0]})}
    safetensors.torch.save_file({"weight0": torch.zeros(1, 3, 2)}, tmp_path / "old.safetensors", metadata=old)
    with pytest.raises(UserError, match=r"old\.safetensors: was saved by iwbc 0\.1, which can load it; or train it again"):
        load_policy(tmp_path / "old.safetensors")
    with pytest.raises(UserError, match=r"is a folder; give its file .*policy\.safetensors"):
        load_policy(tmp_path)


# --- acting ----------------------------------------------------------------------------------------------------------


@every_family
def test_predict(family: str, kind: str, std: str) -> None:
    policies = make_policies(make_spec(family, kind, std, (-3.0, 0.5), (5.0, 0.9)), (6, 1))
    observations = np.random.default_rng(0).normal(size=(6, 3))
    actions, state = policies.predict(observations)
    assert actions.shape == (6, 2)
    assert actions.dtype == np.float32
    assert (state is None) != issubclass(POLICIES[family], SequencePolicy)
    policies.reset()
    again, _ = policies.predict(observations)
    np.testing.assert_array_equal(actions, again)
    policies.reset()
    action, _ = policies.predict(observations[0])
    assert action.shape == (2,)
    np.testing.assert_allclose(action, actions[0], rtol=1e-5, atol=1e-6)
    expected = policies[0].mean_action(torch.from_numpy(observations).float()).detach().numpy()
    expected = expected.clip(policies.spaces.action_low, policies.spaces.action_high)
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-5)
    policies.reset()
    first, _ = policies.predict(observations, deterministic=False)
    policies.reset()
    second, _ = policies.predict(observations, deterministic=False)
    assert first.shape == (6, 2)
    assert not np.array_equal(first, second)


def test_predict_clips_to_the_action_space() -> None:
    policies = make_policies(make_spec(low=(-3.0, 0.5), high=(5.0, 0.9)), (0,))
    policies[0].log_std.data.fill_(2.0)
    actions, _ = policies.predict(np.zeros((500, 3)), deterministic=False)
    low, high = np.float32(policies.spaces.action_low), np.float32(policies.spaces.action_high)
    assert (actions >= low).all() and (actions <= high).all()
    assert (actions == low).any(axis=0).all() and (actions == high).any(axis=0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("batch", [False, True])
def test_predict_refuses_what_is_not_finite(value: float, batch: bool) -> None:
    policies = make_policies(make_spec(), (0,))
    observation = np.zeros((4, 3) if batch else 3)
    observation[(3, 1) if batch else 1] = value
    with np.errstate(over="ignore"), pytest.raises(UserError, match=r"^predict: the observation holds NaN or infinity at 1$"):
        policies.predict(observation)
    parts = (Part(("arm",), (2,)), Part(("cube",), (1,)))
    policies.spaces = dataclasses.replace(policies.spaces, observation_parts=parts)
    with pytest.raises(UserError, match=r"NaN or infinity at arm\[1\]$"):
        policies({"arm": np.array([0.0, np.nan]), "cube": np.zeros(1)})


def test_predict_returns_the_state_it_is_given() -> None:
    state = (np.zeros(1),)
    _, returned = make_policies(make_spec(), (0,)).predict(np.zeros(3), state, np.array([True]))
    assert returned is state


def test_selected_policies_are_those_of_the_seeds() -> None:
    policies = make_policies(make_spec(), (3, 5, 8))
    some = policies.select(8, 3)
    assert (some.seeds, some[0], some[1]) == ((8, 3), policies[2], policies[0])
    assert repr(some) == "Policies(GaussianMLP, seeds 8, 3)"
    assert isinstance(policies[0], nn.Module) and isinstance(policies[0], Policy)


# --- learning rates --------------------------------------------------------------------------------------------------


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


def test_making_one_loads_no_compiler() -> None:
    """PyTorch's, which its meta tensors bring along with sympy, would add half a second to the start of a run."""
    code = "import sys; from iwbc.policies.networks import mlp; mlp([3, 4, 2]); assert 'sympy' not in sys.modules"
    outcome = finish(python("-c", code, cwd=Path.cwd()))
    assert outcome.code == 0, outcome.err
