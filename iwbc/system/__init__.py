"""Files, processes, signals, locks, progress and command-line arguments: what knows nothing of learning."""
