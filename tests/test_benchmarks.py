"""Benchmarks run, compare commits whatever their code is like, and take turns with other projects' training."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from setups import compose, finish, python

from benchmarks import fair, language_rounds
from benchmarks.common import Job, play_all
from benchmarks.compare import comparison
from benchmarks.peer import SCRIPTS, peer
from iwbc.errors import UserError
from iwbc.intervals import interval, student_quantile
from iwbc.system.files import write_csv

ROOT = Path(__file__).parents[1]


def test_a_comparison_is_of_medians_over_the_rounds() -> None:
    base = [{"rate": 1.0}, {"rate": 2.0}, {"rate": 9.0}]
    head = [{"rate": 3.0}, {"rate": 4.0}, {"rate": 8.1}]
    table = comparison(("old", "new"), base, head)
    assert [list(column.cells) for column in table.columns] == [["rate"], ["2"], ["4"], ["2.000"], ["0.900–3.000"]]


@pytest.mark.robustness
def test_a_part_that_speed_does_not_have_is_refused_in_a_line() -> None:
    outcome = finish(python("-m", "benchmarks.speed", "speed", cwd=ROOT))
    assert (outcome.code, outcome.err) == (
        2,
        "speed: not a part; there are start, step, evaluation, memory, recipe, checkpoints\n",
    )


def script(folder: Path, body: str) -> Path:
    """A peer's script whose turn is `body`, a function of the number of seeds."""
    path = folder / "script.py"
    path.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from turns import take_turns\n"
        f"print('not an answer')\ntake_turns({body}, 'torch')\n"
    )
    return path


def test_a_peer_trains_when_it_is_its_turn_and_not_before(tmp_path: Path) -> None:
    log = tmp_path / "log"
    turn = f"lambda seeds: print(sys.argv[1], seeds, file=open({str(log)!r}, 'a'))"
    with peer("other", script(tmp_path, turn), sys.executable, 7) as other:
        assert list(other.versions) == ["torch"]
        assert not log.exists()
        for seeds in (1, 5):
            other.train(seeds)
            assert log.read_text().splitlines()[-1] == f"7 {seeds}"
        process = other.process
    assert process.poll() is not None


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    failing = script(tmp_path, "lambda seeds: 1 / 0")
    with peer("other", failing, sys.executable, 7) as other, pytest.raises(UserError, match=r"^other=.*: ZeroDivisionError"):
        other.train(1)
    with (
        pytest.raises(UserError, match=r"^other=/nowhere: cannot be run \(No such file"),
        peer("other", failing, "/nowhere", 7),
    ):
        pass
    missing = tmp_path / "missing.py"
    with pytest.raises(UserError, match=r"^other=.*missing\.py"), peer("other", missing, sys.executable, 7):
        pass


# --- the fair table --------------------------------------------------------------------------------------------------


@pytest.mark.robustness
@pytest.mark.parametrize("name", fair.FAMILIES)
def test_every_method_of_the_fair_table_has_as_many_tries(name: str) -> None:
    family = fair.FAMILIES[name]
    tries = {method: fair.settings_of(grid) for method, grid in family.methods.items()}
    assert {len(settings) for settings in tries.values()} == ({6} if family.tuning else {1})
    seeds = 3 if name == "replay-rl" else 5 if name.startswith(("manipulation-", "hasty-")) else 10  # as the protocol says
    for method, settings in tries.items():
        start = "scratch" if (name, method) == ("replay-rl", "iql") else "reference"
        assert len(set(settings)) == len(settings)
        for setting in (settings[0], settings[-1]):
            task = next(iter(family.tasks.values()))
            config = compose(*f"{task} {setting} {family.common} {fair.EVERY_RUN} {family.table}".split())
            assert (config.algo.start, len(config.all_seeds), config.eval.actions) == (start, seeds, ("mean", "sample"))


def test_the_best_setting_on_average_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fair").mkdir()
    (tmp_path / "fair" / "x-tuning.csv").write_text("method,setting,mean\nbc,a,9.5\nbc,b,10.25\niw_bc,c,1\niw_bc,d,1\n")
    monkeypatch.setattr(fair, "RESULTS", tmp_path)
    assert fair.choices("x") == {"bc": "b", "iw_bc": "c"}


