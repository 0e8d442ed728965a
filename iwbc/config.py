"""From conf/ and a command line to settings. Hydra composes, iwbc.settings checks. Imports no torch."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from iwbc.errors import UserError
from iwbc.settings import (
    ALGORITHMS,
    CHANGEABLE,
    CURATIONS,
    DATASETS,
    POLICIES,
    Config,
    Env,
    Eval,
    Logger,
    OwnPolicy,
    Settings,
    to_plain,
    training_part,
)
from iwbc.system.files import config_folder
from iwbc.system.imports import import_named


def compose(*overrides: str) -> Config:
    """Compose the configuration that these arguments of `python -m iwbc.train` stand for. Raises UserError, one line, for a
    value that is not allowed, and Hydra's exceptions for an unknown key."""
    import_custom(overrides)
    return validate(_composed(overrides))


def hydra_on_conf(folder: str | None = None) -> AbstractContextManager[None]:
    """Let Hydra compose the files of conf/, or of a folder in it, which begin with the defaults that this module registers."""
    return hydra.initialize_config_dir(folder or config_folder(), version_base="1.3")


def _composed(overrides: Sequence[str]) -> DictConfig:
    with hydra_on_conf():
        return hydra.compose("train", list(overrides))


def named_modules(arguments: Sequence[str]) -> list[str]:
    """List the modules that arguments name with env.imports=[module]."""
    named = [argument for argument in arguments if argument.lstrip("+").startswith("env.imports=")]
    values = [override.value() for override in OverridesParser.create().parse_overrides(named)]
    return [module for value in values if isinstance(value, list) for module in value if isinstance(module, str)]


def import_custom(arguments: Sequence[str]) -> None:
    """Import the modules that arguments name, and let algo=NAME choose the algorithms that they register. Raises UserError
    where a module cannot be imported."""
    import_named(named_modules(arguments))
    for name, kind in ALGORITHMS.items():
        if kind.__module__ != Settings.__module__:
            for group in ("settings/algo", "algo"):
                ConfigStore.instance().store(group=group, name=name, node=defaults_of(kind))


# Settings that hold paths, in which characters of Hydra's grammar may stand. Of some ~ is replaced here, as no shell does it
# after key=; of the others it is where they are read, and config.yaml keeps it.
_FROM_HOME = ("hydra.run.dir", "hydra.sweep.dir", "out", "prompts", "tokenizer")
_PATHS = (*_FROM_HOME, "dataset.path", "hydra.sweep.subdir", "model", "data", "curation.path")


def quoted(arguments: Sequence[str]) -> list[str]:
    """Put quotes around those paths among the arguments of a command line that Hydra would not take for text, such as
    dataset.path=lr=0.1/demo.hdf5, with the user's folder in place of ~. In a list of paths that exist, which is a sweep, each
    is quoted."""
    return [_quoted(argument) for argument in arguments]


def _quoted(argument: str) -> str:
    key, equals, text = argument.partition("=")
    if not equals or key.lstrip("+") not in _PATHS:
        return argument
    if key.lstrip("+") in _FROM_HOME:
        text = os.path.expanduser(text)
        argument = f"{key}={text}"
    there = _is_there(text)
    try:
        override = OverridesParser.create().parse_override(argument)
        if not isinstance(override.value(), list | dict) and not (override.is_sweep_override() and there):
            return argument
    except HydraException:
        pass
    parts = text.split(",")
    several = not there and all(map(_is_there, parts))
    return f"{key}={','.join(map(in_quotes, parts if several else [text]))}"


def _is_there(text: str) -> bool:
    return os.path.exists(os.path.expanduser(text))  # pathlib raises an error for the home of nobody


def in_quotes(text: str) -> str:
    """Quote a text as a string of Hydra's grammar."""
    text = re.sub(r"(\\*)(?='|$)", r"\1\1", text)  # backslashes before a quote
    return "'" + text.replace("'", r"\'") + "'"


def composed(settings: Sequence[str]) -> Config:
    """Compose a configuration as `compose` does, for commands that take settings: every error in them is a UserError."""
    try:
        return compose(*quoted(settings))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(settings)}: {message_of(error, config_folder())}") from None


def message_of(error: Exception, folder: str) -> str:
    """Return Hydra's message as one line. Of a choice that `folder` lacks, with those in the group's folders, too, which Hydra
    leaves out."""
    message = " ".join(str(error).split("Config search path")[0].split())
    if not isinstance(error, MissingConfigException) or not error.missing_cfg_file or error.options is None:
        return message
    group = Path(folder) / error.missing_cfg_file.split("/")[0]
    below = sorted(path.relative_to(group).with_suffix("").as_posix() for path in group.glob("*/*.yaml"))
    return " ".join([message, *below])


