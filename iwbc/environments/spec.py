"""The environment that a dataset was recorded in, or that policies are to be played in: as data, of which no name is followed.

Minari stores Gymnasium's EnvSpec: id, keyword arguments, time limit, wrappers, and an entry point that names a module. A file
may be anybody's, so its entry point is looked at for one thing only: whether its package is one of `PACKAGES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from iwbc.system.files import parse_json

# Packages that are imported, if installed, to register their environments, with their names for pip.
PACKAGES = {
    "gym_aloha": "gym-aloha",
    "gym_pusht": "gym-pusht",
    "gym_xarm": "gym-xarm",
    "gymnasium_robotics": "gymnasium-robotics",
    "highway_env": "highway-env",
    "mani_skill": "mani-skill",
    "metaworld": "metaworld",
    "mo_gymnasium": "mo-gymnasium",
    "myosuite": "myosuite",
    "ogbench": "ogbench",
    "panda_gym": "panda-gym",
    "safety_gymnasium": "safety-gymnasium",
    "shimmy": "'shimmy[dm-control]'",
}

# Wrappers that change no observation, action or reward, by package: they check, count, record or show what is played.
_WATCHERS = {
    "gymnasium": {
        *("AddWhiteNoise", "AutoResetWrapper", "Autoreset", "HumanRendering", "ObstructView", "OrderEnforcing"),
        *("PassiveEnvChecker", "RecordEpisodeStatistics", "RecordVideo", "RenderCollection"),
    },
    "imitation": {"RolloutInfoWrapper"},
    "minari": {"DataCollector"},
    "stable_baselines3": {"Monitor"},
}
# Packages that wrap their environments as they make them: Gymnasium lists these wrappers as if they came after.
_WRAPPING = {"metaworld"}
# The wrapper whose observations are pictures, for which the environment must render.
_RENDERS = "AddRenderObservation"


@dataclass(frozen=True)
class Wrapper:
    """One of Gymnasium's wrappers, by the name of its class; `kwargs` None where the dataset does not say them."""

    name: str
    kwargs: dict[str, Any] | None = field(default_factory=dict)
    package: str = "gymnasium"


@dataclass(frozen=True)
class EnvironmentSpec:
    """An environment registered with Gymnasium, and the arguments that make it.

    max_episode_steps: None is the registered time limit. wrappers: from the inside out. package: the top module of its entry
    point, where a dataset names one. imports: modules that the user has named, imported to register it.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    wrappers: tuple[Wrapper, ...] = ()
    package: str | None = None
    imports: tuple[str, ...] = ()

    @staticmethod
    def of(environment: EnvironmentSpec | str) -> EnvironmentSpec:
        """Return a spec unchanged, or make the spec of an id."""
        return EnvironmentSpec(environment) if isinstance(environment, str) else environment

    def to_play(self) -> EnvironmentSpec:
        """Drop wrappers that change nothing or that the environment has by itself, and render_mode, which may open a window or,
        without a display, end the process."""
        wrappers = tuple(
            wrapper
            for wrapper in self.wrappers
            if wrapper.name.removesuffix("V0") not in _WATCHERS.get(wrapper.package, ())
            and not (wrapper.package == self.package and self.package in _WRAPPING)
        )
        wrappers = tuple(
            dataclasses.replace(wrapper, kwargs=wrapper.kwargs and _unrendered(wrapper.kwargs)) for wrapper in wrappers
        )
        renders = any(wrapper.name == _RENDERS for wrapper in wrappers)
        return dataclasses.replace(self, kwargs=self.kwargs if renders else _unrendered(self.kwargs), wrappers=wrappers)

    def differences(self, other: EnvironmentSpec) -> list[str]:
        """Name the arguments, of those that playing depends on, in which another spec of the same id differs."""
        mine, others = self.to_play(), other.to_play()
        names = sorted({*mine.kwargs, *others.kwargs})
        different = [name for name in names if mine.kwargs.get(name) != others.kwargs.get(name)]
        return different + [name for name in ("max_episode_steps", "wrappers") if getattr(mine, name) != getattr(others, name)]

    def to_plain(self) -> dict[str, Any]:
        """Return the spec as plain values, for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> EnvironmentSpec:
        """Make a spec from `to_plain`'s values. Raises KeyError or TypeError where they are none."""
        wrappers = tuple(Wrapper(**wrapper) for wrapper in plain["wrappers"])
        return EnvironmentSpec(**{**plain, "wrappers": wrappers, "imports": tuple(plain["imports"])})

    @staticmethod
    def of_gymnasium(text: str) -> EnvironmentSpec:
        """Make a spec from the JSON of Gymnasium's EnvSpec. Raises ValueError, KeyError, TypeError or AttributeError where it
        is none."""
        fields = parse_json(text)
        wrappers = []
        for wrapper in fields.get("additional_wrappers") or ():
            kwargs = wrapper.get("kwargs")
            wrappers.append(
                Wrapper(str(wrapper["name"]), None if kwargs is None else dict(kwargs), _top(wrapper["entry_point"]) or "")
            )
        limit = fields.get("max_episode_steps")
        return EnvironmentSpec(
            str(fields["id"]),
            dict(fields.get("kwargs") or {}),
            # None where the recorder had no time limit: the registered one then ends our episodes.
            int(limit) if limit is not None and int(limit) > 0 else None,
            tuple(wrappers),
            _top(fields.get("entry_point")),
        )

    def changed(
        self, kwargs: Mapping[str, Any], max_episode_steps: int | None = None, imports: tuple[str, ...] = ()
    ) -> EnvironmentSpec:
        """Replace some keyword arguments and the time limit, and add imports."""
        return dataclasses.replace(
            self,
            kwargs={**self.kwargs, **kwargs},
            max_episode_steps=max_episode_steps or self.max_episode_steps,
            imports=(*self.imports, *imports),
        )


def environment_spec(
    recorded: EnvironmentSpec | None,
    env_id: str | None,
    kwargs: Mapping[str, Any],
    max_episode_steps: int | None,
    imports: tuple[str, ...],
) -> EnvironmentSpec | None:
    """Return the environment to evaluate in: the user's `env_id`, or else the environment that the data was recorded in (None
    where neither is known). The user's settings come last in either. `module:Id`, Gymnasium's notation for an import, counts as
    the id with an import."""
    if env_id is not None:
        module, _, name = env_id.rpartition(":")
        imports = (*((module,) if module else ()), *imports)
        if recorded is None or recorded.id != name:
            recorded = EnvironmentSpec(name)
    return None if recorded is None else recorded.changed(kwargs, max_episode_steps, imports)


def _unrendered(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key != "render_mode"}


def _top(entry_point: Any) -> str | None:
    """Return the package that an entry point lies in."""
    return entry_point.split(":")[0].split(".")[0] if isinstance(entry_point, str) else None
