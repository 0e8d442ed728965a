"""Every setting of a run: type, default, and allowed values. Imports no torch.

Each class stands for a choice of one of conf/'s groups, whose files hold only the differences from these defaults. `check`
raises UserError, one line that names the key.
"""

from __future__ import annotations

import copy
import math
import types
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from iwbc.errors import UserError

TIERS = ("random", "medium", "medium-replay", "medium-expert", "expert")  # of generated datasets
OPERATORS = ("careful", "average", "sloppy", "patient", "hasty")  # of demonstrations in Meta-World
SUMMARY_FORMAT = 2  # of summary.json, which a run leaves and a report reads


def setting(default: Any, rule: Callable[[Any], bool] | None = None, says: str = "", choices: tuple[str, ...] = ()) -> Any:
    """Make a dataclass field with the rule that its value must fulfil and the words of an error, or with the allowed
    choices."""
    metadata: dict[str, Any] = {"rule": rule, "says": says}
    if choices:
        says = f"must be one of {', '.join(choices)}"
        metadata = {"rule": lambda value: value in choices or value == default, "says": says, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def required(rule: Callable[[Any], bool], says: str) -> Any:
    """Make a field without a default."""
    return field(metadata={"rule": rule, "says": says})


def positive(default: float | None) -> Any:
    """Make a field for a finite number above 0 (or none, where that is the default)."""
    return setting(default, lambda value: value is None or 0 < value < math.inf, "must be positive")


def _up_to_1000(default: int) -> Any:
    """Make a field for a whole number of steps that a policy at play holds in memory."""
    return setting(default, lambda value: 1 <= value <= 1000, "must lie between 1 and 1,000")


def not_negative(default: float) -> Any:
    """Make a field for a finite number of at least 0."""
    return setting(default, lambda value: 0 <= value < math.inf, "must not be negative")


def share(default: float) -> Any:
    """Make a field for a number from 0 to 1."""
    return setting(default, lambda value: 0 <= value <= 1, "must lie in [0, 1]")


def number_of_episodes(default: int) -> Any:
    """Make a field for a number of episodes to play; it has an upper limit because every result is kept in memory."""
    return setting(default, lambda value: 0 <= value <= 1_000_000, "must lie between 0 and 1,000,000")


def sizes(default: list[int]) -> Any:
    """Make a field for the sizes of hidden layers."""
    return setting(default, lambda value: all(n > 0 for n in value), "must be positive layer sizes")


def bound() -> Any:
    """Make a field for a bound of actions: a number, a list of them, or none. Any length passes here: only the data have
    one."""

    def fits(value: Any) -> bool:
        numbers = value if isinstance(value, list | tuple) else [value]
        return value is None or all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)

    return setting(None, fits, "must be a number, or a list of one for each dimension")


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a mapping", list: "a list"}


def _is(value: Any, hint: Any) -> bool:
    """Check a value against a field's type: int counts as float, and bool as neither."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind is types.UnionType:
        return any(_is(value, part) for part in arguments)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is list:
        return isinstance(value, list | tuple) and all(_is(entry, arguments[0]) for entry in value)
    return hint is Any or isinstance(value, kind)


def _name(hint: Any) -> str:
    """Name a field's type in the words of an error."""
    if get_origin(hint) is types.UnionType:
        return " or ".join(_name(part) for part in get_args(hint) if part is not types.NoneType)
    return _NAMES.get(get_origin(hint) or hint, getattr(hint, "__name__", str(hint)))


@dataclass
class Settings:
    """Base class of all settings, with the check of their values."""

    def check(self, group: str = "") -> None:
        """Raise UserError for the first value that is not allowed; `group` names these settings in the configuration."""
        hints = get_type_hints(type(self))
        for entry in fields(self):
            value, rule = getattr(self, entry.name), entry.metadata.get("rule")
            self.require(_is(value, hints[entry.name]), group, entry.name, f"must be {_name(hints[entry.name])}")
            if isinstance(value, Settings):
                value.check(entry.name)
            elif rule is not None:
                self.require(rule(value), group, entry.name, entry.metadata["says"])
        self.check_together(group)

    def check_together(self, group: str) -> None:
        """Raise UserError where values do not fit each other."""

    def require(self, condition: bool, group: str, name: str, says: str) -> None:
        """Raise UserError, which names the key and the value, unless the condition holds."""
        if not condition:
            key = f"{group}.{name}" if group else name
            raise UserError(f"{key}={getattr(self, name)}: {says}")

    def require_used(self, used: bool, group: str, name: str, needs: str) -> None:
        """Raise UserError where a setting differs from the default and would change nothing."""
        entry = next(entry for entry in fields(self) if entry.name == name)
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        self.require(used or getattr(self, name) == default, group, name, f"would change nothing; it needs {needs}")


# --- dataset ---------------------------------------------------------------------------------------------------------