def changed(config: Config, overrides: Sequence[str]) -> Config:
    """Apply `overrides`, arguments of `python -m iwbc.train`, to the groups of a configuration that may change during a run.

    Raises UserError for other settings and for changes of the training, and Hydra's exceptions for an unknown key.
    """
    if not overrides:
        return config
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        if (
            override.key_or_group.split(".")[0] not in CHANGEABLE
            or override.is_sweep_override()
            or override.package is not None
        ):
            raise UserError(f"{override.input_line}: {_ONLY_CHANGEABLE}")
    plain = OmegaConf.create(to_plain(config))
    if choices := [override for override in parsed if override.key_or_group in CHANGEABLE]:
        chosen = _composed([str(override.input_line) for override in choices])
        for override in choices:
            plain[override.key_or_group] = chosen[override.key_or_group]
    OmegaConf.set_struct(plain, True)
    ConfigLoaderImpl._apply_overrides_to_config([override for override in parsed if override not in choices], plain)
    result = validate(plain)
    if training_part(result) != training_part(config):
        raise UserError(f"{' '.join(overrides)}: the data was made for env.id={config.env.id}; {_ONLY_CHANGEABLE}")
    return result


_ONLY_CHANGEABLE = (
    "a run that is continued may change what does not change its training: env.…, eval.… and logger.…; train again for others"
)


def validate(composed: DictConfig) -> Config:
    """Make a typed configuration. Raises UserError, one line, for a key that does not exist or a value that is not allowed."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(plain, dict)
        kinds = {
            "dataset": kind_of_group(plain, "dataset", "source", DATASETS),
            "curation": kind_of_group(plain, "curation", "name", CURATIONS),
            "algo": kind_of_group(plain, "algo", "name", ALGORITHMS),
        }
        custom = _own_policy(plain)
        if custom is None:
            kinds["policy"] = kind_of_group(plain, "policy", "family", POLICIES)
        parts: dict[str, Any] = {name: typed(kind, plain.pop(name), name) for name, kind in kinds.items()}
        if custom is not None:
            parts["policy"] = custom
        config = typed(Config, plain | dict.fromkeys(parts), "")
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from None
    for name, part in parts.items():
        setattr(config, name, part)
    config.check()
    assert isinstance(config, Config)
    return config


def _own_policy(plain: dict[Any, Any]) -> OwnPolicy | None:
    values = plain.get("policy")
    if not isinstance(values, dict) or "_target_" not in values:
        return None
    arguments = {str(key): value for key, value in values.items() if key != "_target_"}
    return OwnPolicy(str(values["_target_"]), arguments)


def kind_of_group(plain: dict[Any, Any], group: str, key: str, kinds: dict[str, Any]) -> type[Settings]:
    """Look up the class of a group's settings by its name among them. Raises UserError for another."""
    values = plain.get(group)
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, str) or value not in kinds:
        raise UserError(f"{group}.{key}={value}: must be one of {', '.join(kinds)}")
    kind: type[Settings] = kinds[value]
    return kind


def typed(kind: type[Settings], values: dict[Any, Any], group: str) -> Any:
    """Make settings of a class from plain values. Raises UserError for a key or a value's type that the class does not have."""
    schema = _schema(kind)  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
    _check_lists(schema, values, group)
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, values))
    except OmegaConfBaseException as error:
        full_key = ".".join(part for part in (group, str(error.full_key or "")) if part)
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{full_key}: must be given") from None
        raise UserError(f"{full_key}: {one_line(error)}") from None


@functools.cache
def _schema(kind: type[Settings]) -> Any:
    return OmegaConf.structured(kind)


def _check_lists(schema: Any, values: dict[Any, Any], group: str) -> None:
    """Raise UserError where a list is expected and a mapping or a nested list is there, because OmegaConf lets them pass."""
    for name, value in values.items():
        key, node = f"{group}.{name}".removeprefix("."), schema._get_node(name) if name in schema else None
        if OmegaConf.is_list(node):
            if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value)):
                raise UserError(f"{key}: must be a list, such as [0,1]")
        elif isinstance(value, dict) and is_dataclass(OmegaConf.get_type(node)):  # not env.kwargs, which may hold anything
            _check_lists(node, value, key)


def one_line(error: Exception) -> str:
    """Say in a line, in the user's words, what OmegaConf refused."""
    line = str(error).strip().splitlines()[0]
    if "is not a ListConfig" in line:
        return "must be a list, such as [0,1]"
    return "must be one value, not a list" if "Cannot convert 'ListConfig'" in line else line


def defaults_of(kind: type[Settings]) -> dict[str, Any]:
    """Return a class's defaults as plain values; a required setting is ???."""
    defaults: dict[str, Any] = {}
    for setting in fields(kind):
        value = setting.default_factory() if setting.default_factory is not MISSING else setting.default
        defaults[setting.name] = "???" if value is MISSING else asdict(value) if isinstance(value, Settings) else value
    return defaults


def _register() -> None:
    """Let conf/'s files begin with the defaults of iwbc.settings: `/settings/<group>` there."""
    store = ConfigStore.instance()
    groups: dict[str, dict[str, Any]] = {"dataset": DATASETS, "curation": CURATIONS, "algo": ALGORITHMS, "policy": POLICIES}
    groups |= {"env": {"env": Env}, "eval": {"eval": Eval}, "logger": {"logger": Logger}}
    for group, kinds in groups.items():
        for name, kind in kinds.items():
            store.store(group=f"settings/{group}", name=name, node=defaults_of(kind))
    run = {name: value for name, value in defaults_of(Config).items() if name not in groups}
    store.store(group="settings", name="run", node=run)


_register()
