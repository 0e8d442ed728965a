"""Prompts and completions in files: JSON Lines, or a folder of the library `datasets`.

A row has a `prompt` and a `completion`, texts or lists of messages, or `messages`, whose last is the assistant's and the
completion. Optional: `reward` (a number), `success` (true or false), `level` (a whole number), `id`, `prompt_id`, `logp` (the
log-likelihood of the completion under its sampler, in nats, summed over tokens), `token_logps` (its parts) and `group` (a name,
or a list of some).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from iwbc.errors import UserError, extra, warn
from iwbc.system.files import parse_json, write_bytes

Messages: TypeAlias = list[dict[str, Any]]
Text: TypeAlias = str | Messages
# A row as a file holds it, with the place that a message about it names.
_Placed: TypeAlias = tuple[str, dict[str, Any]]

_TEXTS = ("prompt", "completion", "messages")
_COLUMNS = ("reward", "success", "level", "id", "prompt_id", "logp", "token_logps", "group")
_PROMPT_COLUMNS = ("prompt", "messages", "answer", "id", "choices")
LETTERS = "ABCDEFGHIJ"  # of choices
_ROUNDING = 1e-3  # of a log-likelihood that a sampler of low precision gives


@dataclass(frozen=True, eq=False)
class Rows:
    """Completions of prompts, N of them, with what is known of each; `ids` are the rows' numbers unless they are passed,
    `prompt_ids` hashes of the prompts. Of conversations both texts are lists of messages."""

    prompts: Sequence[Text]
    completions: Sequence[Text]
    rewards: npt.NDArray[np.float64] | None = None
    successes: npt.NDArray[np.bool_] | None = None
    levels: npt.NDArray[np.int64] | None = None
    ids: Sequence[str] = ()
    prompt_ids: Sequence[str] = ()
    logps: npt.NDArray[np.float64] | None = None
    token_logps: Sequence[Sequence[float]] | None = None
    groups: Sequence[str | Sequence[str]] | None = None

    def __post_init__(self) -> None:
        """Raise UserError for columns of different lengths."""
        if not self.ids:
            object.__setattr__(self, "ids", [str(i) for i in range(len(self.prompts))])
        if not self.prompt_ids:
            object.__setattr__(self, "prompt_ids", [_hash(prompt) for prompt in self.prompts])
        lengths = {name: len(column) for name, column in vars(self).items() if column is not None}
        if differ := [f"{name} {length:,}" for name, length in lengths.items() if length != len(self.prompts)]:
            raise UserError(f"rows: prompts has {len(self.prompts):,} values, {', '.join(differ)}; give a value for each row")

    def __len__(self) -> int:
        return len(self.prompts)

    def to_plain(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as a file holds them."""
        columns = {
            **{"id": self.ids, "prompt_id": self.prompt_ids, "prompt": self.prompts, "completion": self.completions},
            **{"reward": self.rewards, "success": self.successes, "level": self.levels},
            **{"logp": self.logps, "token_logps": self.token_logps, "group": self.groups},
        }
        plain = {
            name: column.tolist() if isinstance(column, np.ndarray) else column
            for name, column in columns.items()
            if column is not None
        }
        for values in zip(*plain.values(), strict=True):
            yield dict(zip(plain, values, strict=True))

    def content_hash(self) -> str:
        """Compute the SHA-256 of all columns."""
        digest = hashlib.sha256()
        for row in self.to_plain():
            digest.update(_line(row))
        return digest.hexdigest()


@dataclass(frozen=True)
class Prompts:
    """Prompts with the answers that a verifier compares with, where there are some."""

    prompts: Sequence[Text]
    answers: Sequence[str | None]
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.prompts)

    def content_hash(self) -> str:
        """Compute the SHA-256 of prompts, answers and ids."""
        return _hash([self.prompts, self.answers, self.ids], 64)


def read_rows(path: Path) -> Rows:
    """Read rows. Raises UserError, which names the file, the line and the key, for whatever they should not be."""
    rows = list(_read(path, (*_TEXTS, *_COLUMNS)))
    prompts, completions = _texts(rows)
    columns = {name: _column(rows, name, read) for name, read in _CELLS.items()}
    if columns["token_logps"] is not None:
        columns["logp"] = _summed(rows, columns["token_logps"], columns["logp"])
    _check_ids(rows, columns["id"])
    _check_agreement(rows, columns["reward"], columns["success"])
    return Rows(
        prompts,
        completions,
        rewards=None if columns["reward"] is None else np.array(columns["reward"], np.float64),
        successes=None if columns["success"] is None else np.array(columns["success"], np.bool_),
        levels=None if columns["level"] is None else np.array(columns["level"], np.int64),
        ids=columns["id"] or (),
        prompt_ids=columns["prompt_id"] or (),
        logps=None if columns["logp"] is None else np.array(columns["logp"], np.float64),
        token_logps=columns["token_logps"],
        groups=columns["group"],
    )


def write_rows(path: Path, rows: Rows) -> None:
    """Write or replace a file of rows atomically."""
    write_lines(path, rows.to_plain())


