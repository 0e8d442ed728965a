"""Curated trajectories → a LeRobotDataset v3.0 of the kept episodes, and weights of frames that lerobot-train applies.

lerobot-train weighs frames by a table of progress (RA-BC): with p_t the progress of frame t, C the policy's chunk_size and T
the episode's length, δ_t = p_{min(t + C, T − 1)} − p_t, and the frame's weight is 0 where δ_t < 0, 1 where δ_t > κ, and else
clip((δ_t − μ + 2σ) / 4σ, 0, 1), μ and σ being the mean and standard deviation of all δ in the table. `progress_table` writes
any weights y in [0, 1] so: as p falls by y at every C-th frame from the episode's end, δ_t is y, at every frame but the last,
and rows beyond the data, which are never drawn, bring μ to ½ and σ to ¼. Then the weight is y, for any κ above 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iwbc.data.checks import leave_out_images
from iwbc.data.curated import Curated
from iwbc.data.formats.reading import TASK
from iwbc.environments.spaces import entry_names
from iwbc.errors import UserError, warn
from iwbc.system.files import appearing, parse_json, write_csv, write_json
from iwbc.system.progress import tracked

Array = npt.NDArray[Any]

PROGRESS = "sarm_progress.parquet"  # where lerobot-train looks for the table, in the dataset's folder
STATE, ENVIRONMENT_STATE = "observation.state", "observation.environment_state"
_VERSION = "v3.0"
_FILES, _MEGABYTES = 1000, 100  # files in a chunk, and the size of a file
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_EPISODES_AT_ONCE = 200  # whose descriptions are kept in memory
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class _Feature:
    """A column of the table of frames: its type, its size, the names of its entries, and where it lies in the data."""

    dtype: str
    size: int = 1
    names: list[str] | None = None
    columns: tuple[int, ...] = ()  # of observations


def write_lerobot(
    curated: Curated,
    out: Path,
    *,
    fps: float,
    task: str | None = None,
    environment_state: Sequence[str] = (),
    chunk: int = 50,
) -> None:
    """Write the kept trajectories as a LeRobotDataset v3.0 to the folder `out`, which appears whole or not at all.

    Frames hold observation.state [obs] and action [act] as float32, next.reward, next.done (at the last frame of an episode),
    next.truncated (there, where the environment did not end it) and, where they are labelled, next.success (there). The
    observation after the last action has no place. fps: frames in a second. task: that of episodes whose groups tell none
    (default: the dataset's id). environment_state: the parts of observations that become observation.environment_state
    instead of observation.state; `all` puts the whole vector in both. chunk: the chunk_size of the policy that is to train on
    the folder's sarm_progress.parquet. curation.csv tells each episode's number in the dataset, its weight and its groups.

    Raises UserError where observations have no such part, OSError where the folder cannot be written. Gives a DataWarning
    where an episode has several tasks, of which a frame can have one, and where a vector has one entry.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data, kept = curated.trajectories, curated.kept
    leave_out_images(data.info, data.observations.shape[1])
    features = _features(curated, environment_state)
    if single := [name for name in (STATE, ENVIRONMENT_STATE, "action") if name in features and features[name].size == 1]:
        warn(
            f"dataset {curated.trajectories.info.id}: {' and '.join(single)} has 1 entry, which lerobot reads as a number and "
            "not as a vector; its policies need vectors"
        )
    tasks = _tasks(curated, task or data.info.id)
    names = list(dict.fromkeys(tasks))
    schema = pa.schema([(name, _arrow_type(feature)) for name, feature in features.items()])
    with appearing(out) as folder:
        folder.mkdir()
        with _Files(folder, _DATA, schema) as files, _Files(folder, _EPISODES, None) as descriptions:
            rows: list[dict[str, Any]] = []
            for episode, index in enumerate(tracked(kept.tolist(), f"Writing {out.name}", len(kept))):
                start = int(curated.offsets[episode])
                frames = _frames(curated, episode, names.index(tasks[episode]), features, fps)
                place = files.write(pa.table([_arrow(frames[name]) for name in features], schema))
                rows.append(
                    {
                        "episode_index": episode,
                        "tasks": [tasks[episode]],
                        "length": len(data[index].rewards),
                        "dataset_from_index": start,
                        "dataset_to_index": start + len(data[index].rewards),
                        "data/chunk_index": place[0],
                        "data/file_index": place[1],
                        "meta/episodes/chunk_index": 0,
                        "meta/episodes/file_index": 0,
                        **{
                            f"stats/{name}/{key}": value
                            for name in features
                            for key, value in _statistics(frames[name]).items()
                        },
                    }
                )
                if len(rows) == _EPISODES_AT_ONCE or episode == len(kept) - 1:
                    descriptions.write(pa.Table.from_pylist(rows), rotates=False)
                    rows = []
        write_json(folder / "meta" / "info.json", _info(features, curated, fps, len(names)))
        write_json(folder / "meta" / "stats.json", _all_statistics(curated, features, tasks, names, fps))
        pq.write_table(_task_table(names), folder / "meta" / "tasks.parquet")
        pq.write_table(
            progress_table(curated.offsets[:-1], curated.lengths, curated.probabilities / curated.lengths, chunk),
            folder / PROGRESS,
        )
        weights = curated.curation_weights[kept].tolist()
        write_csv(
            folder / "curation.csv",
            [
                {"episode": episode, "original": index, "weight": weight, "groups": "; ".join(data[index].groups)}
                for episode, (index, weight) in enumerate(zip(kept.tolist(), weights, strict=True))
            ],
        )


# --- weights of frames -----------------------------------------------------------------------------------------------------


def progress_table(starts: Array, lengths: Array, weights: Array, chunk: int) -> Any:
    """Make the table of progress by which lerobot-train weighs frames, an Arrow table of index, episode_index and
    progress_sparse.

    starts, lengths, weights: of each episode, [n], the index of its first frame, its number of frames and the weight of each,
    in any unit. chunk: the policy's chunk_size, C of the equation above. A frame's weight in training is proportional to the
    episode's, but that of an episode's last frame is 0. Raises UserError where no episode with weight has a second frame.
    """
    import pyarrow as pa

    steps = lengths - 1.0  # that can have a weight
    total, squares = float((weights * steps).sum()), float((weights**2 * steps).sum())
    if squares == 0.0:
        raise UserError("lerobot weighs a frame by those after it: no episode that is kept has a second one")
    # The unit in which the fewest rows are needed beyond the data, if it leaves all weights below 1.
    values = weights * min(1.0 / weights.max(), total / (2.0 * squares))
    last = len(lengths) + 2  # frames of weight 0: the last ones of the episodes, and of the two beyond the data
    count = float(lengths.sum()) + 2.0
    deviation = float(((values - 0.5) * steps).sum()) - 0.5 * last
    square = float(((values - 0.5) ** 2 * steps).sum()) + 0.25 * last
    # With M rows of deviations u beyond the data: Σu = −deviation and Σu² = (count + M)/16 − square ≥ (Σu)²/M.
    slope = count / 16.0 - square
    rows = 2 * max(1, math.ceil((math.sqrt(slope**2 + deviation**2 / 4.0) - slope) * 4.0))
    mean = -deviation / rows
    spread = math.sqrt(max(0.0, ((count + rows) / 16.0 - square) / rows - mean**2))
    first, end = len(lengths), int((starts + lengths).max())
    half = rows // 2 + 1
    episodes = [
        *zip(range(first), starts.tolist(), lengths.tolist(), values.tolist(), strict=True),
        (first, end, half, 0.5 + mean + spread),
        (first + 1, end + half, half, 0.5 + mean - spread),
    ]
    return pa.table(
        {
            "index": np.concatenate([np.arange(start, start + length) for _, start, length, _ in episodes]),
            "episode_index": np.concatenate([np.full(length, episode) for episode, _, length, _ in episodes]),
            "progress_sparse": np.concatenate([_stairs(length, value, chunk) for _, _, length, value in episodes]),
        }
    )


def _stairs(length: int, step: float, chunk: int) -> npt.NDArray[np.float64]:
    """Return progress that rises by `step` at every chunk-th frame, counted from the last one, where it is 0: [length]."""
    stairs: npt.NDArray[np.float64] = -step * np.ceil(np.arange(length - 1, -1, -1) / chunk)
    return stairs


def write_frame_weights(curated: Curated, original: Path, out: Path, chunk: int) -> None:
    """Write the table of progress for the frames of `original`, the folder of the LeRobotDataset v3.0 that the data are of, to
    the file `out`. Episodes that are not kept have weight 0.

    Raises UserError where the folder holds no such dataset, or one of other episodes; OSError where the file cannot be
    written.
    """
    import pyarrow.parquet as pq

    starts, lengths = _episodes_of(original, curated)
    weights = np.zeros(len(lengths))
    weights[curated.kept] = curated.probabilities / curated.lengths
    with appearing(out) as building:
        pq.write_table(progress_table(starts, lengths, weights, chunk), building)


def _episodes_of(original: Path, curated: Curated) -> tuple[Array, Array]:
    """Read the first frame and the length of each episode of a folder, [n] each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = curated.trajectories
    path = original / "meta" / "info.json"
    try:
        info = parse_json(path.read_text(encoding="utf-8"))
        version = info["codebase_version"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise UserError(f"original={original}: no LeRobotDataset; {path} cannot be used ({reason})") from None
    if version != _VERSION:
        raise UserError(
            f"original={original}: is of version {version}, not {_VERSION}; convert it by "
            "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30"
        )
    columns = ["episode_index", "dataset_from_index", "dataset_to_index"]
    tables = []
    for part in sorted((original / "meta" / "episodes").glob("*/*.parquet")):
        try:
            tables.append(pq.read_table(part, columns=columns))
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            raise UserError(f"{part}: cannot be read ({' '.join(str(error).split())})") from None
    if not tables:
        raise UserError(f"original={original}: holds no meta/episodes/*/*.parquet")
    try:
        episodes, starts, ends = (
            np.concatenate([table[name].to_numpy() for table in tables]).astype(np.int64) for name in columns
        )
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(f"original={original}: its meta/episodes are damaged ({' '.join(str(error).split())})") from None
    order = np.argsort(episodes, kind="stable")
    starts, lengths = starts[order], (ends - starts)[order]
    if not np.array_equal(episodes[order], np.arange(len(data))):
        raise UserError(
            f"original={original}: has {len(episodes)} episodes, dataset {data.info.id} {len(data)}; are they the same?"
        )
    # Without the observation after the last action, a reader may leave out the last action.
    if len(wrong := np.flatnonzero((lengths != data.lengths) & (lengths != data.lengths + 1))):
        raise UserError(
            f"original={original}, episode {wrong[0]}: has {lengths[wrong[0]]} frames, {data.lengths[wrong[0]]} in dataset "
            f"{data.info.id}; are they the same?"
        )
    return starts, lengths


# --- frames ----------------------------------------------------------------------------------------------------------------


def _features(curated: Curated, environment_state: Sequence[str]) -> dict[str, _Feature]:
    """List the columns of the table of frames."""
    info, size = curated.trajectories.info, curated.trajectories.observations.shape[1]
    names = entry_names(info.observation_parts, size)
    state, environment = _columns(curated, environment_state)
    features = {}
    for name, columns in ((STATE, state), (ENVIRONMENT_STATE, environment)):
        if columns:
            features[name] = _Feature("float32", len(columns), [names[column] for column in columns], tuple(columns))
    actions = curated.trajectories.actions.shape[1]
    features["action"] = _Feature("float32", actions, [str(entry) for entry in range(actions)])
    features["next.reward"] = _Feature("float32")
    features |= {name: _Feature("bool") for name in ("next.done", "next.truncated")}
    if curated.trajectories.successes is not None:
        features["next.success"] = _Feature("bool")
    return features | {name: _Feature("float32" if name == "timestamp" else "int64") for name in _COUNTERS}


def _columns(curated: Curated, environment_state: Sequence[str]) -> tuple[list[int], list[int]]:
    """Divide the entries of observations between the state of the robot and that of the environment."""
    info, size = curated.trajectories.info, curated.trajectories.observations.shape[1]
    everything = list(range(size))
    if list(environment_state) == ["all"]:
        return everything, everything
    parts = [part for part in info.observation_parts or () if part.name]
    names = [part.name for part in parts]
    if unknown := [name for name in environment_state if name not in names]:
        of = f"its parts are {', '.join(names)}" if names else "they have no parts; environment_state=all takes all of them"
        raise UserError(f"environment_state={unknown[0]}: no part of the observations of dataset {info.id}; {of}")
    environment: list[int] = []
    start = 0
    for part in parts:
        if part.name in (environment_state or (ENVIRONMENT_STATE,)):
            environment += range(start, start + part.size)
        start += part.size
    return [column for column in everything if column not in set(environment)], environment


def without_task(curated: Curated) -> int:
    """Count the kept episodes whose groups tell no task."""
    return sum(not names for names in _told_tasks(curated))


def without_last_observation(curated: Curated) -> bool:
    """Tell whether the observation after each kept episode's last action is the one before it, as in data that has none."""
    data, kept = curated.trajectories, curated.kept
    last = data.observations[data.first_rows[kept] + data.lengths[kept] - 1]
    return bool(np.array_equal(data.final_observations[kept], last))


def _tasks(curated: Curated, otherwise: str) -> list[str]:
    """Name the task of each kept episode: that of its group, or else `otherwise`."""
    told = _told_tasks(curated)
    if several := sum(len(names) > 1 for names in told):
        warn(
            f"dataset {curated.trajectories.info.id}: {several:,} episodes have several tasks; each is written with that which "
            "is first among the dataset's groups, which need not be the one that it began with"
        )
    return [names[0] if names else otherwise for names in told]


def _told_tasks(curated: Curated) -> list[list[str]]:
    """List the tasks of each kept episode that its groups tell."""
    info, groups = curated.trajectories.info, curated.trajectories.groups
    tasks = {column: name.removeprefix(TASK) for column, name in enumerate(info.groups) if name.startswith(TASK)}
    if groups is None:
        return [[] for _ in curated.kept]
    return [[task for column, task in tasks.items() if groups[index, column]] for index in curated.kept]


def _frames(curated: Curated, number: int, task: int, features: dict[str, _Feature], fps: float) -> dict[str, Array]:
    """Make the columns of a kept episode, [T] or [T, size]; `number` counts the kept ones."""
    episode = curated.trajectories[int(curated.kept[number])]
    steps = len(episode.rewards)
    last = np.arange(steps) == steps - 1
    count = np.arange(steps)
    frames: dict[str, Array] = {
        name: episode.observations[:, feature.columns] for name, feature in features.items() if feature.columns
    }
    frames |= {"action": episode.actions, "next.reward": episode.rewards}
    frames |= {
        "next.done": last,
        "next.truncated": last & (not episode.terminated),
        "next.success": last & bool(episode.success),
    }
    frames |= {"timestamp": (count / fps).astype(np.float32), "frame_index": count, "episode_index": np.full(steps, number)}
    frames |= {"index": curated.offsets[number] + count, "task_index": np.full(steps, task)}
    return {
        name: frames[name][:, 0] if frames[name].ndim == 2 and features[name].size == 1 else frames[name] for name in features
    }


def _arrow_type(feature: _Feature) -> Any:
    import pyarrow as pa

    kind = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}[feature.dtype]
    return kind if feature.size == 1 else pa.list_(kind, feature.size)


