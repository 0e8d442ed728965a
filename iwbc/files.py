"""Files that appear whole or not at all, and where the package keeps what it can make again."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def config_folder() -> str:
    """Where conf/ lies: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "conf"
    return str(installed if installed.exists() else package.parent / "conf")


def cache_folder() -> Path:
    """$IWBC_CACHE, or else iwbc/ in the user's cache folder."""
    if own := os.environ.get("IWBC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iwbc"


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write or replace a JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write or replace a CSV file atomically. Its columns are those of all rows, in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write or replace a safetensors file atomically."""
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory, as views of one flat buffer do.
    write_bytes(path, save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, dict(metadata)))
