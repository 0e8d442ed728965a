"""Where Minari keeps its datasets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from iwbc.data.locks import only_one
from iwbc.errors import UserError


def dataset_folder(dataset_id: str | None = None) -> Path:
    """Where Minari keeps this dataset: a folder under MINARI_DATASETS_PATH (default ~/.minari/datasets); that folder
    itself without an id. Raises UserError for an id that is not one of Minari's."""
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.storage.datasets_root_dir import get_dataset_path

    match = DATASET_ID_RE.fullmatch(dataset_id or "")
    if dataset_id is not None and not (match and match["version"]):
        raise UserError(f"dataset {dataset_id}: not an id; ids look like mujoco/hopper/medium-v0: (namespace/)name-vN")
    try:
        return Path(get_dataset_path(dataset_id))
    except OSError as error:
        where = os.environ.get("MINARI_DATASETS_PATH", "~/.minari/datasets")
        raise UserError(f"MINARI_DATASETS_PATH={where}: cannot be used ({error.strerror})") from None


def make_once(dataset_id: str, make: Callable[[], None]) -> None:
    """Make a dataset unless it is there. A second process that wants it at the same time waits for the first."""
    folder = dataset_folder(dataset_id)
    if not folder.exists():
        with only_one(dataset_folder() / f".{dataset_id.replace('/', '+')}.lock"):
            if not folder.exists():
                make()
