"""Algorithms. Each holds its state and an `update` that reads like its equation; `register` adds a custom one."""

from __future__ import annotations

from typing import Any

from iwbc.algorithms.algorithm import Algorithm, Ingredients
from iwbc.algorithms.awr import AdvantageWeightedRegression
from iwbc.algorithms.bc import BehaviourCloning
from iwbc.algorithms.iql import ImplicitQLearning
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.errors import UserError
from iwbc.settings import ALGORITHMS, AWR, BC, IQL, IWBC, RWR, FilteredBC, Recipe, Reference

CLASSES: dict[type[Recipe], Any] = {
    BC: BehaviourCloning,
    FilteredBC: BehaviourCloning,
    RWR: BehaviourCloning,
    Reference: BehaviourCloning,
    IWBC: ImportanceWeightedBC,
    AWR: AdvantageWeightedRegression,
    IQL: ImplicitQLearning,
}
_METHODS = [name for name in vars(Algorithm) if not name.startswith("_")]


def register(settings_class: type[Recipe], algorithm_class: type[Algorithm]) -> None:
    """Let `fit` and `algo=NAME` train by a custom algorithm, where NAME is the default of its settings' `name`.

    settings_class: a dataclass of Recipe's with `name` and `label`. algorithm_class: made as Name(settings, ingredients).
    Raises UserError where one of them lacks something, or another algorithm has the name or the label.
    """
    said = f"{settings_class.__name__}: cannot be registered"
    if not (issubclass(settings_class, Recipe) and "__dataclass_fields__" in vars(settings_class)):
        raise UserError(f"{said}; settings are a @dataclass that inherits from iwbc.settings.Recipe")
    name, label = getattr(settings_class, "name", ""), settings_class.label
    if not (isinstance(name, str) and name.isidentifier() and label):
        raise UserError(f"{said}; settings need a name, such as trimmed_bc, and a label for tables")
    for other in (*ALGORITHMS.values(), Reference):
        if other.name == name or other.label == label:  # type: ignore[attr-defined]
            raise UserError(f"{said}; {other.__name__} has the name {name} or the label {label} already")
    if missing := [method for method in _METHODS if not callable(getattr(algorithm_class, method, None))]:
        raise UserError(f"{said}; {algorithm_class.__name__} has no method {', '.join(missing)}")
    ALGORITHMS[name], CLASSES[settings_class] = settings_class, algorithm_class


def make_algorithm(settings: Recipe, ingredients: Ingredients) -> Algorithm:
    """Make the algorithm of these settings. Raises UserError where none is registered, or a custom one lacks an attribute."""
    kind = CLASSES.get(type(settings))
    if kind is None:
        raise UserError(f"{type(settings).__name__}: no algorithm has these settings; iwbc.algorithms.register adds one")
    algorithm: Algorithm = kind(settings, ingredients)
    if missing := [name for name in Algorithm.__annotations__ if not hasattr(algorithm, name)]:
        raise UserError(f"{kind.__name__}: has no attribute {', '.join(missing)}")
    return algorithm
