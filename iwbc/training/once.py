"""Training that is done once: what comes of it is cached under the hash of everything that it depends on.

What is interrupted leaves a checkpoint under such a name, from which whoever needs the same goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock
from rich.console import Console

from iwbc import engine
from iwbc.errors import UserError
from iwbc.settings import Recipe
from iwbc.system.files import cache_folder
from iwbc.system.interrupts import stop_requests
from iwbc.training.checkpoints import Checkpoints

T = TypeVar("T")


@dataclass(frozen=True)
class Once(Generic[T]):
    """A kind of results, each of one seed: the folder of the cache, the name in messages, the training, and the files."""

    folder: str
    name: str
    train: Callable[[Sequence[int], Checkpoints], dict[int, T]]
    save: Callable[[T, Path, int], None]
    read: Callable[[Path, int], T]  # raises UserError where the file is damaged, or is of something else

    def results(
        self, contents: Sequence[object], recipe: Recipe, seeds: Sequence[int], every: int, console: Console
    ) -> list[T]:
        """Return the results of `seeds`, from the cache; missing ones are trained together first, with a checkpoint `every` so
        many steps. `contents` is everything that they depend on, but for the seed, as JSON takes it."""

        def entry(seed: Any) -> Path:
            name = hashlib.sha256(json.dumps([*contents, seed], sort_keys=True).encode()).hexdigest()
            return cache_folder() / self.folder / f"{name}.safetensors"

        paths = {seed: entry(seed) for seed in seeds}
        lock = entry(None).with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            by_seed = {seed: self._cached(path, seed, console) for seed, path in paths.items()}
            if missing := [seed for seed, result in by_seed.items() if result is None]:
                path = entry([engine.is_on(), *missing]).with_suffix(".checkpoint")
                checkpoints = Checkpoints(self.name, lambda: path, path.stem, recipe.steps, every, console)
                with stop_requests(checkpoints.stop):
                    trained = self.train(missing, checkpoints)
                for seed, result in trained.items():
                    self.save(result, paths[seed], seed)
                by_seed |= trained
                path.unlink(missing_ok=True)
        return [result for result in by_seed.values() if result is not None]

    def _cached(self, path: Path, seed: int, console: Console) -> T | None:
        """Read an entry, or return None where there is none or what is there is damaged."""
        if not path.exists():
            return None
        try:
            return self.read(path, seed)
        except UserError:
            console.print(f"The cached {self.name} {path.name[:12]}… is damaged; it is trained again.")
            path.unlink()
            return None
