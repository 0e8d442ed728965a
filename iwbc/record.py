"""Look at a policy: video of the best, the median and the worst of a run's final episodes.

    python -m iwbc.record FOLDER

FOLDER    a finished run's
episodes  how many are played to choose from (default: the run's own number, which are its final episodes)
action    mean or sample (default: the run's first)
format    mp4 or gif (default mp4, which needs the extra video; gif without it)
seconds   of the environment's time that a video shows at most (default 20)
out       the folder to write to (default: videos/ in the run's folder, where the report finds them)
policy    package.module.Name, where the run has a policy of your own
imports   module,module that register its environment or algorithm, where the run needs any

MuJoCo renders without a display by EGL or OSMesa, whichever works; MUJOCO_GL=egl (osmesa, glfw) chooses one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iwbc.errors import UserError, extra
from iwbc.settings import ACTIONS, Settings, setting
from iwbc.system.arguments import at_least, parse, run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from iwbc.environments.spec import EnvironmentSpec
    from iwbc.training.trained import Policies


@dataclass
class Options(Settings):
    run: Path
    episodes: int | None = at_least(1, None)
    action: str | None = setting(None, choices=ACTIONS)
    format: str | None = setting(None, choices=("mp4", "gif"))
    seconds: int = at_least(1, 20)
    out: Path | None = None
    policy: str | None = None
    imports: list[str] = field(default_factory=list)


_FPS = 30  # at most


@dataclass(frozen=True)
class Played:
    """An episode: whose it is, the state it starts from, and what was done in it, [T, act]."""

    seed: int
    episode: int
    start: int
    actions: npt.NDArray[np.floating]
    total: float


def main(arguments: Sequence[str]) -> None:
    """Record a run's videos and print where they are."""
    options = parse(arguments, Options)
    _choose_renderer()

    from rich.console import Console

    from iwbc.runs.folder import RunFolder
    from iwbc.runs.read import open_run
    from iwbc.system.files import write_json

    saved = open_run(options.run, options.imports)
    policies, environment = saved.policies(options.policy), saved.environment(options.imports)
    config, console = saved.config, Console(stderr=True)
    kind = options.format or ("mp4" if _has_ffmpeg() else "gif")
    if kind == "mp4" and not _has_ffmpeg():
        raise UserError(f"format=mp4: {extra('video')}; or take format=gif")
    episodes = options.episodes or config.eval.episodes or 10
    action = options.action or config.eval.actions[0]
    with console.status(f"Playing {episodes} episodes for each seed"):
        played = play_all(policies, environment, episodes, config.eval.seed, action)
    ranked = sorted(played, key=lambda episode: episode.total)
    chosen = {"best": ranked[-1], "median": ranked[len(ranked) // 2], "worst": ranked[0]}
    out = options.out or saved.folder / "videos"
    rows = []
    for name, episode in chosen.items():
        with console.status(f"Rendering the {name} of {len(played)} episodes"):
            frames, rate = frames_of(environment, episode, options.seconds)
            _write(out / f"{name}.{kind}", frames, rate)
        rows.append({"name": name, "file": f"{name}.{kind}", "seed": episode.seed, "episode": episode.episode})
        rows[-1] |= {"return": episode.total, "length": len(episode.actions), "of": len(played), "action": action}
        print(f"{out / f'{name}.{kind}'}  return {episode.total:.1f}, {len(episode.actions)} steps (seed {episode.seed})")
    write_json(out / "videos.json", rows)
    if options.out is None:
        RunFolder(saved.folder).write_page(saved.summary)  # now with the videos


def play_all(policies: Policies, environment: EnvironmentSpec, episodes: int, seed: int, action: str) -> list[Played]:
    """Play the episodes that an evaluation in Gymnasium plays, bit for bit."""
    import numpy as np

    from iwbc.evaluation import Evaluator

    played: list[Played] = []
    evaluator = Evaluator(environment, seed)
    taken: dict[tuple[int, int], list[Any]] = defaultdict(list)
    try:
        evaluation = evaluator.evaluate(policies, episodes, action, lambda key, acted: taken[key].append(acted))
    finally:
        evaluator.close()
    for row, policy in enumerate(policies.seeds):
        for episode in range(episodes):
            start, actions = evaluator.start(policy, episode), np.stack(taken[policy, episode])
            played.append(Played(policy, episode, start, actions, float(evaluation.returns[row, episode])))
    return played


def frames_of(environment: EnvironmentSpec, played: Played, seconds: int) -> tuple[list[npt.NDArray[np.uint8]], float]:
    """Draw pictures of an episode, [height, width, 3] each, played again by its actions, and how many are shown a second.

    Raises UserError where nothing can render it.
    """
    from iwbc.environments.gymnasium import make_env
    from iwbc.environments.seeding import start
    from iwbc.environments.spaces import clipped

    env: Any = make_env(environment, render_mode="rgb_array")
    try:
        start(env, played.start)
        own_rate = float(env.metadata.get("render_fps") or _FPS)
        every = max(1, round(own_rate / _FPS))
        frames = [_picture(env, environment)]
        for step, action in enumerate(played.actions, start=1):
            env.step(clipped(env.action_space, action))
            if step % every == 0 or step == len(played.actions):
                frames.append(_picture(env, environment))
            if step >= seconds * own_rate:
                break
    finally:
        env.close()
    return frames, own_rate / every


def _picture(env: Any, environment: EnvironmentSpec) -> npt.NDArray[np.uint8]:
    from iwbc.environments.gymnasium import NO_RENDERER

    try:
        frame: npt.NDArray[np.uint8] | None = env.render()
    except Exception as error:  # of as many kinds as there are renderers
        sys.unraisablehook = lambda unraisable: None  # Gymnasium's half-made viewer complains when it is collected
        reason = " ".join(str(error).split())
        raise UserError(f"environment {environment.id}: cannot be rendered here ({reason}){NO_RENDERER}") from None
    if frame is None:
        raise UserError(f"environment {environment.id}: renders no pictures (render_mode=rgb_array)")
    return frame


def _choose_renderer() -> None:
    """Set MUJOCO_GL, before MuJoCo is imported, to what works without a display; nothing where the user has chosen."""
    if "MUJOCO_GL" in os.environ or os.environ.get("DISPLAY") or sys.platform != "linux":
        return
    for name in ("egl", "osmesa"):
        # A renderer that does not work may take the whole process with it.
        code = "import mujoco; c = mujoco.GLContext(16, 16); c.make_current()"
        environment = os.environ | {"MUJOCO_GL": name}
        if subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0:
            os.environ["MUJOCO_GL"] = name
            return


def _has_ffmpeg() -> bool:
    import importlib.util

    return importlib.util.find_spec("imageio_ffmpeg") is not None


def _write(path: Path, frames: Sequence[npt.NDArray[np.uint8]], rate: float) -> None:
    """Write a video, atomically."""
    import io
    import tempfile

    import imageio.v2 as imageio

    from iwbc.system.files import write_bytes

    even: list[Any] = [frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2] for frame in frames]
    if path.suffix == ".gif":
        content = io.BytesIO()
        imageio.mimwrite(content, [frame[::2, ::2] for frame in even], format="gif", duration=1000.0 / rate, loop=0)
        write_bytes(path, content.getvalue())
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        imageio.mimwrite(made, even, fps=rate, macro_block_size=2, quality=6, ffmpeg_log_level="error")
        write_bytes(path, made.read_bytes())


if __name__ == "__main__":
    run(main, __doc__)
