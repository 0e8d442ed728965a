from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import setups
from helpers import everything, seven_steps
from setups import PATIENCE, finish, python

import iwbc
from iwbc.data import d4rl_source
from iwbc.data.array_files import open_steps
from iwbc.data.arrays import from_arrays
from iwbc.data.convert import convert
from iwbc.data.convert import main as convert_main
from iwbc.data.minari_source import load
from iwbc.errors import DataWarning, UserError

D4RL_NAMES = {"terminations": "terminals", "truncations": "timeouts"}


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def write_hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip")
    return path


WRITERS = {"npz": write_npz, "hdf5": write_hdf5}


def hopper_steps(**changes: Any) -> dict[str, Any]:
    """In D4RL's layout and with its names."""
    rng = np.random.default_rng(1)
    steps = seven_steps(observations=rng.normal(size=(7, 11)), actions=rng.uniform(-1, 1, size=(7, 3)).astype(np.float32))
    return {D4RL_NAMES.get(name, name): array for name, array in (steps | changes).items()}


# --- D4RL's files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unfinished", ["keep", "drop"])
def test_a_d4rl_file_is_cut_at_terminals_and_timeouts(unfinished: str, tmp_path: Path) -> None:
    arrays = hopper_steps()
    following = np.random.default_rng(2).normal(size=(7, 11))
    path = write_hdf5(tmp_path / "hopper_medium_replay-v2.hdf5", **arrays, next_observations=following)
    trajectories = d4rl_source.load(path, unfinished)
    kept = 3 if unfinished == "keep" else 2
    assert trajectories.lengths.tolist() == [3, 2, 2][:kept]
    assert trajectories.terminated.tolist() == [True, False, False][:kept]
    steps = trajectories.steps
    np.testing.assert_array_equal(trajectories.observations, arrays["observations"][:steps].astype(np.float32))
    np.testing.assert_array_equal(trajectories.final_observations, following[[2, 4, 6][:kept]].astype(np.float32))
    info = trajectories.info
    assert info.env_id == "Hopper-v5"
    assert info.reference_scores is not None
    assert info.reference_scores.source == "D4RL"
    np.testing.assert_allclose(info.reference_scores.normalise([-20.272305, 3234.3]), [0.0, 100.0])


def test_without_next_observations_the_last_one_is_repeated(tmp_path: Path) -> None:
    arrays = hopper_steps()
    trajectories = d4rl_source.load(write_hdf5(tmp_path / "hopper_medium-v2.hdf5", **arrays))
    np.testing.assert_array_equal(trajectories.final_observations, arrays["observations"][[2, 4, 6]].astype(np.float32))
    assert trajectories.returns.tolist() == [3.0, 7.0, 11.0]


@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_either_of_two_infos_makes_a_success(suffix: str, tmp_path: Path) -> None:
    both = {"infos/success": np.array([0, 0, 1, 0, 0, 0, 0]), "infos/is_success": np.array([0, 0, 0, 0, 0, 1.0, 0])}
    path = WRITERS[suffix](tmp_path / f"hopper_medium-v2.{suffix}", **hopper_steps(), **both)
    with open_steps(path) as steps:
        assert steps.successes.tolist() == [False, False, True, False, False, True, False]
    for wrong, says in ((np.full(7, np.nan), "infos/is_success: must be true or false"), (np.ones(3), "have 7 and 3 labels")):
        path = WRITERS[suffix](tmp_path / f"wrong.{suffix}", **hopper_steps(), **(both | {"infos/is_success": wrong}))
        with pytest.raises(UserError, match=says), open_steps(path):
            pass


@pytest.mark.parametrize("key", ["infos/success", "infos/is_success"])
def test_infos_label_success(key: str, tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", **hopper_steps(), **{key: [0, 1, 0, 0, 0, 0, 1]})
    successes = d4rl_source.load(path).successes
    assert successes is not None
    assert successes.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("name", "env_id"),
    [
        ("hopper_medium-v2.hdf5", "Hopper-v5"),
        ("halfcheetah-medium_expert-v2.hdf5", "HalfCheetah-v5"),
        ("walker2d_full_replay-v2.hdf5", "Walker2d-v5"),
        ("ant_random-v2.hdf5", None),
        ("Ant_maze_u-maze_noisy_multistart_False.hdf5", None),
        ("antmaze_medium.hdf5", None),
        ("my_hopper_medium.hdf5", None),
    ],
)
def test_the_environment_is_guessed_from_the_name(name: str, env_id: str | None) -> None:
    assert d4rl_source.guess_env_id(Path("/some/folder") / name) == env_id


