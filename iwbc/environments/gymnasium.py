"""Gymnasium environments: made quietly, by registered name only, and played many at once, here or in worker processes."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from iwbc.environments import metaworld, robosuite, tasks
from iwbc.environments.seeding import seeded, start
from iwbc.environments.spaces import VECTOR, Image, Part, clipped, divided, floats, is_vector, observed, parts_of, size_of
from iwbc.environments.spec import PACKAGES, EnvironmentSpec, Wrapper
from iwbc.errors import UserError
from iwbc.system.imports import import_named
from iwbc.system.interrupts import sigint_deferred
from iwbc.system.processes import Remote


def _mujoco_warning(message: str | bytes) -> None:
    """Pass MuJoCo's warnings on, except the warning about Gymnasium's half_cheetah.xml, which no user can act on."""
    text = message.decode() if isinstance(message, bytes) else message
    if "settotalmass" not in text:
        warnings.warn(f"MuJoCo: {text.strip()}", RuntimeWarning, stacklevel=2)


# The end of messages about pictures that cannot be drawn.
NO_RENDERER = "; MuJoCo renders by EGL or OSMesa where there is no display (on Debian: apt-get install libegl1 libosmesa6)"
# The keys by which environments and datasets report success.
SUCCESS_KEYS = ("success", "is_success")

# Gymnasium's wrappers that a dataset may ask for: they change spaces, rewards and time, and touch nothing else.
_WRAPPERS = {
    *("AddRenderObservation", "ClipAction", "ClipReward", "DelayObservation", "DiscretizeObservation", "DtypeObservation"),
    *("FilterObservation", "FlattenObservation", "FrameStackObservation", "GrayscaleObservation", "MaxAndSkipObservation"),
    *("RepeatAction", "RescaleAction", "RescaleObservation", "ReshapeObservation", "ResizeObservation", "StickyAction"),
    *("TimeAwareObservation", "TimeLimit"),
}


def make_env(environment: EnvironmentSpec | str, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make an environment registered with Gymnasium, by a spec or an id, as it is played: `render_mode` replaces the spec's,
    and wrappers that only watch are left out.

    Raises UserError where the environment is not installed, or cannot be made as the spec says, or cannot render here.
    """
    spec = EnvironmentSpec.of(environment).to_play()
    if ":" in spec.id:  # Gymnasium would import the module before it, and a dataset or a run folder may have chosen the name
        raise UserError(
            f"environment {spec.id}: names a module to import; import it yourself, and give the name that it registers"
        )
    _register(spec)
    settings: dict[str, Any] = dict(spec.kwargs)
    if spec.max_episode_steps is not None:
        settings["max_episode_steps"] = spec.max_episode_steps
    if render_mode is not None:
        settings["render_mode"] = render_mode
    try:
        with contextlib.suppress(ImportError):
            with sigint_deferred():  # its import asks a process for glfw's version, and fails where Ctrl-C ends that
                mujoco = importlib.import_module("mujoco")
            mujoco.set_mju_user_warning(_mujoco_warning)
    except Exception as error:  # of PyOpenGL, where the library that MUJOCO_GL names is missing
        chosen = os.environ.get("MUJOCO_GL", "")
        raise UserError(f"MuJoCo cannot be imported with MUJOCO_GL={chosen} ({_reason(error)}){NO_RENDERER}") from None
    try:
        with seeded(0):  # so that what is drawn here, as Meta-World's list of goals is, is the same in all processes
            env = gym.make(spec.id, disable_env_checker=True, **settings)
        for wrapper in spec.wrappers:
            env = _wrapped(env, wrapper)
        return env
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the environment's code may raise anything
        _end_half_made(error)
        pictures = "render_mode" in settings or "images" in settings  # images: Robosuite's
        remedy = NO_RENDERER if pictures and spec.id in gym.registry else _remedy(spec)
        raise UserError(f"environment {spec.id}: cannot be made ({_reason(error)}){remedy}") from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _end_half_made(error: BaseException) -> None:
    """Let go of what an error's frames hold, quietly: renderers that are half made complain as they are collected."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def _register(spec: EnvironmentSpec) -> None:
    """Register our own environments, and import the modules that register others: those of the user, and the environment's
    package if it is in PACKAGES."""
    tasks.register()
    robosuite.register(spec.id)
    import_named(spec.imports)
    metaworld.register(spec.id)
    if spec.package in PACKAGES and spec.id not in gym.registry:
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the rest of these packages
            importlib.import_module(spec.package)


def _remedy(spec: EnvironmentSpec) -> str:
    if spec.id in gym.registry:
        return ""
    if spec.package in PACKAGES:
        return f"; pip install {PACKAGES[spec.package]}"
    return (
        f"; name the module that registers it with 'env.imports=[its_module]', in convert env_id=its_module:{spec.id}, "
        "in Python EnvironmentSpec(…, imports=…)"
    )


def _wrapped(env: gym.Env[Any, Any], wrapper: Wrapper) -> gym.Env[Any, Any]:
    if wrapper.package != "gymnasium" or wrapper.name not in _WRAPPERS or wrapper.kwargs is None:
        raise UserError(
            f"environment {env.spec.id if env.spec else env}: the data was recorded with the wrapper {wrapper.name}, which may "
            "change observations, actions or rewards, and cannot be made from a dataset; register, under an id of its own, an "
            "environment that has it, and name that with env.id=…"
        )
    made: gym.Env[Any, Any] = getattr(importlib.import_module("gymnasium.wrappers"), wrapper.name)(env, **wrapper.kwargs)
    return made


def observation_parts(env: gym.Env[Any, Any], env_id: str) -> tuple[list[Part], list[Image]]:
    """List the parts that an environment's observations are flattened from, and its images. Raises UserError where they cannot
    be flattened."""
    try:
        return divided(parts_of(env.observation_space))
    except ValueError as error:
        raise UserError(f"environment {env_id}: its observations cannot be flattened to a vector: {error}") from None


class Results(NamedTuple):
    """Results of one step of k environments: observations [k, obs] (with images: records [k]), rewards [k], terminated [k],
    truncated [k], and success [k]: 1, 0, or NaN where the environment does not report it."""

    observations: npt.NDArray[np.floating]
    rewards: npt.NDArray[np.float64]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    success: npt.NDArray[np.float32]


def reported_success(info: Mapping[str, Any], where: str) -> float:
    """Read success from a step's info: 1 if any of SUCCESS_KEYS is true, else 0, or NaN where none is there.

    Raises UserError, which begins with `where`, for a value that is not true or false (1 or 0).
    """
    labels = [success_label(info[key], key, where) for key in SUCCESS_KEYS if key in info]
    return float(any(labels)) if labels else np.nan


def success_label(value: Any, key: str, where: str) -> bool:
    """Read one label. Raises UserError, which begins with `where`, for a value that is none."""
    if (label := label_of(value)) is None:
        raise UserError(f"{where}: its info says {key}={value!r}; a success label is true or false (1 or 0)")
    return label


def label_of(value: Any) -> bool | None:
    """Read one label: true or false, 1 or 0, as such or as an array of one entry; None for anything else."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    with contextlib.suppress(ValueError):  # np.asarray's, for lists that make no array
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "biuf" and array.item() in (0, 1):
            return bool(array.item())
    return None


