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

from qdag import schema
from qdag.assets import raw_ohlcv
from qdag.assets.platform import Platform
from qdag.errors import SourceError
from qdag.operations import landing
from qdag.operations.backfill import backfill_chunks
from qdag.operations.landing import changed_files
from qdag.operations.survey import survey
from qdag.settings import FilesSource, Settings, SyntheticSource, UniverseSettings
from qdag.sources import cleaning, open_source, spill
from qdag.sources.files import FilesFolder
from qdag.sources.files import folder as reading
from qdag.sources.protocol import FileSource, reader_digest
from qdag.sources.reasons import UNDATED, Reason, Refuses
from qdag.store import deliveries
from qdag.store.digests import session_digests
from qdag_tests import stages

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
    monkeypatch.setattr(FilesFolder, "deliver", None)
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
    assert (written, counts(result)) == ({"raw_ohlcv", "deliveries"}, (1, 0, 61, 3, 0, 0))
    # and not once more: deliveries names the version that holds them now
    assert "not read again" in run(market)[0].extra["note"]
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


@pytest.mark.parametrize("last", ["quarantine", "findings", "raw_ohlcv"])
def test_files_that_return_after_a_reading_that_died_are_read_again(market, monkeypatch, last):
    run(market)
    before = {name: market.store.read(name, "u") for name in ("raw_ohlcv", "quarantine", "findings")}
    day, other = date(2020, 2, 10), date(2020, 2, 11)
    write(market, "A", {day: f"{day},10,11,9,10,10,100,0,2\n", other: f"{other},10,9,11,10,10,100,0,1\n"})
    write_rows = raw_ohlcv.replace_rows

    def dies(platform, spec, *more):
        written = write_rows(platform, spec, *more)
        if spec.name == last:
            raise KeyboardInterrupt
        return written

    with monkeypatch.context() as patch:
        patch.setattr(raw_ohlcv, "replace_rows", dies)
        with pytest.raises(KeyboardInterrupt):
            run(market)
    assert not market.store.read(last, "u").equals(before[last])
    write(market, "A", {})
    assert len(landing.unread(market, "u").sessions)
    run(market)
    assert {name: market.store.read(name, "u") for name in before} == before


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
    # whatever was asked for, a reading is of all files and compared with all sessions: one set of files is known
    touch(market)
    run(market, date(2020, 2, 3), date(2020, 2, 28))
    rows = market.store.read("deliveries", "u").to_pylist()
    assert [(row["source"], row["since"], row["date"]) for row in rows] == [(f"{n}.csv", START, END) for n in "ABC"]
    assert rows[1]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    for name in "BC":
        os.utime(path.with_name(f"{name}.csv"), ns=(10**18, 10**18))
    run(market)
    assert changed_files(market, "u") == ([], [])
    touch(market)
    run(market, END, END)
    told = {row["source"]: row["modified"] for row in market.store.read("deliveries", "u").to_pylist()}
    # a time that may be that of another change to come says nothing
    assert told == dict.fromkeys(("A.csv", "B.csv", "C.csv"), 0)


def test_files_that_changed_are_found_without_being_read(market, monkeypatch):
    folder = market.settings.universe("u").source.path
    assert changed_files(market, "u") == (["A.csv", "B.csv", "C.csv"], [])
    for path in folder.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    run(market)
    with monkeypatch.context() as patch:
        patch.setattr(landing.Entry, "sha256", None)
        assert changed_files(market, "u") == ([], [])
        write(market, "A", {END: ""})
        (folder / "B.csv").unlink()
        # another size is another file
        assert changed_files(market, "u") == (["A.csv"], ["B.csv"])
        write(market, "A", {})
        with pytest.raises(TypeError):
            changed_files(market, "u")
    # the same bytes at another time
    assert changed_files(market, "u") == ([], ["B.csv"])
    # other settings read the same files in another way
    named = market.settings.universe("u").model_copy(update={"instruments": ("A", "C")})
    other = Platform.open(market.settings.model_copy(update={"universes": {"u": named}}))
    assert changed_files(other, "u") == (["A.csv", "C.csv"], [])


