"""Datasets of LeRobot on the Hugging Face Hub: meta/ and data/ alone, fetched by huggingface_hub, whole or not at all.

The library reads its settings when it is imported: it runs in a separate process.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from iwbc.data.minari_download import failure_of, in_a_line, unreachable
from iwbc.errors import UserError
from iwbc.system.files import cache_folder, temporary_prefix
from iwbc.system.locks import exclusive_lock

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*")


def is_id(name: str) -> bool:
    """Tell whether a name can be an id of the Hub, owner/name."""
    return bool(_ID.fullmatch(name)) and ".." not in name


def folder_of(dataset_id: str, revision: str | None) -> Path:
    """Return the folder of a download, which may not be there. Raises UserError for an id or a revision that can be none."""
    if not is_id(dataset_id):
        raise UserError(f"dataset.id={dataset_id}: not an id of the Hub; ids look like lerobot/pusht: owner/name")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise UserError(f"dataset.revision={revision}: not a tag or a commit, such as v3.0")
    return cache_folder() / "lerobot" / (dataset_id if revision is None else f"{dataset_id}@{revision}")


def ensure(dataset_id: str, revision: str | None) -> None:
    """Download a dataset unless it is there. A second process waits for the first. HF_ENDPOINT and HF_HUB_OFFLINE are followed.

    Raises UserError where the Hub cannot be reached or does not have the dataset.
    """
    folder = folder_of(dataset_id, revision)
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder.parent / f".{folder.name}.lock"):
        if folder.is_dir():
            return
        if reason := unreachable():
            raise UserError(
                f"dataset {dataset_id}: is not on this machine, and the Hugging Face Hub cannot be reached ({reason}); with a "
                f"network, run the same command, or: hf download {dataset_id} --repo-type dataset --include 'meta/*' 'data/*' "
                f"--local-dir FOLDER, and then dataset.path=FOLDER"
            )
        with tempfile.TemporaryDirectory(prefix=temporary_prefix(folder), dir=folder.parent) as temporary:
            content = Path(temporary) / "content"
            reason = failure_of("iwbc.data.formats.lerobot_download", dataset_id, revision or "", str(content))
            if reason:
                raise UserError(f"dataset {dataset_id}: could not be downloaded from the Hugging Face Hub ({reason})")
            if not (content / "meta" / "info.json").is_file():
                raise UserError(f"dataset {dataset_id}: holds no meta/info.json on the Hub, so no dataset of LeRobot")
            shutil.rmtree(content / ".cache", ignore_errors=True)  # of the downloader
            os.replace(content, folder)


def _fetch(dataset_id: str, revision: str, folder: str) -> None:
    with in_a_line():
        from huggingface_hub import snapshot_download

        snapshot_download(
            dataset_id, repo_type="dataset", revision=revision or None, local_dir=folder, allow_patterns=["meta/*", "data/*"]
        )


if __name__ == "__main__":
    _fetch(*sys.argv[1:])
