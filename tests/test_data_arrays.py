from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from helpers import everything, seven_steps

from iwbc.data import minari_writer
from iwbc.data.arrays import from_arrays
from iwbc.data.minari_source import load
from iwbc.errors import UserError
from iwbc.fitting import fit
from iwbc.settings import BC, GaussianPolicy

RNG = np.random.default_rng(0)

# --- what becomes of the arrays --------------------------------------------------------------------------------------


def test_episodes_end_at_terminations_and_truncations() -> None:
    arrays = seven_steps()
    trajectories = from_arrays(**arrays)
    assert trajectories.lengths.tolist() == [3, 2, 2]
    assert trajectories.terminated.tolist() == [True, False, False]
    assert trajectories.returns.tolist() == [0 + 1 + 2, 3 + 4, 5 + 6]
    assert trajectories.successes is None
    np.testing.assert_array_equal(trajectories.observations, arrays["observations"].astype(np.float32))
    np.testing.assert_array_equal(trajectories.actions, arrays["actions"].astype(np.float32))
    assert trajectories.info.action_low == [-1.0, -1.0]
    assert trajectories.info.action_high == [1.0, 1.0]


def test_an_unfinished_last_episode_is_dropped_on_request() -> None:
    assert from_arrays(**seven_steps(), unfinished="drop").lengths.tolist() == [3, 2]


def test_the_final_observation_is_the_next_one_where_it_is_known() -> None:
    arrays = seven_steps()
    following = RNG.normal(size=(7, 4))
    rows = [2, 4, 6]
    known = from_arrays(**arrays, next_observations=following).final_observations
    np.testing.assert_array_equal(known, following[rows].astype(np.float32))
    repeated = from_arrays(**arrays).final_observations
    np.testing.assert_array_equal(repeated, arrays["observations"][rows].astype(np.float32))


@pytest.mark.parametrize("bound", [0.1, 0.5, 1 / 3, np.inf])
def test_bounds_are_written_as_they_are(bound: float, datasets: Path) -> None:
    arrays = seven_steps(actions=np.full((7, 2), min(bound, 1.0)))
    written = from_arrays(**arrays, action_low=-bound, action_high=bound, id="my/pick-v0")
    assert (written.info.action_low, written.info.action_high) == ([-bound] * 2, [bound] * 2)


