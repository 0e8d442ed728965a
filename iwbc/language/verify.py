"""The files of a run, against their hashes, and the figures of an evaluation's folder, computed again from its completions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iwbc.errors import UserError
from iwbc.language.scores import Scores, scores_of
from iwbc.language.verifiers import VERIFIERS, verify_all
from iwbc.system.files import MALFORMED, parse_json, read_json, read_yaml

ANSWERS, SCORES, SUMMARY = "answers.jsonl", "scores.json", "summary.json"
LOGGERS = ("wandb", "tensorboard")  # which may still write when a run is finished


def is_evaluation(path: Path) -> bool:
    """Tell whether a folder holds the completions and scores of a language model."""
    return (path / ANSWERS).is_file() and (path / SCORES).is_file()


def is_run(path: Path) -> bool:
    """Tell whether a folder holds the training of a language model, finished or not."""
    try:
        return bool(read_yaml(path / "config.yaml")["kind"] == "language")
    except MALFORMED:
        return False


def read_run(path: Path) -> dict[str, Any] | None:
    """Read the summary of a training; None where it is not finished. Raises UserError where it is damaged."""
    if not (path / SUMMARY).exists():
        return None
    try:
        summary = read_json(path / SUMMARY)
        if summary["kind"] != "language":
            raise ValueError("it is no language model's")
    except MALFORMED as error:
        raise UserError(f"{path / SUMMARY}: is damaged ({error}); delete it to finish the run again") from None
    return dict(summary)


def hashes(path: Path) -> dict[str, str]:
    """Compute the SHA-256 of every file of a finished run but its summary and what loggers keep there."""
    places = [place for place in path.iterdir() if place.name not in (SUMMARY, *LOGGERS)]
    files = sorted(file for place in places for file in [place, *place.rglob("*")] if file.is_file())
    digests = {}
    for file in files:
        with file.open("rb") as content:
            digests[file.relative_to(path).as_posix()] = hashlib.file_digest(content, "sha256").hexdigest()
    return digests


def verified_run(path: Path) -> Iterator[tuple[str, bool | None, str]]:
    """Yield each check of a training as `verified` does: its files, then those of its evaluations.

    Raises UserError where it is not finished, or damaged.
    """
    summary = read_run(path)
    if summary is None:
        raise UserError(f"{path}: this run is not finished; the command that began it goes on")
    there, known = hashes(path), dict(summary.get("sha256") or {})
    for name, digest in known.items():
        seen = f"SHA-256 {there[name][:12]}…" if name in there else "is missing"
        yield name, there.get(name) == digest, seen
    for name in summary.get("scores") or {}:
        for what, same, seen in verified(path / name):
            yield f"{name}: {what}", same, seen
        if is_evaluation(path / name):
            scores = read_json(path / name / SCORES)["scores"]
            yield f"{name}: summary", scores == summary["scores"][name], f"pass@1 {scores['pass_at']['1']:.6g}"


def verified(path: Path) -> Iterator[tuple[str, bool | None, str]]:
    """Yield each check of an evaluation: what was looked at, whether it is the same (None: not checked), and what was seen.

    Raises UserError where a file is too damaged to be read.
    """
    try:
        content = (path / ANSWERS).read_bytes()
        records = [parse_json(line) for line in content.decode().split("\n") if line]
        written = read_json(path / SCORES)
        scores, verifier = Scores.of_plain(written["scores"]), str(written["verifier"])
        timeout = float(written.get("verifier_timeout", 5.0))  # which earlier versions did not write
        again = scores_of(records)
        prompts, expected = ([record[key] for record in records] for key in ("prompt", "expected"))
        completions, judged = [record["completion"] for record in records], [_judged(record) for record in records]
    except MALFORMED as error:
        raise UserError(f"{path}: its {ANSWERS} or {SCORES} is damaged ({error}); evaluate again") from None
    digest = hashlib.sha256(content).hexdigest()
    yield ANSWERS, digest == written.get("sha256"), f"SHA-256 {digest[:12]}…"
    if verifier in VERIFIERS:
        verdicts = verify_all(verifier, prompts, completions, expected, timeout)
        same = sum(_judged(vars(verdict)) == before for verdict, before in zip(verdicts, judged, strict=True))
        yield "verdicts", same == len(records), f"{same:,} of {len(records):,} are those of verifier={verifier}"
    else:
        yield "verdicts", None, f"verifier={verifier} is not imported"
    wrong = [
        key
        for key, value in _flat(again.to_plain()).items()
        if not math.isclose(value, _flat(scores.to_plain()).get(key, math.nan), rel_tol=1e-9, abs_tol=1e-9)
    ]
    figures = f"pass@1 {again.pass_at[1]:.6g}, from {len(records):,} completions"
    yield "scores", not wrong, ", ".join(wrong) or figures


def _judged(verdict: Any) -> tuple[bool, str | None]:
    return bool(verdict["correct"]), verdict["answer"]


def _flat(plain: dict[str, Any]) -> dict[str, float]:
    figures = {f"pass@{k}": value for k, value in plain["pass_at"].items()}
    return figures | {key: float(value) for key, value in plain.items() if key != "pass_at"}
