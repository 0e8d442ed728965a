"""Runs on D4RL's datasets beside published scores: `+experiment=d4rl` on stand-ins of their names and layouts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
from hub import running_hub
from setups import train
from test_environment_spec import record
from test_report_folders import make_run

from iwbc.report.collect import collect
from iwbc.report.published import published_table
from iwbc.report.study import arrange
from iwbc.report.tables import Table
from iwbc.report.write import write_report
from iwbc.runs.read import finished_summary

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

TINY = (
    *("policy.hidden=[8]", "reference.steps=20", "algo.steps=8", "algo.warmup_steps=2", "eval.episodes=2", "threads=1"),
    "seeds=[0,1]",
)


def d4rl_file(folder: Path, name: str, env_id: str) -> Path:
    """A stand-in for one of D4RL's v2 files: its arrays, infos and metadata, of random actions."""
    env = gym.make(env_id)
    arrays: dict[str, list[Any]] = {key: [] for key in ("observations", "actions", "rewards", "next_observations")}
    arrays |= {key: [] for key in ("terminals", "timeouts", "infos/qpos", "infos/qvel", "infos/action_log_probs")}
    env.action_space.seed(0)
    for episode in range(30):
        observation, _ = env.reset(seed=episode)
        for step in range(20):
            action = env.action_space.sample()
            following, reward, terminated, _, _ = env.step(action)
            data = env.unwrapped.data  # type: ignore[attr-defined]
            row = (observation, action, reward, following, terminated, step == 19 and not terminated)
            for key, value in zip(arrays, (*row, data.qpos.copy(), data.qvel.copy(), -1.0), strict=True):
                arrays[key].append(value)
            observation = following
            if terminated:
                break
    with h5py.File(folder / name, "w") as file:
        for key, values in arrays.items():
            dtype = bool if key in ("terminals", "timeouts") else np.float32
            file.create_dataset(key, data=np.array(values, dtype), compression="gzip")
        file["metadata/algorithm"] = np.bytes_("SAC")
        file["metadata/policy/fc0/weight"] = np.zeros((256, 11), np.float32)
    return folder / name


def table_of(folder: Path) -> Table:
    table = published_table(arrange(collect([folder])[0]))
    assert table is not None
    return table


def cells(table: Table, row: int = 0) -> dict[str, str]:
    return {name: cell.text for name, cell in zip(table.columns, table.rows[row], strict=True)}


# --- which dataset is which ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "dataset", "corl", "score"),
    [
        ("d4rl", "hopper_medium_replay-v2.hdf5", "hopper-medium-replay-v2", "29.8 ± 2.1"),
        ("d4rl", "walker2d_medium_expert-v2.hdf5", "walker2d-medium-expert-v2", "99.0 ± 16.0"),
        ("minari", "mujoco/halfcheetah/medium-v0", "halfcheetah-medium-v2", "42.4 ± 0.2"),
        ("minari", "D4RL/pen/human-v2", "pen-human-v1", "71.0 ± 6.3"),
        ("minari", "d4rl/hopper/medium-v2", "hopper-medium-v2", "53.5 ± 1.8"),
    ],
)
def test_a_dataset_stands_beside_d4rl_s_of_its_name(source: str, dataset: str, corl: str, score: str, tmp_path: Path) -> None:
    named(make_run(tmp_path / "run", "BC", dataset, returns={0: [10.0], 1: [30.0]}), source)
    row = cells(table := table_of(tmp_path))
    assert (row["dataset"], row["BC"], row["CORL on"], row["CORL: BC"]) == (dataset, "20.0 ± 14.1", corl, score)
    assert [name for name in table.columns if "CORL:" in name] == [
        f"CORL: {method}" for method in ("BC", "10 % BC", "TD3+BC", "AWAC", "IQL", "ReBRAC")
    ]
    assert any("not D4RL's own data" in note for note in table.notes) == (source == "minari")
    assert "Played in Hopper-v5; the published scores are of D4RL's older environments." in " ".join(table.notes)


@pytest.mark.parametrize(
    ("source", "dataset"),
    [
        ("generated", "iwbc/hopper/medium-v2"),
        ("minari", "iwbc/hopper/medium-v2"),
        ("minari", "mujoco/hopper/simple-v0"),
        ("d4rl", "demo.hdf5"),
        ("robomimic", "hopper_medium-v2.hdf5"),
    ],
)
def test_other_datasets_stand_beside_nothing(source: str, dataset: str, tmp_path: Path) -> None:
    named(make_run(tmp_path / "run", "BC", dataset), source)
    assert published_table(arrange(collect([tmp_path])[0])) is None


