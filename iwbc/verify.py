"""Check that a run's numbers are what its files say:  python -m iwbc.verify FOLDER [replay=true] [policy=package.module.Name]
[imports=module,module]

Recomputes every mean, score, success rate and interval of summary.json from the returns in evaluations.csv, compares the files
with their hashes and the data with its own, and (replay=true) plays the final episodes again from their seeds with the saved
policy. Exit code 0: all the same; 1: something differs. A policy of your own, and modules that register environments, are
imported only where you name them. Of an evaluation of a language model (answers.jsonl and scores.json) it computes verdicts and
figures again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from iwbc.language import verify as language
from iwbc.settings import Settings
from iwbc.system.arguments import parse, run

if TYPE_CHECKING:
    from iwbc.evaluation import Evaluation
    from iwbc.runs.folder import RunFolder
    from iwbc.settings import Config


@dataclass
class Options(Settings):
    run: Path
    replay: bool = True
    policy: str | None = None
    imports: list[str] = field(default_factory=list)


class Check(NamedTuple):
    """What was looked at; whether it is as it should be, None where that cannot be told; and what was seen."""

    what: str
    same: bool | None
    seen: str


def main(arguments: Sequence[str]) -> None:
    """Verify a run folder, print a table of what was looked at, and exit with code 1 where something differs."""
    given = parse(arguments, Options)

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if language.is_evaluation(given.run):
        checks = [Check(*check) for check in language.verified(given.run)]
    else:
        checks = verify(given.run, replay=given.replay, policy=given.policy, imports=given.imports)
    table = Table(title=f"Verification of {escape(str(given.run))}")
    for name in ("what", "result", "seen"):
        table.add_column(name, overflow="fold")
    names = {True: "the same", False: "DIFFERS", None: "not checked"}
    for check in checks:
        table.add_row(check.what, names[check.same], escape(check.seen), style="bold red" if check.same is False else None)
    Console().print(table)
    if differing := [check.what for check in checks if check.same is False]:
        print(f"{given.run}: {len(differing)} of {len(checks)} checks differ: {', '.join(differing)}", file=sys.stderr)
        sys.exit(1)


def verify(path: Path, *, replay: bool = True, policy: str | None = None, imports: Sequence[str] = ()) -> list[Check]:
    """Every check of a finished run. `policy` and `imports` name what may be imported.

    Raises UserError where the folder holds no finished run, or one that is too damaged to be read.
    """
    from iwbc.errors import UserError
    from iwbc.runs.folder import RunFolder
    from iwbc.runs.read import collect

    folder = RunFolder(path)
    config, summary = folder.config(), folder.finished_summary()
    checks = [*_files(folder, summary)]
    recorded: dict[str, Evaluation] = {}
    try:
        runs, _ = collect([path])
        recorded = {name: _recorded(runs[0].episodes, summary, name) for name in summary["totals"]}
    except (UserError, ValueError) as error:
        checks.append(Check("episodes", False, str(error)))
    checks += [check for name, evaluation in recorded.items() for check in _numbers(name, evaluation, summary)]
    checks += _gains(recorded, summary)
    checks += _data(config, summary)
    if replay:
        finals = {name: evaluation for name, evaluation in recorded.items() if name.startswith("final")}
        checks += _replayed(folder, config, summary, finals, policy, imports)
    return checks


def _files(folder: RunFolder, summary: dict[str, Any]) -> Iterator[Check]:
    """Each file against its hash."""
    known = summary.get("sha256")
    if not isinstance(known, dict):
        yield Check("files", None, "summary.json holds no hashes: an earlier version wrote it")
        return
    try:
        found = folder.hashes()
    except OSError as error:
        yield Check("files", False, f"{error.filename}: {error.strerror}")
        return
    for name, own in found.items():
        yield Check(name, own == known.get(name), f"SHA-256 {own[:12]}…")


def _recorded(episodes: Sequence[Any], summary: dict[str, Any], name: str) -> Evaluation:
    """What evaluations.csv holds of a phase. Raises ValueError where episodes are missing or their scores are wrong."""
    import numpy as np

    from iwbc.environments.scores import ReferenceScores
    from iwbc.evaluation import Evaluation

    phase, action = name.removesuffix("_sampled"), summary["totals"][name]["action"]
    seeds = tuple(summary["seeds"])
    own = [e for e in episodes if (e.phase, e.action) == (phase, action)]
    rows = [sorted((e for e in own if e.seed == seed), key=lambda e: e.episode) for seed in seeds]
    count = len(rows[0])
    if not count or any([e.episode for e in row] != list(range(count)) for row in rows):
        raise ValueError(f"evaluations.csv: {name} episodes are missing, or there twice")
    returns = np.array([[e.total for e in row] for row in rows])
    lengths = np.array([[e.length for e in row] for row in rows])
    successes = None if rows[0][0].success is None else np.array([[bool(e.success) for e in row] for row in rows])
    scores = ReferenceScores(**summary["normalisation"]) if summary["normalisation"] else None
    evaluation = Evaluation(seeds, returns, lengths, scores, successes, action)
    if evaluation.scores is not None:
        listed = np.array([[np.nan if e.score is None else e.score for e in row] for row in rows])
        if not _close(listed, evaluation.scores):
            raise ValueError(f"evaluations.csv: the scores of {name} episodes are not those of their returns")
    return evaluation


def _numbers(name: str, evaluation: Evaluation, summary: dict[str, Any]) -> Iterator[Check]:
    """Means, scores, success rates and intervals, computed anew from the returns."""
    from iwbc.runs.summary import of_seed, totals

    anew, seen = totals(evaluation), summary["totals"][name]
    wrong = sorted(key for key, value in anew.items() if not _close(value, seen.get(key)))
    rows = {row["seed"]: row.get(name) or {} for row in summary["results"]}
    for row, seed in enumerate(evaluation.seeds):
        own = rows.get(seed, {})
        wrong += [f"{key} of seed {seed}" for key, value in of_seed(evaluation, row).items() if not _close(value, own.get(key))]
    mean = f"return {anew['return_mean']:.6g}" + ("" if anew["score_mean"] is None else f", score {anew['score_mean']:.6g}")
    yield Check(f"{name}: results", not wrong, ", ".join(wrong) or f"{mean}, from {evaluation.returns.size} returns")


def _gains(recorded: dict[str, Evaluation], summary: dict[str, Any]) -> Iterator[Check]:
    """The gains over the reference, computed again from the returns."""
    from iwbc.runs.summary import gains

    if "gains" not in summary:
        return  # an earlier version wrote it
    for name, gain in gains(recorded).items():
        written = summary["gains"].get(name) or {}
        wrong = sorted(key for key, value in gain.items() if not _close(value, written.get(key)))
        yield Check(f"{name}: gain", not wrong, ", ".join(wrong) or f"{gain['mean']:+.6g} of {gain['of']}")


def _close(one: Any, other: Any) -> bool:
    import numpy as np

    if one is None or other is None or isinstance(one, str):
        return bool(one is other or one == other)
    try:
        return bool(np.allclose(np.asarray(one, float), np.asarray(other, float), rtol=1e-9, atol=1e-9))
    except (TypeError, ValueError, OverflowError):
        return False


def _data(config: Config, summary: dict[str, Any]) -> list[Check]:
    """The dataset's own hash, and what curation keeps of it, where it is on this machine."""
    from iwbc.data.curation import curate, hold_out
    from iwbc.data.sources import is_local, load_dataset
    from iwbc.errors import UserError
    from iwbc.runs.summary import dataset_summary
    from iwbc.settings import TrajectoryWeights

    known = summary["dataset"]
    if not is_local(config.dataset, config.env.id):
        return [Check("data", None, f"{known['id']} is not on this machine")]
    if isinstance(config.curation, TrajectoryWeights) and not Path(config.curation.path).expanduser().exists():
        return [Check("data", None, f"{config.curation.path}, the weights of its trajectories, is not on this machine")]
    try:
        trajectories = load_dataset(config.dataset, config.env.id)  # whose arrays are hashed as they are loaded
        curated, _ = hold_out(curate(trajectories, config.curation, config.averaging), config.held_out)
        kept, own = dataset_summary(curated), curated.trajectories.content_hash
    except UserError as error:
        return [Check("data", False, str(error))]
    wrong = sorted(key for key in ("trajectories", "steps", "kept_trajectories", "kept_steps") if kept[key] != known.get(key))
    return [
        Check("data", own == known.get("content_hash"), f"{known['id']}, SHA-256 {own[:12]}…"),
        Check("curation", not wrong, ", ".join(wrong) or f"keeps {kept['kept_trajectories']:,} of {kept['trajectories']:,}"),
    ]


