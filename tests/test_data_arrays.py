from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from helpers import everything, seven_steps
from setups import command

import iwbc
from iwbc.data import minari_writer
from iwbc.data.arrays import from_arrays
from iwbc.data.curation import curate
from iwbc.data.minari_source import load
from iwbc.errors import DataWarning, UserError
from iwbc.settings import BC, GaussianPolicy, Success, Threshold
from iwbc.training.fit import fit

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
    notes = [str(warning.message) for warning in caught if "reach from -1 to 1 and no further" in str(warning.message)]
    assert bool(notes) is told
    assert not told or f"its action space is -{bound:g} … {bound:g}; where they were scaled to ±1, scale them back" in notes[0]


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


# --- arrays of any type ----------------------------------------------------------------------------------------------

TYPES = ("u1", "i1", "?", "i2", "u2", "i4", "i8", "u8", "f2", "f4", "f8", ">f4", ">f8", ">i4", "longdouble")


@pytest.mark.parametrize("dtype", TYPES)
def test_observations_of_any_type_of_numbers_can_be_written(dtype: str, datasets: Path) -> None:
    values = np.arange(28).reshape(7, 4) % 5
    observations = values.astype(dtype)
    expected = from_arrays(**seven_steps(observations=observations.astype(np.float64)))
    assert from_arrays(**seven_steps(observations=observations)).content_hash == expected.content_hash
    written = from_arrays(**seven_steps(observations=observations), id="my/pick-v0")
    assert written.content_hash == expected.content_hash
    space = minari.load_dataset("my/pick-v0").observation_space
    assert space.dtype in (np.float32, np.float64)
    np.testing.assert_array_equal(written.observations, observations.astype(np.float32))


@pytest.mark.parametrize(
    ("field", "dtype"),
    [
        *(("rewards", dtype) for dtype in ("u1", "?", "i8", "f2", ">f4", "longdouble")),
        *(("actions", dtype) for dtype in ("f2", ">f4", "longdouble")),
    ],
)
def test_rewards_of_any_type_and_actions_of_any_floating_one(field: str, dtype: str, datasets: Path) -> None:
    changed = (seven_steps()[field] != 0).astype(dtype)
    expected = from_arrays(**seven_steps(**{field: changed.astype(np.float64)})).content_hash
    assert from_arrays(**seven_steps(**{field: changed})).content_hash == expected
    assert from_arrays(**seven_steps(**{field: changed}), id="my/pick-v0").content_hash == expected


def frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS: dict[str, Any] = {
    "columns first": np.asfortranarray,
    "every second": lambda array: np.repeat(array, 2, axis=0)[::2],
    "backwards": lambda array: array[::-1].copy()[::-1],
    "read-only": frozen,
    "torch": torch.tensor,
    "torch with gradients": lambda array: torch.tensor(array, requires_grad=array.dtype.kind == "f"),
    "tensors in a list": lambda array: [torch.tensor(row) for row in array],
    "masked nowhere": np.ma.masked_invalid,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_layout(layout: str) -> None:
    arrays = seven_steps()
    changed = {name: LAYOUTS[layout](array) for name, array in arrays.items()}
    assert from_arrays(**changed).content_hash == from_arrays(**arrays).content_hash


# --- episodes' ends, rewards that are not there ----------------------------------------------------------------------

ENDS = [0, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("others", "terminated"),
    [
        ({}, [True, True, True]),
        ({"truncations": [0, 0, 0, 0, 1, 0, 0]}, [True, False, True]),
        ({"terminations": [0, 0, 1, 0, 0, 0, 0]}, [True, False, False]),
        ({"terminations": [0, 0, 1, 0, 0, 0, 0], "truncations": [0, 0, 0, 0, 1, 0, 1]}, [True, False, False]),
        ({"truncations": ENDS}, [False, False, False]),
    ],
)
def test_dones_are_terminations_unless_others_say_not(others: dict[str, Any], terminated: list[bool], datasets: Path) -> None:
    arrays = {name: seven_steps()[name] for name in ("observations", "actions", "rewards")}
    for id in (None, "my/pick-v0"):
        trajectories = from_arrays(**arrays, dones=ENDS, **others, id=id)
        assert trajectories.lengths.tolist() == [3, 2, 2]
        assert trajectories.terminated.tolist() == terminated


def test_an_end_is_where_any_says_so() -> None:
    arrays = seven_steps(terminations=[0, 0, 1, 0, 0, 0, 0], truncations=[0, 0, 0, 0, 1, 0, 0])
    assert from_arrays(**arrays, dones=[0, 0, 1, 0, 0, 1, 0]).lengths.tolist() == [3, 2, 1, 1]


@pytest.mark.parametrize("id", [None, "my/pick-v0"], ids=["in memory", "as a dataset"])
@pytest.mark.parametrize("labels", [[1, 0, 1], [0, 1, 0, 0, 0, 1, 0]])
def test_without_rewards_a_success_is_rewarded(labels: list[int], id: str | None, datasets: Path) -> None:
    with pytest.warns(DataWarning, match="has no rewards: 1 at the end of each success stands for them") as said:
        trajectories = from_arrays(**seven_steps(rewards=None), successes=labels, id=id)
    assert len(said) == 1
    assert trajectories.returns.tolist() == [1, 0, 1]
    assert trajectories.rewards.tolist() == [0, 0, 1, 0, 0, 0, 1]
    assert curate(trajectories, Success()).kept.tolist() == curate(trajectories, Threshold(0.5)).kept.tolist() == [0, 2]
    if id:
        with pytest.warns(DataWarning, match="has no rewards"):
            load(id)


@pytest.mark.parametrize("id", [None, "my/pick-v0"], ids=["in memory", "as a dataset"])
def test_without_rewards_and_labels_it_is_said_that_curation_cannot_tell(id: str | None, datasets: Path) -> None:
    with pytest.warns(DataWarning, match="has neither rewards nor success labels"):
        trajectories = from_arrays(**seven_steps(rewards=None), id=id)
    assert trajectories.returns.tolist() == [0, 0, 0]


def test_notes_that_others_wrote_are_printable_text(datasets: Path) -> None:
    from_arrays(**seven_steps(), id="my/pick-v0")
    storage = minari.load_dataset("my/pick-v0").storage
    storage.update_metadata({"notes": ["\x1b[31mred\nline" + "x" * 1000, 3, {}]})
    with pytest.warns(DataWarning) as said:
        load("my/pick-v0")
    (warning,) = said
    assert str(warning.message).startswith("dataset my/pick-v0: [31mredlinexxx")
    assert len(str(warning.message)) < 600
    storage.update_metadata({"notes": "no list"})
    assert load("my/pick-v0").info.notes == []


# --- bounds beside an environment ------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [None, "my/swing-v0"], ids=["in memory", "as a dataset"])
@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({}, ([-2.0], [2.0])),
        ({"action_low": -5, "action_high": 5}, ([-5.0], [5.0])),
        ({"action_low": [-1.5], "action_high": [1.75]}, ([-1.5], [1.75])),
        ({"action_high": 8}, ([-2.0], [8.0])),
        ({"action_low": -np.inf, "action_high": np.inf}, ([-np.inf], [np.inf])),
    ],
)
def test_bounds_are_kept_beside_an_environment(
    bounds: dict[str, Any], expected: tuple[list[float], list[float]], id: str | None, datasets: Path
) -> None:
    swing = seven_steps(observations=RNG.normal(size=(7, 3)), actions=np.full((7, 1), 1.25))
    info = from_arrays(**swing, env_id="Pendulum-v1", id=id, **bounds).info
    assert (info.action_low, info.action_high) == expected
    assert info.env_id == "Pendulum-v1"
    if id:
        dataset = minari.load_dataset(id)
        assert (dataset.action_space.low.tolist(), dataset.action_space.high.tolist()) == expected
        assert dataset.recover_environment(eval_env=True).spec.id == "Pendulum-v1"