def named(run: Path, source: str) -> None:
    """Let a run's settings say where its dataset comes from."""
    path = run / "config.yaml"
    path.write_text(f"{path.read_text()}dataset: {{source: {source}}}\n")


def test_the_report_has_the_table(tmp_path: Path) -> None:
    from rich.console import Console

    named(make_run(tmp_path / "runs" / "a", "BC", "hopper_medium-v2.hdf5"), "d4rl")
    named(make_run(tmp_path / "runs" / "b", "iw-BC(Q)", "hopper_medium-v2.hdf5"), "d4rl")
    write_report([tmp_path / "runs"], tmp_path / "report", Console(quiet=True))
    markdown = (tmp_path / "report" / "tables.md").read_text()
    assert "| hopper_medium-v2.hdf5 | 15.0 | 15.0 | hopper-medium-v2 | 53.5 ± 1.8 | 55.5 ± 7.3 |" in markdown
    assert 'id="published"' in (tmp_path / "report" / "index.html").read_text()


# --- the experiments -------------------------------------------------------------------------------------------------


@pytest.mark.robustness
def test_d4rl_s_files_end_in_a_table_beside_published_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    names = ("hopper_medium_replay-v2.hdf5", "walker2d_medium-v2.hdf5")
    for name, env_id in zip(names, ("Hopper-v5", "Walker2d-v5"), strict=True):
        d4rl_file(tmp_path, name, env_id)
    outcome = train("+experiment=d4rl_files", f"dataset.path={','.join(names)}", "+method=bc_all,filtered_bc_top10", *TINY)
    assert outcome.code == 0, outcome.err
    table = table_of(tmp_path / "multirun" / "d4rl")
    assert [row[0].text for row in table.rows] == list(names)
    printed = outcome.out[outcome.out.index("Beside published scores") :]
    for row in range(2):
        (line,) = [line for line in printed.splitlines() if names[row] in line]
        assert [part.strip() for part in line.strip("│ ").split("│")] == list(cells(table, row).values())
    assert "Played in Hopper-v5, Walker2d-v5 (gymnasium " in printed
    assert "Minari's, not D4RL's" not in printed


def test_minari_s_datasets_are_downloaded_and_end_in_the_table(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    ids = ("mujoco/hopper/medium-v0", "D4RL/pen/human-v2")
    record(gym.make("Hopper-v5", max_episode_steps=30), ids[0], 4)
    record(pen(), ids[1], 4)
    with running_hub(monkeypatch, tmp_path / "hub") as hub:
        for dataset_id in ids:
            hub.publish(datasets, dataset_id)
        for path in datasets.iterdir():
            shutil.rmtree(path)
        outcome = train("+experiment=d4rl", f"dataset.id={','.join(ids)}", "+method=bc_all", *TINY)
        assert outcome.code == 0, outcome.err
        assert any(path.startswith("hopper/medium-v0/data/") for path in hub.sent)
    table = table_of(tmp_path / "multirun" / "d4rl")
    pen_row, hopper_row = (cells(table, row) for row in range(2))
    assert (pen_row["CORL on"], hopper_row["CORL on"]) == ("pen-human-v1", "hopper-medium-v2")
    assert "±" in hopper_row["BC"]
    assert pen_row["BC"] == "–"  # whose stand-in has no reference returns: a success rate is no score
    assert "Minari's, not D4RL's own data, and so no figures to be reached: " in outcome.out
    played = [finished_summary(path.parent).environment for path in tmp_path.glob("multirun/d4rl/*/summary.json")]
    assert {spec.id for spec in played if spec is not None} == {"Hopper-v5", "AdroitHandPen-v1"}


def pen() -> gym.Env[Any, Any]:
    robotics = pytest.importorskip("gymnasium_robotics")
    gym.register_envs(robotics)
    return gym.make("AdroitHandPen-v1", max_episode_steps=20)


@pytest.mark.robustness
def test_without_a_network_each_dataset_is_a_line(datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train("+experiment=d4rl", "+method=bc_all")
    assert outcome.code == 1
    lines = [line for line in outcome.err.splitlines() if "HF_HUB_OFFLINE is set" in line]
    assert len(lines) == 18
    assert "18 of 18 jobs did not finish" in outcome.out


def test_a_file_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train("+experiment=d4rl_files", "+method=bc_all")
    assert outcome.code == 1
    assert "dataset.path: must be given" in outcome.err
