"""What every algorithm must do with every policy, and what importance-weighted BC computes, through their classes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_trajectories, named
from rich.console import Console
from setups import algorithm_of, compose, curated_of, every, rarely, seldom, untrained
from torch import Tensor, nn

from iwbc import engine
from iwbc.algorithms import Ingredients
from iwbc.algorithms.bc import BehaviourCloning
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.algorithms.weights import ImportanceWeights, log_probs
from iwbc.data.curated import Curated
from iwbc.data.sampling import Minibatch, StepSampler
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.data.windows import Window
from iwbc.policies import GaussianMLP, Policy, Units
from iwbc.settings import BC, IWBC, Config
from iwbc.system.files import config_folder
from iwbc.training.fit import fit
from iwbc.training.states import read_states, write_states
from iwbc.training.trained import Policies, load_policy
from iwbc.training.trainer import Trainer

RECIPE = ("policy.hidden=[32,32]", "algo.batch_size=64", "algo.warmup_steps=20", "algo.lr=1e-3")
OTHERS = {
    **{name: [f"algo={name}"] for name in ("bc", "filtered_bc")},
    "rwr": ["+method=rwr"],
    "awr": ["algo=awr", "algo.value_steps=20", "algo.value_hidden=[8]"],
    "iql": ["algo=iql", "algo.value_hidden=[8,8]", "algo.value_lr=1e-3"],
}
IW_BC = {
    f"iw_bc-{level}{suffix}": ["algo=iw_bc", f"algo.level={level}", "algo.maximum=3", "algo.refresh_every=7", *more]
    for level in ("trajectory", "window")
    for suffix, more in {"": [], "-copy": ["algo.decay=0"]}.items()
}
AUTO = {"iw_bc-auto": ["algo=iw_bc", "algo.level=trajectory", "algo.kappa=auto", "algo.refresh_every=7"]}
VARIANTS = OTHERS | IW_BC | AUTO


@pytest.fixture(scope="module")
def hopper(mostly_short_hopper: Trajectories) -> Trajectories:
    return mostly_short_hopper


class OwnPolicy(nn.Module):
    """A custom policy: layers that behave otherwise in training, a buffer, and no base class of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 2))
        self.log_scale = nn.Parameter(torch.zeros(2))

    def mean_action(self, observations: Tensor) -> Tensor:
        return self.network(observations).tanh()

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        laplace = torch.distributions.Laplace(self.mean_action(observations), self.log_scale.clamp(-5.0, 2.0).exp())
        return laplace.log_prob(actions).sum(-1)


POLICIES: dict[str, list[str]] = {
    f"{family}-{kind}-{std}": [f"policy={family}", f"policy.kind={kind}", f"policy.std={std}"]
    for family in ("tanh_mean", "mixture", "flow")  # tanh_mean is the group's choice of a Gaussian
    for kind in ("tanh_mean", "squashed")
    for std in ("global", "state")
}
POLICIES |= {
    "tanh_mean-history": ["policy=tanh_mean", "policy.history=3"],
    "squashed-chunk": ["policy=squashed", "policy.chunk=3", "policy.execute=2"],
    "mixture-history-chunk": ["policy=mixture", "policy.history=2", "policy.chunk=4", "policy.execute=3"],
    "flow-history": ["policy=flow", "policy.history=2"],
    "lstm_mixture": ["policy=lstm_mixture", "policy.sequence=4"],
    "transformer": ["policy=transformer", "policy.sequence=3", "policy.width=16"],
    "own": [],
}


def test_every_algorithm_and_policy_in_conf_is_here() -> None:
    shipped = {group: {path.stem for path in (Path(config_folder()) / group).glob("*.yaml")} for group in ("algo", "policy")}
    assert shipped["algo"] == {name.split("-")[0] for name in VARIANTS}
    others = {"global", "state", "own", "history", "chunk"}
    assert shipped["policy"] == {part for name in POLICIES for part in name.split("-")} - others