def test_actions_beyond_the_environments_are_kept_within_wider_bounds_and_clipped_to_narrower_ones(datasets: Path) -> None:
    swing = seven_steps(observations=RNG.normal(size=(7, 3)), actions=np.linspace(-4, 4, 7)[:, None])
    wide = from_arrays(**swing, env_id="Pendulum-v1", action_low=-4, action_high=4, id="my/wide-v0")
    np.testing.assert_array_equal(wide.actions, swing["actions"].astype(np.float32))
    narrow = {"env_id": "Pendulum-v1", "action_low": -1, "action_high": 1}
    with pytest.raises(UserError, match="6 of 7 lie outside the action space of Pendulum-v1"):
        from_arrays(**swing, **narrow, id="my/narrow-v0")
    assert not (datasets / "my/narrow-v0").exists()
    clipped = from_arrays(**swing, **narrow, clip_actions=True, id="my/narrow-v0")
    assert abs(clipped.actions).max() == 1.0
    assert clipped.info.action_high == [1.0]


@pytest.mark.parametrize(
    ("scales", "low", "high"),
    [
        ([5.1, 0.5], "[-5.1,-1]", "[5.1,1]"),
        ([3.0, 3.0], "-3", "3"),
        ([1e-3, 12345.6], "[-1,-1.24e+04]", "[1,1.24e+04]"),
        ([1.0001, 7.7], "[-1.01,-7.7]", "[1.01,7.7]"),
    ],
)
def test_bounds_of_the_data_are_offered_before_clipping(scales: list[float], low: str, high: str) -> None:
    arrays = seven_steps(actions=np.linspace(-1, 1, 7)[:, None] * scales)
    with pytest.raises(UserError) as caught:
        from_arrays(**arrays)
    text = str(caught.value)
    assert f"action_low={low} action_high={high} " in text
    assert text.index("action_low") < text.index("clip_actions=true")
    data = from_arrays(**arrays, action_low=json.loads(low), action_high=json.loads(high))
    np.testing.assert_array_equal(data.actions, arrays["actions"].astype(np.float32))


# --- what float32 cannot hold ----------------------------------------------------------------------------------------

STEP = np.arange(200.0)
NORMAL = np.random.default_rng(4).normal(size=200)
LOST = {
    "seconds since 1970": 1.7e9 + 0.05 * STEP,
    "nanoseconds since 1970": (1.7e18 + 5e7 * STEP).astype(np.int64),
    "metres from the equator": 5.6e6 + 0.1 * STEP,
    "degrees": 52.1 + 1e-7 * STEP,
    "a large mean": 1e8 + NORMAL,
    "a count from 2^24": 2**24 + STEP.astype(np.int64),
    "a goal far away": 1e9 + np.repeat(np.arange(20.0), 10),
    "two values": 1e9 + (STEP > 100),
}
KEPT = {
    "noise of float64": 0.3 * (1 + 1e-16 * NORMAL),
    "constant": np.full(200, 1.7e9 + 0.3),
    "whole numbers": 1e6 + STEP,
    "large": 1e9 * NORMAL,
    "small": 1e-9 * NORMAL,
    "at rest": np.where(STEP < 100, NORMAL, 0.5 + 1e-12 * STEP),
    "long time stamps": 1e4 * STEP + 0.3,
    "nearly constant": 0.3 + 1e-5 * NORMAL,
}