def _replayed(
    folder: RunFolder,
    config: Config,
    summary: dict[str, Any],
    finals: dict[str, Evaluation],
    policy: str | None,
    imports: Sequence[str],
) -> Iterator[Check]:
    """The final episodes, played again."""
    from iwbc import engine
    from iwbc.environments.spec import EnvironmentSpec
    from iwbc.errors import UserError
    from iwbc.evaluation import Evaluator
    from iwbc.runs.saved import check_trust

    if not finals:
        yield Check("replay", None, "no final episodes were played")
        return
    environment = EnvironmentSpec.of_plain(summary["environment"])
    own = check_trust(folder.path, config, environment, policy, imports)
    try:
        policies = folder.policy(own)
        evaluator = Evaluator(environment, config.eval.seed)
        try:
            with engine.switched(config.engine):
                for name, recorded in finals.items():
                    episodes = recorded.returns.shape[1]
                    again = evaluator.evaluate(policies.select(*recorded.seeds), episodes, recorded.action)
                    yield _compared(name, recorded, again)
        finally:
            evaluator.close()
    except (UserError, ValueError) as error:
        yield Check("replay", False, str(error))


def _compared(name: str, recorded: Evaluation, again: Evaluation) -> Check:
    differ = (recorded.returns != again.returns) | (recorded.lengths != again.lengths)
    if not differ.any():
        return Check(f"{name}: replay", True, f"all {differ.size} episodes have the same return and length")
    farthest = abs(recorded.returns - again.returns).max()
    return Check(
        f"{name}: replay", False, f"{differ.sum()} of {differ.size} episodes differ, by up to {farthest:.3g} in return"
    )


if __name__ == "__main__":
    run(main, __doc__)
