from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import minari
import numpy as np
import pytest
from helpers import everything
from same_bytes import KERNELS, TASKS, digests
from setups import PATIENCE, command

from iwbc.data import demonstrations, sources
from iwbc.data.behaviours import GRID, LIMIT, behaviours, exp, on_grid, tanh
from iwbc.data.generate import Unit, carried_over, dataset_id, ensure, plan
from iwbc.data.minari_source import load
from iwbc.data.trajectories import Episode, Trajectories
from iwbc.environments.metaworld import HORIZONS
from iwbc.environments.scores import d4rl_scores
from iwbc.errors import DataWarning, UserError
from iwbc.settings import TIERS, Demonstrations, Generated, OperatorDemonstrations

ENVIRONMENTS = ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"]
EXPERT_RETURNS = {"Hopper-v5": 3000, "Walker2d-v5": 4000, "HalfCheetah-v5": 8000}


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """What a test that fails has started is ended."""
    yield
    while STARTED:
        if (process := STARTED.pop()).poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def generate(
    *arguments: str, cores: set[int] | None = None, program: Sequence[str] = ("-m", "iwbc.data.generate")
) -> subprocess.Popen[str]:
    """The command, on the given cores, in a group of its own."""
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
    )
    STARTED.append(process)
    return process


# --- the behaviours and tiers ----------------------------------------------------------------------------------------


# Mean scores of D4RL's medium datasets.
D4RL_MEDIUM = {"Hopper-v5": 44.3, "HalfCheetah-v5": 40.7, "Walker2d-v5": 62.1}


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_the_shipped_behaviours_are_what_the_tiers_need(env_id: str) -> None:
    source = behaviours(env_id)
    scores = d4rl_scores(env_id)
    assert scores is not None
    medium = scores.normalise(source.returns[source.medium])
    assert source.returns[source.expert] >= EXPERT_RETURNS[env_id]
    assert abs(medium - D4RL_MEDIUM[env_id]) < 4.0
    assert source.replay_end + 1 >= 45
    assert source.medium <= source.replay_end
    assert list(source.steps) == sorted(source.steps)
    assert source.steps[0] == 0
    for snapshot in (0, source.medium, source.expert):
        actions = source.load(snapshot).sample(np.zeros((3, width(env_id))), np.random.default_rng(0))
        assert (np.abs(actions) <= 1).all()


def width(env_id: str) -> int:
    return {"Hopper-v5": 11}.get(env_id, 17)


@pytest.mark.parametrize("tier", TIERS)
def test_a_plan_shares_the_steps_out(tier: str) -> None:
    source = behaviours("Hopper-v5")
    units = plan(source, tier, 200_000, 3)
    shares = {snapshot: sum(u.steps for u in units if u.snapshot == snapshot) for snapshot in {u.snapshot for u in units}}
    expected = {
        "random": {0},
        "medium": {source.medium},
        "medium-replay": set(range(source.replay_end + 1)),
        "medium-expert": {source.medium, source.expert},
        "expert": {source.expert},
    }[tier]
    assert set(shares) == expected
    assert sum(shares.values()) == 200_000
    if tier == "medium-replay":
        # As long as training took from each snapshot to the next, and the last one as long as the one before.
        taken = np.diff(source.steps[: source.replay_end + 1])
        expected_shares = 200_000 * np.append(taken, taken[-1]) / (taken.sum() + taken[-1])
        np.testing.assert_allclose([shares[i] for i in sorted(shares)], expected_shares, atol=1.0)
    else:
        assert max(shares.values()) - min(shares.values()) <= 1
    assert [u.snapshot for u in units] == sorted(u.snapshot for u in units)
    assert len({u.entropy for u in units}) == len(units)


@pytest.mark.parametrize("steps", [1, 7, 13, 14, 15, 1001])
def test_a_plan_of_few_steps_is_whole(steps: int) -> None:
    assert sum(unit.steps for unit in plan(behaviours("Hopper-v5"), "medium-replay", steps, 0)) == steps


def test_steps_beyond_a_unit_s_share_are_taken_from_the_next_units() -> None:
    def episodes(*lengths: int) -> list[Episode]:
        return [Episode(np.zeros((n, 1)), np.zeros(1), np.zeros((n, 1)), np.zeros(n), False) for n in lengths]

    units = [Unit("Hopper-v5", 0, 40, (i,)) for i in range(5)]
    played = [episodes(100), episodes(100), episodes(30, 30), episodes(30, 30), episodes(10, 10, 10, 10)]
    assert [len(episode.rewards) for episode in carried_over(units, played)] == [100, 30, 30, 10, 10, 10, 10]


