"""The validated shape of conf/: what each group may hold, its types, and what makes sense. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from iwbc.errors import UserError


def _require(condition: bool, key: str, value: object, rule: str) -> None:
    if not condition:
        raise UserError(f"{key}={value}: {rule}")


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, key, value, f"must be one of {', '.join(choices)}")


# --- dataset ---------------------------------------------------------------------------------------------------------


@dataclass
class Generated:
    """A tier rolled out from the shipped behaviour policies."""

    source: str
    tier: str
    steps: int
    seed: int

    def check(self) -> None:
        from iwbc.data.tiers import TIERS

        _one_of("dataset.tier", self.tier, TIERS)
        _require(self.steps > 0, "dataset.steps", self.steps, "must be positive")
        _require(self.seed >= 0, "dataset.seed", self.seed, "must not be negative")


@dataclass
class Minari:
    """A Minari dataset by its id."""

    source: str
    id: str
    clip_actions: bool
    unfinished: str

    def check(self) -> None:
        _require(bool(self.id.strip()), "dataset.id", self.id, "give a Minari id such as mujoco/hopper/medium-v0")
        _one_of("dataset.unfinished", self.unfinished, ("keep", "drop"))


@dataclass
class D4RL:
    """A D4RL HDF5 file by its path."""

    source: str
    path: str
    env_id: str | None
    clip_actions: bool
    unfinished: str

    def check(self) -> None:
        _require(bool(self.path.strip()), "dataset.path", self.path, "give a file such as hopper_medium-v2.hdf5")
        _one_of("dataset.unfinished", self.unfinished, ("keep", "drop"))


# --- curation --------------------------------------------------------------------------------------------------------


@dataclass
class All:
    name: str

    def check(self) -> None:
        pass


@dataclass
class TopFraction:
    name: str
    fraction: float

    def check(self) -> None:
        _require(0 < self.fraction <= 1, "curation.fraction", self.fraction, "must lie in (0, 1]; 0.1 keeps the best tenth")


@dataclass
class QualityLevels:
    name: str
    percentiles: list[float]

    def check(self) -> None:
        fits = bool(self.percentiles) and all(0 <= p <= 100 for p in self.percentiles)
        _require(fits, "curation.percentiles", self.percentiles, "needs at least one percentile between 0 and 100")


@dataclass
class Threshold:
    name: str
    minimum: float

    def check(self) -> None:
        _require(math.isfinite(self.minimum), "curation.minimum", self.minimum, "must be a finite return")


@dataclass
class Success:
    """Trajectories labelled a success, or (`last_reward`) those whose last reward is at least `minimum`."""

    name: str
    success_from: str
    minimum: float

    def check(self) -> None:
        _one_of("curation.success_from", self.success_from, ("labels", "last_reward"))
        _require(math.isfinite(self.minimum), "curation.minimum", self.minimum, "must be a finite reward")


@dataclass
class ReturnWeighted:
    name: str
    temperature: float

    def check(self) -> None:
        _require(self.temperature > 0, "curation.temperature", self.temperature, "must be positive")


# --- algo ------------------------------------------------------------------------------------------------------------


@dataclass
class Recipe:
    """How long and how fast to train: Adam; `schedule` constant, or cosine to 0; linear warm-up from 0 in either."""

    steps: int
    lr: float
    schedule: str
    warmup_steps: int
    batch_size: int

    def check(self, key: str = "algo") -> None:
        _require(self.steps > 0, f"{key}.steps", self.steps, "must be positive")
        _require(0 < self.lr < math.inf, f"{key}.lr", self.lr, "must be positive")
        _one_of(f"{key}.schedule", self.schedule, ("constant", "cosine"))
        _require(self.warmup_steps >= 0, f"{key}.warmup_steps", self.warmup_steps, "must not be negative")
        _require(self.batch_size > 0, f"{key}.batch_size", self.batch_size, "must be positive")

    def learning_rate(self, step: int) -> float:
        """The learning rate of gradient step `step` (from 0): 0 at first where there is a warm-up."""
        if step < self.warmup_steps:
            return self.lr * step / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass
class BC(Recipe):
    """Behaviour cloning of the curated trajectories: bc, filtered_bc and rwr differ in curation and start alone."""

    name: str
    start: str

    def check(self, key: str = "algo") -> None:
        super().check(key)
        _one_of(f"{key}.start", self.start, ("scratch", "reference"))


@dataclass
class Proposal:
    """π_q: `ema` of the policy's parameters (decay α), the `policy` itself, or a `copy` of it every so many steps."""

    kind: str
    decay: float
    every: int

    def check(self) -> None:
        _one_of("algo.proposal.kind", self.kind, ("ema", "policy", "copy"))
        _require(0 <= self.decay <= 1, "algo.proposal.decay", self.decay, "must lie in [0, 1]")
        _require(self.every > 0, "algo.proposal.every", self.every, "must be positive")


