"""From conf/language/ and a command line to settings. Imports no torch."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iwbc.config import defaults_of, kind_of_group, one_line, typed
from iwbc.errors import UserError
from iwbc.language.settings import ALGORITHMS, CURATIONS, Train

_GROUPS = {"curation": CURATIONS, "algo": ALGORITHMS}


def validate(composed: DictConfig | dict[str, Any]) -> Train:
    """Make typed settings. Raises UserError, one line, for a key that does not exist or a value that is not allowed."""
    try:
        plain = OmegaConf.to_container(OmegaConf.create(composed), resolve=True)
        assert isinstance(plain, dict)
        kinds = {group: kind_of_group(plain, group, "name", choices) for group, choices in _GROUPS.items()}
        parts = {group: typed(kind, plain.pop(group), group) for group, kind in kinds.items()}
        settings: Train = typed(Train, plain | dict.fromkeys(parts), "")
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from None
    for group, part in parts.items():
        setattr(settings, group, part)
        part.check(group)
    settings.check()
    return settings


def _register() -> None:
    """Let the files of conf/language/ begin with the classes' defaults, as those of conf/ do: `/settings/<group>` there.

    Groups of the store's own would be taken for schemas of conf/'s files of the same names.
    """
    store = ConfigStore.instance()
    for group, kinds in _GROUPS.items():
        for name, kind in kinds.items():
            store.store(group=f"settings/{group}", name=name, node=defaults_of(kind))
    store.store(group="settings", name="language", node={k: v for k, v in defaults_of(Train).items() if k not in _GROUPS})


_register()
