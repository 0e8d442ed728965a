from __future__ import annotations

import dataclasses
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_episode, make_info

from iwbc.data.checks import ActionBounds
from iwbc.data.packed import fingerprint_of, joined, load_or_pack, open_packed, pack
from iwbc.data.trajectories import DatasetInfo, Episode, Trajectories
from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spaces import Part
from iwbc.environments.spec import EnvironmentSpec, Wrapper
from iwbc.errors import DataWarning, UserError

LENGTHS = [5, 1, 3]


def make_episodes(success: bool | None = None) -> list[Episode]:
    return [make_episode(steps, seed=i, terminated=i != 1, success=success) for i, steps in enumerate(LENGTHS)]


def hash_of(episodes: Iterable[Episode], folder: Path) -> str:
    pack(episodes, make_info(), folder, "f")
    return open_packed(folder).content_hash


# --- round trip ------------------------------------------------------------------------------------------------------


def test_pack_and_open(tmp_path: Path) -> None:
    episodes = make_episodes()
    info = dataclasses.replace(
        make_info(),
        environment=EnvironmentSpec("Hopper-v5", {"frame_skip": 2}, 70, (Wrapper("ClipAction"),), "gymnasium"),
        observation_parts=[Part(("a", (0, 2)), (2, 3)), Part(("b/c",), (2,), (3, 2), (1, 0))],
        reference_scores=ReferenceScores(-20.0, 3000.0, "D4RL"),
        action_high=[1.0, float("inf")],
    )
    pack(iter(episodes), info, tmp_path / "cache", "f")
    trajectories = open_packed(tmp_path / "cache")
    assert len(trajectories) == 3
    assert trajectories.steps == 9
    assert trajectories.info == info
    assert trajectories.offsets.tolist() == [0, 5, 6, 9]
    assert trajectories.lengths.tolist() == LENGTHS
    assert trajectories.terminated.tolist() == [True, False, True]
    assert trajectories.successes is None
    for name in ("observations", "actions", "rewards"):
        array = getattr(trajectories, name)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, np.concatenate([getattr(e, name) for e in episodes]).astype(np.float32))
    finals = np.stack([e.final_observation for e in episodes]).astype(np.float32)
    np.testing.assert_array_equal(trajectories.final_observations, finals)
    np.testing.assert_allclose(trajectories.returns, [e.rewards.sum() for e in episodes], rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_success_labels_are_kept(tmp_path: Path) -> None:
    episodes = [make_episode(seed=0, success=True), make_episode(seed=1, success=False)]
    pack(episodes, make_info(), tmp_path / "cache", "f")
    successes = open_packed(tmp_path / "cache").successes
    assert successes is not None
    assert successes.tolist() == [True, False]


def test_the_content_hash_depends_on_the_data_alone(tmp_path: Path) -> None:
    assert hash_of(make_episodes(), tmp_path / "one") == hash_of(iter(make_episodes()), tmp_path / "two")


CHANGES: dict[str, Callable[[Episode], Episode]] = {
    "observations": lambda e: dataclasses.replace(e, observations=e.observations + 1e-3),
    "final_observation": lambda e: dataclasses.replace(e, final_observation=e.final_observation + 1e-3),
    "actions": lambda e: dataclasses.replace(e, actions=0.9 * e.actions),
    "rewards": lambda e: dataclasses.replace(e, rewards=e.rewards + 1e-3),
    "terminated": lambda e: dataclasses.replace(e, terminated=not e.terminated),
}


@pytest.mark.parametrize("field", CHANGES)
def test_the_content_hash_changes_with_the_data(field: str, tmp_path: Path) -> None:
    first, *others = make_episodes()
    original = hash_of([first, *others], tmp_path / "one")
    assert hash_of([CHANGES[field](first), *others], tmp_path / "two") != original


def test_the_content_hash_changes_with_boundaries_and_labels(tmp_path: Path) -> None:
    whole = make_episode(6)
    cut = [
        dataclasses.replace(
            whole, observations=whole.observations[rows], actions=whole.actions[rows], rewards=whole.rewards[rows]
        )
        for rows in (slice(0, 2), slice(2, 6), slice(0, 3), slice(3, 6))
    ]
    hashes = {
        hash_of(cut[:2], tmp_path / "one"),
        hash_of(cut[2:], tmp_path / "two"),
        hash_of(make_episodes(), tmp_path / "three"),
        hash_of(make_episodes(success=True), tmp_path / "four"),
        hash_of(make_episodes(success=False), tmp_path / "five"),
    }
    assert len(hashes) == 5


# --- checks at the door ----------------------------------------------------------------------------------------------


def poison(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(np.float64)
    changed.reshape(len(changed), -1)[-1, 0] = value
    return changed


def changed(field: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Episode], Episode]:
    return lambda episode: dataclasses.replace(episode, **{field: change(getattr(episode, field))})


FAULTS: list[tuple[str, Callable[[Episode], Episode], str]] = []
for _field in ("observations", "actions", "rewards", "final_observation"):
    _name = _field.replace("_", " ")
    for _value in (np.nan, np.inf, -np.inf):
        FAULTS.append(
            (f"{_field} {_value}", changed(_field, lambda a, v=_value: poison(a, v)), f"{_name}: holds NaN or infinity")
        )
    FAULTS.append((f"{_field} 1e39", changed(_field, lambda a: poison(a, 1e39)), f"{_name}: .*range of float32"))
    FAULTS.append((f"{_field} text", changed(_field, lambda a: a.astype(str)), f"{_name}: must be numbers"))
    FAULTS.append((f"{_field} objects", changed(_field, lambda a: a.astype(object)), f"{_name}: must be numbers"))
    FAULTS.append((f"{_field} wider", changed(_field, lambda a: np.stack([a, a], axis=-1)), f"{_name}: has shape"))
for _field in ("observations", "actions"):
    FAULTS.append((f"{_field} narrower", changed(_field, lambda a: a[:, 1:]), f"{_field}: has shape"))
FAULTS += [
    ("final observation narrower", changed("final_observation", lambda a: a[1:]), "final observation: has shape"),
    ("observations shorter", changed("observations", lambda a: a[1:]), "observations: has 4 rows for 5 actions"),
    ("observations longer", changed("observations", lambda a: np.concatenate([a, a[:1]])), "observations: has 6 rows"),
    ("rewards shorter", changed("rewards", lambda a: a[1:]), "rewards: has 4 rows for 5 actions"),
    ("empty", lambda e: make_episode(0), "actions: the episode is empty"),
    ("complex", changed("rewards", lambda a: a + 1j), "rewards: must be numbers"),
]


def assert_refused(episodes: Iterable[Episode], info: DatasetInfo, message: str, tmp_path: Path, clip: bool = False) -> None:
    with pytest.raises(UserError, match=message) as caught:
        pack(episodes, info, tmp_path / "cache", "f", clip)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# The first episode sets the shapes, so that a wrong shape shows in a later one only.
CASES = [(position, *fault) for position in (0, 2) for fault in FAULTS if position > 0 or "has shape" not in fault[2]]


@pytest.mark.parametrize(
    ("position", "fault", "message"), [(p, f, m) for p, _, f, m in CASES], ids=[f"{c[1]}-{c[0]}" for c in CASES]
)
def test_an_unfit_episode_is_refused(position: int, fault: Callable[[Episode], Episode], message: str, tmp_path: Path) -> None:
    episodes = [make_episode(seed=i) for i in range(3)]
    episodes[position] = fault(episodes[position])
    assert_refused(episodes, make_info(), rf"dataset toy/data-v0, episode {position}, {message}", tmp_path)


def test_observations_and_actions_must_be_vectors(tmp_path: Path) -> None:
    images = dataclasses.replace(make_episode(), observations=np.zeros((5, 4, 4)), final_observation=np.zeros((4, 4)))
    assert_refused([images], make_info(), r"dataset toy/data-v0, episode 0, observations: .*vectors", tmp_path)


@pytest.mark.parametrize("size", [1, 3])
def test_actions_must_fit_the_action_space(size: int, tmp_path: Path) -> None:
    assert_refused([make_episode(action_size=2)], make_info(size), "dataset toy/data-v0.*actions", tmp_path)


def test_no_episodes_are_refused(tmp_path: Path) -> None:
    assert_refused([], make_info(), "dataset toy/data-v0: it holds no episodes", tmp_path)


def test_partial_success_labels_are_refused(tmp_path: Path) -> None:
    episodes = [make_episode(success=True), make_episode(), make_episode(success=False)]
    assert_refused(episodes, make_info(), "dataset toy/data-v0: only 2 of 3 episodes have a success label", tmp_path)


def test_nothing_is_left_when_the_source_itself_fails(tmp_path: Path) -> None:
    def source() -> Iterator[Episode]:
        yield make_episode()
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        pack(source(), make_info(), tmp_path / "cache", "f")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_an_older_cache_as_it_is(tmp_path: Path) -> None:
    before = hash_of(make_episodes(), tmp_path / "cache")
    with pytest.raises(UserError):
        pack([make_episode(0)], make_info(), tmp_path / "cache", "f")
    assert open_packed(tmp_path / "cache").content_hash == before


# --- action bounds ---------------------------------------------------------------------------------------------------


def with_actions(*rows: tuple[float, float]) -> Episode:
    return dataclasses.replace(make_episode(len(rows)), actions=np.array(rows))


def test_actions_out_of_bounds_are_refused(tmp_path: Path) -> None:
    episodes = [with_actions((0.0, 1.5), (-3.0, 2.0)), with_actions((0.5, 0.5), (1.0, -1.0))]
    message = r"dataset toy/data-v0, actions: 2 of 4 lie outside the action space, by up to 2; .*clip_actions=true"
    assert_refused(episodes, make_info(), message, tmp_path)


def test_actions_out_of_bounds_can_be_clipped(tmp_path: Path) -> None:
    info = make_info(low=[-1.0, 0.0], high=[1.0, 0.5])
    pack([with_actions((0.0, 1.5), (-3.0, -2.0), (0.5, 0.25))], info, tmp_path / "cache", "f", clip_actions=True)
    assert open_packed(tmp_path / "cache").actions.tolist() == [[0.0, 0.5], [-1.0, 0.0], [0.5, 0.25]]


def test_rounding_at_a_bound_is_no_fault(tmp_path: Path) -> None:
    info = make_info(low=[-0.1, -0.1], high=[0.1, 0.1])
    pack([with_actions((float(np.float32(0.1)), -0.1))], info, tmp_path / "cache", "f")


def test_without_bounds_every_action_is_inside(tmp_path: Path) -> None:
    info = make_info(low=[-np.inf, -np.inf], high=[np.inf, np.inf])
    pack([with_actions((1e6, -1e6))], info, tmp_path / "cache", "f")
    assert open_packed(tmp_path / "cache").actions.tolist() == [[1e6, -1e6]]


# --- the cache -------------------------------------------------------------------------------------------------------


class Source:
    """Counts how often the cache is built."""

    def __init__(self, success: bool | None = None) -> None:
        self.builds, self.success = 0, success

    def __call__(self) -> tuple[Iterable[Episode], DatasetInfo]:
        self.builds += 1
        return make_episodes(self.success), make_info()


def test_a_cache_is_built_once(tmp_path: Path) -> None:
    source = Source()
    first = load_or_pack(tmp_path / "deep" / "cache", "f", source)
    second = load_or_pack(tmp_path / "deep" / "cache", "f", source)
    assert source.builds == 1
    assert first.content_hash == second.content_hash


def test_another_fingerprint_rebuilds(tmp_path: Path) -> None:
    source = Source()
    load_or_pack(tmp_path / "cache", "f", source)
    load_or_pack(tmp_path / "cache", "g", source)
    assert source.builds == 2
    load_or_pack(tmp_path / "cache", "g", source)
    assert source.builds == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"\x00" * path.stat().st_size)


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def spoil_header(path: Path) -> None:
    """What is left parses neither as a literal nor, as NumPy tries then, as Python's tokens."""
    path.write_bytes(path.read_bytes().replace(b"}", b" "))


