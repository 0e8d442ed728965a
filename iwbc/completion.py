"""What the shell may complete a word of a command with. Imports no torch and no Hydra: it runs at every press of a key."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from iwbc.files import config_folder
from iwbc.settings import ALGORITHMS, CURATIONS, DATASETS, POLICIES, Config, Env, Eval, Logger, Reference


def options(module: str, typed: str) -> list[str]:
    """For a command with OPTIONS: key=, then what the key may be; or, where it takes files and folders, their paths."""
    from iwbc.commands import OneOf, boolean

    table = getattr(importlib.import_module(module), "OPTIONS", {})
    key, equals, value = typed.partition("=")
    if not equals:
        return [*_starting(typed, (f"{name}=" for name in table)), *_paths(typed)]
    read = table[key].read if key in table else None
    if isinstance(read, OneOf):
        return [f"{key}={one}" for one in _starting(value, read.choices)]
    if read is boolean:
        return [f"{key}={one}" for one in _starting(value, ("false", "true"))]
    return [f"{key}={path}" for path in _paths(value)] if read is Path else []


def training(typed: str) -> list[str]:
    """For `train`: group= and its choices, of which several may stand with commas between, and settings and theirs."""
    key, equals, value = typed.partition("=")
    groups, settings = _groups(), _settings()
    if not equals:
        names = [*groups, *(name for name in settings if "." not in name), "resume"]
        if "." in typed:
            names = list(settings)
        dotted = dict.fromkeys(f"{name.split('.')[0]}." for name in settings if "." in name)
        return [*_starting(typed, (f"{name}=" for name in names)), *(_starting(typed, dotted) if "." not in typed else [])]
    if key == "resume":
        return [f"{key}={path}" for path in _paths(value)]
    before, comma, last = value.rpartition(",")
    choices = groups.get(key) or settings.get(key, ())
    return [f"{key}={before}{comma}{one}" for one in _starting(last, choices)]


def _groups() -> dict[str, list[str]]:
    """Hydra's groups by the names that they are chosen by, and their choices: the files in conf/."""
    folder = Path(config_folder())
    found: dict[str, list[str]] = {}
    for place in sorted(path for path in folder.rglob("*") if path.is_dir() and path.name != "hydra"):
        name = place.relative_to(folder).as_posix()
        choices = sorted(path.stem for path in place.glob("*.yaml"))
        found[f"+{name}" if name in ("experiment", "method") else name] = choices
    return found


def _settings() -> dict[str, tuple[str, ...]]:
    """Every setting by its dotted name, with what it may be where that is one of few."""
    kinds: dict[str, Iterable[type[Any]]] = {
        "": [Config],
        "dataset.": DATASETS.values(),
        "curation.": CURATIONS.values(),
        "algo.": ALGORITHMS.values(),
        "policy.": POLICIES.values(),
        **{f"{one.__name__.lower()}.": [one] for one in (Env, Eval, Logger, Reference)},
    }
    found: dict[str, tuple[str, ...]] = {}
    for prefix, classes in kinds.items():
        for one in (field for kind in classes for field in fields(kind)):
            choices = ("false", "true") if isinstance(one.default, bool) else one.metadata.get("choices", ())
            if one.name not in ("name", "source", "family") and f"{prefix}{one.name}." not in kinds:
                found.setdefault(f"{prefix}{one.name}", choices)
    return found


def _starting(typed: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(typed)]


def _paths(typed: str) -> Iterator[str]:
    folder, slash, name = typed.rpartition("/")
    place = Path(folder + slash or ".").expanduser()
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.name.startswith(name) and (name or not path.name.startswith(".")):
            yield f"{folder}{slash}{path.name}{'/' * path.is_dir()}"
