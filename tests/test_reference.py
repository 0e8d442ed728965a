from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_trajectories
from rich.console import Console
from setups import compose, untrained

from iwbc.algorithms import Ingredients
from iwbc.algorithms.bc import BehaviourCloning
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.streams import Stream
from iwbc.data.trajectories import Trajectories
from iwbc.settings import Config, Reference
from iwbc.training.reference import reference_policy
from iwbc.training.trained import Policies
from iwbc.training.trainer import Learner

TOY = make_trajectories(np.linspace(0.0, 1.0, 20).tolist(), [5, 10] * 10)
SETTINGS = compose("policy.hidden=[16]", "reference.steps=60", "reference.batch_size=16", "reference.averaging=transition")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path))
    return tmp_path / "references"


def make(
    seeds: list[int], trajectories: Trajectories = TOY, recipe: Reference = SETTINGS.reference, hidden: int = 16
) -> tuple[Policies, str]:
    """The reference policies, and what was printed meanwhile."""
    out = io.StringIO()
    policy = replace(SETTINGS.policy, hidden=[hidden])
    return reference_policy(trajectories, policy, recipe, seeds, "cpu", Console(file=out)), out.getvalue()


def flat(policies: Policies, seed: int) -> torch.Tensor:
    """All parameters of one seed."""
    return torch.cat([value.detach().flatten() for value in policies.of_seed(seed).parameters()])


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


@pytest.mark.parametrize("averaging", ["trajectory", "transition"])
def test_it_is_behaviour_cloning_of_all_data(averaging: str) -> None:
    recipe = replace(SETTINGS.reference, averaging=averaging)
    everything = Curated(TOY, np.ones(20), averaging)
    algorithm = BehaviourCloning(recipe, Ingredients(untrained(SETTINGS, TOY, 7), None, everything, 7))
    Learner(algorithm, StepSampler(everything, 7, 16, Stream.REFERENCE), recipe).train(0, recipe.steps)
    expected = torch.cat([value.detach().flatten() for value in algorithm.policy.parameters()])
    assert torch.equal(flat(make([7], recipe=recipe)[0], 7), expected)


def test_it_is_trained_once(cache: Path) -> None:
    first, printed = make([3])
    assert "Reference policy" in printed
    (entry,) = entries(cache)
    written = entry.stat().st_mtime_ns
    second, printed = make([3])
    assert printed == ""
    assert entries(cache) == [entry]
    assert entry.stat().st_mtime_ns == written
    assert torch.equal(flat(first, 3), flat(second, 3))
    assert (first.spec, first.seeds) == (second.spec, second.seeds)


def test_changes_of_a_returned_reference_do_not_reach_the_cache() -> None:
    first, _ = make([3])
    for value in first[0].parameters():
        value.data.zero_()
    assert flat(make([3])[0], 3).abs().max() > 0


def test_a_change_of_each_dependency_makes_another_entry(cache: Path) -> None:
    make([0])
    changes: list[Callable[[], object]] = [
        lambda: make([1]),
        lambda: make([0], trajectories=replace(TOY, known_hash="1" * 64)),
        lambda: make([0], hidden=8),
        lambda: make([0], recipe=replace(SETTINGS.reference, steps=61)),
        lambda: make([0], recipe=replace(SETTINGS.reference, averaging="trajectory")),
        lambda: make([0], recipe=replace(SETTINGS.reference, lr=2e-3)),
    ]
    for count, change in enumerate(changes, start=2):
        change()
        assert len(entries(cache)) == count


def test_only_the_missing_seeds_are_trained_and_the_order_is_that_asked_for(cache: Path) -> None:
    policy, _ = make([1])
    (entry,) = entries(cache)
    written = entry.stat().st_mtime_ns
    three, _ = make([2, 1, 0])
    assert len(entries(cache)) == 3
    assert entry.stat().st_mtime_ns == written
    assert three.seeds == (2, 1, 0)
    assert torch.equal(flat(three, 1), flat(policy, 1))
    again, _ = make([0, 2])
    assert again.seeds == (0, 2)
    assert all(torch.equal(flat(again, seed), flat(three, seed)) for seed in (0, 2))


def test_seeds_trained_together_equal_those_trained_alone(cache: Path) -> None:
    together, _ = make([0, 1, 2])
    for entry in entries(cache):
        entry.unlink()
    for seed in [0, 1, 2]:
        alone, _ = make([seed])
        assert torch.equal(flat(alone, seed), flat(together, seed))
    assert (flat(together, 0) - flat(together, 1)).abs().max() > 1e-2


# --- damage --------------------------------------------------------------------------------------------------------------


def flip_a_parameter_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x01  # the tensors come last
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_metadata(path: Path) -> None:
    from safetensors.torch import load, save

    path.write_bytes(save(load(path.read_bytes())))


