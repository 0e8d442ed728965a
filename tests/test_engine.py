"""The engine against plain autograd: the same densities, gradients and trained policies, with PyTorch's private calls and
without them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from setups import algorithm_of, compose, curated_of
from torch import Tensor

from iwbc import engine
from iwbc.data.sampling import StepSampler
from iwbc.data.streams import Stream, seeded
from iwbc.data.trajectories import Trajectories
from iwbc.engine import adam, kernels
from iwbc.engine.autograd import AutogradOptimizer, adam_state, load_adam
from iwbc.engine.fused import GaussianOptimizer
from iwbc.engine.gaussian import GaussianKernel
from iwbc.policies import GaussianMixture, GaussianMLP, Policy, Units
from iwbc.policies.networks import mlp
from iwbc.settings import Config
from iwbc.training.fit import fit

KINDS = [(kind, std) for kind in ("tanh_mean", "squashed") for std in ("global", "state")]
every_kind = pytest.mark.parametrize(("kind", "std"), KINDS)
has_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this PyTorch has no oneDNN operators"
)


def make_policy(kind: str = "tanh_mean", std: str = "global", **changes: Any) -> GaussianMLP:
    """With an action range and a normaliser, and a log-std that is clamped for one action of two."""
    units = Units((-3.0, 0.5), (5.0, 0.9), (1.0, -2.0, 0.5), (2.0, 0.5, 3.0))
    with seeded(0):
        policy = GaussianMLP(
            3, units, **({"hidden": [32, 16], "kind": kind, "std": std, "log_std_bounds": (-0.6, 0.4)} | changes)
        )
        for parameter in policy.parameters():
            if not parameter.any():
                parameter.data.copy_(torch.tensor([0.3, 0.7]))
    return policy


def random_batch(size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Observations, actions in and at the bounds of the range, and weights."""
    generator = torch.Generator().manual_seed(5)
    units = (2.2 * torch.rand(size, 2, generator=generator) - 1.1).clamp(-1.0, 1.0)
    actions = torch.tensor([1.0, 0.7]) + torch.tensor([4.0, 0.2]) * units
    return torch.randn(size, 3, generator=generator), actions, torch.rand(size, generator=generator)


def flat(policy: torch.nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in policy.parameters()])


# --- density and gradient ----------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("size", [1, 64])
def test_density_mean_and_gradient_are_those_of_autograd(kind: str, std: str, size: int) -> None:
    policy, (observations, actions, weights) = make_policy(kind, std), random_batch(size)
    kernel = GaussianKernel(policy)
    log_prob, vjp = kernel.log_prob_and_vjp(observations, actions)
    expected = policy.log_prob(observations, actions)
    torch.testing.assert_close(log_prob, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kernel.mean_action(observations), policy.mean_action(observations).detach())
    (weights * expected).mean().backward()
    by_pointer = {parameter.data_ptr(): parameter for parameter in policy.parameters()}
    assert len(kernel.parameters) == len(by_pointer)
    for parameter, written_out in zip(kernel.parameters, vjp(weights), strict=True):
        gradient = by_pointer[parameter.data_ptr()].grad
        assert gradient is not None and gradient.abs().max() > 0
        torch.testing.assert_close(written_out, gradient, rtol=1e-4, atol=1e-5)


@every_kind
def test_a_clamped_log_std_has_no_gradient(kind: str, std: str) -> None:
    policy, (observations, actions, weights) = make_policy(kind, std, log_std_bounds=(1.0, 2.0)), random_batch()
    *_, last = GaussianKernel(policy).log_prob_and_vjp(observations, actions)[1](weights)
    # Of log_std itself, or of the output's bias, whose second half is the log-std: all are below the bounds.
    assert last[-2:].eq(0.0).all()


def test_switched_off_it_is_not_used() -> None:
    policy = make_policy()
    assert isinstance(engine.policy_optimizer(policy), GaussianOptimizer)
    with engine.switched(False):
        assert isinstance(engine.policy_optimizer(policy), AutogradOptimizer)
        with pytest.raises(ZeroDivisionError), engine.switched(True):
            raise ZeroDivisionError
        assert isinstance(engine.policy_optimizer(policy), AutogradOptimizer)
    assert isinstance(engine.policy_optimizer(policy), GaussianOptimizer)