# --- the contract: every algorithm with every policy -----------------------------------------------------------------


class Stopped(Exception):
    """An `Observer` had seen enough."""


class Observer:
    """Writes a checkpoint after some steps and stops there, or continues from one; takes note of losses and metrics."""

    every = (1,)
    measures = True

    def __init__(self, checkpoint: Path, stop_after: int | None = None) -> None:
        self.checkpoint, self.stop_after = checkpoint, stop_after
        self.seen: dict[int, dict[str, Tensor]] = {}

    def start(self, trainer: Trainer, policies: Policies) -> int:
        if self.stop_after is not None or not self.checkpoint.exists():
            return 0
        trainer.load(read_states(self.checkpoint)[0])
        return STOP

    def after(self, step: int, loss: dict[int, Tensor], trainer: Trainer) -> None:
        (measured,) = trainer.measure().values()
        self.seen[step] = {"loss": loss[7].clone(), **{name: value.clone() for name, value in measured.items()}}
        if step == self.stop_after:
            write_states(self.checkpoint, trainer.state(), {})
            raise Stopped


STEPS, STOP = 12, 7
TOY = make_trajectories([float(i) for i in range(12)], [3, 5, 8, 2] * 3)


# Every algorithm with every policy, and every kind of weights with one policy of each family.
USUAL = {*OTHERS, "iw_bc-trajectory", "iw_bc-window", "iw_bc-auto"}
ONE_OF_EACH = {"tanh_mean-tanh_mean-global", "mixture-squashed-state", "flow-tanh_mean-state", "own"}
CONTRACT = [(name, policy) for name in VARIANTS for policy in POLICIES if name in USUAL or policy in ONE_OF_EACH]
# In every run of the tests: every policy with one algorithm, every algorithm with one policy, in turns.
IN_TURNS = dict(zip(VARIANTS, sorted(ONE_OF_EACH) * len(VARIANTS), strict=False))
OFTEN = [
    (name, policy)
    for name, policy in CONTRACT
    if IN_TURNS[name] == policy or (name == "iw_bc-trajectory" and "flow" not in policy)  # flows are the slowest
]
REST = [pair for pair in CONTRACT if pair not in OFTEN]
RARELY = [rarely(*pair) if i % 4 == 0 else seldom(*pair) for i, pair in enumerate(REST)]


def test_every_algorithm_and_every_policy_is_tried_often() -> None:
    assert {name for name, _ in OFTEN} == set(VARIANTS)
    assert {policy for _, policy in OFTEN} == {policy for policy in POLICIES if "flow" not in policy} | {"flow-tanh_mean-state"}