def test_an_ant_of_d4rl_is_read_by_its_name_alone(tmp_path: Path) -> None:
    """D4RL's has 111 observations, Ant-v5 105."""
    steps = hopper_steps(observations=np.zeros((7, 111)), actions=np.zeros((7, 8)))
    data = iwbc.load(write_hdf5(tmp_path / "ant_medium-v2.hdf5", **steps))
    assert data.info.env_id is None and data.observations.shape == (7, 111)


def test_the_environment_can_be_named_or_left_out(tmp_path: Path) -> None:
    path = write_hdf5(
        tmp_path / "hopper_medium-v2.hdf5", **hopper_steps(observations=np.zeros((7, 17)), actions=np.zeros((7, 6)))
    )
    with pytest.raises(
        UserError,
        match=r"dataset hopper_medium-v2\.hdf5, observations: have 17 .* Hopper-v5's have 11; .*env_id=none .*dataset\.env_id=",
    ):
        d4rl_source.load(path)
    assert d4rl_source.load(path, env_id="Walker2d-v5").info.env_id == "Walker2d-v5"
    assert d4rl_source.load(path, env_id="none").info.env_id is None


def test_a_file_is_packed_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", **hopper_steps())
    first = d4rl_source.load(path).content_hash
    assert (tmp_path / "hopper_medium-v2.hdf5.packed" / "packed.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(d4rl_source, "episodes", lambda *_: pytest.fail("it was read again"))
        assert d4rl_source.load(path).content_hash == first
    write_hdf5(path, **hopper_steps(rewards=np.ones(7)))
    assert d4rl_source.load(path).content_hash != first


def test_the_cache_goes_elsewhere_where_the_folder_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    path = write_hdf5(tmp_path / "data" / "hopper_medium-v2.hdf5", **hopper_steps())
    monkeypatch.setenv("IWBC_CACHE", str(tmp_path / "cache"))
    # The tests may run as root, whom no mode keeps out.
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder) != path.parent)
    expected = d4rl_source.load(path).content_hash
    assert everything(path.parent) == ["hopper_medium-v2.hdf5"]
    assert list((tmp_path / "cache").rglob("packed.json"))
    assert d4rl_source.load(path).content_hash == expected


def test_a_file_is_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", **hopper_steps())
    longest = 0
    read = h5py.Dataset.__getitem__

    def watch(self: h5py.Dataset, rows: Any, *more: Any) -> Any:
        nonlocal longest
        array = read(self, rows, *more)
        if self.name == "/observations":
            longest = max(longest, len(array))
        return array

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watch)
    d4rl_source.load(path)
    assert longest == 3


# --- conversion ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_a_users_file_becomes_a_minari_dataset(kind: str, datasets: Path, tmp_path: Path) -> None:
    arrays = seven_steps(next_observations=np.ones((7, 4)), successes=np.array([1, 0, 1], bool))
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **arrays)
    made = convert(path, "my/robot/pick-v0")
    assert made.content_hash == from_arrays(**arrays).content_hash
    assert load("my/robot/pick-v0").content_hash == made.content_hash
    assert minari.load_dataset("my/robot/pick-v0").total_episodes == 3