def stored(platform: Platform, table: str = "raw_ohlcv") -> pa.Table:
    return platform.store.read(table, "u")


def rebuilt(platform: Platform, home, first: date = START, last: date = END) -> Platform:
    """Another home, which gets what the files give now in one go."""
    other = Platform.open(platform.settings.model_copy(update={"home": home}))
    stages.raw_ohlcv(other, "u", first, last)
    return other


def in_line(platform: Platform) -> int:
    """Read what is contradicted until nothing is; returns the runs."""
    for runs in range(5):
        days = deliveries.contradicted(platform.store, "u")
        if not len(days):
            return runs
        run(platform, days[0].item(), days[-1].item())
    raise AssertionError(f"still contradicted: {days}")


def test_a_correction_read_by_a_run_over_other_sessions_is_kept_in_mind(market, tmp_path):
    paid, later = date(2020, 2, 10), date(2020, 3, 16)
    for name in "ABC":
        write(market, name, {}, until=date(2020, 3, 13))
    run(market)
    # the file of the newest session tells an old dividend: every factor from there on is another one
    write(market, "A", {paid: f"{paid},10,11,9,10,10,100,0.3,1\n"}, until=later)
    result, _ = run(market, later, later)
    days = deliveries.contradicted(market.store, "u")
    assert days.tolist() == market.calendar("u").between(paid, date(2020, 3, 13)).tolist()
    assert result.extra["sessions_contradicted"] == len(days)
    # neither is the delivery taken for read where it was not
    assert deliveries.unchanged(market.store, "u", START, date(2020, 2, 7), *known(market)) is not None
    assert deliveries.unchanged(market.store, "u", START, later, *known(market)) is None
    assert in_line(market) == 1
    assert stored(market).equals(stored(rebuilt(market, tmp_path / "other")))
    assert deliveries.unchanged(market.store, "u", START, later, *known(market)) is not None


def test_contradictions_that_are_lost_make_the_files_unread(market, tmp_path):
    day = date(2020, 2, 10)
    run(market)
    write(market, "A", {day: f"{day},10,11,9,10.5,10.5,100,0,1\n"})
    run(market, END, END)
    assert deliveries.contradicted(market.store, "u").tolist() == [day]
    # by a damaged file that was taken out, or a restored version
    market.store.replace(schema.CONTRADICTIONS, "u", START, END, schema.CONTRADICTIONS.arrow().empty_table(), {})
    assert changed_files(market, "u") == (["A.csv", "B.csv", "C.csv"], [])
    assert landing.unread(market, "u").sessions.tolist() == [day]
    run(market, END, END)
    assert in_line(market) == 1
    assert stored(market).equals(stored(rebuilt(market, tmp_path / "other")))


def provider(platform: Platform) -> dict[str, bytes]:
    folder = platform.settings.provider("u")
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def follow(platform: Platform, *assets: str) -> list[tuple[tuple[str, ...], date, date]]:
    """Run what is stale until nothing is; returns the runs."""
    done = []
    while asked := survey(platform, "u", assets).requests:
        for request in asked:
            done.append((request.assets, request.start, request.end))
            for name in request.assets:
                getattr(stages, name)(platform, "u", request.start, request.end)
        assert len(done) < 20
    return done


def test_what_is_contradicted_is_refreshed_and_its_readers_after_it(market, tmp_path):
    paid, before, later = date(2020, 2, 10), date(2020, 3, 13), date(2020, 3, 16)
    for name in "ABC":
        write(market, name, {}, until=before)
    for stage in (stages.raw_ohlcv, stages.qlib_bin):
        stage(market, "u", START, before)
    write(market, "A", {paid: f"{paid},10,11,9,10,10,100,0.3,1\n"}, until=later)
    for stage in (stages.raw_ohlcv, stages.qlib_bin):
        stage(market, "u", later, later)
    seen = survey(market, "u", ["raw_ohlcv", "qlib_bin"])
    assert seen.stale["raw_ohlcv"].reason() == "inputs changed: 24 sessions"
    [first, second] = follow(market, "raw_ohlcv", "qlib_bin")
    assert first == (("raw_ohlcv",), paid, before)
    assert second == (("qlib_bin",), paid, later)
    other = rebuilt(market, tmp_path / "other", START, later)
    stages.qlib_bin(other, "u", START, later)
    assert stored(market).equals(stored(other))
    assert provider(market) == provider(other)