@dataclass
class Generated(Settings):
    """A tier rolled out from the shipped behaviour policies. steps null: the tier's default."""

    tier: str = setting("medium-replay", choices=TIERS)
    steps: int | None = positive(None)
    seed: int = not_negative(0)
    source: str = "generated"


@dataclass
class Minari(Settings):
    """A Minari dataset by its id, or several, joined by +.

    clip_actions: move actions outside the action space to its bounds instead of refusing the dataset. unfinished: keep or
    drop episodes that neither terminate nor truncate. observation_keys: which parts of Dict observations to use (images
    go to a policy of your own); empty: all, unless there are images. action_low, action_high: the bounds of actions, a number
    or a list with one for each dimension, instead of the dataset's.
    """

    id: str = required(lambda value: bool(value.strip()), "give a Minari id such as mujoco/hopper/medium-v0")
    clip_actions: bool = False
    unfinished: str = setting("keep", choices=("keep", "drop"))
    observation_keys: list[str] = field(default_factory=list)
    action_low: Any = bound()
    action_high: Any = bound()
    source: str = "minari"


@dataclass
class D4RL(Settings):
    """A D4RL HDF5 file by its path. env_id: guessed from D4RL's file names where it is null; none: there is none. action_low,
    action_high: the bounds of actions, a number or a list with one for each dimension; null: the environment's, or else ±1."""

    path: str = required(lambda value: bool(value.strip()), "give a file such as hopper_medium-v2.hdf5")
    env_id: str | None = None
    clip_actions: bool = False
    unfinished: str = setting("keep", choices=("keep", "drop"))
    action_low: Any = bound()
    action_high: Any = bound()
    source: str = "d4rl"


@dataclass
class Recording(Settings):
    """Base class of the formats of robot learning: a file or folder by its path.

    clip_actions: move actions outside the bounds to them instead of refusing the dataset. action_low, action_high: the bounds
    of actions, a number or a list with one for each dimension; null: the format's.
    """

    path: str = required(lambda value: bool(value.strip()), "give a file or folder")
    clip_actions: bool = False
    action_low: Any = bound()
    action_high: Any = bound()
    source: str = ""


@dataclass
class Robomimic(Recording):
    """A robomimic HDF5 file with observations. observation_keys: the arrays of obs/ to use (images go to a policy of your own);
    empty: the low-dimensional ones of robomimic's study (object, robot*_eef_pos, robot*_eef_quat, robot*_gripper_qpos) that are
    there. Actions lie in ±1."""

    observation_keys: list[str] = field(default_factory=list)
    source: str = "robomimic"


@dataclass
class LeRobot(Recording):
    """A LeRobotDataset of version 2.0, 2.1 or 3.0: the folder `path`, or `id` on the Hugging Face Hub, such as lerobot/pusht,
    at a `revision` (a tag or commit; null: the newest), downloaded once.

    observation_keys: the features to use; empty: observation.state and observation.environment_state, as far as they are there.
    Actions lie between the least and the largest in the dataset's statistics.
    """

    path: str | None = None  # type: ignore[assignment]
    id: str | None = None
    revision: str | None = None
    observation_keys: list[str] = field(default_factory=list)
    source: str = "lerobot"

    def check_together(self, group: str) -> None:
        if bool(self.path) == bool(self.id):
            raise UserError(f"{group}: give {group}.path, a folder, or {group}.id, such as lerobot/pusht, and not both")
        self.require_used(self.id is not None, group, "revision", f"{group}.id")


@dataclass
class ManiSkill(Recording):
    """A ManiSkill trajectory file (h5), with its json beside it. observation_keys: the arrays of obs/, or groups of them, to
    use, such as agent/qpos (images go to a policy of your own); empty: all but images. Actions lie in ±1 for controllers of
    differences, such as pd_ee_delta_pose, and else between the least and the largest in the data."""

    observation_keys: list[str] = field(default_factory=list)
    source: str = "maniskill"


@dataclass
class OGBench(Recording):
    """An OGBench npz file. env_id: guessed from OGBench's file names where it is null; none: there is none. Actions lie in
    ±1."""

    env_id: str | None = None
    source: str = "ogbench"


@dataclass
class Zarr(Recording):
    """A folder of Zarr arrays, as Diffusion Policy has them: data/<key> and meta/episode_ends. observation_keys: the arrays of
    data/ to use (images go to a policy of your own); empty: state or obs. Actions lie between the least and the largest of the
    data."""

    observation_keys: list[str] = field(default_factory=list)
    source: str = "zarr"


@dataclass
class Demonstrations(Settings):
    """Scripted demonstrations of one of iwbc.environments.tasks. risky: the share of them that takes the risky way, which
    fails with probability `slip`. horizon: steps in an episode (null: the task's default). Policies are evaluated with the
    same slip and horizon."""

    episodes: int = positive(2000)
    seed: int = not_negative(0)
    risky: float = share(0.5)
    slip: float = share(0.5)
    horizon: int | None = positive(None)
    source: str = "demonstrations"


