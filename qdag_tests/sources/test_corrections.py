"""What is delivered again: nothing new writes nothing, a correction replaces what differs, and files are remembered."""

import hashlib
import os
import shutil
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qdag import schema, stages
from qdag.settings import FilesSource, Settings, SyntheticSource, UniverseSettings
from qdag.sources import base, files, open_source, spill
from qdag.stages import Platform
from qdag.store import deliveries
from qdag.store.digests import session_digests

US = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"
START, END = date(2020, 1, 2), date(2020, 3, 31)
TABLES = ("raw_ohlcv", "quarantine", "findings", "deliveries")


@pytest.fixture
def market(tmp_path) -> Platform:
    """Three instruments, one of them with a refused row and one with an event that its adjusted close denies."""
    folder = tmp_path / "files"
    folder.mkdir()
    universe = UniverseSettings(source=FilesSource(path=folder), calendar="XNYS", start=START, end=END)
    platform = Platform.open(Settings(home=tmp_path / "home", universes={"u": universe}))
    for name in "ABC":
        write(platform, name, {})
    return platform


def write(platform: Platform, name: str, changes: dict[date, str], until: date = END) -> None:
    """A file of constant bars, some of its lines exchanged; an empty text takes the line away."""
    lines = []
    for day in platform.calendar("u").between(START, until).tolist():
        plain = f"{day},10,11,9,10,10,100,0,1\n"
        if name == "B" and day == date(2020, 2, 3):
            plain = f"{day},10,9,11,10,10,100,0,1\n"
        if name == "C" and day == date(2020, 2, 4):
            plain = f"{day},10,11,9,10,10,100,0,2\n"
        lines.append(changes.get(day, plain))
    path = platform.settings.universe("u").source.path / f"{name}.csv"
    path.write_text(US + "".join(lines))


def run(platform: Platform, start: date = START, end: date = END):
    before = {name: platform.store.version(name) for name in TABLES}
    result = stages.raw_ohlcv(platform, "u", start, end)
    after = {name: platform.store.version(name) for name in TABLES}
    return result, {name for name in TABLES if before[name] != after[name]}


def counts(result) -> tuple[int, ...]:
    names = ("sessions_new", "sessions_changed", "sessions_unchanged", "rows_new", "rows_changed", "rows_removed")
    return tuple(result.extra[name] for name in names)


def touch(platform: Platform) -> None:
    """Other bytes and the same rows: the files are read again."""
    for path in platform.settings.universe("u").source.path.iterdir():
        path.write_bytes(path.read_bytes() + b"\n")


def test_an_unchanged_delivery_writes_nothing(market):
    first, written = run(market)
    assert written == set(TABLES)
    assert counts(first) == (62, 0, 0, 185, 0, 0)
    assert market.store.read("findings", "u").select(["date", "instrument", "kind"]).to_pylist() == [
        {"date": date(2020, 2, 4), "instrument": "C", "kind": "event_refused"}
    ]
    again, written = run(market)
    assert written == set()
    assert "not read again" in again.extra["note"]
    assert (again.rows, again.instruments, again.sessions, again.nan_share) == (185, 3, 62, first.nan_share)
    assert again.version == first.version
    touch(market)
    third, written = run(market)
    assert written == {"deliveries"}
    assert third.extra["note"] == "what was delivered is what is stored: nothing written"
    assert counts(third) == counts(again) == (0, 0, 62, 0, 0, 0)
    assert (third.rows, third.instruments, third.sessions, third.nan_share) == (185, 3, 62, first.nan_share)


def test_a_part_of_an_unchanged_delivery_is_not_read(market, monkeypatch):
    run(market)
    monkeypatch.setattr(files.FilesFolder, "deliver", None)
    result, written = run(market, date(2020, 2, 3), date(2020, 2, 28))
    assert (written, result.sessions, result.rows) == (set(), 19, 56)
    touch(market)
    with pytest.raises(TypeError):
        run(market, date(2020, 2, 3), date(2020, 2, 28))


