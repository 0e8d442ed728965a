"""`info`: a dataset's figures in the terminal and as a picture, whatever it is named by."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers import make_trajectories, seven_steps
from rich.console import Console

from iwbc import info
from iwbc.data.trajectories import Trajectories
from iwbc.errors import DataWarning, UserError


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one dataset"),
        (["a-v0", "b-v0"], "give one dataset"),
        (["nowhere.npz"], "nowhere.npz: no such file"),
        (["a-v0", "out=a.txt"], "out=a.txt: give a file that ends in .png, .svg, .pdf"),
        (["env=hop"], "env=hop: In 'train': Could not find 'env/hop'"),
        (["."], "holds no Minari dataset"),
    ],
)
def test_refusals(arguments: list[str], message: str, datasets: Path) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        info.main(arguments)
