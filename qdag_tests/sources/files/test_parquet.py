"""Parquet files: rows as they are typed, and damage of any kind refuses the file."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qdag.settings import ColumnMapping
from qdag.sources.files import parquet
from qdag.sources.files.profiles import Profile
from qdag.sources.files.table import FileRefused
from qdag.sources.reasons import Reason

PROFILE = Profile("custom", ColumnMapping(date="d", open="p", high="p", low="p", close="p", volume="v"))


def file(rows: int = 3, **more) -> bytes:
    table = pa.table({"d": pa.array(["2020-01-02"] * rows, pa.string()), "p": [1.0] * rows, "v": [1] * rows, **more})
    target = io.BytesIO()
    pq.write_table(table, target, write_page_checksum=True, compression="none")
    return target.getvalue()


def test_rows_are_numbered_from_one_and_shown_as_text():
    table = parquet.read(file(odd=["x"] * 3), PROFILE)
    assert (list(table.columns), table.line.tolist(), table.broken) == (["d", "p", "v"], [1, 2, 3], [])
    assert list(table.text(table.line[1:])) == ["2020-01-02,1.0,1"] * 2
    assert parquet.read_header(file()) == ["d", "p", "v"]


def test_coded_columns_are_read_as_what_they_stand_for():
    coded = pa.table({"d": pa.array(["a", "b"]).dictionary_encode(), "p": [1.0, 1.0], "v": [1, 1]})
    target = io.BytesIO()
    pq.write_table(coded, target)
    assert parquet.read(target.getvalue(), PROFILE).columns["d"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"PAR1", Reason.UNREADABLE),
        (file()[:-20], Reason.UNREADABLE),
        (file().replace(b"2020-01-02", b"2020-01-03", 1), Reason.UNREADABLE),
        (file(rows=0), Reason.HEADER_WITHOUT_ROWS),
    ],
)
def test_what_is_damaged_or_empty_is_refused(data, reason):
    with pytest.raises(FileRefused) as caught:
        parquet.read(data, PROFILE)
    assert caught.value.reason is reason


def test_a_layout_without_its_columns_is_refused():
    other = Profile("custom", ColumnMapping(date="d", open="p", high="p", low="p", close="p", volume="w"))
    with pytest.raises(FileRefused, match=r"lacks \['w'\]"):
        parquet.read(file(), other)
