"""What there is to look at after a run: run.html, the weights of its trajectories, held-out likelihoods, videos."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from helpers import make_trajectories
from setups import column, command, compose, finish, python, read_csv, train

from iwbc.data.curated import Curated
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.record import Played, frames_of, play_all
from iwbc.runs.charts import Chart
from iwbc.runs.folder import RunFolder
from iwbc.runs.read import finished_summary, open_run
from iwbc.verify import verify

SETTINGS = ["env=two_routes", "dataset.episodes=200", "policy=mixture", "policy.hidden=[32,32]", "reference.steps=100"]
SETTINGS += [
    "curation=success",
    "algo.steps=60",
    "algo.level=trajectory",
    "algo.refresh_every=20",
    "eval.episodes=6",
    "eval.every=20",
    "log_every=20",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("look") / "run"
    outcome = train(*SETTINGS, "seeds=[0,1]", "threads=1", "held_out=0.25", f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.err
    return folder


class Page(HTMLParser):
    """The tags of a page that must be closed, all of them closed, and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_run_leaves_a_page(run: Path) -> None:
    text = (run / "run.html").read_text()
    assert Page(text).references == []
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        *("Learning curve", "Returns", "Weights at the end", "Weights at the end", "Effective sample size"),
        *("Log-likelihood", "Drift from the reference"),
    ]
    success = json.loads((run / "summary.json").read_text())["totals"]["final"]["success_rate"]
    assert f"iw-BC success trajectory: success {100 * success:.1f} %" in text
    assert "held out" in text
    assert len(text) < 300_000


