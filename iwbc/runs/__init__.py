"""A run from a configuration to a finished folder, and the folder read again."""
