"""`iwbc.verify`, and reports that refuse to put side by side what was evaluated differently."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
from pendulum import ID, QUICK, make_pendulum
from rich.console import Console
from setups import Outcome, read_csv, train

from iwbc.data import content, packed
from iwbc.data.minari_folder import dataset_folder
from iwbc.data.sources import is_local
from iwbc.errors import DataWarning, UserError
from iwbc.report.write import write_report
from iwbc.runs.read import finished_summary, read_episodes
from iwbc.runs.results import gains, totals
from iwbc.runs.summary import Diverged
from iwbc.settings import Minari
from iwbc.system.files import write_csv, write_json
from iwbc.training.trained import load_policy
from iwbc.verify import _recorded, main, verify


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two seeds, played both ways."""
    make_pendulum()
    folder = tmp_path_factory.mktemp("runs") / "run"
    outcome = train(*QUICK, "seeds=[0,1]", "eval.action=both", f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def command(*arguments: str) -> Outcome:
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(arguments)
    except SystemExit as end:
        assert isinstance(end.code, int)
        code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


def differing(folder: Path, *, replay: bool = False) -> list[str]:
    return [check.what for check in verify(folder, replay=replay) if check.same is False]


def test_a_run_is_what_it_says(run: Path) -> None:
    outcome = command(f"run={run}")
    assert (outcome.code, outcome.err) == (0, "")
    assert "DIFFERS" not in outcome.out
    checks = {check.what: check for check in verify(run)}
    files = {"config.yaml", "policy.safetensors", "evaluations.csv", "metrics.csv", "weights.csv", "curation.csv"}
    replays = {"final: replay", "final_sampled: replay"}
    phases = {f"{phase}: results" for phase in PHASES}
    gains = {"final: gain", "final_sampled: gain"}
    assert set(checks) == files | replays | phases | gains | {"seeds", "settings", "episodes", "data", "curation"}
    assert all(check.same for check in checks.values()), checks
    assert checks["final: replay"].seen == "all 6 episodes have the same return, length and success"


def change_return(folder: Path) -> None:
    rows = read_csv(folder / "evaluations.csv")
    (row, *_) = [row for row in rows if row["phase"] == "final"]
    row["return"] = str(float(row["return"]) + 1e-5)
    write_csv(folder / "evaluations.csv", rows)


def change_config(folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("reference:\n  steps: 40", "reference:\n  steps: 41"))


def change_policy(folder: Path) -> None:
    policies = load_policy(folder / "policy.safetensors")
    for parameter in policies[0].parameters():
        parameter.data += 0.5
    policies.save(folder / "policy.safetensors")


def drop_episode(folder: Path) -> None:
    write_csv(folder / "evaluations.csv", read_csv(folder / "evaluations.csv")[:-1])


def in_summary(change: Callable[[dict], object]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def apply(folder: Path) -> None:
        summary = json.loads((folder / "summary.json").read_text())
        change(summary)
        (folder / "summary.json").write_text(json.dumps(summary))

    return apply


PHASES = ("reference", "reference_sampled", "final", "final_sampled")


def drop_seed(summary: dict) -> None:  # type: ignore[type-arg]
    summary["seeds"] = summary["seeds"][:-1]
    summary["results"] = summary["results"][:-1]


def hide_seed(folder: Path) -> None:
    """Say that a seed diverged, and write the results that the other has."""
    in_summary(drop_seed)(folder)
    summary = finished_summary(folder)
    episodes = list(read_episodes(folder))
    recorded = {phase: _recorded(episodes, summary, phase) for phase in summary.totals}
    summary = replace(
        summary,
        diverged=(Diverged(1, 60, "NaN", None),),
        totals={phase: totals(evaluation) for phase, evaluation in recorded.items()},
        gains=gains(recorded),
    )
    write_json(folder / "summary.json", summary.to_plain())


def drop_references(summary: dict) -> None:  # type: ignore[type-arg]
    summary["gains"] = {}
    for phase in ("reference", "reference_sampled"):
        del summary["totals"][phase]


def change_table(name: str, column: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        rows = read_csv(folder / name)
        rows[0][column] = str(float(rows[0][column]) + 1.0)
        write_csv(folder / name, rows)

    return apply


CHANGES = {
    "a file that is gone": (in_summary(lambda s: s["sha256"].update({"choice.json": "0" * 64})), {"choice.json"}),
    "a seed": (
        in_summary(drop_seed),
        {"seeds", "episodes", *(f"{phase}: results" for phase in PHASES), "final: gain", "final_sampled: gain"},
    ),
    "a return": (change_return, {"evaluations.csv", "final: results", "final: gain", "final: replay"}),
    "a setting": (change_config, {"config.yaml"}),
    "a parameter": (change_policy, {"policy.safetensors", "final: replay", "final_sampled: replay"}),
    "an episode": (drop_episode, {"evaluations.csv", "episodes"}),
    "a mean": (in_summary(lambda s: s["totals"]["reference"].update(return_mean=0.0)), {"reference: results"}),
    "an interval": (in_summary(lambda s: s["totals"]["final"].update(return_interval=[0.0, 1.0])), {"final: results"}),
    "a gain": (in_summary(lambda s: s["gains"]["final"].update(mean=1e9)), {"final: gain"}),
    "a seed's spread": (in_summary(lambda s: s["results"][0]["final"].update(return_std=0.0)), {"final: results"}),
    "the data": (in_summary(lambda s: s["dataset"].update(content_hash="0" * 64)), {"data"}),
    "the data's name": (in_summary(lambda s: s["dataset"].update(id="better/data-v0")), {"data"}),
    "the curation": (in_summary(lambda s: s["dataset"].update(kept_steps=1)), {"curation"}),
    "the method": (in_summary(lambda s: s.update(method="iw-BC")), {"settings", "curation"}),
    "a method that keeps all": (in_summary(lambda s: s.update(method=s["method"] + " (keeps all)")), {"curation"}),
    "the algorithm": (in_summary(lambda s: s.update(algo="bc")), {"settings"}),
    "the curation's name": (in_summary(lambda s: s.update(curation="all")), {"settings"}),
    "the averaging": (in_summary(lambda s: s.update(averaging="transition")), {"settings"}),
    "a choice": (in_summary(lambda s: s.update(chosen="the successes")), {"settings"}),
    "a seed that is said to diverge": (hide_seed, {"episodes"}),
    "gains left out": (in_summary(lambda s: s.pop("gains")), {"final: gain", "final_sampled: gain"}),
    "a reference left out": (in_summary(drop_references), {"episodes"}),
    "a gain too many": (
        in_summary(lambda s: s["gains"].update(reference=s["gains"]["final"])),
        {"reference: gain"},
    ),
    "weights": (change_table("weights.csv", "weight"), {"weights.csv"}),
    "a histogram": (change_table("curation.csv", "kept"), {"curation.csv"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_change_is_detected(what: str, folder: Path) -> None:
    change, expected = CHANGES[what]
    change(folder)
    replay = any("replay" in name for name in expected)
    assert set(differing(folder, replay=replay)) == expected
    outcome = command(f"run={folder}", f"replay={str(replay).lower()}")
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) == 1
    assert "DIFFERS" in outcome.out


def test_what_an_earlier_version_did_not_write_is_no_difference(folder: Path) -> None:
    in_summary(lambda s: [s["sha256"].pop(name) for name in ("weights.csv", "curation.csv")])(folder)
    assert differing(folder) == []
    unknown = [check.what for check in verify(folder, replay=False) if check.same is None]
    assert unknown == ["weights.csv", "curation.csv"]
    in_summary(lambda s: [s.pop(name) for name in ("sha256", "gains")])(folder)
    assert differing(folder) == []


def test_changed_data_is_found_and_a_damaged_cache_is_made_again(folder: Path, datasets: Path) -> None:
    make_pendulum()  # one of this test's own: that of the other tests is read by several processes
    assert differing(folder) == []
    dataset = dataset_folder("tests/pendulum/random-v0")
    assert dataset.is_relative_to(datasets)
    data, cache = dataset / "data" / "main_data.hdf5", dataset / "packed" / "rewards.npy"
    before, cached = data.read_bytes(), cache.read_bytes()
    with h5py.File(data, "a") as file:
        file["episode_0/rewards"][0] += 1.0
    assert differing(folder) == ["data"]
    data.write_bytes(before)
    assert differing(folder) == []
    assert cache.read_bytes() == cached
    cache.write_bytes(cached[:-1] + bytes([cached[-1] ^ 1]))
    assert differing(folder) == []
    assert cache.read_bytes() == cached


@pytest.mark.filterwarnings("ignore::iwbc.errors.DataWarning")
@pytest.mark.parametrize("largest", [0, 2**30])
def test_data_is_hashed_once(largest: int, folder: Path, datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pendulum()
    assert differing(folder) == []  # packs it
    hashed, content_hash = [], packed.content_hash

    def counted(arrays: dict[str, Any]) -> str:
        hashed.append(len(arrays))
        return content_hash(arrays)

    for module in (packed, content):
        monkeypatch.setattr(module, "content_hash", counted)
    monkeypatch.setattr(packed, "_LARGE", largest)
    assert differing(folder) == []
    assert len(hashed) == 1


def test_a_changed_cache_of_large_data_is_found(folder: Path, datasets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pendulum()
    assert differing(folder) == []
    monkeypatch.setattr("iwbc.data.packed._LARGE", 100)
    cache = dataset_folder("tests/pendulum/random-v0") / "packed" / "rewards.npy"
    cached, times = cache.read_bytes(), cache.stat()
    cache.write_bytes(cached[:-1] + bytes([cached[-1] ^ 1]))
    os.utime(cache, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.warns(DataWarning, match="told by size and modification time"):
        assert differing(folder) == ["data"]


@pytest.mark.parametrize("name", ["[/old]", "[old]/x"])
def test_brackets_in_a_path_are_no_markup(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    place = folder.parent / name
    place.parent.mkdir(exist_ok=True)
    folder.rename(place)
    outcome = train(*QUICK, "seeds=[0,1]", "eval.action=both", f"hydra.run.dir={place}")
    assert (outcome.code, f"{place} is finished already" in outcome.out) == (0, True), outcome.err
    # The title is wrapped to the width of the table.
    assert f"Verificationof{place}" in "".join(command(f"run={place}", "replay=false").out.split())


def test_a_finished_run_is_not_taken_for_one_on_other_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = [*QUICK, "seeds=[0,1]", "eval.action=both", f"hydra.run.dir={folder}"]
    outcome = train(*again)
    assert (outcome.code, f"is finished already, trained on {ID}, content " in outcome.out) == (0, True), outcome.err
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder.parent / "other"))
    assert train(*again).code == 0  # the data are not there
    make_pendulum(seed=1)
    for arguments in (again, [f"resume={folder}"]):
        outcome = train(*arguments)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome.err
        assert f"{folder}: holds a finished run on other content of dataset {ID}, " in outcome.err


def test_data_that_is_not_here_is_not_made_for_it(folder: Path, datasets: Path) -> None:
    (check,) = [check for check in verify(folder, replay=False) if check.what == "data"]
    assert check.same is None
    assert list(datasets.iterdir()) == []


def test_a_run_on_joined_datasets_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pendulum()
    folder = tmp_path / "joined"
    outcome = train(*QUICK, f"dataset.id={ID}+{ID}", f"hydra.run.dir={folder}")
    assert outcome.code == 0, outcome.err
    checks = {check.what: check for check in verify(folder)}
    assert checks["data"].same and checks["curation"].same
    assert checks["curation"].seen == "keeps 10 of 40"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    (data,) = [check for check in verify(folder, replay=False) if check.what == "data"]
    assert data.same is None


@pytest.mark.parametrize(("there", "local"), [((), False), ((0,), False), ((1,), False), ((0, 1), True)])
def test_joined_datasets_are_here_where_all_are(there: tuple[int, ...], local: bool, datasets: Path) -> None:
    for number in there:
        (datasets / f"some/part-v{number}").mkdir(parents=True)
    assert is_local(Minari("some/part-v0+some/part-v1")) is local


def test_an_unfinished_run_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match="not finished; continue it with"):
        verify(folder)
    with pytest.raises(UserError, match="not a run folder"):
        verify(tmp_path)


# --- reports -------------------------------------------------------------------------------------------------------------


DIFFERENT = {
    "eval.seed is 12345 and 7": lambda folder: (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace("seed: 12345", "seed: 7")
    ),
    "eval.episodes is 3 and 4": lambda folder: (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace("episodes: 3", "episodes: 4")
    ),
    "eval.action is both and mean": lambda folder: (folder / "config.yaml").write_text(
        (folder / "config.yaml").read_text().replace("action: both", "action: mean")
    ),
    "the version of mujoco is": in_summary(lambda summary: summary["versions"].update(mujoco="1.2.3")),
    "reference returns is None and": in_summary(
        lambda summary: summary.update(normalisation={"random": 0.0, "expert": 1.0, "source": "here"})
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_report_refuses_runs_that_were_not_evaluated_alike(what: str, run: Path, folder: Path, tmp_path: Path) -> None:
    DIFFERENT[what](folder)
    with pytest.raises(UserError) as raised:
        write_report([run, folder], tmp_path / "report", Console(quiet=True))
    assert f"were not evaluated alike: {what}" in str(raised.value).replace(" on tests/pendulum/random-v0", "")
    assert "add mixed=true" in str(raised.value)
    assert not (tmp_path / "report").exists()


@pytest.mark.robustness
def test_a_report_mixes_where_it_is_told_to(run: Path, folder: Path, tmp_path: Path) -> None:
    DIFFERENT["reference returns is None and"](folder)
    write_report([run, folder], tmp_path / "report", Console(quiet=True), mixed=True)
    rows = list(csv.DictReader((tmp_path / "report" / "episodes.csv").read_text().splitlines()))
    assert len({row["dataset"] for row in rows}) == 4  # two kinds of reference returns, mean and sampled actions
