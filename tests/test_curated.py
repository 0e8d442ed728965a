"""Custom weights for a dataset's trajectories."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_trajectories

import iwbc
from iwbc.errors import UserError

DATA = make_trajectories([1.0, 2.0, 3.0], [2, 1, 3])


@pytest.mark.parametrize(
    "weights",
    [
        [1, 0, 2],
        (1.0, 0.0, 2.0),
        *(np.array([1, 0, 2], kind) for kind in ("i8", "i1", "u8", "f2", "f4", "f8", ">f4", "longdouble")),
        *(torch.tensor([1, 0, 2]).to(kind) for kind in (torch.int64, torch.float16, torch.bfloat16, torch.float64)),
        torch.tensor([1.0, 0.0, 2.0], requires_grad=True),
    ],
    ids=lambda weights: f"{type(weights).__name__} {getattr(weights, 'dtype', '')}",
)
@pytest.mark.parametrize("averaging", ["trajectory", "transition"])
def test_any_numbers_are_weights(weights: Any, averaging: str) -> None:
    curated = iwbc.Curated(DATA, weights, averaging)
    assert (curated.curation_weights.dtype, curated.curation_weights.tolist()) == (np.float64, [1.0, 0.0, 2.0])
    assert (curated.kept.tolist(), curated.steps) == ([0, 2], 5)


def test_flags_choose_trajectories() -> None:
    assert iwbc.Curated(DATA, [True, False, True], "trajectory").kept.tolist() == [0, 2]
    assert iwbc.Curated(DATA, DATA.returns > 1.5, "trajectory").kept.tolist() == [1, 2]
    assert iwbc.Curated(DATA, torch.tensor([False, True, False]), "trajectory").kept.tolist() == [1]


def test_weights_that_are_changed_afterwards_change_nothing() -> None:
    weights = np.ones(3)
    curated = iwbc.Curated(DATA, weights, "trajectory")
    weights[0] = math.nan
    assert curated.curation_weights.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(2), r"have shape \(2,\), but there are 3 trajectories"),
        (np.ones((3, 1)), r"have shape \(3, 1\)"),
        (np.ones((1, 3)), r"have shape \(1, 3\)"),
        (1.0, r"have shape \(\)"),
        ([], r"have shape \(0,\)"),
        (torch.ones(4), r"have shape \(4,\)"),
        (None, "must be numbers, not object"),
        ("abc", "must be numbers, not <U3"),
        (["1", "2", "3"], "must be numbers, not <U1"),
        ([1, None, 2], "must be numbers, not object"),
        ([1 + 0j, 1, 1], "must be numbers, not complex128"),
        (torch.ones(3, dtype=torch.complex64), "must be numbers, not complex"),
        ([[1], [1, 2], [3]], "need one number for each trajectory"),
        ({0: 1.0}, "must be numbers, not object"),
        ([1.0, -1.0, 2.0], "must be finite and not negative, but trajectory 1 has -1"),
        ([1, -1, 2], "trajectory 1 has -1"),
        ([1.0, 2.0, math.nan], "trajectory 2 has nan"),
        ([math.inf, 1.0, 1.0], "trajectory 0 has inf"),
        (np.array([1, 2, math.inf], np.float16), "trajectory 2 has inf"),
        ([math.nan, 1.0, -math.inf], "trajectory 0 has nan, trajectory 2 has -inf"),
        (np.zeros(3), "all 3 are 0, which keeps no trajectory"),
        ([False, False, False], "all 3 are 0"),
        ([1e308, 1e308, 1e308], "their sum is not finite; divide them by the largest, 1e[+]308, of trajectory 0"),
    ],
)
@pytest.mark.parametrize("averaging", ["trajectory", "transition"])
def test_invalid_weights_are_refused_in_one_line(weights: Any, message: str, averaging: str) -> None:
    with pytest.raises(UserError, match=f"^dataset toy/data-v0, curation weights: .*{message}") as caught:
        iwbc.Curated(DATA, weights, averaging)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("averaging", ["mean", "", None, 1, "Trajectory"])
def test_another_averaging_is_refused(averaging: Any) -> None:
    with pytest.raises(UserError, match="must be one of trajectory, transition"):
        iwbc.Curated(DATA, np.ones(3), averaging)
    with pytest.raises(UserError, match="must be one of trajectory, transition"):
        iwbc.curate(DATA, iwbc.All(), averaging)


@pytest.mark.parametrize("data", [None, "toy/data-v0", np.zeros((3, 2)), [DATA]])
def test_only_trajectories_can_be_weighted(data: Any) -> None:
    with pytest.raises(UserError, match="needs trajectories, as load and from_arrays return them, not "):
        iwbc.Curated(data, np.ones(3), "trajectory")
