"""Datasets: every source becomes the same packed trajectories."""

from iwbc.data.arrays import from_arrays

__all__ = ["from_arrays"]