def recorded(feature: np.ndarray, field: str = "observations", **more: Any) -> dict[str, Any]:
    """Twenty episodes of ten steps with this among the features of a field."""
    rng = np.random.default_rng(1)
    arrays = {"observations": rng.normal(size=(200, 2)), "actions": rng.uniform(-1, 1, size=(200, 2)), "rewards": STEP}
    if field == "rewards":
        arrays["rewards"] = feature
    else:
        arrays[field] = np.column_stack([arrays[field].astype(feature.dtype), feature])
    return {**arrays, "dones": STEP % 10 == 9, "action_low": -1e30, "action_high": 1e30, **more}


@pytest.mark.parametrize("id", [None, "my/clock-v0"], ids=["in memory", "as a dataset"])
@pytest.mark.parametrize("name", LOST)
def test_a_feature_that_float32_cannot_hold_is_named(name: str, id: str | None, datasets: Path) -> None:
    with pytest.warns(DataWarning, match=r"observations are rounded to float32, .*: feature 2 keeps .*subtract an offset"):
        data = from_arrays(**recorded(LOST[name]), id=id)
    assert len(data.info.notes) == 1
    assert "feature 0" not in data.info.notes[0]
    if id:
        with pytest.warns(DataWarning, match="feature 2 keeps"):
            load(id)


@pytest.mark.parametrize("name", KEPT)
def test_a_feature_that_float32_holds_well_enough_is_not(name: str) -> None:
    assert from_arrays(**recorded(KEPT[name])).info.notes == []


@pytest.mark.parametrize(("field", "words"), [("actions", "feature 2 keeps 0 of"), ("rewards", "they keep 0 of")])
def test_actions_and_rewards_are_watched_too(field: str, words: str) -> None:
    with pytest.warns(DataWarning, match=f"{field} are rounded to float32, .*: {words} 199 changes"):
        from_arrays(**recorded(LOST["seconds since 1970"], field))


def test_data_in_float32_give_no_note_of_rounding() -> None:
    assert from_arrays(**recorded(LOST["seconds since 1970"].astype(np.float32))).info.notes == []


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
    "observations of nothing": ({"observations": np.zeros((7, 0))}, "observations"),
    "flat observations": ({"observations": np.zeros(7)}, "observations: must be vectors, one row per step"),
    "images": ({"observations": np.zeros((7, 8, 8))}, "observations: must be vectors, one row per step"),
    "discrete actions": ({"actions": np.arange(7)}, r"actions: discrete actions \(int64\) are not supported"),
    "whole actions": ({"actions": np.zeros((7, 2), np.int32)}, r"actions: discrete actions \(int32\) are not supported"),
    "flat actions": ({"actions": np.zeros(7)}, "actions: must be vectors, one row per step"),
    "text": ({"observations": np.full((7, 4), "a")}, "observations: must be numbers, not <U1"),
    "objects": ({"rewards": np.array([None] * 7)}, "rewards: must be numbers, not object"),
    "objects of numbers": ({"observations": np.zeros((7, 4), object)}, r"must be numbers, not object; .*astype\(float\)"),
    "dates": ({"observations": np.zeros((7, 4), "M8[s]")}, r"observations: must be numbers, not datetime64"),
    "masked": ({"rewards": np.ma.masked_less(np.arange(7.0), 3)}, "rewards: some values are masked"),
    "bfloat16": ({"observations": torch.zeros(7, 4).bfloat16()}, "observations: cannot be made an array"),
    "dones not flags": ({"dones": np.arange(7)}, "dones: must be true or false .* step 2 holds 2"),
    "fewer dones": ({"dones": np.zeros(3, bool)}, r"dones: the array's shape is \(3,\), but there are 7 actions"),
    "bounds of nothing": ({"action_low": [None, "a"]}, "action_low and action_high need one value, or one for each"),
    "bounds in a matrix": ({"action_low": [[-1, -1], [-1, -1]]}, "action_low and action_high need one value"),
    "discrete environment": ({"env_id": "CartPole-v1"}, r"environment CartPole-v1: its actions are Discrete\(2\)"),
    "environment of whole numbers": ({"env_id": "FrozenLake-v1"}, r"environment FrozenLake-v1: its actions are Discrete"),
    "sequences": (
        {"env_id": "Sequences-v0"},
        "environment Sequences-v0: its observations cannot be flattened to a vector: .* no fixed size",
    ),
    "actions of a matrix": ({"env_id": "Matrix-v0"}, "environment Matrix-v0: its actions are Box.*, not a vector"),
    "environment of a missing package": (
        {"env_id": "missing_package:Arm-v0"},
        "(environment|env.imports): missing_package cannot be",
    ),
    "environment of another package": ({"env_id": "ALE/Pong-v5"}, "environment ALE/Pong-v5: cannot be made"),
    "complex": ({"rewards": np.zeros(7, complex)}, "rewards: must be numbers, not complex128"),
    "ragged": ({"observations": [[1.0]] * 6 + [[1.0, 2.0]]}, "observations: the rows differ in length"),
    "terminations not flags": ({"terminations": np.arange(7)}, "terminations: must be true or false .* step 2 holds 2"),
    "truncations not flags": ({"truncations": np.full(7, np.nan)}, "truncations: must be true or false .* step 0 holds nan"),
    "next observations narrower": ({"next_observations": np.zeros((7, 3))}, "next_observations: have shape"),
    "next observations shorter": ({"next_observations": np.zeros((6, 4))}, "next_observations: the array's shape is"),
    "no observations": ({"observations": None}, "observations: are missing; .*beside images alone"),
    "no actions": ({"actions": None}, "actions: are missing; give vectors"),
    "neither observations nor actions": ({"observations": None, "actions": None}, "observations: are missing"),
    "no images": ({"observations": None, "images": {}}, "observations: are missing"),
    "a single success": ({"successes": True}, "successes: must be one for each step or each episode, not a single True"),
    "a single success as an array": ({"successes": np.array(1.0)}, "successes: must be one for each step or each episode"),
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


