"""What a user brings, and the policy it ends in: the worked example of docs/data.md, as written there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from setups import train

GUIDE = Path(__file__).parent.parent / "docs" / "data.md"
TINY = ("policy.hidden=[16,16]", "reference.steps=30", "algo.steps=30", "log_every=10", "eval.episodes=2", "threads=1")


def demonstrations(observation_size: int, action_size: int, episodes: int = 40) -> dict[str, np.ndarray]:
    """Episodes of 20 steps of which the later ones act better: the action that pays is the mean of the observation."""
    rng = np.random.default_rng(0)
    steps = episodes * 20
    observations = rng.normal(size=(steps, observation_size)).astype(np.float32)
    best = np.tanh(observations.mean(1, keepdims=True)) * np.ones(action_size)
    noise = np.linspace(1.0, 0.05, steps)[:, None] * rng.normal(size=(steps, action_size))
    actions = np.clip(best + noise, -1.0, 1.0).astype(np.float32)
    rewards = -np.square(actions - best).sum(1)
    truncations = np.arange(steps) % 20 == 19
    return {
        "observations": observations,
        "actions": actions,
        "rewards": rewards.astype(np.float32),
        "terminations": np.zeros(steps, np.bool_),
        "truncations": truncations,
        "successes": np.arange(episodes) >= episodes // 2,
    }


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def test_the_worked_example_of_the_guide_to_data(datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("demo.npz", **demonstrations(5, 2))
    first, last = blocks("python")
    names: dict[str, Any] = {}
    exec(first, names)
    assert len(names["data"]) == 40
    command = next(block for block in blocks("sh") if "my/robot/pick-v0" in block).split()
    assert command[:2] == ["iwbc", "train"]
    outcome = train(*command[2:], *TINY, "hydra.run.dir='outputs/…'")
    assert outcome.code == 0, outcome.err
    assert "success keeps 20 trajectories" in " ".join(outcome.out.split())
    assert "names no environment" in outcome.out
    names["observation"] = np.zeros(5)
    exec(last, names)
    assert names["action"].shape == (2,)


def test_a_d4rl_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = demonstrations(11, 3)
    with h5py.File("hopper_medium_replay-v2.hdf5", "w") as file:
        for name, array in arrays.items():
            renamed = {"terminations": "terminals", "truncations": "timeouts", "successes": "infos/success"}.get(name, name)
            file[renamed] = array if name != "successes" else np.repeat(array, 20)
    outcome = train("dataset=d4rl", "dataset.path=hopper_medium_replay-v2.hdf5", *TINY, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["environment"]["id"] == "Hopper-v5"
    assert summary["normalisation"]["source"] == "D4RL"
    assert summary["dataset"]["trajectories"] == 40
    assert summary["totals"]["final"]["episodes"] == 2


def test_success_by_the_last_reward(datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from iwbc.data.arrays import from_arrays

    arrays = demonstrations(5, 2)
    arrays.pop("successes")
    arrays["rewards"] = np.zeros(800, np.float32)
    arrays["rewards"][19::40] = 1.0  # every other episode ends in a reward
    from_arrays(**arrays, id="my/robot/place-v0")
    dataset = ("dataset=minari", "dataset.id=my/robot/place-v0", "curation=success")
    outcome = train(*dataset, "curation.success_from=last_reward", *TINY, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("run/summary.json").read_text())["dataset"]["kept_trajectories"] == 20
    refused = train(*dataset, *TINY, "hydra.run.dir=other")
    assert refused.code == 2
    assert "has no success labels" in refused.err
