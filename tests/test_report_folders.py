"""Run folders made by hand for the report's tests, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from setups import summary_of, total

from iwbc.environments.scores import ReferenceScores
from iwbc.environments.spec import EnvironmentSpec
from iwbc.errors import UserError
from iwbc.report.collect import collect
from iwbc.runs.read import read_numbers, read_videos, read_weights
from iwbc.runs.summary import DatasetSummary, SeedResult
from iwbc.system.files import write_csv, write_json

HOPPER = {"random": -20.272305, "expert": 3234.3, "source": "D4RL"}
HEADER = "phase,step,seed,episode,action,return,length,score,success"
UNIT = {"random": 0.0, "expert": 100.0, "source": "the test"}  # a return is its own score

METHODS: dict[str, dict[str, Any]] = {
    "BC": {"algo": {"name": "bc", "start": "scratch"}, "curation": {"name": "all"}},
    "filtered BC 10 %": {"algo": {"name": "filtered_bc", "start": "reference"}, "curation": {"name": "top_fraction"}},
    "filtered BC 10 % by length": {
        "algo": {"name": "filtered_bc", "start": "reference"},
        "curation": {"name": "top_fraction", "rank_by": "length"},
    },
    "iw-BC(Q)": {
        "algo": {"name": "iw_bc", "start": "reference", "kappa": 2.0},
        "curation": {"name": "quality_levels"},
    },
}


def make_run(
    folder: Path,
    method: str = "BC",
    dataset: str = "iwbc/hopper/medium-v0",
    returns: Mapping[int, Sequence[float]] | None = None,
    *,
    content_hash: str = "ab" * 32,
    env_id: str | None = "Hopper-v5",
    successes: Mapping[int, Sequence[bool]] | None = None,
    sampled: Mapping[int, Sequence[float]] | None = None,
    reference: Mapping[int, Sequence[float]] | None = None,
    normalisation: dict[str, Any] | None = UNIT,
    settings: Mapping[str, Any] | None = None,
    steps: int = 2000,
    periodic: Mapping[int, Mapping[int, float]] | None = None,
    metrics: Sequence[Mapping[str, Any]] = (),
    histogram: Sequence[tuple[float, float, int, int]] = (),
) -> Path:
    """A finished run: `returns[seed]` (and `successes`) of its final episodes, `sampled[seed]` of those with sampled actions,
    `reference[seed]` of the reference's, and `periodic[step][seed]` of one episode each."""
    returns = {0: [10.0, 20.0]} if returns is None else returns
    config = {"seed": 0, "seeds": list(returns), "device": "cpu", "reference": {"steps": 10}, **METHODS.get(method, {})}
    config["algo"] = {**config.get("algo", {"name": "other"}), "lr": 0.001, "steps": steps, **(settings or {})}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    episodes = [
        ("periodic", step, seed, 0, "mean", total)
        for step, totals in (periodic or {}).items()
        for seed, total in totals.items()
    ]
    episodes += [
        ("reference", 0, s, i, "mean", total) for s, totals in (reference or {}).items() for i, total in enumerate(totals)
    ]
    played = {"final": ("mean", returns)} | ({"final_sampled": ("sample", sampled)} if sampled else {})
    for action, of_seeds in played.values():
        episodes += [("final", steps, s, i, action, total) for s, totals in of_seeds.items() for i, total in enumerate(totals)]

    def score(total: float) -> float | str:
        if normalisation is None:
            return ""
        return 100 * (total - normalisation["random"]) / (normalisation["expert"] - normalisation["random"])

    def success(phase: str, seed: int, episode: int) -> int | str:
        return int(successes[seed][episode]) if successes and phase == "final" else ""

    columns = ("phase", "step", "seed", "episode", "action", "return", "length", "score", "success")
    rows = [dict(zip(columns, (*e, 7, score(e[-1]), success(e[0], e[2], e[3])), strict=True)) for e in episodes]
    write_csv(folder / "evaluations.csv", rows)
    if metrics:
        write_csv(folder / "metrics.csv", metrics)
    if histogram:
        names = ("return_low", "return_high", "trajectories", "kept")
        write_csv(folder / "curation.csv", [dict(zip(names, row, strict=True)) for row in histogram])
    played = {phase: (action, of_seeds) for phase, (action, of_seeds) in played.items() if any(of_seeds.values())}

    def result(of_seed: Sequence[float]) -> SeedResult:
        return SeedResult(len(of_seed), sum(of_seed) / len(of_seed), 0.0, None, None)

    totals = {phase: total(sum(map(sum, of_seeds.values())), action=action) for phase, (action, of_seeds) in played.items()}
    summary = summary_of(
        totals,
        method=method,
        environment=None if env_id is None else EnvironmentSpec(env_id),
        dataset=DatasetSummary(dataset, content_hash, 40, 400, 4, 40),
        curation=config.get("curation", {}).get("name", "all"),
        seeds=tuple(returns),
        results={seed: {phase: result(of_seeds[seed]) for phase, (_, of_seeds) in played.items()} for seed in returns},
        normalisation=None if normalisation is None else ReferenceScores(**normalisation),
        versions={},
    )
    write_json(folder / "summary.json", summary.to_plain())
    return folder