class Environments(Protocol):
    """Some environments of one kind, stepped together. Observations are vectors, as iwbc.environments.spaces flattens them, or
    records of a vector and images (`observed`)."""

    def reset(self, seeds: Sequence[int]) -> npt.NDArray[np.floating]:
        """Start an episode in each of the first n = len(seeds) environments; return their observations [n, obs]."""

    def step(self, indices: npt.NDArray[np.int64], actions: npt.NDArray[np.floating]) -> Results:
        """Step the environments `indices` [k] with actions [k, act], clipped to the action space."""

    def close(self) -> None:
        """End the environments."""


class LocalEnvironments:
    """Environments of this process, made as they are needed and then used again."""

    def __init__(self, environment: EnvironmentSpec | str) -> None:
        """Make one environment. Raises UserError where it is not installed, its observations cannot be flattened, or its
        actions are not a vector."""
        spec = EnvironmentSpec.of(environment)
        self.id, self._where = spec.id, f"environment {spec.id}"
        self._spec, self._envs = spec, [make_env(spec)]
        (self._parts, self.images), actions = observation_parts(self._envs[0], spec.id), self._envs[0].action_space
        if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1 or actions.dtype.kind != "f":
            raise UserError(f"environment {spec.id}: its actions are {actions}, not a vector of continuous ones")
        self.action_space = actions
        self._plain = is_vector(self._envs[0].observation_space)
        self.observation_size = size_of(self._parts)

    def _observed(self, observations: list[Any]) -> npt.NDArray[Any]:
        if not self._plain:
            try:
                observations = [observed(self._parts, self.images, observation).ravel() for observation in observations]
            except ValueError as error:
                raise UserError(f"environment {self.id}: its observation {error}") from None
        if self.images:
            records = np.concatenate(observations)
            self._check_finite(records[VECTOR])
            return records
        shapes = {np.shape(observation) for observation in observations}
        if shapes != {(self.observation_size,)}:
            wrong = next(iter(shapes - {(self.observation_size,)}))
            raise UserError(
                f"environment {self.id}: its observation has shape {wrong}, its space says ({self.observation_size},)"
            )
        vectors = floats(np.array(observations))
        self._check_finite(vectors)
        return vectors

    def _check_finite(self, vectors: npt.NDArray[np.floating]) -> None:
        if not np.isfinite(vectors).all():
            raise UserError(f"environment {self.id}: its observation holds NaN or infinity")

    def reset(self, seeds: Sequence[int]) -> npt.NDArray[np.floating]:
        while len(self._envs) < len(seeds):
            self._envs.append(make_env(self._spec))
        with self._named("reset"):
            return self._observed([start(env, int(seed)) for env, seed in zip(self._envs, seeds, strict=False)])

    def step(self, indices: npt.NDArray[np.int64], actions: npt.NDArray[np.floating]) -> Results:
        played = clipped(self.action_space, actions)
        if np.isnan(played).any():
            raise UserError("the policy's action is not a number: training diverged")
        with self._named("step"):
            observations, rewards, terminated, truncated, infos = zip(
                *[self._envs[i].step(action) for i, action in zip(indices.tolist(), played, strict=True)], strict=True
            )
            results = Results(
                self._observed(list(observations)),
                np.array(rewards, np.float64),
                np.array(terminated, np.bool_),
                np.array(truncated, np.bool_),
                np.array([reported_success(info, self._where) for info in infos], np.float32),
            )
        if not np.isfinite(results.rewards).all() or results.rewards.ndim != 1:
            raise UserError(f"environment {self.id}: its reward is {rewards[0]}, not a finite number")
        return results

    @contextlib.contextmanager
    def _named(self, method: str) -> Iterator[None]:
        """Turn an error of the environment inside the block into a UserError of one line, with the place."""
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"environment {self.id}: its {method} raised {reason} ({place.filename}, line {place.lineno})"
            ) from error

    def close(self) -> None:
        for env in self._envs:
            env.close()