def test_a_subclass_with_another_density_trains_by_autograd() -> None:
    class Shifted(GaussianMLP):
        def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
            return super().log_prob(observations, actions + 0.1)

    policy = Shifted(3, Units((-1.0, -1.0), (1.0, 1.0)), hidden=[8])
    observations, actions, _ = random_batch()
    assert isinstance(engine.policy_optimizer(policy), AutogradOptimizer)
    assert torch.equal(engine.log_prob(policy, observations, actions), policy.log_prob(observations, actions))


def test_a_policy_without_a_kernel_steps_alike_with_the_fused_adam_and_without() -> None:
    observations, actions, weights = random_batch()
    stepped = []
    for fused in (False, True):
        with seeded(0):
            policy = GaussianMixture(3, Units((-3.0, 0.5), (5.0, 0.9)), hidden=[16])
        optimizer = AutogradOptimizer(policy, fused=fused)
        for rate in (1e-2, 1e-2, 1e-3):
            optimizer.step(observations, actions, weights, rate)
        stepped.append(optimizer.state())
    for name, value in stepped[0].items():
        torch.testing.assert_close(stepped[1][name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("fused", "device"), [(True, "meta"), (False, "cpu")])
def test_a_fused_adam_counts_its_steps_where_the_parameters_are(fused: bool, device: str) -> None:
    """On a GPU it reads them there; the meta device stands in."""
    here, there = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1, device="meta")
    optimizer = torch.optim.Adam(there.parameters())
    optimizer.defaults["fused"] = fused
    load_adam(optimizer, there, adam_state(torch.optim.Adam(here.parameters()), here, ""), "")
    for state in optimizer.state.values():
        assert (state["exp_avg"].device.type, state["step"].device.type) == ("meta", device)


def test_parameters_that_cannot_be_fused_are_trained_too() -> None:
    class Complex(Policy):
        def __init__(self) -> None:
            super().__init__()
            self.mean = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))

        def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
            return -(actions - self.mean.real).square().sum(-1)

    policy, (observations, actions, weights) = Complex(), random_batch()
    engine.policy_optimizer(policy).step(observations, actions, weights, 1e-2)
    assert policy.mean.real.abs().min() > 0


# --- whole trainings -----------------------------------------------------------------------------------------------------

RECIPE = ["policy.hidden=[32,32]", "reference.steps=40", "algo.batch_size=64", "algo.warmup_steps=10", "algo.steps=40"]
ALGORITHMS = {
    "bc": ["algo=bc"],
    "awr": ["algo=awr", "algo.value_hidden=[8]"],
    "iql": ["algo=iql", "algo.value_hidden=[16,8]"],
    "iw_bc": ["algo=iw_bc", "algo.refresh_every=10"],
    "iw_bc window": ["algo=iw_bc", "algo.level=window", "algo.refresh_every=10"],
}


def reference_of(config: Config, trajectories: Trajectories) -> Policy | None:
    """A trained reference policy, where the algorithm starts from one."""
    if config.algo.start == "scratch":
        return None
    policies = fit(config.reference, trajectories, policy=config.policy, seeds=[0], console=Console(quiet=True))
    assert isinstance(policies[0], Policy)
    return policies[0]


def trained(config: Config, trajectories: Trajectories, reference: Policy | None) -> dict[str, Tensor]:
    """Policy, losses, weights and all else that training leaves."""
    curated = curated_of(config, trajectories)
    algorithm = algorithm_of(config, curated, reference)
    sampler = StepSampler(curated, 0, config.algo.batch_size, Stream.TRAINING)
    losses = []
    with torch.no_grad():
        for step in range(config.algo.steps):
            losses.append(algorithm.update(sampler.batch(step), step, config.algo.learning_rate(step)))
        tensors = {"losses": torch.stack(losses), **algorithm.state(), **algorithm.metrics()}
        if (weights := getattr(algorithm, "weights", None)) is not None:
            tensors["weights"] = weights if isinstance(weights, Tensor) else weights.of(sampler.batch(0))
    return {name: value.clone() for name, value in tensors.items()}