@dataclass
class ImportanceWeights:
    """Which importance weights, and how they are estimated. See conf/algo/iw_bc.yaml for each field's meaning."""

    level: str
    kappa: float
    minimum: float
    maximum: float | None
    step_ratio_bounds: list[float]
    self_normalise: bool
    estimator: str
    refresh_every: int

    @property
    def upper_bound(self) -> float:
        """The largest weight: `maximum`, or else the method's default for the level."""
        if self.maximum is not None:
            return self.maximum
        return 2.0 if self.level == "step" else 1000.0

    def check(self) -> None:
        _one_of("algo.weights.level", self.level, ("trajectory", "clipped_product", "step"))
        fits = 0 <= self.kappa < math.inf
        _require(fits, "algo.weights.kappa", self.kappa, "must be finite and not negative; 0 is filtered BC")
        fits = 0 <= self.minimum < self.upper_bound
        _require(fits, "algo.weights.minimum", self.minimum, f"must lie in [0, maximum={self.upper_bound})")
        bounds = self.step_ratio_bounds
        fits = len(bounds) == 2 and 0 < bounds[0] <= 1 <= bounds[1]
        _require(fits, "algo.weights.step_ratio_bounds", bounds, "needs two bounds with 0 < a_min <= 1 <= a_max")
        _one_of("algo.weights.estimator", self.estimator, ("running", "exact"))
        _require(self.refresh_every > 0, "algo.weights.refresh_every", self.refresh_every, "must be positive")


@dataclass
class IWBC(Recipe):
    """Importance-weighted behaviour cloning against the frozen reference policy, from which it starts."""

    name: str
    proposal: Proposal
    weights: ImportanceWeights

    start: str = "reference"

    def check(self, key: str = "algo") -> None:
        super().check(key)
        _require(self.start == "reference", f"{key}.start", self.start, "iw_bc starts from the reference")
        self.proposal.check()
        self.weights.check()


@dataclass
class AWR(Recipe):
    """Advantage-weighted regression, offline."""

    name: str
    start: str
    gamma: float
    lam: float
    temperature: float
    maximum: float
    value_lr: float
    value_hidden: list[int]
    refresh_every: int

    def check(self, key: str = "algo") -> None:
        super().check(key)
        _one_of(f"{key}.start", self.start, ("scratch", "reference"))
        _require(0 <= self.gamma <= 1, f"{key}.gamma", self.gamma, "must lie in [0, 1]")
        _require(0 <= self.lam <= 1, f"{key}.lam", self.lam, "must lie in [0, 1]")
        _require(self.temperature > 0, f"{key}.temperature", self.temperature, "must be positive")
        _require(self.maximum > 0, f"{key}.maximum", self.maximum, "must be positive")
        _require(self.value_lr > 0, f"{key}.value_lr", self.value_lr, "must be positive")
        _require(all(n > 0 for n in self.value_hidden), f"{key}.value_hidden", self.value_hidden, "must be positive sizes")
        _require(self.refresh_every > 0, f"{key}.refresh_every", self.refresh_every, "must be positive")


# --- the rest --------------------------------------------------------------------------------------------------------


@dataclass
class Env:
    """The evaluation environment; null: the one the dataset names."""

    name: str | None
    id: str | None


@dataclass
class Policy:
    kind: str
    std: str
    hidden: list[int]
    log_std_min: float
    log_std_max: float
    normalise_observations: bool
    precision: str = "float32"  # of run folders from before there was a choice

    def check(self) -> None:
        _one_of("policy.precision", self.precision, ("float32", "bfloat16"))
        _one_of("policy.kind", self.kind, ("tanh_mean", "squashed"))
        _one_of("policy.std", self.std, ("global", "state"))
        _require(all(n > 0 for n in self.hidden), "policy.hidden", self.hidden, "must be positive layer sizes")
        fits = self.log_std_min < self.log_std_max
        _require(fits, "policy.log_std_min", self.log_std_min, f"must be below log_std_max={self.log_std_max}")


@dataclass
class Reference(Recipe):
    """How the reference policy is trained: behaviour cloning on all data."""

    averaging: str

    def check(self, key: str = "reference") -> None:
        super().check(key)
        _one_of(f"{key}.averaging", self.averaging, ("trajectory", "transition"))


BACKENDS = ("gymnasium", "envpool")


@dataclass
class Eval:
    """`episodes` at the end; `every` so many gradient steps, `periodic_episodes` (0: never), in environments of `backend`."""

    episodes: int
    every: int
    periodic_episodes: int
    seed: int
    backend: str = "gymnasium"  # of run folders from before there was a choice

    def check(self) -> None:
        _one_of("eval.backend", self.backend, BACKENDS)
        for name in ("episodes", "every", "periodic_episodes", "seed"):
            _require(getattr(self, name) >= 0, f"eval.{name}", getattr(self, name), "must not be negative")