def test_names_tell_sizes_and_seeds_apart() -> None:
    assert dataset_id("HalfCheetah-v5", "medium-replay") == "iwbc/halfcheetah/medium-replay-v2"
    assert dataset_id("Hopper-v5", "medium", 1000) == "iwbc/hopper/medium-1000-v2"
    assert dataset_id("Hopper-v5", "medium", 1000, 2) == "iwbc/hopper/medium-1000-seed2-v2"


# --- the same bytes on every machine ---------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_the_products_of_behaviours_are_exact(env_id: str) -> None:
    source = behaviours(env_id)
    for snapshot in range(len(source.steps)):
        policy = source.load(snapshot)
        for weight, bias in (*policy.layers, policy.mean, policy.log_std):
            for array in (weight, bias):
                np.testing.assert_array_equal(array * 2.0**24, np.rint(array * 2.0**24))
            assert LIMIT * np.abs(weight).sum(0).max() + np.abs(bias).max() < 2.0**53 * GRID * 2.0**-24
    policy, random = source.load(source.medium), np.random.default_rng(0)
    inputs = np.clip(on_grid(random.normal(size=(50, width(env_id)), scale=20.0), GRID), -LIMIT, LIMIT)
    weight, _ = policy.layers[0]
    order = random.permutation(len(weight))
    np.testing.assert_array_equal(inputs @ weight, inputs[:, order] @ weight[order])


def test_functions_of_behaviours_are_those_of_numpy_but_for_the_last_bits() -> None:
    values = np.concatenate([np.linspace(-50.0, 50.0, 10_001), [0.0, -0.0, 1e-300, -1e-9]])
    np.testing.assert_allclose(exp(values), np.exp(values), rtol=1e-14)
    np.testing.assert_allclose(tanh(values), np.tanh(values), rtol=1e-12, atol=1e-16)
    assert exp(np.zeros(1)) == 1.0
    assert np.abs(tanh(values)).max() == 1.0


def test_actions_are_on_a_grid() -> None:
    policy = behaviours("Hopper-v5").load(0)
    actions = policy.sample(np.random.default_rng(0).normal(size=(1000, 11)), np.random.default_rng(1))
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions * 2.0**20, np.rint(actions * 2.0**20))
    assert len(np.unique(actions)) > 1000


DIGESTS = {
    "Hopper-v5": "295be8e99735b3d9",
    "HalfCheetah-v5": "11180872e7730353",
    "Walker2d-v5": "3161b0bfbede5b0c",
    "iwbc/TwoRoutes-v0": "2e11078d7d49f99e",
    "iwbc/CarefulOrHasty-v0": "c323280d92f3cf46",
    "PointMaze_UMaze-v3": "db9eb032664b328a",
}


def test_the_same_seed_gives_the_committed_bytes() -> None:
    assert digests() == DIGESTS


@pytest.mark.robustness
@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
def test_the_same_seed_gives_the_committed_bytes_with_other_kernels(kernels: dict[str, str]) -> None:
    script = Path(__file__).with_name("same_bytes.py")
    environment = os.environ | {"PYTHONWARNINGS": "ignore"} | kernels
    printed = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed.splitlines()[-1]) == DIGESTS