def claim_too_much(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"(", b"(99999999999999999999, ", 1))


ARRAYS = ["observations.npy", "actions.npy", "rewards.npy", "final_observations.npy", "offsets.npy", "terminated.npy"]


FILES = ["packed.json", *ARRAYS, "successes.npy"]
DAMAGES = [(name, damage) for name in FILES for damage in (truncate, empty, overwrite, flip, spoil_header, Path.unlink)]
DAMAGES += [(name, claim_too_much) for name in FILES[1:]]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_cache_is_rebuilt(name: str, damage: Callable[[Path], object], tmp_path: Path) -> None:
    source = Source(success=True)
    content_hash = load_or_pack(tmp_path / "cache", "f", source).content_hash
    damage(tmp_path / "cache" / name)
    repaired = load_or_pack(tmp_path / "cache", "f", source)
    assert source.builds == 2
    assert repaired.content_hash == content_hash
    assert repaired.successes is not None
    assert repaired.successes.tolist() == [True] * 3
    assert repaired.offsets.tolist() == [0, 5, 6, 9]


def test_another_format_is_rebuilt(tmp_path: Path) -> None:
    source = Source()
    load_or_pack(tmp_path / "cache", "f", source)
    path = tmp_path / "cache" / "packed.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": -1}))
    load_or_pack(tmp_path / "cache", "f", source)
    assert source.builds == 2


