"""What is trained outlasts an evaluation that fails; a run goes on with other settings of what does not change its training."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from setups import compose, finish, python, rarely, read_csv, train

import iwbc
from iwbc.config import changed
from iwbc.data.minari_folder import make_once
from iwbc.errors import UserError
from iwbc.runs.folder import RunFolder
from iwbc.runs.read import read_config
from iwbc.settings import to_plain
from iwbc.verify import verify

DATASET = "tests/failing/random-v0"
ENV = "iwbc-tests/Failing-v0"
BRIEF = (
    *("env=from_dataset", "dataset=minari", f"dataset.id={DATASET}", "policy.hidden=[8]", "algo=bc", "curation=all"),
    *("algo.steps=40", "algo.warmup_steps=0", "algo.batch_size=32", "log_every=20", "checkpoint_every=30", "threads=1"),
    *(f"env.id={ENV}", "eval.every=20", "eval.periodic_episodes=2", "eval.episodes=3"),
)
MODULE = f'''
import os
import gymnasium as gym
import numpy as np

class Failing(gym.Env):
    """Three steps; goes wrong, as `how` says, in the episodes of a process from number `healthy` on."""

    observation_space, action_space = gym.spaces.Box(-np.inf, np.inf, (2,)), gym.spaces.Box(-1.0, 1.0, (1,))
    metadata = {{"render_modes": []}}
    episodes = 0

    def __init__(self, how="fine", healthy=0):
        self.how, self.healthy = how, healthy
        if how == "making":
            raise RuntimeError("no licence")
        if how == "exit":
            raise SystemExit(3)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        Failing.episodes += 1
        self.steps = 0
        self.fails("reset")
        return self.np_random.normal(size=2).astype(np.float32), {{}}

    def fails(self, where):
        if Failing.episodes > self.healthy:
            if self.how == where:
                raise RuntimeError("the arm is stuck")
            if self.how == f"abort in {{where}}":
                os.abort()

    def step(self, action):
        self.fails("step")
        self.steps += 1
        bad = Failing.episodes > self.healthy
        info = {{"success": 0.3 if bad and self.how == "label" else True}}
        reward = np.nan if bad and self.how == "reward" else float(action[0])
        return self.np_random.normal(size=2).astype(np.float32), reward, False, self.steps == 3, info

gym.register("{ENV}", Failing, disable_env_checker=True)
'''


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory, own_folders: None) -> Iterator[Path]:
    """The dataset, and the folder of the module failing_environment, which registers the environment."""
    folder = tmp_path_factory.mktemp("module")
    (folder / "failing_environment.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import failing_environment  # type: ignore[import-not-found]  # noqa: F401

        make_once(DATASET, _write)
        yield folder
    del gym.registry[ENV], sys.modules["failing_environment"]


def _write() -> None:
    random, steps = np.random.default_rng(0), 200
    iwbc.from_arrays(
        random.normal(size=(steps, 2)).astype(np.float32),
        random.uniform(-1, 1, (steps, 1)).astype(np.float32),
        np.zeros(steps),
        np.zeros(steps, bool),
        np.arange(steps) % 20 == 19,
        id=DATASET,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    outcome = train(*BRIEF, f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.err
    return folder


def fail(folder: Path, how: str, healthy: int) -> Any:
    sys.modules["failing_environment"].Failing.episodes = 0
    return train(*BRIEF, f"env.kwargs={{how: {how}, healthy: {healthy}}}", f"hydra.run.dir={folder}")


def same(folder: Path, other: Path, *names: str) -> bool:
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


# In the first and the second episode of the periodic evaluation, and in those of the final one.
@pytest.mark.parametrize(("how", "healthy"), [("reset", 0), rarely("step", 1), rarely("reward", 2), ("label", 4)])
def test_a_failed_evaluation_keeps_the_trained_policy(how: str, healthy: int, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    outcome = fail(folder, how, healthy)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome.err
    assert f"environment {ENV}: its " in outcome.err
    assert f"what was trained is kept: resume={folder} goes on, also with other env.… and eval.…" in outcome.err
    checkpoint = RunFolder(folder).checkpoint()
    assert checkpoint is not None and checkpoint[1]["done"] == (20 if healthy < 2 else 40)
    assert (folder / "policy.safetensors").exists() is (healthy >= 2)
    resumed = train(f"resume={folder}", "env.kwargs={how: fine}")
    assert resumed.code == 0, resumed.err
    assert same(folder, undisturbed, "policy.safetensors", "metrics.csv", "evaluations.csv", "weights.csv")
    expected = {"how": "fine", "healthy": healthy}  # Dicts are merged, as on every command line
    assert read_config(folder).env.kwargs == expected
    assert json.loads((folder / "summary.json").read_text())["environment"]["kwargs"] == expected
    assert all(check.same for check in verify(folder)), verify(folder)


@pytest.mark.parametrize(("where", "healthy"), [("step", 0), rarely("reset", 4)])
def test_a_process_that_an_environment_aborts_loses_nothing(
    where: str, healthy: int, environment: Path, undisturbed: Path, tmp_path: Path
) -> None:
    arguments = [*BRIEF, "env.imports=[failing_environment]", f"env.kwargs={{how: abort in {where}, healthy: {healthy}}}"]
    process = python("-m", "iwbc.train", *arguments, "hydra.run.dir=run", cwd=tmp_path, PYTHONPATH=str(environment))
    assert finish(process).code == -signal.SIGABRT
    folder = tmp_path / "run"
    assert (folder / "policy.safetensors").exists() is (healthy > 0)
    assert not (folder / "summary.json").exists()
    resumed = train(f"resume={folder}", "env.imports=[failing_environment]", "eval.episodes=0")
    assert resumed.code == 0, resumed.err
    assert "Continuing after step" in resumed.out
    assert "No evaluation was made." in resumed.out
    assert same(folder, undisturbed, "policy.safetensors", "metrics.csv", "weights.csv")


IN_A_WORKER = {"step": "stuck", "making": "no licence", "reward": "nan", "exit": ENV, "abort in step": "was killed (SIGABRT)"}


@pytest.mark.long
@pytest.mark.robustness
@pytest.mark.parametrize("how", IN_A_WORKER)
def test_an_environment_that_goes_wrong_in_a_worker_is_one_line(how: str, environment: Path, tmp_path: Path) -> None:
    arguments = [*BRIEF, "env.imports=[failing_environment]", f"env.kwargs={{how: {how}}}", "threads=2", "hydra.run.dir=run"]
    outcome = finish(python("-m", "iwbc.train", *arguments, cwd=tmp_path, PYTHONPATH=str(environment)))
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome
    assert IN_A_WORKER[how] in outcome.err


def test_without_episodes_the_environment_is_not_made(tmp_path: Path) -> None:
    outcome = train(*BRIEF, "env.kwargs={how: making}", "eval.episodes=0", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    assert read_csv(tmp_path / "run" / "evaluations.csv") == []
    assert fail(tmp_path / "other", "making", 0).code == 2
    assert not (tmp_path / "other").exists()


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "eval.episodes=7": ("eval", {"episodes": 7}),
    "eval=default": ("eval", {"episodes": 100}),  # a choice of a group, as on a new command line
    "env.max_episode_steps=9": ("env", {"max_episode_steps": 9}),
    "env.kwargs={a: 1}": ("env", {"kwargs": {"a": 1}}),
    "+env.kwargs.a=1": ("env", {"kwargs": {"a": 1}}),
    "env.id=Other-v0": ("env", {"id": "Other-v0"}),
    "env.imports=[one,other]": ("env", {"imports": ["one", "other"]}),
    "logger=tensorboard": ("logger", {"name": "tensorboard"}),
    "logger=wandb": ("logger", {"name": "wandb"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_settings_that_do_not_affect_training_may_change(change: str) -> None:
    held = compose(*BRIEF)
    plain = to_plain(changed(held, [change]))
    group, values = CHANGES[change]
    expected = to_plain(held)
    usual = to_plain(compose("dataset=minari", "dataset.id=x"))[group]
    expected[group] = (usual if change.startswith("eval=") else expected[group]) | values
    assert plain == expected


REFUSED = [
    *(
        "algo.lr=1",
        "+algo.lr=1",
        "algo=bc",
        "seed=1",
        "seeds=[0,1]",
        "policy.hidden=[4]",
        "dataset.id=x",
        "averaging=transition",
    ),
    *("reference.steps=1", "threads=2", "device=cuda", "hydra.run.dir=x", "eval.episodes=1,2", "env@algo=hopper", "~algo.lr"),
]


@pytest.mark.parametrize("change", REFUSED)
def test_settings_that_affect_training_are_refused(change: str) -> None:
    with pytest.raises(UserError) as raised:
        changed(compose(*BRIEF), ["eval.episodes=2", change])
    assert str(raised.value).startswith(f"{change}: ")
    assert "what does not change its training: env.…, eval.… and logger.…" in str(raised.value)


@pytest.mark.parametrize("change", ["env=walker2d", "env.id=Walker2d-v5"])
def test_data_made_for_an_environment_stays_with_it(change: str) -> None:
    held = compose("env=hopper")
    assert changed(held, ["env.max_episode_steps=5"]).env.max_episode_steps == 5
    with pytest.raises(UserError, match=r"the data was made for env\.id=Hopper-v5"):
        changed(held, [change])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("algo.steps=80", "env.…, eval.… and logger.…"),
        ("eval.episode=1", "eval.episode: no such setting; did you mean eval.episodes"),
        ("eval=nothing", "Could not find 'eval/nothing'"),
        ("eval.episodes=-1", "eval.episodes=-1: must lie between 0 and 1,000,000"),
        ("eval.episodes=[", "cannot be read"),
        ("eval.episodes=9", "is finished, and its settings with it; iwbc evaluate run="),
        ("env.kwargs={module: failing_environment}", "is finished"),
        ("policy._target_=os.system", "imports nothing of its own"),
    ],
)
def test_a_refused_change_is_one_line_and_changes_nothing(change: str, says: str, undisturbed: Path) -> None:
    before = {path.name: path.read_bytes() for path in undisturbed.iterdir()}
    outcome = train(f"resume={undisturbed}", change)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome
    assert says in outcome.err
    assert {path.name: path.read_bytes() for path in undisturbed.iterdir()} == before


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    folder, config = RunFolder(tmp_path), compose(*BRIEF)
    folder.start(config)
    folder.write_checkpoint({}, {"done": 1})
    folder.start(changed(config, ["eval.episodes=1", "env.id=Other-v0", "logger=tensorboard"]))
    assert folder.checkpoint() == ({}, {"done": 1})
    folder.start(compose(*BRIEF, "algo.lr=1"))
    with pytest.raises(UserError, match="is of a run with another configuration"):
        folder.checkpoint()


def test_a_module_is_named_by_env_imports_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.start(compose(*BRIEF, "env.imports=[os.path]"))
    for other in ("env.kwargs={a: os.path}", "env.max_episode_steps=5", "eval.episodes=0"):
        outcome = train(f"resume={tmp_path}", other)
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
        assert "to trust them, add env.imports=[os.path]" in outcome.err
