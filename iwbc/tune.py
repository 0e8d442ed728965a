"""Search for the settings with the best final score, by Optuna.

    python -m iwbc.tune env=hopper trials=40
    python -m iwbc.tune env=hopper 'algo.kappa=tag(log, interval(0.05, 2))' 'policy=choice(tanh_mean, mixture)' trials=40

Settings are train's; those that are searched have ranges, in Hydra's grammar: interval(0.5, 0.999), of whole numbers
range(1, 10), choice(a, b, c), and tag(log, interval(…)) where the size is what is searched. Without any, κ and the decay
of iw_bc's moving average are: tag(log, interval(0.05, 2)), with algo.level=trajectory tag(log, interval(0.1, 20)), and
interval(0.5, 0.999).

trials       how many more runs to make (default 20)
folder       where runs and study are (default: tune)
search_seed  of the search; give commands that search side by side different ones (default 0)

The score of a run is its last policy's mean score; where there are no reference returns its success rate, or else its return.
The study is folder/study-….log, one for each choice of the other settings, which the same command adds runs to, and goes on
with where it was stopped; any number of the same command, on any machines that share the folder, search together.
optuna-dashboard and `python -m iwbc.report.search` show it. Needs the extra optuna.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iwbc.errors import UserError, extra
from iwbc.settings import Settings
from iwbc.system.arguments import at_least, option_names, parse, run
from iwbc.system.files import MALFORMED

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution


@dataclass
class Options(Settings):
    trials: int = at_least(1, 20)
    folder: Path = Path("tune")
    search_seed: int = at_least(0, 0)


_TRIED = 50  # combinations of choices, of which one must be possible
# κ multiplies a sum over a few steps, or a mean over a whole trajectory, which varies less.
_KAPPA = {"window": "tag(log, interval(0.05, 2))", "trajectory": "tag(log, interval(0.1, 20))"}


def main(arguments: Sequence[str]) -> None:
    """Make the runs and print the best of the study."""
    names = option_names(Options)
    not_settings = [word for word in arguments if word.partition("=")[0] in names or word.startswith("-")]
    options = parse(not_settings, Options)
    from iwbc.config import quoted

    settings = quoted([word for word in arguments if word not in not_settings])
    fixed, searched = split(settings)
    if not searched:
        fixed, searched = split([*settings, *usual(fixed)])
    _check_ranges(fixed, searched)
    content = _content(fixed, searched)
    study = open_study(options.folder, fixed, searched, options.search_seed)
    _check_data(study, content, options.folder)
    _search(study, fixed, searched, options.trials, options.folder)
    _show(study, fixed)


def usual(fixed: Sequence[str]) -> list[str]:
    """Return the ranges that are searched where none is named. Raises UserError for an algorithm that has no κ."""
    from iwbc.config import composed
    from iwbc.settings import IWBC

    algo = composed(fixed).algo
    if not isinstance(algo, IWBC):
        raise UserError(f"algo={algo.name}: has no usual ranges; name one, such as 'algo.lr=tag(log, interval(1e-4, 1e-2))'")
    return [f"algo.kappa={_KAPPA[algo.level]}", "algo.decay=interval(0.5, 0.999)"]


def split(settings: Sequence[str]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """Split settings into fixed ones, as they are, and the ranges of searched ones. Raises UserError for what is neither."""
    try:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    except ImportError:
        raise UserError(f"tune: {extra('optuna')}") from None
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    fixed: list[str] = []
    searched: dict[str, BaseDistribution] = {}
    for text in settings:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise UserError(f"{text}: {' '.join(str(error).split())}") from None
        value, key = override.value(), override.get_key_element()
        try:
            match value:
                case IntervalSweep(start=low, end=high) if isinstance(low, int | float) and isinstance(high, int | float):
                    searched[key] = FloatDistribution(float(low), float(high), log="log" in value.tags)
                case RangeSweep(start=int(low), stop=int(high), step=int(step)):
                    last = low + (high - 1 - low) // step * step  # which Hydra's range leaves out
                    searched[key] = IntDistribution(low, last, log="log" in value.tags, step=step)
                case ChoiceSweep():
                    searched[key] = CategoricalDistribution(tuple(override.sweep_string_iterator()))
                case _ if override.is_sweep_override():
                    raise UserError(f"{text}: give interval(low, high), range(low, high) of whole numbers, or choice(a, b)")
                case _:
                    fixed.append(text)
        except (ValueError, ZeroDivisionError) as error:
            raise UserError(f"{text}: cannot be searched ({' '.join(str(error).split())})") from None
    return fixed, searched


def _check_ranges(fixed: Sequence[str], searched: Mapping[str, BaseDistribution]) -> None:
    """Raise UserError where settings at the low ends of all ranges cannot be, whatever is chosen beside them."""
    from iwbc.config import composed

    ends = [getattr(kind, "choices", None) or (getattr(kind, "low", None),) for kind in searched.values()]
    first = None
    for values in itertools.islice(itertools.product(*ends), _TRIED):
        try:
            composed([*fixed, *(f"{name}={value}" for name, value in zip(searched, values, strict=True))])
            return
        except UserError as error:
            first = first or error
    if first is not None:
        raise first


def _content(fixed: Sequence[str], searched: Mapping[str, BaseDistribution]) -> str | None:
    """Return the content hash of the dataset; None where it is searched, too."""
    from iwbc.config import composed
    from iwbc.data.sources import load_dataset

    if any(name.startswith(("dataset", "env")) for name in searched):
        return None
    config = composed(fixed)
    return load_dataset(config.dataset, config.env.id).content_hash


def _check_data(study: Study, content: str | None, folder: Path) -> None:
    """Raise UserError where the study is of other data; a new one is of these from here on."""
    if content is None:
        return
    if (held := study.user_attrs.get("data", content)) != content:
        raise UserError(
            f"folder={folder}: its study of these settings is on other data (content {held[:12]} and not {content[:12]}); "
            "choose another folder"
        )
    study.set_user_attr("data", content)


def open_study(folder: Path, fixed: Sequence[str], searched: Mapping[str, BaseDistribution], seed: int) -> Study:
    """Open the study of these settings, new or with the trials that it has. Raises UserError where the settings cannot be, or
    its file is damaged."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from iwbc.config import composed

    composed(fixed)  # what cannot be is refused before there is a study
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plain = {"fixed": sorted(fixed), "searched": {name: repr(distribution) for name, distribution in searched.items()}}
    key = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:10]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"study-{key}.log"
    try:
        storage = JournalStorage(JournalFileBackend(str(log)))
        study = optuna.create_study(study_name=key, storage=storage, direction="maximize", load_if_exists=True)
        (_,) = study.directions
        # Not the same again as trials are added.
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    except (*MALFORMED, RuntimeError) as error:
        raise UserError(f"{log}: damaged ({' '.join(str(error).split())}); delete it to search anew") from None
    return study