@dataclass
class OperatorDemonstrations(Settings):
    """Demonstrations of one of Meta-World's tasks by operators of graded quality in turn, each of which is a group.

    operators: their names (empty: the task's); twice is twice as often. outcomes: `all`, or `successes`, for which an operator
    who fails tries again. slip: the probability that what is taken away in haste slips (null: the task's). horizon: steps in an
    episode (null: the task's). Policies are evaluated with the same slip and horizon.
    """

    episodes: int = positive(300)
    seed: int = not_negative(0)
    operators: list[str] = setting(
        [], lambda value: set(value) <= set(OPERATORS), f"must be a list of some of {', '.join(OPERATORS)}"
    )
    outcomes: str = setting("all", choices=("all", "successes"))
    slip: float | None = setting(None, lambda value: value is None or 0 <= value <= 1, "must lie in [0, 1]")
    horizon: int | None = positive(None)
    source: str = "operators"


# --- curation --------------------------------------------------------------------------------------------------------


@dataclass
class All(Settings):
    """Every trajectory, with the same weight."""

    name: str = "all"


@dataclass(kw_only=True)
class Ranked(Settings):
    """Base class of curations that rank trajectories.

    rank_by: `return`; `discounted_return`, by `discount` for each step; `length`: shorter is better; `smoothness`: less change
    of the action from step to step. The last two rank every failure below every success where labels tell them apart.
    """

    rank_by: str = setting("return", choices=("return", "discounted_return", "length", "smoothness"))
    discount: float = setting(0.99, lambda value: 0 < value <= 1, "must lie in (0, 1]")

    def check_together(self, group: str) -> None:
        self.require_used(self.rank_by == "discounted_return", group, "discount", "rank_by=discounted_return")


@dataclass
class TopFraction(Ranked):
    """The best trajectories, by return or what else they are ranked by."""

    fraction: float = setting(0.1, lambda value: 0 < value <= 1, "must lie in (0, 1]; 0.1 keeps the best tenth")
    name: str = "top_fraction"


@dataclass
class QualityLevels(Ranked):
    """A trajectory counts once for every percentile of the returns that it reaches: the paper's Q."""

    percentiles: list[float] = setting(
        [90.0, 95.0, 98.0],
        lambda value: bool(value) and all(0 <= p <= 100 for p in value),
        "needs at least one percentile between 0 and 100",
    )
    name: str = "quality_levels"


@dataclass
class Threshold(Ranked):
    """Trajectories with at least this return, discounted or not."""

    minimum: float = required(math.isfinite, "must be a finite return")
    name: str = "threshold"

    def check_together(self, group: str) -> None:
        super().check_together(group)
        says = "a threshold is one of returns; must be one of return, discounted_return, or choose curation=top_fraction"
        self.require(self.rank_by in ("return", "discounted_return"), group, "rank_by", says)


@dataclass
class Success(Settings):
    """Trajectories labelled a success, or (`last_reward`) those whose last reward is at least `minimum`."""

    success_from: str = setting("labels", choices=("labels", "last_reward"))
    minimum: float = setting(1.0, math.isfinite, "must be a finite reward")
    name: str = "success"

    def check_together(self, group: str) -> None:
        self.require_used(self.success_from == "last_reward", group, "minimum", "success_from=last_reward")


@dataclass
class ReturnWeighted(Ranked):
    """All trajectories, weighted by the exponential of their return, or what else they are ranked by, in units of `temperature`
    standard deviations."""

    temperature: float = positive(0.2)
    name: str = "return_weighted"


@dataclass
class Groups(Settings):
    """Trajectories of the dataset's groups: those of any that is kept (empty: all), without those of any that is dropped.

    weights: one for each kept group (empty: 1); a trajectory of several counts once, with the largest.
    """

    keep: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    weights: list[float] = setting([], lambda value: all(0 < w < math.inf for w in value), "must be positive and finite")
    name: str = "groups"

    def check_together(self, group: str) -> None:
        self.require(bool(self.keep or self.drop), group, "keep", "name groups to keep, such as [better,okay], or to drop")
        fits = not self.weights or len(self.weights) == len(self.keep)
        self.require(fits, group, "weights", f"needs one for each of the {len(self.keep)} groups in keep")
        for name in ("keep", "drop"):
            groups = getattr(self, name)
            self.require(len(set(groups)) == len(groups), group, name, "names a group twice")
        both = ", ".join(name for name in self.keep if name in self.drop)
        self.require(not both, group, "drop", f"keep names {both}, too")


@dataclass
class FromFile(Settings):
    """Base class of curations by a CSV file with a row for every trajectory. sha256: the hash of the file; null: taken as the
    run begins, and then part of the run."""

    path: str = required(lambda value: bool(value.strip()), "give a CSV file with a row for every trajectory")
    sha256: str | None = setting(None, lambda value: value is None or len(value) == 64, "must be a SHA-256 of 64 digits")


@dataclass
class TrajectoryWeights(FromFile):
    """Custom weights, from a CSV file with the columns trajectory (or episode), counted from 0, and weight: 0 drops it."""

    name: str = "weights"


