"""What lies in a folder besides honest files: links, unreadable things, odd names, and rows that cannot be."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from qdag.errors import SourceError
from qdag.settings import ColumnMapping, FilesSource
from qdag.sources import open_source
from qdag.sources.cleaning import NOT_ADJUSTED
from qdag.sources.files import FilesFolder
from qdag.sources.files.entries import entries, printable
from qdag.sources.files.profiles import name_regex, plain_name, plain_symbol
from qdag.sources.reasons import Reason, Refuses
from qdag_tests.sources.test_files import US, accounts, deliver, reasons, universe, us

TEXT = US + us(3)
SECRET = "password=hunter2\n"


def refused(delivery) -> dict[str, tuple[str, str]]:
    """Source -> reason and instrument, of what was refused as a whole."""
    rows = [row for row in delivery.quarantine.to_pylist() if row["line"] == 0]
    assert {row["reason"] for row in rows} <= {r for r in Reason if Refuses.FILE in r.refuses}
    return {row["source"]: (row["reason"], row["instrument"]) for row in rows}


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="qdag-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def permissions_count() -> Iterator[None]:
    """To the superuser nothing is forbidden: be nobody for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_links_are_not_followed(tmp_path):
    """Neither out of the folder nor within it; what they lead to is in no table."""
    folder, elsewhere = tmp_path / "in", tmp_path / "out"
    for made in (folder, elsewhere):
        made.mkdir()
    (folder / "A.csv").write_text(TEXT)
    (elsewhere / "secret").write_text(SECRET)
    (elsewhere / "B.csv").write_text(TEXT)
    (folder / "LEAK.csv").symlink_to(elsewhere / "secret")
    (folder / "B.csv").symlink_to(elsewhere / "B.csv")
    (folder / "C.csv").symlink_to("A.csv")
    (folder / "GONE.parquet").symlink_to(elsewhere / "nothing")
    (folder / "more").symlink_to(elsewhere)
    (folder / "note").symlink_to(elsewhere / "secret")
    spec = universe(folder)
    delivery = deliver(spec)
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["A"]
    expected = {name: ("symbolic_link", name.split(".")[0]) for name in ("B.csv", "C.csv", "GONE.parquet", "LEAK.csv")}
    assert refused(delivery) == expected | {"more/": ("symbolic_link", "more")}
    assert "hunter2" not in str(delivery.quarantine.to_pylist())
    # a link to the folder itself is the user's own
    (tmp_path / "current").symlink_to(folder)
    assert deliver(universe(tmp_path / "current")).bars["instrument"].to_pylist() == ["A"]


def test_a_link_that_takes_a_file_s_place_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "A.csv").write_text(TEXT)
    (entry,) = entries(tmp_path)
    (tmp_path / "A.csv").unlink()
    (tmp_path / "A.csv").symlink_to(tmp_path / "secret")
    data, why, _ = entry.read()
    assert (data, bool(why)) == (b"", True)
    (tmp_path / "A.csv").unlink()
    os.mkfifo(tmp_path / "A.csv")
    assert entry.read() == (b"", "no regular file", 0)


def test_what_is_no_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "P.csv")
    (tmp_path / "D.csv").mkdir()
    (tmp_path / "D.csv" / "A.csv").write_text(TEXT)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "H.csv").write_text(TEXT)
    (tmp_path / "README.txt").write_text("no part of the source")
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(tmp_path)
        try:
            listening.bind("S.csv")
        finally:
            os.chdir(before)
        delivery = deliver(universe(tmp_path))
    assert delivery.bars["instrument"].to_pylist() == ["A"]
    assert refused(delivery) == {"P.csv": ("not_a_file", "P"), "S.csv": ("not_a_file", "S")}


def test_what_cannot_be_read_is_refused_and_the_rest_goes_on(shared):
    """A folder that cannot be listed, one whose files cannot be opened, and the first file of a folder."""
    for name in ("0.csv", "list/B.csv", "open/C.csv", "D.csv"):
        path = shared / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(TEXT)
    (shared / "0.csv").chmod(0)
    (shared / "list").chmod(0)
    (shared / "open").chmod(0o444)
    try:
        with permissions_count():
            spec = universe(shared)
            source = open_source("u", spec)
            delivery = deliver(spec)
            hashes = source.hashes()
            stamps = {name: entry.stamp()[0] for name, entry in source.files().items()}
    finally:
        (shared / "list").chmod(0o755)
        (shared / "open").chmod(0o755)
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["D"]
    assert refused(delivery) == {
        "0.csv": ("unreadable", "0"),
        "list/": ("unreadable_folder", "list"),
        "open/C.csv": ("unreadable", "C"),
    }
    # what was read is known again as the same
    assert {version.source: version.sha256 for version in delivery.versions} == hashes
    assert {version.source: version.bytes for version in delivery.versions} == stamps
    assert stamps == {"0.csv": len(TEXT), "D.csv": len(TEXT), "list/": 0, "open/C.csv": 0}
    shared.chmod(0)
    try:
        with permissions_count(), pytest.raises(SourceError, match="cannot be listed"):
            deliver(spec)
    finally:
        shared.chmod(0o755)


