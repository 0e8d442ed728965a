"""Language models: importance-weighted SFT on tasks whose answers can be verified."""