@dataclass
class TrajectoryScores(FromFile):
    """Scores of trajectories, from a CSV file with the columns trajectory (or episode), counted from 0, and score.

    fraction null: scores are weights, 0 drops, none is negative. Else any numbers: the best of this share are kept alike.
    """

    fraction: float | None = setting(
        None, lambda value: value is None or 0 < value <= 1, "must lie in (0, 1]; 0.1 keeps the best tenth"
    )
    name: str = "scores"


@dataclass
class Auto(Ranked):
    """The curation, of several, under which the best trajectories are likeliest when they are held out: the best by `rank_by`,
    or by the scores of a file.

    path: a CSV file with the columns trajectory (or episode), counted from 0, and score. sha256: as of other files.
    """

    path: str | None = None
    sha256: str | None = setting(None, lambda value: value is None or len(value) == 64, "must be a SHA-256 of 64 digits")
    name: str = "auto"

    def check_together(self, group: str) -> None:
        super().check_together(group)
        self.require(
            self.path is None or self.rank_by == "return", group, "rank_by", f"{group}.path ranks by the file's scores"
        )


# --- algo ------------------------------------------------------------------------------------------------------------


@dataclass
class Recipe(Settings):
    """Base class of algorithms' settings: steps of Adam, `schedule` constant or cosine to 0, linear warm-up from 0 in
    either."""

    label: ClassVar[str] = ""  # in tables
    ess_floor: ClassVar[float] = 0.0  # a smaller effective sample size, as a share of the curated set's, is divergence
    of_steps: ClassVar[tuple[str, ...]] = ("steps", "lr", "schedule", "warmup_steps", "batch_size")  # what steps are like

    steps: int = positive(2000)
    lr: float = positive(4e-4)
    schedule: str = setting("cosine", choices=("constant", "cosine"))
    warmup_steps: int = not_negative(300)
    batch_size: int = positive(256)
    start: str = setting("reference", choices=("scratch", "reference"))

    @property
    def variant(self) -> str:
        """The words that distinguish it from others of the same label in tables."""
        return ""

    @property
    def bound_kappa(self) -> float:
        """The scale of the log ratios in the reported bound at the reference."""
        return 1.0

    @property
    def critic(self) -> Critic | None:
        """The training of the value network that the algorithm needs beforehand; None where it needs none."""
        return None

    def learning_rate(self, step: int) -> float:
        """Compute the learning rate of gradient step `step` (from 0): 0 at first where there is a warm-up."""
        if step < self.warmup_steps:
            return self.lr * step / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass
class BC(Recipe):
    """Behaviour cloning, from an untrained policy."""

    label: ClassVar[str] = "BC"

    steps: int = positive(10_000)
    lr: float = positive(1e-3)
    start: str = setting("scratch", choices=("scratch", "reference"))
    name: str = "bc"


@dataclass
class FilteredBC(Recipe):
    """Behaviour cloning of the curated trajectories, from the reference policy: the paper's SFT."""

    label: ClassVar[str] = "filtered BC"

    name: str = "filtered_bc"


@dataclass
class RWR(Recipe):
    """Behaviour cloning of trajectories weighted by their return."""

    label: ClassVar[str] = "RWR"

    name: str = "rwr"


