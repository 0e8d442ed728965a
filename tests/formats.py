"""Stand-ins of robot-learning formats, each written as the format's documentation lays it out, with h5py, pyarrow, NumPy and
zarr alone; and the episodes that they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COUNT = 12  # HDF5 lists demo_10 and demo_11 before demo_2
TASKS = ("pick the cube", "open the drawer")
MASKS = {"better": [0, 3, 10], "worse": [1, 2], "train": [*range(10)], "better_train": [0, 3]}


@dataclass(frozen=True)
class Truth:
    """An episode of T steps: states [T + 1, 5], actions [T, 2] within ±1, a success or none, a task."""

    states: np.ndarray
    actions: np.ndarray
    success: bool
    task: str

    @property
    def steps(self) -> int:
        return len(self.actions)

    @property
    def rewards(self) -> np.ndarray:
        rewards = np.zeros(self.steps)
        rewards[-1] = self.success
        return rewards

    @property
    def last(self) -> np.ndarray:
        """Flags [T] that are true at the last step alone."""
        return np.arange(self.steps) == self.steps - 1


def truths(count: int = COUNT) -> list[Truth]:
    """Episodes whose every number says where it belongs; float32 holds all of them."""
    made = []
    for index in range(count):
        steps = 3 + index % 4
        states = 100.0 * index + np.arange(steps + 1)[:, None] + np.arange(5) / 8
        actions = np.stack([np.linspace(-1, 1, steps), np.full(steps, index / 16)], 1).astype(np.float32).astype(np.float64)
        made.append(Truth(states, actions, index % 3 == 0, TASKS[index % 2]))
    return made


def write_robomimic(
    path: Path, episodes: Sequence[Truth], next_obs: bool = True, change: Callable[[h5py.File], None] | None = None
) -> Path:
    """robomimic: dataset_states_to_obs.py's file, with filter keys."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(episode.steps for episode in episodes)
        kwargs = {"control_freq": 20, "robots": ["Panda"]}
        data.attrs["env_args"] = json.dumps({"env_name": "NutAssemblySquare", "type": 1, "env_kwargs": kwargs})
        for index, episode in enumerate(episodes):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = episode.steps
            demo.attrs["model_file"] = "<mujoco/>"
            demo["actions"], demo["rewards"] = episode.actions, episode.rewards
            demo["dones"] = episode.last.astype(np.int64)
            demo["states"] = episode.states[:-1]
            for name, states in (("obs", episode.states[:-1]), ("next_obs", episode.states[1:])):
                if name == "obs" or next_obs:
                    demo[f"{name}/robot0_eef_pos"], demo[f"{name}/object"] = states[:, 2:], states[:, :2]
                    demo[f"{name}/robot0_joint_pos"] = -states
        for name, members in MASKS.items():
            file[f"mask/{name}"] = np.array([f"demo_{index}".encode() for index in members if index < len(episodes)])
        if change is not None:
            change(file)
    return path


def lerobot_actions(episode: Truth) -> np.ndarray:
    """Actions in the robot's own units."""
    return (90 * episode.actions).astype(np.float32)


