"""The algorithms. Each holds its state and an `update` that reads like its equation.

A new one is a class like these in a file of its own, settings for it in iwbc/settings.py, a line in `CLASSES` and a file in
conf/algo/.
"""

from __future__ import annotations

from typing import Any

from iwbc.algorithms.algorithm import Algorithm, Ingredients
from iwbc.algorithms.awr import AdvantageWeightedRegression
from iwbc.algorithms.bc import BehaviourCloning
from iwbc.algorithms.iw_bc import ImportanceWeightedBC
from iwbc.settings import AWR, BC, IWBC, RWR, FilteredBC, Recipe, Reference

CLASSES: dict[type[Recipe], Any] = {
    BC: BehaviourCloning,
    FilteredBC: BehaviourCloning,
    RWR: BehaviourCloning,
    Reference: BehaviourCloning,
    IWBC: ImportanceWeightedBC,
    AWR: AdvantageWeightedRegression,
}


def make_algorithm(settings: Recipe, given: Ingredients) -> Algorithm:
    """The algorithm that these settings are of."""
    made: Algorithm = CLASSES[type(settings)](settings, given)
    return made