def test_names_that_are_no_text(tmp_path):
    (tmp_path / "A.csv").write_text(TEXT)
    with open(os.fsencode(tmp_path) + b"/\xff\xfe.csv", "w") as file:
        file.write(TEXT)
    (tmp_path / "B\nC.csv").write_text(TEXT)
    spec = universe(tmp_path)
    delivery = deliver(spec)
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["A"]
    assert refused(delivery) == {"\\xff\\xfe.csv": ("bad_file_name", "__"), "B\\nC.csv": ("bad_instrument", "B_C")}
    assert all(name.encode() and name.isprintable() for name in open_source("u", spec).hashes())
    assert len({printable(text) for text in ("\udcff", "\\xff", "\xff")}) == 3


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


def test_a_file_whose_name_is_no_symbol_is_refused_as_one(tmp_path):
    (tmp_path / "AT&T.csv").write_text(TEXT)
    (tmp_path / "T.csv").write_text(TEXT)
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert refused(delivery) == {"AT&T.csv": ("bad_instrument", "AT_T")}


def test_names_that_differ_in_capitals_only(tmp_path):
    """The first by name stays; in a file of several instruments, the first that comes."""
    for name in ("DOV.csv", "dov.csv", "sub/Dov.csv", "NA.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TEXT)
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["DOV", "NA"]
    assert refused(delivery) == {
        "dov.csv": ("name_clash", "dov"),
        "sub/Dov.csv": ("name_clash", "Dov"),
    }
    # alone it is read
    assert deliver(universe(tmp_path, instruments=("dov",))).bars["instrument"].to_pylist() == ["dov"]
    columns = ColumnMapping(
        date="timestamp", instrument="s", open="open", high="high", low="low", close="close", volume="volume"
    )
    several = tmp_path / "several"
    several.mkdir()
    rows = "".join(f"{name},{us(day)}" for name in ("b", "B", "b") for day in (3, 6))
    (several / "all.csv").write_text(US.replace("timestamp", "s,timestamp") + rows)
    delivery = deliver(universe(several, profile="custom", columns=columns))
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["b", "b"]
    assert (dict(reasons(delivery)), delivery.corrections) == ({"name_clash": 2}, 2)


def test_a_mistyped_year_is_told(tmp_path):
    wrong = [us(8).replace("2020", "2220"), us(9).replace("2020", "1920")]
    ascending = us(2) + us(3) + us(6) + us(7) + wrong[0] + wrong[1] + us(10)
    (tmp_path / "A.csv").write_text(US + us(2).replace("2020", "2019") + ascending + us(3).replace("-01-", "-02-"))
    newest_first = [us(10), wrong[1], us(8), us(7), wrong[0], us(3), us(2), us(2).replace("2020", "2018")]
    (tmp_path / "B.csv").write_text(US + "".join(newest_first))
    coming = date.today() + timedelta(days=40)
    (tmp_path / "C.csv").write_text(TEXT + us(6).replace("2020-01-06", coming.isoformat()))
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    told = [(row["instrument"], row["reason"], row["line"]) for row in delivery.quarantine.to_pylist()]
    assert sorted(told) == [
        ("A", "misplaced_date", 7),
        ("A", "misplaced_date", 8),
        ("B", "misplaced_date", 3),
        ("B", "misplaced_date", 6),
        ("C", "misplaced_date", 3),
    ]
    # history before the universe, and what comes after its end, are other times: counted
    assert delivery.checks["rows_outside"] == 3
    # what was mistyped is no last day of a file
    assert [version.last for version in delivery.versions] == [date(2020, 2, 3), date(2020, 1, 10), date(2020, 1, 3)]
    # asked for day by day it is the same, told on the first asked day, as what has no date at all
    part = deliver(universe(tmp_path), start=date(2020, 1, 7), end=date(2020, 1, 8))
    assert dict(reasons(part)) == {"misplaced_date": 5}
    assert set(part.quarantine["date"].to_pylist()) == {date(2020, 1, 7)}


def test_typed_dates_of_impossible_years_are_none(tmp_path):
    days = np.array(["2020-01-03", "-5877641-06-23", "12020-01-03", "0800-01-03"], "M8[D]")
    table = pa.table({"timestamp": days, **{name: [10.0] * 4 for name in US.strip().split(",")[1:]}})
    for name, kind in (("A", pa.date32()), ("B", pa.timestamp("s"))):
        pq.write_table(table.set_column(0, "timestamp", table["timestamp"].cast(kind)), tmp_path / f"{name}.parquet")
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert dict(reasons(delivery)) == {"bad_date": 6}
    assert {(version.first, version.last) for version in delivery.versions} == {(date(2020, 1, 3), date(2020, 1, 3))}


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


def test_a_wrong_column_of_a_layout_of_one_s_own_is_named_with_its_key(tmp_path):
    (tmp_path / "A.csv").write_text(TEXT)
    columns = ColumnMapping(date="timestamp", open="open", high="high", low="low", close="Clsoe", volume="volume")
    with pytest.raises(SourceError, match=r"columns.close = 'Clsoe'; did you mean 'close'\?"):
        deliver(universe(tmp_path, profile="custom", columns=columns))