def write_lerobot(
    folder: Path,
    episodes: Sequence[Truth],
    version: str = "v3.0",
    labels: Sequence[str] = ("next.reward", "next.done", "next.success"),
    per_file: int = 5,
    features: dict[str, Any] | None = None,
    columns: Callable[[dict[str, Any]], dict[str, Any]] = lambda columns: columns,
) -> Path:
    """LeRobotDataset: v3.0 of several episodes a file, or v2.1 or v2.0 of one. `columns` changes those of each file."""
    kinds = dict.fromkeys(("next.done", "next.truncated", "next.success", "is_episode_successful"), "bool")
    kinds["next.reward"] = "float32"
    described: dict[str, Any] = {
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        "observation.state": {"dtype": "float32", "shape": [3], "names": None},
        "observation.environment_state": {"dtype": "float32", "shape": [2], "names": None},
        **{name: {"dtype": kinds[name], "shape": [1], "names": None} for name in labels},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{
            name: {"dtype": "int64", "shape": [1], "names": None}
            for name in ("frame_index", "episode_index", "index", "task_index")
        },
        **(features or {}),
    }
    v3 = version == "v3.0"
    starts = np.cumsum([0, *(episode.steps for episode in episodes)])
    rows: list[dict[str, Any]] = []
    groups = [range(i, min(i + (per_file if v3 else 1), len(episodes))) for i in range(0, len(episodes), per_file if v3 else 1)]
    for number, indices in enumerate(groups):
        some = [episodes[i] for i in indices]

        def vectors(arrays: Sequence[np.ndarray]) -> pa.Array:
            array = np.concatenate(arrays).astype(np.float32)
            return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])

        values = {
            "action": vectors([lerobot_actions(episode) for episode in some]),
            "observation.state": vectors([episode.states[:-1, 2:] for episode in some]),
            "observation.environment_state": vectors([episode.states[:-1, :2] for episode in some]),
            "next.reward": pa.array(np.concatenate([episode.rewards for episode in some]).astype(np.float32)),
            "next.done": pa.array(np.concatenate([episode.last for episode in some])),
            "next.truncated": pa.array(np.concatenate([episode.last & (not episode.success) for episode in some])),
            "next.success": pa.array(np.concatenate([episode.last & episode.success for episode in some])),
            "is_episode_successful": pa.array(np.concatenate([np.full(episode.steps, episode.success) for episode in some])),
            "timestamp": pa.array(np.concatenate([np.arange(episode.steps) / 10 for episode in some]).astype(np.float32)),
            "frame_index": pa.array(np.concatenate([np.arange(episode.steps) for episode in some])),
            "episode_index": pa.array(np.concatenate([np.full(episodes[i].steps, i) for i in indices])),
            "index": pa.array(np.arange(starts[indices[0]], starts[indices[-1] + 1])),
            "task_index": pa.array(np.concatenate([np.full(episode.steps, TASKS.index(episode.task)) for episode in some])),
        }
        values = {name: values[name] for name in described if name in values}
        name = f"file-{number:03d}" if v3 else f"episode_{number:06d}"
        path = folder / "data" / "chunk-000" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns(values)), path, compression="snappy", row_group_size=4)
        for i in indices:
            rows.append({"episode_index": i, "tasks": [episodes[i].task], "length": episodes[i].steps})
            if v3:
                places = {"dataset_from_index": int(starts[i]), "dataset_to_index": int(starts[i + 1])}
                rows[-1] |= places | {"data/chunk_index": 0, "data/file_index": number}
                rows[-1] |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}

    def stats(some: Sequence[Truth]) -> dict[str, Any]:
        actions = np.concatenate([lerobot_actions(episode) for episode in some])
        named = {"min": actions.min(0), "max": actions.max(0), "mean": actions.mean(0), "std": actions.std(0)}
        return {"action": {name: value.tolist() for name, value in named.items()} | {"count": [len(actions)]}}

    info = {
        "codebase_version": version,
        "robot_type": "so101",
        "total_episodes": len(episodes),
        "total_frames": int(starts[-1]),
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "fps": 10,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if v3
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": None,
        "features": described,
    }
    info |= {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200} if v3 else {"total_chunks": 1, "total_videos": 0}
    meta = folder / "meta"
    meta.mkdir()
    (meta / "info.json").write_text(json.dumps(info))
    if v3:
        path = meta / "episodes" / "chunk-000" / "file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        table = pa.table({"task_index": pa.array(range(len(TASKS))), "task": pa.array(TASKS)})
        kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
        index = [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, (kind, numpy) in kinds.items()
        ]
        pandas = {"index_columns": ["task"], "columns": index, "column_indexes": [], "pandas_version": "2.0.0"}
        pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), meta / "tasks.parquet")
    else:
        (meta / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tasks = [{"task_index": index, "task": task} for index, task in enumerate(TASKS)]
        (meta / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tasks))
    if version == "v2.1":
        each = [{"episode_index": index, "stats": stats([episode])} for index, episode in enumerate(episodes)]
        (meta / "episodes_stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    else:
        (meta / "stats.json").write_text(json.dumps(stats(episodes)))
    return folder


def write_maniskill(
    path: Path,
    episodes: Sequence[Truth],
    nested: bool = True,
    change: Callable[[h5py.File, dict[str, Any]], None] | None = None,
) -> Path:
    """ManiSkill: what its RecordEpisode writes, with observations."""
    info: dict[str, Any] = {
        "env_info": {
            "env_id": "PickCube-v1",
            "env_kwargs": {"obs_mode": "state", "control_mode": "pd_ee_delta_pose", "sim_config": {"control_freq": 20}},
            "max_episode_steps": 50,
        },
        "commit_info": None,
        "episodes": [],
        "source_type": "rl",
    }
    with h5py.File(path, "w") as file:
        for index, episode in enumerate(episodes):
            group = file.create_group(f"traj_{index}")
            group["actions"] = episode.actions.astype(np.float32)
            states = episode.states.astype(np.float32)
            if nested:
                group["obs/agent/qpos"], group["obs/extra/goal"] = states[:, :2], states[:, 2:4]
                group["obs/extra/near"] = states[:, 4]
            else:
                group["obs"] = states
            group["rewards"] = episode.rewards.astype(np.float32)
            group["terminated"] = episode.last & episode.success
            group["truncated"] = episode.last & (not episode.success)
            group["success"], group["fail"] = episode.last & episode.success, np.zeros(episode.steps, bool)
            group["env_states/actors/cube"] = np.zeros((episode.steps + 1, 13), np.float32)
            info["episodes"].append(
                {
                    "episode_id": index,
                    "episode_seed": index,
                    "control_mode": "pd_ee_delta_pose",
                    "elapsed_steps": episode.steps,
                    "reset_kwargs": {},
                    "success": episode.success,
                    "fail": False,
                }
            )
        if change is not None:
            change(file, info)
    path.with_suffix(".json").write_text(json.dumps(info))
    return path


def write_ogbench(path: Path, episodes: Sequence[Truth], **changes: Any) -> Path:
    """OGBench: T + 1 rows for each episode, of whose last the action leads nowhere."""
    arrays = {
        "observations": np.concatenate([episode.states for episode in episodes]).astype(np.float32),
        "actions": np.concatenate([[*episode.actions, [0.5, -0.5]] for episode in episodes]).astype(np.float32),
        "terminals": np.concatenate([[0.0] * episode.steps + [1.0] for episode in episodes]).astype(np.float32),
        "qpos": np.concatenate([episode.states for episode in episodes]),
        "qvel": np.concatenate([episode.states for episode in episodes]),
    }
    np.savez_compressed(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return path


def write_zarr(folder: Path, episodes: Sequence[Truth], version: int = 2, **changes: Any) -> Path:
    """Diffusion Policy's folder of arrays."""
    import zarr

    arrays = {
        "data/action": np.concatenate([lerobot_actions(episode) for episode in episodes]),
        "data/state": np.concatenate([episode.states[:-1] for episode in episodes]).astype(np.float32),
        "data/img": np.zeros((sum(episode.steps for episode in episodes), 4, 4, 3), np.uint8),
        "meta/episode_ends": np.cumsum([episode.steps for episode in episodes]),
    }
    root = zarr.open_group(folder, mode="w", zarr_format=version)
    for name, values in (arrays | changes).items():
        if values is not None:
            made = root.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(7, *values.shape[1:]))
            made[...] = values
    return folder