def test_a_correction_replaces_from_the_first_to_the_last_session_that_differs(market):
    run(market)
    other = session_digests(market.store, "u", START, END)
    low, high = date(2020, 2, 10), date(2020, 2, 13)
    changes = {low: f"{low},10,11,9,10.5,10.5,100,0,1\n", high: ""}
    write(market, "A", changes)
    result, written = run(market)
    assert written == {"raw_ohlcv", "deliveries"}
    # the adjusted close moves with the close, so that the events still explain it
    assert counts(result) == (0, 2, 60, 0, 1, 1)
    commit = market.store.history("raw_ohlcv")[0]
    assert (commit["start"], commit["end"]) == (low, high)
    sessions, digests = session_digests(market.store, "u", START, END)
    differs = sessions[digests != other[1]].tolist()
    assert differs == [low, high]
    # a new session, and one that nobody has any more
    write(market, "A", {**changes, END: ""})
    for name in "BC":
        write(market, name, {END: ""})
    result, _ = run(market)
    assert counts(result) == (0, 1, 61, 0, 0, 3)
    assert END not in market.store.sessions("raw_ohlcv", "u").tolist()
    write(market, "A", changes)
    result, _ = run(market)
    assert counts(result) == (1, 0, 61, 1, 0, 0)
    # a row that becomes good leaves the quarantine, a mended adjusted close the findings
    write(market, "B", {date(2020, 2, 3): "2020-02-03,10,11,9,10,10,100,0,1\n", END: ""})
    write(market, "C", {date(2020, 2, 4): "2020-02-04,10,11,9,10,10,100,0,1\n", END: ""})
    _, written = run(market)
    assert written == set(TABLES)
    assert market.store.count("quarantine", "u") == market.store.count("findings", "u") == 0


def test_corrected_by_hand_restored_or_deleted_bars_are_read_again(market):
    run(market)
    whole = market.store.read("raw_ohlcv", "u")
    day = date(2020, 3, 2)
    # another universe and another window are nobody's correction
    market.store.replace(schema.RAW_OHLCV, "other", day, day, schema.RAW_OHLCV.arrow().empty_table(), {})
    market.store.compact("raw_ohlcv")
    assert "not read again" in run(market)[0].extra["note"]
    market.store.replace(schema.RAW_OHLCV, "u", day, day, schema.RAW_OHLCV.arrow().empty_table(), {})
    assert "not read again" in run(market, START, date(2020, 2, 28))[0].extra["note"]
    result, written = run(market)
    assert (written, counts(result)) == ({"raw_ohlcv"}, (1, 0, 61, 3, 0, 0))
    assert market.store.read("raw_ohlcv", "u").equals(whole)
    shutil.rmtree(market.store.uri("raw_ohlcv"))
    assert run(market)[0].extra["rows_new"] == 185
    assert market.store.read("raw_ohlcv", "u").equals(whole)


def test_files_that_return_to_an_older_version_are_read_again(market):
    run(market)
    day = date(2020, 2, 10)
    write(market, "A", {day: f"{day},10,11,9,10.5,10.5,100,0,1\n"})
    part, _ = run(market, date(2020, 2, 3), date(2020, 2, 28))
    assert counts(part)[1] == 1
    write(market, "A", {})
    # the whole was delivered from these very files, but not all of it is stored any more
    result, _ = run(market)
    assert counts(result) == (0, 1, 61, 0, 1, 0)


def test_settings_decide_too(market):
    run(market)
    fewer = market.settings.universe("u").model_copy(update={"instruments": ("A", "B")})
    platform = Platform.open(market.settings.model_copy(update={"universes": {"u": fewer}}))
    result, _ = run(platform)
    assert (result.instruments, counts(result)) == (2, (0, 62, 0, 0, 0, 62))