@pytest.mark.parametrize(("name", "policy"), [*OFTEN, *RARELY])
def test_it_trains_resumes_bit_for_bit_saves_loads_and_predicts(name: str, policy: str, tmp_path: Path) -> None:
    brief = ["policy.hidden=[8,8]", "algo.batch_size=16", "algo.warmup_steps=2", f"algo.steps={STEPS}", "algo.lr=1e-2"]
    config = compose(*POLICIES[policy], *brief, *VARIANTS[name])
    make = OwnPolicy if policy == "own" else None
    curated, choice, quiet = curated_of(config, TOY), make or config.policy, Console(quiet=True)
    reference = fit(config.reference.__class__(steps=5, batch_size=16), TOY, policy=choice, seeds=[7], console=quiet)
    before = named(reference.state())
    start = {"reference": reference} if config.algo.start == "reference" else {"policy": choice}

    def train(observer: Observer) -> Policies:
        return fit(config.algo, curated, **start, seeds=[7], console=quiet, observer=observer)  # type: ignore[arg-type]

    whole = Observer(tmp_path / "none")
    trained = train(whole)
    assert list(whole.seen) == list(range(1, STEPS + 1))
    for step, weights in whole.seen.items():
        for key, value in weights.items():
            assert value.shape == () and value.isfinite(), (step, key)
    assert all(torch.equal(value, before[key]) for key, value in named(reference.state()).items())  # π_ref is frozen
    moved = [
        (parameter - untrained_).abs().max()
        for parameter, untrained_ in zip(trained[0].parameters(), reference[0].parameters(), strict=True)
    ]
    assert max(moved) > 1e-3

    first, rest = Observer(tmp_path / "checkpoint", STOP), Observer(tmp_path / "checkpoint")
    with pytest.raises(Stopped):
        train(first)
    continued = train(rest)
    assert list(rest.seen) == list(range(STOP + 1, STEPS + 1))
    for step, weights in (first.seen | rest.seen).items():
        assert weights.keys() == whole.seen[step].keys()
        for key, value in weights.items():
            assert torch.equal(value, whole.seen[step][key]), (step, key)
    expected = named(trained.state())
    assert expected.keys() == named(continued.state()).keys()
    assert all(torch.equal(value, expected[key]) for key, value in named(continued.state()).items())

    trained.save(tmp_path / "policy.safetensors")
    loaded = load_policy(tmp_path / "policy.safetensors", policy=make)
    assert all(torch.equal(value, expected[key]) for key, value in named(loaded.state()).items())
    actions, _ = loaded.predict(TOY.observations)
    assert actions.shape == TOY.actions.shape
    assert np.array_equal(actions, trained.predict(TOY.observations)[0])
    assert not np.array_equal(actions, reference.predict(TOY.observations)[0])


def reference_of(trajectories: Trajectories, config: Config, seed: int = 0) -> Policy:
    policy = untrained(config, trajectories, seed)
    assert isinstance(policy, GaussianMLP) and policy.log_std is not None
    policy.log_std.data.fill_(-0.5)
    return policy


class Training:
    """An algorithm with its minibatches; `overrides` are command-line arguments."""

    def __init__(self, trajectories: Trajectories, overrides: list[str], seed: int = 0) -> None:
        self.config = compose(*RECIPE, *overrides)
        self.curated = curated_of(self.config, trajectories)
        reference = reference_of(trajectories, self.config, seed) if self.config.algo.start == "reference" else None
        self.algorithm: Any = algorithm_of(self.config, self.curated, reference, seed)
        self.sampler = StepSampler(self.curated, seed, self.config.algo.batch_size, Stream.TRAINING)

    def run(self, steps: int, start: int = 0) -> Tensor:
        loss = torch.empty(0)
        with torch.no_grad():
            for step in range(start, start + steps):
                loss = self.algorithm.update(self.sampler.batch(step), step, self.config.algo.learning_rate(step))
        return loss

    @property
    def flat(self) -> Tensor:
        return flat(self.algorithm.policy)


def flat(policy: nn.Module) -> Tensor:
    """All parameters, end to end; a copy."""
    return torch.cat([value.detach().flatten() for value in policy.parameters()])


@pytest.mark.parametrize("name", every(2, VARIANTS))
def test_a_loaded_state_is_a_copy(name: str, hopper: Trajectories) -> None:
    training = Training(hopper, VARIANTS[name])
    training.run(3)
    saved = {key: value.clone() for key, value in training.algorithm.state().items()}
    kept = {key: value.clone() for key, value in saved.items()}
    training.algorithm.load(saved)
    training.run(3, start=3)
    for key in saved:
        assert torch.equal(saved[key], kept[key]), key


# --- importance-weighted BC: what it has in common with filtered BC ----------------------------------------------------


def filtered_bc(hopper: Trajectories, steps: int = 20) -> Tensor:
    training = Training(hopper, ["algo=filtered_bc", "curation=quality_levels"])
    training.run(steps)
    return training.flat