def make_failure(folder: Path, error: str = "out of luck", overrides: Sequence[str] = ("algo=bc",)) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("algo: {name: bc}\n")
    (folder / "failure.json").write_text(json.dumps({"error": error, "overrides": list(overrides)}))
    return folder


def test_every_run_below_the_folders_is_found_once(tmp_path: Path) -> None:
    make_run(tmp_path / "sweep" / "b" / "run")
    make_run(tmp_path / "sweep" / "a=1,c=2")
    make_run(tmp_path / "alone")
    names = ["sweep", "alone", "sweep/b", "sweep/b/run"]
    runs, missing = collect([tmp_path / name for name in names])
    assert [run.name for run in runs] == ["alone", "sweep/a=1,c=2", "sweep/b/run"]
    assert missing == []


def test_a_single_run_keeps_its_folder_s_name_and_values(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", returns={3: [10.0, 20.0, 60.0], 4: [1.0]}, normalisation=HOPPER, periodic={500: {3: 5.0}})
    (collected,), _ = collect([run])
    assert collected.name == "one"
    assert collected.seeds == (3, 4)
    assert [e.total for e in collected.final(3)] == [10.0, 20.0, 60.0]
    assert collected.final(3)[0].score == pytest.approx(100 * 30.272305 / 3254.572305)
    assert len(collected.episodes) == 5


def test_failed_and_unfinished_runs_are_told_with_their_reason(tmp_path: Path) -> None:
    make_run(tmp_path / "good")
    make_failure(tmp_path / "bad", "the loss is not finite", ["algo=awr", "seed=3"])
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.yaml").write_text("algo: {name: bc}\n")
    runs, missing = collect([tmp_path])
    assert [run.name for run in runs] == ["good"]
    assert [(run.name, run.status) for run in missing] == [("bad", "failed"), ("cut", "unfinished")]
    assert missing[0].reason == "the loss is not finite (algo=awr seed=3)"
    assert "interrupted or still running" in missing[1].reason


def test_a_run_that_failed_once_and_then_finished_is_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "failure.json").write_text('{"error": "earlier", "overrides": []}')
    runs, missing = collect([tmp_path])
    assert len(runs) == 1
    assert missing == []


