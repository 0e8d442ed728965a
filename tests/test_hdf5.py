"""HDF5 datasets that are made of other files, or reached through them, are refused by name; links within one are not."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import formats
import h5py
import numpy as np
import pytest
from helpers import seven_steps

import iwbc
from iwbc.data.hdf5 import check_links
from iwbc.data.minari_folder import dataset_folder
from iwbc.errors import DataWarning, UserError

Change = Callable[[h5py.Group, str, Path], None]


def take(group: h5py.Group, name: str) -> np.ndarray:
    values = group[name][()]
    del group[name]
    return values


def elsewhere(group: h5py.Group, name: str, other: Path) -> np.ndarray:
    """Move a dataset to another file."""
    values = take(group, name)
    with h5py.File(other, "w") as file:
        file["values"] = values
    return values


def virtual(group: h5py.Group, name: str, other: Path) -> None:
    values = elsewhere(group, name, other)
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource(other, "values", values.shape, values.dtype)
    group.create_virtual_dataset(name, layout)


def virtual_within(group: h5py.Group, name: str, other: Path) -> None:
    values = take(group, name)
    group.file["within"] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource(".", "within", values.shape, values.dtype)
    group.create_virtual_dataset(name, layout)


def stored_outside(group: h5py.Group, name: str, other: Path) -> None:
    values = take(group, name)
    other.write_bytes(values.tobytes())
    group.create_dataset(name, values.shape, values.dtype, external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def linked(group: h5py.Group, name: str, other: Path) -> None:
    elsewhere(group, name, other)
    group[name] = h5py.ExternalLink(other, "values")


def linked_to_nothing(group: h5py.Group, name: str, other: Path) -> None:
    take(group, name)
    group[name] = h5py.ExternalLink(other, "values")


def linked_to_a_pipe(group: h5py.Group, name: str, other: Path) -> None:
    """Whoever opened it would wait for ever."""
    take(group, name)
    os.mkfifo(other)
    group[name] = h5py.ExternalLink(other, "values")


def linked_softly(group: h5py.Group, name: str, other: Path) -> None:
    linked(group, name, other)
    group.move(name, "hidden")
    group[name] = h5py.SoftLink("hidden")


def linked_through_a_group(group: h5py.Group, name: str, other: Path) -> None:
    elsewhere(group, name, other)
    group.file["outside"] = h5py.ExternalLink(other, "/")
    group[name] = h5py.SoftLink("/outside/values")


OUTSIDE: dict[Change, str] = {
    virtual: "it is a virtual dataset",
    virtual_within: "it is a virtual dataset",
    stored_outside: "its values lie in another file, ",
    linked: " into another file (",
    linked_to_nothing: " into another file (",
    linked_to_a_pipe: " into another file (",
    linked_softly: " leads through the link hidden into another file (",
    linked_through_a_group: " leads through the link outside into another file (",
}


def write(path: Path) -> h5py.File:
    file = h5py.File(path, "w")
    for name, array in seven_steps(infos=None).items():
        if array is not None:
            file[name] = array
    file["infos/success"] = np.zeros(7, bool)
    return file


@pytest.mark.parametrize("change", OUTSIDE, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["observations", "terminations", "infos/success"])
@pytest.mark.parametrize("door", ["load", "convert"])
def test_arrays_of_another_file_are_refused_by_name(
    change: Change, name: str, door: str, tmp_path: Path, datasets: Path
) -> None:
    from iwbc.data.convert import convert

    path = tmp_path / "demo.hdf5"
    with write(path) as file:
        parent, _, last = name.rpartition("/")
        change(file[parent] if parent else file, last, tmp_path / "other.h5")
    with pytest.raises(UserError) as caught:
        iwbc.load(path) if door == "load" else convert(path, "tests/elsewhere-v0")
    assert str(caught.value).startswith(f"{path}, {name}: cannot be read (")
    assert OUTSIDE[change] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(datasets.iterdir()) == []


@pytest.fixture(scope="module", params=["vectors", "dicts"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A Minari dataset of plain vectors, which are read by one way, or of Dicts, by another."""
    import gymnasium as gym
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    box, root = gym.spaces.Box(-1, 1, (2,), np.float32), tmp_path_factory.mktemp("datasets")
    space = box if request.param == "vectors" else gym.spaces.Dict({"observations": box})
    folder = root / "tests" / "one-v0" / "data"
    folder.parent.mkdir(parents=True)
    storage = MinariStorage.new(folder, observation_space=space, action_space=box)
    storage.update_metadata({"dataset_id": "tests/one-v0", "minari_version": version("minari")})
    values = np.zeros((6, 2), np.float32)
    observations = values if request.param == "vectors" else {"observations": values}
    ends = np.arange(5) == 4
    buffer = EpisodeBuffer(
        None, None, None, observations, values[:5], np.zeros(5), ends, ~ends & False, {"success": np.zeros(6)}
    )
    storage.update_episodes([buffer])
    return "tests/one-v0", root


