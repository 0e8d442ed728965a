"""log π_ref of every row's completion tokens: computed once, under the model as training finds it, and cached by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iwbc.system.files import MALFORMED, cache_folder, read_tensors, write_tensors

# Bump when the same inputs give another reference than before.
_FORMAT = 2


@dataclass(frozen=True)
class TokenLogProbs:
    """Log-likelihoods of completions' tokens, packed row after row: `values` [M] in nats, `offsets` [N + 1]."""

    values: Tensor
    offsets: Tensor

    def of(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Spread the values of some rows, [B], over the places where `mask` [B, T] is 1: [B, T], 0 elsewhere."""
        # Every shape is known beforehand, so that a GPU is not waited for.
        places = self.offsets[rows, None] + mask.long().cumsum(-1) - 1
        return self.values[places] * mask


def read(key: str, count: int) -> Tensor | None:
    """Read the packed values [M] of a key from the cache; None where there is none, or what is there is damaged."""
    try:
        values = read_tensors(_path(key))[0]["log_probs"]
    except MALFORMED:
        return None
    return values if values.shape == (count,) else None


def write(key: str, values: Tensor) -> None:
    """Keep the packed values of a key in the cache."""
    write_tensors(_path(key), {"log_probs": values}, {"format": str(_FORMAT)})


def _path(key: str) -> Path:
    return cache_folder() / "references" / f"language-{key}.safetensors"


def key_of(model: str, rows: Iterable[Mapping[str, Any]], kind: str) -> str:
    """Compute the name of a cache entry from the digest of a model, the tokens and labels of every row, and the precision."""
    digest = hashlib.sha256(f"{_FORMAT} {kind} {model}".encode())
    for row in rows:
        digest.update(repr((list(row["input_ids"]), list(row["labels"]))).encode())
    return digest.hexdigest()


def token_log_probs(
    forward: Callable[[dict[str, Any]], Tensor],
    rows: Sequence[dict[str, Any]],
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    offsets: Tensor,
    batch_size: int,
    share: slice,
) -> Tensor:
    """Compute the completions' tokens' log-likelihoods, [M]: of every row in this process's share, and 0 for the others.

    forward: a collated batch → log-likelihoods [B, T], of the tokens whose labels count. Rows of like lengths go together.
    """
    values = torch.zeros(int(offsets[-1]))
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))[share]
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        batch = collate([rows[row] for row in some])
        mask = batch["labels"][:, 1:] != -100
        log_probs = forward(batch).float().cpu()
        for row, log_prob, counts in zip(some, log_probs, mask, strict=True):
            values[offsets[row] : offsets[row + 1]] = log_prob[counts]
    return values
