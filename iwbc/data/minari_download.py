"""Minari's hosted datasets: fetched by Minari's code, so that they appear under their ids whole or not at all.

Minari downloads into the folder that MINARI_DATASETS_PATH names when its process starts, file by file. Here it runs in
a separate process, with a temporary folder in that place, whose datasets are then moved to where they belong.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

from iwbc.data.minari_folder import dataset_folder
from iwbc.errors import UserError
from iwbc.system.files import temporary_prefix
from iwbc.system.locks import exclusive_lock

_TIMEOUT = 5.0  # seconds to wait for a first sign of the server


def download(dataset_id: str) -> None:
    """Download a dataset (and the ones that it combines) unless it is there. A second process waits for the first.

    MINARI_REMOTE and HF_ENDPOINT are followed as Minari and Hugging Face follow them.
    Raises UserError where the server cannot be reached or does not have the dataset.
    """
    from minari.storage.remotes import DEFAULT_REMOTE

    folder, root = dataset_folder(dataset_id), dataset_folder()
    remote = os.environ.get("MINARI_REMOTE", DEFAULT_REMOTE)
    with exclusive_lock(root / f".{dataset_id.replace('/', '+')}.lock"):
        if folder.exists():
            return
        reason = unreachable() if remote.startswith("hf://") else None
        if reason:
            raise UserError(
                f"dataset {dataset_id}: is not on this machine, and {remote} cannot be reached ({reason}); "
                f"{_alternative(dataset_id)}with a network, run: minari download {dataset_id}"
            )
        with tempfile.TemporaryDirectory(prefix=temporary_prefix(root / dataset_id.replace("/", "+")), dir=root) as temporary:
            reason = failure_of("iwbc.data.minari_download", dataset_id, MINARI_DATASETS_PATH=temporary)
            if reason:
                raise UserError(f"dataset {dataset_id}: could not be downloaded from {remote} ({reason})")
            _move(Path(temporary), root, dataset_id)


def failure_of(module: str, *arguments: str, **environment: str) -> str | None:
    """Run a module that downloads in a separate process; return the reason why it failed, in a line, or None."""
    environment = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1"} | environment
    # Progress bars go to the error stream, which is shared; the output is the reason of a failure.
    result = subprocess.run([sys.executable, "-m", module, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
    return (result.stdout.strip() or f"exit code {result.returncode}") if result.returncode else None


@contextlib.contextmanager
def in_a_line() -> Iterator[None]:
    """End the process where the block, which downloads, fails: with code 1, and the reason as a line of output."""
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # any error ends this process and becomes one line in the other
        print(" ".join(f"{error}".split()) or type(error).__name__)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)  # the other process says so


def unreachable() -> str | None:
    """Return the reason why the Hugging Face Hub cannot be reached, or None."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()
    except urllib.error.HTTPError:
        return None  # it answers
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def _alternative(dataset_id: str) -> str:
    match = re.fullmatch(r"mujoco/(hopper|halfcheetah|walker2d)/(medium|expert)-v\d+", dataset_id)
    if not match:
        return ""
    return f"instead, train on the tier generated here (env={match[1]} dataset={match[2]}), or, "


def _move(temporary: Path, root: Path, dataset_id: str) -> None:
    datasets = [path.parent.parent for path in temporary.glob("**/data/metadata.json")]
    if temporary / dataset_id not in datasets:
        raise UserError(f"dataset {dataset_id}: the server sent no data for it")
    for path in temporary.glob("**/namespace_metadata.json"):
        target = root / path.relative_to(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            os.replace(path, target)
    # The dataset asked for comes last: once it is there, so are the ones that it combines.
    for path in sorted(datasets, key=lambda path: path == temporary / dataset_id):
        target = root / path.relative_to(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.rmtree(path / ".cache", ignore_errors=True)  # of the downloader
            os.replace(path, target)


def _fetch(dataset_id: str) -> None:
    """Download into MINARI_DATASETS_PATH, in the separate process; on failure print one line and exit with code 1."""
    with in_a_line():
        warnings.filterwarnings("default", message="We recommend")  # a newer version of the dataset
        from minari import download_dataset

        download_dataset(dataset_id)


if __name__ == "__main__":
    _fetch(sys.argv[1])