@pytest.mark.parametrize("change", OUTSIDE, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["observations", "rewards", "infos/success", "/episode_0"])
def test_a_minari_dataset_of_another_file_is_refused_by_name(
    change: Change, name: str, dataset: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, root = dataset
    shutil.copytree(root, tmp_path / "datasets")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    iwbc.load(identity)
    with h5py.File(dataset_folder(identity) / "data" / "main_data.hdf5", "r+") as file:
        episode = file["episode_0"]
        if name == "/episode_0":
            if change not in (linked_to_nothing, linked_to_a_pipe):
                pytest.skip("a group is no array")
            del file["episode_0"]
            if change is linked_to_a_pipe:
                os.mkfifo(tmp_path / "other.h5")
            file["episode_0"] = h5py.ExternalLink(tmp_path / "other.h5", "episode_0")
        else:
            where = f"{name}/observations" if isinstance(episode[name], h5py.Group) else name
            parent, _, last = where.rpartition("/")
            change(episode[parent] if parent else episode, last, tmp_path / "other.h5")
    with pytest.raises(UserError) as caught:
        iwbc.load(identity)
    assert str(caught.value).startswith(f"dataset {identity}, episode 0: cannot be read (")
    assert OUTSIDE[change] in str(caught.value)
    assert name.rpartition("/")[2] in str(caught.value) or change is linked_softly  # whose other end may be met first
    assert "\n" not in str(caught.value)


def test_links_within_the_file_are_followed(tmp_path: Path) -> None:
    with write(tmp_path / "plain.hdf5"):
        pass
    with write(tmp_path / "linked.hdf5") as file:
        file.move("observations", "deep/er/values")
        file["observations"] = h5py.SoftLink("/deep/link")
        file["deep/link"] = h5py.SoftLink("./er/values")
        file.move("actions", "hard")
        file["actions"] = file["hard"]
        file.move("infos", "other")
        file["infos"] = h5py.SoftLink("other")
    plain, other = (iwbc.load(tmp_path / f"{name}.hdf5") for name in ("plain", "linked"))
    assert plain.content_hash == other.content_hash
    assert other.successes is not None


def test_links_in_circles_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "demo.hdf5"
    with write(path) as file:
        del file["observations"]
        file["observations"] = h5py.SoftLink("/round")
        file["round"] = h5py.SoftLink("observations")
    with pytest.raises(UserError, match=r"demo.hdf5, observations: cannot be read .* leads round in circles"):
        iwbc.load(path)


def test_a_missing_name_is_not_a_link(tmp_path: Path) -> None:
    with write(tmp_path / "demo.hdf5") as file:
        file["dangling"] = h5py.SoftLink("/nowhere/at/all")
        for path in (b"nothing", b"infos/nothing", b"observations/deeper", b"dangling", b"", b"/infos//success"):
            check_links(file["/"].id, path)


def hollow(group: h5py.Group, name: str, chunks: bool = True, compression: str | None = None) -> None:
    """Leave the second half of a dataset unwritten, or all of it where it has no chunks."""
    values = take(group, name)
    rows = max(1, len(values) // 2)
    kept = group.create_dataset(
        name, values.shape, values.dtype, chunks=(rows, *values.shape[1:]) if chunks else None, compression=compression
    )
    if chunks:
        kept[:rows] = values[:rows]


@pytest.mark.parametrize(
    ("chunks", "compression", "part"), [(True, None, "2 of 3 chunks"), (True, "gzip", "2 of 3 chunks"), (False, None, "all")]
)
@pytest.mark.parametrize("door", ["load", "convert", "again"])
def test_what_was_never_written_is_told(
    door: str, chunks: bool, compression: str | None, part: str, tmp_path: Path, datasets: Path
) -> None:
    from iwbc.data.convert import convert

    path = tmp_path / "demo.hdf5"
    with write(path) as file:
        hollow(file, "observations", chunks, compression)
    if door == "again":
        iwbc.load(path)
    with pytest.warns(DataWarning, match=rf"in an array a part was never written, .*\(the first is /observations, {part}"):
        data = convert(path, "tests/hollow-v0") if door == "convert" else iwbc.load(path)
    assert not data.observations[3:].any()


@pytest.mark.parametrize("kind", ["robomimic", "maniskill", "minari"])
def test_what_was_never_written_of_episodes_is_counted(
    kind: str, tmp_path: Path, dataset: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = formats.truths(4)
    if kind == "minari":
        name, root = dataset
        shutil.copytree(root, tmp_path / "datasets")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
        path, source, places = (
            dataset_folder(name) / "data" / "main_data.hdf5",
            name,
            ["episode_0/actions", "episode_0/rewards"],
        )
    elif kind == "robomimic":
        path = source = formats.write_robomimic(tmp_path / "demo.hdf5", episodes)
        places = ["data/demo_1/obs/object", "data/demo_1/next_obs/object", "data/demo_2/actions", "data/demo_3/rewards"]
    else:
        path = source = formats.write_maniskill(tmp_path / "trajectory.h5", episodes)
        places = ["traj_1/obs/extra/goal", "traj_2/actions", "traj_2/success", "traj_3/rewards"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        iwbc.load(source)
    assert "never written" not in " ".join(str(warning.message) for warning in said)
    with h5py.File(path, "r+") as file:
        for place in places:
            parent, _, last = place.rpartition("/")
            hollow(file[parent], last)
    with pytest.warns(DataWarning, match=rf"in {len(places)} of its arrays a part was never written.* \(the first is "):
        data = iwbc.load(source)
    (note,) = [note for note in data.info.notes if "never written" in note]
    assert "chunks); " in note
    assert iwbc.load(source).info.notes == data.info.notes
