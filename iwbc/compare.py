"""Compare methods on a dataset within a budget of time, and say in a sentence which to use and how sure that is.

    python -m iwbc.compare env=two_routes budget=2m
    python -m iwbc.compare hopper_medium_replay-v2.hdf5 budget=1h
    python -m iwbc.compare my/robot/pick-v0 curation=groups curation.keep=[better] eval.action=sample

A dataset, by its id, file or folder, or by train's settings (dataset=…, env=…), and any other of train's settings but those
that choose a method or a seed. The methods are BC, filtered BC, RWR, iw-BC and IQL, from the same seeds and, but for IQL, the
same reference policies. Filtered BC and iw-BC learn from the same trajectories: by curation=… of your own, or the
successes where labels tell them from failures, or else the quality levels of returns; and once more by curation=auto.

budget   of time, such as 90s, 10m (the default) or 2h. It decides how many seeds there are, and nothing else: one run is
         timed, then three seeds of every method are, and then there are as many as fit, at most 20. Where five do not fit,
         what costs most, IQL and curation=auto, is left out; where three do not, the sentence says so, and gives no verdict
folder   where the runs go (default: multirun/compare-…, named by the settings). The same command goes on where it was
         stopped, and with a larger budget adds seeds; iwbc report reads the folder, too

Last policies are judged by their score in the data's environment (where no reference returns are known by their success
rate, or else their return); eval.action=sample or both judges sampled actions. Without an environment a fifth of the
trajectories is held out, and methods are judged by the log-likelihood of those of them that the curation would keep: it
tells how well a method imitates them, and not which of two ways succeeds more often. Ends with the sentence, a table, and
folder/report/index.html (with the extra report).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from iwbc.errors import Interrupted, UserError
from iwbc.runs.comparison import AT_FIRST, Comparison, Method, in_minutes
from iwbc.runs.show import episodes_of
from iwbc.settings import ACTION_NAMES, ALGORITHMS, Auto, Config, Recipe, Reference, Settings, setting
from iwbc.system.arguments import is_setting, parse, run

if TYPE_CHECKING:
    from rich.console import Console

    from iwbc.data.curated import Curated
    from iwbc.data.trajectories import Trajectories
    from iwbc.report.verdict import Contender, Measure
    from iwbc.runs.summary import Summary
    from iwbc.training.trained import Policies

# The methods beside BC, whose policies are the references that these start from. The simplest comes first.
METHODS = {
    "filtered_bc": Method(("algo=filtered_bc",)),
    "filtered_bc_auto": Method(("algo=filtered_bc", "curation=auto"), trials=20),
    "rwr": Method(("algo=rwr", "curation=return_weighted")),
    "iw_bc": Method(("algo=iw_bc",)),
    "iw_bc_auto": Method(("algo=iw_bc", "curation=auto"), trials=20),
    "iql": Method(("algo=iql", "curation=all", "averaging=transition"), effort=3.3),
}
_BC = "+method=bc_all"
_HELD_OUT = "held_out=0.2"
# Settings that this command chooses: of methods, of seeds, and of where runs go.
_CHOSEN = re.compile(r"[+~]*(algo|method|experiment|seeds?|eval\.reference|hydra[./].*)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """Read a time such as 90s, 10m or 1.5h; 0 for what is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    return float(match[1]) * _UNITS[match[2]] if match else 0.0


@dataclass
class Options(Settings):
    datasets: list[str]
    budget: str = setting("10m", lambda text: seconds_of(text) > 0, "must be a time such as 90s, 10m or 2h")
    folder: Path | None = None