def test_deliveries_tell_which_file_gave_what(market):
    run(market)
    rows = market.store.read("deliveries", "u").to_pylist()
    assert [row["source"] for row in rows] == ["A.csv", "B.csv", "C.csv"]
    path = market.settings.universe("u").source.path / "B.csv"
    expected = {
        "date": END,
        "since": START,
        "source": "B.csv",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "rows": 62,
        "first": START,
        "last": END,
        "version": 1,
    }
    assert {name: rows[1][name] for name in expected} == expected
    # a wider and a narrower window that end on the same session: the narrower one is kept beside the wider
    run(market, date(2020, 2, 3), END)
    assert market.store.count("deliveries", "u") == 3
    touch(market)
    run(market, date(2020, 2, 3), END)
    assert sorted({row["since"] for row in market.store.read("deliveries", "u").to_pylist()}) == [
        START,
        date(2020, 2, 3),
    ]
    run(market)
    assert {row["since"] for row in market.store.read("deliveries", "u").to_pylist()} == {START}


def test_the_digest_is_of_the_bytes_that_were_parsed(market, monkeypatch):
    path = market.settings.universe("u").source.path / "A.csv"
    before = path.read_bytes()
    day = date(2020, 2, 10)
    parse = files._read

    def rewritten(which, *rest):
        if which == path:
            write(market, "A", {day: f"{day},10,11,9,10.5,10.5,100,0,1\n"})
        return parse(which, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_read", rewritten)
        run(market)
    (told,) = (row for row in market.store.read("deliveries", "u").to_pylist() if row["source"] == "A.csv")
    assert told["sha256"] == hashlib.sha256(before).hexdigest()
    assert market.store.read("raw_ohlcv", "u", day, day, ["A"])["close"].to_pylist() == [10.0]
    # the file that is there now has not been read yet
    assert counts(run(market)[0])[1] == 1
    assert market.store.read("raw_ohlcv", "u", day, day, ["A"])["close"].to_pylist() == [10.5]


def test_the_newest_of_two_files_wins_by_name_and_not_by_time(market):
    folder = market.settings.universe("u").source.path
    (folder / "z").mkdir()
    day = date(2020, 2, 10)
    (folder / "z" / "A.csv").write_text(
        US + f"{day},10,11,9,9.5,9.5,1,0,1\n{day + timedelta(days=1)},1,2,3,9,9,1,0,1\n"
    )
    os.utime(folder / "z" / "A.csv", (1, 1))
    result, _ = run(market)
    assert (result.extra["corrections"], result.extra["quarantined"], result.rows) == (1, 2, 185)
    bars = market.store.read("raw_ohlcv", "u", day, day, ["A"])
    assert bars["close"].to_pylist() == [9.5]
    # only the refused row of the later file is lost, not the good one of the earlier
    later = day + timedelta(days=1)
    assert market.store.read("raw_ohlcv", "u", later, later, ["A"])["close"].to_pylist() == [10.0]


def test_two_identities_in_a_file_are_a_finding(tmp_path):
    header = "ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount\n"
    row = "{},{},5,5,5,5,5,0,0,10,5\n"
    days = ("20200103", "20200106", "20200107")
    text = header + "".join(row.format("600018.SH", d) for d in days) + row.format("600019.SH", days[1])
    (tmp_path / "600018.SH.csv").write_text(text)
    spec = UniverseSettings(source=FilesSource(path=tmp_path), calendar="XSHG", start=START, end=END)
    platform = Platform.open(Settings(home=tmp_path / "home", universes={"u": spec}))
    result = stages.raw_ohlcv(platform, "u", START, END)
    assert (result.rows, result.extra["quarantined"]) == (3, 1)
    (found,) = platform.store.read("findings", "u").to_pylist()
    assert (found["date"], found["instrument"], found["kind"]) == (date(2020, 1, 6), "SH600018", "ticker_reuse")
    assert "1 rows of others" in found["detail"]


def test_a_day_without_session_says_so(market):
    for name in stages.asset_names(market.settings):
        stage = {
            "raw_ohlcv": stages.raw_ohlcv,
            "qlib_bin": stages.qlib_bin,
            "labels": stages.labels,
            "factor_metrics": stages.factor_metrics,
            "trained_model": stages.trained_model,
            "predictions": stages.predictions,
        }.get(name) or stages.feature_stage(name)
        result = stage(market, "u", date(2020, 1, 20), date(2020, 1, 20))
        assert "no session of XNYS" in result.extra["note"], name
        assert (result.rows, result.sessions) == (0, 0)


@pytest.mark.parametrize("limit", [0, 3000, 1 << 30])
def test_memory_makes_no_difference(market, monkeypatch, limit):
    spec = market.settings.universe("u")
    sessions = market.calendar("u").between(START, END)
    expected = open_source("u", spec).deliver(sessions, START, END)
    monkeypatch.setattr(spill, "PART_SESSIONS", 7)
    monkeypatch.setattr(base, "GROUPS", 2)
    monkeypatch.setattr(spill, "MEMORY_BYTES", limit)
    got = open_source("u", spec).deliver(sessions, START, END)
    assert len(got.parts) == 9
    assert got.bars.equals(expected.bars)
    assert got.parts[3].equals(got.parts[3])
    assert pa.concat_tables(got.parts[2:4]).num_rows == got.parts[2].num_rows + got.parts[3].num_rows
    assert got.findings.equals(expected.findings)
    assert got.quarantine.equals(expected.quarantine)
    assert got.checks == expected.checks


@hypothesis_settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=8), st.integers(0, 4000))
def test_shelf_gives_back_what_was_added(added, limit):
    shelf = spill.Shelf(limit)
    expected: dict[int, list[int]] = {}
    for at, (place, size) in enumerate(added):
        shelf.add(place, pa.table({"x": np.arange(size) + 100 * at}))
        expected.setdefault(place, []).extend(range(100 * at, 100 * at + size))
    assert shelf.places == sorted(expected)
    for place, values in expected.items():
        assert shelf.read(place)["x"].to_pylist() == shelf.read(place)["x"].to_pylist() == values


