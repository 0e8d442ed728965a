"""LeRobotDataset v3.0, v2.1 and v2.0 → episodes.

    meta/info.json                  codebase_version, fps, features {name: {dtype, shape}}, total_episodes, total_frames
    data/chunk-*/*.parquet          a row for each frame: action, observation.…, episode_index, frame_index;
                                    optional: next.reward, next.done, next.truncated, next.success (ports:
                                    is_episode_successful); success of an episode may stand in meta/episodes, too
    v3.0: meta/episodes/**.parquet  episode_index, length, dataset_from_index, dataset_to_index, tasks
          meta/stats.json           {feature: {min, max, …}}
    v2.x: meta/episodes.jsonl       {episode_index, length, tasks} on a line each
          meta/episodes_stats.jsonl {episode_index, stats: {feature: {min, max, …}}}; v2.0 has meta/stats.json
    meta/tasks.parquet or .jsonl    task_index and task, the text, which pandas writes as the table's index

An episode is the frames of its episode_index, in whichever file they lie. Its tasks are those of its frames' task_index, which
LeRobot trains on, and those of meta/episodes where the frames tell none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc.data.checks import notes_of_rewards
from iwbc.data.formats.reading import (
    NO_FINAL,
    TASK,
    actions_of,
    bounds,
    chosen_keys,
    flags_of,
    images_note,
    mapping,
    missing_key,
    none_usual,
    part_of,
    printable,
    reading,
    rewards_of,
    rows,
    successes_of,
    unused_note,
    vectors,
    widened,
)
from iwbc.data.trajectories import DatasetInfo, Episode
from iwbc.environments.spaces import Part
from iwbc.errors import UserError
from iwbc.settings import LeRobot
from iwbc.system.files import parse_json, read_json
from iwbc.system.progress import tracked

# Bump when reading the same files gives other episodes, or notes, than before.
READER = 5
_VERSIONS = ("v2.0", "v2.1", "v3.0")
_USUAL = ("observation.state", "observation.environment_state")
_SUCCESS = ("next.success", "is_episode_successful")
_SUCCESS_SAID = ("success", "is_episode_successful")  # in meta/episodes, where recorders may write it
_ENDS = ("next.done", "next.truncated")
_PICTURES = ("image", "video")
# Columns of every dataset that are no observations.
_INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
# More tasks than this are no groups: they would take a column each.
_MOST_TASKS = 1000
_SHORT = 80  # of tasks that a note names
_ROWS_AT_ONCE = 65_536
# Share of a step by which timestamps may differ from fps: clocks of robots are not exact.
_MOST_OFF = 0.05


@dataclass(frozen=True)
class _Said:
    """The claims of meta/ about an episode: its number of frames, its place among all frames (None in v2.x), its tasks, and
    whether it succeeded (None: unknown)."""

    length: int
    place: tuple[int, int] | None
    tasks: tuple[str, ...]
    success: bool | None = None


def files(path: Path) -> list[Path]:
    """List the files that a dataset is read from."""
    return [file for folder in ("meta", "data") for file in (path / folder).rglob("*") if file.is_file()]


def read(path: Path, dataset_id: str, settings: LeRobot) -> tuple[Iterator[Episode], DatasetInfo]:
    """Read what meta/ says, and return the episodes and their description.

    Raises UserError, also as the episodes are read, where it is not fit to train on.
    """
    where = f"{path}, meta/info.json"
    with reading(where):
        info = mapping(read_json(path / "meta" / "info.json"), where)
    version, storage = info.get("codebase_version"), info.get("storage_format")
    if storage is not None and str(storage) != "parquet":
        raise UserError(f"{where}: its storage_format is {printable(storage)}; only parquet is read, so write it as that first")
    if version not in _VERSIONS:
        raise UserError(
            f"{where}: its codebase_version is {printable(version)}; read are {', '.join(_VERSIONS)}: convert it with LeRobot "
            "first"
        )
    features = mapping(info.get("features"), f"{where}, features")
    parts = [_part(where, features, key) for key in _chosen(where, features, settings)]
    action_size = _vector(where, features, "action")
    rewarded, label = "next.reward" in features, next((name for name in _SUCCESS if name in features), None)
    fps = info.get("fps")
    if fps is not None and not (isinstance(fps, int | float) and 0 < fps < np.inf):
        raise UserError(f"{where}: its fps is {printable(fps)}, not a number of steps in a second")

    said = _episodes_said(path, version)
    labelled = label is not None or said[0].success is not None
    _check_totals(where, info, said)
    least, largest, notes = _action_bounds(path, version, action_size, settings)
    low, high = bounds(dataset_id, settings, least, largest, action_size)
    each, noted = _tasks(path, version, said, "task_index" in features)
    tasks = sorted({task for episode in each for task in episode})
    if len(tasks) > _MOST_TASKS:
        notes.append(f"its {len(tasks):,} tasks are not kept as groups: at most {_MOST_TASKS:,} are")
        tasks = []
    described = DatasetInfo(
        id=dataset_id,
        environment=None,
        action_low=low,
        action_high=high,
        reference_scores=None,
        observation_parts=parts,
        notes=[*_notes(features, parts), *notes_of_rewards(rewarded, labelled), *notes, NO_FINAL],
        groups=[f"{TASK}{task}" for task in tasks],
        fps=None if fps is None else float(fps),
    )
    if fps is not None and "timestamp" in features:
        described.notes.extend(_notes_of_rate(path, float(fps)))
    described.notes.extend(noted)
    columns = [*(part.name for part in parts), "action", "episode_index", "frame_index"]
    columns += [name for name in ("next.reward", *_ENDS, label) if name is not None and name in features]
    return _episodes(path, dataset_id, said, parts, columns, label, each if tasks else None), described


def _chosen(where: str, features: Mapping[str, Any], settings: LeRobot) -> list[str]:
    keys = chosen_keys(settings.observation_keys) or sorted(key for key in _USUAL if key in features)
    others = [name for name in features if name not in (*_INDICES, "action")]
    if not keys:
        seen = [name for name in others if not name.startswith("next.") and name not in _SUCCESS]
        vectors_there = [printable(name) for name in seen if _is_vector(features[name])]
        raise none_usual(f"{where}: has neither {' nor '.join(_USUAL)}", seen, vectors_there)
    if missing := [key for key in keys if key not in features]:
        raise missing_key(where, missing[0], [printable(name) for name in others if not _is_picture(features[name])])
    return keys


def _is_picture(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("dtype") in _PICTURES


def _is_vector(feature: Any) -> bool:
    return isinstance(feature, dict) and isinstance(feature.get("shape"), list) and len(feature["shape"]) == 1


def _part(where: str, features: Mapping[str, Any], key: str) -> Part:
    feature = mapping(features[key], f"{where}, {key}")
    if _is_picture(feature):
        raise UserError(f"{where}, {key}: images are not read, vectors only; choose others, dataset.observation_keys=[…]")
    return part_of(f"{where}, {key}", [key], (_vector(where, features, key),), np.dtype(str(feature["dtype"])))


def _vector(where: str, features: Mapping[str, Any], key: str) -> int:
    """Return the size of a feature of vectors. Raises UserError where it is missing or none."""
    feature = mapping(features.get(key), f"{where}, feature {key}")
    shape = feature.get("shape")
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int or shape[0] < 1:
        raise UserError(f"{where}, {key}: its shape is {printable(shape)}; need vectors, [n]")
    with reading(f"{where}, {key}"):
        np.dtype(str(feature["dtype"]))
    return int(shape[0])


def _notes(features: Mapping[str, Any], parts: Sequence[Part]) -> list[str]:
    """Name the images, which are skipped, and the observations that were not chosen."""
    used = {part.name for part in parts}
    pictures = [name for name, feature in features.items() if _is_picture(feature)]
    others = [name for name in features if name.startswith("observation.") and name not in (*pictures, *used)]
    return images_note(list(map(printable, pictures))) + unused_note(list(map(printable, others)))


def _notes_of_rate(path: Path, fps: float) -> list[str]:
    """Report the first episode whose timestamps are not those of fps. Data that is damaged is refused as its episodes are
    read."""
    with contextlib.suppress(UserError):
        for index, values in _runs(path, ["episode_index", "frame_index", "timestamp"]):
            stamps = values["timestamp"]
            if stamps.ndim != 1 or stamps.dtype.kind != "f" or len(stamps) < 2:
                continue
            step = float(np.median(np.diff(stamps.astype(np.float64))))
            rounding = 2 * float(np.spacing(np.abs(stamps).max()))
            if abs(step - 1 / fps) > _MOST_OFF / fps + rounding:
                return [
                    f"frames of episode {index} are {step:.4g} s apart, by their timestamps; fps of meta/info.json is {fps:g}, "
                    f"which is {1 / fps:.4g} s, and is taken for the robot's rate"
                ]
    return []


def _tasks(path: Path, version: str, said: Sequence[_Said], indexed: bool) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return each episode's tasks, those of its frames' task_index or else of meta/episodes, fit for a line; and notes on them.
    Data that is damaged is refused as its episodes are read."""
    tasks, texts, notes = [episode.tasks for episode in said], dict[int, str](), list[str]()
    if indexed:
        try:
            texts = _task_texts(path, version)
        except UserError as error:
            notes.append(f"{error}; the tasks that meta/episodes says are taken, not those of the frames' task_index")
    unknown = several = None
    others: list[int] = []
    with contextlib.suppress(UserError):
        for index, values in _runs(path, ["episode_index", "frame_index", "task_index"]) if texts else ():
            if values["task_index"].dtype.kind not in "iu" or not 0 <= index < len(said):
                continue
            seen = np.unique(values["task_index"]).tolist()
            if missing := [number for number in seen if number not in texts]:
                unknown = unknown or (
                    f"frames of episode {index} have task_index {missing[0]}, which meta/tasks does not have; the tasks that "
                    "meta/episodes says are taken"
                )
                continue
            if len(seen) > 1:
                several = several or (
                    f"frames of episode {index} are of several tasks, by their task_index; groups are of whole episodes, and "
                    "it is in the group of each"
                )
            tasks[index] = tuple(texts[number] for number in seen)
            if set(map(printable, tasks[index])) != set(map(printable, said[index].tasks)):
                others.append(index)
    if others:
        first = [", ".join(map(printable, names))[:_SHORT] or "none" for names in (tasks[others[0]], said[others[0]].tasks)]
        notes.append(
            f"frames of {len(others):,} of {len(said):,} episodes are of another task, by task_index and meta/tasks, than "
            f"meta/episodes says (episode {others[0]}: {first[0]}, not {first[1]}); that of the frames is taken, which LeRobot "
            "trains on"
        )
    whole = {task for names in tasks for task in names}
    if merged := len(whole) - len(set(map(printable, whole))):
        notes.append(
            f"{merged:,} of its {len(whole):,} tasks are the same as another up to 500 characters, spaces and signs that are "
            "not printed: they are taken for one group; give them other texts in meta/ where they are to be told apart"
        )
    return [tuple(dict.fromkeys(map(printable, names))) for names in tasks], [*filter(None, (unknown, several)), *notes]


