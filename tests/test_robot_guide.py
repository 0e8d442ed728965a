"""docs/howto/robot.md: every command and line of Python there, on stand-ins of the formats under the names that it uses."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import formats
import numpy as np
import pytest
from formats import truths
from hub import running_hub
from setups import command, rarely, train

import iwbc

GUIDE = Path(__file__).parent.parent / "docs" / "howto" / "robot.md"
TINY = ("policy.hidden=[16,16]", "reference.steps=30", "algo.steps=30", "log_every=10", "eval.episodes=2", "threads=1")
EPISODES = truths()
SUCCESSES = [replace(episode, success=True) for episode in EPISODES]
# Values of the names that the lines of Python use, in the sizes of the stand-ins.
NAMES: dict[str, Any] = {
    **{"iwbc": iwbc, "objects": np.zeros(2), "position": np.zeros(3), "state": np.zeros(3)},
    "observation": np.zeros(5),
}


def write_arrays(path: Path) -> None:
    ends = np.concatenate([episode.last for episode in EPISODES])
    np.savez(
        path,
        observations=np.concatenate([episode.states[:-1] for episode in EPISODES]),
        actions=np.concatenate([episode.actions for episode in EPISODES]),
        rewards=np.concatenate([episode.rewards for episode in EPISODES]),
        terminations=ends,
        truncations=np.zeros_like(ends),
        successes=[episode.success for episode in EPISODES],
    )


def write_recording(folder: Path) -> None:
    """Write a folder without labels whose vectors are those of the robot alone."""
    info = formats.write_lerobot(folder, EPISODES, labels=()) / "meta" / "info.json"
    described = json.loads(info.read_text())
    del described["features"]["observation.environment_state"]
    info.write_text(json.dumps(described))


# By the heading and the number of its block.
WRITERS: dict[tuple[str, int], Callable[[Path], object]] = {
    ("robomimic", 0): lambda folder: formats.write_robomimic(folder / "low_dim_v15.hdf5", SUCCESSES),
    ("LeRobot", 0): lambda folder: write_recording(folder / "my_so101_folder"),
    ("LeRobot", 1): lambda folder: formats.write_lerobot(folder / "published", EPISODES),
    ("ManiSkill", 0): lambda folder: formats.write_maniskill(
        folder / "trajectory.state.pd_ee_delta_pose.physx_cpu.h5", EPISODES, nested=False
    ),
    ("OGBench", 0): lambda folder: formats.write_ogbench(folder / "cube-single-noisy-v0.npz", EPISODES),
    ("Zarr, as of Diffusion Policy", 0): lambda folder: formats.write_zarr(folder / "pusht_cchi_v7_replay.zarr", EPISODES),
    ("Arrays of your own", 0): lambda folder: write_arrays(folder / "demo.npz"),
}


def sections() -> dict[tuple[str, int], tuple[list[list[str]], str]]:
    """Read the commands, as lists of words, and the Python of each block, by its heading and its number under that."""
    blocks = {}
    for section in GUIDE.read_text().split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        for number, (shell, code) in enumerate(re.findall(r"```sh\n(.*?)```\n```python\n(.*?)```", section, re.DOTALL)):
            blocks[heading, number] = [shlex.split(line) for line in shell.replace("\\\n", "").splitlines()], code
    return blocks


def test_every_block_of_the_guide_has_its_data() -> None:
    assert set(sections()) == set(WRITERS)
    assert GUIDE.read_text().count("```sh") == GUIDE.read_text().count("```python") == len(WRITERS)


@pytest.mark.filterwarnings("ignore::iwbc.errors.DataWarning")
@pytest.mark.parametrize(("heading", "number"), [key if key[0] == "robomimic" else rarely(*key) for key in WRITERS])
def test_the_guide_does_what_it_says(
    heading: str, number: int, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if heading.startswith("Zarr") and importlib.util.find_spec("zarr") is None:
        pytest.skip("needs the extra zarr")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "cache"))
    for package in ("mani_skill", "ogbench", "robosuite"):  # whose environments the stand-ins do not fit
        monkeypatch.setitem(sys.modules, package, None)
    WRITERS[heading, number](tmp_path)
    rows = [f"{index},{index % 5}" for index in range(len(EPISODES))]
    (tmp_path / "scores.csv").write_text("\n".join(["trajectory,score", *rows, ""]))
    commands, code = sections()[heading, number]
    with running_hub(monkeypatch, tmp_path, "lerobot") as hub:
        published = tmp_path / "published"
        hub.files["pusht_keypoints"] = {
            path.relative_to(published).as_posix(): path.read_bytes() for path in published.rglob("*") if path.is_file()
        }
        for program, name, *words in commands:
            assert program == "iwbc"
            module = "iwbc.data.convert" if name == "convert" else f"iwbc.{name.replace('-', '_')}"
            outcome = train(*words, *TINY) if name == "train" else command(module, *words)
            assert outcome.code == 0, outcome.err
    written = next(word.removeprefix("out=") for word in commands[-1] if word.startswith("out="))
    assert (tmp_path / written).exists()
    names = NAMES | {"state": np.zeros(5)} if heading.startswith("Zarr") else dict(NAMES)
    exec(code, names)
    assert names["action"].shape == (2,)
