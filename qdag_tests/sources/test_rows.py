"""Typed rows: their columns are checked, each row has the first reason that holds, and bars have the table's schema."""

import numpy as np
import pytest

from qdag.schema import RAW_OHLCV
from qdag.sources.reasons import ROW_REASONS, Reason
from qdag.sources.rows import RawRows, bars_table, row_reasons

DAYS = np.array(["2020-01-02", "2020-01-03", "2020-01-04"], "M8[D]")
BAR = {"open": 10.0, "high": 11.0, "low": 9.0, "close": 10.0, "volume": 100.0}


def rows(day=DAYS[0], instrument="A", bad=False, **changed) -> RawRows:
    numbers = {name: np.array([value]) for name, value in (BAR | changed).items()}
    return RawRows(np.array([instrument], object), np.array([day], "M8[D]"), np.array([2]), numbers, np.array([bad]))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (rows(), None),
        (rows(day="NaT"), Reason.BAD_DATE),
        (rows(day="NaT", instrument=None), Reason.BAD_DATE),
        (rows(instrument=None), Reason.BAD_INSTRUMENT),
        (rows(day="2020-01-05"), Reason.UNKNOWN_DATE),
        (rows(close=1e19), Reason.BAD_NUMBER),
        (rows(open=np.nan, bad=True), Reason.BAD_NUMBER),
        (rows(open=np.nan), Reason.NULL_PRICE),
        (rows(volume=np.nan), Reason.NULL_VOLUME),
        (rows(low=0.0), Reason.NON_POSITIVE_PRICE),
        (rows(amount=-1.0), Reason.NEGATIVE_VOLUME),
        (rows(high=8.0), Reason.HIGH_BELOW_LOW),
        (rows(close=12.0), Reason.CLOSE_OUTSIDE_RANGE),
        (rows(open=12.0), Reason.OPEN_OUTSIDE_RANGE),
        (rows(split=0.0), Reason.BAD_EVENT),
    ],
)
def test_the_first_reason_that_holds_is_given(found, reason):
    (code,) = row_reasons(found, DAYS)
    assert (ROW_REASONS[code - 1] if code else None) == reason


def test_an_empty_factor_is_refused_where_it_tells_the_adjustment():
    found = rows(factor=np.nan)
    assert row_reasons(found, DAYS)[0] == 0
    assert ROW_REASONS[row_reasons(found, DAYS, "factor")[0] - 1] is Reason.BAD_EVENT


def test_columns_that_lack_or_are_unknown_are_a_mistake_of_the_source():
    with pytest.raises(ValueError, match=r"columns \['splits'\]"):
        rows(splits=2.0)
    with pytest.raises(ValueError, match=r"without the columns \['volume'\]"):
        RawRows(*[np.array([])] * 3, {name: np.array([]) for name in ("open", "high", "low", "close")}, np.array([]))


def test_bars_are_sorted_and_events_that_nobody_tells_are_null():
    names = np.array(["B", "A", "A"], object)
    numbers = {name: np.full(3, value) for name, value in BAR.items()}
    table = bars_table("u", {"date": DAYS[[1, 1, 0]], "instrument": names, "factor": np.ones(3), **numbers})
    assert table.schema.equals(RAW_OHLCV.arrow())
    assert table["instrument"].to_pylist() == ["A", "A", "B"]
    assert table["split"].null_count == table["dividend"].null_count == table["amount"].null_count == 3
    assert table["vwap"].to_pylist() == [10.0] * 3