def test_a_failed_build_leaves_no_cache(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load_or_pack(tmp_path / "cache", "f", lambda: ([], make_info()))
    assert not (tmp_path / "cache").exists()
    assert load_or_pack(tmp_path / "cache", "f", Source()).steps == 9


def test_the_fingerprint_follows_files_and_options(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    first.write_text("a")
    second.write_text("b")
    original = fingerprint_of([first, second], "keep")
    assert fingerprint_of([second, first], "keep") == original
    assert fingerprint_of([first, second], "drop") != original
    assert fingerprint_of([first], "keep") != original
    os.utime(first, ns=(0, 0))
    assert fingerprint_of([first, second], "keep") != original


OTHER_INFO = {
    "action_low": [-2.0, -1.0],
    "action_high": [1.0, 3.0],
    "fps": 20.0,
    "environment": EnvironmentSpec("Hopper-v5"),
    "reference_scores": ReferenceScores(-20.0, 3000.0, "D4RL"),
    "observation_parts": [Part(("a",), (3,))],
}


@pytest.mark.parametrize("field", OTHER_INFO)
def test_joined_datasets_have_the_description_of_today(field: str, tmp_path: Path) -> None:
    pack(make_episodes(), make_info(), tmp_path / "part", "f")
    part = open_packed(tmp_path / "part")
    before = joined("a+b", [part, part], tmp_path)
    part = dataclasses.replace(part, info=dataclasses.replace(part.info, **{field: OTHER_INFO[field]}))
    after = joined("a+b", [part, part], tmp_path)
    assert getattr(after.info, field) == OTHER_INFO[field] != getattr(before.info, field)
    assert after.content_hash == before.content_hash


@pytest.mark.parametrize(
    ("field", "values", "note"),
    [
        (
            "environment",
            (EnvironmentSpec("Hopper-v5"), EnvironmentSpec("Walker2d-v5")),
            "environment is .* Hopper-v5.* Walker2d",
        ),
        ("fps", (10.0, 50.0), r"number of steps per second is that of first, 10\.0; that of second is 50\.0"),
        ("fps", (10.0, 10.0), None),
        ("fps", (None, 10.0), None),
        ("environment", (EnvironmentSpec("Hopper-v5"), None), None),
        (
            "environment",
            (EnvironmentSpec("Lift", {"a": 1, "b": 2, "c": 3}, 500), EnvironmentSpec("Lift", {"a": 1, "b": 0, "d": 3})),
            r"environment is that of first, Lift; that of second has other b, c, d, max_episode_steps",
        ),
        (
            "environment",
            (
                EnvironmentSpec("Hopper-v5", {"render_mode": "human"}),
                EnvironmentSpec("Hopper-v5", {}, None, (Wrapper("Monitor"),)),
            ),
            r"has other wrappers",
        ),
        ("environment", (EnvironmentSpec("Hopper-v5", {"render_mode": "human"}), EnvironmentSpec("Hopper-v5")), None),
    ],
)
def test_joined_datasets_say_what_is_the_first_s(field: str, values: tuple[Any, Any], note: str | None, tmp_path: Path) -> None:
    pack(make_episodes(), make_info(), tmp_path / "part", "f")
    part = open_packed(tmp_path / "part")
    each = [
        dataclasses.replace(part, info=dataclasses.replace(part.info, id=name, **{field: value}))
        for name, value in zip(("first", "second"), values, strict=True)
    ]
    for _ in range(2):  # packed, and as it is opened again
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert getattr(joined("a+b", each, tmp_path).info, field) == values[0]
        lines = [str(warning.message) for warning in said]
        assert len(lines) == (note is not None)
        assert note is None or re.search(note, lines[0])


def test_joined_groups_have_the_names_of_today(tmp_path: Path) -> None:
    for name in ("expert", "novice"):
        episodes = [dataclasses.replace(episode, groups=(name,)) for episode in make_episodes()]
        pack(episodes, dataclasses.replace(make_info(), groups=[name]), tmp_path / "part", "f")
        data = joined("a+b", [open_packed(tmp_path / "part")] * 2, tmp_path)
        assert (data.info.groups, data[0].groups) == ([name], (name,))


def test_infinite_bounds_count_nothing_and_warn_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    bounds = ActionBounds(make_info(low=[-np.inf, -1.0], high=[np.inf, np.inf]))
    bounds.watch(np.array([[1e30, 5.0], [-1e30, -1.5]]))
    assert (bounds.outside, bounds.total, bounds.farthest) == (1, 2, 0.5)
    assert bounds.clip(np.array([[1e30, -7.0]])).tolist() == [[1e30, -1.0]]
    assert not recwarn.list


# --- large data ------------------------------------------------------------------------------------------------------


def test_large_data_is_told_by_size_and_modification_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iwbc.data.packed._LARGE", 100)
    folder = tmp_path / "cache"

    def load() -> Trajectories:
        return load_or_pack(folder, "f", lambda: (make_episodes(), make_info()))

    first = load()
    hashed: list[object] = []
    monkeypatch.setattr("iwbc.data.packed.content_hash", lambda arrays: hashed.append(arrays) or first.content_hash)
    with pytest.warns(DataWarning, match="told by size and modification time; iwbc verify hashes the content"):
        assert load().content_hash == first.content_hash
    assert not hashed
    os.utime(folder / "rewards.npy")
    assert load().content_hash == first.content_hash
    assert len(hashed) == 1