def write_lines(path: Path, objects: Iterator[dict[str, Any]]) -> None:
    """Write or replace a file of JSON Lines atomically."""
    write_bytes(path, b"".join(map(_line, objects)))


def prompts_of(path: Path) -> Prompts:
    """Read prompts: `prompt` or `messages`, `answer` (a text or a number), optional `id` and `choices`, texts that are shown
    below the prompt under the letters from A on; the answer is then a letter, or one of the texts.

    Raises UserError, which names the file, the line and the key, for whatever they should not be.
    """
    rows = list(_read(path, _PROMPT_COLUMNS))
    prompts = [_prompt(place, row) for place, row in rows]
    _check_alike(rows, prompts)
    answers: list[str | None] = _column(rows, "answer", _answer) or [None] * len(rows)
    ids = _column(rows, "id", _name) or [str(i) for i in range(len(rows))]
    _check_ids(rows, ids)
    for i, (place, row) in enumerate(rows):
        if row.get("choices") is not None:
            prompts[i], answers[i] = _with_choices(place, row["choices"], prompts[i], answers[i])
    return Prompts(prompts, answers, ids)


def write_prompts(path: Path, prompts: Prompts) -> None:
    """Write or replace a file of prompts atomically."""
    rows = zip(prompts.ids, prompts.prompts, prompts.answers, strict=True)
    write_lines(path, ({"id": name, "prompt": prompt, "answer": answer} for name, prompt, answer in rows))


def text_of(text: Text) -> str:
    """Return a text, or that of the last message."""
    return text if isinstance(text, str) else str(text[-1]["content"])


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def _hash(value: Any, digits: int = 16) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def _read(path: Path, known: Sequence[str]) -> Iterator[_Placed]:
    """Yield the rows of a file or folder, without what is null. Warns of keys that are not known."""
    if not path.exists():
        raise UserError(f"{path}: no such file; give a file of JSON Lines, or a folder of the library datasets")
    empty = True
    unknown: dict[str, None] = {}
    for place, row in _of_datasets(path) if path.is_dir() else _of_lines(path):
        empty = False
        unknown |= dict.fromkeys(key for key in row if key not in known)
        yield place, {key: value for key, value in row.items() if value is not None}
    if empty:
        raise UserError(f"{path}: holds no rows")
    if unknown:
        warn(f"{path}: the keys {', '.join(unknown)} are not used; the known ones are {', '.join(known)}")


def _of_lines(path: Path) -> Iterator[_Placed]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row: Any = parse_json(text, unique=True) if text else None
                if "\\u" in text:
                    json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise UserError(f"{place}: holds half of a character (\\ud800 to \\udfff); write the whole one") from None
            except UnicodeDecodeError:
                raise UserError(f"{place}: is not UTF-8; convert the file") from None
            except (ValueError, RecursionError) as error:
                raise UserError(f"{place}: is not JSON ({error}); each line is to be one object") from None
            if text and not isinstance(row, dict):
                raise UserError(f'{place}: is no object; each line is to be one, such as {{"prompt": …, "completion": …}}')
            if text:
                yield place, row


def _of_datasets(path: Path) -> Iterator[_Placed]:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError:
        raise UserError(f"{path}: {extra('language')}") from None
    try:
        data = load_from_disk(str(path))
    except Exception as error:  # the library raises whatever reading raised
        raise UserError(f"{path}: no folder that datasets wrote, or a damaged one ({error})") from None
    if isinstance(data, DatasetDict):
        raise UserError(
            f"{path}: holds the splits {', '.join(data)}; give the folder of one, such as {path / next(iter(data))}"
        )
    for number, row in enumerate(data):
        yield f"{path}:{number}", _without_nulls(row)


