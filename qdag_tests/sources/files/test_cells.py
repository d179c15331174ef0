"""Cells of any kind become numbers, days and symbols, or are told to be none."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qdag.sources.files.cells import to_dates, to_numbers, to_symbols
from qdag.sources.files.profiles import plain_symbol
from qdag_tests.sources.files.delivered import US, accounts, deliver, reasons, universe


def test_typed_dates_of_impossible_years_are_none(tmp_path):
    days = np.array(["2020-01-03", "-5877641-06-23", "12020-01-03", "0800-01-03"], "M8[D]")
    table = pa.table({"timestamp": days, **{name: [10.0] * 4 for name in US.strip().split(",")[1:]}})
    for name, kind in (("A", pa.date32()), ("B", pa.timestamp("s"))):
        pq.write_table(table.set_column(0, "timestamp", table["timestamp"].cast(kind)), tmp_path / f"{name}.parquet")
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert dict(reasons(delivery)) == {"bad_date": 6}
    assert {(version.first, version.last) for version in delivery.versions} == {(date(2020, 1, 3), date(2020, 1, 3))}


def test_numbers_of_text_and_of_other_types():
    column = pa.chunked_array([["1.5", " +2 ", "", "NaN", "x", "inf", "1e3", "1,000"]])
    values, bad = to_numbers(column)
    np.testing.assert_array_equal(values, [1.5, 2.0, np.nan, np.nan, np.nan, np.nan, 1000.0, np.nan])
    assert bad.tolist() == [False, False, False, False, True, True, False, True]
    values, bad = to_numbers(pa.chunked_array([[1, None]]))
    np.testing.assert_array_equal(values, [1.0, np.nan])
    assert not bad.any()
    assert to_numbers(pa.chunked_array([[True, False]]))[1].all()
    assert not to_numbers(pa.chunked_array([pa.nulls(2)]))[1].any()


@pytest.mark.parametrize(
    ("text", "form", "day"),
    [
        ("2020-01-31", "%Y-%m-%d", "2020-01-31"),
        ("2020-1-31", "%Y-%m-%d", "2020-01-31"),
        ("2020-01-31 00:00:00-05:00", "%Y-%m-%d", "2020-01-31"),
        ("2020-01-31 09:30:00", "%Y-%m-%d", None),
        ("20200131", "%Y%m%d", "2020-01-31"),
        ("2020131", "%Y%m%d", None),
        ("31.01.20", "%d.%m.%y", "2020-01-31"),
        ("2020-02-30", "%Y-%m-%d", None),
        ("0800-01-03", "%Y-%m-%d", None),
    ],
)
def test_days_of_text(text, form, day):
    known = {}
    (found,) = to_dates(pa.chunked_array([[text]]), form, known)
    assert str(found) == (day or "NaT")
    assert list(known) == [text]


def test_symbols_of_text_and_of_numbers():
    assert to_symbols(pa.chunked_array([["A", None, "?"]]), plain_symbol).tolist() == ["A", None, None]
    assert to_symbols(pa.chunked_array([[600000, 1]]), plain_symbol).tolist() == ["600000", "1"]
