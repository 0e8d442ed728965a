"""Look at a dataset: its size, spaces, environment, groups, scales and returns, and what each curation would keep of it.

    python -m iwbc.info mujoco/hopper/medium-v0               a Minari id, or the folder of one
    python -m iwbc.info demo.npz                              arrays of your own, npz or HDF5, or a D4RL file
    python -m iwbc.info low_dim_v15.hdf5                      data of robomimic, LeRobot, ManiSkill, OGBench, or zarr
    python -m iwbc.info demo.hdf5 dataset.clip_actions=true   read with settings of its format, as train takes them
    python -m iwbc.info env=hopper dataset=medium_replay      whatever train takes: the data that it would train on
    python -m iwbc.info env=two_routes out=returns.png        with a picture (png, svg or pdf)

The effective number of trajectories is (Σ R_i)² / Σ R_i², R_i being the curation's weight of trajectory i: as many of equal
weight would count as much. With `curation=…`, as train takes it, that one is listed too; with curation=auto trials choose one
first, in a minute or so, and are listed. Observations that are far from 0 ± 1,
and actions whose bounds are far beyond them, are named as "units": policies standardise and scale these. "look at" names
entries that hardly vary, trajectories that repeat another, and some that are much longer or shorter than the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from iwbc.errors import DataWarning, UserError, extra, listed, warn
from iwbc.settings import All, Auto, GaussianPolicy, QualityLevels, ReturnWeighted, Settings, Success, TopFraction
from iwbc.system.arguments import is_setting, parse, run
from iwbc.system.files import KINDS, kind_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.table import Table

    from iwbc.data.choice import Choice
    from iwbc.data.scales import Scales
    from iwbc.data.trajectories import Trajectories
    from iwbc.environments.spec import EnvironmentSpec

_QUANTILES = (0, 10, 25, 50, 75, 90, 95, 98, 100)
_BINS = 16
_ROWS = 12  # of groups, observations and actions in a table
_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass
class Options(Settings):
    datasets: list[str]
    out: Path | None = None


def main(arguments: Sequence[str]) -> None:
    settings = [argument for argument in arguments if is_setting(argument, Options)]
    options = parse([argument for argument in arguments if argument not in settings], Options)
    names, out = options.datasets, options.out
    if out is not None and out.suffix not in _SUFFIXES:
        raise UserError(f"out={out}: give a file that ends in {', '.join(_SUFFIXES)}")
    if len(names) > 1 or not (names or settings):
        raise UserError("give one dataset: an id, a file, or settings such as env=hopper dataset=medium (see --help)")

    from rich.console import Console

    from iwbc.config import composed
    from iwbc.data.sources import load_dataset, settings_with

    curations, asked = usual_curations(), None
    of_arrays = bool(names) and _is_of_arrays(names[0])
    if of_arrays and (unused := [setting for setting in settings if setting.lstrip("+").startswith("dataset")]):
        raise UserError(f"{unused[0]}: a file of arrays is looked at as it is; iwbc convert makes a dataset of it")
    config = composed(settings_with(names[0], settings) if names and not of_arrays else settings)
    if any(setting.startswith("curation") for setting in settings):
        asked = config.curation
        if not isinstance(asked, Auto):
            curations[" ".join(setting for setting in settings if setting.startswith("curation"))] = asked
    policy = config.policy if isinstance(config.policy, GaussianPolicy) else GaussianPolicy()
    trajectories = _load_arrays(names[0]) if of_arrays else load_dataset(config.dataset, config.env.id)
    if trajectories.successes is None:
        curations.pop("success")
    choice = None
    if isinstance(asked, Auto):
        from iwbc.runs.pipeline import chosen

        choice = chosen(config, trajectories, Console(stderr=True))
        curations[f"auto: {choice.words}"] = choice.curation
    elif asked is not None:
        from iwbc.data.curation import curate

        curate(trajectories, asked)  # gives warnings, which are not given below for choices that nobody has made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        console = Console(markup=False)  # names may hold brackets
        show(trajectories, curations, console, policy)
        if choice is not None and choice.trials:
            console.print(_trials_table(choice))
        if out is not None:
            draw(trajectories, curations, out)
            print(out)


def _is_of_arrays(name: str) -> bool:
    """Tell whether a name is that of an npz file of arrays in no known format. Raises UserError for a run or a policy."""
    from iwbc.data.formats import recognise

    path = Path(name).expanduser()
    if (kind := kind_of(path)) in ("run", "policy"):
        raise UserError(f"{name}: no dataset, but {KINDS[kind]}")
    return path.suffix == ".npz" and not path.is_dir() and recognise(path) is None


def _load_arrays(name: str) -> Trajectories:
    """Load a file of arrays, whose bounds hold all its actions: this command does not train. Raises UserError where it is
    missing, or not one of episodes."""
    from iwbc.data.array_files import open_steps
    from iwbc.data.arrays import describe, in_memory

    path = Path(name).expanduser()
    with open_steps(path) as steps:
        described = describe(path.name, steps)
        bound = max(1.0, float(abs(steps.actions[:]).max(initial=0)))
        if steps.unused:
            warn(f"dataset {path.name}: {steps.unused}")
        size = len(described.action_low)
        return in_memory(steps, replace(described, action_low=[-bound] * size, action_high=[bound] * size))


def usual_curations() -> dict[str, Settings]:
    """Return the curations that are listed for every dataset, by the settings that choose them."""
    curations: dict[str, Settings] = {"all": All()}
    curations |= {f"top_fraction {100 * share:g} %": TopFraction(share) for share in (0.01, 0.05, 0.1, 0.2)}
    return curations | {"quality_levels": QualityLevels(), "return_weighted": ReturnWeighted(), "success": Success()}


def show(
    trajectories: Trajectories, curations: dict[str, Settings], console: Console, policy: GaussianPolicy | None = None
) -> None:
    """Print all facts of a dataset; units are those of `policy` (default: the usual settings)."""
    from rich.table import Table

    table = Table(title=trajectories.info.id, show_header=False, box=None, title_justify="left")
    for name, text in _facts(trajectories, policy or GaussianPolicy()).items():
        table.add_row(name, text)
    console.print(table)
    if trajectories.groups is not None:
        console.print(_groups_table(trajectories, trajectories.groups))
    console.print(_scales_table(trajectories))
    _show_returns(trajectories, console)
    console.print(_kept_table(trajectories, curations))


def _facts(trajectories: Trajectories, policy: GaussianPolicy) -> dict[str, str]:
    import numpy as np

    from iwbc.policies.spec import policy_spec

    info, lengths, successes = trajectories.info, trajectories.lengths, trajectories.successes
    span = f"{lengths.min():,} to {lengths.max():,} in a trajectory, median {np.median(lengths):g}"
    facts = {"trajectories": f"{len(trajectories):,}", "steps": f"{trajectories.steps:,}, {span}"}
    if info.fps is not None:
        each = [_duration(float(steps) / info.fps) for steps in (lengths.min(), lengths.max())]
        total = _duration(trajectories.steps / info.fps)
        facts["time"] = f"{total} at {info.fps:g} steps a second, {each[0]} to {each[1]} in a trajectory"
    facts |= {
        "ends": _ends(trajectories),
        "observations": f"vectors of {trajectories.observations.shape[1]}"
        + (f", flattened from {', '.join(map(str, info.observation_parts))}" if info.observation_parts else ""),
        "images": "\n".join(_image(name, image) for name, image in trajectories.images.items()),
        "actions": f"vectors of {trajectories.actions.shape[1]} in {_range(info.action_low, info.action_high)}",
        "environment": "none is named" if info.environment is None else _environment(info.environment),
        "success": "no labels" if successes is None else f"{100 * successes.mean():.1f} %",
        "content": trajectories.content_hash[:16],
    }
    if not trajectories.images:
        del facts["images"]
    if not trajectories.images and (said := policy_spec(policy, trajectories).said()):
        facts["units"] = "\n".join(said)
    return facts | ({"look at": "\n".join(oddities)} if (oddities := _oddities(trajectories)) else {})


def _image(name: str, image: NDArray[np.uint8]) -> str:
    shape = "×".join(map(str, image.shape[1:]))
    return f"{name} of {shape}, {image[0].nbytes:,} bytes a step, {image.nbytes / 1e6:,.1f} MB"


def _ends(trajectories: Trajectories) -> str:
    """Say how many trajectories terminate, and of successes and failures, where they differ in it."""
    terminated, successes = trajectories.terminated, trajectories.successes
    text = f"{100 * terminated.mean():.0f} % terminate"
    if successes is not None and successes.any() and not successes.all() and 0 < terminated.mean() < 1:
        shares = [100 * terminated[successes == label].mean() for label in (True, False)]
        text += f" ({shares[0]:.0f} % of the successes, {shares[1]:.0f} % of the failures)"
    return text if terminated.all() else f"{text}, the others are cut"


def _oddities(trajectories: Trajectories) -> list[str]:
    """List what of a dataset its owner should look at, a line each."""
    import numpy as np

    from iwbc.data.inspection import constant, duplicates, odd_lengths, unrewarded

    lines = []

    def add(what: str, listed: Sequence[object], total: int) -> None:
        if len(listed):
            lines.append(f"{what}, {len(listed):,} of {total:,}: {_listed(listed)}")

    for what, names, values, scales in _entries(trajectories):
        for which, marks in zip(("constant", "nearly constant"), constant(trajectories, values, scales), strict=True):
            add(f"{what} that are {which}", [names[i] for i in np.flatnonzero(marks)], len(names))
    n, median = len(trajectories), f"the median of {np.median(trajectories.lengths):g} steps"
    copies = [f"{i} (of {first})" for i, first in duplicates(trajectories).items()]
    add("trajectories with the observations and actions of an earlier one", copies, n)
    short, long = odd_lengths(trajectories.lengths)
    add(f"trajectories shorter than a fifth of {median}", short.tolist(), n)
    add(f"trajectories longer than five times {median}", long.tolist(), n)
    if trajectories.successes is None:
        add("trajectories that do not end in a reward, as all others do", unrewarded(trajectories).tolist(), n)
    return lines


def _entries(trajectories: Trajectories) -> list[tuple[str, list[str], NDArray[np.float32], Scales]]:
    """Name observations and actions, with the names of their entries, their values and scales."""
    from iwbc.environments.spaces import entry_names

    observations, actions = trajectories.observations, trajectories.actions
    names = entry_names(trajectories.info.observation_parts, observations.shape[1])
    return [
        ("observation entries", names, observations, trajectories.observation_scales),
        ("action entries", [str(i) for i in range(actions.shape[1])], actions, trajectories.action_scales),
    ]


def _listed(names: Sequence[object], most: int = 6) -> str:
    """Join names by commas, with a count of those beyond `most`."""
    return listed([str(name) for name in names], most)


def _groups_table(trajectories: Trajectories, members: NDArray[np.bool_]) -> Table:
    import numpy as np
    from rich.table import Table

    lengths, successes, names = trajectories.lengths, trajectories.successes, trajectories.info.groups
    table = Table(title="Groups", title_justify="left")
    for column in (
        "group",
        "trajectories",
        "median steps",
        "steps",
        *([] if successes is None else ["success"]),
        "mean return",
    ):
        table.add_column(column, justify="left" if column == "group" else "right")
    rows = list(zip(names, members.T, strict=True))[:_ROWS]
    if not members.any(1).all():
        rows.append(("in none", ~members.any(1)))
    for name, member in rows:
        if not member.any():
            table.add_row(name, "0")
            continue
        some = lengths[member]
        share = [] if successes is None else [f"{100 * successes[member].mean():.1f} %"]
        span = f"{some.min():,} to {some.max():,}"
        count, mean = f"{member.sum():,}", f"{trajectories.returns[member].mean():,.1f}"
        table.add_row(name, count, f"{np.median(some):g}", span, *share, mean)
    if len(names) > _ROWS:
        table.add_row(f"and {len(names) - _ROWS} more groups")
    return table


def _scales_table(trajectories: Trajectories) -> Table:
    from rich.table import Table

    from iwbc.data.inspection import constant

    rows: list[tuple[str, ...]] = []
    for what, names, values, scales in _entries(trajectories):
        still, nearly = constant(trajectories, values, scales)
        for i, name in enumerate(names[:_ROWS]):
            remarks = ["constant"] * bool(still[i]) + ["nearly constant"] * bool(nearly[i])
            remarks += [f"mean and std without {scales.far[i]:,} far out"] * bool(scales.far[i])
            figures = (scales.lowest[i], scales.highest[i], scales.mean[i], scales.std[i])
            rows.append((f"{what.split()[0]} {name}", *(f"{figure:.3g}" for figure in figures), ", ".join(remarks)))
        if len(names) > _ROWS:
            rows.append((f"and {len(names) - _ROWS} more", *[""] * 5))
    width = 6 if any(row[-1] for row in rows) else 5  # without a column of remarks where there are none
    table = Table(title="Scales, over all steps", title_justify="left")
    for column in ("entry", "min", "max", "mean", "std", "")[:width]:
        table.add_column(column, justify="left" if column in ("entry", "") else "right")
    for row in rows:
        table.add_row(*row[:width])
    return table


def _show_returns(trajectories: Trajectories, console: Console) -> None:
    """Print quantiles and a histogram of the returns, or the one that all have."""
    import numpy as np
    from rich.table import Table

    from iwbc.data.curation import vary

    returns, scores = trajectories.returns, trajectories.info.reference_scores
    if not vary(returns, trajectories.return_rounding):
        score = f" (score {float(scores.normalise(returns).mean()):.1f})" if scores else ""
        console.print(
            f"All returns are {returns[0]:g}{score}: what goes by them keeps all. curation.rank_by=length, curation=groups or "
            "curation=scores may choose.",
            soft_wrap=True,
        )
        return
    table = Table(title="Returns", title_justify="left")
    for column in ("quantile", "return", *(["score"] if scores else [])):
        table.add_column(column, justify="right")
    for quantile in _QUANTILES:
        value = float(np.percentile(returns, quantile))
        row = [f"{quantile} %", f"{value:,.1f}"]
        table.add_row(*row, *([f"{float(scores.normalise(value)):.1f}"] if scores else []))
    mean = [f"{returns.mean():,.1f}", *([f"{float(scores.normalise(returns).mean()):.1f}"] if scores else [])]
    table.add_row("mean", *mean, style="bold")
    console.print(table)

    counts, edges = np.histogram(returns, _BINS)
    digits = 1 if np.ptp(returns) >= _BINS else 3
    width = max(len(f"{edge:,.{digits}f}") for edge in edges)
    for count, low in zip(counts, edges[:-1], strict=True):
        bar = "█" * round(30 * count / counts.max()) or ("▏" if count else "")
        console.print(f"{low:>{width},.{digits}f}  {bar} {count:,}", highlight=False)
    console.print(f"{edges[-1]:>{width},.{digits}f}", highlight=False)


def _kept_table(trajectories: Trajectories, curations: dict[str, Settings]) -> Table:
    from rich.table import Table

    from iwbc.data.choice import effective_number
    from iwbc.data.curation import curate, keeps_all

    table = Table(title="What each curation keeps", title_justify="left")
    for column in ("curation", "trajectories", "steps", "effective number", "from return"):
        table.add_column(column, justify="left" if column == "curation" else "right")
    for name, curation in curations.items():
        if curation == Success() and trajectories.successes is not None and not trajectories.successes.any():
            table.add_row(name, "0", "0")
            continue
        kept = curate(trajectories, curation)
        effective = effective_number(kept.curation_weights)
        lowest = float(trajectories.returns[kept.kept].min())
        count = "all " * keeps_all(kept.curation_weights, curation) + f"{len(kept.kept):,}"
        table.add_row(name, count, f"{kept.steps:,}", f"{effective:,.1f}", f"{lowest:,.1f}")
    return table


def _trials_table(choice: Choice) -> Table:
    """List what curation=auto has tried, broadest first."""
    from rich.table import Table

    table = Table(title=f"Trials of curations: {choice.words}", title_justify="left")
    for column in ("curation", "effective number", "held-out nats a step", "behind the likeliest"):
        table.add_column(column, justify="left" if column == "curation" else "right")
    for trial in sorted(choice.trials, key=lambda trial: -trial.effective):
        behind = f"{trial.behind:.4f} ± {trial.error:.4f}" if trial.behind else "–"
        style = "bold" if trial.curation == choice.curation else None
        table.add_row(trial.words, f"{trial.effective:,.1f}", f"{trial.log_prob:.3f}", behind, style=style)
    return table


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def _range(low: Sequence[float], high: Sequence[float]) -> str:
    if len(set(low)) == len(set(high)) == 1:
        return f"{low[0]:g} … {high[0]:g}"
    return ", ".join(f"{bottom:g} … {top:g}" for bottom, top in zip(low, high, strict=True))


def _environment(environment: EnvironmentSpec) -> str:
    others = dict(environment.kwargs)
    if environment.max_episode_steps is not None:
        others["max_episode_steps"] = environment.max_episode_steps
    text = ", ".join(f"{key}={value}" for key, value in others.items())
    return environment.id + (f" ({text})" if text else "")


def draw(trajectories: Trajectories, curations: dict[str, Settings], out: Path) -> None:
    """Draw the histogram of returns, with the least return of each curation, and every trajectory's length over the return.

    Raises UserError where matplotlib is missing or the file cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(f"out={out}: {extra('report')}") from None
    import io

    from iwbc.data.curation import curate
    from iwbc.system.files import write_bytes

    returns, successes = trajectories.returns, trajectories.successes
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(returns, 50, color="0.75")
    for i, (name, curation) in enumerate(curations.items()):
        if isinstance(curation, TopFraction | QualityLevels):
            lowest = returns[curate(trajectories, curation).kept].min()
            left.axvline(lowest, color=f"C{i}", linewidth=1, label=f"{name}: from {lowest:,.1f}")
    left.set(xlabel="return", ylabel="trajectories", yscale="log")
    left.legend(fontsize="x-small", frameon=False)
    colours = "tab:blue" if successes is None else ["tab:green" if success else "tab:red" for success in successes]
    right.scatter(returns, trajectories.lengths, s=5, alpha=0.5, c=colours, linewidths=0)
    right.set(xlabel="return", ylabel="steps" if successes is None else "steps (green: success)")
    figure.suptitle(f"{trajectories.info.id}: {len(trajectories):,} trajectories", fontsize="medium")
    content = io.BytesIO()
    figure.savefig(content, format=out.suffix[1:], dpi=120)
    try:
        write_bytes(out, content.getvalue())
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    run(main, __doc__, "what curation=auto has trained so far goes on with the same command")
