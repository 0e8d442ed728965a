"""The commands of language models, from a task's folder to verified scores."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from setups import Outcome, command

pytest.importorskip("trl")

from iwbc.language import sampling
from iwbc.language.jsonl import read_rows
from iwbc.language.scores import Scores, pass_at_k, powers, scores_of
from iwbc.language.tasks import bandit, tiny_model, tiny_tokenizer

BRIEF = ("samples=3", "max_new_tokens=3", "batch_size=4")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny untrained model and eight prompts."""
    folder = tmp_path_factory.mktemp("task")
    tokenizer = tiny_tokenizer(bandit().alphabet)
    tiny_model(tokenizer, 8, 0, layers=1, width=16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    prompts = [{"id": f"p{i}", "prompt": f"{i % 2}1>", "answer": "c"} for i in range(8)]
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))
    return folder


@pytest.fixture
def place(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with that task."""
    shutil.copytree(task, tmp_path / "task")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(*options: str) -> Outcome:
    return command(
        "iwbc.language.rows",
        "model=task/model",
        "prompts=task/prompts.jsonl",
        "verifier=exact",
        "out=rows.jsonl",
        *BRIEF,
        *options,
    )


def evaluate(*options: str) -> Outcome:
    return command("iwbc.language.evaluate", "prompts=task/prompts.jsonl", "verifier=exact", *BRIEF, *options)


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    draw = sampling.Sampler.draw

    def stopping(self: sampling.Sampler, number: int) -> list[sampling.Answer]:
        if number == count:
            raise KeyboardInterrupt
        return draw(self, number)

    monkeypatch.setattr(sampling.Sampler, "draw", stopping)


def test_rows_after_ctrl_c_are_the_same_bytes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = rows()
    assert outcome.code == 0, outcome.err
    assert "of 24 completions are left out: " in outcome.err and outcome.err.count("\n") == 1
    whole = (place / "rows.jsonl").read_bytes()
    written = read_rows(place / "rows.jsonl")
    assert f"rows.jsonl: {len(written)} rows of 8 prompts, " in outcome.out
    assert set(written.prompt_ids) <= {f"p{i}" for i in range(8)} and len(set(written.ids)) == len(written)
    assert written.rewards is not None and written.successes is not None and written.logps is not None
    assert [text == "c" for text in written.completions] == written.successes.tolist() == written.rewards.tolist()
    (place / "rows.jsonl").rename("whole.jsonl")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        outcome = rows()
    kept = "interrupted: completions are kept in rows.jsonl.partial; the same command goes on\n"
    assert (outcome.code, outcome.out, outcome.err) == (130, "", kept)
    assert not (place / "rows.jsonl").exists()
    outcome = rows("seed=1")
    assert outcome.err == (
        "rows.jsonl.partial: is of another model, other prompts or settings; delete it, or give another out=…\n"
    )
    assert rows().code == 0
    assert (place / "rows.jsonl").read_bytes() == whole
    assert sorted(path.name for path in place.iterdir()) == ["rows.jsonl", "task", "whole.jsonl"]
    assert rows().err == "out=rows.jsonl: is there already; give another name, or remove it\n"


def test_rows_at_another_temperature_are_warned_of(place: Path) -> None:
    assert "warning: temperature=0.5: the rows are not the model's own" in rows("temperature=0.5").err


def test_bad_input_of_rows_is_one_line_and_leaves_nothing(place: Path) -> None:
    wrong = {
        "verifier=math": "given twice",
        "temperature=0": "temperature=0: draws the same completion each time; set samples=1",
        "max_new_tokens=0": "given twice",
        "device=nowhere": "model=task/model: ",
    }
    for option, message in wrong.items():
        outcome = rows(option)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert message in outcome.err
        assert [path.name for path in place.iterdir()] == ["task"]


def test_without_the_extra_commands_say_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    made = command("iwbc.language.tasks", "bandit", "out=made")
    for outcome in (made, rows(), evaluate("model=task/model")):
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert "it needs the extra language: pip install" in outcome.err
    assert [path.name for path in place.iterdir()] == ["task"]


def test_an_evaluation_and_its_verification(place: Path) -> None:
    outcome = evaluate("model=task/model")
    assert (outcome.code, outcome.err) == (0, "")
    assert "pass@1" in outcome.out and "pass@2" in outcome.out
    written = json.loads((place / "evaluation" / "scores.json").read_text())
    scores = Scores.of_plain(written["scores"])
    answers = [json.loads(line) for line in (place / "evaluation" / "answers.jsonl").read_text().splitlines()]
    assert scores == scores_of(answers)
    assert (scores.prompts, scores.samples) == (8, 3)
    assert written["verifier_timeout"] == 5.0  # with which it is verified
    outcome = command("iwbc.verify", "evaluation")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("the same") == 3 and "24 of 24" in outcome.out
    assert evaluate("model=task/model").err.startswith("out=evaluation/scores.json: is there already")
    answers[0]["correct"] = not answers[0]["correct"]
    (place / "evaluation" / "answers.jsonl").write_text("".join(f"{json.dumps(answer)}\n" for answer in answers))
    outcome = command("iwbc.verify", "evaluation")
    assert outcome.code == 1
    assert "evaluation: 3 of 3 checks differ: answers.jsonl, verdicts, scores" in outcome.err
    (place / "evaluation" / "answers.jsonl").write_text("".join(f"{json.dumps(answer)}\n" for answer in answers[1:]))
    assert "is damaged (completions are missing, or there twice)" in command("iwbc.verify", "evaluation").err


def test_an_evaluation_of_a_run_is_in_its_folder(place: Path) -> None:
    (place / "task").rename("run")
    prompts = "prompts=run/prompts.jsonl"
    outcome = command("iwbc.language.evaluate", "run=run", prompts, "verifier=exact", "greedy=true", "max_new_tokens=3")
    assert outcome.code == 0, outcome.err
    written = json.loads((place / "run" / "evaluation" / "scores.json").read_text())
    assert (written["samples"], written["temperature"], written["model"]) == (1, 0.0, "run/model")
    message = "run=nowhere: holds no finished run of a language model (it has no model/config.json)\n"
    assert command("iwbc.language.evaluate", "run=nowhere", prompts, "verifier=exact").err == message
    assert command("iwbc.language.evaluate", prompts, "verifier=exact").err.startswith("give either run=… or model=…")


@pytest.mark.parametrize(
    ("samples", "right", "k", "probability"),
    [(4, 1, 1, 0.25), (4, 1, 2, 0.5), (4, 1, 4, 1.0), (4, 2, 2, 5 / 6), (5, 2, 3, 0.9), (4, 0, 4, 0.0), (4, 4, 1, 1.0)],
)
def test_pass_at_k(samples: int, right: int, k: int, probability: float) -> None:
    assert math.isclose(pass_at_k(samples, right, k), probability)


def test_powers_up_to_the_samples() -> None:
    assert [powers(count) for count in (1, 3, 4, 16)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 8, 16]]


def test_scores_by_hand() -> None:
    def record(prompt: str, sample: int, text: str, answer: str | None, tokens: int = 2, **others: object) -> dict[str, object]:
        base = {"prompt_id": prompt, "sample": sample, "completion": text, "answer": answer, "tokens": tokens}
        return base | {"correct": answer == "1", "failure": None, "cut": False} | others

    scores = scores_of(
        [
            *[record("a", i, text, "1") for i, text in enumerate(["1", "1", "=1", "1"])],
            *[
                record("b", 0, "1", "1"),
                record("b", 1, "2", "2"),
                record("b", 2, "x", None, 9, cut=True),
                record("b", 3, "3", "3"),
            ],
        ]
    )
    assert scores.pass_at == {1: (1 + 0.25) / 2, 2: (1 + 0.5) / 2, 4: 1.0}
    assert (scores.low, scores.high) == (0.25, 1.0)  # both prompts are the one, or the other
    assert (scores.parsable, scores.cut, scores.failed) == (7 / 8, 1 / 8, 0.0)
    assert scores.length == (7 * 2 + 9) / 8
    assert (scores.distinct_answers, scores.distinct_texts) == ((1 + 3) / 2, (2 + 4) / 2)
    assert Scores.of_plain(json.loads(json.dumps(scores.to_plain()))) == scores
    # Of 30 prompts that are all alike there could be others: Wilson's interval, as published tables have it.
    for answer, interval in (("1", (0.8865, 1.0)), ("2", (0.0, 0.1135))):
        alike = scores_of([record(str(i), 0, "", answer) for i in range(30)])
        assert (alike.low, alike.high) == pytest.approx(interval, abs=1e-4)
    with pytest.raises(ValueError, match="completions are missing, or there twice"):
        scores_of([record("a", 0, "1", "1"), record("a", 0, "1", "1")])
    with pytest.raises(ValueError, match="completions are missing, or there twice"):
        scores_of([])
