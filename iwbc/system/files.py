"""Files that appear whole or not at all, and where the package keeps what it can make again."""

from __future__ import annotations

import contextlib
import csv
import errno
import glob
import hashlib
import io
import json
import os
import platform
import re
import shutil
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# NumPy raises these for a damaged file: for the container, for the header, which is read as Python's literals, and for a header
# that claims more than there can be.
NUMPY_DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
# Reading and using malformed plain values raises these: infinity has no whole part (ArithmeticError), and values nested too
# deeply cannot be read (RecursionError).
MALFORMED = (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
# Values in files may be nested this deeply: more than any need, and far from Python's limit of recursion, near which code that
# happens to run (a finalizer, by the garbage collector) fails, too.
_DEEPEST = 100
_JSON_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
# The only key of a tensor file's metadata, with a JSON value: safetensors writes several keys in another order each time.
_METADATA = "iwbc"


def config_folder() -> str:
    """Return the path of conf/: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return str(installed if installed.exists() else package.parent / "conf")


# The kinds of paths, each with the commands that take it.
KINDS = {
    "run": "a run, which iwbc evaluate, verify, record, export and report take",
    "dataset": "a dataset, which iwbc info takes",
    "policy": "a policy's file; commands take the folder of its run, and iwbc.load_policy in Python the file",
}


def kind_of(path: Path) -> str:
    """Tell a run's folder, a dataset and a policy's file by what they hold: one of KINDS, or other."""
    with contextlib.suppress(OSError):  # of a name that is too long for a file's
        return _kind_of(path)
    return "other"


def _kind_of(path: Path) -> str:
    if (path / "config.yaml").is_file():
        return "run"
    if (path / "data").is_dir() or (path.suffix in (".npz", ".hdf5", ".h5") and path.is_file()):
        return "dataset"
    return "policy" if path.suffix == ".safetensors" and path.is_file() else "other"


def folders_with(start: Path, *names: str) -> Iterator[Path]:
    """Find the folders at `start` and below, through links, too, that hold a file of one of these names, each once; not in
    hidden folders, and not within one that holds such a file."""
    seen = set()
    for place, folders, files in os.walk(start.resolve(), followlinks=True):
        folder = Path(place).resolve()
        if folder in seen:
            folders.clear()
            continue
        seen.add(folder)
        if set(names) & set(files):
            yield folder
            folders.clear()  # what lies in it belongs to it
        folders[:] = [name for name in folders if not name.startswith(".")]


def cache_folder() -> Path:
    """Return $IWBC_CACHE, or else iwbc/ in the user's cache folder."""
    if folder := os.environ.get("IWBC_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iwbc"


def temporary_prefix(path: Path) -> str:
    """Return the prefix of temporary files and folders that are to become `path`, beside which they lie. Removes leftovers with
    this prefix of processes of this machine, or of this container on it, that were killed."""
    mine = f".{path.name}~{_machine()}~"
    for stray in path.parent.glob(f"{glob.escape(mine)}*"):
        process = stray.name.removeprefix(mine).partition("~")[0]
        if process.isdigit() and not _is_running(int(process)):
            with contextlib.suppress(OSError):
                shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
    return f"{mine}{os.getpid()}~"


def _machine() -> str:
    """Name this machine and, where it has containers, the one whose numbers of processes these are."""
    try:
        return f"{platform.node()}-{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"
    except OSError:
        return platform.node()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file atomically, so that it outlasts a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=temporary_prefix(path), dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):  # the error of a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield the place for a file or folder that becomes `path` when the block ends well, and is removed when it does not.
    Raises FileExistsError where something is at `path` by then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    around = Path(tempfile.mkdtemp(prefix=temporary_prefix(path), dir=path.parent))
    try:
        yield around / path.name
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.replace(around / path.name, path)
    finally:
        shutil.rmtree(around, ignore_errors=True)


def read_yaml(path: Path) -> Any:
    """Read the plain values in a YAML file. Tags are refused, because they could make objects, and aliases, because they could
    grow beyond memory. Raises OSError where the file cannot be read, ValueError where it is damaged."""
    import yaml

    class Plain(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it holds an alias")
            self.depth += 1
            if self.depth > _DEEPEST:
                raise yaml.YAMLError("it is nested too deeply")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Plain)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_json(path: Path) -> Any:
    """Read the values in a JSON file. Raises OSError where it cannot be read, ValueError where it is damaged."""
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str, unique: bool = False) -> Any:
    """Parse a JSON text. Raises ValueError where it is damaged, nested too deeply, or, with `unique`, an object has a key
    twice."""
    depth = 0
    for token in _JSON_BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
    return json.loads(text, object_pairs_hook=_unique if unique else None)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)} is there twice")
    return values


def write_json(path: Path, value: Any) -> None:
    """Write or replace a JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write or replace a CSV file as `write_bytes` does. Its columns are those of all rows, in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Compute the SHA-256 of metadata and of tensors, in the order of the tensors' names."""
    import torch

    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a file that `write_tensors` wrote, or an earlier version, or another program. Raises
    OSError where it cannot be read, and ValueError where it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{error}") from None
    if metadata is None:
        raise ValueError("it holds no metadata")
    if _METADATA in metadata:  # files of earlier versions have a key for each item
        metadata = parse_json(metadata[_METADATA])
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is no object")
    # Files of other programs have no digest.
    digest = metadata.pop("digest", None)
    if digest not in (None, digest_of(tensors, metadata)):
        raise ValueError("its content is not what was written")
    return tensors, metadata


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write or replace a safetensors file atomically, with the hash of its tensors and metadata."""
    import torch
    from safetensors.torch import save

    # Copies, as safetensors refuses tensors that share memory.
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    text = json.dumps({**metadata, "digest": digest_of(copies, metadata)}, sort_keys=True)
    write_bytes(path, save(copies, {_METADATA: text}))