def test_a_backfill_of_years_before_brings_the_later_ones_in_line(market, tmp_path):
    paid, begin = date(2020, 2, 3), date(2020, 2, 18)
    early = dict.fromkeys(market.calendar("u").between(START, date(2020, 2, 14)).tolist(), "")
    for name in "ABC":
        write(market, name, early)
    for stage in (stages.raw_ohlcv, stages.qlib_bin):
        stage(market, "u", begin, END)
    for name in "ABC":
        write(market, name, {paid: f"{paid},10,11,9,10,10,100,0.5,1\n"})
    done = []
    for chunk in backfill_chunks(market, "u", None, None, ["raw_ohlcv", "qlib_bin"], 20):
        done.append(chunk.assets)
        for name in chunk.assets:
            getattr(stages, name)(market, "u", chunk.start, chunk.end)
    assert follow(market, "raw_ohlcv", "qlib_bin") == []
    assert ("raw_ohlcv",) in done
    other = rebuilt(market, tmp_path / "other")
    stages.qlib_bin(other, "u", START, END)
    assert stored(market).equals(stored(other))
    assert provider(market) == provider(other)


def known(platform: Platform) -> tuple[dict[str, str], str]:
    spec = platform.settings.universe("u")
    source = open_source("u", spec)
    assert isinstance(source, FileSource)
    return source.hashes(), reader_digest(spec)


def test_files_that_begin_earlier_move_the_base_of_what_is_stored(market, tmp_path):
    paid, begin = date(2020, 2, 3), date(2020, 2, 18)
    line = {paid: f"{paid},10,11,9,10,10,100,0.5,1\n"}
    early = dict.fromkeys(market.calendar("u").between(START, date(2020, 2, 14)).tolist(), "")
    for name in "ABC":
        write(market, name, early)
    run(market)
    assert stored(market)["date"].to_pylist()[0] == begin
    for name in "ABC":
        write(market, name, line)
    # the years before are filled; that the later ones have another factor now is not for this run to write
    run(market, START, date(2020, 2, 14))
    assert deliveries.contradicted(market.store, "u").tolist() == market.calendar("u").between(begin, END).tolist()
    assert in_line(market) == 1
    assert stored(market).equals(stored(rebuilt(market, tmp_path / "other")))


def test_recent_years_first_then_the_years_before(market, tmp_path):
    middle = date(2020, 2, 18)
    run(market, middle, END)
    # what lies before was never asked for; what lies between would be
    assert len(deliveries.contradicted(market.store, "u")) == 0
    days, new = deliveries.contradictions(market.store, "u")
    assert days.tolist() == market.calendar("u").between(START, date(2020, 2, 14)).tolist()
    assert new.all()
    run(market, START, date(2020, 1, 31))
    between = market.calendar("u").between(date(2020, 2, 3), date(2020, 2, 14))
    assert deliveries.contradicted(market.store, "u").tolist() == between.tolist()
    assert in_line(market) == 1
    assert stored(market).equals(stored(rebuilt(market, tmp_path / "other")))


def test_a_refused_file_contradicts_nothing(market):
    run(market)
    whole = stored(market)
    (market.settings.universe("u").source.path / "C.csv").write_text('{"Note": "limit"}')
    day = date(2020, 2, 10)
    write(market, "A", {day: f"{day},10,11,9,10.5,10.5,100,0,1\n"})
    run(market, END, END)
    assert deliveries.contradicted(market.store, "u").tolist() == [day]
    run(market, day, day)
    assert len(deliveries.contradictions(market.store, "u")[0]) == 0
    left = stored(market)
    assert left.filter(pc.field("instrument") == "C").equals(whole.filter(pc.field("instrument") == "C"))