def test_files_inside_a_run_are_no_runs_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "wandb" / "files").mkdir(parents=True)
    (run / "wandb" / "files" / "config.yaml").write_text("x: 1\n")
    runs, missing = collect([tmp_path])
    assert (len(runs), missing) == (1, [])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("summary.json", '{"format": 2, "sta', "damaged (Unterminated string"),
        ("summary.json", "[]", "damaged (it holds no object"),
        ("summary.json", '{"format": 1}', "format 1, written by another version of iwbc"),
        ("summary.json", '{"format": 2, "status": "finished"}', "'results' is missing"),
        ("evaluations.csv", f"{HEADER}\nfinal,1,0,0,mean,10\n", "line 2: damaged"),
        ("evaluations.csv", f"{HEADER}\nfinal,1,0,0,mean,10,7,10,\n", "not the final episodes of seed 0"),
        ("config.yaml", "algo: {name: bc}", "algo.steps is missing"),
        ("config.yaml", "algo: [\n", "damaged"),
        ("config.yaml", "algo: {steps: 1}\neval: {backend: envpool}", "eval.backend=envpool: this version has only gymnasium"),
        ("config.yaml", "algo: {steps: 1}\npolicy: {precision: bfloat16}", "policy.precision=bfloat16: this version has only"),
        ("config.yaml", "- 1\n", "holds no settings"),
        ("failure.json", "{", "damaged (Expecting property name"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, name: str, content: str, problem: str) -> None:
    run = make_failure(tmp_path / "run") if name == "failure.json" else make_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(UserError) as error:
        collect([tmp_path])
    assert str(run / name) in str(error.value)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_number_without_end_is_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    text = json.dumps(json.loads((run / "summary.json").read_text()))
    (run / "summary.json").write_text(text.replace('"seeds": [0]', '"seeds": [1e999]'))
    with pytest.raises(UserError, match=r"summary\.json: damaged \(cannot convert float infinity"):
        collect([tmp_path])


def test_lost_evaluations_are_noticed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "evaluations.csv").unlink()
    with pytest.raises(UserError, match="not the final episodes of seed 0"):
        collect([tmp_path])


def test_results_of_other_seeds_than_trained_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text()) | {"seeds": [0, 1]}
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"results of seeds \[0\], but trained \[0, 1\]"):
        collect([tmp_path])


@pytest.mark.parametrize(("make", "problem"), [(False, "no such folder"), (True, "no run folder there or below")])
def test_nothing_to_report_says_so(tmp_path: Path, make: bool, problem: str) -> None:
    folder = tmp_path / "empty"
    if make:
        folder.mkdir()
    with pytest.raises(UserError, match=problem):
        collect([folder])


def test_tables_are_numbers_by_column(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_numbers(path, "step") == {}
    path.write_text("step,loss\n")
    assert read_numbers(path, "step") == {}
    path.write_text("step,loss\n10,0.5\n20,\n")
    columns = read_numbers(path, "step")
    assert columns["step"].tolist() == [10.0, 20.0]
    assert columns["loss"][0] == 0.5 and np.isnan(columns["loss"][1])


@pytest.mark.parametrize(
    ("text", "reason"),
    {
        "seed,return\n0,1\n": "no number in column length",
        "seed,return,length,curation,weight\n0,1,2,1,\n": "no number in column weight",
        "seed,return,length,curation,weight\n0,inf,2,1,1\n": "no number in column return",
        "seed,return,length,curation,weight\n0,1,2,1,one\n": "could not convert string to float: 'one'",
        "seed,return,length,curation,weight\n0,1\n": "no number in column length",
        "seed,return,length,curation,weight\n0,1,2,1,-1\n": "negative weights, or none above 0",
        "seed,return,length,curation,weight\n0,1,2,0,1\n": "negative weights, or none above 0",
    }.items(),
)
def test_damaged_tables_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "weights.csv").write_text(text)
    with pytest.raises(UserError, match=rf"weights\.csv: damaged \({reason}\); train this run again"):
        read_weights(tmp_path)


def test_videos_are_named_by_their_files_alone(tmp_path: Path) -> None:
    assert read_videos(tmp_path) == []
    row = {"name": "best", "file": "best.gif", "seed": 0, "episode": 1, "return": 20.0, "length": 7, "of": 2, "action": "mean"}
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "videos.json").write_text(json.dumps([row, {**row, "file": "../../secret"}]))
    assert read_videos(tmp_path) == [row, {**row, "file": "secret"}]


@pytest.mark.parametrize("content", [b"", b"[", b"3", b'["best"]', b'[{"name": "best", "file": "best.gif"}]', b"\xff"])
def test_a_damaged_list_of_videos_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "videos.json").write_bytes(content)
    with pytest.raises(UserError, match=r"videos\.json: damaged \(.*\); record again, or delete it"):
        read_videos(tmp_path)
