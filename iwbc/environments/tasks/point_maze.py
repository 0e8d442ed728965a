"""Two ways through gymnasium-robotics' PointMaze, one of which takes about as long as there is time."""

from __future__ import annotations

from iwbc.environments.spec import EnvironmentSpec, Wrapper

ENV_ID = "PointMaze_UMaze-v3"
HORIZON = 262  # simulator steps: half of the demonstrators that go the long way arrive in time
MAP = [
    [1, 1, 1, 1, 1, 1, 1],
    [1, 0, 0, 0, 0, 0, 1],
    [1, "r", 1, 1, 1, "g", 1],
    [1, 0, 1, 1, 1, 0, 1],
    [1, 0, 1, 1, 1, 0, 1],
    [1, 0, 0, 0, 0, 0, 1],
    [1, 1, 1, 1, 1, 1, 1],
]


def point_maze(horizon: int | None = None) -> EnvironmentSpec:
    """Describe the maze: from the cell r to the goal in g, 6 cells by the short way and 10 by the long way, in `horizon`
    simulator steps.

    Observations [8], flattened: the position (achieved goal), the goal, position and velocity again. Actions [2], in ±1: the
    force.
    """
    return EnvironmentSpec(
        ENV_ID,
        kwargs={"maze_map": MAP, "continuing_task": False, "reset_target": False},
        max_episode_steps=horizon or HORIZON,
        wrappers=(Wrapper("FlattenObservation"),),
        package="gymnasium_robotics",
    )
