"""Rows of the tables that a run grows: evaluations.csv and metrics.csv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EpisodeRow:
    """One episode, of a row of evaluations.csv; no score without reference returns, no success where none is reported."""

    phase: str
    step: int
    seed: int
    episode: int
    action: str
    total: float
    length: int
    score: float | None
    success: bool | None

    def to_plain(self) -> dict[str, Any]:
        """Return the values of the row by column."""
        return {
            "phase": self.phase,
            "step": self.step,
            "seed": self.seed,
            "episode": self.episode,
            "action": self.action,
            "return": self.total,
            "length": self.length,
            "score": "" if self.score is None else self.score,
            "success": "" if self.success is None else int(self.success),
        }

    @staticmethod
    def of_plain(row: Mapping[str, str]) -> EpisodeRow:
        """Make an episode of the texts of a row. Raises an error of MALFORMED where they are none."""
        return EpisodeRow(
            row["phase"],
            int(row["step"]),
            int(row["seed"]),
            int(row["episode"]),
            row["action"],
            float(row["return"]),
            int(row["length"]),
            float(row["score"]) if row.get("score") else None,
            bool(int(row["success"])) if row.get("success") else None,
        )


@dataclass(frozen=True)
class MetricRow:
    """Metrics of one seed at a gradient step, a row of metrics.csv; NaN where there is no number."""

    step: int
    seed: int
    values: dict[str, float]

    def to_plain(self) -> dict[str, Any]:
        """Return the values of the row by column."""
        return {"step": self.step, "seed": self.seed, **self.values}

    @staticmethod
    def of_plain(row: Mapping[str, str]) -> MetricRow:
        """Make metrics of the texts of a row. Raises an error of MALFORMED where they are none."""
        values = {name: float(text or "nan") for name, text in row.items() if name not in ("step", "seed")}
        return MetricRow(int(row["step"]), int(row["seed"]), values)
