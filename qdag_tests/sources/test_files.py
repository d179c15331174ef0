"""Hand-made files for every bad input, and the real market files against their known defects."""

from collections import Counter
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.errors import SourceError, UnknownNameError
from qdag.schema import QUARANTINE, RAW_OHLCV
from qdag.sessions import calendar_for
from qdag.settings import ColumnMapping, FilesSource, UniverseSettings
from qdag.sources import open_source
from qdag_tests.sources.dates import misplaced

US = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"
CN = "ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount\n"


def universe(path, start=date(2020, 1, 2), end=date(2020, 1, 31), calendar="XNYS", **more):
    instruments = more.pop("instruments", None)
    source = FilesSource(path=path, **more)
    return UniverseSettings(source=source, calendar=calendar, start=start, end=end, instruments=instruments)


def deliver(spec, start=None, end=None):
    sessions = calendar_for(spec).all
    return open_source("u", spec).deliver(sessions, start or spec.start, end or spec.end)


def reasons(delivery):
    return Counter(delivery.quarantine["reason"].to_pylist())


def us(day, o=10.0, h=11.0, lo=9.0, c=10.0, adj=10.0, v=100, div=0, split=1):
    return f"2020-01-{day:02d},{o},{h},{lo},{c},{adj},{v},{div},{split}\n"


def accounts(delivery):
    rows = sum(1 for line in delivery.quarantine["line"].to_pylist() if line)
    assert delivery.checks["rows_delivered"] == delivery.bars.num_rows + rows + delivery.corrections
    assert delivery.bars.schema.equals(RAW_OHLCV.arrow())
    assert delivery.quarantine.schema.equals(QUARANTINE.arrow())


def test_every_bad_row_has_its_reason_and_line(tmp_path):
    bad = [
        (us(6, h=8, lo=9), "high_below_low"),
        (us(7, c=12), "close_outside_range"),
        (us(8, o=12), "open_outside_range"),
        (us(9, v=-1), "negative_volume"),
        (us(10, lo=0), "non_positive_price"),
        (us(13, o="x"), "bad_number"),
        (us(14, h="inf"), "bad_number"),
        (us(15, c=""), "null_price"),
        (us(16, v=""), "null_volume"),
        (us(11), "unknown_date"),
        ("2020-13-01,1,1,1,1,1,1,0,1\n", "bad_date"),
        (us(17, split=0), "bad_event"),
        ("2020-01-21,1,2\n", "wrong_columns"),
    ]
    text = "\ufeff" + US + us(2) + "\n" + "".join(row for row, _ in bad) + us(22, v=0)
    (tmp_path / "NA.csv").write_text(text, "utf-8")
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["NA", "NA"]
    assert delivery.bars["date"].to_pylist() == [date(2020, 1, 2), date(2020, 1, 22)]
    got = {
        line: (reason, row)
        for line, reason, row in zip(
            *(delivery.quarantine[c].to_pylist() for c in ("line", "reason", "row")), strict=True
        )
    }
    assert got == {line: (reason, row.strip()) for line, (row, reason) in enumerate(bad, start=4)}


def test_bad_files_cost_only_themselves(tmp_path):
    files = {
        "PAGE": b'{\n "Error Message": "limit, 5 calls"\n}',
        "HTML": b"<html>503</html>",
        "EMPTY": b"",
        "BLANK": b"\xef\xbb\xbf \n",
        "HEAD": US.encode(),
        "COLS": b"a,b,c\n1,2,3\n",
        "ONE": b"hello\n1\n",
        "WIDE": US.encode("utf-16"),
        "LATIN": US.encode() + us(3).encode().replace(b"10.0", b"\xff\xfe"),
        "TRUE": (US + us(3)).encode(),
    }
    for name, data in files.items():
        (tmp_path / f"{name}.csv").write_bytes(data)
    table = pa.table({name: ["1"] for name in US.strip().split(",")})
    pq.write_table(table, tmp_path / "CUT.parquet")
    (tmp_path / "CUT.parquet").write_bytes((tmp_path / "CUT.parquet").read_bytes()[:-20])
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["TRUE"]
    assert delivery.files == 11
    found = dict(
        zip(delivery.quarantine["instrument"].to_pylist(), delivery.quarantine["reason"].to_pylist(), strict=True)
    )
    assert found == {
        "PAGE": "api_error_page",
        "HTML": "api_error_page",
        "EMPTY": "empty_file",
        "BLANK": "empty_file",
        "HEAD": "header_without_rows",
        "COLS": "unknown_columns",
        "ONE": "not_a_table",
        "WIDE": "unreadable",
        "LATIN": "bad_number",
        "CUT": "unreadable",
    }
    lines = zip(delivery.quarantine["instrument"].to_pylist(), delivery.quarantine["line"].to_pylist(), strict=True)
    assert {name for name, line in lines if line} == {"LATIN"}


