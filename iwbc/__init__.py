"""Importance-weighted behaviour cloning: offline RL by supervised learning on curated data (arXiv 2507.12856)."""

__version__ = "0.1.0"
