"""Importance-weighted behaviour cloning: offline RL by supervised learning on curated data.

data = iwbc.load("mujoco/hopper/medium-v0")
kept = iwbc.curate(data, iwbc.QualityLevels([90, 95, 98]))
ref = iwbc.fit(iwbc.BC(steps=10_000), data)
pi = iwbc.fit(iwbc.IWBC(), kept, reference=ref)
print(iwbc.evaluate(pi, "Hopper-v5", episodes=100).score)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

# The names of `import iwbc`, by module; __init__.pyi says the same to type checkers.
_PLACES = {
    "iwbc.api": ("demonstrations", "evaluate", "generate", "load"),
    "iwbc.data.curation": ("curate",),
    "iwbc.data.arrays": ("from_arrays",),
    "iwbc.data.curated": ("Curated",),
    "iwbc.data.trajectories": ("Trajectories",),
    "iwbc.errors": ("UserError",),
    "iwbc.evaluation": ("Evaluation",),
    "iwbc.training.fit": ("fit",),
    "iwbc.training.trials": ("choose_curation",),
    "iwbc.policies": ("CouplingFlow", "GaussianMLP", "GaussianMixture", "Policy", "SequenceMixture"),
    "iwbc.settings": (
        *("AWR", "BC", "IQL", "IWBC", "RWR", "All", "Auto", "FilteredBC", "FlowPolicy", "GaussianPolicy", "Groups"),
        *(
            "LSTMPolicy",
            "MixturePolicy",
            "QualityLevels",
            "ReturnWeighted",
            "Success",
            "Threshold",
            "TopFraction",
            "TrajectoryScores",
            "TrajectoryWeights",
            "TransformerPolicy",
        ),
    ),
    "iwbc.training.trained": ("Policies", "load_policy"),
}
_PLACE = {name: module for module, names in _PLACES.items() for name in names}

__all__ = sorted(_PLACE)


def __getattr__(name: str) -> Any:
    # Imported on demand: commands import this package and must not wait for PyTorch to say --help.
    if name not in _PLACE:
        raise AttributeError(f"module 'iwbc' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACE])


class _Package(ModuleType):
    """A package whose functions stay in sight where a submodule has the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        # Importing iwbc.evaluate binds that module to its name in the package, and would hide the function.
        if name not in _PLACE or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