def test_weights_are_compared_with_the_filter_of_the_same_trajectories() -> None:
    assert fair.same_trajectories(fair.FAMILIES["replay"]) == {
        **{"iw_bc": "filtered_bc", "iw_bc_auto": "filtered_bc"},
        **{"iw_bc_levels": "filtered_bc_levels", "iw_bc_auto_levels": "filtered_bc_levels"},
    }
    assert fair.same_trajectories(fair.LOCOMOTION) == {}  # whose methods choose what they clone


def test_the_part_of_the_weights_is_told_in_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {"filtered_bc": "algo=filtered_bc curation=success", "iw_bc": "algo=iw_bc curation=success", "bc": "algo=bc"}
    family = fair.Family({"a": "", "b": ""}, "", fair._untuned(methods), tuning="", table="")
    monkeypatch.setitem(fair.FAMILIES, "x", family)
    monkeypatch.setattr(fair, "RESULTS", tmp_path)
    scores = {"filtered_bc": 10.0, "iw_bc": 12.0, "bc": 0.0}
    rows = [
        {
            **{"task": task, "method": method, "action": action, "seed": seed},
            **{"score": score + 4.0 * seed * (method == "iw_bc"), "ess_share": 0.75 if method == "iw_bc" else ""},
        }
        for task, (method, score), action, seed in itertools.product("ab", scores.items(), ("mean", "sample"), (0, 1))
    ]
    write_csv(tmp_path / "fair" / "x-cells.csv", rows)
    # Differences of 2 and 6 on either task: ± t(0.975; 2) · √(2 · 8 / 2) / 2; of all four beside each other, t(0.975; 3).
    (row,) = (line for line in fair.of_the_weights("x") if line.startswith("| iw bc"))
    assert row == "| iw bc | filtered bc | 4 | 4.0 [-2.1, 10.1] | 2.3 | 4.0 [-2.1, 10.1] | 2.3 |"
    assert fair.by_share("x")[2:-1] == ["| 0.7 to 0.9 | 4 | 4.0 [0.3, 7.7] | 4.0 [0.3, 7.7] |"]


def test_the_mean_of_few_seeds_has_student_s_interval() -> None:
    scores = np.array([[80.0, 3.0], [90.0, 5.0], [94.0, 4.0]])
    for task in range(2):
        estimate = fair._mean(scores[:, [task]])
        assert (estimate.low, estimate.high) == pytest.approx(interval(scores[:, [task]]))
    # Of two tasks the errors add up in squares, and so do the degrees of freedom.
    error = math.sqrt(scores.var(0, ddof=1).sum() / 3) / 2
    assert fair._mean(scores).high - scores.mean() == pytest.approx(student_quantile(0.975, 4) * error)


@pytest.mark.robustness
def test_a_run_of_the_fair_table(tmp_path: Path) -> None:
    brief = "env=two_routes dataset.episodes=30 algo.steps=5 reference.steps=5 policy.hidden=[8] eval.episodes=2 seeds=[0,1]"
    setting = fair.settings_of(fair.CHANCE.methods["iw_bc_auto"])[0]
    job = Job(tuple(f"{setting} {brief} {fair.EVERY_RUN}".split()), tmp_path / "run")
    summary = play_all([job], 1)[job]
    rates = [summary.totals[phase].success_rate for phase in ("final", "final_sampled")]
    assert fair.final_score(summary) == pytest.approx(50.0 * sum(rates))
    assert "reference" not in summary.totals
    assert play_all([job], 1)[job].seconds == summary.seconds  # it is not run again


# --- the rounds table ------------------------------------------------------------------------------------------------