def test_a_d4rl_file_becomes_a_minari_dataset(datasets: Path, tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", **hopper_steps())
    made = convert(path, "d4rl/hopper/medium-v2")
    assert made.content_hash == d4rl_source.load(path).content_hash
    assert made.info.env_id == "Hopper-v5"
    dataset = minari.load_dataset("d4rl/hopper/medium-v2")
    env = dataset.recover_environment(eval_env=True)
    assert env.spec is not None
    assert env.spec.id == "Hopper-v5"
    assert dataset.storage.metadata["ref_max_score"] == 3234.3


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m iwbc.data.convert`, within this process."""
    outcome = setups.command("iwbc.data.convert", *arguments)
    return subprocess.CompletedProcess(arguments, outcome.code, outcome.out, outcome.err)


def test_the_command(datasets: Path, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "demo.npz", **seven_steps(actions=np.full((7, 2), 1.5)))
    arguments = [str(path), "id=my/robot/pick-v0", "action_low=-2", "action_high=2,3", "unfinished=drop"]
    result = finish(python("-m", "iwbc.data.convert", *arguments, cwd=tmp_path))
    assert result.code == 0, result.err
    assert "my/robot/pick-v0: 2 episodes, 5 steps" in result.out
    assert load("my/robot/pick-v0").info.action_high == [2.0, 3.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "need one file to convert, not 0"),
        (["id=my/pick-v0"], "need one file to convert, not 0"),
        (["{demo}"], "id=… is missing"),
        (["{demo}", "{demo}", "id=my/pick-v0"], "need one file to convert, not 2"),
        (["{demo}", "id=my/pick-v0", "ids=3"], "ids=3: not an option; the options are id=…"),
        (["{demo}", "id=my/pick-v0", "unfinished=maybe"], "unfinished=maybe: must be one of keep, drop"),
        (["{demo}", "id=my/pick-v0", "clip_actions=False"], "clip_actions=False: must be one of true, false"),
        (["{demo}", "id=my/pick-v0", "action_low=low"], "action_low=low: must be a number"),
        (["{demo}", "id=my/pick-v0", "id=my/pick-v1"], "id=my/pick-v1: id is given twice"),
        (["{demo}", "id=pick"], "dataset pick: not an id"),
        (["missing.npz", "id=my/pick-v0"], "missing.npz: no such file"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], message: str, datasets: Path, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "demo.npz", **seven_steps())
    result = command(*(argument.format(demo=path) for argument in arguments))
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert everything(datasets) == []


def test_help_names_every_option() -> None:
    result = command("--help")
    assert result.returncode == 0
    for word in ("observations", "next_observations", "successes", "action_low", "clip_actions", "unfinished"):
        assert word in result.stdout


# --- names, and what is not used -------------------------------------------------------------------------------------


def without(*names: str, **more: Any) -> dict[str, Any]:
    return {name: array for name, array in seven_steps().items() if name not in names} | more


def notes_of(path: Path, **options: Any) -> tuple[Any, list[str]]:
    """The dataset that a file becomes, and the warnings on the way."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DataWarning)
        made = convert(path, "my/pick-v0", **options)
    return made, [str(warning.message) for warning in said if warning.category is DataWarning]


ENDS = seven_steps()["terminations"] | seven_steps()["truncations"]
OTHER_NAMES: dict[str, dict[str, str]] = {
    "gym": {"observations": "obs", "next_observations": "next_obs", "terminations": "terminated", "truncations": "truncated"},
    "one of each": {"observations": "observation", "actions": "action", "rewards": "reward", "terminations": "terminal"},
    "short": {"actions": "acts", "truncations": "timeout", "successes": "success"},
    "labels": {"successes": "is_success"},
    "labels in infos": {"successes": "infos/success"},
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("names", OTHER_NAMES)
def test_usual_names_are_known(names: str, kind: str, datasets: Path, tmp_path: Path) -> None:
    arrays = seven_steps(next_observations=np.ones((7, 4)), successes=np.array([1, 0, 1], bool))
    renamed = {OTHER_NAMES[names].get(field, field): array for field, array in arrays.items()}
    made, said = notes_of(WRITERS[kind](tmp_path / f"demo.{kind}", **renamed))
    assert made.content_hash == from_arrays(**arrays).content_hash
    assert said == []


@pytest.mark.parametrize("kind", WRITERS)
def test_any_name_can_be_given(kind: str, datasets: Path, tmp_path: Path) -> None:
    arrays = seven_steps(next_observations=np.ones((7, 4)), successes=np.array([1, 0, 1], bool))
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **{f"run 1/{field[::-1]}": array for field, array in arrays.items()})
    made, said = notes_of(path, names={field: f"run 1/{field[::-1]}" for field in arrays})
    assert made.content_hash == from_arrays(**arrays).content_hash
    assert said == []


def test_a_name_that_is_given_comes_before_the_usual_ones(datasets: Path, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "demo.npz", **seven_steps(), obs=np.zeros((7, 4)), dones=ENDS)
    made, said = notes_of(path, names={"observations": "obs"})
    assert not made.observations.any()
    assert said == ["dataset my/pick-v0: not used of its file: dones, observations"]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("arrays", "terminated"),
    [
        (without("terminations", "truncations", dones=ENDS), [True, True, False]),
        (without("terminations", done=ENDS), [True, False, False]),
        (without("truncations", done=ENDS), [True, False, False]),
    ],
)
def test_dones_stand_where_an_end_is_missing(
    arrays: dict[str, Any], terminated: list[bool], kind: str, datasets: Path, tmp_path: Path
) -> None:
    made, said = notes_of(WRITERS[kind](tmp_path / f"demo.{kind}", **arrays))
    assert made.lengths.tolist() == [3, 2, 2]
    assert made.terminated.tolist() == terminated
    assert said == []


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("arrays", "names", "message"),
    [
        (without("truncations"), {}, "has no truncations or timeouts.* truncations=NAME .none: there are none., or dones=NAME"),
        (without("rewards"), {}, "has no rewards .* or rewards=none where there are none"),
        (without("actions", data=np.zeros(7)), {}, "has no actions or .* actions=NAME.*; the file holds data, observations"),
        (without(), {"observations": "states"}, r"has no states \(observations=states\); the file holds actions, obs"),
        (without(), {"actions": "none"}, "has no actions"),
        (without(success=np.full(7, 0.3)), {}, "successes: must be true or false .* holds 0.3; .* successes=none"),
        (without(success=[1, 0]), {}, "successes: there are 2, for 7 steps in 3 episodes; .*successes=none"),
    ],
)
def test_a_missing_field_is_named_with_a_remedy(
    arrays: dict[str, Any], names: dict[str, str], message: str, kind: str, datasets: Path, tmp_path: Path
) -> None:
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        convert(path, "my/pick-v0", names=names)
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []


def test_fields_can_be_left_out(datasets: Path, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "demo.npz", **without("truncations", "rewards", success=np.full(7, 0.3)))
    made, said = notes_of(path, names={"truncations": "none", "rewards": "none", "successes": "none"})
    assert made.lengths.tolist() == [3, 4]
    assert made.successes is None
    assert len(said) == 2
    assert said[0] == "dataset my/pick-v0: not used of its file: success; should it be successes=success, as convert takes it?"
    assert "has neither rewards nor success labels" in said[1]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_without_rewards_but_with_successes_is_converted(kind: str, datasets: Path, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **without("rewards", successes=[1, 0, 1]))
    made, said = notes_of(path)
    assert made.returns.tolist() == [1, 0, 1]
    assert said == ["dataset my/pick-v0: has no rewards: 1 at the end of each success stands for them, and returns are 1 or 0"]
    with pytest.warns(DataWarning, match="has no rewards"):
        load("my/pick-v0")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"camera": np.zeros((7, 2))}, "not used of its file: camera"),
        ({"success_rate": np.zeros(7)}, "success_rate; should it be successes=success_rate, as convert takes it?"),
        ({"Success": np.zeros(7), "b": np.zeros(1)}, "Success, b; should it be successes=Success, as convert takes it?"),
        ({"task_success": np.zeros(7)}, "task_success; should it be successes=task_success,"),
        ({"nextobs": np.zeros((7, 4))}, "nextobs; should it be next_observations=nextobs,"),
        ({"labels/success": np.zeros(7)}, "labels/success; should it be successes=labels/success,"),
        ({f"x{i:02}": np.zeros(7) for i in range(20)}, "x10, x11, and 8 more"),
        ({"infos/qpos": np.zeros(7), "metadata/algorithm": np.zeros(3)}, None),
    ],
)
def test_unused_arrays_are_named(more: dict[str, Any], words: str | None, kind: str, datasets: Path, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **seven_steps(), **more)
    _, said = notes_of(path)
    with warnings.catch_warnings(record=True) as loaded:
        warnings.simplefilter("always", DataWarning)
        for _ in range(2):  # by the cache, too
            d4rl_source.load(path)
    if words is None:
        assert said == [] == loaded
    else:
        assert len(said) == 1 and words in said[0] and said[0].startswith("dataset my/pick-v0: not used of its file: ")
        assert [str(warning.message).replace(path.name, "my/pick-v0") for warning in loaded] == said * 2


def test_the_command_takes_names_and_paths_with_equals_signs(
    datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = without("terminations", "truncations", end=ENDS)
    for name in ("lr=0.1/demo.npz", "a=b.npz", "x=1,y=[2]/{z} w.npz", "./id=3/demo.npz", "plain/a=1", "rewards.npz"):
        Path(name).parent.mkdir(exist_ok=True)
        with Path(name).open("wb") as file:
            np.savez(file, **arrays)
        convert_main([name, "id=my/pick-v0", "dones=end", "action_low=[-1,-2]", "rewards=rewards"])
        assert "my/pick-v0: 3 episodes" in capsys.readouterr().out
        shutil.rmtree(datasets / "my")
    for argument, message in {
        "ids=3": "ids=3: not an option",
        "lr=1/missing.npz": "lr=1/missing.npz: no such file",
        "rewards=": "rewards=: give the array's name in the file, or none",
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            convert_main([*(["a=b.npz"] if "missing" not in argument else []), argument, "id=my/pick-v0", "dones=end"])
    assert everything(datasets) == []


# --- the kind of a file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [("npz", "demo.h5"), ("hdf5", "demo.npz"), ("npz", "demo"), ("hdf5", "demo.dat")])
def test_a_file_is_read_by_what_it_holds(kind: str, name: str, datasets: Path, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / f"right.{kind}", **seven_steps()).rename(tmp_path / name)
    assert convert(path, "my/pick-v0").content_hash == from_arrays(**seven_steps()).content_hash


@pytest.mark.parametrize("name", ["demo.npz", "demo.h5", "demo.pkl", "demo.csv", "demo", "folder", "missing.npz"])
@pytest.mark.parametrize("content", [b"\x80\x04K\x01.", b"a,b\n1,2\n", b"\x89HDF\r\n\x1a\n", b""])
def test_other_files_are_one_line(name: str, content: bytes, datasets: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    if name not in ("folder", "missing.npz"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: (is not a whole|is a folder|no such file)") as caught:
        convert(tmp_path / name, "my/pick-v0")
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []


# --- bounds of actions -----------------------------------------------------------------------------------------------


def test_a_d4rl_file_is_loaded_within_bounds_each_with_its_own_cache(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "demo.hdf5", **seven_steps(actions=np.linspace(-5.1, 3, 14).reshape(7, 2)))
    with pytest.raises(UserError, match=r"action_low=\[-5.1,-4.48\] action_high=\[2.38,3\] \(in training dataset.action_low"):
        iwbc.load(path)
    for low, high in (([-5.1, -4.48], [2.38, 3]), (-6, 6.0), (-6, 7.0)):
        info = iwbc.load(path, action_low=low, action_high=high).info
        assert (info.action_low, info.action_high) == (np.broadcast_to(low, 2).tolist(), np.broadcast_to(high, 2).tolist())
    clipped = iwbc.load(path, action_low=-1, action_high=1, clip_actions=True)
    assert abs(clipped.actions).max() == 1
    with pytest.raises(UserError, match=r"dataset.action_low=a: must be a number, or a list"):
        iwbc.load(path, action_low="a")


@pytest.mark.parametrize(("low", "high"), [(-5.0, 5.0), (-1.5, 1.75), (-2.0, 8.0)])
def test_bounds_are_kept_beside_an_environment_in_conversion(low: float, high: float, datasets: Path, tmp_path: Path) -> None:
    swing = seven_steps(observations=np.zeros((7, 3)), actions=np.full((7, 1), 1.25))
    path = write_hdf5(tmp_path / "demo.hdf5", **swing)
    convert_main([str(path), "id=my/swing-v0", "env_id=Pendulum-v1", f"action_low={low}", f"action_high={high}"])
    info = load("my/swing-v0").info
    assert (info.action_low, info.action_high, info.env_id) == ([low], [high], "Pendulum-v1")
    with pytest.raises(UserError, match="7 of 7 lie outside the action space of Pendulum-v1"):
        convert_main([str(path), "id=my/other-v0", "env_id=Pendulum-v1", "action_high=0.5"])
    assert not (datasets / "my/other-v0").exists()


def test_an_environment_in_a_namespace_has_its_cache_beside_the_file(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "demo.hdf5", **seven_steps())
    d4rl_source.load(path, env_id="iwbc/TwoRoutes-v0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.hdf5", "demo.hdf5.packed-iwbc_TwoRoutes-v0"]


# --- files that are not as they should be ----------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def garble(path: Path) -> None:
    path.write_bytes(b"no data at all" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, garble, empty])
@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_are_refused(kind: str, damage: Callable[[Path], None], datasets: Path, tmp_path: Path) -> None:
    arrays = seven_steps(observations=np.random.default_rng(3).normal(size=(7, 4000)))
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **arrays)
    damage(path)
    with pytest.raises(UserError, match=rf"demo\.{kind}: is not a whole") as caught:
        convert(path, "my/pick-v0")
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []


# The second needs little memory itself; to look for its chunks would take gigabytes.
@pytest.mark.parametrize(("width", "chunk"), [(2**30, 100), (2**20, 1)])
def test_a_shape_that_is_larger_than_the_file_can_hold_is_refused(
    width: int, chunk: int, datasets: Path, tmp_path: Path
) -> None:
    arrays = seven_steps()
    del arrays["observations"]
    path = write_hdf5(tmp_path / "demo.hdf5", **arrays)
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", (7, width), "f4", chunks=(7, chunk))
    with pytest.raises(UserError, match=r"demo\.hdf5, observations: cannot be read \(its shape .* is larger than") as caught:
        convert(path, "my/pick-v0")
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []


def test_arrays_that_were_never_written_are_zeros(datasets: Path, tmp_path: Path) -> None:
    arrays = seven_steps()
    del arrays["rewards"]
    path = write_hdf5(tmp_path / "demo.hdf5", **arrays)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (7,), "f4")
    assert convert(path, "my/pick-v0").rewards.tolist() == [0.0] * 7


@pytest.mark.parametrize("kind", WRITERS)
def test_flipped_bytes_are_found(kind: str, datasets: Path, tmp_path: Path) -> None:
    arrays = seven_steps(observations=np.random.default_rng(3).normal(size=(7, 4000)))
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **arrays)
    contents = bytearray(path.read_bytes())
    middle = len(contents) // 2
    contents[middle : middle + 100] = bytes(100)
    path.write_bytes(contents)
    with pytest.raises(UserError, match=r"cannot be read") as caught:
        convert(path, "my/pick-v0")
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminations", "truncations"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_array_is_named(kind: str, name: str, tmp_path: Path) -> None:
    arrays = seven_steps()
    del arrays[name]
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **arrays)
    with pytest.raises(UserError, match=rf"demo\.{kind}: has no {name}.*; the file holds .*") as caught, open_steps(path):
        pass
    assert "\n" not in str(caught.value)


def test_a_group_is_not_an_array(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        file["observations/camera"] = np.zeros((7, 4))
    with pytest.raises(UserError, match=r"demo\.hdf5, observations: must be an array"), open_steps(tmp_path / "demo.hdf5"):
        pass


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_the_trap_works(tmp_path: Path) -> None:
    np.savez(tmp_path / "demo.npz", rewards=np.array([Trap(tmp_path / "sprung")], dtype=object))
    np.load(tmp_path / "demo.npz", allow_pickle=True)["rewards"]
    assert (tmp_path / "sprung").exists()


def test_nothing_is_unpickled(datasets: Path, tmp_path: Path) -> None:
    objects = np.array([Trap(tmp_path / "sprung")] * 7, dtype=object)
    path = write_npz(tmp_path / "demo.npz", **seven_steps(rewards=objects))
    with pytest.raises(UserError, match=r"demo\.npz, rewards: cannot be read \(Object arrays cannot be loaded") as caught:
        convert(path, "my/pick-v0")
    assert "\n" not in str(caught.value)

    buffer = io.BytesIO()
    np.save(buffer, objects)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="is not a whole npz file"):
        convert(path, "my/pick-v0")
    assert not (tmp_path / "sprung").exists()
    assert everything(datasets) == []


def test_a_single_array_is_not_enough(tmp_path: Path) -> None:
    with (tmp_path / "demo.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="holds one array without a name"), open_steps(tmp_path / "demo.npz"):
        pass


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "demo.npz", **{k: v for k, v in seven_steps().items() if k != "rewards"})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("rewards", b"1, 2, 3")
    with pytest.raises(UserError, match=r"demo\.npz, rewards: must be an array"), open_steps(path):
        pass


def test_text_in_hdf5_is_refused(datasets: Path, tmp_path: Path) -> None:
    path = tmp_path / "demo.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in seven_steps(rewards=["high"] * 7).items():
            file[name] = array
    with pytest.raises(UserError, match=r"dataset my/pick-v0, rewards: must be numbers, not object"):
        convert(path, "my/pick-v0")
    assert everything(datasets) == []


@pytest.mark.parametrize("kind", WRITERS)
def test_checks_name_dataset_episode_and_field(kind: str, datasets: Path, tmp_path: Path) -> None:
    rewards = np.zeros(7)
    rewards[4] = np.nan
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **seven_steps(rewards=rewards))
    with pytest.raises(UserError, match=r"^dataset my/pick-v0, episode 1, rewards: holds NaN or infinity, first at step 1$"):
        convert(path, "my/pick-v0")
    assert everything(datasets) == []


def test_names_in_hdf5_may_be_anything(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "bad.hdf5", observations=np.zeros((3, 2)))
    with h5py.File(path, "a") as file:
        file.create_group(b"\xff")
    with pytest.raises(UserError, match=r"has no actions.*; the file holds b'\\xff', observations$"):
        convert(path, "my/pick-v0")


def test_an_npz_of_an_unknown_zip_version_is_one_line(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "bad.npz", **seven_steps())
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 110
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.npz: is not a whole npz file \(zip file version 11\.0\)"):
        convert(path, "my/pick-v0")


@pytest.mark.parametrize("method", ["visititems", "__contains__"])
def test_an_error_of_h5py_in_a_damaged_group_is_one_line(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("Unable to synchronously open object")

    path = write_hdf5(tmp_path / "bad.hdf5", **seven_steps())
    monkeypatch.setattr(h5py.Group, method, fail)
    with pytest.raises(UserError, match=r"bad\.hdf5: is damaged \('Unable to synchronously open object'\)"):
        convert(path, "my/pick-v0")


def test_an_array_in_hdf5_of_an_impossible_type_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(array: object) -> None:
        raise ValueError("Insufficient precision in available types")

    path = write_hdf5(tmp_path / "bad.hdf5", **seven_steps())
    monkeypatch.setattr(h5py.Dataset, "dtype", property(fail))
    with pytest.raises(UserError, match=r"bad\.hdf5, observations: cannot be read \(Insufficient precision"):
        convert(path, "my/pick-v0")


def test_a_full_disk_leaves_no_cache(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", **hopper_steps(rewards=np.ones(7)))
    program = f"""if True:
        import resource
        from iwbc.data import d4rl_source
        from iwbc.errors import UserError
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))  # bytes per file
        try:
            d4rl_source.load({str(path)!r})
        except UserError as error:
            print(error)
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert result.stdout.startswith("dataset hopper_medium-v2.hdf5: its packed cache could not be written to")
    assert result.stdout.endswith("(File too large)\n")
    assert result.stderr == ""
    assert everything(tmp_path) == ["hopper_medium-v2.hdf5"]
    assert d4rl_source.load(path).steps == 7


@pytest.mark.parametrize("kind", WRITERS)
def test_conversion_meets_a_full_disk(kind: str, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = WRITERS[kind](tmp_path / f"demo.{kind}", **seven_steps())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"^dataset my/pick-v0: could not be written to .* \(No space left on device\)$"):
        convert(path, "my/pick-v0")
    assert everything(datasets) == []


def test_the_command_signs_with_the_author_it_is_given(datasets: Path, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "demo.npz", **seven_steps())
    said = ["author=A. Maker", "algorithm_name=teleoperation", "description=Picks cubes."]
    assert command(str(path), "id=my/pick-v0", *said).returncode == 0
    assert command(str(path), "id=my/unsigned-v0").returncode == 0
    signed, unsigned = (minari.load_dataset(f"my/{name}-v0").storage.metadata for name in ("pick", "unsigned"))
    assert (signed["author"], signed["algorithm_name"], signed["description"]) == (
        {"A. Maker"},
        "teleoperation",
        "Picks cubes.",
    )
    assert not {"author", "algorithm_name", "code_permalink"} & set(unsigned)
    assert unsigned["description"] == "Converted from demo.npz."