def main(arguments: Sequence[str]) -> None:
    """Make the runs, and print the verdict."""
    words = [argument for argument in arguments if is_setting(argument, Options)]
    options = parse([argument for argument in arguments if argument not in words], Options)
    if len(options.datasets) > 1 or not (options.datasets or words):
        raise UserError("give one dataset: an id, a file, or settings such as env=hopper dataset=medium (see --help)")
    for word in words:
        if _CHOSEN.fullmatch(word.partition("=")[0]):
            raise UserError(f"{word}: compare chooses methods and seeds by itself; leave it out")

    from rich.console import Console

    from iwbc.config import composed, quoted
    from iwbc.data.sources import load_dataset, settings_with
    from iwbc.runs.pipeline import make_evaluator, trained_part

    console = Console()
    settings = quoted(settings_with(options.datasets[0], words) if options.datasets else words)
    config = composed([word for word in settings if not word.startswith("algo.")])
    configs = {method: composed(settings_of(method, settings)) for method in METHODS}  # refused before there is any data
    trajectories = load_dataset(config.dataset, config.env.id)
    evaluator = make_evaluator(config, trajectories, console)
    if evaluator is not None:
        evaluator.close()
    chosen = [*settings, *usual_curation(trajectories, settings)]
    if evaluator is None and not config.held_out:
        chosen.append(_HELD_OUT)
    if chosen != settings:
        configs = {method: composed(settings_of(method, chosen)) for method in METHODS}
    content = trained_part(configs[_first()], trajectories).content_hash
    runs = Comparison(METHODS, configs, content, folder := options.folder or _folder(chosen), console)
    for method, twin in twins_of({method: _decided(config, trajectories) for method, config in configs.items()}).items():
        runs.leave_out(method, f"it learns as {configs[twin].method} does, from the same trajectories")
    uses = {method: _use(method, chosen) for method in runs.methods}
    try:
        runs.make(seconds_of(options.budget))
        _leave_out_diverged(runs)
        verdicts = _by_play(runs, uses) if evaluator is not None else [_by_likelihood(runs, uses, trajectories)]
        _show(runs, verdicts, options.budget, console)
    except KeyboardInterrupt:
        raise Interrupted(f"{folder} holds the runs so far; the same command goes on") from None


def _leave_out_diverged(runs: Comparison) -> None:
    """Leave out methods of which a seed has diverged: those that are left would be its best ones. Raises UserError where all
    have."""
    for method in runs.methods:
        summaries = runs.summaries(method)
        if lost := sorted(each.seed for summary in summaries for each in summary.diverged):
            seeds = f"seed{'s' * (len(lost) > 1)} {', '.join(map(str, lost))}"
            if len(runs.methods) == 1:
                raise UserError(f"{runs.configs[method].method} diverged with {seeds}, as others did; try a smaller algo.lr")
            runs.leave_out(method, f"it diverged with {seeds}; a smaller algo.lr may not")


def usual_curation(trajectories: Trajectories, settings: Sequence[str]) -> list[str]:
    """Choose the curation of all methods, as settings beside those that were given: the successes, where labels tell them from
    failures and nothing else was chosen; or else none, which is train's."""
    labels = trajectories.successes
    if labels is None or labels.all() or not labels.any() or any(word.startswith("curation") for word in settings):
        return []
    averaged = any(word.startswith("averaging=") for word in settings)
    return ["curation=success", *([] if averaged else ["averaging=transition"])]


def settings_of(method: str, settings: Sequence[str]) -> list[str]:
    """List the settings of a method's runs: its own, and those of `settings` that it has.

    Raises UserError for an algorithm's setting that no method has.
    """
    names = {name: _names_of(name) for name in METHODS}
    for word in settings:
        if word.startswith("algo.") and word.partition("=")[0] not in set().union(*names.values()):
            raise UserError(f"{word}: no method that is compared has this setting")
    shared = [
        word for word in _without(method, settings) if not word.startswith("algo.") or word.partition("=")[0] in names[method]
    ]
    plays = any(word.startswith(("eval.every=", "eval.periodic_episodes=")) for word in settings)
    quiet = [] if plays else ["eval.periodic_episodes=0"]
    return [*METHODS[method].settings, *shared, *quiet, *([] if method == _first() else ["eval.reference=false"])]


def _first() -> str:
    """Name the method whose runs alone play the references, and whose curation is the one that methods share."""
    return next(iter(METHODS))


def _names_of(method: str) -> set[str]:
    """List the settings of a method's algorithm, without the steps, the learning rate and so on of what does not clone from the
    reference, which are not the others'."""
    algo = next(word.removeprefix("algo=") for word in METHODS[method].settings if word.startswith("algo="))
    kind = ALGORITHMS[algo]
    names = {field.name for field in dataclasses.fields(kind)}
    if kind().start != "reference":
        names -= {field.name for field in dataclasses.fields(Recipe)}
    return {f"algo.{name}" for name in names}


