"""Layouts of vendors by hand: columns, units, symbols, and numbers as traded."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qdag.errors import SourceError
from qdag.settings import ColumnMapping
from qdag.sources import open_source
from qdag.sources.cleaning import NOT_ADJUSTED
from qdag.sources.files.profiles import plain_name, plain_symbol
from qdag_tests.sources.files.delivered import CN, US, accounts, deliver, reasons, universe, us


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


def test_units_do_not_make_a_number_infinite(tmp_path):
    rows = "600018.SH,20200102,8,9,7,8,8,0,0,1e307,0.8\n600018.SH,20200103,5,5,5,5,8,0,0,10,1e306\n"
    rows += "600018.SH,20200106,5,5,5,5,1e-300,0,0,10,5\n600018.SH,20200107,5,5,5,5,5,0,0,10,5\n"
    (tmp_path / "600018.SH.csv").write_text(CN + rows)
    delivery = deliver(universe(tmp_path, calendar="XSHG"))
    accounts(delivery)
    assert dict(reasons(delivery)) == {"bad_number": 2}
    assert delivery.bars["factor"].to_pylist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)", "<!channel>", "=HYPERLINK(1)", "-A", "..", "A B", "", "A" * 65, "Ä", "A\n", "$x"]
)
def test_names_of_instruments_mean_nothing_anywhere(tmp_path, name):
    assert plain_symbol(name) in (None, name.strip() if name == "A\n" else None)
    shown = plain_name(name)
    assert set(shown) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.^=_-")
    columns = ColumnMapping(
        date="timestamp", instrument="s", open="open", high="high", low="low", close="close", volume="volume"
    )
    quoted = '"' + name.strip() + '"'
    rows = US.replace("timestamp", "s,timestamp") + f"{quoted},{us(3)}" + f"OK,{us(3)}"
    (tmp_path / "all.csv").write_text(rows)
    delivery = deliver(universe(tmp_path, profile="custom", columns=columns))
    accounts(delivery)
    names = set(delivery.quarantine["instrument"].to_pylist()) | set(delivery.bars["instrument"].to_pylist())
    assert names <= {"all", "OK", "A"}
    for symbol in ("^GSPC", "BRK.B", "BRK-B", "EURUSD=X", "0700.HK", "SH600000", "A_1"):
        assert plain_symbol(symbol) == symbol


YAHOO = "Date,Open,High,Low,Close,Adj Close,Volume,Dividends,Stock Splits\n"


def test_files_of_yahoo(tmp_path):
    """As yfinance writes them: history divided by later splits, and midnight of the exchange as the date."""
    rows = [
        "2020-01-02 00:00:00-05:00,50.0,50.5,49.5,50.0,49.0,200,0.0,0.0",
        "2020-01-03 00:00:00-05:00,50.0,50.5,49.5,50.0,49.0,200,0.0,2.0",
        "2020-01-06 00:00:00-05:00,49.0,49.5,48.5,49.0,49.0,200,1.0,0.0",
        "2020-01-07,49.0,49.5,48.5,49.0,49.0,100,0.0,0.0",
        "2020-01-08,49.0,49.5,48.5,49.0,49.0,300,0.0,0.5",
    ]
    # the last split makes one share of two: what came before is told in the shares after it
    (tmp_path / "AAPL.csv").write_text(YAHOO + "\n".join(rows) + "\n")
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    bars = delivery.bars
    assert delivery.findings.num_rows == 0
    assert bars["close"].to_pylist() == [50.0, 25.0, 24.5, 24.5, 49.0]
    assert bars["volume"].to_pylist() == [200.0, 400.0, 400.0, 200.0, 300.0]
    assert bars["split"].to_pylist() == [1.0, 2.0, 1.0, 1.0, 0.5]
    assert bars["dividend"].to_pylist() == [0.0, 0.0, 0.5, 0.0, 0.0]
    np.testing.assert_allclose(bars["factor"].to_numpy(), [1, 2, 2 / 0.98, 2 / 0.98, 1 / 0.98], rtol=1e-12)
    assert open_source("u", universe(tmp_path)).look(1).profile.name == "yahoo"


def test_prices_of_yahoo_without_events(tmp_path):
    text = "Date,Open,High,Low,Close,Adj Close,Volume\n2020-01-02,4,4,4,4,3,1\n2020-01-03,3,3,3,3,3,1\n"
    (tmp_path / "A.csv").write_text(text)
    delivery = deliver(universe(tmp_path))
    np.testing.assert_allclose(delivery.bars["factor"].to_numpy(), [1, 4 / 3], rtol=1e-12)
    assert delivery.findings.num_rows == 0


def test_files_of_qlib_s_collectors(tmp_path):
    rows = "symbol,date,open,high,low,close,volume,factor,change\n"
    rows += (
        "SH600000,2020-01-02,2,3,1,2,100,0.5,\nSH600000,2020-01-03,4,4,4,4,50,2,1\nSH600000,2020-01-06,4,4,4,4,50,,1\n"
    )
    (tmp_path / "sh600000.csv").write_text(rows)
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    found = delivery.bars.select(["instrument", "close", "volume", "factor"]).to_pydict()
    assert found == {
        "instrument": ["SH600000"] * 2,
        "close": [4.0, 2.0],
        "volume": [50.0, 100.0],
        # the factor changes by four where the price halves
        "factor": [1.0, 4.0],
    }
    assert dict(reasons(delivery)) == {"bad_event": 1}


def test_files_of_stooq_are_not_adjusted_here_and_it_is_said(tmp_path):
    text = "Date,Open,High,Low,Close,Volume\n2020-01-02,4,4,4,4,1\n2020-01-03,2,2,2,2,1\n"
    for name in ("aapl_us_d", "brk-b_us_d", "^spx_d", "MSFT"):
        (tmp_path / f"{name}.csv").write_text(text)
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    names = ["AAPL", "BRK-B", "MSFT", "^SPX"]
    assert delivery.bars["instrument"].to_pylist() == names * 2
    assert delivery.checks["not_adjusted"] == 1
    (found,) = delivery.findings.to_pylist()
    assert (found["date"], found["instrument"], found["kind"]) == (date(2020, 1, 2), "AAPL", "not_adjusted")
    assert found["detail"] == NOT_ADJUSTED
    assert "prices are not adjusted" in NOT_ADJUSTED
    # more columns than stooq's are another layout
    (tmp_path / "aapl_us_d.csv").write_text(text.replace("Volume", "Volume,Dividends").replace(",1\n", ",1,0\n"))
    for name in ("brk-b_us_d", "^spx_d", "MSFT"):
        (tmp_path / f"{name}.csv").unlink()
    with pytest.raises(SourceError, match="unknown column layout"):
        deliver(universe(tmp_path))