@pytest.mark.parametrize(
    ("reach", "bound", "told"),
    [(1.0, 2.0, True), (1.0, 1.5, True), (1.0, 1.0, False), (0.99, 2.0, False), (2.0, 2.0, False), (1.0, np.inf, False)],
)
@pytest.mark.parametrize("id", [None, "my/pick-v0"])
def test_actions_that_look_scaled_are_told(reach: float, bound: float, told: bool, id: str | None, datasets: Path) -> None:
    arrays = seven_steps(actions=reach * np.array([[-1, 1], [1, -1], [0, 0], [0.5, 0], [1, 1], [0, 0], [-1, -1]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_arrays(**arrays, action_low=-bound, action_high=bound, id=id)
    found = [str(one.message) for one in caught if "reach from -1 to 1 and no further" in str(one.message)]
    assert bool(found) is told
    assert not told or f"its action space is -{bound:g} … {bound:g}; where they were scaled to ±1, scale them back" in found[0]


@pytest.mark.parametrize("labels", [[0, 1, 0, 0, 0, 0, 1], [True, False, True]])
def test_successes_are_labels_of_steps_or_of_episodes(labels: list[int]) -> None:
    successes = from_arrays(**seven_steps(), successes=labels).successes
    assert successes is not None
    assert successes.tolist() == [True, False, True]


def test_lists_and_columns_will_do() -> None:
    arrays = seven_steps()
    columns = {name: arrays[name][:, None] for name in ("rewards", "terminations", "truncations")}
    expected = from_arrays(**arrays).content_hash
    assert from_arrays(**arrays | columns).content_hash == expected
    assert from_arrays(**{name: array.tolist() for name, array in arrays.items()}).content_hash == expected


def test_the_result_outlives_the_files_it_was_checked_in() -> None:
    trajectories = from_arrays(**seven_steps())
    assert not isinstance(trajectories.observations, np.memmap)
    assert not isinstance(trajectories.rewards, np.memmap)


def test_bounds_are_given_or_the_environments() -> None:
    arrays = seven_steps(actions=RNG.uniform(0, 5, size=(7, 2)))
    info = from_arrays(**arrays, action_low=[0, -1], action_high=5).info
    assert (info.action_low, info.action_high) == ([0.0, -1.0], [5.0, 5.0])
    pendulum = seven_steps(observations=RNG.normal(size=(7, 3)), actions=np.full((7, 1), 1.9))
    info = from_arrays(**pendulum, env_id="Pendulum-v1").info
    assert (info.action_low, info.action_high) == ([-2.0], [2.0])


def test_actions_outside_are_clipped_on_request() -> None:
    actions = np.zeros((7, 2))
    actions[3] = [4.0, -1.25]
    assert from_arrays(**seven_steps(actions=actions), clip_actions=True).actions[3].tolist() == [1.0, -1.0]


# --- as a Minari dataset ---------------------------------------------------------------------------------------------


def test_an_id_makes_a_minari_dataset(datasets: Path) -> None:
    arrays = seven_steps()
    written = from_arrays(**arrays, successes=[True, False, True], id="my/robot/pick-v0")
    assert written.content_hash == from_arrays(**arrays, successes=[True, False, True]).content_hash
    assert load("my/robot/pick-v0").content_hash == written.content_hash
    assert [name for name in everything(datasets) if name.split("/")[-1].startswith(".")] == []

    dataset = minari.load_dataset("my/robot/pick-v0")
    assert dataset.total_episodes == 3
    assert dataset.total_steps == 7
    first, second, last = dataset.iterate_episodes()
    assert first.terminations.tolist() == [False, False, True]
    assert second.truncations.tolist() == [False, True]
    assert last.truncations.tolist() == [False, True]
    assert first.observations.shape == (4, 4)
    assert first.infos["success"].tolist() == [True] * 4
    assert "my/robot/pick-v0" in minari.list_local_datasets()


def test_the_environment_can_be_recovered(datasets: Path) -> None:
    arrays = seven_steps(observations=RNG.normal(size=(7, 3)), actions=np.full((7, 1), 1.5))
    from_arrays(**arrays, env_id="Pendulum-v1", id="pendulum/demo-v0")
    env = minari.load_dataset("pendulum/demo-v0").recover_environment(eval_env=True)
    assert env.spec is not None
    assert env.spec.id == "Pendulum-v1"
    assert load("pendulum/demo-v0").info.env_id == "Pendulum-v1"


def test_an_id_that_is_taken_is_refused(datasets: Path) -> None:
    before = from_arrays(**seven_steps(), id="my/pick-v0")
    with pytest.raises(UserError, match="dataset my/pick-v0: is there already; delete it"):
        from_arrays(**seven_steps(), id="my/pick-v0")
    assert load("my/pick-v0").content_hash == before.content_hash


# --- checks at the door ----------------------------------------------------------------------------------------------


def holding(shape: tuple[int, ...], row: int, value: float) -> np.ndarray:
    array = np.zeros(shape)
    array[row] = value
    return array


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "nan observation": ({"observations": holding((7, 4), 4, np.nan)}, "episode 1, observations: holds NaN .* at step 1"),
    "infinite action": ({"actions": holding((7, 2), 0, np.inf)}, "episode 0, actions: holds NaN or infinity"),
    "nan reward": ({"rewards": holding((7,), 6, np.nan)}, "episode 2, rewards: holds NaN or infinity, first at step 1"),
    "nan final": ({"next_observations": holding((7, 4), 2, np.nan)}, "episode 0, final observation: holds NaN"),
    "huge reward": ({"rewards": holding((7,), 6, 1e40)}, "episode 2, rewards: .*range of float32"),
    "no steps": (
        {name: np.zeros((0, *shape)) for name, shape in zip(seven_steps(), [(4,), (2,), (), (), ()], strict=True)},
        "actions: there are no steps",
    ),
    "fewer rewards": ({"rewards": np.zeros(6)}, r"rewards: the array's shape is \(6,\), but there are 7 actions"),
    "more observations": ({"observations": np.zeros((8, 4))}, r"observations: the array's shape is \(8, 4\), but .* 7"),
    "fewer terminations": ({"terminations": np.zeros(3, bool)}, r"terminations: the array's shape is \(3,\)"),
    "more truncations": ({"truncations": np.zeros(9, bool)}, r"truncations: the array's shape is \(9,\)"),
    "scalar reward": ({"rewards": 1.0}, r"rewards: the array's shape is \(\)"),
    "reward vectors": ({"rewards": np.zeros((7, 2))}, "rewards: must be one number per step"),
    "flat observations": ({"observations": np.zeros(7)}, "observations: must be vectors, one row per step"),
    "images": ({"observations": np.zeros((7, 8, 8))}, "observations: must be vectors, one row per step"),
    "discrete actions": ({"actions": np.arange(7)}, r"actions: discrete actions \(int64\) are not supported"),
    "whole actions": ({"actions": np.zeros((7, 2), np.int32)}, r"actions: discrete actions \(int32\) are not supported"),
    "flat actions": ({"actions": np.zeros(7)}, "actions: must be vectors, one row per step"),
    "text": ({"observations": np.full((7, 4), "a")}, "observations: must be numbers, not <U1"),
    "objects": ({"rewards": np.array([None] * 7)}, "rewards: must be numbers, not object"),
    "complex": ({"rewards": np.zeros(7, complex)}, "rewards: must be numbers, not complex128"),
    "ragged": ({"observations": [[1.0]] * 6 + [[1.0, 2.0]]}, "observations: the rows differ in length"),
    "terminations not flags": ({"terminations": np.arange(7)}, "terminations: must be true or false .* step 2 holds 2"),
    "truncations not flags": ({"truncations": np.full(7, np.nan)}, "truncations: must be true or false .* step 0 holds nan"),
    "next observations narrower": ({"next_observations": np.zeros((7, 3))}, "next_observations: have shape"),
    "next observations shorter": ({"next_observations": np.zeros((6, 4))}, "next_observations: the array's shape is"),
    "too many successes": ({"successes": [True] * 4}, "successes: there are 4, for 7 steps in 3 episodes"),
    "successes not flags": ({"successes": [0.5] * 7}, "successes: must be true or false"),
    "successes of NaN": ({"successes": [np.nan] * 7}, "successes: must be true or false .*, but step 0 holds nan"),
    "successes below 0": ({"successes": [0, 1, -1, 0, 0, 0, 0]}, "successes: must be true or false .*, but step 2 holds -1"),
    "successes in words": ({"successes": ["false"] * 7}, "successes: must be numbers"),
    "successes of none": ({"successes": [True, None, False]}, "successes: must be numbers"),
    "actions outside": ({"actions": holding((7, 2), 3, -1.5)}, r"actions: 1 of 7 lie outside .* by up to 0\.5; .*clip"),
    "bounds too many": ({"action_low": [-1, -1, -1]}, "action_low and action_high need one value, or one for each of the 2"),
    "bounds crossed": ({"action_low": 2.0}, "action_low=.* must lie below action_high"),
    "bounds not numbers": ({"action_high": np.nan}, "action_low=.* must lie below action_high"),
    "unknown environment": ({"env_id": "Hoper-v5"}, "environment Hoper-v5: cannot be made"),
    "other environment": ({"env_id": "Pendulum-v1"}, "observations: have 4 values per step, Pendulum-v1's have 3"),
    "nothing finished": (
        {"terminations": np.zeros(7, bool), "truncations": np.zeros(7, bool), "unfinished": "drop"},
        "it holds no episodes",
    ),
}


@pytest.mark.parametrize("id", [None, "my/pick-v0"], ids=["in memory", "as a dataset"])
@pytest.mark.parametrize("fault", FAULTS)
def test_unfit_arrays_are_refused(fault: str, id: str | None, datasets: Path) -> None:
    changes, message = FAULTS[fault]
    start = "" if "environment" in message else f"dataset {id or 'from_arrays'}.*"
    with pytest.raises(UserError, match=start + message) as caught:
        from_arrays(**seven_steps(**changes), id=id)
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []


@pytest.mark.parametrize("id", ["pick", "my/pick", "../pick-v0", "/pick-v0", "my pick-v0", "", "my//../pick-v0"])
def test_an_id_must_be_one_of_minaris(id: str, datasets: Path) -> None:
    with pytest.raises(UserError, match=f"dataset {re.escape(id)}: not an id; ids look like"):
        from_arrays(**seven_steps(), id=id)
    assert everything(datasets) == []


def test_spaces_are_the_datas_own(datasets: Path) -> None:
    from_arrays(**seven_steps(), id="my/pick-v0", action_low=[-1, -2])
    dataset = minari.load_dataset("my/pick-v0")
    assert dataset.observation_space == gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    assert dataset.action_space == gym.spaces.Box(np.array([-1, -2], np.float32), np.ones(2, np.float32), dtype=np.float32)


def test_a_dataset_is_signed_by_its_author_alone(datasets: Path) -> None:
    said = {"author": "A. Maker", "algorithm_name": "teleoperation", "description": "Picks cubes."}
    from_arrays(**seven_steps(), id="my/pick-v0", **said)
    metadata = minari.load_dataset("my/pick-v0").storage.metadata
    assert metadata["author"] == {"A. Maker"}
    assert (metadata["algorithm_name"], metadata["description"]) == ("teleoperation", "Picks cubes.")
    from_arrays(**seven_steps(), id="my/unsigned-v0")
    unsigned = minari.load_dataset("my/unsigned-v0").storage.metadata
    for found in (metadata, unsigned):
        assert not {"code_permalink", "author_email"} & set(found)
        assert "iwbc" not in str(found)
    assert not {"author", "algorithm_name"} & set(unsigned)


def test_arrays_without_an_id_can_be_trained_on() -> None:
    policy = fit(BC(steps=3, batch_size=4), from_arrays(**seven_steps()), policy=GaussianPolicy(hidden=[8]))
    action, _ = policy.predict(np.zeros(4))
    assert action.shape == (2,)


@pytest.mark.skipif(sys.platform != "linux", reason="room is taken on Linux only")
def test_the_disk_cannot_be_filled_under_a_file_that_is_written(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 crashes where it cannot write, so what it is about to write has its place already."""
    room: list[int] = []
    original = minari_writer._buffer

    def buffer(episode: Any) -> Any:
        (file,) = datasets.glob(".*/data/main_data.hdf5")
        room.append(512 * file.stat().st_blocks - file.stat().st_size)
        return original(episode)

    monkeypatch.setattr(minari_writer, "_buffer", buffer)
    from_arrays(**seven_steps(), id="my/pick-v0")
    assert len(room) == 3
    assert min(room) > 2**20
    written = (datasets / "my/pick-v0/data/main_data.hdf5").stat()
    assert 512 * written.st_blocks < written.st_size + 2**20