def _task_texts(path: Path, version: str) -> dict[int, str]:
    """Read the texts of meta/tasks by their task_index."""
    from pyarrow import parquet

    file = path / "meta" / ("tasks.parquet" if version == "v3.0" else "tasks.jsonl")
    with reading(str(file)):
        if version != "v3.0":
            return {int(line["task_index"]): str(line["task"]) for line in _lines(file, str(file))}
        table = parquet.read_table(file)
        text = table.column("task" if "task" in table.column_names else "__index_level_0__")  # pandas' index without a name
        if table.column("task_index").to_pylist() != list(range(len(text))):  # LeRobot goes by the row, not by this column
            raise ValueError("its task_index is not 0, 1, 2, … from row to row")
        return dict(enumerate(map(str, text.to_pylist())))


def _lines(file: Path, where: str) -> list[Mapping[str, Any]]:
    """Read the objects of a JSONL file."""
    with reading(where):
        # str.splitlines would split at U+2028, too, which JSON's texts may hold.
        lines = enumerate(file.read_text(encoding="utf-8").split("\n"), start=1)
        return [mapping(parse_json(line), f"{where}, line {number}") for number, line in lines if line.strip()]


def _episodes_said(path: Path, version: str) -> list[_Said]:
    """Read the claims about each episode. Raises UserError unless they are of episodes 0, 1, 2, …, once each."""
    where = f"{path}, meta/episodes"
    if version == "v3.0":
        table = _table(path / "meta" / "episodes", where)
    else:
        where += ".jsonl"
        table = _lines(path / "meta" / "episodes.jsonl", where)
    said: dict[int, _Said] = {}
    labels: dict[int, Any] = {}
    for row in table:
        with reading(where):
            index, tasks = int(row["episode_index"]), row.get("tasks") or ()
            place = (int(row["dataset_from_index"]), int(row["dataset_to_index"])) if version == "v3.0" else None
            names = tuple(map(str, [tasks] if isinstance(tasks, str) else tasks))
            length = int(row["length"])
        if index in said:
            raise UserError(f"{where}: episode {index} is there twice")
        said[index] = _Said(length, place, names)
        labels[index] = next((row[name] for name in _SUCCESS_SAID if row.get(name) is not None), None)
    if not said:
        raise UserError(f"{where}: it holds no episodes")
    if (missing := next((index for index in range(len(said)) if index not in said), None)) is not None:
        raise UserError(f"{where}: episode {missing} is missing")
    total = 0
    for index in range(len(said)):
        episode = said[index]
        if episode.place not in (None, (total, total + episode.length)):
            raise UserError(
                f"{where}, episode {index}: its dataset_from_index and dataset_to_index are {episode.place}, its length "
                f"{episode.length} after {total} frames before it"
            )
        total += episode.length
    successes = successes_of({f", episode {index}": labels[index] for index in range(len(said))}, where, "episodes")
    each = [said[index] for index in range(len(said))]
    return each if successes is None else [replace(e, success=s) for e, s in zip(each, successes, strict=True)]


