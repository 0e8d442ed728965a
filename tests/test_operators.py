"""Demonstrations by operators of graded quality in Meta-World's tasks: with a stand-in, and with Meta-World where it is
installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from same_bytes import KERNELS
from setups import check_refused, command, compose, rarely, read_csv, train
from test_tasks import same

import iwbc
from iwbc.data.demonstrations import dataset_id
from iwbc.data.operators import OPERATORS, Operator, manner, operated, usual_operators
from iwbc.data.trajectories import Episode
from iwbc.environments.gymnasium import LocalEnvironments, make_env
from iwbc.environments.metaworld import HORIZONS, expert
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.runs.read import read_summary
from iwbc.settings import OPERATORS as NAMES
from iwbc.settings import OperatorDemonstrations
from iwbc.system.files import config_folder

PICK, HASTY = "metaworld/pick-place-v3", "metaworld/pick-place-hasty-v3"
FILES = sorted((Path(config_folder()) / "env" / "metaworld").glob("*.yaml"))
BRIEF = ("policy.hidden=[32,32]", "reference.steps=20", "algo.steps=20", "eval.periodic_episodes=0", "threads=1")


@pytest.fixture(params=["stand-in", rarely("metaworld")], autouse=True)
def metaworld(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets `import metaworld` find the stand-in, or Meta-World, where it is installed."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "metaworld"]:
            del sys.modules[name]

    if request.param == "stand-in":
        monkeypatch.syspath_prepend(Path(__file__).parent / "stand_ins")
        forget()
        request.addfinalizer(forget)
    elif importlib.util.find_spec("metaworld") is None:
        pytest.skip("needs the extra metaworld")
    return request.param


def played(*names: str, episodes: int = 12, env_id: str = PICK, seed: int = 3, **options: bool) -> list[Episode]:
    return list(operated(EnvironmentSpec(env_id), expert(env_id), names, episodes, seed, **options))


# --- operators -----------------------------------------------------------------------------------------------------------


def actions(operator: Operator, steps: int, gripper: float = 0.5) -> np.ndarray:
    """What an operator makes of a script that always goes on at twice the highest speed, along the first axis: [steps, 4]."""
    act = manner(operator, lambda _: np.array([2.0, 0.0, 0.0, gripper]), np.random.default_rng(0))
    return np.array([act(None) for _ in range(steps)])


def runs(flags: np.ndarray) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(np.diff(edges)[::2])


def test_an_operator_without_faults_does_what_the_script_says_at_its_speed() -> None:
    np.testing.assert_array_equal(actions(Operator(1.0, 0.0), 3), [[1.0, 0.0, 0.0, 0.5]] * 3)
    np.testing.assert_array_equal(actions(Operator(0.4, 0.0), 3), [[0.4, 0.0, 0.0, 0.5]] * 3)


def test_noise_moves_the_hand_and_not_the_gripper() -> None:
    noisy = actions(Operator(0.5, 0.2), 4000)
    np.testing.assert_allclose(noisy.mean(axis=0), [0.5, 0.0, 0.0, 0.5], atol=0.02)
    np.testing.assert_allclose(noisy.std(axis=0), [0.2, 0.2, 0.2, 0.0], atol=0.02)


def test_pauses_slips_and_detours_begin_at_their_rate_and_last() -> None:
    pauses = runs((actions(Operator(0.5, 0.0, pauses=0.02), 5000)[:, :3] == 0.0).all(axis=1))
    slips = runs(actions(Operator(0.5, 0.0, slips=0.02), 5000)[:, 3] == -1.0)
    strays = actions(Operator(0.5, 0.0, detours=0.02), 5000)
    detours = runs(strays[:, 1] != 0.0)
    assert (min(pauses), min(slips), min(detours)) == (10, 10, 15)  # two in a row look like a longer one
    # One in 50 of the steps between them: some 5000 / (50 + 10), and 5000 / (50 + 15), give or take 3 standard deviations.
    assert all(55 < sum(lengths) / 10 < 111 for lengths in (pauses, slips))
    assert 51 < sum(detours) / 15 < 103
    assert np.abs(strays[:, :3]).max() <= 0.5
    assert len({tuple(row) for row in strays[strays[:, 1] != 0.0]}) >= len(detours)  # each goes somewhere else


def test_operators_are_graded() -> None:
    assert set(OPERATORS) == set(NAMES)
    graded = [OPERATORS[name] for name in usual_operators(PICK)]
    faults = [(each.noise, each.detours, each.pauses, each.slips) for each in graded]
    assert all(np.less_equal(better, worse).all() and better != worse for better, worse in pairwise(faults))
    assert usual_operators(HASTY) == ("patient", "hasty")


def test_the_better_operator_succeeds_more_often_and_sooner() -> None:
    careful, sloppy = (played(name, episodes=20) for name in ("careful", "sloppy"))
    assert all(episode.success for episode in careful)
    assert np.mean([len(e.rewards) for e in careful]) < 0.8 * np.mean([len(e.rewards) for e in sloppy])
    assert all((np.abs(episode.actions) <= 1.0).all() and episode.actions.dtype == np.float32 for episode in sloppy)


def test_operators_take_turns_and_an_episode_is_a_function_of_the_seed_and_its_number() -> None:
    first = played("careful", "sloppy", episodes=5)
    assert [episode.groups for episode in first] == [("careful",), ("sloppy",), ("careful",), ("sloppy",), ("careful",)]
    assert same(first, played("careful", "sloppy", episodes=5))
    assert same(first[:3], played("careful", "sloppy", episodes=3))
    assert not same(first, played("careful", "sloppy", episodes=5, seed=4))


def test_an_operator_who_fails_tries_again_where_only_successes_count() -> None:
    every, kept = played("hasty", env_id=HASTY), played("hasty", env_id=HASTY, successes_only=True)
    assert all(episode.success for episode in kept)
    succeeded = [episode.success for episode in every]
    assert 0 < sum(succeeded) < 12
    assert [same([a], [b]) for a, b in zip(every, kept, strict=True)] == succeeded


def test_an_operator_who_never_succeeds_is_not_waited_for_for_ever() -> None:
    short = EnvironmentSpec(PICK, max_episode_steps=2)
    with pytest.raises(UserError, match=r"the careful operator failed 100 times in a row; give more time"):
        next(operated(short, expert(PICK), ["careful"], 1, successes_only=True))


# --- the environment -----------------------------------------------------------------------------------------------------


def test_success_is_all_that_is_rewarded_and_ends_the_episode() -> None:
    for episode in played("careful", "sloppy", episodes=6):
        assert episode.rewards.sum() == float(episode.success or False) == episode.rewards[-1]
        assert episode.terminated == episode.success
        assert episode.success or len(episode.rewards) == HORIZONS["pick-place"]


def test_gymnasium_makes_them_by_the_module_s_name() -> None:
    env = gym.make(f"iwbc.environments.metaworld:{HASTY}", slip=0.25)
    assert (env.unwrapped.slip, env.spec.max_episode_steps) == (0.25, HORIZONS["pick-place-hasty"])  # type: ignore


def test_the_goal_is_seen_and_differs_from_episode_to_episode() -> None:
    goals = [episode.observations[0, 36:] for episode in played("careful", episodes=4)]
    assert len({tuple(goal) for goal in goals}) == 4
    assert all(0.8 <= goal[1] <= 0.9 for goal in goals)


def test_a_seed_repeats_an_episode_in_an_environment_that_was_played_before() -> None:
    environments = LocalEnvironments(PICK)
    starts = environments.reset([1, 2]).copy()
    for _ in range(3):
        environments.step(np.arange(2), np.ones((2, 4)))
    assert np.array_equal(environments.reset([2, 1]), starts[::-1])
    assert np.array_equal(LocalEnvironments(PICK).reset([1]), starts[:1])
    assert not np.array_equal(starts[0], starts[1])


def test_an_episode_begins_with_what_is_there(metaworld: str) -> None:
    env = make_env(PICK if metaworld == "stand-in" else "metaworld/drawer-open-v3")
    for seed in range(5):
        first, _ = env.reset(seed=seed)
        second = env.step(np.zeros(4, np.float32))[0]
        np.testing.assert_allclose(second[4:7], first[4:7], atol=2e-3)  # the drawer, or puck, is where it was
        np.testing.assert_array_equal(first[18:36], first[:18])
        np.testing.assert_array_equal(second[18:36], first[:18])


def test_what_a_hasty_hand_takes_away_slips_half_of_the_time_and_from_a_patient_hand_never() -> None:
    assert all(episode.success for episode in played("patient", env_id=HASTY, episodes=10))
    hasty = played("hasty", env_id=HASTY, episodes=60)
    slipped = [episode for episode in hasty if not episode.success]
    assert abs(len(slipped) / 60 - 0.5) < 3.3 * np.sqrt(0.25 / 60)  # 99.9 % of a binomial's mass
    assert all(episode.terminated and episode.rewards.sum() == 0.0 for episode in slipped)
    assert max(len(episode.rewards) for episode in slipped) < 60
    assert all(episode.success for episode in played("hasty", env_id=PICK, episodes=10))


def test_nothing_tells_that_it_will_slip() -> None:
    """The same seed and actions with and without bad luck: the same steps, until it strikes."""
    lucky, unlucky = (
        next(operated(EnvironmentSpec(HASTY, {"slip": slip}), expert(HASTY), ["hasty"], 1)) for slip in (0.0, 1.0)
    )
    steps = len(unlucky.rewards)
    assert lucky.success and not unlucky.success and steps < len(lucky.rewards)
    np.testing.assert_array_equal(lucky.observations[:steps], unlucky.observations)
    np.testing.assert_array_equal(lucky.observations[steps], unlucky.final_observation)


def test_what_cannot_be_is_refused_in_one_line() -> None:
    for env_id, kwargs, says in (
        (PICK, {"slip": 1.5}, r"slip=1\.5: must lie in \[0, 1\]"),
        ("metaworld/hammer-v3", {"slip": 0.5}, r"slip=0\.5: is of pick-place alone"),
        ("metaworld/hammer-hasty-v3", {}, r"slip=0\.5: is of pick-place alone"),
        ("metaworld/juggle-v3", {}, "metaworld/juggle-v3: Meta-World has no such task, only .*pick-place"),
        ("metaworld/pick-place-v2", {}, "metaworld/pick-place-v2: the names of Meta-World's tasks are such as metaworld/"),
    ):
        with pytest.raises(UserError, match=says) as refused:
            make_env(EnvironmentSpec(env_id, kwargs))
        assert "\n" not in str(refused.value)


def test_without_meta_world_a_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    for name in ("metaworld.env_dict", "metaworld.policies"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match=r"pick-place-v3: Meta-World cannot be imported .* the extra metaworld: pip install"):
        make_env(PICK)


# --- datasets and runs ---------------------------------------------------------------------------------------------------


def test_a_dataset_holds_groups_labels_and_what_to_evaluate_in(datasets: Path) -> None:
    data = iwbc.demonstrations(HASTY, episodes=9, slip=0.25, horizon=150, operators=["hasty", "patient"], seed=2)
    assert data.info.id == "iwbc/metaworld/pick-place-hasty/demonstrations-9-hasty-patient-slip0_25-horizon150-seed2-v1"
    assert data.info.groups == ["hasty", "patient"] and data.groups is not None
    assert data.groups.tolist() == [[True, False], [False, True]] * 4 + [[True, False]]
    environment = data.info.environment
    assert environment is not None and environment.id == HASTY
    assert (environment.kwargs["slip"], environment.max_episode_steps) == (0.25, 150)
    again = EnvironmentSpec(HASTY, {"slip": 0.25}, 150)
    assert same(data, operated(again, expert(HASTY), ["hasty", "patient"], 9, 2))
    made = make_env(environment)
    assert made.unwrapped.slip == 0.25  # type: ignore[attr-defined]


def test_every_setting_of_a_dataset_is_part_of_its_name() -> None:
    assert dataset_id(PICK, OperatorDemonstrations()) == "iwbc/metaworld/pick-place/demonstrations-v1"
    changes = {"episodes": 10, "seed": 1, "operators": ["careful"], "outcomes": "successes", "slip": 0.9, "horizon": 50}
    names = {dataset_id(PICK, OperatorDemonstrations(**{key: value})) for key, value in changes.items()}
    assert len(names) == len(changes)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_task_is_a_choice(file: Path) -> None:
    config = compose(f"env=metaworld/{file.stem}")
    assert config.env.name == f"metaworld_{file.stem}"
    assert config.env.id == f"metaworld/{file.stem.replace('_', '-')}-v3"
    assert config.env.id.split("/")[1].removesuffix("-v3") in HORIZONS
    assert config.dataset == OperatorDemonstrations()


def test_the_commands_make_demonstrations_train_and_evaluate(datasets: Path, tmp_path: Path) -> None:
    arguments = ("dataset.episodes=9", "dataset.outcomes=successes", "curation=groups", "curation.keep=[careful,average]")
    made = command("iwbc.data.demonstrations", "env=metaworld/pick_place", "episodes=9", "outcomes=successes")
    assert made.code == 0, made.err
    assert made.out.startswith("iwbc/metaworld/pick-place/demonstrations-9-successes-v1 is in ")
    outcome = train("env=metaworld/pick_place", *arguments, "eval.episodes=2", *BRIEF, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    summary = read_summary(tmp_path / "run")
    assert summary is not None and summary.environment is not None
    assert summary.environment.id == PICK
    assert (summary.dataset.trajectories, summary.dataset.kept_trajectories) == (9, 6)
    rows = read_csv(tmp_path / "run" / "evaluations.csv")
    assert {row["success"] for row in rows} <= {"0", "1"}
    assert all(int(row["length"]) <= HORIZONS["pick-place"] for row in rows)


def test_the_commands_refuse_what_does_not_go_together(datasets: Path, tmp_path: Path) -> None:
    for arguments, says in {
        ("env=hopper", "dataset=operators"): "Hopper-v5: has no operators, as Meta-World's tasks have",
        ("env=metaworld/pick_place", "dataset=demonstrations"): "pick-place-v3: has operators in place of demonstrators",
        ("env=metaworld/pick_place", "dataset.operators=[clumsy]"): "must be a list of some of careful, average, sloppy",
        ("env=metaworld/pick_place", "dataset.slip=2"): "dataset.slip=2.0: must lie in [0, 1]",
    }.items():
        check_refused(arguments, says, tmp_path / "run")


# Of six demonstrations of each task in Meta-World 3.0.0.
DIGESTS = {
    "metaworld/assembly-v3": "6992e1a2190126ae",
    "metaworld/drawer-open-v3": "633f099aaad9cc92",
    "metaworld/hammer-v3": "bc46051f97f67cfb",
    "metaworld/pick-place-v3": "db6236f81796fac9",
    "metaworld/pick-place-hasty-v3": "fb2d100e6efb353c",
}


@pytest.mark.robustness
@pytest.mark.parametrize("kernels", [{}, *KERNELS.values()], ids=["usual", *KERNELS])
def test_the_same_seed_gives_the_committed_bytes_with_any_kernels(metaworld: str, kernels: dict[str, str]) -> None:
    if metaworld == "stand-in":
        pytest.skip("has no physics")
    script = Path(__file__).with_name("same_bytes.py")
    environment = os.environ | {"PYTHONWARNINGS": "ignore"} | kernels
    arguments = [sys.executable, script, "operators"]
    printed = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.splitlines()[-1]) == DIGESTS