def _without_nulls(value: Any) -> Any:
    """Drop the keys that Arrow adds to an object because another row has them."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _texts(rows: Sequence[_Placed]) -> tuple[list[Text], list[Text]]:
    prompts: list[Text] = []
    completions: list[Text] = []
    for place, row in rows:
        if "messages" in row and len(row.keys() & set(_TEXTS)) > 1:
            raise UserError(f"{place}: messages: stands beside prompt or completion; give either")
        if "messages" in row:
            messages = _messages(place, "messages", row["messages"])
            if messages[-1]["role"] != "assistant" or len(messages) == 1:
                raise UserError(f"{place}: messages: must end with the assistant's, which is the completion, after others")
            prompt: Text = messages[:-1]
            completion: Text = messages[-1:]
        else:
            prompt, completion = (_text(place, name, row) for name in ("prompt", "completion"))
        if isinstance(prompt, str) != isinstance(completion, str):
            raise UserError(f"{place}: completion: a text and a list of messages are mixed; make both the same")
        if not text_of(completion):
            raise UserError(f"{place}: completion: is empty; leave the row out")
        prompts.append(prompt)
        completions.append(completion)
    _check_alike(rows, prompts)
    return prompts, completions


def _prompt(place: str, row: Mapping[str, Any]) -> Text:
    if "messages" not in row:
        return _text(place, "prompt", row)
    if "prompt" in row:
        raise UserError(f"{place}: messages: stands beside prompt; give either")
    return _messages(place, "messages", row["messages"])


def _text(place: str, key: str, row: Mapping[str, Any]) -> Text:
    if key not in row:
        raise UserError(f"{place}: {key}: is missing; a row has a prompt and its completion, or messages")
    value = row[key]
    return value if isinstance(value, str) else _messages(place, key, value)


def _messages(place: str, key: str, value: Any) -> Messages:
    whole = isinstance(value, list) and len(value) > 0
    if not whole or not all(
        isinstance(message, dict) and all(isinstance(message.get(part), str) for part in ("role", "content"))
        for message in value
    ):
        raise UserError(f"{place}: {key}: must be a text, or a list of messages with the texts role and content")
    messages: Messages = value
    return messages


def _check_alike(rows: Sequence[_Placed], prompts: Sequence[Text]) -> None:
    for (place, _), prompt in zip(rows, prompts, strict=True):
        if isinstance(prompt, str) != isinstance(prompts[0], str):
            raise UserError(f"{place}: prompt: texts and lists of messages are mixed; make all rows the same")


def _column(rows: Sequence[_Placed], key: str, read: Callable[[Any], Any]) -> Any:
    """Read a key of all rows; None where no row has it."""
    if not any(key in row for _, row in rows):
        return None
    values = []
    for place, row in rows:
        if key not in row:
            count = sum(key in row for _, row in rows)
            raise UserError(f"{place}: {key}: is missing, and {count:,} of {len(rows):,} rows have it; give it to all or none")
        try:
            values.append(read(row[key]))
        except (TypeError, ValueError, OverflowError) as error:
            shown = json.dumps(row[key], default=str)
            shown = shown if len(shown) < 40 else f"{shown[:40]}…"
            raise UserError(f"{place}: {key}: {shown} {error}") from None
    return values


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise ValueError("must be a finite number")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _level(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError("must be a whole number from 0 on")
    return value


def _name(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a text or a whole number")
    return str(value)


def _group(value: Any) -> str | list[str]:
    if isinstance(value, list):
        return [_name(part) for part in value]
    return _name(value)


def _answer(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a text or a number")
    return str(value)


def _logp(value: Any) -> float:
    if (number := _number(value)) > _ROUNDING:
        raise ValueError("must be a log-likelihood in nats, which is not above 0")
    return number


def _token_logps(value: Any) -> list[float]:
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list of a number for each token")
    return [_logp(part) for part in value]


_CELLS: dict[str, Callable[[Any], Any]] = {
    **{"reward": _number, "success": _flag, "level": _level, "id": _name, "prompt_id": _name},
    **{"logp": _logp, "token_logps": _token_logps, "group": _group},
}


def _summed(rows: Sequence[_Placed], parts: Sequence[Sequence[float]], totals: Sequence[float] | None) -> list[float]:
    """Sum log-likelihoods over tokens, which must be what `totals` say."""
    sums = [math.fsum(part) for part in parts]
    for (place, _), mine, total in zip(rows, sums, totals or sums, strict=True):
        if abs(mine - total) > _ROUNDING * max(1.0, abs(total)):
            raise UserError(f"{place}: logp: {total:g} is not the sum of token_logps, {mine:g}; give either")
    return list(totals or sums)


def _check_ids(rows: Sequence[_Placed], ids: Sequence[str] | None) -> None:
    places: dict[str, str] = {}
    for (place, _), name in zip(rows, ids or [], strict=ids is not None):
        if name in places:
            raise UserError(f"{place}: id: {name} is that of {places[name]}, too; give each row another, or none at all")
        places[name] = place


def _check_agreement(rows: Sequence[_Placed], rewards: Sequence[float] | None, successes: Sequence[bool] | None) -> None:
    if rewards is None or successes is None or all(successes):
        return
    best = max(reward for reward, success in zip(rewards, successes, strict=True) if not success)
    below = [i for i, (reward, success) in enumerate(zip(rewards, successes, strict=True)) if success and reward < best]
    if below:
        raise UserError(
            f"{rows[below[0]][0]}: success: {len(below):,} of {sum(successes):,} successes have a reward below {best:g}, "
            "which a failure has; correct either, or leave one out"
        )


def _with_choices(place: str, choices: Any, prompt: Text, answer: str | None) -> tuple[Text, str | None]:
    """Show the choices below a prompt, under letters; the answer becomes a letter."""
    texts = choices if isinstance(choices, list) else []
    if not 2 <= len(texts) <= len(LETTERS) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{place}: choices: must be a list of 2 to {len(LETTERS)} texts")
    letters = LETTERS[: len(texts)]
    if answer is not None and answer in texts:
        answer = letters[texts.index(answer)]
    if answer is not None and answer not in letters:
        raise UserError(f"{place}: answer: must be one of the choices, or its letter, {letters[0]} to {letters[-1]}")
    shown = "\n\n" + "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True)) + "\n"
    if isinstance(prompt, str):
        return prompt + shown, answer
    return [*prompt[:-1], {**prompt[-1], "content": prompt[-1]["content"] + shown}], answer