def _search(study: Study, fixed: Sequence[str], searched: Mapping[str, BaseDistribution], trials: int, folder: Path) -> None:
    from optuna.trial import TrialState
    from rich.console import Console

    from iwbc.config import composed
    from iwbc.runs.folder import RunFolder
    from iwbc.runs.pipeline import run as run_pipeline
    from iwbc.runs.show import line
    from iwbc.runs.sweeps import objective

    console = Console()
    for _ in range(trials):
        trial = study.ask(dict(searched))
        chosen = [f"{name}={value}" for name, value in trial.params.items()]
        key = hashlib.sha256(json.dumps([sorted(fixed), sorted(chosen)]).encode()).hexdigest()[:10]
        path = folder / f"run-{key}"
        console.print(f"Trial {trial.number}: {' '.join(chosen)}", highlight=False, markup=False)
        try:
            summary = run_pipeline(composed([*fixed, *chosen]), path, console)
        except UserError as error:
            study.tell(trial, state=TrialState.FAIL)
            RunFolder(path).write_failure(str(error), [*fixed, *chosen])
            console.print(f"failed: {error}", markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            study.tell(trial, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)  # and goes on from its checkpoint
            print("Interrupted; the same command goes on with this trial.", file=sys.stderr)
            sys.exit(130)
        else:
            value = objective(summary)
            if value is None:
                study.tell(trial, state=TrialState.FAIL)
                raise UserError(f"{path}: was not evaluated, and there is nothing to search by")
            trial.set_user_attr("run", path.name)
            if math.isnan(value):
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, value)
            console.print(f"  {line(summary)}", highlight=False, markup=False)


def _show(study: Study, fixed: Sequence[str]) -> None:
    """Print the best trials in a table, and the command that trains as the best one did."""
    from optuna.trial import TrialState
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from iwbc.config import composed

    finished = sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: -trial.value)  # type: ignore[operator]
    if not finished:
        raise UserError("no trial has finished")
    table = Table(title=f"The best of {len(finished)} trials")
    names = list(finished[0].params)
    for name in ("trial", "result", *names, "run"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for trial in finished[:5]:
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in trial.params.values()]
        table.add_row(str(trial.number), f"{trial.value:.2f}", *map(escape, values), trial.user_attrs["run"])
    Console().print(table)
    others = composed(fixed)
    fresh = [f"seeds=[{','.join(str(max(others.all_seeds) + 1 + i) for i in range(max(3, len(others.all_seeds))))}]"]
    fresh.append(f"eval.seed={others.eval.seed + 1}")
    kept = [word for word in fixed if word.partition("=")[0] not in ("seed", "seeds", "eval.seed")]
    best = shlex.join([*kept, *(f"{name}={value}" for name, value in finished[0].params.items()), *fresh])
    print(f"Of {len(finished)} results the best is by chance too high; other seeds and episodes tell what it is worth.")
    print(f"Train so: python -m iwbc.train {best}")


if __name__ == "__main__":
    run(main, __doc__)