@pytest.mark.parametrize("damage", [flip_a_parameter_bit, truncate, empty, without_metadata])
def test_a_damaged_entry_is_noticed_and_rebuilt(damage: Callable[[Path], None], cache: Path) -> None:
    before, _ = make([3])
    (entry,) = entries(cache)
    intact = entry.read_bytes()
    damage(entry)
    assert entry.read_bytes() != intact
    after, printed = make([3])
    assert "is damaged; it is trained again" in " ".join(printed.split())
    assert torch.equal(flat(after, 3), flat(before, 3))
    assert make([3])[1] == ""


def test_an_entry_of_another_seed_is_not_taken_for_this_one(cache: Path) -> None:
    make([3])
    (entry,) = entries(cache)
    four, _ = make([4])
    (other,) = set(entries(cache)) - {entry}
    entry.write_bytes(other.read_bytes())
    three, printed = make([3])
    assert "is damaged" in printed
    assert not torch.equal(flat(three, 3), flat(four, 4))


def test_an_interrupted_training_leaves_no_entry(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BehaviourCloning, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            make([0])
    assert entries(cache) == []
    assert "Reference policy" in make([0])[1]


def test_a_custom_policy_is_not_cached(cache: Path) -> None:
    made = []

    def make_own() -> torch.nn.Module:
        made.append(untrained(SETTINGS, TOY))
        return made[-1]

    for count in (1, 2):
        reference_policy(TOY, make_own, SETTINGS.reference, [0], "cpu", Console(quiet=True))
        assert len(made) == count
    assert entries(cache) == []


def test_a_custom_reference_continues_from_the_step_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the end, and, as its run may be stopped later, after it."""
    file = tmp_path / "run" / "reference.safetensors"

    def reference(trajectories: Trajectories = TOY, settings: Config = SETTINGS) -> tuple[Policies, str]:
        out = io.StringIO()
        choice = partial(untrained, settings, TOY)
        console = Console(file=out, width=200)
        return reference_policy(trajectories, choice, SETTINGS.reference, [0], "cpu", console, 20, lambda: file), out.getvalue()

    expected, _ = reference()
    file.unlink()
    original = Learner.train
    trained: list[int] = []

    def train(self: Learner, first: int, last: int) -> torch.Tensor:
        if last == 60 and len(trained) < 3:
            raise KeyboardInterrupt
        trained.append(last)
        return original(self, first, last)

    monkeypatch.setattr(Learner, "train", train)
    with pytest.raises(KeyboardInterrupt):
        reference()
    assert trained == [20, 40]
    trained.append(0)
    for step in (40, 60):
        again, printed = reference()
        assert f"Continuing the reference policy after step {step}" in printed
        assert trained == [20, 40, 0, 60]
        assert torch.equal(flat(again, 0), flat(expected, 0))
    for change in ({"trajectories": replace(TOY, known_hash="1" * 64)}, {"settings": compose("policy.hidden=[8]")}):
        _, printed = reference(**change)
        assert "is damaged or of other data or code; it begins anew" in printed
    assert trained[4:] == [20, 40, 60] * 2


def test_an_interrupted_reference_goes_on_from_its_checkpoint(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = make([0, 1])
    for entry in entries(cache):
        entry.unlink()
    recipe = SETTINGS.reference
    original = Learner.train
    monkeypatch.setattr("iwbc.system.processes.training_workers", lambda seeds: 0)  # what is patched stays in this process

    def stopped(self: Learner, first: int, last: int) -> torch.Tensor:
        if last > 40:
            raise KeyboardInterrupt
        return original(self, first, last)

    monkeypatch.setattr(Learner, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        reference_policy(TOY, SETTINGS.policy, recipe, [0, 1], "cpu", Console(quiet=True), 20)
    (checkpoint,) = cache.glob("*.checkpoint")
    assert entries(cache) == []
    made: list[tuple[int, int]] = []

    def counted(self: Learner, first: int, last: int) -> torch.Tensor:
        made.append((first, last))
        return original(self, first, last)

    monkeypatch.setattr(Learner, "train", counted)
    out = io.StringIO()
    again = reference_policy(TOY, SETTINGS.policy, recipe, [0, 1], "cpu", Console(file=out), 20)
    assert "Continuing the reference policy after step 40" in out.getvalue()
    assert min(first for first, _ in made) == 40
    assert all(torch.equal(flat(again, seed), flat(expected, seed)) for seed in (0, 1))
    assert not checkpoint.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another"])
def test_a_reference_with_a_damaged_checkpoint_is_retrained(cache: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = make([0])
    (entry,) = entries(cache)
    another = entry.read_bytes()
    entry.unlink()
    original = Learner.train
    monkeypatch.setattr(Learner, "train", lambda self, a, b: original(self, a, b) if b <= 20 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reference_policy(TOY, SETTINGS.policy, SETTINGS.reference, [0], "cpu", Console(quiet=True), 20)
    monkeypatch.setattr(Learner, "train", original)
    (checkpoint,) = cache.glob("*.checkpoint")
    whole = checkpoint.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:]
    checkpoint.write_bytes({"cut": whole[:-3], "flipped": flipped, "empty": b"", "another": another}[damage])
    again, printed = make([0])
    assert "The checkpoint of the reference policy is damaged or of other data or code" in " ".join(printed.split())
    assert torch.equal(flat(again, 0), flat(expected, 0))
