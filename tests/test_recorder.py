"""When a run logs, plays and writes checkpoints, and what it goes on with: the Recorder, beside training of a few steps."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import make_trajectories
from rich.console import Console
from setups import column, compose, read_csv

from iwbc.data.curated import Curated
from iwbc.environments.scores import ReferenceScores
from iwbc.errors import Interrupted, UserError
from iwbc.evaluation import Evaluator
from iwbc.runs.folder import RunFolder
from iwbc.runs.recorder import Recorder, Stopwatch, append_rows, weight_rows
from iwbc.runs.rows import MetricRow
from iwbc.runs.summary import Diverged
from iwbc.system.files import write_csv
from iwbc.training.fit import fit
from iwbc.training.trained import Policies
from iwbc.training.trainer import Learner, Trainer

ENV = "iwbc-tests/Short-v0"
CURATED = Curated(make_trajectories([4.0, 6.0, 8.0], [2, 3, 4]), np.array([1.0, 0.0, 2.0]), "trajectory")
SETTINGS = (
    *("algo=bc", "algo.steps=12", "algo.batch_size=8", "algo.warmup_steps=2", "policy.hidden=[8]", "seeds=[3,7]"),
    *("log_every=3", "checkpoint_every=4", "eval.every=5", "eval.periodic_episodes=2", "eval.episodes=2"),
)


class Short(gym.Env[Any, Any]):
    """Two steps, whose rewards are the first entry of the action; a success where that is positive."""

    observation_space, action_space = gym.spaces.Box(-np.inf, np.inf, (3,)), gym.spaces.Box(-1.0, 1.0, (2,))
    stuck = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        if Short.stuck:
            raise RuntimeError("the arm is stuck")
        self.steps += 1
        observation = self.np_random.normal(size=3).astype(np.float32)
        return observation, float(action[0]), False, self.steps == 2, {"success": bool(action[0] > 0.0)}


class Notes:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, int, dict[str, float]]] = []
        self.ended: list[tuple[int, int, dict[str, float]]] = []
        self.closed: list[bool] = []

    def log(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        self.logged.append((step, seed, dict(values)))

    def results(self, step: int, seed: int, values: Mapping[str, float]) -> None:
        self.ended.append((step, seed, dict(values)))

    def close(self, failed: bool) -> None:
        self.closed.append(failed)


class Watched(Recorder):
    """Calls `before` with every step after which it looks on."""

    before: Callable[[int], object] = staticmethod(lambda step: None)

    def after(self, step: int, loss: dict[int, torch.Tensor], trainer: Trainer) -> None:
        self.before(step)
        super().after(step, loss, trainer)


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    gym.register(ENV, Short, disable_env_checker=True)
    yield
    del gym.registry[ENV]


@pytest.fixture(autouse=True)
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    notes = Notes()
    monkeypatch.setattr("iwbc.runs.recorder.make_logger", lambda *_: notes)
    return notes


@contextlib.contextmanager
def recording(folder: Path, *changes: str, plays: bool = True, curated: Curated = CURATED) -> Iterator[Watched]:
    config, console = compose(*SETTINGS, *changes), Console(width=30, file=io.StringIO())
    evaluator = Evaluator(ENV, 0, scores=ReferenceScores(0.0, 4.0, "made up")) if plays else None
    with (
        contextlib.nullcontext() if evaluator is None else contextlib.closing(evaluator),
        Watched(config, RunFolder(folder), console, Stopwatch(), evaluator, curated) as recorder,
    ):
        yield recorder


def training(recorder: Recorder) -> Policies:
    config = recorder.config
    choice, quiet = config.policy, Console(quiet=True)
    return fit(config.algo, CURATED, policy=choice, seeds=config.all_seeds, console=quiet, observer=recorder)


def train(folder: Path, *changes: str, stop_at: int | None = None) -> Recorder:
    """Train to the end, or, where that is told, stop by Ctrl-C after some steps."""
    with pytest.raises(Interrupted) if stop_at else contextlib.nullcontext(), recording(folder, *changes) as recorder:
        recorder.before = lambda step: step == stop_at and signal.raise_signal(signal.SIGINT)
        training(recorder)
    return recorder


def done(folder: Path) -> int | None:
    """The step of the checkpoint."""
    checkpoint = RunFolder(folder).checkpoint()
    return None if checkpoint is None else checkpoint[1]["done"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with mock.patch("iwbc.runs.recorder.make_logger", lambda *_: Notes()):
        train(folder)
    return folder


def test_when_it_logs_plays_and_writes(notes: Notes, tmp_path: Path) -> None:
    checkpoints: dict[int, int | None] = {}
    with recording(tmp_path, "eval.action=both") as recorder:
        recorder.before = lambda step: checkpoints.update({step: done(tmp_path)})
        training(recorder)
    assert checkpoints == {3: None, 4: None, 5: 4, 6: 5, 8: 5, 9: 8, 10: 8, 12: 10}
    assert done(tmp_path) == 12
    files = {"config.yaml", "curation.csv", "metrics.csv", "evaluations.csv", "weights.csv", "policy.safetensors"}
    assert set(os.listdir(tmp_path)) == files | {"checkpoint.safetensors"}
    rows, rate = read_csv(tmp_path / "metrics.csv"), recorder.config.algo.learning_rate
    assert [(row["step"], row["seed"]) for row in rows] == [(str(step), seed) for step in (3, 6, 9, 12) for seed in "37"]
    assert rate(4) != rate(5) != rate(6)
    assert column(rows, "learning_rate", step=6) == [rate(5), rate(5)]
    episodes = read_csv(tmp_path / "evaluations.csv")
    assert [(row["step"], row["seed"], row["episode"]) for row in episodes] == [
        (step, seed, episode) for step in ("5", "10") for seed in "37" for episode in "01"
    ]
    assert {(row["phase"], row["action"], row["length"]) for row in episodes} == {("periodic", "mean", "2")}
    played = [(step, seed, values) for step, seed, values in notes.logged if "periodic/return" in values]
    assert [(step, seed) for step, seed, _ in played] == [(5, 3), (5, 7), (10, 3), (10, 7)]
    for step, seed, values in played:
        for name in ("return", "score", "success"):
            assert values[f"periodic/{name}"] == pytest.approx(np.mean(column(episodes, name, step=step, seed=seed)))
    logged = [{"step": step, "seed": seed, **values} for step, seed, values in notes.logged if "loss" in values]
    assert [{name: str(value) for name, value in row.items()} for row in logged] == rows
    assert (notes.ended, notes.closed) == ([], [False])


def test_what_is_played_at_the_end_is_a_result(notes: Notes, tmp_path: Path) -> None:
    with recording(tmp_path, "eval.every=0", "eval.action=both") as recorder:
        evaluations = recorder.play_finally(None, training(recorder))
        recorder.write_tables()
    assert list(evaluations) == ["final", "final_sampled"]
    rows = read_csv(tmp_path / "evaluations.csv")
    assert {(row["phase"], row["step"], row["action"]) for row in rows} == {("final", "12", "mean"), ("final", "12", "sample")}
    assert [(step, seed) for step, seed, _ in notes.ended] == [(12, 3), (12, 7)] * 2
    assert notes.ended[1][2]["final/return"] == pytest.approx(np.mean(column(rows, "return", seed=7, action="mean")))
    assert notes.ended[2][2]["final_sampled/return"] == pytest.approx(np.mean(column(rows, "return", seed=3, action="sample")))


def test_a_run_that_plays_nothing_does_not_pause_for_it(tmp_path: Path) -> None:
    seen: list[int] = []
    with recording(tmp_path, plays=False) as recorder:
        recorder.before = seen.append
        assert recorder.play_finally(None, training(recorder)) == {}
    assert seen == [3, 4, 6, 8, 9, 12]
    assert read_csv(tmp_path / "evaluations.csv") == []


@pytest.mark.parametrize("step", [3, 5, 6])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(step: int, whole: Path, notes: Notes, tmp_path: Path) -> None:
    train(tmp_path, stop_at=step)
    assert (done(tmp_path), notes.closed) == (step, [True])
    assert len(read_csv(tmp_path / "evaluations.csv")) == (4 if step > 5 else 0)  # the checkpoint comes before the episodes
    again = train(tmp_path)
    assert f"Continuing after step {step}" in again.console.file.getvalue()  # type: ignore[attr-defined]
    for name in ("metrics.csv", "evaluations.csv", "weights.csv", "policy.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_what_was_written_after_the_checkpoint_is_made_again(whole: Path, tmp_path: Path) -> None:
    train(tmp_path, stop_at=5)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("6,3,0.")  # as where a run is killed before its next checkpoint
    train(tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


@pytest.mark.parametrize("changes", [(), ("eval.every=0",), ("eval.periodic_episodes=0",)])
def test_a_checkpoint_comes_before_episodes_that_fail(
    changes: tuple[str, ...], notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Short, "stuck", True)
    with pytest.raises(UserError, match=r"the arm is stuck.*; what was trained is kept: resume="):
        train(tmp_path)
    assert (done(tmp_path), notes.closed) == (5, [True])
    monkeypatch.setattr(Short, "stuck", False)
    train(tmp_path, *changes)
    steps = [row["step"] for row in read_csv(tmp_path / "evaluations.csv")]
    assert steps == ([] if changes else ["5"] * 4 + ["10"] * 4)  # what was due when it stopped, too


def test_after_the_last_step_there_is_nothing_to_stop(notes: Notes, tmp_path: Path) -> None:
    with pytest.raises(Interrupted), recording(tmp_path) as recorder:
        recorder.before = lambda step: step == 12 and signal.raise_signal(signal.SIGINT)
        policies = training(recorder)
        assert policies.seeds == (3, 7)
        assert (done(tmp_path), (tmp_path / "weights.csv").exists(), notes.closed) == (12, True, [])
        recorder.play_finally(None, policies)
    assert {row["phase"] for row in read_csv(tmp_path / "evaluations.csv")} == {"periodic"}


WHY = "it is [bold]too[/bold] large"


def diverging(monkeypatch: pytest.MonkeyPatch, *seeds: int) -> None:
    """Let the training of seeds diverge by the third look at it, after step 5."""
    looks: dict[int, int] = {}

    def trouble(self: Learner) -> str | None:
        seed = self.sampler.seed
        looks[seed] = looks.get(seed, 0) + 1
        return WHY if seed in seeds and looks[seed] == 3 else None

    monkeypatch.setattr(Learner, "trouble", trouble)


def test_a_seed_that_diverges_is_left_behind(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverging(monkeypatch, 7)
    first = train(tmp_path, stop_at=8)
    said = first.console.file.getvalue()  # type: ignore[attr-defined]
    assert said == f"Seed 7 diverged by step 5: {WHY}. The other seeds go on.\n"  # one line, as it is
    second = train(tmp_path)
    assert first.diverged_seeds == second.diverged_seeds == [Diverged(7, 5, WHY, 4)]
    assert (tmp_path / "last-good-seed7.safetensors").exists()
    rows, expected = read_csv(tmp_path / "metrics.csv"), read_csv(whole / "metrics.csv")
    assert rows == [row for row in expected if row["seed"] == "3" or row["step"] == "3"]
    assert all(second.stopwatch.seconds[phase] > 0.0 for phase in ("training", "checkpoints", "evaluation"))


def test_where_all_seeds_diverge_there_is_nothing_to_go_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverging(monkeypatch, 3, 7)
    with pytest.raises(UserError) as caught:
        train(tmp_path)
    assert str(caught.value) == f"step 5: {WHY}; the run folder keeps the checkpoint before, if there was one"
    assert done(tmp_path) == 4


@pytest.mark.parametrize(
    ("names", "tables"), [({"other"}, 2), ({"policy.network.0.weight"}, 2), (None, 1), (None, 3), (None, 0)]
)
def test_a_checkpoint_of_another_policy_is_refused(names: set[str] | None, tables: int, tmp_path: Path) -> None:
    folder = train(tmp_path, stop_at=4).folder
    checkpoint = folder.checkpoint()
    assert checkpoint is not None
    states, progress = checkpoint
    if names is not None:
        states = {seed: {name: torch.zeros(1) for name in names} for seed in states}
    folder.write_checkpoint(states, progress | {"tables": (progress["tables"] * 2)[:tables]})
    with pytest.raises(UserError, match="its checkpoint does not fit the policy"):
        train(tmp_path)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    folder = train(tmp_path, stop_at=4).folder
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    data = CURATED.trajectories
    other = replace(CURATED, trajectories=replace(data, rewards=2.0 * data.rewards))
    says = r"trained on other content of dataset toy/data-v0, 000000000000 and not "
    with pytest.raises(UserError, match=says) as caught, recording(tmp_path, curated=other) as recorder:
        training(recorder)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    states, progress = folder.checkpoint() or ({}, {})
    folder.start(compose(*SETTINGS))
    folder.write_checkpoint(states, {name: value for name, value in progress.items() if name != "data"})
    train(tmp_path)  # earlier versions wrote no hash


@pytest.mark.parametrize("name", ["metrics.csv", "evaluations.csv"])
@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
    ],
)
def test_a_table_that_the_checkpoint_does_not_go_with_is_refused(
    name: str, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    train(tmp_path, stop_at=8)
    damage(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=rf"{name}: is not the one that the checkpoint goes with") as caught:
        train(tmp_path)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_rows_that_are_appended_are_the_table(tmp_path: Path) -> None:
    values = [np.float64(0.5), float("nan"), "two\nlines", "", 'a "q"']
    all_rows = [MetricRow(step, 0, {"a name, with a comma": value}) for step, value in enumerate(values)]
    table = io.StringIO()
    for part in (all_rows[:1], all_rows[1:]):
        append_rows(table, part)
    write_csv(tmp_path / "whole.csv", [row.to_plain() for row in all_rows])
    assert table.getvalue().encode() == (tmp_path / "whole.csv").read_bytes()


def test_seconds_by_phase() -> None:
    with mock.patch("time.perf_counter", side_effect=[10.0, 11.0, 13.0, 16.0, 20.0]):
        stopwatch = Stopwatch()
        with stopwatch.timed("evaluation"):  # from 11 to 13
            pass
        stopwatch.lap("training")  # from 13 to 16
        stopwatch.lap()
    expected = {"data": 0.0, "curation": 0.0, "reference": 0.0, "training": 3.0, "checkpoints": 0.0, "evaluation": 2.0}
    assert stopwatch.seconds == expected


def test_weights_by_hand() -> None:
    assert weight_rows(CURATED, {3: torch.tensor([0.5, 2.0])}) == [
        {"seed": 3, "trajectory": 0, "return": 4.0, "length": 2, "curation": 1.0, "weight": 0.5},
        {"seed": 3, "trajectory": 2, "return": 8.0, "length": 4, "curation": 2.0, "weight": 2.0},
    ]
