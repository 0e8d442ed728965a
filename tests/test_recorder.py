"""When a run logs, plays and writes checkpoints, and what it goes on with: the Recorder, with a trainer that trains nothing."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import make_trajectories
from rich.console import Console
from setups import compose, read_csv
from torch import Tensor

from iwbc.data.curated import Curated
from iwbc.environments.scores import ReferenceScores
from iwbc.errors import Interrupted, UserError
from iwbc.evaluation import Evaluation
from iwbc.runs.folder import RunFolder
from iwbc.runs.recorder import Recorder, Stopwatch, append_rows, weight_rows
from iwbc.runs.rows import MetricRow
from iwbc.runs.summary import Diverged
from iwbc.system.files import write_csv

CURATED = Curated(make_trajectories([4.0, 6.0, 8.0], [2, 3, 4]), np.array([1.0, 0.0, 2.0]), "trajectory")
SETTINGS = ("algo=bc", "algo.steps=12", "log_every=3", "checkpoint_every=4", "eval.every=5", "eval.periodic_episodes=2")


class Trained:
    """Two seeds, of which nothing changes."""

    def __init__(self) -> None:
        self.seeds: tuple[int, ...] = (3, 7)
        self.loaded: dict[int, dict[str, Tensor]] = {}

    def measure(self) -> dict[int, dict[str, Tensor]]:
        return {seed: {"ess_share": torch.tensor(seed / 10)} for seed in self.seeds}

    def state(self) -> dict[int, dict[str, Tensor]]:
        return {seed: {"a": torch.full((2,), float(seed))} for seed in self.seeds}

    def load(self, state: dict[int, dict[str, Tensor]]) -> None:
        if any("other" in own for own in state.values()):
            raise KeyError("other")
        self.loaded = state

    def drop(self, seed: int) -> None:
        self.seeds = tuple(other for other in self.seeds if other != seed)

    def parameters(self) -> dict[str, Tensor]:
        return {}

    def trajectory_weights(self) -> dict[int, Tensor]:
        return {seed: torch.tensor([1.0, seed]) for seed in self.seeds}


def played(policies: Any, episodes: int, action: str) -> Any:
    """An evaluation with returns 1, 2, … of the first seed, and ten more of every other."""
    returns = np.arange(1.0, episodes + 1) + 10 * np.arange(len(policies.seeds))[:, None]
    scores = ReferenceScores(0.0, 200.0, "made up")
    return Evaluation(policies.seeds, returns, np.ones(returns.shape, int), scores, returns > 1, action)


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    made = mock.Mock()
    monkeypatch.setattr("iwbc.runs.recorder.make_logger", lambda *_: made)
    return made


def recorder(folder: Path, *changes: str, plays: bool = True) -> Recorder:
    evaluator = mock.Mock()
    evaluator.evaluate.side_effect = played
    config = compose(*SETTINGS, *changes)
    console = Console(quiet=True)
    return Recorder(config, RunFolder(folder), console, Stopwatch(), evaluator if plays else None, CURATED)


def rows(own: Recorder, name: str) -> list[dict[str, str]]:
    """What a table holds, once it is written."""
    own.write_tables()
    return read_csv(own.folder.path / name)


def policies() -> mock.Mock:
    found = mock.Mock()
    found.select.side_effect = lambda *seeds: mock.Mock(seeds=seeds)
    return found


LOSS = {3: torch.tensor(0.5), 7: torch.tensor(0.25)}


def test_when_it_logs_plays_and_writes(logger: mock.Mock, tmp_path: Path) -> None:
    trainer = Trained()
    logged, plays, checkpoints = [], [], []
    with recorder(tmp_path, "eval.action=both") as own:
        assert own.start(trainer, policies()) == 0  # type: ignore[arg-type]
        assert (own.measures, own.every) == (True, (3, 5, 4))
        assert set(os.listdir(tmp_path)) == {"config.yaml", "curation.csv"}
        for step in range(1, 13):
            before = len(rows(own, "metrics.csv")), len(rows(own, "evaluations.csv"))
            own.after(step, LOSS, trainer)  # type: ignore[arg-type]
            logged += [step] * (len(rows(own, "metrics.csv")) > before[0])
            plays += [step] * (len(rows(own, "evaluations.csv")) > before[1])
            found = own.folder.checkpoint()
            checkpoints += [step] * (found is not None and found[1]["done"] == step)
            assert (tmp_path / "weights.csv").exists() is (step == 12)
    assert (logged, plays, checkpoints) == ([3, 6, 9, 12], [5, 10], [4, 5, 8, 10, 12])
    rate = own.config.algo.learning_rate
    assert rate(4) != rate(5) != rate(6)
    shares = [str(float(torch.tensor(share))) for share in (0.3, 0.7)]
    assert rows(own, "metrics.csv")[2:4] == [
        {"step": "6", "seed": "3", "learning_rate": str(rate(5)), "loss": "0.5", "ess_share": shares[0]},
        {"step": "6", "seed": "7", "learning_rate": str(rate(5)), "loss": "0.25", "ess_share": shares[1]},
    ]
    episodes = rows(own, "evaluations.csv")
    assert {(row["phase"], row["action"]) for row in episodes} == {("periodic", "mean")}
    assert [row["step"] for row in episodes] == ["5"] * 4 + ["10"] * 4
    assert [call.args[:2] for call in logger.log.call_args_list if "periodic/return" in call.args[2]] == [
        (step, seed) for step in (5, 10) for seed in (3, 7)
    ]
    assert logger.log.call_args_list[2].args[2] == {"periodic/return": 1.5, "periodic/score": 0.75, "periodic/success": 0.5}
    assert not logger.results.called
    assert read_csv(tmp_path / "metrics.csv")[-1]["step"] == "12"
    logger.close.assert_called_once_with(False)


def test_what_is_played_at_the_end_is_a_result(logger: mock.Mock, tmp_path: Path) -> None:
    with recorder(tmp_path) as own:
        own.start(Trained(), policies())  # type: ignore[arg-type]
        own.play("final", 12, mock.Mock(seeds=(3, 7)), 2, "mean")
    assert not logger.log.called
    assert [call.args[:2] for call in logger.results.call_args_list] == [(12, 3), (12, 7)]
    assert [call.args[2]["final/return"] for call in logger.results.call_args_list] == [1.5, 11.5]


def test_a_run_that_plays_nothing_does_not_pause_for_it(logger: mock.Mock, tmp_path: Path) -> None:
    with recorder(tmp_path, plays=False) as own:
        assert own.every == (3, 0, 4)
        own.start(Trained(), policies())  # type: ignore[arg-type]
        own.after(5, LOSS, Trained())  # type: ignore[arg-type]
    assert rows(own, "evaluations.csv") == []


def test_a_request_to_stop_leaves_a_checkpoint(logger: mock.Mock, tmp_path: Path) -> None:
    with pytest.raises(Interrupted), recorder(tmp_path) as own:
        own.start(Trained(), policies())  # type: ignore[arg-type]
        own._stop.set()
        own.after(1, LOSS, Trained())  # type: ignore[arg-type]
    found = own.folder.checkpoint()
    assert found is not None and found[1]["done"] == 1
    logger.close.assert_called_once_with(True)


@pytest.mark.parametrize(
    ("stops", "changes"), [(True, ()), (False, ()), (True, ("eval.every=0",)), (True, ("eval.periodic_episodes=0",))]
)
def test_a_checkpoint_comes_before_policies_are_played(
    stops: bool, changes: tuple[str, ...], logger: mock.Mock, tmp_path: Path
) -> None:
    own = recorder(tmp_path)
    own.evaluator.evaluate.side_effect = UserError("stuck")  # type: ignore[union-attr]
    with pytest.raises(Interrupted if stops else UserError, match=None if stops else "^stuck; what was trained is kept"), own:
        own.start(Trained(), policies())  # type: ignore[arg-type]
        if stops:
            own._stop.set()
        own.after(5, LOSS, Trained())  # type: ignore[arg-type]
    with recorder(tmp_path, *changes) as again:
        assert again.start(Trained(), policies()) == 5  # type: ignore[arg-type]
    steps = [row["step"] for row in rows(again, "evaluations.csv")]
    assert steps == ([] if changes else ["5"] * 4)  # what was due when it stopped


def test_after_the_last_step_there_is_nothing_to_stop(logger: mock.Mock, tmp_path: Path) -> None:
    with recorder(tmp_path) as own:
        own.start(Trained(), policies())  # type: ignore[arg-type]
        own._stop.set()
        own.after(12, LOSS, Trained())  # type: ignore[arg-type]
    found = own.folder.checkpoint()
    assert found is not None and found[1]["done"] == 12
    assert (tmp_path / "weights.csv").exists()
    logger.close.assert_called_once_with(False)  # it has not failed


def test_it_goes_on_from_a_checkpoint(logger: mock.Mock, tmp_path: Path) -> None:
    with recorder(tmp_path) as first:
        trainer = Trained()
        first.start(trainer, policies())  # type: ignore[arg-type]
        first.after(3, LOSS, trainer)  # type: ignore[arg-type]
        first.after(4, LOSS, trainer)  # type: ignore[arg-type]
        first.diverged(7, 5, "why", trainer)  # type: ignore[arg-type]
        first.after(8, LOSS, trainer)  # type: ignore[arg-type]
        logged = (tmp_path / "metrics.csv").read_bytes()
        first.after(9, LOSS, trainer)  # type: ignore[arg-type]
        first.write_tables()
        assert (tmp_path / "metrics.csv").read_bytes() != logged  # as where a run is killed before its next checkpoint
        with pytest.raises(UserError, match="step 9: why"):
            first.diverged(3, 9, "why", trainer)  # type: ignore[arg-type]
    with recorder(tmp_path) as second:
        trainer = Trained()
        assert second.start(trainer, policies()) == 8  # type: ignore[arg-type]
    assert trainer.seeds == (3,)
    assert list(trainer.loaded) == [3]
    assert [(row["step"], row["seed"]) for row in rows(second, "metrics.csv")] == [("3", "3"), ("3", "7")]
    assert (tmp_path / "metrics.csv").read_bytes() == logged
    assert second.diverged_seeds == [Diverged(7, 5, "why", 4)]
    assert second.stopwatch.seconds.keys() == first.stopwatch.seconds.keys()
    assert second.stopwatch.seconds["training"] >= 0.0 < second.stopwatch.seconds["checkpoints"]


@pytest.mark.parametrize(
    ("name", "progress"),
    [("other", {"tables": [{}, {}]}), ("a", {"tables": [{}]}), ("a", {"tables": [{}, {}, {}]}), ("a", {})],
)
def test_a_checkpoint_of_another_policy_is_refused(
    name: str, progress: dict[str, Any], logger: mock.Mock, tmp_path: Path
) -> None:
    own = recorder(tmp_path)
    own.folder.start(own.config)
    own.folder.write_checkpoint(
        {3: {name: torch.zeros(1)}}, {"done": 4, "unplayed": False, "diverged": [], "seconds": {}, **progress}
    )
    with pytest.raises(UserError, match="its checkpoint does not fit the policy"):
        own.start(Trained(), policies())  # type: ignore[arg-type]


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
    name: str, damage: Callable[[Path], object], logger: mock.Mock, tmp_path: Path
) -> None:
    with recorder(tmp_path) as own:
        own.start(Trained(), policies())  # type: ignore[arg-type]
        for step in (3, 5, 8):
            own.after(step, LOSS, Trained())  # type: ignore[arg-type]
    damage(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=rf"{name}: is not the one that the checkpoint goes with") as caught:
        recorder(tmp_path).start(Trained(), policies())  # type: ignore[arg-type]
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
    expected = {"data": 0.0, "reference": 0.0, "training": 3.0, "checkpoints": 0.0, "evaluation": 2.0}
    assert stopwatch.seconds == expected


def test_what_is_said_of_a_seed_is_one_line_as_it_is(logger: mock.Mock, tmp_path: Path) -> None:
    own = recorder(tmp_path)
    own.console = Console(width=30, file=io.StringIO())
    own.folder.start(own.config)
    own.diverged(7, 1000, "it is [bold]too[/bold] large", Trained())  # type: ignore[arg-type]
    assert (
        own.console.file.getvalue() == "Seed 7 diverged by step 1,000: it is [bold]too[/bold] large. The other seeds go on.\n"
    )


def test_weights_by_hand() -> None:
    assert weight_rows(CURATED, {3: torch.tensor([0.5, 2.0])}) == [
        {"seed": 3, "trajectory": 0, "return": 4.0, "length": 2, "curation": 1.0, "weight": 0.5},
        {"seed": 3, "trajectory": 2, "return": 8.0, "length": 4, "curation": 2.0, "weight": 2.0},
    ]