def test_names_are_escaped_on_the_page(run: Path, tmp_path: Path) -> None:
    for name in ("metrics.csv", "evaluations.csv", "curation.csv", "config.yaml"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    summary = finished_summary(run)
    dataset = dataclasses.replace(summary.dataset, id="<script>alert(1)</script>")
    RunFolder(tmp_path).write_page(dataclasses.replace(summary, dataset=dataset))
    assert "<script>" not in (tmp_path / "run.html").read_text()


def test_a_run_with_held_out_trajectories_verifies(run: Path) -> None:
    assert [check for check in verify(run) if check.same is not True] == []


def test_trajectories_and_their_weights(run: Path) -> None:
    rows = read_csv(run / "weights.csv")
    summary = json.loads((run / "summary.json").read_text())["dataset"]
    assert len(rows) == 2 * summary["kept_trajectories"]
    assert summary["trajectories"] == 150  # a quarter of 200 is held out
    last = [row for row in read_csv(run / "metrics.csv") if row["step"] == "60"]
    for seed in (0, 1):
        weights = column(rows, "weight", seed=seed)
        (logged,) = [row for row in last if row["seed"] == str(seed)]
        # The metrics are of float64 weights at the same step.
        assert max(weights) == pytest.approx(float(logged["weight_max"]), rel=1e-5)
        assert min(weights) == pytest.approx(float(logged["weight_min"]), rel=1e-5)
    assert set(column(rows, "curation", seed=0)) == {1.0}
    assert all(value == pytest.approx(1.0) for value in column(rows, "return", seed=0))


def test_weights_of_other_algorithms(tmp_path: Path) -> None:
    brief = [*SETTINGS[:5], "policy=tanh_mean", "algo.steps=20", "eval.episodes=0", "threads=1"]
    value = {"awr": ["algo.value_hidden=[8]", "algo.value_steps=20"], "iql": ["algo.value_hidden=[8]"]}
    for algo, varies in {"bc": False, "awr": True, "iql": True}.items():
        assert train(*brief, f"algo={algo}", *value.get(algo, []), "curation=all", f"hydra.run.dir={tmp_path / algo}").code == 0
        weights = column(read_csv(tmp_path / algo / "weights.csv"), "weight")
        assert len(weights) == 200
        assert (len(set(weights)) > 1) is varies
        assert (tmp_path / algo / "run.html").exists()


def test_held_out_trajectories_are_trained_on_by_nobody() -> None:
    trajectories = make_trajectories(range(40), lengths=[3 + i % 4 for i in range(40)])
    weights = np.where(np.arange(40) >= 20, 2.0, 0.0)
    rest, held = Curated(trajectories, weights, "trajectory").split(0.25, np.random.default_rng(0))
    again, _ = Curated(trajectories, weights, "trajectory").split(0.25, np.random.default_rng(0))
    assert (len(rest.trajectories), len(held.trajectories)) == (30, 10)
    assert sorted([*rest.trajectories.returns, *held.trajectories.returns]) == pytest.approx(list(range(40)))
    assert rest.trajectories.content_hash == again.trajectories.content_hash != trajectories.content_hash
    for part in (rest, held):
        assert (part.curation_weights == 2.0 * (part.trajectories.returns > 19.5)).all()
        for trajectory in part.trajectories:
            (same,) = [other for other in trajectories if other.rewards.sum() == trajectory.rewards.sum()]
            assert (trajectory.observations == same.observations).all()
            assert (trajectory.final_observation == same.final_observation).all()
    with pytest.raises(UserError, match=r"held_out=0\.01: of the 20 trajectories that are kept, all or none"):
        Curated(trajectories, weights, "trajectory").split(0.01, np.random.default_rng(0))
    assert compose().held_out == 0.0


def test_a_chart_draws_what_is_finite() -> None:
    chart = Chart("Name & more", "x", "y")
    assert chart.svg() == ""
    chart.line(np.array([0.0, 1.0, 2.0]), np.array([np.nan, 5.0, 7.0]), "s0", "it")
    drawing = chart.svg()
    assert 'aria-label="Name &amp; more: y over x"' in drawing
    (points,) = re.findall(r'points="([^"]*)"', drawing)
    (first, low), (last, high) = (tuple(map(float, pair.split(","))) for pair in points.split())
    assert first < last
    assert low > high  # SVG counts from the top
    assert {">5<", ">6<", ">7<"} <= set(re.findall(r">\d<", drawing))
    bars = Chart("", "x", "y", log_y=True)
    bars.bars(np.array([0.0, 1.0, 2.0, 3.0]), np.array([10.0, 0.0, 1000.0]), "all")
    assert bars.svg().count("<rect") == 2


# --- videos --------------------------------------------------------------------------------------------------------------


def test_the_episodes_are_those_of_the_final_evaluation(run: Path) -> None:
    saved = open_run(run)
    played = play_all(saved.policies(None), saved.environment([]), 6, saved.config.eval.seed, "mean")
    final = [row for row in read_csv(run / "evaluations.csv") if row["phase"] == "final"]
    assert [(episode.seed, episode.episode, len(episode.actions)) for episode in played] == [
        (int(row["seed"]), int(row["episode"]), int(row["length"])) for row in final
    ]
    assert [episode.total for episode in played] == column(final, "return")


def renders() -> bool:
    code = "import mujoco; mujoco.GLContext(16, 16).make_current()"
    choices = [os.environ["MUJOCO_GL"]] if "MUJOCO_GL" in os.environ else ["egl", "osmesa"]
    return any(finish(python("-c", code, cwd=Path.cwd(), MUJOCO_GL=name)).code == 0 for name in choices)


@pytest.mark.robustness
def test_videos_of_the_best_median_and_worst(run: Path, tmp_path: Path) -> None:
    if not renders():
        pytest.skip("MuJoCo renders neither by EGL nor by OSMesa here")
    copy = tmp_path / "run"
    copy.mkdir()
    for path in run.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    outcome = finish(python("-m", "iwbc.record", "run=run", "format=gif", cwd=tmp_path))
    assert outcome.code == 0, outcome.err
    rows = json.loads((copy / "videos" / "videos.json").read_text())
    assert [row["name"] for row in rows] == ["best", "median", "worst"]
    assert rows[0]["return"] >= rows[1]["return"] >= rows[2]["return"]
    for row in rows:
        assert (copy / "videos" / row["file"]).read_bytes().startswith(b"GIF8")
    assert Page((copy / "run.html").read_text()).references == [f"videos/{row['file']}" for row in rows]


@pytest.mark.robustness
def test_no_renderer_is_one_line(run: Path, tmp_path: Path) -> None:
    arguments = [f"run={run}", f"out={tmp_path / 'videos'}", "format=gif"]
    outcome = finish(python("-m", "iwbc.record", *arguments, cwd=tmp_path, MUJOCO_GL="off"))
    assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "MuJoCo renders by EGL or OSMesa" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_mp4_without_its_extra_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "imageio_ffmpeg" else real(name, *more))
    outcome = command("iwbc.record", f"run={run}", "format=mp4")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "it needs the extra video" in outcome.err


def test_frames_are_thirty_a_second_at_most(run: Path) -> None:
    class Clock(gym.Env):  # type: ignore[type-arg, name-defined, misc]
        metadata = {"render_modes": ["rgb_array"], "render_fps": 90}  # noqa: RUF012
        observation_space = gym.spaces.Box(-1, 1, (1,))
        action_space = gym.spaces.Box(-1, 1, (1,))

        def __init__(self, render_mode: str) -> None:
            self.render_mode = render_mode

        def reset(self, *, seed=None, options=None):  # type: ignore[no-untyped-def]
            self.now = 0
            return np.zeros(1, np.float32), {}

        def step(self, action):  # type: ignore[no-untyped-def]
            self.now += 1
            return np.zeros(1, np.float32), 0.0, False, False, {}

        def render(self):  # type: ignore[no-untyped-def]
            return np.full((4, 4, 3), self.now, np.uint8)

    gym.register("Clock-v0", Clock)
    frames, rate = frames_of(EnvironmentSpec("Clock-v0"), Played(0, 0, 0, np.zeros((200, 1)), 0.0), seconds=1)
    assert rate == 30.0
    assert [frame[0, 0, 0] for frame in frames] == list(range(0, 91, 3))
