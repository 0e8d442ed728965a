"""Sweeps of trainings of a language model, which end with the table of their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from iwbc.runs import sweeps


class Sweep(sweeps.Sweep):
    """Called by Hydra, as conf/language/train.yaml asks."""

    def line(self, folder: Path) -> str:
        from iwbc.language.report import line

        return line(folder)

    def show(self, jobs: list[dict[str, Any]]) -> None:
        """Print the table of the finished jobs, and a line for each of the others."""
        from iwbc.language import report

        jobs = sorted(jobs, key=lambda job: int(job["job"]))
        for job in jobs:
            if job["status"] != "finished":
                print(f"Job {job['job']} ({' '.join(job['overrides'])}): {self.result(job)}")
        if finished := [Path(job["folder"]) for job in jobs if job["status"] == "finished"]:
            report.show(finished)


# Here, because wherever a job runs, the callback above arrives first.
OmegaConf.register_new_resolver("either", lambda first, second: second if first is None else first, replace=True)