def _table(folder: Path, where: str) -> list[Mapping[str, Any]]:
    """Read the rows of all parquet files in a folder, without the columns of statistics."""
    from pyarrow import parquet

    table: list[Mapping[str, Any]] = []
    for file in sorted(folder.rglob("*.parquet")):
        with reading(f"{where}: {file.name}"), parquet.ParquetFile(file) as opened:
            names = ["episode_index", "length", "dataset_from_index", "dataset_to_index", "tasks", *_SUCCESS_SAID]
            table += opened.read(columns=[name for name in names if name in opened.schema_arrow.names]).to_pylist()
    return table


def _check_totals(where: str, info: Mapping[str, Any], said: Sequence[_Said]) -> None:
    for name, count in (("total_episodes", len(said)), ("total_frames", sum(episode.length for episode in said))):
        if info.get(name, count) != count:
            raise UserError(f"{where}: its {name} is {printable(info[name])}, but meta/episodes has {count}")


def _action_bounds(
    path: Path, version: str, size: int, settings: LeRobot
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[str]]:
    """Read the least and the largest actions, [size] each, from the statistics; and notes on them."""
    if settings.action_low is not None and settings.action_high is not None:
        return np.full(size, -1.0), np.full(size, 1.0), []  # neither is used
    each_episode = path / "meta" / "episodes_stats.jsonl"
    if version != "v3.0" and each_episode.is_file():
        where = f"{path}, meta/{each_episode.name}"
        stats: list[Any] = [line.get("stats") for line in _lines(each_episode, where)]
    else:
        where = f"{path}, meta/stats.json"
        with reading(
            f"{where}, from which the bounds of actions are taken unless dataset.action_low=… and action_high=… say them"
        ):
            stats = [read_json(path / "meta" / "stats.json")]
    with reading(f"{where}, min and max of action"):
        each = np.array([[stat["action"]["min"], stat["action"]["max"]] for stat in stats], np.float64)
        if each.ndim != 3 or each.shape[1:] != (2, size) or not np.isfinite(each).all() or not len(each):
            raise ValueError(f"they are not {size} finite numbers each")
        low, high = each[:, 0].min(0), each[:, 1].max(0)
        if (low > high).any():
            raise ValueError("the least is larger than the largest")
    return widened(low, high)


