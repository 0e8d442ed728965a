"""Verifiers, which tell whether a completion answers its prompt.

    exact             the text is the answer, but for space around it
    number            the last number of the text equals the answer: -3, 1,234.5, 2/3, \\frac{2}{3}, 5 %
    choice            \\boxed{C}, or "Answer: C", or the last letter from A to J that stands alone and is no word
    math              math-verify compares the last expression with the answer (the extra language)
    module:function   a custom (prompt, completion, answer) → true, false or a reward, of which 1 and more are right

`math` and custom verifiers run in a process that is ended, and begun again, where a completion takes too long.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from iwbc.errors import UserError, extra, warn
from iwbc.language.jsonl import LETTERS, Text, text_of
from iwbc.system.processes import Remote, WorkerLost
from iwbc.system.progress import tracked

RAISED, TIMED_OUT = "raised", "timed out"

_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|\.\d+)"
_PART = r"(?:\{\s*[-+−]?\s*\d+\s*\}|\s?\d)"  # of a fraction
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]}])[-+−])?(?:\\?[$€£])?"
    rf"(?:\\[dt]?frac(?P<over>{_PART})(?P<under>{_PART})"
    r"|(?P<unread>\\[dt]?frac(?:\{(?:[^{}]|\{[^{}]*\})*\}){2})"
    rf"|(?P<value>{_DIGITS})(?:[eE](?P<power>[-+]?\d{{1,3}})(?!\w)|/(?P<divisor>\d+))?)"
    r"(?P<percent>\s?\\?%)?"
)
_LONGEST = 1000  # digits of a number, as Python reads at most 4,300
_BOXED = re.compile(rf"\\boxed\{{\s*(?:\\text\{{)?\s*\(?([{LETTERS}])\)?\s*\}}")
_SAID = re.compile(rf"[Aa]nswer(?: is)?\s*+:?[\s*(\[]*+(?!I [a-z])([{LETTERS}])(?![\w'’])")
# "I think" and "A cell wall" name no choice; "A is right" does.
_ARTICLE = r"A (?!(?:is|was|and|or|because|since|as|seems|would|must|looks|fits)\b)[a-z]"
_ALONE = re.compile(rf"(?<![\w'’])(?!I [a-z]|{_ARTICLE})([{LETTERS}])(?![\w'’])")
# Thousands as LaTeX has them, between thin or unbreakable spaces, and between plain ones where no number can begin: 1 000.
_THOUSANDS = re.compile(r"(?<=\d)(?:(?:\{,\}|\\[,;:]|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))| (?=0\d{2}(?!\d)))")


@dataclass(frozen=True)
class Verdict:
    """The outcome for a completion: `answer` is what was read in it (None: nothing), `failure` RAISED or TIMED_OUT where there
    was no result, `reward` 0 or 1 unless a custom verifier gave another."""

    correct: bool
    answer: str | None
    failure: str | None = None
    reward: float = 0.0


def verify_all(
    verifier: str,
    prompts: Sequence[Text],
    completions: Sequence[Text],
    answers: Sequence[str | None],
    timeout: float = 5.0,
    progress: bool = False,
) -> list[Verdict]:
    """Verify completions. A verifier that raises, or takes longer than `timeout` seconds, counts as wrong, with a warning.

    Raises UserError as `check_verifier` does, and where no completion has a result.
    """
    check_verifier(verifier, answers)
    cases = list(zip(prompts, map(text_of, completions), answers, strict=True))
    judge = _Reader(verifier) if verifier in _READERS else _Worker(verifier, timeout)
    try:
        watched = tracked(cases, "Verifying", len(cases)) if progress else cases
        verdicts = [judge.verdict(*case) for case in watched]
    finally:
        judge.close()
    if failures := Counter(verdict.failure for verdict in verdicts if verdict.failure):
        counts = " and ".join(f"{count:,} {failure}" for failure, count in sorted(failures.items()))
        text = f"verifier={verifier}: of {len(verdicts):,} completions {counts}; the first: {judge.first}"
        if failures.total() == len(verdicts):
            raise UserError(f"{text}; correct the verifier, or give it longer (verifier_timeout=…)")
        warn(f"{text}; they count as wrong")
    return verdicts


def check_verifier(verifier: str, answers: Sequence[str | None]) -> None:
    """Raise UserError for an unknown verifier, one that cannot be imported, and answers that it cannot compare with."""
    if ":" in verifier:
        _Worker(verifier, math.inf).close()
        return
    if verifier not in VERIFIERS:
        raise UserError(f"verifier={verifier}: must be one of {', '.join(VERIFIERS)}, or module:function")
    for number, answer in enumerate(answers, 1):
        if answer is None:
            raise UserError(f"verifier={verifier}: prompt {number} has no answer to compare with; add the key answer")
        if verifier in _READERS and _READERS[verifier](answer) is None:
            raise UserError(f"verifier={verifier}: the answer of prompt {number} is {answer[:40]!r}, which holds no {verifier}")
    if verifier == "math" and importlib.util.find_spec("math_verify") is None:
        raise UserError(f"verifier=math: {extra('language')}")


class _Reader:
    """A verifier that reads an answer from a text and compares it with the right one."""

    first = ""

    def __init__(self, verifier: str) -> None:
        self._read = _READERS[verifier]

    def verdict(self, prompt: Text, text: str, answer: str | None) -> Verdict:
        value, expected = self._read(text), self._read(answer or "")
        correct = value is not None and value == expected
        return Verdict(correct, None if value is None else str(value), reward=float(correct))

    def close(self) -> None:
        pass


@dataclass(frozen=True, eq=False)
class _Number:
    """A number; of 5 % the value is 5."""

    value: Fraction
    percent: bool

    def __eq__(self, other: object) -> bool:
        # Questions for a percentage have the answer 5 as often as 0.05.
        assert isinstance(other, _Number)
        if self.percent == other.percent:
            return self.value == other.value
        share, plain = (self, other) if self.percent else (other, self)
        return plain.value in (share.value, share.value / 100)

    def __str__(self) -> str:
        return f"{self.value}{'%' * self.percent}"


def _text(text: str) -> str:
    return text.strip()


def _number(text: str) -> _Number | None:
    match = None
    for match in _NUMBER.finditer(_THOUSANDS.sub(",", text)):  # noqa: B007
        pass
    if match is None or match["unread"] or len(match[0]) > _LONGEST:
        return None
    try:
        if match["over"]:
            over, under = (int(re.sub(r"[{}\s]", "", match[part]).replace("−", "-")) for part in ("over", "under"))
            value = Fraction(over, under)
        else:
            value = Fraction(match["value"].replace(",", "")) * Fraction(10) ** int(match["power"] or 0)
            value /= int(match["divisor"] or 1)
    except ZeroDivisionError:
        return None
    return _Number(-value if (match["sign"] or "+")[0] in "-−" else value, match["percent"] is not None)


def _choice(text: str) -> str | None:
    for pattern in (_BOXED, _SAID, _ALONE):
        if letters := pattern.findall(text):
            letter: str = letters[-1]
            return letter
    return None


_READERS: dict[str, Callable[[str], Any]] = {"exact": _text, "number": _number, "choice": _choice}
VERIFIERS = (*_READERS, "math")


class _Worker:
    """A verifier in a process, which is begun again after a completion that took too long or ended it."""

    def __init__(self, verifier: str, timeout: float) -> None:
        self.first = ""
        self._verifier, self._timeout = verifier, timeout
        self._start()

    def _start(self) -> None:
        self._process = Remote(_Judge, self._verifier, os.getcwd())
        self._process.wait_for_start()

    def verdict(self, prompt: Text, text: str, answer: str | None) -> Verdict:
        verdict: Verdict
        try:
            verdict, said = self._process.call(self._timeout, "verdict", prompt, text, answer)
        except (TimeoutError, WorkerLost) as error:
            failure = TIMED_OUT if isinstance(error, TimeoutError) else RAISED
            verdict, said = Verdict(False, None, failure), str(error) or f"more than {self._timeout:g} s"
            self._process.close()
            self._start()
        if verdict.failure:
            self.first = self.first or said
        return verdict

    def close(self) -> None:
        self._process.close()


class _Judge:
    """`math`, or a custom verifier, in the process where it runs."""

    def __init__(self, verifier: str, folder: str) -> None:
        """Import it. Raises UserError where that fails."""
        if verifier == "math":
            importlib.import_module("math_verify")  # now, as it takes seconds, which are not the first completion's
            logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its time-outs are off
            self._judge: Callable[..., Any] = _math
            return
        sys.path.insert(0, folder)  # where the console command, unlike python -m, does not look
        module, _, name = verifier.partition(":")
        try:
            self._judge = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:
            raise UserError(f"verifier={verifier}: cannot be imported ({type(error).__name__}: {error})") from None
        if not callable(self._judge):
            raise UserError(f"verifier={verifier}: is no function of (prompt, completion, answer)")

    def verdict(self, prompt: Text, text: str, answer: str | None) -> tuple[Verdict, str]:
        """Judge a completion; the text says what went wrong where something did."""
        try:
            result = self._judge(prompt, text, answer)
            if isinstance(result, Verdict):
                return result, ""
            reward = math.nan if isinstance(result, str) else float(result)  # of NumPy's and PyTorch's numbers, too
            if not math.isfinite(reward):
                raise TypeError(f"it returned {result!r:.40}, neither true or false nor a finite number")
            return Verdict(reward >= 1, text.strip() or None, reward=reward), ""
        except (Exception, SystemExit) as error:
            return Verdict(False, None, RAISED), f"{type(error).__name__}: {error}"


def _math(prompt: Text, text: str, answer: str) -> Verdict:
    # Its time-outs are alarms for the main thread, and swallow the error: the process as a whole is ended instead.
    from math_verify import parse, verify

    expected = parse(answer if "$" in answer or "\\boxed" in answer else f"${answer}$", parsing_timeout=None)
    if not expected:
        raise ValueError(f"the answer {answer[:40]!r} is no expression")
    parsed = parse(text, parsing_timeout=None)
    correct = bool(parsed) and verify(expected, parsed, timeout_seconds=None)
    return Verdict(correct, str(parsed[0]) if parsed else None, reward=float(correct))