@dataclass
class IWBC(Recipe):
    """Importance-weighted behaviour cloning against the frozen reference policy, from which it starts.

    kappa: w = clip(exp(κ · log ratio)); 0 is filtered BC. level: `window` (a weight for each step, of the sum over the last
    `window` steps) or `trajectory` (of the mean over its steps); there κ may be `auto`, the largest, up to the trajectories'
    length, with reliable weights: an effective sample size of at least ess_share · the curated set's, and no long tail.
    decay: of the proposal π_q, θ_q ← decay · θ_q + (1 − decay) · θ; 0 is a copy of the policy. refresh_every: gradient steps
    between two passes over the kept steps under π_q, which set the weights; null: 500, or a quarter of `steps` where that is
    less. minimum, maximum: of a weight; no maximum means 2 for windows, 1000 for trajectories. ess_floor: a seed whose
    weights' effective sample size falls below this share of the curated set's has diverged; 0: never.
    """

    label: ClassVar[str] = "iw-BC"

    kappa: float | int | str = setting(
        0.5,
        lambda value: value == "auto" or (not isinstance(value, str) and 0 <= value < math.inf),
        "must be finite and not negative (0 is filtered BC), or auto",
    )
    ess_share: float = share(0.7)
    level: str = setting("window", choices=("window", "trajectory"))
    window: int = positive(5)
    decay: float = share(0.9)
    minimum: float = 0.0
    maximum: float | None = None
    self_normalise: bool = True
    refresh_every: int | None = positive(None)
    ess_floor: float = share(0.001)  # type: ignore[misc]
    start: str = setting("reference", lambda value: value == "reference", "iw_bc starts from the reference")
    name: str = "iw_bc"

    def __post_init__(self) -> None:
        if type(self.kappa) is int:
            self.kappa = float(self.kappa)  # 1 and 1.0 are the same run

    @property
    def variant(self) -> str:
        if self.level == "trajectory":
            return " auto" if self.kappa == "auto" else " trajectory"
        return {1: " step", 5: ""}.get(self.window, " window")

    @property
    def fixed_kappa(self) -> float | None:
        """κ as a number, or None if kappa="auto"."""
        return None if isinstance(self.kappa, str) else float(self.kappa)

    @property
    def pass_every(self) -> int:
        """Gradient steps between two passes over the kept steps."""
        return min(500, max(1, self.steps // 4)) if self.refresh_every is None else self.refresh_every

    @property
    def bound_kappa(self) -> float:
        return 1.0 if self.fixed_kappa is None else self.fixed_kappa

    @property
    def upper_bound(self) -> float:
        """The largest weight: `maximum`, or else the method's default for the level."""
        if self.maximum is not None:
            return self.maximum
        return 1000.0 if self.level == "trajectory" else 2.0

    def check_together(self, group: str) -> None:
        fits = 0 <= self.minimum < self.upper_bound
        self.require(fits, group, "minimum", f"must lie in [0, maximum={self.upper_bound})")
        weighs = self.pass_every < self.steps or self.steps == 1
        self.require(weighs, group, "refresh_every", f"must be below steps={self.steps}, or all weights stay 1")
        auto = self.kappa == "auto"
        self.require(not auto or self.level == "trajectory", group, "kappa", "needs level=trajectory")
        for name, used, needs in (
            ("ess_share", auto, "kappa=auto"),
            ("window", self.level == "window", "level=window"),
        ):
            self.require_used(used, group, name, needs)


@dataclass
class AWR(Recipe):
    """Advantage-weighted regression, offline: TD(λ) returns, weights min(exp(Â / temperature), maximum).

    V is fitted to the returns of all data beforehand, in `value_steps` steps at value_lr, which falls to 0, once for all runs
    on the data; the targets are recomputed every `refresh_every` of these steps. ess_floor: as iw_bc's.
    """

    label: ClassVar[str] = "AWR"

    steps: int = positive(10_000)
    lr: float = positive(1e-3)
    start: str = setting("scratch", choices=("scratch", "reference"))
    gamma: float = share(0.99)
    lam: float = share(0.95)
    temperature: float = positive(0.2)
    maximum: float = positive(20.0)
    value_steps: int = positive(20_000)
    value_lr: float = positive(1e-3)
    value_hidden: list[int] = sizes([256, 256])
    refresh_every: int = positive(500)
    ess_floor: float = share(0.001)  # type: ignore[misc]
    name: str = "awr"

    @property
    def critic(self) -> Critic:
        return Critic(
            steps=self.value_steps,
            lr=self.value_lr,
            gamma=self.gamma,
            lam=self.lam,
            hidden=self.value_hidden,
            refresh_every=self.refresh_every,
        )


@dataclass
class Critic(Recipe):
    """Training of V on all data, of AWR's settings."""

    warmup_steps: int = not_negative(0)
    start: str = setting("scratch", choices=("scratch",))
    gamma: float = share(0.99)
    lam: float = share(0.95)
    hidden: list[int] = sizes([256, 256])
    refresh_every: int = positive(500)


@dataclass
class IQL(Recipe):
    """Implicit Q-learning, with the published settings for locomotion but for `steps`, which are 1,000,000 there.

    expectile: of V among the values of the data's actions; nearer to 1 is nearer to their maximum. beta: w = exp(beta · (Q −
    V)), at most `maximum`. value_lr: of V and Q, constant. target_rate: of the moving average of Q that V and the weights see.
    reward_scale: rewards are multiplied by it; null: by the longest trajectory's steps over the best less the worst return,
    which is 1000 / (best − worst) in locomotion.
    """

    label: ClassVar[str] = "IQL"

    steps: int = positive(100_000)
    lr: float = positive(3e-4)
    warmup_steps: int = not_negative(0)
    start: str = setting("scratch", choices=("scratch", "reference"))
    gamma: float = share(0.99)
    expectile: float = setting(0.7, lambda value: 0 < value < 1, "must lie in (0, 1)")
    beta: float = not_negative(3.0)
    maximum: float = positive(100.0)
    value_lr: float = positive(3e-4)
    value_hidden: list[int] = sizes([256, 256])
    target_rate: float = share(0.005)
    reward_scale: float | None = positive(None)
    name: str = "iql"


@dataclass
class Reference(Recipe):
    """Training of the reference policy: behaviour cloning on all data, or on all of another Minari dataset, `dataset_id`, of
    the same task."""

    steps: int = positive(10_000)
    lr: float = positive(1e-3)
    warmup_steps: int = not_negative(0)
    start: str = setting("scratch", lambda value: value == "scratch", "the reference starts from scratch")
    averaging: str = setting("transition", choices=("trajectory", "transition"))
    dataset_id: str | None = None
    name: str = "reference"


# The words for true and false, where a setting has others beside them.
_FLAGS = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}

# --- policy ----------------------------------------------------------------------------------------------------------


@dataclass
class GaussianPolicy(Settings):
    """One Gaussian. kind: `tanh_mean` (a Normal around tanh of the network) or `squashed` (the tanh of a Normal).

    std: `global` (one per action) or `state` (a second output of the network). normalise_observations: by the training data,
    inside the policy; `auto`: the entries that are far from 0 ± 1. history: how many of the last observations it sees. chunk:
    of how many next actions it is a distribution; execute: how many of them are played before it is asked again.
    """

    kind: str = setting("tanh_mean", choices=("tanh_mean", "squashed"))
    std: str = setting("global", choices=("global", "state"))
    hidden: list[int] = sizes([256, 256, 256])
    log_std_min: float = -5.0
    log_std_max: float = 2.0
    normalise_observations: bool | int | str = setting(
        "auto", lambda value: value == "auto" or isinstance(value, bool), "must be one of auto, true, false"
    )
    history: int = _up_to_1000(1)
    chunk: int = _up_to_1000(1)
    execute: int = _up_to_1000(1)
    family: str = "gaussian"

    def __post_init__(self) -> None:
        word = str(self.normalise_observations).lower()
        self.normalise_observations = _FLAGS.get(word, word)

    def check_together(self, group: str) -> None:
        fits = self.log_std_min < self.log_std_max
        self.require(fits, group, "log_std_min", f"must be below log_std_max={self.log_std_max}")
        self.require(self.execute <= self.chunk, group, "execute", f"must be at most {group}.chunk, which is {self.chunk}")


@dataclass
class MixturePolicy(GaussianPolicy):
    """A mixture of Gaussians; the mean action is that of the likeliest."""

    components: int = positive(5)
    family: str = "mixture"


@dataclass
class FlowPolicy(GaussianPolicy):
    """A Gaussian sent through affine couplings, each with a network."""

    couplings: int = positive(4)
    coupling_hidden: list[int] = sizes([64, 64])
    family: str = "flow"

    def check_together(self, group: str) -> None:
        super().check_together(group)
        says = "a flow has no exact density of a part of a chunk, as at the end of an episode; choose policy=mixture"
        self.require(self.chunk == 1, group, "chunk", says)


@dataclass
class SequencePolicy(MixturePolicy):
    """Base class of mixtures that read an episode step after step; after `sequence` steps the memory begins again. They are
    trained on sequences of so many, of which `algo.batch_size` make a minibatch.

    std: `softplus` (softplus of an output, plus e^log_std_min), as robomimic's; or as of other mixtures.
    """

    std: str = setting("softplus", choices=("softplus", "global", "state"))
    log_std_min: float = math.log(1e-4)
    sequence: int = setting(10, lambda value: 2 <= value <= 1000, "must lie between 2 and 1,000")

    def check_together(self, group: str) -> None:
        self.require(self.history == 1, group, "history", f"policy={self.family} remembers by itself; set {group}.sequence")
        for name in ("chunk", "execute"):
            says = f"policy={self.family} plays an action at a time; choose policy=mixture"
            self.require(getattr(self, name) == 1, group, name, says)
        self.require_used(self.std != "softplus", group, "log_std_max", "std=global or std=state")
        super().check_together(group)


@dataclass
class LSTMPolicy(SequencePolicy):
    """A mixture of what an LSTM remembers, with layers of `hidden` sizes: robomimic's BC-RNN-GMM."""

    hidden: list[int] = setting([400, 400], lambda value: bool(value) and all(n > 0 for n in value), "must be layer sizes")
    family: str = "lstm_mixture"


@dataclass
class TransformerPolicy(SequencePolicy):
    """A mixture of what a causal transformer makes of the steps since the memory began: a block for each of `hidden`, the size
    between its two layers, at a `width` that `heads` share."""

    hidden: list[int] = sizes([512, 512, 512])
    width: int = positive(128)
    heads: int = positive(4)
    family: str = "transformer"

    def check_together(self, group: str) -> None:
        super().check_together(group)
        self.require(self.width % self.heads == 0, group, "width", f"must be a multiple of heads={self.heads}")


@dataclass
class OwnPolicy(Settings):
    """A custom policy: `target` names the function or class that makes it, as package.module.Name, called with
    observation_size, action_size and `arguments`. In a configuration it stands as `_target_` with the arguments beside it."""

    target: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    def check_together(self, group: str) -> None:
        if not all(part.isidentifier() for part in self.target.split(".")) or "." not in self.target:
            raise UserError(f"{group}._target_={self.target}: give what to call as package.module.Name")


# --- the rest --------------------------------------------------------------------------------------------------------


@dataclass
class Env(Settings):
    """The evaluation environment. id null: the one the dataset names, as it was recorded.

    kwargs and max_episode_steps: arguments of gymnasium.make, which replace the dataset's. imports: modules that register
    custom environments or algorithms.
    """

    name: str | None = None
    id: str | None = None
    kwargs: dict[str, Any] | None = None
    max_episode_steps: int | None = positive(None)
    imports: list[str] = field(default_factory=list)

    @property
    def needed_imports(self) -> list[str]:
        """The modules that the user has named for import, in `imports` or as module:Id."""
        module = (self.id or "").rpartition(":")[0]
        return [*([module] if module else []), *self.imports]


ACTION_NAMES = {"mean": "mean action", "sample": "sampled actions"}  # as tables say it
ACTIONS = tuple(ACTION_NAMES)


@dataclass
class Eval(Settings):
    """`episodes` at the end, with the last policy (0: nothing is played, during training neither); `periodic_episodes` every so
    many gradient steps (0: none).

    action: the policy's `mean` action, or a `sample` of it, or `both`. reference: true plays the reference policy at the
    end, too.
    """

    episodes: int = number_of_episodes(100)
    periodic_episodes: int = number_of_episodes(10)
    every: int = not_negative(1000)
    seed: int = not_negative(12345)
    action: str = setting("mean", choices=(*ACTIONS, "both"))
    reference: bool = True

    @property
    def period(self) -> int:
        """Gradient steps between two periodic evaluations; 0: there are none."""
        return self.every if self.periodic_episodes else 0

    @property
    def actions(self) -> tuple[str, ...]:
        """The actions that are played; periodic evaluations play the first."""
        return ACTIONS if self.action == "both" else (self.action,)


@dataclass
class Logger(Settings):
    """Destination of figures besides the run's folder. mode, project, entity: of Weights & Biases, which writes to the folder,
    for `wandb sync` to upload, or uploads while training (`online`)."""

    name: str = setting("none", choices=("none", "wandb", "tensorboard"))
    mode: str = setting("offline", choices=("offline", "online"))
    project: str = "iwbc"
    entity: str | None = None

    def check_together(self, group: str) -> None:
        for name in ("mode", "project", "entity"):
            self.require_used(self.name == "wandb", group, name, "logger=wandb")


@dataclass
class Config(Settings):
    """A whole run.

    averaging: log-likelihoods over steps, then over `trajectory`s, or over all steps alike (`transition`). seeds: a list
    trains several side by side. held_out: the share of trajectories, the same ones for every seed, on which nothing is
    trained and whose log-likelihood is watched. threads: of PyTorch and of processes, null: as many as there are cores.
    engine: true trains Gaussian policies by iwbc.engine's written-out gradients, false, with the same numbers, by autograd.
    """

    env: Env = field(default_factory=Env)
    dataset: Any = field(default_factory=Generated)
    curation: Any = field(default_factory=QualityLevels)
    policy: Any = field(default_factory=GaussianPolicy)
    algo: Any = field(default_factory=IWBC)
    reference: Reference = field(default_factory=Reference)
    eval: Eval = field(default_factory=Eval)
    logger: Logger = field(default_factory=Logger)
    averaging: str = setting("trajectory", choices=("trajectory", "transition"))
    held_out: float = setting(0.0, lambda value: 0 <= value < 1, "must lie in [0, 1)")
    seed: int = 0
    seeds: list[int] | None = None
    device: str = setting("cpu", lambda value: value.split(":")[0] in ("cpu", "cuda"), "must be one of cpu, cuda")
    engine: bool = True
    threads: int | None = positive(None)
    log_every: int = positive(50)
    checkpoint_every: int = positive(1000)

    def check_together(self, group: str) -> None:
        seeds = self.all_seeds
        key = "seed" if self.seeds is None else "seeds"
        self.require(bool(seeds) and min(seeds) >= 0, group, key, "needs at least one seed, none negative")
        self.require(len(set(seeds)) == len(seeds), group, "seeds", "names a seed twice")
        self.require_used(self.seeds is None, group, "seed", "seeds=null")
        if isinstance(self.algo, RWR) and not isinstance(self.curation, ReturnWeighted):
            raise UserError("algo=rwr: needs curation=return_weighted, which is what makes it RWR (+method=rwr sets both)")
        numbered = isinstance(self.curation, Auto) and self.curation.path is not None
        says = "curation=auto with a path chooses by rows of all trajectories; needs held_out=0"
        self.require(not (numbered and self.held_out), group, "held_out", says)
        fits = self.reference.dataset_id is None or isinstance(self.dataset, Minari)
        self.reference.require(fits, "reference", "dataset_id", "needs dataset=minari beside it")

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of this run: `seeds`, or else `seed` alone."""
        return self.seeds if self.seeds is not None else [self.seed]

    @property
    def method(self) -> str:
        """The method's name in tables: the algorithm, and the curation and weights that distinguish it from its relatives."""
        match self.curation:
            case ReturnWeighted() if isinstance(self.algo, RWR):
                kept = ranked_by(self.curation)
            case All() if not isinstance(self.algo, FilteredBC):  # said only where the method's name promises a choice
                kept = ""
            case _:
                kept = in_tables(self.curation)
        if isinstance(self.algo, FilteredBC) and isinstance(self.curation, QualityLevels):
            return f"SFT{kept}"
        return f"{self.algo.label}{kept}{self.algo.variant}"


def in_tables(curation: Settings) -> str:
    """Name a curation as it follows an algorithm's name in tables."""
    ranked = ranked_by(curation)
    match curation:
        case TopFraction(fraction=fraction):
            return f" {100 * fraction:g} %{ranked}"
        case QualityLevels():
            return f"(Q{ranked})"
        case Auto(path=path):
            return f"(auto{ranked}{f' by {PurePath(path).stem}' if path else ''})"
        case ReturnWeighted():
            return f" weighted{ranked}" if ranked else " return-weighted"
        case Groups(keep=keep, drop=drop, weights=weights):
            kept = [f"{name} {weight:g}" for name, weight in zip(keep, weights, strict=True)] if weights else keep
            return f" groups ({', '.join([*kept, *(f'not {name}' for name in drop)])})"
        case TrajectoryWeights(path=path):
            return f" weights ({PurePath(path).stem})"
        case TrajectoryScores(path=path, fraction=fraction):
            return f" scores ({PurePath(path).stem}{'' if fraction is None else f' {100 * fraction:g} %'})"
        case _:
            return f" {getattr(curation, 'name', '')}{ranked}"


def ranked_by(curation: Settings) -> str:
    """Say by what a curation ranks trajectories, where it is not their return."""
    rank_by = curation.rank_by if isinstance(curation, Ranked) else "return"
    return "" if rank_by == "return" else f" by {rank_by.replace('_', ' ')}"


# The choices of each group, by the name that stands in a configuration.
RECORDINGS: dict[str, type[Recording]] = {kind.source: kind for kind in (Robomimic, LeRobot, ManiSkill, OGBench, Zarr)}
DATASETS: dict[str, type[Settings]] = {
    **{kind.source: kind for kind in (Generated, Demonstrations, OperatorDemonstrations, Minari, D4RL)},
    **RECORDINGS,
}
CURATIONS: dict[str, type[Settings]] = {
    kind.name: kind
    for kind in (
        All,
        TopFraction,
        QualityLevels,
        Threshold,
        Success,
        ReturnWeighted,
        Groups,
        TrajectoryWeights,
        TrajectoryScores,
        Auto,
    )
}
ALGORITHMS: dict[str, type[Recipe]] = {kind.name: kind for kind in (BC, FilteredBC, RWR, IWBC, AWR, IQL)}
POLICIES: dict[str, type[GaussianPolicy]] = {
    kind.family: kind for kind in (GaussianPolicy, MixturePolicy, FlowPolicy, LSTMPolicy, TransformerPolicy)
}


# Groups that may change while a run is under way: training does not depend on them.
CHANGEABLE = ("env", "eval", "logger")


def training_part(config: Config) -> dict[str, Any]:
    """Return the settings that training depends on, as plain values."""
    plain = {name: value for name, value in to_plain(config).items() if name not in CHANGEABLE}
    made_for_environment = isinstance(config.dataset, Generated | Demonstrations | OperatorDemonstrations)
    return plain | ({"env.id": config.env.id} if made_for_environment else {})


def to_plain(settings: Settings) -> dict[str, Any]:
    """Return settings as nested plain dicts and lists, from which iwbc.config.validate makes them again."""
    plain = asdict(settings)
    if isinstance(settings, Config) and isinstance(settings.policy, OwnPolicy):
        plain["policy"] = {"_target_": settings.policy.target, **settings.policy.arguments}
    return plain


# Dropped settings, and the value that every run has now.
_GONE: dict[str, dict[str, Any]] = {
    "algo": {
        "estimator": "exact",
        "ess_count": 50.0,
        "proposal": "ema",
        "copy_every": 100,
        "step_ratio_bounds": [0.2, 1.8],
        "pareto_smoothing": False,
    },
    "eval": {"backend": "gymnasium"},
    "policy": {"precision": "float32"},
}


def drop_gone(plain: dict[Any, Any]) -> None:
    """Remove dropped settings from a saved configuration. Raises UserError for a value that this version does not have."""
    for group, gone in _GONE.items():
        values = plain.get(group)
        if not isinstance(values, dict) or "_target_" in values:  # arguments of a custom policy may have any name
            continue
        for name, value in gone.items():
            if (saved := values.pop(name, value)) != value:
                raise UserError(f"{group}.{name}={saved}: this version has only {value}")


def add_new(plain: dict[Any, Any]) -> None:
    """Add the settings that a saved configuration of an earlier version lacks, with the values that it had."""
    curation = plain.get("curation")
    if not isinstance(curation, dict) or {"rank_by", "discount"} & curation.keys():
        return
    kind = CURATIONS.get(str(curation.get("name")))
    if kind is not None and issubclass(kind, Ranked):
        curation |= {"rank_by": "return", "discount": 0.99}
