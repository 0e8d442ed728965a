"""Sweeps: every job leaves word of how it ended, and the command that launched them all sums it up.

Jobs may run in other processes or on other machines, so they report through files in the user's cache folder, under the
sweep's name, which the launching process passes on in the environment.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from iwbc.files import cache_folder, write_json

# Also named in conf/train.yaml, so that launchers copy it into their jobs' environment.
_VARIABLE = "IWBC_SWEEP"


def begin() -> None:
    """Give the sweep that this process may launch a name."""
    os.environ[_VARIABLE] = uuid.uuid4().hex


def _status_folder() -> Path:
    return cache_folder() / "sweeps" / os.environ[_VARIABLE]


def leave_word(folder: Path, status: str, error: str | None = None) -> None:
    """Report this job's status: running, finished or failed."""
    job = HydraConfig.get().job
    word = {"job": job.num, "folder": str(folder), "status": status, "error": error}
    write_json(_status_folder() / f"{job.num}.json", word)


def summarise() -> bool:
    """Print how the jobs of this process's sweep, if it launched one, ended; whether all of them finished."""
    status_folder = _status_folder()
    jobs = sorted((json.loads(path.read_text()) for path in status_folder.glob("*.json")), key=lambda word: int(word["job"]))
    shutil.rmtree(status_folder, ignore_errors=True)
    if not jobs:
        return True

    from rich.console import Console
    from rich.table import Table

    table = Table(title="Sweep", show_lines=False)
    for name in ("job", "run folder", "result"):
        table.add_column(name, overflow="fold")
    for word in jobs:
        table.add_row(str(word["job"]), os.path.relpath(word["folder"]), _result(word))
    Console().print(table)
    unfinished = sum(word["status"] != "finished" for word in jobs)
    if unfinished:
        print(f"{unfinished} of {len(jobs)} jobs did not finish; the same command runs only those again.")
    return not unfinished


def _result(word: dict[str, str]) -> str:
    if word["status"] != "finished":
        return "killed" if word["status"] == "running" else f"failed: {word['error']}"
    summary = json.loads((Path(word["folder"]) / "summary.json").read_text())
    final = summary["totals"].get("final")
    if final is None:
        return "finished, not evaluated"
    score = "" if final["score_mean"] is None else f", score {final['score_mean']:.1f}"
    return f"return {final['return_mean']:.1f}{score}"
