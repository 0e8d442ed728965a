"""conf/: every choice composes and is valid, and what is wrong is refused in one line with nothing left behind."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from setups import compose, every, finish, python, rarely, seldom, train

from iwbc.config import composed, quoted, validate
from iwbc.errors import UserError
from iwbc.evaluate import main as evaluate
from iwbc.runs.read import read_config
from iwbc.settings import ALGORITHMS, CURATIONS, IWBC, RECORDINGS, RWR, Recipe, drop_gone, to_plain
from iwbc.system.files import config_folder

FILES = sorted((path.parent.name, path.stem) for path in Path(config_folder()).glob("*/*.yaml"))
FILES = [(group, name) for group, name in FILES if group != "language"]  # another command's root, with groups of its own
PRESETS = ("experiment", "method")  # groups that set others, and are added with +
CHOICES = [f"{group}={name}" for group, name in FILES if group not in PRESETS]
MANDATORY = {
    "algo=rwr": ["curation=return_weighted"],
    "dataset=minari": ["dataset.id=some/data-v0"],
    "dataset=d4rl": ["dataset.path=hopper_medium-v2.hdf5"],
    **{f"dataset={name}": ["dataset.path=recorded"] for name in RECORDINGS},
    "curation=threshold": ["curation.minimum=10"],
    "curation=weights": ["curation.path=chosen/human.csv"],
    "curation=scores": ["curation.path=chosen/deminf.csv"],
    "curation=groups": ["curation.keep=[better]"],
    "experiment=d4rl": ["dataset.id=mujoco/hopper/medium-v0"],
    "experiment=d4rl_files": ["dataset.path=hopper_medium-v2.hdf5"],
    "experiment=robomimic": ["dataset.path=low_dim_v15.hdf5"],
}


@pytest.mark.parametrize("choice", every(3, CHOICES))
def test_every_choice_composes_and_is_valid(choice: str) -> None:
    config = compose(choice, *MANDATORY.get(choice, []))
    assert validate(OmegaConf.create(yaml.safe_load(yaml.safe_dump(to_plain(config))))) == config
    group, name = choice.split("=")
    told = {"algo": "name", "curation": "name", "env": "name"}.get(group)
    assert told is None or getattr(getattr(config, group), told) == name
    if group == "policy":
        assert name in (config.policy.kind, config.policy.family)


@pytest.mark.robustness
def test_every_preset_composes_and_each_method_has_a_distinct_name() -> None:
    named = [(group, f"{group}={name}") for group, name in FILES if group in PRESETS]
    presets = {
        group: [compose(f"+{choice}", *MANDATORY.get(choice, [])) for g, choice in named if g == group] for group in PRESETS
    }
    assert len(presets["experiment"]) >= 1
    # Those of robomimic's study are told by their steps.
    methods = [compose(f"+{choice}") for group, choice in named if group == "method" and not choice.endswith("_robomimic")]
    assert len({config.method for config in methods}) == len(methods) >= 6


def test_there_is_a_choice_for_everything_in_the_specification() -> None:
    expected = {
        "algo": {"bc", "filtered_bc", "iw_bc", "rwr", "awr", "iql"},
        "curation": {"all", "top_fraction", "quality_levels", "threshold", "success", "return_weighted"},
        "env": {"hopper", "halfcheetah", "walker2d"},
        "policy": {"tanh_mean", "squashed", "mixture", "flow"},
        "logger": {"none", "wandb", "tensorboard"},
    }
    for group, names in expected.items():
        assert {f"{group}={name}" for name in names} <= set(CHOICES)


def test_published_values() -> None:
    config = compose("+experiment=published")
    algo, reference = config.algo, config.reference
    assert isinstance(algo, IWBC)
    assert (algo.steps, algo.lr, algo.batch_size, algo.warmup_steps, algo.schedule) == (2000, 4e-5, 256, 300, "cosine")
    assert algo.decay == 0.9
    assert (algo.level, algo.kappa, algo.minimum, algo.upper_bound) == ("trajectory", 10.0, 0.0, 1000.0)
    assert algo.self_normalise
    assert (reference.steps, reference.lr, reference.batch_size, reference.schedule) == (10_000, 1e-3, 128, "constant")
    assert reference.averaging == config.averaging == "trajectory"
    assert (config.curation.name, config.curation.percentiles) == ("quality_levels", [90.0, 95.0, 98.0])
    policy = config.policy
    assert (policy.kind, policy.std, policy.hidden) == ("tanh_mean", "global", [256, 256, 256])
    assert (policy.log_std_min, policy.log_std_max, policy.normalise_observations) == (-5.0, 2.0, False)
    assert (config.eval.episodes, config.eval.periodic_episodes) == (100, 10)


def test_arguments_of_an_environment_may_be_anything() -> None:
    assert compose("env.kwargs={how: [[1], {a: b}]}").env.kwargs == {"how": [[1], {"a": "b"}]}


def test_an_experiment_leaves_room_for_overrides() -> None:
    config = compose("+experiment=published", "algo.lr=4e-4", "env=walker2d")
    assert config.algo.lr == 4e-4
    assert config.algo.kappa == 10.0
    assert config.env.id == "Walker2d-v5"


def test_a_choice_of_algo_changes_the_algorithm_alone() -> None:
    # Two runs of a sweep over algo= then differ in nothing else.
    usual = compose()
    for algo, kind in ALGORITHMS.items():
        if algo != "rwr":
            assert compose(f"algo={algo}") == dataclasses.replace(usual, algo=kind())
            assert compose("curation=success", f"algo={algo}").curation.name == "success"
    rwr = compose("algo=rwr", "curation=return_weighted")
    assert rwr == dataclasses.replace(compose("curation=return_weighted"), algo=RWR())
    assert rwr == compose("+method=rwr")


def test_a_method_says_in_its_name_what_it_pairs() -> None:
    pairs = {
        "bc_all": "BC",
        "filtered_bc_top10": "filtered BC 10 %",
        "sft_q": "SFT(Q)",
        "iw_bc_top10": "iw-BC 10 %",
        "iw_bc_top10_auto": "iw-BC 10 % auto",
        "iw_bc_q": "iw-BC(Q)",
        "iw_bc_q_step": "iw-BC(Q) step",
        "iw_bc_return_weighted": "iw-BC return-weighted",
        "rwr": "RWR",
        "awr_all": "AWR",
        "iql_all": "IQL",
        "bc_robomimic": "BC",
        "filtered_bc_robomimic": "filtered BC(auto by length)",
        "iw_bc_robomimic": "iw-BC(auto by length)",
    }
    assert {name for group, name in FILES if group == "method"} == set(pairs)
    assert {name: compose(f"+method={name}").method for name in pairs} == pairs
    assert {compose(f"+method={name}").averaging for name in ("bc_all", "awr_all", "iql_all")} == {"transition"}


def test_seeds() -> None:
    assert compose("seed=3").all_seeds == [3]
    assert compose("seeds=[0,1]").all_seeds == [0, 1]


@pytest.mark.parametrize(
    ("text", "value"), [("False", False), ("no", False), ("0", False), ("true", True), ("On", True), ("auto", "auto")]
)
def test_a_flag_means_what_it_says(text: str, value: bool | str) -> None:
    read = compose(f"policy.normalise_observations={text}").policy.normalise_observations
    assert (type(read), read) == (type(value), value)


def test_method_names() -> None:
    names = {
        "algo=bc": "BC(Q)",
        "algo=bc curation=all": "BC",
        "algo=filtered_bc": "SFT(Q)",
        "algo=filtered_bc curation=top_fraction": "filtered BC 10 %",
        "algo=filtered_bc curation=success": "filtered BC success",
        "algo=filtered_bc curation=all": "filtered BC all",
        "algo=filtered_bc curation=weights curation.path=chosen/human.csv": "filtered BC weights (human)",
        "algo=iw_bc curation=weights curation.path=human.csv": "iw-BC weights (human)",
        "algo=iw_bc curation=scores curation.path=deminf.csv": "iw-BC scores (deminf)",
        "algo=filtered_bc curation=scores curation.path=a/cupid.csv curation.fraction=0.3": "filtered BC scores (cupid 30 %)",
        "algo=filtered_bc curation=groups curation.keep=[better,okay]": "filtered BC groups (better, okay)",
        "algo=iw_bc curation=groups curation.keep=[better,okay] curation.weights=[2,0.5]": "iw-BC groups (better 2, okay 0.5)",
        "algo=filtered_bc curation=groups curation.drop=[worse]": "filtered BC groups (not worse)",
        "algo=filtered_bc curation=top_fraction curation.rank_by=length": "filtered BC 10 % by length",
        "algo=filtered_bc curation.rank_by=smoothness": "SFT(Q by smoothness)",
        "algo=iw_bc curation.rank_by=discounted_return": "iw-BC(Q by discounted return)",
        "algo=iw_bc curation=return_weighted curation.rank_by=length": "iw-BC weighted by length",
        "algo=rwr curation=return_weighted curation.rank_by=length": "RWR by length",
        "algo=iw_bc": "iw-BC(Q)",
        "algo=iw_bc algo.window=10": "iw-BC(Q) window",
        "algo=iw_bc algo.level=trajectory": "iw-BC(Q) trajectory",
        "algo=rwr curation=return_weighted": "RWR",
        "algo=awr curation=all": "AWR",
        "algo=awr": "AWR(Q)",
        "algo=iql curation=all": "IQL",
    }
    assert {arguments: compose(*arguments.split()).method for arguments in names} == names


# --- refusals ------------------------------------------------------------------------------------------------------------

REFUSED = {
    # Misspelt groups, choices and keys.
    "env=hoper": "Could not find 'env/hoper'",
    "algo=rwr": "algo=rwr: needs curation=return_weighted, which is what makes it RWR (+method=rwr sets both)",
    "algo=foo": "Available options in 'algo': awr bc filtered_bc iql iw_bc rwr",
    "env=metaworld/foo": "two_routes walker2d metaworld/assembly metaworld/drawer_open",
    "algos=bc": "did you mean algo",
    "algo.stepz=3": "did you mean algo.steps",
    "algo=iql algo.kappa=1 curation=all": "algo.kappa: the chosen algo has no such setting; --cfg job lists those that it has",
    "curation.fraction=0.5 curation=auto": "curation.fraction",
    "algo.kapa=3": "did you mean algo.kappa",
    "kappa=3": "algo.kappa",
    "+algo.foo=3": "algo.foo",
    "+foo=3": "foo",
    "foo=3": "foo: no such setting",
    "++algo.foo=3": "algo.foo",
    "dataset.id=a": "dataset.id: no such setting",
    "hydra/launcher=nope": "Could not find 'hydra/launcher/nope'",
    "hydra/sweeper=nope": "Could not find 'hydra/sweeper/nope'",
    "+experiment=nope": "experiment/nope",
    "algo": "missing EQUAL",
    "--foo": "--foo: not an option (see --help); settings are written without dashes, as in env=hopper",
    "--seeds=3": "--seeds=3: not an option",
    "-x": "-x: not an option",
    # Values of the wrong type.
    "algo.lr=fast": "algo.lr",
    "algo.steps=10.5": "algo.steps",
    "algo.lr=[1]": "algo.lr",
    "policy.hidden=3": "policy.hidden",
    "policy.normalise_observations=maybe": "policy.normalise_observations=maybe: must be one of auto, true, false",
    "policy.normalise_observations=2": "policy.normalise_observations=2: must be one of auto, true, false",
    "policy.normalise_observations=null": "policy.normalise_observations",
    "policy.normalise_observations=[a]": "policy.normalise_observations",
    "seeds=3": "seeds",
    "seeds=[a]": "seeds",
    "seeds=5": "seeds: must be a list, such as [0,1]",
    "dataset=minari dataset.id=[a,b]": "dataset.id: must be one value, not a list",
    "algo.learning_rate=1e-3": "did you mean algo.lr?",
    "algo.weights.kappa=3": "did you mean algo.kappa?",
    "=3": "the choice of a group must be a name",
    "env=3": "the choice of a group must be a name",
    "seed=1 =3": "the choice of a group must be a name",
    "-m env=3": "the choice of a group must be a name",
    "algo=null": "the choice of a group must be a name",
    "~algo": "algo",
    "env.kwargs=3": "env.kwargs",
    "policy._target_=os.system": "policy._target_: no such setting",
    # What asks the machine, or is no value.
    "algo.lr=${nope}": "nope",
    "algo.lr=${oc.env:NOPE}": "NOPE",
    "algo.lr=${": "algo.lr=${: cannot be read",
    "seeds=[0,": "seeds=[0,: cannot be read",
    # Hydra's own options, in ways that it does not take.
    "--cfg": "expected one argument",
    "--cfg jib": "invalid choice",
    "--info nope": "invalid choice",
    "--config-name": "expected one argument",
    "--config-name nope": "nope",
    "hydra.mode=nope": "hydra.mode=nope",
    "--config-dir /nowhere env=hopper": "/nowhere",
    "-mx": "ignored explicit argument",
    "--run --multirun": "Only one of --run, --multirun",
    "--shell-completion": "Expecting one subcommand",
    "--experimental-rerun nope": "would load a pickle",
    "-m algo.lr=range(": "no viable alternative",
    "seed=1 -m algo.lr=1": "options, such as -m, come first",
    "seed=1 resume=nowhere": "resume",
    # Values that cannot be.
    "algo.steps=0": "algo.steps=0: must be positive",
    "algo.lr=-1": "algo.lr=-1.0: must be positive",
    "algo.lr=nan": "algo.lr=nan: must be positive",
    "algo.batch_size=0": "algo.batch_size",
    "algo.warmup_steps=-1": "algo.warmup_steps",
    "algo.schedule=linear": "must be one of constant, cosine",
    "algo.decay=1.5": "algo.decay",
    "algo.level=word": "must be one of window, trajectory",
    "algo.kappa=-1": "algo.kappa",
    "algo.kappa=inf": "algo.kappa",
    "algo.maximum=0": "algo.minimum",
    "algo.refresh_every=0": "algo.refresh_every",
    "policy.family=none": "must be one of gaussian, mixture, flow",
    "policy=mixture policy.components=0": "policy.components=0: must be positive",
    "policy=flow policy.couplings=-1": "policy.couplings",
    "+policy._target_=somewhere": "give what to call as package.module.Name",
    "+policy._target_=nowhere.at.All": "policy._target_=nowhere.at.All: cannot be imported",
    "env.imports=[nowhere]": "env.imports: nowhere cannot be imported",
    "env.id=nowhere:Mine-v0": "env.imports: nowhere cannot be imported",
    "engine=maybe": "engine",
    "algo.start=scratch": "iw_bc starts from the reference",
    "algo=bc algo.start=somewhere": "must be one of scratch, reference",
    "algo=awr algo.gamma=1.1": "algo.gamma",
    "algo=awr algo.lam=-0.1": "algo.lam",
    "algo=awr algo.temperature=0": "algo.temperature",
    "algo=awr algo.maximum=0": "algo.maximum",
    "algo=awr algo.value_lr=0": "algo.value_lr",
    "algo=awr algo.value_hidden=[0]": "algo.value_hidden",
    "algo=awr algo.refresh_every=0": "algo.refresh_every",
    "algo=awr algo.value_steps=0": "algo.value_steps",
    "algo=iql algo.expectile=1": "algo.expectile",
    "algo=iql algo.beta=-1": "algo.beta",
    "algo=iql algo.target_rate=2": "algo.target_rate",
    "algo=iql algo.reward_scale=0": "algo.reward_scale",
    "curation.percentiles=[101]": "curation.percentiles",
    "curation.percentiles=[]": "curation.percentiles",
    "curation=top_fraction curation.fraction=0": "curation.fraction",
    "curation=top_fraction curation.fraction=1.5": "curation.fraction",
    "curation=threshold": "curation.minimum: must be given",
    "curation=threshold curation.minimum=nan": "curation.minimum",
    "curation=return_weighted curation.temperature=0": "curation.temperature",
    "curation=top_fraction curation.rank_by=speed": "curation.rank_by=speed: must be one of return, discounted_return, length,",
    "curation=top_fraction curation.discount=0.9": "curation.discount=0.9: would change nothing; it needs rank_by=",
    "curation=threshold curation.minimum=1 curation.rank_by=length": "curation.rank_by=length: a threshold is one of returns",
    "curation=groups": "curation.keep=[]: name groups to keep, such as [better,okay], or to drop",
    "curation=groups curation.keep=[a,b] curation.weights=[1]": "curation.weights=[1.0]: needs one for each of the 2 groups",
    "curation=groups curation.keep=[a] curation.drop=[a]": "curation.drop=['a']: keep names a, too",
    "curation=scores": "curation.path: must be given",
    "curation=scores curation.path=nowhere.csv": "nowhere.csv: cannot be read (No such file or directory)",
    "curation=scores curation.path=a.csv curation.fraction=2": "curation.fraction=2.0: must lie in (0, 1]",
    "curation=weights": "curation.path: must be given",
    "curation=weights curation.path=nowhere.csv": "nowhere.csv: cannot be read (No such file or directory)",
    "curation=weights curation.path=a.csv curation.sha256=abc": "curation.sha256=abc: must be a SHA-256",
    "dataset=minari": "dataset.id: must be given",
    "dataset=d4rl": "dataset.path: must be given",
    "dataset=d4rl dataset.path=nowhere.hdf5": "nowhere.hdf5: no such file",
    "dataset.tier=best": "must be one of random, medium",
    "dataset.steps=0": "dataset.steps",
    "dataset.seed=-1": "dataset.seed",
    "dataset=minari dataset.id=a-v0 dataset.unfinished=no": "must be one of keep, drop",
    "policy.kind=flow": "must be one of tanh_mean, squashed",
    "policy.std=none": "must be one of global, state",
    "policy.hidden=[0]": "policy.hidden",
    "policy.hidden=[{a:1}]": "policy.hidden: must be a list, such as [0,1]",
    "seeds=[[0]]": "seeds: must be a list, such as [0,1]",
    "env.imports=[{a:1}]": "env.imports: must be a list, such as [0,1]",
    "policy.log_std_min=3": "policy.log_std_min",
    "reference.steps=0": "reference.steps",
    "reference.averaging=mean": "must be one of trajectory, transition",
    "eval.episodes=-1": "eval.episodes",
    "logger.mode=loud": "must be one of offline, online",
    "averaging=mean": "must be one of trajectory, transition",
    "device=tpu": "device=tpu: must be one of cpu, cuda",
    "seeds=[]": "needs at least one seed",
    "seeds=[1,1]": "names a seed twice",
    "seed=-1": "none negative",
    "log_every=0": "log_every",
    "checkpoint_every=0": "checkpoint_every",
    "threads=0": "threads",
    # Settings that would change nothing beside the others.
    "eval.periodic_episodes=-1": "eval.periodic_episodes=-1: must lie between 0 and 1,000,000",
    "eval.episodes=1000000000": "eval.episodes=1000000000: must lie between 0 and 1,000,000",
    "eval.every=-1": "eval.every=-1: must not be negative",
    "eval.seed=-1": "eval.seed=-1: must not be negative",
    "logger.project=ours": "logger.project=ours: would change nothing; it needs logger=wandb",
    "logger=tensorboard logger.mode=online": "logger.mode=online: would change nothing; it needs logger=wandb",
    "seed=3 seeds=[0,1]": "seed=3: would change nothing; it needs seeds=null",
    "curation=success curation.minimum=0.5": "curation.minimum=0.5: would change nothing; it needs success_from=last_reward",
    "algo.level=trajectory algo.window=3": "algo.window=3: would change nothing; it needs level=window",
    "algo.kappa=auto": "algo.kappa=auto: needs level=trajectory",
    # What only shows when the run begins.
    "env=from_dataset": "a generated tier needs an environment",
    "env.id=Ant-v5": "no behaviour policies are shipped for it (there are: halfcheetah, hopper, walker2d); bring data, with "
    "dataset=minari dataset.id=",
    "dataset=minari dataset.id=hopper": "not an id",
    "dataset=minari dataset.id=iwbc/none-v0": "has not been generated here; see python -m iwbc.data.generate",
    "dataset=minari dataset.id=iwbc/tworoutes/demonstrations-slip0_3-v1": "see python -m iwbc.data.demonstrations --help",
    "device=cuda:99": "device=cuda:99: cannot be used",
    "logger=wandb logger.mode=online": "no W&B API key",
    "hydra.run.dir=/proc/nowhere": "/proc/nowhere",
    "resume=": "not a run folder",
    "resume=nowhere": "nowhere: not a run folder",
    "resume=nowhere algo.steps=3": "nowhere: not a run folder",
}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and a home without keys."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(work)


# tests/test_settings.py has every setting named by the line that refuses a value of it.
NAMES_ALONE = {arguments for arguments, said in REFUSED.items() if said == arguments.split()[-1].partition("=")[0]}


@pytest.mark.parametrize(
    "arguments",
    [
        arguments if i % 8 == 0 else seldom(arguments) if arguments in NAMES_ALONE else rarely(arguments)
        for i, arguments in enumerate(REFUSED)
    ],
)
def test_a_wrong_setting_is_one_line_exit_code_2_and_leaves_nothing_behind(arguments: str, tmp_path: Path) -> None:
    outcome = train(*arguments.split())
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert REFUSED[arguments] in outcome.err
    assert outcome.out == ""
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "curation=success": "has no success labels",
        "curation=groups curation.keep=[better]": "has no groups",
        "curation=threshold curation.minimum=1e6": "keeps none of the",
        "dataset=minari dataset.id=iwbc/hopper/medium-replay-20000-v2 env=walker2d": "has 17 observations and 6 actions",
    }.items(),
)
def test_a_setting_that_does_not_fit_the_data_leaves_nothing_behind(arguments: str, message: str, tmp_path: Path) -> None:
    outcome = train("dataset.steps=20000" if "minari" not in arguments else "seed=0", *arguments.split())
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert message in outcome.err
    assert list((tmp_path / "work").iterdir()) == []


def test_a_damaged_configuration_of_a_run_is_one_line(tmp_path: Path) -> None:
    good = yaml.safe_dump(to_plain(compose()))
    for number, text in enumerate(["[1, 2]", "a: b: c", "algo: 5", good.replace("name: iw_bc", "name: [iw_bc]"), "\x00", ""]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.yaml").write_text(text)
        outcome = train(f"resume={folder}")
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1), (text, outcome)


def test_a_missing_field_of_a_saved_configuration_is_refused(tmp_path: Path) -> None:
    plain = to_plain(compose())
    del plain["reference"]["averaging"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(UserError, match="not all settings are there"):
        read_config(tmp_path)


# What iwbc 0.1 wrote.
VERSION_0_1 = """\
env:
  name: hopper
  id: Hopper-v5