# In every run of the tests: every kind of policy with one algorithm, every algorithm with one kind.
WHOLE = [
    pytest.param(
        name,
        [f"policy.kind={kind}", f"policy.std={std}"],
        id=f"{name}-{kind}-{std}",
        marks=[] if name == "iw_bc" or (kind, std) == KINDS[index % len(KINDS)] else pytest.mark.robustness,
    )
    for index, name in enumerate(ALGORITHMS)
    for kind, std in KINDS
]


@pytest.mark.parametrize(("name", "policy"), WHOLE)
def test_with_the_engine_and_without_it_training_gives_the_same_numbers(
    name: str, policy: list[str], hopper: Trajectories
) -> None:
    config = compose(*RECIPE, *policy, *ALGORITHMS[name])
    expected = trained(config, hopper, reference_of(config, hopper))
    with engine.switched(False):
        tensors = trained(config, hopper, reference_of(config, hopper))
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(tensors[key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("first", ["engine", "autograd"])
@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_value_networks_train_alike_and_either_continues_what_the_other_began(expectile: float, first: str) -> None:
    inputs, _, targets = random_batch()

    def trained_by(*fast: bool) -> dict[str, Tensor]:
        """The state, and the outputs before each step, after two steps by each."""
        with seeded(0):
            network = mlp([3, 16, 8, 1])
        state, outputs = None, []
        for on in fast:
            with engine.switched(on):
                optimizer = engine.value_optimizer(network)
                if state is not None:
                    optimizer.load(state, "v.")
                for rate in (1e-2, 1e-3):
                    before = engine.values(network, inputs)
                    outputs.append(optimizer.step(inputs, targets, rate, expectile))
                    torch.testing.assert_close(outputs[-1], before)
                state = {name: value.clone() for name, value in optimizer.state("v.").items()}
        return {**state, "outputs": torch.stack(outputs)}

    expected = trained_by(False, False)
    tensors = trained_by(first == "engine", first != "engine")
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(tensors[key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("first", ["engine", "autograd"])
@every_kind
def test_either_continues_what_the_other_began(kind: str, std: str, first: str) -> None:
    observations, actions, weights = random_batch()

    def steps(optimizer: Any) -> Any:
        for rate in (1e-3, 1e-2, 1e-3):
            optimizer.step(observations, actions, weights, rate)
        return optimizer

    makers = {"engine": GaussianOptimizer, "autograd": AutogradOptimizer}
    (second,) = makers.keys() - {first}
    whole = steps(steps(makers[first](make_policy(kind, std))))
    began, continued = steps(makers[first](make_policy(kind, std))), makers[second](make_policy(kind, std))
    continued.load(began.state())
    steps(continued)
    assert whole.state().keys() == continued.state().keys()
    for name, value in whole.state().items():
        torch.testing.assert_close(continued.state()[name], value, rtol=1e-4, atol=1e-6)
    assert (flat(whole.policy) - flat(make_policy(kind, std))).abs().max() > 1e-2


# --- Adam ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_fused_adam(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch without the private operation."""
    adam.has_fused_operation.cache_clear()
    monkeypatch.delattr(torch, "_fused_adam_")
    yield
    adam.has_fused_operation.cache_clear()


def ascents() -> tuple[list[Tensor], list[Tensor]]:
    """Parameters after some steps by the engine's Adam, and by PyTorch's."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=generator), torch.randn(3, generator=generator)]
    by_engine, by_torch = copy.deepcopy(start), [value.clone().requires_grad_() for value in start]
    ours, theirs = adam.Adam(by_engine), torch.optim.Adam(by_torch, maximize=True)
    for step in range(20):
        gradient = [torch.randn(value.shape, generator=generator) for value in start]
        rate = 1e-2 * (step + 1)
        ours.step(gradient, rate)
        for value, slope in zip(by_torch, gradient, strict=True):
            value.grad = slope
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
    assert ours.steps.item() == 20.0
    return by_engine, [value.detach() for value in by_torch]


def test_adam_is_torch_s() -> None:
    assert adam.has_fused_operation()
    by_engine, by_torch = ascents()
    torch.testing.assert_close(by_engine, by_torch, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("no_fused_adam")
def test_adam_without_the_fused_operation_is_the_same() -> None:
    assert not adam.has_fused_operation()
    by_engine, by_torch = ascents()
    torch.testing.assert_close(by_engine, by_torch, rtol=1e-5, atol=1e-6)


def test_a_fused_operation_that_takes_other_arguments_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(values: list[Tensor], gradient: list[Tensor]) -> None:
        raise AssertionError

    adam.has_fused_operation.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "_fused_adam_", other)
            assert not adam.has_fused_operation()
            ascents()
    finally:
        adam.has_fused_operation.cache_clear()


# --- products ------------------------------------------------------------------------------------------------------------


def products(policy: GaussianMLP) -> list[Tensor]:
    observations, actions, weights = random_batch(256)
    log_prob, vjp = GaussianKernel(policy).log_prob_and_vjp(observations, actions)
    return [log_prob, *vjp(weights)]


@has_onednn
@every_kind
def test_onednn_s_products_are_pytorch_s(kind: str, std: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {}
    for fast in (False, True):
        monkeypatch.setattr(kernels, "prefers_onednn", lambda fast=fast: fast)
        results[fast] = products(make_policy(kind, std))
    for plain, fast_ in zip(results[False], results[True], strict=True):
        torch.testing.assert_close(fast_, plain, rtol=1e-4, atol=1e-5)
        assert fast_.is_contiguous()


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A processor that prefers oneDNN; what is found out about the operator is forgotten."""
    caches = (kernels.prefers_onednn, kernels._onednn)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(kernels, "_processor", lambda: "vendor_id: AuthenticAMD")
    with monkeypatch.context() as patch:
        yield patch
    for cache in caches:
        cache.cache_clear()


@has_onednn
def test_an_amd_processor_prefers_onednn(amd: pytest.MonkeyPatch) -> None:
    assert kernels.prefers_onednn()
    calls, linear = [], kernels._linear
    amd.setattr(kernels, "_linear", lambda *arguments: (calls.append(arguments), linear(*arguments))[1])
    products(make_policy())
    assert calls


def raising(error: type[Exception]) -> Any:
    def operator(*arguments: object) -> Tensor:
        raise error

    return SimpleNamespace(_linear_pointwise=SimpleNamespace(default=operator))


@pytest.mark.parametrize(
    "stand_in",
    [
        SimpleNamespace(),  # without the operator
        SimpleNamespace(_linear_pointwise=SimpleNamespace()),  # without its overload
        raising(TypeError),  # with other arguments
        raising(RuntimeError),
        SimpleNamespace(_linear_pointwise=SimpleNamespace(default=lambda *tensors: tensors[0])),  # with another meaning
    ],
    ids=["no operator", "no overload", "TypeError", "RuntimeError", "wrong"],
)
def test_without_the_private_operator_products_are_pytorch_s(stand_in: Any, amd: pytest.MonkeyPatch) -> None:
    expected = products(make_policy())
    for cache in (kernels.prefers_onednn, kernels._onednn):
        cache.cache_clear()
    amd.setattr(torch.ops, "mkldnn", stand_in)
    assert not kernels.prefers_onednn()
    for output, value in zip(products(make_policy()), expected, strict=True):
        torch.testing.assert_close(output, value, rtol=1e-4, atol=1e-5)


@has_onednn
def test_the_number_of_threads_changes_no_bit_of_onednn_s_products(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other libraries promise nothing.
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: True)
    threads = torch.get_num_threads()
    results = {}
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results[count] = products(make_policy(hidden=[256, 256]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for first, second in zip(results[1], results[2], strict=True))


def test_the_scale_of_actions_is_in_the_density() -> None:
    # d action / d unit of the two actions is 4 and 0.2.
    policy, (observations, actions, _) = make_policy(), random_batch()
    plain = GaussianMLP(
        3, Units((-1.0, -1.0), (1.0, 1.0), (1.0, -2.0, 0.5), (2.0, 0.5, 3.0)), [32, 16], log_std_bounds=(-0.6, 0.4)
    )
    plain.load_state_dict(policy.state_dict())
    units = (actions - torch.tensor([1.0, 0.7])) / torch.tensor([4.0, 0.2])
    expected = engine.log_prob(plain, observations, units) - math.log(4.0 * 0.2)
    torch.testing.assert_close(engine.log_prob(policy, observations, actions), expected, rtol=1e-4, atol=1e-4)
