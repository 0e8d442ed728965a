"""From settings and a dataset to a policy: sizes, action range, observation normaliser."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from iwbc.data.trajectories import Trajectories
from iwbc.errors import UserError
from iwbc.policies.flow import CouplingFlow
from iwbc.policies.gaussian import GaussianMLP
from iwbc.policies.mixture import GaussianMixture
from iwbc.policies.networks import Units
from iwbc.policies.policy import Policy
from iwbc.settings import POLICIES, FlowPolicy, GaussianPolicy, MixturePolicy, OwnPolicy
from iwbc.spaces import float32_bounds


@dataclass(frozen=True)
class Spaces:
    """What a policy acts in: vectors of `observation_size` entries, and actions that are clipped to low … high [act].

    observation_parts: what the vectors are made of where observations are Dicts of arrays, path and shape of each in order.
    action_bounded: [act], false where the data declares no bounds and its actions' range stands for them; None: nowhere.
    """

    observation_size: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    observation_parts: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    action_bounded: tuple[bool, ...] | None = None

    def clip(self, actions: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Move actions [..., act] into the bounds, as float32 that lies within those of any precision."""
        return np.clip(actions.astype(np.float32), *float32_bounds(self.action_low, self.action_high))

    def vector(self, observation: Any) -> npt.NDArray[np.float32]:
        """An observation as it comes, a vector [obs] or [B, obs] or a Dict, as vectors.

        Raises UserError where it is not of these spaces.
        """
        if not isinstance(observation, Mapping):
            found = np.asarray(observation, np.float32)
        elif self.observation_parts is None:
            raise UserError("predict: the policy was trained on vectors, not on Dicts of arrays; flatten the observation")
        else:
            found = np.concatenate([_part(observation, path, shape) for path, shape in self.observation_parts], axis=-1)
        if found.ndim not in (1, 2) or found.shape[-1] != self.observation_size:
            raise UserError(
                f"predict: the observation has shape {found.shape}, the policy's have {self.observation_size} entries"
            )
        return found


def spaces_of(trajectories: Trajectories) -> Spaces:
    """The spaces of a dataset.

    An action bound that is infinite gives no range to scale to: the range of the data's own actions takes its place.
    """
    info = trajectories.info
    low, high = np.asarray(info.action_low), np.asarray(info.action_high)
    unbounded = ~(np.isfinite(low) & np.isfinite(high))
    if unbounded.any():
        data_low, data_high = trajectories.actions.min(0), trajectories.actions.max(0)
        constant = data_high <= data_low
        low = np.where(unbounded, np.where(constant, data_low - 1.0, data_low), low)
        high = np.where(unbounded, np.where(constant, data_high + 1.0, data_high), high)
    parts = None
    if info.observation_parts is not None:
        parts = tuple((path, tuple(shape)) for path, shape in info.observation_parts)
    bounded = None if not unbounded.any() else tuple((~unbounded).tolist())
    return Spaces(trajectories.observations.shape[1], tuple(low.tolist()), tuple(high.tolist()), parts, bounded)


@dataclass(frozen=True)
class PolicySpec:
    """All that defines a policy of a shipped family besides its parameters: what a saved file rebuilds it from."""

    settings: GaussianPolicy
    spaces: Spaces
    observation_mean: tuple[float, ...] | None = None
    observation_std: tuple[float, ...] | None = None

    def make(self) -> Policy:
        """A policy with starting parameters by PyTorch's own generator."""
        settings, spaces = self.settings, self.spaces
        units = Units(spaces.action_low, spaces.action_high, self.observation_mean, self.observation_std)
        bounds = (settings.log_std_min, settings.log_std_max)
        common: dict[str, Any] = {
            "observation_size": spaces.observation_size,
            "units": units,
            "hidden": settings.hidden,
            "kind": settings.kind,
            "std": settings.std,
            "log_std_bounds": bounds,
        }
        match settings:
            case MixturePolicy():
                return GaussianMixture(components=settings.components, **common)
            case FlowPolicy():
                return CouplingFlow(couplings=settings.couplings, coupling_hidden=settings.coupling_hidden, **common)
            case _:
                return GaussianMLP(precision=settings.precision, **common)

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def of_plain(plain: dict[str, Any]) -> PolicySpec:
        """From `plain` values. Raises KeyError, TypeError, ValueError or UserError where they are none."""
        settings = POLICIES[plain["settings"]["family"]](**plain["settings"])
        settings.check("policy")
        mean, std = (plain[name] and tuple(plain[name]) for name in ("observation_mean", "observation_std"))
        return PolicySpec(settings, spaces_of_plain(plain["spaces"]), mean, std)


