"""Completion of the words of a command in the shell."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints


def options(module: str, typed: str) -> list[str]:
    """Complete a word of a command with Options: key=, then what the key may be; paths where it takes files and folders."""
    from iwbc.system.arguments import option_names

    kind = importlib.import_module(module).Options
    names, hints = option_names(kind), get_type_hints(kind)
    key, equals, value = typed.partition("=")
    if not equals or key not in names:
        return [*_starting(typed, (f"{name}=" for name in names)), *_paths(typed)]
    (choices,) = (option.metadata.get("choices", ()) for option in fields(kind) if option.name == key)
    if hints[key] is bool:
        choices = ("false", "true")
    words = _paths(value) if hints[key] in (Path, Path | None) else _starting(value, choices)
    return [f"{key}={word}" for word in words]


def settings(words: Sequence[str], typed: str, root: str = "") -> list[str]:
    """Complete a setting of a run as Hydra would, after the settings before it; `root` is the command's folder in conf/."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    from iwbc.config import hydra_on_conf
    from iwbc.system.files import config_folder

    if root:
        importlib.import_module(f"iwbc.{root}.config")  # registers what its files begin with
    with hydra_on_conf(str(Path(config_folder()) / root)):
        loader = GlobalHydra.instance().config_loader()
        line = " ".join([*(word for word in words if not word.startswith("-")), typed])
        return DefaultCompletionPlugin(loader)._query("train", line)


def _starting(typed: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(typed)]


def _paths(typed: str) -> Iterator[str]:
    folder, slash, name = typed.rpartition("/")
    place = Path(folder + slash or ".").expanduser()
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        if path.name.startswith(name) and (name or not path.name.startswith(".")):
            yield f"{folder}{slash}{path.name}{'/' * path.is_dir()}"
