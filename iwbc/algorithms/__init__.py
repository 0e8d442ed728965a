"""The algorithms. Each holds its state and an `update` that reads like its equation."""