def test_a_dataset_that_is_not_the_published_one_is_said_to_be(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "published.json"
    monkeypatch.setattr(sources, "PUBLISHED", published)
    chosen = Generated("medium-replay", 20_000)  # that very one
    published.write_text(json.dumps({small: load(small).content_hash}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sources.load_dataset(chosen, "Hopper-v5")
    published.write_text(json.dumps({small: "0" * 64}))
    with pytest.warns(DataWarning, match=f"^dataset {small}: its content is .*, that of the published one 0000000000000000"):
        sources.load_dataset(chosen, "Hopper-v5")


def test_every_default_dataset_is_published() -> None:
    tiers = {dataset_id(env_id, tier) for env_id in ENVIRONMENTS for tier in TIERS}
    tasks = {demonstrations.dataset_id(env_id, Demonstrations()) for env_id in TASKS}
    operated = {demonstrations.dataset_id(f"metaworld/{task}-v3", OperatorDemonstrations()) for task in HORIZONS}
    published = json.loads(sources.PUBLISHED.read_text())
    assert set(published) == tiers | tasks | operated
    assert all(len(content) == 64 for content in published.values())


# --- the datasets ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(hopper: Trajectories) -> str:
    """A small medium-replay dataset of Hopper in the session's folder."""
    return hopper.info.id


def test_a_generated_dataset_is_a_minari_dataset(small: str) -> None:
    dataset = minari.load_dataset(small)
    metadata = dataset.storage.metadata
    assert dataset.total_steps >= 20_000
    assert metadata["total_episodes"] == len(list(dataset.iterate_episodes()))
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-20.272305, 3234.3)
    assert "medium-replay tier of Hopper-v5" in metadata["description"]
    assert metadata["author"] == {"iwbc"}
    assert "code_permalink" not in metadata
    assert metadata["requirements"]
    for evaluation in (False, True):
        env = dataset.recover_environment(eval_env=evaluation)
        assert env.spec is not None
        assert env.spec.id == "Hopper-v5"
        assert env.spec.max_episode_steps == 1000
    assert small in minari.list_local_datasets()


def test_the_minari_command_knows_it(small: str) -> None:
    for arguments in (["list", "local"], ["show", small]):
        result = subprocess.run(
            [sys.executable, "-m", "minari.cli", *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
        )
        assert result.returncode == 0, result.stderr
        assert small in result.stdout


def test_episodes_are_whole_and_scored(small: str) -> None:
    trajectories = load(small)
    assert trajectories.info.env_id == "Hopper-v5"
    assert trajectories.info.reference_scores == d4rl_scores("Hopper-v5")
    assert (trajectories.lengths <= 1000).all()
    assert trajectories.terminated[trajectories.lengths < 1000].all()
    np.testing.assert_array_equal(trajectories.observations.shape, (trajectories.steps, 11))
    assert np.abs(trajectories.actions).max() <= 1.0


@pytest.mark.robustness
@pytest.mark.parametrize(("tier", "tolerance"), [("medium", 0.3), ("expert", 0.03)])
def test_tiers_earn_what_their_behaviours_do(tier: str, tolerance: float) -> None:
    source = behaviours("Hopper-v5")
    expected = source.returns[{"medium": source.medium, "expert": source.expert}[tier]]
    assert load(ensure("Hopper-v5", tier, 10_000)).returns.mean() == pytest.approx(expected, rel=tolerance)


@pytest.mark.robustness
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_the_same_seed_gives_the_same_bytes_on_any_number_of_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests, hashes = set(), set()
    two = set(sorted(os.sched_getaffinity(0))[:2])
    for cores in (two, {min(two)}):
        folder = tmp_path / str(len(cores))
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
        process = generate("env=hopper", "tier=medium-replay", "steps=500", "seed=9", cores=cores)  # fifty units of work
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        name = "iwbc/hopper/medium-replay-500-seed9-v2"
        digests.add(hashlib.sha256((folder / name / "data/main_data.hdf5").read_bytes()).hexdigest())
        hashes.add(load(name).content_hash)
    assert len(digests) == 1
    assert len(hashes) == 1


@pytest.mark.robustness
def test_another_seed_gives_other_data() -> None:
    first, second = (load(ensure("Hopper-v5", "random", 1000, seed)) for seed in (5, 6))
    assert first.content_hash != second.content_hash


# --- what can go wrong -----------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line(datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([10**9, 10**9, -(10**9)])  # less by far than what has been taken by then
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=next(free)))
    message = r"^dataset iwbc/hopper/medium-2000-v2: could not be written to .* \(No space left on device\)$"
    with pytest.raises(UserError, match=message):
        ensure("Hopper-v5", "medium", 2000)
    assert next(free, None) is None
    assert everything(datasets) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "env=… is missing"),
        (["env=hopper"], "tier=… is missing"),
        (["env=hopper", "tier=best"], "tier=best: must be one of random, medium, medium-replay, medium-expert, expert"),
        (["env=pong", "tier=medium"], "environment pong: no behaviour policies are shipped for it (there are: halfcheetah"),
        (["env=Hopper-v4", "tier=medium"], "env=Hopper-v4: behaviour policies are shipped for Hopper-v5 alone"),
        (["env=hopper", "tier=medium", "steps=0"], "steps=0: must be at least 1"),
        (["env=hopper", "tier=medium", "steps=many"], "steps=many: must be a whole number"),
        (["env=hopper", "tier=medium", "seed=-1"], "seed=-1: must be at least 0"),
        (["env=hopper", "tier=medium", "stpes=5"], "stpes=5: not an option; the options are env=…, tier=…, steps=…, seed=…"),
        (["hopper"], "hopper: not an option"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], message: str, datasets: Path) -> None:
    outcome = command("iwbc.data.generate", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert message in outcome.err
    assert everything(datasets) == []


def test_help() -> None:
    outcome = command("iwbc.data.generate", "--help")
    assert outcome.code == 0
    for word in ("env", "tier", "steps", "seed", "medium-replay", "MINARI_DATASETS_PATH"):
        assert word in outcome.out


def test_an_environment_without_behaviours() -> None:
    with pytest.raises(UserError, match="environment Ant-v5: no behaviour policies are shipped for it"):
        ensure("Ant-v5", "medium")
