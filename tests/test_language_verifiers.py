"""Verifiers: what is read from an answer, and what becomes of a verifier that raises, hangs or ends its process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from setups import wait_for_the_end_of

from iwbc.errors import DataWarning, UserError
from iwbc.language.verifiers import RAISED, TIMED_OUT, Verdict, verify_all


def verdict(verifier: str, text: str, answer: str) -> Verdict:
    (judged,) = verify_all(verifier, [""], [text], [answer])
    return judged


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [
        ("so 3+4=7", "7", True),
        ("7, not 8", "7", False),
        ("#### 1,234,567", "1234567", True),
        ("1, 2, 3", "3", True),
        ("x = -3.50.", "-7/2", True),
        ("−3", "-3", True),
        ("10-3", "3", True),
        ("-$5", "-5", True),
        ("the answer - 5", "5", True),
        ("\\boxed{\\frac{2}{3}}", "2/3", True),
        ("\\boxed{-\\frac{2}{3}}", "2/3", False),
        ("\\frac{-1}{2}", "-1/2", True),
        ("\\dfrac{ −1 }{ -2 }", "0.5", True),
        ("\\frac12", "1/2", True),
        ("1{,}234", "1234", True),
        ("$1\\,234\\,567.5$", "1234567.5", True),
        ("1 000 000", "1000000", True),
        ("12 050.5", "12050.5", True),
        ("1\u202f234\u00a0567", "1234567", True),
        ("100 200", "200", True),
        ("in 2 0.5", "0.5", True),
        ("007", "7", True),
        ("\\frac{\\pi}{2}", "2", False),
        ("\\frac{\\sqrt{3}}{2}", "2", False),
        (".5", "0.5", True),
        ("1.5e3", "1500", True),
        ("5 %", "5", True),
        ("5\\%", "0.05", True),
        ("50%", "50 %", True),
        ("0.05", "5%", True),
        ("2024", "202", False),
        ("none", "1", False),
        ("1/0", "1", False),
        ("9" * 5000, "1", False),
    ],
)
def test_numbers(text: str, answer: str, correct: bool) -> None:
    assert verdict("number", text, answer).correct is correct


def test_what_is_read_is_the_answer() -> None:
    assert verdict("number", "it is 0.50", "1/2") == Verdict(True, "1/2", None, 1.0)
    assert verdict("number", "no idea", "1/2") == Verdict(False, None)
    assert verdict("exact", " a b\n", "a b") == Verdict(True, "a b", None, 1.0)
    assert verdict("choice", "(B)", "A") == Verdict(False, "B")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("\\boxed{C} and D", "C"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("Answer: C. Not D", "C"),
        ("The answer is **B**", "B"),
        ("**Answer:** B, for A is wrong", "B"),
        ("The answer is C because A is wrong", "C"),
        ("My answer, I think, is B", "B"),
        ("The answer I prefer: B", "B"),
        ("A or B? It is B.", "B"),
        ("(D)", "D"),
        ("B, I think", "B"),
        ("I", "I"),
        ("CAB", None),
        ("it's k", None),
    ],
)
def test_choices(text: str, letter: str | None) -> None:
    assert verdict("choice", text, "A").answer == letter


def test_messages_are_judged_by_the_last() -> None:
    talk = [[{"role": "assistant", "content": "4"}]]
    assert verify_all("number", [[{"role": "user", "content": "2+2?"}]], talk, ["4"])[0].correct


def test_math() -> None:
    pytest.importorskip("math_verify")
    texts = ["It is $\\frac{1}{2}$.", "$\\boxed{x+1}$", "0.5", "no idea", "$\\frac{1}{3}$"]
    judged = verify_all("math", [""] * 5, texts, ["1/2", "$1+x$", "\\frac{1}{2}", "3", "1/2"])
    assert [one.correct for one in judged] == [True, True, True, False, False]
    assert [one.answer for one in judged] == ["1/2", "x + 1", "0.500000000000000", None, "1/3"]


CUSTOM = """
import os, subprocess, sys, time

