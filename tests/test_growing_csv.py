"""Tables that grow with a run, and go back to where a checkpoint left them."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st

from iwbc.files import write_csv
from iwbc.growing_csv import GrowingCSV

ROWS = [
    {"step": step, "a name, with a comma": value} for step, value in enumerate([0.5, float("nan"), "two\nlines", "", 'a "q"'])
]


@pytest.fixture
def table(tmp_path: Path) -> GrowingCSV:
    return GrowingCSV(tmp_path / "rows.csv")


@quick
@given(st.lists(st.integers(0, len(ROWS))), st.integers(0, 8), st.binary(max_size=9))
def test_however_often_it_is_written_and_cut_back_it_holds_the_rows(ends: list[int], cut: int, left: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table, written, marks = GrowingCSV(Path(folder) / "rows.csv"), 0, []
        for end in [*sorted(ends), len(ROWS)]:
            table.add(ROWS[written:end])
            marks.append((end, table.write()))
            written = end
        # A killed run had appended more, were it half a row.
        with table.path.open("ab") as file:
            file.write(left)
        end, mark = marks[cut % len(marks)]
        again = GrowingCSV(table.path)
        again.cut(mark)
        again.add(ROWS[end:])
        assert again.write() == marks[-1][1]
        write_csv(Path(folder) / "whole.csv", ROWS)
        assert table.path.read_bytes() == (Path(folder) / "whole.csv").read_bytes()


def test_rows_are_appended_and_outlast_a_power_cut(table: GrowingCSV) -> None:
    table.add([{"step": 1}])
    table.write()
    before = table.path.stat().st_ino
    table.add([{"step": 2}])
    with mock.patch("os.fsync") as synchronised:
        table.write()
        assert synchronised.call_count == 1
        table.write()
        assert synchronised.call_count == 1  # there was nothing to write
    assert table.path.stat().st_ino == before
    assert table.path.read_text() == "step\n1\n2\n"


def test_a_table_without_rows_is_an_empty_file(table: GrowingCSV) -> None:
    mark = table.write()
    assert table.path.read_bytes() == b""
    again = GrowingCSV(table.path)
    again.cut(mark)
    again.add([{"step": 1}])
    again.write()
    assert table.path.read_text() == "step\n1\n"


def test_what_was_there_before_goes(table: GrowingCSV) -> None:
    table.path.write_text("of an earlier run\n" * 9)
    table.add([{"step": 1}])
    table.write()
    assert table.path.read_text() == "step\n1\n"


def test_what_a_full_disk_left_of_a_row_is_written_over(table: GrowingCSV) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for step in (1, 22):
        table.add([{"step": step}])
        with mock.patch("os.fsync", side_effect=full), pytest.raises(OSError) as caught:
            table.write()
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(table.path))
        table.write()
    assert table.path.read_text() == "step\n1\n22\n"


def test_a_row_with_a_new_column_is_refused(table: GrowingCSV) -> None:
    table.add([{"step": 1}, {"step": 2, "other": 3}])
    with pytest.raises(ValueError, match="other"):
        table.write()


@pytest.mark.parametrize("mark", [{"size": 3, "sha256": "0" * 64}, {"size": 10**30, "sha256": "0" * 64}, [], {}, {"size": "3"}])
def test_another_beginning_is_refused_and_left(mark: Any, table: GrowingCSV) -> None:
    table.path.write_text("step\n1\n")
    with pytest.raises((ValueError, TypeError, LookupError, ArithmeticError)):
        table.cut(mark)
    assert table.path.read_text() == "step\n1\n"