class Odd(gym.Env[Any, Any]):
    """An environment of other spaces than vectors."""

    def __init__(self, observations: gym.Space[Any], actions: gym.Space[Any]) -> None:
        self.observation_space, self.action_space = observations, actions


UNIT = gym.spaces.Box(-1, 1, (2,))
gym.register("Sequences-v0", lambda: Odd(gym.spaces.Sequence(UNIT), UNIT))
gym.register("Matrix-v0", lambda: Odd(UNIT, gym.spaces.Box(-1, 1, (2, 2))))
gym.register("Stack-v0", lambda: Odd(gym.spaces.Box(0, 255, (2, 2), np.float32), UNIT))
gym.register("Bytes-v0", lambda: Odd(gym.spaces.Box(0, 255, (4,), np.uint8), UNIT))


@pytest.mark.parametrize("env_id", ["Stack-v0", "Bytes-v0"])
def test_observations_of_an_environment_that_are_no_vectors_of_floats_are_written_as_they_are(
    env_id: str, datasets: Path
) -> None:
    arrays = seven_steps()
    assert from_arrays(**arrays, env_id=env_id, id="my/pick-v0").content_hash == from_arrays(**arrays).content_hash


def test_an_environment_that_no_file_can_hold_is_refused(datasets: Path) -> None:
    gym.register("Callable-v0", lambda option: Odd(UNIT, UNIT), kwargs={"option": print})
    arrays = seven_steps(observations=np.zeros((7, 2)))
    assert from_arrays(**arrays, env_id="Callable-v0").info.env_id == "Callable-v0"
    with pytest.raises(UserError, match=r"^environment Callable-v0: cannot be kept with the data"):
        from_arrays(**arrays, env_id="Callable-v0", id="my/pick-v0")
    assert everything(datasets) == []


