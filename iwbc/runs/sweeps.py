"""Sweeps: every job reports how it ended, and the command that launched them all sums it up.

Jobs run wherever Hydra's launchers put them: in this process, in others, on other machines. They report through files under
the sweep's folder, which they share with the launching process anyway.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import os
import shutil
import sys
import time
import traceback
import uuid
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from iwbc.errors import UserError
from iwbc.system.files import temporary_prefix, write_json

if TYPE_CHECKING:
    from iwbc.runs.summary import Summary


class Sweep(Callback):
    """Called by Hydra, as conf/train.yaml asks. Launchers send it along with every job, and so it knows where to report."""

    # The sweep that this process launched.
    launched: ClassVar[Sweep | None] = None

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.reports: Path | None = None
        self.jobs: int | None = None  # how many there will be, where the sweeper is Hydra's own
        self.begun = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Choose, in the launching process, where jobs report."""
        folder = Path(config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.reports = folder, folder / f"{temporary_prefix(folder / 'sweep')}{uuid.uuid4().hex}"
        self.jobs, self.begun = _count_jobs(config), time.time()
        Sweep.launched = self
        if "submitit" in config.hydra.launcher._target_:
            self._follow_submitit(self.reports)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Report, in the job's process, that it runs."""
        if self.reports is not None:
            print(f"Job {config.hydra.job.num}: {' '.join(config.hydra.overrides.task)}", flush=True)
            self._report_of(config, "running")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Report, in the job's process, how it ended; a failure is noted in its folder, and the other jobs go on."""
        if self.reports is None:
            return
        try:
            _ = job_return.return_value
        except Exception as error:
            if isinstance(error, UserError):
                reason = str(error)
                print(reason, file=sys.stderr)
            else:
                reason = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            from iwbc.runs.folder import RunFolder

            RunFolder(Path(config.hydra.runtime.output_dir)).write_failure(reason, list(config.hydra.overrides.task))
            self._report_of(config, "failed", reason)
            job_return.status, job_return.return_value = JobStatus.COMPLETED, None
        else:
            self._report_of(config, "finished")
            line = self.line(Path(config.hydra.runtime.output_dir))
            print(f"Job {config.hydra.job.num}: {line}{self._progress()}", flush=True)

    def line(self, folder: Path) -> str:
        """Sum up a finished job in a line."""
        from iwbc.runs.read import finished_summary
        from iwbc.runs.show import line

        return line(finished_summary(folder))

    def show(self, jobs: list[dict[str, Any]]) -> None:
        """Print the table of jobs, the best of each dataset in bold."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        assert self.folder is not None
        folder, winners = self.folder, best(jobs)
        notes = ["in brackets: 95 % interval of the mean"] + ["*: the best on its dataset"] * bool(winners)
        title = f"Sweep in {escape(os.path.relpath(folder))}"
        table = Table(title=title, caption="\n".join(notes), caption_justify="left")
        table.add_column("job", no_wrap=True)
        table.add_column("settings", overflow="fold")
        table.add_column("run folder", no_wrap=True)  # in one piece, to be copied
        table.add_column("result", overflow="fold")
        common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
        for job in sorted(jobs, key=lambda job: int(job["job"])):
            settings = " ".join(setting for setting in job["overrides"] if setting not in common)
            name = os.path.relpath(job["folder"], folder) if job["folder"] else ""
            is_best = job["job"] in winners
            number = f"{job['job']} *" if is_best else str(job["job"])
            row = map(escape, (settings, name, self.result(job)))
            table.add_row(number, *row, style="bold" if is_best else None)
        Console().print(table)

    def result(self, job: dict[str, Any]) -> str:
        """Say how a job ended."""
        if job["status"] != "finished":
            return "interrupted or killed" if job["status"] == "running" else f"failed: {job['error']}"
        return self.line(Path(job["folder"]))

    def _progress(self) -> str:
        """Say how far the sweep is, and how long the rest will take at this rate."""
        assert self.reports is not None
        done = sum(job["status"] != "running" for job in _reported(self.reports))
        if self.jobs is None or not 0 < done < self.jobs:  # a killed job is not done
            return ""
        return f" ({done} of {self.jobs} jobs; {remaining(time.time() - self.begun, done, self.jobs)})"

    def _report_of(self, config: DictConfig, status: str, error: str | None = None) -> None:
        self._report(config.hydra.job.num, config.hydra.overrides.task, config.hydra.runtime.output_dir, status, error)

    def _report(self, job: int, overrides: Any, folder: str | None, status: str, error: str | None) -> None:
        assert self.reports is not None
        report = {"job": job, "overrides": list(overrides), "folder": folder, "status": status, "error": error}
        write_json(self.reports / f"{job}.json", report)

    def _follow_submitit(self, reports: Path) -> None:
        """Say how each job ended as its turn comes, and wait for the others where submitit's launcher would give the sweep
        up at the first job that was killed."""
        import submitit
        from submitit.core.utils import FailedJobError, UncompletedJobError

        original = inspect.unwrap(submitit.Job.results)

        @functools.wraps(original)
        def results(job: Any) -> Any:
            overrides, _, number, *_ = job.submission().args
            path = reports / f"{number}.json"
            try:
                returned = original(job)
            except (UncompletedJobError, FailedJobError):
                if not path.exists():
                    self._report(number, overrides, None, "failed", f"it never began; see {job.paths.stderr}")
                returned = [JobReturn(status=JobStatus.COMPLETED)]
            ended = self.result(json.loads(path.read_text()))
            print(f"Job {number}: {ended} (its output: {job.paths.stdout}){self._progress()}", flush=True)
            return returned

        submitit.Job.results = results  # type: ignore[assignment, method-assign]


def _reported(reports: Path) -> list[dict[str, Any]]:
    """Read the reports of the jobs that have begun."""
    return [json.loads(path.read_text()) for path in reports.glob("*.json")]


def _count_jobs(config: DictConfig) -> int | None:
    """Count the jobs that Hydra's own sweeper will make of the command; None for another one."""
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return None
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*parameters, *config.hydra.overrides.task])
    return sum(map(len, BasicSweeper.split_arguments(overrides, max_batch_size=None)))


