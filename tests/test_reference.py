from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_trajectories
from rich.console import Console
from setups import compose

from iwbc.algorithms.bc import BehaviourCloning
from iwbc.config import Reference
from iwbc.data.curated import Curated
from iwbc.data.sampling import StepSampler
from iwbc.data.trajectories import Trajectories
from iwbc.policies import Policy, policy_spec
from iwbc.reference import reference_policy
from iwbc.trainer import Learner
from iwbc.training import Stream, initial_policy

TOY = make_trajectories(np.linspace(0.0, 1.0, 20).tolist(), [5, 10] * 10)
SETTINGS = compose("policy.hidden=[16]", "reference.steps=60", "reference.batch_size=16", "reference.averaging=transition")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path))
    return tmp_path / "references"


def make(
    seeds: list[int], trajectories: Trajectories = TOY, recipe: Reference = SETTINGS.reference, hidden: int = 16
) -> tuple[Policy, str]:
    """The reference policies, and what was printed meanwhile."""
    out = io.StringIO()
    spec = policy_spec(replace(SETTINGS.policy, hidden=[hidden]), trajectories)
    return reference_policy(trajectories, spec, recipe, seeds, "cpu", Console(file=out)), out.getvalue()


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.safetensors"))


@pytest.mark.parametrize("averaging", ["trajectory", "transition"])
def test_it_is_behaviour_cloning_of_all_data(averaging: str) -> None:
    recipe = replace(SETTINGS.reference, averaging=averaging)
    algorithm = BehaviourCloning(initial_policy(policy_spec(SETTINGS.policy, TOY), [7], "cpu"))
    everything = Curated(TOY, np.ones(20), averaging)
    Learner(algorithm, StepSampler(everything, [7], 16, Stream.REFERENCE), recipe).train(0, recipe.steps)
    assert torch.equal(make([7], recipe=recipe)[0].parameters.flat, algorithm.policy.parameters.flat)


def test_it_is_trained_once(cache: Path) -> None:
    first, printed = make([3])
    assert "Reference policy" in printed
    (entry,) = entries(cache)
    written = entry.stat().st_mtime_ns
    second, printed = make([3])
    assert printed == ""
    assert entries(cache) == [entry]
    assert entry.stat().st_mtime_ns == written
    assert torch.equal(first.parameters.flat, second.parameters.flat)
    assert (first.spec, first.seeds) == (second.spec, second.seeds)


def test_what_is_returned_is_not_tied_to_the_cache() -> None:
    first, _ = make([3])
    first.parameters.flat.zero_()
    assert make([3])[0].parameters.flat.abs().max() > 0


def test_whatever_it_depends_on_makes_another_entry(cache: Path) -> None:
    make([0])
    changes: list[Callable[[], object]] = [
        lambda: make([1]),
        lambda: make([0], trajectories=replace(TOY, content_hash="1" * 64)),
        lambda: make([0], hidden=8),
        lambda: make([0], recipe=replace(SETTINGS.reference, steps=61)),
        lambda: make([0], recipe=replace(SETTINGS.reference, averaging="trajectory")),
        lambda: make([0], recipe=replace(SETTINGS.reference, lr=2e-3)),
    ]
    for count, change in enumerate(changes, start=2):
        change()
        assert len(entries(cache)) == count


def test_only_the_missing_seeds_are_trained_and_the_order_is_that_asked_for(cache: Path) -> None:
    one, _ = make([1])
    (entry,) = entries(cache)
    written = entry.stat().st_mtime_ns
    three, _ = make([2, 1, 0])
    assert len(entries(cache)) == 3
    assert entry.stat().st_mtime_ns == written
    assert three.seeds == (2, 1, 0)
    assert torch.equal(three.parameters.flat[1], one.parameters.flat[0])
    again, _ = make([0, 2])
    assert torch.equal(again.parameters.flat, three.parameters.flat[[2, 0]])


def test_seeds_trained_together_equal_those_trained_alone(cache: Path) -> None:
    together, _ = make([0, 1, 2])
    for entry in entries(cache):
        entry.unlink()
    for row, seed in enumerate([0, 1, 2]):
        alone, _ = make([seed])
        torch.testing.assert_close(alone.parameters.flat[0], together.parameters.flat[row], rtol=0.0, atol=1e-4)
    assert (together.parameters.flat[0] - together.parameters.flat[1]).abs().max() > 1e-2


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


def without_digest(path: Path) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    del header["__metadata__"]["sha256"]
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])


@pytest.mark.parametrize("damage", [flip_a_parameter_bit, truncate, empty, without_metadata, without_digest])
def test_a_damaged_entry_is_noticed_and_rebuilt(damage: Callable[[Path], None], cache: Path) -> None:
    before, _ = make([3])
    (entry,) = entries(cache)
    intact = entry.read_bytes()
    damage(entry)
    assert entry.read_bytes() != intact
    after, printed = make([3])
    assert "is damaged; it is trained again" in " ".join(printed.split())
    assert torch.equal(after.parameters.flat, before.parameters.flat)
    assert make([3])[1] == ""


def test_an_entry_of_another_seed_is_not_taken_for_this_one(cache: Path) -> None:
    make([3])
    (entry,) = entries(cache)
    four, _ = make([4])
    (other,) = set(entries(cache)) - {entry}
    entry.write_bytes(other.read_bytes())
    three, printed = make([3])
    assert "is damaged" in printed
    assert not torch.equal(three.parameters.flat, four.parameters.flat)


def test_an_interrupted_training_leaves_no_entry(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BehaviourCloning, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            make([0])
    assert entries(cache) == []
    assert "Reference policy" in make([0])[1]