def spaces_of_plain(plain: dict[str, Any]) -> Spaces:
    """From plain values. Raises KeyError, TypeError or ValueError where they are none."""
    parts = plain["observation_parts"] and tuple((path, tuple(shape)) for path, shape in plain["observation_parts"])
    bounded = plain.get("action_bounded") and tuple(plain["action_bounded"])
    found = Spaces(int(plain["observation_size"]), tuple(plain["action_low"]), tuple(plain["action_high"]), parts, bounded)
    if bounded and len(bounded) != len(found.action_low):
        raise ValueError("its action_bounded is not of its actions")
    if found.observation_size < 1 or not found.action_low or len(found.action_low) != len(found.action_high):
        raise ValueError("its observations or actions have no size")
    return found


def _part(observation: Mapping[str, Any], path: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """One of a Dict's arrays, [n] or [B, n]."""
    value: Any = observation
    for key in path.split("/"):
        if not isinstance(value, Mapping) or key not in value:
            raise UserError(f"predict: the observation has no {path}")
        value = value[key]
    array = np.asarray(value, np.float32)
    batch = array.shape[: array.ndim - len(shape)]
    if array.shape[len(batch) :] != shape or len(batch) > 1:
        raise UserError(f"predict: the observation's {path} has shape {array.shape}, not {shape}")
    return array.reshape(*batch, -1)


def policy_spec(settings: GaussianPolicy, trajectories: Trajectories) -> PolicySpec:
    """The spec of a policy for a dataset, with its observation normaliser where one is asked for."""
    spaces = spaces_of(trajectories)
    if not settings.normalise_observations:
        return PolicySpec(settings, spaces)
    mean, std = trajectories.observation_statistics
    return PolicySpec(settings, spaces, tuple(mean.tolist()), tuple(std.tolist()))


# What `fit` takes for a policy: settings of a shipped family, of the user's own by name, or what makes a module.
PolicyChoice = GaussianPolicy | OwnPolicy | Callable[[], nn.Module]


def policy_factory(choice: PolicyChoice, trajectories: Trajectories) -> tuple[Callable[[], Any], PolicySpec | None]:
    """What makes an untrained policy for a dataset, and its spec where it is of a shipped family."""
    if isinstance(choice, GaussianPolicy):
        spec = policy_spec(choice, trajectories)
        return spec.make, spec
    return own_factory(choice, spaces_of(trajectories)), None


def own_factory(choice: OwnPolicy | Callable[[], nn.Module], spaces: Spaces) -> Callable[[], nn.Module]:
    """What makes a policy of the user's own: `choice` itself, or what it names, called with the sizes and its arguments.

    Raises UserError where that cannot be imported; what is returned raises it where no policy is made.
    """
    if not isinstance(choice, OwnPolicy):
        return _checked(choice, "policy")
    sizes = {"observation_size": spaces.observation_size, "action_size": len(spaces.action_low)}
    return _checked(partial(imported(choice.target), **sizes, **choice.arguments), choice.target)


def imported(target: str) -> Callable[..., nn.Module]:
    """What package.module.Name names. Raises UserError where it cannot be imported."""
    module, _, name = target.rpartition(".")
    try:
        found: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"policy._target_={target}: cannot be imported ({error}); is its folder in PYTHONPATH?") from None
    return found


def _checked(factory: Callable[[], nn.Module], name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        try:
            made = factory()
        except TypeError as error:
            raise UserError(f"{name}: cannot be made ({error})") from None
        missing = [method for method in ("log_prob", "mean_action") if not callable(getattr(made, method, None))]
        if not isinstance(made, nn.Module) or missing:
            lacks = f"lacks {' and '.join(missing)}" if missing else "is no torch.nn.Module"
            raise UserError(f"{name}: {type(made).__name__} {lacks}; a policy has log_prob and mean_action")
        return made

    return make
