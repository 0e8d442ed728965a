"""`info`: a dataset's figures in the terminal and as a picture, whatever it is named by."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from formats import truths, write_robomimic
from helpers import make_trajectories, seven_steps
from rich.console import Console

from iwbc import info, load
from iwbc.data.trajectories import Trajectories
from iwbc.errors import DataWarning, UserError
from iwbc.settings import Groups

GUIDE = Path(__file__).parent.parent / "docs" / "data.md"


def text_of(trajectories: Trajectories) -> str:
    console = Console(width=120, record=True, quiet=False)
    curations = info.usual_curations()
    if trajectories.successes is None:
        del curations["success"]
    info.show(trajectories, curations, console)
    return console.export_text()


def row(text: str, name: str) -> list[str]:
    (line,) = re.findall(rf"^│ *{re.escape(name)} *│.*$", text, re.M)
    return [cell.strip() for cell in line.strip("│ ").split("│")]


def test_figures_by_hand() -> None:
    # 100 trajectories with returns 1 … 100 of 4 steps each, every second one a success.
    trajectories = make_trajectories(range(1, 101), successes=[i % 2 == 0 for i in range(100)])
    text = text_of(trajectories)
    assert re.search(r"trajectories +100 *\n", text)
    assert re.search(r"steps +400, 4 to 4 in a trajectory", text)
    assert re.search(r"success +50\.0 %", text)
    assert re.search(r"environment +none is named", text)
    assert row(text, "50 %")[1:] == ["50.5"]
    assert row(text, "mean")[1:] == ["50.5"]
    assert row(text, "all") == ["all", "100", "400", "100.0", "1.0"]
    assert row(text, "top_fraction 10 %") == ["top_fraction 10 %", "10", "40", "10.0", "91.0"]
    # Levels 90, 95, 98: five trajectories count once, three twice and two three times. (5 + 6 + 6)² / (5 + 12 + 18).
    assert row(text, "quality_levels") == ["quality_levels", "10", "40", f"{17**2 / 35:.1f}", "91.0"]
    assert row(text, "success")[1:3] == ["50", "200"]
    bars = [int(count) for count in re.findall(r"█ (\d+)", text)]
    assert len(bars) == 16
    assert sum(bars) == 100


def test_without_labels_success_is_not_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "demo.npz", **{**seven_steps(), "actions": np.full((7, 2), 3.0)})
    info.main([str(tmp_path / "demo.npz")])
    out = capsys.readouterr().out
    assert re.search(r"trajectories +3 *\n", out)
    assert "success       no labels" in out
    assert "-3 … 3" in out
    assert [path.name for path in tmp_path.iterdir()] == ["demo.npz"]


def test_names_may_hold_brackets_and_equals_signs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = seven_steps(success=[1, 0, 1], camera=np.zeros(3))
    (tmp_path / "lr=0.1").mkdir()
    np.savez("lr=0.1/a[b].npz", **arrays)
    with pytest.warns(DataWarning, match="not used of its file: camera"):
        info.main(["lr=0.1/a[b].npz", "out=lr=0.1/c=d.svg"])
    out = capsys.readouterr().out
    assert "a[b].npz" in out
    assert "66.7 %" in out
    assert (tmp_path / "lr=0.1/c=d.svg").exists()


def test_a_dataset_by_settings_by_id_and_by_folder(capsys: pytest.CaptureFixture[str], datasets: Path, tmp_path: Path) -> None:
    picture = tmp_path / "returns.png"
    settings = ["env=two_routes", "dataset.episodes=20"]
    info.main([*settings, "curation=threshold", "curation.minimum=0.5", f"out={picture}"])
    first = capsys.readouterr().out
    assert "iwbc/TwoRoutes-v0" in first
    assert "curation=threshold" in first
    assert picture.read_bytes().startswith(b"\x89PNG")
    folder = datasets / "iwbc" / "tworoutes" / "demonstrations-20-v1"
    for name in ("iwbc/tworoutes/demonstrations-20-v1", str(folder)):
        info.main([name])
        other = capsys.readouterr().out
        assert other.split("What each")[0] == first.split("What each")[0]


@pytest.mark.parametrize("chosen", [[], ["dataset=robomimic"]])
def test_a_named_dataset_is_read_with_settings(chosen: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "low=dim[1].hdf5", truths())
    keys = "dataset.observation_keys=[object]"
    info.main([str(path), *chosen, keys, "dataset.action_low=[-1,-2]", "dataset.action_high=3", "curation=all"])
    out = capsys.readouterr().out
    assert "vectors of 2, flattened from object" in out
    assert "-1 … 3, -2 … 3" in out


def test_a_minari_id_and_a_d4rl_file_are_read_with_settings(
    datasets: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    info.main(["env=two_routes", "dataset.episodes=20"])
    steps = {**seven_steps(), "actions": np.full((7, 2), 3.0)}
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        for name, array in steps.items():
            file[name] = array
    capsys.readouterr()
    for name in ("iwbc/tworoutes/demonstrations-20-v1", str(tmp_path / "demo.hdf5")):
        info.main([name, "dataset.action_low=-4", "dataset.action_high=5"])
        assert "-4 … 5" in capsys.readouterr().out


def test_groups_by_hand() -> None:
    data = make_trajectories([1.0, 0, 1, 1], [10, 20, 30, 40], successes=[True, False, True, True])
    members = np.array([[True, False, False], [True, False, False], [True, True, False], [False, False, False]])
    data = replace(data, info=replace(data.info, groups=["better", "fast [1]", "no one"], fps=20.0), groups=members)
    text = text_of(data)
    assert row(text, "better") == ["better", "3", "20", "10 to 30", "66.7 %", "0.7"]
    assert row(text, "fast [1]") == ["fast [1]", "1", "30", "30 to 30", "100.0 %", "1.0"]
    assert row(text, "no one")[:2] == ["no one", "0"]
    assert row(text, "in none") == ["in none", "1", "40", "40 to 40", "100.0 %", "1.0"]
    assert re.search(r"steps +100, 10 to 40 in a trajectory, median 25", text)
    assert re.search(r"time +5 s at 20 steps a second, 0\.5 s to 2 s in a trajectory", text)
    unlabelled = text_of(replace(data, successes=None, groups=members[:, :2], info=replace(data.info, groups=["a", "b"])))
    assert row(unlabelled, "a") == ["a", "3", "20", "10 to 30", "0.7"]


def test_long_lists_are_cut_with_a_count() -> None:
    data = make_trajectories([1.0, 2.0], observation_size=30, action_size=13)
    data = replace(data, info=replace(data.info, groups=[f"task {i}" for i in range(40)]), groups=np.ones((2, 40), bool))
    text = text_of(data)
    assert "task 11" in text and "task 12" not in text and "and 28 more groups" in text
    assert "observation 11" in text and "observation 12" not in text
    assert re.search("and 18 more", text) and re.search("and 1 more", text)
    still = text_of(replace(data, observations=np.zeros_like(data.observations)))
    assert "observation entries that are constant, 30 of 30: 0, 1, 2, 3, 4, 5, and 24 more" in still


def test_scales_and_entries_that_hardly_vary_by_hand() -> None:
    data = make_trajectories([1.0, 2.0], [1000, 1000], observation_size=4, action_size=1)
    observations = data.observations.copy()
    observations[:, 0] = np.arange(2000) % 2
    observations[:, 1] = 0.5
    observations[:, 2] = np.arange(2000) == 77
    observations[:, 3] = 5.0 + 0.001 * (np.arange(2000) % 2)
    text = text_of(replace(data, observations=observations, actions=np.full((2000, 1), 0.25, np.float32)))
    assert row(text, "observation 0") == ["observation 0", "0", "1", "0.5", "0.5"]
    assert row(text, "observation 1") == ["observation 1", "0.5", "0.5", "0.5", "0", "constant"]
    assert row(text, "observation 2")[-1] == "nearly constant"
    assert row(text, "observation 3")[-1] == "nearly constant"
    assert row(text, "action 0")[-1] == "constant"
    assert "observation entries that are constant, 1 of 4: 1" in text
    assert "observation entries that are nearly constant, 2 of 4: 2, 3" in text
    assert "action entries that are constant, 1 of 1: 0" in text


def test_without_a_success_its_curation_keeps_0(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "demo.npz")
    np.savez(path, **seven_steps(success=[0, 0, 0]))
    info.main([path])
    out = capsys.readouterr().out
    assert row(out, "success")[:3] == ["success", "0", "0"]
    assert row(out, "all")[:2] == ["all", "3"]
    with pytest.raises(UserError, match="none is labelled a success"):
        info.main([path, "curation=success"])


def test_copies_and_odd_lengths_are_to_be_looked_at() -> None:
    data = make_trajectories([1.0] * 7, [10, 1, 10, 51, 10, 10, 10])
    copied = {name: getattr(data, name).copy() for name in ("observations", "actions")}
    for values in copied.values():
        values[11:21] = values[:10]
        values[72:82] = values[:10]
    copied["actions"][-1] += 0.1  # the same observations alone are no copy
    copied["observations"][-10:] = copied["observations"][:10]
    text = " ".join(text_of(replace(data, **copied)).split())
    assert "trajectories with the observations and actions of an earlier one, 2 of 7: 2 (of 0), 4 (of 0)" in text
    assert "trajectories shorter than a fifth of the median of 10 steps, 1 of 7: 1" in text
    assert "trajectories longer than five times the median of 10 steps, 1 of 7: 3" in text
    assert "look at" not in text_of(make_trajectories([1.0, 2.0]))


def test_a_subset_is_looked_at_without_the_others() -> None:
    data = make_trajectories([1.0] * 6, [10] * 6)
    observations, actions, rewards = (getattr(data, name).copy() for name in ("observations", "actions", "rewards"))
    observations[:20, 0], observations[20:, 0] = np.arange(20), 7.0
    observations[50:60], actions[50:60] = observations[40:50], actions[40:50]
    rewards[:] = np.arange(60) % 10 == 9
    rewards[39] = 0.0
    whole = replace(data, observations=observations, actions=actions, rewards=rewards)
    text = " ".join(text_of(whole.subset(np.array([5, 2, 3, 4]))).split())
    assert "observation entries that are constant, 1 of 3: 0" in text
    assert "trajectories with the observations and actions of an earlier one, 1 of 4: 3 (of 0)" in text
    assert "trajectories that do not end in a reward, as all others do, 1 of 4: 2" in text
    assert "constant" not in text_of(whole.subset(np.array([0, 2])))


def test_ends_of_successes_and_failures() -> None:
    data = make_trajectories([1.0] * 4, successes=[True, True, False, False], terminated=[True, False, False, False])
    assert "25 % terminate (50 % of the successes, 0 % of the failures), the others are cut" in text_of(data)
    assert " ends          100 % terminate\n" in re.sub(" +\n", "\n", text_of(make_trajectories([1.0] * 4)))
    rewards = np.zeros(16, np.float32)
    rewards[[3, 7, 15]] = 1.0
    unlabelled = replace(data, successes=None, rewards=rewards)
    assert "trajectories that do not end in a reward, as all others do, 1 of 4: 2" in text_of(unlabelled)
    assert "do not end in a reward" not in text_of(make_trajectories([1.0, 0.0]))


def test_equal_returns_are_a_line() -> None:
    text = text_of(make_trajectories([1.0] * 5, successes=[True] * 5))
    assert "All returns are 1: what goes by them keeps all. curation.rank_by=length, curation=groups or" in text
    assert "quantile" not in text
    assert row(text, "top_fraction 10 %")[:2] == ["top_fraction 10 %", "all 5"]
    assert row(text, "all")[:2] == ["all", "5"]


def test_returns_that_differ_beyond_six_digits_are_not_equal() -> None:
    text = text_of(make_trajectories([1e6, 1e6 + 0.5, 1e6 + 0.25, 1e6], lengths=[1] * 4))
    assert "All returns" not in text and "quantile" in text
    assert row(text, "top_fraction 10 %")[:2] == ["top_fraction 10 %", "1"]


def test_returns_that_rounding_alone_tells_apart_are_equal() -> None:
    data = make_trajectories([0.0] * 3, lengths=[2] * 3)
    rewards = np.array([0.7, 0.0, 1e4 + 0.7, -1e4, 1e4, 0.7 - 1e4], np.float32)
    text = text_of(replace(data, rewards=rewards))
    assert "All returns are 0.7: what goes by them keeps all" in text and "quantile" not in text


def operators() -> Trajectories:
    """Demonstrations by three operators, as in robomimic's Multi-Human sets: all succeed, the worse slower; one is a copy."""
    lengths = np.array([40 + i // 4 for i in range(119)] + [400] + [90 + i // 2 for i in range(80)])
    lengths[7] = lengths[6]
    data = make_trajectories([0.0] * 200, lengths, successes=[True] * 200, observation_size=4, action_size=2)
    starts = data.offsets[:-1]
    phase = (np.arange(data.steps) - np.repeat(starts, lengths)) / np.repeat(lengths, lengths)
    operator = np.repeat(np.arange(200) // 80, lengths)
    moved = np.repeat(np.arange(200) % 23, lengths) / 23
    observations = np.stack([phase, phase * (1 - phase), moved, np.full(data.steps, 0.5)], 1)
    actions = np.stack([1 - 2 * phase, 0.4 * (operator - 1) * phase], 1)
    rewards = np.zeros(data.steps)
    rewards[data.offsets[1:] - 1] = 1.0
    rows = slice(starts[6], starts[6] + lengths[6]), slice(starts[7], starts[7] + lengths[7])
    for values in (observations, actions):
        values[rows[1]] = values[rows[0]]
    members = np.arange(200)[:, None] // 80 == np.arange(3)
    return replace(
        data,
        known_hash="8c2f5f0d1b6e4a97" * 4,
        info=replace(data.info, id="my/robot/pick-v0", groups=["better", "okay", "worse"], fps=20.0),
        observations=observations.astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=rewards.astype(np.float32),
        groups=members,
    )


def test_the_sample_of_the_guide_to_data() -> None:
    console = Console(width=88, record=True, markup=False)
    asked = {"curation=groups curation.keep=[better]": Groups(["better"])}
    info.show(operators(), info.usual_curations() | asked, console)
    (sample,) = re.findall(r"```text\n(my/robot/pick-v0.*?)```", GUIDE.read_text(), re.DOTALL)
    assert sample.splitlines() == [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("name", ["d/nope_folder", "./nope", "~/nope-at-all", "/nope/at/all", "d/nope.zarr"])
def test_a_path_at_which_nothing_is(name: str, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    for command in (lambda: info.main([name]), lambda: load(name)):
        with pytest.raises(UserError, match=r"not an id; ids look like .*; as a path: no such file or folder$"):
            command()
    for other in ("nope_folder", "e/nope_folder"):
        with pytest.raises(UserError, match=r"not an id; ids look like .*name-vN$"):
            load(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one dataset"),
        (["a-v0", "b-v0"], "give one dataset"),
        (["nowhere.npz"], "nowhere.npz: no such file"),
        (["a-v0", "out=a.txt"], "out=a.txt: give a file that ends in .png, .svg, .pdf"),
        (["env=hop"], "env=hop: In 'train': Could not find 'env/hop'"),
        (["."], "holds no Minari dataset"),
        (["a/b-v0", "dataset=medium"], "dataset=medium: chooses a dataset, beside a/b-v0; give one of them"),
        (["a/b-v0", "dataset.id=c/d-v0"], "dataset.id=c/d-v0: chooses a dataset, beside a/b-v0; give one of them"),
        (["a/b[1]", "dataset.clip_actions=true"], "dataset a/b[1]: not an id"),
        (["a.npz", "dataset.clip_actions=true"], "dataset.clip_actions=true: a file of arrays is looked at as it is"),
    ],
)
def test_refusals(arguments: list[str], message: str, datasets: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        info.main(arguments)