def _without(method: str, settings: Sequence[str]) -> list[str]:
    """List settings without those that the method brings itself, and those of a curation where it brings another."""
    brought = {word.partition("=")[0] for word in METHODS[method].settings}
    kept = [word for word in settings if word.partition("=")[0] not in brought]
    return [word for word in kept if not ("curation" in brought and word.startswith("curation."))]


def _decided(config: Config, trajectories: Trajectories) -> Config:
    """Replace curation=auto by what it keeps, where there is nothing to choose. One that the data refuse stays, and fails."""
    from iwbc.data.choice import foregone

    if isinstance(config.curation, Auto):
        with suppress(UserError):
            if (choice := foregone(config.curation, trajectories)) is not None:
                return replace(config, curation=choice.curation)
    return config


def twins_of(configs: Mapping[str, Config]) -> dict[str, str]:
    """Return the methods whose runs would be an earlier one's, as with curation=auto for all, and which one's."""
    alike = {method: replace(config, eval=replace(config.eval, reference=True)) for method, config in configs.items()}
    first = {method: next(other for other in alike if alike[other] == alike[method]) for method in alike}
    return {method: twin for method, twin in first.items() if twin != method}


def _use(method: str, settings: Sequence[str]) -> str:
    """Write the settings that make a run one of the method, with the curation that the methods share."""
    curation = [word for word in settings if word.startswith(("curation", "averaging="))]
    return shlex.join([*METHODS[method].settings, *_without(method, curation)])


def _folder(settings: Sequence[str]) -> Path:
    return Path("multirun") / f"compare-{hashlib.sha256(json.dumps(sorted(settings)).encode()).hexdigest()[:10]}"


# --- results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Methods to be compared by one measure. played: the kind of action, where there are several."""

    contenders: list[Contender]
    measure: Measure
    note: str
    played: str = ""


def _by_play(runs: Comparison, uses: Mapping[str, str]) -> list[Verdict]:
    """Gather what the last policies, and the references, did in the environment, for each kind of action."""
    from iwbc.report.verdict import Measure

    first = runs.summaries(_first())
    verdicts = []
    for phase, total in first[0].finals.items():
        name = next(name for name in ("score", "success", "return") if name in total.measures)
        values = {method: _values(runs.summaries(method), phase, name) for method in runs.methods}
        references = _values(first, phase.replace("final", "reference"), name)
        # Of other data they are no BC; where the first method has been left out on the way, later seeds' were never played.
        is_bc = runs.configs[_first()].reference.dataset_id is None and references.keys() >= set(runs.seeds())
        contenders = _contenders(runs, uses, values, references if is_bc else None)
        is_share = name == "success"
        measure = Measure("success %" if is_share else name, step=100.0 / total.episodes if is_share else 0.0)
        played, environment = ACTION_NAMES[total.action], first[0].environment
        note = f"Mean of {episodes_of(total)} for each seed, {played}{f', in {environment.id}' if environment else ''}."
        verdicts.append(Verdict(contenders, measure, note, played if len(first[0].finals) > 1 else ""))
    return verdicts


def _values(summaries: Sequence[Summary], phase: str, name: str) -> dict[int, float]:
    """Return the mean of a measure by seed."""
    values: dict[int, float] = {}
    for summary in summaries:
        for seed, phases in summary.results.items():
            result = phases[phase]
            success = None if result.success_rate is None else 100.0 * result.success_rate
            value = {"score": result.score_mean, "success": success, "return": result.return_mean}[name]
            assert value is not None  # of one environment, as the first run's
            values[seed] = value
    return values


def _by_likelihood(runs: Comparison, uses: Mapping[str, str], trajectories: Trajectories) -> Verdict:
    """Compute the log-likelihood of the best trajectories that were held out, under the mean of a method's seeds."""
    from iwbc.data.curation import curate, hold_out
    from iwbc.report.verdict import Measure
    from iwbc.training.reference import reference_policy

    first = runs.configs[_first()]
    curated, held_out = hold_out(curate(trajectories, runs.curation(_first()), first.averaging), first.held_out)
    assert held_out is not None
    policies = {method: runs.policies(method) for method in runs.methods}
    values = {method: _likelihoods(of_method, held_out) for method, of_method in policies.items()}
    spec, bc = policies[runs.methods[0]].spec, None
    if spec is not None and first.reference.dataset_id is None:  # whose references are not in the cache
        references = reference_policy(curated.trajectories, spec, first.reference, runs.seeds(), "cpu", runs.console)
        bc = _likelihoods(references, held_out)
    measure = Measure(
        "log-likelihood, nats a step",
        ("held-out trajectory", "held-out trajectories"),
        digits=2,
        caveat="Without an environment, by the log-likelihood of the best trajectories that were held out: ",
    )
    note = (
        f"Log-likelihood of the {len(held_out.kept)} trajectories that the curation would keep, of the "
        f"{len(held_out.trajectories)} that were held out: mean over {len(runs.seeds())} seeds. It does not tell which of "
        "several ways succeeds more often."
    )
    return Verdict(_contenders(runs, uses, values, bc), measure, note)


