"""Small charts as SVG inside a page: lines, points and bars, in the page's own colours. They need nothing but numpy."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 18, 8, 40
_MOST_POINTS = 2000

Array = npt.NDArray[np.floating]


@dataclass
class Chart:
    """Marks of a chart: each with its class in the page's style (s0, s1, … are the colours of series)."""

    title: str
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    legend: list[tuple[str, str]] = field(default_factory=list)
    _marks: list[tuple[str, str, Array, Array]] = field(default_factory=list)

    def line(self, x: Array, y: Array, style: str, name: str | None = None) -> None:
        """Draw a line through the points with finite values; `name` puts it into the legend."""
        self._add("line", x, y, style, name)

    def points(self, x: Array, y: Array, style: str, name: str | None = None) -> None:
        """Draw a dot at each of the points, or of every so many where there are very many."""
        every = max(1, -(-len(x) // _MOST_POINTS))
        self._add("points", x[::every], y[::every], style, name)

    def bars(self, edges: Array, counts: Array, style: str, name: str | None = None) -> None:
        """Draw a histogram: counts [n] between edges [n + 1]."""
        self._add("bars", edges, np.append(counts, np.nan), style, name)

    def _add(self, kind: str, x: Array, y: Array, style: str, name: str | None) -> None:
        self._marks.append((kind, style, np.asarray(x, np.float64), np.asarray(y, np.float64)))
        if name is not None:
            self.legend.append((style, name))

    def svg(self) -> str:
        """Return the drawing, or nothing where no mark has a finite value."""
        finite = [(x[ok], y[ok]) for _, _, x, y in self._marks if (ok := np.isfinite(x) & np.isfinite(y)).any()]
        if not finite:
            return ""
        xs = np.concatenate([x for kind, _, x, _ in self._marks if kind == "bars"] + [x for x, _ in finite])
        ys = np.concatenate([y for _, y in finite])
        if any(kind == "bars" for kind, *_ in self._marks):
            ys = np.append(ys, 0.8 if self.log_y else 0.0)
        across, up = Axis.over(xs, self.log_x, _LEFT, _WIDTH - _RIGHT), Axis.over(ys, self.log_y, _HEIGHT - _BOTTOM, _TOP)
        parts = [
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
            for y, text in up.ticks()
        ]
        parts += [
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{text}</text>' for x, text in across.ticks()
        ]
        parts += [self._drawn(kind, style, across, up, x, y) for kind, style, x, y in self._marks]
        parts.append(
            f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(self.x)}</text>'
        )
        label = html.escape(f"{self.title}: {self.y} over {self.x}")
        return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'

    def _drawn(self, kind: str, style: str, across: Axis, up: Axis, x: Array, y: Array) -> str:
        places, heights = across.place(x), up.place(y)
        ok = np.isfinite(places) & np.isfinite(heights)
        if kind == "bars":
            floor = _HEIGHT - _BOTTOM
            return "".join(
                f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" '
                f'width="{max(right - left, 0.5):.1f}" height="{floor - top:.1f}"/>'
                for left, right, top, shown in zip(places[:-1], places[1:], heights, ok[:-1], strict=False)
                if shown and top < floor
            )
        pairs = list(zip(places[ok].tolist(), heights[ok].tolist(), strict=True))
        if kind == "points":
            return "".join(f'<circle class="{style}" cx="{a:.1f}" cy="{b:.1f}" r="2"/>' for a, b in pairs)
        return f'<polyline class="{style}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in pairs)}"/>'


@dataclass(frozen=True)
class Axis:
    """Values low … high (their logarithms) drawn from place `first` to place `last`."""

    low: float
    high: float
    log: bool
    first: float
    last: float

    @staticmethod
    def over(values: Array, log: bool, first: float, last: float) -> Axis:
        """Make an axis over the finite values, with a little room where they are all one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            used = np.log10(values) if log else values
        used = used[np.isfinite(used)]
        low, high = (float(used.min()), float(used.max())) if len(used) else (0.0, 1.0)
        if high <= low:
            room = 0.5 if log else abs(low) * 0.1 or 1.0
            low, high = low - room, high + room
        return Axis(low, high, log, first, last)

    def place(self, values: Array) -> Array:
        """Place values; NaN where a logarithm has none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            used = np.log10(values) if self.log else values
        places: Array = self.first + (used - self.low) / (self.high - self.low) * (self.last - self.first)
        return np.where(np.isfinite(used), places, np.nan)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and texts of three to six round values."""
        span = self.high - self.low
        if self.log and span > 1.5:
            step = max(1, math.ceil(span / 5))
            values = [10.0**i for i in range(math.ceil(self.low), math.floor(self.high) + 1, step)]
        else:
            low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
            unit = 10 ** math.floor(math.log10((high - low) / 4))
            step_size = next(unit * m for m in (1, 2, 2.5, 5, 10) if (high - low) / (unit * m) <= 5)
            values = [step_size * i for i in range(math.ceil(low / step_size), math.floor(high / step_size) + 1)]
        places = self.place(np.array(values, np.float64))
        return [(float(place), _number(value)) for place, value in zip(places, values, strict=True)]


def _number(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size and (size > 1e3 or abs(value) >= 1e4):
            return f"{value / size:.4g}{letter}"
    return f"{0.0 if abs(value) < 1e-12 else value:.4g}"


def figures(charts: Sequence[Chart]) -> list[tuple[Chart, str]]:
    """Return the charts that have something to show, with their drawings."""
    return [(chart, drawing) for chart in charts if (drawing := chart.svg())]
