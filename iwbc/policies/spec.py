"""From settings and a dataset to a policy: sizes, action range, observation normaliser."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import nn

from iwbc.data.scales import Scales, action_range, normaliser, scales_of
from iwbc.data.trajectories import Observations, Trajectories
from iwbc.environments.spaces import (
    VECTOR,
    Image,
    Part,
    entry_names,
    float32_bounds,
    image_of_plain,
    observed,
    part_of_plain,
    size_of,
)
from iwbc.errors import UserError, listed, warn
from iwbc.policies.flow import CouplingFlow
from iwbc.policies.gaussian import GaussianMLP
from iwbc.policies.mixture import GaussianMixture
from iwbc.policies.networks import Units
from iwbc.policies.policy import Policy, window_of
from iwbc.policies.sequences import LSTM, SequenceMixture, Transformer
from iwbc.settings import (
    POLICIES,
    FlowPolicy,
    GaussianPolicy,
    MixturePolicy,
    OwnPolicy,
    SequencePolicy,
    TransformerPolicy,
)

Pair = tuple[tuple[float, ...], tuple[float, ...]]

# Limits up to which a reference's units hold other data: actions beyond the range by this share of half of it; spreads this
# many times smaller; spreads this many times larger.
_BEYOND, _COARSE, _SLACK = 0.1, 20.0, 4.0


@dataclass(frozen=True)
class Spaces:
    """Spaces that a policy acts in: vectors of `observation_size` entries, and actions that are clipped to low … high [act],
    the bounds of the action space (infinite where there are none).

    observation_parts: what the vectors are flattened from, None where observations are vectors as they come. images: what the
    policy takes besides.
    """

    observation_size: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    observation_parts: tuple[Part, ...] | None = None
    images: tuple[Image, ...] = ()

    def clip(self, actions: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Move actions [..., act] into the bounds, as float32 that lies within those of any precision."""
        return np.clip(actions.astype(np.float32), *float32_bounds(self.action_low, self.action_high))

    def observed(self, observation: Any) -> npt.NDArray[Any]:
        """Flatten an observation, or a batch of them, to vectors, [obs] or [B, obs]; vectors are taken as they are. With images
        make records, [] or [B], of Dicts in which a vector without parts is named `observations`.

        Raises UserError where it is not of these spaces.
        """
        size, alone = self.observation_size, (VECTOR,) if self.images else ()
        parts = self.observation_parts or ((Part(alone, (size,)),) if size else ())
        if self._is_one_hot(observation):
            return np.asarray(observation, np.float32)
        try:
            seen = observed(parts, self.images, observation)
            return seen if self.images else seen.astype(np.float32)
        except ValueError as error:
            if isinstance(observation, Mapping) and self.observation_parts is None and not self.images:
                raise UserError(
                    "predict: the policy was trained on vectors, not on Dicts of arrays; flatten the observation"
                ) from None
            with contextlib.suppress(ValueError):  # np.asarray's, for rows that differ in length
                array = np.asarray(observation)
                if not self.images and array.dtype.kind in "fiub" and array.ndim in (1, 2) and array.shape[-1] == size:
                    return array.astype(np.float32)
            raise UserError(f"predict: the observation {error}") from None

    def _is_one_hot(self, observation: Any) -> bool:
        """Tell whether an observation is the vector of a single choice, and not as many choices, which are whole numbers."""
        match self.observation_parts:
            case (Part(path=(), shape=(), choices=(_,)),) if isinstance(observation, np.ndarray) and not self.images:
                return observation.shape == (self.observation_size,) and bool(observation.dtype.kind == "f")
        return False

    def entry(self, marked: npt.NDArray[np.bool_]) -> str:
        """Name the first entry of a vector that is marked in some row, [obs] or [B, obs]."""
        return entry_names(self.observation_parts, self.observation_size)[int(np.argwhere(marked)[0, -1])]

    def tensors(self, batch: npt.NDArray[Any], device: str | torch.device) -> Observations:
        """Put a batch on a device as the policy takes it: vectors [B, obs], or, of records [B], the vectors, and those images
        that are the policy's."""

        def tensor(array: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        vectors = tensor((batch[VECTOR] if batch.dtype.names else batch).astype(np.float32))
        return {VECTOR: vectors, **{i.name: tensor(batch[i.name]) for i in self.images}} if self.images else vectors


def spaces_of(trajectories: Trajectories) -> Spaces:
    """Return the spaces of a dataset."""
    info = trajectories.info
    parts = None if info.observation_parts is None else tuple(info.observation_parts)
    bounds = tuple(info.action_low), tuple(info.action_high)
    return Spaces(trajectories.observations.shape[1], *bounds, parts, tuple(info.images))


@dataclass(frozen=True)
class PolicySpec:
    """Description of a policy of a shipped family, from which a saved file rebuilds it: everything besides the parameters.

    observation_mean, observation_std, observation_limits: the normaliser, as Units takes it; None where observations are taken
    as they come. action_range: the lowest and the highest action, −1 and 1 to the network; None where these are the bounds.
    clip_actions: whether actions beyond that range count as its ends; None: where a range is named.
    """

    settings: GaussianPolicy
    spaces: Spaces
    observation_mean: tuple[float, ...] | None = None
    observation_std: tuple[float, ...] | None = None
    observation_limits: Pair | None = None
    action_range: Pair | None = None
    clip_actions: bool | None = None

    def make(self) -> Policy:
        """Make a policy with starting parameters by PyTorch's global generator."""
        settings, spaces = self.settings, self.spaces
        units = Units(
            *self.units_range,
            self.observation_mean,
            self.observation_std,
            self.observation_limits,
            clip_actions=self.clips,
        )
        bounds = (settings.log_std_min, settings.log_std_max)
        common: dict[str, Any] = {
            "observation_size": spaces.observation_size,
            "units": units,
            "hidden": settings.hidden,
            "kind": settings.kind,
            "std": settings.std,
            "log_std_bounds": bounds,
            "history": settings.history,
        }
        chunks: dict[str, Any] = {"chunk": settings.chunk, "execute": settings.execute}
        match settings:
            case SequencePolicy():
                return self._reading(units)
            case MixturePolicy():
                return GaussianMixture(components=settings.components, **common, **chunks)
            case FlowPolicy():
                return CouplingFlow(couplings=settings.couplings, coupling_hidden=settings.coupling_hidden, **common)
            case _:
                return GaussianMLP(**common, **chunks)

    def _reading(self, units: Units) -> Policy:
        """Make a policy that reads sequences."""
        settings, size = self.settings, self.spaces.observation_size
        assert isinstance(settings, SequencePolicy)
        bounds = (settings.log_std_min, settings.log_std_max)
        if isinstance(settings, TransformerPolicy):
            width = settings.width
            reader: nn.Module = Transformer(size, settings.sequence, width, settings.heads, settings.hidden)
        else:
            reader, width = LSTM(size, settings.hidden), settings.hidden[-1]
        return SequenceMixture(
            reader, width, units, settings.sequence, settings.components, settings.kind, settings.std, bounds
        )

    @property
    def units_range(self) -> Pair:
        """The actions that are −1 and 1 to the network."""
        return self.action_range or (self.spaces.action_low, self.spaces.action_high)

    @property
    def clips(self) -> bool:
        """True if actions beyond the range count as its ends."""
        return self.action_range is not None if self.clip_actions is None else self.clip_actions

    def said(self) -> list[str]:
        """Describe the units, a line each: the observations that are standardised without having been asked for, and the
        actions that are scaled to the range of the data."""
        lines, spaces = [], self.spaces
        if self.settings.normalise_observations == "auto" and self.observation_mean is not None:
            assert self.observation_std is not None
            names = entry_names(spaces.observation_parts, spaces.observation_size)
            entries = [
                f"{name} ({mean:.3g} ± {std:.3g})"
                for name, mean, std in zip(names, self.observation_mean, self.observation_std, strict=True)
                if (mean, std) != (0.0, 1.0)
            ]
            lines.append(
                f"observations far from 0 ± 1 are standardised, {len(entries)} of {spaces.observation_size}: "
                f"{listed(entries, 6)}"
            )
        bounds = zip(*self.units_range, spaces.action_low, spaces.action_high, strict=True)
        entries = [
            f"{i} ({bottom:.3g} … {top:.3g} within {low:.3g} … {high:.3g})"
            for i, (bottom, top, low, high) in enumerate(bounds)
            if (bottom, top) != (low, high)
        ]
        if entries:
            count = f"{len(entries)} of {len(spaces.action_low)}"
            lines.append(f"actions whose bounds are far beyond the data are scaled to its range, {count}: {listed(entries, 6)}")
        return lines

    def say(self, console: Console) -> None:
        """Print the lines of `said`."""
        for line in self.said():
            console.print(f"Units: {line}", soft_wrap=True, markup=False, highlight=False)

    def plain(self) -> dict[str, Any]:
        """Return the spec as plain values, for JSON."""
        plain = asdict(self)
        # Left out where they say nothing, so that references cached by earlier versions keep their names.
        del plain["spaces"]["images"]  # shipped families take none
        if self.clip_actions is None:
            del plain["clip_actions"]
        for name in ("history", "chunk", "execute"):
            if plain["settings"][name] == 1:
                del plain["settings"][name]
        return plain

    @staticmethod
    def of_plain(plain: dict[str, Any]) -> PolicySpec:
        """Make a spec from `plain` values. Raises KeyError, TypeError, ValueError or UserError where they are none."""
        named = dict(plain["settings"])
        named.pop("precision", None)  # earlier files have it, but no policy depends on it
        settings = POLICIES[named["family"]](**named)
        settings.check("policy")
        spaces = spaces_of_plain(plain["spaces"])
        entries, actions = spaces.observation_size, len(spaces.action_low)
        mean, std = (plain[name] and _numbers(plain[name], entries) for name in ("observation_mean", "observation_std"))
        # Absent from files of format 2.
        limits, own_range = _pair(plain.get("observation_limits"), entries), _pair(plain.get("action_range"), actions)
        clips = plain.get("clip_actions")
        if clips is not None and not isinstance(clips, bool):
            raise ValueError("its clip_actions is neither true nor false")
        if (mean is None) != (std is None) or (std is not None and min(std) <= 0.0):
            raise ValueError("its normaliser has no scale")
        spec = PolicySpec(settings, spaces, mean, std, limits, own_range, clips)
        if not np.isfinite(spec.units_range).all() or not np.less(*spec.units_range).all():
            raise ValueError("its actions have no range")
        return spec


def _numbers(plain: Any, count: int) -> tuple[float, ...]:
    numbers = tuple(map(float, plain))
    if len(numbers) != count or any(map(math.isnan, numbers)):
        raise ValueError(f"there are not {count} numbers for {count} entries")
    return numbers


def _pair(plain: Any, count: int) -> Pair | None:
    if plain is None:
        return None
    low, high = plain
    return _numbers(low, count), _numbers(high, count)


def spaces_of_plain(plain: dict[str, Any]) -> Spaces:
    """Make spaces from plain values. Raises KeyError, TypeError or ValueError where they are none."""
    parts = plain["observation_parts"] and tuple(map(part_of_plain, plain["observation_parts"]))
    images = tuple(map(image_of_plain, plain.get("images", ())))  # absent from files of earlier versions
    spaces = Spaces(int(plain["observation_size"]), tuple(plain["action_low"]), tuple(plain["action_high"]), parts, images)
    smallest = 0 if images else 1
    if spaces.observation_size < smallest or not spaces.action_low or len(spaces.action_low) != len(spaces.action_high):
        raise ValueError("its observations or actions have no size")
    if spaces.observation_parts and size_of(spaces.observation_parts) != spaces.observation_size:
        raise ValueError("its observations are of another size than their parts")
    return spaces


def policy_spec(settings: GaussianPolicy, *datasets: Trajectories) -> PolicySpec:
    """Make the spec of a policy whose units hold all the datasets; the spaces are the first dataset's.

    Gives a DataWarning of values far out, which the units clip. Raises UserError where the data has images.
    """
    spaces = spaces_of(datasets[0])
    _refuse_images(spaces, datasets[0])
    observations, actions = _scales(datasets, "observation"), _scales(datasets, "action")
    low, high = action_range(actions, spaces.action_low, spaces.action_high)
    scaled = (low != spaces.action_low) | (high != spaces.action_high)
    _warn_of_far(
        datasets, "actions", actions, scaled, entry_names(None, len(low)), "in training they are clipped to that range"
    )
    spec = PolicySpec(settings, spaces, action_range=(tuple(low.tolist()), tuple(high.tolist())) if scaled.any() else None)
    asked = settings.normalise_observations
    chosen = observations.far_from_one if asked == "auto" else np.full(spaces.observation_size, bool(asked))
    if not chosen.any():
        return spec
    names = entry_names(spaces.observation_parts, spaces.observation_size)
    _warn_of_far(datasets, "observations", observations, chosen, names, "they are clipped at ten standard deviations")
    made = normaliser(observations, chosen)
    mean, std, lowest, highest = (tuple(values.tolist()) for values in (made.mean, made.std, made.low, made.high))
    return replace(spec, observation_mean=mean, observation_std=std, observation_limits=(lowest, highest))


def _refuse_images(spaces: Spaces, trajectories: Trajectories) -> None:
    if spaces.images:
        names = ", ".join(image.name for image in spaces.images)
        raise UserError(
            f"dataset {trajectories.info.id}: has images ({names}), which shipped policies do not take; choose vectors with "
            "dataset.observation_keys=[…], or a policy of your own (policy._target_=…)"
        )


def _scales(datasets: Sequence[Trajectories], of: str) -> Scales:
    scales: Scales = getattr(datasets[0], f"{of}_scales")
    return scales if len(datasets) == 1 else scales_of(*(getattr(dataset, f"{of}s") for dataset in datasets))


def _warn_of_far(
    datasets: Sequence[Trajectories],
    field: str,
    scales: Scales,
    chosen: npt.NDArray[np.bool_],
    names: Sequence[str],
    consequence: str,
) -> None:
    entries = [
        f"{names[i]} ({scales.far[i]:,}, in {scales.lowest[i]:.3g} … {scales.highest[i]:.3g}; the others in "
        f"{scales.low[i]:.3g} … {scales.high[i]:.3g})"
        for i in np.flatnonzero(chosen & (scales.far > 0)).tolist()
    ]
    if entries:
        ids = " and ".join(dataset.info.id for dataset in datasets)
        warn(f"dataset {ids}, {field}: some values lie far out, in entry {listed(entries, 6)}; {consequence}")


def continued(spec: PolicySpec | None, spaces: Spaces, trajectories: Trajectories) -> tuple[PolicySpec | None, Spaces]:
    """Return the spec and the spaces of a policy that starts at a reference and goes on with a dataset: the reference's units,
    in the dataset's spaces.

    Raises UserError where the sizes differ, or the units of a shipped family do not hold the dataset's numbers.
    """
    data_spaces, name = spaces_of(trajectories), trajectories.info.id
    if (data_spaces.observation_size, len(data_spaces.action_low)) != (spaces.observation_size, len(spaces.action_low)):
        raise UserError(
            f"reference: has {spaces.observation_size} observations and {len(spaces.action_low)} actions, dataset {name} has "
            f"{data_spaces.observation_size} and {len(data_spaces.action_low)}"
        )
    if (
        None not in (data_spaces.observation_parts, spaces.observation_parts)
        and data_spaces.observation_parts != spaces.observation_parts
    ):
        theirs, ours = (", ".join(map(str, each.observation_parts or ())) for each in (spaces, data_spaces))
        raise UserError(f"reference: its observations are made of {theirs}; those of dataset {name}, of {ours}")
    if data_spaces.images != spaces.images:
        theirs, ours = (", ".join(map(str, each.images)) or "no images" for each in (spaces, data_spaces))
        raise UserError(f"reference: takes {theirs}; dataset {name} has {ours}")
    data_spaces = replace(data_spaces, observation_parts=data_spaces.observation_parts or spaces.observation_parts)
    if spec is None:
        return None, data_spaces
    _check_units(spec, trajectories)
    if data_spaces != spec.spaces:
        spec = replace(spec, spaces=data_spaces, action_range=spec.units_range, clip_actions=spec.clips)
    return spec, data_spaces


def _check_units(spec: PolicySpec, trajectories: Trajectories) -> None:
    """Raise UserError unless the units of a spec hold a dataset's numbers."""

    def refuse(entry: str, known: str, seen: str) -> None:
        raise UserError(
            f"reference: {entry} is {known} in its units, {seen} in dataset {trajectories.info.id}; train the reference on "
            "data in the same units"
        )

    actions, (low, high) = trajectories.action_scales, np.array(spec.units_range)
    half = (high - low) / 2.0
    outside = np.maximum(low - actions.low, actions.high - high) > _BEYOND * half
    coarse = (_COARSE * (actions.high - actions.low) / 2.0 < half).all()
    if outside.any() or coarse:
        i = int(outside.argmax())
        refuse(f"action {i}", f"{low[i]:.3g} … {high[i]:.3g}", f"{actions.low[i]:.3g} … {actions.high[i]:.3g}")
    if spec.settings.normalise_observations is False:
        return  # observations are taken as they come
    scales, size = trajectories.observation_scales, spec.spaces.observation_size
    mean, std = np.array(spec.observation_mean or [0.0] * size), np.array(spec.observation_std or [1.0] * size)
    lowest, highest = spec.observation_limits or (-np.inf, np.inf)
    middle, standardised = (scales.mean - mean) / std, (mean != 0.0) | (std != 1.0)
    clipped = (middle < lowest) | (middle > highest) | (scales.std > _SLACK * std)
    strange = np.where(standardised, clipped, scales.too_large(_SLACK))
    lost = np.where(standardised, scales.varies & (scales.std * _COARSE < std), scales.too_small)
    if 2 * lost.sum() > scales.varies.sum():
        strange |= lost
    name = entry_names(spec.spaces.observation_parts, size)
    known, seen = (
        [f"{a:.3g} ± {b:.3g}" for a, b in zip(*scale, strict=True)] for scale in ((mean, std), (scales.mean, scales.std))
    )
    for i in np.flatnonzero(strange).tolist():
        refuse(f"observation {name[i]}", known[i], seen[i])
    if (lost & standardised).any():
        entries = [f"{name[i]} ({seen[i]} where it is {known[i]})" for i in np.flatnonzero(lost & standardised).tolist()]
        warn(f"dataset {trajectories.info.id}: hardly varies in the reference's units, in observation {listed(entries, 6)}")


@dataclass(frozen=True)
class PolicyFactory:
    """Maker of untrained policies for a dataset: `make` makes one; `spec` is that of a shipped family, None of a custom one."""

    make: Callable[[], Any]
    spec: PolicySpec | None = None


# What `fit` takes for a policy: settings or the spec of a shipped family, a custom one by name, or what makes a module.
PolicyChoice = GaussianPolicy | PolicySpec | OwnPolicy | PolicyFactory | Callable[[], nn.Module]


def policy_factory(choice: PolicyChoice, *datasets: Trajectories) -> PolicyFactory:
    """Return what makes a policy for the first of the datasets, in units of all of them; a factory as it is.

    Raises UserError where a custom policy cannot be imported, and for a shipped family where the data has images.
    """
    match choice:
        case PolicyFactory():
            return choice
        case PolicySpec():
            _refuse_images(spaces_of(datasets[0]), datasets[0])
            return PolicyFactory(choice.make, choice)
        case GaussianPolicy():
            spec = policy_spec(choice, *datasets)
            return PolicyFactory(spec.make, spec)
        case _:
            return PolicyFactory(own_factory(choice, spaces_of(datasets[0])))


def own_factory(choice: OwnPolicy | Callable[[], nn.Module], spaces: Spaces) -> Callable[[], nn.Module]:
    """Return the factory of a custom policy: `choice` itself, or the function that it names, called with sizes and arguments,
    and, where there are images, their shapes by name.

    Raises UserError where the function cannot be imported; the factory raises it where no policy is made.
    """
    if isinstance(choice, nn.Module):
        raise UserError(
            f"policy: is a {type(choice).__name__}; give what makes one, such as lambda: {type(choice).__name__}(…)"
        )
    if not isinstance(choice, OwnPolicy):
        return _checked(choice, "policy")
    sizes: dict[str, Any] = {"observation_size": spaces.observation_size, "action_size": len(spaces.action_low)}
    if spaces.images:
        sizes["image_shapes"] = {image.name: image.shape for image in spaces.images}
    return _checked(partial(imported(choice.target), **sizes, **choice.arguments), choice.target)


def imported(target: str) -> Callable[..., nn.Module]:
    """Import package.module.Name. Raises UserError where it cannot be imported."""
    module, _, name = target.rpartition(".")
    try:
        factory: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"policy._target_={target}: cannot be imported ({error}); is its folder in PYTHONPATH?") from None
    return factory


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
        window_of(made)
        return made

    return make
