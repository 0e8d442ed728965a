"""Settings by themselves: every field with values at and beyond its edges, and settings that would change nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from _pytest.mark import ParameterSet
from setups import train

from iwbc import settings
from iwbc.errors import UserError
from iwbc.settings import IWBC, Eval, Settings

KINDS: list[type[Settings]] = [
    *settings.DATASETS.values(),
    *settings.CURATIONS.values(),
    *settings.ALGORITHMS.values(),
    *settings.POLICIES.values(),
    *(settings.Reference, settings.OwnPolicy, settings.Env, settings.Eval, settings.Logger, settings.Config),
]
FIELDS = [(kind, field.name) for kind in KINDS for field in fields(kind)]
EDGES = [
    *(0, -1, 1, 0.0, -1.0, 0.5, math.nan, math.inf, -math.inf, 10**30, 1e308, True, None),
    *("", "x", "1", b"x", [], [0], [-1], [math.nan], [math.inf], ["x"], [[1]], [None], (), {}, {"a": 1}, {1}),
    *(np.float32(0.5), np.int64(3), np.nan, np.array(1.0), np.zeros(0), np.zeros(3), object(), 1j, int, settings.All()),
]


def valid(kind: type[Settings]) -> dict[str, Any]:
    """Values for the fields that must be given."""
    usual = {"id": "some/data-v0", "path": "some.file", "minimum": 1.0, "target": "package.module.Name"}
    also: dict[type[Settings], dict[str, Any]] = {  # required, though they have defaults
        settings.OwnPolicy: {"target": usual["target"]},
        settings.Groups: {"keep": ["better"]},
        settings.LeRobot: {"path": usual["path"]},
    }
    missing = {entry.name for entry in fields(kind) if entry.default is MISSING}
    return {name: value for name, value in usual.items() if name in missing} | also.get(kind, {})


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_every_value_is_valid_or_refused_in_one_line_that_names_the_key(kind: type[Settings], name: str) -> None:
    kind(**valid(kind)).check("group")
    for value in EDGES:
        try:
            kind(**valid(kind) | {name: value}).check("group")
        except UserError as error:
            assert "\n" not in str(error)
            assert str(error).startswith(("group.", "group: ", *(f"{entry.name}." for entry in fields(kind))))


def numbers() -> Iterator[ParameterSet]:
    """Give each number of a saved run, in every choice of a group, each of some values."""
    base = settings.Config(dataset=settings.Minari("some/data-v0"), curation=settings.All(), device="cuda:99")
    parts: list[tuple[str, Settings]] = [("", base), *((name, getattr(base, name)) for name in ("eval", "reference", "env"))]
    for group in ("algo", "policy", "dataset", "curation"):
        kinds = {"algo": settings.ALGORITHMS, "policy": settings.POLICIES, "dataset": settings.DATASETS}
        parts += [(group, kind(**valid(kind))) for kind in kinds.get(group, settings.CURATIONS).values()]
    names = [
        (group, part, entry.name) for group, part in parts for entry in fields(part) if re.search("int|float", str(entry.type))
    ]
    values = (0, -1, math.nan, math.inf, 10**23, "word", [1], {"a": 1}, True)
    for i, (row, value) in enumerate((row, value) for row in names for value in values):
        marks = [pytest.mark.robustness, *([pytest.mark.long] if i % 50 else [])]
        yield pytest.param(base, *row, value, marks=marks, id=f"{type(row[1]).__name__}.{row[2]}={value}")


@pytest.mark.parametrize(("base", "group", "part", "name", "value"), list(numbers()))
def test_a_number_of_a_saved_run_is_valid_or_refused_in_one_line(
    base: settings.Config, group: str, part: Settings, name: str, value: Any, tmp_path: Path
) -> None:
    plain = settings.to_plain(replace(base, **{group: part}) if group else base)
    (plain[group] if group else plain)[name] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    written = path.read_bytes()
    outcome = train(f"resume={tmp_path}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), outcome
    # What may be is stopped by the device, which comes after all checks of settings.
    words = (f"{group}.{name}" if group else name, f"{name}=", "not all settings are there", "cuda:99")
    assert any(word in outcome.err for word in words), outcome.err
    assert ([file.name for file in tmp_path.iterdir()], path.read_bytes()) == (["config.yaml"], written)


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        # Whole numbers, numbers, flags, texts and lists, in place of one another.
        (settings.BC, "steps", [10.0, "10", True, None, [10], math.nan, np.float64(10.0), np.bool_(True)]),
        (settings.BC, "lr", ["fast", True, None, [0.1], math.nan, math.inf, 0, -1, 1j]),
        (settings.BC, "schedule", [None, 1, ["cosine"], "linear"]),
        (settings.IWBC, "kappa", [True, None, [1.0], math.nan, math.inf, -1, "automatic"]),
        (settings.IWBC, "maximum", ["2", True, math.nan, 0, -1]),
        (settings.IWBC, "self_normalise", [0, 1, None, "true"]),
        (settings.QualityLevels, "percentiles", [[], 90.0, [None], ["90"], [math.nan], [101], [-1]]),
        (settings.TopFraction, "fraction", [0, -0.1, 1.1, math.nan, math.inf, "0.1", None, True]),
        (settings.TopFraction, "rank_by", ["reward", None, 1, ["length"]]),
        (settings.TopFraction, "discount", [0, 1.1, math.nan, 0.9]),
        (settings.Threshold, "minimum", [math.nan, math.inf, None, "1"]),
        (settings.Threshold, "rank_by", ["length", "smoothness"]),
        (settings.Groups, "keep", [[], ["a", "a"], [1], "a", None]),
        (settings.Groups, "drop", [["better"], ["a", "a"], "a"]),
        (settings.Groups, "weights", [[0], [-1], [math.inf], [math.nan], [1, 2], ["1"], 1]),
        (settings.TrajectoryScores, "fraction", [0, -0.1, 1.1, math.nan, "0.1", True]),
        (settings.TrajectoryScores, "sha256", ["abc", 1]),
        (settings.GaussianPolicy, "hidden", [[0], [-1], 64, ["64"], [64.0], [None], "64", None]),
        (settings.GaussianPolicy, "log_std_min", [math.nan, 2.0, "low", None]),
        (settings.Eval, "episodes", [-1, 1.5, "3", math.nan, None, 10**9, True]),
        (settings.Eval, "periodic_episodes", [-1, 1.5, "3", math.nan, None, 10**9]),
        (settings.Eval, "every", [-1, 0.5, "3", None]),
        (settings.Eval, "seed", [-1, 0.5, None]),
        (settings.Eval, "action", ["best", None, 1, ["mean"]]),
        (settings.Eval, "reference", [1, "no", None]),
        (settings.Env, "kwargs", [[1], "a=1", 3]),
        (settings.Env, "imports", ["module", [1], None]),
        (settings.Minari, "observation_keys", ["position", [0], None]),
        (settings.Config, "seeds", [[], [-1], [0, 0], [0.5], 3, "0"]),
        (settings.Config, "eval", [None, {}, settings.Env()]),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", None),
)
def test_values_that_are_not_allowed_are_refused(kind: type[Settings], name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UserError, match=name):
            kind(**valid(kind) | {name: value}).check("group")


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (settings.BC, "steps", [1, np.int64(3)]),
        (settings.BC, "lr", [1, 1e-9, np.float32(0.1)]),
        (settings.IWBC, "kappa", [0, 2, 0.5, np.float32(1)]),
        (settings.IWBC, "maximum", [None, 5, math.inf]),
        (settings.Groups, "drop", [[], ["worse"], ("worse", "bad")]),
        (settings.Groups, "weights", [[], [2], (0.5,)]),
        (settings.TrajectoryScores, "fraction", [None, 0.5, 1]),
        (settings.GaussianPolicy, "hidden", [[], [64], (64, 64)]),
        (settings.Eval, "episodes", [0, 1, 1_000_000]),
        (settings.Eval, "periodic_episodes", [0, 1]),
        (settings.Env, "kwargs", [None, {}, {"a": [1]}]),
        (settings.Config, "seeds", [None, [0], (3, 1)]),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", None),
)
def test_allowed_values_pass(kind: type[Settings], name: str, values: list[Any]) -> None:
    for value in values:
        kind(**valid(kind) | {name: value}).check("group")


# --- settings that would change nothing ----------------------------------------------------------------------------------

# Of iw_bc: what each setting may be set to, and beside what it says something.
OTHERS = {
    "kappa": 2.0,
    "ess_share": 0.25,
    "window": 3,
    "decay": 0.5,
    "minimum": 0.1,
    "maximum": 7.0,
    "self_normalise": False,
    "refresh_every": 7,
    "ess_floor": 0.5,
    "lr": 1.0,
    "schedule": "constant",
    "warmup_steps": 7,
}
ALWAYS = {"kappa", "decay", "refresh_every", "minimum", "maximum"}
ALWAYS |= {"self_normalise", "ess_floor", "lr", "schedule", "warmup_steps"}
USED: dict[str, set[str]] = {
    "level=trajectory": set(),
    "level=trajectory kappa=auto": {"ess_share"},
    "level=window": {"window"},
}


@pytest.mark.parametrize("beside", USED)
@pytest.mark.parametrize("name", OTHERS)
def test_a_setting_of_iw_bc_that_would_change_nothing_is_refused(beside: str, name: str) -> None:
    chosen: dict[str, Any] = dict(part.split("=") for part in beside.split())
    chosen[name] = OTHERS[name]
    if name in USED[beside] | ALWAYS:
        IWBC(**chosen).check("algo")
    else:
        with pytest.raises(UserError, match=rf"^algo\.{name}=.*: would change nothing; it needs "):
            IWBC(**chosen).check("algo")


def test_a_default_that_would_change_nothing_is_not() -> None:
    for beside in USED:
        IWBC(**dict(part.split("=") for part in beside.split())).check("algo")  # type: ignore[arg-type]


def test_no_periodic_evaluation_is_said_by_either_setting_or_both() -> None:
    for choice in (Eval(periodic_episodes=0), Eval(every=0), Eval(every=0, periodic_episodes=0)):
        choice.check("eval")
        assert choice.period == 0
    assert Eval(every=7).period == 7


def test_passes_come_every_500_steps_or_a_quarter_of_the_training() -> None:
    assert [IWBC(steps=steps).pass_every for steps in (1, 3, 40, 2000, 50_000)] == [1, 1, 10, 500, 500]
    assert IWBC(steps=2000, refresh_every=7).pass_every == 7
    IWBC(steps=40).check("algo")
    with pytest.raises(UserError, match=r"algo.refresh_every=40: must be below steps=40, or all weights stay 1"):
        IWBC(steps=40, refresh_every=40).check("algo")
