"""Policies with history and chunks: their densities, what they learn, how they act, and what they are exported as."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import make_trajectories, quick
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from setups import rarely
from torch import Tensor, nn

from iwbc import engine, export
from iwbc.algorithms.weights import log_probs
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.streams import Stream, generator, seeded
from iwbc.data.trajectories import Trajectories
from iwbc.data.windows import Sequences
from iwbc.engine.fused import GaussianOptimizer
from iwbc.errors import UserError
from iwbc.evaluation import Evaluator
from iwbc.policies.policy import window_of
from iwbc.policies.spec import PolicySpec, Spaces
from iwbc.settings import BC, IWBC, POLICIES, FlowPolicy, GaussianPolicy, LSTMPolicy, MixturePolicy, TransformerPolicy
from iwbc.training.diagnostics import Diagnostics
from iwbc.training.fit import fit
from iwbc.training.trained import Policies, load_policy

QUIET = Console(quiet=True)
KINDS = [(kind, std) for kind in ("tanh_mean", "squashed") for std in ("global", "state")]
CHUNKED = [(family, *kind) for family in ("gaussian", "mixture") for kind in KINDS]
every_chunked = pytest.mark.parametrize(("family", "kind", "std"), CHUNKED)


def make_spec(family: str = "gaussian", low: float = -3.0, high: float = 5.0, act: int = 1, **settings: Any) -> PolicySpec:
    chosen = POLICIES[family](**({"hidden": [16, 8]} | settings))
    return PolicySpec(chosen, Spaces(3, (low,) * act, (high,) * act), (1.0, -2.0, 0.5), (2.0, 0.5, 3.0))


def make_policy(spec: PolicySpec, seed: int = 0) -> Any:
    """A policy whose parameters are all random, those that start at 0 too."""
    with seeded(seed):
        policy = spec.make()
        for parameter in policy.parameters():
            if not parameter.any():
                parameter.data.copy_(0.3 * torch.randn(parameter.shape) - 0.5)
    return policy


def make_policies(spec: PolicySpec, *seeds: int) -> Policies:
    return Policies([make_policy(spec, seed) for seed in seeds or (0,)], seeds or (0,), spec.spaces, spec)


def random_actions(*shape: int) -> Tensor:
    """Actions in −3 … 5, inside the bounds."""
    return 1.0 + 4.0 * (1.9 * torch.rand(shape, generator=generator(1)) - 0.95)


def random_observations(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, generator=generator(2))


# --- densities -----------------------------------------------------------------------------------------------------------


@every_chunked
def test_an_action_beyond_the_end_is_integrated_out(family: str, kind: str, std: str) -> None:
    policy = make_policy(make_spec(family, kind=kind, std=std, history=2, chunk=3))
    observation, chunk = random_observations(1, 2), random_actions(1, 3, 1)
    # Squashed densities crowd at the bounds: so do the points.
    points = torch.linspace(-1.0, 1.0, 401, dtype=torch.float64)
    axis = 1.0 + 3.999999 * torch.sin(points * math.pi / 2) if kind == "squashed" else 1.0 + 60.0 * points
    beyond = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1).float()
    with torch.no_grad():
        for missing in (1, 2):
            grid = beyond.unique(dim=0) if missing == 2 else axis[:, None].float()
            filled = torch.cat([chunk[:, : 3 - missing].expand(len(grid), -1, -1), grid[..., None]], dim=1)
            density = policy.log_prob(observation.expand(len(grid), -1, -1), filled).exp().double()
            density = density.view([len(axis)] * missing)
            for _ in range(missing):
                density = torch.trapezoid(density, axis)
            cut = chunk.clone()
            cut[:, 3 - missing :] = torch.nan
            assert policy.log_prob(observation, cut).exp().item() == pytest.approx(density.item(), rel=5e-3)


@every_chunked
def test_the_end_of_a_chunk_is_masked_without_a_trace(family: str, kind: str, std: str) -> None:
    policy = make_policy(make_spec(family, kind=kind, std=std, chunk=3, act=2))
    observations, actions = random_observations(4), random_actions(4, 3, 2)
    actions[1, 2:], actions[2, 1:] = torch.nan, torch.nan
    log_prob = policy.log_prob(observations, actions)
    alone = torch.stack([policy.log_prob(observations[i : i + 1], actions[i : i + 1])[0] for i in range(4)])
    torch.testing.assert_close(log_prob, alone)
    log_prob[1:3].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in policy.parameters())
    if family == "gaussian":  # no gradient reaches the outputs of what is not there
        last = [layer for layer in policy.network if isinstance(layer, nn.Linear)][-1]
        assert last.bias.grad.view(-1, 3, 2)[:, 2].eq(0.0).all()
        assert last.bias.grad.view(-1, 3, 2)[:, 0].ne(0.0).all()


@every_chunked
def test_a_chunk_of_one_by_the_masked_way_is_the_action(family: str, kind: str, std: str) -> None:
    policy = make_policy(make_spec(family, kind=kind, std=std, act=2))
    observations, actions = random_observations(20), random_actions(20, 2)
    by_mask, plain = policy.log_prob(observations, actions[:, None]), policy.log_prob(observations, actions)
    if family == "gaussian":
        assert torch.equal(by_mask, plain)
    torch.testing.assert_close(by_mask, plain, rtol=1e-6, atol=1e-6)  # a mixture's components are added in another order


@pytest.mark.parametrize("family", ["gaussian", "mixture", "flow"])
@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_a_history_is_a_wider_observation(family: str, kind: str, std: str) -> None:
    spec = make_spec(family, kind=kind, std=std, act=2, history=4)
    policy = make_policy(spec)
    wide = PolicySpec(
        POLICIES[family](hidden=[16, 8], kind=kind, std=std),
        Spaces(12, *(spec.spaces.action_low, spec.spaces.action_high)),
        *(4 * each for each in ((1.0, -2.0, 0.5), (2.0, 0.5, 3.0))),
    ).make()
    wide.load_state_dict(policy.state_dict())
    observations, actions = random_observations(20, 4), random_actions(20, 2)
    assert torch.equal(policy.log_prob(observations, actions), wide.log_prob(observations.flatten(1), actions))
    assert torch.equal(policy.mean_action(observations), wide.mean_action(observations.flatten(1)))


@pytest.mark.parametrize(("kind", "std"), KINDS)
def test_the_engine_takes_histories_and_leaves_chunks_to_autograd(kind: str, std: str) -> None:
    seeing, chunked = (make_policy(make_spec(kind=kind, std=std, act=2, **more)) for more in ({"history": 4}, {"chunk": 4}))
    observations, actions, weights = random_observations(20, 4), random_actions(20, 2), torch.rand(20, generator=generator(0))
    assert isinstance(engine.policy_optimizer(seeing), GaussianOptimizer)
    assert not isinstance(engine.policy_optimizer(chunked), GaussianOptimizer)
    torch.testing.assert_close(engine.log_prob(seeing, observations, actions), seeing.log_prob(observations, actions).detach())
    stepped = []
    for on in (True, False):
        with engine.switched(on):
            policy = copy.deepcopy(seeing)
            for _ in range(3):
                engine.policy_optimizer(policy).step(observations, actions, weights, 1e-3)
            stepped.append(torch.cat([parameter.detach().flatten() for parameter in policy.parameters()]))
    torch.testing.assert_close(*stepped, rtol=1e-5, atol=1e-5)


@every_chunked
def test_samples_of_chunks_follow_the_density(family: str, kind: str, std: str) -> None:
    policy = make_policy(make_spec(family, kind=kind, std=std, chunk=2))
    observations = random_observations(1).expand(20_000, 3)
    with torch.no_grad():
        samples = policy.sample(observations, generator(3))
        assert samples.shape == (20_000, 2, 1)
        assert policy.mean_action(observations[:5]).shape == (5, 2, 1)
        # Of the first action alone: the share below a point is the integral of the marginal up to there.
        grid = torch.linspace(-2.99999, 4.99999, 20_001) if kind == "squashed" else torch.linspace(-60.0, 60.0, 60_001)
        chunk = torch.stack([grid, torch.full_like(grid, torch.nan)], 1)[..., None]
        density = policy.log_prob(observations[:1].expand(len(grid), 3), chunk).exp()
        cumulative = torch.cumulative_trapezoid(density.double(), grid.double())
    for point in samples[:, 0, 0].quantile(torch.tensor([0.1, 0.5, 0.9])):
        below = (samples[:, 0, 0] <= point).double().mean().item()
        assert below == pytest.approx(cumulative[torch.searchsorted(grid, point) - 1].item(), abs=0.02)


# --- settings and files --------------------------------------------------------------------------------------------------


def test_a_spec_says_them_only_where_they_say_something(tmp_path: Path) -> None:
    names = {"history", "chunk", "execute"}
    assert not names & make_spec().plain()["settings"].keys()  # so that references of earlier versions keep their names
    spec = make_spec("mixture", history=3, chunk=4, execute=2)
    assert names <= spec.plain()["settings"].keys()
    for each in (spec, make_spec()):
        assert PolicySpec.of_plain(each.plain()) == each
    policies = make_policies(spec, 4, 2)
    policies.save(tmp_path / "policy.safetensors")
    loaded = load_policy(tmp_path / "policy.safetensors")
    assert loaded.spec == spec
    rows = random_observations(5).numpy()
    np.testing.assert_array_equal(loaded.predict(rows)[0], policies.predict(rows)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (GaussianPolicy(history=0), "policy.history=0: must lie between 1 and 1,000"),
        (GaussianPolicy(history=100_000), "policy.history=100000: must lie between 1 and 1,000"),
        (GaussianPolicy(chunk=1001), "policy.chunk=1001: must lie between 1 and 1,000"),
        (GaussianPolicy(chunk=1.5), "policy.chunk=1.5: must be a whole number"),  # type: ignore[arg-type]
        (MixturePolicy(chunk=2, execute=3), "policy.execute=3: must be at most policy.chunk, which is 2"),
        (GaussianPolicy(execute=2), "policy.execute=2: must be at most policy.chunk, which is 1"),
        (FlowPolicy(chunk=2), "policy.chunk=2: a flow has no exact density of a part of a chunk"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings: GaussianPolicy, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        fit(BC(steps=1), make_trajectories([1.0, 2.0]), policy=settings, console=QUIET)
    assert "\n" not in str(caught.value)


class Linear(nn.Module):
    """A policy of one's own: the next `chunk` actions, linear in the last `history` observations."""

    def __init__(self, history: Any = 1, chunk: Any = 1, execute: Any = 1) -> None:
        super().__init__()
        self.history, self.chunk, self.execute = history, chunk, execute
        self.network = nn.Linear(3 * int(history), 2 * int(chunk))

    def mean_action(self, observations: Tensor) -> Tensor:
        actions: Tensor = self.network(observations.flatten(1))
        return actions.unflatten(-1, (self.chunk, 2)) if self.chunk > 1 else actions

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        apart = (actions.nan_to_num() - self.mean_action(observations)).masked_fill(actions.isnan(), 0.0)
        return -apart.square().flatten(1).sum(-1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((True, 1, 1), "Linear: its history is True, not a whole number of at least 1"),
        ((1, 2.0, 1), "Linear: its chunk is 2.0, not a whole number"),
        ((1, 2, 3), "Linear: its execute=3 is more than its chunk=2"),
    ],
)
def test_attributes_of_a_policy_of_one_s_own_are_checked(sizes: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(BC(steps=1), make_trajectories([1.0, 2.0]), policy=lambda: Linear(*sizes), console=QUIET)


def test_a_policy_of_one_s_own_is_loaded_with_what_it_was_trained_with(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    policies = fit(BC(steps=1), make_trajectories([1.0, 2.0]), policy=lambda: Linear(1, 4, 2), console=QUIET)
    policies.save(path)
    loaded = load_policy(path, policy=lambda: Linear(1, 4, 2))
    np.testing.assert_array_equal(loaded.predict(np.ones(3))[0], policies.predict(np.ones(3))[0])
    with pytest.raises(UserError, match="was trained with execute=2, and is made with execute=4 now"):
        load_policy(path, policy=lambda: Linear(1, 4, 4))  # has the same parameters


class Unmasked(Linear):
    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        return -(actions - self.mean_action(observations)).square().flatten(1).sum(-1)


class OneDimension(Linear):
    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        return -(actions.nan_to_num() - self.mean_action(observations)).square().sum(-1)


class Flat(Linear):
    def mean_action(self, observations: Tensor) -> Tensor:
        return super().mean_action(observations).flatten(1)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        return -(actions.nan_to_num().flatten(1) - self.mean_action(observations)).square().sum(-1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unmasked, "Unmasked: its log_prob is not finite where a trajectory ends within the chunk"),
        (OneDimension, r"OneDimension: its log_prob gives \[16, 3\] for actions \[16, 3, 2\], not \[16\]"),
        (Flat, r"Flat: its mean_action gives \[16, 6\] for actions \[16, 3, 2\], not \[16, 3, 2\]"),
    ],
)
def test_a_policy_of_one_s_own_that_gives_other_shapes_is_refused_before_it_is_trained(
    kind: type[Linear], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fit(BC(steps=1, batch_size=16), make_trajectories([1.0, 2.0]), policy=lambda: kind(1, 3), console=QUIET)


@pytest.mark.parametrize("algo", [BC(steps=1, warmup_steps=0), IWBC(steps=1)], ids=["from scratch", "from the reference"])
def test_the_reference_s_family_is_trained_where_none_is_named(algo: Any) -> None:
    data = make_trajectories([1.0, 2.0])
    reference = fit(BC(steps=1), data, policy=MixturePolicy(hidden=[8], history=3, chunk=4), console=QUIET)
    assert fit(algo, data, reference=reference, console=QUIET).spec == reference.spec


def test_a_policy_that_would_not_be_trained_is_refused() -> None:
    data = make_trajectories([1.0, 2.0])
    reference = fit(BC(steps=1), data, policy=MixturePolicy(hidden=[8]), console=QUIET)
    with pytest.raises(UserError, match="starts from the reference, whose policy it trains on; leave policy out"):
        fit(IWBC(steps=1), data, reference=reference, policy=GaussianPolicy(history=7), console=QUIET)
    custom = fit(BC(steps=1), data, policy=Linear, console=QUIET)
    with pytest.raises(UserError, match="starts from scratch, and the reference is custom; give policy="):
        fit(BC(steps=1), data, reference=custom, console=QUIET)


# --- training ------------------------------------------------------------------------------------------------------------


def echoes(late: int, lengths: Sequence[int] = (6, 9, 12)) -> Trajectories:
    """Trajectories whose actions are the first entry of the observation `late` steps before, or of the first observation."""
    data = make_trajectories([1.0] * 60, [*lengths] * 20, action_size=1, seed=3)
    steps = np.concatenate([np.maximum(np.arange(length) - late, 0) for length in data.lengths])
    rows = np.repeat(data.offsets[:-1], data.lengths) + steps
    data.actions[:, 0] = 0.8 * np.tanh(data.observations[rows, 0])
    return data


def error(policies: Policies, data: Trajectories) -> float:
    """The root mean square of mean actions less the data's, where there are any."""
    everything = Curated(data, np.ones(len(data)), "transition")
    ((_, observations, actions),) = everything.batches(window=window_of(policies[0]))
    with torch.no_grad():
        apart = policies[0].mean_action(observations) - actions
    return float(apart[~apart.isnan()].square().mean().sqrt())


LEARN = BC(steps=800, lr=3e-3, warmup_steps=10, batch_size=64)


def test_what_depends_on_an_earlier_observation_is_learnt_with_history() -> None:
    data = echoes(2)
    errors = [error(fit(LEARN, data, policy=GaussianPolicy(hidden=[64], history=k), console=QUIET), data) for k in (1, 3)]
    assert errors[1] < 0.1 < 0.3 < errors[0]


def test_a_chunk_learns_the_actions_to_come() -> None:
    data = echoes(1)  # the action after this one is known; those after that are not
    policies = fit(LEARN, data, policy=MixturePolicy(hidden=[64], history=2, chunk=3, components=2), console=QUIET)
    everything = Curated(data, np.ones(len(data)), "transition")
    ((_, observations, actions),) = everything.batches(window=window_of(policies[0]))
    with torch.no_grad():
        apart = (policies[0].mean_action(observations) - actions)[..., 0]
    errors = [float(column[~column.isnan()].square().mean().sqrt()) for column in apart.T]
    assert max(errors[:2]) < 0.1 < 0.3 < errors[2]


def test_all_is_measured_per_action(tmp_path: Path) -> None:
    data = echoes(1)
    reference = fit(BC(steps=30, batch_size=32), data, policy=GaussianPolicy(hidden=[8]), console=QUIET)
    policy = make_policy(make_spec(act=1, low=-1.0, high=1.0, history=2, chunk=4))
    everything = Curated(data, np.ones(len(data)), "trajectory")
    # The reference has another reach than the policy: each sees the same steps in its way.
    measured = Diagnostics(everything, reference[0], 3, window=window_of(policy)).measure(policy)
    probe = StepSampler(everything, 3, 512, Stream.PROBES, window=window_of(policy)).batch(0)
    each = [
        policy.log_prob(probe.observations[i : i + 1], probe.actions[i : i + 1]) / (~probe.actions[i].isnan()).sum()
        for i in range(512)
    ]
    torch.testing.assert_close(measured["log_prob_kept"], torch.cat(each).mean().detach(), rtol=1e-4, atol=1e-5)
    plain = StepSampler(everything, 3, 512, Stream.PROBES).batch(0)
    before = engine.log_prob(reference[0], plain.observations, plain.actions).mean()
    torch.testing.assert_close(measured["drift_kept"], measured["log_prob_kept"] - before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algo", [BC(steps=3, batch_size=8), IWBC(steps=4, batch_size=8)])
def test_a_policy_of_one_s_own_sees_what_its_attributes_say(algo: Any) -> None:
    data = make_trajectories([1.0, 2.0, 3.0], [2, 5, 3])
    reference = fit(BC(steps=3, batch_size=8), data, policy=lambda: Linear(3, 2, 2), console=QUIET)
    start: dict[str, Any] = {"reference": reference} if algo.start == "reference" else {"policy": lambda: Linear(3, 2, 2)}
    policies = fit(algo, data, console=QUIET, **start)
    action, state = policies.predict(data.observations[0])
    assert action.shape == (2,)
    assert state is not None


# --- acting --------------------------------------------------------------------------------------------------------------


class Loop:
    """One episode of a policy, asked by itself: the plainest way to act."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def start(self) -> None:
        self.seen: list[np.ndarray] = []
        self.left: list[np.ndarray] = []

    def act(self, observation: np.ndarray) -> np.ndarray:
        self.seen.append(observation)
        if not self.left:
            history = [self.seen[0]] * self.module.history + self.seen
            last = torch.from_numpy(np.stack(history[-self.module.history :])[None])
            with torch.no_grad():
                actions = self.module.mean_action(last if self.module.history > 1 else last[:, 0])[0].numpy()
            chunk = actions if self.module.chunk > 1 else actions[None]
            self.left = list(chunk[: getattr(self.module, "execute", 1)])
        return self.left.pop(0)


@quick
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_episodes_side_by_side_act_as_each_alone(history: int, chunk: int, data: st.DataObject) -> None:
    execute = data.draw(st.integers(1, chunk))
    torch.manual_seed(0)
    policies = Policies([Linear(history, chunk, execute)], (0,), Spaces(3, (-np.inf,) * 2, (np.inf,) * 2), None)
    loops, state = [Loop(policies[0]) for _ in range(3)], None
    for t in range(8):
        starts = np.array(data.draw(st.lists(st.booleans(), min_size=3, max_size=3))) | (t == 0)
        observations = np.random.default_rng(t).normal(size=(3, 3)).astype(np.float32)
        actions, state = policies.predict(observations, state, starts)
        for loop, starts_here in zip(loops, starts, strict=True):
            if starts_here:
                loop.start()
        np.testing.assert_allclose(
            actions, [loop.act(o) for loop, o in zip(loops, observations, strict=True)], rtol=1e-5, atol=1e-6
        )


def test_a_state_that_was_returned_stays_as_it_is() -> None:
    policies = make_policies(make_spec(history=3, chunk=4, execute=3))
    rows = random_observations(6, 2).numpy()
    _, state = policies.predict(rows[0])
    once, _ = policies.predict(rows[1], state, np.zeros(2, bool))
    policies.predict(rows[2], state, np.zeros(2, bool))
    again, _ = policies.predict(rows[1], state, np.zeros(2, bool))
    np.testing.assert_array_equal(once, again)


def test_without_a_state_it_goes_on_until_it_is_reset() -> None:
    policies, other = (make_policies(make_spec(history=3)) for _ in range(2))
    rows = random_observations(4).numpy()
    whole, state = [], None
    for row in rows:
        action, state = other.predict(row, state)
        whole.append(action)
    for _ in range(2):
        policies.reset()
        np.testing.assert_array_equal([policies.predict(row)[0] for row in rows], whole)
    assert not np.array_equal(policies.predict(rows[0])[0], whole[0])  # what it saw before counts
    np.testing.assert_array_equal(policies.predict(rows[0], episode_start=np.ones(1, bool))[0], whole[0])
    with pytest.raises(UserError, match=r"predict: 2 observations go on with 1 episodes; call reset\(\) first"):
        policies.predict(rows[:2])
    with pytest.raises(UserError, match="predict: the state is not one that an earlier call of this policy returned"):
        policies.predict(rows[0], (rows,))
    plain = make_policies(make_spec())
    plain.reset()
    assert plain.predict(rows[0], (rows,))[1] == (rows,)  # no memory: as it was given


@pytest.mark.parametrize(
    "state",
    [
        lambda other: other.predict(np.zeros((2, 3)))[1],
        lambda _: (None, None, None),
        lambda _: np.zeros((3, 3, 3)),
        lambda _: "abc",
    ],
    ids=["another policy's", "nothing", "an array", "a text"],
)
@pytest.mark.parametrize("spec", [make_spec(history=3, chunk=4), make_spec("lstm_mixture", sequence=5)], ids=["chunks", "LSTM"])
def test_a_state_of_something_else_is_refused(spec: PolicySpec, state: Any) -> None:
    other = make_policies(make_spec(history=3, chunk=2))
    with pytest.raises(UserError, match="predict: the state is not one that an earlier call of this policy returned"):
        make_policies(spec).predict(np.zeros((2, 3)), state(other))


def test_other_libraries_play_them() -> None:
    policies = make_policies(make_spec("mixture", low=-2.0, high=2.0, history=2, chunk=3, execute=2))
    by_loop = loop_returns(policies, 2)
    # As Stable-Baselines3's evaluate_policy calls a model: the state of the call before, and which episodes begin.
    env: Any = gym.vector.SyncVectorEnv([lambda: gym.make("Pendulum-v1")] * 2)
    observations, _ = env.reset(seed=[Evaluator.start(PLAYED, 0, e) for e in range(2)])  # type: ignore[arg-type]
    state, starts, returns = None, np.ones(2, bool), np.zeros(2)
    for _ in range(200):
        actions, state = policies.predict(observations, state, starts, deterministic=True)
        observations, rewards, terminated, truncated, _ = env.step(actions)
        returns += rewards
        starts = terminated | truncated
    np.testing.assert_allclose(returns, by_loop, rtol=1e-3)
    # As imitation's rollouts do: no state and no episode that begins at first.
    first, _ = policies(random_observations(2).numpy(), None, np.zeros(2, bool))
    policies.reset()
    np.testing.assert_array_equal(first, policies.predict(random_observations(2).numpy())[0])


class Seed:
    seed = 5


PLAYED: Any = Seed()


def loop_returns(policies: Policies, episodes: int) -> list[float]:
    """Returns of Pendulum, an episode after the other."""
    env: gym.Env[Any, Any] = gym.make("Pendulum-v1")
    returns = []
    for episode in range(episodes):
        loop, total, over = Loop(policies[0]), 0.0, False
        loop.start()
        observation, _ = env.reset(seed=Evaluator.start(PLAYED, policies.seeds[0], episode))
        while not over:
            action = policies.spaces.clip(loop.act(observation))
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


@pytest.mark.parametrize("more", [{"history": 3}, {"chunk": 4, "execute": 3}, {"history": 2, "chunk": 3, "execute": 1}])
def test_an_evaluation_is_the_episodes_by_themselves(more: dict[str, int]) -> None:
    policies = make_policies(make_spec(low=-2.0, high=2.0, **more))
    evaluator = Evaluator("Pendulum-v1", PLAYED.seed)
    np.testing.assert_allclose(evaluator.evaluate(policies, 3).returns[0], loop_returns(policies, 3), rtol=1e-3)
    sampled = [evaluator.evaluate(policies, 3, "sample").returns for _ in range(2)]
    assert np.array_equal(*sampled)
    assert not np.array_equal(sampled[0], evaluator.evaluate(policies, 3).returns)


# --- export --------------------------------------------------------------------------------------------------------------

EXPORTED = [
    ("torchscript", "mean", "mixture"),
    ("torchscript", "sample", "mixture"),
    ("onnx", "mean", "mixture"),
    rarely("onnx", "sample", "gaussian"),
]


@pytest.mark.parametrize(("kind", "action", "family"), EXPORTED)
def test_an_exported_policy_takes_histories_and_gives_chunks(kind: str, action: str, family: str, tmp_path: Path) -> None:
    policies, path = make_policies(make_spec(family, act=2, history=3, chunk=4, execute=2)), tmp_path / "policy"
    write = {"onnx": export.write_onnx, "torchscript": export.write_torchscript}[kind]
    write(policies, path, action, {})
    for count in (1, 5):
        seen = random_observations(count, 3)
        noise = policies[0].noise(count, generator(4)) if action == "sample" else ()
        with torch.no_grad():
            made = policies[0].sample_from(seen, *noise) if noise else policies[0].mean_action(seen)
        expected = policies.spaces.clip(made.numpy())
        assert expected.shape == (count, 4, 2)
        if kind == "onnx":
            session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
            inputs = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), (seen, *noise), strict=True)}
            (actions,) = session.run(["action"], inputs)
        else:
            actions = torch.jit.load(str(path))(seen, *noise).numpy()
        np.testing.assert_allclose(actions, expected, atol=1e-5)


# --- policies that read sequences ----------------------------------------------------------------------------------------

READING = {"lstm_mixture": {"hidden": [16, 8]}, "transformer": {"hidden": [16, 8], "width": 16}}
every_reader = pytest.mark.parametrize("family", READING)


def make_reader(family: str, sequence: int = 3, **settings: Any) -> Any:
    return make_policy(make_spec(family, **READING[family], sequence=sequence, **settings))


def alone(policy: Any, episode: Any, t: int) -> Tensor:
    """log π(a_t | the observations since the memory began), of a sequence that ends at t."""
    seen = torch.from_numpy(episode.observations[t - t % policy.sequence : t + 1])
    meant = Sequences(seen[None], torch.tensor([0]), torch.tensor([len(seen) - 1]))
    log_prob: Tensor = policy.log_prob(meant, torch.from_numpy(episode.actions[t : t + 1]))[0]
    return log_prob


@every_reader
@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_log_likelihood_of_a_step_is_that_of_what_was_seen_since_the_memory_began(
    family: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_trajectories([1.0] * 5, [7, 1, 3, 8, 4], action_size=1)
    kept, policy = Curated(data, np.array([1.0, 1.0, 0.0, 2.0, 1.0]), "trajectory"), make_reader(family)
    batches = kept.batches
    monkeypatch.setattr(Curated, "batches", lambda self, device, window: batches(device, size, window))
    expected = [alone(policy, data[int(i)], t) for i in kept.kept for t in range(int(data.lengths[i]))]
    torch.testing.assert_close(log_probs(policy, kept), torch.stack(expected).detach(), rtol=1e-4, atol=1e-5)


@every_reader
def test_a_minibatch_is_of_sequences_from_the_steps_that_were_drawn(family: str) -> None:
    data = make_trajectories([1.0] * 4, [7, 1, 3, 8], action_size=1)
    kept, policy = Curated(data, np.array([1.0, 1.0, 0.0, 1.0]), "trajectory"), make_reader(family)
    drawn = StepSampler(kept, 0, 32, 0, window=window_of(policy)).batch(0)
    starts = StepSampler(kept, 0, 32, 0).batch(0)
    owner = np.repeat(np.arange(3), kept.lengths)
    steps = [step for start in starts.step.tolist() for step in range(start, min(start + 3, 16)) if owner[step] == owner[start]]
    assert drawn.step.tolist() == steps
    assert drawn.trajectory.tolist() == owner[steps].tolist()
    rows = kept.rows[steps]
    np.testing.assert_array_equal(drawn.actions.numpy(), data.actions[rows])
    np.testing.assert_array_equal(drawn.newest[0].numpy(), data.observations[rows])
    # Each step is scored given those of its sequence before it.
    log_prob, count = policy.log_prob(drawn.observations, drawn.actions), 0
    for start in starts.step.tolist():
        seen = [step for step in range(start, min(start + 3, 16)) if owner[step] == owner[start]]
        for last in range(1, len(seen) + 1):
            part = torch.from_numpy(data.observations[kept.rows[seen[:last]]])
            meant = Sequences(part[None], torch.tensor([0]), torch.tensor([last - 1]))
            action = torch.from_numpy(data.actions[kept.rows[seen[last - 1 : last]]])
            torch.testing.assert_close(log_prob[count], policy.log_prob(meant, action)[0], rtol=1e-4, atol=1e-5)
            count += 1
    assert count == len(log_prob)


@every_reader
def test_a_reader_plays_given_what_it_saw_since_its_memory_began(family: str) -> None:
    policies = make_policies(make_spec(family, **READING[family], sequence=3))
    rows, starts = random_observations(8, 2).numpy(), np.zeros((8, 2), bool)
    starts[0], starts[4, 1] = True, True
    began, state = [0, 0], None
    for t in range(8):
        actions, state = policies.predict(rows[t], state, starts[t])
        for episode in range(2):
            if starts[t, episode] or t - began[episode] == 3:
                began[episode] = t
            seen = torch.from_numpy(rows[began[episode] : t + 1, episode])
            meant = Sequences(seen[None], torch.tensor([0]), torch.tensor([len(seen) - 1]))
            with torch.no_grad():
                expected = policies[0].mean_action(meant)[0].numpy()
            np.testing.assert_allclose(actions[episode], expected, rtol=1e-4, atol=1e-5)


@every_reader
def test_an_evaluation_by_a_reader_is_what_predict_plays(family: str) -> None:
    policies = make_policies(make_spec(family, low=-2.0, high=2.0, **READING[family]))
    env: gym.Env[Any, Any] = gym.make("Pendulum-v1")
    observation, _ = env.reset(seed=Evaluator.start(PLAYED, 0, 0))
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(policies.predict(observation)[0])
        total, over = total + float(reward), terminated or truncated
    evaluator = Evaluator("Pendulum-v1", PLAYED.seed)
    assert evaluator.evaluate(policies, 2).returns[0, 0] == pytest.approx(total, rel=1e-3)
    assert np.array_equal(*(evaluator.evaluate(policies, 2, "sample").returns for _ in range(2)))


@pytest.mark.parametrize(
    ("settings", "steps", "rate"),
    [
        (LSTMPolicy(hidden=[32], components=2, sequence=5), 300, 1e-2),
        (TransformerPolicy(hidden=[32, 32], width=32, components=2, sequence=5), 400, 5e-3),
    ],
)
def test_what_was_seen_earlier_is_learnt(settings: GaussianPolicy, steps: int, rate: float) -> None:
    data = echoes(1, (3, 4, 5))
    recipe = BC(steps=steps, lr=rate, warmup_steps=10, batch_size=16)
    errors = []
    for policies in (fit(recipe, data, policy=each, console=QUIET) for each in (GaussianPolicy(hidden=[32]), settings)):
        apart = []
        for episode in data:
            policies.reset()
            played = np.stack([policies.predict(observation)[0] for observation in episode.observations])
            # A sequence in training may begin anywhere, so that the first step's action is not known.
            apart.append(np.square(played - episode.actions)[1:].mean())
        errors.append(np.sqrt(np.mean(apart)))
    assert errors[1] < 0.1 < 0.3 < errors[0]


def test_the_spread_of_a_reader_is_robomimic_s() -> None:
    policy = make_reader("lstm_mixture", act=2)
    outputs = torch.tensor([-50.0, 0.0, 3.0])
    expected = torch.log1p(outputs.exp()) + 1e-4
    torch.testing.assert_close(policy.spread(outputs), expected)
    settings = POLICIES["lstm_mixture"]()
    assert (settings.hidden, settings.sequence, settings.components, settings.std) == ([400, 400], 10, 5, "softplus")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("lstm_mixture", {"history": 2}, "policy.history=2: policy=lstm_mixture remembers by itself; set policy.sequence"),
        ("transformer", {"chunk": 2}, "policy.chunk=2: policy=transformer plays an action at a time; choose policy=mixture"),
        (
            "lstm_mixture",
            {"execute": 2},
            "policy.execute=2: policy=lstm_mixture plays an action at a time; choose policy=mixture",
        ),
        ("lstm_mixture", {"sequence": 1}, "policy.sequence=1: must lie between 2 and 1,000"),
        ("lstm_mixture", {"sequence": 10**12}, "policy.sequence=1000000000000: must lie between 2 and 1,000"),
        ("lstm_mixture", {"hidden": []}, "policy.hidden=.*: must be layer sizes"),
        ("transformer", {"width": 10}, "policy.width=10: must be a multiple of heads=4"),
        (
            "lstm_mixture",
            {"log_std_max": 1.0},
            "policy.log_std_max=1.0: would change nothing; it needs std=global or std=state",
        ),
    ],
)
def test_a_reader_that_cannot_be_is_refused_in_one_line(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        fit(BC(steps=1), make_trajectories([1.0, 2.0]), policy=POLICIES[family](**changes), console=QUIET)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "action", "family"),
    [
        *(("torchscript", action, family) for action in ("mean", "sample") for family in READING),
        ("onnx", "mean", "lstm_mixture"),
        rarely("onnx", "sample", "transformer"),
    ],
)
def test_an_exported_reader_takes_what_was_seen_and_where_the_newest_is(
    kind: str, action: str, family: str, tmp_path: Path
) -> None:
    policies, path = make_policies(make_spec(family, **READING[family], sequence=4)), tmp_path / "policy"
    write = {"onnx": export.write_onnx, "torchscript": export.write_torchscript}[kind]
    write(policies, path, action, {})
    for count in (1, 5):
        seen, newest = random_observations(count, 4), torch.arange(count) % 4
        seen[torch.arange(4) > newest[:, None]] = torch.nan  # which counts for nothing
        noise = policies[0].noise(count, generator(4)) if action == "sample" else ()
        meant = Sequences(seen.nan_to_num(), torch.arange(count), newest)
        with torch.no_grad():
            made = policies[0].sample_from(meant, *noise) if noise else policies[0].mean_action(meant)
        expected, inputs = policies.spaces.clip(made.numpy()), (seen, newest, *noise)
        if kind == "onnx":
            session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
            named = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), inputs, strict=True)}
            assert list(named)[:2] == ["observation", "newest"]
            (actions,) = session.run(["action"], named)
        else:
            actions = torch.jit.load(str(path))(*inputs).numpy()
        np.testing.assert_allclose(actions, expected, atol=1e-5)