def test_what_has_no_date_is_told_once(market, tmp_path):
    folder = market.settings.universe("u").source.path
    (folder / "D.csv").write_text("<html>limit</html>")
    with (folder / "A.csv").open("a") as file:
        file.write("2020-01-99,10,11,9,10,10,100,0,1\n2020-01-03,10,11\n")
    for first, last in (
        (START, date(2020, 1, 31)),
        (date(2020, 2, 3), date(2020, 2, 28)),
        (date(2020, 3, 2), END),
    ):
        result, _ = run(market, first, last)
        told = stored(market, "quarantine").filter(pc.field("source") != "B.csv")
        # with the run that read it last, so that its checks speak of it
        assert {(row["date"], row["reason"]) for row in told.to_pylist()} == {
            (first, reason) for reason in ("api_error_page", "bad_date", "wrong_columns")
        }
        assert result.extra["quarantined"] >= 3
    other = rebuilt(market, tmp_path / "other")
    for table in ("quarantine", "findings"):
        mine, theirs = (stored(p, table).drop(["date"]) for p in (market, other))
        keys = [(name, "ascending") for name in mine.column_names if name not in ("value", "expected", "row", "detail")]
        assert mine.sort_by(keys).equals(theirs.sort_by(keys))


@pytest.mark.parametrize("gone", [True, False])
def test_a_delivery_that_takes_history_away_is_held_back(market, tmp_path, gone):
    run(market)
    whole = stored(market)
    path = market.settings.universe("u").source.path / "A.csv"
    if gone:
        path.unlink()
    else:
        # a vendor's short answer: its last rows only
        write(market, "A", dict.fromkeys(market.calendar("u").between(START, date(2020, 3, 24)).tolist(), ""))
    day = date(2020, 2, 10)
    write(market, "B", {day: f"{day},10,11,9,10.5,10.5,100,0,1\n"})
    lost = 62 if gone else 57
    for first, last in ((END, END), (START, END)):
        result, _ = run(market, first, last)
        assert f"A: {lost} of 62 stored rows" in result.extra["held_back"]
        (told,) = stored(market, "quarantine").filter(pc.field("reason") == Reason.HISTORY_WITHDRAWN).to_pylist()
        assert (told["date"], told["instrument"], told["line"]) == (first, "A", 0)
        assert "qdag accept A --universe u" in told["row"]
        mine = stored(market).filter(pc.field("instrument") == "A")
        assert mine.equals(whole.filter(pc.field("instrument") == "A"))
    # the others go on, and nothing is asked for again and again
    assert market.store.read("raw_ohlcv", "u", day, day, ["B"])["close"].to_pylist() == [10.5]
    assert len(deliveries.contradictions(market.store, "u")[0]) == 0
    assert len(landing.unread(market, "u").sessions) == 0

    with pytest.raises(SourceError, match=f"accept it for {START}"):
        stages.raw_ohlcv(market, "u", END, END, accepted=["A"])
    stages.raw_ohlcv(market, "u", START, END, accepted=["A"])
    assert stored(market).equals(stored(rebuilt(market, tmp_path / "other")))
    assert stored(market, "quarantine").num_rows == 1


def test_few_rows_and_named_instruments_may_go(market):
    run(market)
    days = market.calendar("u").between(START, END)[:5].tolist()
    write(market, "A", dict.fromkeys(days, ""))
    result, _ = run(market)
    assert (result.extra["rows_removed"], "held_back" in result.extra) == (5, False)
    limits = UniverseSettings(**{**market.settings.universe("u").model_dump(), "quality": {"withdrawn_share": 1}})
    lenient = Platform.open(market.settings.model_copy(update={"universes": {"u": limits}}))
    write(market, "A", dict.fromkeys(market.calendar("u").between(START, date(2020, 3, 24)).tolist(), ""))
    result, _ = run(lenient)
    assert (result.extra["rows_removed"], "held_back" in result.extra) == (52, False)