def _episodes(
    path: Path,
    dataset_id: str,
    said: Sequence[_Said],
    parts: Sequence[Part],
    columns: Sequence[str],
    label: str | None,
    tasks: Sequence[tuple[str, ...]] | None,
) -> Iterator[Episode]:
    whole = tracked(_runs(path, columns), f"Reading {dataset_id}", len(said))
    expected = 0
    for index, values in whole:
        where = f"{path}, episode {index}"
        if index >= len(said):
            raise UserError(f"{where}: is in data/, but not in meta/episodes")
        if index != expected:
            twice = "is there twice, or out of order" if index < expected else f"comes after {expected - 1}"
            raise UserError(f"{where}: {twice}; data/ must hold episodes 0, 1, 2, … once each")
        steps, expected = len(values["frame_index"]), expected + 1
        if steps != said[index].length:
            raise UserError(f"{where}: has {steps} frames in data/, its length in meta/episodes is {said[index].length}")
        wrong = np.flatnonzero(values["frame_index"] != np.arange(steps))
        if len(wrong):
            raise UserError(
                f"{where}: its frame_index does not count up from 0: frame {wrong[0]} has {values['frame_index'][wrong[0]]}"
            )
        seen = vectors([rows(_columns(values[part.name]), f"{where}, {part.name}", steps, part.shape) for part in parts], steps)
        actions = actions_of(_columns(values["action"]), f"{where}, action")
        success = said[index].success if label is None else bool(flags_of(values[label], f"{where}, {label}", steps).any())
        rewards = rows(values["next.reward"], f"{where}, next.reward", steps) if "next.reward" in values else None
        done, cut = (name in values and bool(flags_of(values[name], f"{where}, {name}", steps)[-1]) for name in _ENDS)
        yield Episode(
            seen,
            seen[-1],
            actions,
            rewards_of(steps, success) if rewards is None else rewards,
            done and not cut,
            success,
            () if tasks is None else tuple(f"{TASK}{task}" for task in tasks[index]),
        )
    if expected < len(said):
        raise UserError(f"{path}, episode {expected}: is in meta/episodes, but not in data/")