def test_a_correction_of_a_market_in_parts_equals_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "PART_SESSIONS", 16)
    spec = UniverseSettings(
        source=SyntheticSource(seed=5, instruments=9), calendar="XNYS", start=date(2018, 1, 2), end=date(2018, 6, 29)
    )
    platform = Platform.open(Settings(home=tmp_path, universes={"u": spec}))
    first = stages.raw_ohlcv(platform, "u", spec.start, spec.end)
    assert first.extra["rows_new"] == first.rows
    whole = platform.store.read("raw_ohlcv", "u")
    day, gone = date(2018, 2, 7), date(2018, 5, 9)
    spoiled = whole.set_column(3, "open", pc.if_else(pc.equal(whole["date"], day), 1e-3, whole["open"]))
    spoiled = spoiled.filter(pc.field("date") != gone)
    platform.store.replace(schema.RAW_OHLCV, "u", spec.start, spec.end, spoiled, {})
    again = stages.raw_ohlcv(platform, "u", spec.start, spec.end)
    rows = {d: whole.filter(pc.field("date") == d).num_rows for d in (day, gone)}
    assert counts(again) == (1, 1, first.sessions - 2, rows[gone], rows[day], 0)
    assert platform.store.read("raw_ohlcv", "u").equals(whole)
    assert platform.store.history("raw_ohlcv")[0]["start"] == day
    assert (again.rows, again.nan_share) == (first.rows, first.nan_share)
    assert deliveries.unchanged(platform.store, "u", spec.start, spec.end, {}, "") is None


def test_the_digest_of_a_delivery_is_that_of_all_its_files():
    one = deliveries.fingerprint({"a": "1", "b": "2"}, "r")
    assert one == deliveries.fingerprint({"b": "2", "a": "1"}, "r")
    others = [({"a": "2", "b": "1"}, "r"), ({"a": "1"}, "r"), ({"a": "1", "b": "2"}, "q")]
    assert one not in [deliveries.fingerprint(*other) for other in others]


def test_paths_are_the_order_of_files(tmp_path):
    for name in ("b/A.csv", "a/A.csv", "A.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(US)
    spec = UniverseSettings(source=FilesSource(path=tmp_path), calendar="XNYS", start=START, end=END)
    source = open_source("u", spec)
    assert isinstance(source, base.FileSource)
    assert list(source.hashes()) == ["A.csv", "a/A.csv", "b/A.csv"]
    assert not isinstance(open_source("u", spec.model_copy(update={"source": SyntheticSource()})), base.FileSource)
