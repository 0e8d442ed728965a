"""The critic is trained once for a dataset and a seed, goes on where it was stopped, and is what AWR weighs by."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_trajectories
from rich.console import Console
from setups import compose
from torch import nn

from iwbc.algorithms.awr import AdvantageWeightedRegression
from iwbc.algorithms.critic import FittedValue
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.settings import AWR, Critic
from iwbc.training.critic import fitted_critics
from iwbc.training.fit import fit
from iwbc.training.trainer import Learner

TOY = make_trajectories(np.linspace(0.0, 1.0, 20).tolist(), [5, 10] * 10)
RECIPE = Critic(steps=60, batch_size=16, hidden=[8], refresh_every=25)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path))
    return tmp_path / "critics"


def make(seeds: list[int], trajectories: Trajectories = TOY, recipe: Critic = RECIPE) -> tuple[dict[int, nn.Sequential], str]:
    """The critics, and what was printed meanwhile."""
    out = io.StringIO()
    return fitted_critics(trajectories, recipe, seeds, "cpu", Console(file=out, width=200), 20), out.getvalue()


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in network.parameters()])


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


def test_it_is_fitted_to_all_steps_alike() -> None:
    everything = Curated(TOY, np.ones(20), "transition")
    algorithm = FittedValue(RECIPE, everything, 7)
    Learner(algorithm, StepSampler(everything, 7, 16, Stream.CRITIC), RECIPE).train(0, 60)
    assert torch.equal(flat(make([7])[0][7]), flat(algorithm.policy))


def test_it_is_trained_once_for_each_seed(cache: Path) -> None:
    first, printed = make([3])
    assert "Critic" in printed
    (entry,) = entries(cache)
    written = entry.stat().st_mtime_ns
    both, _ = make([4, 3])
    assert list(both) == [4, 3]
    again, printed = make([3, 4])
    assert printed == ""
    assert entry.stat().st_mtime_ns == written
    assert torch.equal(flat(first[3]), flat(both[3]))
    assert all(torch.equal(flat(again[seed]), flat(both[seed])) for seed in (3, 4))
    assert not torch.equal(flat(both[3]), flat(both[4]))


def test_a_change_of_each_dependency_makes_another_entry(cache: Path) -> None:
    make([0])
    changes: list[Callable[[], object]] = [
        lambda: make([1]),
        lambda: make([0], trajectories=replace(TOY, known_hash="1" * 64)),
        *(
            lambda change=change: make([0], recipe=replace(RECIPE, **change))  # type: ignore[misc]
            for change in ({"steps": 61}, {"lr": 1e-2}, {"gamma": 0.9}, {"lam": 0.9}, {"hidden": [4]}, {"refresh_every": 7})
        ),
    ]
    for count, change in enumerate(changes, start=2):
        change()
        assert len(entries(cache)) == count


def test_a_stopped_critic_goes_on_bit_for_bit(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = make([0, 1])
    for entry in entries(cache):
        entry.unlink()
    original, made = Learner.train, list[int]()
    monkeypatch.setattr("iwbc.system.processes.training_workers", lambda seeds: 0)  # what is patched stays in this process

    def stopped(self: Learner, first: int, last: int) -> torch.Tensor:
        if last > 40 and not made:
            raise KeyboardInterrupt
        made.extend([first] if made else [])
        return original(self, first, last)

    monkeypatch.setattr(Learner, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        make([0, 1])
    (checkpoint,) = cache.glob("*.checkpoint")
    assert entries(cache) == []
    made.append(40)
    again, printed = make([0, 1])
    assert "Continuing the critic after step 40" in printed
    assert min(made) == 40
    assert all(torch.equal(flat(again[seed]), flat(expected[seed])) for seed in (0, 1))
    assert not checkpoint.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "another"])
def test_a_damaged_entry_is_noticed_and_rebuilt(damage: str, cache: Path) -> None:
    before, _ = make([3])
    (entry,) = entries(cache)
    make([4])
    (other,) = set(entries(cache)) - {entry}
    whole = entry.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:]
    entry.write_bytes({"cut": whole[:-3], "flipped": flipped, "another": other.read_bytes()}[damage])
    after, printed = make([3])
    assert "is damaged; it is trained again" in printed
    assert torch.equal(flat(after[3]), flat(before[3]))
    assert make([3])[1] == ""


def test_awr_weighs_by_the_cached_critic_of_its_seed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[AdvantageWeightedRegression] = []
    original = AdvantageWeightedRegression.__init__

    def noted(self: AdvantageWeightedRegression, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(AdvantageWeightedRegression, "__init__", noted)
    monkeypatch.setattr("iwbc.system.processes.training_workers", lambda seeds: 0)  # what is patched stays in this process
    settings = AWR(steps=2, batch_size=16, value_steps=60, value_hidden=[8], refresh_every=25)
    policy = compose("policy.hidden=[8]").policy
    better = Curated(TOY, (TOY.returns > 0.5).astype(np.float64), "transition")
    for data in (TOY, better, TOY):  # whatever is kept, V is of all data
        fit(settings, data, policy=policy, seeds=[1, 2], console=Console(quiet=True))
        assert len(entries(cache)) == 2
    assert [len(algorithm.weights) for algorithm in made] == [150, 150, better.steps, better.steps, 150, 150]
    assert torch.equal(made[0].weights, made[4].weights)
    assert not torch.equal(made[0].weights, made[1].weights)
