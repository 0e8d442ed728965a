"""Look at a dataset: its size, spaces and environment, its returns, and what each curation would keep of it.

    python -m iwbc.info mujoco/hopper/medium-v0               a Minari id, or the folder of one
    python -m iwbc.info demo.npz                              arrays of your own, npz or HDF5, or a D4RL file
    python -m iwbc.info low_dim_v15.hdf5                      data of robomimic, LeRobot, ManiSkill, OGBench, or zarr
    python -m iwbc.info env=hopper dataset=medium_replay      whatever train takes: the data that it would train on
    python -m iwbc.info env=two_routes out=returns.png        with a picture (png, svg or pdf)

The effective number of trajectories is (Σ R_i)² / Σ R_i², R_i being the curation's weight of trajectory i: as many of equal
weight would count as much. With `curation=…`, as train takes it, that one is listed too. Observations that are far from 0 ± 1,
and actions whose bounds are far beyond them, are named as "units": policies standardise and scale these.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from iwbc.errors import DataWarning, UserError, extra, warn
from iwbc.settings import RECORDINGS, All, GaussianPolicy, QualityLevels, ReturnWeighted, Settings, Success, TopFraction
from iwbc.system.arguments import parse, run
from iwbc.system.files import KINDS, kind_of

if TYPE_CHECKING:
    from rich.console import Console

    from iwbc.data.trajectories import Trajectories
    from iwbc.environments.spec import EnvironmentSpec

_QUANTILES = (0, 10, 25, 50, 75, 90, 95, 98, 100)
_BINS = 16
_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass
class Options(Settings):
    datasets: list[str]
    out: Path | None = None


def main(arguments: Sequence[str]) -> None:
    settings = [argument for argument in arguments if _is_setting(argument)]
    options = parse([argument for argument in arguments if argument not in settings], Options)
    names, out = options.datasets, options.out
    if out is not None and out.suffix not in _SUFFIXES:
        raise UserError(f"out={out}: give a file that ends in {', '.join(_SUFFIXES)}")
    if len(names) > 1 or not (names or settings):
        raise UserError("give one dataset: an id, a file, or settings such as env=hopper dataset=medium (see --help)")

    from rich.console import Console

    curations, asked, policy = usual_curations(), None, GaussianPolicy()
    if settings:
        from iwbc.config import composed

        config = composed(settings)
        if any(setting.startswith("curation") for setting in settings):
            asked = config.curation
            curations[" ".join(setting for setting in settings if setting.startswith("curation"))] = asked
        policy = config.policy if isinstance(config.policy, GaussianPolicy) else policy
    if names:
        trajectories = by_name(names[0])
    else:
        from iwbc.data.sources import load_dataset

        trajectories = load_dataset(config.dataset, config.env.id)
    if trajectories.successes is None:
        curations.pop("success")
    if asked is not None:
        from iwbc.data.curation import curate

        curate(trajectories, asked)  # gives warnings, which are not given below for choices that nobody has made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        show(trajectories, curations, Console(markup=False), policy)  # names may hold brackets
        if out is not None:
            draw(trajectories, curations, out)
            print(out)


def _is_setting(argument: str) -> bool:
    is_option = argument.startswith(("out=", "-"))
    return "=" in argument and not is_option and not Path(argument).expanduser().exists()


def by_name(name: str) -> Trajectories:
    """Load the dataset of a Minari id, in the folder of a Minari dataset, in a file of arrays, or in a format of robots' data.
    Raises UserError if none is there."""
    from iwbc.data import d4rl_source, formats, minari_source
    from iwbc.data.array_files import open_steps
    from iwbc.data.arrays import describe, in_memory
    from iwbc.data.minari_folder import dataset_folder

    path = Path(name).expanduser()
    if (kind := kind_of(path)) in ("run", "policy"):
        raise UserError(f"{name}: no dataset, but {KINDS[kind]}")
    if layout := formats.recognise(path):
        return formats.load(RECORDINGS[layout](path=name))
    if path.is_dir():
        root = dataset_folder().resolve()
        if not path.resolve().is_relative_to(root) or not (path / "data").is_dir():
            raise UserError(f"{name}: holds no Minari dataset, or not where MINARI_DATASETS_PATH={root} has them")
        return minari_source.load(path.resolve().relative_to(root).as_posix())
    if path.suffix not in (".npz", ".hdf5", ".h5"):
        return minari_source.load(name)
    if path.suffix == ".npz":
        with open_steps(path) as steps:
            described = describe(path.name, steps)
            # Bounds that hold all actions: this command does not train.
            bound = max(1.0, float(abs(steps.actions[:]).max(initial=0)))
            if steps.unused:
                warn(f"dataset {path.name}: {steps.unused}")
            size = len(described.action_low)
            return in_memory(steps, replace(described, action_low=[-bound] * size, action_high=[bound] * size))
    return d4rl_source.load(path)


def usual_curations() -> dict[str, Settings]:
    """Return the curations that are listed for every dataset, by the settings that choose them."""
    curations: dict[str, Settings] = {"all": All()}
    curations |= {f"top_fraction {100 * share:g} %": TopFraction(share) for share in (0.01, 0.05, 0.1, 0.2)}
    return curations | {"quality_levels": QualityLevels(), "return_weighted": ReturnWeighted(), "success": Success()}


def show(
    trajectories: Trajectories, curations: dict[str, Settings], console: Console, policy: GaussianPolicy | None = None
) -> None:
    """Print all facts of a dataset; units are those of `policy` (default: the usual settings)."""
    import numpy as np
    from rich.table import Table

    from iwbc.data.curation import curate
    from iwbc.policies.spec import policy_spec

    info, returns, lengths = trajectories.info, trajectories.returns, trajectories.lengths
    facts = {
        "trajectories": f"{len(trajectories):,}",
        "steps": f"{trajectories.steps:,}, {lengths.min():,} to {lengths.max():,} in a trajectory",
        "ends": f"{100 * trajectories.terminated.mean():.0f} % terminate, the others are cut",
        "observations": f"vectors of {trajectories.observations.shape[1]}"
        + (f", flattened from {', '.join(map(str, info.observation_parts))}" if info.observation_parts else ""),
        "actions": f"vectors of {trajectories.actions.shape[1]} in {_range(info.action_low, info.action_high)}",
        "environment": "none is named" if info.environment is None else _environment(info.environment),
        "success": "no labels" if trajectories.successes is None else f"{100 * trajectories.successes.mean():.1f} %",
        "content": trajectories.content_hash[:16],
    }
    if said := policy_spec(policy or GaussianPolicy(), trajectories).said():
        facts["units"] = "\n".join(said)
    table = Table(title=info.id, show_header=False, box=None, title_justify="left")
    for name, text in facts.items():
        table.add_row(name, text)
    console.print(table)

    scores = info.reference_scores
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

    table = Table(title="What each curation keeps", title_justify="left")
    for column in ("curation", "trajectories", "steps", "effective number", "from return"):
        table.add_column(column, justify="left" if column == "curation" else "right")
    for name, curation in curations.items():
        kept = curate(trajectories, curation)
        effective = 1.0 / float((kept.probabilities**2).sum())
        lowest = float(returns[kept.kept].min())
        table.add_row(name, f"{len(kept.kept):,}", f"{kept.steps:,}", f"{effective:,.1f}", f"{lowest:,.1f}")
    console.print(table)


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
    run(main, __doc__)