def remaining(seconds: float, done: int, jobs: int) -> str:
    """Say how long the other jobs will take, when `done` of them took so many seconds."""
    minutes = seconds / done * (jobs - done) / 60
    if minutes < 1:
        return "less than a minute left"
    return f"about {minutes:.0f} min left" if minutes < 90 else f"about {minutes / 60:.0f} h left"


def objective(summary: Summary) -> float | None:
    """Return what a search maximises: the last policy's mean score; where there are no scores its success rate, or else its
    return. NaN where a seed has diverged, as a mean of those that are left would reward it."""
    final = summary.totals.get("final")
    if final is None:
        return None
    if summary.diverged:
        return math.nan
    return next(mean for mean in (final.score_mean, final.success_rate, final.return_mean) if mean is not None)


def summarise() -> bool:
    """Print how the jobs of this process's sweep, if it launched one, ended; whether all of them finished."""
    sweep, Sweep.launched = Sweep.launched, None
    if sweep is None or sweep.reports is None:
        return True
    if ray := sys.modules.get("ray"):
        ray.shutdown()  # first prints what the jobs still had to say
    jobs = _reported(sweep.reports)
    shutil.rmtree(sweep.reports, ignore_errors=True)
    if not jobs:
        return True
    sweep.show(jobs)
    unfinished = sum(job["status"] != "finished" for job in jobs)
    if unfinished:
        print(f"{unfinished} of {len(jobs)} jobs did not finish; the same command runs only those again.")
    return not unfinished


def best(jobs: list[dict[str, Any]]) -> set[int]:
    """Find the job that did best on each dataset that several finished on, and were evaluated alike; none where several did as
    well."""
    from iwbc.runs.read import finished_summary

    by_task: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for job in jobs:
        if job["status"] == "finished":
            summary = finished_summary(Path(job["folder"]))
            if (value := objective(summary)) is not None and not math.isnan(value):
                final = summary.totals["final"]
                alike = (summary.dataset.content_hash, summary.environment, summary.normalisation, final.action, final.episodes)
                by_task[repr(alike)].append((value, job["job"]))
    ranked = [sorted(results, reverse=True) for results in by_task.values() if len(results) > 1]
    return {first[1] for first, second, *_ in ranked if first[0] > second[0]}


def job_key(*, _root_: DictConfig) -> str:
    """Hash the whole job's configuration, so that a second sweep comes upon the same folder."""
    job = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    plain = OmegaConf.to_container(job, resolve=True)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:10]


# Here, because wherever a job runs, the callback above arrives first.
OmegaConf.register_new_resolver("job_key", job_key, replace=True)