@pytest.mark.parametrize("id", [None, "my/pick-v0"], ids=["in memory", "as a dataset"])
@pytest.mark.parametrize("fault", FAULTS)
def test_unfit_arrays_are_refused(fault: str, id: str | None, datasets: Path) -> None:
    changes, message = FAULTS[fault]
    start = "" if "environment" in message else f"dataset {id or 'from_arrays'}.*"
    with pytest.raises(UserError, match=start + message) as caught:
        from_arrays(**seven_steps(**changes), id=id)
    assert "\n" not in str(caught.value)
    assert everything(datasets) == []


@pytest.mark.parametrize("id", ["pick", "my/pick", "../pick-v0", "/pick-v0", "my pick-v0", "", "my//../pick-v0", "a/b-v0"])
def test_an_id_must_be_one_of_minaris(id: str, datasets: Path) -> None:
    with pytest.raises(UserError, match=f"dataset {re.escape(id)}: not an id; ids look like"):
        from_arrays(**seven_steps(), id=id)
    assert everything(datasets) == []


@pytest.mark.parametrize("id", ["a/bb/c-v0", "aa/b/c-v0", "b-v0"])
def test_parts_of_an_id_may_have_one_letter(id: str, datasets: Path) -> None:
    assert from_arrays(**seven_steps(), id=id).content_hash == load(id).content_hash


@pytest.mark.parametrize("namespace", ["", "my/"])
def test_an_id_that_is_no_name_of_a_folder_is_one_line(namespace: str, datasets: Path) -> None:
    with pytest.raises(UserError, match="too long"):
        from_arrays(**seven_steps(), id=f"{namespace}{'x' * 300}-v0")
    assert everything(datasets) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/b-v0", "a namespace of at least two letters"),
        ("nowhere.npz", "nowhere.npz: no such file"),
        ("nowhere.hdf5", "nowhere.hdf5: no such file"),
        ("demo.npz", "iwbc convert demo.npz id=my/demo-v0, then load that id"),
        ("lr=0.1/demo.npz", "iwbc convert lr=0.1/demo.npz id=my/demo-v0"),
        ("demo.pkl", "iwbc convert makes a dataset of the arrays in an npz or HDF5 file"),
        ("lr=0.1", "this is a folder"),
        ("lerobot/pusht", "dataset=lerobot dataset.id=lerobot/pusht, load('lerobot/pusht', source='lerobot')"),
        ("a" * 300, "neither a file nor an id (File name too long)"),
        ("a" * 300 + ".npz", "neither a file nor an id (File name too long)"),
        ("demo", "not an id; ids look like"),
    ],
)
def test_a_name_that_is_no_dataset_is_refused_with_a_remedy(
    name: str, message: str, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lr=0.1").mkdir()
    for there in ("demo.npz", "lr=0.1/demo.npz", "demo.pkl"):
        (tmp_path / there).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        iwbc.load(name)


@pytest.mark.parametrize("words", [["iwbc.info"], ["iwbc.export_data", "format=list", "out=x.csv"]])
def test_commands_refuse_a_name_that_is_too_long(words: list[str], datasets: Path) -> None:
    assert command(*words, "a" * 300).err.splitlines()[-1].endswith("neither a file nor an id (File name too long)")
    settings = ["dataset=minari", f"dataset.id={'a' * 300}"]
    assert command(*words, *settings).err.splitlines()[-1].endswith("cannot be used (File name too long)")


def test_a_folder_of_minari_and_a_source_are_taken(datasets: Path) -> None:
    made = from_arrays(**seven_steps(), id="my/pick-v0")
    for name, source in ((datasets / "my" / "pick-v0", None), ("my/pick-v0", "minari")):
        assert iwbc.load(name, source).content_hash == made.content_hash
    with pytest.raises(UserError, match="source=generated: must be one of minari, d4rl, robomimic"):
        iwbc.load("my/pick-v0", "generated")


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
    for document in (metadata, unsigned):
        assert not {"code_permalink", "author_email"} & set(document)
        assert "iwbc" not in str(document)
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
