"""Settings of training a language model: which objective, on which rows, against which reference. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from iwbc import settings
from iwbc.settings import Settings, in_tables, not_negative, positive, required, setting, share

DTYPES = ("auto", "float32", "bfloat16", "float16")

# --- algo ------------------------------------------------------------------------------------------------------------


@dataclass
class SFT(Settings):
    """Supervised fine-tuning on the curated rows: filtered BC."""

    label: ClassVar[str] = "SFT"
    variant: ClassVar[str] = ""
    weighted: ClassVar[bool] = False

    name: str = "sft"


@dataclass
class DFT(Settings):
    """Dynamic fine-tuning (Wu et al., arXiv 2508.05629): each token's loss times its own probability, for comparison."""

    label: ClassVar[str] = "DFT"
    variant: ClassVar[str] = ""
    weighted: ClassVar[bool] = False

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
    def variant(self) -> str:
        """The words that distinguish it from others of the same label in tables."""
        level = "" if self.level == "sequence" else f" {self.level.replace('_', ' ')}"
        kappa = f" κ={self.kappa}" if isinstance(self.kappa, str) else f" κ={self.kappa:g}"
        return level + (kappa if self.tempered else "") + ("" if self.proposal == "policy" else f" {self.proposal}")

    @property
    def tempered(self) -> bool:
        """Tell whether κ is used."""
        return self.level != "clipped_product"

    @property
    def weighted(self) -> bool:
        """Tell whether any weight can differ from 1."""
        return self.kappa != 0 or not self.tempered

    @property
    def by_token(self) -> bool:
        """Tell whether the reference has to be known of every token, as each ratio is clipped by itself."""
        return self.level in ("clipped_product", "token")

    def check_together(self, group: str) -> None:
        self.require(self.minimum < self.maximum, group, "minimum", f"must be below maximum={self.maximum:g}")
        auto = self.kappa == "auto"
        self.require(not auto or self.level != "token", group, "kappa", "auto needs level=sequence or level=mean")
        for name, used, needs in (
            ("kappa", self.tempered, "another level: a clipped product has no temperature"),
            ("ess_share", auto and self.tempered, "kappa=auto"),
            ("ess_count", auto and self.tempered, "kappa=auto"),
            ("decay", self.proposal == "ema", "proposal=ema"),
            ("copy_every", self.proposal == "copy", "proposal=copy"),
            ("step_ratio_bounds", self.by_token, "level=clipped_product or level=token"),
            ("minimum", self.level != "token", "another level: step_ratio_bounds bound weights of tokens"),
            ("maximum", self.level != "token", "another level: step_ratio_bounds bound weights of tokens"),
        ):
            self.require_used(used, group, name, needs)


# --- curation --------------------------------------------------------------------------------------------------------


@dataclass
class Level(Settings):
    """The `level` of a row is its weight."""

    name: str = "level"


# --- the rest --------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Recipe(Settings):
    """Gradient steps: `steps`, or else `epochs` of the kept rows. batch_size: the rows of a step, of all processes and
    micro-batches together. warmup: the share of the steps over which the learning rate rises to `lr`."""

    epochs: float = positive(3.0)
    steps: int | None = positive(None)
    lr: float = positive(1e-5)
    batch_size: int = positive(32)
    warmup: float = setting(0.05, lambda value: 0 <= value < 1, "must lie in [0, 1): a share of the steps")
    schedule: str = setting("cosine", choices=("cosine", "linear", "constant"))

    def check_together(self, group: str) -> None:
        self.require_used(self.steps is None, group, "epochs", "steps=null")


@dataclass(kw_only=True)
class LoRA(Settings):
    """Low-rank adapters of the modules `targets`, which alone are trained; rank 0: none. alpha null: twice the rank."""

    rank: int = not_negative(0)
    alpha: float | None = positive(None)
    targets: list[str] = setting(["all-linear"], lambda value: bool(value), "needs names of modules, or all-linear")

    def check_together(self, group: str) -> None:
        for name in ("alpha", "targets"):
            self.require_used(self.rank > 0, group, name, "lora.rank above 0")


def _some(says: str) -> Any:
    return required(lambda value: bool(value.strip()), says)


@dataclass(kw_only=True)
class Train(Recipe):
    """A whole run. `iwbc language train --help` says what each setting is."""

    model: str = _some("give a folder, or a name of the Hugging Face Hub")
    data: str = _some("give a file of rows")
    curation: Any = field(default_factory=settings.Success)
    algo: Any = field(default_factory=IWSFT)
    reference: str | None = setting(None, choices=("fit", "start", "logp"))
    fit: Recipe = field(default_factory=Recipe)
    out: str | None = None
    tokenizer: str | None = None
    gguf: str | None = None
    dtype: str = setting("float32", choices=DTYPES)
    lora: LoRA = field(default_factory=LoRA)
    curation_as: str = setting("sampler", choices=("sampler", "loss"))
    max_length: int | None = positive(1024)
    too_long: str = setting("refuse", choices=("refuse", "drop"))
    seed: int = not_negative(0)
    threads: int | None = positive(None)
    log_every: int = positive(10)
    checkpoint_every: int = positive(100)
    prompts: str | None = None
    verifier: str | None = None
    samples: int = positive(16)
    max_new_tokens: int = positive(256)
    trainer: dict[str, Any] = field(default_factory=dict)

    def check_together(self, group: str) -> None:
        super().check_together(group)
        self.require(
            (self.prompts is None) == (self.verifier is None), group, "prompts", "goes with verifier=…, and it with this"
        )
        for name in ("samples", "max_new_tokens"):
            self.require_used(self.prompts is not None, group, name, "prompts=… and verifier=…")

    @property
    def method(self) -> str:
        """The method's name in tables."""
        return f"{self.algo.label}{in_tables(self.curation)}{self.algo.variant}"

    @property
    def weighted(self) -> bool:
        """Tell whether any importance weight can differ from 1."""
        return bool(self.algo.weighted)


ALGORITHMS: dict[str, type[Settings]] = {kind.name: kind for kind in (SFT, DFT, IWSFT)}
# All of control's but auto, which trains policies of control to choose.
CURATIONS: dict[str, type[Settings]] = {**settings.CURATIONS, Level.name: Level}
del CURATIONS[settings.Auto.name]
