"""The report's figures. Methods keep their colour from figure to figure."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iwbc.report.collect import Run
from iwbc.report.statistics import AGGREGATES, Estimate, Scores
from iwbc.report.study import REFERENCE, Study
from iwbc.runs.read import of_seeds, read_curation, read_metrics, read_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

_WIDTH = 12.0  # inches
_COLUMNS = 3
_THIN = 0.8

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.dpi": 100,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.hashsalt": "iwbc",  # the same figure is the same file
}


@dataclass(frozen=True)
class Picture:
    """A finished figure: its file name without suffix, what it shows, and its two forms."""

    name: str
    caption: str
    svg: bytes
    png: bytes

    @property
    def title(self) -> str:
        """The beginning of the caption, for those who do not see the figure."""
        return re.split(r"[:,.]", self.caption)[0]


@contextmanager
def style() -> Iterator[None]:
    """Let figures in the block look alike, whatever the user's matplotlib settings."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _picture(name: str, caption: str, figure: Figure) -> Picture:
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", metadata={"Software": None})
    return Picture(name, caption, svg.getvalue(), png.getvalue())


def _looks(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Choose a colour for each of ten methods, told apart by colour-blind readers too; from then on dashes as well."""
    import matplotlib

    colours, dashes = matplotlib.color_sequences["petroff10"], ("-", "--", ":", "-.")
    looks = [{"color": colour, "linestyle": dash} for dash in dashes for colour in colours]
    named = [method for method in methods if method != REFERENCE]
    chosen = {method: looks[i % len(looks)] for i, method in enumerate(named)}
    return {method: chosen.get(method, {"color": "0.55", "linestyle": "-"}) for method in methods}


def _panels(count: int, height: float = 2.6, **shared: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure with `count` panels, three to a row; the figure narrows where there are fewer."""
    from matplotlib.figure import Figure

    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    width = _WIDTH * (1.0 if columns > 1 else 0.6)
    figure = Figure(figsize=(width, height * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def _title(task: str) -> str:
    """Put what stands in brackets on another line: a panel is narrow."""
    return task.replace(" (", "\n(")


def _legend(figure: Figure, axes: Sequence[Axes], order: Sequence[str]) -> None:
    """Draw one legend for all panels, below them."""
    entries: dict[Any, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        labels = sorted(entries, key=list(order).index)
        widest = 0.6 + 0.075 * max(map(len, labels))  # inches
        columns = max(1, min(len(labels), int(figure.get_figwidth() / widest)))
        figure.legend([entries[label] for label in labels], labels, loc="outside lower center", ncols=columns)


# --- learning curves -------------------------------------------------------------------------------------------------


def learning_curves(study: Study) -> Picture | None:
    """Score (or return) during training, a panel per dataset; None where no run was evaluated more than once."""
    curves = {place: curve(runs, study.tasks[place[0]].normalisation is not None) for place, runs in study.runs.items()}
    curves = {place: points for place, points in curves.items() if len(points[0]) > 1}
    tasks = [task for task in study.tasks if any((task, method) in curves for method in study.methods)]
    if not tasks:
        return None
    looks, labels = (
        _looks(study.methods),
        {method: _with_steps(study, method) for method in study.methods if method != REFERENCE},
    )
    figure, axes = _panels(len(tasks))
    for axis, task in zip(axes, tasks, strict=True):
        for method in labels:
            if (task, method) in curves:
                share, mean, std = curves[task, method]
                axis.plot(share, mean, label=labels[method], **looks[method])
                axis.fill_between(share, mean - std, mean + std, color=looks[method]["color"], alpha=0.15, linewidth=0)
        axis.set_title(_title(task))
        axis.set_xlabel("% of the method's gradient steps")
        axis.set_ylabel("score" if study.tasks[task].normalisation else "return")
    _legend(figure, axes, list(labels.values()))
    caption = (
        "Learning curves: mean over seeds, with a band of one standard deviation (no band: one seed), of the evaluations "
        "during training and of the final one. A method that starts from a reference policy starts at that policy's result; "
        "the reference's own gradient steps are not counted."
    )
    return _picture("learning_curves", caption, figure)


def curve(runs: Sequence[Run], scored: bool) -> tuple[Array, Array, Array]:
    """When all seeds were evaluated (% of training), and mean and standard deviation over seeds (NaN for one seed)."""
    series: dict[tuple[int, int], dict[float, list[float]]] = {}
    for i, run in enumerate(runs):
        for episode in run.episodes:
            if episode.action != run.task.action or episode.seed not in run.seeds:
                continue
            value = episode.score if scored else episode.total
            if value is not None:
                series.setdefault((i, episode.seed), {}).setdefault(100 * episode.step / run.steps, []).append(value)
    shares = sorted(set.intersection(*map(set, series.values()))) if series else []
    if not shares:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    table = np.array([[np.mean(values[share]) for share in shares] for values in series.values()])
    std = table.std(0, ddof=1) if len(table) > 1 else np.full(len(shares), np.nan)
    return np.array(shares), table.mean(0), std


def _with_steps(study: Study, method: str) -> str:
    steps = sorted({run.steps for (_, other), runs in study.runs.items() if other == method for run in runs})
    return f"{method}: {' to '.join(f'{count:,}' for count in dict.fromkeys((steps[0], steps[-1])))} steps"


# --- aggregates ------------------------------------------------------------------------------------------------------


def aggregate_intervals(
    study: Study,
    scores: Scores,
    estimates: Mapping[str, Mapping[str, Estimate]],
    better: Mapping[str, Estimate],
    baseline: str | None,
) -> Picture:
    """Point estimates with their 95 % intervals, a panel per aggregate."""
    from matplotlib.figure import Figure

    panels: dict[str, Mapping[str, Estimate]] = {
        name: {m: estimate[name] for m, estimate in estimates.items()} for name in AGGREGATES
    }
    if better:
        panels[f"P(better than\n{baseline})"] = better
    methods, looks = list(estimates), _looks(study.methods)
    figure = Figure(figsize=(_WIDTH, 0.32 * len(methods) + 1.3), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (name, estimates_of) in zip(axes, panels.items(), strict=True):
        for row, method in enumerate(methods):
            if method in estimates_of:
                estimate, colour = estimates_of[method], looks[method]["color"]
                axis.plot(
                    [estimate.low, estimate.high], [row, row], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt"
                )
                axis.plot(estimate.value, row, "o", color=colour, markersize=5)
        axis.set_title(name)
        axis.margins(x=0.1)
        axis.set_xlabel("score" if name in AGGREGATES else "probability")
        axis.spines["left"].set_visible(False)
        axis.tick_params(left=False)
    if better:
        axes[-1].axvline(0.5, color="0.4", linewidth=_THIN)
        axes[-1].set_xlim(-0.02, 1.02)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    caption = (
        "Aggregates over datasets, with 95 % stratified bootstrap intervals (no bar: one seed). Optimality gap: less is better."
    )
    return _picture(*_of_action("aggregates", caption, scores), figure)


def _of_action(name: str, caption: str, scores: Scores) -> tuple[str, str]:
    """Name a figure of one kind of action, and begin its caption with it, where several were played."""
    if not scores.played:
        return name, caption
    return f"{name}_{scores.played.replace(' ', '_')}", f"{scores.played.capitalize()}: {caption[0].lower()}{caption[1:]}"


def performance_profiles(
    study: Study, scores: Scores, thresholds: Array, shares: Mapping[str, tuple[Array, Array, Array]]
) -> Picture:
    """Draw the share of runs that score above each threshold."""
    figure, (axis,) = _panels(1, height=3.6)
    for method, look in _looks(study.methods).items():
        if method in shares:
            share, low, high = shares[method]
            axis.plot(thresholds, share, label=method, **look)
            axis.fill_between(thresholds, low, high, color=look["color"], alpha=0.12, linewidth=0)
    axis.set_xlabel("normalised score τ")
    axis.set_ylabel("share of runs with score > τ")
    axis.set_ylim(0, 1.02)
    axis.set_xlim(thresholds[0], thresholds[-1])
    _legend(figure, [axis], study.methods)
    caption = (
        "Performance profiles: the share of (seed, dataset) pairs that score above τ, with pointwise 95 % stratified bootstrap "
        "bands (no band: one seed). Higher is better everywhere."
    )
    return _picture(*_of_action("performance_profiles", caption, scores), figure)


# --- weights ---------------------------------------------------------------------------------------------------------

# Panel title → the columns of metrics.csv drawn solid and dashed.
_DIAGNOSTICS = {
    "log-likelihood of kept [nats/step]\n(dashed: of held-out) trajectories": ("log_prob_kept", "log_prob_held_out"),
    "temperature κ of the weights\n(where it sets itself)": ("kappa", None),
    "effective sample size\n(dashed: clipped share)": ("ess_share", "clipped_share"),
    "median weight\n(band: smallest to largest)": ("weight_median", None),
    "drift from the reference [nats/step]\nkept (dashed: dropped) trajectories": ("drift_kept", "drift_dropped"),
    "lower bound at the reference\n(dashed: at the proposal)": ("reference_bound", "proposal_bound"),
}


def weight_diagnostics(study: Study) -> list[Picture]:
    """Draw what importance weights and likelihoods did during training, a figure per dataset that has any of it."""
    from matplotlib.figure import Figure

    looks, pictures = _looks(study.methods), []
    for task in study.tasks:
        metrics = {method: mean_metrics(study.runs.get((task, method), [])) for method in study.methods}
        panels = {
            title: columns
            for title, columns in _DIAGNOSTICS.items()
            if any(column in measured for measured in metrics.values() for column in columns)
        }
        if not panels:
            continue
        figure = Figure(figsize=(_WIDTH * len(panels) / 4 + 0.5, 3.2), layout="constrained")
        axes = list(figure.subplots(1, len(panels), squeeze=False).flat)
        for axis, (title, columns) in zip(axes, panels.items(), strict=True):
            for method, measured in metrics.items():
                _diagnostic(axis, method, measured, columns, looks[method]["color"])
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("gradient steps")
        figure.suptitle(task, fontsize=11)
        _legend(figure, axes, study.methods)
        caption = (
            f"Weights during training on {task}: mean over seeds. Effective sample size relative to that of equal "
            "weights; drift is ℓ(π) − ℓ(π_ref); only methods that have such weights or such a reference are shown."
        )
        pictures.append(_picture(f"weights-{_slug(task)}", caption, figure))
    return pictures


def _diagnostic(axis: Axes, method: str, metrics: Mapping[str, Array], columns: tuple[str, str | None], colour: str) -> None:
    for column, dash in zip(columns, ("-", "--"), strict=True):
        if column is not None and column in metrics:
            axis.plot(metrics["step"], metrics[column], color=colour, linestyle=dash, label=method if dash == "-" else None)
    if columns[0] == "weight_median" and "weight_median" in metrics:
        axis.set_yscale("log")
        if {"weight_min", "weight_max"} <= set(metrics):
            low, high = (np.where(metrics[name] > 0, metrics[name], np.nan) for name in ("weight_min", "weight_max"))
            axis.fill_between(metrics["step"], low, high, color=colour, alpha=0.12, linewidth=0)


def mean_metrics(runs: Sequence[Run]) -> dict[str, Array]:
    """Average the columns of the runs' metrics.csv at each logged step over seeds and runs; only what all of them have."""
    tables = [table for run in runs if (table := of_seeds(read_metrics(run.folder), run.seeds))]
    if not tables:
        return {}
    names = set.intersection(*map(set, tables)) - {"step", "seed"}
    steps, row = np.unique(np.concatenate([table["step"] for table in tables]), return_inverse=True)
    counts = np.bincount(row)
    means = {name: np.bincount(row, np.concatenate([table[name] for table in tables])) / counts for name in names}
    return {"step": steps, **{name: mean for name, mean in means.items() if np.isfinite(mean).any()}}


def trajectory_weights(study: Study) -> list[Picture]:
    """Draw the weights that runs ended with, how many trajectories have each and over their returns, a figure per dataset."""
    from matplotlib.figure import Figure

    looks, pictures = _looks(study.methods), []
    for task in study.tasks:
        weights = {method: _final_weights(study.runs.get((task, method), [])) for method in study.methods}
        weights = {method: columns for method, columns in weights.items() if columns}
        if not weights:
            continue
        figure = Figure(figsize=(_WIDTH * 0.75, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        every = np.concatenate([columns["weight"] for columns in weights.values()])
        edges = np.geomspace(every.min(), every.max() * (1 + 1e-9), 41)
        for method, columns in weights.items():
            colour = looks[method]["color"]
            left.stairs(np.histogram(columns["weight"], edges)[0], edges, color=colour, label=method)
            right.plot(columns["return"], columns["weight"], ".", color=colour, markersize=3, alpha=0.5, rasterized=True)
        left.set(xscale="log", xlabel="weight of a trajectory", ylabel="trajectories, all seeds")
        right.set(yscale="log", xlabel="return", ylabel="weight of a trajectory")
        figure.suptitle(task, fontsize=11)
        _legend(figure, [left], study.methods)
        caption = (
            f"Weights of the kept trajectories on {task} at the end of training, of all seeds: curation weight times "
            "importance weight, relative to their mean in a run and seed. Methods that weigh all alike are not shown."
        )
        pictures.append(_picture(f"trajectory_weights-{_slug(task)}", caption, figure))
    return pictures


def _final_weights(runs: Sequence[Run]) -> dict[str, Array]:
    """Return and relative weight of every kept trajectory with a weight above 0; empty where all weights are the same."""
    returns, weights = [], []
    for run in runs:
        columns = read_weights(run.folder)
        for seed in np.unique(columns.get("seed", np.zeros(0))):
            rows = columns["seed"] == seed
            weight = columns["curation"][rows] * columns["weight"][rows]
            returns.append(columns["return"][rows])
            weights.append(weight / weight.mean())
    if not weights:
        return {}
    weight = np.concatenate(weights)
    if np.ptp(weight) < 1e-6 or not (weight > 0).any():
        return {}
    return {"return": np.concatenate(returns)[weight > 0], "weight": weight[weight > 0]}


def seed_results(study: Study) -> Picture | None:
    """Draw every seed's result as a dot, a panel per dataset; None where no method has two seeds."""
    if not any(len(results) > 1 for results in study.cells.values()):
        return None
    tasks = [task for task in study.tasks if any(place[0] == task for place in study.cells)]
    methods = [method for method in study.methods if any(place[1] == method for place in study.cells)]
    looks = _looks(study.methods)
    figure, axes = _panels(len(tasks), height=0.26 * len(methods) + 1.0)
    for axis, task in zip(axes, tasks, strict=True):
        scored = study.tasks[task].normalisation is not None
        for row, method in enumerate(methods):
            results = study.cells.get((task, method), [])
            # The score, which is the success rate where there are no reference returns, or else the return.
            values = [result.mean_score if np.isfinite(result.mean_score) else result.mean_return for result in results]
            axis.plot(values, [row] * len(values), "o", color=looks[method]["color"], markersize=4, alpha=0.7)
            if values:
                axis.plot(np.mean(values), row, "|", color=looks[method]["color"], markersize=14, markeredgewidth=2)
        axis.set_yticks(range(len(methods)), methods, fontsize=8)
        axis.set_ylim(len(methods) - 0.5, -0.5)
        axis.set_title(_title(task), fontsize=9)
        success = not scored and any(np.isfinite(r.mean_score) for m in methods for r in study.cells.get((task, m), []))
        axis.set_xlabel("score" if scored else "success %" if success else "return")
    caption = "Every seed's final result, a dot each, the mean of its episodes; the bar is the mean over seeds."
    return _picture("seeds", caption, figure)


# --- curation --------------------------------------------------------------------------------------------------------


def curated_returns(study: Study) -> Picture | None:
    """Histogram of each dataset's returns, and of those that the curations keep; None where no run tells."""
    drawn = {task: of_curations for task in study.tasks if (of_curations := histograms(study, task))}
    if not drawn:
        return None
    figure, axes = _panels(len(drawn))
    colours = [look["color"] for look in _looks([str(i) for i in range(10)]).values()]
    for axis, (task, of_curations) in zip(axes, drawn.items(), strict=True):
        edges, everything, _ = next(iter(of_curations.values()))
        axis.stairs(everything, edges, fill=True, color="0.8", label=f"all: {everything.sum():,.0f}")
        for (curation, (kept_edges, _, kept)), colour in zip(of_curations.items(), colours, strict=False):
            if not np.array_equal(kept, everything):
                axis.stairs(kept, kept_edges, color=colour, linewidth=1.4, label=f"{curation}: {kept.sum():,.0f}")
        axis.set_yscale("log")
        axis.set_ylim(0.7, 8 * everything.max())  # room for the legend
        axis.set_title(_title(task))
        axis.set_xlabel("return")
        axis.set_ylabel("trajectories")
        axis.legend(loc="upper left", fontsize=8)
    caption = (
        "Returns of the datasets' trajectories (grey), and of those that each curation keeps. Logarithmic counts. Curations "
        "that keep the same trajectories share a line; one that keeps all is not drawn."
    )
    return _picture("curated_returns", caption, figure)


def histograms(study: Study, task: str) -> dict[str, tuple[Array, Array, Array]]:
    """Return bin edges, counts of all and of kept trajectories, by the names of the curations that give them, and by their
    methods where curations of one name keep others."""
    names: dict[bytes, dict[str, None]] = {}
    methods: dict[bytes, dict[str, None]] = {}
    values: dict[bytes, tuple[Array, Array, Array]] = {}
    for method in study.methods:
        for run in study.runs.get((task, method), []):
            if columns := read_curation(run.folder):
                edges = np.append(columns["return_low"], columns["return_high"][-1])
                value = edges, columns["trajectories"], columns["kept"]
                key = b"".join(array.tobytes() for array in value)
                values[key] = value
                names.setdefault(key, {})[run.summary.curation.replace("_", " ")] = None
                methods.setdefault(key, {})[method] = None
    labels = {key: ", ".join(names[key]) for key in values}
    alike = {label for label, count in Counter(labels.values()).items() if count > 1}
    return {
        f"{label} ({', '.join(methods[key])})" if (label := labels[key]) in alike else label: value
        for key, value in values.items()
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