def _arrow(values: Array) -> Any:
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).ravel())
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


class _Files:
    """Parquet files that follow each other, with a row group for each table written."""

    def __init__(self, folder: Path, pattern: str, schema: Any) -> None:
        self._folder, self._pattern, self._schema = folder, pattern, schema
        self._number, self._bytes = 0, 0
        self._writer: Any = None

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def write(self, table: Any, rotates: bool = True) -> tuple[int, int]:
        """Append a table; return the chunk and the file in it."""
        import pyarrow.parquet as pq

        if rotates and self._bytes and self._bytes + table.nbytes > _MEGABYTES * 2**20:
            self._close()
            self._number, self._bytes = self._number + 1, 0
        place = divmod(self._number, _FILES)
        if self._writer is None:
            path = self._folder / self._pattern.format(chunk_index=place[0], file_index=place[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            self._schema = self._schema or table.schema
            self._writer = pq.ParquetWriter(path, self._schema, compression="snappy")
        self._writer.write_table(table, row_group_size=len(table))
        self._bytes += table.nbytes
        return place

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


# --- descriptions ----------------------------------------------------------------------------------------------------------


def _statistics(values: Array) -> dict[str, list[float] | list[int]]:
    """Compute lerobot's statistics of a column, [T] or [T, size], over its rows: lists of one number for each entry."""
    columns = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(columns, list(_QUANTILES.values()), axis=0)
    return {
        "min": columns.min(0).tolist(),
        "max": columns.max(0).tolist(),
        "mean": columns.mean(0).tolist(),
        "std": columns.std(0).tolist(),
        "count": [len(columns)],
        **{name: row.tolist() for name, row in zip(_QUANTILES, quantiles, strict=True)},
    }


def _all_statistics(
    curated: Curated, features: dict[str, _Feature], tasks: Sequence[str], names: Sequence[str], fps: float
) -> dict[str, dict[str, Any]]:
    """Compute the statistics of all kept frames, entry by entry, so that no more than one number of each frame is in memory."""
    data, rows = curated.trajectories, curated.rows
    lengths = curated.lengths
    last = np.zeros(curated.steps, np.bool_)
    last[curated.offsets[1:] - 1] = True
    frame = np.arange(curated.steps) - np.repeat(curated.offsets[:-1], lengths)

    def ends(marked: Array) -> Array:
        ending: Array = last & np.repeat(marked, lengths)
        return ending

    def entries(name: str) -> Iterator[Array]:
        if columns := features[name].columns:
            yield from (data.observations[rows, column] for column in columns)
        elif name == "action":
            yield from (data.actions[rows, column] for column in range(data.actions.shape[1]))
        else:
            yield columns_of[name]()

    columns_of: dict[str, Callable[[], Array]] = {
        "next.reward": lambda: data.rewards[rows],
        "next.done": lambda: last,
        "next.truncated": lambda: ends(~data.terminated[curated.kept]),
        "next.success": lambda: ends(np.zeros(0) if data.successes is None else data.successes[curated.kept]),
        "timestamp": lambda: (frame / fps).astype(np.float32),
        "frame_index": lambda: frame,
        "episode_index": lambda: np.repeat(np.arange(len(lengths)), lengths),
        "index": lambda: np.arange(curated.steps),
        "task_index": lambda: np.repeat([names.index(task) for task in tasks], lengths),
    }
    result: dict[str, dict[str, Any]] = {}
    for name in features:
        of_entries = [_statistics(entry) for entry in entries(name)]
        result[name] = {key: [number for each in of_entries for number in each[key]] for key in of_entries[0]}
        result[name]["count"] = [curated.steps]
    return result


def _info(features: dict[str, _Feature], curated: Curated, fps: float, tasks: int) -> dict[str, Any]:
    episodes = len(curated.kept)
    return {
        "codebase_version": _VERSION,
        "robot_type": None,
        "total_episodes": episodes,
        "total_frames": curated.steps,
        "total_tasks": tasks,
        "chunks_size": _FILES,
        "data_files_size_in_mb": _MEGABYTES,
        "video_files_size_in_mb": 200,
        "fps": int(fps) if fps == int(fps) else fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": _DATA,
        "video_path": None,
        "features": {
            name: {"dtype": feature.dtype, "shape": [feature.size], "names": feature.names}
            for name, feature in features.items()
        },
    }


def _task_table(names: Sequence[str]) -> Any:
    """Make the table of tasks, whose index, for pandas, is their text."""
    import pyarrow as pa

    def column(name: str, kind: str, numpy: str) -> dict[str, Any]:
        return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
    }
    table = pa.table({"task_index": pa.array(range(len(names)), pa.int64()), "task": pa.array(names, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
