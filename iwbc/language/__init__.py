"""Language models: importance-weighted SFT on rows of prompt, completion and score. TRL is imported with its trainer."""

from __future__ import annotations

from typing import Any

__all__ = ["WeightedSFTConfig", "WeightedSFTTrainer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from iwbc.language import trainer

    return getattr(trainer, name)