@pytest.mark.parametrize("name", IW_BC)
def test_kappa_zero_is_filtered_bc(name: str, hopper: Trajectories) -> None:
    training = Training(hopper, [*IW_BC[name], "algo.kappa=0"])
    training.run(20)
    torch.testing.assert_close(training.flat, filtered_bc(hopper), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("kappa", ["0", "5"])
def test_importance_weights_multiply_return_weights(kappa: str, hopper: Trajectories) -> None:
    plain = Training(hopper, ["algo=rwr", "curation=return_weighted"])
    weighted = Training(hopper, ["algo=iw_bc", "curation=return_weighted", f"algo.kappa={kappa}", "algo.refresh_every=7"])
    plain.run(40)
    weighted.run(40)
    apart = float((plain.flat - weighted.flat).abs().max())
    assert apart <= 1e-6 if kappa == "0" else apart > 1e-4


@pytest.mark.parametrize("name", ["iw_bc-trajectory", "iw_bc-window"])
def test_a_frozen_proposal_is_filtered_bc(name: str, hopper: Trajectories) -> None:
    training = Training(hopper, [*IW_BC[name], "algo.decay=1"])
    training.run(20)
    torch.testing.assert_close(training.flat, filtered_bc(hopper), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("name", IW_BC)
def test_otherwise_it_is_not_filtered_bc(name: str, hopper: Trajectories) -> None:
    training = Training(hopper, IW_BC[name])
    training.run(40)
    assert (training.flat - filtered_bc(hopper, 40)).abs().max() > 1e-4


# --- importance-weighted BC: three trajectories by hand ----------------------------------------------------------------
#
# π_ref = N(0, 1), π_q = π_θ = N(m, 1) with m = 0.5 whatever the observation: a step's log ratio is m a − m²/2, that is
# 0.5 a − 0.125. Returns do not matter: all three trajectories are kept, with equal weight.

M = 0.5
ACTIONS = [[1.0, 0.5], [-1.0], [0.25, 0.25, 0.25]]
LOG_RATIOS = [[0.375, 0.125], [-0.625], [0.0, 0.0, 0.0]]
ROWS = [0, 1, 2, 5]  # a minibatch: both steps of the first trajectory, the second's, the last of the third's
TRAJECTORY = [0, 0, 1, 2]


def constant_policy(mean: float, chunk: int = 1) -> GaussianMLP:
    """N(mean, 1), whatever the observation."""
    policy = GaussianMLP(1, Units([-1.0], [1.0]), hidden=[], chunk=chunk)
    for parameter in policy.parameters():
        parameter.data.zero_()
    policy.network[0].bias.data.fill_(math.atanh(mean))  # type: ignore[operator, union-attr]
    return policy


STEP_SHARES = [1 / 6, 1 / 6, 1 / 3, 1 / 9, 1 / 9, 1 / 9]  # of the objective: a third to each trajectory


def share(weights: np.ndarray, curation: np.ndarray) -> float:
    """The effective sample size of weights, as a share of that of the curated set."""
    both = weights * curation
    return both.sum() ** 2 / (both**2).sum() / (curation.sum() ** 2 / (curation**2).sum())


def by_hand(
    level: str,
    kappa: float | str,
    minimum: float,
    maximum: float,
    curation: tuple[float, ...] = (1, 1, 1),
    chunk: int = 1,
    **changes: Any,
) -> tuple[ImportanceWeightedBC, Curated]:
    """iw-BC whose policy has moved from N(0, 1) to N(m, 1), and its data."""
    toy = make_trajectories([1.0, 2.0, 3.0], [2, 1, 3], observation_size=1, action_size=1)
    toy.actions[:, 0] = np.concatenate([np.asarray(actions) for actions in ACTIONS])
    curated = Curated(toy, np.array(curation, np.float64), "trajectory")
    usual: dict[str, Any] = {"decay": 0.0, "refresh_every": 1} | ({"window": 1} if level == "window" else {})
    settings = IWBC(level=level, kappa=kappa, minimum=minimum, maximum=maximum, **(usual | changes))
    return ImportanceWeightedBC(
        settings, Ingredients(constant_policy(M, chunk), constant_policy(0.0, chunk), curated, 0)
    ), curated


def batch_by_hand(curated: Curated, rows: list[int], trajectory: list[int]) -> Minibatch:
    data, step = curated.trajectories, torch.tensor(rows)  # a row's index among the kept steps: all are kept
    observations, actions = torch.from_numpy(data.observations)[step], torch.from_numpy(data.actions)[step]
    return Minibatch(observations, actions, torch.tensor(trajectory), step)


@pytest.mark.parametrize(
    ("level", "kappa", "minimum", "maximum", "weights"),
    [
        # Mean log ratios 0.25, −0.625, 0.
        ("trajectory", 2.0, 0.0, 1000.0, [math.exp(0.5), math.exp(0.5), math.exp(-1.25), 1.0]),
        ("trajectory", 2.0, 0.0, 1.5, [1.5, 1.5, math.exp(-1.25), 1.0]),
        ("trajectory", 2.0, 0.5, 1.5, [1.5, 1.5, 0.5, 1.0]),
        ("window", 2.0, 0.0, 1000.0, [math.exp(0.75), math.exp(0.25), math.exp(-1.25), 1.0]),
        ("window", 2.0, 0.5, 2.0, [2.0, math.exp(0.25), 0.5, 1.0]),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_weights_of_three_trajectories_by_hand(
    level: str, kappa: float, minimum: float, maximum: float, weights: list[float], decay: float
) -> None:
    algorithm, curated = by_hand(level, kappa, minimum, maximum, decay=decay)
    # With a learning rate of 0 the policy stands still, and the average comes to it; a copy is there at once.
    everything = batch_by_hand(curated, [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2])
    settled = 320 if decay else 1
    for step in range(settled):
        algorithm.update(everything, step, 0.0)
    for self_normalise in (True, False):
        same, _ = by_hand(level, kappa, minimum, maximum, decay=decay, self_normalise=self_normalise)
        same.load(algorithm.state())
        assert_by_hand(same, curated, settled, weights, level, minimum, maximum, self_normalise)


def assert_by_hand(
    algorithm: ImportanceWeightedBC,
    curated: Curated,
    settled: int,
    weights: list[float],
    level: str,
    minimum: float,
    maximum: float,
    self_normalise: bool,
) -> None:
    """Loss, gradient and diagnostics of a further step are those of these weights."""
    gradient: list[Tensor] = []
    algorithm.optimizer._adam.step = lambda slopes, rate: gradient.extend(slopes)  # type: ignore[attr-defined]
    loss = algorithm.update(batch_by_hand(curated, ROWS, TRAJECTORY), settled, 0.0)
    actions, w = curated.trajectories.actions[ROWS, 0].astype(np.float64), np.asarray(weights)
    if self_normalise:
        w = w / w.mean()
    log_prob = -0.5 * (actions - M) ** 2 - 0.5 * math.log(2 * math.pi)
    assert loss.item() == pytest.approx(-(w * log_prob).mean(), abs=1e-6)
    # The gradient with respect to the bias, weights held constant: mean(w (a − m)) dm/dbias with m = tanh(bias).
    assert gradient[1].item() == pytest.approx((w * (actions - M)).mean() * (1 - M**2), abs=1e-6)
    # Diagnostics are of all three trajectories, or all six steps, before self-normalisation.
    shown = np.asarray([weights[row] for row in ([0, 1, 2, 3, 3, 3] if level == "window" else [0, 2, 3])])
    metrics = {name: value.item() for name, value in algorithm.metrics().items()}
    assert metrics["weight_min"] == pytest.approx(shown.min(), abs=1e-6)
    assert metrics["weight_max"] == pytest.approx(shown.max(), abs=1e-6)
    shares = np.array(STEP_SHARES if level == "window" else [1 / 3] * 3)
    assert metrics["ess_share"] == pytest.approx(share(shown, shares), abs=1e-6)
    at_bounds = [(x == maximum) or (minimum > 0 and x == minimum) for x in shown]
    assert metrics["clipped_share"] == pytest.approx(np.mean(at_bounds))


def test_diagnostics_of_unequal_trajectories_by_hand() -> None:
    algorithm, curated = by_hand("trajectory", 2.0, 0.0, 1000.0, curation=(1, 1, 2))
    algorithm.weights.follow(algorithm.policy, 0)
    ratios, curation = np.array([0.25, -0.625, 0.0]), np.array([1.0, 1.0, 2.0])
    metrics = algorithm.metrics()
    assert metrics["ess_share"].item() == pytest.approx(share(np.exp(2 * ratios), curation), abs=1e-6)
    assert metrics["proposal_bound"].item() == 1.0  # before the first minibatch
    assert "kappa" not in metrics
    # At q = π_θ the bound is E[w R], here of a minibatch that has each trajectory once, and is tight.
    algorithm.update(batch_by_hand(curated, [0, 2, 5], [0, 1, 2]), 0, 0.0)
    assert algorithm.metrics()["proposal_bound"].item() == pytest.approx(np.exp(2 * ratios).mean(), abs=1e-6)
    # As the policy moves on from q, to N(0.6, 1), it is E[w R (1 + κ log π_θ/q)].
    algorithm.policy.network[0].bias.data.fill_(math.atanh(0.6))  # type: ignore[operator, union-attr, index]
    algorithm.weights._settings.refresh_every = 100
    algorithm.update(batch_by_hand(curated, [0, 2, 5], [0, 1, 2]), 1, 0.0)
    moved = 0.1 * np.array([1.0, -1.0, 0.25]) - 0.5 * (0.6**2 - M**2)
    bound = (np.exp(2 * ratios) * (1 + 2 * moved)).mean()
    assert algorithm.metrics()["proposal_bound"].item() == pytest.approx(bound, abs=1e-6)
    assert "proposal_bound" not in by_hand("window", 2.0, 0.0, 1000.0)[0].metrics()


@pytest.mark.parametrize(
    ("level", "changes", "log_ratios"),
    [
        # A chunk of two: the mean over both actions' log ratios, or the last action's alone; then the mean over all chunks.
        ("trajectory", {}, [0.1875, 0.1875, -0.625, 0.0, 0.0, 0.0]),
        ("window", {"window": 1}, [0.25, 0.125, -0.625, 0.0, 0.0, 0.0]),
        ("window", {"window": 2}, [0.25, 0.25 + 0.125, -0.625, 0.0, 0.0, 0.0]),
    ],
)
def test_weights_of_chunks_by_hand(level: str, changes: dict[str, int], log_ratios: list[float]) -> None:
    algorithm, curated = by_hand(level, 2.0, 0.0, 1000.0, chunk=2, **changes)
    ((_, observations, actions),) = curated.batches(window=Window(chunk=2))
    everything = Minibatch(observations, actions, torch.tensor([0, 0, 1, 2, 2, 2]), torch.arange(6))
    loss = algorithm.update(everything, 0, 0.0)
    weights = np.exp(2 * np.array(log_ratios))
    np.testing.assert_allclose(algorithm.weigh(everything), weights, rtol=1e-6)
    each = [-0.5 * (action - M) ** 2 - 0.5 * math.log(2 * math.pi) for action in np.concatenate(ACTIONS)]
    log_prob = np.array([each[0] + each[1], each[1], each[2], each[3] + each[4], each[4] + each[5], each[5]])
    assert loss.item() == pytest.approx(-(weights / weights.mean() * log_prob).mean(), abs=1e-6)
    if level == "trajectory":  # as the policy moves on from q, to N(0.6, 1), the bound is E[w R (1 + κ log π_θ/q)]
        algorithm.policy.network[0].bias.data.fill_(math.atanh(0.6))  # type: ignore[operator, union-attr, index]
        algorithm.weights._settings.refresh_every = 100
        algorithm.update(everything, 1, 0.0)
        moved = 0.1 * np.concatenate(ACTIONS) - 0.5 * (0.6**2 - M**2)
        chunks = np.array([moved[:2].mean(), moved[1], moved[2], moved[3:5].mean(), moved[4:].mean(), moved[5]])
        assert algorithm.metrics()["proposal_bound"].item() == pytest.approx((weights * (1 + 2 * chunks)).mean(), abs=1e-6)


def test_windows_by_hand() -> None:
    algorithm, curated = by_hand("window", 2.0, 0.0, 1000.0, window=2)
    algorithm.weights.follow(algorithm.policy, 0)
    weights = np.exp(2 * np.array([0.375, 0.375 + 0.125, -0.625, 0.0, 0.0, 0.0]))
    drawn = algorithm.weigh(batch_by_hand(curated, ROWS, TRAJECTORY))
    np.testing.assert_allclose(drawn.numpy(), weights[ROWS], rtol=1e-5)
    assert algorithm.metrics()["ess_share"].item() == pytest.approx(share(weights, np.array(STEP_SHARES)), abs=1e-6)


@pytest.mark.parametrize("level", ["trajectory", "window"])
def test_no_weight_is_below_the_minimum_or_above_the_maximum(level: str) -> None:
    # Without bounds the second trajectory weighs less than 0.9 and the first more than 1.1 at either level.
    algorithm, curated = by_hand(level, 2.0, 0.9, 1.1)
    everything = batch_by_hand(curated, [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2])
    algorithm.update(everything, 0, 0.0)
    weights = algorithm.weigh(everything)
    assert weights.tolist() == pytest.approx([1.1, 1.1, 0.9, 1.0, 1.0, 1.0], abs=1e-6)
    assert algorithm.metrics()["weight_min"].item() == pytest.approx(0.9)
    assert algorithm.metrics()["clipped_share"].item() in (pytest.approx(2 / 3), pytest.approx(1 / 2))


def test_asking_for_weights_changes_no_metrics() -> None:
    algorithm, curated = by_hand("window", 1.0, 0.0, 10.0)
    algorithm.update(batch_by_hand(curated, ROWS, TRAJECTORY), 0, 0.0)
    before = algorithm.metrics()
    algorithm.weigh(batch_by_hand(curated, [2], [1]))
    assert algorithm.metrics() == before
    assert before["weight_min"] < before["weight_max"]


def test_a_weight_of_zero_is_not_at_a_bound() -> None:
    algorithm, _ = by_hand("trajectory", 200.0, 0.0, 1e30)
    algorithm.weights.follow(algorithm.policy, 0)
    metrics = algorithm.metrics()
    assert (metrics["weight_min"].item(), metrics["clipped_share"].item()) == (0.0, 0.0)


@pytest.mark.parametrize("changes", [{}, {"level": "window", "window": 2}])
def test_weights_are_set_every_so_many_steps(changes: dict[str, Any]) -> None:
    algorithm, curated = by_hand(
        **({"level": "trajectory", "kappa": 1.0, "minimum": 0.0, "maximum": 1e9, "refresh_every": 3} | changes)
    )
    batch, before, changed = batch_by_hand(curated, ROWS, TRAJECTORY), torch.ones(4), []
    for step in range(10):
        algorithm.policy.network[0].bias.data.fill_(0.1 + 0.01 * step)
        algorithm.weights.follow(algorithm.policy, step)
        now = algorithm.weigh(batch).clone()
        if not torch.equal(now, before):
            changed.append(step)
        before = now
    assert changed == [0, 3, 6, 9]


def test_kappa_is_searched_every_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, _ = by_hand("trajectory", "auto", 0.0, 1e9, refresh_every=40)
    assert algorithm.weights.kappa == 2.0  # the mean length
    steps: list[int] = []
    monkeypatch.setattr("iwbc.algorithms.weights.largest_kappa", lambda *_: steps.append(step) or 0.5 + step)
    for step in range(96):
        algorithm.weights.follow(algorithm.policy, step)
    assert steps == [0, 40, 80]
    assert algorithm.metrics()["kappa"].item() == 80.5
    means = torch.tensor([0.25, 0.25, -0.625, 0.0, 0.0, 0.0])
    torch.testing.assert_close(algorithm.weights.weights, torch.exp(80.5 * means), rtol=1e-4, atol=0.0)


def test_before_the_first_minibatch_all_weigh_the_same() -> None:
    metrics = by_hand("window", 1.0, 0.0, 10.0)[0].metrics()
    assert [metrics[name].item() for name in ("weight_min", "weight_max", "ess_share")] == [1.0, 1.0, 1.0]


def test_the_loss_of_bc_by_hand() -> None:
    _, curated = by_hand("trajectory", 1.0, 0.0, 10.0)
    algorithm = BehaviourCloning(BC(), Ingredients(constant_policy(M), None, curated, 0))
    loss = algorithm.update(batch_by_hand(curated, ROWS, TRAJECTORY), 0, 0.0)
    actions = curated.trajectories.actions[ROWS, 0].astype(np.float64)
    assert loss.item() == pytest.approx((0.5 * (actions - M) ** 2).mean() + 0.5 * math.log(2 * math.pi), abs=1e-6)


# --- importance-weighted BC: the proposal ------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_the_proposal_moves_before_the_gradient_step(decay: float, hopper: Trajectories) -> None:
    training = Training(hopper, ["algo=iw_bc", f"algo.decay={decay}", "algo.refresh_every=3"])
    weights, policy = training.algorithm.weights, training.algorithm.policy
    expected = flat(weights.proposal)
    for step in range(10):
        expected = decay * expected + (1.0 - decay) * flat(policy)
        training.run(1, start=step)
        torch.testing.assert_close(flat(weights.proposal), expected, rtol=0.0, atol=1e-6)
        if step % 3 == 0:
            now, at_first = log_probs(weights.proposal, training.curated, "cpu"), weights._reference_log_probs
            assert torch.equal(weights.log_ratios, now - at_first)
    assert (expected - training.flat).abs().max() > 1e-4


def test_a_proposal_has_the_buffers_of_the_policy() -> None:
    reference, policy = OwnPolicy().eval(), OwnPolicy().eval()
    batch_norm = policy.network[1]
    assert isinstance(batch_norm, nn.BatchNorm1d) and batch_norm.running_mean is not None
    batch_norm.running_mean.fill_(3.0)
    weights = ImportanceWeights(IWBC(), reference, Curated(TOY, np.ones(len(TOY)), "trajectory"), "cpu")  # type: ignore[arg-type]
    weights.follow(policy, 1)  # type: ignore[arg-type]
    assert weights.proposal.network[1].running_mean.eq(3.0).all()  # type: ignore[union-attr, operator, index]
    assert reference.network[1].running_mean.eq(0.0).all()  # type: ignore[union-attr]


def test_log_probs_are_those_of_the_kept_steps_in_order() -> None:
    data = make_trajectories([1.0, 2.0, 3.0, 4.0, 5.0], [3, 1, 5, 2, 4])
    curated = Curated(data, np.array([1.0, 0.0, 2.0, 0.0, 1.0]), "trajectory")
    policy = untrained(compose("policy.hidden=[8]"), data)
    rows = [0, 1, 2, 4, 5, 6, 7, 8, 11, 12, 13, 14]
    expected = engine.log_prob(policy, torch.from_numpy(data.observations[rows]), torch.from_numpy(data.actions[rows]))
    torch.testing.assert_close(log_probs(policy, curated, "cpu"), expected)


def test_log_probs_of_a_set_larger_than_a_batch(hopper: Trajectories) -> None:
    curated = Curated(hopper, np.ones(len(hopper)), "trajectory")
    assert curated.steps > 2 * 8192
    policy = untrained(compose("policy.hidden=[8]"), hopper)
    whole = engine.log_prob(policy, torch.from_numpy(hopper.observations), torch.from_numpy(hopper.actions))
    torch.testing.assert_close(log_probs(policy, curated, "cpu"), whole, rtol=1e-5, atol=1e-5)