def _likelihoods(policies: Policies, held_out: Curated) -> dict[int, float]:
    """Return the mean log-likelihood of a step of each kept trajectory, averaged over policies, by trajectory."""
    import torch

    from iwbc.algorithms.weights import trajectory_log_probs

    means = torch.stack([trajectory_log_probs(policy, held_out) for policy in policies]).mean(0)
    return dict(zip(held_out.kept.tolist(), means.tolist(), strict=True))


def _contenders(
    runs: Comparison, uses: Mapping[str, str], values: Mapping[str, dict[int, float]], bc: dict[int, float] | None
) -> list[Contender]:
    from iwbc.data.choice import words
    from iwbc.report.verdict import Contender

    first = runs.summaries(_first())
    data = first[0].dataset
    everything = f"all {data.trajectories:,}"
    clones = _clones(runs.configs[_first()].reference)
    contenders = [Contender("BC", clones, everything, bc, _seconds(first, "reference"))] if bc is not None else []
    for method, of_method in values.items():
        made = runs.summaries(method)
        curation = made[0].chosen or words(runs.configs[method].curation)
        learns = f"{curation}: {made[0].dataset.kept_trajectories:,} of {data.trajectories:,}"
        seconds = _seconds(made, "training", "checkpoints", "evaluation")
        contenders.append(Contender(made[0].method, uses[method], learns, of_method, seconds))
    return contenders


def _clones(reference: Reference) -> str:
    """Write the settings that make a run one of BC as the references were trained."""
    usual = Reference()
    changed = [name for name in Recipe.of_steps if getattr(reference, name) != getattr(usual, name)]
    averaging = [f"averaging={reference.averaging}"] if reference.averaging != usual.averaging else []
    return shlex.join([_BC, *(f"algo.{name}={getattr(reference, name)}" for name in changed), *averaging])


def _seconds(summaries: Sequence[Summary], *phases: str) -> float:
    return sum(summary.seconds[p] for summary in summaries for p in phases) / sum(len(summary.seeds) for summary in summaries)


# --- what is printed -------------------------------------------------------------------------------------------------


def _show(runs: Comparison, verdicts: Sequence[Verdict], budget: str, console: Console) -> None:
    """Print the tables and the sentence, and write the page."""
    from iwbc.report.tables import to_terminal
    from iwbc.report.verdict import sentence, verdict_table
    from iwbc.report.write import write_report

    short = _short(runs, budget)
    tables, said = [], []
    for verdict in verdicts:
        bc = "BC is the reference policies; the time of what starts from them is without it."
        notes = [verdict.note, bc, *runs.left_out.values()]
        tables.append(verdict_table(verdict.contenders, verdict.measure, notes, verdict.played))
        words = f"{verdict.played.capitalize()}: " if verdict.played else ""
        said.append(words + sentence(verdict.contenders, verdict.measure, short))
    for table in tables:
        console.print(to_terminal(table))
    for text in said:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    page = runs.folder / "report"
    try:
        write_report([runs.folder], page, console, said=" ".join(said), first=tables)
    except UserError as error:
        console.print(f"No page: {error}", highlight=False, markup=False, soft_wrap=True)
    else:
        print(page / "index.html")


def _short(runs: Comparison, budget: str) -> str | None:
    """Say that the budget was too small for a verdict, and what would do; None where it was not."""
    plan = runs.plan()
    if (done := min(plan.made)) >= AT_FIRST:
        return None
    would = f"{AT_FIRST} take about {in_minutes(plan.seconds(AT_FIRST))}"
    return f"budget={budget} is too small for a verdict: {done} seed{'s' * (done != 1)} of every method, and {would}"


if __name__ == "__main__":
    run(main, __doc__)
