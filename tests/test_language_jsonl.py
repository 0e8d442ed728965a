"""Files of prompts and completions: what is read is what was written, and what is wrong is one line with its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iwbc.errors import DataWarning, UserError
from iwbc.language.jsonl import Prompts, Rows, prompts_of, read_rows, text_of, write_prompts, write_rows

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
FILLED = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
LOGPS = st.floats(-1e6, 0.0)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@st.composite
def some_rows(draw: st.DrawFn) -> Rows:
    """Rows that a file may hold, with any of the columns."""
    count = draw(st.integers(1, 5))

    def each(values: st.SearchStrategy[Any], **options: Any) -> list[Any]:
        return draw(st.lists(values, min_size=count, max_size=count, **options))

    def maybe(values: st.SearchStrategy[Any], **options: Any) -> list[Any] | None:
        return each(values, **options) if draw(st.booleans()) else None

    prompts, completions = each(TEXTS), each(FILLED)
    if draw(st.booleans()):
        prompts = [[message("user", text)] for text in prompts]
        completions = [[message("assistant", text)] for text in completions]
    successes = maybe(st.booleans())
    rewards = maybe(st.floats(-1e9, 1e9)) if successes is None else [2.0 * success for success in successes]
    levels, logps, token_logps = maybe(st.integers(0, 9)), maybe(LOGPS), maybe(st.lists(LOGPS, min_size=1, max_size=3))
    if token_logps is not None:
        logps = [sum(part) for part in token_logps]
    return Rows(
        prompts,
        completions,
        rewards=None if rewards is None else np.array(rewards),
        successes=None if successes is None else np.array(successes),
        levels=None if levels is None else np.array(levels),
        ids=maybe(TEXTS, unique=True) or (),
        prompt_ids=maybe(TEXTS) or (),
        logps=None if logps is None else np.array(logps),
        token_logps=token_logps,
        groups=maybe(TEXTS | st.lists(TEXTS, max_size=3)),
    )


@given(rows=some_rows())
@settings(deadline=None)
def test_rows_are_read_as_they_were_written(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(path, rows)
    again = read_rows(path)
    assert list(again.to_plain()) == list(rows.to_plain())
    assert again.content_hash() == rows.content_hash()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "a"]), values, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(["prompt", "completion", "messages", "reward", "success", "id", "logp", "token_logps", "choices"])


@given(lines=st.lists(st.dictionaries(KEYS, JSON, max_size=5) | JSON | st.binary(max_size=9), min_size=1, max_size=3))
@settings(deadline=None)
@pytest.mark.filterwarnings("ignore::iwbc.errors.DataWarning")
def test_whatever_a_file_holds_is_read_or_refused(lines: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    for read in (read_rows, prompts_of):
        try:
            read(path)
        except UserError as error:
            assert str(error).startswith(str(path))


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def row(**others: Any) -> dict[str, Any]:
    return {"prompt": "1+1=", "completion": "2"} | others


def test_the_last_message_is_the_completion(tmp_path: Path) -> None:
    talk = [message("system", "Be brief."), message("user", "1+1?"), message("assistant", "2")]
    rows = read_rows(write(tmp_path / "rows.json", {"messages": talk, "reward": 1}))
    assert rows.prompts == [talk[:2]] and rows.completions == [talk[2:]]
    assert text_of(rows.completions[0]) == "2"
    assert rows.rewards is not None and rows.rewards.dtype == np.float64
    assert rows.ids == ["0"]


def test_equal_prompts_are_one_prompt(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.jsonl", row(), "", row(completion="3"), row(prompt="1+2=")))
    assert rows.prompt_ids[0] == rows.prompt_ids[1] != rows.prompt_ids[2]
    assert read_rows(write(tmp_path / "rows.jsonl", row(prompt_id=7, id=3))).prompt_ids == ["7"]


def test_log_likelihoods_of_tokens_are_summed(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.jsonl", row(token_logps=[-1.0, -0.5])))
    assert rows.logps is not None and rows.logps.tolist() == [-1.5]


DEEP = "[" * 200 + "]" * 200


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{"], "1: is not JSON (Expecting property name"),
        (["[1]"], "1: is no object; each line is to be one"),
        ([f'{{"prompt": {DEEP}}}'], "1: is not JSON (it is nested too deeply)"),
        (['{"prompt": "a", "prompt": "b", "completion": "c"}'], "1: is not JSON (the key prompt is there twice)"),
        (['{"prompt": "a", "completion": "\\ud800"}'], "1: holds half of a character"),
        ([row(), {"prompt": "a"}], "2: completion: is missing"),
        ([{"completion": "a"}], "1: prompt: is missing"),
        ([row(prompt=3)], "1: prompt: must be a text, or a list of messages"),
        ([row(completion="")], "1: completion: is empty; leave the row out"),
        ([{"messages": [message("user", "a"), message("assistant", "")]}], "1: completion: is empty"),
        ([{"messages": [message("assistant", "a"), message("user", "b")]}], "1: messages: must end with the assistant's"),
        ([{"messages": [message("assistant", "a")]}], "1: messages: must end with the assistant's"),
        ([row(messages=[])], "1: messages: stands beside prompt or completion"),
        ([row(completion=[message("assistant", "a")])], "1: completion: a text and a list of messages are mixed"),
        ([row(), {"messages": [message("user", "a"), message("assistant", "b")]}], "2: prompt: texts and lists of messages"),
        (['{"prompt": "a", "completion": "b", "reward": NaN}'], "1: reward: NaN must be a finite number"),
        (['{"prompt": "a", "completion": "b", "reward": 1e999}'], "1: reward: Infinity must be a finite number"),
        ([row(reward="1")], '1: reward: "1" must be a finite number'),
        ([row(reward=True)], "1: reward: true must be a finite number"),
        ([row(reward=10**400)], "1: reward: 10000000"),
        ([row(success=1)], "1: success: 1 must be true or false"),
        ([row(group=1.5)], "1: group: 1.5 must be a text or a whole number"),
        ([row(group=["a", None])], '1: group: ["a", null] must be a text or a whole number'),
        ([row(level=1.5)], "1: level: 1.5 must be a whole number"),
        ([row(logp=3.0)], "1: logp: 3.0 must be a log-likelihood in nats, which is not above 0"),
        ([row(logp=-1.0, token_logps=[-1.0, -1.0])], "1: logp: -1 is not the sum of token_logps, -2"),
        ([row(token_logps=[])], "1: token_logps: [] must be a list"),
        ([row(id="a"), row(), row(id="a")], "2: id: is missing, and 2 of 3 rows have it"),
        ([row(id="a"), row(id="b"), row(id="a")], "3: id: a is that of "),
        ([row(reward=1.0), row(reward=None)], "2: reward: is missing, and 1 of 2 rows have it"),
        (
            [row(reward=0.5, success=True), row(reward=0.7, success=False), row(reward=0.9, success=True)],
            "1: success: 1 of 2 successes have a reward below 0.7, which a failure has",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(rows: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_rows(write(tmp_path / "rows.jsonl", *rows))
    assert str(error.value).startswith(f"{tmp_path / 'rows.jsonl'}:{message}")
    assert "\n" not in str(error.value)


def test_files_that_hold_no_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.jsonl: no such file"):
        read_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="holds no rows"):
        read_rows(write(tmp_path / "rows.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.jsonl:1: is not UTF-8"):
        read_rows(tmp_path / "latin.jsonl")


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="rows: prompts has 1 values, completions 2; give a value for each row"):
        Rows(["a"], ["b", "c"])


def test_unknown_keys_are_one_warning(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="the keys score, source are not used") as warned:
        read_rows(write(tmp_path / "rows.jsonl", row(score=1), row(score=2, source="x")))
    assert len(warned) == 1


def test_prompts_with_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "prompts.jsonl", {"prompt": "1+1=", "answer": 2}, {"prompt": "1+2=", "answer": "3"})
    prompts = prompts_of(path)
    assert prompts == Prompts(["1+1=", "1+2="], ["2", "3"], ["0", "1"])
    write_prompts(path, prompts)
    assert prompts_of(path) == prompts
    assert prompts_of(write(path, {"messages": [message("user", "a")]})).answers == [None]


def test_choices_are_shown_under_letters(tmp_path: Path) -> None:
    path = write(
        tmp_path / "prompts.jsonl",
        {"prompt": "Capital of France?", "choices": ["Rome", "Paris"], "answer": "Paris"},
        {"prompt": "Capital of Italy?", "choices": ["Rome", "Paris"], "answer": "A"},
    )
    prompts = prompts_of(path)
    assert prompts.prompts[0] == "Capital of France?\n\nA. Rome\nB. Paris\n"
    assert prompts.answers == ["B", "A"]
    with pytest.raises(UserError, match=r":1: answer: must be one of the choices, or its letter, A to B"):
        prompts_of(write(path, {"prompt": "?", "choices": ["Rome", "Paris"], "answer": "C"}))
    with pytest.raises(UserError, match=r":1: choices: must be a list of 2 to 10 texts"):
        prompts_of(write(path, {"prompt": "?", "choices": ["Rome"], "answer": "A"}))


def test_a_folder_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    plain = [row(reward=1.0, success=True), row(reward=0.0, success=False)]
    datasets.Dataset.from_list(plain).save_to_disk(tmp_path / "folder")
    assert read_rows(tmp_path / "folder").content_hash() == read_rows(write(tmp_path / "rows.jsonl", *plain)).content_hash()
    datasets.DatasetDict(train=datasets.Dataset.from_list(plain)).save_to_disk(tmp_path / "splits")
    with pytest.raises(UserError, match="splits: holds the splits train; give the folder of one"):
        read_rows(tmp_path / "splits")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no folder that datasets wrote, or a damaged one"):
        read_rows(tmp_path / "empty")
    datasets.Dataset.from_list([row(reward=float("nan"))]).save_to_disk(tmp_path / "nan")
    with pytest.raises(UserError, match="nan:0: reward: NaN must be a finite number"):
        read_rows(tmp_path / "nan")


def test_reading_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    script = "import sys, iwbc.language.jsonl; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
