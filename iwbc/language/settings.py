"""Settings of training a language model: which objective, on which rows, against which reference. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from iwbc.settings import Settings, not_negative, positive, setting, share

# --- algo ------------------------------------------------------------------------------------------------------------


@dataclass
class SFT(Settings):
    """Supervised fine-tuning on the curated rows: filtered BC."""

    label: ClassVar[str] = "SFT"
    kappa: ClassVar[float] = 0.0

    name: str = "sft"


@dataclass
class DFT(Settings):
    """Dynamic fine-tuning (Wu et al., arXiv 2508.05629): each token's loss times its own probability, for comparison."""

    label: ClassVar[str] = "DFT"
    kappa: ClassVar[float] = 0.0

    name: str = "dft"


@dataclass
class IWSFT(Settings):
    """Importance-weighted SFT against the frozen reference (Qin & Springenberg, arXiv 2507.12856).

    ρ_t = log π_q − log π_ref of a completion's token. level: what a weight w is made of. `sequence`: exp(κ Σ_t ρ_t), where
    κ = 1 is exact importance sampling; `mean`: exp(κ · mean_t ρ_t), the published code's; both within [minimum, maximum].
    `clipped_product`: Π_t of the ratios, each within step_ratio_bounds, the product within [minimum, maximum] (the paper's).
    `token`: a weight for each token, exp(κ ρ_t) within step_ratio_bounds.
    kappa: `auto` is the largest κ, up to 1 (sequence) or the mean length (mean), with an effective sample size of at least
    min(ess_share · that of the curated rows, ess_count) and no long tail; 0 is SFT.
    proposal: π_q is the `policy` itself, which costs nothing; an `ema` of the trained parameters, θ_q ← decay · θ_q +
    (1 − decay) · θ; or a `copy` of them every `copy_every` gradient steps. The last two cost a forward pass more.
    self_normalise: divide by the mean weight of all curated rows, one number for every batch and process.
    refresh_every: gradient steps after which κ and that mean are computed again. ess_floor: training stops where the
    effective sample size falls below this share of the curated rows'; 0: never.
    """

    label: ClassVar[str] = "iw-SFT"

    kappa: float | int | str = setting(
        "auto",
        lambda value: value == "auto" or (not isinstance(value, str) and 0 <= value < math.inf),
        "must be finite and not negative (0 is SFT), or auto",
    )
    level: str = setting("sequence", choices=("sequence", "mean", "clipped_product", "token"))
    step_ratio_bounds: list[float] = setting(
        [0.2, 1.8],
        lambda value: len(value) == 2 and 0 < value[0] <= 1 <= value[1],
        "needs two bounds with 0 < a_min <= 1 <= a_max",
    )
    minimum: float = not_negative(0.0)
    maximum: float = positive(1000.0)
    proposal: str = setting("policy", choices=("policy", "ema", "copy"))
    decay: float = share(0.95)
    copy_every: int = positive(100)
    self_normalise: bool = True
    ess_share: float = share(0.5)
    ess_count: float = positive(50.0)
    ess_floor: float = share(0.001)
    refresh_every: int = positive(10)
    name: str = "iw_sft"

    @property
    def tempered(self) -> bool:
        """Tell whether κ is used."""
        return self.level != "clipped_product"

    def check_together(self, group: str) -> None:
        self.require(self.minimum < self.maximum, group, "minimum", f"must be below maximum={self.maximum:g}")
        auto, by_row = self.kappa == "auto", self.level in ("sequence", "mean")
        self.require(not auto or by_row or not self.tempered, group, "kappa", "auto needs level=sequence or level=mean")
        for name, used, needs in (
            ("kappa", self.tempered, "another level: a clipped product has no temperature"),
            ("ess_share", auto and self.tempered, "kappa=auto"),
            ("ess_count", auto and self.tempered, "kappa=auto"),
            ("decay", self.proposal == "ema", "proposal=ema"),
            ("copy_every", self.proposal == "copy", "proposal=copy"),
            ("step_ratio_bounds", not by_row, "level=clipped_product or level=token"),
            ("minimum", self.level != "token", "another level: step_ratio_bounds bound weights of tokens"),
            ("maximum", self.level != "token", "another level: step_ratio_bounds bound weights of tokens"),
        ):
            self.require_used(used, group, name, needs)
