"""A folder as a source: broken files, names of files, and the real market files against their known defects."""

from collections import Counter
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from qdag.errors import SourceError, UnknownNameError
from qdag.settings import ColumnMapping, FilesSource
from qdag.sources import open_source
from qdag.sources.files import FilesFolder
from qdag.sources.files.profiles import name_regex
from qdag_tests.sources.files.delivered import TEXT, US, accounts, deliver, refused, universe, us


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


def test_a_file_whose_name_is_no_symbol_is_refused_as_one(tmp_path):
    (tmp_path / "AT&T.csv").write_text(TEXT)
    (tmp_path / "T.csv").write_text(TEXT)
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert refused(delivery) == {"AT&T.csv": ("bad_instrument", "AT_T")}


def test_files_are_named_as_the_settings_say(tmp_path):
    names = ["DA-ALK-T-2021-04-21", "DA-BRK-B-T-20210421", "DA-ALK-T-2021-04-22", "README", "DA--T-2021-04-21"]
    for name in names:
        (tmp_path / f"{name}.csv").write_text(TEXT)
    spec = universe(tmp_path, name="DA-{instrument}-T-{date}")
    delivery = deliver(spec)
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["ALK", "BRK-B"]
    # of two files of an instrument the later one by name counts
    assert delivery.corrections == 1
    assert refused(delivery) == {
        "README.csv": ("bad_file_name", "README"),
        "DA--T-2021-04-21.csv": ("bad_file_name", "DA--T-2021-04-21"),
    }
    source = open_source("u", spec)
    assert isinstance(source, FilesFolder)
    assert source.owners([f"{names[1]}.csv", "README.csv"]) == {f"{names[1]}.csv": "BRK-B", "README.csv": None}
    assert source.look(9).instruments == ("ALK", "BRK-B")
    with pytest.raises(SourceError, match=r"name = '{instrument}_x'.*'DA--T-2021-04-21.csv'.*correct source.name"):
        deliver(universe(tmp_path, name="{instrument}_x"))
    assert name_regex("{instrument}.US").fullmatch("AAPL.US")["instrument"] == "AAPL"
    for wrong in ("DA", "{instrument}{instrument}", "{symbol}-{instrument}", "a/{instrument}", "{instrument}.csv", "{"):
        with pytest.raises(ValidationError, match="must"):
            FilesSource(path=tmp_path, name=wrong)


def test_a_wrong_column_of_a_layout_of_one_s_own_is_named_with_its_key(tmp_path):
    (tmp_path / "A.csv").write_text(TEXT)
    columns = ColumnMapping(date="timestamp", open="open", high="high", low="low", close="Clsoe", volume="volume")
    with pytest.raises(SourceError, match=r"columns.close = 'Clsoe'; did you mean 'close'\?"):
        deliver(universe(tmp_path, profile="custom", columns=columns))


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