def test_a_source_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        deliver(universe(tmp_path / "none"))
    with pytest.raises(SourceError, match=r"no \.csv or \.parquet"):
        deliver(universe(tmp_path))
    (tmp_path / "A.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="unknown column layout"):
        deliver(universe(tmp_path))
    with pytest.raises(SourceError, match="columns of profile 'tushare'"):
        deliver(universe(tmp_path, profile="tushare"))
    (tmp_path / "B.csv").write_text(US + us(3))
    with pytest.raises(UnknownNameError, match="BB"):
        deliver(universe(tmp_path, instruments=("BB",)))
    assert deliver(universe(tmp_path, instruments=("B",))).quarantine.num_rows == 0


def test_the_newest_of_duplicates_wins(tmp_path):
    (tmp_path / "A.csv").write_text(US + us(3) + us(3) + us(3, c=10.5) + us(3, c=99) + us(6))
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert (delivery.corrections, dict(reasons(delivery))) == (2, {"close_outside_range": 1})
    assert delivery.bars["close"].to_pylist() == [10.5, 10.0]


def test_us_events_by_hand(tmp_path):
    # a 2-for-1 split in a row that is refused still counts; dividend 0.5 on a close of 5
    rows = us(2) + us(3, h=4, lo=6, o=5, c=5, split=2, adj=10) + us(6, o=5, h=5, lo=5, c=5, div=0.5, adj=100 / 9)
    (tmp_path / "A.csv").write_text(US + rows)
    delivery = deliver(universe(tmp_path))
    assert delivery.bars["factor"].to_pylist() == [1.0, 2 / (1 - 0.5 / 5)]
    part = deliver(universe(tmp_path), start=date(2020, 1, 6))
    assert part.bars.equals(delivery.bars.slice(1))


def test_cn_layout_by_hand(tmp_path):
    rows = "600018.SH,20200106,5,5,5,5,5,0,0,10,4.8\n600018.SH,20200103,5,5,5,5,4,0,0,0,\n"
    rows += "600018.SH,20200102,8,9,7,8,8,0,0,1,0.8\n"
    (tmp_path / "600018.SH.csv").write_text(CN + rows + "000001.SZ,20200106,5,5,5,5,5,0,0,10,4.8\n")
    delivery = deliver(universe(tmp_path, calendar="XSHG"))
    accounts(delivery)
    assert dict(reasons(delivery)) == {"bad_instrument": 1}
    assert delivery.bars.select(["instrument", "volume", "amount", "vwap", "factor"]).to_pylist() == [
        {"instrument": "SH600018", "volume": 100.0, "amount": 800.0, "vwap": 8.0, "factor": 1.0},
        {"instrument": "SH600018", "volume": 0.0, "amount": None, "vwap": 5.0, "factor": 2.0},
        {"instrument": "SH600018", "volume": 1000.0, "amount": 4800.0, "vwap": 5.0, "factor": 2.0},
    ]
    # 4,800 for 1,000 shares is 4.8 a share, outside the bar: prices and amount are on different scales
    assert delivery.checks["amount_incomparable"] == 1


def test_custom_columns_and_typed_parquet(tmp_path):
    columns = ColumnMapping(
        date="d", instrument="s", open="p", high="p", low="p", close="p", volume="v", adjusted_close="a"
    )
    days = np.array(["2020-01-02", "2020-01-03", "2020-01-03"], "M8[D]")
    table = pa.table(
        {"d": days, "s": ["NA", "NA", "TRUE"], "p": [2.0, 4.0, 1.0], "v": [1, 2, 3], "a": [1.0, 4.0, None]}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    delivery = deliver(universe(tmp_path, profile="custom", columns=columns))
    accounts(delivery)
    assert delivery.bars["factor"].to_pylist() == [1.0, 2.0]
    assert dict(reasons(delivery)) == {"bad_event": 1}


def test_numbers_of_no_exchange_are_refused_and_the_rest_goes_on(tmp_path):
    """What one cell multiplies with its unit, or with a factor, must be a number that can be stored."""
    odd = [
        us(6, o=1e30, h=1e30, lo=1e30, c=1e30, adj=1e30),
        us(7, v=1e30),
        us(8, o=1e-300, h=1e-300, lo=1e-300, c=1e-300),
        us(9, h=1.7e308, o=1.7e308, lo=1, c=1.7e308),
    ]
    (tmp_path / "A.csv").write_text(US + us(2) + us(3, split="1e300") + "".join(odd) + us(10) + us(13, div="1e300"))
    (tmp_path / "B.csv").write_text(US + us(2) + us(3))
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert dict(reasons(delivery)) == {"bad_number": 4}
    assert delivery.bars["factor"].to_pylist() == [1.0] * 6
    assert delivery.findings.select(["date", "instrument", "kind"]).to_pylist() == [
        {"date": date(2020, 1, 3), "instrument": "A", "kind": "event_refused"},
        {"date": date(2020, 1, 13), "instrument": "A", "kind": "factor_gap"},
    ]


def test_units_do_not_make_a_number_infinite(tmp_path):
    rows = "600018.SH,20200102,8,9,7,8,8,0,0,1e307,0.8\n600018.SH,20200103,5,5,5,5,8,0,0,10,1e306\n"
    rows += "600018.SH,20200106,5,5,5,5,1e-300,0,0,10,5\n600018.SH,20200107,5,5,5,5,5,0,0,10,5\n"
    (tmp_path / "600018.SH.csv").write_text(CN + rows)
    delivery = deliver(universe(tmp_path, calendar="XSHG"))
    accounts(delivery)
    assert dict(reasons(delivery)) == {"bad_number": 2}
    assert delivery.bars["factor"].to_pylist() == [1.0, 1.0]


cell = st.sampled_from(["10", "11", "9", "", "x", "-1", "0", "inf"])
row = st.tuples(
    st.sampled_from(["2020-01-02", "2020-01-03", "2020-01-04", "2020-01-06", "2019-12-31", "2020-02-03", "?"]),
    cell,
    cell,
    cell,
    cell,
    cell,
    cell,
    st.sampled_from(["0", "1", "-1"]),
    st.sampled_from(["1", "2", "0"]),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(row, max_size=25))
def test_no_row_is_lost(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("p")
    (folder / "A.csv").write_text(US + "".join(",".join(r) + "\n" for r in rows))
    spec = universe(folder)
    delivery = deliver(spec)
    accounts(delivery)
    days = [None if r[0] == "?" else date.fromisoformat(r[0]) for r in rows]
    told = misplaced(days, spec.start, spec.end)
    inside = sum(d is None or odd or spec.start <= d <= spec.end for d, odd in zip(days, told, strict=True))
    assert (delivery.checks["rows_delivered"], delivery.checks["rows_outside"]) == (inside, len(rows) - inside)
    part = deliver(spec, start=date(2020, 1, 3), end=date(2020, 1, 5))
    accounts(part)
    inside = [date(2020, 1, 3) <= d <= date(2020, 1, 5) for d in delivery.bars["date"].to_pylist()]
    assert part.bars.equals(delivery.bars.filter(pa.array(inside, pa.bool_())))


def test_real_us_files(real_market):
    delivery = deliver(universe(real_market / "us_daily", date(2010, 1, 4), date(2020, 12, 31)))
    accounts(delivery)
    assert (delivery.files, delivery.corrections, delivery.bars.num_rows) == (100, 0, 260722)
    assert delivery.quarantine.select(["instrument", "reason"]).to_pylist() == [
        {"instrument": "BF.B", "reason": "api_error_page"}
    ]
    # every difference from the vendor's own adjusted close is its way to reinvest dividends, none a lost event; two
    # spin-offs, and a day on which the price halved, make more than a percent
    assert Counter(delivery.findings["kind"].to_pylist()) == {"factor_convention": 236, "factor_difference": 3}
    large = delivery.findings.filter(pc.field("kind") == "factor_difference")["instrument"]
    assert large.to_pylist() == ["ABT", "OXY", "RTX"]
    # 13.28 is a dividend per share after the split of 1.589 of the day
    step = delivery.bars.filter((pc.field("instrument") == "RTX") & (pc.field("date") >= date(2020, 4, 2)))["factor"]
    assert step[1].as_py() / step[0].as_py() == pytest.approx(1.589 / (1 - 13.28 * 1.589 / 86.01), rel=1e-12)


def test_real_cn_files_since_their_begin(real_market):
    names = ("SH600018", "SZ000011", "SZ000014", "SZ000019", "SH603073", "SZ301439", "BJ430556")
    spec = universe(real_market / "cn_daily", date(1991, 1, 2), date(2023, 3, 17), "XSHG", instruments=names)
    delivery = deliver(spec)
    accounts(delivery)
    found = Counter(
        zip(delivery.quarantine["instrument"].to_pylist(), delivery.quarantine["reason"].to_pylist(), strict=True)
    )
    assert found["SH600018", "null_price"] == 1448
    assert [found[name, "close_outside_range"] for name in names[1:4]] == [1, 1, 1]
    assert [found[name, "header_without_rows"] for name in names[5:]] == [1, 1]
    assert delivery.bars["instrument"].to_pylist().count("SH603073") == 2
    # a price that nobody delivered, before the event of a row that has one again
    assert delivery.findings.select(["date", "instrument", "kind"]).to_pylist() == [
        # the vendor's previous close is 38 % above the close of the day before, and no price moved so
        {"date": date(2006, 7, 27), "instrument": "SZ000019", "kind": "event_refused"},
        {"date": date(2006, 10, 26), "instrument": "SH600018", "kind": "factor_gap"},
    ]
