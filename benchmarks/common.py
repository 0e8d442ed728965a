"""What the benchmarks share: where results go, what they were measured on, and runs side by side."""

from __future__ import annotations

import csv
import multiprocessing
import os
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iwbc.errors import UserError
from iwbc.runs.summary import Summary
from iwbc.system.processes import cores, end_with_parent

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, memory, and the load average of the last minute."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return {
        "processor": next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
        ),
        "cores": cores(),
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2),
    }


@dataclass(frozen=True)
class Job:
    """One run: its settings, and the folder that it is in, or will be."""

    overrides: tuple[str, ...]
    folder: Path


def play(job: Job) -> Summary:
    """Run a job, in a process of its own; its summary."""
    from rich.console import Console

    from iwbc.config import compose
    from iwbc.runs.pipeline import run as run_pipeline

    with Path("/dev/null").open("w") as nowhere:
        return run_pipeline(compose(*job.overrides), job.folder, Console(file=nowhere))


def played(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Summary]]:
    """Yield every job with its summary as it ends; those that have finished are not run again."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        futures = {pool.submit(play, job): job for job in jobs}
        for number, future in enumerate(as_completed(futures), start=1):
            yield futures[future], future.result()
            print(f"{number}/{len(jobs)}  {futures[future].folder}", flush=True)


def play_all(jobs: Sequence[Job], workers: int) -> dict[Job, Summary]:
    """Return all jobs' summaries; those that have finished are not run again."""
    return dict(played(jobs, workers))


def read(table: Path) -> list[dict[str, str]]:
    """Read the cells that are done."""
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def chosen(words: Sequence[str], choices: Sequence[str], what: str) -> list[str]:
    """The words, all of them choices; all choices where there are none. Raises UserError for another word."""
    if unknown := [word for word in words if word not in choices]:
        raise UserError(f"{unknown[0]}: not a {what}; there are {', '.join(choices)}")
    return list(words or choices)
