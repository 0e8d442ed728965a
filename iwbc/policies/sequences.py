"""Mixtures of Gaussians that read an episode step after step: by an LSTM, or by a causal transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iwbc.data.windows import Sequences
from iwbc.policies.mixture import GaussianMixture
from iwbc.policies.networks import Linear, Units


class SequenceMixture(GaussianMixture):
    """GaussianMixture of what a `reader` makes of the observations since its memory began, [n, T, obs] → [n, T, width], of
    which step t depends on steps 0 … t alone.

    std "softplus": a standard deviation softplus(output) + e^(the lower of log_std_bounds), as robomimic's; else as in
    GaussianMLP. Observations are Sequences; of a tensor [B, obs] each is the first of an episode.
    """

    def __init__(
        self,
        reader: nn.Module,
        width: int,
        units: Units,
        sequence: int = 10,
        components: int = 5,
        kind: str = "tanh_mean",
        std: str = "softplus",
        log_std_bounds: tuple[float, float] = (math.log(1e-4), 2.0),
    ) -> None:
        super().__init__(width, units, components, [], kind, std, log_std_bounds)
        self.reader, self.sequence = reader, sequence

    def inputs(self, observations: Any) -> Tensor:
        """Read Sequences, or [B, obs] → [B, width], for the M, or B, steps that are meant."""
        if isinstance(observations, Tensor):
            read: Tensor = self.reader(self.units.observations(observations)[:, None])
            return read[:, 0]
        read = self.reader(self.units.observations(observations.observations))
        return read[observations.row, observations.place]

    def spread(self, log_std: Tensor) -> Tensor:
        if self.std != "softplus":
            return super().spread(log_std)
        return F.softplus(log_std) + math.exp(self.log_std_bounds[0])

    def sample(self, observations: Any, generator: torch.Generator) -> Tensor:
        """Draw a component by its probability, then an action from it, for each of the steps that are meant."""
        meant = observations.row if isinstance(observations, Sequences) else observations
        return self.sample_from(observations, *self.noise(len(meant), generator, meant.device))


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) in layers of these sizes, [n, T, in] → [n, T, last size]."""

    def __init__(self, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(*sizes, batch_first=True) for sizes in zip([size, *hidden], hidden, strict=False))

    def forward(self, read: Tensor) -> Tensor:
        for layer in self.layers:
            read, _ = layer(read)
        return read


class Transformer(nn.Module):
    """Causal transformer with layer norms before each part (Xiong et al. 2020, arXiv 2002.04745), [n, T, in] → [n, T, width].

    A block for each of `hidden`, the size between its two layers; positions up to `longest` are learnt.
    """

    def __init__(self, size: int, longest: int, width: int, heads: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.first, self.last = Linear(size, width), nn.LayerNorm(width)
        self.positions = nn.Parameter(torch.randn(longest, width))  # as large as the inputs, or order is learnt late
        self.blocks = nn.ModuleList(Block(width, heads, inner) for inner in hidden)

    def forward(self, read: Tensor) -> Tensor:
        read = self.first(read) + self.positions[: read.shape[1]]
        for block in self.blocks:
            read = block(read)
        normed: Tensor = self.last(read)
        return normed


class Block(nn.Module):
    """Attention of each step to itself and those before it, then two layers, [n, T, width] → [n, T, width]."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.asked, self.answered = Linear(width, 3 * width), Linear(width, width)
        self.layers = nn.Sequential(Linear(width, inner), nn.GELU(), Linear(inner, width))

    def forward(self, read: Tensor) -> Tensor:
        parts = self.asked(self.norms[0](read)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        asked, keys, values = parts.unbind(0)  # [n, heads, T, width / heads]
        attended = F.scaled_dot_product_attention(asked, keys, values, is_causal=True)
        read = read + self.answered(attended.transpose(1, 2).flatten(-2))
        result: Tensor = read + self.layers(self.norms[1](read))
        return result
