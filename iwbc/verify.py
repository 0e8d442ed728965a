"""Check that a run's numbers are what its files say:  python -m iwbc.verify FOLDER [replay=true] [policy=package.module.Name]
[imports=module,module]

Recomputes every mean, score, success rate and interval of summary.json from the returns in evaluations.csv, compares the files
with their hashes and the data with its own, and (replay=true) plays the final episodes again from their seeds with the saved
policy. Exit code 0: all the same; 1: something differs. A policy of your own, and modules that register environments or
algorithms, are imported only where you name them. Of a language model's training or evaluation it compares the files with their
hashes, and computes verdicts and figures of answers again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from iwbc.language import verify as language
from iwbc.settings import Settings
from iwbc.system.arguments import parse, run

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from iwbc.evaluation import Evaluation
    from iwbc.runs.read import SavedRun
    from iwbc.runs.rows import EpisodeRow
    from iwbc.runs.summary import Summary


@dataclass
class Options(Settings):
    run: Path
    replay: bool = True
    policy: str | None = None
    imports: list[str] = field(default_factory=list)


class Check(NamedTuple):
    """Result of a check: what it is of, whether that is as it should be (None where that cannot be told), and what was seen."""

    what: str
    same: bool | None
    seen: str


def main(arguments: Sequence[str]) -> None:
    """Verify a run folder, print a table of what was looked at, and exit with code 1 where something differs."""
    options = parse(arguments, Options)

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if language.is_run(options.run):
        checks = [Check(*check) for check in language.verified_run(options.run)]
    elif language.is_evaluation(options.run):
        checks = [Check(*check) for check in language.verified(options.run)]
    else:
        checks = verify(options.run, replay=options.replay, policy=options.policy, imports=options.imports)
    table = Table(title=f"Verification of {escape(str(options.run))}")
    for name in ("what", "result", "seen"):
        table.add_column(name, overflow="fold")
    names = {True: "the same", False: "DIFFERS", None: "not checked"}
    for check in checks:
        table.add_row(check.what, names[check.same], escape(check.seen), style="bold red" if check.same is False else None)
    Console().print(table)
    if differing := [check.what for check in checks if check.same is False]:
        print(f"{options.run}: {len(differing)} of {len(checks)} checks differ: {', '.join(differing)}", file=sys.stderr)
        sys.exit(1)


def verify(path: Path, *, replay: bool = True, policy: str | None = None, imports: Sequence[str] = ()) -> list[Check]:
    """Make every check of a finished run. `policy` and `imports` name what may be imported.

    Raises UserError where the folder holds no finished run, or one that is too damaged to be read.
    """
    from iwbc.errors import UserError
    from iwbc.runs.read import open_run, read_episodes

    saved = open_run(path, imports)
    summary = saved.summary
    checks = [*_files(saved), _seeds(saved), _settings(saved)]
    recorded: dict[str, Evaluation] = {}
    try:
        episodes = list(read_episodes(path))
        recorded = {phase: _recorded(episodes, summary, phase) for phase in summary.totals}
        checks.append(_episodes(episodes, summary))
    except (UserError, ValueError) as error:
        checks.append(Check("episodes", False, str(error)))
    checks += [_numbers(phase, evaluation, summary) for phase, evaluation in recorded.items()]
    checks += _gains(recorded, summary)
    checks += _data(saved, summary)
    if replay:
        finals = {phase: evaluation for phase, evaluation in recorded.items() if phase in summary.finals}
        checks += _replayed(saved, finals, policy, imports)
    return checks


def _files(saved: SavedRun) -> Iterator[Check]:
    """Compare each file with its hash."""
    from iwbc.runs.read import NEWLY_HASHED, file_hashes

    known = saved.summary.sha256
    if known is None:
        yield Check("files", None, "summary.json holds no hashes: an earlier version wrote it")
        return
    try:
        hashes = file_hashes(saved.folder)
    except OSError as error:
        yield Check("files", False, f"{error.filename}: {error.strerror}")
        return
    for name, digest in hashes.items():
        same = None if name in NEWLY_HASHED and name not in known else digest == known.get(name)
        yield Check(name, same, f"SHA-256 {digest[:12]}…" if same is not None else "an earlier version wrote no hash of it")
    for name in known.keys() - hashes.keys():
        yield Check(name, False, "is missing")


def _seeds(saved: SavedRun) -> Check:
    """Compare the seeds that are in the results, or have diverged, with those of the configuration."""
    told = sorted({*saved.summary.seeds, *(lost.seed for lost in saved.summary.diverged)})
    return Check("seeds", told == sorted(saved.config.all_seeds), ", ".join(map(str, told)))


def _settings(saved: SavedRun) -> Check:
    """Compare what the summary says of settings with the configuration, and with what curation=auto has chosen."""
    from iwbc.runs.read import read_choice
    from iwbc.runs.results import KEEPS_ALL

    config, summary, choice = saved.config, saved.summary, read_choice(saved.folder)
    names = {
        "algo": config.algo.name,
        "curation": config.curation.name,
        "averaging": config.averaging,
        "chosen": None if choice is None else choice.words,
    }
    wrong = [name for name, value in names.items() if getattr(summary, name) != value]
    if summary.method.removesuffix(KEEPS_ALL) != config.method:
        wrong.append("method")
    return Check("settings", not wrong, ", ".join(wrong) or summary.method)


def _episodes(episodes: Sequence[EpisodeRow], summary: Summary) -> Check:
    """Compare the seeds and phases of episodes, but those during training, with those of the results."""
    played = {(e.phase, e.action, e.seed) for e in episodes if e.phase != "periodic"}
    phases = [(name.removesuffix("_sampled"), total.action) for name, total in summary.totals.items()]
    others = played - {(*phase, seed) for phase in phases for seed in summary.seeds}
    seen = [f"{phase} of seed {seed}, {action} action, is in no result" for phase, action, seed in sorted(others)]
    return Check("episodes", not others, "; ".join(seen) or f"{len(played)} evaluations, each of a phase and a seed")


def _recorded(episodes: Sequence[EpisodeRow], summary: Summary, name: str) -> Evaluation:
    """Gather the episodes of a phase. Raises ValueError where some are missing or their scores are wrong."""
    import numpy as np

    from iwbc.evaluation import Evaluation

    phase, action = name.removesuffix("_sampled"), summary.totals[name].action
    played = [e for e in episodes if (e.phase, e.action) == (phase, action)]
    rows = [sorted((e for e in played if e.seed == seed), key=lambda e: e.episode) for seed in summary.seeds]
    count = len(rows[0])
    if not count or any([e.episode for e in row] != list(range(count)) for row in rows):
        raise ValueError(f"evaluations.csv: {name} episodes are missing, or there twice")
    returns = np.array([[e.total for e in row] for row in rows])
    lengths = np.array([[e.length for e in row] for row in rows])
    successes = None if rows[0][0].success is None else np.array([[bool(e.success) for e in row] for row in rows])
    evaluation = Evaluation(summary.seeds, returns, lengths, summary.normalisation, successes, action)
    if evaluation.scores is not None:
        listed = np.array([[np.nan if e.score is None else e.score for e in row] for row in rows])
        if not _close(listed, evaluation.scores):
            raise ValueError(f"evaluations.csv: the scores of {name} episodes are not those of their returns")
    return evaluation


def _numbers(name: str, evaluation: Evaluation, summary: Summary) -> Check:
    """Compute means, scores, success rates and intervals again from the returns."""
    from iwbc.runs.results import of_seed, totals

    again = totals(evaluation)
    wrong = _differing(again, summary.totals[name])
    for row, seed in enumerate(evaluation.seeds):
        wrong += [f"{key} of seed {seed}" for key in _differing(of_seed(evaluation, row), summary.results[seed][name])]
    mean = f"return {again.return_mean:.6g}" + ("" if again.score_mean is None else f", score {again.score_mean:.6g}")
    return Check(f"{name}: results", not wrong, ", ".join(wrong) or f"{mean}, from {evaluation.returns.size} returns")


def _gains(recorded: dict[str, Evaluation], summary: Summary) -> Iterator[Check]:
    """Compute the gains over the reference again from the returns."""
    from iwbc.runs.results import gains

    if summary.gains is None and summary.sha256 is None:
        return  # an earlier version wrote it
    known, again = summary.gains or {}, gains(recorded)
    for name, gain in again.items():
        wrong = _differing(gain, known[name]) if name in known else ["it is missing"]
        yield Check(f"{name}: gain", not wrong, ", ".join(wrong) or f"{gain.mean:+.6g} of {gain.of}")
    for name in known.keys() - again.keys() if recorded else ():
        yield Check(f"{name}: gain", False, "not of two evaluations")


def _differing(again: DataclassInstance, written: DataclassInstance) -> list[str]:
    """List the fields whose values differ by more than rounding."""
    return sorted(key for key, value in asdict(again).items() if not _close(value, getattr(written, key)))


def _close(value: Any, other: Any) -> bool:
    import numpy as np

    if value is None or other is None or isinstance(value, str):
        return bool(value is other or value == other)
    try:
        return bool(np.allclose(np.asarray(value, float), np.asarray(other, float), rtol=1e-9, atol=1e-9))
    except (TypeError, ValueError, OverflowError):
        return False


def _data(saved: SavedRun, summary: Summary) -> list[Check]:
    """Compare the dataset's hash, and what curation keeps of it, where it is on this machine."""
    from iwbc.data.content import content_hash
    from iwbc.data.curation import curate, hold_out
    from iwbc.data.packed import is_hashed
    from iwbc.data.sources import is_local, load_dataset
    from iwbc.errors import UserError
    from iwbc.runs.read import read_choice
    from iwbc.runs.results import dataset_summary, method_name
    from iwbc.settings import FromFile

    config, known, choice = saved.config, summary.dataset, read_choice(saved.folder)
    if not is_local(config.dataset, config.env.id):
        return [Check("data", None, f"{known.id} is not on this machine")]
    curation = config.curation if choice is None else choice.curation
    if isinstance(curation, FromFile) and not Path(curation.path).expanduser().exists():
        return [Check("data", None, f"{curation.path}, by which it was curated, is not on this machine")]
    try:
        trajectories = load_dataset(config.dataset, config.env.id)
        if not is_hashed(trajectories) and content_hash(trajectories.arrays()) != trajectories.content_hash:
            return [Check("data", False, f"the packed cache of {known.id} has changed since it was written; delete it")]
        curated, _ = hold_out(curate(trajectories, curation, config.averaging), config.held_out)
        kept = dataset_summary(curated)
    except UserError as error:
        return [Check("data", False, str(error))]
    wrong = [key for key in _differing(kept, known) if key not in ("id", "content_hash")]
    wrong += ["method"] if method_name(config, curated) != summary.method else []
    same = (kept.id, kept.content_hash) == (known.id, known.content_hash)
    return [
        Check("data", same, f"{kept.id}, SHA-256 {kept.content_hash[:12]}…"),
        Check("curation", not wrong, ", ".join(wrong) or f"keeps {kept.kept_trajectories:,} of {kept.trajectories:,}"),
    ]


def _replayed(saved: SavedRun, finals: dict[str, Evaluation], policy: str | None, imports: Sequence[str]) -> Iterator[Check]:
    """Play the final episodes again."""
    from iwbc import engine
    from iwbc.errors import UserError
    from iwbc.evaluation import Evaluator

    if not finals:
        yield Check("replay", None, "no final episodes were played")
        return
    saved.custom_policy(policy)  # before the check: a class that the user does not trust is no difference
    environment = saved.environment(imports)
    try:
        policies = saved.policies(policy)
        evaluator = Evaluator(environment, saved.config.eval.seed)
        try:
            with engine.switched(saved.config.engine):
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
    if recorded.successes is not None and again.successes is not None:
        differ |= recorded.successes != again.successes
    elif (recorded.successes is None) != (again.successes is None):
        differ[:] = True
    if not differ.any():
        return Check(f"{name}: replay", True, f"all {differ.size} episodes have the same return, length and success")
    farthest = abs(recorded.returns - again.returns).max()
    return Check(
        f"{name}: replay", False, f"{differ.sum()} of {differ.size} episodes differ, by up to {farthest:.3g} in return"
    )


if __name__ == "__main__":
    run(main, __doc__)