class WorkerEnvironments:
    """Environments dealt out to worker processes, which step at the same time.

    Environment i lives in worker i mod `workers`. What an environment does depends on its seed and actions alone, so
    results are those of LocalEnvironments. The workers start while the constructor's caller goes on.
    """

    def __init__(self, spec: EnvironmentSpec | str, workers: int) -> None:
        self._workers = [Remote(LocalEnvironments, spec) for _ in range(workers)]

    def reset(self, seeds: Sequence[int]) -> npt.NDArray[np.floating]:
        workers = len(self._workers)
        shares = [list(seeds[w::workers]) for w in range(workers)]
        answers = self._ask([("reset", (share,)) if share else None for share in shares])
        observations = np.empty((len(seeds), *answers[0].shape[1:]), answers[0].dtype)
        for w in range(min(workers, len(seeds))):
            observations[w::workers] = answers[w]
        return observations

    def step(self, indices: npt.NDArray[np.int64], actions: npt.NDArray[np.floating]) -> Results:
        workers = len(self._workers)
        masks = [indices % workers == w for w in range(workers)]
        answers = self._ask([("step", (indices[mask] // workers, actions[mask])) if mask.any() else None for mask in masks])
        first = next(result for result in answers if result is not None)
        merged = [np.empty((len(indices), *part.shape[1:]), part.dtype) for part in first]
        for mask, result in zip(masks, answers, strict=True):
            if result is not None:
                for whole, part in zip(merged, result, strict=True):
                    whole[mask] = part
        return Results(*merged)

    def _ask(self, requests: list[tuple[str, tuple[Any, ...]] | None]) -> list[Any]:
        """Send every worker its request, then gather the answers."""
        pending = [
            None if request is None else worker.begin(request[0], *request[1])
            for worker, request in zip(self._workers, requests, strict=True)
        ]
        return [None if receive is None else receive() for receive in pending]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


@dataclass(frozen=True)
class Step:
    """One step of the k environments still playing, whose indices are `active` [k].

    Actions [k, act] were taken on observations [k, obs]; next_observations [k, obs] followed.
    """

    active: npt.NDArray[np.int64]
    observations: npt.NDArray[np.floating]
    actions: npt.NDArray[np.floating]
    rewards: npt.NDArray[np.float64]
    next_observations: npt.NDArray[np.floating]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    success: npt.NDArray[np.float32]


def play(
    environments: Environments,
    act: Callable[[npt.NDArray[np.floating]], npt.NDArray[np.floating]],
    seeds: Sequence[int],
) -> Iterator[Step]:
    """Play one episode in each of len(seeds) environments, in lock step, and yield the steps.

    `act` maps the observations of all environments [n, obs] to actions [n, act]; it always sees all rows, so that its
    arithmetic does not depend on which episodes are over. An environment whose episode is over is not stepped again
    (Gymnasium's vector environments would reset it and play on).
    """
    current = environments.reset(seeds)
    active = np.arange(len(seeds))
    while len(active):
        actions = act(current)[active]
        results = environments.step(active, actions)
        step = Step(
            active=active,
            observations=current[active],
            actions=actions,
            rewards=results.rewards,
            next_observations=results.observations,
            terminated=results.terminated,
            truncated=results.truncated,
            success=results.success,
        )
        yield step
        current[active] = results.observations
        active = active[~(step.terminated | step.truncated)]