DAYS = 14
NAMES = "ABC"
plain = {"close": 10, "split": 1, "dividend": 0}
edits = st.one_of(
    st.tuples(st.just("until"), st.sampled_from(NAMES), st.integers(1, DAYS)),
    st.tuples(st.just("since"), st.sampled_from(NAMES), st.integers(0, DAYS - 1)),
    st.tuples(st.just("hole"), st.sampled_from(NAMES), st.integers(0, DAYS - 1)),
    st.tuples(st.sampled_from(("close", "split", "dividend", "bad")), st.sampled_from(NAMES), st.integers(0, DAYS - 1)),
    st.tuples(st.sampled_from(("page", "gone", "back")), st.sampled_from(NAMES), st.just(0)),
)
windows = st.tuples(st.integers(0, DAYS - 1), st.integers(0, DAYS - 1)).map(sorted)


class Told:
    """What a vendor tells of three instruments, as files."""

    def __init__(self, platform: Platform):
        self.platform = platform
        self.days = platform.calendar("u").between(START, END)[:DAYS].tolist()
        self.rows = {name: {} for name in NAMES}
        self.state = {name: {"since": 0, "until": DAYS // 2, "holes": set(), "file": "rows"} for name in NAMES}

    def edit(self, kind: str, name: str, at: int) -> None:
        state = self.state[name]
        if kind in ("since", "until"):
            state[kind] = at
        elif kind == "hole":
            state["holes"] ^= {at}
        elif kind in ("page", "gone"):
            state["file"] = kind
        elif kind == "back":
            state["file"] = "rows"
        else:
            value = {"close": 10.5, "split": 2, "dividend": 0.5, "bad": -1}[kind]
            row = self.rows[name].setdefault(at, dict(plain))
            column = "close" if kind == "bad" else kind
            row[column] = value if row[column] != value else plain[column]

    def write(self) -> None:
        for name in NAMES:
            path = self.platform.settings.universe("u").source.path / f"{name}.csv"
            state = self.state[name]
            path.unlink(missing_ok=True)
            if state["file"] == "page":
                path.write_text('{"Note": "limit"}')
            if state["file"] != "rows":
                continue
            lines = [US]
            for at in range(state["since"], state["until"]):
                if at not in state["holes"]:
                    row = {**plain, **self.rows[name].get(at, {})}
                    close = row["close"]
                    lines.append(f"{self.days[at]},10,11,9,{close},{close},100,{row['dividend']},{row['split']}\n")
            if len(lines) > 1:
                path.write_text("".join(lines))
        # an empty folder is another matter
        if not any(self.platform.settings.universe("u").source.path.iterdir()):
            (self.platform.settings.universe("u").source.path / "Z.csv").write_text("{}")


def told_rows(of: Platform, table: str, first: date = START, last: date = END) -> list[dict[str, object]]:
    """Stored rows; without their date where it is that of the delivery."""
    undated = (*UNDATED, Reason.HISTORY_WITHDRAWN, *(r for r in Reason if Refuses.FILE in r.refuses))
    found = of.store.read(table, "u", first, last).to_pylist() if of.store.exists(table) else []
    return [{**row, "date": None} if row.get("reason") in undated else row for row in found]


@hypothesis_settings(max_examples=15)
@given(st.lists(st.tuples(st.lists(edits, max_size=3), windows), min_size=1, max_size=6), st.lists(edits, max_size=2))
def test_any_order_of_deliveries_and_windows_ends_as_one_build(tmp_path_factory, steps, final):
    root = tmp_path_factory.mktemp("market")
    (root / "files").mkdir()
    spec = UniverseSettings(
        source=FilesSource(path=root / "files", profile="alphavantage"),
        calendar="XNYS",
        start=START,
        end=date(2020, 1, 22),
        quality={"withdrawn_share": 1},
    )
    platform = Platform.open(Settings(home=root / "home", universes={"u": spec}))
    told = Told(platform)
    for changes, (first, last) in steps:
        for change in changes:
            told.edit(*change)
        told.write()
        stages.raw_ohlcv(platform, "u", told.days[first], told.days[last])
    for change in final:
        told.edit(*change)
    for name in NAMES:
        # of a file that is refused in the end, what came before stays
        told.edit("back", name, 0)
    told.write()

    whole = Platform.open(platform.settings.model_copy(update={"home": root / "other"}))
    stages.raw_ohlcv(whole, "u", START, END)
    # what is stored is brought in line by what is contradicted or has changed on disk
    held = platform.store.sessions("raw_ohlcv", "u")
    for _ in range(4):
        days = np.union1d(deliveries.contradicted(platform.store, "u"), landing.unread(platform, "u").sessions)
        if not len(days):
            break
        stages.raw_ohlcv(platform, "u", days[0].item(), days[-1].item())
    assert not len(days)
    if len(held):
        assert told_rows(platform, "raw_ohlcv", held[0].item()) == told_rows(whole, "raw_ohlcv", held[0].item())
    # and what lies before, which was never asked for, by the folder's being watched
    kept = landing.cursor_file(platform, "u")
    for _ in range(3):
        found = landing.arrivals(platform, "u", landing.Cursor.read(kept), now=2e9)
        found.cursor.write(kept)
        if found.request:
            stages.raw_ohlcv(platform, "u", found.request.start, found.request.end)
    assert landing.arrivals(platform, "u", found.cursor, now=2e9).request is None
    for table in ("raw_ohlcv", "quarantine", "findings"):
        assert told_rows(platform, table) == told_rows(whole, table), table


def test_the_digest_is_of_the_bytes_that_were_parsed(market, monkeypatch):
    path = market.settings.universe("u").source.path / "A.csv"
    before = path.read_bytes()
    day = date(2020, 2, 10)
    parse = reading._read

    def rewritten(which, *rest):
        if which == path:
            write(market, "A", {day: f"{day},10,11,9,10.5,10.5,100,0,1\n"})
        return parse(which, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "_read", rewritten)
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
    monkeypatch.setattr(cleaning, "GROUPS", 2)
    monkeypatch.setattr(spill, "MEMORY_BYTES", limit)
    got = open_source("u", spec).deliver(sessions, START, END)
    assert len(got.parts) == 9
    assert got.bars.equals(expected.bars)
    assert got.parts[3].equals(got.parts[3])
    assert pa.concat_tables(got.parts[2:4]).num_rows == got.parts[2].num_rows + got.parts[3].num_rows
    assert got.findings.equals(expected.findings)
    assert got.quarantine.equals(expected.quarantine)
    assert got.checks == expected.checks


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
    assert isinstance(source, FileSource)
    assert list(source.hashes()) == ["A.csv", "a/A.csv", "b/A.csv"]
    assert not isinstance(open_source("u", spec.model_copy(update={"source": SyntheticSource()})), FileSource)


def test_a_folder_that_is_refused_takes_nothing_away(market):
    folder = market.settings.universe("u").source.path
    (folder / "sub").mkdir()
    (folder / "B.csv").rename(folder / "sub" / "B.csv")
    run(market)
    whole = market.store.read("raw_ohlcv", "u")
    (folder / "sub").rename(folder.parent / "elsewhere")
    (folder / "sub").symlink_to(folder.parent / "elsewhere")
    write(market, "A", {START: f"{START},10,11,9,10,10,101,0,1\n"})
    result, _ = run(market)
    assert counts(result) == (0, 1, 61, 0, 1, 0)
    told = market.store.read("quarantine", "u").to_pylist()
    assert [(row["source"], row["reason"]) for row in told] == [("sub/", "symbolic_link")]
    assert market.store.count("raw_ohlcv", "u") == whole.num_rows


def test_names_that_differ_in_capitals_do_not_stop_the_provider(market):
    folder = market.settings.universe("u").source.path
    (folder / "B.csv").rename(folder / "b.csv")
    run(market)
    stages.qlib_bin(market, "u", START, END)
    # the one that comes first by name takes the other's place
    write(market, "B", {})
    result, _ = run(market)
    assert result.extra["rows_removed"] == result.extra["rows_new"] == 61
    assert set(market.store.read("raw_ohlcv", "u")["instrument"].to_pylist()) == {"A", "B", "C"}
    stages.qlib_bin(market, "u", START, END)
    told = [(row["instrument"], row["reason"]) for row in market.store.read("quarantine", "u").to_pylist()]
    assert ("b", "name_clash") in told
