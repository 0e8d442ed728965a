"""+experiment=robomimic: the settings of robomimic's study, on a stand-in for its files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from formats import truths, write_robomimic
from setups import compose, train

from iwbc.report.collect import collect
from iwbc.runs.read import read_choice, read_config
from iwbc.settings import LSTMPolicy

FILES = "dataset.path=demo.hdf5"


@pytest.mark.parametrize(
    ("method", "algo", "curation", "steps"),
    [
        ("bc_robomimic", "bc", "all", 200_000),
        ("filtered_bc_robomimic", "filtered_bc", "auto", 20_000),
        ("iw_bc_robomimic", "iw_bc", "auto", 20_000),
    ],
)
def test_the_settings_are_the_study_s(method: str, algo: str, curation: str, steps: int) -> None:
    config = compose(f"+method={method}", "+experiment=robomimic", FILES)  # in the sweep's order
    assert (config.algo.name, config.curation.name, config.averaging) == (algo, curation, "transition")
    assert (config.algo.steps, config.algo.lr, config.algo.batch_size) == (steps, 1e-4, 100)
    reference = config.reference
    assert (reference.steps, reference.lr, reference.schedule, reference.batch_size) == (200_000, 1e-4, "constant", 100)
    policy = config.policy
    assert isinstance(policy, LSTMPolicy)
    assert (policy.hidden, policy.components, policy.sequence, policy.std) == ([400, 400], 5, 10, "softplus")
    assert policy.log_std_min == math.log(1e-4)
    assert (config.eval.episodes, config.eval.periodic_episodes, len(config.all_seeds)) == (50, 0, 3)
    assert getattr(config.curation, "rank_by", "length") == "length"


@pytest.mark.robustness
def test_the_sweep_trains_each_method_on_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("square.hdf5", "can.hdf5"):
        write_robomimic(tmp_path / name, [*truths(16), *truths(16), *truths(16)])
    tiny = ("policy.hidden=[8]", "reference.steps=8", "algo.steps=6", "algo.warmup_steps=2", "seeds=[0,1]", "threads=1")
    outcome = train("+experiment=robomimic", "dataset.path=square.hdf5,can.hdf5", *tiny)
    assert outcome.code == 0, outcome.err
    runs = collect([tmp_path / "multirun" / "robomimic"])[0]
    assert sorted({run.summary.method for run in runs}) == ["BC", "filtered BC(auto by length)", "iw-BC(auto by length)"]
    assert len(runs) == 6
    configs = [read_config(run.folder) for run in runs]
    assert {Path(str(getattr(config.dataset, "path", ""))).name for config in configs} == {"square.hdf5", "can.hdf5"}
    chosen = [read_choice(run.folder) for run in runs]
    assert sum(choice is not None for choice in chosen) == 4