def _columns(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return vectors [n, size]: those of size 1 are stored as numbers."""
    return array[:, None] if array.ndim == 1 else array


def _runs(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, npt.NDArray[Any]]]]:
    """Read the data files, in the order of their names, and yield each run of frames of one episode_index."""
    pending: list[dict[str, npt.NDArray[Any]]] = []
    for block in _blocks(path, columns):
        for name in ("episode_index", "frame_index"):
            if block[name].ndim != 1 or block[name].dtype.kind not in "iu":
                raise UserError(f"{path}, data/: its {name} must be whole numbers, not {block[name].dtype}")
        indices = block["episode_index"]
        cuts = np.flatnonzero(np.diff(indices)) + 1
        for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(indices)], strict=True):
            if pending and pending[0]["episode_index"][0] != indices[start]:
                yield _joined(pending)
                pending = []
            pending.append({name: values[start:end] for name, values in block.items()})
    if pending:
        yield _joined(pending)


def _joined(pending: Sequence[Mapping[str, npt.NDArray[Any]]]) -> tuple[int, dict[str, npt.NDArray[Any]]]:
    return int(pending[0]["episode_index"][0]), {
        name: np.concatenate([values[name] for values in pending]) for name in pending[0]
    }


def _blocks(path: Path, columns: Sequence[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Read the columns of all data files in blocks of rows."""
    from pyarrow import parquet

    data = path / "data"
    if not (paths := sorted(data.rglob("*.parquet"))):
        raise UserError(f"{data}: holds no parquet files")
    for file in paths:
        where = f"{data / file.relative_to(data)}"
        with reading(where), parquet.ParquetFile(file) as opened:
            if missing := [name for name in columns if name not in opened.schema_arrow.names]:
                raise UserError(f"{where}: has no {missing[0]}, only {', '.join(map(printable, opened.schema_arrow.names))}")
            batches = opened.iter_batches(_ROWS_AT_ONCE, columns=list(columns))
            while (batch := next(batches, None)) is not None:
                if batch.num_rows:
                    yield {name: _array(batch.column(name), f"{where}, {name}") for name in columns}


def _array(column: Any, where: str) -> npt.NDArray[Any]:
    """Make an array, [n] or [n, size], of a column of numbers or of lists of them."""
    from pyarrow import types

    listed = types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)
    values = column.flatten() if listed else column
    if column.null_count or values.null_count:
        raise UserError(f"{where}: some values are missing")
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    if not listed:
        return array
    size, left = divmod(len(array), len(column))
    lengths = None if types.is_fixed_size_list(column.type) else column.value_lengths().to_numpy(zero_copy_only=False)
    if left or (lengths is not None and (lengths != size).any()):
        raise UserError(f"{where}: its rows differ in length")
    return array.reshape(len(column), size)