def judge(prompt, completion, answer):
    if completion == "raise":
        raise ValueError("a\\nb")
    if completion == "hang":
        time.sleep(1000)
    if completion == "program":
        program = subprocess.Popen(["sleep", "1000"])
        open("program", "w").write(str(program.pid))
        os.rename("program", "begun")
        program.wait()
    if completion == "exit":
        sys.exit(3)
    if completion == "die":
        os._exit(3)
    return {"half": 0.5, "text": "yes", "nan": float("nan")}.get(completion, completion == answer)

number = 3
"""


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "custom_verifier.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)
    return "custom_verifier:judge"


def test_a_custom_verifier_that_fails_counts_as_wrong(custom: str) -> None:
    texts = ["a", "raise", "half", "exit", "text", "nan", "die", "a", "b"]
    with pytest.warns(DataWarning, match="of 9 completions 5 raised; the first: ValueError: a b; they count as wrong"):
        judged = verify_all(custom, ["p"] * 9, texts, ["a"] * 9, timeout=300)
    assert [one.correct for one in judged] == [True, *[False] * 6, True, False]
    assert [one.failure for one in judged] == [None, RAISED, None, RAISED, RAISED, RAISED, RAISED, None, None]
    assert judged[2] == Verdict(False, "half", None, 0.5)


def test_a_custom_verifier_that_hangs_is_ended(custom: str) -> None:
    with pytest.raises(UserError, match=r"of 1 completions 1 timed out; the first: more than 0.2 s; correct the verifier"):
        verify_all(custom, ["p"], ["hang"], [None], timeout=0.2)


def test_a_program_that_a_verifier_runs_is_ended_with_it(custom: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from iwbc.system.processes import Remote

    def call(self: Remote, seconds: float, method: str, *case: object) -> object:
        self.begin(method, *case)
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        raise TimeoutError

    monkeypatch.setattr(Remote, "call", call)
    with pytest.raises(UserError, match="1 timed out"):
        verify_all(custom, ["p"], ["program"], [None])
    wait_for_the_end_of([int((tmp_path / "begun").read_text())])


def test_it_goes_on_after_one_that_hangs(custom: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The time-out only of the completion that hangs is short, so that a slow machine changes nothing.
    from iwbc.system.processes import Remote

    call = Remote.call
    patient = lambda self, seconds, method, *case: call(self, 0.2 if case[1] == "hang" else 300, method, *case)  # noqa: E731
    monkeypatch.setattr(Remote, "call", patient)
    with pytest.warns(DataWarning, match="of 3 completions 1 timed out"):
        judged = verify_all(custom, ["p"] * 3, ["a", "hang", "a"], ["a"] * 3)
    assert [one.failure for one in judged] == [None, TIMED_OUT, None]
    assert [one.correct for one in judged] == [True, False, True]


@pytest.mark.parametrize(
    ("verifier", "answer", "message"),
    [
        ("numbers", "1", "verifier=numbers: must be one of exact, number, choice, math, or module:function"),
        ("number", "one", "verifier=number: the answer of prompt 1 is 'one', which holds no number"),
        ("choice", "?", "verifier=choice: the answer of prompt 1 is '\\?', which holds no choice"),
        ("exact", None, "verifier=exact: prompt 1 has no answer to compare with; add the key answer"),
        ("nowhere:judge", None, "verifier=nowhere:judge: cannot be imported \\(ModuleNotFoundError"),
        ("custom_verifier:other", None, "verifier=custom_verifier:other: cannot be imported \\(AttributeError"),
        ("custom_verifier:number", None, "verifier=custom_verifier:number: is no function of \\(prompt, completion, answer\\)"),
    ],
)
def test_what_is_wrong_is_one_line(custom: str, verifier: str, answer: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        verify_all(verifier, ["p"], ["c"], [answer])