@dataclass
class Logger:
    """Weights & Biases: `mode` disabled, offline or online."""

    mode: str
    project: str
    entity: str | None

    def check(self) -> None:
        _one_of("logger.mode", self.mode, ("disabled", "offline", "online"))


@dataclass
class Config:
    """A whole run."""

    env: Env
    dataset: Any
    curation: Any
    algo: Any
    policy: Policy
    reference: Reference
    eval: Eval
    logger: Logger
    averaging: str
    seed: int
    seeds: list[int] | None
    device: str
    threads: int | None
    log_every: int
    checkpoint_every: int

    def check(self) -> None:
        for part in (self.dataset, self.curation, self.algo, self.policy, self.reference, self.eval, self.logger):
            part.check()
        _one_of("averaging", self.averaging, ("trajectory", "transition"))
        _one_of("device", self.device.split(":")[0], ("cpu", "cuda"))
        seeds = self.all_seeds
        _require(bool(seeds) and min(seeds) >= 0, "seeds", seeds, "needs at least one seed, none negative")
        _require(len(set(seeds)) == len(seeds), "seeds", seeds, "names a seed twice")
        _require(self.log_every > 0, "log_every", self.log_every, "must be positive")
        _require(self.checkpoint_every > 0, "checkpoint_every", self.checkpoint_every, "must be positive")
        _require(self.threads is None or self.threads > 0, "threads", self.threads, "must be positive")

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of this run: `seeds`, or else the one `seed`."""
        return self.seeds if self.seeds is not None else [self.seed]


_DATASETS = {"generated": Generated, "minari": Minari, "d4rl": D4RL}
_CURATIONS = {
    "all": All,
    "top_fraction": TopFraction,
    "quality_levels": QualityLevels,
    "threshold": Threshold,
    "success": Success,
    "return_weighted": ReturnWeighted,
}
_ALGORITHMS = {"bc": BC, "filtered_bc": BC, "rwr": BC, "iw_bc": IWBC, "awr": AWR}


def validate(composed: DictConfig) -> Config:
    """The typed configuration. Raises UserError, one line, for a key that does not exist or a value that cannot be."""
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(plain, dict)
        kinds = {
            "dataset": _kind(plain, "dataset", "source", _DATASETS),
            "curation": _kind(plain, "curation", "name", _CURATIONS),
            "algo": _kind(plain, "algo", "name", _ALGORITHMS),
        }
        parts = {name: _typed(kind, plain.pop(name), name) for name, kind in kinds.items()}
        config = _typed(Config, plain | dict.fromkeys(kinds), "")
    except OmegaConfBaseException as error:
        raise UserError(_one_line(error)) from None
    for name, part in parts.items():
        setattr(config, name, part)
    config.check()
    return config


def _kind(plain: dict[Any, Any], group: str, key: str, kinds: dict[str, type]) -> type:
    values = plain.get(group)
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, str) or value not in kinds:
        raise UserError(f"{group}.{key}={value}: must be one of {', '.join(kinds)}")
    return kinds[value]


def _typed(kind: type, values: dict[Any, Any], group: str) -> Any:
    schema = OmegaConf.structured(kind)
    try:
        typed: Any = OmegaConf.to_object(OmegaConf.merge(schema, values))
    except OmegaConfBaseException as error:
        full_key = ".".join(part for part in (group, str(error.full_key or "")) if part)
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{full_key}: must be given") from None
        raise UserError(f"{full_key}: {_one_line(error)}") from None
    return typed


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def to_plain(config: Config) -> dict[str, Any]:
    """The configuration as nested plain dicts and lists."""
    return asdict(config)


def method_name(config: Config) -> str:
    """The method's name in tables: the algorithm, and what of its curation and weights tells it from its relatives."""
    algo, curation = config.algo, config.curation
    match curation:
        case TopFraction(fraction=fraction):
            kept = f" {100 * fraction:g} %"
        case QualityLevels():
            kept = "(Q)"
        case All() | ReturnWeighted():
            kept = ""
        case _:
            kept = f" {curation.name}"
    if isinstance(algo, IWBC):
        level = "" if algo.weights.level == "trajectory" else f" {algo.weights.level.replace('_', ' ')}"
        return f"iw-BC{kept}{level}"
    if algo.name == "filtered_bc" and kept == "(Q)":
        return "SFT(Q)"
    return {"bc": "BC", "filtered_bc": "filtered BC", "rwr": "RWR", "awr": "AWR"}[algo.name] + kept
