"""Datasets: every source becomes the same packed trajectories."""
