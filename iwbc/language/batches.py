"""Minibatches of rows: which rows can be weighed, how they are drawn, and their numbers beside what is collated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler

from iwbc.errors import UserError, warn

# The share of rows that may be longer than the model takes before that is an error.
_TOO_LONG = 0.01
# A row's number in the training set, under a name that no data has.
ROW = "iwbc_row"
# Of tokenised rows: what they say of each token, 1 where it is to be trained on.
_MASKS = ("completion_mask", "assistant_masks")


def weighable(dataset: Dataset, assistant_only: bool, text_field: str) -> Dataset:
    """Drop rows whose curation weight is 0, and columns that TRL would read in place of prompt and completion; make labels of a
    completion_mask. Raises UserError for rows whose completion is not told from the prompt."""
    columns = dataset.column_names
    told = {"prompt", "completion"} <= set(columns) or "labels" in columns or "completion_mask" in columns
    if not told and not ("messages" in columns and assistant_only):
        raise UserError(
            "train_dataset: needs the columns prompt and completion, or messages and assistant_only_loss=True; it has "
            f"{', '.join(columns)}"
        )
    if "weight" in columns:
        weights = torch.tensor(whole_column(dataset, "weight"), dtype=torch.float64)
        if not bool((torch.isfinite(weights) & (weights >= 0)).all()) or not bool(weights.any()):
            raise UserError("train_dataset, weight: must be finite and not negative, and some above 0")
        dataset = dataset.select(torch.nonzero(weights).flatten().tolist())
    if {"prompt", "completion"} <= set(columns):
        return dataset.remove_columns([name for name in (text_field, "messages") if name in columns])
    if "completion_mask" in columns and "labels" not in columns:
        # TRL looks at the mask only where there are prompts and completions, too.
        return dataset.map(_masked, remove_columns=[name for name in _MASKS if name in columns])
    return dataset


def whole_column(dataset: Dataset, name: str) -> list[Any]:
    """Return a column. Raises UserError where a row has none."""
    column = list(dataset[name])
    if None in column:
        raise UserError(f"train_dataset, {name}: row {column.index(None)} has none; give every row's")
    return column


def _masked(row: Mapping[str, Any]) -> dict[str, list[int]]:
    masks = zip(*(row[name] for name in _MASKS if name in row), strict=True)
    return {"labels": [token if all(mask) else -100 for token, mask in zip(row["input_ids"], masks, strict=True)]}


def whole(dataset: Dataset, longest: int | None, drop: bool) -> Dataset:
    """Drop tokenised rows that are longer than `longest` tokens or have an empty completion, with a warning that counts them.

    Raises UserError where they are more than one in a hundred, unless they are to be dropped, or all.
    """
    keep = [
        (longest is None or len(tokens) <= longest) and any(label != -100 for label in labels[1:])
        for tokens, labels in zip(dataset["input_ids"], dataset["labels"], strict=True)
    ]
    if not (dropped := len(keep) - sum(keep)):
        return dataset
    check_dropped(dropped, len(keep), longest, drop)
    warn(f"train_dataset: {_dropped(dropped, len(keep), longest)}, and are dropped")
    return dataset.select([row for row, kept in enumerate(keep) if kept])


def check_dropped(dropped: int, count: int, longest: int | None, drop: bool) -> None:
    """Raise UserError where more than one of `count` rows in a hundred would be dropped, unless they are to be, or all."""
    if (not drop and dropped > _TOO_LONG * count) or dropped == count:
        what = _dropped(dropped, count, longest)
        raise UserError(f"train_dataset: {what}; set a larger max_length, or too_long=drop to train without them")


def _dropped(dropped: int, count: int, longest: int | None) -> str:
    return f"{dropped:,} of {count:,} rows are longer than max_length={longest} or have an empty completion"


class WithRow:
    """A collator that lets the rows' numbers pass beside what it collates."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self._collate = collate

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self._collate([{key: value for key, value in row.items() if key != ROW} for row in examples])
        if ROW in examples[0]:
            batch[ROW] = torch.tensor([row[ROW] for row in examples])
        return batch


class InProportion(Sampler[int]):
    """Rows drawn in proportion to their weights, with replacement: as many in an epoch as there are rows."""

    def __init__(self, weights: Tensor, seed: int) -> None:
        self._weights, self._seed, self._epoch = weights, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        yield from torch.multinomial(self._weights, len(self), replacement=True, generator=generator).tolist()