dataset:
  source: generated
  tier: medium-replay
  steps: 20000
  seed: 0
curation:
  name: quality_levels
  percentiles:
  - 90.0
  - 95.0
  - 98.0
algo:
  steps: 300
  lr: 0.001
  schedule: cosine
  warmup_steps: 10
  batch_size: 64
  name: iw_bc
  proposal:
    kind: ema
    decay: 0.9
    every: 7
  weights:
    level: trajectory
    kappa: 1.0
    minimum: 0.0
    maximum: 3.0
    step_ratio_bounds:
    - 0.2
    - 1.8
    self_normalise: true
    estimator: running
    refresh_every: 7
  start: reference
policy:
  kind: tanh_mean
  std: global
  hidden:
  - 64
  - 64
  log_std_min: -5.0
  log_std_max: 2.0
  normalise_observations: false
  precision: float32
reference:
  steps: 300
  lr: 0.001
  schedule: constant
  warmup_steps: 0
  batch_size: 64
  averaging: transition
eval:
  episodes: 2
  every: 0
  periodic_episodes: 10
  seed: 12345
  backend: gymnasium
logger:
  mode: disabled
  project: iwbc
  entity: null
averaging: trajectory
seed: 3
seeds: null
device: cpu
threads: 1
log_every: 1
checkpoint_every: 500
"""


def test_a_run_of_the_version_before_is_refused_in_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(VERSION_0_1)
    says = "written by another version of iwbc, which can continue it; or train again"
    for command in ([f"resume={tmp_path}"], ["dataset.steps=20000", f"hydra.run.dir={tmp_path}"]):
        outcome = train(*command)
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
        assert says in outcome.err
    with pytest.raises(UserError, match=says):
        evaluate([f"run={tmp_path}"])
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["config.yaml"]


def test_a_setting_that_is_gone_is_dropped_from_a_saved_run_or_refuses_it(tmp_path: Path) -> None:
    plain = to_plain(compose())
    plain["eval"]["backend"], plain["policy"]["precision"], plain["algo"]["estimator"] = "gymnasium", "float32", "exact"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    assert read_config(tmp_path) == compose()
    gone = [("policy", "precision", "bfloat16"), ("algo", "estimator", "running"), ("eval", "backend", "envpool")]
    for group, name, value in gone:
        refused = plain | {group: plain[group] | {name: value}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(refused))
        with pytest.raises(UserError, match=rf"or train again \({group}.{name}={value}: this version has only "):
            read_config(tmp_path)
    outcome = train(f"resume={tmp_path}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)


@pytest.mark.parametrize("curation", ["quality_levels", "return_weighted", "success"])
def test_a_run_from_before_ranks_is_read_as_one_by_returns(curation: str, tmp_path: Path) -> None:
    config = compose(f"curation={curation}")
    plain = to_plain(config)
    for name in ("rank_by", "discount"):
        plain["curation"].pop(name, None)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    assert read_config(tmp_path) == config


def test_an_argument_of_a_policy_of_one_s_own_may_have_the_name_of_a_setting_that_is_gone() -> None:
    plain = {"policy": {"_target_": "mine.Policy", "precision": "double"}}
    drop_gone(plain)
    assert plain == {"policy": {"_target_": "mine.Policy", "precision": "double"}}


# --- defaults ------------------------------------------------------------------------------------------------------------


def test_there_is_one_default_under_one_name() -> None:
    for name, kind in ALGORITHMS.items():
        assert compose(f"algo={name}", *MANDATORY.get(f"algo={name}", [])).algo == kind()
    for group, method in FILES:
        if group == "method":
            config = compose(f"+method={method}")
            assert dataclasses.replace(config.algo, **given_by(method)) == config.algo
            kind: type[Recipe] = type(config.algo)
            assert config.algo == kind(**given_by(method))
            assert config.curation == CURATIONS[config.curation.name](**given_by(method, "curation"))


def given_by(method: str, group: str = "algo") -> dict[str, str]:
    """What a method says of its algorithm, or of its curation."""
    file = Path(config_folder()) / "method" / f"{method}.yaml"
    said: dict[str, str] = yaml.safe_load(file.read_text()).get(group, {})
    return said


def test_every_setting_can_be_set_from_the_command_line() -> None:
    arguments = "algo.decay=0 algo.refresh_every=7 algo.kappa=3 policy.hidden=[8] reference.lr=1e-4 logger=wandb"
    config = compose(*arguments.split(), "logger.entity=us")
    assert (config.algo.kappa, config.algo.refresh_every, config.policy.hidden) == (3.0, 7, [8])
    assert (config.reference.lr, config.logger.entity) == (1e-4, "us")


def test_python_and_the_command_line_have_the_same_defaults() -> None:
    config = compose()
    assert config.algo == IWBC()
    assert config == dataclasses.replace(type(config)(), env=config.env)


# --- help ----------------------------------------------------------------------------------------------------------------


def test_help_names_the_groups_and_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.argv[1:] = ['--help']; from iwbc.train import main; main(); assert 'torch' not in sys.modules"
    outcome = finish(python("-c", code, cwd=tmp_path))
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    for choice in CHOICES:
        group, name = choice.split("=")
        block = outcome.out.split(f"\n  {group} ")[1].split("\n\n")[0]
        assert re.search(rf"\b{name}\b", block), choice
    methods = outcome.out.split("\n  +method ")[1].split("\n  hydra/launcher")[0]
    assert set(re.findall(r"\b[a-z]\w*_\w+|\brwr\b", methods)) == {name for group, name in FILES if group == "method"}
    assert "resume=" in outcome.out
    assert list((tmp_path / "work").iterdir()) == []


def test_the_learning_rate_schedule_of_the_default_recipe() -> None:
    recipe = compose().algo
    assert recipe.learning_rate(0) == 0.0
    assert recipe.learning_rate(recipe.warmup_steps) == recipe.lr
    assert 0.0 < recipe.learning_rate(recipe.steps - 1) < 1e-4 * recipe.lr


# --- paths -----------------------------------------------------------------------------------------------------------

ODD_PATHS = [
    *(
        "lr=0.1/demo.hdf5",
        "a==b.hdf5",
        "a,b.hdf5",
        "a b.hdf5",
        "a[1].hdf5",
        "[a].hdf5",
        "a{b}.hdf5",
        "{a: 1}.hdf5",
        "a(b).hdf5",
    ),
    *("a'b.hdf5", 'a"b.hdf5', "a\\b.hdf5", "a\\'b.hdf5", "a#b.hdf5", "ä.hdf5", "a:b.hdf5", "x=1,y=[2]/{z} w.hdf5"),
]


@pytest.mark.parametrize("path", every(3, ODD_PATHS))
def test_paths_are_taken_as_typed(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).touch()
    assert composed(["dataset=d4rl", f"dataset.path={path}"]).dataset.path == path
    (argument,) = quoted([f"dataset.path={path}"])
    assert quoted([argument]) == [argument]


@pytest.mark.parametrize(
    "argument",
    [
        *(
            "dataset.path=demo.hdf5",
            "dataset.path='lr=0.1/demo.hdf5'",
            "dataset.path=a.hdf5,b.hdf5",
            "dataset.path=choice(a,b)",
        ),
        *(
            "hydra.run.dir=runs/${now:%Y-%m-%d}/${env.name}",
            "seeds=[0,1]",
            "algo.kappa=1,2",
            "-m",
            "env=hopper",
            "dataset.path=null",
        ),
    ],
)
def test_an_argument_that_hydra_understands_is_not_quoted(argument: str) -> None:
    assert quoted([argument]) == [argument]


def test_the_user_s_folder_takes_the_place_of_its_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/folder/me")
    for key in ("hydra.run.dir", "+hydra.sweep.dir", "out"):
        assert quoted([f"{key}=~/runs/one", f"{key}=~"]) == [f"{key}=/folder/me/runs/one", f"{key}=/folder/me"]
        assert quoted([f"{key}=~/lr=1"]) == [f"{key}='/folder/me/lr=1'"]
    assert [word.strip("'") for word in quoted(["out=a~/b", "out=~nobody-here/x"])] == ["out='a~/b", "out='~nobody-here/x"]
    assert "/folder/me" not in " ".join(quoted(["dataset.path=~/demo.hdf5", "algo=~/x"]))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("dataset.path=lr=0.1/missing.hdf5", "dataset.path='lr=0.1/missing.hdf5'"),
        ("dataset.path=lr=0.1/demo.hdf5,lr=0.2/demo.hdf5", "dataset.path='lr=0.1/demo.hdf5','lr=0.2/demo.hdf5'"),
        ("hydra.run.dir=runs/lr=${algo.lr}", "hydra.run.dir='runs/lr=${algo.lr}'"),
        ("+hydra.sweep.dir=a[1]", "+hydra.sweep.dir='a[1]'"),
    ],
)
def test_a_path_that_hydra_does_not_understand_is_quoted(
    argument: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        (tmp_path / f"lr=0.{number}").mkdir()
        (tmp_path / f"lr=0.{number}/demo.hdf5").touch()
    assert quoted([argument]) == [expected]


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("-0.5", -0.5), ("[1,2.5]", [1, 2.5]), ("[-inf,1]", [-math.inf, 1]), ("null", None)]
)
@pytest.mark.parametrize("name", ["minari dataset.id=my/pick-v0", rarely("d4rl dataset.path=demo.hdf5")])
def test_bounds_of_actions_are_numbers_or_lists(name: str, text: str, value: object) -> None:
    assert composed([*f"dataset={name}".split(), f"dataset.action_low={text}"]).dataset.action_low == value


@pytest.mark.parametrize("text", ["low", "[1,low]", "true", "{a: 1}", "[[1],[2]]"])
def test_bounds_of_actions_are_nothing_else(text: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.action_low=.*: must be a number, or a list of one for each dimension"):
        composed(["dataset=d4rl", "dataset.path=demo.hdf5", f"dataset.action_low={text}"])