def test_the_expected_rounds_of_a_method() -> None:
    shares, right, lengths = np.array([0.1, 0.45, 0.45]), np.array([1.0, 0.2, 0.2]), np.array([16.0, 10.0, 4.0])
    after = {method: language_rounds.expected(method, shares, right, lengths) for method in language_rounds.METHODS}
    assert after["rft"] == pytest.approx([0.1 / 0.28, 0.09 / 0.28, 0.09 / 0.28])  # odds times the ratio of successes
    assert after["iw_sft"] == pytest.approx([1.0, 0.0, 0.0])
    assert after["sft_q"][2] > after["sft_q"][1] > 0.9 * after["rft"][1]  # the shorter, the higher
    rare = np.array([0.05, 0.5, 0.45])
    assert language_rounds.expected("dft", rare, right, lengths) == pytest.approx([0.0, 1.0, 0.0])
    assert language_rounds.expected("iw_sft", rare, right, lengths) == pytest.approx([1.0, 0.0, 0.0])


def test_manners_are_told_by_the_first_letter() -> None:
    records = [
        {"completion": text, "correct": right} for text, right in (("c=1", True), ("c=2", False), ("h=1", True), ("", False))
    ]
    figures = language_rounds.by_manner(records, ("careful", "brief", "hasty"))
    assert figures == {"careful": 0.5, "careful_right": 0.5, "brief": 0.0, "hasty": 0.25, "hasty_right": 1.0}


def test_the_rounds_table_counts_samples_and_shows_what_there_is() -> None:
    start = {
        "careful": "0.1",
        "brief": "0.45",
        "hasty": "0.45",
        "careful_right": "1.0",
        "brief_right": "0.2",
        "hasty_right": "0.2",
    }
    scored = dict.fromkeys(language_rounds.FIGURES, "0.5") | start
    rows = [{"method": "start", "seed": "0", "round": "0", **scored}]
    rows += [{"method": "rft", "seed": "0", "round": number, "samples": "80", "successes": "9", **scored} for number in "12"]
    lines = language_rounds.summary(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[:4] for line in lines[3:]] == [["| rft", "1", "1", "80"], ["| rft", "2", "1", "160"]]
    assert [line.split(" | ")[6:8] for line in lines[2:4]] == [["0.280", "0.100"], ["0.486", "0.357"]]


@pytest.mark.parametrize(("scores", "goes"), [((0.95,), 1), ((0.4, 0.5, 0.9), 3), ((0.1, 0.2, 0.3, 0.4), 4)])
def test_a_start_is_taught_until_it_has_learnt_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: tuple[float, ...], goes: int
) -> None:
    pytest.importorskip("transformers")  # for the tokenizer
    taught, left = [], list(scores)

    def teach(_: object, model: list[float], seed: int, careful: float, *rest: object) -> list[float]:
        taught.append((careful, seed, rest[0]))
        return [*model, careful]

    monkeypatch.setattr(language_rounds.Rounds, "_taught", teach)
    monkeypatch.setattr(language_rounds.Rounds, "untrained", lambda *_: [])
    monkeypatch.setattr(language_rounds.Rounds, "score", lambda *_: {"careful_right": left.pop(0)})
    model = language_rounds.Rounds(tmp_path, language_rounds.Sizes())._start(7)
    assert model == [0.5] * goes + [0.1]  # each goes on from the model before
    assert taught[0] == (0.5, 7, 1007)
    assert taught[-1] == (0.1, 7, 7)
    assert len({demonstrations for *_, demonstrations in taught}) == goes + 1  # never the same demonstrations twice


@pytest.mark.robustness
def test_a_round_goes_on_from_the_model_of_the_round_before(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    sizes = language_rounds.Sizes(
        demonstrations=200, first_steps=4, start_steps=2, prompts=40, samples=4, steps=2, test_prompts=5, test_samples=8
    )
    rounds = language_rounds.Rounds(tmp_path, sizes)
    start = rounds.play("start", 0, 0)
    assert "samples" not in start
    first, twice = rounds.play("iw_sft", 0, 1), rounds.play("rft_2x", 0, 1)
    assert (first["samples"], first["kappa"], twice["samples"]) == (160, 1.0, 320)
    again = language_rounds.Rounds(tmp_path, sizes)
    assert again.play("iw_sft", 0, 2) == rounds.play("iw_sft", 0, 2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "trainer") == [
        *("iw_sft-0-1", "iw_sft-0-2", "rft_2x-0-1", "start-0")
    ]
